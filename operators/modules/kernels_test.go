package modules_test

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/apache/arrow/go/v17/arrow"
	"github.com/stretchr/testify/require"

	"github.com/penstock/penstock/operators/modules"
	"github.com/penstock/penstock/operators/wasm"
	"github.com/penstock/penstock/pipeline"
)

var engines = []string{wasm.EngineAuto, wasm.EngineWazero}

// cases are modules with parameters and the reference that says what comes
// out. Tolerances are relative to 1e-3 and the number itself, per column.
var cases = []struct {
	module    string
	params    map[string]any
	reference func() reference
	tolerance []float64
}{
	{"ewma", nil, func() reference {
		return &ewmaRef{halfLife: time.Minute, freeze: time.Minute, warmup: 30, threshold: 6, minStd: 1e-6, minRel: 0.0005}
	}, ewmaTolerance},
	{"ewma", map[string]any{"half_life": "500ms", "warmup": 2, "threshold": 3, "min_std": 0.5, "min_std_rel": 0.0, "freeze": "0s", "uncertain": "skip"}, func() reference {
		return &ewmaRef{halfLife: 500 * time.Millisecond, warmup: 2, threshold: 3, minStd: 0.5, skip: true}
	}, ewmaTolerance},
	{"ewma", map[string]any{"half_life": "2h", "warmup": 5, "threshold": 4.5, "freeze": "20s"}, func() reference {
		return &ewmaRef{halfLife: 2 * time.Hour, freeze: 20 * time.Second, warmup: 5, threshold: 4.5, minStd: 1e-6, minRel: 0.0005}
	}, ewmaTolerance},
	{"cusum", nil, func() reference {
		return &cusumRef{k: 0.5, h: 8, clip: 4, cap: 16, warmup: 100, minSigma: 1e-6, minRel: 0.0005}
	}, cusumTolerance},
	{"cusum", map[string]any{"k": 0.25, "h": 4, "warmup": 20, "clip": 3, "cap": 1e9, "reset_on_alarm": true, "uncertain": "skip"}, func() reference {
		return &cusumRef{k: 0.25, h: 4, clip: 3, cap: 1e9, warmup: 20, reset: true, skip: true, minSigma: 1e-6, minRel: 0.0005}
	}, cusumTolerance},
	{"cusum", map[string]any{"target": 10.0, "sigma": 25.0}, func() reference {
		return &cusumRef{k: 0.5, h: 8, clip: 4, cap: 16, target: 10, sigma: 25, minSigma: 1e-6, minRel: 0.0005}
	}, cusumTolerance},
	{"hampel", nil, func() reference {
		return &hampelRef{window: 21, warmup: 11, threshold: 5, minScale: 1e-6, minRel: 0.0005}
	}, hampelTolerance},
	{"hampel", map[string]any{"window": 3, "warmup": 1, "threshold": 3, "uncertain": "skip"}, func() reference {
		return &hampelRef{window: 3, warmup: 1, threshold: 3, minScale: 1e-6, minRel: 0.0005, skip: true}
	}, hampelTolerance},
	{"hampel", map[string]any{"window": 45, "warmup": 45, "min_scale": 0.25, "min_scale_rel": 0.0}, func() reference {
		return &hampelRef{window: 45, warmup: 45, threshold: 5, minScale: 0.25}
	}, hampelTolerance},
	{"hampel", map[string]any{"window": 255, "warmup": 2}, func() reference {
		return &hampelRef{window: 255, warmup: 2, threshold: 5, minScale: 1e-6, minRel: 0.0005}
	}, hampelTolerance},
	{"rul", map[string]any{"limit": 0, "window": "5m", "interval": "7s", "horizon": "10m"}, func() reference {
		return &rulRef{limit: 0, confidence: 0.9, direction: "auto", window: 5 * time.Minute, interval: 7 * time.Second, horizon: 10 * time.Minute, bins: 64, minPoints: 10}
	}, rulTolerance},
	{"rul", map[string]any{"limit": 150.0, "direction": "rising", "window": "30m", "bins": 31, "interval": "45s", "min_points": 4, "confidence": 0.5, "uncertain": "skip"}, func() reference {
		return &rulRef{limit: 150, confidence: 0.5, direction: "rising", window: 30 * time.Minute, interval: 45 * time.Second, horizon: 24 * time.Hour, bins: 31, minPoints: 4, skip: true}
	}, rulTolerance},
	{"rul", map[string]any{"limit": -50.0, "direction": "falling", "window": "2h", "bins": 128, "interval": "30s", "confidence": 0.99, "horizon": "1h"}, func() reference {
		return &rulRef{limit: -50, confidence: 0.99, direction: "falling", window: 2 * time.Hour, interval: 30 * time.Second, horizon: time.Hour, bins: 128, minPoints: 10}
	}, rulTolerance},
}

