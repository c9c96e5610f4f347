package journal_test

import (
	"context"
	"fmt"
	"log/slog"
	"testing"
	"time"

	"github.com/apache/arrow/go/v17/arrow"
	"github.com/apache/arrow/go/v17/arrow/array"
	"github.com/apache/arrow/go/v17/arrow/memory"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/penstock/penstock/internal/natsd"
	"github.com/penstock/penstock/pipeline/journal"
)

func server(t testing.TB, dir string) jetstream.JetStream {
	t.Helper()
	s, err := natsd.Start(natsd.Options{Name: "test", Dir: dir, Log: slog.New(slog.DiscardHandler)})
	require.NoError(t, err)
	nc, err := s.Connect()
	require.NoError(t, err)
	js, err := jetstream.New(nc)
	require.NoError(t, err)
	t.Cleanup(func() { nc.Close(); s.Stop() })
	return js
}

func record(alloc memory.Allocator, n int, v float64) arrow.Record {
	b := array.NewRecordBuilder(alloc, arrow.NewSchema([]arrow.Field{{Name: "v", Type: arrow.PrimitiveTypes.Float64}}, nil))
	defer b.Release()
	for i := range n {
		b.Field(0).(*array.Float64Builder).Append(v + float64(i))
	}
	return b.NewRecord()
}

func next(t testing.TB, r *journal.Reader, wake chan struct{}) journal.Entry {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	for {
		e, ok, err := r.Next(ctx)
		require.NoError(t, err)
		if ok {
			return e
		}
		select {
		case <-wake:
		case <-ctx.Done():
			t.Fatal("no entry")
		}
	}
}

// A reader that keeps up and one that comes later, after a restart of
// everything, see the same entries in the same order.
func TestReadLiveAndStored(t *testing.T) {
	alloc := memory.NewCheckedAllocator(memory.NewGoAllocator())
	defer alloc.AssertSize(t, 0)
	dir := t.TempDir()
	ctx := context.Background()
	js := server(t, dir)
	l, err := journal.Open(ctx, js, journal.Options{Stream: "J", Shards: 2, Alloc: alloc})
	require.NoError(t, err)
	wake := make(chan struct{}, 1)
	live := l.Reader(1, journal.Position{}, wake)
	var live1 []string
	for i := range 200 {
		rec := record(alloc, i%5+1, float64(i))
		_, err := l.Append(ctx, i%2, journal.Meta{Kind: journal.KindBatch, Source: "s", Watermark: int64(i)}, rec)
		require.NoError(t, err)
		rec.Release()
		if i%2 == 1 && i%10 == 9 { // falls behind by a few, then catches up
			for len(live1) < i/2+1 {
				e := next(t, live, wake)
				live1 = append(live1, fmt.Sprint(e.Meta, e.Seq, e.Record))
				require.Zero(t, e.LostBatches)
				e.Record.Release()
			}
		}
	}
	live.Close()
	l.Close()

	l, err = journal.Open(ctx, js, journal.Options{Stream: "J", Shards: 2, Alloc: alloc})
	require.NoError(t, err)
	defer l.Close()
	r := l.Reader(1, journal.Position{}, wake)
	defer r.Close()
	for _, want := range live1 {
		e := next(t, r, wake)
		require.Equal(t, want, fmt.Sprint(e.Meta, e.Seq, e.Record))
		e.Record.Release()
	}
	_, ok, err := r.Next(ctx)
	require.NoError(t, err)
	require.False(t, ok)

	_, err = journal.Open(ctx, js, journal.Options{Stream: "J", Shards: 3})
	require.ErrorContains(t, err, "shards")
}

// A kill is there after a restart, for its shard, and the oldest give way.
func TestKills(t *testing.T) {
	ctx, js := context.Background(), server(t, t.TempDir())
	open := func() *journal.Log {
		l, err := journal.Open(ctx, js, journal.Options{Stream: "K", Shards: 2})
		require.NoError(t, err)
		return l
	}
	l := open()
	require.Empty(t, l.Kills(0))
	k := journal.Kill{Shard: 1, Seq: 7, Node: "score", Digest: "ab", Call: 2}
	require.NoError(t, l.AddKill(ctx, k))
	require.Equal(t, []journal.Kill{k}, l.Kills(1))
	l.Close()
	l = open()
	require.Equal(t, []journal.Kill{k}, l.Kills(1))
	require.Empty(t, l.Kills(0))
	for i := range 64 {
		for range 2 { // the same one takes no further place
			require.NoError(t, l.AddKill(ctx, journal.Kill{Seq: uint64(9 + i)}))
		}
	}
	l.Close()
	l = open()
	defer l.Close()
	require.Empty(t, l.Kills(1))
	require.Len(t, l.Kills(0), 64)
	require.EqualValues(t, 9, l.Kills(0)[0].Seq)
	_, err := l.Append(ctx, 0, journal.Meta{Kind: journal.KindTick}, nil)
	require.NoError(t, err)
}

