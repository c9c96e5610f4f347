package oci

import (
	"bytes"
	"errors"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"testing"

	"github.com/opencontainers/go-digest"
	"github.com/stretchr/testify/require"
)

// hint is what err says to do.
func hint(t *testing.T, err error) string {
	t.Helper()
	var e *Error
	require.True(t, errors.As(err, &e), "%T: %v", err, err)
	return e.Hint()
}

func TestStoreNeedsNoNetwork(t *testing.T) {
	s := newServer(t, true)
	ctx, ewma := t.Context(), module(t, "ewma")
	d, err := s.client().Push(ctx, ewma, ref(t, s.repository()+":1"))
	require.NoError(t, err)
	pinned := s.repository() + ":1@" + d.String()
	dir := filepath.Join(t.TempDir(), "data", "modules")
	var log bytes.Buffer
	online := &Store{Dir: dir, Client: s.client(), Log: slog.New(slog.NewTextHandler(&log, nil))}
	offline := &Store{Dir: dir}

	_, err = offline.Get(ctx, pinned)
	require.ErrorContains(t, err, "is not in the module store "+dir)
	require.Contains(t, hint(t, err), "penstock operator pull --store "+dir+" "+pinned)
	require.NoDirExists(t, dir)

	for range 3 {
		got, err := online.Get(ctx, pinned)
		require.NoError(t, err)
		require.True(t, bytes.Equal(ewma, got))
	}
	require.Equal(t, 1, bytes.Count(log.Bytes(), []byte("module pulled")))

	// Damage is found, and mended where the registry can be reached.
	blob := filepath.Join(dir, blobName(digest.FromBytes(ewma)))
	require.NoError(t, os.WriteFile(blob, flip(ewma), 0o644))
	_, err = offline.Get(ctx, pinned)
	require.ErrorContains(t, err, "is damaged")
	require.Contains(t, hint(t, err), "--store")
	_, err = online.Get(ctx, pinned)
	require.NoError(t, err)

	s.Close()
	for _, st := range []*Store{online, offline} {
		got, err := st.Get(ctx, pinned)
		require.NoError(t, err)
		require.True(t, bytes.Equal(ewma, got))
	}
	_, err = online.Get(ctx, s.repository()+":1@"+digest.FromString("another").String())
	require.ErrorContains(t, err, "cannot be pulled")
	require.Contains(t, hint(t, err), "oci-layout:FOLDER@sha256:")
}

func TestStoreTakesFromFolder(t *testing.T) {
	ctx, stick, dir := t.Context(), t.TempDir(), filepath.Join(t.TempDir(), "modules")
	ewma := module(t, "ewma")
	d, err := (&Client{}).Push(ctx, ewma, ref(t, "oci-layout:"+stick+":1"))
	require.NoError(t, err)
	pinned := "oci-layout:" + stick + ":1@" + d.String()

	// Without a client it is read where it is, and nothing is written.
	got, err := (&Store{Dir: dir}).Get(ctx, pinned)
	require.NoError(t, err)
	require.True(t, bytes.Equal(ewma, got))
	require.NoDirExists(t, dir)

	// With one it is kept, and the stick may go.
	_, err = (&Store{Dir: dir, Client: &Client{}}).Get(ctx, pinned)
	require.NoError(t, err)
	require.NoError(t, os.RemoveAll(stick))
	got, err = (&Store{Dir: dir}).Get(ctx, pinned)
	require.NoError(t, err)
	require.True(t, bytes.Equal(ewma, got))
	_, err = (&Store{Dir: t.TempDir()}).Get(ctx, pinned)
	require.Contains(t, hint(t, err), "is the stick there")
}

func TestStoreWantsDigest(t *testing.T) {
	ctx, stick := t.Context(), t.TempDir()
	t.Setenv("DOCKER_CONFIG", t.TempDir())
	d, err := (&Client{}).Push(ctx, module(t, "ewma"), ref(t, "oci-layout:"+stick+":1"))
	require.NoError(t, err)
	s := &Store{Dir: filepath.Join(t.TempDir(), "modules"), Client: &Client{}}
	for r, want := range map[string]string{
		"oci-layout:" + stick + ":1": "write oci-layout:" + stick + ":1@" + d.String(),
		"oci-layout:" + stick + ":2": "write a tag that is there",
		"oci-layout:" + stick:        "penstock operator list oci-layout:" + stick,
		"oci://reg.invalid/x:1":      "`penstock operator pull oci://reg.invalid/x:1` shows it",
		"oci://reg.invalid/x":        "penstock operator list oci://reg.invalid/x",
		"oci:reg.invalid/x":          "write oci://",
	} {
		_, err := s.Get(ctx, r)
		require.Error(t, err, r)
		require.Contains(t, hint(t, err), want)
	}
	require.NoDirExists(t, s.Dir)
}

func TestStoreCannotBeWritten(t *testing.T) {
	ctx, stick, dir := t.Context(), t.TempDir(), t.TempDir()
	d, err := (&Client{}).Push(ctx, module(t, "ewma"), ref(t, "oci-layout:"+stick+":1"))
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(dir, "modules"), nil, 0o644)) // a file in its place
	_, err = (&Store{Dir: filepath.Join(dir, "modules"), Client: &Client{}}).Get(ctx, "oci-layout:"+stick+":1@"+d.String())
	require.Error(t, err)
	require.Contains(t, hint(t, err), "let Penstock write there")
}

// A registry that hands out less than all leaves nothing half in the store.
func TestStoreTakesAllOrNothing(t *testing.T) {
	s := newServer(t, true)
	ctx, ewma := t.Context(), module(t, "ewma")
	d, err := s.client().Push(ctx, ewma, ref(t, s.repository()+":1"))
	require.NoError(t, err)
	s.set(replace(digest.FromBytes(ewma).Encoded(), func(b []byte) []byte { return b[:len(b)-1] }))
	st := &Store{Dir: filepath.Join(t.TempDir(), "modules"), Client: s.client()}
	_, err = st.Get(ctx, s.repository()+"@"+d.String())
	require.ErrorContains(t, err, "cannot be pulled")
	require.NoDirExists(t, st.Dir)
	s.set(func(w http.ResponseWriter, r *http.Request, next http.Handler) { next.ServeHTTP(w, r) })
	_, err = st.Get(ctx, s.repository()+"@"+d.String())
	require.NoError(t, err)
}
