package app

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/penstock/penstock/operators/wasm"
	"github.com/penstock/penstock/operators/wasm/oci"
	"github.com/penstock/penstock/pipeline"
)

// How soon a new module is seen in a watched file or folder, and under a tag of
// a registry, which others ask too.
const (
	watchEvery    = 2 * time.Second
	watchRegistry = time.Minute
)

// look returns the module that has come since it was last called, or nil.
type look func(ctx context.Context) ([]byte, error)

// watch deploys what comes to stand in the file of m's module, or under its
// reference's tag, until ctx ends. What cannot be had or run is said once, and
// what runs goes on.
func (a *App) watch(ctx context.Context, m *nodeModules) {
	node, module := m.node.Name, m.settings.Module
	log := a.o.Log.With("component", node, "watched", module)
	next, every := lookAtFile(module), watchEvery
	tag := wasm.IsReference(module)
	if tag {
		ref, err := oci.Parse(module)
		if err != nil {
			log.Error("this cannot be watched", "error", err)
			return
		}
		if next = lookAtTag(&oci.Client{}, ref); ref.Folder == "" {
			every = watchRegistry
		}
	}
	t := time.NewTicker(every)
	defer t.Stop()
	tried, said := m.base, ""
	for first := tag; ; {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
		code, err := next(ctx)
		if ctx.Err() != nil {
			return
		}
		if err != nil {
			if err.Error() != said {
				log.Warn("what is watched cannot be looked at; what runs goes on", "error", err)
			}
			said = err.Error()
			continue
		}
		restarted := first
		said, first = "", false
		if code == nil {
			continue
		}
		sum := sha256.Sum256(code)
		digest := hex.EncodeToString(sum[:])
		if digest == tried || a.runs(node, digest) {
			tried = digest
			continue
		}
		tried = digest
		if restarted && a.modules.has(digest) { // and was taken back since
			log.Warn("the module under the watched tag was deployed before and does not run any more; it comes back only by `penstock operator deploy`", "digest", digest)
			continue
		}
		if tag { // a file is the user's own
			err = signed(m.settings, code)
		}
		if err == nil {
			_, err = a.Control(ctx, pipeline.ControlDeploy, node, code)
		}
		if err != nil && ctx.Err() == nil {
			log.Error("the module that came to what is watched does not run; what ran before goes on", "error", err)
		}
	}
}

// signed is an error for a module that is neither shipped nor signed by a
// trusted key: who may move a tag is for others to say, who may run here is not.
func signed(c *wasm.Config, code []byte) error {
	trusted, err := c.Trusted(code)
	if err == nil && !trusted {
		err = errors.New("no key in modules.trust signed it, which is asked of a module under a watched tag")
	}
	return err
}

// lookAtFile looks at a file that others replace.
func lookAtFile(path string) look {
	var seen os.FileInfo
	return func(context.Context) ([]byte, error) {
		now, err := os.Stat(path)
		if err != nil || seen != nil && os.SameFile(seen, now) && now.ModTime().Equal(seen.ModTime()) && now.Size() == seen.Size() {
			return nil, nil //nolint:nilerr // it is being replaced
		}
		code, err := wasm.Load(path)
		if err != nil {
			return nil, nil //nolint:nilerr // as above
		}
		seen = now
		return code, nil
	}
}

// lookAtTag looks at what the tag of ref, whose digest is the first module's,
// names now. Only a new digest is pulled.
func lookAtTag(client *oci.Client, ref oci.Reference) look {
	seen := ref.Digest
	ref.Digest = ""
	return func(ctx context.Context) ([]byte, error) {
		desc, err := client.Resolve(ctx, ref)
		if err != nil || desc.Digest == seen {
			return nil, err
		}
		code, _, err := client.Pull(ctx, ref.Pinned(desc.Digest))
		if err != nil {
			return nil, fmt.Errorf("the new module: %w", err)
		}
		seen = desc.Digest
		return code, nil
	}
}

// runs reports whether every shard runs that module in node.
func (a *App) runs(node, digest string) bool {
	for shard := range a.workers {
		for _, s := range a.workers[shard].Load().Status() {
			if s.Node == node && s.Digest != digest {
				return false
			}
		}
	}
	return true
}
