package wasm

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"runtime/debug"
	"slices"
	"sync"

	"golang.org/x/sys/cpu"

	"github.com/penstock/penstock/operators/wasm/codecache"
	"github.com/penstock/penstock/operators/wasm/engine"
)

// Compiler compiles the modules of a pipeline: each once per engine for all
// operators that use it at the same time, and not at all when an earlier run
// left its native code on disk. It may be used by several goroutines.
type Compiler struct {
	cache *codecache.Cache // nil: nothing is kept

	mu      sync.Mutex
	modules map[moduleKey]*compiledModule
	idle    []moduleKey // of modules without users, the one used last at the end
	keep    int         // how many of these
	counts  CompilerCounts
}

// CompilerCounts says where the modules came from.
type CompilerCounts struct {
	Compiled int // by an engine
	Loaded   int // native code from disk
	Shared   int // it was there for another operator, or since one had it
}

type moduleKey struct {
	engine string
	digest [sha256.Size]byte // of the code
}

func keyOf(engine string, code []byte) moduleKey {
	return moduleKey{engine: engine, digest: sha256.Sum256(code)}
}

type compiledModule struct {
	users int
	ready sync.Once
	eng   engine.Engine
	mod   engine.Module
	err   error
}

// NewCompiler returns a compiler that keeps native code in the directory dir;
// "" keeps nothing. A directory that cannot be used is logged and costs time,
// nothing else.
func NewCompiler(dir string, log *slog.Logger) *Compiler {
	c := &Compiler{modules: map[moduleKey]*compiledModule{}}
	if dir != "" {
		c.cache = codecache.Open(dir, codecache.DefaultMax, log)
	}
	return c
}

// Counts returns where the modules came from until now.
func (c *Compiler) Counts() CompilerCounts {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.counts
}

// Keep keeps up to n modules that no operator uses, those that were used last:
// between the check of a pipeline and its start, or for the way back to a
// version that ran before. Keep(0) frees them, and is how a compiler begins.
func (c *Compiler) Keep(n int) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.keep = n
	return c.trim()
}

// Compile returns the module for one operator, compiled by the engine of that
// name. Its Close gives it back.
func (c *Compiler) Compile(name string, code []byte) (engine.Module, error) {
	key := keyOf(name, code)
	c.mu.Lock()
	m := c.modules[key]
	if m == nil {
		m = &compiledModule{}
		c.modules[key] = m
	} else {
		c.counts.Shared++
		c.idle = slices.DeleteFunc(c.idle, func(k moduleKey) bool { return k == key })
	}
	m.users++
	c.mu.Unlock()

	m.ready.Do(func() { c.make(m, key, code) })
	back := &lentModule{Module: m.mod, give: sync.OnceValue(func() error {
		c.mu.Lock()
		defer c.mu.Unlock()
		m.users--
		return c.drop(key, m)
	})}
	if m.err != nil {
		return nil, errors.Join(m.err, back.give())
	}
	return back, nil
}

// drop takes back what one operator used. The mutex is held.
func (c *Compiler) drop(key moduleKey, m *compiledModule) error {
	switch {
	case m.users > 0:
		return nil
	case m.err != nil:
		return c.free(key, m)
	}
	c.idle = append(c.idle, key)
	return c.trim()
}

// trim frees the oldest of the idle modules that are too many. The mutex is held.
func (c *Compiler) trim() error {
	var errs []error
	for len(c.idle) > c.keep {
		key := c.idle[0]
		c.idle = slices.Delete(c.idle, 0, 1)
		errs = append(errs, c.free(key, c.modules[key]))
	}
	return errors.Join(errs...)
}

func (c *Compiler) free(key moduleKey, m *compiledModule) error {
	if c.modules[key] == m {
		delete(c.modules, key)
	}
	var errs []error
	if m.mod != nil {
		errs = append(errs, m.mod.Close())
		m.mod = nil
	}
	if m.eng != nil {
		errs = append(errs, m.eng.Close())
		m.eng = nil
	}
	return errors.Join(errs...)
}

func (c *Compiler) make(m *compiledModule, key moduleKey, code []byte) {
	if m.eng, m.err = newEngine(key.engine); m.err != nil {
		return
	}
	if code, m.err = mend(key.engine, code); m.err != nil {
		return
	}
	var loaded bool
	m.mod, loaded, m.err = c.fromDisk(m.eng, key, code)
	c.mu.Lock()
	defer c.mu.Unlock()
	if loaded {
		c.counts.Loaded++
	} else {
		c.counts.Compiled++
	}
}

// fromDisk compiles the module or loads its native code. Whatever is wrong
// with what lies on disk, the module is compiled.
func (c *Compiler) fromDisk(eng engine.Engine, key moduleKey, code []byte) (mod engine.Module, loaded bool, err error) {
	if c.cache == nil {
		mod, err = eng.Compile(code)
		return mod, false, err
	}
	name := cacheKey(eng, key)
	if native, ok := c.cache.Get(name); ok {
		if mod, err = eng.Load(code, native, c.cache.Scratch()); err == nil {
			return mod, true, nil
		}
		c.cache.Remove(name)
	}
	mod, native, nerr := eng.CompileNative(code, c.cache.Scratch())
	if nerr != nil { // of the module, or of the disk
		mod, err = eng.Compile(code)
		return mod, false, err
	}
	c.cache.Put(name, native)
	return mod, false, nil
}

// cacheKey names all that native code depends on.
func cacheKey(eng engine.Engine, key moduleKey) string {
	return fmt.Sprintf("module %s\nengine %s %s\ncpu %s\nprogram %s\n", hex.EncodeToString(key.digest[:]), eng.Name(), eng.Version(), cpuFeatures(), program())
}

// cpuFeatures stands for the machine's kind and every instruction set that it has.
func cpuFeatures() string {
	sum := sha256.Sum256(fmt.Appendf(nil, "%+v %+v", cpu.X86, cpu.ARM64))
	return fmt.Sprintf("%s/%s %x", runtime.GOOS, runtime.GOARCH, sum[:8])
}

// program is the version of this program, as far as its build knows it.
func program() string {
	bi, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	out := bi.Main.Version
	for _, s := range bi.Settings {
		if s.Key == "vcs.revision" || s.Key == "vcs.modified" || s.Key == "-tags" {
			out += " " + s.Value
		}
	}
	return out
}

// lentModule is a shared module in the hands of one operator.
type lentModule struct {
	engine.Module
	give func() error
}

func (m *lentModule) Close() error { return m.give() }
