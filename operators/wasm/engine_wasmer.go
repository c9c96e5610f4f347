//go:build cgo && ((linux && amd64) || (darwin && (amd64 || arm64)) || custom_wasmer_runtime)

package wasm

import (
	"github.com/penstock/penstock/operators/wasm/engine"
	"github.com/penstock/penstock/operators/wasm/wasmer"
)

const haveWasmer = true

func newWasmer() engine.Engine { return wasmer.New() }
