package app

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/apache/arrow/go/v17/arrow"

	"github.com/penstock/penstock/operators/wasm"
	"github.com/penstock/penstock/pipeline"
	"github.com/penstock/penstock/pipeline/flow"
	"github.com/penstock/penstock/pipeline/graph"
	"github.com/penstock/penstock/pipeline/journal"
)

// controlSource stands in the journal for what people ask of the flow: no
// source of a config can be called that.
const controlSource = "penstock/control"

// nodeModules opens modules for one node of one shard.
type nodeModules struct {
	a        *App
	shard    int
	node     *graph.Node
	settings *wasm.Config
	base     string // digest of the module that settings name
	kept     bool   // that module is in the store: its file may change
	env      pipeline.Env
}

// keep stores the module that settings name, which op runs, if it comes from a
// file that somebody may replace.
func (m *nodeModules) keep(op *wasm.Operator) error {
	if op.Choice().Trust.Shipped || wasm.IsReference(m.settings.Module) {
		return nil
	}
	code, err := m.settings.Code()
	if err != nil {
		return err
	}
	digest, err := m.a.modules.put(code)
	if err == nil && digest != m.base {
		err = errors.New("the file has changed while the pipeline was starting: start it again")
	}
	m.kept = err == nil
	return err
}

// with returns the settings with another module.
func (m *nodeModules) with(digest string) *wasm.Config {
	cfg := *m.settings
	if m.kept || digest != m.base {
		cfg.Module = m.a.modules.path(digest)
	}
	return &cfg
}

// Open implements flow.Modules.
func (m *nodeModules) Open(ctx context.Context, digest string, shadow bool, seq uint64) (flow.Opened, error) {
	p, ok := m.a.swaps.take(preparedKey{m.shard, m.node.Name, digest, shadow}, seq)
	if !ok {
		var err error
		if p.op, err = m.open(ctx, digest, shadow); err != nil {
			return flow.Opened{}, err
		}
	}
	name, engine := p.op.Module()
	return flow.Opened{Op: p.op, Module: flow.Module{Digest: digest, Name: name, Engine: engine}, Fingerprint: fingerprint(m.node, m.settings, p.op), WarmUp: p.warm}, nil
}

// manifest reads that of a module that m can open.
func (m *nodeModules) manifest(digest string) (wasm.Manifest, error) {
	info, err := m.with(digest).Inspect()
	return info.Manifest, err
}

// understand reports whether module b goes on with the state of a.
func (m *nodeModules) understand(a, b string) bool {
	if a == b {
		return true
	}
	ma, err := m.manifest(a)
	mb, errb := m.manifest(b)
	return err == nil && errb == nil && ma.Name == mb.Name && ma.State == mb.State && ma.State != ""
}

// sources returns those that feed the node, or nil when other nodes do too.
func (m *nodeModules) sources() (names []string) {
	for _, in := range m.node.Inputs {
		for _, n := range m.a.graph.Nodes {
			if n.Name == in.Node && n.Kind != graph.Source {
				return nil
			}
		}
		names = append(names, in.Node)
	}
	return names
}

func (m *nodeModules) open(ctx context.Context, digest string, shadow bool) (*wasm.Operator, error) {
	env := m.env
	if shadow {
		env.Meter, env.Log = pipeline.NewMeter(), env.Log.With("shadow", true)
	}
	op, err := wasm.NewWith(*m.with(digest), env, m.a.compiler)
	if err != nil {
		return nil, err
	}
	out, err := op.Open(ctx, m.node.In)
	switch {
	case err != nil:
	case op.Digest() != digest:
		err = fmt.Errorf("its digest is %s, not %s: the file has changed", op.Digest(), digest)
	case !out.Equal(m.node.Out[""]):
		err = fmt.Errorf("it makes other columns than the module that runs: %s, not %s; name it in the config and restart", columnList(out), columnList(m.node.Out[""]))
	}
	if err != nil {
		return nil, errors.Join(err, op.Close(ctx))
	}
	return op, nil
}

