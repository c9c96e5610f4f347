package wasm

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"math"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/apache/arrow/go/v17/arrow/memory"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/penstock/penstock/operators/modules"
	"github.com/penstock/penstock/operators/wasm/engine"
	"github.com/penstock/penstock/pipeline"
)

var quietLog = slog.New(slog.DiscardHandler)

// codeOf is the code of a shipped module, as an operator gives it to an engine.
func codeOf(t testing.TB, name string) []byte {
	t.Helper()
	b, ok := modules.Get(name)
	require.True(t, ok)
	return b
}

// abiOf runs the module as far as its ABI version.
func abiOf(t testing.TB, m engine.Module) {
	t.Helper()
	h, err := newHost(pipeline.Env{Name: "op", Log: quietLog, Meter: pipeline.NewMeter()}, "m@1", 0)
	require.NoError(t, err)
	i, err := m.Instantiate(h.functions())
	require.NoError(t, err)
	v, err := i.Function("penstock_abi_version").Call()
	require.NoError(t, err)
	require.EqualValues(t, abiVersion, v)
	require.NoError(t, i.Close())
}

// compileOnce compiles a module with a compiler of its own, as a new process
// would, and returns where it came from.
func compileOnce(t testing.TB, dir, engine string, code []byte, log *slog.Logger) CompilerCounts {
	t.Helper()
	c := NewCompiler(dir, log)
	m, err := c.Compile(engine, code)
	require.NoError(t, err)
	abiOf(t, m)
	require.NoError(t, m.Close())
	require.Empty(t, c.modules)
	return c.Counts()
}

func TestCompilerShares(t *testing.T) {
	forEngines(t, func(t *testing.T, engine string) {
		c := NewCompiler("", quietLog)
		code := codeOf(t, "ewma")
		a, err := c.Compile(engine, code)
		require.NoError(t, err)
		b, err := c.Compile(engine, code)
		require.NoError(t, err)
		require.Equal(t, CompilerCounts{Compiled: 1, Shared: 1}, c.Counts())
		require.NoError(t, a.Close())
		require.NoError(t, a.Close()) // once is enough
		abiOf(t, b)
		require.NoError(t, b.Close())
		require.Empty(t, c.modules)

		require.NoError(t, c.Keep(1))
		a, err = c.Compile(engine, code)
		require.NoError(t, err)
		require.NoError(t, a.Close())
		b, err = c.Compile(engine, code)
		require.NoError(t, err)
		require.Equal(t, CompilerCounts{Compiled: 2, Shared: 2}, c.Counts())
		other, err := c.Compile(engine, codeOf(t, "cusum"))
		require.NoError(t, err)
		require.NoError(t, other.Close())
		require.NoError(t, b.Close()) // used last: other goes
		require.Len(t, c.modules, 1)
		b, err = c.Compile(engine, code)
		require.NoError(t, err)
		require.Equal(t, CompilerCounts{Compiled: 3, Shared: 3}, c.Counts())
		require.NoError(t, c.Keep(0))
		abiOf(t, b)
		require.NoError(t, b.Close())
		require.Empty(t, c.modules)

		_, err = c.Compile(engine, code[:len(code)-9])
		require.Error(t, err)
		require.Empty(t, c.modules)
	})
}

// Shards open, run, trap and close instances of one module at the same time.
func TestSharedModuleConcurrently(t *testing.T) {
	forEngines(t, func(t *testing.T, engine string) {
		c := NewCompiler("", quietLog)
		require.NoError(t, c.Keep(1))
		want := map[int][]byte{}
		var mu sync.Mutex
		var wg sync.WaitGroup
		for shard := range 4 {
			wg.Go(func() {
				for range 3 {
					got, err := runShard(c, engine, shard)
					if !assert.NoError(t, err) {
						return
					}
					mu.Lock()
					if want[shard%2] == nil {
						want[shard%2] = got
					}
					assert.Equal(t, want[shard%2], got)
					mu.Unlock()
				}
			})
		}
		wg.Wait()
		require.Equal(t, 1, c.Counts().Compiled)
		require.NoError(t, c.Keep(0))
		require.Empty(t, c.modules)
	})
}

func runShard(c *Compiler, engine string, shard int) ([]byte, error) {
	cfg := DefaultConfig()
	cfg.Module, cfg.Engine, cfg.OnError = "hampel", engine, OnErrorStop
	env := pipeline.Env{Name: "op", Log: quietLog, Meter: pipeline.NewMeter(), Alloc: memory.DefaultAllocator}
	op, err := NewWith(cfg, env, c)
	if err != nil {
		return nil, err
	}
	defer op.Close(context.Background()) //nolint:errcheck // what counts has been read
	if _, err := op.Open(context.Background(), pipeline.Readings); err != nil {
		return nil, err
	}
	rng := rand.New(rand.NewPCG(1, uint64(shard%2)))
	var out capture
	defer out.release()
	var text bytes.Buffer
	for i := range 10 {
		rec := plant(memory.DefaultAllocator, rng, i)
		err := op.Process(context.Background(), rec, &out)
		rec.Release()
		if err != nil {
			return nil, err
		}
	}
	for _, r := range out.recs {
		for _, col := range r.Columns() {
			fmt.Fprintln(&text, col)
		}
	}
	return text.Bytes(), nil
}

