package cli

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/penstock/penstock/operators/wasm"
)

// operator runs `penstock operator` and returns what it printed.
func operator(args ...string) (string, error) {
	var out bytes.Buffer
	c := operatorCommand()
	c.SilenceErrors, c.SilenceUsage = true, true
	c.SetOut(&out)
	c.SetArgs(args)
	err := c.Execute()
	return out.String(), err
}

const misbehaving = "../../operators/wasm/check/testdata/"

func TestOperatorTest(t *testing.T) {
	out, err := operator("test", "ewma")
	require.NoError(t, err, out)
	for _, e := range wasm.Engines() {
		for _, check := range []string{"load", "golden", "determinism", "snapshot", "inputs", "memory", "params"} {
			require.Regexp(t, `(?m)^ok +`+check+` +`+e+" ", out)
		}
	}
	require.NotContains(t, out, "FAIL")

	out, err = operator("test", misbehaving+"forgets.wasm")
	require.EqualError(t, err, "failed checks: "+map[int]string{1: "1", 2: "2"}[len(wasm.Engines())])
	require.Regexp(t, `(?m)^FAIL +snapshot +wazero .*goes on differently.*\n +penstock_snapshot must hold all state`, out)
	require.Regexp(t, `(?m)^skip +golden +wazero `, out)

	_, err = operator("test", t.TempDir())
	require.ErrorContains(t, err, "has no .wasm file: build the module first")
	_, err = operator("test", "nothing-here")
	require.ErrorContains(t, err, "there is no shipped module")
}

func TestOperatorTestFolder(t *testing.T) {
	dir := t.TempDir()
	code, err := os.ReadFile(misbehaving + "well.wasm")
	require.NoError(t, err)
	require.NoError(t, os.Mkdir(filepath.Join(dir, "build"), 0o700))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "build", "a.wasm"), code, 0o600))
	out, err := operator("test", dir)
	require.NoError(t, err, out)
	require.Contains(t, out, "misbehave@1.0.0")
}

// pack --golden fills in the module and the manifest's file, which keeps its
// layout; a digest that does not hold refuses the module and names the vector.
func TestOperatorPackGolden(t *testing.T) {
	dir := t.TempDir()
	manifest, module := filepath.Join(dir, "m.json"), filepath.Join(dir, "m.wasm")
	text := `{"name": "misbehave", "version": "1.0.0", "abi": 1, "kind": "map", "doc": "says \"digest\": \"\"",
   "input": [{"name": "value", "type": "float64"}], "output": [{"name": "seen", "type": "int64"}],
   "golden": [{"name": "tiny", "input": {"explicit": [{"columns": {"value": [1, "NaN"]}}]}, "digest": ""}]}`
	require.NoError(t, os.WriteFile(manifest, []byte(text), 0o600))
	_, err := operator("pack", misbehaving+"well.wasm", manifest, "-o", module)
	require.ErrorContains(t, err, `golden vector "tiny" has no digest`)
	out, err := operator("pack", "--golden", misbehaving+"well.wasm", manifest, "-o", module)
	require.NoError(t, err)
	digest := strings.Fields(out)[2]
	require.Equal(t, "golden tiny "+digest+"\n", out)
	filled, err := os.ReadFile(manifest)
	require.NoError(t, err)
	require.Equal(t, strings.Replace(text, `"digest": ""}`, `"digest": "`+digest+`"}`, 1), string(filled))
	out, err = operator("inspect", module)
	require.NoError(t, err)
	require.Contains(t, out, digest)
	first, err := os.ReadFile(module)
	require.NoError(t, err)
	_, err = operator("pack", module, manifest)
	require.NoError(t, err)
	again, err := os.ReadFile(module)
	require.NoError(t, err)
	require.Equal(t, first, again)

	require.NoError(t, os.WriteFile(manifest, bytes.Replace(filled, []byte(digest), []byte(strings.Repeat("0", 64)), 1), 0o600))
	_, err = operator("pack", module, manifest)
	require.NoError(t, err)
	out, err = operator("test", module)
	require.Error(t, err)
	require.Regexp(t, `(?m)^FAIL +golden +wazero +module misbehave@1.0.0: golden vector "tiny" gives digest `+digest[:12]+" on wazero", out)
}

func TestOperatorBench(t *testing.T) {
	out, err := operator("bench", "ewma", "--against", "cusum", "--time", "1ms")
	require.NoError(t, err)
	require.Contains(t, out, "ns/row")
	require.Len(t, strings.Split(strings.TrimSpace(out), "\n"), 1+7*len(wasm.Engines()))
	out, err = operator("bench", "ewma", "--json", "--time", "1ms")
	require.NoError(t, err)
	require.Contains(t, out, `"ns_per_row":`)
	_, err = operator("bench", "ewma", "--time", "0s")
	require.ErrorContains(t, err, "--time 0s")
}

func TestPrintable(t *testing.T) {
	require.Equal(t, "a\n\tü: \uFFFD[2J\uFFFDm", printable("a\n\tü: \x1b[2J\u009bm"))
}
