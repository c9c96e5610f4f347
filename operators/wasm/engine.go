package wasm

import (
	"errors"
	"fmt"
	"strings"

	"github.com/penstock/penstock/operators/wasm/engine"
	"github.com/penstock/penstock/operators/wasm/wazero"
)

// Engines that Config.Engine may name. Auto is the build's native engine where
// it computes the module rightly, else wazero. The native engine is wasmer, or
// wasmtime in a build with the tag wasmtime; without cgo there is none.
const (
	EngineAuto     = "auto"
	EngineWasmer   = "wasmer"
	EngineWasmtime = "wasmtime"
	EngineWazero   = "wazero"
)

// Engines returns the names of the engines that this build has, the one that
// auto prefers first.
func Engines() []string {
	if nativeEngine == "" {
		return []string{EngineWazero}
	}
	return []string{nativeEngine, EngineWazero}
}

// missing says why this build does not have the engine, or "".
func missing(name string) string {
	switch {
	case name == EngineWasmer && nativeEngine != EngineWasmer:
		return "this build has no wasmer (it needs cgo, on linux/amd64 or macOS, and no -tags wasmtime)"
	case name == EngineWasmtime && nativeEngine != EngineWasmtime:
		return "this build has no wasmtime (it needs cgo and -tags wasmtime)"
	}
	return ""
}

// engineFor decides which engine runs a module, and says why; an engine named
// by the config is taken or refused, never replaced.
func engineFor(name string, info *Info) (engine, why string, err error) {
	hazards := strings.Join(info.WasmerHazards, "; ")
	switch {
	case name == EngineWasmer && hazards != "":
		return "", "", fmt.Errorf("engine wasmer gets this module wrong: %s", hazards)
	case name != EngineAuto:
		if m := missing(name); m != "" {
			return "", "", errors.New(m)
		}
		return name, "the configuration names it", nil
	case nativeEngine == "":
		return EngineWazero, "it is the only one in this build", nil
	case nativeEngine == EngineWasmer && hazards != "":
		return EngineWazero, "wasmer gets this module wrong: " + hazards, nil
	}
	return nativeEngine, "it is the fastest in this build", nil
}

func newEngine(name string) (engine.Engine, error) {
	switch {
	case name == EngineWazero:
		return wazero.New(), nil
	case missing(name) != "":
		return nil, fmt.Errorf("%s: use wazero", missing(name))
	case name == nativeEngine && name != "":
		return newNative(), nil
	}
	return nil, fmt.Errorf("%q is no engine", name)
}
