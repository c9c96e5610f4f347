package integration

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io/fs"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/apache/arrow/go/v17/arrow/array"
	"github.com/apache/arrow/go/v17/arrow/memory"
	"github.com/apache/arrow/go/v17/parquet/pqarrow"
	"github.com/stretchr/testify/require"

	"github.com/penstock/penstock/pipeline"
)

const buildsYAML = `version: 1
name: builds
journal: {dir: %q}
sources:
  - {name: rec, type: replay, speed: max, path: %q}
operators:
  - {name: score, type: wasm, inputs: [rec], module: ewma, params: {half_life: 30s}}
  - {name: spikes, type: wasm, inputs: [rec], module: hampel}
sinks:
  - {name: files, type: archive, inputs: [score, spikes], dir: %q}
http: {listen: ""}
`

// Every way to build the program gives one that works, says which engine it
// chose and why, and computes the same.
func TestBuilds(t *testing.T) {
	if testing.Short() {
		t.Skip("builds the program")
	}
	rec := filepath.Join(t.TempDir(), "rec.csv")
	var rows strings.Builder
	rows.WriteString("time,tag,value\n")
	for i := range 3000 {
		fmt.Fprintf(&rows, "2026-03-01T00:%02d:%02dZ,plant/pump%d/load,%.3f\n", i/5/60, i/5%60, i%5, 20+5*math.Sin(float64(i)/7)+float64(i%97/96*30))
	}
	require.NoError(t, os.WriteFile(rec, []byte(rows.String()), 0o600))
	var want []string
	for _, b := range []struct{ name, env, tags, engine, why string }{
		{"as usual", "", "", "wasmer", "the module is shipped with Penstock"},
		{"without cgo", "CGO_ENABLED=0", "", "wazero", "it is the only engine of this build"},
		{"with wasmtime", "", "wasmtime", "wasmtime", "it is the fastest engine of this build"},
	} {
		t.Run(b.name, func(t *testing.T) {
			dir := t.TempDir()
			bin := filepath.Join(dir, "penstock")
			build := exec.Command("go", "build", "-tags", b.tags, "-o", bin, "github.com/penstock/penstock")
			build.Env = append(os.Environ(), b.env)
			run := func(cmd *exec.Cmd) string {
				out, err := cmd.CombinedOutput()
				require.NoError(t, err, string(out))
				return string(out)
			}
			run(build)
			require.Contains(t, run(exec.Command(bin, "operator", "list")), "ewma")
			cfg, summary, files := filepath.Join(dir, "p.yaml"), filepath.Join(dir, "s.json"), filepath.Join(dir, "files")
			require.NoError(t, os.WriteFile(cfg, fmt.Appendf(nil, buildsYAML, filepath.Join(dir, "data"), rec, files), 0o600))
			require.Contains(t, run(exec.Command(bin, "validate", cfg)), ": valid: 4 nodes")
			require.NoDirExists(t, filepath.Join(dir, "data"), "a look leaves nothing behind")
			log := run(exec.Command(bin, "run", cfg, "--summary", summary))
			require.Contains(t, log, "module=ewma@1.0.0 engine="+b.engine+` reason="`+b.why)
			var s struct {
				Readings  struct{ Processed int }
				Operators []struct{ Name, Engine string }
			}
			data, err := os.ReadFile(summary)
			require.NoError(t, err)
			require.NoError(t, json.Unmarshal(data, &s))
			require.Equal(t, 3000, s.Readings.Processed)
			require.Len(t, s.Operators, 2)
			for _, o := range s.Operators {
				require.Equal(t, b.engine, o.Engine)
			}
			kept, err := filepath.Glob(filepath.Join(dir, "data", "cache", "*.code"))
			require.NoError(t, err)
			require.Len(t, kept, 2, "compiled modules are kept")
			got := archived(t, files)
			require.Len(t, got, 6000)
			if want == nil {
				want = got
			}
			require.Equal(t, want, got)
		})
	}
}

// archived returns every row of the archive below dir, in order, without the
// time of its arrival.
func archived(t *testing.T, dir string) []string {
	t.Helper()
	var out []string
	require.NoError(t, filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || filepath.Ext(path) != ".parquet" {
			return err
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		table, err := pqarrow.ReadTable(t.Context(), bytes.NewReader(data), nil, pqarrow.ArrowReadProperties{}, memory.DefaultAllocator)
		if err != nil {
			return err
		}
		defer table.Release()
		rows := array.NewTableReader(table, -1)
		defer rows.Release()
		node := strings.Split(strings.TrimPrefix(path, dir), string(filepath.Separator))[1]
		for rows.Next() {
			rec := rows.Record()
			for i := range int(rec.NumRows()) {
				row := node
				for c, col := range rec.Columns() {
					if rec.ColumnName(c) != pipeline.NameReceived {
						row += " " + rec.ColumnName(c) + "=" + col.ValueStr(i)
					}
				}
				out = append(out, row)
			}
		}
		return nil
	}))
	return out
}
