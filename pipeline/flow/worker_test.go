package flow_test

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/apache/arrow/go/v17/arrow"
	"github.com/apache/arrow/go/v17/arrow/array"
	"github.com/apache/arrow/go/v17/arrow/memory"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/penstock/penstock/ingest"
	"github.com/penstock/penstock/internal/natsd"
	"github.com/penstock/penstock/pipeline"
	"github.com/penstock/penstock/pipeline/flow"
	"github.com/penstock/penstock/pipeline/journal"
)

// numbering is an operator with state: it numbers the rows it has seen, and
// tells of each watermark. It can be made to fail, as if the process died.
type numbering struct {
	n      int64
	fail   func() bool
	marks  []int64
	marked func(wm int64)
}

var numbered = arrow.NewSchema([]arrow.Field{{Name: "n", Type: arrow.PrimitiveTypes.Int64}, {Name: "v", Type: arrow.PrimitiveTypes.Float64}}, nil)

func (o *numbering) Open(context.Context, *arrow.Schema) (*arrow.Schema, error) { return numbered, nil }
func (o *numbering) Process(_ context.Context, in arrow.Record, out pipeline.Emitter) error {
	if o.fail != nil && o.fail() {
		return io.ErrUnexpectedEOF
	}
	b := array.NewRecordBuilder(memory.DefaultAllocator, numbered)
	defer b.Release()
	for i := range int(in.NumRows()) {
		o.n++
		b.Field(0).(*array.Int64Builder).Append(o.n)
		b.Field(1).(*array.Float64Builder).Append(in.Column(pipeline.ColValue).(*array.Float64).Value(i))
	}
	r := b.NewRecord()
	defer r.Release()
	return out.Emit("", r)
}
func (o *numbering) Advance(_ context.Context, wm arrow.Timestamp, _ pipeline.Emitter) error {
	o.marks = append(o.marks, int64(wm))
	if o.marked != nil {
		o.marked(int64(wm))
	}
	return nil
}
func (o *numbering) Snapshot(w io.Writer) error  { return binary.Write(w, binary.LittleEndian, o.n) }
func (o *numbering) Restore(r io.Reader) error   { return binary.Read(r, binary.LittleEndian, &o.n) }
func (o *numbering) Close(context.Context) error { return nil }

type rig struct {
	js    jetstream.JetStream
	log   *journal.Log
	queue *journal.Log
	state *journal.State
	meter *pipeline.Meter
}

func newRig(t *testing.T) *rig {
	s, err := natsd.Start(natsd.Options{Name: "test", Dir: t.TempDir(), Log: slog.New(slog.DiscardHandler)})
	require.NoError(t, err)
	nc, err := s.Connect()
	require.NoError(t, err)
	t.Cleanup(func() { nc.Close(); s.Stop() })
	js, err := jetstream.New(nc)
	require.NoError(t, err)
	r := &rig{js: js, meter: pipeline.NewMeter()}
	r.open(t)
	return r
}

// open opens the streams anew, as a new process would.
func (r *rig) open(t *testing.T) {
	var err error
	ctx := context.Background()
	quiet := slog.New(slog.DiscardHandler)
	r.log, err = journal.Open(ctx, r.js, journal.Options{Stream: "J", Log: quiet})
	require.NoError(t, err)
	r.queue, err = journal.Open(ctx, r.js, journal.Options{Stream: "Q", Log: quiet})
	require.NoError(t, err)
	r.state, err = journal.OpenState(ctx, r.js, "S")
	require.NoError(t, err)
}

