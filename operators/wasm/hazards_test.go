//go:build cgo && (wasmtime || (linux && amd64) || (darwin && (amd64 || arm64)) || custom_wasmer_runtime)

package wasm

import (
	"os"
	"os/exec"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/penstock/penstock/operators/modules"
	"github.com/penstock/penstock/operators/wasm/binfmt"
)

// vectorFunc is a map module with one more function, which computes a v128
// from the i32 in local 0, with v128 locals 1 and 2 and a float local 3 at hand.
func vectorFunc(body string) string {
	return allExports(`(type $t (func (param i32) (result i32))) (table 1 funcref) (global $g (mut v128) (v128.const i64x2 0 0))
		(func (export "vector") (param i32) (result i64) (local v128 v128 f64)
		  (local.set 1 ` + body + `)
		  (i64.add (i64x2.extract_lane 0 (local.get 1)) (i64.mul (i64.const 31) (i64x2.extract_lane 1 (local.get 1)))))`)
}

var nan2 = `(f64x2.sqrt (f64x2.splat (f64.convert_i32_s (i32.sub (i32.const -3) (local.get 0)))))`

func TestHazards(t *testing.T) {
	for _, c := range []struct{ body, hazard string }{
		{`(select (v128.const i64x2 1 -2) (v128.const i64x2 3 4) (local.get 0))`, "select of v128"},
		{`(select (result v128) (v128.const i64x2 1 -2) (v128.const i64x2 3 4) (local.get 0))`, "select of v128"},
		{`(block (result v128) (select (local.get 1) (block (result v128) (f64x2.splat (local.get 3))) (local.get 0)))`, "select of v128"},
		{`(i8x16.swizzle (local.get 1) (local.get 2))`, "i8x16.swizzle"},
		{`(v128.not ` + nan2 + `)`, "v128.not of float lanes"},
		{`(v128.not (f32x4.replace_lane 1 (local.get 1) (f32.const 1)))`, "v128.not of float lanes"},
		{`(i64x2.splat (select (i64.const 1) (i64.const 2) (local.get 0)))`, ""},
		{`(f64x2.splat (select (local.get 3) (f64.const 2) (local.get 0)))`, ""},
		{`(v128.not (f64x2.lt (local.get 1) (local.get 2)))`, ""},
		{`(v128.not (i32x4.splat (local.get 0)))`, ""},
		{`(v128.bitselect (local.get 1) (local.get 2) (global.get $g))`, ""},
		{`(if (result v128) (local.get 0) (then (br 1 (i64.const 4))) (else (unreachable)))`, ""},
		{`(loop (result v128) (br_if 0 (local.get 0)) (drop (call_indirect (type $t) (local.get 0) (i32.const 0))) (v128.load64_lane 1 (i32.const 8) (local.get 1)))`, ""},
		{`(block (result v128) (drop (i32.trunc_sat_f64_s (local.get 3))) (memory.fill (i32.const 0) (i32.const 0) (i32.const 9)) (return (i64.const 3)) (select) (v128.not) )`, ""},
		{`(block (result v128) (br_table 0 0 (v128.const i64x2 1 1) (local.get 0)))`, ""},
	} {
		o, err := binfmt.Parse(wat(t, vectorFunc(c.body)))
		require.NoError(t, err)
		got, err := o.Hazards()
		require.NoError(t, err, c.body)
		if c.hazard == "" {
			require.Empty(t, got, c.body)
			continue
		}
		require.Len(t, got, 1, c.body)
		require.Contains(t, got[0], "function 0 (vector) uses "+c.hazard)
	}
}

// What the scan does not know is an error, not a pass. Go's runtime and
// library are a large sample of code that it must know.
func TestScanKnowsAllCode(t *testing.T) {
	for _, name := range modules.Names() {
		b, _ := modules.Get(name)
		info, err := Inspect(b)
		require.NoError(t, err)
		require.Empty(t, info.WasmerHazards, name)
	}
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(dir+"/main.go", []byte("package main\n\nfunc main() { println(1.5) }\n"), 0o644))
	cmd := exec.Command("go", "build", "-o", dir+"/main.wasm", dir+"/main.go")
	cmd.Env = append(os.Environ(), "GOOS=wasip1", "GOARCH=wasm")
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, string(out))
	o, err := binfmt.Parse(readFile(t, dir+"/main.wasm"))
	require.NoError(t, err)
	require.Greater(t, len(o.Funcs), 500)
	got, err := o.Hazards()
	require.NoError(t, err)
	require.Empty(t, got)
}
