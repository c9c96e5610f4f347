package influxdb

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	influxhttp "github.com/influxdata/influxdb-client-go/v2/api/http"
	"github.com/klauspost/compress/gzip"

	"github.com/penstock/penstock/pipeline"
)

const (
	maxAnswer     = 64 << 10        // bytes of an answer that are read
	maxRetryAfter = 5 * time.Minute // the longest a server may make us wait
)

// poster sends line protocol through the client library's HTTP service. The
// library's own batching, retry buffer and gzip stay unused: the queue in
// front of the sink does the first two, and a reused writer the third.
type poster struct {
	service   influxhttp.Service
	client    *http.Client
	where     string // for messages
	url       string
	notBefore time.Time
	gz        *gzip.Writer
	packed    *bytes.Buffer
}

func newPoster(cfg Config) (*poster, error) {
	tlsConfig, err := cfg.TLS.load()
	if err != nil {
		return nil, err
	}
	base := strings.TrimSuffix(cfg.URL, "/") + "/" // the library resolves its paths against a folder
	client := &http.Client{
		Timeout: cfg.Timeout,
		Transport: boundedAnswers{&http.Transport{
			Proxy:                 http.ProxyFromEnvironment,
			DialContext:           (&net.Dialer{Timeout: 5 * time.Second}).DialContext,
			TLSClientConfig:       tlsConfig,
			TLSHandshakeTimeout:   5 * time.Second,
			MaxIdleConns:          2,
			IdleConnTimeout:       90 * time.Second,
			ForceAttemptHTTP2:     true,
			DisableCompression:    true,
			ExpectContinueTimeout: time.Second,
		}},
		// A redirect would carry the token elsewhere.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	token := ""
	if cfg.Token != "" {
		token = "Token " + string(cfg.Token)
	}
	opts := influxhttp.DefaultOptions().SetHTTPClient(client).SetApplicationName("penstock")
	p := &poster{service: influxhttp.NewService(base, token, opts), client: client}
	p.url = p.service.ServerAPIURL() + "write?" + url.Values{"org": {cfg.Org}, "bucket": {cfg.Bucket}, "precision": {"ns"}}.Encode()
	p.where = fmt.Sprintf("%s bucket %q", cfg.URL, cfg.Bucket)
	if cfg.Gzip == "always" || cfg.Gzip == "auto" && !cfg.local() {
		p.packed = new(bytes.Buffer)
		if p.gz, err = gzip.NewWriterLevel(p.packed, gzip.BestSpeed); err != nil {
			return nil, err
		}
	}
	return p, nil
}

// send posts lines. After an error the bytes of lines must not be changed:
// the transport may not have let go of them yet.
func (p *poster) send(ctx context.Context, lines []byte) error {
	if err := p.wait(ctx); err != nil {
		return err
	}
	body := lines
	if p.gz != nil {
		p.packed.Reset()
		p.gz.Reset(p.packed)
		_, err := p.gz.Write(lines)
		if err = errors.Join(err, p.gz.Close()); err != nil {
			return err
		}
		body = p.packed.Bytes()
	}
	failure := p.service.DoPostRequest(ctx, p.url, bytes.NewReader(body), func(req *http.Request) {
		req.Header.Set("Content-Type", "text/plain; charset=utf-8")
		if p.gz != nil {
			req.Header.Set("Content-Encoding", "gzip")
		}
	}, func(resp *http.Response) error {
		_, _ = io.Copy(io.Discard, resp.Body) // so that the connection is used again
		return resp.Body.Close()
	})
	if failure == nil {
		return nil
	}
	if p.packed != nil {
		p.packed = new(bytes.Buffer)
	}
	return p.explain(failure)
}

// wait holds the next request back for as long as the server asked.
func (p *poster) wait(ctx context.Context) error {
	d := time.Until(p.notBefore)
	if d <= 0 {
		return nil
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (p *poster) explain(f *influxhttp.Error) error {
	if f.StatusCode == 0 {
		return fmt.Errorf("influxdb %s: %w", p.where, f.Err)
	}
	e := &statusError{status: f.StatusCode, code: f.Code, where: p.where, message: strings.TrimSpace(f.Message)}
	if e.message == "" {
		e.message = strings.TrimSpace(f.Header.Get("X-Influxdb-Error"))
	}
	if e.message == "" {
		e.message = http.StatusText(f.StatusCode)
	}
	if len(e.message) > 500 {
		e.message = strings.ToValidUTF8(e.message[:500], "") + "…"
	}
	switch {
	case f.StatusCode == 401 || f.StatusCode == 403:
		e.hint = `check token: it needs write permission on the bucket; for InfluxDB 1.8 it is "user:password"`
	case f.StatusCode == 404:
		e.hint = "check bucket, org and the path in url"
	case f.StatusCode >= 300 && f.StatusCode < 400:
		e.hint = "the server redirects to " + f.Header.Get("Location") + ": write that address in url"
	}
	switch {
	case f.StatusCode == 429 || f.StatusCode >= 500:
		p.notBefore = time.Now().Add(retryAfter(f.Header.Get("Retry-After")))
		return e
	case f.StatusCode == 408 || f.StatusCode == 413:
		return e
	case e.hint != "":
		return e // not the fault of these rows: they wait until the setting, the token or the bucket is put right
	}
	return pipeline.Permanent(e)
}

// retryAfter reads seconds or a date.
func retryAfter(h string) time.Duration {
	var d time.Duration
	if t, err := http.ParseTime(h); err == nil {
		d = time.Until(t)
	} else if s, err := time.ParseDuration(h + "s"); err == nil {
		d = s
	}
	return min(max(d, 0), maxRetryAfter)
}

func (p *poster) close() { p.client.CloseIdleConnections() }

// boundedAnswers keeps a server, or what answers in its place, from filling
// our memory.
type boundedAnswers struct{ *http.Transport }

func (b boundedAnswers) RoundTrip(req *http.Request) (*http.Response, error) {
	resp, err := b.Transport.RoundTrip(req)
	if err == nil {
		resp.Body = struct {
			io.Reader
			io.Closer
		}{io.LimitReader(resp.Body, maxAnswer), resp.Body}
	}
	return resp, err
}
