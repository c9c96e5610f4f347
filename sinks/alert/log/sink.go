package log

import (
	"context"
	"log/slog"

	"github.com/apache/arrow/go/v17/arrow"

	"github.com/penstock/penstock/pipeline"
	"github.com/penstock/penstock/sinks/alert"
)

// Sink logs alert events: a raise by its severity (info, warning as WARN,
// critical as ERROR), a clear as INFO.
type Sink struct{ log *slog.Logger }

// New returns the sink.
func New(_ Config, env pipeline.Env) (*Sink, error) {
	if env.Log == nil {
		env.Log = slog.New(slog.DiscardHandler)
	}
	return &Sink{log: env.Log}, nil
}

// Connect does nothing.
func (s *Sink) Connect(context.Context) error { return nil }

// Write logs each event.
func (s *Sink) Write(ctx context.Context, in arrow.Record) error {
	events, err := alert.Events(in)
	if err != nil {
		return err
	}
	for _, e := range events {
		level := slog.LevelInfo
		if e.State == alert.StateRaised {
			level = map[string]slog.Level{"warning": slog.LevelWarn, "critical": slog.LevelError}[e.Severity]
		}
		attrs := []slog.Attr{slog.String("state", e.State), slog.String("rule", e.Rule), slog.String("asset", e.Asset), slog.String("tag", e.Tag),
			slog.String("severity", e.Severity), slog.String("id", e.ID), slog.Time("at", e.Time), slog.Time("raised", e.Raised)}
		if e.Value != nil {
			attrs = append(attrs, slog.Float64("value", *e.Value))
		}
		s.log.LogAttrs(ctx, level, "alert: "+e.Message, attrs...)
	}
	return nil
}

// Close does nothing.
func (s *Sink) Close(context.Context) error { return nil }
