package app

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/penstock/penstock/operators/wasm"
	"github.com/penstock/penstock/pipeline"
	"github.com/penstock/penstock/pipeline/journal"
)

const greedyFile = "../../operators/wasm/testdata/greedy.wasm"

// clocked is a pipeline with a module that counts nothing and, in the call named,
// turns round for some seconds; more are lines of the YAML's operators.
type clocked struct {
	dir, archive, rec string // "" is no rows
	rows              int    // of a batch
	speed, checkpoint string
	module            string
	operator          string // further settings
	more              string
}

// yaml fills in what is left out.
func (c clocked) yaml(t *testing.T) string {
	rows := c.rows
	if rows == 0 {
		rows = 300
	}
	set := func(s *string, v string) {
		if *s == "" {
			*s = v
		}
	}
	engine := zooEngines()[len(zooEngines())-1]
	if engine == wasm.EngineWazero {
		t.Skip("this build has wazero only")
	}
	set(&c.archive, t.TempDir())
	set(&c.rec, emptyRecording(t))
	set(&c.speed, "max")
	set(&c.checkpoint, "1h")
	set(&c.module, greedyFile)
	return fmt.Sprintf(`version: 1
name: clock
journal: {dir: %q, checkpoint: %s}
sources:
  - {name: rec, type: replay, speed: %s, path: %q, batch: {max_rows: %d, linger: 1ms}}
operators:
  - {name: greedy, type: wasm, inputs: [rec], module: %q, engine: %s, metered: never, %s}
  - {name: score, type: wasm, inputs: [rec], module: ewma, params: {half_life: 30s}}
%s
alerts:
  - {name: high, input: rec, column: value, above: 22.5}
sinks:
  - {name: files, type: archive, inputs: [score, alerts], dir: %q}
  - {name: screen, type: console, inputs: [greedy]}
http: {listen: ""}
`, c.dir, c.checkpoint, c.speed, c.rec, rows, c.module, engine, c.operator, strings.ReplaceAll(c.more, "ENGINE", engine), c.archive)
}

// spin are the settings of a module that turns round in a call, which takes much
// longer than a second where turns is long.
func spin(where string, turns, from int) string {
	return fmt.Sprintf("deadline: 1s, params: {where: %s, what: spin, size: %d, from: %d}", where, turns, from)
}

const (
	long    = 1_300_000_000 // comes back a little later
	forEver = 4_000_000_000 // is left behind
)

// through waits until all that is in the journal has gone through.
func through(t *testing.T, a *App) {
	t.Helper()
	finished(t, a)
	a.settle(timeout(t, time.Minute))
}

// alone returns a copy of the journal alone.
func (c clocked) alone(t *testing.T) clocked {
	return clocked{dir: onlyJournal(t, c.dir), archive: t.TempDir(), operator: c.operator, more: c.more, module: c.module}
}

// A module without metering that does not come back from a batch is left behind:
// a new worker goes on with the next one. No row is lost, and another run of the
// same journal gives the same bytes, without that call.
func TestModuleDoesNotComeBack(t *testing.T) {
	c := clocked{dir: t.TempDir(), archive: t.TempDir(), rec: recording(t, 4000), operator: spin("process", forEver, 3)}
	a, b := startApp(t, c.yaml(t))
	through(t, a)
	require.NoError(t, a.Err())
	s := stopApp(t, a)
	require.NotContains(t, b.logged(), "does not end") // nobody waits for who was left behind
	require.EqualValues(t, 4000, s.Readings.Processed)
	require.Equal(t, map[string]int64{"module_deadline": 300, "module_quarantined": 2800}, s.Readings.Dropped)
	require.Contains(t, b.logged(), "a worker is replaced")
	require.Contains(t, b.logged(), "is not called any more: penstock_process took longer than 1s")
	require.Equal(t, []string{"n=1 ", "n=2 ", "n=3 ", "n=1 ", "n=2 ", "n=3 "}, b.rows["greedy"]) // there was no checkpoint
	want := digests(t, c.archive)
	require.Len(t, want, 5)

	again := c.alone(t)
	a, b = startApp(t, again.yaml(t))
	through(t, a)
	require.EqualValues(t, 4000, stopApp(t, a).Readings.Processed)
	require.Equal(t, []string{"n=1 ", "n=2 ", "n=3 "}, b.rows["greedy"])
	require.Contains(t, b.logged(), "is not called any more: penstock_process took longer than 1s")
	require.NotContains(t, b.logged(), "a worker is replaced")
	require.Equal(t, want, digests(t, again.archive))
	parked(t)
}

