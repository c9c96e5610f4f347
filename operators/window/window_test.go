package window

import (
	"bytes"
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/apache/arrow/go/v17/arrow/memory"
	"github.com/stretchr/testify/require"

	"github.com/penstock/penstock/internal/optest"
	"github.com/penstock/penstock/pipeline"
)

type row = optest.Row

func config(every, size time.Duration, aggs ...string) Config {
	c := DefaultConfig()
	c.Every, c.Size, c.Aggregates = every, size, aggs
	return c
}

func play(t *testing.T, cfg Config, steps ...optest.Step) (map[string][]string, pipeline.Env) {
	env := optest.Env(t)
	return optest.Play(t, env.Alloc, maker(t, cfg, env), steps, -1), env
}

func maker(t testing.TB, cfg Config, env pipeline.Env) func() pipeline.Operator {
	p := pipeline.NewProblems()
	cfg.Validate(p)
	require.Empty(t, p.All())
	return func() pipeline.Operator {
		op, err := New(cfg, env)
		require.NoError(t, err)
		return op
	}
}

func TestTumbling(t *testing.T) {
	got, _ := play(t, config(10*time.Second, 0, "mean", "min", "max", "std", "count", "first", "last", "rate", "good"),
		optest.Step{Rows: []row{
			{Tag: "b", T: 101, V: 5}, {Tag: "b", T: 109, V: 9}, {Tag: "b", T: 109.999, V: 1}, {Tag: "b", T: 110, V: 100},
			{Tag: "a", T: 135, V: -1},
		}},
		optest.Step{Watermark: 109.9},
		optest.Step{Watermark: 110},
		optest.Step{Rows: []row{{Tag: "a", T: 112, V: 2}}},
		optest.Step{Watermark: 200})
	require.Equal(t, []string{
		"time=110 tag=b window_start=100 mean=5 min=1 max=9 std=4 first=5 last=1 rate=-0.44449383264807196 good=1 count=3 quality=0x0",
		"time=120 tag=b window_start=110 mean=100 min=100 max=100 std=null first=100 last=100 rate=null good=1 count=1 quality=0x0",
		"time=120 tag=a window_start=110 mean=2 min=2 max=2 std=null first=2 last=2 rate=null good=1 count=1 quality=0x0",
		"time=140 tag=a window_start=130 mean=-1 min=-1 max=-1 std=null first=-1 last=-1 rate=null good=1 count=1 quality=0x0",
	}, got[""])
}

func TestSliding(t *testing.T) {
	got, _ := play(t, config(10*time.Second, 30*time.Second, "min", "max", "first", "last"),
		optest.Step{Rows: []row{{Tag: "a", T: 105, V: 1}, {Tag: "a", T: 115, V: 2}, {Tag: "a", T: 165, V: 3}}},
		optest.Step{Watermark: 120},
		optest.Step{Watermark: 1000})
	require.Equal(t, []string{
		"time=110 tag=a window_start=80 min=1 max=1 first=1 last=1 count=1 quality=0x0",
		"time=120 tag=a window_start=90 min=1 max=2 first=1 last=2 count=2 quality=0x0",
		"time=130 tag=a window_start=100 min=1 max=2 first=1 last=2 count=2 quality=0x0",
		"time=140 tag=a window_start=110 min=2 max=2 first=2 last=2 count=1 quality=0x0",
		"time=170 tag=a window_start=140 min=3 max=3 first=3 last=3 count=1 quality=0x0",
		"time=180 tag=a window_start=150 min=3 max=3 first=3 last=3 count=1 quality=0x0",
		"time=190 tag=a window_start=160 min=3 max=3 first=3 last=3 count=1 quality=0x0",
	}, got[""])
}

