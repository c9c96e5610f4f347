package web

import (
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"math"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/apache/arrow/go/v17/arrow"
	"github.com/apache/arrow/go/v17/arrow/array"
	"github.com/apache/arrow/go/v17/arrow/memory"
	"github.com/stretchr/testify/require"

	"github.com/penstock/penstock/ingest"
	"github.com/penstock/penstock/pipeline"
	"github.com/penstock/penstock/pipeline/graph"
)

type sample struct {
	tag     string
	ns      int64
	value   float64
	quality uint32
	flag    bool
}

// readings makes one record; with flags it is what a detector emits.
func readings(t testing.TB, flags bool, samples ...sample) arrow.Record {
	t.Helper()
	alloc := memory.NewCheckedAllocator(memory.DefaultAllocator)
	t.Cleanup(func() { alloc.AssertSize(t, 0) })
	b := ingest.NewBatcher(ingest.DefaultBatch(), pipeline.Env{Name: "test", Log: slog.New(slog.DiscardHandler), Meter: pipeline.NewMeter(), Tags: pipeline.NewTags(nil), Alloc: alloc, Shards: 1})
	flagged := map[[2]any]bool{}
	for _, s := range samples {
		flagged[[2]any{s.tag, s.ns}] = s.flag
		if math.IsNaN(s.value) {
			b.AppendNull(b.Tag(s.tag), s.ns, s.quality, s.ns)
			continue
		}
		b.Append(b.Tag(s.tag), s.ns, s.value, s.quality, s.ns)
	}
	batches := b.Flush(nil)
	require.Len(t, batches, 1)
	rec := batches[0].Record
	if flags {
		flag := array.NewBooleanBuilder(alloc)
		defer flag.Release()
		times := rec.Column(0).(*array.Timestamp)
		tags := rec.Column(1).(*array.Dictionary)
		for i := range int(rec.NumRows()) {
			tag := tags.Dictionary().(*array.String).Value(tags.GetValueIndex(i))
			flag.Append(flagged[[2]any{tag, int64(times.Value(i))}])
		}
		col := flag.NewArray()
		defer col.Release()
		fields := append(append([]arrow.Field{}, rec.Schema().Fields()...), arrow.Field{Name: "flag", Type: arrow.FixedWidthTypes.Boolean})
		plain := rec
		rec = array.NewRecord(arrow.NewSchema(fields, nil), append(append([]arrow.Array{}, plain.Columns()...), col), plain.NumRows())
		plain.Release()
	}
	t.Cleanup(rec.Release)
	return rec
}

func get(t testing.TB, h http.Handler, path string, v any) *http.Response {
	t.Helper()
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest(http.MethodGet, path, nil))
	r := w.Result()
	if v != nil {
		require.Equal(t, http.StatusOK, r.StatusCode)
		require.NoError(t, json.NewDecoder(r.Body).Decode(v))
	}
	return r
}

type gotTrend struct {
	Tag, Unit string
	T         []int64
	V         []*float64
	Marks     []struct {
		T    int64
		V    *float64
		Node string
	}
}

const second = int64(time.Second)

func newTestPage(rules ...pipeline.TagRule) *Page {
	return New(Options{Name: "test", Meter: pipeline.NewMeter(), Tags: pipeline.NewTags(rules)})
}

// Values, their unit, Bad ones as null, and anomalies with their detector.
func TestTrend(t *testing.T) {
	p := newTestPage(pipeline.TagRule{Match: "a/*", Unit: "bar"})
	p.Tap("plc", readings(t, false,
		sample{tag: "a/x", ns: 1 * second, value: 1.5},
		sample{tag: "a/x", ns: 2 * second, value: math.NaN(), quality: pipeline.Bad},
		sample{tag: "a/x", ns: 3 * second, value: 7, quality: pipeline.Bad},
		sample{tag: "a/x", ns: 4 * second, value: 2}))
	p.Tap("score", readings(t, true,
		sample{tag: "a/x", ns: 3 * second, value: 2},
		sample{tag: "a/x", ns: 4 * second, value: 2, flag: true}))
	p.Tap("spikes", readings(t, true, sample{tag: "a/x", ns: 4 * second, value: 2, flag: true}))
	var got []gotTrend
	get(t, p.Handler(), "/api/trend?tag=a/x&tag=unknown", &got)
	require.Len(t, got, 1, "an unknown tag has no trend")
	require.Equal(t, "bar", got[0].Unit)
	require.Equal(t, []int64{1000, 2000, 3000, 4000}, got[0].T, "a detector's rows are no readings")
	require.Equal(t, 1.5, *got[0].V[0])
	require.Nil(t, got[0].V[1], "no value")
	require.Nil(t, got[0].V[2], "a value of Bad quality")
	require.Equal(t, 2.0, *got[0].V[3])
	require.Len(t, got[0].Marks, 1, "two detectors found the same")
	require.Equal(t, int64(4000), got[0].Marks[0].T)
	require.Equal(t, "score", got[0].Marks[0].Node)
}