var (
	ewmaTolerance   = []float64{1e-9, 1e-9, 1e-6, 0}
	cusumTolerance  = []float64{1e-8, 1e-8, 1e-8, 0}
	hampelTolerance = []float64{1e-13, 1e-10, 1e-9, 0}
	rulTolerance    = []float64{1e-7, 1e-6, 1e-5, 1e-5, 1e-5, 1e-5, 0, 0}
)

func near(a, b *float64, tolerance float64) bool {
	if a == nil || b == nil {
		return a == nil && b == nil
	}
	return math.Abs(*a-*b) <= tolerance*(1e-3+math.Abs(*b))
}

func show(v []*float64) string {
	s := ""
	for _, p := range v {
		if p == nil {
			s += " null"
		} else {
			s += fmt.Sprintf(" %.12g", *p)
		}
	}
	return s
}

// TestReference feeds random streams to each kernel and to its reference.
func TestReference(t *testing.T) {
	for i, c := range cases {
		for _, engine := range engines {
			t.Run(fmt.Sprintf("%s/%d/%s", c.module, i, engine), func(t *testing.T) {
				t.Parallel()
				k := open(t, engine, c.module, c.params)
				rnd := rand.New(rand.NewPCG(uint64(i), 7))
				scored, flagged := 0, 0
				for s := range 25 {
					refs := map[string]reference{}
					for b, batch := range stream(rnd, 30) {
						for j := range batch {
							batch[j].tag = fmt.Sprintf("s%d/%s", s, batch[j].tag)
						}
						got := k.process(batch)
						var want []result
						for j := range batch {
							r := &batch[j]
							if refs[r.tag] == nil {
								refs[r.tag] = c.reference()
							}
							v := refs[r.tag].row(r)
							if v == nil && c.module == "rul" {
								continue
							}
							if v == nil {
								v = make([]*float64, len(c.tolerance))
							}
							want = append(want, result{r.tag, r.time, v})
						}
						require.Len(t, got, len(want))
						for j := range want {
							require.Equal(t, want[j].tag, got[j].tag)
							require.Equal(t, want[j].time, got[j].time)
							for x, tol := range c.tolerance {
								if !near(got[j].values[x], want[j].values[x], tol) {
									t.Fatalf("stream %d batch %d row %d %s at %d, column %d:\n got%s\nwant%s", s, b, j, want[j].tag, want[j].time, x, show(got[j].values), show(want[j].values))
								}
							}
							if f := want[j].values[flagColumn(c.module)]; f != nil {
								scored++
								flagged += int(*f)
							}
						}
					}
				}
				t.Logf("%d rows scored, %d flagged", scored, flagged)
				require.Greater(t, scored, 100)
				require.Positive(t, flagged)
				require.Less(t, flagged, scored)
			})
		}
	}
}

func flagColumn(module string) int {
	if module == "rul" {
		return 6
	}
	return 3
}

// TestSplit: where a stream is cut into batches changes no bit.
func TestSplit(t *testing.T) {
	for i, c := range cases {
		t.Run(fmt.Sprintf("%s/%d", c.module, i), func(t *testing.T) {
			t.Parallel()
			rnd := rand.New(rand.NewPCG(uint64(i), 8))
			batches := stream(rnd, 60)
			a, b := open(t, wasm.EngineAuto, c.module, c.params), open(t, wasm.EngineAuto, c.module, c.params)
			var whole, parts []result
			for _, rows := range batches {
				whole = append(whole, a.process(rows)...)
			}
			for _, rows := range split(rnd, batches) {
				parts = append(parts, b.process(rows)...)
			}
			requireSame(t, whole, parts)
			require.Equal(t, a.snapshot(), b.snapshot())
		})
	}
}

// TestRestore: a module that takes over from a snapshot goes on bit by bit,
// on the other engine too.
func TestRestore(t *testing.T) {
	for i, c := range cases {
		t.Run(fmt.Sprintf("%s/%d", c.module, i), func(t *testing.T) {
			t.Parallel()
			batches := stream(rand.New(rand.NewPCG(uint64(i), 9)), 80)
			k := open(t, wasm.EngineAuto, c.module, c.params)
			var state []byte
			var want []result
			for b, rows := range batches {
				if b == len(batches)/2 {
					state = k.snapshot()
					want = nil
				}
				want = append(want, k.process(rows)...)
			}
			require.NotEmpty(t, want)
			end := k.snapshot()
			for _, engine := range engines {
				k := open(t, engine, c.module, c.params)
				require.NoError(t, k.restore(state))
				require.Equal(t, state, k.snapshot())
				var got []result
				for _, rows := range batches[len(batches)/2:] {
					got = append(got, k.process(rows)...)
				}
				requireSame(t, want, got)
				require.Equal(t, end, k.snapshot())
			}
		})
	}
}

