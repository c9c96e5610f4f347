//go:build cgo && (wasmtime || (linux && amd64) || (darwin && (amd64 || arm64)) || custom_wasmer_runtime)

package wasm

import (
	"bytes"
	"encoding/binary"
	"math"
	"runtime"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/penstock/penstock/operators/wasm/binfmt"
	"github.com/penstock/penstock/operators/wasm/engine"
	"github.com/penstock/penstock/operators/wasm/meter"
	"github.com/penstock/penstock/operators/wasm/trust"
)

// What Penstock asks of every engine, one test per promise.

// instance makes an instance of a module's text, which ends with the test.
func instance(t *testing.T, name, text string, imports ...engine.HostFunc) engine.Instance {
	t.Helper()
	eng, err := newEngine(name)
	require.NoError(t, err)
	code, err := mend(name, wat(t, text))
	require.NoError(t, err)
	mod, err := eng.Compile(code)
	require.NoError(t, err)
	inst, err := mod.Instantiate(imports)
	require.NoError(t, err)
	t.Cleanup(func() {
		require.NoError(t, inst.Close())
		require.NoError(t, mod.Close())
		require.NoError(t, eng.Close())
	})
	return inst
}

func call(t *testing.T, i engine.Instance, name string, args ...uint64) uint64 {
	t.Helper()
	f := i.Function(name)
	require.NotNil(t, f, name)
	v, err := f.Call(args...)
	require.NoError(t, err)
	return v
}

const traps = `(module (memory (export "memory") 1 2) (table 2 funcref) (elem (i32.const 0) $t)
	(type $other (func (param i64) (result i64)))
	(func $t)
	(func (export "ok") (param i32) (result i32) (i32.add (local.get 0) (i32.const 1)))
	(func (export "load beyond") (drop (i32.load (i32.const 65533))))
	(func (export "load far beyond") (drop (i64.load offset=4294967295 (i32.const -1))))
	(func (export "store beyond") (i64.store (i32.const -8) (i64.const 1)))
	(func (export "vector beyond") (drop (v128.load (i32.const 65521))))
	(func (export "fill beyond") (memory.fill (i32.const 65535) (i32.const 0) (i32.const 2)))
	(func (export "copy beyond") (memory.copy (i32.const 0) (i32.const 65535) (i32.const 2)))
	(func (export "divide by zero") (drop (i32.div_u (i32.const 1) (i32.load (i32.const 0)))))
	(func (export "remainder by zero") (drop (i64.rem_s (i64.const 1) (i64.load (i32.const 0)))))
	(func (export "divide overflow") (drop (i32.div_s (i32.const 0x80000000) (i32.sub (i32.load (i32.const 0)) (i32.const 1)))))
	(func (export "truncate NaN") (drop (i32.trunc_f64_s (f64.div (f64.load (i32.const 0)) (f64.load (i32.const 0))))))
	(func (export "truncate large") (drop (i64.trunc_f64_u (f64.const 1e30))))
	(func (export "unreachable") unreachable)
	(func $deep (export "recursion") (param i64 i64) (result i64) (i64.add (call $deep (local.get 1) (i64.add (local.get 0) (i64.const 1))) (local.get 0)))
	(func (export "null call") (call_indirect (i32.const 1)))
	(func (export "call beyond") (call_indirect (i32.const 7)))
	(func (export "call of another type") (drop (call_indirect (type $other) (i64.const 1) (i32.const 0)))))`

// Every trap is an error, and a module beside the one that trapped goes on.
func TestConformanceTraps(t *testing.T) {
	names := []string{"load beyond", "load far beyond", "store beyond", "vector beyond", "fill beyond", "copy beyond", "divide by zero", "remainder by zero",
		"divide overflow", "truncate NaN", "truncate large", "unreachable", "recursion", "null call", "call beyond", "call of another type"}
	forEngines(t, func(t *testing.T, engine string) {
		other := instance(t, engine, traps)
		for _, name := range names {
			i := instance(t, engine, traps)
			var args []uint64
			if name == "recursion" {
				args = []uint64{1, 2}
			}
			f := i.Function(name)
			require.NotNil(t, f, name)
			for range 3 {
				_, err := f.Call(args...)
				require.Error(t, err, name)
				require.EqualValues(t, 8, call(t, other, "ok", 7), "beside %q", name)
			}
		}
	})
}