func columnList(s *arrow.Schema) string {
	var names []string
	for _, f := range s.Fields() {
		names = append(names, f.Name+" "+f.Type.Name())
	}
	return strings.Join(names, ", ")
}

// swaps brings controls into the journal, one at a time, and waits for the
// workers to have done them.
type swaps struct {
	one      sync.Mutex // held for a whole control
	mu       sync.Mutex // of the rest
	prepared map[preparedKey]prepared
	waiting  chan done
}

// prepared is an operator for a control to come; warm is what it was shown.
type prepared struct {
	op    *wasm.Operator
	warm  *flow.WarmUp
	after uint64 // the newest entry then: an older control is another one
}

type preparedKey struct {
	shard        int
	node, digest string
	shadow       bool
}

type done struct {
	shard int
	seq   uint64
	flow.Outcome
}

// take returns what was prepared for a control that comes with entry seq.
func (s *swaps) take(k preparedKey, seq uint64) (p prepared, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if p, ok = s.prepared[k]; !ok || seq <= p.after {
		return prepared{}, false
	}
	delete(s.prepared, k)
	return p, true
}

// drop closes what was prepared for these shards and not taken.
func (s *swaps) drop(ctx context.Context, of func(shard int) bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for k, p := range s.prepared {
		if !of(k.shard) {
			continue
		}
		p.op.Close(ctx) //nolint:errcheck // it has never run
		delete(s.prepared, k)
	}
}

// told is a worker's flow.Options.Done.
func (s *swaps) told(shard int, seq uint64, o flow.Outcome) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.waiting != nil {
		select {
		case s.waiting <- done{shard, seq, o}:
		default: // nobody waits for so many
		}
	}
}

// Change is the outcome of a control over all shards.
type Change struct {
	Operator string        `json:"operator"`
	Module   string        `json:"module"`
	Digest   string        `json:"digest"`
	Engine   string        `json:"engine"`
	Carried  bool          `json:"state_carried"`
	Shown    int64         `json:"rows_shown,omitempty"`   // of the journal, having started afresh
	Failed   int           `json:"calls_failed,omitempty"` // while it was shown them
	Pause    time.Duration `json:"pause_ns"`               // the longest of a worker
}

// Control has operator node do action; code is the module that deploy and
// shadow need, nil for a shadow's end. It returns once every shard has done it,
// or an error when one could not: then that one runs on as before.
func (a *App) Control(ctx context.Context, action, node string, code []byte) (Change, error) {
	a.swaps.one.Lock()
	defer a.swaps.one.Unlock()
	a.sweepModules(ctx)
	c := pipeline.Control{Action: action, Node: node}
	if action == pipeline.ControlDeploy && len(code) == 0 {
		return Change{}, fmt.Errorf("%s needs a module, and got an empty one", action)
	}
	if code != nil {
		if len(code) > wasm.MaxModuleSize {
			return Change{}, fmt.Errorf("the module is larger than %v", pipeline.ByteSize(wasm.MaxModuleSize))
		}
		var err error
		if c.Digest, err = a.modules.put(code); err != nil {
			return Change{}, fmt.Errorf("the module cannot be stored: %w", err)
		}
	}
	defer a.swaps.drop(context.WithoutCancel(ctx), func(int) bool { return true })
	from, err := a.prepare(ctx, c)
	if err != nil {
		return Change{}, err
	}
	outcomes := make(chan done, 16*len(a.workers)) // with room for another run's, done again
	a.swaps.mu.Lock()
	a.swaps.waiting = outcomes
	a.swaps.mu.Unlock()
	defer func() {
		a.swaps.mu.Lock()
		a.swaps.waiting = nil
		a.swaps.mu.Unlock()
	}()
	seqs := make([]uint64, len(a.workers))
	for s := range a.workers {
		c.From = from[s]
		rec := c.Record(allocator)
		seq, err := a.journal.Append(ctx, s, journal.Meta{Kind: journal.KindControl, Source: controlSource}, rec)
		rec.Release()
		if err != nil {
			return Change{}, fmt.Errorf("shard %d: %w", s, err)
		}
		seqs[s] = seq
	}
	var out Change
	var errs []error
	for left := len(seqs); left > 0; {
		select {
		case d := <-outcomes:
			if d.seq != seqs[d.shard] {
				continue
			}
			seqs[d.shard] = 0 // another worker may do it again
			left--
			if d.Err != nil {
				errs = append(errs, fmt.Errorf("shard %d: %w", d.shard, d.Err))
			}
			out = Change{Operator: node, Module: d.Module.Name, Digest: d.Module.Digest, Engine: d.Module.Engine,
				Carried: d.Carried && (out.Carried || out.Module == ""), Shown: out.Shown + d.Warmed, Failed: out.Failed + d.Failed, Pause: max(out.Pause, d.Pause)}
		case <-ctx.Done():
			return out, fmt.Errorf("%d shards have not got to it: %w", left, ctx.Err())
		case <-a.done:
			return out, errors.New("the pipeline ends")
		}
	}
	return out, errors.Join(errs...)
}

