package flow_test

import (
	"context"
	"errors"
	"log/slog"
	"testing"
	"time"

	"github.com/apache/arrow/go/v17/arrow/array"
	"github.com/apache/arrow/go/v17/arrow/memory"
	"github.com/stretchr/testify/require"

	"github.com/penstock/penstock/pipeline"
	"github.com/penstock/penstock/pipeline/flow"
	"github.com/penstock/penstock/pipeline/journal"
)

// clocked is a module that the clock watches and that can be in quarantine.
type clocked struct {
	numbering
	bad bool
}

func (o *clocked) Deadline() time.Duration        { return time.Second }
func (o *clocked) Watch(late, stuck func(string)) {}
func (o *clocked) Guarded(f func() error) error   { return f() }
func (o *clocked) GiveUp()                        {}
func (o *clocked) Quarantined() bool              { return o.bad && o.n > 0 }
func (o *clocked) QuarantinedFor() string         { return "it is bad" }

type tooLate struct{ error }

func (tooLate) TooLate() time.Duration { return time.Second }

// lateModules opens module "good" and "bad", but the former, once more asked for
// than that, too late.
type lateModules struct {
	opened map[string]int
	late   int
}

func (m *lateModules) Open(_ context.Context, digest string, _ bool, _ uint64) (flow.Opened, error) {
	m.opened[digest]++
	if digest == "good" && m.opened[digest] == m.late {
		return flow.Opened{}, tooLate{errors.New("it takes a minute today")}
	}
	return flow.Opened{Op: &clocked{bad: digest == "bad"}, Module: flow.Module{Digest: digest, Name: digest}}, nil
}

// A module that takes too long to open when the worker needs it back is refused in
// a run of the same journal too, where it would be in time, and with the same alert.
func TestOpenedTooLate(t *testing.T) {
	r := newRig(t)
	r.feed(t, "a", 1, 0, 1)
	c := pipeline.Control{Action: pipeline.ControlDeploy, Node: "n", Digest: "bad"}
	rec := c.Record(memory.DefaultAllocator)
	_, err := r.log.Append(t.Context(), 0, journal.Meta{Kind: journal.KindControl, Source: "control"}, rec)
	require.NoError(t, err)
	rec.Release()
	r.feed(t, "a", 1, 0, 2)

	run := func(stream string, late, opened int) (alert string) {
		queue, err := journal.Open(t.Context(), r.js, journal.Options{Stream: stream, Log: slog.New(slog.DiscardHandler)})
		require.NoError(t, err)
		state, err := journal.OpenState(t.Context(), r.js, "state"+stream)
		require.NoError(t, err)
		q, err := flow.NewQueue(t.Context(), queue, 0, r.log.End(0))
		require.NoError(t, err)
		m := &lateModules{opened: map[string]int{}, late: late}
		op := &clocked{}
		plan := flow.Plan{Sources: []flow.Source{{Name: "a", Targets: []int{0}}}, Alerts: []flow.Sink{{Name: "s", Queue: q}},
			Nodes: []flow.Node{{Name: "n", Op: op, Modules: m, Module: flow.Module{Digest: "good", Name: "good"}}}}
		w, err := flow.NewWorker(t.Context(), flow.Options{Plan: plan, Journal: r.log, State: state, Checkpoint: time.Nanosecond, Meter: r.meter, Log: slog.New(slog.DiscardHandler)})
		require.NoError(t, err)
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		done := make(chan error, 1)
		go func() { done <- w.Run(ctx) }()
		require.Eventually(t, func() bool { return w.Seq() == r.log.End(0) }, 10*time.Second, time.Millisecond)
		cancel()
		require.NoError(t, <-done)
		require.Equal(t, opened, m.opened["good"])
		rd := queue.Reader(0, journal.Position{}, make(chan struct{}, 1))
		defer rd.Close()
		e, ok, err := rd.Next(t.Context())
		require.NoError(t, err)
		require.True(t, ok)
		defer e.Record.Release()
		return e.Record.Column(pipeline.Column(e.Record.Schema(), "message")).(*array.String).Value(0)
	}
	first := run("Q1", 1, 1)
	require.Contains(t, first, "cannot come back: a call into module good took too long")
	require.Len(t, r.log.Kills(0), 1)
	r.open(t)
	require.Equal(t, first, run("Q2", 0, 0))
}
