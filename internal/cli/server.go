package cli

import (
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/penstock/penstock/dashboards/web"
	"github.com/penstock/penstock/internal/app"
	"github.com/penstock/penstock/pipeline"
	"github.com/penstock/penstock/pipeline/config"
)

// newPage makes the operator page before the pipeline starts, so that it sees
// the first rows.
func newPage(cfg *config.Config, meter *pipeline.Meter) *web.Page {
	return web.New(web.Options{Name: cfg.Name, Meter: meter, Tags: pipeline.NewTags(cfg.Tags)})
}

// httpServer serves the page, /metrics, /healthz and /readyz.
type httpServer struct {
	s *http.Server
	l net.Listener
}

// listen takes the address, before anything is started; "" gives nil.
func listen(address string) (net.Listener, error) {
	if address == "" {
		return nil, nil
	}
	l, err := net.Listen("tcp", address)
	if err != nil {
		return nil, fmt.Errorf("http.listen: %w", err)
	}
	return l, nil
}

// serve starts the server on l, which it takes over; nil gives one that serves
// nothing.
func serve(l net.Listener, a *app.App, page *web.Page, meter *pipeline.Meter, log *slog.Logger) *httpServer {
	if l == nil {
		return &httpServer{}
	}
	meter.Registry().MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	page.Attach(web.Live{Graph: a.Graph(), Alerts: func() []web.Alert {
		var out []web.Alert
		for _, v := range a.Alerts.All() {
			out = append(out, web.Alert{ID: v.ID, Rule: v.Rule, Asset: v.Asset, Tag: v.Tag, Severity: v.Severity, Raised: v.Raised, Cleared: v.Cleared, Message: v.Message})
		}
		return out
	}, Backlog: a.Backlog})
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(meter.Registry(), promhttp.HandlerOpts{}))
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		if err := a.Err(); err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		fmt.Fprintln(w, "ok")
	})
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		ok, missing := a.Ready()
		if !ok {
			http.Error(w, fmt.Sprint("not ready; not connected: ", missing), http.StatusServiceUnavailable)
			return
		}
		fmt.Fprintln(w, "ok")
	})
	mux.Handle("/", page.Handler())
	s := &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second, IdleTimeout: time.Minute, MaxHeaderBytes: 16 << 10,
		ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelDebug)}
	go s.Serve(l)
	return &httpServer{s, l}
}

// URL is where the page is, or "".
func (h *httpServer) URL() string {
	if h.l == nil {
		return ""
	}
	return "http://" + h.l.Addr().String()
}

// Close ends the server and its connections.
func (h *httpServer) Close() {
	if h.s != nil {
		h.s.Close()
	}
}
