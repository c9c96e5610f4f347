package opcua

import (
	"bytes"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"net/url"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"time"

	"github.com/gopcua/opcua/ua"
	"github.com/gopcua/opcua/uapolicy"

	"github.com/penstock/penstock/pipeline"
)

// maxCertificateFile bounds files that hold certificates or keys, in bytes.
const maxCertificateFile = 1 << 20

// identity is a certificate and its key, of this client or of its user.
type identity struct {
	cert *x509.Certificate
	key  *rsa.PrivateKey
	file string // of the certificate
}

// uri is the application URI in the certificate; servers compare it with what
// the client says of itself.
func (id *identity) uri() string {
	if id == nil || len(id.cert.URIs) == 0 {
		return "urn:penstock"
	}
	return id.cert.URIs[0].String()
}

// clientIdentity loads the client's certificate, or makes one in pki_dir.
func (c *Config) clientIdentity() (*identity, error) {
	if c.Certificate != "" {
		return loadIdentity(c.Certificate, c.Key)
	}
	dir := filepath.Join(c.PKIDir, "own")
	certFile, keyFile := filepath.Join(dir, "penstock.der"), filepath.Join(dir, "penstock.key.pem")
	id, err := loadIdentity(certFile, keyFile)
	if err == nil && time.Until(id.cert.NotAfter) > 24*time.Hour {
		return id, nil
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	if err := makeIdentity(dir, certFile, keyFile); err != nil {
		return nil, fmt.Errorf("making a client certificate: %w", err)
	}
	return loadIdentity(certFile, keyFile)
}

func makeIdentity(dir, certFile, keyFile string) error {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return err
	}
	host, err := os.Hostname()
	if err != nil {
		host = "localhost"
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		return err
	}
	t := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: "Penstock", Organization: []string{"Penstock"}, OrganizationalUnit: []string{host}},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().AddDate(5, 0, 0),
		URIs: []*url.URL{{Scheme: "urn", Opaque: url.PathEscape(host) + ":penstock"}}, DNSNames: []string{host},
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageContentCommitment | x509.KeyUsageKeyEncipherment | x509.KeyUsageDataEncipherment |
			x509.KeyUsageCertSign, // it signs itself
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth}, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, t, t, &key.PublicKey, key)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	if err := writeFile(keyFile, pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(key)}), 0o600); err != nil {
		return err
	}
	return writeFile(certFile, der, 0o644)
}

// writeFile replaces a file in one step.
func writeFile(name string, data []byte, perm fs.FileMode) error {
	f, err := os.CreateTemp(filepath.Dir(name), ".new-*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	_, err = f.Write(data)
	err = errors.Join(err, f.Chmod(perm), f.Close())
	if err != nil {
		return err
	}
	return os.Rename(f.Name(), name)
}

func loadIdentity(certFile, keyFile string) (*identity, error) {
	certs, err := loadCertificates(certFile)
	if err != nil {
		return nil, err
	}
	b, err := readFile(keyFile)
	if err != nil {
		return nil, err
	}
	if block, _ := pem.Decode(b); block != nil {
		b = block.Bytes
	}
	key, err := x509.ParsePKCS1PrivateKey(b)
	if err != nil {
		any, err8 := x509.ParsePKCS8PrivateKey(b)
		rsaKey, ok := any.(*rsa.PrivateKey)
		if err8 != nil || !ok {
			return nil, fmt.Errorf("%s holds no RSA key that can be read (PEM or DER, PKCS#1 or PKCS#8, without a passphrase)", keyFile)
		}
		key = rsaKey
	}
	id := &identity{cert: certs[0], key: key, file: certFile}
	if pub, ok := id.cert.PublicKey.(*rsa.PublicKey); !ok || !pub.Equal(&key.PublicKey) {
		return nil, fmt.Errorf("the key in %s is not the one of the certificate in %s", keyFile, certFile)
	}
	return id, nil
}

func readFile(name string) ([]byte, error) {
	info, err := os.Stat(name)
	if err != nil {
		return nil, err
	}
	if info.Size() > maxCertificateFile {
		return nil, fmt.Errorf("%s is too large for a certificate or a key", name)
	}
	return os.ReadFile(name)
}

// loadCertificates reads the certificates of a PEM or DER file, at least one.
func loadCertificates(name string) ([]*x509.Certificate, error) {
	b, err := readFile(name)
	if err != nil {
		return nil, err
	}
	var der []byte
	for rest := b; ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		if block.Type == "CERTIFICATE" {
			der = append(der, block.Bytes...)
		}
	}
	if der == nil {
		der = b
	}
	certs, err := x509.ParseCertificates(der)
	if err != nil || len(certs) == 0 {
		return nil, fmt.Errorf("%s holds no certificate (PEM or DER): %v", name, err)
	}
	return certs, nil
}

