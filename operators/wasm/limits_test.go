package wasm

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/apache/arrow/go/v17/arrow"
	"github.com/apache/arrow/go/v17/arrow/array"
	"github.com/apache/arrow/go/v17/arrow/memory"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"

	"github.com/penstock/penstock/operators/modules"
	"github.com/penstock/penstock/operators/wasm/trust"
	"github.com/penstock/penstock/pipeline"
)

var greedyInput = arrow.NewSchema(probeSchema.Fields()[:1], nil)

func greedyRecord(alloc memory.Allocator, rows int) arrow.Record {
	r := probeRecord(alloc, rows)
	defer r.Release()
	return array.NewRecord(greedyInput, r.Columns()[:1], r.NumRows())
}

// greedy sets the parameters of that module, and a budget that is soon used.
func greedy(kv ...any) func(*Config) {
	return func(c *Config) {
		params(kv...)(c)
		c.Fuel = Fuel{PerCall: 2_000_000, PerRow: 1000}
	}
}

// A module that takes too much ends in the same way, after the same work, on
// every engine, whatever it is called for.
func TestGreedyModules(t *testing.T) {
	const fuel = "it did more than 2000000 instructions for 0 rows: if it needs more, raise fuel"
	const batch = "it did more than 2010000 instructions for 10 rows"
	const deep = "its calls are nested too deep"
	t.Run("while starting", func(t *testing.T) {
		forEngines(t, func(t *testing.T, engine string) {
			for _, c := range []struct{ where, what, says string }{
				{"open", "loop", "penstock_open: " + fuel}, {"open", "recursion", "penstock_open: " + deep},
				{"bind", "loop", "penstock_bind: " + fuel}, {"bind", "fill", "penstock_bind: " + fuel}, {"bind", "grow", "penstock_bind: " + fuel},
			} {
				_, err := tryStart(t, greedyInput, "greedy", engine, greedy("where", c.where, "what", c.what))
				require.ErrorContains(t, err, c.says)
			}
		})
	})
	cases := []struct{ where, what, reason, says string }{
		{"process", "loop", reasonFuel, "penstock_process: " + batch},
		{"process", "fill", reasonFuel, "penstock_process: " + batch},
		{"process", "copy", reasonFuel, "penstock_process: " + batch},
		{"process", "grow", reasonFuel, "penstock_process: " + batch},
		{"process", "recursion", reasonStack, "penstock_process: " + deep},
		{"process", "trap", reasonTrap, "unreachable"},
		{"advance", "loop", "", "penstock_advance: " + fuel},
		{"snapshot", "loop", "", "penstock_snapshot: " + fuel},
		{"snapshot", "recursion", "", "penstock_snapshot: " + deep},
	}
	for _, c := range cases {
		t.Run(c.where+"/"+c.what, func(t *testing.T) {
			var want, wantState []byte
			for _, engine := range engines {
				f := start(t, greedyInput, "greedy", engine, greedy("where", c.where, "what", c.what, "from", 3))
				run := func(to *fixture) {
					for range 4 {
						rec := greedyRecord(to.alloc, 10)
						require.NoError(t, to.process(rec))
						rec.Release()
						require.NoError(t, to.Advance(context.Background(), 5, to.out))
					}
				}
				run(f)
				var state bytes.Buffer
				require.NoError(t, f.Snapshot(&state))
				run(f)
				require.Contains(t, f.log.String(), c.says)
				require.Contains(t, f.log.String(), "module failed and lost its state")
				if c.reason != "" {
					require.Equal(t, map[string]int64{c.reason: 20}, f.meter.Totals().Dropped)
				} else {
					require.Empty(t, f.meter.Totals().Dropped)
				}
				got := f.out.bytes(t)
				if want == nil {
					want, wantState = got, state.Bytes()
				}
				require.True(t, bytes.Equal(want, got), engine)
				require.Equal(t, wantState, state.Bytes(), engine)

				// A replay from the checkpoint goes the same way.
				again := start(t, greedyInput, "greedy", engine, greedy("where", c.where, "what", c.what, "from", 3))
				require.NoError(t, again.Restore(&state))
				run(again)
				n := len(again.out.recs)
				require.Equal(t, numbers(f.out.recs[len(f.out.recs)-n:]), numbers(again.out.recs))
			}
		})
	}
}