// Traps in many goroutines at once.
func TestConformanceConcurrentTraps(t *testing.T) {
	forEngines(t, func(t *testing.T, engine string) {
		var wg sync.WaitGroup
		for g := range 4 {
			bad, good := instance(t, engine, traps), instance(t, engine, traps)
			wg.Go(func() {
				f, ok := bad.Function([]string{"load beyond", "unreachable", "divide by zero", "null call"}[g]), good.Function("ok")
				for n := range uint64(200) {
					_, err := f.Call()
					assert.Error(t, err)
					v, err := ok.Call(n)
					assert.NoError(t, err)
					assert.Equal(t, n+1, v)
				}
			})
		}
		wg.Wait()
	})
}

// A start function that traps is an error of Instantiate.
func TestConformanceStartTraps(t *testing.T) {
	forEngines(t, func(t *testing.T, engine string) {
		eng, err := newEngine(engine)
		require.NoError(t, err)
		for _, text := range []string{
			`(module (memory (export "memory") 1) (func $s unreachable) (start $s))`,
			`(module (memory (export "memory") 1) (data (i32.const 65535) "ab"))`,
		} {
			mod, err := eng.Compile(wat(t, text))
			require.NoError(t, err)
			_, err = mod.Instantiate(nil)
			require.Error(t, err)
			require.NoError(t, mod.Close())
		}
		require.NoError(t, eng.Close())
	})
}

// What is not valid, or not offered, does not compile.
func TestConformanceInvalid(t *testing.T) {
	valid := wat(t, traps)
	forEngines(t, func(t *testing.T, engine string) {
		eng, err := newEngine(engine)
		require.NoError(t, err)
		for name, code := range map[string][]byte{
			"nothing": {}, "cut short": valid[:len(valid)-1], "another version": append([]byte("\x00asm\x02\x00\x00\x00"), valid[8:]...),
			"type error":   rawBody([]byte{0, 0x6a, 0x1a, 0x0b}),
			"relaxed SIMD": vectorCode(0x100, binfmt.V128, binfmt.V128),
			"tail call":    rawBody([]byte{0, 0x12, 0, 0x0b}),
			"atomics":      rawBody([]byte{0, 0x41, 0, 0xfe, 0x10, 2, 0, 0x1a, 0x0b}),
		} {
			_, err := eng.Compile(code)
			require.Error(t, err, name)
		}
		require.NoError(t, eng.Close())
	})
}

// vectorCode is a module that gives vectors of zeros to a vector instruction.
func vectorCode(op uint32, operands ...byte) []byte {
	body := []byte{0}
	for range operands {
		body = append(append(body, 0xfd, 12), make([]byte, 16)...)
	}
	return rawBody(append(binfmt.AppendU32(append(body, 0xfd), op), 0x1a, 0x0b))
}

// rawBody is a module with one function of no arguments and this body.
func rawBody(body []byte) []byte {
	out := bytes.Clone(binfmt.Magic)
	for _, s := range [][]byte{{binfmt.SecType, 1, 0x60, 0, 0}, {binfmt.SecFunc, 1, 0}, {binfmt.SecMemory, 1, 0, 1}, append([]byte{binfmt.SecExport, 1, 6}, "memory\x02\x00"...),
		append(binfmt.AppendU32([]byte{binfmt.SecCode, 1}, uint32(len(body))), body...)} {
		out = append(binfmt.AppendU32(append(out, s[0]), uint32(len(s)-1)), s[1:]...)
	}
	return out
}

