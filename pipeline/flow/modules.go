package flow

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
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
	// node's settings, for what entry seq asks. What a shadow counts is counted
	// apart. The caller owns the operator.
	Open(ctx context.Context, digest string, shadow bool, seq uint64) (Opened, error)
}

// Opened is an operator that runs a module.
type Opened struct {
	Op     pipeline.Operator
	Module Module
	// Fingerprint stands for the node's settings and the module.
	Fingerprint string
	// WarmUp is what the operator has been shown ahead, or nil.
	WarmUp *WarmUp
}

// Quarantined is an operator that may have given up on its module.
type Quarantined interface {
	Quarantined() bool
	QuarantinedFor() string // why
}

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
	Warmed  int64  // rows that it was shown, having started afresh
	Failed  int    // calls that failed meanwhile
	Pause   time.Duration
	Err     error // why nothing changed
}

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
		err = fmt.Errorf("operator %s has no module that could change", c.Node)
	case c.Action == pipeline.ControlDeploy:
		if o.Carried, o.Warmed, err = w.deploy(i, c, e.Seq, nil); err == nil && !o.Carried {
			o.Failed = failures(w.o.Plan.Nodes[i].Op)
		}
	case c.Action == pipeline.ControlRollback:
		o.Carried, err = w.rollback(i)
	case c.Action == pipeline.ControlShadow:
		if o.Warmed, err = w.shadow(i, c, e.Seq); err == nil && w.shadows[i] != nil {
			o.Failed = failures(w.shadows[i].op)
		}
	case c.Action == pipeline.ControlPromote:
		err = w.promote(i)
		o.Carried = err == nil
	default:
		err = fmt.Errorf("nothing is known of the action %q", c.Action)
	}
	if i >= 0 {
		o.Module = w.o.Plan.Nodes[i].Module
	}
	var end stop
	if errors.As(err, &end) {
		return end
	}
	o.Err, o.Pause = err, time.Since(start)
	log := w.o.Log.With("shard", w.o.Shard, "operator", c.Node, "action", c.Action, "module", o.Module.Name, "digest", short(o.Module.Digest), "pause", o.Pause)
	if c.Action == pipeline.ControlShadow && c.Digest != "" {
		log = log.With("candidate", short(c.Digest))
	}
	if err != nil {
		log.Error("a module could not be changed; what ran before goes on", "wanted", short(c.Digest), "error", err)
	} else {
		log.Info("module changed", "state_carried", o.Carried, "rows_shown", o.Warmed)
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

// failures is how many calls of op have failed since it was opened.
func failures(op pipeline.Operator) int {
	if f, ok := op.(interface{ Failures() int }); ok {
		return f.Failures()
	}
	return 0
}

// deploy puts the module that c names in place of node i's, at journal entry
// seq. It goes on with state, if that is not nil, or else with the state of the
// one that runs, where it understands it; otherwise it starts afresh and is shown
// what the journal has.
func (w *Worker) deploy(i int, c pipeline.Control, seq uint64, state []byte) (carried bool, warmed int64, err error) {
	n := &w.o.Plan.Nodes[i]
	if c.Digest == n.Module.Digest {
		return true, 0, nil
	}
	was, err := w.running(i)
	if err != nil {
		return false, 0, err
	}
	if state == nil {
		state = was.State
	}
	opened, carried, err := w.openWith(i, c.Digest, false, state)
	if err != nil {
		return false, 0, err
	}
	if !carried {
		if warmed, err = w.warmUp(i, n.Name, &opened, c.From, seq); err != nil {
			return false, 0, err
		}
	}
	w.put(i, opened)
	w.previous[i] = was
	return carried, warmed, nil
}

// warmUp shows a fresh operator, which is to run as name in node i, what lies in the
// journal between entries from and seq, as far as it was not shown that ahead, and
// returns how many rows it has seen. What an operator is fed by others cannot be
// shown. On an error, which is one of the clock, the operator is closed.
func (w *Worker) warmUp(i int, name string, o *Opened, from, seq uint64) (rows int64, err error) {
	u := o.WarmUp
	if u == nil {
		sources := w.sourcesOf(i)
		if from == 0 || len(sources) == 0 {
			return 0, nil
		}
		u = NewWarmUp(o.Op, sources, from)
	}
	show := func() error { return u.To(w.ctx, w.o.Journal, w.o.Shard, seq) }
	if c, ok := o.Op.(Clocked); ok {
		err = c.Guarded(show)
	} else {
		err = show()
	}
	if err := w.cut(name, *o); err != nil {
		return 0, err
	}
	if err != nil {
		w.o.Log.Warn("a module could not be shown all that the journal has", "operator", w.o.Plan.Nodes[i].Name, "rows", u.Rows, "error", err)
	}
	return u.Rows, nil
}

// sourcesOf returns the sources that node i reads, or nil when it reads other
// nodes too.
func (w *Worker) sourcesOf(i int) (names []string) {
	for _, n := range w.o.Plan.Nodes {
		for _, out := range n.Outputs {
			if slices.Contains(out.Targets, i) {
				return nil
			}
		}
	}
	for _, s := range w.o.Plan.Sources {
		if slices.Contains(s.Targets, i) {
			names = append(names, s.Name)
		}
	}
	return names
}

// open opens a module that is to run as name in node i, unless the clock ended it
// at this entry before.
func (w *Worker) open(i int, name, digest string, shadow bool) (Opened, error) {
	n := &w.o.Plan.Nodes[i] // whatever runs there, it has the node's deadline
	if w.killed(name, n.Op, Module{Digest: digest}, journal.CallChange) {
		return Opened{}, killedModule(digest)
	}
	o, err := n.Modules.Open(w.ctx, digest, shadow, w.at)
	if err == nil {
		w.watch(i, name, o.Op, o.Module)
		return o, nil
	}
	var late TooLate
	if errors.As(err, &late) && late.TooLate() > 0 && w.phase == changing {
		w.o.Log.Error("a module takes too long to open", "shard", w.o.Shard, "operator", name, "digest", short(digest), "error", err)
		w.addKill(w.kill(i, name, Module{Digest: digest}, late.TooLate()))
		err = killedModule(digest)
	}
	return o, err
}

// cut closes a module that the clock ends before it runs.
func (w *Worker) cut(name string, o Opened) error {
	if !w.killed(name, o.Op, o.Module, journal.CallChange) {
		return nil
	}
	return errors.Join(killedModule(o.Module.Digest), o.Op.Close(w.ctx))
}

// openWith opens a module that goes on with state, where it understands it.
func (w *Worker) openWith(i int, digest string, shadow bool, state []byte) (o Opened, carried bool, err error) {
	name := w.o.Plan.Nodes[i].Name
	if shadow {
		name = shadowNode(name)
	}
	if o, err = w.open(i, name, digest, shadow); err != nil || state == nil {
		return o, false, err
	}
	refusal := error(nil)
	if u, ok := o.Op.(interface{ Understands([]byte) error }); ok {
		refusal = u.Understands(state)
	}
	if refusal == nil {
		if refusal = o.Op.Restore(bytes.NewReader(state)); refusal == nil {
			return o, true, nil
		}
		if err := w.cut(name, o); err != nil {
			return o, false, err
		}
		// It may have begun with it.
		if err := o.Op.Close(w.ctx); err != nil {
			return o, false, err
		}
		if o, err = w.open(i, name, digest, shadow); err != nil {
			return o, false, err
		}
	}
	w.o.Log.Warn("the module does not go on with the state of the one before and starts afresh", "operator", w.o.Plan.Nodes[i].Name, "module", o.Module.Name, "reason", refusal)
	return o, false, nil
}

// rollback puts what ran before back in place, with the state it then had.
func (w *Worker) rollback(i int) (carried bool, err error) {
	was := w.previous[i]
	if was.Digest == "" {
		return false, fmt.Errorf("operator %s has run no other module before", w.o.Plan.Nodes[i].Name)
	}
	carried, _, err = w.deploy(i, pipeline.Control{Digest: was.Digest}, 0, was.State)
	if err == nil {
		w.previous[i] = before{}
	}
	return carried, err
}

// put lets o run in node i from now on and closes the operator that did.
func (w *Worker) put(i int, o Opened) {
	n := &w.o.Plan.Nodes[i]
	old := n.Op
	n.Op, n.Module, n.Fingerprint = o.Op, o.Module, o.Fingerprint
	w.emit[i].last = nil
	w.moved = true
	if err := old.Close(w.ctx); err != nil {
		w.o.Log.Warn("the module that was replaced does not close", "operator", n.Name, "error", err)
	}
}

// stop is an error that ends the worker, not just what was asked of it.
type stop struct{ error }

func (s stop) Unwrap() error { return s.error }

// running returns what runs in node i, with its state. An error is a stop.
func (w *Worker) running(i int) (before, error) {
	n := &w.o.Plan.Nodes[i]
	state, err := snapshot(n.Op)
	if err != nil {
		return before{}, stop{fmt.Errorf("operator %s: snapshot: %w", n.Name, err)}
	}
	return before{Digest: n.Module.Digest, State: state}, nil
}

func snapshot(op pipeline.Operator) ([]byte, error) {
	var b bytes.Buffer
	err := op.Snapshot(&b)
	return b.Bytes(), err
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
