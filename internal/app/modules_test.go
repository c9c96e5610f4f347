package app

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/penstock/penstock/operators/modules"
	"github.com/penstock/penstock/operators/wasm"
	"github.com/penstock/penstock/operators/wasm/oci"
	"github.com/penstock/penstock/operators/wasm/trust"
	"github.com/penstock/penstock/pipeline"
)

// variant is the shipped ewma with another manifest.
func variant(t *testing.T, change func(*wasm.Manifest)) []byte {
	code, ok := modules.Get("ewma")
	require.True(t, ok)
	m, err := wasm.ReadManifest(code)
	require.NoError(t, err)
	change(&m)
	m.Golden = nil // of other defaults
	out, err := wasm.Pack(code, m)
	require.NoError(t, err)
	return out
}

func version(v string) func(*wasm.Manifest) { return func(m *wasm.Manifest) { m.Version = v } }

const swapYAML = `version: 1
name: swap
journal: {dir: %q, shards: %d}
sources:
  - {name: rec, type: replay, speed: %s, path: %q, batch: {max_rows: 50, linger: 1ms}}
operators:
  - {name: score, type: wasm, inputs: [rec], module: ewma, params: {half_life: 30s, warmup: 5, freeze: 0s}}
alerts:
  - {name: unusual, input: score, column: score, above: 2.5, off_delay: 1s}
sinks:
  - {name: files, type: archive, inputs: [score, alerts], dir: %q}
http: {listen: ""}
`

func finished(t *testing.T, a *App) {
	t.Helper()
	select {
	case <-a.Done():
	case <-time.After(time.Minute):
		t.Fatal("the replay does not end")
	}
}

// swapping deploys modules in turn until the pipeline ends, and returns how
// often, and the longest pause. It lets the recording go on after two.
func swapping(t *testing.T, a *App, goOn func(), variants ...[]byte) (n int, longest time.Duration) {
	for ; ; n++ {
		if n == 2 {
			goOn()
		}
		c, err := a.Control(t.Context(), pipeline.ControlDeploy, "score", variants[n%len(variants)])
		select {
		case <-a.Done():
			return n, longest
		default:
		}
		require.NoError(t, err)
		require.True(t, c.Carried)
		longest = max(longest, c.Pause)
	}
}

func sorted(rows []string) []string { return slices.Sorted(slices.Values(rows)) }

// Modules that understand each other's state are swapped all the time, in
// every shard: the rows and alerts are those of a run without.
func TestSwapLosesAndRepeatsNothing(t *testing.T) {
	rec := recording(t, 8_000)
	a, want := startApp(t, fmt.Sprintf(swapYAML, t.TempDir(), 2, "max", rec, t.TempDir()))
	finished(t, a)
	require.Zero(t, stopApp(t, a).Lost())

	path, goOn := inTwo(t, rec, 4_000)
	a, got := startApp(t, fmt.Sprintf(swapYAML, t.TempDir(), 2, `"2000"`, path, t.TempDir()))
	n, longest := swapping(t, a, goOn, variant(t, version("1.0.1")), variant(t, version("1.0.2")))
	require.Zero(t, stopApp(t, a).Lost())
	t.Logf("%d swaps, longest pause %v", n, longest)
	require.Less(t, longest, time.Second)
	require.Equal(t, sorted(want.rows["score"]), sorted(got.rows["score"]))
	require.NotEmpty(t, want.rows["unusual"])
	require.Equal(t, sorted(want.rows["unusual"]), sorted(got.rows["unusual"]))
}

