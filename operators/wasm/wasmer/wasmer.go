//go:build cgo && !wasmtime && ((linux && amd64) || (darwin && (amd64 || arm64)) || custom_wasmer_runtime)

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
	"sync"

	"github.com/wasmerio/wasmer-go/wasmer"

	"github.com/penstock/penstock/operators/wasm/engine"
)

type wasmerEngine struct {
	engine *wasmer.Engine
}

// New returns an engine.
func New() engine.Engine { return &wasmerEngine{engine: wasmer.NewEngine()} }

// version is that of wasmer-go, which brings the library.
const version = "1.0.4"

func (e *wasmerEngine) Name() string    { return "wasmer" }
func (e *wasmerEngine) Version() string { return version }

// Close leaves the engine to its finalizer: wasmer-go frees it in no other way.
func (e *wasmerEngine) Close() error {
	e.engine = nil
	return nil
}

func (e *wasmerEngine) Compile(wasm []byte) (engine.Module, error) {
	m, err := e.module(wasmer.NewModule, wasm)
	if err != nil {
		return nil, err
	}
	return m, nil
}

func (e *wasmerEngine) CompileNative(wasm []byte, _ string) (engine.Module, []byte, error) {
	m, err := e.module(wasmer.NewModule, wasm)
	if err != nil {
		return nil, nil, err
	}
	native, err := m.module.Serialize()
	if err != nil {
		return nil, nil, errors.Join(err, m.Close())
	}
	return m, native, nil
}

func (e *wasmerEngine) Load(_, native []byte, _ string) (engine.Module, error) {
	if len(native) == 0 {
		return nil, errors.New("there is no native code")
	}
	m, err := e.module(wasmer.DeserializeModule, native)
	if err != nil {
		return nil, err
	}
	return m, nil
}

func (e *wasmerEngine) module(from func(*wasmer.Store, []byte) (*wasmer.Module, error), code []byte) (*module, error) {
	store := wasmer.NewStore(e.engine)
	m, err := from(store, code)
	if err != nil {
		store.Close()
		return nil, err
	}
	m.Imports() // wasmer-go keeps these, and the exports: it only reads from now on
	return &module{engine: e.engine, store: store, module: m, exports: signatures(m)}, nil
}

type module struct {
	engine *wasmer.Engine
	store  *wasmer.Store
	module *wasmer.Module
	// exports are the types of the module's functions: a function of an instance
	// leaks its type each time it is asked for it.
	exports map[string]signature

	mu   sync.Mutex
	free []*hostSet
}

