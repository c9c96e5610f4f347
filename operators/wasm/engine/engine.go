// Package engine is the little that Penstock asks of a WebAssembly runtime.
// What a module may import, how much memory it may have and what its exports
// must look like is checked by the caller before Compile.
package engine

// Value types, as in the binary format. A function's parameters and results
// are written as a string of them.
const (
	I32 = '\x7f'
	I64 = '\x7e'
	F64 = '\x7c'
)

// HostFunc is a function that a module may import. Call gets one 64-bit slot
// per parameter (i32 zero-extended, f64 as its bits) and returns its result,
// if Results is not empty, in the same way. It is called on the goroutine of
// the guest call, and must not call back into the instance but for Memory.
type HostFunc struct {
	Module, Name    string
	Params, Results string // at most one result
	Call            func(args []uint64) uint64
}

// Engine compiles modules. It and its modules may be used by several goroutines
// at once; an instance and what comes from it by one at a time.
type Engine interface {
	Name() string
	// Version is the engine's own: native code of another one is not loaded.
	Version() string
	// Compile validates and compiles a module, which must define and export
	// one memory under the name "memory".
	Compile(wasm []byte) (Module, error)
	// CompileNative is Compile that also returns the native code, for Load.
	// The engine may make files in the directory scratch until it returns.
	CompileNative(wasm []byte, scratch string) (m Module, native []byte, err error)
	// Load is Compile without the work: native is what CompileNative returned
	// for the same module, in this version of the engine, on a CPU with the
	// same features. Native code is run as it is, so it must come from where
	// nobody else can write.
	Load(wasm, native []byte, scratch string) (Module, error)
	// Close frees the engine; its modules and instances are closed before.
	Close() error
}

// Module is compiled code. Its instances are closed before it.
type Module interface {
	// Instantiate makes an instance with memory and globals of its own. The
	// imports must hold all that the module imports.
	Instantiate(imports []HostFunc) (Instance, error)
	Close() error
}

// Instance is a module with its state.
type Instance interface {
	// Function returns the exported function, or nil when there is none.
	Function(name string) Function
	// Global returns the exported global, of a number type, or nil when there
	// is none.
	Global(name string) Global
	// Memory is the guest's memory: valid until the next call into the
	// instance, which may grow it, and never after Close.
	Memory() []byte
	Close() error
}

// Function is an exported function of at most one result. An error is a trap:
// the instance is then in an unknown state and should be closed.
type Function interface {
	Call(args ...uint64) (uint64, error)
}

// Global is an exported global. Its value is a 64-bit slot, as those of a
// HostFunc. It may be read after a trap too. Set is for mutable ones only, also
// while the guest calls the host; wasmer-go leaks a type each time: it is not for
// every call.
type Global interface {
	Get() uint64
	Set(uint64)
}