// warmEntries is how far back in the journal a module that starts afresh looks:
// at ten milliseconds an entry, under a minute; at a thousand readings each, four
// million.
const warmEntries = 4096

// prepare opens what c will need in every shard, before anything is asked of
// the flow: a bad module is refused here, and the flow does not wait for it. One
// that will have to start afresh is shown what the journal has of its input. It
// returns for each shard the entry with which that begins, or 0.
func (a *App) prepare(ctx context.Context, c pipeline.Control) (from []uint64, err error) {
	from = make([]uint64, len(a.wasm))
	for shard, nodes := range a.wasm {
		after := a.journal.End(shard)
		m := nodes[c.Node]
		if m == nil {
			return nil, fmt.Errorf("there is no wasm operator %q; there are: %s", c.Node, strings.Join(slices.Sorted(maps.Keys(nodes)), ", "))
		}
		digest, shadow := a.wanted(c, shard), c.Action == pipeline.ControlShadow
		if digest == "" {
			continue
		}
		op, err := m.open(ctx, digest, shadow)
		if err != nil {
			return nil, fmt.Errorf("operator %s cannot run the module: %w", c.Node, err)
		}
		p := prepared{op: op, after: after}
		if sources := m.sources(); len(sources) > 0 && c.Digest != "" && !m.understand(a.running(c.Node, shard), digest) {
			end, back := a.journal.End(shard), warmEntries*uint64(len(a.wasm))
			from[shard] = max(end, back) - back + 1
			p.warm = flow.NewWarmUp(op, sources, from[shard])
			if err := op.Guarded(func() error { return p.warm.To(ctx, a.journal, shard, end+1) }); err != nil {
				return nil, errors.Join(fmt.Errorf("operator %s: the module fails on what the journal has: %w", c.Node, err), op.Close(ctx))
			}
		}
		a.swaps.mu.Lock()
		a.swaps.prepared[preparedKey{shard, c.Node, digest, shadow}] = p
		a.swaps.mu.Unlock()
	}
	return from, nil
}

// running returns the digest of what runs in an operator of a shard.
func (a *App) running(node string, shard int) string {
	for _, s := range a.workers[shard].Load().Status() {
		if s.Node == node {
			return s.Digest
		}
	}
	return ""
}

// wanted returns the digest of the module that c puts to work in a shard.
func (a *App) wanted(c pipeline.Control, shard int) string {
	for _, s := range a.workers[shard].Load().Status() {
		switch {
		case s.Node != c.Node:
		case c.Action == pipeline.ControlRollback:
			return s.Previous
		case c.Action == pipeline.ControlPromote && s.Shadow != nil:
			return s.Shadow.Digest
		}
	}
	return c.Digest
}

// Modules returns what runs in the operators that have modules, by shard.
func (a *App) Modules() [][]flow.NodeStatus {
	var out [][]flow.NodeStatus
	for s := range a.workers {
		out = append(out, a.workers[s].Load().Status())
	}
	return out
}
