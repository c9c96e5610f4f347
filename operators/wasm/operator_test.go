package wasm

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"math"
	"os"
	"runtime"
	"strings"
	"sync"
	"testing"

	"github.com/apache/arrow/go/v17/arrow"
	"github.com/apache/arrow/go/v17/arrow/array"
	"github.com/apache/arrow/go/v17/arrow/ipc"
	"github.com/apache/arrow/go/v17/arrow/memory"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/penstock/penstock/pipeline"
)

// What was left behind in a module stays.
func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("github.com/penstock/penstock/operators/wasm.(*deadline).end"))
}

var engines = Engines()

// forEngines runs f once per engine that this build has.
func forEngines(t *testing.T, f func(t *testing.T, engine string)) {
	for _, e := range engines {
		t.Run(e, func(t *testing.T) { f(t, e) })
	}
}

// capture keeps what an operator emits.
type capture struct{ recs []arrow.Record }

func (c *capture) Emit(_ string, rec arrow.Record) error {
	rec.Retain()
	c.recs = append(c.recs, rec)
	return nil
}

func (c *capture) release() {
	for _, r := range c.recs {
		r.Release()
	}
	c.recs = nil
}

// bytes is all that was emitted, as an IPC stream.
func (c *capture) bytes(t *testing.T) []byte {
	if len(c.recs) == 0 {
		return nil
	}
	var b bytes.Buffer
	w := ipc.NewWriter(&b, ipc.WithSchema(c.recs[0].Schema()))
	for _, r := range c.recs {
		require.NoError(t, w.Write(r))
	}
	require.NoError(t, w.Close())
	return b.Bytes()
}

type fixture struct {
	*Operator
	out    *capture
	log    *bytes.Buffer
	meter  *pipeline.Meter
	schema *arrow.Schema
	alloc  *memory.CheckedAllocator
}

func testdata(module string) string { return "testdata/" + module + ".wasm" }

// start opens an operator; the test fails if it leaves Arrow memory behind.
func start(t *testing.T, in *arrow.Schema, module, engine string, set func(*Config)) *fixture {
	t.Helper()
	f, err := tryStart(t, in, module, engine, set)
	require.NoError(t, err)
	return f
}

func tryStart(t *testing.T, in *arrow.Schema, module, engine string, set func(*Config)) (*fixture, error) {
	t.Helper()
	cfg := DefaultConfig()
	cfg.Module, cfg.Engine = testdata(module), engine
	if set != nil {
		set(&cfg)
	}
	if cfg.Engine == EngineWasmer {
		cfg.Engine = EngineWasmerUntrusted // nobody signed the modules in testdata
	}
	p := pipeline.NewProblems()
	cfg.Validate(p)
	require.Empty(t, p.All())
	f := &fixture{out: &capture{}, log: &bytes.Buffer{}, meter: pipeline.NewMeter(), alloc: memory.NewCheckedAllocator(memory.DefaultAllocator)}
	env := pipeline.Env{Name: "op", Log: slog.New(slog.NewTextHandler(f.log, nil)), Meter: f.meter, Alloc: f.alloc, Shards: 1}
	var err error
	if f.Operator, err = New(cfg, env); err != nil {
		return nil, err
	}
	t.Cleanup(func() {
		f.out.release()
		require.NoError(t, f.Close(context.Background()))
		f.alloc.AssertSize(t, 0)
	})
	f.schema, err = f.Open(context.Background(), in)
	return f, err
}

func (f *fixture) process(rec arrow.Record) error {
	return f.Process(context.Background(), rec, f.out)
}

func params(kv ...any) func(*Config) {
	return func(c *Config) {
		c.Params = map[string]any{}
		for i := 0; i < len(kv); i += 2 {
			c.Params[kv[i].(string)] = kv[i+1]
		}
	}
}

var probeSchema = arrow.NewSchema([]arrow.Field{
	{Name: "time", Type: pipeline.TimeType},
	{Name: "tag", Type: pipeline.TagType},
	{Name: "value", Type: arrow.PrimitiveTypes.Float64, Nullable: true},
	{Name: "text", Type: arrow.BinaryTypes.String, Nullable: true},
	{Name: "quality", Type: arrow.PrimitiveTypes.Uint32},
	{Name: "flag", Type: arrow.FixedWidthTypes.Boolean, Nullable: true},
	{Name: "count", Type: arrow.PrimitiveTypes.Int64},
}, nil)

