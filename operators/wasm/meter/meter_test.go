//go:build cgo && !wasmtime && ((linux && amd64) || (darwin && (amd64 || arm64)) || custom_wasmer_runtime)

package meter_test

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	wasmergo "github.com/wasmerio/wasmer-go/wasmer"

	"github.com/penstock/penstock/operators/modules"
	"github.com/penstock/penstock/operators/wasm/binfmt"
	"github.com/penstock/penstock/operators/wasm/engine"
	"github.com/penstock/penstock/operators/wasm/meter"
	"github.com/penstock/penstock/operators/wasm/wasmer"
	"github.com/penstock/penstock/operators/wasm/wazero"
)

func wat(t testing.TB, text string) []byte {
	t.Helper()
	b, err := wasmergo.Wat2Wasm(text)
	require.NoError(t, err, text)
	return b
}

// forEngines compiles the module with each engine and runs f on an instance.
func forEngines(t *testing.T, code []byte, f func(t *testing.T, i engine.Instance)) {
	t.Helper()
	for _, e := range []engine.Engine{wasmer.New(), wazero.New()} {
		m, err := e.Compile(code)
		require.NoError(t, err, e.Name())
		i, err := m.Instantiate(nil)
		require.NoError(t, err, e.Name())
		f(t, i)
		require.NoError(t, i.Close())
		require.NoError(t, m.Close())
		require.NoError(t, e.Close())
	}
}

// program is a module whose function "f" takes and gives an i64.
func program(body string) string {
	return `(module (memory (export "memory") 1 4) (table 3 9 funcref) (elem (i32.const 0) $double $double)
		(type $two (func (param i64) (result i64 i64)))
		(global $g (mut i64) (i64.const 5))
		(func $double (param i64) (result i64) (i64.mul (i64.const 2) (local.get 0)))
		(func $pair (param i64) (result i64 i64) (if (i64.eqz (local.get 0)) (then (return (i64.const 7) (i64.const 8)))) (local.get 0) (i64.const 3))
		(func $down (param i64) (result i64) (if (i64.eqz (local.get 0)) (then (return (i64.const 0)))) (i64.add (i64.const 1) (call $down (i64.sub (local.get 0) (i64.const 1)))))
		(func (export "f") (param i64) (result i64) (local i64) ` + body + `))`
}

