package wasm

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/apache/arrow/go/v17/arrow"
	"github.com/apache/arrow/go/v17/arrow/array"
	"github.com/apache/arrow/go/v17/arrow/memory"
	"github.com/stretchr/testify/require"

	"github.com/penstock/penstock/operators/modules"
	"github.com/penstock/penstock/operators/wasm/binfmt"
	"github.com/penstock/penstock/pipeline"
)

// withGolden writes the probe module with one vector that has this digest.
func withGolden(t *testing.T, digest string) string {
	t.Helper()
	code, err := os.ReadFile(testdata("probe"))
	require.NoError(t, err)
	m, err := ReadManifest(code)
	require.NoError(t, err)
	m.Golden = []Golden{{Name: "small", Input: GoldenInput{Seed: 7, Tags: 6, Rows: 40, Batches: 3}, Digest: digest}}
	if digest == "" {
		names, err := FillGolden(code, &m)
		require.NoError(t, err)
		require.Equal(t, []string{"small"}, names)
	}
	// A name of its own, so that no other test has this module's verdict.
	m.Doc = t.Name() + digest
	packed, err := Pack(code, m)
	require.NoError(t, err)
	path := filepath.Join(t.TempDir(), "probe.wasm")
	require.NoError(t, os.WriteFile(path, packed, 0o600))
	return path
}

func TestGoldenAtLoad(t *testing.T) {
	forEngines(t, func(t *testing.T, engine string) {
		right := withGolden(t, "")
		f := start(t, probeSchema, "", engine, func(c *Config) { c.Module = right })
		rec := probeRecord(f.alloc, 10)
		defer rec.Release()
		require.NoError(t, f.process(rec))
		require.Empty(t, f.log.String())

		wrong := withGolden(t, strings.Repeat("ab", 32))
		_, err := tryStart(t, probeSchema, "", engine, func(c *Config) { c.Module = wrong })
		require.ErrorContains(t, err, `module probe@1.0.0: golden vector "small" gives digest `)
		require.ErrorContains(t, err, " on "+engine+" (")
		require.ErrorContains(t, err, "its manifest says abababababab: this engine computes the module wrongly here, or the module was changed")
	})
}

// plantVerdict says of a module's vectors on wazero, under the limits of cfg, that
// they fail: who runs them does not find it.
func plantVerdict(t *testing.T, path string, cfg Config) {
	info, err := Inspect(readFile(t, path))
	require.NoError(t, err)
	verdicts.Store(verdictKey{info.Digest, EngineWazero, true, cfg.limits()}, errors.New("planted"))
}

// A module's vectors run once, whatever the parameters and however many shards
// open it at the same time.
func TestGoldenRunsOnce(t *testing.T) {
	path := withGolden(t, "")
	plantVerdict(t, path, DefaultConfig())
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			cfg := DefaultConfig()
			cfg.Module, cfg.Engine = path, EngineWazero
			op, err := New(cfg, quiet("op"))
			if err == nil {
				_, err = op.Open(context.Background(), probeSchema)
				_ = op.Close(context.Background())
			}
			if err == nil || err.Error() != "planted" {
				t.Errorf("%v", err)
			}
		})
	}
	wg.Wait()
}

// Each shipped module has vectors, which hold on every engine, and inspect
// lists them. -v shows how long they take together.
func TestShippedGolden(t *testing.T) {
	for _, name := range modules.Names() {
		code, _ := modules.Get(name)
		info, err := Inspect(code)
		require.NoError(t, err)
		require.NotEmpty(t, info.Manifest.Golden)
		text, err := json.Marshal(info)
		require.NoError(t, err)
		for _, g := range info.Manifest.Golden {
			require.Contains(t, string(text), g.Digest)
			for _, engine := range engines {
				require.NoError(t, CheckGolden(code, engine, g.Name))
			}
		}
		for _, engine := range engines {
			cfg := DefaultConfig()
			cfg.Module, cfg.Engine, cfg.Params = name, engine, required(&info.Manifest)
			op, err := New(cfg, quiet("op"))
			require.NoError(t, err)
			op.mod, err = op.compiler.Compile(op.choice.Engine, op.code)
			require.NoError(t, err)
			took := time.Hour
			for range 3 {
				begin := time.Now()
				for i := range info.Manifest.Golden {
					require.NoError(t, op.tryVector(&info.Manifest.Golden[i], time.Time{}))
				}
				took = min(took, time.Since(begin))
			}
			t.Logf("%s on %s: %v", name, engine, took)
			require.NoError(t, op.Close(context.Background()))
		}
	}
}