// numbers are the values of the first column.
func numbers(recs []arrow.Record) (out []int64) {
	for _, r := range recs {
		out = append(out, r.Column(0).(*array.Int64).Int64Values()...)
	}
	return out
}

// How deep calls may be nested is a count, not what a native stack happens to
// bear: the last depth that passes is the same on every engine.
func TestDepthIsTheSame(t *testing.T) {
	deepest := func(engine string) int {
		lo, hi := 1, 1<<17 // the most that passes, the least that does not
		for hi-lo > 1 {
			mid := (lo + hi) / 2
			f := start(t, greedyInput, "greedy", engine, func(c *Config) {
				params("where", "process", "what", "depth", "size", mid)(c)
			})
			rec := greedyRecord(f.alloc, 1)
			require.NoError(t, f.process(rec))
			rec.Release()
			if len(f.out.recs) == 1 {
				lo = mid
			} else {
				hi = mid
				require.Contains(t, f.log.String(), "nested too deep")
			}
		}
		return lo
	}
	want := deepest(engines[0])
	require.Greater(t, want, 2_000)
	for _, e := range engines[1:] {
		require.Equal(t, want, deepest(e), e)
	}
}

func TestOutputLimits(t *testing.T) {
	forEngines(t, func(t *testing.T, engine string) {
		for _, c := range []struct {
			rows int
			says string
		}{{1000, ""}, {1001, "output record: 1001 rows, the limit is 1000 (max_output_rows)"}, {500, "or 3999 bytes (max_output_bytes)"}} {
			f := start(t, greedyInput, "greedy", engine, func(cfg *Config) {
				params("rows", c.rows)(cfg)
				cfg.MaxOutputRows = 1000
				if c.rows == 500 {
					cfg.MaxOutputBytes = 3999
				}
			})
			rec := greedyRecord(f.alloc, 1)
			require.NoError(t, f.process(rec))
			rec.Release()
			if c.says == "" {
				require.Len(t, f.out.recs, 1)
				continue
			}
			require.Empty(t, f.out.recs)
			require.Contains(t, f.log.String(), c.says)
			require.Equal(t, map[string]int64{reasonOutput: 1}, f.meter.Totals().Dropped)
		}
	})
}

// metric is the value of a metric, of the labels given.
func (f *fixture) metric(t *testing.T, name string, labels ...string) float64 {
	fams, err := f.meter.Registry().Gather()
	require.NoError(t, err)
	for _, fam := range fams {
		for _, m := range fam.GetMetric() {
			have := 0
			for _, l := range m.GetLabel() {
				if slices.Contains(labels, l.GetValue()) {
					have++
				}
			}
			if fam.GetName() == name && have == len(labels) {
				return m.GetGauge().GetValue() + m.GetCounter().GetValue()
			}
		}
	}
	t.Fatalf("no metric %s %v", name, labels)
	return 0
}

