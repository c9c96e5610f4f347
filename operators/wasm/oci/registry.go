package oci

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/content"
	"oras.land/oras-go/v2/errdef"
	"oras.land/oras-go/v2/registry/remote"
	"oras.land/oras-go/v2/registry/remote/auth"
	"oras.land/oras-go/v2/registry/remote/credentials"
	"oras.land/oras-go/v2/registry/remote/errcode"
	"oras.land/oras-go/v2/registry/remote/retry"
)

// Limits on a list of tags.
const (
	tagsPerPage = 1000
	maxTagPages = 100
)

// repository is one of a registry.
type repository struct {
	repo *remote.Repository
	ref  Reference
	base *http.Transport
}

func (c *Client) repository(r Reference) (*repository, error) {
	repo, err := remote.NewRepository(r.Registry + "/" + r.Repository)
	if err != nil {
		return nil, err
	}
	store, err := credentials.NewStoreFromDocker(credentials.StoreOptions{})
	if err != nil {
		return nil, fmt.Errorf("the Docker config file with the registry's credentials: %w", err)
	}
	base := &http.Transport{
		Proxy:                  http.ProxyFromEnvironment,
		DialContext:            (&net.Dialer{Timeout: 10 * time.Second}).DialContext,
		TLSHandshakeTimeout:    10 * time.Second,
		ResponseHeaderTimeout:  30 * time.Second,
		MaxResponseHeaderBytes: 64 << 10,
		ForceAttemptHTTP2:      true,
		TLSClientConfig:        c.tls.Clone(),
	}
	client := &auth.Client{
		Client:     &http.Client{Transport: retry.NewTransport(onlyHTTPS{base, c.PlainHTTP})},
		Cache:      auth.NewCache(),
		Credential: credentials.Credential(store),
	}
	client.SetUserAgent("penstock")
	repo.Client, repo.PlainHTTP = client, c.PlainHTTP
	repo.TagListPageSize, repo.TagListMaxPages = tagsPerPage, maxTagPages
	return &repository{repo: repo, ref: r, base: base}, nil
}

// errPlainHTTP is a request that would have gone over plain http: a redirect,
// an upload's location or a token server.
var errPlainHTTP = errors.New("the registry leads to plain http, where anybody can read and change what is sent: refused")

// onlyHTTPS lets no request go over plain http, unless that is wanted.
type onlyHTTPS struct {
	base  http.RoundTripper
	plain bool
}

func (t onlyHTTPS) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.URL.Scheme != "https" && !t.plain {
		return nil, errPlainHTTP
	}
	return t.base.RoundTrip(r)
}

func (g *repository) close() error {
	g.base.CloseIdleConnections()
	return nil
}

func (g *repository) resolve(ctx context.Context, r Reference) (ocispec.Descriptor, error) {
	name := r.Tag
	if r.Digest != "" {
		name = r.Digest.String()
	}
	desc, err := g.repo.Resolve(ctx, name)
	if errors.Is(err, errdef.ErrNotFound) {
		return desc, fmt.Errorf("there is no %s in it: `penstock operator list %s` shows its tags", name, r.repository())
	}
	if err != nil {
		return desc, g.explain(err)
	}
	if r.Digest != "" && desc.Digest != r.Digest {
		return desc, fmt.Errorf("asked for %s, the registry answers with %s", r.Digest, desc.Digest)
	}
	return desc, nil
}

func (g *repository) fetch(ctx context.Context, desc ocispec.Descriptor) ([]byte, error) {
	data, err := content.FetchAll(ctx, g.repo, desc)
	return data, g.explain(err)
}

func (g *repository) push(ctx context.Context, a *artifact, tag string) error {
	for _, b := range []struct {
		desc ocispec.Descriptor
		data []byte
	}{{a.layerDesc, a.layer}, {a.configDesc, a.config}} {
		there, err := g.repo.Exists(ctx, b.desc)
		if err == nil && !there {
			err = g.repo.Push(ctx, b.desc, bytes.NewReader(b.data))
		}
		if err != nil {
			return g.explain(err)
		}
	}
	return g.explain(g.repo.PushReference(ctx, a.manifestDesc, bytes.NewReader(a.manifest), tag))
}

func (g *repository) tags(ctx context.Context) ([]string, error) {
	var all []string
	err := g.repo.Tags(ctx, "", func(tags []string) error {
		for _, t := range tags {
			if tagRE.MatchString(t) {
				all = append(all, t)
			}
		}
		return nil
	})
	return all, g.explain(err)
}

// explain says what to do about err, and takes out what an address holds
// behind its path: a registry may lead to one with a signature in it.
func (g *repository) explain(err error) error {
	var address *url.Error
	if errors.As(err, &address) {
		if u, perr := url.Parse(address.URL); perr == nil {
			u.RawQuery, u.Fragment, u.User = "", "", nil
			address.URL = u.String()
		} else {
			address.URL = g.ref.Registry
		}
	}
	var answer *errcode.ErrorResponse
	if errors.As(err, &answer) && answer.URL != nil {
		answer.URL = &url.URL{Scheme: answer.URL.Scheme, Host: answer.URL.Host, Path: answer.URL.Path}
	}
	switch {
	case err == nil:
		return nil
	case answer != nil && (answer.StatusCode == http.StatusUnauthorized || answer.StatusCode == http.StatusForbidden), errors.Is(err, auth.ErrBasicCredentialNotFound):
		return fmt.Errorf("the registry does not let you in: `docker login %s` (or podman, oras) writes the credentials that Penstock reads from the Docker config file: %w", g.ref.Registry, err)
	case errors.Is(err, http.ErrSchemeMismatch):
		return fmt.Errorf("the registry speaks plain http, where anybody can read and change what is sent; --plain-http allows it: %w", err)
	case answer != nil && answer.StatusCode == http.StatusNotFound, errors.Is(err, errdef.ErrNotFound):
		return fmt.Errorf("the registry does not have it: %w", err)
	}
	return err
}