// Vectors bound neither how much a module makes of them nor how long it takes over
// that: what it makes is not kept, and all together have as long as one call.
func TestGoldenVectorsEnd(t *testing.T) {
	code, err := os.ReadFile(testdata("greedy"))
	require.NoError(t, err)
	m, err := ReadManifest(code)
	require.NoError(t, err)
	m.Golden = []Golden{{Name: "much", Params: map[string]any{"rows": 1_000_000}, Input: GoldenInput{Tags: 1, Rows: 1, Batches: 32}}}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	_, err = FillGolden(code, &m)
	require.NoError(t, err)
	runtime.ReadMemStats(&after)
	require.Less(t, after.HeapSys, before.HeapSys+160<<20, "of some 300 MB that it makes")

	m.Golden = append(m.Golden, Golden{Name: "long", Params: map[string]any{"where": "process", "what": "spin", "size": 10_000_000}, Digest: m.Golden[0].Digest,
		Input: GoldenInput{Tags: 1, Rows: 1, Batches: 16_384}})
	code, err = Pack(code, m)
	require.NoError(t, err)
	path := filepath.Join(t.TempDir(), "greedy.wasm")
	require.NoError(t, os.WriteFile(path, code, 0o600))
	begun := time.Now()
	_, err = tryStart(t, greedyInput, "", EngineWazero, func(c *Config) { c.Module, c.Deadline = path, time.Second })
	require.ErrorContains(t, err, `golden vector "`)
	require.ErrorContains(t, err, "golden vectors: it takes longer than 1s: if it needs more, raise deadline")
	require.Less(t, time.Since(begun), 10*time.Second)
}

// The generator is part of the format: these figures never change.
func TestGeneratorIsFixed(t *testing.T) {
	m := Manifest{Input: []Column{{Name: "time", Type: "timestamp"}, {Name: "tag", Type: "tag"}, {Name: "value", Type: "float64", Nullable: true},
		{Name: "text", Type: "string", Nullable: true}, {Name: "quality", Type: "uint32"}, {Name: "received", Type: "timestamp"},
		{Name: "on", Type: "bool"}, {Name: "count", Type: "int64"}}}
	alloc := memory.NewCheckedAllocator(memory.DefaultAllocator)
	defer alloc.AssertSize(t, 0)
	digest := func(in GoldenInput) string {
		steps, err := in.Steps(m.Input, alloc)
		require.NoError(t, err)
		defer ReleaseSteps(steps)
		var all []byte
		for _, s := range steps {
			if s.Batch != nil {
				require.Equal(t, int64(in.Rows), s.Batch.NumRows())
				_, err := pipeline.Runs(nil, s.Batch, 1)
				require.NoError(t, err)
				require.NoError(t, checkGrouped(s.Batch, m.Input))
				all = AppendCanonical(all, s.Batch)
			}
		}
		return fmt.Sprintf("%x", sha256.Sum256(all))
	}
	require.Equal(t, "5554a0308cd7d1d9557111427e2e8f62a2eed7bf806673266b229098e2587c1b", digest(GoldenInput{Seed: 1, Tags: 9, Rows: 500, Batches: 6}))
	require.Equal(t, "d1c73f54b2443717b84e2cbdf9f08d8243c77450fca1cbc956133fe84aab73e4", digest(GoldenInput{Seed: 1, Tags: 256, Rows: 20, Batches: 6}))
	require.Equal(t, "29ba7d74be35abb485c15d05e0cea549dadc27c4baa93db650e44cda524ab3c0", digest(GoldenInput{Seed: 1 << 63, Tags: 1, Rows: 3, Batches: 2, Clean: true}))
}

