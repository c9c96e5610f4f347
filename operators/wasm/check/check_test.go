package check_test

import (
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/penstock/penstock/operators/modules"
	"github.com/penstock/penstock/operators/wasm"
	"github.com/penstock/penstock/operators/wasm/check"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// failures runs all checks and returns what failed, by check and engine.
func failures(t *testing.T, code []byte) map[string]map[string]check.Result {
	t.Helper()
	out, n := map[string]map[string]check.Result{}, 0
	failed := check.Module(code, func(r check.Result) {
		t.Logf("%+v", r)
		if r.Err == nil {
			return
		}
		require.NotEmpty(t, r.Do)
		if out[r.Check] == nil {
			out[r.Check] = map[string]check.Result{}
		}
		out[r.Check][r.Engine] = r
		n++
	})
	require.Equal(t, n, failed)
	return out
}

func TestShippedModulesPass(t *testing.T) {
	for _, name := range modules.Names() {
		t.Run(name, func(t *testing.T) {
			code, _ := modules.Get(name)
			require.Empty(t, failures(t, code))
		})
	}
}

func testdata(t *testing.T, name string) []byte {
	t.Helper()
	code, err := os.ReadFile("testdata/" + name + ".wasm")
	require.NoError(t, err)
	return code
}

// Each rule that a module breaks is found by the check that is for it, on every
// engine, and by no other.
func TestBrokenModulesFail(t *testing.T) {
	for _, c := range []struct {
		module string
		checks map[string]string // check: what it says
	}{
		{"well", nil},
		{"calls", map[string]string{check.Determinism: "restored to its first state gives other bytes", check.Snapshot: "goes on differently than without the stop"}},
		{"keeps", map[string]string{check.Determinism: "an instance that has seen other data"}},
		{"forgets", map[string]string{check.Snapshot: "goes on differently than without the stop"}},
		{"empty", map[string]string{check.Inputs: "an empty batch: step 0, 0 rows: penstock_process"}},
		{"leaks", map[string]string{check.Memory: "memory grows from"}},
		{"range", map[string]string{check.Params: "p = 100: penstock_open"}},
	} {
		t.Run(c.module, func(t *testing.T) {
			got := failures(t, testdata(t, c.module))
			require.Len(t, got, len(c.checks))
			for name, says := range c.checks {
				require.Len(t, got[name], len(wasm.Engines()), name)
				for _, r := range got[name] {
					require.ErrorContains(t, r.Err, says)
				}
			}
		})
	}
}

func TestWrongDigestFails(t *testing.T) {
	code := testdata(t, "well")
	m, err := wasm.ReadManifest(code)
	require.NoError(t, err)
	m.Golden = []wasm.Golden{
		{Name: "right", Input: wasm.GoldenInput{Tags: 1, Rows: 5, Batches: 2}},
		{Name: "wrong", Input: wasm.GoldenInput{Tags: 1, Rows: 5, Batches: 2}, Digest: strings.Repeat("0", 64)},
	}
	names, err := wasm.FillGolden(code, &m)
	require.NoError(t, err)
	require.Equal(t, []string{"right"}, names)
	code, err = wasm.Pack(code, m)
	require.NoError(t, err)
	got := failures(t, code)
	require.Len(t, got, 1)
	for engine, r := range got[check.Golden] {
		require.ErrorContains(t, r.Err, `golden vector "wrong" gives digest`)
		require.ErrorContains(t, r.Err, engine)
	}
}

func TestNoModule(t *testing.T) {
	got := failures(t, []byte("not wasm"))
	require.Len(t, got, 1)
	require.Contains(t, got, check.Load)
}
