//go:build cgo && wasmtime

package wasm

import (
	"testing"

	"github.com/bytecodealliance/wasmtime-go/v44"
	"github.com/stretchr/testify/require"
)

// wat assembles a module's text.
func wat(t testing.TB, text string) []byte {
	t.Helper()
	b, err := wasmtime.Wat2Wasm(text)
	require.NoError(t, err, text)
	return b
}
