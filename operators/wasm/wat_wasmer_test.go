//go:build cgo && !wasmtime && ((linux && amd64) || (darwin && (amd64 || arm64)) || custom_wasmer_runtime)

package wasm

import (
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/wasmerio/wasmer-go/wasmer"
)

// wat assembles a module's text.
func wat(t testing.TB, text string) []byte {
	t.Helper()
	b, err := wasmer.Wat2Wasm(text)
	require.NoError(t, err, text)
	return b
}
