//go:build cgo && wasmtime

// Package wasmtime runs modules with Wasmtime (Cranelift), in builds with the
// tag wasmtime. It is never linked beside Wasmer: both libraries export the
// same C symbols, and the one found first would serve both.
package wasmtime

import (
	"errors"
	"fmt"
	"math"
	"runtime"

	"github.com/bytecodealliance/wasmtime-go/v44"

	"github.com/penstock/penstock/operators/wasm/engine"
)

// version is that of wasmtime-go, which brings the library.
const version = "44.0.0"

// Bounds of one instance. Its memory is bounded by the module's own maximum,
// which the caller lowers.
const (
	stackSize     = 512 << 10 // bytes, below what a thread of Go's has
	tableElements = 1 << 20
)

type wasmtimeEngine struct {
	engine *wasmtime.Engine
}

// New returns an engine.
func New() engine.Engine {
	c := wasmtime.NewConfig()
	// What the other engines understand, and what is the same on every CPU.
	c.SetWasmSIMD(true)
	c.SetWasmBulkMemory(true)
	c.SetWasmMultiValue(true)
	c.SetWasmReferenceTypes(true)
	c.SetWasmRelaxedSIMD(false)
	c.SetWasmThreads(false)
	c.SetWasmTailCall(false)
	c.SetWasmFunctionReferences(false)
	c.SetWasmGC(false)
	c.SetWasmMultiMemory(false)
	c.SetWasmMemory64(false)
	// The host gives every NaN that leaves a guest the same bits, for all
	// engines. Inside, they are as the CPU makes them.
	c.SetCraneliftNanCanonicalization(false)
	c.SetCraneliftOptLevel(wasmtime.OptLevelSpeed)
	c.SetMaxWasmStack(stackSize)
	return &wasmtimeEngine{engine: wasmtime.NewEngineWithConfig(c)}
}

func (e *wasmtimeEngine) Name() string    { return "wasmtime" }
func (e *wasmtimeEngine) Version() string { return version }

func (e *wasmtimeEngine) Close() error {
	e.engine.Close()
	return nil
}

func (e *wasmtimeEngine) Compile(wasm []byte) (engine.Module, error) {
	m, err := e.compile(wasm)
	if err != nil {
		return nil, err
	}
	return m, nil
}

func (e *wasmtimeEngine) compile(wasm []byte) (*module, error) {
	m, err := wasmtime.NewModule(e.engine, wasm)
	if err != nil {
		return nil, err
	}
	return &module{engine: e.engine, module: m}, nil
}

func (e *wasmtimeEngine) CompileNative(wasm []byte, _ string) (engine.Module, []byte, error) {
	m, err := e.compile(wasm)
	if err != nil {
		return nil, nil, err
	}
	native, err := m.module.Serialize()
	if err != nil {
		return nil, nil, errors.Join(err, m.Close())
	}
	return m, native, nil
}

func (e *wasmtimeEngine) Load(_, native []byte, _ string) (engine.Module, error) {
	if len(native) == 0 {
		return nil, errors.New("there is no native code")
	}
	m, err := wasmtime.NewModuleDeserialize(e.engine, native)
	if err != nil {
		return nil, err
	}
	return &module{engine: e.engine, module: m}, nil
}

type module struct {
	engine *wasmtime.Engine
	module *wasmtime.Module
}

func (m *module) Close() error {
	m.module.Close()
	return nil
}

func (m *module) Instantiate(imports []engine.HostFunc) (engine.Instance, error) {
	store := wasmtime.NewStore(m.engine)
	store.Limiter(-1, tableElements, 1, -1, 1)
	i, err := m.instantiate(store, imports)
	if err != nil {
		store.Close()
		return nil, err
	}
	return i, nil
}

func (m *module) instantiate(store *wasmtime.Store, imports []engine.HostFunc) (*instance, error) {
	byName := map[[2]string]engine.HostFunc{}
	for _, h := range imports {
		byName[[2]string{h.Module, h.Name}] = h
	}
	var externs []wasmtime.AsExtern
	for _, im := range m.module.Imports() {
		field := ""
		if n := im.Name(); n != nil {
			field = *n
		}
		h, ok := byName[[2]string{im.Module(), field}]
		if !ok {
			return nil, fmt.Errorf("the module imports %s.%s, which is not offered", im.Module(), field)
		}
		externs = append(externs, hostFunc(store, h))
	}
	wi, err := wasmtime.NewInstance(store, m.module, externs)
	if err != nil {
		return nil, err
	}
	inst := &instance{module: m, store: store, instance: wi}
	if e := wi.GetExport(store, "memory"); e != nil {
		inst.memory = e.Memory()
	}
	if inst.memory == nil {
		return nil, errors.New(`the module exports no memory called "memory"`)
	}
	return inst, nil
}