// What was deployed, what ran before and what runs beside it outlive the
// process; a config that names another module since wins.
func TestSwapOutlivesTheProcess(t *testing.T) {
	dir, rec := t.TempDir(), recording(t, 400)
	yaml := fmt.Sprintf(swapYAML, dir, 1, `"20"`, rec, t.TempDir())
	a, _ := startApp(t, yaml)
	base := a.Modules()[0][0].Digest
	d1, err := a.Control(t.Context(), pipeline.ControlDeploy, "score", variant(t, version("1.1.0")))
	require.NoError(t, err)
	require.Equal(t, "ewma@1.1.0", d1.Module)
	_, err = a.Control(t.Context(), pipeline.ControlShadow, "score", variant(t, version("1.2.0")))
	require.NoError(t, err)
	stopApp(t, a)

	a, b := startApp(t, yaml)
	s := a.Modules()[0][0]
	require.Equal(t, d1.Digest, s.Digest)
	require.Equal(t, base, s.Previous)
	require.NotNil(t, s.Shadow)
	require.Equal(t, "ewma@1.2.0", s.Shadow.Module)
	require.NotContains(t, b.logged(), "starts afresh")
	require.Contains(t, b.logged(), "the module that was deployed last runs, and not that of the config")
	c, err := a.Control(t.Context(), pipeline.ControlPromote, "score", nil)
	require.NoError(t, err)
	require.Equal(t, "ewma@1.2.0", c.Module)
	require.True(t, c.Carried)
	c, err = a.Control(t.Context(), pipeline.ControlRollback, "score", nil)
	require.NoError(t, err)
	require.Equal(t, d1.Digest, c.Digest)
	_, err = a.Control(t.Context(), pipeline.ControlRollback, "score", nil)
	require.ErrorContains(t, err, "has run no other module before")
	stopApp(t, a)

	// Its file is gone: the one of the config runs, and it is said.
	require.NoError(t, os.Remove(filepath.Join(dir, "deployed", d1.Digest+".wasm")))
	a, b = startApp(t, yaml)
	require.Equal(t, base, a.Modules()[0][0].Digest)
	require.Contains(t, b.logged(), "cannot be opened")
	stopApp(t, a)
}

// The disk does not fill with modules that were deployed once: what neither runs,
// nor ran before, nor is in the journal any more leaves its name only.
func TestModulesThatNobodyUsesGo(t *testing.T) {
	dir := t.TempDir()
	a, _ := startApp(t, fmt.Sprintf(swapYAML, dir, 1, `"20"`, recording(t, 400), t.TempDir()))
	var digests []string
	size := func(i int) int64 {
		info, err := os.Stat(filepath.Join(dir, "deployed", digests[i]+".wasm"))
		require.NoError(t, err)
		return info.Size()
	}
	deploy := func(i int) {
		c, err := a.Control(t.Context(), pipeline.ControlDeploy, "score", variant(t, version(fmt.Sprint("1.1.", i))))
		require.NoError(t, err)
		digests = append(digests, c.Digest)
	}
	for i := range 4 {
		deploy(i)
	}
	for i := range 4 { // the journal may ask for each of them
		require.Positive(t, size(i))
		old := time.Now().Add(-2 * time.Hour)
		require.NoError(t, os.Chtimes(filepath.Join(dir, "deployed", digests[i]+".wasm"), old, old))
	}
	deploy(4)
	require.Equal(t, []bool{false, false, true, true, true}, []bool{size(0) > 0, size(1) > 0, size(2) > 0, size(3) > 0, size(4) > 0})
	deploy(0)
	require.Positive(t, size(0))
	stopApp(t, a)
}

// What the newest checkpoint names is there when power fails after a change.
func TestModulesOfTheCheckpointStay(t *testing.T) {
	dir := t.TempDir()
	yaml := func(dir, checkpoint, rec string) string {
		return strings.Replace(fmt.Sprintf(swapYAML, dir, 1, `"20"`, rec, t.TempDir()), "shards: 1}", "shards: 1, checkpoint: "+checkpoint+"}", 1)
	}
	a, _ := startApp(t, yaml(dir, "100ms", recording(t, 400)))
	var digests []string
	for _, v := range []string{"1.1.0", "1.2.0"} {
		c, err := a.Control(t.Context(), pipeline.ControlDeploy, "score", variant(t, version(v)))
		require.NoError(t, err)
		digests = append(digests, c.Digest)
	}
	stopApp(t, a)
	old := time.Now().Add(-2 * time.Hour)
	for _, d := range digests {
		require.NoError(t, os.Chtimes(filepath.Join(dir, "deployed", d+".wasm"), old, old))
	}
	a, _ = startApp(t, yaml(dir, "1h", recording(t, 400)))
	require.Equal(t, digests[1], a.Modules()[0][0].Digest)
	c, err := a.Control(t.Context(), pipeline.ControlRollback, "score", nil)
	require.NoError(t, err)
	require.Equal(t, digests[0], c.Digest)
	crashed := t.TempDir()
	require.NoError(t, os.CopyFS(crashed, os.DirFS(dir)))
	stopApp(t, a)
	a, _ = startApp(t, yaml(crashed, "1h", emptyRecording(t)))
	finished(t, a)
	a.settle(timeout(t, time.Minute))
	require.Equal(t, digests[0], a.Modules()[0][0].Digest)
	stopApp(t, a)
}

