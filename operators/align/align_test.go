package align

import (
	"bytes"
	"context"
	"math"
	"testing"
	"time"

	"github.com/apache/arrow/go/v17/arrow/memory"
	"github.com/stretchr/testify/require"

	"github.com/penstock/penstock/internal/optest"
	"github.com/penstock/penstock/pipeline"
)

type row = optest.Row

func config(method string, age time.Duration) Config {
	c := DefaultConfig()
	c.Interval, c.Measurements, c.Method, c.MaxAge = 10*time.Second, []string{"t", "v"}, method, age
	return c
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

func TestMethods(t *testing.T) {
	nan := math.NaN()
	for _, c := range []struct {
		name  string
		cfg   Config
		steps []optest.Step
		want  []string
		late  int64
	}{
		{name: "last holds and ages", cfg: config("last", 15*time.Second), steps: []optest.Step{
			{Rows: []row{{Tag: "a/t", T: 10, V: 1}, {Tag: "a/x", T: 11, V: 9}, {Tag: "a/v", T: 12, V: 2, Q: pipeline.Uncertain}, {Tag: "b/t", T: 19, V: 3}}},
			{Watermark: 19}, {Watermark: 20}, {Watermark: 41},
			{Rows: []row{{Tag: "a/t", T: 75, V: 4}}}, {Watermark: 1e6},
		}, want: []string{
			"time=10 tag=a t=1 v=null quality=0x0",
			"time=20 tag=a t=1 v=2 quality=0x40000000",
			"time=20 tag=b t=3 v=null quality=0x0",
			"time=30 tag=b t=3 v=null quality=0x0",
			"time=80 tag=a t=4 v=null quality=0x0",
			"time=90 tag=a t=4 v=null quality=0x0",
		}},
		{name: "bad is null, not the value before", cfg: config("last", 0), steps: []optest.Step{
			{Rows: []row{{Tag: "a/t", T: 1, V: 1}, {Tag: "a/t", T: 2, Null: true, Q: pipeline.BadSensor}, {Tag: "a/t", T: 12, V: 2}, {Tag: "a/t", T: 22, V: nan}, {Tag: "a/t", T: 32, V: 3, Q: pipeline.Bad}}},
			{Watermark: 40},
		}, want: []string{
			"time=10 tag=a t=null v=null quality=0x808c0000",
			"time=20 tag=a t=2 v=null quality=0x0",
			"time=30 tag=a t=null v=null quality=0x0",
			"time=40 tag=a t=null v=null quality=0x80000000",
		}},
		{name: "of equal times the last to come counts", cfg: config("last", 0), steps: []optest.Step{
			{Rows: []row{{Tag: "a/t", T: 5, V: 1}, {Tag: "a/t", T: 5, V: 2}}}, {Rows: []row{{Tag: "a/t", T: 5, V: 3}, {Tag: "a/t", T: 3, V: 4}}}, {Watermark: 10},
		}, want: []string{"time=10 tag=a t=3 v=null quality=0x0"}},
		{name: "mean", cfg: config("mean", 0), steps: []optest.Step{
			{Rows: []row{{Tag: "a/t", T: 10, V: 1}, {Tag: "a/t", T: 19.9, V: 2}, {Tag: "a/t", T: 20, V: 7}, {Tag: "a/v", T: 15, V: 5, Q: pipeline.Bad}, {Tag: "a/v", T: 55, V: 6}, {Tag: "a/v", T: 56, Null: true}}},
			{Watermark: 25}, {Rows: []row{{Tag: "a/t", T: 19, V: 100}}}, {Watermark: 100},
		}, want: []string{
			"time=20 tag=a t=1.5 v=null quality=0x80000000",
			"time=30 tag=a t=7 v=null quality=0x0",
			"time=60 tag=a t=null v=6 quality=0x0",
		}, late: 1},
		{name: "linear", cfg: config("linear", 12*time.Second), steps: []optest.Step{
			{Rows: []row{{Tag: "a/t", T: 8, V: 0}, {Tag: "a/t", T: 12, V: 4}, {Tag: "a/t", T: 30, V: 1}, {Tag: "a/v", T: 15, V: 1, Q: pipeline.Uncertain}, {Tag: "a/v", T: 25, V: 2}, {Tag: "a/v", T: 31, Null: true, Q: pipeline.Bad}}},
			{Watermark: 21.9}, {Watermark: 22}, {Watermark: 100},
		}, want: []string{
			"time=10 tag=a t=2 v=null quality=0x0",
			"time=20 tag=a t=2.666666666666667 v=1.5 quality=0x40000000",
			"time=30 tag=a t=1 v=null quality=0x80000000",
			"time=40 tag=a t=null v=null quality=0x80000000",
		}},
		{name: "late", cfg: config("last", 0), steps: []optest.Step{
			{Rows: []row{{Tag: "a/t", T: 5, V: 1}}}, {Watermark: 12},
			{Rows: []row{{Tag: "a/t", T: 4, V: 2}, {Tag: "a/t", T: 7, V: 3}}}, {Watermark: 20}, // 7 still holds at 20
		}, want: []string{
			"time=10 tag=a t=1 v=null quality=0x0",
			"time=20 tag=a t=3 v=null quality=0x0",
		}, late: 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			env := optest.Env(t)
			got := optest.Play(t, env.Alloc, maker(t, c.cfg, env), c.steps, -1)
			require.Equal(t, c.want, got[""])
			require.Equal(t, c.late, env.Meter.Totals().Dropped["late"])
		})
	}
}

