package oci

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"oras.land/oras-go/v2"
	"oras.land/oras-go/v2/content"
	orasoci "oras.land/oras-go/v2/content/oci"

	"github.com/penstock/penstock/operators/modules"
	"github.com/penstock/penstock/operators/wasm"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func module(t *testing.T, name string) []byte {
	t.Helper()
	m, ok := modules.Get(name)
	require.True(t, ok)
	return m
}

func ref(t *testing.T, s string) Reference {
	t.Helper()
	r, err := Parse(s)
	require.NoError(t, err)
	return r
}

// server is a registry on loopback. What change is, stands before it.
type server struct {
	*httptest.Server
	change atomic.Pointer[func(w http.ResponseWriter, r *http.Request, next http.Handler)]
	gets   atomic.Int32
}

func newServer(t *testing.T, secure bool) *server {
	t.Helper()
	t.Setenv("DOCKER_CONFIG", t.TempDir())
	s := &server{}
	next := registry.New(registry.Logger(log.New(io.Discard, "", 0)))
	h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodGet {
			s.gets.Add(1)
		}
		if f := s.change.Load(); f != nil {
			(*f)(w, r, next)
			return
		}
		next.ServeHTTP(w, r)
	})
	s.Server = httptest.NewUnstartedServer(h)
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	if secure {
		s.StartTLS()
	} else {
		s.Start()
	}
	t.Cleanup(s.Close)
	return s
}

func (s *server) set(f func(w http.ResponseWriter, r *http.Request, next http.Handler)) {
	s.change.Store(&f)
}

// client trusts the server's certificate.
func (s *server) client() *Client {
	pool := x509.NewCertPool()
	if c := s.Certificate(); c != nil {
		pool.AddCert(c)
	}
	return &Client{tls: &tls.Config{RootCAs: pool}}
}

func (s *server) repository() string {
	return "oci://" + s.Listener.Addr().String() + "/plant/detectors"
}

// replace answers requests whose path has part with body.
func replace(part string, edit func([]byte) []byte) func(http.ResponseWriter, *http.Request, http.Handler) {
	return func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		if r.Method != http.MethodGet || !strings.Contains(r.URL.Path, part) {
			next.ServeHTTP(w, r)
			return
		}
		rec := httptest.NewRecorder()
		next.ServeHTTP(rec, r)
		maps.Copy(w.Header(), rec.Header())
		body := edit(rec.Body.Bytes())
		w.Header().Set("Content-Length", fmt.Sprint(len(body)))
		w.WriteHeader(rec.Code)
		_, _ = w.Write(body)
	}
}

func flip(b []byte) []byte {
	b = bytes.Clone(b)
	b[len(b)/2] ^= 1
	return b
}

func TestRoundTrip(t *testing.T) {
	secure, plain := newServer(t, true), newServer(t, false)
	ctx := t.Context()
	ewma, cusum := module(t, "ewma"), module(t, "cusum")
	digests := map[digest.Digest]bool{}
	for name, x := range map[string]struct {
		c  *Client
		at string
	}{
		"folder":   {&Client{}, "oci-layout:" + filepath.Join(t.TempDir(), "new", "stick")},
		"https":    {secure.client(), secure.repository()},
		"plain":    {&Client{PlainHTTP: true}, plain.repository()},
		"relative": {&Client{}, "oci-layout:" + relative(t)},
	} {
		t.Run(name, func(t *testing.T) {
			d, err := x.c.Push(ctx, ewma, ref(t, x.at+":1.0"))
			require.NoError(t, err)
			digests[d] = true
			again, err := x.c.Push(ctx, ewma, ref(t, x.at+":1.0"))
			require.NoError(t, err)
			require.Equal(t, d, again)
			other, err := x.c.Push(ctx, cusum, ref(t, x.at+":latest"))
			require.NoError(t, err)
			require.NotEqual(t, d, other)

			for _, r := range []string{":1.0", "@" + d.String(), ":1.0@" + d.String(), ":latest@" + d.String()} {
				got, desc, err := x.c.Pull(ctx, ref(t, x.at+r))
				require.NoError(t, err, r)
				require.True(t, bytes.Equal(ewma, got))
				require.Equal(t, d, desc.Digest)
				desc, err = x.c.Resolve(ctx, ref(t, x.at+r))
				require.NoError(t, err)
				require.Equal(t, d, desc.Digest)
			}
			tags, err := x.c.Tags(ctx, ref(t, x.at))
			require.NoError(t, err)
			require.Equal(t, []string{"1.0", "latest"}, tags)

			// A tag moves; who has pinned the digest still gets the same.
			_, err = x.c.Push(ctx, cusum, ref(t, x.at+":1.0"))
			require.NoError(t, err)
			got, _, err := x.c.Pull(ctx, ref(t, x.at+":1.0"))
			require.NoError(t, err)
			require.True(t, bytes.Equal(cusum, got))
			got, _, err = x.c.Pull(ctx, ref(t, x.at+":1.0@"+d.String()))
			require.NoError(t, err)
			require.True(t, bytes.Equal(ewma, got))
		})
	}
	require.Len(t, digests, 1, "the same module has the same digest everywhere")
}

