package web

import (
	"bytes"
	"image/color"
	"image/png"
	"math"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/penstock/penstock/internal/testpeer"
	"github.com/penstock/penstock/pipeline"
)

// The page in a real browser: trends with anomalies and Bad quality, alerts,
// faults and the graph are drawn, nothing is refused by the content policy,
// and a narrow window needs no sideways scrolling. Names that look like markup
// stay text.
func TestPageInBrowser(t *testing.T) {
	b := testpeer.Chromium(t, 1600, 1000)
	p := newTestPage(pipeline.TagRule{Match: "hall/*/*", Unit: "mm/s"})
	begin := time.Now().Add(-30 * time.Second)
	var values, flags []sample
	for i := range 300 {
		at := begin.Add(time.Duration(i) * 100 * time.Millisecond).UnixNano()
		x := sample{tag: "hall/motor/vibration", ns: at, value: math.Sin(float64(i) / 9)}
		y := sample{tag: "hall/pump/<img src=x onerror=alert(1)>", ns: at, value: float64(i)}
		if i > 200 {
			y.value, y.quality = math.NaN(), pipeline.Bad
		}
		values = append(values, x, y)
		x.flag = i > 150 && i < 200
		flags = append(flags, x)
	}
	p.Tap("plc", readings(t, false, values...))
	p.Tap("score", readings(t, true, flags...))
	delay, raised := 1.5, begin.Add(15*time.Second)
	p.Attach(Live{Graph: testGraph(), Alerts: func() []Alert {
		return []Alert{{ID: "1", Rule: "high", Asset: "hall/motor", Tag: "hall/motor/vibration", Severity: "critical", Raised: raised, Message: "too much"},
			{ID: "2", Rule: "high", Asset: "hall/pump", Tag: "hall/pump/<img src=x onerror=alert(1)>", Severity: "info", Raised: raised, Cleared: &raised}}
	}})
	p.SetFaults(func() []Fault {
		return []Fault{{Kind: "bearing_wear", Asset: "hall/motor", Start: raised.Add(-1500 * time.Millisecond), DelayS: &delay}, {Kind: "leak", Asset: "hall/pump", Start: raised}}
	})
	srv := httptest.NewServer(p.Handler())
	defer srv.Close()

	b.Open(srv.URL)
	b.Wait(`document.querySelectorAll("#charts figure").length === 2 && document.querySelectorAll("#graph g").length === 4`)
	var got struct {
		Captions, Alerts, Faults, Edges []string
		Width                           int
	}
	look := `(() => { const texts = (s) => [...document.querySelectorAll(s)].map((e) => e.textContent); return {
		captions: texts("figcaption b"), alerts: texts("#alerts tbody tr"), faults: texts("#faults tbody td:last-child"),
		edges: texts("#graph text.rate"), width: document.documentElement.scrollWidth }; })()`
	b.Eval(look, &got)
	require.ElementsMatch(t, []string{"hall/motor/vibration", "hall/pump/<img src=x onerror=alert(1)>"}, got.Captions)
	require.Len(t, got.Alerts, 2)
	require.Contains(t, got.Alerts[1], "critical high")
	require.Contains(t, got.Alerts[1], "active")
	require.Contains(t, got.Alerts[0], "cleared")
	require.Equal(t, []string{"not yet", "after 1.5 s"}, got.Faults)
	require.Len(t, got.Edges, 4, "each edge has its rate")
	require.LessOrEqual(t, got.Width, 1600)
	require.GreaterOrEqual(t, pixels(t, b.Screenshot(), color.RGBA{0x8f, 0xd0, 0xff, 255}), 300, "trace")
	require.GreaterOrEqual(t, pixels(t, b.Screenshot(), color.RGBA{0xff, 0x6b, 0x62, 255}), 300, "anomalies")

	b.Resize(400, 800)
	b.Wait(`innerWidth === 400 && document.querySelector("canvas").width <= 400`)
	b.Eval(look, &got)
	require.LessOrEqual(t, got.Width, 400)

	// A tag picked from the alerts comes first and stays.
	b.Eval(`document.querySelector("#alerts tbody tr:nth-child(1) button").click()`, nil)
	b.Wait(`!document.querySelector("#auto").checked && document.querySelector("figcaption b").textContent.includes("<img")`)
	require.Empty(t, b.Errors())

	srv.CloseClientConnections()
	srv.Close()
	b.Wait(`!document.querySelector("#offline").hidden`)
}

// pixels counts the pixels of about this colour.
func pixels(t *testing.T, data []byte, want color.RGBA) (n int) {
	t.Helper()
	img, err := png.Decode(bytes.NewReader(data))
	require.NoError(t, err)
	near := func(a uint32, b uint8) bool { d := int(a>>8) - int(b); return d > -12 && d < 12 }
	for y := img.Bounds().Min.Y; y < img.Bounds().Max.Y; y++ {
		for x := img.Bounds().Min.X; x < img.Bounds().Max.X; x++ {
			if r, g, b, _ := img.At(x, y).RGBA(); near(r, want.R) && near(g, want.G) && near(b, want.B) {
				n++
			}
		}
	}
	return n
}