// What the generator must have in it.
func TestGeneratorHasItAll(t *testing.T) {
	cols := []Column{{Name: "time", Type: "timestamp"}, {Name: "tag", Type: "tag"}, {Name: "value", Type: "float64", Nullable: true}, {Name: "quality", Type: "uint32"}}
	in := GoldenInput{Seed: 3, Tags: 9, Rows: 500, Batches: 6}
	steps, err := in.Steps(cols, memory.DefaultAllocator)
	require.NoError(t, err)
	defer ReleaseSteps(steps)
	seen := map[string]bool{}
	last := map[string]arrow.Timestamp{}
	for _, s := range steps {
		if s.Batch == nil {
			seen["advance"] = true
			continue
		}
		tags, values := s.Batch.Column(1).(*array.Dictionary), s.Batch.Column(2).(*array.Float64)
		rows := map[string]int{}
		for i := range int(s.Batch.NumRows()) {
			tag := tags.Dictionary().(*array.String).Value(tags.GetValueIndex(i))
			rows[tag]++
			at := s.Batch.Column(0).(*array.Timestamp).Value(i)
			seen["same time"] = seen["same time"] || at == last[tag]
			seen["late"] = seen["late"] || at < last[tag]
			last[tag] = at
			q := s.Batch.Column(3).(*array.Uint32).Value(i)
			seen["bad"] = seen["bad"] || pipeline.IsBad(q)
			seen["uncertain"] = seen["uncertain"] || pipeline.IsUncertain(q)
			v := values.Value(i)
			seen["null"] = seen["null"] || values.IsNull(i)
			seen["nan"] = seen["nan"] || v != v
			seen["-0"] = seen["-0"] || values.IsValid(i) && v == 0 && 1/v < 0
		}
		for tag, n := range rows {
			seen["one row"] = seen["one row"] || n == 1
			seen["unicode"] = seen["unicode"] || strings.Contains(tag, "温度")
		}
	}
	for _, what := range []string{"advance", "same time", "late", "bad", "uncertain", "null", "nan", "-0", "one row", "unicode"} {
		require.True(t, seen[what], what)
	}
}

func TestExplicitInput(t *testing.T) {
	cols := []Column{{Name: "time", Type: "timestamp"}, {Name: "tag", Type: "tag"}, {Name: "value", Type: "float64", Nullable: true}}
	parse := func(text string) ([]Step, error) {
		var in GoldenInput
		require.NoError(t, json.Unmarshal([]byte(text), &in))
		return in.Steps(cols, memory.DefaultAllocator)
	}
	steps, err := parse(`{"explicit":[{"columns":{"time":[1700000000000000001,"2023-11-14T22:13:21Z",5,6],"tag":["a","a","b","ü"],"value":[1.5,null,"NaN","-0"]},"advance":7}]}`)
	require.NoError(t, err)
	defer ReleaseSteps(steps)
	require.Len(t, steps, 2)
	require.Equal(t, int64(7), steps[1].Watermark)
	rec := steps[0].Batch
	require.Equal(t, arrow.Timestamp(1_700_000_000_000_000_001), rec.Column(0).(*array.Timestamp).Value(0))
	require.Equal(t, arrow.Timestamp(1_700_000_001_000_000_000), rec.Column(0).(*array.Timestamp).Value(1))
	require.True(t, rec.Column(2).IsNull(1))
	for _, c := range []struct{ text, says string }{
		{`{"time":[1],"tag":["a"]}`, "2 columns, the module takes 3"},
		{`{"time":[1],"tag":["a"],"values":[1]}`, `column "value" is missing`},
		{`{"time":[1,2],"tag":["a"],"value":[1]}`, `column "tag" has 1 rows, the first one 2`},
		{`{"time":[1.5],"tag":["a"],"value":[1]}`, "1.5 is not a time"},
		{`{"time":[1],"tag":[null],"value":[1]}`, `column "tag", row 0: null`},
		{`{"time":[1],"tag":["a"],"value":["x"]}`, `x is not a number, "NaN"`},
		{`{"time":[1,2,3],"tag":["a","b","a"],"value":[1,2,3]}`, "group the rows by tag"},
		{`{"time":[2,1],"tag":["a","a"],"value":[1,2]}`, "row 1 is older"},
		{`{"time":1,"tag":["a"],"value":[1]}`, `column "time" is no array`},
	} {
		_, err := parse(`{"explicit":[{"columns":` + c.text + `}]}`)
		require.ErrorContains(t, err, c.says, c.text)
	}
}

