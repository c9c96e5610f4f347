package app

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// moduleStore keeps modules under their digests, for as long as the pipeline
// may run them: a restart finds what was deployed, and so does who runs the journal
// again. Of what is beyond that the name stays.
type moduleStore struct{ dir string }

func (s moduleStore) path(digest string) string { return filepath.Join(s.dir, digest+".wasm") }

func (s moduleStore) has(digest string) bool {
	_, err := os.Stat(s.path(digest))
	return err == nil
}

// put stores a module and returns its digest.
func (s moduleStore) put(code []byte) (digest string, err error) {
	sum := sha256.Sum256(code)
	digest = hex.EncodeToString(sum[:])
	if err := os.MkdirAll(s.dir, 0o700); err != nil {
		return "", err
	}
	if have, err := os.ReadFile(s.path(digest)); err == nil && sha256.Sum256(have) == sum {
		now := time.Now()
		return digest, os.Chtimes(s.path(digest), now, now)
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

// sweep empties the files of modules that nobody has used since that time, with
// which the journal begins: none of its entries can ask for them.
func (s moduleStore) sweep(used map[string]bool, since time.Time) error {
	files, err := os.ReadDir(s.dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	errs := []error{err}
	for _, f := range files {
		digest, ok := strings.CutSuffix(f.Name(), ".wasm")
		info, err := f.Info()
		switch {
		case !ok || err != nil || info.Size() == 0:
		case used[digest]:
			now := time.Now()
			errs = append(errs, os.Chtimes(s.path(digest), now, now))
		case info.ModTime().Before(since):
			errs = append(errs, os.Truncate(s.path(digest), 0))
		}
	}
	return errors.Join(errs...)
}

// sweepModules frees the disk from modules that cannot run any more. It comes before
// anything changes what runs: what does now may be what the newest checkpoint names,
// and is young for an hour.
func (a *App) sweepModules(ctx context.Context) {
	used := map[string]bool{}
	for _, shard := range a.Modules() {
		for _, n := range shard {
			used[n.Digest], used[n.Previous], used[n.Base] = true, true, true
			if n.Shadow != nil {
				used[n.Shadow.Digest] = true
			}
		}
	}
	since, err := a.journal.Oldest(ctx)
	if err == nil {
		err = a.modules.sweep(used, since.Add(-time.Hour)) // a module is there before the entry that asks for it
	}
	if err != nil {
		a.o.Log.Warn("old modules cannot be removed", "dir", a.modules.dir, "error", err)
	}
}
