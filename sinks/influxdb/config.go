// Package influxdb writes to InfluxDB over the v2 API: InfluxDB 2 and Cloud,
// 1.8 through its compatible endpoint, and whatever else speaks it.
//
// Columns are encoded straight to line protocol; the client library carries
// the bytes. One row is one point, named by measurement, tags and time, so
// that a row written twice is stored once. It follows that two rows with the
// same series and the same time, in nanoseconds, are one point too: the later
// one's fields win. The `node` tag keeps the outputs of different operators
// apart.
package influxdb

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/apache/arrow/go/v17/arrow"

	"github.com/penstock/penstock/internal/columns"
	"github.com/penstock/penstock/pipeline"
)

// Config is the YAML of an `influxdb` sink.
type Config struct {
	// URL of the server, with the port and, behind a proxy, the path:
	// "http://127.0.0.1:8086".
	URL string `yaml:"url"`
	// Org is the organization. InfluxDB 1.8 ignores it.
	Org string `yaml:"org"`
	// Bucket to write to. For InfluxDB 1.8: "database" or "database/retention_policy".
	Bucket string `yaml:"bucket"`
	// Token with write permission on the bucket. For InfluxDB 1.8: "user:password".
	Token pipeline.Secret `yaml:"token"`
	// Timeout of one request.
	Timeout time.Duration `yaml:"timeout"`
	// Gzip says when requests are compressed: "always", "never", or "auto",
	// which is for every server but one on this machine. It makes a fifth of
	// the bytes for about twice the CPU.
	Gzip string `yaml:"gzip"`
	// TLS settings for an https URL.
	TLS TLSConfig `yaml:"tls"`
	// Measurement is the template of the measurement's name. Where it comes
	// out empty, the node's name stands in. See Tags for the placeholders.
	Measurement string `yaml:"measurement"`
	// Tags adds to, or replaces, the tags `tag: "{tag}"`, `asset: "{asset}"`
	// and `node: "{node}"`. A value is text with placeholders: {tag}, {asset},
	// {measurement}, {unit}, {node}, and {1} to {9} for a segment of the tag's
	// path. A tag whose value comes out empty is left out.
	Tags map[string]string `yaml:"tags"`
	// QualityTag adds the tag quality_class=good|uncertain|bad, beside the
	// field `quality` with the whole StatusCode.
	QualityTag bool `yaml:"quality_tag"`
	// Fields lists the columns to store. Empty stores every number, boolean,
	// string and timestamp but `time`, `tag`, `received` and those that have
	// the name of one of the point's tags.
	Fields []string `yaml:"fields"`
	// MaxLinesPerRequest splits what is written at once. A request that the
	// server finds too large is halved in any case.
	MaxLinesPerRequest int `yaml:"max_lines_per_request"`
}

// TLSConfig is the `tls` section.
type TLSConfig struct {
	// CA is a PEM file with the certificates to trust instead of the system's.
	CA string `yaml:"ca"`
	// Cert and Key are PEM files with a client certificate, where the server
	// or a proxy in front of it asks for one.
	Cert string `yaml:"cert"`
	Key  string `yaml:"key"`
	// InsecureSkipVerify accepts any certificate: anyone on the way can read
	// the token. For a first try only.
	InsecureSkipVerify bool `yaml:"insecure_skip_verify"`
}

// DefaultConfig is what holds where the YAML is silent.
func DefaultConfig() Config {
	return Config{Timeout: 20 * time.Second, Gzip: "auto", Measurement: "{measurement}", MaxLinesPerRequest: 10_000}
}

var placeholder = regexp.MustCompile(`\{([^{}]*)\}`)

// Accept implements pipeline.Accepter.
func (c *Config) Accept(in *arrow.Schema) error { return columns.Timed(in) }

