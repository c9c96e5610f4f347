package influxdb

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"

	"github.com/apache/arrow/go/v17/arrow"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/penstock/penstock/pipeline"
)

// Sink writes records to one bucket. It keeps no rows: what Write accepted is
// on the server.
type Sink struct {
	cfg     Config
	env     pipeline.Env
	enc     encoder
	post    *poster
	skipped *prometheus.CounterVec
}

var (
	_ pipeline.Sink      = (*Sink)(nil)
	_ pipeline.BatchSink = (*Sink)(nil)
)

// New returns a sink that has not connected yet. It reads the files of the
// tls section.
func New(cfg Config, env pipeline.Env) (*Sink, error) {
	post, err := newPoster(cfg)
	if err != nil {
		return nil, err
	}
	if env.Tags == nil {
		env.Tags = pipeline.NewTags(nil)
	}
	if env.Meter == nil {
		env.Meter = pipeline.NewMeter()
	}
	if env.Log == nil {
		env.Log = slog.New(slog.DiscardHandler)
	}
	s := &Sink{cfg: cfg, env: env, post: post}
	s.skipped = prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: "penstock", Name: "influxdb_skipped_fields_total",
		Help:        "Values left out of a point because InfluxDB cannot hold them: nan (NaN or infinite) and range (beyond int64).",
		ConstLabels: prometheus.Labels{"sink": env.Name}}, []string{"reason"})
	if err := env.Meter.Registry().Register(s.skipped); err != nil {
		var known prometheus.AlreadyRegisteredError
		if !errors.As(err, &known) {
			return nil, err
		}
		s.skipped = known.ExistingCollector.(*prometheus.CounterVec)
	}
	s.enc = encoder{fields: cfg.Fields, series: newSeries(cfg, env.Tags), bound: map[string]*binding{},
		unfit: func(node, column string, t arrow.DataType) {
			env.Log.Warn("column not stored: InfluxDB has no field of this type", "node", node, "column", column, "type", t.String())
		}}
	return s, nil
}

// Connect writes nothing to the bucket, as the only check that works with a
// token that may just write, and on 1.8 too.
func (s *Sink) Connect(ctx context.Context) error {
	if s.cfg.Token != "" && !s.cfg.local() && !strings.HasPrefix(s.cfg.URL, "https:") {
		s.env.Log.Warn("the token travels unencrypted: use an https URL", "url", s.cfg.URL)
	}
	err := s.post.send(ctx, []byte("# Penstock looks whether it may write\n"))
	var refused *statusError
	if errors.As(err, &refused) && refused.status == 400 && refused.code == "invalid" {
		err = nil // a server that wants at least one point has let us in
	}
	return err
}

// Write writes one record.
func (s *Sink) Write(ctx context.Context, in arrow.Record) error {
	return s.WriteAll(ctx, []arrow.Record{in})
}

// WriteAll writes records in as few requests as max_lines_per_request allows.
// When a later request fails, the points of earlier ones are stored already,
// and storing them again changes nothing. A 400 may have stored the points
// that it does not complain of: the server's message says how many it dropped.
func (s *Sink) WriteAll(ctx context.Context, in []arrow.Record) error {
	for _, rec := range in {
		if err := s.enc.append(rec); err != nil {
			s.enc.reset(false)
			s.clearCounts()
			return pipeline.Permanent(fmt.Errorf("influxdb: %w", err))
		}
	}
	err := s.flush(ctx)
	s.enc.reset(err != nil)
	if err == nil {
		s.env.Meter.Dropped(s.env.Name, "no_fields", s.enc.noFields)
		if s.enc.nonFinite > 0 {
			s.skipped.WithLabelValues("nan").Add(float64(s.enc.nonFinite))
		}
		if s.enc.outside > 0 {
			s.skipped.WithLabelValues("range").Add(float64(s.enc.outside))
		}
	}
	s.clearCounts()
	return err
}

func (s *Sink) clearCounts() { s.enc.nonFinite, s.enc.noFields, s.enc.outside = 0, 0, 0 }

func (s *Sink) flush(ctx context.Context) error {
	for from := 0; from < len(s.enc.ends); {
		to := min(from+s.cfg.MaxLinesPerRequest, len(s.enc.ends))
		if err := s.sendLines(ctx, from, to); err != nil {
			return err
		}
		from = to
	}
	return nil
}

// sendLines sends the lines [from, to), in halves when the server says that
// it is too much at once.
func (s *Sink) sendLines(ctx context.Context, from, to int) error {
	start := 0
	if from > 0 {
		start = s.enc.ends[from-1]
	}
	err := s.post.send(ctx, s.enc.buf[start:s.enc.ends[to-1]])
	var refused *statusError
	if !errors.As(err, &refused) || refused.status != 413 {
		return err
	}
	if to-from == 1 {
		return pipeline.Permanent(err)
	}
	mid := from + (to-from)/2
	if err := s.sendLines(ctx, from, mid); err != nil {
		return err
	}
	return s.sendLines(ctx, mid, to)
}

// Close frees the connections. All that was accepted is written.
func (s *Sink) Close(context.Context) error {
	s.post.close()
	return nil
}

// statusError is an answer of the server that is not a success.
type statusError struct {
	status  int
	code    string // the server's word for it: "invalid", "unauthorized"
	message string
	hint    string
	where   string
}

func (e *statusError) Error() string {
	m := fmt.Sprintf("influxdb %s: %d: %s", e.where, e.status, e.message)
	if e.hint != "" {
		m += " (" + e.hint + ")"
	}
	return m
}
