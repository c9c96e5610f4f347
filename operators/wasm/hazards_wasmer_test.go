//go:build cgo && !wasmtime && ((linux && amd64) || (darwin && (amd64 || arm64)) || custom_wasmer_runtime)

package wasm

import (
	"fmt"
	"log/slog"
	"os"
	"testing"

	"github.com/apache/arrow/go/v17/arrow/memory"
	"github.com/stretchr/testify/require"

	"github.com/penstock/penstock/operators/wasm/trust"
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
	cfg.Module, cfg.Engine = file, EngineWasmerUntrusted
	p := pipeline.NewProblems()
	cfg.Validate(p)
	require.Equal(t, "[{engine engine wasmer gets this module wrong: function 0 (vector) uses i8x16.swizzle (use i8x16.shuffle, or scalar code) write auto or wazero}]", fmt.Sprint(p.All()))

	env := pipeline.Env{Name: "op", Log: slog.New(slog.DiscardHandler), Meter: pipeline.NewMeter(), Alloc: memory.DefaultAllocator}
	_, err = New(cfg, env)
	require.ErrorContains(t, err, "i8x16.swizzle")
	packed, err = trust.Sign(packed, testKey(1))
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(file, packed, 0o644))
	cfg.Engine = EngineAuto
	cfg.UseModules(pipeline.Modules{Trust: []pipeline.ModuleKey{trust.PublicKey(testKey(1), "ops")}})
	op, err := New(cfg, env)
	require.NoError(t, err)
	_, eng := op.Module()
	require.Equal(t, EngineWazero, eng)
	require.Contains(t, op.Choice().Reason, "i8x16.swizzle")
}
