package app

import (
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"

	ociregistry "github.com/google/go-containerregistry/pkg/registry"
	"github.com/stretchr/testify/require"

	"github.com/penstock/penstock/operators/wasm/oci"
)

// What a registry's tag comes to name is pulled once, and a registry that is away
// for a while is an error for that while.
func TestLookAtARegistrysTag(t *testing.T) {
	var away atomic.Bool
	var pulls atomic.Int32
	next := ociregistry.New(ociregistry.Logger(log.New(io.Discard, "", 0)))
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if away.Load() {
			http.Error(w, "away", http.StatusServiceUnavailable)
			return
		}
		if r.Method == http.MethodGet && strings.Contains(r.URL.Path, "/blobs/") {
			pulls.Add(1)
		}
		next.ServeHTTP(w, r)
	}))
	defer server.Close()
	client := &oci.Client{PlainHTTP: true}
	tag, err := oci.Parse("oci://" + strings.TrimPrefix(server.URL, "http://") + "/plant/ewma:1")
	require.NoError(t, err)
	var ref oci.Reference // of what was pushed last
	push := func(v string) []byte {
		code := variant(t, version(v))
		digest, err := client.Push(t.Context(), code, tag)
		require.NoError(t, err)
		ref = tag.Pinned(digest)
		return code
	}
	push("1.0.1")
	look := lookAtTag(client, ref)
	code, err := look(t.Context())
	require.NoError(t, err)
	require.Nil(t, code)
	require.Zero(t, pulls.Load())

	second := push("1.0.2")
	away.Store(true)
	_, err = look(t.Context())
	require.Error(t, err)
	away.Store(false)
	code, err = look(t.Context())
	require.NoError(t, err)
	require.Equal(t, second, code)
	n := pulls.Load()
	code, err = look(t.Context())
	require.NoError(t, err)
	require.Nil(t, code)
	require.Equal(t, n, pulls.Load())
}