func TestCompilerCache(t *testing.T) {
	forEngines(t, func(t *testing.T, engine string) {
		dir := filepath.Join(t.TempDir(), "cache")
		code := codeOf(t, "cusum")
		require.Equal(t, CompilerCounts{Compiled: 1}, compileOnce(t, dir, engine, code, quietLog))
		require.Equal(t, CompilerCounts{Loaded: 1}, compileOnce(t, dir, engine, code, quietLog))
		require.Equal(t, CompilerCounts{Compiled: 1}, compileOnce(t, dir, engine, codeOf(t, "ewma"), quietLog), "another module")
		entries, err := os.ReadDir(dir)
		require.NoError(t, err)
		require.Len(t, entries, 2, "nothing temporary is left")

		file := cacheFile(t, dir, engine, code)
		good := readFile(t, file)
		for name, data := range map[string][]byte{
			"cut short":   good[:len(good)/2],
			"bit flipped": flip(good, len(good)/2),
			"other code":  nil,
		} {
			if data == nil {
				data = readFile(t, cacheFile(t, dir, engine, codeOf(t, "ewma")))
			}
			require.NoError(t, os.WriteFile(file, data, 0o600))
			var log bytes.Buffer
			require.Equal(t, CompilerCounts{Compiled: 1}, compileOnce(t, dir, engine, code, slog.New(slog.NewTextHandler(&log, nil))), name)
			require.Contains(t, log.String(), "a compiled module on disk is not used", name)
			require.Equal(t, CompilerCounts{Loaded: 1}, compileOnce(t, dir, engine, code, quietLog), name)
		}
	})
}

func flip(b []byte, at int) []byte {
	out := bytes.Clone(b)
	out[at] ^= 4
	return out
}

func cacheFile(t *testing.T, dir, name string, code []byte) string {
	t.Helper()
	c := NewCompiler(dir, quietLog)
	before, err := filepath.Glob(dir + "/*.code")
	require.NoError(t, err)
	eng, err := newEngine(name)
	require.NoError(t, err)
	native, ok := c.cache.Get(cacheKey(eng, keyOf(name, code)))
	require.NoError(t, eng.Close())
	require.True(t, ok)
	for _, f := range before {
		if bytes.HasSuffix(readFile(t, f), native) {
			return f
		}
	}
	t.Fatal("no file has the code")
	return ""
}

// Native code that is whole but not the engine's (of another version, say) is
// refused by it, and compiled anew.
func TestEngineRefusesForeignCode(t *testing.T) {
	forEngines(t, func(t *testing.T, name string) {
		dir := filepath.Join(t.TempDir(), "cache")
		code := codeOf(t, "cusum")
		eng, err := newEngine(name)
		require.NoError(t, err)
		defer eng.Close() //nolint:errcheck // a test
		for _, native := range []string{"", "x", "\x00", "../../x\x00code", "wazero-v0/abc\x00code"} {
			_, err := eng.Load(code, []byte(native), t.TempDir())
			require.Error(t, err, "%q", native)
		}
		c := NewCompiler(dir, quietLog)
		c.cache.Put(cacheKey(eng, keyOf(name, code)), []byte("of another version"))
		require.Equal(t, CompilerCounts{Compiled: 1}, compileOnce(t, dir, name, code, quietLog))
		require.Equal(t, CompilerCounts{Loaded: 1}, compileOnce(t, dir, name, code, quietLog))
	})
}

// A version or CPU that differs is another key.
func TestCacheKey(t *testing.T) {
	eng, err := newEngine(EngineWazero)
	require.NoError(t, err)
	key := cacheKey(eng, keyOf(EngineWazero, []byte("x")))
	require.NotEqual(t, key, cacheKey(eng, keyOf(EngineWazero, []byte("y"))))
	require.NotEqual(t, key, cacheKey(newer{eng}, keyOf(EngineWazero, []byte("x"))))
	require.Contains(t, key, "engine wazero "+eng.Version())
	require.Contains(t, key, "cpu "+runtime.GOOS+"/"+runtime.GOARCH)
	require.Less(t, len(key), 1024)
}

type newer struct{ engine.Engine }

func (newer) Version() string { return "99" }

// The versions that engines give are those of go.mod.
func TestEngineVersions(t *testing.T) {
	for name, path := range map[string]string{EngineWasmer: "github.com/wasmerio/wasmer-go", EngineWasmtime: "github.com/bytecodealliance/wasmtime-go/v44", EngineWazero: "github.com/tetratelabs/wazero"} {
		if missing(name, nativeEngine) != "" {
			continue
		}
		out, err := exec.Command("go", "list", "-m", "-f", "{{.Version}}", path).Output()
		require.NoError(t, err)
		eng, err := newEngine(name)
		require.NoError(t, err)
		require.Equal(t, strings.TrimSpace(string(out)), "v"+eng.Version(), name)
		require.NoError(t, eng.Close())
	}
}

