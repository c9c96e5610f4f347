package alert

import (
	"bytes"
	"context"
	"fmt"
	"math"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/apache/arrow/go/v17/arrow/memory"
	"github.com/stretchr/testify/require"

	"github.com/penstock/penstock/internal/optest"
	"github.com/penstock/penstock/pipeline"
)

type row = optest.Row

func maker(t testing.TB, cfg Config, env pipeline.Env) func() pipeline.Operator {
	p := pipeline.NewProblems()
	cfg.Validate(p)
	require.Empty(t, p.All())
	return func() pipeline.Operator {
		r, err := New(cfg, env)
		require.NoError(t, err)
		return r
	}
}

// short leaves what the tests of the state machine compare: time, tag, state,
// value and raise time.
var short = regexp.MustCompile(`^time=(\S+) tag=(\S+) id=\S+ rule=\S+ asset=\S* severity=\S+ state=(\S+) value=(\S+) limit=(\S+) raised=(\S+) .*$`)

func shorten(l []string) []string {
	var out []string
	for _, s := range l {
		out = append(out, short.ReplaceAllString(s, "$1 $2 $3 $4 since $6"))
	}
	return out
}

func f(v float64) *float64 { return &v }

// series makes rows of tag a at whole seconds from 1.
func series(vals ...float64) optest.Step {
	var s optest.Step
	for i, v := range vals {
		s.Rows = append(s.Rows, row{Tag: "a", T: float64(i + 1), V: v})
	}
	return s
}

