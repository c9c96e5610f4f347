package sinks_test

import (
	"context"
	"errors"
	"log/slog"
	"testing"
	"time"

	"github.com/apache/arrow/go/v17/arrow"
	"github.com/apache/arrow/go/v17/arrow/array"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/penstock/penstock/ingest"
	"github.com/penstock/penstock/internal/natsd"
	"github.com/penstock/penstock/pipeline"
	"github.com/penstock/penstock/pipeline/journal"
	"github.com/penstock/penstock/sinks"
)

// The sink runner ends with its context; the embedded server leaves a few
// goroutines of its own behind for a moment.
func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("github.com/nats-io/nats-server/v2/server.(*Server).startGoRoutine.func1"))
}

// sink remembers what it was given and fails as told.
type sink struct {
	values []float64
	nodes  map[string]bool
	fail   func(v float64) error
	got    chan float64
	closed bool
}

func (s *sink) Connect(context.Context) error { return nil }
func (s *sink) Write(_ context.Context, in arrow.Record) error {
	v := in.Column(pipeline.ColValue).(*array.Float64).Value(0)
	if s.fail != nil {
		if err := s.fail(v); err != nil {
			return err
		}
	}
	s.values = append(s.values, v)
	if s.nodes == nil {
		s.nodes = map[string]bool{}
	}
	s.nodes[pipeline.Node(in.Schema())] = true
	s.got <- v
	return nil
}
func (s *sink) Close(context.Context) error { s.closed = true; return nil }

// batchSink takes all or nothing.
type batchSink struct {
	sink
	calls int
}

func (s *batchSink) WriteAll(ctx context.Context, in []arrow.Record) error {
	s.calls++
	for _, r := range in {
		if s.fail != nil {
			if err := s.fail(r.Column(pipeline.ColValue).(*array.Float64).Value(0)); err != nil {
				return err
			}
		}
	}
	for _, r := range in {
		if err := s.Write(ctx, r); err != nil {
			return err
		}
	}
	return nil
}

type rig struct {
	js    jetstream.JetStream
	log   *journal.Log
	dead  *journal.Log
	state *journal.State
	meter *pipeline.Meter
}

func newRig(t *testing.T) *rig {
	ctx := context.Background()
	quiet := slog.New(slog.DiscardHandler)
	s, err := natsd.Start(natsd.Options{Name: "test", Dir: t.TempDir(), Log: quiet})
	require.NoError(t, err)
	nc, err := s.Connect()
	require.NoError(t, err)
	t.Cleanup(func() { nc.Close(); s.Stop() })
	r := &rig{meter: pipeline.NewMeter()}
	r.js, err = jetstream.New(nc)
	require.NoError(t, err)
	r.log, err = journal.Open(ctx, r.js, journal.Options{Stream: "J", Log: quiet})
	require.NoError(t, err)
	r.dead, err = journal.Open(ctx, r.js, journal.Options{Stream: "D", Log: quiet})
	require.NoError(t, err)
	r.state, err = journal.OpenState(ctx, r.js, "S")
	require.NoError(t, err)
	return r
}

func (r *rig) append(t *testing.T, source string, v float64) {
	b := ingest.NewBatcher(ingest.BatchConfig{MaxTags: 10}, pipeline.Env{Name: source})
	b.Append(b.Tag("x"), 1, v, 0, 1)
	batch := b.Flush(nil)[0]
	defer batch.Record.Release()
	_, err := r.log.Append(context.Background(), 0, journal.Meta{Kind: journal.KindBatch, Source: source}, batch.Record)
	require.NoError(t, err)
}

// run starts a runner and returns what ends it.
func (r *rig) run(t *testing.T, s pipeline.Sink, sources map[string]bool, persist time.Duration) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	run, err := sinks.NewRunner(ctx, sinks.Options{Name: "out", Sink: s, Feeds: []sinks.Feed{{Name: "journal.0", Log: r.log, Sources: sources}},
		State: r.state, Dead: r.dead, Meter: r.meter, Log: slog.New(slog.DiscardHandler), Persist: persist})
	require.NoError(t, err)
	done := make(chan error, 1)
	go func() { done <- run.Run(ctx) }()
	return func() { cancel(); require.NoError(t, <-done) }
}

func receive(t *testing.T, c chan float64) float64 {
	t.Helper()
	select {
	case v := <-c:
		return v
	case <-time.After(10 * time.Second):
		t.Fatal("nothing came")
		return 0
	}
}

