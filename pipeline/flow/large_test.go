package flow_test

import (
	"context"
	"io"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/apache/arrow/go/v17/arrow"
	"github.com/apache/arrow/go/v17/arrow/array"
	"github.com/apache/arrow/go/v17/arrow/memory"
	"github.com/stretchr/testify/require"

	"github.com/penstock/penstock/pipeline"
	"github.com/penstock/penstock/pipeline/flow"
	"github.com/penstock/penstock/pipeline/journal"
)

var texts = arrow.NewSchema([]arrow.Field{{Name: "text", Type: arrow.BinaryTypes.String}}, nil)

// bulky is an operator that makes one record of each batch: texts of so many MB.
type bulky struct{ sizes []int }

func (o *bulky) Open(context.Context, *arrow.Schema) (*arrow.Schema, error) { return texts, nil }
func (o *bulky) Process(_ context.Context, _ arrow.Record, out pipeline.Emitter) error {
	b := array.NewRecordBuilder(memory.DefaultAllocator, texts)
	defer b.Release()
	for _, mb := range o.sizes {
		b.Field(0).(*array.StringBuilder).Append(strings.Repeat("x", mb<<20))
	}
	r := b.NewRecord()
	defer r.Release()
	return out.Emit("", r)
}
func (o *bulky) Advance(context.Context, arrow.Timestamp, pipeline.Emitter) error { return nil }
func (o *bulky) Snapshot(io.Writer) error                                         { return nil }
func (o *bulky) Restore(io.Reader) error                                          { return nil }
func (o *bulky) Close(context.Context) error                                      { return nil }

// A record that is too large for one entry of a queue goes as several, each
// once, also when the worker runs it again; a row that is too large by itself
// is dropped and counted.
func TestLargeOutputs(t *testing.T) {
	r := newRig(t)
	r.feed(t, "a", 1, 1, 1)
	ctx := context.Background()
	for range 2 { // the second knows no checkpoint
		q, err := flow.NewQueue(ctx, r.queue, 0, r.log.End(0))
		require.NoError(t, err)
		state, err := journal.OpenState(ctx, r.js, "S"+time.Now().Format("150405000000000"))
		require.NoError(t, err)
		out := flow.Output{Sinks: []flow.Sink{{Name: "s", Queue: q}}}
		plan := flow.Plan{Sources: []flow.Source{{Name: "a", Targets: []int{0}}},
			Nodes: []flow.Node{{Name: "n", Op: &bulky{sizes: []int{10, 20, 1, 2, 40, 3}}, Outputs: map[string]flow.Output{"": out}}}}
		w, err := flow.NewWorker(ctx, flow.Options{Plan: plan, Journal: r.log, State: state, Checkpoint: time.Hour, Meter: r.meter, Log: slog.New(slog.DiscardHandler)})
		require.NoError(t, err)
		run, stop := context.WithCancel(ctx)
		ended := make(chan error, 1)
		go func() { ended <- w.Run(run) }()
		require.Eventually(t, func() bool { return w.Seq() == r.log.End(0) }, 20*time.Second, time.Millisecond)
		stop()
		require.NoError(t, <-ended)
	}
	require.EqualValues(t, 2, r.meter.Totals().Dropped["output_too_large"], "one in each run")
	wake := make(chan struct{}, 1)
	reader := r.queue.Reader(0, journal.Position{}, wake)
	defer reader.Close()
	var got []int
	for {
		e, ok, err := reader.Next(ctx)
		require.NoError(t, err)
		if !ok {
			break
		}
		col := e.Record.Column(0).(*array.String)
		for i := range col.Len() {
			got = append(got, len(col.Value(i))>>20)
		}
		e.Record.Release()
	}
	require.Equal(t, []int{10, 20, 1, 2, 3}, got)
}
