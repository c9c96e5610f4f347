package journal_test

import (
	"context"
	"log/slog"
	"testing"
	"time"

	"github.com/apache/arrow/go/v17/arrow/memory"
	"github.com/stretchr/testify/require"

	"github.com/penstock/penstock/pipeline/journal"
)

// What has aged out before it was read does not stop a reader, and a restart
// after it shows how much it was.
func TestAgedOut(t *testing.T) {
	ctx := context.Background()
	js := server(t, t.TempDir())
	for _, shards := range []int{1, 2} {
		o := journal.Options{Stream: journal.StreamName("J", string(rune('0'+shards))), Shards: shards, Log: slog.New(slog.DiscardHandler)}
		l, err := journal.Open(ctx, js, o)
		require.NoError(t, err)
		var last uint64
		for range 5 {
			last, err = l.Append(ctx, 0, journal.Meta{Kind: journal.KindTick, Source: "s"}, nil)
			require.NoError(t, err)
		}
		wake := make(chan struct{}, 1)
		r := l.Reader(0, journal.Position{}, wake)
		e := next(t, r, wake)
		pos := e.After()
		r.Close()
		st, err := js.Stream(ctx, o.Stream)
		require.NoError(t, err)
		require.NoError(t, st.Purge(ctx))

		l, err = journal.Open(ctx, js, o)
		require.NoError(t, err)
		require.Equal(t, last, l.End(0), "%d shards: the end of an empty stream", shards)
		require.Equal(t, pos, l.Resume(0, pos))
		r = l.Reader(0, pos, wake)
		_, ok, err := r.Next(ctx)
		require.NoError(t, err)
		require.False(t, ok)
		require.Equal(t, last, r.Position().Seq, "the reader waits for what is gone")
		_, err = l.Append(ctx, 0, journal.Meta{Kind: journal.KindTick, Source: "s"}, nil)
		require.NoError(t, err)
		e = next(t, r, wake)
		if shards == 1 {
			require.EqualValues(t, 4, e.LostBatches)
		}
		r.Close()
		l.Close()
	}
}

// A position that is ahead of the stream, whose newest entries went with the
// power, goes back to its end: what is appended next is read.
func TestResumeAheadOfStream(t *testing.T) {
	ctx := context.Background()
	l, err := journal.Open(ctx, server(t, t.TempDir()), journal.Options{Stream: "J", Log: slog.New(slog.DiscardHandler)})
	require.NoError(t, err)
	defer l.Close()
	_, err = l.Append(ctx, 0, journal.Meta{Kind: journal.KindTick, Source: "s"}, nil)
	require.NoError(t, err)
	pos := l.Resume(0, journal.Position{Seq: 9, Batch: 9, Row: 900})
	require.Equal(t, journal.Position{Seq: 1, Batch: 1}, pos)
	wake := make(chan struct{}, 1)
	r := l.Reader(0, pos, wake)
	defer r.Close()
	_, err = l.Append(ctx, 0, journal.Meta{Kind: journal.KindTick, Source: "s"}, nil)
	require.NoError(t, err)
	e := next(t, r, wake)
	require.EqualValues(t, 2, e.Seq)
	require.Zero(t, e.LostBatches)
}

// What Append reckons an entry to take is at least what the store takes: else
// a full journal discards what nobody has read.
func TestOverhead(t *testing.T) {
	ctx := context.Background()
	js := server(t, t.TempDir())
	o := journal.Options{Stream: "a-stream-with-a-rather-long-name-journal", Shards: 2, WhenFull: journal.Block, Log: slog.New(slog.DiscardHandler)}
	l, err := journal.Open(ctx, js, o)
	require.NoError(t, err)
	defer l.Close()
	require.NoError(t, l.Hold(ctx, "flow", 0, journal.Position{}))
	rec := record(memory.DefaultAllocator, 1, 0)
	defer rec.Release()
	for i := range 100 {
		m := journal.Meta{Kind: journal.KindTick, Source: "a_source_with_a_rather_long_name", Watermark: time.Now().UnixNano(), Pos: 1 << 40, Out: 1}
		r := rec
		if i%2 == 0 {
			r = nil
		}
		_, err := l.Append(ctx, 0, m, r)
		require.NoError(t, err)
	}
	st, err := js.Stream(ctx, o.Stream)
	require.NoError(t, err)
	require.GreaterOrEqual(t, l.Backlog(), int64(st.CachedInfo().State.Bytes))
	t.Log(l.Backlog(), st.CachedInfo().State.Bytes)
}

// The reader that is furthest behind at the start says how much is unread.
func TestHoldOfTheSlowest(t *testing.T) {
	ctx := context.Background()
	js := server(t, t.TempDir())
	o := journal.Options{Stream: "J", Log: slog.New(slog.DiscardHandler)}
	l, err := journal.Open(ctx, js, o)
	require.NoError(t, err)
	for range 100 {
		_, err := l.Append(ctx, 0, journal.Meta{Kind: journal.KindTick}, nil)
		require.NoError(t, err)
	}
	reckon := func(held ...uint64) int64 {
		l, err := journal.Open(ctx, js, o)
		require.NoError(t, err)
		for i, seq := range held {
			require.NoError(t, l.Hold(ctx, string(rune('a'+i)), 0, journal.Position{Seq: seq}))
		}
		return l.Backlog()
	}
	require.Equal(t, reckon(10), reckon(90, 10))
	require.Equal(t, reckon(10), reckon(10, 90))
}

// What is too old makes room, although its reader is away and never takes it:
// the store deletes it, and the reader will count it as a gap.
func TestAgeMakesRoom(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	l, err := journal.Open(ctx, server(t, t.TempDir()), journal.Options{Stream: "J", MaxBytes: 64 << 10, MaxAge: 200 * time.Millisecond,
		WhenFull: journal.Block, Log: slog.New(slog.DiscardHandler)})
	require.NoError(t, err)
	defer l.Close()
	require.NoError(t, l.Hold(ctx, "away", 0, journal.Position{}))
	rec := record(memory.DefaultAllocator, 1000, 0)
	defer rec.Release()
	for range 12 { // of 8 kB each: twice what the journal holds
		_, err := l.Append(ctx, 0, journal.Meta{Kind: journal.KindBatch}, rec)
		require.NoError(t, err)
	}
}
