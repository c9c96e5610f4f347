package webhook

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/penstock/penstock/internal/alerttest"
	"github.com/penstock/penstock/internal/optest"
	"github.com/penstock/penstock/internal/testpeer"
	"github.com/penstock/penstock/pipeline"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// hook records requests and answers with the next status of its script, then
// with 200.
type hook struct {
	bodies, keys []string
	headers      []http.Header
	script       []int
}

func (h *hook) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	b, _ := io.ReadAll(r.Body)
	status := 200
	if len(h.script) > 0 {
		status, h.script = h.script[0], h.script[1:]
	}
	h.bodies, h.keys, h.headers = append(h.bodies, string(b)), append(h.keys, r.Header.Get("Idempotency-Key")), append(h.headers, r.Header)
	if status == 302 {
		w.Header().Set("Location", "/elsewhere")
	}
	w.WriteHeader(status)
	_, _ = io.WriteString(w, "because")
}

func start(t *testing.T, cfg Config, script ...int) (*Sink, *hook, pipeline.Env) {
	h := &hook{script: script}
	srv := httptest.NewServer(h)
	t.Cleanup(srv.Close)
	cfg.URL = srv.URL + "/hook?token=hush"
	return sink(t, cfg), h, optest.Env(t)
}

func sink(t *testing.T, cfg Config) *Sink {
	p := pipeline.NewProblems()
	cfg.Validate(p)
	require.Empty(t, p.All())
	s, err := New(cfg, pipeline.Env{Name: "pager"})
	require.NoError(t, err)
	require.NoError(t, s.Connect(context.Background()))
	t.Cleanup(func() { require.NoError(t, s.Close(context.Background())) })
	return s
}

func TestBody(t *testing.T) {
	cfg := DefaultConfig()
	cfg.Headers = map[string]pipeline.Secret{"Authorization": "Bearer x"}
	s, h, env := start(t, cfg)
	rec := alerttest.Record(t, env, "hall/pump1/temperature", 81.5, 20)
	defer rec.Release()
	require.NoError(t, s.Write(context.Background(), rec))
	require.Len(t, h.bodies, 2)
	var got map[string]any
	require.NoError(t, json.Unmarshal([]byte(h.bodies[1]), &got))
	id := got["id"].(string)
	require.Equal(t, map[string]any{"id": id, "rule": "hot", "asset": "hall/pump1", "tag": "hall/pump1/temperature", "severity": "critical", "state": "cleared",
		"value": 20.0, "limit": 80.0, "time": "1970-01-01T00:00:02Z", "raised": "1970-01-01T00:00:01Z", "message": "hall/pump1/temperature is back to normal: 20"}, got)
	require.Equal(t, []string{id + "-raised", id + "-cleared"}, h.keys)
	require.Equal(t, "Bearer x", h.headers[0].Get("Authorization"))
	require.Equal(t, "application/json", h.headers[0].Get("Content-Type"))
}

func TestBatch(t *testing.T) {
	cfg := DefaultConfig()
	cfg.Batch = true
	s, h, env := start(t, cfg, 500)
	rec := alerttest.Record(t, env, "a/t", 81.5, 20, 90)
	defer rec.Release()
	require.Error(t, s.Write(context.Background(), rec))
	require.NoError(t, s.Write(context.Background(), rec))
	require.Len(t, h.bodies, 2)
	require.Equal(t, h.bodies[0], h.bodies[1])
	require.Equal(t, h.keys[0], h.keys[1])
	require.NotEmpty(t, h.keys[0])
	var got []map[string]any
	require.NoError(t, json.Unmarshal([]byte(h.bodies[1]), &got))
	require.Len(t, got, 3)
}

func TestRetryGoesOnWhereItStopped(t *testing.T) {
	for _, status := range []int{408, 425, 429, 500, 503} {
		s, h, env := start(t, DefaultConfig(), 200, status, 200)
		rec := alerttest.Record(t, env, "a/t", 81.5, 20, 90)
		err := s.Write(context.Background(), rec)
		require.ErrorContains(t, err, `"because"`)
		require.NotContains(t, err.Error(), "hush")
		require.False(t, pipeline.IsPermanent(err), "%d", status)
		require.Len(t, h.keys, 2, "an event waits for those before it")
		require.NoError(t, s.Write(context.Background(), rec))
		require.Len(t, h.keys, 4)
		require.Equal(t, h.keys[1], h.keys[2], "the same event has the same key")
		rec.Release()
	}
}

