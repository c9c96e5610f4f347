package ingest

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"testing"
	"time"

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
