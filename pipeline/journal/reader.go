package journal

import (
	"context"
	"errors"
	"fmt"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// Reader reads the entries of one shard in order. One goroutine uses it.
type Reader struct {
	l     *Log
	s     *shard
	pos   Position
	known bool // pos.Batch and pos.Row are to be trusted
	wake  chan<- struct{}

	// Guarded by s.mu.
	paced bool
	read  uint64 // pos.Seq
	vain  uint64 // read, when a wait for this reader was in vain
}

// noSeq is no sequence of an entry.
const noSeq = ^uint64(0)

// unknownBatch stands in a position that is behind no entry that was read: the
// next one is not behind a gap.
const unknownBatch = ^uint64(0)

// Reader returns a reader of what comes after pos. wake, whose buffer is to
// hold at least one, is sent to when an entry has been appended.
func (l *Log) Reader(shard int, pos Position, wake chan<- struct{}) *Reader {
	s := l.shards[shard]
	r := &Reader{l: l, s: s, pos: pos, known: pos.Seq > 0, wake: wake, read: pos.Seq, vain: noSeq}
	s.mu.Lock()
	s.subs[r] = struct{}{}
	s.mu.Unlock()
	return r
}

// Pace makes Append wait a little, when this reader is about to fall behind
// what is kept in memory: reading from disk would cost it more time than the
// writer loses.
func (r *Reader) Pace() {
	r.s.mu.Lock()
	r.paced = true
	r.s.mu.Unlock()
}

// Close ends the reader.
func (r *Reader) Close() {
	r.s.mu.Lock()
	delete(r.s.subs, r)
	r.s.mu.Unlock()
}

// Position returns how far the reader has come.
func (r *Reader) Position() Position { return r.pos }

// Next returns the next entry, whose record the caller owns, or false when
// there is none yet: wait for wake. A passing fault is retried until ctx ends.
func (r *Reader) Next(ctx context.Context) (Entry, bool, error) {
	s := r.s
	s.mu.Lock()
	if s.newst <= r.pos.Seq {
		s.mu.Unlock()
		return Entry{}, false, nil
	}
	for i := range s.tail {
		if s.tail[i].Seq > r.pos.Seq {
			if s.prev[i] > r.pos.Seq {
				break // older ones are on disk only
			}
			e := s.tail[i]
			if e.Record != nil {
				e.Record.Retain()
			}
			r.moved(e.Seq)
			s.mu.Unlock()
			r.advance(&e)
			return e, true, nil
		}
	}
	end := s.newst
	s.mu.Unlock()
	var m *jetstream.RawStreamMsg
	for try := 0; ; try++ {
		var err error
		m, err = r.l.stream.GetMsg(ctx, r.pos.Seq+1, jetstream.WithGetMsgSubject(s.subject))
		if err == nil {
			break
		}
		if errors.Is(err, jetstream.ErrMsgNotFound) || errors.Is(err, nats.ErrMsgNotFound) {
			// All up to end has aged out or was discarded. The next entry's
			// counts show what it was.
			r.pos.Seq = end
			if !r.known {
				r.pos.Batch = unknownBatch
			}
			s.mu.Lock()
			r.moved(end)
			s.mu.Unlock()
			return Entry{}, false, nil
		}
		if ctx.Err() != nil {
			return Entry{}, false, fmt.Errorf("stream %s: read after %d: %w", r.l.o.Stream, r.pos.Seq, err)
		}
		if err := r.l.again(ctx, try, "cannot read; trying again", err); err != nil {
			return Entry{}, false, err
		}
	}
	e := r.l.entry(m)
	s.mu.Lock()
	r.moved(e.Seq)
	s.mu.Unlock()
	r.advance(&e)
	return e, true, nil
}

// moved tells a writer that may wait for this reader. s.mu is held.
func (r *Reader) moved(seq uint64) {
	r.read = seq
	if r.paced {
		select {
		case r.s.moved <- struct{}{}:
		default:
		}
	}
}

// advance moves the reader behind e and notes what is missing before it.
func (r *Reader) advance(e *Entry) {
	if e.Corrupt != nil {
		// Its counts cannot be trusted: the next good entry shows what is lost.
		r.pos.Seq = e.Seq
		return
	}
	if r.known && e.Batch > r.pos.Batch {
		e.LostBatches = e.Batch - r.pos.Batch
		if e.Row > r.pos.Row { // else the count of rows was lost too
			e.LostRows = e.Row - r.pos.Row
		}
	}
	r.pos, r.known = e.After(), true
}
