package wasm

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/penstock/penstock/operators/wasm/binfmt"
	"github.com/penstock/penstock/operators/wasm/engine"
)

// The WebAssembly specification's own SIMD tests, in the JSON that wast2json
// makes of them. They come with wazero's module, so they lie in the module
// cache and nowhere here.

// specCommand is one line of a test.
type specCommand struct {
	Type       string
	Line       int
	Name       string
	Filename   string
	ModuleType string `json:"module_type"`
	Text       string
	Action     struct {
		Type, Module, Field string
		Args                []specValue
	}
	Expected []specValue
}

// specValue is a number as text, or the lanes of a vector.
type specValue struct {
	Type     string
	LaneType string `json:"lane_type"`
	Value    any
}

// lanes returns the texts of the value and how many bits each has.
func (v specValue) lanes(t *testing.T) (texts []string, bits int, kind string) {
	t.Helper()
	kind = v.Type
	if v.Type == "v128" {
		kind = v.LaneType
		for _, x := range v.Value.([]any) {
			texts = append(texts, x.(string))
		}
	} else {
		texts = []string{v.Value.(string)}
	}
	bits, err := strconv.Atoi(kind[1:])
	require.NoError(t, err)
	return texts, bits, kind
}

// slots returns the value as the slots that hold it.
func (v specValue) slots(t *testing.T) []uint64 {
	t.Helper()
	texts, bits, _ := v.lanes(t)
	out := make([]uint64, max(1, len(texts)*bits/64))
	for i, s := range texts {
		at := i * bits
		out[at/64] |= specNumber(t, s, bits) << (at % 64)
	}
	return out
}

func specNumber(t *testing.T, s string, bits int) uint64 {
	t.Helper()
	n, err := strconv.ParseUint(s, 10, 64)
	if err != nil {
		signed, err := strconv.ParseInt(s, 10, 64)
		require.NoError(t, err)
		n = uint64(signed)
	}
	return n & (math.MaxUint64 >> (64 - bits))
}

// equal reports whether got, in slots, is the value: its bits, or a NaN of the
// kind that it names.
func (v specValue) equal(t *testing.T, got []uint64) bool {
	t.Helper()
	texts, bits, kind := v.lanes(t)
	for i, s := range texts {
		at := i * bits
		lane := got[at/64] >> (at % 64) & (math.MaxUint64 >> (64 - bits))
		quiet, sign := uint64(0x7fc00000), uint64(1)<<31
		if kind == "f64" {
			quiet, sign = 0x7ff8000000000000, 1<<63
		}
		switch s {
		case "nan:canonical":
			if lane&^sign != quiet {
				return false
			}
		case "nan:arithmetic":
			if lane&quiet != quiet {
				return false
			}
		default:
			if lane != specNumber(t, s, bits) {
				return false
			}
		}
	}
	return true
}

// slotGlobals is how many slots a call may take, and give.
const slotGlobals = 16

