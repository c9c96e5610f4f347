//go:build !(cgo && ((linux && amd64) || (darwin && (amd64 || arm64)) || custom_wasmer_runtime))

package wasm

import "github.com/penstock/penstock/operators/wasm/engine"

const haveWasmer = false

func newWasmer() engine.Engine { return nil }
