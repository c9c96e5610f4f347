package app

import (
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/penstock/penstock/operators/modules"
	"github.com/penstock/penstock/operators/wasm/oci"
	"github.com/penstock/penstock/pipeline/config"
)

// pipelineWith writes a pipeline whose one operator has module.
func pipelineWith(t *testing.T, module string) (file, data string) {
	t.Helper()
	dir := t.TempDir()
	file, data = filepath.Join(dir, "p.yaml"), filepath.Join(dir, "data")
	require.NoError(t, os.WriteFile(file, fmt.Appendf(nil, `version: 1
name: p
journal: {dir: %s}
sources:
  - {name: in, type: replay, format: csv, path: %s}
operators:
  - {name: score, type: wasm, inputs: [in], module: %q, params: {half_life: 1m}}
sinks:
  - {name: out, type: console, inputs: [score]}
`, data, recording(t, 10), module), 0o644))
	return file, data
}

func TestModuleByReference(t *testing.T) {
	ctx, stick := t.Context(), filepath.Join(t.TempDir(), "stick")
	ewma, _ := modules.Get("ewma")
	r, err := oci.Parse("oci-layout:" + stick + ":1")
	require.NoError(t, err)
	d, err := (&oci.Client{}).Push(ctx, ewma, r)
	require.NoError(t, err)
	problems := func(file string) config.Error {
		_, _, err := Load(ctx, file)
		var errs config.Errors
		require.ErrorAs(t, err, &errs)
		require.Len(t, errs, 1, "%v", errs)
		require.Equal(t, "operators[0].module", errs[0].Path)
		require.Equal(t, 7, errs[0].Line)
		return errs[0]
	}

	file, _ := pipelineWith(t, r.String())
	e := problems(file)
	require.Contains(t, e.Message, "has no digest")
	require.Equal(t, "write "+r.Pinned(d).String(), e.Hint)

	file, data := pipelineWith(t, r.Pinned(d).String())
	_, _, err = Load(ctx, file)
	require.NoError(t, err)
	require.NoDirExists(t, data, "validate writes nothing")
	_, err = Read(ctx, file, slog.New(slog.DiscardHandler))
	require.NoError(t, err)
	require.NoError(t, os.RemoveAll(stick))
	_, _, err = Load(ctx, file)
	require.NoError(t, err, "the stick may go")

	file, data = pipelineWith(t, "oci://reg.invalid/plant/ewma:1@"+d.String())
	e = problems(file)
	require.Contains(t, e.Message, "is not in the module store "+filepath.Join(data, "modules"))
	require.Contains(t, e.Hint, "penstock operator pull --store")
}
