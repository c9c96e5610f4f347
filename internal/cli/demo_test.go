package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"image"
	"image/color"
	"image/draw"
	"image/png"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/penstock/penstock/internal/app"
	"github.com/penstock/penstock/internal/testpeer"
	"github.com/penstock/penstock/pipeline"
	"github.com/penstock/penstock/simulators/plant"
)

func quiet(w io.Writer) (*slog.Logger, error) { return newLogger(w, "info", "text") }

// runDemo runs a demo in this process and returns its summary.
func runDemo(ctx context.Context, t *testing.T, f demoFlags) (*app.Summary, error) {
	t.Helper()
	f.summary = filepath.Join(t.TempDir(), "s.json")
	f.plain = true
	if f.listen == "" {
		f.listen = "127.0.0.1:0"
	}
	if f.seed == 0 {
		f.seed = 1
	}
	err := demo(ctx, f, quiet)
	data, rerr := os.ReadFile(f.summary)
	if rerr != nil {
		return nil, errors.Join(err, rerr)
	}
	s := &app.Summary{}
	require.NoError(t, json.Unmarshal(data, s))
	return s, err
}

// Two runs with the same seed publish the same number of readings, to the last
// step, and raise the same alerts at the same times of the plant.
func TestDemoRepeats(t *testing.T) {
	if testing.Short() {
		t.Skip("takes 42 s")
	}
	const length = 20 * time.Second
	var first []string
	var published int64
	for i := range 2 {
		dir := t.TempDir()
		s, err := runDemo(t.Context(), t, demoFlags{duration: length, dir: dir, seed: 3})
		require.NoError(t, err)
		require.Zero(t, s.Lost())
		require.Equal(t, *s.Readings.Published, s.Readings.Ingested)
		require.NotEmpty(t, s.Alerts)
		begin := s.Faults[0].Start // the seed says when that is after the start
		var list []string
		for _, a := range s.Alerts {
			list = append(list, fmt.Sprint(a.Raised.Sub(begin), " ", a.Rule, " ", a.Tag))
		}
		slices.Sort(list)
		if i == 0 {
			first, published = list, *s.Readings.Published
			continue
		}
		require.Equal(t, first, list)
		require.Equal(t, published, *s.Readings.Published)
		log, err := os.ReadFile(filepath.Join(dir, "penstock.log"))
		require.NoError(t, err)
		require.Contains(t, string(log), "alert")
		require.FileExists(t, filepath.Join(dir, "truth.json"))
	}
}

// A demo that is interrupted lets everything through that it has published.
func TestDemoInterrupted(t *testing.T) {
	ctx, interrupt := context.WithCancel(t.Context())
	defer interrupt()
	f := demoFlags{listen: fmt.Sprintf("127.0.0.1:%d", testpeer.FreePort(t))}
	go func() {
		defer interrupt()
		for ctx.Err() == nil {
			var s struct{ Readings map[string]int64 }
			r, err := http.Get("http://" + f.listen + "/api/state")
			if err == nil {
				err = json.NewDecoder(r.Body).Decode(&s)
				r.Body.Close()
			}
			if err == nil && s.Readings["ingested"] > 1500 {
				return
			}
		}
	}()
	s, err := runDemo(ctx, t, f)
	require.NoError(t, err)
	require.Greater(t, s.Readings.Ingested, int64(1500))
	require.Equal(t, *s.Readings.Published, s.Readings.Ingested)
	require.Equal(t, s.Readings.Ingested, s.Readings.Processed)
	for name, k := range s.Sinks {
		require.Equal(t, k.Queued, k.Accepted, name)
	}
}

// Whatever stage a reading is lost in, the demo fails.
func TestLost(t *testing.T) {
	n := int64(10)
	whole := func() *app.Summary {
		return &app.Summary{Readings: app.ReadingsSummary{Published: &n, Ingested: 10, Journaled: 10, Processed: 10},
			Sinks: map[string]app.SinkSummary{"a": {Queued: 10, Accepted: 10}}}
	}
	require.NoError(t, lost(whole()))
	for name, spoil := range map[string]func(s *app.Summary){
		"not ingested":  func(s *app.Summary) { s.Readings.Ingested, s.Readings.Journaled, s.Readings.Processed = 9, 9, 9 },
		"not journaled": func(s *app.Summary) { s.Readings.Journaled, s.Readings.Processed = 9, 9 },
		"not processed": func(s *app.Summary) { s.Readings.Processed = 9 },
		"not accepted":  func(s *app.Summary) { s.Sinks["a"] = app.SinkSummary{Queued: 10, Accepted: 9} },
		"dead-lettered": func(s *app.Summary) { s.Sinks["a"] = app.SinkSummary{Queued: 10, Accepted: 9, DeadLettered: 1} },
	} {
		s := whole()
		spoil(s)
		err := lost(s)
		require.ErrorIs(t, err, errLost, name)
		require.Contains(t, err.Error(), "1", name)
	}
}

// Wrong flags end the program before anything starts, with what to write.
func TestDemoFlags(t *testing.T) {
	good := demoFlags{listen: "127.0.0.1:0", org: "o", bucket: "b"}
	require.NoError(t, good.check())
	for want, spoil := range map[string]func(f *demoFlags){
		"--for -1s: write":         func(f *demoFlags) { f.duration = -time.Second },
		"--for 1ms: write":         func(f *demoFlags) { f.duration = time.Millisecond },
		`--listen "8080": write`:   func(f *demoFlags) { f.listen = "8080" },
		`--listen "host:": write`:  func(f *demoFlags) { f.listen = "host:" },
		"there is no folder":       func(f *demoFlags) { f.summary = "nowhere/at/all.json" },
		"is a folder":              func(f *demoFlags) { f.summary = t.TempDir() },
		`--influxdb: "ftp://x" is`: func(f *demoFlags) { f.influx = "ftp://x" },
		"--bucket: is empty":       func(f *demoFlags) { f.influx, f.bucket = "http://127.0.0.1:8086", "" },
	} {
		f := good
		spoil(&f)
		err := f.check()
		var usage usageError
		require.ErrorAs(t, err, &usage, want)
		require.Contains(t, err.Error(), want)
	}
}