func relative(t *testing.T) string {
	t.Chdir(t.TempDir())
	return "stick"
}

func TestPushRefuses(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "stick")
	c := &Client{}
	_, err := c.Push(t.Context(), []byte("no module"), ref(t, "oci-layout:"+dir+":1"))
	require.Error(t, err)
	_, err = c.Push(t.Context(), module(t, "ewma"), ref(t, "oci-layout:"+dir))
	require.ErrorContains(t, err, "write a tag")
	_, err = c.Push(t.Context(), module(t, "ewma"), ref(t, "oci-layout:"+dir+":1@"+digest.FromString("x").String()))
	require.ErrorContains(t, err, "no digest")
	require.NoDirExists(t, dir)
}

// The manifest and the config are what the CNCF's layout says.
func TestArtifactLayout(t *testing.T) {
	dir, ewma := t.TempDir(), module(t, "ewma")
	d, err := (&Client{}).Push(t.Context(), ewma, ref(t, "oci-layout:"+dir+":1"))
	require.NoError(t, err)
	var m, c map[string]any
	data, err := os.ReadFile(filepath.Join(dir, blobName(d)))
	require.NoError(t, err)
	require.NoError(t, json.Unmarshal(data, &m))
	require.EqualValues(t, 2, m["schemaVersion"])
	require.Equal(t, "application/vnd.oci.image.manifest.v1+json", m["mediaType"])
	cfg, layers := m["config"].(map[string]any), m["layers"].([]any)
	require.Equal(t, "application/vnd.wasm.config.v0+json", cfg["mediaType"])
	require.Len(t, layers, 1)
	require.Equal(t, "application/wasm", layers[0].(map[string]any)["mediaType"])
	require.Equal(t, digest.FromBytes(ewma).String(), layers[0].(map[string]any)["digest"])
	data, err = os.ReadFile(filepath.Join(dir, blobName(digest.Digest(cfg["digest"].(string)))))
	require.NoError(t, err)
	require.NoError(t, json.Unmarshal(data, &c))
	require.Equal(t, "wasm", c["architecture"])
	require.Equal(t, "wasip1", c["os"])
	require.Equal(t, []any{digest.FromBytes(ewma).String()}, c["layerDigests"])
	require.Equal(t, "ewma", c["penstock"].(map[string]any)["name"])
}

// oras-go reads our folders, and we read those it writes.
func TestOtherToolsFolders(t *testing.T) {
	ctx, ours, theirs := t.Context(), t.TempDir(), t.TempDir()
	ewma := module(t, "ewma")
	d, err := (&Client{}).Push(ctx, ewma, ref(t, "oci-layout:"+ours+":1"))
	require.NoError(t, err)
	src, err := orasoci.NewFromFS(ctx, os.DirFS(ours))
	require.NoError(t, err)
	dst, err := orasoci.New(theirs)
	require.NoError(t, err)
	desc, err := oras.Copy(ctx, src, "1", dst, "2", oras.DefaultCopyOptions)
	require.NoError(t, err)
	require.Equal(t, d, desc.Digest)
	got, _, err := (&Client{}).Pull(ctx, ref(t, "oci-layout:"+theirs+":2"))
	require.NoError(t, err)
	require.True(t, bytes.Equal(ewma, got))

	// We add to a folder that another tool began; what it had stays.
	_, err = (&Client{}).Push(ctx, module(t, "rul"), ref(t, "oci-layout:"+theirs+":rul"))
	require.NoError(t, err)
	back, err := orasoci.NewFromFS(ctx, os.DirFS(theirs))
	require.NoError(t, err)
	for _, tag := range []string{"2", "rul"} {
		desc, err := back.Resolve(ctx, tag)
		require.NoError(t, err)
		_, err = content.FetchAll(ctx, back, desc)
		require.NoError(t, err)
	}
}

