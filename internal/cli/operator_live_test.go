package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/penstock/penstock/operators/modules"
	"github.com/penstock/penstock/operators/wasm"
)

// The commands against a pipeline that runs, over its socket.
func TestLiveCommands(t *testing.T) {
	dir := t.TempDir()
	data, csv, yaml := filepath.Join(dir, "data"), filepath.Join(dir, "rec.csv"), filepath.Join(dir, "line.yaml")
	var b strings.Builder
	b.WriteString("time,tag,value\n")
	for i := range 4000 {
		fmt.Fprintf(&b, "%s,plant/pump%d/m,%d\n", time.Date(2026, 1, 1, 0, 0, i, 0, time.UTC).Format(time.RFC3339), i%5, i%17)
	}
	require.NoError(t, os.WriteFile(csv, []byte(b.String()), 0o600))
	require.NoError(t, os.WriteFile(yaml, fmt.Appendf(nil, `version: 1
name: line
journal: {dir: %q}
sources:
  - {name: rec, type: replay, speed: "20", path: %q, batch: {linger: 5ms}}
operators:
  - {name: score, type: wasm, inputs: [rec], module: ewma, params: {warmup: 2}}
sinks:
  - {name: files, type: archive, inputs: [score], dir: %q}
http: {listen: ""}
`, data, csv, filepath.Join(dir, "archive")), 0o600))

	_, err := penstockOperator("status", yaml)
	require.ErrorContains(t, err, "no pipeline runs with its journal in")

	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	t.Cleanup(func() { stop(); require.NoError(t, <-ended) })
	go func() {
		c := runCommand(func() (*slog.Logger, error) { return slog.New(slog.DiscardHandler), nil })
		c.SetArgs([]string{yaml})
		ended <- c.ExecuteContext(ctx)
	}()
	run := func(args ...string) string {
		t.Helper()
		out, err := penstockOperator(args...)
		require.NoError(t, err)
		return out
	}
	require.Eventually(t, func() bool { _, err := penstockOperator("status", yaml); return err == nil }, 30*time.Second, 10*time.Millisecond)
	st, err := os.Stat(filepath.Join(data, controlSocket))
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o600), st.Mode().Perm(), "nobody else may change a pipeline")

	variant := func(version, state string) string {
		code, _ := modules.Get("ewma")
		m, err := wasm.ReadManifest(code)
		require.NoError(t, err)
		m.Version, m.State = version, state
		out, err := wasm.Pack(code, m)
		require.NoError(t, err)
		file := filepath.Join(dir, version+".wasm")
		require.NoError(t, os.WriteFile(file, out, 0o600))
		return file
	}
	require.Regexp(t, `0 +score +ewma@1.0.0 .*wasmer|wazero`, run("status", data))
	require.Regexp(t, `score runs ewma@1.1.0 \([0-9a-f]{12}\) on \w+, with the state of the one before; the flow paused`, run("deploy", yaml, "score", variant("1.1.0", "1")))
	require.Contains(t, run("shadow", "start", yaml, "score", variant("2.0.0", "2")), "a candidate runs beside ewma@1.1.0")
	require.Eventually(t, func() bool {
		var shards [][]struct{ Shadow struct{ Rows int64 } }
		require.NoError(t, json.Unmarshal([]byte(run("status", yaml, "--json")), &shards))
		return shards[0][0].Shadow.Rows > 50
	}, 30*time.Second, 20*time.Millisecond)
	report := run("shadow", "report", yaml, "score")
	require.Regexp(t, `candidate ewma@2.0.0 .* batches, \d+ rows`, report)
	require.Regexp(t, `(?m)^ +flag +\d+`, report)
	require.Contains(t, run("shadow", "stop", yaml, "score"), "the candidate is gone")
	_, err = penstockOperator("shadow", "report", yaml, "score")
	require.ErrorContains(t, err, "has no candidate")
	require.Regexp(t, `score runs ewma@2.0.1 .* with what it has learnt;`, run("deploy", "--warm", "50ms", yaml, "score", variant("2.0.1", "2")))
	require.Regexp(t, `score runs ewma@1.1.0 .* with the state that it had;`, run("rollback", data, "score"))
	empty := filepath.Join(dir, "empty.wasm")
	require.NoError(t, os.WriteFile(empty, nil, 0o600))
	_, err = penstockOperator("shadow", "start", yaml, "score", empty)
	require.ErrorContains(t, err, "is empty")
	_, err = penstockOperator("deploy", yaml, "nobody", "ewma")
	require.ErrorContains(t, err, `no wasm operator "nobody"; there are: score`)
}
