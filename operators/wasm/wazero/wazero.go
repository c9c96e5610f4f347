// Package wazero runs modules with wazero: pure Go, no cgo, slower than
// Wasmer by up to 2 times.
package wazero

import (
	"context"
	"errors"

	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/api"

	"github.com/penstock/penstock/operators/wasm/engine"
)

// ctx is for calls that cannot be cancelled: wazero checks a context only
// when told to, at ten times the cost of a tight loop.
var ctx = context.Background()

type wazeroEngine struct{}

// New returns an engine.
func New() engine.Engine { return wazeroEngine{} }

// version is that of the library.
const version = "1.12.0"

func (wazeroEngine) Name() string    { return "wazero" }
func (wazeroEngine) Version() string { return version }
func (wazeroEngine) Close() error    { return nil }

func (wazeroEngine) Compile(wasm []byte) (engine.Module, error) {
	return compile(wasm, wazero.NewCompilationCache())
}

func compile(wasm []byte, cache wazero.CompilationCache) (engine.Module, error) {
	// One runtime per instance: host functions are bound to the instance that
	// imports them, and a runtime has one set of them. The cache is what they
	// have in common: the code.
	m := &module{wasm: wasm, cache: cache}
	r := m.runtime()
	_, err := r.CompileModule(ctx, wasm)
	if err = errors.Join(err, r.Close(ctx)); err != nil {
		return nil, errors.Join(err, m.Close())
	}
	return m, nil
}

type module struct {
	wasm  []byte
	cache wazero.CompilationCache
}

func (m *module) runtime() wazero.Runtime {
	return wazero.NewRuntimeWithConfig(ctx, wazero.NewRuntimeConfig().WithCompilationCache(m.cache))
}

func (m *module) Close() error { return m.cache.Close(ctx) }

func valueTypes(s string) []api.ValueType { return []api.ValueType(s) }

func (m *module) Instantiate(imports []engine.HostFunc) (engine.Instance, error) {
	r := m.runtime()
	hosts := map[string]wazero.HostModuleBuilder{}
	for _, h := range imports {
		b := hosts[h.Module]
		if b == nil {
			b = r.NewHostModuleBuilder(h.Module)
			hosts[h.Module] = b
		}
		b.NewFunctionBuilder().WithGoFunction(api.GoFunc(func(_ context.Context, stack []uint64) {
			for i := range len(h.Params) {
				stack[i] = clean(stack[i], h.Params[i])
			}
			res := h.Call(stack[:len(h.Params)])
			if h.Results != "" {
				stack[0] = res
			}
		}), valueTypes(h.Params), valueTypes(h.Results)).Export(h.Name)
	}
	for _, b := range hosts {
		if _, err := b.Instantiate(ctx); err != nil {
			return nil, errors.Join(err, r.Close(ctx))
		}
	}
	// No start functions: the caller runs _initialize itself, as on every engine.
	mod, err := r.InstantiateWithConfig(ctx, m.wasm, wazero.NewModuleConfig().WithStartFunctions())
	if err != nil {
		return nil, errors.Join(err, r.Close(ctx))
	}
	if mod.ExportedMemory("memory") == nil {
		return nil, errors.Join(errors.New(`the module exports no memory called "memory"`), r.Close(ctx))
	}
	return &instance{runtime: r, mod: mod, memory: mod.ExportedMemory("memory")}, nil
}

type instance struct {
	runtime wazero.Runtime
	mod     api.Module
	memory  api.Memory
}

func (i *instance) Close() error { return i.runtime.Close(ctx) }

func (i *instance) Memory() []byte {
	b, _ := i.memory.Read(0, i.memory.Size())
	return b
}

func (i *instance) Function(name string) engine.Function {
	f := i.mod.ExportedFunction(name)
	if f == nil {
		return nil
	}
	d := f.Definition()
	fn := &function{f: f, stack: make([]uint64, max(len(d.ParamTypes()), len(d.ResultTypes()), 1))}
	if r := d.ResultTypes(); len(r) > 0 {
		fn.result = r[0]
	}
	return fn
}

func (i *instance) Global(name string) engine.Global {
	g := i.mod.ExportedGlobal(name)
	if g == nil {
		return nil
	}
	return global{g}
}

type global struct{ g api.Global }

func (g global) Get() uint64  { return clean(g.g.Get(), byte(g.g.Type())) }
func (g global) Set(v uint64) { g.g.(api.MutableGlobal).Set(v) }

// clean drops what wazero leaves in the upper half of a slot that holds an i32.
func clean(v uint64, t byte) uint64 {
	if t == engine.I32 {
		return uint64(uint32(v))
	}
	return v
}

type function struct {
	f      api.Function
	stack  []uint64
	result byte // its type; 0 for none
}

func (f *function) Call(args ...uint64) (uint64, error) {
	copy(f.stack, args)
	if err := f.f.CallWithStack(ctx, f.stack); err != nil {
		return 0, err
	}
	if f.result == 0 {
		return 0, nil
	}
	return clean(f.stack[0], f.result), nil
}