// The host's view follows a memory that grows, from inside and from a host
// function; growing beyond the maximum is refused, not a trap.
func TestConformanceMemory(t *testing.T) {
	const text = `(module (import "penstock" "see" (func $see (result i64))) (memory (export "memory") 1 40)
		(func (export "grow") (param i32) (result i32) (memory.grow (local.get 0)))
		(func (export "put") (param i32 i64) (i64.store (local.get 0) (local.get 1)))
		(func (export "get") (param i32) (result i64) (i64.load (local.get 0)))
		(func (export "grow and see") (result i64) (drop (memory.grow (i32.const 3))) (i64.store (i32.const 131072) (i64.const 77)) (call $see)))`
	forEngines(t, func(t *testing.T, name string) {
		var i engine.Instance
		i = instance(t, name, text, engine.HostFunc{Module: "penstock", Name: "see", Results: types("I"), Call: func([]uint64) uint64 {
			m := i.Memory()
			return binary.LittleEndian.Uint64(m[131072:]) + uint64(len(m))
		}})
		m := i.Memory()
		require.Len(t, m, PageSize)
		binary.LittleEndian.PutUint64(m[100:], 0xfeedface12345678)
		require.EqualValues(t, uint64(0xfeedface12345678), call(t, i, "get", 100))
		require.EqualValues(t, 77+4*PageSize, call(t, i, "grow and see"))
		require.Len(t, i.Memory(), 4*PageSize)
		require.EqualValues(t, 4, call(t, i, "grow", 36))
		require.Len(t, i.Memory(), 40*PageSize)
		for _, pages := range []uint64{1, 100, 65535, 0xffffffff} {
			require.EqualValues(t, 0xffffffff, call(t, i, "grow", pages), "the result is a 32-bit -1")
		}
		call(t, i, "put", 40*PageSize-8, 42)
		m = i.Memory()
		require.EqualValues(t, 42, binary.LittleEndian.Uint64(m[len(m)-8:]))
		require.EqualValues(t, uint64(0xfeedface12345678), binary.LittleEndian.Uint64(m[100:]))
		require.True(t, bytes.Equal(make([]byte, 1000), m[5*PageSize:5*PageSize+1000]), "new memory is zero")

		j := instance(t, name, text, engine.HostFunc{Module: "penstock", Name: "see", Results: types("I"), Call: func([]uint64) uint64 { return 0 }})
		require.Len(t, j.Memory(), PageSize, "every instance has its own")
		require.Zero(t, call(t, j, "get", 100))
	})
}

// Host functions get and give every kind of value, whole; an i32 has nothing
// in its upper half, whatever the guest's registers held.
func TestConformanceHostFunctions(t *testing.T) {
	const text = `(module
		(import "penstock" "all" (func $all (param i32 i64 f64 i32) (result f64)))
		(import "penstock" "i" (func $i (param i32) (result i32)))
		(import "penstock" "I" (func $I (param i64) (result i64)))
		(import "penstock" "none" (func $none))
		(memory (export "memory") 1)
		(func (export "all") (param i32 i64 f64) (result f64) (call $all (local.get 0) (local.get 1) (local.get 2) (i32.wrap_i64 (local.get 1))))
		(func (export "wrap") (param i64) (result i32) (i32.wrap_i64 (local.get 0)))
		(func (export "i") (param i64) (result i32) (call $i (i32.wrap_i64 (local.get 0))))
		(func (export "used") (param i64) (result i64) (i64.extend_i32_s (call $i (i32.wrap_i64 (local.get 0)))))
		(func (export "I") (param i64) (result i64) (call $I (local.get 0)))
		(func (export "none") (call $none) (call $none)))`
	forEngines(t, func(t *testing.T, name string) {
		var got [][]uint64
		nones := 0
		keep := func(a []uint64) { got = append(got, append([]uint64(nil), a...)) }
		i := instance(t, name, text,
			engine.HostFunc{Module: "penstock", Name: "all", Params: types("iIdi"), Results: types("d"), Call: func(a []uint64) uint64 {
				keep(a)
				return math.Float64bits(-math.Float64frombits(a[2]))
			}},
			engine.HostFunc{Module: "penstock", Name: "i", Params: types("i"), Results: types("i"), Call: func(a []uint64) uint64 {
				keep(a)
				return a[0] | 0xabcdef<<32 // the upper half is not the host's to give
			}},
			engine.HostFunc{Module: "penstock", Name: "I", Params: types("I"), Results: types("I"), Call: func(a []uint64) uint64 { return ^a[0] }},
			engine.HostFunc{Module: "penstock", Name: "none", Call: func([]uint64) uint64 { nones++; return 0 }},
		)
		const junk = 0x1122334480000001
		r := call(t, i, "all", 0xffffffff, junk, math.Float64bits(2.5))
		require.Equal(t, -2.5, math.Float64frombits(r))
		require.Equal(t, []uint64{0xffffffff, junk, math.Float64bits(2.5), 0x80000001}, got[0])
		require.EqualValues(t, 0x80000001, call(t, i, "wrap", junk))
		require.EqualValues(t, 0x80000001, call(t, i, "i", junk))
		require.Equal(t, []uint64{0x80000001}, got[1])
		require.EqualValues(t, uint64(0xffffffff80000001), call(t, i, "used", junk))
		require.EqualValues(t, ^uint64(junk), call(t, i, "I", junk))
		call(t, i, "none")
		require.Equal(t, 2, nones)
		require.Nil(t, i.Function("missing"))
		nan := uint64(0x7ff8000000000000)
		require.True(t, math.IsNaN(math.Float64frombits(call(t, i, "all", 0, 0, nan))))
	})
}

