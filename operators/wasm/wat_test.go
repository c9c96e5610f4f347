//go:build cgo && (wasmtime || (linux && amd64) || (darwin && (amd64 || arm64)) || custom_wasmer_runtime)

package wasm

import (
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

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

// A module that the host cannot serve is refused before it is compiled, with
// all reasons.
func TestInspectRefuses(t *testing.T) {
	m, err := ParseManifest([]byte(goodManifest))
	require.NoError(t, err)
	for _, c := range []struct {
		wat  string
		says []string
	}{
		{`(module)`, []string{"does not export the function penstock_alloc (i32 i32) -> (i32)", "penstock_snapshot", `does not export its memory as "memory"`, "has no memory"}},
		{`(module (memory (export "memory") 1) (func (export "penstock_alloc") (param i64)))`, []string{"exports penstock_alloc as (i64) -> (), it must be (i32 i32) -> (i32)"}},
		{allExports(`(import "env" "time" (func)) (import "wasi_snapshot_preview1" "path_open" (func)) (import "penstock" "log" (func (param i32)))`),
			[]string{"imports the function env.time, which Penstock does not offer", "wasi_snapshot_preview1.path_open", "imports penstock.log as (i32) -> (), it is (i32 i32 i32) -> ()"}},
		{allExports(`(import "env" "g" (global i32))`), []string{"env.g, which is no function"}},
		{allExports(`(func $make (result ` + strings.Repeat("i32 ", 256) + `) unreachable) (func $take (param ` + strings.Repeat("i32 ", 256) + `)) (func ` + strings.Repeat("call $make call $take ", 4000) + `)`),
			[]string{"the module is too large: function 2: 2048256 values handed to calls and blocks and back up to here, the limit is 2000000"}},
		{allExports(`(import "env" "memory" (memory 1))`), []string{"not exactly one memory", "env.memory"}},
	} {
		wasm := wat(t, c.wat)
		packed, err := Pack(wasm, m)
		require.NoError(t, err)
		_, err = Inspect(packed)
		require.Error(t, err, c.wat)
		found := false
		for _, s := range c.says {
			found = strings.Contains(err.Error(), s) || found
		}
		require.True(t, found, "%v: %v", c.says, err)
	}

	// Nor does what it calls things fill a log, or reach a terminal.
	var many strings.Builder
	for i := range 100 {
		fmt.Fprintf(&many, `(import "env" "%d\1b[2J\0a%s" (func))`, i, strings.Repeat("x", 1000))
	}
	packed, err := Pack(wat(t, allExports(many.String())), m)
	require.NoError(t, err)
	_, err = Inspect(packed)
	require.ErrorContains(t, err, `the module imports the function env."0\x1b[2J\nxxx`)
	require.ErrorContains(t, err, "these are not all: there are 92 more imports")
	require.Less(t, len(err.Error()), 3000)
	require.NotContains(t, err.Error(), "\x1b")

	packed, err = Pack(wat(t, allExports(``)), m)
	require.NoError(t, err)
	_, err = Inspect(packed)
	require.NoError(t, err)
}
