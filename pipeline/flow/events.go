package flow

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"

	"github.com/apache/arrow/go/v17/arrow"
	"github.com/apache/arrow/go/v17/arrow/array"
	"github.com/apache/arrow/go/v17/arrow/memory"

	"github.com/penstock/penstock/pipeline"
)

// ownNode is the name under which the flow raises alerts of its own.
const ownNode = "penstock"

// quarantineRule is the rule of the alert that a module was given up on. It is
// raised once, and cleared when somebody puts another module in place.
const quarantineRule = "module_quarantined"

// raised is an alert of the flow's own that has not been cleared.
type raised struct {
	ID   string
	Time int64 // event time, ns
}

// alert sends an event about node i to the sinks that take alerts. Like all
// that the flow emits, it is the same on a replay.
func (w *Worker) alert(i int, r raised, state string, at int64, message string) error {
	n := &w.o.Plan.Nodes[i]
	b := array.NewRecordBuilder(memory.DefaultAllocator, pipeline.AlertEvents)
	defer b.Release()
	b.Field(0).(*array.TimestampBuilder).Append(arrow.Timestamp(at))
	if err := b.Field(1).(*array.BinaryDictionaryBuilder).AppendString(ownNode + "/" + n.Name); err != nil {
		return err
	}
	for k, s := range []string{r.ID, quarantineRule, "", "critical", state} {
		b.Field(2 + k).(*array.StringBuilder).Append(s)
	}
	b.Field(7).AppendNull()
	b.Field(8).(*array.Float64Builder).Append(0)
	b.Field(9).(*array.TimestampBuilder).Append(arrow.Timestamp(r.Time))
	b.Field(10).(*array.StringBuilder).Append(message)
	rec := b.NewRecord()
	defer rec.Release()
	if w.o.Tap != nil {
		w.o.Tap(ownNode, rec)
	}
	named := array.NewRecord(pipeline.WithNode(rec.Schema(), ownNode), rec.Columns(), rec.NumRows())
	defer named.Release()
	w.out++
	for _, s := range w.o.Plan.Alerts {
		fresh, err := s.Queue.Publish(w.ctx, w.at, w.out, ownNode, named)
		if err != nil {
			return fmt.Errorf("queue of sink %s: %w", s.Name, err)
		}
		if fresh {
			w.o.Meter.Queued(s.Name, 1)
		}
	}
	return nil
}

// eventTime is the newest watermark, or 0.
func (w *Worker) eventTime() int64 {
	at := int64(0)
	for _, wm := range w.wm {
		at = max(at, wm)
	}
	return at
}

// relieve raises an alert for each module that was just given up on, and puts
// back what ran before it.
func (w *Worker) relieve() error {
	for i := range w.o.Plan.Nodes {
		n := &w.o.Plan.Nodes[i]
		q, ok := n.Op.(Quarantined)
		if !ok || n.Modules == nil || !q.Quarantined() || w.raised[i].ID != "" {
			continue
		}
		bad, at := n.Module, w.eventTime()
		sum := sha256.Sum256(fmt.Appendf(nil, "%s %s %s %d %d", quarantineRule, n.Name, bad.Digest, w.o.Shard, w.at))
		w.raised[i] = raised{ID: hex.EncodeToString(sum[:8]), Time: at}
		message := fmt.Sprintf("operator %s: module %s (%s) is not called any more: %s", n.Name, bad.Name, short(bad.Digest), q.QuarantinedFor())
		if w.previous[i].Digest != "" {
			if carried, err := w.rollback(i); err != nil {
				message += fmt.Sprintf("; the one before (%s) cannot come back: %v", short(w.previous[i].Digest), err)
			} else {
				message += fmt.Sprintf("; %s (%s) runs again", n.Module.Name, short(n.Module.Digest))
				if !carried {
					message += ", afresh"
				}
			}
		}
		w.o.Log.Error("a module is in quarantine", "shard", w.o.Shard, "operator", n.Name, "message", message)
		if err := w.alert(i, w.raised[i], "raised", at, message); err != nil {
			return err
		}
		w.moved = true
		w.publishStatus()
	}
	return nil
}

// settled clears the alert of node i, whose module somebody has changed.
func (w *Worker) settled(i int) error {
	r := w.raised[i]
	if r.ID == "" {
		return nil
	}
	w.raised[i] = raised{}
	n := &w.o.Plan.Nodes[i]
	return w.alert(i, r, "cleared", max(w.eventTime(), r.Time), fmt.Sprintf("operator %s runs module %s (%s)", n.Name, n.Module.Name, short(n.Module.Digest)))
}