func TestStateMachine(t *testing.T) {
	nan := math.NaN()
	wm := func(t float64) optest.Step { return optest.Step{Watermark: t} }
	at := func(rows ...row) optest.Step {
		for i := range rows {
			rows[i].Tag = "a"
		}
		return optest.Step{Rows: rows}
	}
	for _, c := range []struct {
		name  string
		cfg   Config
		steps []optest.Step
		want  string
		late  int64
	}{
		{"above", Config{Above: f(6)}, []optest.Step{series(5, 6, 6.1, 9, 6, 7)}, "3 a raised 6.1 since 3, 5 a cleared 6 since 3, 6 a raised 7 since 6", 0},
		{"below", Config{Below: f(6)}, []optest.Step{series(7, 6, 5, 6)}, "3 a raised 5 since 3, 4 a cleared 6 since 3", 0},
		{"band", Config{Above: f(6), Below: f(2)}, []optest.Step{series(3, 1, 7, 4, 9)}, "2 a raised 1 since 2, 4 a cleared 4 since 2, 5 a raised 9 since 5", 0},
		{"hysteresis", Config{Above: f(6), Hysteresis: 1}, []optest.Step{series(7, 5.5, 6, 5.01, 5, 5.5)}, "1 a raised 7 since 1, 5 a cleared 5 since 1", 0},
		{"infinite", Config{Above: f(6)}, []optest.Step{series(math.Inf(1), math.Inf(-1))}, "1 a raised +Inf since 1, 2 a cleared -Inf since 1", 0},
		{"on delay by a row", Config{Above: f(6), OnDelay: 2 * time.Second}, []optest.Step{series(7, 8, 9, 1)}, "3 a raised 9 since 3, 4 a cleared 1 since 3", 0},
		{"on delay between rows", Config{Above: f(6), OnDelay: 1500 * time.Millisecond}, []optest.Step{series(7, 8, 9, 1)}, "2.5 a raised 8 since 2.5, 4 a cleared 1 since 2.5", 0},
		{"on delay by the watermark", Config{Above: f(6), OnDelay: 2 * time.Second}, []optest.Step{series(7), wm(2.9), wm(3), wm(3.1)}, "3 a raised 7 since 3", 0},
		{"on delay starts anew", Config{Above: f(6), Hysteresis: 1, OnDelay: 2 * time.Second}, []optest.Step{series(7, 5.5, 7, 7, 1), wm(99)}, "", 0},
		{"off delay", Config{Above: f(6), OffDelay: 2 * time.Second}, []optest.Step{series(7, 1, 7, 1, 2), wm(5.9), wm(50)}, "1 a raised 7 since 1, 6 a cleared 2 since 1", 0},
		{"off delay starts anew within the hysteresis", Config{Above: f(6), Hysteresis: 2, OffDelay: 2 * time.Second}, []optest.Step{series(7, 1, 5, 1, 1), wm(5)}, "1 a raised 7 since 1", 0},
		{"min samples", Config{Above: f(6), MinSamples: 3}, []optest.Step{series(7, 7, 1, 7, 7), wm(99), at(row{T: 100, V: 8})}, "100 a raised 8 since 100", 0},
		{"min samples and on delay", Config{Above: f(6), MinSamples: 2, OnDelay: 5 * time.Second}, []optest.Step{series(7, 8), wm(99)}, "6 a raised 8 since 6", 0},
		{"hold", Config{Above: f(6)}, []optest.Step{at(row{T: 1, V: 9, Q: pipeline.Bad}, row{T: 2, V: nan}, row{T: 3, V: 9}, row{T: 4, V: 1, Q: pipeline.Bad}, row{T: 5, Null: true}, row{T: 6, V: nan}, row{T: 7, V: 9, Q: pipeline.Uncertain})},
			"3 a raised 9 since 3", 0},
		{"hold stops delays", Config{Above: f(6), OnDelay: 2 * time.Second, OffDelay: 2 * time.Second}, []optest.Step{at(row{T: 1, V: 9}, row{T: 2, Null: true}, row{T: 9, V: 9}, row{T: 11, V: 9}, row{T: 12, V: 1}, row{T: 13, V: nan}), wm(20)},
			"11 a raised 9 since 11", 0},
		{"clear", Config{Above: f(6), WhenBad: "clear"}, []optest.Step{at(row{T: 1, V: 9}, row{T: 2, Null: true, Q: pipeline.Bad})}, "1 a raised 9 since 1, 2 a cleared 9 since 1", 0},
		{"raise", Config{Above: f(6), WhenBad: "raise"}, []optest.Step{at(row{T: 1, V: 1}, row{T: 2, Null: true, Q: pipeline.Bad}, row{T: 3, V: nan}, row{T: 4, V: 1})}, "2 a raised null since 2, 4 a cleared 1 since 2", 0},
		{"bad", Config{Bad: true, OnDelay: 2 * time.Second}, []optest.Step{at(row{T: 1, Null: true, Q: pipeline.BadSensor}, row{T: 2, V: 1, Q: pipeline.Uncertain}, row{T: 3, V: 5, Q: pipeline.Bad}), wm(7), at(row{T: 8, V: 2})},
			"5 a raised 5 since 5, 8 a cleared 2 since 5", 0},
		{"stale", Config{Stale: 10 * time.Second}, []optest.Step{series(1, 2), wm(12), wm(12.1), wm(30), at(row{T: 31, Null: true, Q: pipeline.Bad}), wm(40)}, "12 a raised 2 since 12, 31 a cleared 2 since 12", 0},
		{"stale by the next row", Config{Stale: 10 * time.Second}, []optest.Step{at(row{T: 1, V: 1}, row{T: 11, V: 2}, row{T: 22, V: 3})}, "21 a raised 2 since 21, 22 a cleared 3 since 21", 0},
		{"stale again within the off delay", Config{Stale: 10 * time.Second, OffDelay: 15 * time.Second}, []optest.Step{at(row{T: 1, V: 1}), wm(20), at(row{T: 21, V: 2}), wm(40), at(row{T: 41, V: 3}, row{T: 50, V: 4}), wm(100)},
			"11 a raised 1 since 11, 56 a cleared 4 since 11, 60 a raised 4 since 60", 0},
		{"stuck", Config{Stuck: 3 * time.Second}, []optest.Step{series(1, 2, 2, 2, 2, 2, 3), wm(10), wm(10.1)}, "5 a raised 2 since 5, 7 a cleared 3 since 5, 10 a raised 3 since 10", 0},
		{"stuck with tolerance", Config{Stuck: 3 * time.Second, Tolerance: 0.5}, []optest.Step{series(1, 1.5, 1.2, 1.4, 1.6, 2.2)}, "4 a raised 1.4 since 4, 5 a cleared 1.6 since 4", 0},
		{"a bad sensor is not stuck", Config{Stuck: 3 * time.Second}, []optest.Step{at(row{T: 1, V: 1}, row{T: 2, Null: true, Q: pipeline.Bad}), wm(50), at(row{T: 60, V: 1}), wm(63), wm(63.1)}, "63 a raised 1 since 63", 0},
		{"late rows", Config{Above: f(6), OnDelay: 2 * time.Second}, []optest.Step{at(row{T: 5, V: 7}), wm(7.5), at(row{T: 4, V: 1}, row{T: 6, V: 1}, row{T: 7, V: 8}, row{T: 8, V: 1})}, "7 a raised 7 since 7, 8 a cleared 1 since 7", 2},
		{"only the tags that match", Config{Above: f(6), Tags: []string{"x/*", "b"}}, []optest.Step{{Rows: []row{{Tag: "a", T: 1, V: 9}, {Tag: "b", T: 1, V: 9}, {Tag: "x/y", T: 1, V: 9}, {Tag: "x/y/z", T: 1, V: 9}}}}, "1 b raised 9 since 1, 1 x/y raised 9 since 1", 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			env := optest.Env(t)
			cfg := DefaultConfig()
			cfg.Column = "value"
			want := c.cfg
			want.Column, want.Severity = "value", cfg.Severity
			if want.WhenBad == "" {
				want.WhenBad = cfg.WhenBad
			}
			for k := -1; k < len(c.steps); k++ {
				got := optest.Play(t, env.Alloc, maker(t, want, env), c.steps, k)
				require.Equal(t, c.want, strings.Join(shorten(got[""]), ", "), "snapshot after step %d", k)
			}
			require.Equal(t, c.late*int64(len(c.steps)+1), env.Meter.Totals().Dropped["late"])
		})
	}
}

