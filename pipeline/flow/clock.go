package flow

import (
	"context"
	"fmt"
	"time"

	"github.com/penstock/penstock/pipeline"
	"github.com/penstock/penstock/pipeline/journal"
)

// Clocked is an operator whose calls a clock watches.
type Clocked interface {
	// Watch says who is told of a call that takes too long, and of one that has
	// not come back some time after that either, both on another goroutine. From
	// the latter it never comes back.
	Watch(late, stuck func(call string))
	// GiveUp lets the next call fail as the one that took too long.
	GiveUp()
}

// killTimeout bounds how long the record of a kill may take to be stored.
const killTimeout = 5 * time.Second

// shadowNode is what a kill calls the shadow of a node.
func shadowNode(node string) string { return node + "/shadow" }

// watch has the clock watch what runs as name in node i. While it tells of a
// call, the worker's goroutine is in that.
func (w *Worker) watch(i int, name string, op pipeline.Operator, m Module) {
	c, ok := op.(Clocked)
	if !ok {
		return
	}
	c.Watch(func(call string) {
		k := journal.Kill{Shard: w.o.Shard, Seq: w.at, Node: name, Digest: m.Digest}
		if w.within {
			k.Call = w.calls[i]
		}
		ctx, cancel := context.WithTimeout(context.Background(), killTimeout)
		defer cancel()
		err := w.o.Journal.AddKill(ctx, k)
		w.o.Log.Error("a call into a module takes too long: it is the last one, in every replay too", "shard", w.o.Shard, "operator", name,
			"module", m.Name, "digest", short(m.Digest), "call", call, "entry", k.Seq, "recorded", err == nil, "error", err)
	}, func(call string) {
		w.o.Stuck(w.o.Shard, fmt.Errorf("operator %s: module %s (%s) does not come back from %s", name, m.Name, short(m.Digest), call))
	})
}

// Leave frees what a worker whose goroutine does not come back from a module does
// not hold: another worker can take its shard. The operators are left, for that
// goroutine is in one of them.
func (w *Worker) Leave() { w.reader.Close() }

// called counts a call of the entry at hand into node i, and gives up a module
// that an earlier run did not get back from just there.
func (w *Worker) called(i int) {
	w.calls[i]++
	if len(w.kills) > 0 {
		w.giveUp(i, w.calls[i])
	}
}

// giveUp gives up the module of node i if an earlier run did not get back from
// this call of the entry at hand, and reports whether it did.
func (w *Worker) giveUp(i, call int) bool {
	n := &w.o.Plan.Nodes[i]
	c, ok := n.Op.(Clocked)
	for _, k := range w.kills {
		if ok && k.Seq == w.at && k.Call == call && k.Node == n.Name && k.Digest == n.Module.Digest {
			c.GiveUp()
			return true
		}
	}
	return false
}

// settleKills gives up what an earlier run did not get back from after the entry
// at hand: when it was asked for its state.
func (w *Worker) settleKills() {
	if len(w.kills) == 0 {
		return
	}
	for i := range w.o.Plan.Nodes {
		if w.giveUp(i, 0) {
			w.snapshot(w.o.Plan.Nodes[i].Op)
		}
	}
}

// killedSince reports whether an earlier run did not get back from the module that
// ran as name, at the entry at hand or later.
func (w *Worker) killedSince(name, digest string) bool {
	for _, k := range w.kills {
		if k.Seq >= w.at && k.Node == name && k.Digest == digest {
			return true
		}
	}
	return false
}