// Only the wired source's rows come, in order, with the source's name; a
// passing fault is retried; a restart goes on where the last run stopped.
func TestDeliversRetriesAndResumes(t *testing.T) {
	r := newRig(t)
	for i := range 10 {
		r.append(t, "a", float64(i))
		r.append(t, "b", -1)
	}
	failures := 2
	s := &sink{got: make(chan float64, 100), fail: func(v float64) error {
		if v == 4 && failures > 0 {
			failures--
			return errors.New("the database is away")
		}
		return nil
	}}
	stop := r.run(t, s, map[string]bool{"a": true}, time.Hour)
	for i := range 10 {
		require.EqualValues(t, i, receive(t, s.got))
	}
	stop()
	require.True(t, s.closed)
	require.Zero(t, failures)
	require.Equal(t, map[string]bool{"a": true}, s.nodes)

	r.append(t, "a", 10)
	s2 := &sink{got: make(chan float64, 100)}
	stop = r.run(t, s2, map[string]bool{"a": true}, time.Hour)
	require.EqualValues(t, 10, receive(t, s2.got))
	stop()
	require.Equal(t, pipeline.SinkTotals{Accepted: 11}, r.meter.Totals().Sinks["out"])
}

// What a sink refuses for good goes to the dead-letter queue with the reason;
// what lies about it is delivered.
func TestDeadLetters(t *testing.T) {
	refuse := func(v float64) error {
		if v == 3 {
			return pipeline.Permanent(errors.New("field type conflict"))
		}
		return nil
	}
	for name, s := range map[string]pipeline.Sink{
		"one by one": &sink{got: make(chan float64, 100), fail: refuse},
		"in batches": &batchSink{sink: sink{got: make(chan float64, 100), fail: refuse}},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			for i := range 6 {
				r.append(t, "a", float64(i))
			}
			got := make(chan float64)
			switch s := s.(type) {
			case *sink:
				got = s.got
			case *batchSink:
				got = s.got
			}
			stop := r.run(t, s, map[string]bool{"a": true}, time.Hour)
			for _, want := range []float64{0, 1, 2, 4, 5} {
				require.Equal(t, want, receive(t, got))
			}
			stop()
			require.Equal(t, pipeline.SinkTotals{Accepted: 5, DeadLettered: 1}, r.meter.Totals().Sinks["out"])
			rd := r.dead.Reader(0, journal.Position{}, make(chan struct{}, 1))
			defer rd.Close()
			e, ok, err := rd.Next(context.Background())
			require.NoError(t, err)
			require.True(t, ok)
			defer e.Record.Release()
			md := e.Record.Schema().Metadata().ToMap()
			require.Equal(t, "field type conflict", md["penstock.reason"])
			require.Equal(t, "out", md["penstock.sink"])
			require.Equal(t, "a", md["penstock.node"])
		})
	}
}

// A sink that was away and then refuses a row for good is there again.
func TestConnectedAfterRefusal(t *testing.T) {
	r := newRig(t)
	r.append(t, "a", 1)
	r.append(t, "a", 2)
	tries := 0
	s := &sink{got: make(chan float64, 10), fail: func(v float64) error {
		if v != 1 {
			return nil
		}
		if tries++; tries == 1 {
			return errors.New("away")
		}
		return pipeline.Permanent(errors.New("no such column"))
	}}
	stop := r.run(t, s, map[string]bool{"a": true}, time.Hour)
	require.Equal(t, 2.0, receive(t, s.got))
	stop()
	require.True(t, r.meter.Totals().Connected["out"])
}

// Rows that a full journal discarded before a sink had read them are counted
// at that sink.
func TestGapBeforeDirectSink(t *testing.T) {
	r := newRig(t)
	for v := range 2 {
		r.append(t, "a", float64(v))
	}
	s := &sink{got: make(chan float64, 10)}
	stop := r.run(t, s, map[string]bool{"a": true}, time.Hour)
	receive(t, s.got)
	receive(t, s.got)
	stop()
	for v := range 5 {
		r.append(t, "a", float64(v))
	}
	require.NoError(t, r.log.Purge(context.Background(), 0, r.log.End(0)))
	stop = r.run(t, s, map[string]bool{"a": true}, time.Hour)
	require.Equal(t, 4.0, receive(t, s.got))
	stop()
	require.Equal(t, map[string]int64{"queue_gap": 4}, r.meter.Totals().DroppedAt["out"])
}