func TestEventRow(t *testing.T) {
	env := optest.Env(t)
	env.Name = "hot"
	env.Tags = pipeline.NewTags([]pipeline.TagRule{{Match: "hall/pump1/temperature", Unit: "°C"}})
	cfg := DefaultConfig()
	cfg.Above, cfg.Column, cfg.Severity = f(80), "value", "critical"
	steps := []optest.Step{{Rows: []row{{Tag: "hall/pump1/temperature", T: 1.5, V: 81.23456789}, {Tag: "hall/pump1/temperature", T: 2, V: 3}}}}
	id := ID("hot", "hall/pump1/temperature", optest.Seconds(1.5))
	require.Equal(t, "30e936c25a05ba80", id, "ids must not change from release to release")
	require.Equal(t, []string{
		"time=1.5 tag=hall/pump1/temperature id=" + id + " rule=hot asset=hall/pump1 severity=critical state=raised value=81.23456789 limit=80 raised=1.5 message=hall/pump1/temperature is 81.2346, above 80",
		"time=2 tag=hall/pump1/temperature id=" + id + " rule=hot asset=hall/pump1 severity=critical state=cleared value=3 limit=80 raised=1.5 message=hall/pump1/temperature is back to normal: 3",
	}, optest.Play(t, env.Alloc, maker(t, cfg, env), steps, -1)[""])

	cfg.Message = "{severity}: {measurement} of {asset} at {value} {unit} ({limit}) {rule} {tag}"
	got := optest.Play(t, env.Alloc, maker(t, cfg, env), steps, -1)[""][0]
	require.Contains(t, got, "message=critical: temperature of hall/pump1 at 81.2346 °C (80) hot hall/pump1/temperature")
}

