package app

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
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

// moduleStore keeps modules under their digests, for as long as the pipeline
// may run them: a restart finds what was deployed.
type moduleStore struct{ dir string }

func (s moduleStore) path(digest string) string { return filepath.Join(s.dir, digest+".wasm") }

// put stores a module and returns its digest.
func (s moduleStore) put(code []byte) (digest string, err error) {
	sum := sha256.Sum256(code)
	digest = hex.EncodeToString(sum[:])
	if err := os.MkdirAll(s.dir, 0o700); err != nil {
		return "", err
	}
	if have, err := os.ReadFile(s.path(digest)); err == nil && sha256.Sum256(have) == sum {
		return digest, nil
	}
	f, err := os.CreateTemp(s.dir, ".new-*")
	if err != nil {
		return "", err
	}
	defer os.Remove(f.Name())
	_, err = f.Write(code)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return "", err
	}
	return digest, os.Rename(f.Name(), s.path(digest))
}

// nodeModules opens modules for one node of one shard.
type nodeModules struct {
	a        *App
	shard    int
	node     *graph.Node
	settings *wasm.Config
	base     string // digest of the module that settings name
	env      pipeline.Env
}

// Open implements flow.Modules.
func (m *nodeModules) Open(ctx context.Context, digest string, shadow bool) (pipeline.Operator, flow.Module, string, error) {
	op := m.a.swaps.take(m.shard, m.node.Name, digest, shadow)
	if op == nil {
		var err error
		if op, err = m.open(ctx, digest, shadow); err != nil {
			return nil, flow.Module{}, "", err
		}
	}
	name, engine := op.Module()
	return op, flow.Module{Digest: digest, Name: name, Engine: engine}, fingerprint(m.node, m.settings, op), nil
}

func (m *nodeModules) open(ctx context.Context, digest string, shadow bool) (*wasm.Operator, error) {
	cfg, env := *m.settings, m.env
	if digest != m.base {
		cfg.Module = m.a.modules.path(digest)
	}
	if shadow {
		env.Meter, env.Log = pipeline.NewMeter(), env.Log.With("shadow", true)
	}
	op, err := wasm.NewWith(cfg, env, m.a.compiler)
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
	prepared map[preparedKey]*wasm.Operator
	waiting  chan done
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

func (s *swaps) take(shard int, node, digest string, shadow bool) *wasm.Operator {
	s.mu.Lock()
	defer s.mu.Unlock()
	k := preparedKey{shard, node, digest, shadow}
	op := s.prepared[k]
	delete(s.prepared, k)
	return op
}

// drop closes what was prepared and not taken.
func (s *swaps) drop(ctx context.Context) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for k, op := range s.prepared {
		op.Close(ctx) //nolint:errcheck // it has never run
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
	Pause    time.Duration `json:"pause_ns"` // the longest of a worker
}

// Control has operator node do action; code is the module that deploy and
// shadow need, nil for a shadow's end. It returns once every shard has done it,
// or an error when one could not: then that one runs on as before.
func (a *App) Control(ctx context.Context, action, node string, code []byte) (Change, error) {
	a.swaps.one.Lock()
	defer a.swaps.one.Unlock()
	c := pipeline.Control{Action: action, Node: node}
	if code != nil {
		if len(code) > wasm.MaxModuleSize {
			return Change{}, fmt.Errorf("the module is larger than %v", pipeline.ByteSize(wasm.MaxModuleSize))
		}
		var err error
		if c.Digest, err = a.modules.put(code); err != nil {
			return Change{}, fmt.Errorf("the module cannot be stored: %w", err)
		}
	}
	defer a.swaps.drop(context.WithoutCancel(ctx))
	if err := a.prepare(ctx, c); err != nil {
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
			left--
			if d.Err != nil {
				errs = append(errs, fmt.Errorf("shard %d: %w", d.shard, d.Err))
			}
			out = Change{Operator: node, Module: d.Module.Name, Digest: d.Module.Digest, Engine: d.Module.Engine,
				Carried: d.Carried && (out.Carried || out.Module == ""), Pause: max(out.Pause, d.Pause)}
		case <-ctx.Done():
			return out, fmt.Errorf("%d shards have not got to it: %w", left, ctx.Err())
		case <-a.done:
			return out, errors.New("the pipeline ends")
		}
	}
	return out, errors.Join(errs...)
}

// prepare opens what c will need in every shard, before anything is asked of
// the flow: a bad module is refused here, and the flow does not wait for it.
func (a *App) prepare(ctx context.Context, c pipeline.Control) error {
	for shard, nodes := range a.wasm {
		m := nodes[c.Node]
		if m == nil {
			return fmt.Errorf("there is no wasm operator %q; there are: %s", c.Node, strings.Join(slices.Sorted(maps.Keys(nodes)), ", "))
		}
		digest, shadow := a.wanted(c, shard), c.Action == pipeline.ControlShadow
		if digest == "" {
			continue
		}
		op, err := m.open(ctx, digest, shadow)
		if err != nil {
			return fmt.Errorf("operator %s cannot run the module: %w", c.Node, err)
		}
		a.swaps.mu.Lock()
		a.swaps.prepared[preparedKey{shard, c.Node, digest, shadow}] = op
		a.swaps.mu.Unlock()
	}
	return nil
}

// wanted returns the digest of the module that c puts to work in a shard.
func (a *App) wanted(c pipeline.Control, shard int) string {
	for _, s := range a.workers[shard].Status() {
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
	for _, w := range a.workers {
		out = append(out, w.Status())
	}
	return out
}
