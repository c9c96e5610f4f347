//go:build cgo && wasmtime

package wasm

import (
	"github.com/penstock/penstock/operators/wasm/engine"
	"github.com/penstock/penstock/operators/wasm/wasmtime"
)

// nativeEngine is the engine of this build besides wazero; "" for none.
const nativeEngine = EngineWasmtime

func newNative() engine.Engine { return wasmtime.New() }