// The ring keeps the newest points; what is closer than its step, or late, is
// left out.
func TestRing(t *testing.T) {
	var r ring
	for i := range int64(ringPoints + 100) {
		r.add(i*second, float64(i))
		r.add(i*second+second/100, -1)
		r.add((i-1)*second, -2)
	}
	p := newTestPage()
	p.series.tags["x"] = &r
	got := p.series.trend([]string{"x"}, nil)[0]
	require.Len(t, got.Times, ringPoints)
	for i, v := range got.Values {
		require.Equal(t, float64(100+i), float64(v))
		require.Equal(t, int64(100+i)*1000, got.Times[i])
	}
}

// Nothing that the page remembers grows without end.
func TestLimits(t *testing.T) {
	p := newTestPage()
	for i := range maxTags + 5 {
		p.series.ring(fmt.Sprint("t", i))
	}
	require.Len(t, p.series.tags, maxTags)
	require.Len(t, p.series.list, maxTags)
	require.IsIncreasing(t, p.series.list)
	var many []string
	for i := range maxTrends + 5 {
		many = append(many, fmt.Sprintf("tag=t%d", i))
	}
	var got []gotTrend
	get(t, p.Handler(), "/api/trend?"+strings.Join(many, "&"), &got)
	require.Len(t, got, maxTrends)

	var marks []sample
	for i := range int64(maxMarks + 50) {
		marks = append(marks, sample{tag: "t1", ns: (i + 1) * second, value: 1, flag: true})
	}
	p.Tap("score", readings(t, true, marks...))
	kept := p.series.tags["t1"].marks
	require.LessOrEqual(t, len(kept), maxMarks)
	require.Equal(t, int64(maxMarks+50)*1000, kept[len(kept)-1].T, "the newest stay")

	alerts := make([]Alert, maxListed+50)
	for i := range alerts {
		alerts[i].ID = fmt.Sprint(i)
	}
	p.Attach(Live{Alerts: func() []Alert { return append([]Alert{}, alerts...) }})
	s := p.state()
	require.Len(t, s.Alerts, maxListed)
	require.Equal(t, fmt.Sprint(maxListed+49), s.Alerts[0].ID, "the newest first")
	require.Equal(t, maxListed+50, s.Active, "all count")
}

// Records that are neither readings nor a detector's are passed over.
func TestTapOfOtherRecords(t *testing.T) {
	p := newTestPage()
	s := arrow.NewSchema([]arrow.Field{{Name: "n", Type: arrow.PrimitiveTypes.Int64}}, nil)
	b := array.NewRecordBuilder(memory.DefaultAllocator, s)
	defer b.Release()
	b.Field(0).(*array.Int64Builder).Append(1)
	rec := b.NewRecord()
	defer rec.Release()
	p.Tap("x", rec)
	require.Empty(t, p.state().Tags)
}

func testGraph() *graph.Graph {
	return &graph.Graph{Nodes: []*graph.Node{
		{Name: "plc", Kind: graph.Source, Type: "opcua"},
		{Name: "score", Kind: graph.Operator, Type: "wasm", Inputs: []graph.Ref{{Node: "plc"}}},
		{Name: "high", Kind: graph.Alert, Type: "alert", Inputs: []graph.Ref{{Node: "score"}}},
		{Name: "log", Kind: graph.Sink, Type: "log", Inputs: []graph.Ref{{Node: "high"}, {Node: "plc"}}},
	}}
}

