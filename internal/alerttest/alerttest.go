// Package alerttest makes alert events for the tests of what delivers them.
package alerttest

import (
	"context"
	"testing"

	"github.com/apache/arrow/go/v17/arrow"
	"github.com/stretchr/testify/require"

	"github.com/penstock/penstock/internal/optest"
	"github.com/penstock/penstock/pipeline"
	"github.com/penstock/penstock/sinks/alert"
)

type emit func(arrow.Record)

func (f emit) Emit(_ string, rec arrow.Record) error { f(rec); return nil }

// Record returns what the rule "hot" (value above 80, critical) says of the
// values of a tag at 1 s, 2 s and so on. The caller owns it.
func Record(t testing.TB, env pipeline.Env, tag string, values ...float64) arrow.Record {
	cfg := alert.DefaultConfig()
	limit := 80.0
	cfg.Above, cfg.Column, cfg.Severity = &limit, pipeline.NameValue, "critical"
	env.Name = "hot"
	r, err := alert.New(cfg, env)
	require.NoError(t, err)
	_, err = r.Open(context.Background(), pipeline.Readings)
	require.NoError(t, err)
	var rows []optest.Row
	for i, v := range values {
		rows = append(rows, optest.Row{Tag: tag, T: float64(i + 1), V: v})
	}
	in := optest.Readings(env.Alloc, rows)
	defer in.Release()
	var out arrow.Record
	require.NoError(t, r.Process(context.Background(), in, emit(func(rec arrow.Record) { rec.Retain(); out = rec })))
	require.NotNil(t, out)
	return out
}
