package app

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/penstock/penstock/operators/wasm"
)

const clockYAML = `version: 1
name: clock
journal: {dir: %q}
sources:
  - {name: rec, type: replay, speed: max, path: %q, batch: {max_rows: 300}}
operators:
  - {name: greedy, type: wasm, inputs: [rec], module: ../../operators/wasm/testdata/greedy.wasm, engine: %s, metered: never, deadline: 1s, params: {where: process, what: spin, size: 6000000000, from: 3}}
  - {name: score, type: wasm, inputs: [rec], module: ewma, params: {half_life: 30s}}
alerts:
  - {name: high, input: rec, column: value, above: 22.5}
sinks:
  - {name: files, type: archive, inputs: [greedy, score, alerts], dir: %q}
http: {listen: ""}
`

// A module without metering that does not come back from a batch is left behind:
// a new worker goes on with the next one. No row is lost, and another run of the
// same journal gives the same bytes, without that call.
func TestModuleDoesNotComeBack(t *testing.T) {
	engine := zooEngines()[len(zooEngines())-1]
	if engine == wasm.EngineWazero {
		t.Skip("this build has wazero only")
	}
	first, archive := t.TempDir(), t.TempDir()
	a, b := startApp(t, fmt.Sprintf(clockYAML, first, recording(t, 4000), engine, archive))
	finished(t, a)
	a.settle(timeout(t, time.Minute))
	require.NoError(t, a.Err())
	s := stopApp(t, a)
	require.EqualValues(t, 4000, s.Readings.Processed)
	require.Equal(t, map[string]int64{"module_deadline": 300, "module_quarantined": 2800}, s.Readings.Dropped)
	require.Contains(t, b.logged(), "a worker is replaced")
	require.Contains(t, b.logged(), "is not called any more: penstock_process took longer than 1s")
	require.Equal(t, []string{"n=1 ", "n=2 ", "n=3 ", "n=1 ", "n=2 ", "n=3 "}, b.rows["greedy"]) // there was no checkpoint
	want := digests(t, archive)
	require.Len(t, want, 5)

	dir, again := onlyJournal(t, first), t.TempDir()
	begun := time.Now()
	a, b = startApp(t, fmt.Sprintf(clockYAML, dir, emptyRecording(t), engine, again))
	finished(t, a)
	a.settle(timeout(t, time.Minute))
	require.EqualValues(t, 4000, stopApp(t, a).Readings.Processed)
	require.Equal(t, []string{"n=1 ", "n=2 ", "n=3 "}, b.rows["greedy"])
	require.Contains(t, b.logged(), "is not called any more: penstock_process took longer than 1s")
	require.NotContains(t, b.logged(), "a worker is replaced")
	require.Equal(t, want, digests(t, again))
	require.Less(t, time.Since(begun), 10*time.Second)

	require.Eventually(t, func() bool { // the thread ends by itself; its goroutine stays
		buf := make([]byte, 1<<20)
		return strings.Contains(string(buf[:runtime.Stack(buf, true)]), "(*deadline).end")
	}, time.Minute, 50*time.Millisecond)
}

// onlyJournal copies the journal of a pipeline: no checkpoint, no queue.
func onlyJournal(t *testing.T, from string) (dir string) {
	dir = t.TempDir()
	require.NoError(t, os.CopyFS(dir, os.DirFS(from)))
	streams, err := filepath.Glob(filepath.Join(dir, "jetstream", "*", "*", "streams", "*"))
	require.NoError(t, err)
	kept := 0
	for _, s := range streams {
		if strings.HasSuffix(s, "journal") {
			kept++
		} else {
			require.NoError(t, os.RemoveAll(s))
		}
	}
	require.Equal(t, 1, kept, "%v", streams)
	return dir
}

// emptyRecording has no rows.
func emptyRecording(t *testing.T) string {
	path := filepath.Join(t.TempDir(), "nothing.csv")
	require.NoError(t, os.WriteFile(path, []byte("time,tag,value\n"), 0o600))
	return path
}