// The state as JSON: counts, rates per edge, levels, active alerts by rule.
func TestState(t *testing.T) {
	p := newTestPage()
	m := p.o.Meter
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	p.Attach(Live{Graph: testGraph(), Backlog: func() (uint64, map[string]uint64) { return 3, map[string]uint64{"log": 2} },
		Alerts: func() []Alert {
			return []Alert{{ID: "1", Rule: "high", Tag: "a/x", Raised: at, Cleared: &at}, {ID: "2", Rule: "high", Tag: "a/x", Raised: at}}
		}})
	get(t, p.Handler(), "/api/state", &struct{}{}) // the first reads the counts that rates start from
	m.Ingested("plc", 400)
	m.Dropped("plc", "late", 2)
	m.Edge("plc", "score", 400)
	m.Connected("plc", false)
	m.Operator("score", "ewma@1.0.0", "wasmer", 400, 400*time.Microsecond)
	p.mu.Lock()
	p.rates.at = time.Now().Add(-2 * time.Second)
	p.mu.Unlock()
	var s struct {
		Name     string
		Rate     float64
		Readings map[string]int64
		Dropped  map[string]int64
		Backlog  int
		Queues   map[string]int
		Active   int
		Alerts   []struct{ ID string }
		Faults   *[]struct{}
		Nodes    []struct {
			Name, Kind, Module string
			Level, Active      int
			Up                 *bool
			NsPerRow           float64 `json:"ns_per_row"`
		}
		Edges []struct {
			From, To string
			Rows     int64
			Rate     float64
		}
	}
	get(t, p.Handler(), "/api/state", &s)
	require.Equal(t, "test", s.Name)
	require.InDelta(t, 200, s.Rate, 10)
	require.Equal(t, int64(400), s.Readings["ingested"])
	require.Equal(t, map[string]int64{"late": 2}, s.Dropped)
	require.Equal(t, 3, s.Backlog)
	require.Equal(t, 2, s.Queues["log"])
	require.Equal(t, 1, s.Active)
	require.Equal(t, "2", s.Alerts[0].ID)
	require.Nil(t, s.Faults, "without a simulated plant there is no truth")
	require.Equal(t, []int{0, 1, 2, 3}, []int{s.Nodes[0].Level, s.Nodes[1].Level, s.Nodes[2].Level, s.Nodes[3].Level})
	require.False(t, *s.Nodes[0].Up)
	require.Nil(t, s.Nodes[1].Up, "an operator has no peer")
	require.Equal(t, 1000.0, s.Nodes[1].NsPerRow)
	require.Equal(t, 1, s.Nodes[2].Active)
	require.Equal(t, int64(400), s.Edges[0].Rows)
	require.InDelta(t, 200, s.Edges[0].Rate, 10)

	p.SetFaults(func() []Fault { return []Fault{{Kind: "leak"}, {Kind: "drift"}} })
	require.Equal(t, "drift", p.state().Faults[0].Kind, "the newest first")
}

// Tags with anomalies come newest first.
func TestSuspects(t *testing.T) {
	p := newTestPage()
	p.Tap("plc", readings(t, false, sample{tag: "c", ns: second, value: 1}))
	p.Tap("score", readings(t, true, sample{tag: "a", ns: 3 * second, value: 1, flag: true}, sample{tag: "b", ns: 5 * second, value: 1, flag: true}))
	s := p.state()
	require.Equal(t, []string{"a", "b", "c"}, s.Tags)
	require.Equal(t, []string{"b", "a"}, s.Suspects)
}

func TestHandler(t *testing.T) {
	h := newTestPage().Handler()
	for path, kind := range map[string]string{"/": "text/html", "/page.js": "text/javascript", "/layout.js": "text/javascript",
		"/style.css": "text/css", "/icon.svg": "image/svg+xml", "/api/state": "application/json", "/api/trend": "application/json"} {
		r := get(t, h, path, nil)
		require.Equal(t, http.StatusOK, r.StatusCode, path)
		require.True(t, strings.HasPrefix(r.Header.Get("Content-Type"), kind), "%s is %s", path, r.Header.Get("Content-Type"))
		require.Equal(t, "default-src 'self'; frame-ancestors 'none'", r.Header.Get("Content-Security-Policy"), path)
		require.Equal(t, "nosniff", r.Header.Get("X-Content-Type-Options"), path)
		require.Equal(t, "no-referrer", r.Header.Get("Referrer-Policy"), path)
		if strings.HasPrefix(path, "/api") {
			require.Equal(t, "no-store", r.Header.Get("Cache-Control"))
		}
		body, err := io.ReadAll(r.Body)
		require.NoError(t, err)
		for _, bad := range []string{"http://", "https://", "<script>", " style=", "innerHTML"} {
			if path == "/icon.svg" && strings.Contains(bad, "http") || strings.Contains(string(body), "http://www.w3.org/2000/svg") {
				continue
			}
			require.NotContains(t, string(body), bad, path)
		}
	}
	require.Equal(t, http.StatusNotFound, get(t, h, "/nothing", nil).StatusCode)
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest(http.MethodPost, "/api/state", nil))
	require.Equal(t, http.StatusMethodNotAllowed, w.Code, "the page only reads")
}