// What a function gives is the same metered or not, and what it costs is known
// to the unit: the entry is 1, block, else, end and nop are nothing.
func TestCost(t *testing.T) {
	sum := `(loop (br_if 1 (i64.eqz (local.get 0))) (local.set 1 (i64.add (local.get 1) (local.get 0))) (local.set 0 (i64.sub (local.get 0) (i64.const 1))) (br 0))`
	for _, c := range []struct {
		name, body string
		arg        uint64
		cost       int64 // 0: is not checked
	}{
		{"straight", `(nop) (i64.add (local.get 0) (i64.const 1))`, 4, 1 + 3},
		{"loop", `(block ` + sum + `) (local.get 1)`, 10, 1 + 1 + 11*(1+3+4+4+1)},
		{"loops in loops", `(loop (local.set 1 (i64.const 3)) (loop (local.set 1 (i64.sub (local.get 1) (i64.const 1))) (br_if 0 (i32.eqz (i64.eqz (local.get 1)))))
			(local.set 0 (i64.sub (local.get 0) (i64.const 1))) (br_if 0 (i32.eqz (i64.eqz (local.get 0))))) (i64.const 9)`, 4, 1 + 1 + 4*(1+2+4+4) + 4*3*(1+4+4)},
		{"call", `(call $double (call $double (local.get 0)))`, 3, 1 + 3 + 2*(1+3)},
		{"call_indirect", `(call_indirect (param i64) (result i64) (local.get 0) (i32.const 1))`, 3, 1 + 3 + 1 + 3},
		{"two results", `(i64.sub (call $pair (local.get 0)))`, 3, 1 + 3 + 1 + 8},
		{"two results, early", `(i64.sub (call $pair (i64.const 0)))`, 3, 1 + 3 + 1 + 8},
		{"recursion", `(call $down (local.get 0))`, 20, 1 + 2 + 21*(1+11)},
		{"typed loop", `(local.get 0) (loop (param i64) (result i64) (i64.mul (i64.const 3)) (local.tee 0) (br_if 0 (i64.lt_u (local.get 0) (i64.const 1000))))`, 2, 0},
		{"branch out with a value", `(block (result i64) (loop (result i64) (br 1 (i64.const 5))) (drop) (i64.const 6))`, 0, 1 + 2 + 3},
		{"branch to the function", `(loop (br_if 1 (i64.const 1) (i64.gt_u (local.get 0) (i64.const 5))) (drop) (local.set 0 (i64.add (local.get 0) (i64.const 1))) (br 0)) (unreachable)`, 0, 0},
		{"return in depth", `(block (block (loop (if (i64.gt_u (local.get 0) (i64.const 5)) (then (return (local.get 0)))) (local.set 0 (i64.add (local.get 0) (i64.const 2))) (br 0)))) (i64.const 4)`, 0, 0},
		{"dead code", `(return (local.get 0)) (i64.add) (drop) (block (br 0)) (loop (unreachable) (call $double) (return))`, 3, 0},
		// A case of a switch pays for itself, not for all the others.
		{"switch", `(block (block (block (br_table 0 1 2 (i32.wrap_i64 (local.get 0)))) (local.set 1 (i64.const 11)) (return (local.get 1))) (local.set 1 (i64.const 22)) (nop)) (i64.add (local.get 1) (i64.const 1))`, 1, 1 + 3 + 2 + 3},
		{"switch, default", `(block (block (block (br_table 0 1 2 (i32.wrap_i64 (local.get 0)))) (local.set 1 (i64.const 11)) (return (local.get 1))) (local.set 1 (i64.const 22)) (nop)) (i64.add (local.get 1) (i64.const 1))`, 7, 1 + 3 + 3},
		{"else", `(if (result i64) (i32.wrap_i64 (local.get 0)) (then (block (br_table 0 0 (i32.const 0))) (i64.const 1)) (else (i64.const 2)))`, 0, 1 + 3 + 2 + 1},
		{"fill", `(memory.fill (i32.const 0) (i32.const 7) (i32.wrap_i64 (local.get 0))) (i64.load (i32.const 8))`, 4000, 1 + 5 + meter.FarFuel + 500 + 2},
		{"copy", `(memory.copy (i32.const 800) (i32.const 0) (i32.wrap_i64 (local.get 0))) (i64.load (i32.const 8))`, 800, 1 + 5 + meter.FarFuel + 100 + 2},
		{"grow", `(i64.extend_i32_u (memory.grow (i32.wrap_i64 (local.get 0))))`, 2, 1 + 4 + meter.FarFuel + 2*meter.PageFuel},
		{"grow too far", `(i64.extend_i32_s (memory.grow (i32.wrap_i64 (local.get 0))))`, 60000, 1 + 4 + meter.FarFuel},
		{"table", `(drop (table.grow 0 (ref.null func) (i32.wrap_i64 (local.get 0)))) (table.fill 0 (i32.const 1) (ref.null func) (i32.const 5)) (i64.extend_i32_u (table.size 0))`, 6, 1 + 5 + 6 + 4 + 5 + 2 + 2*meter.FarFuel},
		{"global", `(global.set $g (i64.add (global.get $g) (local.get 0))) (global.get $g)`, 3, 1 + 5},
	} {
		t.Run(c.name, func(t *testing.T) {
			plain := wat(t, program(c.body))
			metered, err := meter.Instrument(plain)
			require.NoError(t, err)
			var want []uint64
			forEngines(t, plain, func(t *testing.T, i engine.Instance) {
				v, err := i.Function("f").Call(c.arg)
				require.NoError(t, err)
				want = append(want, v)
			})
			var costs []int64
			forEngines(t, metered, func(t *testing.T, i engine.Instance) {
				fuel, stack := i.Global(meter.FuelGlobal), i.Global(meter.StackGlobal)
				require.Equal(t, int64(meter.StartFuel), int64(fuel.Get()))
				_, err := i.Function(meter.RefuelFunction).Call(100_000)
				require.NoError(t, err)
				v, err := i.Function("f").Call(c.arg)
				require.NoError(t, err)
				require.Equal(t, want[0], v)
				require.Equal(t, int64(meter.StackSlots), int64(stack.Get()))
				costs = append(costs, 100_000-int64(fuel.Get()))
			})
			require.Equal(t, want[0], want[1])
			require.Equal(t, costs[0], costs[1])
			if c.cost != 0 {
				require.Equal(t, c.cost, costs[0])
			}
			// One unit less, and it does not come to its end.
			forEngines(t, metered, func(t *testing.T, i engine.Instance) {
				_, err := i.Function(meter.RefuelFunction).Call(uint64(costs[0] - 1))
				require.NoError(t, err)
				_, err = i.Function("f").Call(c.arg)
				require.Error(t, err)
				require.Negative(t, int64(i.Global(meter.FuelGlobal).Get()))
				require.GreaterOrEqual(t, int32(i.Global(meter.StackGlobal).Get()), int32(0))
			})
		})
	}
}