func (m *module) Close() error {
	for _, s := range m.free { // wasmer-go reaches s from its functions for good
		s.funcs, s.imports = nil, nil
	}
	m.free = nil
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

func fromSlot(v uint64, t byte) wasmer.Value {
	switch t {
	case engine.I32:
		return wasmer.NewI32(int32(v))
	case engine.I64:
		return wasmer.NewI64(int64(v))
	default:
		return wasmer.NewF64(math.Float64frombits(v))
	}
}

// signatures returns those of the exported functions that can be called.
func signatures(m *wasmer.Module) map[string]signature {
	out := map[string]signature{}
	for _, e := range m.Exports() {
		f := e.Type().IntoFunctionType()
		if f == nil {
			continue
		}
		sig := signature{results: len(f.Results())}
		for _, p := range f.Params() {
			sig.params = append(sig.params, p.Kind())
		}
		if len(sig.params) <= maxParams && sig.results <= maxResults {
			out[e.Name()] = sig
		}
	}
	return out
}

// Bounds of what can be called.
const (
	maxParams  = 8
	maxResults = 1
)

// hostSet is what an instance imports. A function of the host leaks a kilobyte
// in Wasmer when it is freed, so the next instance of the module goes on with
// those of one that was closed.
type hostSet struct {
	calls   []engine.HostFunc // of the instance at hand; nil when there is none
	funcs   []*wasmer.Function
	imports *wasmer.ImportObject
}

// hostSet returns one that is free, or a new one: calls are always of the functions
// that the module imports.
func (m *module) hostSet(calls []engine.HostFunc) *hostSet {
	m.mu.Lock()
	defer m.mu.Unlock()
	if last := len(m.free) - 1; last >= 0 {
		s := m.free[last]
		m.free = m.free[:last]
		s.calls = calls
		return s
	}
	s := &hostSet{calls: calls, imports: wasmer.NewImportObject()}
	byModule := map[string]map[string]wasmer.IntoExtern{}
	for i, h := range calls {
		// An error from a host function would be freed twice by wasmer-go: Go's
		// finalizer and Wasmer both own the trap. So there never is one.
		f := wasmer.NewFunction(m.store, wasmer.NewFunctionType(valueTypes(h.Params), valueTypes(h.Results)),
			func(args []wasmer.Value) ([]wasmer.Value, error) {
				var slots [8]uint64
				for i, a := range args {
					slots[i] = toSlot(a)
				}
				h := &s.calls[i]
				r := h.Call(slots[:len(args)])
				if h.Results == "" {
					return nil, nil
				}
				return []wasmer.Value{fromSlot(r, h.Results[0])}, nil
			})
		if byModule[h.Module] == nil {
			byModule[h.Module] = map[string]wasmer.IntoExtern{}
		}
		byModule[h.Module][h.Name] = f
		s.funcs = append(s.funcs, f)
	}
	for name, fs := range byModule {
		s.imports.Register(name, fs)
	}
	return s
}

func (m *module) giveBack(s *hostSet) {
	m.mu.Lock()
	defer m.mu.Unlock()
	s.calls = nil
	m.free = append(m.free, s)
}

func (m *module) Instantiate(imports []engine.HostFunc) (engine.Instance, error) {
	inst := &instance{module: m, host: m.hostSet(imports)}
	i, err := wasmer.NewInstance(m.module, inst.host.imports)
	if err != nil {
		m.giveBack(inst.host)
		return nil, err
	}
	inst.instance = i
	if inst.memory, err = i.Exports.GetMemory("memory"); err != nil {
		return nil, errors.Join(errors.New(`the module exports no memory called "memory"`), inst.Close())
	}
	return inst, nil
}

type instance struct {
	module   *module
	host     *hostSet
	instance *wasmer.Instance
	memory   *wasmer.Memory
}

func (i *instance) Memory() []byte {
	b := i.memory.Data()
	runtime.KeepAlive(i)
	return b
}

func (i *instance) Close() error {
	if i.host == nil {
		return nil
	}
	i.instance.Close()
	i.module.giveBack(i.host)
	i.host = nil
	runtime.KeepAlive(i)
	return nil
}

func (i *instance) Global(name string) engine.Global {
	g, err := i.instance.Exports.GetGlobal(name)
	if err != nil || g == nil {
		return nil
	}
	return &global{instance: i, g: g}
}

type global struct {
	instance *instance
	g        *wasmer.Global
}

func (g *global) Get() uint64 {
	v, _ := g.g.Get() // wasmer-go has no error to give
	runtime.KeepAlive(g)
	return fromGo(v)
}

func (g *global) Set(v uint64) {
	kind := g.g.Type().ValueType().Kind()
	if err := g.g.Set(toGo(v, kind), kind); err != nil {
		panic(err) // a constant is set: a defect of the caller
	}
	runtime.KeepAlive(g)
}

// toGo is a slot as wasmer-go wants it, fromGo the way back.
func toGo(v uint64, kind wasmer.ValueKind) any {
	switch kind {
	case wasmer.I32:
		return int32(v)
	case wasmer.I64:
		return int64(v)
	default:
		return math.Float64frombits(v)
	}
}

func fromGo(v any) uint64 {
	switch v := v.(type) {
	case int32:
		return uint64(uint32(v))
	case int64:
		return uint64(v)
	case float64:
		return math.Float64bits(v)
	}
	return 0
}

func (i *instance) Function(name string) engine.Function {
	sig, ok := i.module.exports[name]
	if !ok {
		return nil
	}
	f, err := i.instance.Exports.GetRawFunction(name)
	if err != nil || f == nil {
		return nil
	}
	return newFunction(i, f, sig)
}

// signature is the type of an exported function.
type signature struct {
	params  []wasmer.ValueKind
	results int
}

func (s signature) check(args []uint64) error {
	if len(args) != len(s.params) {
		return fmt.Errorf("%d arguments for %d parameters", len(args), len(s.params))
	}
	return nil
}
