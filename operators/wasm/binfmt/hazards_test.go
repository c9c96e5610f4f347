//go:build cgo && !wasmtime && ((linux && amd64) || (darwin && (amd64 || arm64)) || custom_wasmer_runtime)

package binfmt

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/penstock/penstock/operators/wasm/wasmer"
	"github.com/penstock/penstock/operators/wasm/wazero"
)

// vectorOp is a module that uses one vector instruction with operands of the
// given types.
func vectorOp(c int, operands []byte) []byte {
	body := []byte{0}
	for _, t := range operands {
		switch t {
		case I32:
			body = append(body, 0x41, 0)
		case I64:
			body = append(body, 0x42, 0)
		case F32:
			body = append(body, 0x43, 0, 0, 0, 0)
		case F64:
			body = append(body, 0x44, 0, 0, 0, 0, 0, 0, 0, 0)
		case V128:
			body = append(append(body, 0xfd, 12), make([]byte, 16)...)
		}
	}
	body = AppendU32(append(body, 0xfd), uint32(c))
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
	code := append(AppendU32([]byte{1}, uint32(len(body))), body...)
	out := append([]byte(nil), Magic...)
	for _, s := range []struct {
		id   byte
		body []byte
	}{{SecType, []byte{1, 0x60, 0, 0}}, {SecFunc, []byte{1, 0}}, {SecMemory, []byte{1, 0, 1}}, {SecExport, append([]byte{1, 6}, "memory\x02\x00"...)}, {SecCode, code}} {
		out = append(AppendU32(append(out, s.id), uint32(len(s.body))), s.body...)
	}
	return out
}

// operandsOf finds the types that a vector instruction takes, by asking wazero.
func operandsOf(t *testing.T, c int) []byte {
	t.Helper()
	eng := wazero.New()
	defer eng.Close() //nolint:errcheck // a test
	n := int(strings.Trim(simdOps[c], "mlxvfiIsd-")[0] - '0')
	kinds := []byte{V128, I32, I64, F32, F64}
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
	eng := wasmer.New()
	defer eng.Close() //nolint:errcheck // a test
	for c, what := range simdOps {
		if what == "" {
			continue
		}
		wasm := vectorOp(c, operandsOf(t, c))
		o, err := Parse(wasm)
		require.NoError(t, err)
		hazards, err := o.Hazards()
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
