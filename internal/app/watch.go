package app

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"os"
	"time"

	"github.com/penstock/penstock/operators/wasm"
	"github.com/penstock/penstock/pipeline"
)

// watchEvery is how soon a new module in a watched file is seen.
const watchEvery = 2 * time.Second

// watch deploys what comes to stand in the file of node's module, which was
// base when the pipeline started, until ctx ends. A file that cannot be run is
// said once, and what runs goes on.
func (a *App) watch(ctx context.Context, node, path, base string) {
	log := a.o.Log.With("component", node, "file", path)
	t := time.NewTicker(watchEvery)
	defer t.Stop()
	var seen os.FileInfo
	tried := base
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
		now, err := os.Stat(path)
		if err != nil || seen != nil && os.SameFile(seen, now) && now.ModTime().Equal(seen.ModTime()) && now.Size() == seen.Size() {
			continue
		}
		code, err := wasm.Load(path)
		if err != nil {
			continue // it is being replaced
		}
		seen = now
		sum := sha256.Sum256(code)
		digest := hex.EncodeToString(sum[:])
		if digest == tried || a.runs(node, digest) {
			continue
		}
		tried = digest
		if _, err := a.Control(ctx, pipeline.ControlDeploy, node, code); err != nil && ctx.Err() == nil {
			log.Error("the module that came to stand in the watched file does not run; what ran before goes on", "error", err)
		}
	}
}

// runs reports whether every shard runs that module in node.
func (a *App) runs(node, digest string) bool {
	for _, w := range a.workers {
		for _, s := range w.Status() {
			if s.Node == node && s.Digest != digest {
				return false
			}
		}
	}
	return true
}
