package wasm

import (
	"fmt"

	"github.com/penstock/penstock/operators/wasm/engine"
	"github.com/penstock/penstock/operators/wasm/wazero"
)

// Engines are those that this build has.
func Engines() []string {
	if haveWasmer {
		return []string{EngineWasmer, EngineWazero}
	}
	return []string{EngineWazero}
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