func TestQuality(t *testing.T) {
	nan := math.NaN()
	rows := []row{
		{Tag: "bad", T: 1, V: 1, Q: pipeline.Bad}, {Tag: "bad", T: 2, Null: true, Q: pipeline.BadNoData},
		{Tag: "some", T: 1, V: 1, Q: pipeline.Bad}, {Tag: "some", T: 2, V: 2},
		{Tag: "unc", T: 1, V: 1, Q: pipeline.Uncertain},
		{Tag: "nan", T: 1, V: nan}, {Tag: "nan", T: 2, V: 2, Q: pipeline.Bad}, {Tag: "inf", T: 1, V: math.Inf(1)},
		{Tag: "inf", T: 2, V: 7}, {Tag: "text", T: 1, Null: true, Text: "x"},
	}
	cfg := config(10*time.Second, 0, "mean", "good")
	got, _ := play(t, cfg, optest.Step{Rows: rows}, optest.Step{Watermark: 10})
	require.Equal(t, []string{
		"time=10 tag=bad window_start=0 mean=null good=0 count=0 quality=0x80000000",
		"time=10 tag=some window_start=0 mean=2 good=0.5 count=1 quality=0x40000000",
		"time=10 tag=unc window_start=0 mean=1 good=0 count=1 quality=0x40000000",
		"time=10 tag=nan window_start=0 mean=null good=0.5 count=0 quality=0x80000000",
		"time=10 tag=inf window_start=0 mean=7 good=1 count=1 quality=0x0",
		"time=10 tag=text window_start=0 mean=null good=1 count=0 quality=0x0",
	}, got[""])
	cfg.Bad = "include"
	got, _ = play(t, cfg, optest.Step{Rows: rows}, optest.Step{Watermark: 10})
	require.Equal(t, []string{
		"time=10 tag=bad window_start=0 mean=1 good=0 count=1 quality=0x80000000",
		"time=10 tag=some window_start=0 mean=1.5 good=0.5 count=2 quality=0x40000000",
		"time=10 tag=unc window_start=0 mean=1 good=0 count=1 quality=0x40000000",
		"time=10 tag=nan window_start=0 mean=2 good=0.5 count=1 quality=0x80000000",
	}, got[""][:4])
}

func TestLate(t *testing.T) {
	steps := []optest.Step{
		{Rows: []row{{Tag: "a", T: 25, V: 1}}},
		{Watermark: 30},
		// 9 is late for all its windows [-10,10) and [0,20); 19 is not: [10,30) is closed, [0,20) too.
		{Rows: []row{{Tag: "a", T: 9, V: 2}, {Tag: "a", T: 19, V: 3}, {Tag: "a", T: 21, V: 4}, {Tag: "b", T: 5, V: 5}, {Tag: "b", T: 35, V: 6}}},
		{Watermark: 40},
	}
	cfg := config(10*time.Second, 20*time.Second, "max")
	got, env := play(t, cfg, steps...)
	want := []string{
		"time=30 tag=a window_start=10 max=1 count=1 quality=0x0",
		"time=40 tag=a window_start=20 max=4 count=2 quality=0x0",
		"time=40 tag=b window_start=20 max=6 count=1 quality=0x0",
	}
	require.Equal(t, want, got[""])
	require.Equal(t, map[string]map[string]int64{"test": {"late": 3}}, env.Meter.Totals().DroppedAt)

	cfg.Late = "route"
	got, env = play(t, cfg, steps...)
	require.Equal(t, want, got[""])
	require.Empty(t, env.Meter.Totals().DroppedAt)
	require.Equal(t, []string{
		"time=9 tag=a value=2 text=null quality=0x0 received=9",
		"time=19 tag=a value=3 text=null quality=0x0 received=19",
		"time=5 tag=b value=5 text=null quality=0x0 received=5",
	}, got[PortLate])
}

func TestOffsetAndTimesBefore1970(t *testing.T) {
	cfg := config(10*time.Second, 0, "max")
	cfg.Offset = 23 * time.Second // the same as 3s
	got, _ := play(t, cfg, optest.Step{Rows: []row{{Tag: "a", T: -8, V: 1}, {Tag: "a", T: -7, V: 2}, {Tag: "a", T: 2.9, V: 3}, {Tag: "a", T: 3, V: 4}}},
		optest.Step{Watermark: 13})
	require.Equal(t, []string{
		"time=-7 tag=a window_start=-17 max=1 count=1 quality=0x0",
		"time=3 tag=a window_start=-7 max=3 count=2 quality=0x0",
		"time=13 tag=a window_start=3 max=4 count=1 quality=0x0",
	}, got[""])
}

// std and mean against a two-pass computation, far from zero where naive sums
// of squares have no digits left.
func TestNumbers(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	var rows []row
	var vals []float64
	for i := range 10_000 {
		v := 1e9 + r.NormFloat64()
		vals = append(vals, v)
		rows = append(rows, row{Tag: "a", T: float64(i) / 100, V: v})
	}
	mean, m2 := 0.0, 0.0
	for _, v := range vals {
		mean += (v - 1e9) / float64(len(vals))
	}
	for _, v := range vals {
		m2 += (v - 1e9 - mean) * (v - 1e9 - mean)
	}
	want := math.Sqrt(m2 / float64(len(vals)-1))
	for _, every := range []time.Duration{100 * time.Second, 10 * time.Second, time.Second} { // 1, 10 and 100 panes
		got, _ := play(t, config(every, 100*time.Second, "mean", "std"), optest.Step{Rows: rows}, optest.Step{Watermark: 1000})
		for _, s := range got[""] {
			if !strings.HasPrefix(s, "time=100 ") {
				continue
			}
			var gotMean, gotStd float64
			_, err := fmt.Sscanf(s, "time=100 tag=a window_start=0 mean=%g std=%g count=10000", &gotMean, &gotStd)
			require.NoError(t, err, s)
			require.InDelta(t, 1e9+mean, gotMean, 5e-6)
			require.InEpsilon(t, want, gotStd, 1e-6)
		}
	}
}