// parked waits until all that was left behind in a module is back from it.
func parked(t *testing.T) {
	require.Eventually(t, func() bool {
		buf := make([]byte, 1<<22)
		buf = buf[:runtime.Stack(buf, true)]
		return !strings.Contains(string(buf), "wasm.(*function).Call(") && !strings.Contains(string(buf), "wasmer.(*function).Call(") && !strings.Contains(string(buf), "wasmtime.(*function).Call(")
	}, time.Minute, 50*time.Millisecond)
}

// The state that a checkpoint asks for does not come in time: the alert comes at the
// same entry in a replay.
func TestStateDoesNotComeBack(t *testing.T) {
	c := clocked{dir: t.TempDir(), archive: t.TempDir(), rec: recording(t, 1000), speed: `"200"`, checkpoint: "100ms", operator: spin("snapshot", long, 2)}
	a, b := startApp(t, c.yaml(t))
	through(t, a)
	require.NoError(t, a.Err())
	stopApp(t, a)
	live := b.rows["penstock"]
	require.Len(t, live, 1, b.logged())
	require.Contains(t, live[0], "penstock_snapshot took longer than 1s")

	again := c.alone(t)
	a, b = startApp(t, again.yaml(t))
	through(t, a)
	stopApp(t, a)
	require.Equal(t, live, b.rows["penstock"])
	require.Equal(t, digests(t, c.archive), digests(t, again.archive))
	parked(t)
}

// What a deploy asks the module before for does not come in time: it is not asked
// again in a replay, which runs the new one all the same.
func TestStateDoesNotComeBackForADeploy(t *testing.T) {
	c := clocked{dir: t.TempDir(), rec: recording(t, 400), rows: 50, speed: `"20"`, operator: spin("snapshot", long, 1)}
	a, b := startApp(t, c.yaml(t))
	require.Eventually(t, func() bool { return a.workers[0].Load().Seq() > 2 }, 30*time.Second, time.Millisecond)
	_, err := a.Control(t.Context(), pipeline.ControlDeploy, "greedy", greedyVariant(t, "1.1.0"))
	require.NoError(t, err)
	require.Equal(t, 1, strings.Count(b.logged(), "takes too long"))
	want := a.Modules()[0][0].Digest
	again := c.alone(t)
	a.stopSources()
	require.NoError(t, a.Stop(timeout(t, 20*time.Second)))
	a, b = startApp(t, again.yaml(t))
	through(t, a)
	require.Len(t, a.journal.Kills(0), 1)
	require.NotContains(t, b.logged(), "takes too long")
	require.Equal(t, want, a.Modules()[0][0].Digest)
	stopApp(t, a)
	parked(t)
}

func greedyVariant(t *testing.T, v string) []byte {
	code, err := os.ReadFile(greedyFile)
	require.NoError(t, err)
	m, err := wasm.ReadManifest(code)
	require.NoError(t, err)
	m.Version = v
	out, err := wasm.Pack(code, m)
	require.NoError(t, err)
	return out
}

// A module that hangs on what the journal shows it is not put to work, and the one
// before goes on, in a replay too.
func TestWarmUpDoesNotComeBack(t *testing.T) {
	file := filepath.Join(t.TempDir(), "base.wasm") // of another state: the other warms up
	require.NoError(t, os.WriteFile(file, greedyVariant(t, "0.9.0"), 0o600))
	c := clocked{dir: t.TempDir(), rec: recording(t, 400), rows: 50, speed: `"20"`, module: file, operator: "params: {where: process, what: spin, size: 1000, from: 3}"}
	a, _ := startApp(t, c.yaml(t))
	require.Eventually(t, func() bool { return a.workers[0].Load().Seq() >= 4 }, 30*time.Second, time.Millisecond)
	change, err := a.Control(t.Context(), pipeline.ControlDeploy, "greedy", greedyVariant(t, "1.1.0"))
	require.NoError(t, err)
	require.Positive(t, change.Shown)
	again := c.alone(t)
	a.stopSources()
	stopApp(t, a)
	again.operator = spin("process", long, 3) // now it takes long, in the worker
	for range 2 {
		a, b := startApp(t, again.yaml(t))
		through(t, a)
		require.Contains(t, b.logged(), "took too long, now or in an earlier run")
		require.Equal(t, "greedy@0.9.0", a.Modules()[0][0].Module)
		stopApp(t, a)
		parked(t)
		again = again.alone(t)
	}
}