// What a rule raises depends neither on how rows are cut into batches, nor on
// how often the watermark comes, nor on a restart.
func TestSplitAndSnapshot(t *testing.T) {
	base := DefaultConfig()
	base.Column = "value"
	with := func(change func(*Config)) Config { c := base; change(&c); return c }
	for name, cfg := range map[string]Config{
		"limit": with(func(c *Config) {
			c.Above, c.Below, c.Hysteresis, c.OnDelay, c.OffDelay, c.MinSamples = f(6), f(-7), 1, 300*time.Millisecond, 700*time.Millisecond, 2
		}),
		"clear": with(func(c *Config) { c.Above, c.WhenBad, c.OffDelay = f(6), "clear", time.Second }),
		"bad":   with(func(c *Config) { c.Bad, c.OffDelay = true, 2*time.Second }),
		"stale": with(func(c *Config) { c.Stale, c.OffDelay = time.Second, 500*time.Millisecond }),
		"stuck": with(func(c *Config) { c.Stuck, c.Tolerance = time.Second, 8 }),
	} {
		t.Run(name, func(t *testing.T) {
			env := optest.Env(t)
			make := maker(t, cfg, env)
			steps := optest.Random(9, 20, 40)
			want := optest.Play(t, env.Alloc, make, steps, -1)
			require.Greater(t, len(want[""]), 10)
			for k := range steps {
				require.Equal(t, want, optest.Play(t, env.Alloc, make, steps, k), "snapshot after step %d", k)
			}
			sorted := func(l []string) []string {
				l = slices.Clone(l)
				slices.Sort(l)
				return l
			}
			for _, n := range []int{1, 7} {
				require.Equal(t, sorted(want[""]), sorted(optest.Play(t, env.Alloc, make, optest.Split(steps, n), -1)[""]), "batches of %d", n)
			}
			// Without rows that are older than the watermark.
			var often, rare []optest.Step
			wm := 0.0
			for i, s := range steps {
				s.Rows = slices.DeleteFunc(slices.Clone(s.Rows), func(r row) bool { return r.T < wm })
				wm = max(wm, s.Watermark)
				often = append(often, s)
				if len(s.Rows) > 0 || i == len(steps)-1 {
					rare = append(rare, s)
				}
			}
			require.Equal(t, sorted(optest.Play(t, env.Alloc, make, often, -1)[""]), sorted(optest.Play(t, env.Alloc, make, rare, -1)[""]), "no watermark but the last")
		})
	}
}

func TestValidate(t *testing.T) {
	for want, cfg := range map[string]Config{
		":the rule has no condition":            {WhenBad: "hold", Severity: "info"},
		":the rule has more than one condition": {Above: f(1), Bad: true, WhenBad: "hold", Severity: "info"},
		"hysteresis:has no meaning here":        {Bad: true, Hysteresis: 1, WhenBad: "hold", Severity: "info"},
		"below:5 and above 6 leave no room":     {Above: f(6), Below: f(5), Hysteresis: 1, WhenBad: "hold", Severity: "info"},
		"on_delay:has no meaning here":          {Stale: 1, OnDelay: 1, WhenBad: "hold", Severity: "info"},
		"min_samples:has no meaning here":       {Stuck: 1, MinSamples: 2, WhenBad: "hold", Severity: "info"},
		"tolerance:has no meaning here":         {Above: f(1), Tolerance: 2, WhenBad: "hold", Severity: "info"},
		"off_delay:-1ns is negative":            {Above: f(1), OffDelay: -1, WhenBad: "hold", Severity: "info"},
		`severity:"urgent" is not a severity`:   {Above: f(1), WhenBad: "hold", Severity: "urgent"},
		`when_bad:"x" is not known`:             {Above: f(1), WhenBad: "x", Severity: "info"},
		`tags[1]:"[" is not a pattern`:          {Above: f(1), Tags: []string{"a", "["}, WhenBad: "hold", Severity: "info"},
		"message:{val} is not known":            {Above: f(1), Message: "{tag} {val}", WhenBad: "hold", Severity: "info"},
		"stale:-1s is negative":                 {Stale: -time.Second, WhenBad: "hold", Severity: "info"},
	} {
		p := pipeline.NewProblems()
		cfg.Validate(p)
		require.Len(t, p.All(), 1, want)
		require.NotEmpty(t, p.All()[0].Hint)
		require.Contains(t, fmt.Sprintf("%s:%s", p.All()[0].Path, p.All()[0].Message), want)
	}
	env := optest.Env(t)
	cfg := DefaultConfig()
	cfg.Above = f(1)
	_, err := maker(t, cfg, env)().Open(context.Background(), pipeline.Readings)
	require.ErrorContains(t, err, `column: the input has no float64 column "score"; it has ["value"]`)
	cfg.Column = "quality"
	_, err = maker(t, cfg, env)().Open(context.Background(), pipeline.Readings)
	require.ErrorContains(t, err, `column: the column "quality" is uint32 and not float64; those of float64 are ["value"]`)
}

