// Package wasmer runs modules with Wasmer (Cranelift), through wasmer-go.
//
// wasmer-go frees a store, module, instance, host function or memory from a
// finalizer as soon as Go no longer reaches it, also while guest code runs.
// So everything here holds all that it was made from, and each call keeps its
// function reachable until it is back.
package wasmer

import (
	"errors"
	"fmt"
	"math"
	"runtime"

	"github.com/wasmerio/wasmer-go/wasmer"

	"github.com/penstock/penstock/operators/wasm/engine"
)

type wasmerEngine struct {
	engine *wasmer.Engine
}

// New returns an engine.
func New() engine.Engine { return &wasmerEngine{engine: wasmer.NewEngine()} }

func (e *wasmerEngine) Name() string { return "wasmer" }

// Close leaves the engine to its finalizer: wasmer-go frees it in no other way.
func (e *wasmerEngine) Close() error {
	e.engine = nil
	return nil
}

func (e *wasmerEngine) Compile(wasm []byte) (engine.Module, error) {
	store := wasmer.NewStore(e.engine)
	m, err := wasmer.NewModule(store, wasm)
	if err != nil {
		store.Close()
		return nil, err
	}
	return &module{engine: e.engine, store: store, module: m}, nil
}

type module struct {
	engine *wasmer.Engine
	store  *wasmer.Store
	module *wasmer.Module
}

func (m *module) Close() error {
	m.module.Close()
	m.store.Close()
	runtime.KeepAlive(m.engine)
	return nil
}

func valueTypes(s string) []*wasmer.ValueType {
	kinds := make([]wasmer.ValueKind, len(s))
	for i := range len(s) {
		switch s[i] {
		case engine.I32:
			kinds[i] = wasmer.I32
		case engine.I64:
			kinds[i] = wasmer.I64
		case engine.F64:
			kinds[i] = wasmer.F64
		}
	}
	return wasmer.NewValueTypes(kinds...)
}

func toSlot(v wasmer.Value) uint64 {
	switch v.Kind() {
	case wasmer.I32:
		return uint64(uint32(v.I32()))
	case wasmer.I64:
		return uint64(v.I64())
	default:
		return math.Float64bits(v.F64())
	}
}

func (m *module) Instantiate(imports []engine.HostFunc) (engine.Instance, error) {
	inst := &instance{module: m}
	byModule := map[string]map[string]wasmer.IntoExtern{}
	for _, h := range imports {
		// An error from a host function would be freed twice by wasmer-go: Go's
		// finalizer and Wasmer both own the trap. So there never is one.
		f := wasmer.NewFunction(m.store, wasmer.NewFunctionType(valueTypes(h.Params), valueTypes(h.Results)),
			func(args []wasmer.Value) ([]wasmer.Value, error) {
				var slots [8]uint64
				for i, a := range args {
					slots[i] = toSlot(a)
				}
				r := h.Call(slots[:len(args)])
				if h.Results == "" {
					return nil, nil
				}
				return []wasmer.Value{wasmer.NewI32(int32(r))}, nil
			})
		if byModule[h.Module] == nil {
			byModule[h.Module] = map[string]wasmer.IntoExtern{}
		}
		byModule[h.Module][h.Name] = f
		inst.host = append(inst.host, f)
	}
	inst.imports = wasmer.NewImportObject()
	for name, fs := range byModule {
		inst.imports.Register(name, fs)
	}
	i, err := wasmer.NewInstance(m.module, inst.imports)
	if err != nil {
		return nil, err
	}
	inst.instance = i
	if inst.memory, err = i.Exports.GetMemory("memory"); err != nil {
		i.Close()
		return nil, errors.New(`the module exports no memory called "memory"`)
	}
	return inst, nil
}

type instance struct {
	module   *module
	imports  *wasmer.ImportObject
	host     []*wasmer.Function
	instance *wasmer.Instance
	memory   *wasmer.Memory
}

func (i *instance) Memory() []byte {
	b := i.memory.Data()
	runtime.KeepAlive(i)
	return b
}

func (i *instance) Close() error {
	i.instance.Close()
	runtime.KeepAlive(i)
	return nil
}

func (i *instance) Function(name string) engine.Function {
	f, err := i.instance.Exports.GetRawFunction(name)
	if err != nil || f == nil {
		return nil
	}
	ty := f.Type()
	fn := &function{instance: i, f: f, native: f.Native()}
	for _, p := range ty.Params() {
		fn.params = append(fn.params, p.Kind())
	}
	fn.args = make([]any, len(fn.params))
	return fn
}

type function struct {
	instance *instance
	f        *wasmer.Function
	native   wasmer.NativeFunction
	params   []wasmer.ValueKind
	args     []any
}

func (f *function) Call(args ...uint64) (uint64, error) {
	if len(args) != len(f.params) {
		return 0, fmt.Errorf("%d arguments for %d parameters", len(args), len(f.params))
	}
	for i, k := range f.params {
		switch k {
		case wasmer.I32:
			f.args[i] = int32(args[i])
		case wasmer.I64:
			f.args[i] = int64(args[i])
		default:
			f.args[i] = math.Float64frombits(args[i])
		}
	}
	r, err := f.native(f.args...)
	runtime.KeepAlive(f)
	if err != nil {
		return 0, err
	}
	switch v := r.(type) {
	case int32:
		return uint64(uint32(v)), nil
	case int64:
		return uint64(v), nil
	case float64:
		return math.Float64bits(v), nil
	}
	return 0, nil
}

func (i *instance) Global(name string) engine.Global {
	g, err := i.instance.Exports.GetGlobal(name)
	if err != nil || g == nil {
		return nil
	}
	if kind := g.Type().ValueType().Kind(); kind != wasmer.I32 && kind != wasmer.I64 {
		return nil
	}
	return &global{instance: i, g: g}
}

// global has no way to be set: wasmer-go leaks a type each time.
type global struct {
	instance *instance
	g        *wasmer.Global
}

func (g *global) Get() int64 {
	v, _ := g.g.Get()
	runtime.KeepAlive(g)
	if v, ok := v.(int32); ok {
		return int64(v)
	}
	return v.(int64)
}