func TestGoldenManifestProblems(t *testing.T) {
	good := `{"name":"x","version":"1.0.0","abi":1,"kind":"map","doc":"","params":[{"name":"p","type":"int","min":1,"doc":""}],
		"input":[{"name":"value","type":"float64"}],"output":[{"name":"y","type":"float64"}],"golden":[%]}`
	for _, c := range []struct{ golden, says string }{
		{`{"name":"A","params":{"p":1},"input":{"tags":1,"rows":1,"batches":1},"digest":""}`, `golden[0]: name "A"`},
		{`{"name":"a","params":{"p":1},"input":{"tags":1,"rows":1,"batches":1},"digest":"12"}`, "not 64 hex digits"},
		{`{"name":"a","params":{"p":0},"input":{"tags":1,"rows":1,"batches":1},"digest":""}`, "below the minimum"},
		{`{"name":"a","input":{"tags":1,"rows":1,"batches":1},"digest":""}`, "params.p is missing"},
		{`{"name":"a","params":{"p":1,"q":1},"input":{"tags":1,"rows":1,"batches":1},"digest":""}`, `there is no parameter "q"`},
		{`{"name":"a","params":{"p":1},"input":{"tags":1000,"rows":1,"batches":1},"digest":""}`, "tags 1000: write 1 to 256"},
		{`{"name":"a","params":{"p":1},"input":{"tags":1,"rows":1000,"batches":1000},"digest":""}`, "at most 16384 rows in all"},
		{`{"name":"a","params":{"p":1},"input":{"tags":1,"explicit":[{"columns":{"value":[1]}}]},"digest":""}`, "either explicit batches or"},
	} {
		_, err := ParseManifest([]byte(strings.Replace(good, "%", c.golden, 1)))
		require.ErrorContains(t, err, c.says, c.golden)
	}
	one := `{"name":"a","params":{"p":1},"input":{"tags":1,"rows":1,"batches":1},"digest":""}`
	_, err := ParseManifest([]byte(strings.Replace(good, "%", one+","+one, 1)))
	require.ErrorContains(t, err, `the name "a" comes twice`)
	m, err := ParseManifest([]byte(strings.Replace(good, "%", one, 1)))
	require.NoError(t, err)
	_, err = Pack(slices.Clone(binfmt.Magic), m)
	require.ErrorContains(t, err, "`penstock operator pack --golden` computes it")
}

// What the clock says of a module under one deadline does not bind another.
func TestVerdictIsOfADeadline(t *testing.T) {
	path := withGolden(t, "")
	cfg := DefaultConfig()
	cfg.Deadline = time.Second
	plantVerdict(t, path, cfg)
	set := func(after time.Duration) func(*Config) {
		return func(c *Config) { c.Module, c.Engine, c.Deadline = path, EngineWazero, after }
	}
	_, err := tryStart(t, probeSchema, "", EngineWazero, set(time.Second))
	require.ErrorContains(t, err, "planted")
	_, err = tryStart(t, probeSchema, "", EngineWazero, set(time.Minute))
	require.NoError(t, err)
}