// probeRecord has rows in runs of 3, with nulls in every nullable column, NaN
// and texts of many lengths.
func probeRecord(alloc memory.Allocator, rows int) arrow.Record {
	b := array.NewRecordBuilder(alloc, probeSchema)
	defer b.Release()
	for i := range rows {
		b.Field(0).(*array.TimestampBuilder).Append(arrow.Timestamp(1_000_000_000 + i))
		_ = b.Field(1).(*array.BinaryDictionaryBuilder).AppendString(fmt.Sprintf("plant/tag%d", i/3))
		switch {
		case i%5 == 2:
			b.Field(2).AppendNull()
		case i%7 == 3:
			b.Field(2).(*array.Float64Builder).Append(math.NaN())
		default:
			b.Field(2).(*array.Float64Builder).Append(float64(i) / 3)
		}
		if i%4 == 1 {
			b.Field(3).AppendNull()
		} else {
			b.Field(3).(*array.StringBuilder).Append(strings.Repeat("ü", i%6))
		}
		b.Field(4).(*array.Uint32Builder).Append(uint32(i) << 28)
		if i%3 == 2 {
			b.Field(5).AppendNull()
		} else {
			b.Field(5).(*array.BooleanBuilder).Append(i%2 == 0)
		}
		b.Field(6).(*array.Int64Builder).Append(int64(-i))
	}
	return b.NewRecord()
}

// sameColumns checks that the guest's columns are the input's.
func sameColumns(t *testing.T, in, out arrow.Record) {
	t.Helper()
	require.Equal(t, in.NumRows(), out.NumRows())
	n := int(in.NumCols())
	require.Equal(t, n+8, int(out.NumCols()))
	for i := range n {
		require.Same(t, in.Column(i), out.Column(i), in.ColumnName(i))
	}
	for _, i := range []int{0, 3, 4, 5, 6} {
		require.True(t, array.Equal(in.Column(i), out.Column(n+i)), in.ColumnName(i))
	}
	require.True(t, array.ApproxEqual(in.Column(2), out.Column(n+2), array.WithNaNsEqual(true)))
	runs, err := pipeline.Runs(nil, in, 1)
	require.NoError(t, err)
	for k, r := range runs {
		for i := r.Start; i < r.End; i++ {
			require.Equal(t, uint32(k), out.Column(n+1).(*array.Uint32).Value(i))
			require.Equal(t, r.Tag, out.Column(n+7).(*array.String).Value(i))
		}
	}
}

func TestIdentity(t *testing.T) {
	forEngines(t, func(t *testing.T, engine string) {
		f := start(t, probeSchema, "probe", engine, nil)
		require.Equal(t, "value_out", f.schema.Field(9).Name)
		module, eng := f.Module()
		require.Equal(t, "probe@1.0.0", module)
		require.Equal(t, engine, eng)
		for _, rows := range []int{1, 2, 7, 8, 9, 63, 64, 65, 1000, 3, 20_000, 5} {
			rec := probeRecord(f.alloc, rows)
			require.NoError(t, f.process(rec))
			require.Len(t, f.out.recs, 1, f.log.String())
			require.True(t, f.out.recs[0].Schema().Equal(f.schema))
			sameColumns(t, rec, f.out.recs[0])
			f.out.release()
			rec.Release()
		}
	})
}

// Slices have offsets in all buffers, and a dictionary with tags of no row.
func TestSliced(t *testing.T) {
	forEngines(t, func(t *testing.T, engine string) {
		f := start(t, probeSchema, "probe", engine, nil)
		rec := probeRecord(f.alloc, 100)
		defer rec.Release()
		for from := range 20 {
			for _, to := range []int{from + 1, from + 9, 77, 100} {
				s := rec.NewSlice(int64(from), int64(to))
				require.NoError(t, f.process(s))
				require.Len(t, f.out.recs, 1, f.log.String())
				sameColumns(t, s, f.out.recs[0])
				f.out.release()
				s.Release()
			}
		}
	})
}

func TestNothingInNothingOut(t *testing.T) {
	f := start(t, probeSchema, "probe", EngineAuto, nil)
	rec := probeRecord(f.alloc, 0)
	defer rec.Release()
	require.NoError(t, f.process(rec))
	require.Empty(t, f.out.recs)
}