func TestRunaways(t *testing.T) {
	for name, body := range map[string]string{
		"loop":          `(loop (br 0)) (unreachable)`,
		"loop in block": `(block (loop (br_if 1 (i32.const 0)) (br_table 0 0 0 (i32.const 1)))) (local.get 0)`,
		"fill":          `(memory.fill (i32.const 0) (i32.const 0) (i32.const 0xffffffff)) (local.get 0)`,
		"grow":          `(loop (drop (memory.grow (i32.const 0))) (br 0)) (unreachable)`,
	} {
		metered, err := meter.Instrument(wat(t, program(body)))
		require.NoError(t, err)
		forEngines(t, metered, func(t *testing.T, i engine.Instance) {
			_, err := i.Function(meter.RefuelFunction).Call(10_000)
			require.NoError(t, err)
			_, err = i.Function("f").Call(1)
			require.Error(t, err, name)
			require.Negative(t, int64(i.Global(meter.FuelGlobal).Get()), name)
		})
	}
	metered, err := meter.Instrument(wat(t, program(`(call $down (i64.const -1))`)))
	require.NoError(t, err)
	forEngines(t, metered, func(t *testing.T, i engine.Instance) {
		_, err = i.Function("f").Call(1)
		require.Error(t, err)
		require.Negative(t, int32(i.Global(meter.StackGlobal).Get()))
	})
}

// An engine may give each value of a body a place of its own on its stack, and then
// has no room for as many frames as one that does not: the count ends first.
func TestWideFrames(t *testing.T) {
	for _, n := range []int{10, 1000, 5000} {
		body := `(call $deep (local.get 0))`
		turn := `(local.set 1 (i64.mul (i64.add (local.get 1) (local.get 0)) (i64.xor (local.get 1) (i64.const 3)))) (call $leaf)`
		wide := fmt.Sprintf(`(func $leaf) (func $deep (param i64) (result i64) (local i64) (local.set 1 (local.get 0)) %s
			(i64.add (local.get 1) (call $deep (local.get 1))))`, strings.Repeat(turn, n))
		metered, err := meter.Instrument(wat(t, strings.TrimSuffix(strings.TrimSpace(program(body)), ")")+wide+")"))
		require.NoError(t, err)
		forEngines(t, metered, func(t *testing.T, i engine.Instance) {
			_, err := i.Function(meter.RefuelFunction).Call(1 << 40)
			require.NoError(t, err)
			_, err = i.Function("f").Call(1)
			require.Error(t, err)
			require.Negative(t, int32(i.Global(meter.StackGlobal).Get()), "%d turns: %v", n, err)
		})
	}
}

// A start function waits until the host calls it.
func TestStart(t *testing.T) {
	metered, err := meter.Instrument(wat(t, `(module (memory (export "memory") 1) (func $s (loop (br 0))) (start $s))`))
	require.NoError(t, err)
	forEngines(t, metered, func(t *testing.T, i engine.Instance) {
		_, err := i.Function(meter.RefuelFunction).Call(10_000)
		require.NoError(t, err)
		_, err = i.Function(meter.StartFunction).Call()
		require.Error(t, err)
		require.Negative(t, int64(i.Global(meter.FuelGlobal).Get()))
	})
}