// What cannot run is refused before the flow is asked, and nothing changes.
func TestDeployRefused(t *testing.T) {
	dir := t.TempDir()
	path, goOn := inTwo(t, recording(t, 400), 200)
	a, b := startApp(t, fmt.Sprintf(swapYAML, dir, 1, `"200"`, path, t.TempDir()))
	base := a.Modules()[0][0].Digest
	hampel, _ := modules.Get("hampel")
	for want, try := range map[string]func() error{
		"it makes other columns": func() error {
			_, err := a.Control(t.Context(), pipeline.ControlDeploy, "score", hampel)
			return err
		},
		"no wasm operator": func() error {
			_, err := a.Control(t.Context(), pipeline.ControlDeploy, "nobody", hampel)
			return err
		},
		"cannot run the module": func() error {
			_, err := a.Control(t.Context(), pipeline.ControlDeploy, "score", []byte("\x00asm\x01\x00\x00\x00junk"))
			return err
		},
		"larger than": func() error {
			_, err := a.Control(t.Context(), pipeline.ControlDeploy, "score", make([]byte, wasm.MaxModuleSize+1))
			return err
		},
		"has no candidate": func() error {
			_, err := a.Control(t.Context(), pipeline.ControlPromote, "score", nil)
			return err
		},
	} {
		require.ErrorContains(t, try(), want)
	}
	require.Equal(t, base, a.Modules()[0][0].Digest)
	goOn()
	stopApp(t, a)
	require.Len(t, b.rows["score"], len(b.rows["rec"]))
}

// A state that the new module does not understand: it starts afresh, and is
// shown the journal first. What it then makes is what it makes when it runs from
// the beginning, as its warm-up is long past.
func TestDeployStartsAfresh(t *testing.T) {
	rec := recording(t, 400)
	path, goOn := inTwo(t, rec, 100)
	a, b := startApp(t, fmt.Sprintf(swapYAML, t.TempDir(), 1, "max", path, t.TempDir()))
	require.Eventually(t, func() bool { b.mu.Lock(); defer b.mu.Unlock(); return len(b.rows["score"]) > 20 }, 20*time.Second, time.Millisecond)
	c, err := a.Control(t.Context(), pipeline.ControlDeploy, "score", variant(t, func(m *wasm.Manifest) { m.Version, m.State = "2.0.0", "2" }))
	require.NoError(t, err)
	require.False(t, c.Carried)
	require.Contains(t, b.logged(), "starts afresh")
	b.mu.Lock()
	before := len(b.rows["score"])
	b.mu.Unlock()
	require.GreaterOrEqual(t, c.Shown, int64(20))
	require.LessOrEqual(t, c.Shown, int64(before))
	goOn()
	finished(t, a)
	require.Zero(t, stopApp(t, a).Lost())
	other, want := startApp(t, fmt.Sprintf(swapYAML, t.TempDir(), 1, "max", rec, t.TempDir()))
	finished(t, other)
	stopApp(t, other)
	require.Equal(t, sorted(want.rows["score"]), sorted(b.rows["score"]))
}

