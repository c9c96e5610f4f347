package testpeer

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// CertOptions says what certificates are wanted.
type CertOptions struct {
	// Expired makes the server's certificate one that ended yesterday.
	Expired bool
	// ClientExpired does it for the client's.
	ClientExpired bool
	// Hosts are names and addresses of the server; 127.0.0.1, ::1 and
	// localhost when empty.
	Hosts []string
	// RSA makes 2048 bit RSA keys, as OPC UA wants; otherwise they are P-256.
	RSA bool
	// ClientURI is the client's application URI, for OPC UA.
	ClientURI string
}

// Certs are PEM files of one certificate authority, a server and a client.
type Certs struct {
	CA                string
	Server, ServerKey string
	Client, ClientKey string
}

// NewCerts makes certificates in the test's temporary directory.
func NewCerts(t testing.TB, o CertOptions) *Certs {
	t.Helper()
	dir := t.TempDir()
	if len(o.Hosts) == 0 {
		o.Hosts = []string{"127.0.0.1", "::1", "localhost"}
	}
	now := time.Now()
	authority := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "Penstock test authority"},
		NotBefore: now.Add(-48 * time.Hour), NotAfter: now.Add(24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
	key := func() crypto.Signer {
		var k crypto.Signer
		var err error
		if o.RSA {
			k, err = rsa.GenerateKey(rand.Reader, 2048)
		} else {
			k, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		}
		if err != nil {
			t.Fatal(err)
		}
		return k
	}
	write := func(name, kind string, der []byte) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	caKey := key()
	issue := func(name string, c *x509.Certificate, k crypto.Signer) (cert, keyFile string) {
		der, err := x509.CreateCertificate(rand.Reader, c, authority, k.Public(), caKey)
		if err != nil {
			t.Fatal(err)
		}
		pkcs8, err := x509.MarshalPKCS8PrivateKey(k)
		if err != nil {
			t.Fatal(err)
		}
		return write(name+".pem", "CERTIFICATE", der), write(name+"-key.pem", "PRIVATE KEY", pkcs8)
	}
	leaf := func(serial int64, name string, expired bool, usage x509.ExtKeyUsage) *x509.Certificate {
		c := &x509.Certificate{
			SerialNumber: big.NewInt(serial), Subject: pkix.Name{CommonName: name},
			NotBefore: now.Add(-47 * time.Hour), NotAfter: now.Add(23 * time.Hour),
			KeyUsage:    x509.KeyUsageDigitalSignature | x509.KeyUsageKeyEncipherment | x509.KeyUsageDataEncipherment | x509.KeyUsageContentCommitment,
			ExtKeyUsage: []x509.ExtKeyUsage{usage},
		}
		if expired {
			c.NotAfter = now.Add(-24 * time.Hour)
		}
		return c
	}
	out := &Certs{}
	out.CA, _ = issue("ca", authority, caKey)
	server := leaf(2, "Penstock test server", o.Expired, x509.ExtKeyUsageServerAuth)
	for _, h := range o.Hosts {
		if ip := net.ParseIP(h); ip != nil {
			server.IPAddresses = append(server.IPAddresses, ip)
		} else {
			server.DNSNames = append(server.DNSNames, h)
		}
	}
	out.Server, out.ServerKey = issue("server", server, key())
	client := leaf(3, "Penstock test client", o.ClientExpired, x509.ExtKeyUsageClientAuth)
	if o.ClientURI != "" {
		u, err := url.Parse(o.ClientURI)
		if err != nil {
			t.Fatal(err)
		}
		client.URIs = []*url.URL{u}
	}
	out.Client, out.ClientKey = issue("client", client, key())
	return out
}

// ClientTLS trusts the authority and shows the client certificate.
func (c *Certs) ClientTLS(t testing.TB) *tls.Config {
	t.Helper()
	pair, err := tls.LoadX509KeyPair(c.Client, c.ClientKey)
	if err != nil {
		t.Fatal(err)
	}
	return &tls.Config{RootCAs: c.pool(t), Certificates: []tls.Certificate{pair}}
}

// ServerTLS shows the server certificate.
func (c *Certs) ServerTLS(t testing.TB) *tls.Config {
	t.Helper()
	pair, err := tls.LoadX509KeyPair(c.Server, c.ServerKey)
	if err != nil {
		t.Fatal(err)
	}
	return &tls.Config{Certificates: []tls.Certificate{pair}, ClientCAs: c.pool(t)}
}

func (c *Certs) pool(t testing.TB) *x509.CertPool {
	t.Helper()
	data, err := os.ReadFile(c.CA)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(data)
	return pool
}