// openVectors returns the module with, for each exported function, another one
// "call:<name>" that takes its arguments from the exported globals a0, a1, ...
// and puts its results into r0, r1, ...: the engine's interface has no
// vectors. A memory is added if there is none, and exported as "memory".
func openVectors(t *testing.T, wasm []byte, o *binfmt.Outline) []byte {
	t.Helper()
	secs, err := binfmt.Sections(wasm)
	require.NoError(t, err)
	bodies := map[byte][]byte{}
	counts := map[byte]uint32{}
	for _, s := range secs {
		if s.ID == binfmt.SecCustom {
			continue
		}
		body := s.Body
		if s.ID != binfmt.SecStart && s.ID != binfmt.SecCount { // the others are vectors
			count, n := binary.Uvarint(body)
			require.Positive(t, n)
			counts[s.ID], body = uint32(count), body[n:]
		}
		bodies[s.ID] = slices.Clone(body)
	}
	add := func(id byte, entry ...byte) {
		bodies[id] = append(bodies[id], entry...)
		counts[id]++
	}
	export := func(name string, kind byte, index int) {
		entry := append(binfmt.AppendU32(nil, uint32(len(name))), name...)
		add(binfmt.SecExport, binfmt.AppendU32(append(entry, kind), uint32(index))...)
	}
	// Wasmer ends the process at an exported vector, so only the new ones are.
	bodies[binfmt.SecExport], counts[binfmt.SecExport] = nil, 0
	noType := counts[binfmt.SecType]
	add(binfmt.SecType, 0x60, 0, 0)
	for i := range slotGlobals {
		for j, p := range []string{"a", "r"} {
			add(binfmt.SecGlobal, binfmt.I64, 1, 0x42, 0, 0x0b)
			export(p+strconv.Itoa(i), binfmt.KindGlobal, len(o.Globals)+2*i+j)
		}
	}
	if !o.HasMemory {
		add(binfmt.SecMemory, 0, 1)
	}
	export("memory", binfmt.KindMemory, 0)
	global := func(op byte, result, slot int) []byte {
		return binfmt.AppendU32([]byte{op}, uint32(len(o.Globals)+2*slot+result))
	}
	for _, e := range o.Exports {
		if e.Kind != binfmt.KindFunc {
			continue
		}
		export("call:"+e.Name, binfmt.KindFunc, o.ImportedFunctions()+int(counts[binfmt.SecFunc]))
		add(binfmt.SecFunc, binfmt.AppendU32(nil, noType)...)
		var code []byte
		slot := 0
		for _, p := range []byte(e.Sig.Params) {
			code = append(code, global(0x23, 0, slot)...)
			slot++
			switch p {
			case binfmt.I32:
				code = append(code, 0xa7)
			case binfmt.F32:
				code = append(code, 0xa7, 0xbe)
			case binfmt.F64:
				code = append(code, 0xbf)
			case binfmt.V128:
				code = append(code, 0xfd, 18)
				code = append(code, global(0x23, 0, slot)...)
				code = append(code, 0xfd, 30, 1)
				slot++
			}
		}
		code = append(code, binfmt.AppendU32([]byte{0x10}, e.Index)...)
		locals := binfmt.AppendU32(nil, uint32(len(e.Sig.Results)))
		for i := len(e.Sig.Results) - 1; i >= 0; i-- {
			code = append(code, binfmt.AppendU32([]byte{0x21}, uint32(i))...)
		}
		slot = 0
		for i, r := range []byte(e.Sig.Results) {
			locals = append(locals, 1, r)
			get := binfmt.AppendU32([]byte{0x20}, uint32(i))
			code = append(code, get...)
			switch r {
			case binfmt.I32:
				code = append(code, 0xad)
			case binfmt.F32:
				code = append(code, 0xbc, 0xad)
			case binfmt.F64:
				code = append(code, 0xbd)
			case binfmt.V128:
				code = append(code, 0xfd, 29, 0)
				code = append(code, global(0x24, 1, slot)...)
				slot++
				code = append(code, get...)
				code = append(code, 0xfd, 29, 1)
			}
			code = append(code, global(0x24, 1, slot)...)
			slot++
		}
		body := append(append(locals, code...), 0x0b)
		add(binfmt.SecCode, append(binfmt.AppendU32(nil, uint32(len(body))), body...)...)
	}
	out := slices.Clone(binfmt.Magic)
	for _, id := range []byte{1, 2, 3, 4, 5, 6, 7, 8, 9, 12, 10, 11} {
		body, ok := bodies[id]
		if !ok {
			continue
		}
		if id != 8 && id != 12 {
			body = append(binfmt.AppendU32(nil, counts[id]), body...)
		}
		out = append(binfmt.AppendU32(append(out, id), uint32(len(body))), body...)
	}
	return out
}

// specModule is an instance under test.
type specModule struct {
	o    *binfmt.Outline
	mod  engine.Module
	inst engine.Instance
}

func (m *specModule) close(t *testing.T) {
	t.Helper()
	if m != nil && m.inst != nil {
		require.NoError(t, errors.Join(m.inst.Close(), m.mod.Close()))
	}
}

// call calls an exported function with values of any type; the error is a trap.
func (m *specModule) call(t *testing.T, name string, args []specValue, results int) ([]uint64, error) {
	t.Helper()
	slot := 0
	for _, a := range args {
		for _, v := range a.slots(t) {
			m.inst.Global("a" + strconv.Itoa(slot)).Set(v)
			slot++
		}
	}
	f := m.inst.Function("call:" + name)
	require.NotNil(t, f, name)
	if _, err := f.Call(); err != nil {
		return nil, err
	}
	out := make([]uint64, results)
	for i := range out {
		out[i] = m.inst.Global("r" + strconv.Itoa(i)).Get()
	}
	return out, nil
}

// specFiles are the specification's SIMD tests; simd_linking imports a global,
// which Penstock offers no module.
func specFiles(t *testing.T) []string {
	t.Helper()
	dir, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "github.com/tetratelabs/wazero").Output()
	require.NoError(t, err)
	files, err := filepath.Glob(filepath.Join(strings.TrimSpace(string(dir)), "internal/integration_test/spectest/v2/testdata/simd_*.json"))
	require.NoError(t, err)
	require.Len(t, files, 58)
	return slices.DeleteFunc(files, func(f string) bool { return filepath.Base(f) == "simd_linking.json" })
}