// TestRestoreRefused: a snapshot that does not fit is an error that says why.
func TestRestoreRefused(t *testing.T) {
	k := open(t, wasm.EngineAuto, "hampel", nil)
	k.process([]reading{{tag: "a", time: 1, value: 1}, {tag: "b", time: 1, value: 1}})
	state := k.snapshot()

	require.ErrorContains(t, open(t, wasm.EngineAuto, "hampel", map[string]any{"window": 23}).restore(state), "other parameters")
	require.ErrorContains(t, k.restore(state), "has tags already")
	rnd := rand.New(rand.NewPCG(1, 1))
	for range 200 { // a damaged one is refused or taken, but nothing breaks
		bad := append([]byte(nil), state...)
		for range 1 + rnd.IntN(4) {
			bad[len(bad)-1-rnd.IntN(400)] ^= byte(1 << rnd.IntN(8))
		}
		k := open(t, wasm.EngineWazero, "hampel", nil)
		if k.restore(bad) == nil {
			_, _ = k.try([]reading{{tag: "a", time: 2, value: 1}, {tag: "b", time: 2, value: 1}})
		}
	}
}

// TestMemory: too many tags fail the batch, with a reason, and harm nothing.
func TestMemory(t *testing.T) {
	for _, name := range modules.Names() {
		t.Run(name, func(t *testing.T) {
			var params map[string]any
			if name == "rul" {
				params = map[string]any{"limit": 1}
			}
			k := open(t, wasm.EngineAuto, name, params, func(c *wasm.Config) { c.Memory = 1 << 20 })
			few := func(i int64) []reading {
				return []reading{{tag: "a", time: i, value: 1}, {tag: "b", time: i, value: 2}}
			}
			k.process(few(1))
			var many []reading
			for i := range 8000 {
				many = append(many, reading{tag: fmt.Sprint("plant/line/machine/sensor", i), time: 1})
			}
			var err error
			for i := 0; i < len(many) && err == nil; i += 100 {
				_, err = k.try(many[i : i+100])
			}
			require.ErrorContains(t, err, "out of memory")
			k.process(few(2))
		})
	}
}

// TestLate: rows older than the last of their tag are counted.
func TestLate(t *testing.T) {
	for _, name := range []string{"ewma", "cusum", "hampel"} {
		k := open(t, wasm.EngineAuto, name, nil)
		for range 2 {
			k.process([]reading{{tag: "a", time: 5}, {tag: "a", time: 6}, {tag: "b", time: 7}})
		}
		families, err := k.meter.Registry().Gather()
		require.NoError(t, err)
		got := -1.0
		for _, f := range families {
			if f.GetName() == "penstock_module_metric" {
				got = f.GetMetric()[0].GetGauge().GetValue()
			}
		}
		require.Equal(t, 1.0, got, name) // the second 5; the second 6 and 7 are equal to the last
	}
}

// TestAdvance: time alone makes no rows.
func TestAdvance(t *testing.T) {
	k := open(t, wasm.EngineAuto, "rul", map[string]any{"limit": 1})
	c := &collector{}
	require.NoError(t, k.op.Advance(context.Background(), arrow.Timestamp(time.Hour), c))
	require.Empty(t, c.rows)
}

// TestRemainingLife: wear that grows by a known rate, with noise and spikes,
// ends when it should, within the interval.
func TestRemainingLife(t *testing.T) {
	k := open(t, wasm.EngineAuto, "rul", map[string]any{"limit": 10.0, "window": "10h", "interval": "10m", "horizon": "5h"})
	rnd := rand.New(rand.NewPCG(3, 3))
	const start = 1_700_000_000 * int64(time.Second)
	var out []result
	for m := range int64(15 * 60) {
		x := 2 + 0.4*float64(m)/60 + 0.1*rnd.NormFloat64() // 10 after 20 h
		if rnd.IntN(50) == 0 {
			x += 30
		}
		out = append(out, k.process([]reading{{tag: "wear", time: start + m*int64(time.Minute), value: x, quality: pipeline.Good}})...)
	}
	last := out[len(out)-1]
	truth := float64(start)/1e9 + 20*3600 - float64(last.time)/1e9
	rul, low, high := *last.values[2], *last.values[3], *last.values[4]
	require.InEpsilon(t, truth, rul, 0.1)
	require.InDelta(t, 0.4, *last.values[1], 0.05)
	require.LessOrEqual(t, low, truth)
	require.GreaterOrEqual(t, high, truth)
	require.Less(t, high-low, truth)
	var flaggedAt float64
	for _, r := range out {
		if f := r.values[6]; f != nil && *f == 1 {
			flaggedAt = (float64(r.time) - float64(start)) / 1e9 / 3600
			break
		}
	}
	require.Zero(t, flaggedAt, "5 h before the end is not reached")
}
