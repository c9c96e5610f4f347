package app

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"runtime/debug"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/penstock/penstock/pipeline"
)

// many is how often a soak does a thing: a few times, or as often as
// PENSTOCK_SOAK says.
func many(t *testing.T, few int) int {
	s := os.Getenv("PENSTOCK_SOAK")
	if s == "" {
		return few
	}
	n, err := strconv.Atoi(s)
	require.NoError(t, err)
	return n
}

// plantRecording writes rows readings of 500 tags, so many for each second.
func plantRecording(t *testing.T, rows, perSecond int) string {
	var b bytes.Buffer
	b.WriteString("time,tag,value\n")
	start := time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC).UnixNano()
	for i := range rows {
		fmt.Fprintf(&b, "%s,plant/hall%d/pump%d/m%d,%d.%d\n", time.Unix(0, start+int64(i)*int64(time.Second)/int64(perSecond)).UTC().Format(time.RFC3339Nano), i%5, i/5%20, i/100%5, 20+i*7%11, i%10)
	}
	path := filepath.Join(t.TempDir(), "plant.csv")
	require.NoError(t, os.WriteFile(path, b.Bytes(), 0o600))
	return path
}

const soakYAML = `version: 1
name: soak
journal: {dir: %q}
sources:
  - {name: rec, type: replay, speed: 1x, path: %q, batch: {linger: 10ms}}
operators:
  - {name: score, type: wasm, inputs: [rec], module: ewma, engine: %s, params: {half_life: 30s, warmup: 5}}
alerts:
  - {name: unusual, input: score, column: value, above: 29.5, off_delay: 1h}
sinks:
  - {name: files, type: archive, inputs: [score, alerts], dir: %q}
http: {listen: ""}
`

func rss(t *testing.T) int {
	debug.FreeOSMemory()
	data, err := os.ReadFile("/proc/self/status")
	require.NoError(t, err)
	for line := range strings.Lines(string(data)) {
		if rest, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			kb, err := strconv.Atoi(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(rest), "kB")))
			require.NoError(t, err)
			return kb
		}
	}
	t.Fatal("no VmRSS")
	return 0
}

// At 50 000 readings a second modules are deployed and rolled back all the
// time: no row is lost or repeated, no alert comes twice, memory stays.
// PENSTOCK_SOAK=10000 makes it a long run, at 5 000 a second.
func TestSoakSwaps(t *testing.T) {
	if _, err := os.Stat("/proc/self/status"); err != nil {
		t.Skip("this system does not say how much memory a process has")
	}
	cycles := many(t, 60)
	rate, seconds := 50_000, max(2, cycles/40)
	if cycles >= 1000 {
		rate = 5000
	}
	rows := seconds * rate
	counted, seen := 0, map[string]int{}
	a, _ := startWith(t, fmt.Sprintf(soakYAML, t.TempDir(), plantRecording(t, rows, rate), "auto", t.TempDir()), &book{count: func(node string, n int, row func(int) string) {
		switch node {
		case "score":
			counted += n
		case "unusual":
			for i := range n {
				seen[row(i)]++
			}
		}
	}})
	one, two := variant(t, version("1.0.1")), variant(t, version("1.0.2"))
	var longest time.Duration
	done, before := 0, 0
	start, each := time.Now(), time.Duration(seconds)*time.Second*9/10/time.Duration(cycles)
	for ; done < cycles; done++ {
		time.Sleep(time.Until(start.Add(time.Duration(done) * each)))
		code := one
		if done%2 == 1 {
			code = two
		}
		c, err := a.Control(t.Context(), pipeline.ControlDeploy, "score", code)
		if err != nil {
			break
		}
		require.True(t, c.Carried)
		r, err := a.Control(t.Context(), pipeline.ControlRollback, "score", nil)
		if err != nil {
			break
		}
		require.True(t, r.Carried)
		longest = max(longest, c.Pause, r.Pause)
		if done == cycles/4 {
			before = rss(t)
		}
	}
	after := rss(t)
	finished(t, a)
	s := stopApp(t, a)
	t.Logf("%d deploys and rollbacks, %d rows, longest pause %v, RSS %d -> %d kB", done, rows, longest, before, after)
	require.Zero(t, s.Lost())
	require.EqualValues(t, rows, s.Readings.Processed)
	require.Equal(t, rows, counted)
	for row, n := range seen {
		require.Equal(t, 1, n, row)
	}
	require.Positive(t, done)
	if cycles >= 1000 {
		require.Equal(t, cycles, done)
		require.InDelta(t, before, after, 0.1*float64(before), "RSS in kB")
	}
}