// A full journal under drop_oldest shows the reader exactly what it missed.
func TestGapIsCounted(t *testing.T) {
	ctx := context.Background()
	js := server(t, t.TempDir())
	l, err := journal.Open(ctx, js, journal.Options{Stream: "J", MaxBytes: 256 << 10, WhenFull: journal.DropOldest})
	require.NoError(t, err)
	defer l.Close()
	wake := make(chan struct{}, 1)
	r := l.Reader(0, journal.Position{}, wake)
	defer r.Close()
	rec := record(memory.DefaultAllocator, 1000, 0)
	defer rec.Release()
	appendOne := func() {
		_, err := l.Append(ctx, 0, journal.Meta{Kind: journal.KindBatch, Source: "s"}, rec)
		require.NoError(t, err)
	}
	appendOne()
	e := next(t, r, wake)
	e.Record.Release()
	for range 200 {
		appendOne()
	}
	seen, lost := uint64(0), uint64(0)
	for seen+lost < 200 {
		e := next(t, r, wake)
		seen++
		lost += e.LostBatches
		require.Equal(t, e.LostBatches*1000, e.LostRows)
		e.Record.Release()
	}
	require.NotZero(t, lost)
	require.EqualValues(t, 200, seen+lost)
}

// Under block, Append waits for the slowest holder and loses nothing.
func TestBlockWaitsForHolders(t *testing.T) {
	ctx := context.Background()
	js := server(t, t.TempDir())
	l, err := journal.Open(ctx, js, journal.Options{Stream: "J", MaxBytes: 256 << 10, WhenFull: journal.Block, Log: slog.New(slog.DiscardHandler)})
	require.NoError(t, err)
	defer l.Close()
	require.NoError(t, l.Hold(ctx, "flow", 0, journal.Position{}))
	wake := make(chan struct{}, 1)
	r := l.Reader(0, journal.Position{}, wake)
	defer r.Close()
	rec := record(memory.DefaultAllocator, 1000, 0)
	defer rec.Release()
	short, cancel := context.WithTimeout(ctx, 200*time.Millisecond)
	defer cancel()
	n := 0
	for ; ; n++ {
		if _, err := l.Append(short, 0, journal.Meta{Kind: journal.KindBatch}, rec); err != nil {
			break
		}
	}
	require.Greater(t, n, 5)
	done := make(chan error, 1)
	go func() {
		for range 100 {
			if _, err := l.Append(ctx, 0, journal.Meta{Kind: journal.KindBatch}, rec); err != nil {
				done <- err
				return
			}
		}
		done <- nil
	}()
	for range n + 100 {
		e := next(t, r, wake)
		require.Zero(t, e.LostBatches)
		e.Record.Release()
		l.Release("flow", 0, e.Seq)
	}
	require.NoError(t, <-done)
}

// A second writer of a shard fences off the first.
func TestFence(t *testing.T) {
	ctx := context.Background()
	js := server(t, t.TempDir())
	open := func() *journal.Log {
		l, err := journal.Open(ctx, js, journal.Options{Stream: "J", Log: slog.New(slog.DiscardHandler)})
		require.NoError(t, err)
		return l
	}
	a, b := open(), open()
	_, err := a.Append(ctx, 0, journal.Meta{Kind: journal.KindTick}, nil)
	require.NoError(t, err)
	_, err = b.Append(ctx, 0, journal.Meta{Kind: journal.KindTick}, nil)
	require.ErrorIs(t, err, journal.ErrFenced)
}

func BenchmarkAppend(b *testing.B) {
	js := server(b, b.TempDir())
	for _, rows := range []int{50, 640, 8192} {
		b.Run(fmt.Sprint(rows), func(b *testing.B) {
			l, err := journal.Open(context.Background(), js, journal.Options{Stream: fmt.Sprint("J", rows), MaxBytes: 256 << 20, WhenFull: journal.DropOldest})
			require.NoError(b, err)
			rec := record(memory.DefaultAllocator, rows, 0)
			b.ReportAllocs()
			for b.Loop() {
				if _, err := l.Append(context.Background(), 0, journal.Meta{Kind: journal.KindBatch, Source: "s"}, rec); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(rows), "ns/row")
		})
	}
}