func TestFinalAnswersAreDeadLettered(t *testing.T) {
	for _, status := range []int{302, 400, 401, 404, 413} {
		s, h, env := start(t, DefaultConfig(), status)
		rec := alerttest.Record(t, env, "a/t", 81.5, 20)
		err := s.Write(context.Background(), rec)
		require.True(t, pipeline.IsPermanent(err), "%d: %v", status, err)
		require.Len(t, h.keys, 2, "the others are still sent")
		rec.Release()
	}
	// What was refused before a transient failure is told after the retry.
	s, h, env := start(t, DefaultConfig(), 400, 503)
	rec := alerttest.Record(t, env, "a/t", 81.5, 20)
	defer rec.Release()
	require.False(t, pipeline.IsPermanent(s.Write(context.Background(), rec)))
	require.True(t, pipeline.IsPermanent(s.Write(context.Background(), rec)))
	require.Len(t, h.keys, 3)
}

func TestServerAwayAndTimeout(t *testing.T) {
	release := make(chan struct{})
	srv := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-release }))
	cfg := DefaultConfig()
	cfg.URL, cfg.Timeout = srv.URL+"/hook?token=hush", 50*time.Millisecond
	s := sink(t, cfg)
	env := optest.Env(t)
	rec := alerttest.Record(t, env, "a/t", 81.5)
	defer rec.Release()
	err := s.Write(context.Background(), rec)
	require.Error(t, err)
	require.False(t, pipeline.IsPermanent(err))
	require.NotContains(t, err.Error(), "hush")
	close(release)
	srv.Close()
	err = s.Write(context.Background(), rec)
	require.ErrorContains(t, err, "refused")
	require.False(t, pipeline.IsPermanent(err))
}

func TestTLS(t *testing.T) {
	certs := testpeer.NewCerts(t, testpeer.CertOptions{})
	h := &hook{}
	srv := httptest.NewUnstartedServer(h)
	srv.TLS = certs.ServerTLS(t)
	srv.StartTLS()
	defer srv.Close()
	env := optest.Env(t)
	rec := alerttest.Record(t, env, "a/t", 81.5)
	defer rec.Release()
	cfg := DefaultConfig()
	cfg.URL = srv.URL
	require.ErrorContains(t, sink(t, cfg).Write(context.Background(), rec), "certificate")
	cfg.TLS.CA = certs.CA
	require.NoError(t, sink(t, cfg).Write(context.Background(), rec))
	require.Len(t, h.bodies, 1)
}

func TestOtherRowsAreRefused(t *testing.T) {
	s, h, env := start(t, DefaultConfig())
	rec := optest.Readings(env.Alloc, []optest.Row{{Tag: "a", T: 1, V: 1}})
	defer rec.Release()
	require.True(t, pipeline.IsPermanent(s.Write(context.Background(), rec)))
	require.Empty(t, h.bodies)
}

func TestValidate(t *testing.T) {
	file := filepath.Join(t.TempDir(), "x")
	require.NoError(t, os.WriteFile(file, []byte("x"), 0o600))
	cfg := Config{URL: "https://u:pw@h/x", Method: "GET", Headers: map[string]pipeline.Secret{"a b": "x", "X": "y\n"}}
	cfg.TLS.CA, cfg.TLS.Cert = file, file
	p := pipeline.NewProblems()
	cfg.Validate(p)
	var got []string
	for _, x := range p.All() {
		got = append(got, x.Path)
		require.NotContains(t, x.Message, "pw")
	}
	require.ElementsMatch(t, strings.Fields("url method headers headers.X timeout tls.ca tls.cert"), got)
	for _, u := range []string{"", "ftp://x", "http://", "%zz"} {
		p := pipeline.NewProblems()
		(&Config{URL: u, Method: "POST", Timeout: 1}).Validate(p)
		require.Len(t, p.All(), 1, u)
	}
}
