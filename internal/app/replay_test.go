package app

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/penstock/penstock/operators/wasm"
)

const journalYAML = `version: 1
name: again
journal: {dir: %q}
sources:
  - {name: rec, type: replay, speed: max, path: %q, batch: {max_rows: 300}}
operators:
  - {name: score, type: wasm, inputs: [rec], module: ewma, engine: %[3]s, params: {half_life: 30s}}
  - {name: drift, type: wasm, inputs: [rec], module: cusum, engine: %[3]s, params: {warmup: 20}}
  - {name: spikes, type: wasm, inputs: [rec], module: hampel, engine: %[3]s}
  - {name: life, type: wasm, inputs: [rec], module: rul, engine: %[3]s, params: {limit: 30.0, window: 10m, interval: 30s}}
  - {name: mean, type: window, inputs: [rec], every: 60s, aggregates: [mean]}
alerts:
  - {name: high, input: rec, column: value, above: 22.5}
sinks:
  - {name: files, type: archive, inputs: [score, drift, spikes, life, mean, alerts], dir: %[4]q}
http: {listen: ""}
`

// digests returns the digest of every file below dir, by its place.
func digests(t *testing.T, dir string) map[string]string {
	out := map[string]string{}
	require.NoError(t, filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, ".parquet") {
			return err
		}
		data, err := os.ReadFile(path)
		sum := sha256.Sum256(data)
		place, _ := filepath.Rel(dir, filepath.Dir(path)) // names of files hold the time they were closed
		out[place] += hex.EncodeToString(sum[:8])
		return err
	}))
	return out
}

// The same journal, run through the same modules again, on every engine, gives
// the same bytes in the archive.
func TestJournalAgainGivesTheSameBytes(t *testing.T) {
	first, archive := t.TempDir(), t.TempDir()
	a, _ := startApp(t, fmt.Sprintf(journalYAML, first, recording(t, 4000), wasm.Engines()[0], archive))
	finished(t, a)
	a.settle(timeout(t, 2*time.Minute))
	require.Zero(t, stopApp(t, a).Lost())
	want := digests(t, archive)
	require.Greater(t, len(want), 5)

	nothing := emptyRecording(t)
	for _, engine := range append(wasm.Engines(), wasm.Engines()...) {
		dir, archive := onlyJournal(t, first), t.TempDir()
		a, _ := startApp(t, fmt.Sprintf(journalYAML, dir, nothing, engine, archive))
		finished(t, a)
		a.settle(timeout(t, 2*time.Minute)) // more than a stop would wait for
		s := stopApp(t, a)
		require.EqualValues(t, 4000, s.Readings.Processed, engine)
		require.Equal(t, want, digests(t, archive), engine)
	}
}
