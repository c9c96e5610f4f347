package wasm

import (
	"fmt"
	"strings"

	"github.com/penstock/penstock/operators/wasm/engine"
	"github.com/penstock/penstock/operators/wasm/wazero"
)

// Engines that Config.Engine may name. Auto is wasmer where this build has it
// and it computes the module rightly, else wazero.
const (
	EngineAuto   = "auto"
	EngineWasmer = "wasmer"
	EngineWazero = "wazero"
)

// Engines are those that this build has.
func Engines() []string {
	if haveWasmer {
		return []string{EngineWasmer, EngineWazero}
	}
	return []string{EngineWazero}
}

// engineFor decides which engine runs a module; an engine named by the config
// is taken or refused, never replaced.
func engineFor(name string, info *Info) (string, error) {
	switch {
	case name == EngineAuto && haveWasmer && len(info.WasmerHazards) == 0:
		return EngineWasmer, nil
	case name == EngineAuto:
		return EngineWazero, nil
	case name == EngineWasmer && len(info.WasmerHazards) > 0:
		return "", fmt.Errorf("engine wasmer computes wrong results for this module: %s", strings.Join(info.WasmerHazards, "; "))
	}
	return name, nil
}

func newEngine(name string) (engine.Engine, error) {
	switch {
	case name == EngineWazero:
		return wazero.New(), nil
	case name == EngineWasmer && haveWasmer:
		return newWasmer(), nil
	case name == EngineWasmer:
		return nil, fmt.Errorf("this build has no wasmer (it needs cgo, on linux/amd64 or macOS): use wazero")
	}
	return nil, fmt.Errorf("%q is no engine", name)
}