func TestSplitAndSnapshot(t *testing.T) {
	for _, cfg := range []Config{
		config(2*time.Second, 0, aggregates...),
		config(time.Second, 5*time.Second, aggregates...),
	} {
		cfg.Late = "route"
		env := optest.Env(t)
		make := maker(t, cfg, env)
		steps := optest.Random(3, 20, 40)
		want := optest.Play(t, env.Alloc, make, steps, -1)
		require.NotEmpty(t, want[""])
		require.NotEmpty(t, want[PortLate], "the script must have late rows")
		for k := range steps {
			require.Equal(t, want, optest.Play(t, env.Alloc, make, steps, k), "snapshot after step %d", k)
		}
		for _, n := range []int{1, 7} {
			require.Equal(t, want[""], optest.Play(t, env.Alloc, make, optest.Split(steps, n), -1)[""], "batches of %d", n)
		}
	}
}

func TestRestoreRefuses(t *testing.T) {
	env := optest.Env(t)
	op := maker(t, config(2*time.Second, 0, "mean"), env)().(*Operator)
	_, err := op.Open(context.Background(), pipeline.Readings)
	require.NoError(t, err)
	rec := optest.Readings(env.Alloc, []row{{Tag: "a", T: 1, V: 1}, {Tag: "b", T: 1, V: 1}})
	defer rec.Release()
	require.NoError(t, op.Process(context.Background(), rec, optest.Discard{}))
	var b bytes.Buffer
	require.NoError(t, op.Snapshot(&b))
	other := maker(t, config(3*time.Second, 0, "mean"), env)().(*Operator)
	require.ErrorContains(t, other.Restore(bytes.NewReader(b.Bytes())), "snapshot was made with every (ns) 2000000000, and the config now says 3000000000")
	for n := range b.Len() {
		require.Error(t, op.Restore(bytes.NewReader(b.Bytes()[:n])))
	}
	require.Error(t, op.Restore(bytes.NewReader(append(b.Bytes(), 0))))
}

func TestValidate(t *testing.T) {
	p := pipeline.NewProblems()
	c := Config{Every: 10 * time.Second, Size: 15 * time.Second, Aggregates: []string{"mean", "median", "mean"}, Bad: "x", Late: "y"}
	c.Validate(p)
	(&Config{}).Validate(p)
	var got []string
	for _, x := range p.All() {
		require.NotEmpty(t, x.Hint)
		got = append(got, x.Path+": "+x.Message)
	}
	require.Equal(t, []string{
		"size: 15s is not a multiple of every (10s)", `aggregates[1]: "median" is not an aggregate`, `aggregates[2]: "mean" is there twice`,
		"column: is empty", `bad: "x" is not known`, `late: "y" is not known`,
		"every: 0s is not a window", "aggregates: is empty", "column: is empty", `bad: "" is not known`, `late: "" is not known`,
	}, got)
	env := optest.Env(t)
	cfg := config(time.Second, 0, "mean")
	cfg.Column = "score"
	_, err := maker(t, cfg, env)().Open(context.Background(), pipeline.Readings)
	require.ErrorContains(t, err, `no float64 column "score"; it has ["value"]`)
}

func BenchmarkWindow(b *testing.B) {
	for _, c := range []struct {
		name string
		tags int
		size time.Duration
	}{{"tumbling/64_tags", 64, time.Second}, {"tumbling/1000_tags", 1000, time.Second}, {"sliding_10/64_tags", 64, 10 * time.Second}} {
		b.Run(c.name, func(b *testing.B) {
			env := pipeline.Env{Name: "w", Alloc: memory.DefaultAllocator}
			op := maker(b, config(time.Second, c.size, "mean", "std", "max", "last"), env)().(*Operator)
			_, err := op.Open(context.Background(), pipeline.Readings)
			require.NoError(b, err)
			rec := optest.Bench(env.Alloc, 8192, c.tags, 1000)
			end := optest.Seconds(1001 + 8192/float64(c.tags)/10)
			b.ReportAllocs()
			for b.Loop() {
				if err := op.Process(context.Background(), rec, optest.Discard{}); err != nil {
					b.Fatal(err)
				}
				if err := op.Advance(context.Background(), end, optest.Discard{}); err != nil {
					b.Fatal(err)
				}
				op.closed = math.MinInt64 // the same rows again
			}
			optest.PerRow(b, 8192)
		})
	}
}
