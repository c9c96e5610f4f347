//go:build !cgo || (!wasmtime && !((linux && amd64) || (darwin && (amd64 || arm64)) || custom_wasmer_runtime))

package wasm

import "github.com/penstock/penstock/operators/wasm/engine"

// nativeEngine is the engine of this build besides wazero; "" for none.
const nativeEngine = ""

func newNative() engine.Engine { return nil }
