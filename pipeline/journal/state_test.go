package journal

import (
	"bytes"
	"context"
	"log/slog"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/penstock/penstock/internal/natsd"
)

func stateServer(t *testing.T) jetstream.JetStream {
	s, err := natsd.Start(natsd.Options{Name: "test", Dir: t.TempDir(), SyncInterval: time.Second, Log: slog.New(slog.DiscardHandler)})
	require.NoError(t, err)
	t.Cleanup(s.Stop)
	nc, err := s.Connect()
	require.NoError(t, err)
	t.Cleanup(nc.Close)
	js, err := jetstream.New(nc)
	require.NoError(t, err)
	return js
}

// A value that is too large for one message comes back whole, is replaced at
// once or not at all, and gives way to a small one.
func TestLargeState(t *testing.T) {
	js := stateServer(t)
	s, err := OpenState(context.Background(), js, "large_state")
	require.NoError(t, err)
	large := func(seed uint64, n int) []byte {
		b := make([]byte, n)
		_, _ = rand.NewChaCha8([32]byte{byte(seed)}).Read(b)
		return b
	}
	put := func(v []byte) {
		require.NoError(t, s.Put(context.Background(), "flow.0", v))
		got, err := s.Get(context.Background(), "flow.0")
		require.NoError(t, err)
		require.True(t, bytes.Equal(v, got))
	}
	put(large(1, 100))
	a, b := large(2, 2*partSize+5), large(3, partSize+1)
	put(a)
	put(b)
	// Its successor is written in part only, when the process ends.
	m, _, err := s.manifest(context.Background(), "flow.0")
	require.NoError(t, err)
	require.NoError(t, s.put(context.Background(), partKey("flow.0", manifest{Set: 1 - m.Set}, 0), large(4, partSize)))
	got, err := s.Get(context.Background(), "flow.0")
	require.NoError(t, err)
	require.True(t, bytes.Equal(b, got))
	put(a)
	put(large(5, 10))
	require.NoError(t, s.put(context.Background(), "flow.0", []byte(manifestMagic+"{}")))
	_, err = s.Get(context.Background(), "flow.0")
	require.ErrorContains(t, err, "damaged")
}