// bad makes artifacts that are not as they should be.
var bad = map[string]struct {
	config   func(map[string]any)
	manifest func(*ocispec.Manifest)
	raw      func(m []byte) (mediaType string, data []byte) // instead of the manifest
	want     string
}{
	"image":        {manifest: func(m *ocispec.Manifest) { m.Config.MediaType = ocispec.MediaTypeImageConfig }, want: "no Wasm artifact"},
	"layer type":   {manifest: func(m *ocispec.Manifest) { m.Layers[0].MediaType = ocispec.MediaTypeImageLayerGzip }, want: "its layer is a"},
	"two layers":   {manifest: func(m *ocispec.Manifest) { m.Layers = append(m.Layers, m.Layers[0]) }, want: "has 2 layers, want one"},
	"no layer":     {manifest: func(m *ocispec.Manifest) { m.Layers = []ocispec.Descriptor{} }, want: "has 0 layers, want one"},
	"large layer":  {manifest: func(m *ocispec.Manifest) { m.Layers[0].Size = wasm.MaxModuleSize + 1 }, want: "the module has 16777217 bytes, the limit is 16MiB"},
	"huge layer":   {manifest: func(m *ocispec.Manifest) { m.Layers[0].Size = 1 << 60 }, want: "the limit is 16MiB"},
	"size below":   {manifest: func(m *ocispec.Manifest) { m.Layers[0].Size = -1 }, want: "the module has -1 bytes"},
	"size lie":     {manifest: func(m *ocispec.Manifest) { m.Layers[0].Size-- }, want: "the module: "},
	"large config": {manifest: func(m *ocispec.Manifest) { m.Config.Size = maxConfig + 1 }, want: "the config has"},
	"sha512":       {manifest: func(m *ocispec.Manifest) { m.Layers[0].Digest = digest.SHA512.FromString("x") }, want: "want sha256"},
	"path":         {manifest: func(m *ocispec.Manifest) { m.Layers[0].Digest = "sha256:../../secret" }, want: "want sha256"},
	"component":    {config: func(c map[string]any) { c["os"] = "wasip2" }, want: "it is a component"},
	"exports":      {config: func(c map[string]any) { c["component"] = map[string]any{} }, want: "it is a component"},
	"linux":        {config: func(c map[string]any) { c["architecture"], c["os"] = "amd64", "linux" }, want: `for architecture "amd64" and os "linux"`},
	"other layer":  {config: func(c map[string]any) { c["layerDigests"] = []any{digest.FromString("x")} }, want: "layerDigests"},
	"index": {raw: func([]byte) (string, []byte) {
		b, _ := json.Marshal(ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex, Manifests: []ocispec.Descriptor{}})
		return ocispec.MediaTypeImageIndex, b
	}, want: "an index of several images"},
	"no JSON": {raw: func([]byte) (string, []byte) { return ocispec.MediaTypeImageManifest, []byte("{") }, want: "the manifest is not as it should be"},
	"large manifest": {raw: func(m []byte) (string, []byte) {
		return ocispec.MediaTypeImageManifest, append(m, bytes.Repeat([]byte(" "), maxManifest)...)
	}, want: "the manifest has"},
}

