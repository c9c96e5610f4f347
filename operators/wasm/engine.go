package wasm

import (
	"fmt"

	"github.com/penstock/penstock/operators/wasm/engine"
	"github.com/penstock/penstock/operators/wasm/wazero"
)

// Engines returns the names of the engines that this build has, the one that
// auto prefers first.
func Engines() []string {
	if nativeEngine == "" {
		return []string{EngineWazero}
	}
	return []string{nativeEngine, EngineWazero}
}

// missing says why a build with that native engine does not have the engine
// called name, or "".
func missing(name, native string) string {
	switch {
	case name == EngineWasmer && native != EngineWasmer:
		return "this build has no wasmer (it needs cgo, on linux/amd64 or macOS, and no -tags wasmtime)"
	case name == EngineWasmtime && native != EngineWasmtime:
		return "this build has no wasmtime (it needs cgo and -tags wasmtime)"
	}
	return ""
}

func newEngine(name string) (engine.Engine, error) {
	switch {
	case name == EngineWazero:
		return wazero.New(), nil
	case missing(name, nativeEngine) != "":
		return nil, fmt.Errorf("%s: use wazero", missing(name, nativeEngine))
	case name == nativeEngine && name != "":
		return newNative(), nil
	}
	return nil, fmt.Errorf("%q is no engine", name)
}