func TestQuarantine(t *testing.T) {
	set := func(where string) func(*Config) {
		return func(c *Config) {
			greedy("where", where, "what", "loop", "from", 1)(c)
			c.QuarantineAfter = 3
		}
	}
	step := func(f *fixture) {
		rec := greedyRecord(f.alloc, 10)
		defer rec.Release()
		require.NoError(t, f.process(rec))
		require.NoError(t, f.Advance(context.Background(), 5, f.out))
	}
	gauge := func(f *fixture) float64 { return f.metric(t, "penstock_module_quarantined") }
	t.Run("every second batch", func(t *testing.T) {
		// Each kill takes the count of calls back to 0, so every second batch is good.
		f := start(t, greedyInput, "greedy", EngineAuto, set("process"))
		for range 20 {
			step(f)
		}
		require.True(t, f.Quarantined())
		require.Equal(t, 3, f.Failures())
		require.Len(t, f.out.recs, 3)
	})
	t.Run("now and then", func(t *testing.T) {
		for good, ends := range map[int]bool{amends - 1: true, amends: false} {
			q := quarantine{after: 10, gauge: prometheus.NewGauge(prometheus.GaugeOpts{})}
			for range 1000 {
				q.count(callProcess)
				for range good {
					q.well(callProcess)
				}
			}
			require.Equal(t, ends, q.quarantined, good)
		}
	})
	for where, after := range map[string]int{"process": 3, "advance": 5, "snapshot": 3} {
		t.Run(where, func(t *testing.T) {
			with := func(c *Config) {
				set(where)(c)
				c.Params["from"] = 0
				if where == "advance" {
					c.QuarantineAfter = 5
				}
			}
			f := start(t, greedyInput, "greedy", EngineAuto, with)
			var state bytes.Buffer
			for i := range 8 {
				require.Equal(t, i >= after, f.Quarantined(), i)
				step(f)
				state.Reset()
				if where == "snapshot" || i == 1 {
					require.NoError(t, f.Snapshot(&state))
				}
				if i == 1 && where != "snapshot" {
					// What is counted is part of the state.
					again := start(t, greedyInput, "greedy", EngineAuto, with)
					require.NoError(t, again.Restore(&state))
					for k := 2; k < 8; k++ {
						require.Equal(t, k >= after, again.Quarantined(), k)
						step(again)
					}
				}
			}
			require.Equal(t, 1.0, gauge(f))
			require.Equal(t, 1, strings.Count(f.log.String(), "module in quarantine"))
			dropped := f.meter.Totals().Dropped
			require.Equal(t, int64(10*(8-after)), dropped[reasonQuarantine])

			require.NoError(t, f.Snapshot(&state))
			again := start(t, greedyInput, "greedy", EngineAuto, with)
			require.Equal(t, 0.0, gauge(again))
			require.NoError(t, again.Restore(&state))
			require.True(t, again.Quarantined())
			require.Equal(t, 1.0, gauge(again))
			step(again)
			require.Empty(t, again.out.recs)
		})
	}
	t.Run("pass", func(t *testing.T) {
		f := start(t, probeSchema, "probe", EngineAuto, func(c *Config) {
			params("mode", "status")(c)
			c.QuarantineAfter = 2
		})
		rec := probeRecord(f.alloc, 10)
		defer rec.Release()
		for range 4 {
			require.NoError(t, f.process(rec))
		}
		require.True(t, f.Quarantined())
		require.Nil(t, f.guest)
		require.Len(t, f.out.recs, 4)
		require.Equal(t, 10, f.out.recs[3].Column(9).NullN())
		require.Equal(t, 20.0, f.metric(t, "penstock_module_failed_rows_total", reasonError))
		require.Equal(t, 20.0, f.metric(t, "penstock_module_failed_rows_total", reasonQuarantine))
	})
	t.Run("never", func(t *testing.T) {
		f := start(t, greedyInput, "greedy", EngineAuto, func(c *Config) {
			greedy("where", "process", "what", "trap")(c)
			c.QuarantineAfter = 0
		})
		for range 30 {
			step(f)
		}
		require.False(t, f.Quarantined())
	})
}

func TestWhoIsMetered(t *testing.T) {
	code, _ := modules.Get("ewma")
	info, err := Inspect(code)
	require.NoError(t, err)
	changed, err := Pack(code, info.Manifest)
	require.NoError(t, err)
	changed = append(changed, 0, 2, 1, 'x') // the same name, other bytes
	for _, c := range []struct {
		setting              string
		ours, theirs, wazero bool
	}{{MeteredAuto, false, true, true}, {MeteredAlways, true, true, true}, {MeteredNever, false, false, false}} {
		cfg := Config{Metered: c.setting}
		meters := func(code []byte, engine string) bool {
			st, err := trust.Check(code, nil)
			require.NoError(t, err)
			return cfg.meters(Choice{Engine: engine, Trust: st})
		}
		require.Equal(t, c.ours, meters(code, EngineWasmer), c.setting)
		require.Equal(t, c.theirs, meters(changed, EngineWasmer), c.setting)
		require.Equal(t, c.wazero, meters(code, EngineWazero), c.setting)
	}
}

