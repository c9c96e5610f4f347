package flow_test

import (
	"context"
	"log/slog"
	"testing"
	"time"

	"github.com/apache/arrow/go/v17/arrow/array"
	"github.com/stretchr/testify/require"

	"github.com/penstock/penstock/pipeline/flow"
	"github.com/penstock/penstock/pipeline/journal"
)

// drain reads the numbers in the queue.
func (r *rig) drain(t *testing.T) (ns []int64) {
	rd := r.queue.Reader(0, journal.Position{}, make(chan struct{}, 1))
	defer rd.Close()
	for {
		e, ok, err := rd.Next(context.Background())
		require.NoError(t, err)
		if !ok {
			return ns
		}
		if e.Record == nil {
			continue
		}
		ns = append(ns, e.Record.Column(0).(*array.Int64).Int64Values()...)
		e.Record.Release()
	}
}

// A queue that is full because its sink is away does not keep a worker from
// stopping; the entry it was at is run again at the next start, and nothing is
// missing or there twice.
func TestStopsAtFullQueue(t *testing.T) {
	r := newRig(t)
	ctx := context.Background()
	quiet := slog.New(slog.DiscardHandler)
	var err error
	r.queue, err = journal.Open(ctx, r.js, journal.Options{Stream: "Q", MaxBytes: 100 << 10, WhenFull: journal.Block, Log: quiet})
	require.NoError(t, err)
	require.NoError(t, r.queue.Hold(ctx, "sink", 0, journal.Position{}))
	for i := range 100 {
		r.feed(t, "a", 100, float64(i), int64(i))
	}
	w := r.worker(t, &numbering{})
	run, cancel := context.WithCancel(ctx)
	done := make(chan error, 1)
	go func() { done <- w.Run(run) }()
	require.Eventually(t, func() bool { return r.queue.Backlog() > 85<<10 }, 10*time.Second, time.Millisecond)
	cancel()
	select {
	case err := <-done:
		require.NoError(t, err)
	case <-time.After(10 * time.Second):
		t.Fatal("the worker does not stop")
	}
	require.Less(t, w.Seq(), r.log.End(0))

	r.open(t)
	r.finish(t, r.worker(t, &numbering{}))
	ns := r.drain(t)
	require.Len(t, ns, 100*100)
	for i, n := range ns {
		require.EqualValues(t, i+1, n)
	}
}

// finish runs a worker to the end of the journal.
func (r *rig) finish(t *testing.T, w *flow.Worker) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- w.Run(ctx) }()
	require.Eventually(t, func() bool { return w.Seq() >= r.log.End(0) }, 10*time.Second, time.Millisecond)
	cancel()
	require.NoError(t, <-done)
}

// When power fails, the journal may come back without its newest entries, while
// checkpoint and queue have them: what comes next is run, not taken for known.
func TestJournalBehindCheckpoint(t *testing.T) {
	r := newRig(t)
	for i := range 5 {
		r.feed(t, "a", 1, float64(i), int64(i))
	}
	r.finish(t, r.worker(t, &numbering{}))
	require.NoError(t, r.js.DeleteStream(context.Background(), "J"))
	r.open(t)
	r.worker(t, &numbering{}) // finds that out, and dies after two more are stored
	for i := range 2 {
		r.feed(t, "a", 1, 0, int64(6+i))
	}
	r.open(t)
	r.finish(t, r.worker(t, &numbering{}))
	require.Equal(t, []int64{1, 2, 3, 4, 5, 6, 7}, r.drain(t), "an entry is missing, or its operator lost its state")
	for i := range 5 { // beyond where the old journal ended
		r.feed(t, "a", 1, 0, int64(8+i))
	}
	r.open(t)
	r.finish(t, r.worker(t, &numbering{}))
	require.Len(t, r.drain(t), 12)
}

// Rows of a source that the config no longer has are counted.
func TestRemovedSource(t *testing.T) {
	r := newRig(t)
	r.feed(t, "gone", 7, 0, 0)
	r.finish(t, r.worker(t, &numbering{}))
	require.Equal(t, map[string]int64{"source_removed": 7}, r.meter.Totals().DroppedAt["gone"])
}
