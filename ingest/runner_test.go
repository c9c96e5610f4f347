package ingest

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"math"
	"testing"
	"time"

	"github.com/apache/arrow/go/v17/arrow/array"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/penstock/penstock/internal/natsd"
	"github.com/penstock/penstock/pipeline"
	"github.com/penstock/penstock/pipeline/journal"
)

// refused is a source whose peer refuses it so many times; then it has nothing
// to say.
type refused struct{ times int }

func (s *refused) Connect(context.Context) error {
	if s.times--; s.times >= 0 {
		return pipeline.Permanent(errors.New("wrong password"))
	}
	return nil
}

func (*refused) Read(context.Context) (pipeline.Batch, pipeline.AckFunc, error) {
	return pipeline.Batch{}, nil, io.EOF
}
func (*refused) Close(context.Context) error { return nil }

// A source with a peer is tried again when it is refused; one without is not.
func TestRefusedSource(t *testing.T) {
	log := slog.New(slog.DiscardHandler)
	srv, err := natsd.Start(natsd.Options{Name: "test", Dir: t.TempDir(), SyncInterval: time.Second, Log: log})
	require.NoError(t, err)
	defer srv.Stop()
	nc, err := srv.Connect()
	require.NoError(t, err)
	defer nc.Close()
	js, err := jetstream.New(nc)
	require.NoError(t, err)
	j, err := journal.Open(t.Context(), js, journal.Options{Stream: "test", Shards: 1, MaxBytes: 1 << 20, Log: log})
	require.NoError(t, err)
	defer j.Close()

	for _, c := range []struct {
		every time.Duration
		left  int
		err   string
	}{
		{time.Millisecond, -1, ""},
		{0, 2, "source plc: wrong password"},
	} {
		src := &refused{times: 3}
		err := NewRunner(RunnerOptions{Name: "plc", Source: src, Journal: j, Shards: 1, RetryRefused: c.every, Meter: pipeline.NewMeter(), Log: log}).Run(t.Context())
		if c.err == "" {
			require.NoError(t, err)
		} else {
			require.EqualError(t, err, c.err)
		}
		require.Equal(t, c.left, src.times)
	}
}

func (*refused) Drain(context.Context) error { return nil }

// A source that is not connected yet ends at once when it is drained: a stop
// must not wait for a peer that is away.
func TestDrainBeforeConnect(t *testing.T) {
	tried := make(chan struct{}, 1)
	src := &hanging{tried: tried}
	r := NewRunner(RunnerOptions{Name: "floor", Source: src, Shards: 1, Meter: pipeline.NewMeter(), Log: slog.New(slog.DiscardHandler)})
	done := make(chan error, 1)
	go func() { done <- r.Run(t.Context()) }()
	<-tried
	ends, err := r.Drain(t.Context())
	require.True(t, ends)
	require.NoError(t, err)
	select {
	case err := <-done:
		require.NoError(t, err)
	case <-time.After(10 * time.Second):
		t.Fatal("the runner still waits for its peer")
	}
}

// hanging is a source whose peer does not answer.
type hanging struct {
	refused
	tried chan struct{}
}

func (h *hanging) Connect(ctx context.Context) error {
	h.tried <- struct{}{}
	<-ctx.Done()
	return ctx.Err()
}

func openJournal(t *testing.T, shards int) *journal.Log {
	log := slog.New(slog.DiscardHandler)
	srv, err := natsd.Start(natsd.Options{Name: "test", Dir: t.TempDir(), Log: log})
	require.NoError(t, err)
	nc, err := srv.Connect()
	require.NoError(t, err)
	t.Cleanup(func() { nc.Close(); srv.Stop() })
	js, err := jetstream.New(nc)
	require.NoError(t, err)
	j, err := journal.Open(t.Context(), js, journal.Options{Stream: "test", Shards: shards, Log: log})
	require.NoError(t, err)
	t.Cleanup(j.Close)
	return j
}

// batches is a source of these batches.
type batches struct {
	refused
	list []pipeline.Batch
	acks int
}

func (s *batches) Read(context.Context) (pipeline.Batch, pipeline.AckFunc, error) {
	if len(s.list) == 0 {
		return pipeline.Batch{}, func(error) {}, io.EOF
	}
	b := s.list[0]
	s.list = s.list[1:]
	return b, func(err error) {
		if err == nil {
			s.acks++
		}
	}, nil
}

