package flow

import (
	"bytes"
	"context"
	"encoding/gob"
	"fmt"
	"time"

	"github.com/penstock/penstock/pipeline"
	"github.com/penstock/penstock/pipeline/journal"
)

// checkpointed is a worker's state between two journal entries.
type checkpointed struct {
	Version int
	Pos     journal.Position
	Sources []sourceState
	Nodes   []nodeState
}

type sourceState struct {
	Name      string
	Watermark int64
	Idle      bool
}

type nodeState struct {
	Name, Fingerprint string
	Watermark         int64
	State             []byte
	// Of a node that has modules: what runs, what the config named then, what
	// ran before, and what runs beside it.
	Digest, Base     string
	Previous, Shadow before
	Comparison       []byte // of the shadow with the node
	Raised           raised
}

func (w *Worker) key() string { return "flow." + w.shard }

// checkpoint stores the state, if anything has happened since the last one,
// and lets the journal discard what came before.
func (w *Worker) checkpoint() error {
	w.ckpt = time.Now()
	if !w.moved {
		return nil
	}
	c := checkpointed{Version: 1, Pos: w.pos}
	for i, s := range w.o.Plan.Sources {
		c.Sources = append(c.Sources, sourceState{s.Name, w.wm[i], w.idle[i]})
	}
	for i, n := range w.o.Plan.Nodes {
		var b bytes.Buffer
		if err := n.Op.Snapshot(&b); err != nil {
			return fmt.Errorf("operator %s: snapshot: %w", n.Name, err)
		}
		s := nodeState{Name: n.Name, Fingerprint: n.Fingerprint, Watermark: w.nodeWM[i], State: b.Bytes(), Digest: n.Module.Digest, Base: n.Base, Previous: w.previous[i], Raised: w.raised[i]}
		if sh := w.shadows[i]; sh != nil {
			state, err := snapshot(sh.op)
			if err != nil {
				sh.fail(err)
				state = nil
			}
			s.Shadow = before{sh.m.Digest, state}
			if s.Comparison, err = sh.keep(w); err != nil {
				return fmt.Errorf("checkpoint of the shadow of %s: %w", n.Name, err)
			}
		}
		c.Nodes = append(c.Nodes, s)
	}
	var b bytes.Buffer
	if err := gob.NewEncoder(&b).Encode(c); err != nil {
		return fmt.Errorf("checkpoint: %w", err)
	}
	if err := w.o.State.Put(w.ctx, w.key(), b.Bytes()); err != nil {
		return fmt.Errorf("checkpoint: %w", err)
	}
	w.moved = false
	w.publishStatus()
	w.o.Journal.Release(holderName, w.o.Shard, w.pos.Seq)
	return nil
}

// restore brings back the newest checkpoint. An operator that is new, or whose
// settings have changed, starts afresh.
func (w *Worker) restore(ctx context.Context) error {
	data, err := w.o.State.Get(ctx, w.key())
	if err != nil || data == nil {
		return err
	}
	var c checkpointed
	if err := gob.NewDecoder(bytes.NewReader(data)).Decode(&c); err != nil || c.Version != 1 {
		return fmt.Errorf("checkpoint of shard %d cannot be read (version %d): %v", w.o.Shard, c.Version, err)
	}
	w.pos = w.o.Journal.Resume(w.o.Shard, c.Pos)
	w.moved = w.pos != c.Pos
	w.at = w.pos.Seq // a snapshot may follow
	for _, s := range c.Sources {
		if i, ok := w.sources[s.Name]; ok {
			w.wm[i], w.idle[i] = s.Watermark, s.Idle
		}
	}
	saved := map[string]nodeState{}
	for _, n := range c.Nodes {
		saved[n.Name] = n
	}
	for i := range w.o.Plan.Nodes {
		n := &w.o.Plan.Nodes[i]
		s, ok := saved[n.Name]
		if ok && n.Modules != nil && s.Base == n.Base && s.Digest != n.Module.Digest {
			// It was changed while the pipeline ran, and the config not since.
			opened, err := n.Modules.Open(ctx, s.Digest, false, 0)
			if err != nil {
				w.o.Log.Error("the module that ran last cannot be opened; the one of the config runs", "operator", n.Name, "digest", short(s.Digest), "error", err)
			} else {
				w.put(i, opened)
				w.o.Log.Info("the module that was deployed last runs, and not that of the config", "shard", w.o.Shard, "operator", n.Name, "module", n.Module.Name, "engine", n.Module.Engine, "digest", short(s.Digest))
			}
		}
		if !ok || s.Fingerprint != n.Fingerprint {
			w.o.Log.Info("operator starts afresh: it is new or its settings have changed", "operator", n.Name)
			continue
		}
		w.previous[i], w.raised[i] = s.Previous, s.Raised
		if err := n.Op.Restore(bytes.NewReader(s.State)); err != nil {
			if n.Modules == nil {
				return fmt.Errorf("operator %s: restore: %w", n.Name, err)
			}
			// A module does not keep the pipeline from starting.
			w.o.Log.Error("the module does not take back its own state and starts afresh", "operator", n.Name, "module", n.Module.Name, "digest", short(n.Module.Digest), "error", err)
			opened, err := n.Modules.Open(ctx, n.Module.Digest, false, 0)
			if err != nil {
				return fmt.Errorf("operator %s: %w", n.Name, err)
			}
			w.put(i, opened)
		}
		w.nodeWM[i] = s.Watermark
	}
	for i := range w.o.Plan.Nodes { // rules are restored by now
		n := &w.o.Plan.Nodes[i]
		if s := saved[n.Name]; n.Modules != nil && s.Shadow.Digest != "" && s.Fingerprint == n.Fingerprint {
			if _, err := w.startShadow(i, pipeline.Control{Digest: s.Shadow.Digest}, 0, s.Shadow.State); err != nil {
				w.o.Log.Error("a shadow does not come back", "operator", n.Name, "digest", short(s.Shadow.Digest), "error", err)
			} else if err := w.shadows[i].resume(w, s.Comparison); err != nil {
				w.o.Log.Error("the comparison with a shadow begins anew", "operator", n.Name, "digest", short(s.Shadow.Digest), "error", err)
			}
		}
	}
	return nil
}