// A module may make so many tags of its own and no more, over all its calls and
// restarts; those of the batch at hand are not its own.
func TestMaxTags(t *testing.T) {
	alloc := memory.DefaultAllocator
	names := func(tags ...string) *array.String {
		b := array.NewStringBuilder(alloc)
		defer b.Release()
		b.AppendValues(tags, nil)
		return b.NewStringArray()
	}
	given := names("x", "a", "y")
	l := tagLimit{most: 2}
	count := func(tags ...string) error {
		set := map[string]struct{}{}
		for _, tag := range tags {
			set[tag] = struct{}{}
		}
		return l.count(array.NewSlice(names(append([]string{"0"}, tags...)...), 1, int64(len(tags))+1).(*array.String), set)
	}
	l.given = []exportColumn{{dict: 1, strs: given, runs: []int32{2, 0}}}
	require.NoError(t, count("x", "y"))
	require.NoError(t, count("a", "y")) // its run is not there
	require.NoError(t, count("b", "x", "a"))
	const full = "it has made 3 tags by now, the limit is 2 (max_tags)"
	require.EqualError(t, count("b", "c"), full)
	l.given = nil
	require.EqualError(t, count("x"), full)
	again := tagLimit{most: 2}
	again.remember(l.log, l.bytes)
	l = again
	require.EqualError(t, count("c"), full)
	require.NoError(t, count("b", "a"))
	require.Equal(t, 2, l.bytes)
	l.most, l.bytes = 10, maxMade
	require.ErrorContains(t, count("c"), "33554433 bytes")

	// In a module: what it gives at an advance is its own.
	f := start(t, tallyInput, "tally", EngineAuto, func(c *Config) { c.MaxTags = 2 })
	rec := tallyRecord(f.alloc, 9)
	defer rec.Release()
	require.NoError(t, f.process(rec))
	require.Len(t, f.out.recs, 1)
	require.NoError(t, f.Advance(t.Context(), 77, f.out))
	require.Len(t, f.out.recs, 2)
	var state bytes.Buffer
	require.NoError(t, f.Snapshot(&state))
	more := start(t, tallyInput, "tally", EngineAuto, func(c *Config) { c.MaxTags = 2 })
	require.NoError(t, more.Restore(&state))
	require.Equal(t, f.imp.log, more.imp.log)
	require.Len(t, more.imp.log, 16)
}

func TestLimitSettings(t *testing.T) {
	for path, set := range map[string]func(*Config){
		"metered":          func(c *Config) { c.Metered = "alway" },
		"deadline":         func(c *Config) { c.Deadline = time.Millisecond },
		"fuel.per_call":    func(c *Config) { c.Fuel.PerCall = 9999 },
		"fuel.per_row":     func(c *Config) { c.Fuel.PerRow = -1 },
		"max_output_rows":  func(c *Config) { c.MaxOutputRows = 0 },
		"max_output_bytes": func(c *Config) { c.MaxOutputBytes = 0 },
		"max_tags":         func(c *Config) { c.MaxTags = 0 },
		"quarantine_after": func(c *Config) { c.QuarantineAfter = -1 },
	} {
		cfg := DefaultConfig()
		cfg.Module = "ewma"
		set(&cfg)
		p := pipeline.NewProblems()
		cfg.Validate(p)
		require.Len(t, p.All(), 1, path)
		require.Equal(t, path, p.All()[0].Path)
	}
}