// A result with an offset of its own; the read past the input's end is in the
// arena still, so only the last row is undefined.
func TestResultWithOffset(t *testing.T) {
	forEngines(t, func(t *testing.T, engine string) {
		f := start(t, probeSchema, "probe", engine, params("mode", "offset"))
		rec := probeRecord(f.alloc, 40)
		defer rec.Release()
		require.NoError(t, f.process(rec))
		require.Len(t, f.out.recs, 1, f.log.String())
		in, out := rec.Column(2), f.out.recs[0].Column(9)
		want, got := array.NewSlice(in, 1, 40), array.NewSlice(out, 0, 39)
		defer want.Release()
		defer got.Release()
		require.True(t, array.ApproxEqual(want, got, array.WithNaNsEqual(true)), "%v\n%v", want, got)
	})
}

func TestNaNIsCanonical(t *testing.T) {
	forEngines(t, func(t *testing.T, engine string) {
		f := start(t, probeSchema, "probe", engine, params("mode", "nans"))
		rec := probeRecord(f.alloc, 9)
		defer rec.Release()
		require.NoError(t, f.process(rec))
		for _, v := range f.out.recs[0].Column(9).(*array.Float64).Float64Values() {
			require.Equal(t, math.Float64bits(math.NaN()), math.Float64bits(v))
		}
	})
}

// Every way in which a guest can fail is contained: the batch goes by policy
// and the next one is as if nothing had been.
func TestBrokenGuests(t *testing.T) {
	cases := []struct{ mode, reason, says string }{
		{"unreachable", reasonTrap, "unreachable"},
		{"out_of_bounds", reasonTrap, "out of bounds"},
		{"stack", reasonTrap, ""},
		{"divide", reasonTrap, "divi"},
		{"log_bounds", reasonTrap, "log: 100 bytes at 0xfffffff0 reach past"},
		{"status", reasonError, "penstock_process returned 7: the scale is wrong"},
		{"grow", reasonError, "returned 9: no more memory"},
		{"length", reasonOutput, "11 rows for 10 input rows"},
		{"out_untouched", reasonOutput, "0 rows for 10 input rows"},
		{"negative_offset", reasonOutput, `\"value_out\": offset -1 is not in`},
		{"huge_offset", reasonOutput, "reach past the memory's end"},
		{"buffer", reasonOutput, "reach past the memory's end"},
		{"buffers", reasonOutput, "reach past the memory's end"},
		{"children", reasonOutput, "reach past the memory's end"},
		{"child_count", reasonOutput, "1099511627776 columns, the manifest has 8"},
		{"null_count", reasonOutput, "null_count is 10, the validity bitmap has 5 nulls"},
		{"not_nullable", reasonOutput, "10 nulls in a column that the manifest calls not nullable"},
		{"decreasing", reasonOutput, "text offset -1 comes after"},
		{"text_end", reasonOutput, "reach past the memory's end"},
		{"not_utf8", reasonOutput, "not UTF-8"},
		{"twice", reasonOutput, "3 buffers and 0 children, want 2 and 0"},
	}
	forEngines(t, func(t *testing.T, engine string) {
		for _, c := range cases {
			for _, policy := range []string{OnErrorPass, OnErrorDrop, OnErrorStop} {
				t.Run(c.mode+"/"+policy, func(t *testing.T) {
					f := start(t, probeSchema, "probe", engine, func(cfg *Config) {
						params("mode", c.mode)(cfg)
						cfg.OnError = policy
					})
					rec := probeRecord(f.alloc, 10)
					defer rec.Release()
					for range 2 {
						err := f.process(rec)
						require.Contains(t, f.log.String(), c.says)
						if policy == OnErrorStop {
							require.ErrorContains(t, err, "module probe@1.0.0: ")
							require.True(t, pipeline.IsPermanent(err))
						} else {
							require.NoError(t, err)
						}
					}
					dropped := f.meter.Totals().Dropped
					switch policy {
					case OnErrorPass:
						require.Empty(t, dropped)
						require.Len(t, f.out.recs, 2)
						out := f.out.recs[1]
						for i := range 8 {
							require.Equal(t, 10, out.Column(7+i).NullN())
						}
						require.Same(t, rec.Column(2), out.Column(2))
					case OnErrorDrop:
						require.Equal(t, map[string]int64{c.reason: 20}, dropped)
						require.Empty(t, f.out.recs)
					case OnErrorStop:
						require.Empty(t, f.out.recs)
					}
					require.LessOrEqual(t, len(f.guestMemory()), 64<<20)
				})
			}
		}
	})
}

