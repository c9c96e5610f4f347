package oci

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
)

// Store keeps modules in a folder, so that a start needs no network. It is an
// OCI image layout: each module is there under its digests, and is checked
// against them whenever it is read.
type Store struct {
	Dir    string
	Client *Client      // nil: nothing is pulled from a registry, and nothing stored
	Log    *slog.Logger // told of what is pulled; may be nil
}

// Error is a reference that gives no module, and what to write or do instead.
type Error struct {
	Err  error
	hint string
}

func (e *Error) Error() string { return e.Err.Error() }
func (e *Error) Unwrap() error { return e.Err }

// Hint says what to write or do instead.
func (e *Error) Hint() string { return e.hint }

// Get returns the module that ref, which must have a digest, names: from the
// store, or from where ref points. The error is of type [*Error].
func (s *Store) Get(ctx context.Context, ref string) ([]byte, error) {
	r, err := Parse(ref)
	if err != nil {
		return nil, &Error{err, "write " + registryScheme + "registry/repository:tag@sha256:..., or " + layoutScheme + "folder:tag@sha256:..."}
	}
	if r.Digest == "" {
		return nil, s.unpinned(ctx, r)
	}
	a, err := s.stored(ctx, r)
	if err == nil {
		return a.layer, nil
	}
	client := s.Client
	switch {
	case client != nil:
	case r.Folder != "":
		client = &Client{}
	case errors.Is(err, fs.ErrNotExist):
		return nil, &Error{fmt.Errorf("the module %s is not in the module store %s, and nothing is pulled from a registry here", r, s.Dir), s.fill(r)}
	default:
		return nil, &Error{fmt.Errorf("the module %s in the module store %s cannot be used: %w", r, s.Dir, err), s.fill(r)}
	}
	if a, err = client.pull(ctx, r); err != nil {
		hint := "is the stick there, with the module on it? `penstock operator push MODULE " + layoutScheme + "FOLDER:TAG` puts it there"
		if r.Folder == "" {
			hint = "start once where the registry can be reached; or there `penstock operator pull --store FOLDER " + r.String() + "`, bring the folder, and write " + layoutScheme + "FOLDER@" + r.Digest.String()
		}
		return nil, &Error{fmt.Errorf("the module is not in the module store %s, and cannot be pulled: %w", s.Dir, err), hint}
	}
	if s.Client == nil {
		return a.layer, nil
	}
	if err := s.put(ctx, a); err != nil {
		return nil, &Error{fmt.Errorf("the module store %s: %w", s.Dir, err), "let Penstock write there"}
	}
	if s.Log != nil {
		s.Log.Info("module pulled", "module", r.String(), "store", s.Dir, "bytes", len(a.layer))
	}
	return a.layer, nil
}

func (s *Store) fill(r Reference) string {
	return fmt.Sprintf("where the registry can be reached, `penstock run` pulls it, and so does `penstock operator pull --store %s %s`", s.Dir, r)
}

// unpinned is the error of a reference without a digest, with the digest where
// it can be known without a network.
func (s *Store) unpinned(ctx context.Context, r Reference) error {
	err := fmt.Errorf("%s has no digest: another module could come under the same name", r)
	if r.Folder != "" && r.Tag != "" {
		a, perr := (&Client{}).pull(ctx, r)
		if perr != nil {
			return &Error{errors.Join(err, perr), "write a tag that is there, and its digest"}
		}
		return &Error{err, "write " + r.Pinned(a.manifestDesc.Digest).String()}
	}
	if r.Tag == "" {
		return &Error{err, fmt.Sprintf("write the digest: `penstock operator list %s` shows the tags, `penstock operator pull` a tag's digest", r.repository())}
	}
	return &Error{err, fmt.Sprintf("write the digest: `penstock operator pull %s` shows it", r)}
}

func (s *Store) stored(ctx context.Context, r Reference) (*artifact, error) {
	l, err := openLayout(s.Dir)
	if err != nil {
		return nil, err
	}
	defer l.close() //nolint:errcheck // only read
	desc, err := l.resolve(ctx, r)
	if err != nil {
		return nil, err
	}
	return unpack(ctx, l, desc)
}

func (s *Store) put(ctx context.Context, a *artifact) error {
	l, err := makeLayout(s.Dir)
	if err != nil {
		return err
	}
	return errors.Join(l.put(ctx, a), l.close())
}