// A candidate that flags more is compared, alerts and all; what the pipeline
// gives is what it gives without.
func TestShadow(t *testing.T) {
	rec := recording(t, 3000)
	a, want := startApp(t, fmt.Sprintf(swapYAML, t.TempDir(), 1, "max", rec, t.TempDir()))
	finished(t, a)
	stopApp(t, a)

	dir := t.TempDir()
	path, goOn := inTwo(t, rec, 0)
	a, got := startApp(t, fmt.Sprintf(swapYAML, dir, 1, "max", path, t.TempDir()))
	more := variant(t, func(m *wasm.Manifest) {
		m.Version = "1.1.0"
		m.Golden = nil // they are of the other default
		for i := range m.Params {
			if m.Params[i].Name == "threshold" {
				m.Params[i].Default = 1.0
			}
		}
	})
	_, err := a.Control(t.Context(), pipeline.ControlShadow, "score", more)
	require.NoError(t, err)
	goOn()
	finished(t, a)
	a.settle(timeout(t, 10*time.Second))
	require.Eventually(t, func() bool { return a.Modules()[0][0].Shadow.Rows > 2000 }, 10*time.Second, time.Millisecond, "as of a checkpoint")
	stopApp(t, a)
	s := a.Modules()[0][0].Shadow
	require.Equal(t, sorted(want.rows["score"]), sorted(got.rows["score"])) // batches are cut by the clock
	require.Equal(t, sorted(want.rows["unusual"]), sorted(got.rows["unusual"]))
	require.Empty(t, s.Failed)
	require.Zero(t, s.OtherRows)
	require.Positive(t, s.LiveNsPerRow)
	require.Positive(t, s.CandidateNsPerRow)
	names := map[string]int64{}
	for _, c := range s.Columns {
		names[c.Name] = c.Different
		if c.Name == "flag" {
			require.Greater(t, c.OnlyCandidate, int64(100))
			require.Zero(t, c.OnlyLive)
		}
		if c.Name == "score" {
			require.Equal(t, c.Live, c.Candidate)
			require.InDelta(t, 0, c.Live.P50, 0.3)
			require.Less(t, c.Live.P1, -1.5)
			require.Greater(t, c.Live.P99, 1.5)
		}
	}
	require.Contains(t, names, "flag")
	require.Zero(t, names["score"])
	require.NotContains(t, names, "value", "the input's own column")
	require.Equal(t, s.Alerts.Live, s.Alerts.Candidate, "the rule reads the score, which is the same")
	require.Positive(t, s.Alerts.Live)
	require.Empty(t, s.Alerts.OnlyLive)

	// A restart goes on with the comparison.
	a, _ = startApp(t, fmt.Sprintf(swapYAML, dir, 1, "max", emptyRecording(t), t.TempDir()))
	stopApp(t, a)
	require.Equal(t, s, a.Modules()[0][0].Shadow)
}