// guestMemory is the guest's memory, nil when there is no guest.
func (f *fixture) guestMemory() []byte {
	if f.guest == nil {
		return nil
	}
	return f.guest.inst.Memory()
}

func TestMemoryLimit(t *testing.T) {
	forEngines(t, func(t *testing.T, engine string) {
		t.Run("growth stops at the limit", func(t *testing.T) {
			f := start(t, probeSchema, "probe", engine, func(c *Config) {
				params("mode", "grow")(c)
				c.Memory = 3 << 20
			})
			rec := probeRecord(f.alloc, 10)
			defer rec.Release()
			require.NoError(t, f.process(rec))
			n := len(f.guestMemory())
			require.LessOrEqual(t, n, 3<<20)
			require.Greater(t, n, 1<<20)
		})
		t.Run("a batch that does not fit", func(t *testing.T) {
			f := start(t, probeSchema, "probe", engine, func(c *Config) {
				c.Memory = 1 << 20
				c.OnError = OnErrorDrop
			})
			small, big := probeRecord(f.alloc, 10), probeRecord(f.alloc, 100_000)
			defer small.Release()
			defer big.Release()
			for range 2 {
				require.NoError(t, f.process(big))
				require.NoError(t, f.process(small))
			}
			require.Equal(t, map[string]int64{reasonMemory: 200_000}, f.meter.Totals().Dropped)
			require.Len(t, f.out.recs, 2)
			sameColumns(t, small, f.out.recs[1])
		})
	})
	cfg := DefaultConfig()
	cfg.Module, cfg.Memory = testdata("probe"), PageSize
	p := pipeline.NewProblems()
	cfg.Validate(p)
	require.Len(t, p.All(), 1)
	require.Equal(t, "memory", p.All()[0].Path)
	require.Contains(t, p.All()[0].Message, "the module needs 128KiB at its start, more than 64KiB")
}

func TestLogAndMetric(t *testing.T) {
	forEngines(t, func(t *testing.T, engine string) {
		f := start(t, probeSchema, "probe", engine, params("mode", "speak", "label", "hello from the guest", "scale", "90s"))
		rec := probeRecord(f.alloc, 1)
		defer rec.Release()
		for range 100 {
			require.NoError(t, f.process(rec))
		}
		require.Contains(t, f.log.String(), `level=INFO msg="hello from the guest" operator=op module=probe@1.0.0`)
		require.Less(t, strings.Count(f.log.String(), "hello"), 50) // 10 a second
		fams, err := f.meter.Registry().Gather()
		require.NoError(t, err)
		for _, fam := range fams {
			if fam.GetName() == "penstock_module_metric" {
				require.Equal(t, 90.0, fam.GetMetric()[0].GetGauge().GetValue())
				return
			}
		}
		t.Fatal("no metric")
	})
}

var tallyInput = arrow.NewSchema(probeSchema.Fields()[:2], nil)

func tallyRecord(alloc memory.Allocator, rows int) arrow.Record {
	r := probeRecord(alloc, rows)
	defer r.Release()
	return array.NewRecord(tallyInput, r.Columns()[:2], r.NumRows())
}

func TestEmit(t *testing.T) {
	forEngines(t, func(t *testing.T, engine string) {
		f := start(t, tallyInput, "tally", engine, nil)
		rec := tallyRecord(f.alloc, 8)
		defer rec.Release()
		require.NoError(t, f.Advance(context.Background(), 5, f.out))
		require.Empty(t, f.out.recs)
		require.NoError(t, f.process(rec))
		require.NoError(t, f.Advance(context.Background(), 77, f.out))
		require.Len(t, f.out.recs, 2, f.log.String())
		require.Contains(t, f.log.String(), "msg=advanced")
		require.Equal(t, []int64{3, 3, 2}, f.out.recs[0].Column(2).(*array.Int64).Int64Values())
		runs, err := pipeline.Runs(nil, f.out.recs[0], 1)
		require.NoError(t, err)
		require.Equal(t, []pipeline.Run{{Tag: "plant/tag0", Start: 0, End: 1}, {Tag: "plant/tag1", Start: 1, End: 2}, {Tag: "plant/tag2", Start: 2, End: 3}}, runs)
		second := f.out.recs[1]
		require.Equal(t, []arrow.Timestamp{77, 77}, second.Column(0).(*array.Timestamp).TimestampValues())
		require.Equal(t, int64(8), second.Column(2).(*array.Int64).Value(1))
	})
}