// An address that is taken is said to be.
func TestDemoListenTaken(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	_, err = runDemo(t.Context(), t, demoFlags{listen: l.Addr().String()})
	require.ErrorContains(t, err, "listen: ")
	require.ErrorContains(t, err, l.Addr().String())
}

// TestPicture takes the README's picture: tools/screenshot.sh runs it.
func TestPicture(t *testing.T) {
	out := os.Getenv("PENSTOCK_PICTURE")
	if out == "" {
		t.Skip("tools/screenshot.sh runs it")
	}
	b := testpeer.Chromium(t, 1600, 1290)
	ctx, end := context.WithCancel(t.Context())
	defer end()
	f := demoFlags{listen: fmt.Sprintf("127.0.0.1:%d", testpeer.FreePort(t))}
	done := make(chan error, 1)
	go func() {
		_, err := runDemo(ctx, t, f)
		done <- err
	}()
	waitFor(t, "http://"+f.listen+"/readyz")
	b.Open("http://" + f.listen)
	<-time.After(33 * time.Second) // all eight kinds of fault are there by then
	img, err := png.Decode(bytes.NewReader(b.Screenshot()))
	require.NoError(t, err)
	var small bytes.Buffer
	require.NoError(t, (&png.Encoder{CompressionLevel: png.BestCompression}).Encode(&small, paletted(img)))
	require.NoError(t, os.WriteFile(out, small.Bytes(), 0o644))
	require.Empty(t, b.Errors())
	end()
	require.NoError(t, <-done)
}

// paletted reduces a picture to the 256 colours it has most of, for a small
// file: lines and letters on a dark ground hardly have more.
func paletted(img image.Image) image.Image {
	count := map[color.RGBA]int{}
	box := img.Bounds()
	for y := box.Min.Y; y < box.Max.Y; y++ {
		for x := box.Min.X; x < box.Max.X; x++ {
			count[color.RGBAModel.Convert(img.At(x, y)).(color.RGBA)]++
		}
	}
	colours := slices.Collect(maps.Keys(count))
	slices.SortFunc(colours, func(a, b color.RGBA) int { return count[b] - count[a] })
	var p color.Palette
	for _, c := range colours[:min(len(colours), 256)] {
		p = append(p, c)
	}
	out := image.NewPaletted(box, p)
	draw.Draw(out, box, img, box.Min, draw.Src)
	return out
}

func waitFor(t *testing.T, url string) {
	t.Helper()
	require.Eventually(t, func() bool {
		r, err := http.Get(url)
		if err == nil {
			r.Body.Close()
		}
		return err == nil && r.StatusCode == http.StatusOK
	}, 30*time.Second, 20*time.Millisecond, url)
}

// A picture fits its window, and a small one still shows what matters.
func TestLivePicture(t *testing.T) {
	s := testSnapshot()
	for _, size := range [][2]int{{79, 22}, {159, 48}, {200, 60}, {40, 10}} {
		lines := s.picture(size[0], size[1])
		require.LessOrEqual(t, len(lines), size[1])
		for _, l := range lines {
			require.LessOrEqual(t, len([]rune(l)), size[0], l)
		}
		text := strings.Join(lines, "\n")
		for _, want := range []string{"2160 readings/s", "Faults: 2 injected, 1 found, 1 false alarms"} {
			if size[0] > 50 {
				require.Contains(t, text, want, size)
			}
		}
		if size[0] > 70 {
			require.Contains(t, text, "after 2.0 s")
			require.Contains(t, text, "not yet")
			require.Contains(t, text, "Alerts: 1 active of 2")
			require.Contains(t, text, "cleared")
		}
		if size[1] > 40 {
			require.Contains(t, text, "ewma@1.0.0")
		}
	}
}

func testSnapshot() snapshot {
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	cleared := at.Add(9 * time.Second)
	return snapshot{url: "http://127.0.0.1:40000", tags: 255, elapsed: 12 * time.Second, rate: 2160, operators: []string{"score", "steady"},
		totals: pipeline.Totals{Ingested: 25000, Processed: 24900, Operators: map[string]pipeline.OperatorTotals{
			"score": {Module: "ewma@1.0.0", Engine: "wasmer", Rows: 24900, Calls: 100, Busy: time.Second}, "steady": {Rows: 24900, Busy: time.Second}}},
		alerts: []app.Alert{{Rule: "leak", Asset: "plant1/hall1/pump01", Tag: "plant1/hall1/pump01/flow_balance", Severity: "critical", Raised: at.Add(2 * time.Second)},
			{Rule: "unusual", Asset: "plant1/hall2/pump09", Tag: "plant1/hall2/pump09/flow", Severity: "warning", Raised: at.Add(3 * time.Second), Cleared: &cleared}},
		truth: []plant.FaultRecord{{Kind: plant.Leak, Asset: "plant1/hall1/pump01", Start: at}, {Kind: plant.Drift, Asset: "plant1/hall1/pump02", Start: at}},
	}
}