// With on_error: stop the pipeline stops there again, until the module has more time.
func TestDeadlineCanBeRaised(t *testing.T) {
	for where, speed := range map[string]string{"process": "max", "snapshot": `"100"`} {
		c := clocked{dir: t.TempDir(), rec: recording(t, 1200), checkpoint: "100ms", speed: speed, operator: "on_error: stop, " + spin(where, long, 2)}
		a, _ := startApp(t, c.yaml(t))
		finished(t, a)
		require.Eventually(t, func() bool { return a.Err() != nil }, 30*time.Second, 10*time.Millisecond)
		require.ErrorContains(t, a.Stop(timeout(t, 20*time.Second)), "penstock_"+where+": it takes longer than 1s: if it needs more, raise deadline")
		require.Len(t, a.journal.Kills(0), 1)

		again := c.alone(t)
		a, _ = startApp(t, again.yaml(t))
		finished(t, a)
		require.Eventually(t, func() bool { return a.Err() != nil }, 30*time.Second, 10*time.Millisecond)
		require.ErrorContains(t, a.Stop(timeout(t, 20*time.Second)), "penstock_"+where)
		require.Len(t, a.journal.Kills(0), 1)
		if where == "process" {
			again.operator = strings.Replace(again.operator, "deadline: 1s", "deadline: 1m", 1)
			a, _ = startApp(t, again.yaml(t))
			through(t, a)
			stopApp(t, a)
		}
		parked(t)
	}
}

// With on_error: stop it is the same for the state that a change of modules asks for:
// the pipeline stops there, live and in a replay.
func TestStateForAChangeStops(t *testing.T) {
	for _, action := range []string{pipeline.ControlShadow, pipeline.ControlDeploy} {
		c := clocked{dir: t.TempDir(), rec: recording(t, 400), rows: 50, speed: `"20"`, operator: "on_error: stop, " + spin("snapshot", long, 1)}
		a, _ := startApp(t, c.yaml(t))
		require.Eventually(t, func() bool { return a.workers[0].Load().Seq() > 2 }, 30*time.Second, time.Millisecond)
		_, err := a.Control(t.Context(), action, "greedy", greedyVariant(t, "1.1.0"))
		require.ErrorContains(t, err, "the pipeline ends")
		again := c.alone(t)
		require.ErrorContains(t, a.Stop(timeout(t, 20*time.Second)), "penstock_snapshot: it takes longer than 1s")
		a, _ = startApp(t, again.yaml(t))
		require.Eventually(t, func() bool { return a.Err() != nil }, 30*time.Second, time.Millisecond)
		require.ErrorContains(t, a.Stop(timeout(t, 20*time.Second)), "penstock_snapshot: it takes longer than 1s")
		parked(t)
	}
}

// A candidate that does not say its state is not promoted, live and in a replay.
func TestPromoteWithoutAState(t *testing.T) {
	for _, on := range []string{"drop", "stop"} {
		c := clocked{dir: t.TempDir(), rec: recording(t, 400), rows: 50, speed: `"20"`, operator: "on_error: " + on + ", " + spin("snapshot", long, 4)}
		a, _ := startApp(t, c.yaml(t))
		_, err := a.Control(t.Context(), pipeline.ControlShadow, "greedy", greedyVariant(t, "1.1.0"))
		require.NoError(t, err)
		require.Eventually(t, func() bool { return a.workers[0].Load().Seq() > 8 }, 30*time.Second, time.Millisecond)
		_, err = a.Control(t.Context(), pipeline.ControlPromote, "greedy", nil)
		require.ErrorContains(t, err, "the shadow of operator greedy has failed: ")
		require.Equal(t, "greedy@1.0.0", a.Modules()[0][0].Module)
		require.NoError(t, a.Err())
		again := c.alone(t)
		a.stopSources()
		a.Stop(timeout(t, 20*time.Second)) //nolint:errcheck // the module's state is late there too
		a, b := startApp(t, again.yaml(t))
		finished(t, a)
		require.Eventually(t, func() bool { n, _ := a.Backlog(); return n == 0 }, 30*time.Second, time.Millisecond)
		require.NoError(t, a.Err())
		require.Equal(t, "greedy@1.0.0", a.Modules()[0][0].Module)
		require.Contains(t, b.logged(), "the shadow of operator greedy has failed: ")
		a.Stop(timeout(t, 20*time.Second)) //nolint:errcheck // as above
		parked(t)
	}
}