// Several results inside a module (blocks and functions that are not exported).
func TestConformanceMultiValue(t *testing.T) {
	const text = `(module (memory (export "memory") 1)
		(func $both (param i64 i64) (result i64 i64 f64) (local.get 1) (local.get 0) (f64.const 0.5))
		(func (export "sub") (param i64 i64) (result i64) (call $both (local.get 0) (local.get 1)) drop i64.sub)
		(func (export "block") (param i64) (result i64) (local.get 0) (i64.const 3) (block (param i64 i64) (result i64 i64) i64.mul (i64.const 2)) i64.add))`
	forEngines(t, func(t *testing.T, engine string) {
		i := instance(t, engine, text)
		require.EqualValues(t, 58, call(t, i, "sub", 42, 100))
		require.EqualValues(t, 32, call(t, i, "block", 10))
	})
}

// Globals of every kind, seen by guest and host; an instance has its own.
func TestConformanceGlobals(t *testing.T) {
	const text = `(module (memory (export "memory") 1)
		(global $n (export "n") (mut i64) (i64.const 5)) (global (export "i") (mut i32) (i32.const -1)) (global (export "d") (mut f64) (f64.const 1.5)) (global (export "const") i32 (i32.const 9))
		(func (export "take") (result i64) (global.set $n (i64.sub (global.get $n) (i64.const 1))) (global.get $n)))`
	forEngines(t, func(t *testing.T, engine string) {
		i, j := instance(t, engine, text), instance(t, engine, text)
		n := i.Global("n")
		require.EqualValues(t, 5, n.Get())
		require.EqualValues(t, 4, call(t, i, "take"))
		require.EqualValues(t, 4, n.Get())
		n.Set(1 << 63)
		require.EqualValues(t, uint64(1<<63-1), call(t, i, "take"))
		n.Set(0)
		require.Equal(t, uint64(math.MaxUint64), call(t, i, "take"))
		require.EqualValues(t, 5, j.Global("n").Get())
		require.EqualValues(t, 0xffffffff, i.Global("i").Get())
		i.Global("i").Set(0x123456789)
		require.EqualValues(t, 0x23456789, i.Global("i").Get())
		require.EqualValues(t, 1.5, math.Float64frombits(i.Global("d").Get()))
		i.Global("d").Set(math.Float64bits(-0.25))
		require.EqualValues(t, -0.25, math.Float64frombits(i.Global("d").Get()))
		require.EqualValues(t, 9, i.Global("const").Get())
		require.Nil(t, i.Global("missing"))
		require.Nil(t, i.Global("take"))
	})
}