// A flush that is split over shards does not tell one shard that time has gone
// on before its own rows are there: all of them would be late.
func TestShardsSeeTimeAfterTheirRows(t *testing.T) {
	j := openJournal(t, 2)
	tags := pipeline.NewTags(nil)
	b := NewBatcher(BatchConfig{MaxRows: 100, MaxTags: 100}, pipeline.Env{Name: "plc", Shards: 2, Tags: tags})
	src := &batches{}
	rows := 0
	for flush := range 3 {
		for asset := range 8 {
			tag := b.Tag(string(rune('a'+asset)) + "/v")
			for i := range 4 {
				b.Append(tag, int64(flush*3600+i*600)*int64(time.Second), 1, 0, 0)
				rows++
			}
		}
		src.list = b.Flush(src.list)
	}
	require.Len(t, src.list, 6, "rows for both shards in each flush")
	m := pipeline.NewMeter()
	require.NoError(t, NewRunner(RunnerOptions{Name: "plc", Source: src, Journal: j, Shards: 2, Lateness: time.Second, Sinks: []string{"influx"},
		Meter: m, Log: slog.New(slog.DiscardHandler)}).Run(t.Context()))
	require.Equal(t, 6, src.acks)
	require.EqualValues(t, rows, m.Totals().Journaled)
	require.EqualValues(t, rows, m.Totals().Sinks["influx"].Queued)

	for s := range 2 {
		r := j.Reader(s, journal.Position{}, make(chan struct{}, 1))
		watermark, seen := int64(math.MinInt64), 0
		for {
			e, ok, err := r.Next(t.Context())
			require.NoError(t, err)
			if !ok {
				break
			}
			if e.Record != nil {
				seen++
				for _, at := range e.Record.Column(pipeline.ColTime).(*array.Timestamp).TimestampValues() {
					require.GreaterOrEqual(t, int64(at), watermark, "shard %d: a row is late", s)
				}
				e.Record.Release()
			}
			require.GreaterOrEqual(t, e.Watermark, watermark)
			watermark = e.Watermark
		}
		r.Close()
		require.Equal(t, 3, seen)
		// The source has ended: nothing is to come, not even late rows.
		require.Equal(t, int64(2*3600+3*600)*int64(time.Second), watermark)
	}
}

// A drained source goes on at the next start: its last tick makes no promise
// that rows still with its peer would break.
func TestDrainedSourceKeepsItsLateness(t *testing.T) {
	j := openJournal(t, 1)
	b := NewBatcher(BatchConfig{MaxRows: 100, MaxTags: 100}, pipeline.Env{Name: "plc"})
	b.Append(b.Tag("a"), int64(time.Hour), 1, 0, 0)
	r := NewRunner(RunnerOptions{Name: "plc", Source: &batches{list: b.Flush(nil)}, Journal: j, Shards: 1, Lateness: time.Minute,
		Meter: pipeline.NewMeter(), Log: slog.New(slog.DiscardHandler)})
	require.NoError(t, r.connect(t.Context()))
	r.drain()
	for {
		b, ack, err := r.o.Source.Read(t.Context())
		if err != nil {
			break
		}
		require.NoError(t, r.append(t.Context(), b, ack))
	}
	require.NoError(t, r.end(t.Context()))
	last, ok, err := j.Last(t.Context(), 0)
	require.NoError(t, err)
	require.True(t, ok)
	require.True(t, last.Idle)
	require.Equal(t, int64(time.Hour-time.Minute), last.Watermark)
}

// last gives what it has taken when it is told to stop, as OPC UA does, which
// has no peer that would send it again.
type last struct {
	batches
	reading chan struct{}
}

func (s *last) Read(ctx context.Context) (pipeline.Batch, pipeline.AckFunc, error) {
	if len(s.list) == 0 {
		return pipeline.Batch{}, nil, ctx.Err()
	}
	close(s.reading)
	<-ctx.Done()
	return s.batches.Read(ctx)
}

func TestLastBatchIsStored(t *testing.T) {
	j := openJournal(t, 1)
	b := NewBatcher(BatchConfig{MaxRows: 100, MaxTags: 100}, pipeline.Env{Name: "plc"})
	b.Append(b.Tag("a"), 1, 1, 0, 0)
	src := &last{batches: batches{list: b.Flush(nil)}, reading: make(chan struct{})}
	m := pipeline.NewMeter()
	r := NewRunner(RunnerOptions{Name: "plc", Source: src, Journal: j, Shards: 1, Meter: m, Log: slog.New(slog.DiscardHandler)})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- r.Run(ctx) }()
	<-src.reading
	cancel()
	require.NoError(t, <-done)
	require.EqualValues(t, 1, m.Totals().Journaled)
	require.Equal(t, 1, src.acks)
}
