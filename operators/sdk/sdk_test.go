package sdk_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/apache/arrow/go/v17/arrow"
	"github.com/apache/arrow/go/v17/arrow/array"
	"github.com/apache/arrow/go/v17/arrow/ipc"
	"github.com/apache/arrow/go/v17/arrow/memory"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/penstock/penstock/internal/optest"
	"github.com/penstock/penstock/operators/sdk"
	"github.com/penstock/penstock/operators/wasm"
	"github.com/penstock/penstock/pipeline"
)

func TestMain(m *testing.M) {
	code := 1
	defer func() { os.Exit(code) }()
	defer func() {
		if built.dir != "" {
			_ = os.RemoveAll(built.dir)
		}
	}()
	if err := compiler.Keep(math.MaxInt); err != nil {
		panic(err) // there is nothing yet to free
	}
	code = m.Run()
	if err := compiler.Keep(0); err != nil && code == 0 {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	if code == 0 {
		if err := goleak.Find(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}
}

// compiler keeps the modules until the end: an engine needs a second for one of
// Go's.
var compiler = wasm.NewCompiler("", slog.New(slog.DiscardHandler))

// built are the operators, each made once by New and Build.
var built struct {
	sync.Mutex
	dir string
	of  map[string]string
}

// example returns the example's module in a language, made as a user makes it.
func example(t *testing.T, lang, kind string) string {
	t.Helper()
	return made(t, lang, kind, "")
}

// made returns the module of the example, or of testdata's operator in its place.
func made(t *testing.T, lang, kind, source string) string {
	t.Helper()
	built.Lock()
	defer built.Unlock()
	if built.dir == "" {
		var err error
		built.dir, err = os.MkdirTemp("", "penstock-sdk-test-")
		require.NoError(t, err)
		built.of = map[string]string{}
	}
	key := strings.Join([]string{lang, kind, source}, "-")
	if built.of[key] == "" {
		dir := filepath.Join(built.dir, key)
		if _, err := os.Stat(dir); err != nil {
			require.NoError(t, sdk.New(dir, "example", lang, kind, "v0"))
			if source != "" {
				copyFile(t, filepath.Join("testdata", source+filepath.Ext(sources[lang])), filepath.Join(dir, sources[lang]))
				copyFile(t, filepath.Join("testdata", source+".json"), filepath.Join(dir, "manifest.json"))
			}
		}
		built.of[key] = build(t, dir)
	}
	return built.of[key]
}

var sources = map[string]string{"c": "example.c", "rust": "src/lib.rs", "assemblyscript": "operator.ts", "go": "main.go"}

func copyFile(t *testing.T, from, to string) {
	t.Helper()
	b, err := os.ReadFile(from)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(to, b, 0o644))
}

// build builds the operator in dir. Without its toolchain the test is skipped,
// or fails if PENSTOCK_TEST_PEERS says that everything is there.
func build(t *testing.T, dir string) string {
	t.Helper()
	var log bytes.Buffer
	r, err := sdk.Build(context.Background(), dir, false, &log)
	var missing *sdk.MissingToolchain
	if errors.As(err, &missing) && os.Getenv("PENSTOCK_TEST_PEERS") != "1" {
		t.Skip(err)
	}
	require.NoError(t, err, log.String())
	t.Logf("%s: %d bytes, by %s", filepath.Base(dir), r.Info.Size, r.Tools)
	require.Empty(t, r.Info.WasmerHazards)
	return r.Path
}

// operator is a wasm operator and all that it emitted.
type operator struct {
	*wasm.Operator
	alloc memory.Allocator
	log   bytes.Buffer
	recs  []arrow.Record
}

func (o *operator) Emit(_ string, rec arrow.Record) error {
	rec.Retain()
	o.recs = append(o.recs, rec)
	return nil
}

func open(t *testing.T, in *arrow.Schema, module, engine string, params map[string]any) *operator {
	t.Helper()
	o, err := tryOpen(t, in, module, engine, params)
	require.NoError(t, err)
	return o
}

func tryOpen(t *testing.T, in *arrow.Schema, module, engine string, params map[string]any, set ...func(*wasm.Config)) (*operator, error) {
	t.Helper()
	cfg := wasm.DefaultConfig()
	for _, f := range set {
		f(&cfg)
	}
	cfg.Module, cfg.Engine, cfg.Params, cfg.OnError = module, engine, params, wasm.OnErrorStop
	if engine == wasm.EngineWasmer { // nobody signed it
		cfg.Engine = wasm.EngineWasmerUntrusted
	}
	p := pipeline.NewProblems()
	cfg.Validate(p)
	require.Empty(t, p.All())
	env := optest.Env(t)
	o := &operator{alloc: env.Alloc}
	env.Log = newLog(&o.log)
	var err error
	o.Operator, err = wasm.NewWith(cfg, env, compiler)
	require.NoError(t, err)
	t.Cleanup(func() {
		for _, r := range o.recs {
			r.Release()
		}
		require.NoError(t, o.Close(context.Background()))
	})
	_, err = o.Open(context.Background(), in)
	return o, err
}

// result is what was emitted, as an IPC stream.
func (o *operator) result(t *testing.T) []byte {
	require.NotEmpty(t, o.recs)
	var b bytes.Buffer
	w := ipc.NewWriter(&b, ipc.WithSchema(o.recs[0].Schema()))
	for _, r := range o.recs {
		require.NoError(t, w.Write(r))
	}
	require.NoError(t, w.Close())
	return b.Bytes()
}

// guestState is the guest's part of a snapshot.
func guestState(t *testing.T, state []byte) []byte {
	require.Greater(t, len(state), 12)
	return state[12+binary.LittleEndian.Uint32(state[8:]):]
}

// stream is a random script of batches: nulls, NaN, infinite and huge values, Bad
// and Uncertain quality, tags in every script and of every length, long runs, one
// row for each tag, and batches of no rows.
func stream(seed uint64, n int) [][]optest.Row {
	r := rand.New(rand.NewPCG(seed, 5))
	tags := []string{"a", "plant1/hall2/pump3/vibration_x", "Werk/Förderband/Wärme", "工厂/泵/温度", "завод/насос", "🏭/🌡", ""}
	for i := range 300 {
		tags = append(tags, fmt.Sprintf("line%d/m%d", i%7, i))
	}
	var out [][]optest.Row
	for b := range n {
		var rows []optest.Row
		row := func(tag string) {
			x := optest.Row{Tag: tag, T: float64(b*1000 + len(rows)), V: r.NormFloat64()*3 + 20}
			switch r.IntN(25) {
			case 0:
				x.Null = true
			case 1:
				x.V = math.NaN()
			case 2:
				x.Q = pipeline.BadSensor
			case 3:
				x.Q = pipeline.Uncertain
			case 4:
				x.V = math.Inf(1 - 2*r.IntN(2))
			case 5:
				x.V = 1e200
			case 6:
				x.V += 100
			case 7:
				x.V = math.Copysign(0, -1)
			}
			rows = append(rows, x)
		}
		switch b % 4 {
		case 0: // one row for each tag
			for _, t := range tags {
				row(t)
			}
		case 1: // long runs
			for _, t := range tags[:7] {
				for range 100 + r.IntN(200) {
					row(t)
				}
			}
		case 2:
			for range r.IntN(500) {
				row(tags[r.IntN(len(tags))])
			}
		}
		out = append(out, rows)
	}
	return out
}

// watermark is that after a batch of stream: before the end of the longest, after that of others.
func watermark(rows []optest.Row) arrow.Timestamp { return optest.Seconds(rows[0].T + 500) }

func (o *operator) play(t *testing.T, batches [][]optest.Row) {
	t.Helper()
	for _, rows := range batches {
		rec := optest.Readings(o.alloc, rows)
		err := o.Process(context.Background(), rec, o)
		rec.Release()
		require.NoError(t, err, o.log.String())
		if len(rows) > 0 {
			require.NoError(t, o.Advance(context.Background(), watermark(rows), o), o.log.String())
		}
	}
}

// scores is the example of a map operator once more, computed here.
func scores(batches [][]optest.Row, alpha, threshold float64, warmup int64) (score []float64, flag []int) {
	type state struct {
		mean, variance float64
		count          int64
	}
	states := map[string]*state{}
	alloc := memory.NewGoAllocator()
	for _, rows := range batches {
		rec := optest.Readings(alloc, rows)
		tag, value, quality := rec.Column(1).(*array.Dictionary), rec.Column(2).(*array.Float64), rec.Column(4).(*array.Uint32)
		for i := range int(rec.NumRows()) {
			name := tag.Dictionary().(*array.String).Value(tag.GetValueIndex(i))
			s := states[name]
			if s == nil {
				s = &state{}
				states[name] = s
			}
			score, flag = append(score, math.NaN()), append(flag, -1)
			x := value.Value(i)
			if value.IsNull(i) || quality.Value(i) >= 0x80000000 || !(math.Abs(x) < 1e150) {
				continue
			}
			d := x - s.mean
			if s.count >= warmup && s.variance > 0 {
				z := d / math.Sqrt(s.variance)
				score[len(score)-1], flag[len(flag)-1] = z, 0
				if math.Abs(z) > threshold {
					flag[len(flag)-1] = 1
				}
			}
			if s.count == 0 {
				s.mean = x
			} else {
				step := float64(alpha * d)
				s.mean += step
				s.variance = float64((1 - alpha) * (s.variance + float64(step*d)))
			}
			s.count++
		}
		rec.Release()
	}
	return score, flag
}

// Each example gives the same bytes in every language, on every engine, and in
// one that goes on from another's snapshot; and they are the right ones.
func TestExamples(t *testing.T) {
	for kind, c := range map[string]struct {
		params map[string]any
		check  func(*testing.T, []arrow.Record, [][]optest.Row)
	}{
		wasm.KindMap:  {map[string]any{"alpha": 0.1, "threshold": 3.5, "warmup": 5}, checkScores},
		wasm.KindEmit: {map[string]any{"window": "7s", "low": 18, "high": 23.5}, checkSummaries},
	} {
		batches := stream(1, 24)
		var want, wantState []byte
		for _, lang := range sdk.Languages {
			t.Run(kind+"/"+lang, func(t *testing.T) {
				module := example(t, lang, kind)
				for _, engine := range engines {
					whole := open(t, pipeline.Readings, module, engine, c.params)
					whole.play(t, batches)
					var state bytes.Buffer
					require.NoError(t, whole.Snapshot(&state))
					if want == nil {
						want, wantState = whole.result(t), guestState(t, state.Bytes())
						c.check(t, whole.recs, batches)
					}
					require.True(t, bytes.Equal(want, whole.result(t)), engine)
					require.Equal(t, wantState, guestState(t, state.Bytes()), engine)

					for _, other := range engines {
						if other == engine && len(engines) > 1 {
							continue
						}
						first := open(t, pipeline.Readings, module, engine, c.params)
						first.play(t, batches[:11])
						var half bytes.Buffer
						require.NoError(t, first.Snapshot(&half))
						second := open(t, pipeline.Readings, module, other, c.params)
						require.NoError(t, second.Restore(&half))
						second.recs, first.recs = first.recs, nil
						second.play(t, batches[11:])
						require.True(t, bytes.Equal(want, second.result(t)), "%s to %s", engine, other)
					}
				}
			})
		}
	}
}

func checkScores(t *testing.T, recs []arrow.Record, batches [][]optest.Row) {
	score, flag := scores(batches, 0.1, 3.5, 5)
	scored, flagged := 0, 0
	for _, rec := range recs {
		s, f := rec.Column(6).(*array.Float64), rec.Column(7).(*array.Boolean)
		for i := range int(rec.NumRows()) {
			require.Equal(t, math.IsNaN(score[0]), s.IsNull(i))
			require.Equal(t, flag[0] < 0, f.IsNull(i))
			if !s.IsNull(i) {
				scored++
				require.Equal(t, score[0], s.Value(i))
				require.Equal(t, flag[0] == 1, f.Value(i))
				flagged += flag[0]
			}
			score, flag = score[1:], flag[1:]
		}
	}
	require.Empty(t, score)
	require.Greater(t, scored, 5000)
	require.Greater(t, flagged, 50)
}

// summary is a row of the example of an emit operator.
type summary struct {
	end              arrow.Timestamp
	tag              string
	count            int64
	mean, least, top any
	late             int64
	condition        string
}

// summaries is that example once more, computed here.
func summaries(batches [][]optest.Row, window arrow.Timestamp, low, high float64) (out []summary) {
	type state struct {
		start            arrow.Timestamp
		sum, least, top  float64
		rows, late, used int64
	}
	states, order := map[string]*state{}, []string{}
	end := func(tag string, s *state) {
		r := summary{end: s.start + window, tag: tag, count: s.used, late: s.late, condition: "no data"}
		if s.used > 0 {
			r.mean, r.least, r.top, r.condition = s.sum/float64(s.used), s.least, s.top, "normal"
			if s.least < low {
				r.condition = "low"
			}
			if s.top > high {
				r.condition = "high"
			}
		}
		out, *s = append(out, r), state{start: s.start + window}
	}
	alloc := memory.NewGoAllocator()
	for _, rows := range batches {
		if len(rows) == 0 {
			continue
		}
		rec := optest.Readings(alloc, rows)
		times, tag, value, quality := rec.Column(0).(*array.Timestamp), rec.Column(1).(*array.Dictionary), rec.Column(2).(*array.Float64), rec.Column(4).(*array.Uint32)
		for i := range int(rec.NumRows()) {
			name, t := tag.Dictionary().(*array.String).Value(tag.GetValueIndex(i)), times.Value(i)
			s := states[name]
			if s == nil {
				s = &state{}
				states[name], order = s, append(order, name)
			}
			if t < s.start {
				s.late++
				continue
			}
			if s.rows > 0 && t >= s.start+window {
				end(name, s)
			}
			if s.rows++; s.rows == 1 {
				s.start = t / window * window
			}
			x := value.Value(i)
			if value.IsNull(i) || quality.Value(i) >= 0x80000000 || !(math.Abs(x) < 1e150) {
				continue
			}
			if s.used++; s.used == 1 {
				s.least, s.top = x, x
			}
			s.sum, s.least, s.top = s.sum+x, min(s.least, x), max(s.top, x)
		}
		rec.Release()
		for _, name := range order {
			if s := states[name]; s.rows > 0 && watermark(rows) >= s.start+window {
				end(name, s)
			}
		}
	}
	return out
}

func checkSummaries(t *testing.T, recs []arrow.Record, batches [][]optest.Row) {
	want := summaries(batches, 7e9, 18, 23.5)
	seen := map[string]int{}
	late := int64(0)
	for _, rec := range recs {
		number := func(c, i int) any {
			if a := rec.Column(c).(*array.Float64); a.IsValid(i) {
				return a.Value(i)
			}
			return nil
		}
		tags := rec.Column(1).(*array.Dictionary)
		for i := range int(rec.NumRows()) {
			got := summary{rec.Column(0).(*array.Timestamp).Value(i), tags.Dictionary().(*array.String).Value(tags.GetValueIndex(i)),
				rec.Column(2).(*array.Int64).Value(i), number(3, i), number(4, i), number(5, i), rec.Column(6).(*array.Int64).Value(i), rec.Column(7).(*array.String).Value(i)}
			require.Equal(t, want[0], got)
			want = want[1:]
			seen[got.condition]++
			late += got.late
		}
	}
	require.Empty(t, want)
	for _, c := range []string{"no data", "high", "low", "normal"} {
		require.Greater(t, seen[c], 10, c)
	}
	require.NotZero(t, late)
}
