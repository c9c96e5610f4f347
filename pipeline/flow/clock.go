package flow

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/penstock/penstock/pipeline"
	"github.com/penstock/penstock/pipeline/journal"
)

// Clocked is an operator whose calls into a module a clock watches.
type Clocked interface {
	// Deadline is how long a call may take; 0 is for ever.
	Deadline() time.Duration
	// Watch says who is told of a call that takes too long, and of one that has
	// not come back some time after that either, both on another goroutine. From
	// the latter it never comes back.
	Watch(late, stuck func(call string))
	// Guarded runs f, which calls the operator, and returns when a call of f takes
	// too long: the operator has failed then, and f does not go on.
	Guarded(f func() error) error
	// GiveUp lets the next call fail as the one that took too long.
	GiveUp()
}

// TooLate is the error of a call that the clock ended, if it had more than no time.
type TooLate interface {
	error
	TooLate() (after time.Duration)
}

// killTimeout bounds how long the record of a kill may take to be stored.
const killTimeout = 5 * time.Second

// phase is what the worker is doing.
type phase int

const (
	starting phase = iota
	changing       // modules, at the entry at hand
	calling        // operators, with what the entry brings
	between        // entries: all that the one at hand asks for is done
)

// kill is the record of the call at hand into what runs as name in node i.
func (w *Worker) kill(i int, name string, m Module, after time.Duration) journal.Kill {
	k := journal.Kill{Shard: w.o.Shard, Seq: w.at, Node: name, Digest: m.Digest, After: after}
	switch w.phase {
	case changing:
		k.Call = journal.CallChange
	case calling:
		k.Call = w.calls[i]
	case starting, between:
		k.Call = journal.CallState
	}
	return k
}

// addKill keeps k for this run and for every replay.
func (w *Worker) addKill(k journal.Kill) {
	ctx, cancel := context.WithTimeout(context.Background(), killTimeout)
	defer cancel()
	if err := w.o.Journal.AddKill(ctx, k); err != nil {
		w.o.Log.Error("the journal cannot keep that a call is not to be made again: a restart will make it", "shard", w.o.Shard, "operator", k.Node, "error", err)
	}
	w.kills = append(w.kills, k)
}

// shadowNode is what a kill calls the shadow of a node.
func shadowNode(node string) string { return node + "/shadow" }

// watch has the clock watch what runs as name in node i. While it tells of a
// call, the worker's goroutine waits for that.
func (w *Worker) watch(i int, name string, op pipeline.Operator, m Module) {
	c, ok := op.(Clocked)
	if !ok {
		return
	}
	c.Watch(func(call string) {
		log := w.o.Log.With("shard", w.o.Shard, "operator", name, "module", m.Name, "digest", short(m.Digest), "call", call)
		if w.phase == starting { // the entry at hand is one that it ran through well
			log.Error("a module takes too long to take back its state")
			return
		}
		k := w.kill(i, name, m, c.Deadline())
		w.addKill(k)
		log.Error("a call into a module takes too long: it is the last one, in every replay too", "entry", k.Seq)
	}, func(call string) {
		w.o.Stuck(w.o.Shard, fmt.Errorf("operator %s: module %s (%s) does not come back from %s", name, m.Name, short(m.Digest), call))
	})
}

// Leave frees what a worker holds whose goroutine does not come back from a
// module: another can take its shard.
func (w *Worker) Leave() {
	w.reader.Close()
	w.closeAll(context.Background())
}

// killed reports whether a run before did not get back from a call of the entry at
// hand into what runs as name, and the operator has no more time now.
func (w *Worker) killed(name string, op pipeline.Operator, m Module, call int) bool {
	for _, k := range w.kills {
		if k.Seq != w.at || k.Call != call || k.Node != name || k.Digest != m.Digest {
			continue
		}
		c, ok := op.(Clocked)
		return ok && c.Deadline() > 0 && c.Deadline() <= k.After
	}
	return false
}

// killedModule is why a module is not put to work: the same in every run.
func killedModule(digest string) error {
	return fmt.Errorf("a call into module %s took too long, now or in an earlier run: if it needs more, raise deadline", short(digest))
}

// giveUp gives up the modules of node i that a run before did not get back from in
// this call of the entry at hand, and returns them.
func (w *Worker) giveUp(i, call int) (node pipeline.Operator, sh *shadow) {
	if len(w.kills) == 0 {
		return nil, nil
	}
	n := &w.o.Plan.Nodes[i]
	if w.killed(n.Name, n.Op, n.Module, call) {
		n.Op.(Clocked).GiveUp()
		node = n.Op
	}
	if s := w.shadows[i]; s != nil && w.killed(shadowNode(n.Name), s.op, s.m, call) {
		s.op.(Clocked).GiveUp()
		sh = s
	}
	return node, sh
}

// called counts a call of the entry at hand into node i.
func (w *Worker) called(i int) {
	w.calls[i]++
	w.giveUp(i, w.calls[i])
}

// settleKills gives up what a run before did not get back from when it was asked
// for its state.
func (w *Worker) settleKills(call int) error {
	for i := range w.o.Plan.Nodes {
		node, sh := w.giveUp(i, call)
		if node != nil {
			if err := node.Snapshot(io.Discard); err != nil {
				return fmt.Errorf("operator %s: snapshot: %w", w.o.Plan.Nodes[i].Name, err)
			}
		}
		if sh != nil {
			if err := sh.op.Snapshot(io.Discard); err != nil {
				sh.fail(err)
			}
		}
	}
	return nil
}
