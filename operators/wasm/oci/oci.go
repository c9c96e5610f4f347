// Package oci keeps modules in OCI registries and in OCI image-layout folders,
// in the CNCF Wasm artifact layout, and names them by [Reference]. A digest in
// a reference pins the module: what has another digest is an error.
package oci

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Timeout bounds one call of a [Client], retries included.
const Timeout = 5 * time.Minute

// Client reads and writes registries and folders. Credentials for registries
// come from the Docker config file (DOCKER_CONFIG) and its credential helpers.
// The zero value is ready. Safe for concurrent use.
type Client struct {
	// PlainHTTP speaks http, not https, with registries: without it nothing
	// goes over http, also not to this machine and not by a redirect.
	PlainHTTP bool

	tls *tls.Config // of tests
}

// place is where modules are: a registry's repository or a layout folder.
type place interface {
	fetcher
	resolve(ctx context.Context, r Reference) (ocispec.Descriptor, error)
	push(ctx context.Context, a *artifact, tag string) error
	tags(ctx context.Context) ([]string, error)
	close() error
}

// at calls f with the place of r, within the time limit. Its errors say r.
func (c *Client) at(ctx context.Context, r Reference, create bool, f func(context.Context, place) error) error {
	ctx, cancel := context.WithTimeout(ctx, Timeout)
	defer cancel()
	var p place
	var err error
	switch {
	case r.Folder == "":
		p, err = c.repository(r)
	case create:
		p, err = makeLayout(r.Folder)
	default:
		p, err = openLayout(r.Folder)
	}
	if err == nil {
		err = f(ctx, p)
		if cerr := p.close(); err == nil {
			err = cerr
		}
	}
	if err != nil {
		return fmt.Errorf("%s: %w", r, err)
	}
	return nil
}

// Push puts a module into r's registry or folder, which is made if it is not
// there, and lets r's tag name it. It returns the digest to pin. The module
// must be one that Penstock can run; the same one has the same digest
// everywhere.
func (c *Client) Push(ctx context.Context, module []byte, r Reference) (digest.Digest, error) {
	if r.Tag == "" || r.Digest != "" {
		return "", fmt.Errorf("%s: to push, write a tag and no digest, such as %s:1.0.0", r, r.repository())
	}
	a, err := pack(module)
	if err != nil {
		return "", err
	}
	err = c.at(ctx, r, true, func(ctx context.Context, p place) error { return p.push(ctx, a, r.Tag) })
	return a.manifestDesc.Digest, err
}

// Resolve returns the descriptor of the manifest that r names, which is not
// read.
func (c *Client) Resolve(ctx context.Context, r Reference) (desc ocispec.Descriptor, err error) {
	if err := named(r); err != nil {
		return desc, err
	}
	err = c.at(ctx, r, false, func(ctx context.Context, p place) (err error) {
		desc, err = p.resolve(ctx, r)
		return err
	})
	return desc, err
}

// Pull returns the module that r names, and the descriptor of its manifest.
func (c *Client) Pull(ctx context.Context, r Reference) ([]byte, ocispec.Descriptor, error) {
	a, err := c.pull(ctx, r)
	if err != nil {
		return nil, ocispec.Descriptor{}, err
	}
	return a.layer, a.manifestDesc, nil
}

func (c *Client) pull(ctx context.Context, r Reference) (a *artifact, err error) {
	if err := named(r); err != nil {
		return nil, err
	}
	err = c.at(ctx, r, false, func(ctx context.Context, p place) error {
		desc, err := p.resolve(ctx, r)
		if err == nil {
			a, err = unpack(ctx, p, desc)
		}
		return err
	})
	return a, err
}

// Tags lists the tags of r's repository or folder, sorted.
func (c *Client) Tags(ctx context.Context, r Reference) (tags []string, err error) {
	err = c.at(ctx, r, false, func(ctx context.Context, p place) (err error) {
		tags, err = p.tags(ctx)
		return err
	})
	return tags, err
}

// named is an error where r names no manifest: there is no default tag.
func named(r Reference) error {
	if r.Tag == "" && r.Digest == "" {
		return fmt.Errorf("%s: %w", r, errors.New("it has neither a tag nor a digest"))
	}
	return nil
}
