package flow

import (
	"context"
	"math"

	"github.com/apache/arrow/go/v17/arrow"

	"github.com/penstock/penstock/pipeline"
	"github.com/penstock/penstock/pipeline/journal"
)

// WarmUp shows a fresh operator what the journal still has of its input, before
// it takes over. What it makes of that goes nowhere. It is the same on a replay,
// as long as the journal reaches back as far.
type WarmUp struct {
	Seq  uint64 // of the newest entry that it has been shown
	Rows int64

	op  pipeline.Operator
	wm  map[string]int64 // by source that feeds it: the watermark; MinInt64 before the first
	now int64            // the watermark that it was last told
}

// NewWarmUp is for an operator that reads just these sources, and is to be
// shown the journal from entry from on, which is above 0.
func NewWarmUp(op pipeline.Operator, sources []string, from uint64) *WarmUp {
	u := &WarmUp{Seq: from - 1, op: op, wm: map[string]int64{}, now: math.MinInt64}
	for _, s := range sources {
		u.wm[s] = math.MinInt64
	}
	return u
}

// nowhere takes what an operator emits.
type nowhere struct{}

func (nowhere) Emit(string, arrow.Record) error { return nil }

// To shows the operator the entries of the shard before sequence end, and
// returns when there are none left. An error is the operator's, or the journal's.
func (u *WarmUp) To(ctx context.Context, l *journal.Log, shard int, end uint64) error {
	r := l.Reader(shard, journal.Position{Seq: u.Seq}, make(chan struct{}, 1))
	defer r.Close()
	for {
		e, ok, err := r.Next(ctx)
		if err != nil || !ok {
			return err
		}
		if e.Seq >= end {
			if e.Record != nil {
				e.Record.Release()
			}
			return nil
		}
		if err := u.show(ctx, &e); err != nil {
			return err
		}
		u.Seq = e.Seq
	}
}

// show takes over e.Record.
func (u *WarmUp) show(ctx context.Context, e *journal.Entry) error {
	if e.Record != nil {
		defer e.Record.Release()
	}
	wm, fed := u.wm[e.Source]
	if !fed || e.Kind == journal.KindControl || e.Corrupt != nil {
		return nil
	}
	if e.Record != nil {
		u.Rows += e.Record.NumRows()
		if err := u.op.Process(ctx, e.Record, nowhere{}); err != nil {
			return err
		}
	}
	u.wm[e.Source] = max(wm, e.Watermark)
	low := int64(math.MaxInt64)
	for _, wm := range u.wm {
		low = min(low, wm)
	}
	if low > u.now {
		u.now = low
		return u.op.Advance(ctx, arrow.Timestamp(low), nowhere{})
	}
	return nil
}