// The shipped kernels give the same bytes metered or not, and use the same
// fuel on every engine, batch by batch.
func TestMeteredKernels(t *testing.T) {
	for _, name := range modules.Names() {
		t.Run(name, func(t *testing.T) {
			code, _ := modules.Get(name)
			info, err := Inspect(code)
			require.NoError(t, err)
			var want []byte
			var wantFuel []int64
			for _, engine := range engines {
				for _, metered := range []string{MeteredNever, MeteredAlways} {
					f := start(t, pipeline.Readings, name, engine, func(c *Config) {
						c.Module, c.OnError, c.Params, c.Metered = name, OnErrorStop, required(&info.Manifest), metered
					})
					rng := rand.New(rand.NewPCG(7, 8))
					var fuel []int64
					for i := range 15 {
						rec := plant(f.alloc, rng, i)
						require.NoError(t, f.process(rec))
						used, ok := f.FuelUsed()
						require.Equal(t, metered == MeteredAlways, ok)
						if ok {
							require.Greater(t, used, rec.NumRows())
							require.Less(t, used, 50_000*rec.NumRows())
							fuel = append(fuel, used)
						}
						rec.Release()
					}
					got := f.out.bytes(t)
					if want == nil {
						want = got
					}
					require.True(t, bytes.Equal(want, got), "%s, metered %s", engine, metered)
					if fuel != nil && wantFuel == nil {
						wantFuel = fuel
					}
					if fuel != nil {
						require.Equal(t, wantFuel, fuel, engine)
					}
				}
			}
		})
	}
}

// BenchmarkMetering is what metering costs per kernel and engine: batches of
// 16 tags with 512 rows each, copies in and out included; ns/row is that of the
// fastest batch. (make bench-kernels
// compares with C compiled for this machine.)
func BenchmarkMetering(b *testing.B) {
	for _, name := range modules.Names() {
		code, _ := modules.Get(name)
		info, err := Inspect(code)
		require.NoError(b, err)
		for _, engine := range engines {
			for _, metered := range []string{MeteredNever, MeteredAlways} {
				b.Run(fmt.Sprintf("%s/%s/metered=%s", name, engine, metered), func(b *testing.B) {
					cfg := DefaultConfig()
					cfg.Module, cfg.Engine, cfg.Metered, cfg.Params = name, engine, metered, required(&info.Manifest)
					env := pipeline.Env{Name: "op", Log: slog.New(slog.NewTextHandler(io.Discard, nil)), Meter: pipeline.NewMeter(), Alloc: memory.DefaultAllocator}
					op, err := New(cfg, env)
					require.NoError(b, err)
					_, err = op.Open(context.Background(), pipeline.Readings)
					require.NoError(b, err)
					defer op.Close(context.Background()) //nolint:errcheck // a benchmark
					const tags, rows, batches = 16, 512, 8
					var recs [batches]arrow.Record
					for i := range recs {
						recs[i] = steady(tags, rows, i)
						defer recs[i].Release()
					}
					best := time.Duration(math.MaxInt64) // other load on the machine only ever adds
					i := 0
					for b.Loop() {
						rec := recs[i%batches]
						i++
						start := time.Now()
						if err := op.Process(context.Background(), rec, discard{}); err != nil {
							b.Fatal(err)
						}
						best = min(best, time.Since(start))
						at := rec.Column(0).(*array.Timestamp).TimestampValues()
						for k := range at { // later, when it comes again
							at[k] += batches * rows * 1_000_000_000
						}
					}
					b.ReportMetric(float64(best.Nanoseconds())/(tags*rows), "ns/row")
					if used, ok := op.FuelUsed(); ok {
						b.ReportMetric(float64(used)/(tags*rows), "fuel/row")
					}
				})
			}
		}
	}
}

// steady is a batch of good values, one per second and tag.
func steady(tags, rows, batch int) arrow.Record {
	b := array.NewRecordBuilder(memory.DefaultAllocator, pipeline.Readings)
	defer b.Release()
	rng := rand.New(rand.NewPCG(1, uint64(batch)))
	for tag := range tags {
		for i := range rows {
			at := arrow.Timestamp(1_700_000_000_000_000_000 + int64(batch*rows+i)*1_000_000_000)
			b.Field(0).(*array.TimestampBuilder).Append(at)
			_ = b.Field(1).(*array.BinaryDictionaryBuilder).AppendString(fmt.Sprintf("plant1/hall2/pump%d/vibration_x", tag))
			b.Field(2).(*array.Float64Builder).Append(20 + rng.NormFloat64())
			b.Field(3).AppendNull()
			b.Field(4).(*array.Uint32Builder).Append(0)
			b.Field(5).(*array.TimestampBuilder).Append(at)
		}
	}
	return b.NewRecord()
}