// wasmerRefused is how many functions of the specification's tests the loader
// keeps from Wasmer, by file. Their modules are not run there.
var wasmerRefused = map[string]int{
	"simd_conversions.json":                 3,  // promote, demote, convert_low_u
	"simd_i16x8_extadd_pairwise_i8x16.json": 2,  // as they say
	"simd_i16x8_extmul_i8x16.json":          4,  //
	"simd_i16x8_q15mulr_sat_s.json":         1,  //
	"simd_i32x4_extadd_pairwise_i16x8.json": 2,  //
	"simd_i32x4_extmul_i16x8.json":          4,  //
	"simd_i32x4_trunc_sat_f64x2.json":       2,  //
	"simd_i64x2_extmul_i32x4.json":          4,  //
	"simd_i8x16_arith2.json":                15, // popcnt
	"simd_int_to_int_extend.json":           4,  // to i64x2
	"simd_lane.json":                        5,  // swizzle, not of float lanes
	"simd_load.json":                        1,  // swizzle
	"simd_select.json":                      1,  // select
	"simd_splat.json":                       1,  // swizzle
}

// Every engine computes what the specification says, except where the loader
// does not let it.
func TestSIMDSpecification(t *testing.T) {
	files := specFiles(t)
	forEngines(t, func(t *testing.T, name string) {
		eng, err := newEngine(name)
		require.NoError(t, err)
		refused := map[string]int{}
		checked := 0
		var wrong []string
		for _, file := range files {
			var test struct{ Commands []specCommand }
			require.NoError(t, json.Unmarshal(readFile(t, file), &test))
			base := filepath.Base(file)
			named := map[string]*specModule{}
			var current *specModule
			var all []*specModule
			for _, c := range test.Commands {
				fail := func(format string, a ...any) {
					wrong = append(wrong, fmt.Sprintf("%s:%d: ", base, c.Line)+fmt.Sprintf(format, a...))
				}
				switch c.Type {
				case "module":
					current = &specModule{}
					all = append(all, current)
					if c.Name != "" {
						named[c.Name] = current
					}
					wasm := readFile(t, filepath.Join(filepath.Dir(file), c.Filename))
					current.o, err = binfmt.Parse(wasm)
					require.NoError(t, err, "%s:%d", base, c.Line)
					hazards, err := current.o.Hazards()
					require.NoError(t, err, "%s:%d", base, c.Line)
					if name == EngineWasmer && len(hazards) > 0 {
						refused[base] += len(hazards)
						continue
					}
					code, err := mend(name, openVectors(t, wasm, current.o))
					require.NoError(t, err, "%s:%d", base, c.Line)
					if current.mod, err = eng.Compile(code); err != nil {
						fail("does not compile: %v", err)
						continue
					}
					if current.inst, err = current.mod.Instantiate(nil); err != nil {
						fail("does not start: %v", err)
						require.NoError(t, current.mod.Close())
					}
				case "assert_invalid", "assert_malformed":
					if c.ModuleType == "text" {
						continue
					}
					checked++
					wasm, err := os.ReadFile(filepath.Join(filepath.Dir(file), c.Filename))
					require.NoError(t, err)
					if m, err := eng.Compile(wasm); err == nil {
						fail("compiles, but is invalid: %s", c.Text)
						require.NoError(t, m.Close())
					}
				case "assert_return", "assert_trap":
					m := current
					if c.Action.Module != "" {
						m = named[c.Action.Module]
					}
					if m.inst == nil {
						continue
					}
					checked++
					got, err := m.call(t, c.Action.Field, c.Action.Args, 2*len(c.Expected))
					switch {
					case c.Type == "assert_trap" && err == nil:
						fail("%s does not trap: %s", c.Action.Field, c.Text)
					case c.Type == "assert_return" && err != nil:
						fail("%s traps: %v", c.Action.Field, err)
					case c.Type == "assert_return":
						require.LessOrEqual(t, len(c.Expected), 1)
						if len(c.Expected) == 1 && !c.Expected[0].equal(t, got) {
							fail("%s(%v) = %#x, not %v", c.Action.Field, c.Action.Args, got, c.Expected[0])
						}
					}
				}
			}
			for _, m := range all {
				m.close(t)
			}
		}
		require.NoError(t, eng.Close())
		require.Empty(t, wrong[:min(len(wrong), 20)], "%d of %d assertions fail", len(wrong), checked)
		t.Logf("%s: %d assertions hold", name, checked)
		if name == EngineWasmer {
			require.Equal(t, wasmerRefused, refused)
		} else {
			require.Empty(t, refused)
		}
	})
}
