package webhook

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"

	"github.com/apache/arrow/go/v17/arrow"
	"github.com/cespare/xxhash/v2"

	"github.com/penstock/penstock/pipeline"
	"github.com/penstock/penstock/sinks/alert"
)

// Sink posts alert events.
type Sink struct {
	cfg    Config
	env    pipeline.Env
	client *http.Client
	// done are the requests of the record at hand that need no further try,
	// by key, with the final answer: a retry goes on where it stopped.
	done map[string]error
}

// New returns the sink.
func New(cfg Config, env pipeline.Env) (*Sink, error) {
	t, err := cfg.TLS.Load()
	if err != nil {
		return nil, err
	}
	tr := &http.Transport{Proxy: http.ProxyFromEnvironment, TLSClientConfig: t, ForceAttemptHTTP2: true, MaxIdleConnsPerHost: 1,
		TLSHandshakeTimeout: cfg.Timeout, MaxResponseHeaderBytes: 64 << 10}
	return &Sink{cfg: cfg, env: env, done: map[string]error{}, client: &http.Client{Transport: tr, Timeout: cfg.Timeout,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}}, nil
}

// Connect does nothing: there is nothing to ask a webhook without sending an
// alert.
func (s *Sink) Connect(context.Context) error { return nil }

// Write sends the events of in that earlier tries of the same record have not
// sent yet. All of them are tried; an error that is worth a retry comes first.
func (s *Sink) Write(ctx context.Context, in arrow.Record) error {
	events, err := alert.Events(in)
	if err != nil {
		return err
	}
	type request struct {
		key  string
		body any
	}
	var reqs []request
	if s.cfg.Batch && len(events) > 0 {
		var keys strings.Builder
		for i := range events {
			keys.WriteString(events[i].Key() + "\n")
		}
		reqs = append(reqs, request{fmt.Sprintf("%016x", xxhash.Sum64String(keys.String())), events})
	} else {
		for i := range events {
			reqs = append(reqs, request{events[i].Key(), &events[i]})
		}
	}
	var final []error
	for _, r := range reqs {
		err, ok := s.done[r.key]
		if !ok {
			err = s.send(ctx, r.key, r.body)
			if err != nil && !pipeline.IsPermanent(err) {
				return err // in order: a clear must not overtake its raise
			}
			s.done[r.key] = err
		}
		if err != nil {
			final = append(final, err)
		}
	}
	clear(s.done)
	if len(final) > 0 {
		return pipeline.Permanent(errors.Join(final...))
	}
	return nil
}

func (s *Sink) send(ctx context.Context, key string, body any) error {
	b, err := json.Marshal(body)
	if err != nil {
		return pipeline.Permanent(err)
	}
	req, err := http.NewRequestWithContext(ctx, s.cfg.Method, s.cfg.URL, bytes.NewReader(b))
	if err != nil {
		return pipeline.Permanent(errors.New("url cannot be used"))
	}
	req.Header.Set("User-Agent", "penstock")
	for name, v := range s.cfg.Headers {
		req.Header.Set(name, string(v))
		if strings.EqualFold(name, "Host") {
			req.Host = string(v)
		}
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Idempotency-Key", key)
	res, err := s.client.Do(req)
	if err != nil {
		var ue *url.Error // names the URL, and what may be secret in it
		if errors.As(err, &ue) {
			err = ue.Err
		}
		s.connected(false)
		return fmt.Errorf("webhook %s: %w", req.URL.Host, err)
	}
	defer res.Body.Close()
	text, _ := io.ReadAll(io.LimitReader(res.Body, 512)) // enough for a reason
	s.connected(true)
	if res.StatusCode >= 200 && res.StatusCode < 300 {
		return nil
	}
	err = fmt.Errorf("webhook %s: answer %s: %q", req.URL.Host, res.Status, bytes.ToValidUTF8(bytes.TrimSpace(text), []byte("?")))
	switch c := res.StatusCode; {
	case c == http.StatusRequestTimeout, c == http.StatusTooEarly, c == http.StatusTooManyRequests, c >= 500:
		return err
	}
	return pipeline.Permanent(err)
}

func (s *Sink) connected(up bool) {
	if s.env.Meter != nil {
		s.env.Meter.Connected(s.env.Name, up)
	}
}

// Close closes idle connections.
func (s *Sink) Close(context.Context) error {
	s.client.CloseIdleConnections()
	return nil
}
