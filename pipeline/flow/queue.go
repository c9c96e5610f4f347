package flow

import (
	"context"
	"math"
	"time"

	"github.com/apache/arrow/go/v17/arrow"

	"github.com/penstock/penstock/pipeline/journal"
)

// Queue is the writing end of one sink's queue for one shard. It publishes
// each output once, whatever restarts: the last entry of the queue says how
// far an earlier run came.
type Queue struct {
	log      *journal.Log
	shard    int
	pos, out uint64
}

// NewQueue returns the writing end of shard's part of log. journalEnd is the
// newest sequence of the journal. A queue that is ahead of it has outputs of
// entries that the journal has lost: entries to come take their sequences, and
// their outputs are new.
func NewQueue(ctx context.Context, log *journal.Log, shard int, journalEnd uint64) (*Queue, error) {
	q := &Queue{log: log, shard: shard}
	last, ok, err := log.Last(ctx, shard)
	if err != nil {
		return nil, err
	}
	if ok {
		if last.Pos > journalEnd {
			last.Pos, last.Out = journalEnd, math.MaxUint64
			// An entry without rows keeps this in mind across a restart. A full
			// queue has no room for it before the sinks run: it goes without.
			mark, cancel := context.WithTimeout(ctx, time.Second)
			defer cancel()
			_, err := log.Append(mark, shard, journal.Meta{Kind: journal.KindTick, Pos: last.Pos, Out: last.Out}, nil)
			if err != nil && mark.Err() == nil {
				return nil, err
			}
		}
		q.pos, q.out = last.Pos, last.Out
	}
	return q, nil
}

// Publish stores output number out of journal entry pos, made by node, and
// reports whether it was new. rec is borrowed.
func (q *Queue) Publish(ctx context.Context, pos, out uint64, node string, rec arrow.Record) (bool, error) {
	if pos < q.pos || pos == q.pos && out <= q.out {
		return false, nil
	}
	_, err := q.log.Append(ctx, q.shard, journal.Meta{Kind: journal.KindBatch, Source: node, Pos: pos, Out: out}, rec)
	if err != nil {
		return false, err
	}
	q.pos, q.out = pos, out
	return true, nil
}
