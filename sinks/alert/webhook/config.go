// Package webhook is the sink that posts alert events as JSON.
//
// Each event is one request whose body has the fields id, rule, asset, tag,
// severity, state, value, limit, time, raised and message (see [alert.Event]),
// and whose Idempotency-Key header is the same whenever the event is sent
// again: a retry is never a second alert. With `batch: true` the events that
// come together are one request with a JSON list, whose key is a hash of
// theirs.
//
// An answer of 2xx is acceptance. 408, 425, 429, 5xx and no answer are tried
// again, with back-off and in order: an event waits for those before it. Any
// other answer is final, the event goes to the dead-letter queue, and the next
// is sent. Redirects are not followed: a POST would become a GET.
package webhook

import (
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"time"

	"github.com/penstock/penstock/internal/tlsconf"
	"github.com/penstock/penstock/pipeline"
)

// Config is the `webhook` sink.
type Config struct {
	// URL is where to send to, http or https.
	URL string `yaml:"url"`
	// Method is POST or PUT.
	Method string `yaml:"method"`
	// Headers are added to each request, such as Authorization.
	Headers map[string]pipeline.Secret `yaml:"headers,omitempty"`
	// Timeout bounds one request.
	Timeout time.Duration `yaml:"timeout"`
	// Batch sends the events that come together as one JSON list.
	Batch bool `yaml:"batch"`
	// TLS is for https.
	TLS tlsconf.Config `yaml:"tls,omitempty"`
}

// DefaultConfig returns the settings where the YAML is silent.
func DefaultConfig() Config {
	return Config{Method: http.MethodPost, Timeout: 10 * time.Second}
}

var headerName = regexp.MustCompile("^[-!#$%&'*+.^_`|~0-9A-Za-z]+$")

// Validate checks the settings.
func (c *Config) Validate(p *pipeline.Problems) {
	const hint = "write a URL such as https://alerts.example/hook; put credentials into headers"
	u, err := url.Parse(c.URL)
	switch {
	case err != nil: // the error would show the URL, and a token in it
		p.Add("url", "is not a URL", hint)
	case u.Scheme != "http" && u.Scheme != "https" || u.Host == "":
		p.Add("url", fmt.Sprintf("%q is not an http or https URL", u.Redacted()), hint)
	case u.User != nil:
		p.Add("url", "has a user in it", hint)
	case u.Scheme == "http" && c.TLS != (tlsconf.Config{}):
		p.Add("tls", "is set, but the URL is http", "write https:// in the url, or leave tls out")
	}
	if c.Method != http.MethodPost && c.Method != http.MethodPut {
		p.Add("method", fmt.Sprintf("%q is not supported", c.Method), "write POST or PUT")
	}
	for name, v := range c.Headers {
		if !headerName.MatchString(name) {
			p.Add("headers", fmt.Sprintf("%q is not a header name", name), "write a name such as Authorization")
		}
		for _, b := range []byte(v) {
			if b < ' ' && b != '\t' || b == 0x7f {
				p.Add("headers."+name, "has a control character in its value", "remove it; a file that is read with ${file:...} may end in a newline")
				break
			}
		}
	}
	if c.Timeout <= 0 {
		p.Add("timeout", fmt.Sprintf("%v is not a time limit", c.Timeout), "write a duration such as 10s")
	}
	c.TLS.Validate(p.At("tls"))
}