func timeout(t *testing.T, d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

// Two people at once, and a status in between: one after the other.
func TestControlsAtOnce(t *testing.T) {
	a, _ := startApp(t, fmt.Sprintf(swapYAML, t.TempDir(), 2, `"20"`, recording(t, 3000), t.TempDir()))
	var wg sync.WaitGroup
	for i := range 4 {
		wg.Go(func() {
			for k := range 3 {
				if _, err := a.Control(t.Context(), pipeline.ControlDeploy, "score", variant(t, version(fmt.Sprintf("1.%d.%d", i, k)))); err != nil {
					t.Error(err)
				}
				a.Modules()
			}
		})
	}
	wg.Wait()
	m := a.Modules()
	require.Equal(t, m[0][0].Digest, m[1][0].Digest)
	stopApp(t, a)
}

// A module that is renamed over a watched file runs soon after; one that cannot
// run is said, and changes nothing.
func TestWatch(t *testing.T) {
	file := filepath.Join(t.TempDir(), "mine.wasm")
	write := func(code []byte) {
		require.NoError(t, os.WriteFile(file+".new", code, 0o600))
		require.NoError(t, os.Rename(file+".new", file))
	}
	write(variant(t, version("1.0.1")))
	yaml := strings.Replace(fmt.Sprintf(swapYAML, t.TempDir(), 1, `"20"`, recording(t, 3000), t.TempDir()), "module: ewma", fmt.Sprintf("module: %q, watch: true", file), 1)
	a, b := startApp(t, yaml)
	runs := func() string { return a.Modules()[0][0].Module }
	require.Equal(t, "ewma@1.0.1", runs())
	write(variant(t, version("1.0.2")))
	require.Eventually(t, func() bool { return runs() == "ewma@1.0.2" }, 30*time.Second, 5*time.Millisecond)
	write([]byte("nonsense"))
	require.Eventually(t, func() bool {
		return strings.Contains(b.logged(), "the module that came to what is watched does not run")
	}, 30*time.Second, 5*time.Millisecond)
	require.Equal(t, "ewma@1.0.2", runs())
	stopApp(t, a)
}

// What comes under a watched tag runs when a trusted key signed it, and not
// again after a restart when it was taken back.
func TestWatchTag(t *testing.T) {
	key, err := trust.GenerateKey()
	require.NoError(t, err)
	signed := func(v string) []byte {
		code, err := trust.Sign(variant(t, version(v)), key)
		require.NoError(t, err)
		return code
	}
	folder, dir := filepath.Join(t.TempDir(), "stick"), t.TempDir()
	push := func(code []byte) oci.Reference {
		ref, err := oci.Parse("oci-layout:" + folder + ":stable")
		require.NoError(t, err)
		d, err := (&oci.Client{}).Push(t.Context(), code, ref)
		require.NoError(t, err)
		return ref.Pinned(d)
	}
	ref := push(signed("1.0.1"))
	config := func(module, section string) string {
		yaml := fmt.Sprintf(swapYAML, filepath.Join(dir, "data"), 1, `"20"`, recording(t, 4000), t.TempDir())
		return strings.Replace(yaml, "module: ewma", fmt.Sprintf("module: %q, watch: true", module), 1) + section
	}
	section := fmt.Sprintf("modules: {trust: [%q]}\n", trust.PublicKey(key, "ops").String())
	yaml := config(ref.String(), section)
	a, b := startApp(t, yaml)
	runs := func() string { return a.Modules()[0][0].Module }
	require.Equal(t, "ewma@1.0.1", runs())
	push(variant(t, version("1.0.2")))
	require.Eventually(t, func() bool { return strings.Contains(b.logged(), "no key in modules.trust signed it") }, 30*time.Second, 5*time.Millisecond)
	require.Equal(t, "ewma@1.0.1", runs())
	push(signed("1.0.3"))
	require.Eventually(t, func() bool { return runs() == "ewma@1.0.3" }, 30*time.Second, 5*time.Millisecond)
	require.NoError(t, os.Rename(folder, folder+".away"))
	require.Eventually(t, func() bool { return strings.Contains(b.logged(), "what is watched cannot be looked at") }, 30*time.Second, 5*time.Millisecond)
	require.NoError(t, os.Rename(folder+".away", folder))
	_, err = a.Control(t.Context(), pipeline.ControlRollback, "score", nil)
	require.NoError(t, err)
	stopApp(t, a)

	a, b = startApp(t, yaml)
	require.Eventually(t, func() bool { return strings.Contains(b.logged(), "was deployed before") }, 30*time.Second, 5*time.Millisecond)
	require.Equal(t, "ewma@1.0.1", runs())
	push(signed("1.0.4"))
	require.Eventually(t, func() bool { return runs() == "ewma@1.0.4" }, 30*time.Second, 5*time.Millisecond)
	stopApp(t, a)

	untagged := ref
	untagged.Tag = ""
	for want, yaml := range map[string]string{
		"has no tag to look at":           config(untagged.String(), section),
		"modules.trust lists no key":      config(ref.String(), ""),
		"ewma is no file that could chan": config("ewma", section),
	} {
		file := filepath.Join(t.TempDir(), "p.yaml")
		require.NoError(t, os.WriteFile(file, []byte(yaml), 0o600))
		_, _, err := Load(t.Context(), file)
		require.ErrorContains(t, err, want)
	}
}

// What was prepared for a control is not for an older one that asks the same, and is
// done again after a restart: it has been shown what came since.
func TestPreparedIsForItsControl(t *testing.T) {
	k := preparedKey{0, "score", "digest", false}
	s := swaps{prepared: map[preparedKey]prepared{k: {after: 50}}}
	_, ok := s.take(k, 31)
	require.False(t, ok)
	_, ok = s.take(k, 51)
	require.True(t, ok)
	_, ok = s.take(k, 52)
	require.False(t, ok)
}
