package flow

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/penstock/penstock/pipeline"
	"github.com/penstock/penstock/pipeline/journal"
)

// Module names what runs in a node that has modules.
type Module struct {
	Digest string // SHA-256 in hex
	Name   string // name@version, as the metrics call it
	Engine string
}

// Modules opens the modules that may run in a node. One worker uses it.
type Modules interface {
	// Open returns an operator that runs the module, open and fresh, with the
	// node's settings, and the fingerprint that stands for them and it. What a
	// shadow counts is counted apart. The caller owns the operator.
	Open(ctx context.Context, digest string, shadow bool) (op pipeline.Operator, m Module, fingerprint string, err error)
}

// Quarantined is an operator that may have given up on its module.
type Quarantined interface{ Quarantined() bool }

// before is the module that a node ran before, with the state it then had.
type before struct {
	Digest string
	State  []byte
}

// Outcome says what became of a control.
type Outcome struct {
	Node    string
	Module  Module // that runs now
	Carried bool   // it went on with the state of the one before
	Pause   time.Duration
	Err     error // why nothing changed
}

var errNotSwappable = errors.New("has no module that could change")

// control does what an entry asks, between two batches. What cannot be done is
// the outcome's; an error ends the worker.
func (w *Worker) control(e *journal.Entry) error {
	start := time.Now()
	c, err := pipeline.ReadControl(e.Record)
	o := Outcome{Node: c.Node}
	i := -1
	for k := range w.o.Plan.Nodes {
		if w.o.Plan.Nodes[k].Name == c.Node {
			i = k
		}
	}
	switch {
	case err != nil:
	case i < 0:
		err = fmt.Errorf("there is no operator %q", c.Node)
	case w.o.Plan.Nodes[i].Modules == nil:
		err = fmt.Errorf("operator %s %w", c.Node, errNotSwappable)
	case c.Action == pipeline.ControlDeploy:
		o.Carried, err = w.deploy(i, c.Digest, nil)
	case c.Action == pipeline.ControlRollback:
		o.Carried, err = w.rollback(i)
	case c.Action == pipeline.ControlShadow:
		err = w.shadow(i, c.Digest)
	case c.Action == pipeline.ControlPromote:
		err = w.promote(i)
		o.Carried = err == nil
	default:
		err = fmt.Errorf("nothing is known of the action %q", c.Action)
	}
	if i >= 0 {
		o.Module = w.o.Plan.Nodes[i].Module
	}
	o.Err, o.Pause = err, time.Since(start)
	log := w.o.Log.With("shard", w.o.Shard, "operator", c.Node, "action", c.Action, "module", o.Module.Name, "digest", short(o.Module.Digest), "pause", o.Pause)
	if err != nil {
		log.Error("a module could not be changed; what ran before goes on", "wanted", short(c.Digest), "error", err)
	} else {
		log.Info("module changed", "state_carried", o.Carried)
	}
	w.publishStatus()
	if w.o.Done != nil {
		w.o.Done(w.o.Shard, e.Seq, o)
	}
	if err == nil && c.Action != pipeline.ControlShadow {
		return w.settled(i)
	}
	return nil
}

// deploy puts the module of that digest in place of node i's. It goes on with
// state, if that is not nil, or else with the state of the one that runs, where
// it understands it; otherwise it starts afresh.
func (w *Worker) deploy(i int, digest string, state []byte) (carried bool, err error) {
	n := &w.o.Plan.Nodes[i]
	if digest == n.Module.Digest {
		return true, nil
	}
	was := before{Digest: n.Module.Digest, State: w.snapshot(n.Op)}
	if state == nil {
		state = was.State
	}
	op, m, fingerprint, carried, err := w.openWith(i, digest, false, state)
	if err != nil {
		return false, err
	}
	w.put(i, op, m, fingerprint)
	w.previous[i] = was
	return carried, nil
}

// openWith opens a module that goes on with state, where it understands it.
func (w *Worker) openWith(i int, digest string, shadow bool, state []byte) (op pipeline.Operator, m Module, fingerprint string, carried bool, err error) {
	n := &w.o.Plan.Nodes[i]
	if op, m, fingerprint, err = n.Modules.Open(w.ctx, digest, shadow); err != nil || state == nil {
		return op, m, fingerprint, false, err
	}
	refusal := error(nil)
	if u, ok := op.(interface{ Understands([]byte) error }); ok {
		refusal = u.Understands(state)
	}
	if refusal == nil {
		if refusal = op.Restore(bytes.NewReader(state)); refusal == nil {
			return op, m, fingerprint, true, nil
		}
		// It may have begun with it.
		if err = op.Close(w.ctx); err == nil {
			op, m, fingerprint, err = n.Modules.Open(w.ctx, digest, shadow)
		}
	}
	w.o.Log.Warn("the module does not go on with the state of the one before and starts afresh", "operator", n.Name, "module", m.Name, "reason", refusal)
	return op, m, fingerprint, false, err
}

// rollback puts what ran before back in place, with the state it then had.
func (w *Worker) rollback(i int) (carried bool, err error) {
	was := w.previous[i]
	if was.Digest == "" {
		return false, fmt.Errorf("operator %s has run no other module before", w.o.Plan.Nodes[i].Name)
	}
	carried, err = w.deploy(i, was.Digest, was.State)
	if err == nil {
		w.previous[i] = before{}
	}
	return carried, err
}

// put lets op run in node i from now on and closes the operator that did.
func (w *Worker) put(i int, op pipeline.Operator, m Module, fingerprint string) {
	n := &w.o.Plan.Nodes[i]
	old := n.Op
	n.Op, n.Module, n.Fingerprint = op, m, fingerprint
	w.emit[i].last = nil
	w.moved = true
	if err := old.Close(w.ctx); err != nil {
		w.o.Log.Warn("the module that was replaced does not close", "operator", n.Name, "error", err)
	}
}

// snapshot returns op's state, or nil where it cannot say.
func (w *Worker) snapshot(op pipeline.Operator) []byte {
	var b bytes.Buffer
	if err := op.Snapshot(&b); err != nil {
		return nil
	}
	return b.Bytes()
}

// NodeStatus is what runs in one node of one shard.
type NodeStatus struct {
	Node        string       `json:"operator"`
	Module      string       `json:"module"`
	Digest      string       `json:"digest"`
	Engine      string       `json:"engine"`
	Base        string       `json:"config_digest"`
	Previous    string       `json:"previous_digest,omitempty"`
	Quarantined bool         `json:"quarantined,omitempty"`
	Shadow      *ShadowStats `json:"shadow,omitempty"`
}

// Status returns what runs in the nodes that have modules, as of the newest
// checkpoint or change. Safe for concurrent use.
func (w *Worker) Status() []NodeStatus {
	if p := w.status.Load(); p != nil {
		return *p
	}
	return nil
}

func (w *Worker) publishStatus() {
	var out []NodeStatus
	for i, n := range w.o.Plan.Nodes {
		if n.Modules == nil {
			continue
		}
		s := NodeStatus{Node: n.Name, Module: n.Module.Name, Digest: n.Module.Digest, Engine: n.Module.Engine, Base: n.Base, Previous: w.previous[i].Digest}
		if q, ok := n.Op.(Quarantined); ok {
			s.Quarantined = q.Quarantined()
		}
		if sh := w.shadows[i]; sh != nil {
			stats := sh.report()
			s.Shadow = &stats
		}
		out = append(out, s)
	}
	w.status.Store(&out)
}

func short(digest string) string { return digest[:min(12, len(digest))] }