func (r *rig) worker(t *testing.T, ops ...*numbering) *flow.Worker {
	ctx := context.Background()
	q, err := flow.NewQueue(ctx, r.queue, 0, r.log.End(0))
	require.NoError(t, err)
	plan := flow.Plan{Sources: []flow.Source{{Name: "a", Targets: []int{0}}, {Name: "b"}}}
	for i, op := range ops {
		out := flow.Output{Sinks: []flow.Sink{{Name: "s", Queue: q}}}
		plan.Nodes = append(plan.Nodes, flow.Node{Name: fmt.Sprint("n", i), Op: op, Outputs: map[string]flow.Output{"": out}})
		plan.Sources[0].Targets = []int{0}
	}
	if len(ops) > 1 {
		plan.Sources[1].Targets = []int{1}
	}
	w, err := flow.NewWorker(ctx, flow.Options{Plan: plan, Journal: r.log, State: r.state, Checkpoint: time.Nanosecond, Meter: r.meter, Log: slog.New(slog.DiscardHandler)})
	require.NoError(t, err)
	return w
}

func (r *rig) feed(t *testing.T, source string, rows int, value float64, watermark int64) {
	b := ingest.NewBatcher(ingest.BatchConfig{MaxTags: 10}, pipeline.Env{Name: source})
	for i := range rows {
		b.Append(b.Tag("x"), int64(i), value, 0, 0)
	}
	for _, batch := range b.Flush(nil) {
		_, err := r.log.Append(context.Background(), 0, journal.Meta{Kind: journal.KindBatch, Source: source, Watermark: watermark}, batch.Record)
		require.NoError(t, err)
		batch.Record.Release()
	}
}

// A worker that dies at random, sometimes after it has published and before
// its checkpoint, leaves a queue with every output once and in order.
func TestExactlyOnceAcrossCrashes(t *testing.T) {
	r := newRig(t)
	rng := rand.New(rand.NewPCG(1, 2))
	total := 0
	const last = 299
	for i := range last + 1 {
		n := rng.IntN(20) + 1
		r.feed(t, "a", n, float64(i), int64(i))
		total += n
	}
	crashes := 0
	for done := false; !done; {
		ctx, cancel := context.WithCancel(context.Background())
		op := &numbering{fail: func() bool { return rng.IntN(12) == 0 }}
		op.marked = func(wm int64) {
			if wm == last { // the run ends once all is done
				cancel()
			}
		}
		w := r.worker(t, op)
		err := w.Run(ctx)
		cancel()
		done = err == nil
		if !done {
			require.ErrorIs(t, err, io.ErrUnexpectedEOF)
			crashes++
		}
		r.open(t)
	}
	require.Greater(t, crashes, 5)
	wake := make(chan struct{}, 1)
	rd := r.queue.Reader(0, journal.Position{}, wake)
	defer rd.Close()
	want := int64(0)
	for {
		e, ok, err := rd.Next(context.Background())
		require.NoError(t, err)
		if !ok {
			break
		}
		require.Equal(t, "n0", pipeline.Node(e.Record.Schema()))
		for _, n := range e.Record.Column(0).(*array.Int64).Int64Values() {
			want++
			require.Equal(t, want, n, "a row is missing or there twice")
		}
		e.Record.Release()
	}
	require.EqualValues(t, total, want)
}

// The watermark of a node is the least of its sources'; an idle one does not
// hold it back, and it never decreases.
func TestWatermarks(t *testing.T) {
	r := newRig(t)
	op, both := &numbering{}, &numbering{}
	// n1 is fed by source b directly and sees only b.
	w := r.worker(t, op, both)
	tick := func(source string, wm int64, idle bool) {
		_, err := r.log.Append(context.Background(), 0, journal.Meta{Kind: journal.KindTick, Source: source, Watermark: wm, Idle: idle}, nil)
		require.NoError(t, err)
	}
	r.feed(t, "a", 1, 0, 100)
	tick("b", 50, true)
	tick("a", 90, false) // does not go back
	r.feed(t, "a", 1, 0, 120)
	tick("b", 130, false)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	both.marked = func(wm int64) {
		if wm == 130 { // the newest entry
			cancel()
		}
	}
	require.NoError(t, w.Run(ctx))
	require.Equal(t, r.log.End(0), w.Seq())
	require.Equal(t, []int64{100, 120}, op.marks)
	require.Equal(t, []int64{50, 130}, both.marks)
}
