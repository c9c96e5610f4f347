package flow

import (
	"context"
	"fmt"

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
// newest sequence of the journal: a queue that is ahead of it belongs to
// another journal, and its position is not believed.
func NewQueue(ctx context.Context, log *journal.Log, shard int, journalEnd uint64) (*Queue, error) {
	q := &Queue{log: log, shard: shard}
	last, ok, err := log.Last(ctx, shard)
	if err != nil {
		return nil, err
	}
	if ok {
		if last.Pos > journalEnd {
			return nil, fmt.Errorf("the queue has outputs of journal entry %d, but the journal ends at %d: the journal was deleted and the queue was not; delete both or neither", last.Pos, journalEnd)
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