// The instructions that Wasmer gets wrong are right elsewhere, and kept from
// Wasmer by the loader.
func TestConformanceHazards(t *testing.T) {
	swizzle := `(i8x16.swizzle (v128.const i8x16 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25) (local.tee 2 (v128.const i8x16 15 14 13 12 11 10 9 8 200 16 5 4 3 2 1 0)))`
	for _, c := range []struct {
		name, body string
		lo, hi     uint64
	}{
		{"select", `(select (v128.const i64x2 1 -2) (v128.const i64x2 3 4) (local.get 0))`, 1, math.MaxUint64 - 1},
		{"select other", `(select (v128.const i64x2 1 -2) (v128.const i64x2 3 4) (i32.eqz (local.get 0)))`, 3, 4},
		{"swizzle", swizzle, 0x1213141516171819, 0x0a0b0c0d0e0f0000},
		{"swizzle keeps its mask", `(v128.and (v128.or ` + swizzle + ` (v128.const i64x2 -1 -1)) (local.get 2))`, 0x08090a0b0c0d0e0f, 0x00010203040510c8},
		{"not of float lanes", `(v128.not (f64x2.splat (f64.convert_i32_s (local.get 0))))`, ^math.Float64bits(1), ^math.Float64bits(1)},
		{"not of NaN lanes", `(v128.not (f64x2.abs (f64x2.splat (f64.div (f64.const 0) (f64.convert_i32_s (i32.sub (local.get 0) (i32.const 1)))))))`, ^uint64(0x7ff8000000000000), ^uint64(0x7ff8000000000000)},
	} {
		code := wat(t, vectorFunc(c.body))
		o, err := binfmt.Parse(code)
		require.NoError(t, err)
		hazards, err := o.Hazards()
		require.NoError(t, err)
		require.Len(t, hazards, 1, c.name)
		for _, name := range engines {
			if name == EngineWasmer {
				_, _, err := chooseEngine(name, EngineWasmer, hazards, trust.Status{Shipped: true})
				require.ErrorContains(t, err, "(vector) uses")
				chosen, why, err := chooseEngine(EngineAuto, EngineWasmer, hazards, trust.Status{Shipped: true})
				require.NoError(t, err)
				require.Equal(t, EngineWazero, chosen)
				require.Contains(t, why, "wasmer gets this module wrong")
				continue
			}
			require.Equal(t, c.lo+31*c.hi, call(t, instance(t, name, vectorFunc(c.body)), "vector", 1), "%s on %s", c.name, name)
		}
	}
}

// Wasmer ends the process at an export with a vector in its type, so no such
// module reaches it. Elsewhere it does no harm.
func TestConformanceVectorExports(t *testing.T) {
	for _, more := range []string{`(func (export "v") (param v128))`, `(func (export "v") (result v128) (v128.const i64x2 0 0))`, `(global (export "v") v128 (v128.const i64x2 0 0))`} {
		text := allExports(more)
		o, err := binfmt.Parse(wat(t, text))
		require.NoError(t, err)
		require.Equal(t, []string{"it exports v, which has a vector in its type"}, o.VectorExports())
		for _, name := range engines {
			if name != EngineWasmer {
				require.EqualValues(t, 1, call(t, instance(t, name, text), "penstock_abi_version"))
			}
		}
	}
	o, err := binfmt.Parse(wat(t, allExports(`(func (export "f") (param f64)) (global (export "g") i64 (i64.const 1))`)))
	require.NoError(t, err)
	require.Empty(t, o.VectorExports())
}

// floatSelect returns the second value for 0, and else the first, which was the
// argument of a call before: wazero 1.12.0 returns the first one always.
const floatSelect = `(module (memory (export "memory") 1) (global $seen (mut TYPE) (TYPE.const ZERO))
	(func $see (param TYPE) (global.set $seen (local.get 0)))
	(func (export "select") (param i32) (result i64) (call $out (call $select (local.get 0))))
	(func $out (param TYPE) (result i64) OUT)
	(func $select (param i32) (result TYPE) (local TYPE)
		(local.set 1 (TYPE.load (i32.const 0)))
		(call $see (local.get 1))
		(SELECT (local.get 1) (TYPE.load (i32.const 16)) (local.get 0))))`

func floatSelects() map[string]string {
	out := map[string]string{}
	for _, c := range []struct{ typ, zero, out string }{
		{"f64", "0", "(i64.reinterpret_f64 (local.get 0))"},
		{"f32", "0", "(i64.extend_i32_u (i32.reinterpret_f32 (local.get 0)))"},
		{"v128", "i64x2 0 0", "(i64.add (i64x2.extract_lane 0 (local.get 0)) (i64x2.extract_lane 1 (local.get 0)))"},
	} {
		for name, sel := range map[string]string{"": "select", " typed": "select (result " + c.typ + ")"} {
			out[c.typ+name] = strings.NewReplacer("SELECT", sel, "TYPE", c.typ, "ZERO", c.zero, "OUT", c.out).Replace(floatSelect)
		}
	}
	return out
}

