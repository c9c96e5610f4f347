package wasm

import (
	"runtime"

	"github.com/penstock/penstock/operators/wasm/binfmt"
)

// mend returns the code as the engine is to compile it: the same computation,
// without what the engine is known to compile wrongly and Penstock can say in
// another way. It comes after metering, so that fuel is the same on all engines.
func mend(engine string, code []byte) ([]byte, error) {
	if engine == EngineWazero && runtime.GOARCH == "amd64" {
		return binfmt.WithoutFloatSelect(code)
	}
	return code, nil
}
