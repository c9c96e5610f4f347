//go:build cgo && !wasmtime && ((linux && amd64) || (darwin && (amd64 || arm64)) || custom_wasmer_runtime)

package wasm

import (
	"fmt"
	"log/slog"
	"os"
	"strings"
	"testing"

	"github.com/apache/arrow/go/v17/arrow/memory"
	"github.com/stretchr/testify/require"

	"github.com/penstock/penstock/pipeline"
)

// The two that always show: Wasmer gives another result than wazero. If this
// fails after an update of wasmer-go, the check has outlived its reason.
func TestHazardsAreReal(t *testing.T) {
	for _, body := range []string{
		`(select (v128.const i64x2 1 -2) (v128.const i64x2 3 4) (local.get 0))`,
		`(v128.xor (local.tee 2 (v128.const i8x16 0 1 2 3 4 5 6 7 8 9 200 11 12 13 14 15))
			(i8x16.swizzle (v128.const i8x16 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25) (local.get 2)))`,
	} {
		var got []uint64
		for _, name := range engines {
			e, err := newEngine(name)
			require.NoError(t, err)
			m, err := e.Compile(wat(t, vectorFunc(body)))
			require.NoError(t, err)
			i, err := m.Instantiate(nil)
			require.NoError(t, err)
			v, err := i.Function("vector").Call(1)
			require.NoError(t, err)
			got = append(got, v)
			require.NoError(t, i.Close())
			require.NoError(t, m.Close())
			require.NoError(t, e.Close())
		}
		require.NotEqual(t, got[0], got[1], body)
	}
}

func TestHazardsChooseTheEngine(t *testing.T) {
	m, err := ParseManifest([]byte(goodManifest))
	require.NoError(t, err)
	m.Params = nil
	packed, err := Pack(wat(t, vectorFunc(`(i8x16.swizzle (local.get 1) (local.get 2))`)), m)
	require.NoError(t, err)
	file := t.TempDir() + "/x.wasm"
	require.NoError(t, os.WriteFile(file, packed, 0o644))

	cfg := DefaultConfig()
	cfg.Module, cfg.Engine = file, EngineWasmer
	p := pipeline.NewProblems()
	cfg.Validate(p)
	require.Equal(t, "[{engine engine wasmer gets this module wrong: function 0 (vector) uses i8x16.swizzle (use i8x16.shuffle, or scalar code) write auto or wazero}]", fmt.Sprint(p.All()))

	env := pipeline.Env{Name: "op", Log: slog.New(slog.DiscardHandler), Meter: pipeline.NewMeter(), Alloc: memory.DefaultAllocator}
	_, err = New(cfg, env)
	require.ErrorContains(t, err, "i8x16.swizzle")
	cfg.Engine = EngineAuto
	op, err := New(cfg, env)
	require.NoError(t, err)
	_, eng := op.Module()
	require.Equal(t, EngineWazero, eng)
}

// vectorOp is a module that uses one vector instruction with operands of the
// given types.
func vectorOp(c int, operands []byte) []byte {
	body := []byte{0}
	for _, t := range operands {
		switch t {
		case tI32:
			body = append(body, 0x41, 0)
		case tI64:
			body = append(body, 0x42, 0)
		case tF32:
			body = append(body, 0x43, 0, 0, 0, 0)
		case tF64:
			body = append(body, 0x44, 0, 0, 0, 0, 0, 0, 0, 0)
		case tV128:
			body = append(append(body, 0xfd, 12), make([]byte, 16)...)
		}
	}
	body = appendU32(append(body, 0xfd), uint32(c))
	drop := true
	for _, w := range simdOps[c] {
		switch w {
		case 'm':
			body = append(body, 0, 0)
		case 'l':
			body = append(body, 0)
		case 'x':
			body = append(body, make([]byte, 16)...)
		case '-':
			drop = false
		}
	}
	if drop {
		body = append(body, 0x1a)
	}
	body = append(body, 0x0b)
	code := append(appendU32([]byte{1}, uint32(len(body))), body...)
	out := append([]byte(nil), magic...)
	for _, s := range []struct {
		id   byte
		body []byte
	}{{secType, []byte{1, 0x60, 0, 0}}, {secFunc, []byte{1, 0}}, {secMemory, []byte{1, 0, 1}}, {secExport, append([]byte{1, 6}, "memory\x02\x00"...)}, {secCode, code}} {
		out = append(appendU32(append(out, s.id), uint32(len(s.body))), s.body...)
	}
	return out
}

// operandsOf finds the types that a vector instruction takes, by asking wazero.
func operandsOf(t *testing.T, c int) []byte {
	t.Helper()
	eng, err := newEngine(EngineWazero)
	require.NoError(t, err)
	n := int(strings.Trim(simdOps[c], "mlxvfiIsd-")[0] - '0')
	kinds := []byte{tV128, tI32, tI64, tF32, tF64}
	total := 1
	for range n {
		total *= len(kinds)
	}
	for i := range total {
		operands := make([]byte, n)
		for j := range operands {
			operands[j] = kinds[i%len(kinds)]
			i /= len(kinds)
		}
		if m, err := eng.Compile(vectorOp(c, operands)); err == nil {
			require.NoError(t, m.Close())
			return operands
		}
	}
	t.Fatalf("no operands suit vector instruction %d", c)
	return nil
}

// The scan names exactly those vector instructions that Wasmer does not have,
// so that auto can choose another engine.
func TestHazardsNameWhatWasmerLacks(t *testing.T) {
	eng, err := newEngine(EngineWasmer)
	require.NoError(t, err)
	defer eng.Close() //nolint:errcheck // a test
	for c, what := range simdOps {
		if what == "" {
			continue
		}
		wasm := vectorOp(c, operandsOf(t, c))
		o, err := parse(wasm)
		require.NoError(t, err)
		hazards, err := o.hazards()
		require.NoError(t, err)
		named := strings.Contains(strings.Join(hazards, ""), "it lacks")
		m, err := eng.Compile(wasm)
		if err == nil {
			require.NoError(t, m.Close())
		}
		if named != (err != nil) {
			t.Errorf("vector instruction %d: the scan says %v, wasmer says %v", c, hazards, err)
		}
	}
}
