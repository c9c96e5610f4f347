//go:build cgo && !wasmtime && darwin && (amd64 || arm64 || custom_wasmer_runtime)

package wasmer

import (
	"runtime"

	"github.com/wasmerio/wasmer-go/wasmer"
)

// function calls as wasmer-go does: the linker of this system knows no symbols
// that may be missing.
type function struct {
	instance *instance
	f        *wasmer.Function
	sig      signature
	args     [maxParams]any
}

func newFunction(i *instance, f *wasmer.Function, sig signature) *function {
	return &function{instance: i, f: f, sig: sig}
}

func (f *function) Call(args ...uint64) (uint64, error) {
	if err := f.sig.check(args); err != nil {
		return 0, err
	}
	for i, k := range f.sig.params {
		f.args[i] = toGo(args[i], k)
	}
	r, err := f.f.Call(f.args[:len(args)]...)
	runtime.KeepAlive(f)
	if err != nil {
		return 0, err
	}
	return fromGo(r), nil
}