func hostFunc(store *wasmtime.Store, h engine.HostFunc) *wasmtime.Func {
	ty := wasmtime.NewFuncType(valueTypes(h.Params), valueTypes(h.Results))
	return wasmtime.NewFunc(store, ty, func(_ *wasmtime.Caller, args []wasmtime.Val) ([]wasmtime.Val, *wasmtime.Trap) {
		var slots [8]uint64
		for i, a := range args {
			slots[i] = toSlot(a)
		}
		r := h.Call(slots[:len(args)])
		if h.Results == "" {
			return nil, nil
		}
		return []wasmtime.Val{fromSlot(r, kindOf(h.Results[0]))}, nil
	})
}

func kindOf(t byte) wasmtime.ValKind {
	switch t {
	case engine.I32:
		return wasmtime.KindI32
	case engine.I64:
		return wasmtime.KindI64
	default:
		return wasmtime.KindF64
	}
}

func valueTypes(s string) []*wasmtime.ValType {
	out := make([]*wasmtime.ValType, len(s))
	for i := range len(s) {
		out[i] = wasmtime.NewValType(kindOf(s[i]))
	}
	return out
}

func toSlot(v wasmtime.Val) uint64 {
	switch v.Kind() {
	case wasmtime.KindI32:
		return uint64(uint32(v.I32()))
	case wasmtime.KindI64:
		return uint64(v.I64())
	default:
		return math.Float64bits(v.F64())
	}
}

func fromSlot(v uint64, k wasmtime.ValKind) wasmtime.Val {
	switch k {
	case wasmtime.KindI32:
		return wasmtime.ValI32(int32(v))
	case wasmtime.KindI64:
		return wasmtime.ValI64(int64(v))
	default:
		return wasmtime.ValF64(math.Float64frombits(v))
	}
}

type instance struct {
	module   *module
	store    *wasmtime.Store
	instance *wasmtime.Instance
	memory   *wasmtime.Memory
}

func (i *instance) Memory() []byte { return i.memory.UnsafeData(i.store) }

func (i *instance) Close() error {
	i.store.Close()
	runtime.KeepAlive(i)
	return nil
}

func (i *instance) Global(name string) engine.Global {
	e := i.instance.GetExport(i.store, name)
	if e == nil || e.Global() == nil {
		return nil
	}
	g := e.Global()
	return &global{instance: i, g: g, kind: g.Type(i.store).Content().Kind()}
}

type global struct {
	instance *instance
	g        *wasmtime.Global
	kind     wasmtime.ValKind
}

func (g *global) Get() uint64 { return toSlot(g.g.Get(g.instance.store)) }

func (g *global) Set(v uint64) {
	if err := g.g.Set(g.instance.store, fromSlot(v, g.kind)); err != nil {
		panic(err) // a constant is set: a defect of the caller
	}
}

func (i *instance) Function(name string) engine.Function {
	e := i.instance.GetExport(i.store, name)
	if e == nil || e.Func() == nil {
		return nil
	}
	f := &function{instance: i, f: e.Func()}
	for _, p := range f.f.Type(i.store).Params() {
		f.params = append(f.params, p.Kind())
	}
	f.args = make([]any, len(f.params))
	return f
}

type function struct {
	instance *instance
	f        *wasmtime.Func
	params   []wasmtime.ValKind
	args     []any
}

func (f *function) Call(args ...uint64) (uint64, error) {
	if len(args) != len(f.params) {
		return 0, fmt.Errorf("%d arguments for %d parameters", len(args), len(f.params))
	}
	for i, k := range f.params {
		switch k {
		case wasmtime.KindI32:
			f.args[i] = int32(args[i])
		case wasmtime.KindI64:
			f.args[i] = int64(args[i])
		default:
			f.args[i] = math.Float64frombits(args[i])
		}
	}
	r, err := f.f.Call(f.instance.store, f.args...)
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