// A worker that is replaced runs the modules that it ran, though another one stands
// in a file by now.
func TestReplacedWorkerRunsTheSame(t *testing.T) {
	file := filepath.Join(t.TempDir(), "score.wasm")
	require.NoError(t, os.WriteFile(file, variant(t, version("1.1.0")), 0o600))
	c := clocked{dir: t.TempDir(), rec: recording(t, 4000), rows: 50, speed: `"400"`, checkpoint: "100ms", operator: spin("process", forEver, 5),
		more: fmt.Sprintf("  - {name: other, type: wasm, inputs: [score], module: %q, params: {half_life: 30s}, prefix: other_}", file)}
	yaml := strings.Replace(c.yaml(t), "inputs: [score, alerts]", "inputs: [other, alerts]", 1)
	a, b := startApp(t, yaml)
	before := a.Modules()
	require.NoError(t, os.WriteFile(file+"x", variant(t, version("9.9.9")), 0o600))
	require.NoError(t, os.Rename(file+"x", file))
	through(t, a)
	require.Contains(t, b.logged(), "a worker is replaced")
	for i, n := range a.Modules()[0] {
		require.Equal(t, before[0][i].Digest, n.Digest)
	}
	require.NotContains(t, b.logged(), "starts afresh: it is new or its settings have changed")
	stopApp(t, a)
	parked(t)
}

// A kill of a shadow does not touch another run of the same module: a shadow that was
// promoted before, or is tried again later.
func TestKilledShadow(t *testing.T) {
	dir := t.TempDir()
	a, _ := startApp(t, fmt.Sprintf(swapYAML, dir, 1, `"20"`, recording(t, 400), t.TempDir()))
	code := variant(t, version("1.1.0"))
	_, err := a.Control(t.Context(), pipeline.ControlShadow, "score", code)
	require.NoError(t, err)
	c, err := a.Control(t.Context(), pipeline.ControlPromote, "score", nil)
	require.NoError(t, err)
	after := journal.Kill{Seq: a.journal.End(0) + 1000, Node: "score/shadow", Digest: c.Digest, After: time.Minute, Call: 1}
	require.NoError(t, a.journal.AddKill(t.Context(), after))
	stopApp(t, a)
	a, _ = startApp(t, fmt.Sprintf(swapYAML, onlyJournal(t, dir), 1, `"20"`, emptyRecording(t), t.TempDir()))
	stopApp(t, a)
	require.Equal(t, c.Digest, a.Modules()[0][0].Digest)

	a, _ = startApp(t, fmt.Sprintf(swapYAML, dir, 1, `"20"`, recording(t, 400), t.TempDir()))
	d, err := a.modules.put(variant(t, version("1.2.0")))
	require.NoError(t, err)
	require.NoError(t, a.journal.AddKill(t.Context(), journal.Kill{Seq: 1, Node: "score/shadow", Digest: d, After: time.Minute, Call: 1})) // long ago
	_, err = a.Control(t.Context(), pipeline.ControlShadow, "score", variant(t, version("1.2.0")))
	require.NoError(t, err)
	stopApp(t, a)
	a, _ = startApp(t, fmt.Sprintf(swapYAML, dir, 1, `"20"`, emptyRecording(t), t.TempDir()))
	require.NotNil(t, a.Modules()[0][0].Shadow)
	stopApp(t, a)
}

// ends is a context that ends just after it was looked at.
type ends struct {
	context.Context
	looked *int
}

func (e ends) Err() error {
	if *e.looked++; *e.looked == 1 {
		return nil
	}
	return e.Context.Err()
}

// A stop while a worker is being replaced is a stop.
func TestStopWhileAWorkerIsReplaced(t *testing.T) {
	a, _ := startApp(t, fmt.Sprintf(swapYAML, t.TempDir(), 1, `"20"`, recording(t, 400), t.TempDir()))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	a.stopRest() // the worker that is replaced here does come back
	require.True(t, ended(&a.rest, time.Minute))
	a.rest.Add(1)
	a.forget[0] = a.rest.Done
	a.replace(ends{ctx, new(int)}, 0, errors.New("it does not come back"))
	require.NoError(t, a.Err())
	a.stopSources()
	require.NoError(t, a.Stop(timeout(t, 20*time.Second)))
}

// onlyJournal copies the journal of a pipeline, and its modules: no checkpoint, no
// queue.
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