// Without a directory to write to, everything works, and the log says so once.
func TestCompilerWithoutDirectory(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	require.NoError(t, os.WriteFile(file, nil, 0o600))
	forEngines(t, func(t *testing.T, engine string) {
		var log bytes.Buffer
		counts := compileOnce(t, filepath.Join(file, "cache"), engine, codeOf(t, "cusum"), slog.New(slog.NewTextHandler(&log, nil)))
		require.Equal(t, CompilerCounts{Compiled: 1}, counts)
		require.Equal(t, 1, strings.Count(log.String(), "compiled modules are not kept on disk"), log.String())
	})
	// A directory that goes away in the middle.
	forEngines(t, func(t *testing.T, engine string) {
		dir := filepath.Join(t.TempDir(), "cache")
		c := NewCompiler(dir, quietLog)
		require.NoError(t, os.RemoveAll(dir))
		m, err := c.Compile(engine, codeOf(t, "cusum"))
		require.NoError(t, err)
		abiOf(t, m)
		require.NoError(t, m.Close())
	})
}

const cacheChild = "PENSTOCK_TEST_CACHE_CHILD"

// Processes that fill and use one directory at the same time all get what they
// need.
func TestCompilerTwoProcesses(t *testing.T) {
	if dir := os.Getenv(cacheChild); dir != "" {
		for range 5 {
			for _, e := range engines {
				for _, m := range modules.Names() {
					compileOnce(t, dir, e, codeOf(t, m), slog.Default())
				}
			}
		}
		return
	}
	dir := filepath.Join(t.TempDir(), "cache")
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() {
			cmd := exec.Command(os.Args[0], "-test.run=^TestCompilerTwoProcesses$", "-test.count=1")
			cmd.Env = append(os.Environ(), cacheChild+"="+dir)
			out, err := cmd.CombinedOutput()
			assert.NoError(t, err, string(out))
			assert.NotContains(t, string(out), "is not used")
		})
	}
	wg.Wait()
	for _, e := range engines {
		for _, m := range modules.Names() {
			require.Equal(t, CompilerCounts{Loaded: 1}, compileOnce(t, dir, e, codeOf(t, m), quietLog), "%s on %s", m, e)
		}
	}
}

// tenModules is what a pipeline of ten operators opens: the shipped modules,
// each under limits that make its code another one's.
func openTen(tb testing.TB, engine, dir string) (time.Duration, CompilerCounts) {
	var ops []*Operator
	begin := time.Now()
	c := NewCompiler(dir, quietLog)
	names := modules.Names()
	for i := range 10 {
		name := names[i%len(names)]
		info, err := Inspect(codeOf(tb, name))
		require.NoError(tb, err)
		cfg := DefaultConfig()
		cfg.Module, cfg.Engine, cfg.Params = name, engine, required(&info.Manifest)
		cfg.Memory += pipeline.ByteSize(i/len(names)) * PageSize
		op, err := NewWith(cfg, pipeline.Env{Name: "op", Log: quietLog, Meter: pipeline.NewMeter(), Alloc: memory.DefaultAllocator}, c)
		require.NoError(tb, err)
		_, err = op.Open(context.Background(), pipeline.Readings)
		require.NoError(tb, err)
		ops = append(ops, op)
	}
	took := time.Since(begin)
	for _, op := range ops {
		require.NoError(tb, op.Close(context.Background()))
	}
	return took, c.Counts()
}

// Ten modules open within a second, and within 150 ms when an earlier run left
// their code on disk.
func TestColdStart(t *testing.T) {
	const coldLimit, warmLimit = time.Second, 150 * time.Millisecond
	forEngines(t, func(t *testing.T, engine string) {
		// The best of several: a test machine has other things to do.
		best := func(limit time.Duration, tries int, want CompilerCounts, dir func() string) time.Duration {
			took := time.Duration(math.MaxInt64)
			for n := 0; n == 0 || n < tries && took >= limit && !raceDetector; n++ {
				again, counts := openTen(t, engine, dir())
				require.Equal(t, want, counts)
				took = min(took, again)
			}
			return took
		}
		dir := ""
		cold := best(coldLimit, 8, CompilerCounts{Compiled: 10}, func() string { dir = filepath.Join(t.TempDir(), "cache"); return dir })
		warm := best(warmLimit, 40, CompilerCounts{Loaded: 10}, func() string { return dir })
		t.Logf("ten modules on %s: cold %v, warm %v", engine, cold, warm)
		if raceDetector {
			return
		}
		require.Less(t, cold, coldLimit)
		require.Less(t, warm, warmLimit)
	})
}

func BenchmarkColdStart(b *testing.B) {
	for _, engine := range engines {
		for _, cache := range []string{"cold", "warm"} {
			b.Run(engine+"/"+cache, func(b *testing.B) {
				dir := ""
				if cache == "warm" {
					dir = filepath.Join(b.TempDir(), "cache")
					openTen(b, engine, dir)
				}
				var total time.Duration
				for b.Loop() {
					took, _ := openTen(b, engine, dir)
					total += took
				}
				b.ReportMetric(float64(total.Microseconds())/1e3/float64(b.N), "ms/ten-modules")
			})
		}
	}
}
