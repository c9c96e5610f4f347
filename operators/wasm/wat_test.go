//go:build cgo && ((linux && amd64) || (darwin && (amd64 || arm64)) || custom_wasmer_runtime)

package wasm

import (
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/wasmerio/wasmer-go/wasmer"
)

func wat(t testing.TB, text string) []byte {
	t.Helper()
	b, err := wasmer.Wat2Wasm(text)
	require.NoError(t, err, text)
	return b
}

// allExports is a module with the exports that a map module must have, and
// more in front of them.
func allExports(more string) string {
	return `(module ` + more + ` (memory (export "memory") 1)
		(func (export "penstock_abi_version") (result i32) i32.const 1)
		(func (export "penstock_alloc") (param i32 i32) (result i32) i32.const 0)
		(func (export "penstock_free") (param i32 i32 i32))
		(func (export "penstock_open") (param i32 i32) (result i32) i32.const 0)
		(func (export "penstock_bind") (param i32 i32) (result i32) i32.const 0)
		(func (export "penstock_process") (param i32 i32) (result i32) i32.const 0)
		(func (export "penstock_snapshot") (param i32) (result i32) i32.const 0)
		(func (export "penstock_restore") (param i32 i32) (result i32) i32.const 0)
		(func (export "penstock_last_error") (param i32) (result i32) i32.const 0))`
}
