package app

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/apache/arrow/go/v17/arrow"
	"github.com/stretchr/testify/require"

	"github.com/penstock/penstock/pipeline"
	"github.com/penstock/penstock/pipeline/config"
	"github.com/penstock/penstock/pipeline/graph"
)

// book keeps a log and the rows that flowed. Safe for concurrent use.
type book struct {
	mu   sync.Mutex
	log  bytes.Buffer
	rows map[string][]string // by node
	// count, when set, is told of each record in place of rows.
	count func(node string, n int, row func(int) string)
}

func (b *book) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.log.Write(p)
}

func (b *book) logged() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.log.String()
}

func (b *book) tap(node string, rec arrow.Record) {
	b.mu.Lock()
	defer b.mu.Unlock()
	row := func(i int) string {
		var s strings.Builder
		for c, f := range rec.Schema().Fields() {
			if f.Name != pipeline.NameReceived {
				fmt.Fprint(&s, f.Name, "=", rec.Column(c).ValueStr(i), " ")
			}
		}
		return s.String()
	}
	if b.count != nil {
		b.count(node, int(rec.NumRows()), row)
		return
	}
	for i := range int(rec.NumRows()) {
		b.rows[node] = append(b.rows[node], row(i))
	}
}

func startApp(t *testing.T, yaml string) (*App, *book) {
	t.Helper()
	return startWith(t, yaml, &book{rows: map[string][]string{}})
}

func startWith(t *testing.T, yaml string, b *book) (*App, *book) {
	t.Helper()
	cfg, err := config.Parse("test.yaml", []byte(yaml), Registry())
	require.NoError(t, err)
	a, err := Start(t.Context(), Options{Config: cfg, Meter: pipeline.NewMeter(), Log: slog.New(slog.NewTextHandler(b, nil)), Tap: b.tap})
	require.NoError(t, err)
	return a, b
}

func stopApp(t *testing.T, a *App) *Summary {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	require.NoError(t, a.Stop(ctx))
	return a.Summary()
}

// recording writes a CSV of a few assets with irregular times.
func recording(t *testing.T, rows int) string {
	rng := rand.New(rand.NewPCG(3, 4))
	var b strings.Builder
	b.WriteString("time,tag,value\n")
	at := time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC)
	for range rows {
		at = at.Add(time.Duration(rng.IntN(2000)) * time.Millisecond)
		fmt.Fprintf(&b, "%s,plant/pump%d/m%d,%.3f\n", at.Format(time.RFC3339Nano), rng.IntN(6), rng.IntN(3), 20+rng.NormFloat64())
	}
	path := filepath.Join(t.TempDir(), "rec.csv")
	require.NoError(t, os.WriteFile(path, []byte(b.String()), 0o600))
	return path
}

const shardsYAML = `version: 1
name: shards
journal: {dir: %q, shards: %d}
sources:
  - {name: rec, type: replay, speed: max, path: %q, batch: {max_rows: 700}}
operators:
  - {name: per_minute, type: window, inputs: [rec], every: 60s, aggregates: [mean, max, rate]}
  - {name: score, type: wasm, inputs: [rec], module: ewma, params: {half_life: 30s}}
alerts:
  - {name: high, input: rec, column: value, above: 22.5}
sinks:
  - {name: files, type: archive, inputs: [rec, per_minute, score, alerts], dir: %q}
http: {listen: ""}
`

// Shards share the work and change nothing else: each node gives the same
// rows, each tag's in the same order.
func TestShardsGiveTheSame(t *testing.T) {
	rec := recording(t, 5000)
	byTag := func(rows []string) []string {
		tag := func(s string) string {
			i := strings.Index(s, "tag=")
			return s[i : i+strings.IndexByte(s[i:], ' ')]
		}
		slices.SortStableFunc(rows, func(a, b string) int { return strings.Compare(tag(a), tag(b)) })
		return rows
	}
	var want map[string][]string
	for _, shards := range []int{1, 2, 3} {
		a, b := startApp(t, fmt.Sprintf(shardsYAML, t.TempDir(), shards, rec, t.TempDir()))
		select {
		case <-a.Done():
		case <-time.After(30 * time.Second):
			t.Fatal("the replay does not end")
		}
		s := stopApp(t, a)
		require.Zero(t, s.Lost())
		require.Empty(t, s.Readings.Dropped)
		require.EqualValues(t, 5000, s.Readings.Processed)
		for n := range b.rows {
			b.rows[n] = byTag(b.rows[n])
		}
		if want == nil {
			want = b.rows
			require.Len(t, want["rec"], 5000)
			require.Len(t, want["score"], 5000)
			require.NotEmpty(t, want["high"])
			require.Greater(t, len(want["per_minute"]), 1000)
			continue
		}
		for n := range want {
			require.Equal(t, want[n], b.rows[n], "%d shards: %s", shards, n)
		}
	}
}