func TestBadArtifacts(t *testing.T) {
	s := newServer(t, true)
	folder := t.TempDir()
	for _, where := range []struct {
		c  *Client
		at string
	}{{&Client{}, "oci-layout:" + folder}, {s.client(), s.repository()}} {
		scheme, _, _ := strings.Cut(where.at, ":")
		for name, b := range bad {
			t.Run(scheme+" "+name, func(t *testing.T) {
				tag := strings.ReplaceAll(name, " ", "-")
				a, err := pack(module(t, "ewma"))
				require.NoError(t, err)
				var c map[string]any
				require.NoError(t, json.Unmarshal(a.config, &c))
				if b.config != nil {
					b.config(c)
				}
				a.config, err = json.Marshal(c)
				require.NoError(t, err)
				a.configDesc = descriptor(ConfigType, a.config)
				var m ocispec.Manifest
				require.NoError(t, json.Unmarshal(a.manifest, &m))
				m.Config = a.configDesc
				if b.manifest != nil {
					b.manifest(&m)
				}
				a.manifest, err = json.Marshal(m)
				require.NoError(t, err)
				mediaType := ocispec.MediaTypeImageManifest
				if b.raw != nil {
					mediaType, a.manifest = b.raw(a.manifest)
				}
				a.manifestDesc = descriptor(mediaType, a.manifest)
				r := ref(t, where.at+":"+tag)
				err = where.c.at(t.Context(), r, true, func(ctx context.Context, p place) error { return p.push(ctx, a, tag) })
				if b.raw != nil && r.Folder == "" { // what oras-go would not push
					err = put(s, tag, mediaType, a.manifest)
				}
				require.NoError(t, err)
				for _, r := range []Reference{r, r.Pinned(a.manifestDesc.Digest)} {
					_, _, err = where.c.Pull(t.Context(), r)
					require.ErrorContains(t, err, b.want)
					require.ErrorContains(t, err, r.String())
				}
			})
		}
	}
}

func put(s *server, tag, mediaType string, manifest []byte) error {
	for _, name := range []string{tag, digest.FromBytes(manifest).String()} {
		req, err := http.NewRequest(http.MethodPut, s.URL+"/v2/plant/detectors/manifests/"+name, bytes.NewReader(manifest))
		if err != nil {
			return err
		}
		req.Header.Set("Content-Type", mediaType)
		res, err := s.Client().Do(req)
		if err != nil {
			return err
		}
		if res.Body.Close(); res.StatusCode != http.StatusCreated {
			return fmt.Errorf("PUT %s: %s", name, res.Status)
		}
	}
	return nil
}