func TestRestoreRefuses(t *testing.T) {
	env := optest.Env(t)
	cfg := DefaultConfig()
	cfg.Stale = time.Second
	op := maker(t, cfg, env)()
	_, err := op.Open(context.Background(), pipeline.Readings)
	require.NoError(t, err)
	rec := optest.Readings(env.Alloc, []row{{Tag: "a/t", T: 1, V: 1}, {Tag: "b/v", T: 1, V: 1}})
	defer rec.Release()
	require.NoError(t, op.Process(context.Background(), rec, optest.Discard{}))
	var b bytes.Buffer
	require.NoError(t, op.Snapshot(&b))
	cfg.Stale, cfg.Bad = 0, true
	require.ErrorContains(t, maker(t, cfg, env)().Restore(bytes.NewReader(b.Bytes())), "another kind of condition")
	for n := range b.Len() {
		require.Error(t, op.Restore(bytes.NewReader(b.Bytes()[:n])))
	}
}

func TestEvents(t *testing.T) {
	env := optest.Env(t)
	rec := optest.Readings(env.Alloc, []row{{Tag: "a", T: 1, V: 1}})
	defer rec.Release()
	_, err := Events(rec)
	require.ErrorContains(t, err, "this sink takes alert events")
	require.True(t, pipeline.IsPermanent(err))
}

func BenchmarkRule(b *testing.B) {
	for name, cfg := range map[string]Config{
		"quiet":  {Above: f(1e6), Column: "value", WhenBad: "hold"},
		"busy":   {Above: f(75), Column: "value", WhenBad: "hold", OnDelay: time.Second},
		"raised": {Above: f(-1e6), Column: "value", WhenBad: "hold"},
		"stale":  {Stale: time.Second, WhenBad: "hold"},
		"stuck":  {Stuck: time.Second, WhenBad: "hold"},
	} {
		b.Run(name, func(b *testing.B) {
			env := pipeline.Env{Name: "r", Alloc: memory.DefaultAllocator, Meter: pipeline.NewMeter()}
			r, err := New(cfg, env)
			require.NoError(b, err)
			_, err = r.Open(context.Background(), pipeline.Readings)
			require.NoError(b, err)
			rec := optest.Bench(env.Alloc, 8192, 64, 1000)
			b.ReportAllocs()
			for b.Loop() {
				if err := r.Process(context.Background(), rec, optest.Discard{}); err != nil {
					b.Fatal(err)
				}
				for id := range r.tags {
					r.tags[id].clock = math.MinInt64 // the same rows again
					r.tags[id].due = never
				}
			}
			optest.PerRow(b, 8192)
		})
	}
}