func TestEmitMustBeGrouped(t *testing.T) {
	f := start(t, tallyInput, "tally", EngineAuto, params("mix_tags", true))
	rec := tallyRecord(f.alloc, 8)
	defer rec.Release()
	require.NoError(t, f.process(rec))
	require.Contains(t, f.log.String(), "the dictionary has 3 tags for 1 runs")
	require.Equal(t, map[string]int64{reasonOutput: 8}, f.meter.Totals().Dropped)
}

func TestEmitMustBeInTimeOrder(t *testing.T) {
	f := start(t, tallyInput, "tally", EngineAuto, params("one_tag", true))
	rec := tallyRecord(f.alloc, 8)
	defer rec.Release()
	require.NoError(t, f.process(rec))
	require.NoError(t, f.Advance(context.Background(), 77, f.out))
	require.Contains(t, f.log.String(), "row 1 is older than the one before it")
	require.Len(t, f.out.recs, 1)
}

func TestProcExit(t *testing.T) {
	forEngines(t, func(t *testing.T, engine string) {
		f := start(t, tallyInput, "tally", engine, params("exit_at", 10))
		rec := tallyRecord(f.alloc, 8)
		defer rec.Release()
		for range 3 {
			require.NoError(t, f.process(rec))
		}
		require.Contains(t, f.log.String(), "the module called proc_exit(3)")
		// The second batch is lost with the state; the third is the first of a new life.
		require.Len(t, f.out.recs, 2)
		require.Equal(t, map[string]int64{reasonTrap: 8}, f.meter.Totals().Dropped)
	})
}

// script drives an operator through a fixed series of calls.
func script(t *testing.T, f *fixture, from, to int) {
	for i := from; i < to; i++ {
		var rec arrow.Record
		if f.info.Manifest.Kind == KindEmit {
			rec = tallyRecord(f.alloc, 10+i)
		} else {
			rec = probeRecord(f.alloc, 10+i)
		}
		require.NoError(t, f.process(rec))
		rec.Release()
		require.NoError(t, f.Advance(context.Background(), arrow.Timestamp(1000*i), f.out))
	}
}

// The same calls give the same bytes on every engine, also across a snapshot.
func TestDeterminism(t *testing.T) {
	for _, c := range []struct {
		module string
		in     *arrow.Schema
		set    func(*Config)
	}{{"tally", tallyInput, nil}, {"probe", probeSchema, nil}, {"probe", probeSchema, params("mode", "nans")}, {"probe", probeSchema, params("mode", "status")}} {
		var want []byte
		for _, engine := range engines {
			whole := start(t, c.in, c.module, engine, c.set)
			script(t, whole, 0, 10)
			got := whole.out.bytes(t)
			require.NotEmpty(t, got)
			if want == nil {
				want = got
			}
			require.True(t, bytes.Equal(want, got), "%s on %s", c.module, engine)

			first := start(t, c.in, c.module, engine, c.set)
			script(t, first, 0, 4)
			var state bytes.Buffer
			require.NoError(t, first.Snapshot(&state))
			second := start(t, c.in, c.module, engine, c.set)
			require.NoError(t, second.Restore(&state))
			second.out.recs = append(second.out.recs, first.out.recs...)
			first.out.recs = nil
			script(t, second, 4, 10)
			require.True(t, bytes.Equal(want, second.out.bytes(t)), "%s on %s, restored", c.module, engine)
		}
	}
}

func TestRestoreRefusesOthers(t *testing.T) {
	probe := start(t, probeSchema, "probe", EngineAuto, nil)
	tally := start(t, tallyInput, "tally", EngineAuto, nil)
	var b bytes.Buffer
	require.NoError(t, tally.Snapshot(&b))
	state := b.Bytes()
	require.ErrorContains(t, probe.Restore(bytes.NewReader(state)), "the state was written by module tally@2.1.0, this is probe@1.0.0")

	other := bytes.Replace(state, []byte(`"version":"2.1.0"`), []byte(`"version":"2.0.9"`), 1)
	require.ErrorContains(t, tally.Restore(bytes.NewReader(other)), `tally@2.0.9, this is tally@2.1.0: write the same "state" in both manifests`)
	build := bytes.Replace(state, []byte(`"digest":"`+tally.info.Digest[:4]), []byte(`"digest":"____`), 1)
	require.ErrorContains(t, tally.Restore(bytes.NewReader(build)), "another build")
	size := bytes.Replace(state, []byte(`"size":8`), []byte(`"size":7`), 1)
	require.ErrorContains(t, tally.Restore(bytes.NewReader(size)), "penstock_restore returned 1")
	for n := range len(state) {
		require.Error(t, tally.Restore(bytes.NewReader(state[:n])), n)
	}
	require.NoError(t, tally.Restore(bytes.NewReader(state)))
}