func TestFolderIsNotTrusted(t *testing.T) {
	ctx, c, ewma := t.Context(), &Client{}, module(t, "ewma")
	a, err := pack(ewma)
	require.NoError(t, err)
	layer, manifest := blobName(a.layerDesc.Digest), blobName(a.manifestDesc.Digest)
	outside := filepath.Join(t.TempDir(), "outside")
	require.NoError(t, os.WriteFile(outside, ewma, 0o644))
	edit := func(name string, f func([]byte) []byte) func(dir string) error {
		return func(dir string) error {
			p := filepath.Join(dir, name)
			b, err := os.ReadFile(p)
			if err != nil {
				return err
			}
			return os.WriteFile(p, f(b), 0o644)
		}
	}
	instead := func(name string, f func(path string) error) func(dir string) error {
		return func(dir string) error {
			p := filepath.Join(dir, name)
			if err := os.Remove(p); err != nil {
				return err
			}
			return f(p)
		}
	}
	text := func(s string) func([]byte) []byte { return func([]byte) []byte { return []byte(s) } }
	for name, x := range map[string]struct {
		harm func(dir string) error
		want string
	}{
		"module":             {edit(layer, flip), "is damaged"},
		"module cut":         {edit(layer, func(b []byte) []byte { return b[:100] }), "is damaged"},
		"module longer":      {edit(layer, func(b []byte) []byte { return append(b, 0) }), "is damaged"},
		"module gone":        {instead(layer, func(string) error { return nil }), "no such file"},
		"module is a folder": {instead(layer, func(p string) error { return os.Mkdir(p, 0o755) }), "not a regular file"},
		"module elsewhere":   {instead(layer, func(p string) error { return os.Symlink(outside, p) }), "escapes"},
		"manifest":           {edit(manifest, flip), "is damaged"},
		"config":             {edit(blobName(a.configDesc.Digest), flip), "is damaged"},
		"index":              {edit("index.json", text("[")), "index.json"},
		"index large":        {edit("index.json", func([]byte) []byte { return make([]byte, maxIndex+1) }), "larger than 4MiB"},
		"two of a tag": {edit("index.json", func(b []byte) []byte {
			var ix ocispec.Index
			_ = json.Unmarshal(b, &ix)
			ix.Manifests = append(ix.Manifests, ix.Manifests[0])
			b, _ = json.Marshal(ix)
			return b
		}), "2 manifests with tag"},
		"version":   {edit("oci-layout", text(`{"imageLayoutVersion":"2.0.0"}`)), `its version is "2.0.0"`},
		"no layout": {instead("oci-layout", func(string) error { return nil }), "no OCI image layout"},
		"no tag":    {edit("index.json", text(`{"schemaVersion":2,"manifests":[]}`)), "there is no tag 1"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			r := ref(t, "oci-layout:"+dir+":1")
			_, err := c.Push(ctx, ewma, r)
			require.NoError(t, err)
			require.NoError(t, x.harm(dir))
			_, _, err = c.Pull(ctx, r)
			require.ErrorContains(t, err, x.want)
		})
	}
	_, _, err = c.Pull(ctx, ref(t, "oci-layout:"+filepath.Join(t.TempDir(), "nowhere")+":1"))
	require.ErrorIs(t, err, os.ErrNotExist)
	_, _, err = c.Pull(ctx, ref(t, "oci-layout:"+t.TempDir()))
	require.ErrorContains(t, err, "neither a tag nor a digest")

	// Pushing again mends a damaged blob.
	dir := t.TempDir()
	r := ref(t, "oci-layout:"+dir+":1")
	_, err = c.Push(ctx, ewma, r)
	require.NoError(t, err)
	require.NoError(t, edit(layer, flip)(dir))
	_, err = c.Push(ctx, ewma, r)
	require.NoError(t, err)
	_, _, err = c.Pull(ctx, r)
	require.NoError(t, err)
	require.Empty(t, files(t, dir, "*.tmp"))
}

func files(t *testing.T, dir, pattern string) (found []string) {
	t.Helper()
	require.NoError(t, filepath.WalkDir(dir, func(p string, _ os.DirEntry, err error) error {
		if ok, _ := filepath.Match(pattern, filepath.Base(p)); ok {
			found = append(found, p)
		}
		return err
	}))
	return found
}

func TestRegistryIsNotTrusted(t *testing.T) {
	s := newServer(t, true)
	ctx, c := t.Context(), s.client()
	r := ref(t, s.repository()+":1")
	d, err := c.Push(ctx, module(t, "ewma"), r)
	require.NoError(t, err)
	other, err := c.Push(ctx, module(t, "cusum"), ref(t, s.repository()+":2"))
	require.NoError(t, err)
	layer := digest.FromBytes(module(t, "ewma")).Encoded()
	for name, x := range map[string]struct {
		change func(http.ResponseWriter, *http.Request, http.Handler)
		want   string
	}{
		"module":        {replace(layer, flip), "the module: "},
		"module cut":    {replace(layer, func(b []byte) []byte { return b[:100] }), "the module: "},
		"module longer": {replace(layer, func(b []byte) []byte { return append(bytes.Clone(b), 0) }), "the module: "},
		"manifest":      {replace("/manifests/", flip), "the manifest: "},
		"another's manifest": {func(w http.ResponseWriter, r *http.Request, next http.Handler) {
			r.URL.Path = strings.Replace(r.URL.Path, d.String(), other.String(), 1)
			next.ServeHTTP(w, r)
		}, "digest mismatch"},
		"a gone module": {func(w http.ResponseWriter, r *http.Request, next http.Handler) {
			if strings.Contains(r.URL.Path, layer) {
				http.NotFound(w, r)
				return
			}
			next.ServeHTTP(w, r)
		}, "the registry does not have it"},
	} {
		t.Run(name, func(t *testing.T) {
			s.set(x.change)
			defer s.change.Store(nil)
			_, _, err := c.Pull(ctx, r.Pinned(d))
			require.ErrorContains(t, err, x.want)
		})
	}
	_, _, err = c.Pull(ctx, ref(t, s.repository()+":3"))
	require.ErrorContains(t, err, "there is no 3 in it")
	_, _, err = c.Pull(ctx, r.Pinned(digest.FromString("x")))
	require.ErrorContains(t, err, "there is no sha256:")
	_, err = c.Tags(ctx, ref(t, strings.Replace(s.repository(), "plant", "nowhere", 1)))
	require.ErrorContains(t, err, "the registry does not have it")
}

