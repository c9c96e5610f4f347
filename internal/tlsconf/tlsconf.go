// Package tlsconf is the `tls` section of clients.
package tlsconf

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"os"

	"github.com/penstock/penstock/pipeline"
)

// Config is the `tls` section. Files are PEM.
type Config struct {
	// CA is the file of the authority that signed the server's certificate.
	// Empty stands for the system's authorities.
	CA string `yaml:"ca"`
	// Cert and Key are the files of the client's certificate, if the server
	// asks for one.
	Cert string `yaml:"cert"`
	Key  string `yaml:"key"`
	// ServerName is the name expected in the server's certificate, when it is
	// not the host in the URL.
	ServerName string `yaml:"server_name"`
	// InsecureSkipVerify takes any certificate: whoever is in between can read
	// and change everything. For tests only.
	InsecureSkipVerify bool `yaml:"insecure_skip_verify"`
}

// Validate checks the settings and that the files can be read.
func (c *Config) Validate(p *pipeline.Problems) {
	if c.CA != "" {
		if _, err := c.roots(); err != nil {
			p.Add("ca", err.Error(), "write the path of a PEM file")
		}
	}
	switch {
	case (c.Cert == "") != (c.Key == ""):
		p.Add("cert", "cert and key go together", "write both, or neither")
	case c.Cert != "":
		if _, err := tls.LoadX509KeyPair(c.Cert, c.Key); err != nil {
			p.Add("cert", err.Error(), "write the paths of the PEM files of a certificate and its key")
		}
	}
}

func (c *Config) roots() (*x509.CertPool, error) {
	pem, err := os.ReadFile(c.CA)
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("%s holds no certificate", c.CA)
	}
	return pool, nil
}

// Load reads the files. TLS 1.2 is the oldest version that is spoken.
func (c *Config) Load() (*tls.Config, error) {
	t := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: c.ServerName, InsecureSkipVerify: c.InsecureSkipVerify}
	var err error
	if c.CA != "" {
		if t.RootCAs, err = c.roots(); err != nil {
			return nil, fmt.Errorf("tls.ca: %w", err)
		}
	}
	if c.Cert != "" {
		cert, err := tls.LoadX509KeyPair(c.Cert, c.Key)
		if err != nil {
			return nil, fmt.Errorf("tls.cert: %w", err)
		}
		t.Certificates = []tls.Certificate{cert}
	}
	return t, nil
}