func TestSchemaMismatch(t *testing.T) {
	fields := probeSchema.Fields()
	with := func(i int, f arrow.Field) *arrow.Schema {
		out := append([]arrow.Field(nil), fields...)
		out[i] = f
		return arrow.NewSchema(out, nil)
	}
	for _, c := range []struct {
		in   *arrow.Schema
		says string
	}{
		{arrow.NewSchema(fields[1:], nil), `needs a column "time" (timestamp); the input has tag, value`},
		{with(2, arrow.Field{Name: "value", Type: arrow.PrimitiveTypes.Float32}), `needs column "value" as float64, the input has it as float32`},
		{with(6, arrow.Field{Name: "count", Type: arrow.PrimitiveTypes.Int64, Nullable: true}), `takes no nulls in column "count"`},
		{arrow.NewSchema(append([]arrow.Field{{Name: "run", Type: arrow.PrimitiveTypes.Int64}}, fields...), nil), `adds a column "run", which the input has already: give the operator a prefix`},
	} {
		_, err := tryStart(t, c.in, "probe", EngineAuto, nil)
		require.ErrorContains(t, err, c.says)
	}
	f := start(t, arrow.NewSchema(append(fields[:7:7], arrow.Field{Name: "run", Type: arrow.PrimitiveTypes.Int64}), nil), "probe", EngineAuto, func(c *Config) { c.Prefix = "p_" })
	require.Equal(t, "p_run", f.schema.Field(9).Name)
}

func TestUngroupedInputIsAnError(t *testing.T) {
	f := start(t, tallyInput, "tally", EngineAuto, nil)
	b := array.NewRecordBuilder(f.alloc, tallyInput)
	defer b.Release()
	for _, tag := range []string{"a", "b", "a"} {
		b.Field(0).(*array.TimestampBuilder).Append(1)
		require.NoError(t, b.Field(1).(*array.BinaryDictionaryBuilder).AppendString(tag))
	}
	rec := b.NewRecord()
	defer rec.Release()
	err := f.process(rec)
	require.ErrorContains(t, err, `column "tag" is not grouped: tag "a" has two runs`)
	require.True(t, pipeline.IsPermanent(err))
}

// Operators are independent: several in goroutines of their own, with traps
// and garbage collections in between.
func TestConcurrent(t *testing.T) {
	forEngines(t, func(t *testing.T, engine string) {
		var wg sync.WaitGroup
		done := make(chan struct{})
		collector := make(chan struct{})
		go func() {
			defer close(collector)
			for {
				select {
				case <-done:
					return
				default:
					runtime.GC()
				}
			}
		}()
		for w := range 4 {
			mode := []string{"identity", "unreachable", "identity", "stack"}[w]
			f := start(t, probeSchema, "probe", engine, params("mode", mode))
			wg.Go(func() {
				rec := probeRecord(f.alloc, 100)
				defer rec.Release()
				for range 25 {
					if err := f.process(rec); err != nil {
						t.Error(err)
					}
					f.out.release()
				}
			})
		}
		wg.Wait()
		close(done)
		<-collector
	})
}

type discard struct{}

func (discard) Emit(string, arrow.Record) error { return nil }

// readings is a batch as sources make it: 64 rows per tag.
func readings(rows int) arrow.Record {
	b := array.NewRecordBuilder(memory.DefaultAllocator, pipeline.Readings)
	defer b.Release()
	for i := range rows {
		b.Field(0).(*array.TimestampBuilder).Append(arrow.Timestamp(i))
		_ = b.Field(1).(*array.BinaryDictionaryBuilder).AppendString(fmt.Sprintf("plant1/hall2/pump%d/vibration_x", i/64))
		b.Field(2).(*array.Float64Builder).Append(float64(i))
		b.Field(3).AppendNull()
		b.Field(4).(*array.Uint32Builder).Append(0)
		b.Field(5).(*array.TimestampBuilder).Append(arrow.Timestamp(i))
	}
	return b.NewRecord()
}

var _ pipeline.Operator = (*Operator)(nil)

func readFile(t testing.TB, name string) []byte {
	b, err := os.ReadFile(name)
	require.NoError(t, err)
	return b
}