// A select of floats or vectors is right on every engine, down to the bits of
// a NaN, for every condition that is not 0.
func TestConformanceFloatSelect(t *testing.T) {
	for kind, text := range floatSelects() {
		for _, name := range engines {
			if name == EngineWasmer && strings.HasPrefix(kind, "v128") {
				continue // a hazard: TestConformanceHazards
			}
			i := instance(t, name, text)
			m := i.Memory()
			first, second := uint64(0x7ff4000000001234), uint64(0x7ff80000ffa00001)
			binary.LittleEndian.PutUint64(m, first)
			binary.LittleEndian.PutUint64(m[16:], second)
			if kind[:3] == "f32" {
				first, second = first&math.MaxUint32, second&math.MaxUint32
			}
			for cond, want := range map[uint64]uint64{0: second, 1: first, 2: first, 0x80000000: first, 0xffffffff: first} {
				require.Equal(t, want, call(t, i, "select", cond), "%s on %s for %#x", kind, name, cond)
			}
		}
	}
}

// A module that is metered is mended too, and may then be larger than one from
// outside.
func TestMendAfterMetering(t *testing.T) {
	var large strings.Builder // almost MaxModuleSize, metered more
	large.WriteString(`(data "` + strings.Repeat("x", MaxModuleSize-500_000) + `")`)
	for range 1000 {
		large.WriteString("(func " + strings.Repeat("(loop)", 100) + ")")
	}
	for _, text := range []string{floatSelects()["f64"], strings.TrimSuffix(strings.TrimSpace(floatSelects()["f64"]), ")") + large.String() + ")"} {
		code := wat(t, text)
		o, err := binfmt.Parse(code)
		require.NoError(t, err)
		require.Less(t, len(code), MaxModuleSize)
		metered, err := meter.Instrument(code)
		require.NoError(t, err)
		if len(o.Code) > 100_000 {
			require.Greater(t, len(metered), MaxModuleSize)
			mended, err := mend(EngineWazero, metered)
			require.NoError(t, err)
			require.NotEqual(t, metered, mended)
			continue
		}
		for _, name := range engines {
			mod, err := NewCompiler("", nil).Compile(name, metered)
			require.NoError(t, err)
			i, err := mod.Instantiate(nil)
			require.NoError(t, err)
			i.Memory()[0], i.Memory()[16] = 1, 2
			require.EqualValues(t, 2, call(t, i, "select", 0), name)
			require.EqualValues(t, 1, call(t, i, "select", 1), name)
			require.NoError(t, i.Close())
			require.NoError(t, mod.Close())
		}
	}
}

// If this fails after an update of wazero, mend has outlived its reason.
func TestWazeroFloatSelectIsReal(t *testing.T) {
	if runtime.GOARCH != "amd64" {
		t.Skip("the defect is one of wazero on amd64")
	}
	eng, err := newEngine(EngineWazero)
	require.NoError(t, err)
	for kind, text := range floatSelects() {
		if strings.HasPrefix(kind, "v128") {
			continue // the same code, but here it happens to have another register
		}
		mod, err := eng.Compile(wat(t, text))
		require.NoError(t, err)
		i, err := mod.Instantiate(nil)
		require.NoError(t, err)
		i.Memory()[0], i.Memory()[16] = 1, 2
		require.EqualValues(t, 1, call(t, i, "select", 0), kind)
		require.NoError(t, i.Close())
		require.NoError(t, mod.Close())
	}
}

// What has no select of floats stays as it is, byte for byte.
func TestMendLeavesTheRest(t *testing.T) {
	code := wat(t, traps)
	got, err := mend(EngineWazero, code)
	require.NoError(t, err)
	require.Equal(t, code, got)
	code = wat(t, floatSelects()["f64"])
	for _, name := range []string{EngineWasmer, EngineWasmtime} {
		got, err = mend(name, code)
		require.NoError(t, err)
		require.Equal(t, code, got)
	}
}