// Validate checks the settings.
func (c *Config) Validate(p *pipeline.Problems) {
	u, err := url.Parse(c.URL)
	switch {
	case c.URL == "":
		p.Add("url", "is empty", `write the server's address, such as "http://127.0.0.1:8086"`)
	case err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https":
		p.Add("url", fmt.Sprintf("%q is not an http or https URL", c.URL), `write the server's address, such as "http://127.0.0.1:8086"`)
	case u.User != nil:
		p.Add("url", "holds a user name", `take it out and write token: "${env:INFLUX_TOKEN}" (InfluxDB 1.8: "user:password")`)
	case u.RawQuery != "" || u.Fragment != "":
		p.Add("url", "holds a query", "write scheme, host, port and path only; bucket and org have keys of their own")
	case u.Scheme == "http" && (c.TLS != TLSConfig{}):
		p.Add("tls", "is set, but the URL is plain http", "write https:// in url, or take the tls section out")
	}
	if c.Bucket == "" {
		p.Add("bucket", "is empty", `write the bucket's name (InfluxDB 1.8: "database" or "database/retention_policy")`)
	}
	if !slices.Contains([]string{"auto", "always", "never"}, c.Gzip) {
		p.Add("gzip", fmt.Sprintf("%q is not known", c.Gzip), "write auto, always or never")
	}
	if c.Timeout <= 0 {
		p.Add("timeout", fmt.Sprintf("%v is out of range", c.Timeout), "write a duration such as 20s")
	}
	if c.MaxLinesPerRequest < 1 || c.MaxLinesPerRequest > 1_000_000 {
		p.Add("max_lines_per_request", fmt.Sprintf("%d is out of range", c.MaxLinesPerRequest), "write 1 to 1000000; InfluxDB recommends 5000 to 10000")
	}
	checkTemplate(p, "measurement", c.Measurement)
	if c.Measurement == "" {
		p.Add("measurement", "is empty", `write a name or a template such as "{measurement}"`)
	}
	for k, v := range c.Tags {
		path := "tags." + k
		checkTemplate(p, path, v)
		switch {
		case k == "" || strings.HasPrefix(k, "_") || k == "time" || k == "field" || k == "measurement" || sanitize(k) != k:
			p.Add(path, fmt.Sprintf("%q cannot be the key of a tag", k), "write a plain name that does not start with _ and is not time, field or measurement")
		case k == qualityTag && c.QualityTag:
			p.Add(path, "quality_tag already makes this tag", "take one of the two out")
		}
	}
	for i, f := range c.Fields {
		if f == pipeline.NameTime || f == pipeline.NameTag {
			p.Add(fmt.Sprintf("fields[%d]", i), fmt.Sprintf("%q is stored as the point's own %s", f, f), "take it out of the list")
		}
	}
	if (c.TLS.Cert == "") != (c.TLS.Key == "") {
		p.Add("tls", "cert and key go together", "write both or neither")
	} else if _, err := c.TLS.load(); err != nil {
		p.Add("tls", err.Error(), "write the path of a readable PEM file")
	}
}

func checkTemplate(p *pipeline.Problems, path, tmpl string) {
	for _, m := range placeholder.FindAllStringSubmatch(tmpl, -1) {
		switch m[1] {
		case "tag", "asset", "measurement", "unit", "node", "1", "2", "3", "4", "5", "6", "7", "8", "9":
		default:
			p.Add(path, fmt.Sprintf("%s is not a placeholder", m[0]), "write {tag}, {asset}, {measurement}, {unit}, {node} or {1} to {9}")
		}
	}
}

// local reports whether the server is on this machine.
func (c *Config) local() bool {
	u, err := url.Parse(c.URL)
	if err != nil {
		return false
	}
	ip := net.ParseIP(u.Hostname())
	return u.Hostname() == "localhost" || ip != nil && ip.IsLoopback()
}

// load reads the files of the section.
func (t TLSConfig) load() (*tls.Config, error) {
	c := &tls.Config{MinVersion: tls.VersionTLS12, InsecureSkipVerify: t.InsecureSkipVerify}
	if t.CA != "" {
		pem, err := os.ReadFile(t.CA)
		if err != nil {
			return nil, err
		}
		c.RootCAs = x509.NewCertPool()
		if !c.RootCAs.AppendCertsFromPEM(pem) {
			return nil, errors.New(t.CA + ": no PEM certificate in it")
		}
	}
	if t.Cert != "" {
		pair, err := tls.LoadX509KeyPair(t.Cert, t.Key)
		if err != nil {
			return nil, err
		}
		c.Certificates = []tls.Certificate{pair}
	}
	return c, nil
}