// A module cannot reach what metering adds: the index or the branch that would
// is one too far in the module itself.
func TestTampering(t *testing.T) {
	for _, c := range []struct{ wat, says string }{
		{`(global.set 1 (i64.const 99)) (local.get 0)`, "a global that does not exist"},
		{`(global.get 1)`, "a global that does not exist"},
		{`(local.set 2 (i64.const 99)) (local.get 0)`, "a local that it does not have"},
		{`(call 4 (i64.const 99)) (local.get 0)`, "a function that does not exist"},
		{`(table.set 0 (i32.const 0) (ref.func 4)) (local.get 0)`, "a function that does not exist"},
		{`(br 1 (local.get 0))`, "a block that does not exist"},
		{`(br_if 2 (local.get 0) (i32.const 1))`, "a block that does not exist"},
		{`(br_table 0 2 (local.get 0) (i32.const 1))`, "a block that does not exist"},
		{`(local.get 0)) (elem (i32.const 0) 5) (func`, "a function that does not exist"},
		{`(local.get 0)) (elem funcref (ref.func 5)) (func`, "a function that does not exist"},
		{`(local.get 0)) (global funcref (ref.func 5)) (func`, "a function that does not exist"},
		{`(local.get 0)) (start 5) (func`, "a function that does not exist"},
		{`(local.get 0)) (export "penstock_fuel" (global 0)) (func`, "exports penstock_fuel"},
		{`(local.get 0)) (export "penstock_refuel" (func 0)) (func`, "exports penstock_refuel"},
	} {
		_, err := meter.Instrument(wat(t, program(c.wat)))
		require.ErrorContains(t, err, c.says, c.wat)
	}
}

// Modules that are made to be too much are refused before any engine sees them.
func TestBombs(t *testing.T) {
	many := func(n int, s string) string { return strings.Repeat(s, n) }
	for _, c := range []struct{ wat, says string }{
		{`(module ` + many(60_000, `(func)`) + `)`, "60000 functions, the limit is 50000"},
		{`(module (func ` + many(5_000, `(block `) + many(5_000, `)`) + `))`, "nested deeper than 4096"},
		{`(module (func ` + many(600_000, `(drop (i32.const 1))`) + `))`, "bytes, the limit is 1048576"},
		{`(module (func (local ` + many(5_000, `i64 `) + `)))`, "5000 locals, the limit is 4096"},
		{`(module (func (local ` + many(4_000, `i64 `) + `)` + many(1_001, `(loop)`) + `))`, "4008000 pairs of a block and a local up to here, the limit is 4000000"},
		{`(module (func (param ` + many(300, `i64 `) + `)))`, "300 parameters of one function, the limit is 256"},
		{`(module (table 2000000 funcref))`, "2000000 table entries, the limit is 1048576"},
		{`(module ` + many(20, `(table 1 funcref)`) + `)`, "20 tables, the limit is 16"},
		{`(module (table 1 funcref) (func (drop (table.grow 0 (ref.null func) (i32.const 9)))))`, "grows a table that declares no maximum"},
		{`(module (table 1 600000 funcref) (table 1 600000 funcref) (func (drop (table.grow 0 (ref.null func) (i32.const 9)))))`, "or its tables together one above 1048576 entries"},
		{`(module (func $f (loop (drop (ref.func $f)) (br 0))) (export "f" (func $f)))`, "takes memory for good"},
		{`(module (memory 1) ` + many(100_001, `(data "")`) + `)`, "100001 data segments, the limit is 100000"},
		{`(module ` + many(10_001, `(elem func)`) + `)`, "10001 element segments, the limit is 10000"},
		{`(module (func $f) (elem func ` + many(300_000, `$f `) + `))`, "300000 entries of element segments, the limit is 262144"},
		{`(module ` + many(10_001, `(global i32 (i32.const 1))`) + `)`, "10001 globals, the limit is 10000"},
		{`(module (func) ` + func() string {
			var b strings.Builder
			for i := range 10_001 {
				fmt.Fprintf(&b, `(export "e%d" (func 0))`, i)
			}
			return b.String()
		}() + `)`, "10001 exports, the limit is 10000"},
	} {
		_, err := meter.Instrument(wat(t, c.wat))
		require.ErrorContains(t, err, "the module is too large: ")
		require.ErrorContains(t, err, c.says)
	}
	_, err := meter.Instrument(make([]byte, binfmt.MaxModuleSize+1))
	require.ErrorContains(t, err, "the module is too large: 16777217 bytes")
}