func TestRegistryAwayForAMoment(t *testing.T) {
	s := newServer(t, true)
	var n atomic.Int32
	s.set(func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		if n.Add(1)%2 == 1 {
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		next.ServeHTTP(w, r)
	})
	_, err := s.client().Push(t.Context(), module(t, "ewma"), ref(t, s.repository()+":1"))
	require.NoError(t, err)
}

func TestNothingOverPlainHTTP(t *testing.T) {
	plain, secure := newServer(t, false), newServer(t, true)
	ctx, ewma := t.Context(), module(t, "ewma")
	_, err := (&Client{}).Push(ctx, ewma, ref(t, plain.repository()+":1"))
	require.ErrorContains(t, err, "--plain-http", "not for this machine either")
	_, err = (&Client{PlainHTTP: true}).Push(ctx, ewma, ref(t, plain.repository()+":1"))
	require.NoError(t, err)

	c, r := secure.client(), ref(t, secure.repository()+":1")
	_, err = c.Push(ctx, ewma, r)
	require.NoError(t, err)
	gets := plain.gets.Load()
	lead := func(code int) func(http.ResponseWriter, *http.Request, http.Handler) {
		return func(w http.ResponseWriter, r *http.Request, next http.Handler) {
			if r.Method == http.MethodGet && strings.Contains(r.URL.Path, "/blobs/") {
				http.Redirect(w, r, plain.URL+r.URL.Path+"?signature=hush", code)
				return
			}
			next.ServeHTTP(w, r)
		}
	}
	secure.set(lead(http.StatusTemporaryRedirect))
	_, _, err = c.Pull(ctx, r)
	require.ErrorIs(t, err, errPlainHTTP)
	require.NotContains(t, err.Error(), "hush")

	secure.set(func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		w.Header().Set("WWW-Authenticate", fmt.Sprintf(`Bearer realm="%s/token",service="x"`, plain.URL))
		w.WriteHeader(http.StatusUnauthorized)
	})
	_, _, err = c.Pull(ctx, r)
	require.ErrorContains(t, err, "http")
	require.Equal(t, gets, plain.gets.Load(), "the plain server was never asked")
}

func TestUnauthorized(t *testing.T) {
	s := newServer(t, true)
	s.set(func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		if user, pass, _ := r.BasicAuth(); user != "plant" || pass != "s3cr3t" {
			w.Header().Set("WWW-Authenticate", `Basic realm="x"`)
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		next.ServeHTTP(w, r)
	})
	ctx, c, r := t.Context(), s.client(), ref(t, s.repository()+":1")
	host := s.Listener.Addr().String()
	_, err := c.Push(ctx, module(t, "ewma"), r)
	require.ErrorContains(t, err, "docker login "+host)

	login := func(pass string) {
		auth := base64.StdEncoding.EncodeToString([]byte("plant:" + pass))
		require.NoError(t, os.WriteFile(filepath.Join(os.Getenv("DOCKER_CONFIG"), "config.json"),
			fmt.Appendf(nil, `{"auths":{%q:{"auth":%q}}}`, host, auth), 0o600))
	}
	login("wr0ng-pass")
	_, err = c.Push(ctx, module(t, "ewma"), r)
	require.ErrorContains(t, err, "does not let you in")
	require.NotContains(t, err.Error(), "wr0ng-pass")
	login("s3cr3t")
	_, err = c.Push(ctx, module(t, "ewma"), r)
	require.NoError(t, err)
	_, _, err = c.Pull(ctx, r)
	require.NoError(t, err)

	require.NoError(t, os.WriteFile(filepath.Join(os.Getenv("DOCKER_CONFIG"), "config.json"), []byte("{"), 0o600))
	_, _, err = c.Pull(ctx, r)
	require.ErrorContains(t, err, "Docker config file")
}
