// Package web is the built-in operator page: live trends with anomalies
// marked, alerts, and the graph with its rates. It works off line, loads
// nothing from elsewhere, and only reads.
package web

import (
	"embed"
	"encoding/json"
	"io/fs"
	"net/http"
	"sync"
	"time"

	"github.com/penstock/penstock/pipeline"
	"github.com/penstock/penstock/pipeline/graph"
)

//go:embed static
var static embed.FS

// Options of a Page.
type Options struct {
	Name  string // the pipeline's
	Meter *pipeline.Meter
	Tags  *pipeline.Tags
}

// Live is what the page shows of the running pipeline beside the rows.
type Live struct {
	Graph   *graph.Graph
	Alerts  func() []Alert
	Backlog func() (flow uint64, bySink map[string]uint64) // entries
}

// Alert is one alert.
type Alert struct {
	ID       string     `json:"id"`
	Rule     string     `json:"rule"`
	Asset    string     `json:"asset"`
	Tag      string     `json:"tag"`
	Severity string     `json:"severity"`
	Raised   time.Time  `json:"raised"`
	Cleared  *time.Time `json:"cleared"`
	Message  string     `json:"message"`
}

// Fault is one fault of a simulated plant, and how soon an alert told of it.
type Fault struct {
	Kind   string     `json:"kind"`
	Asset  string     `json:"asset"`
	Tags   []string   `json:"tags"`
	Start  time.Time  `json:"start"`
	End    *time.Time `json:"end"`
	DelayS *float64   `json:"delay_s"` // from its start to the first alert; null: none yet
}

// Page collects what flows and serves it. Safe for concurrent use.
type Page struct {
	o      Options
	start  time.Time
	series series

	mu     sync.Mutex
	live   Live
	faults func() []Fault
	rates  rates
}

// New returns a page that has seen nothing yet.
func New(o Options) *Page {
	return &Page{o: o, start: time.Now(), series: newSeries()}
}

// Attach gives the page the running pipeline.
func (p *Page) Attach(l Live) {
	p.mu.Lock()
	p.live = l
	p.mu.Unlock()
}

// SetFaults makes the page show the ground truth of a simulated plant.
func (p *Page) SetFaults(f func() []Fault) {
	p.mu.Lock()
	p.faults = f
	p.mu.Unlock()
}

// Handler serves the page and its API: GET /api/state and GET /api/trend.
func (p *Page) Handler() http.Handler {
	files, err := fs.Sub(static, "static")
	if err != nil {
		panic(err) // the folder is embedded above
	}
	mux := http.NewServeMux()
	mux.Handle("GET /", http.FileServerFS(files))
	mux.HandleFunc("GET /api/state", func(w http.ResponseWriter, _ *http.Request) { reply(w, p.state()) })
	mux.HandleFunc("GET /api/trend", func(w http.ResponseWriter, r *http.Request) {
		reply(w, p.series.trend(r.URL.Query()["tag"], p.o.Tags))
	})
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Content-Security-Policy", "default-src 'self'; frame-ancestors 'none'")
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Referrer-Policy", "no-referrer")
		mux.ServeHTTP(w, r)
	})
}

func reply(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	json.NewEncoder(w).Encode(v)
}