// An operator whose settings have changed starts afresh; the others keep
// their state.
func TestChangedOperatorStartsAfresh(t *testing.T) {
	yaml := func(dir, every string) string {
		return fmt.Sprintf(`version: 1
name: fresh
journal: {dir: %q}
sources:
  - {name: rec, type: replay, speed: max, path: %q}
operators:
  - {name: same, type: window, inputs: [rec], every: 60s, aggregates: [mean]}
  - {name: changed, type: window, inputs: [rec], every: %s, aggregates: [mean]}
  - {name: after, type: filter, inputs: [changed], expr: "mean > 0"}
sinks:
  - {name: files, type: archive, inputs: [same, after], dir: %q}
http: {listen: ""}
`, dir, recording(t, 10), every, t.TempDir())
	}
	dir := t.TempDir()
	for i, every := range []string{"60s", "60s", "30s"} {
		a, b := startApp(t, yaml(dir, every))
		<-a.Done()
		stopApp(t, a)
		// The path of the recording is no operator's setting.
		require.Equal(t, i == 2, strings.Contains(b.logged(), "operator=changed"), "run %d", i)
		require.NotContains(t, b.logged(), "operator=same")
		require.NotContains(t, b.logged(), "operator=after")
	}
}

// A sink that takes connections and never answers, its queue full, keeps a
// stop no longer than it may last; what it has not taken is there at the next
// start.
func TestStopIsBounded(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	dir := t.TempDir()
	a, b := startApp(t, fmt.Sprintf(`version: 1
name: bounded
journal: {dir: %q, queue_max_bytes: 1MiB, when_full: block}
sources:
  - {name: rec, type: replay, speed: max, path: %q, loop: true}
operators:
  - {name: all, type: filter, inputs: [rec], expr: "value > 0"}
sinks:
  - {name: influx, type: influxdb, inputs: [all], url: "http://%s", org: plant, bucket: penstock, token: "x:y"}
http: {listen: ""}
`, dir, recording(t, 20000), l.Addr()))
	full := func() bool {
		return strings.Contains(b.logged(), "full: waiting for readers")
	}
	require.Eventually(t, full, 20*time.Second, 5*time.Millisecond)
	ready, missing := a.Ready()
	require.False(t, ready)
	require.Contains(t, missing, "influx")
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	start := time.Now()
	require.NoError(t, a.Stop(ctx))
	require.Less(t, time.Since(start), 8*time.Second)
	require.NotContains(t, b.logged(), "left behind")
	require.NotZero(t, a.Summary().Lost())
}

type build struct{ digest string }

func (b build) Digest() string { return b.digest }

// A new build of a module does not get the state of the old one, and so does
// not keep the pipeline from starting after an upgrade.
func TestFingerprint(t *testing.T) {
	n := &graph.Node{Type: "wasm", Inputs: []graph.Ref{{Node: "plc"}}, In: pipeline.Readings}
	type set struct{ Module string }
	base := fingerprint(n, &set{"ewma"}, build{"1"})
	require.Equal(t, base, fingerprint(n, &set{"ewma"}, build{"1"}))
	require.NotEqual(t, base, fingerprint(n, &set{"cusum"}, build{"1"}))
	require.NotEqual(t, base, fingerprint(n, &set{"ewma"}, build{"2"}))
	other := *n
	other.Inputs = []graph.Ref{{Node: "floor"}}
	require.NotEqual(t, base, fingerprint(&other, &set{"ewma"}, build{"1"}))
	other = *n
	other.In = pipeline.AlertEvents
	require.NotEqual(t, base, fingerprint(&other, &set{"ewma"}, build{"1"}))
}

// A sink whose rows need a time says so before anything runs.
func TestSinksNeedATime(t *testing.T) {
	for _, sink := range []string{`archive, dir: ./a`, `influxdb, url: "http://127.0.0.1:1", org: o, bucket: b, token: t`} {
		cfg, err := config.Parse("test.yaml", fmt.Appendf(nil, `version: 1
name: timeless
sources:
  - {name: rec, type: replay, path: %q}
operators:
  - {name: greedy, type: wasm, inputs: [rec], module: %q}
sinks:
  - {name: out, type: %s, inputs: [rec, greedy]}
`, recording(t, 10), greedyFile, sink), Registry())
		require.NoError(t, err)
		_, err = Build(t.Context(), cfg)
		require.ErrorContains(t, err, `test.yaml:8:5: sinks[0]: the input has no timestamp column, and "time" is needed`)
	}
}