// checkValid says clearly when a certificate is out of date.
func checkValid(what string, cert *x509.Certificate) error {
	now := time.Now()
	switch {
	case now.After(cert.NotAfter):
		return fmt.Errorf("the certificate of %s (%s) expired on %s; put a new one in its place", what, cert.Subject, cert.NotAfter.UTC().Format(time.RFC3339))
	case now.Before(cert.NotBefore):
		return fmt.Errorf("the certificate of %s (%s) is valid only from %s on; check the clocks", what, cert.Subject, cert.NotBefore.UTC().Format(time.RFC3339))
	}
	return nil
}

// checkServer decides whether the certificate that the server shows is
// trusted. All its errors are permanent: people must act.
func (c *Config) checkServer(der []byte) error {
	certs, err := x509.ParseCertificates(der)
	if err != nil || len(certs) == 0 {
		return pipeline.Permanent(fmt.Errorf("the server's certificate cannot be read: %w", err))
	}
	cert := certs[0]
	if err := checkValid("the server", cert); err != nil {
		return pipeline.Permanent(err)
	}
	if _, ok := cert.PublicKey.(*rsa.PublicKey); !ok {
		return pipeline.Permanent(fmt.Errorf("the server's certificate has a %s key; only RSA is supported", cert.PublicKeyAlgorithm))
	}
	if c.TrustAny {
		return nil
	}
	sum := sha256.Sum256(cert.Raw)
	print := hex.EncodeToString(sum[:])
	if c.ServerCertificate != "" {
		pinned, err := loadCertificates(c.ServerCertificate)
		if err != nil {
			return pipeline.Permanent(err)
		}
		if bytes.Equal(pinned[0].Raw, cert.Raw) {
			return nil
		}
		return pipeline.Permanent(fmt.Errorf("the server shows another certificate (%s, SHA-256 %s) than the one in %s", cert.Subject, print, c.ServerCertificate))
	}
	dir := c.TrustDir
	if dir == "" {
		dir = filepath.Join(c.PKIDir, "trusted")
	}
	trusted, err := c.trusted(dir, cert, certs[1:])
	if err != nil {
		return pipeline.Permanent(err)
	}
	if trusted {
		return nil
	}
	hint := fmt.Sprintf("if this is your server, put its certificate into %s", dir)
	if file, err := c.reject(cert, print); err == nil {
		hint = fmt.Sprintf("if this is your server: mv %s %s%c", file, dir, filepath.Separator)
	}
	return pipeline.Permanent(fmt.Errorf("the server's certificate is not trusted (%s, SHA-256 %s); %s", cert.Subject, print, hint))
}

// trusted reports whether cert is in dir, or signed by a CA that is and made
// for the host of the endpoint.
func (c *Config) trusted(dir string, cert *x509.Certificate, chain []*x509.Certificate) (bool, error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) && c.TrustDir == "" {
		return false, os.MkdirAll(dir, 0o700)
	}
	if err != nil {
		return false, err
	}
	roots, middle := x509.NewCertPool(), x509.NewCertPool()
	for _, e := range entries {
		if !e.Type().IsRegular() || strings.HasPrefix(e.Name(), ".") {
			continue
		}
		certs, err := loadCertificates(filepath.Join(dir, e.Name()))
		if err != nil {
			return false, err
		}
		for _, t := range certs {
			if bytes.Equal(t.Raw, cert.Raw) {
				return true, nil
			}
			if t.IsCA {
				roots.AddCert(t)
			}
		}
	}
	for _, m := range chain {
		middle.AddCert(m)
	}
	if _, err := cert.Verify(x509.VerifyOptions{Roots: roots, Intermediates: middle, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}}); err != nil {
		return false, nil
	}
	u, err := url.Parse(c.Endpoint)
	if err != nil {
		return false, err
	}
	if err := cert.VerifyHostname(u.Hostname()); err != nil {
		return false, fmt.Errorf("the server's certificate comes from a trusted CA but is another machine's: %w", err)
	}
	return true, nil
}

// reject keeps a refused certificate where a person can look at it.
func (c *Config) reject(cert *x509.Certificate, print string) (string, error) {
	if c.PKIDir == "" {
		return "", errors.New("no pki_dir")
	}
	dir := filepath.Join(c.PKIDir, "rejected")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", err
	}
	file := filepath.Join(dir, print[:16]+".der")
	return file, writeFile(file, cert.Raw, 0o644)
}