func TestRegistryNamesTheAsset(t *testing.T) {
	env := optest.Env(t)
	env.Tags = pipeline.NewTags([]pipeline.TagRule{{Match: "line*/*", Asset: "press/${1}", Measurement: "t"}})
	got := optest.Play(t, env.Alloc, maker(t, config("last", 0), env), []optest.Step{{Rows: []row{{Tag: "line7/DB1.X", T: 5, V: 1}}}, {Watermark: 10}}, -1)
	require.Equal(t, []string{"time=10 tag=press/line7 t=1 v=null quality=0x0"}, got[""])
}

func TestSplitAndSnapshot(t *testing.T) {
	for _, method := range []string{"last", "mean", "linear"} {
		cfg := config(method, 0)
		cfg.Interval, cfg.Offset, cfg.Measurements = 700*time.Millisecond, -100*time.Millisecond, []string{"m1", "m0"}
		env := optest.Env(t)
		make := maker(t, cfg, env)
		steps := optest.Random(5, 15, 30)
		want := optest.Play(t, env.Alloc, make, steps, -1)
		require.Greater(t, len(want[""]), 50)
		for k := range steps {
			require.Equal(t, want, optest.Play(t, env.Alloc, make, steps, k), "snapshot after step %d", k)
		}
		for _, n := range []int{1, 7} {
			require.Equal(t, want, optest.Play(t, env.Alloc, make, optest.Split(steps, n), -1), "batches of %d", n)
		}
	}
}

func TestRestoreRefuses(t *testing.T) {
	env := optest.Env(t)
	op := maker(t, config("last", 0), env)()
	_, err := op.Open(context.Background(), pipeline.Readings)
	require.NoError(t, err)
	rec := optest.Readings(env.Alloc, []row{{Tag: "a/t", T: 1, V: 1}, {Tag: "b/v", T: 1, V: 1}})
	defer rec.Release()
	require.NoError(t, op.Process(context.Background(), rec, optest.Discard{}))
	var b bytes.Buffer
	require.NoError(t, op.Snapshot(&b))
	require.ErrorContains(t, maker(t, config("mean", 0), env)().Restore(bytes.NewReader(b.Bytes())), "made with method last, and the config now says mean")
	for n := range b.Len() {
		require.Error(t, op.Restore(bytes.NewReader(b.Bytes()[:n])))
	}
}

func TestValidate(t *testing.T) {
	p := pipeline.NewProblems()
	(&Config{Measurements: []string{"a", "a", "time", ""}, Method: "spline", MaxAge: -1}).Validate(p)
	(&Config{}).Validate(p)
	var got []string
	for _, x := range p.All() {
		require.NotEmpty(t, x.Hint)
		got = append(got, x.Path)
	}
	require.Equal(t, []string{"interval", "measurements[1]", "measurements[2]", "measurements[3]", "method", "max_age", "column",
		"interval", "measurements", "method", "column"}, got)
}

func BenchmarkAlign(b *testing.B) {
	for _, method := range []string{"last", "mean", "linear"} {
		b.Run(method, func(b *testing.B) {
			env := pipeline.Env{Name: "a", Alloc: memory.DefaultAllocator, Meter: pipeline.NewMeter()}
			cfg := config(method, 0)
			cfg.Interval, cfg.Measurements = time.Second, []string{"temperature", "pressure"}
			op := maker(b, cfg, env)().(*Operator)
			_, err := op.Open(context.Background(), pipeline.Readings)
			require.NoError(b, err)
			rec := optest.Bench(env.Alloc, 8192, 64, 1000)
			b.ReportAllocs()
			for b.Loop() {
				if err := op.Process(context.Background(), rec, optest.Discard{}); err != nil {
					b.Fatal(err)
				}
				if err := op.Advance(context.Background(), optest.Seconds(1020), optest.Discard{}); err != nil {
					b.Fatal(err)
				}
				op.closed = math.MinInt64 // the same rows again
				for k := range op.series {
					op.series[k] = op.series[k][:0]
				}
			}
			optest.PerRow(b, 8192)
		})
	}
}