// Go's runtime and library are a large sample of real code, with thousands of
// switches; both engines take it metered.
func TestGoModule(t *testing.T) {
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(dir+"/main.go", []byte(`package main

import "strconv"

//go:wasmexport work
func work(n int32) int32 {
	m := map[string]int{}
	for i := range n {
		m[strconv.Itoa(int(i%97))] += int(i)
	}
	return int32(m["13"] + len(m))
}

func main() {}
`), 0o644))
	cmd := exec.Command("go", "build", "-buildmode=c-shared", "-ldflags=-s -w", "-o", dir+"/main.wasm", dir+"/main.go")
	cmd.Env = append(os.Environ(), "GOOS=wasip1", "GOARCH=wasm")
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, string(out))
	plain, err := os.ReadFile(dir + "/main.wasm")
	require.NoError(t, err)
	metered, err := meter.Instrument(plain)
	require.NoError(t, err)
	require.Less(t, len(metered), 2*len(plain))
	t.Logf("%d bytes, metered %d", len(plain), len(metered))
	o, err := binfmt.Parse(plain)
	require.NoError(t, err)
	var got []string
	for _, e := range []engine.Engine{wasmer.New(), wazero.New()} {
		m, err := e.Compile(metered)
		require.NoError(t, err)
		var i engine.Instance
		var imports []engine.HostFunc
		for _, im := range o.Imports {
			imports = append(imports, engine.HostFunc{Module: im.Module, Name: im.Name, Params: im.Sig.Params, Results: im.Sig.Results, Call: func(a []uint64) uint64 {
				switch im.Name {
				case "clock_time_get": // 0 would be a broken clock
					binary.LittleEndian.PutUint64(i.Memory()[a[2]:], 1)
				case "args_sizes_get", "environ_sizes_get":
					clear(i.Memory()[a[0]:][:4])
					clear(i.Memory()[a[1]:][:4])
				}
				return 0
			}})
		}
		i, err = m.Instantiate(imports)
		require.NoError(t, err)
		fuel := i.Global(meter.FuelGlobal)
		_, err = i.Function("_initialize").Call()
		require.NoError(t, err)
		started := int64(fuel.Get())
		v, err := i.Function("work").Call(10_000)
		require.NoError(t, err)
		got = append(got, fmt.Sprint(v, meter.StartFuel-started, started-int64(fuel.Get())))
		require.NoError(t, i.Close())
		require.NoError(t, m.Close())
		require.NoError(t, e.Close())
	}
	t.Log("result, fuel to start, fuel of 10 000 rounds: ", got[0])
	require.Equal(t, got[0], got[1])
}

// FuzzInstrument: whatever the module, there is an error or a module that is
// as valid as the first one.
func FuzzInstrument(f *testing.F) {
	for _, name := range []string{"cusum", "ewma"} {
		b, _ := modules.Get(name)
		f.Add(b)
	}
	f.Add(wat(f, program(`(block (loop (br_table 0 1 (i32.const 3)))) (memory.fill (i32.const 0) (i32.const 1) (i32.const 2)) (call $down (local.get 0))`)))
	f.Add(wat(f, program(`(i64.sub (call $pair (local.get 0)))) (start $s) (func $s (drop (memory.grow (i32.const 1)))`)))
	f.Add(wat(f, `(module)`))
	f.Add(wat(f, `(module (func (export "memory")))`))
	compile := func(b []byte) error {
		m, err := wazero.New().Compile(b)
		if err != nil {
			return err
		}
		return m.Close()
	}
	f.Fuzz(func(t *testing.T, code []byte) {
		metered, err := meter.Instrument(bytes.Clone(code))
		if err != nil || len(code) > 1<<16 {
			return
		}
		if compile(code) == nil {
			require.NoError(t, compile(metered))
		}
	})
}