// choose picks the endpoint to use: of those that fit policy, mode and kind of
// user, encrypted ones first, then the strongest policy. None is taken only
// where the YAML says so.
func (c *Config) choose(all []*ua.EndpointDescription) (*ua.EndpointDescription, error) {
	var fit []*ua.EndpointDescription
	var offers []string
	wrongUser := false
	for _, e := range all {
		if e.TransportProfileURI != "" && !strings.HasSuffix(e.TransportProfileURI, "/uatcp-uasc-uabinary") {
			continue
		}
		policy, mode := policyName(e.SecurityPolicyURI), modeName(e.SecurityMode)
		offers = append(offers, policy+"/"+mode)
		switch {
		case e.SecurityMode < ua.MessageSecurityModeNone || e.SecurityMode > ua.MessageSecurityModeSignAndEncrypt:
		case uapolicy.SecurityLevel(e.SecurityPolicyURI, e.SecurityMode) == 0: // not known to the library
		case c.SecurityPolicy != "auto" && string(c.SecurityPolicy) != policy:
		case c.SecurityMode != "auto" && string(c.SecurityMode) != mode:
		case mode == "None" && !c.insecure():
		case c.SecurityPolicy == "auto" && (policy == "Basic256" || policy == "Basic128Rsa15"): // broken, deprecated since 2016
		case len(c.userPolicies(e)) == 0:
			wrongUser = true
		default:
			fit = append(fit, e)
		}
	}
	if len(fit) == 0 {
		sort.Strings(offers)
		list := strings.Join(offers, ", ")
		switch {
		case wrongUser:
			return nil, pipeline.Permanent(fmt.Errorf("the server does not let a user log in %s there (it offers %s)", c.Auth.how(), list))
		case !c.insecure() && len(offers) > 0 && strings.ReplaceAll(list, "None/None", "") == "":
			return nil, pipeline.Permanent(errors.New("the server offers no security at all; on a network where nobody can listen, write security_policy: None"))
		}
		return nil, pipeline.Permanent(fmt.Errorf("the server has no endpoint with security_policy %s and security_mode %s; it offers %s", c.SecurityPolicy, c.SecurityMode, list))
	}
	sort.SliceStable(fit, func(i, j int) bool { return strength(fit[i]) > strength(fit[j]) })
	return fit[0], nil
}

// strength orders endpoints: the mode counts before the policy.
func strength(e *ua.EndpointDescription) int {
	return int(e.SecurityMode)<<8 | int(uapolicy.SecurityLevel(e.SecurityPolicyURI, e.SecurityMode))
}

func policyName(uri string) string { return strings.TrimPrefix(uri, ua.SecurityPolicyURIPrefix) }

func modeName(m ua.MessageSecurityMode) string {
	return strings.TrimPrefix(m.String(), "MessageSecurityMode")
}

func (a *Auth) how() string {
	switch a.kind() {
	case ua.UserTokenTypeUserName:
		return "with a name and a password"
	case ua.UserTokenTypeCertificate:
		return "with a certificate"
	}
	return "anonymously"
}

func (a *Auth) kind() ua.UserTokenType {
	switch {
	case a.Username != "":
		return ua.UserTokenTypeUserName
	case a.Certificate != "":
		return ua.UserTokenTypeCertificate
	}
	return ua.UserTokenTypeAnonymous
}

// userPolicies returns the endpoint's ways to log in as the YAML says, the
// strongest encryption first. Their SecurityPolicyURI is never empty.
func (c *Config) userPolicies(e *ua.EndpointDescription) []ua.UserTokenPolicy {
	var list []ua.UserTokenPolicy
	for _, t := range e.UserIdentityTokens {
		if t == nil || t.TokenType != c.Auth.kind() {
			continue
		}
		p := *t
		if p.SecurityPolicyURI == "" {
			p.SecurityPolicyURI = e.SecurityPolicyURI
		}
		if policyLevel(p.SecurityPolicyURI) > 0 {
			list = append(list, p)
		}
	}
	sort.SliceStable(list, func(i, j int) bool {
		return policyLevel(list[i].SecurityPolicyURI) > policyLevel(list[j].SecurityPolicyURI)
	})
	return list
}

func policyLevel(uri string) uint8 {
	return max(uapolicy.SecurityLevel(uri, ua.MessageSecurityModeSignAndEncrypt), uapolicy.SecurityLevel(uri, ua.MessageSecurityModeNone))
}
