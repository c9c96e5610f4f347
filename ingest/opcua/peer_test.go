package opcua

import (
	"bufio"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/penstock/penstock/pipeline"
)

// peer is a node-opcua server in a process of its own.
type peer struct {
	t    *testing.T
	cmd  *exec.Cmd
	in   io.WriteCloser
	out  *bufio.Scanner
	port int
	pki  string
}

const peerDir = "testdata/node-opcua"

// startPeer starts a server whose certificates live in pki. Port 0 is any.
func startPeer(t *testing.T, pki string, port int, args ...string) *peer {
	t.Helper()
	if _, err := os.Stat(filepath.Join(peerDir, "node_modules", "node-opcua")); err != nil {
		if os.Getenv("CI") != "" || os.Getenv("PENSTOCK_TEST_PEERS") == "1" {
			t.Fatal("node-opcua is not installed: run make test-deps")
		}
		t.Skip("node-opcua is not installed: run make test-deps")
	}
	p := &peer{t: t, pki: pki}
	p.cmd = exec.Command("node", append([]string{filepath.Join(peerDir, "server.js"), "--pki", pki, "--port", fmt.Sprint(port)}, args...)...)
	p.cmd.Env = append(os.Environ(), "NODEOPCUA_LOG_LEVEL=ERROR")
	log := &logBuffer{}
	p.cmd.Stderr = log
	var err error
	p.in, err = p.cmd.StdinPipe()
	require.NoError(t, err)
	out, err := p.cmd.StdoutPipe()
	require.NoError(t, err)
	p.out = bufio.NewScanner(out)
	require.NoError(t, p.cmd.Start())
	t.Cleanup(func() {
		p.kill()
		if t.Failed() {
			t.Log("node-opcua: ", log.String())
		}
	})
	require.NoError(t, json.Unmarshal([]byte(p.line("READY ")), &struct{ Port *int }{&p.port}))
	return p
}

func (p *peer) kill() {
	p.cmd.Process.Kill()
	p.cmd.Wait()
}

// line returns the rest of the next line that begins with prefix.
func (p *peer) line(prefix string) string {
	p.t.Helper()
	for p.out.Scan() {
		if rest, ok := strings.CutPrefix(p.out.Text(), prefix); ok {
			return rest
		}
	}
	p.t.Fatalf("node-opcua ended without %q: %v", prefix, p.out.Err())
	return ""
}

func (p *peer) endpoint() string { return fmt.Sprintf("opc.tcp://127.0.0.1:%d", p.port) }

// publish has the server set all counters to new values, so many times, and
// returns what it set.
func (p *peer) publish(rounds int) (truth []row) {
	p.t.Helper()
	_, err := fmt.Fprintf(p.in, "publish %d\n", rounds)
	require.NoError(p.t, err)
	for p.out.Scan() {
		if p.out.Text() == "DONE" {
			return truth
		}
		if rest, ok := strings.CutPrefix(p.out.Text(), "TRUTH "); ok {
			var r struct {
				Tag     string
				Time    int64
				Value   float64
				Quality uint32
			}
			require.NoError(p.t, json.Unmarshal([]byte(rest), &r))
			truth = append(truth, row{Tag: "t/" + r.Tag, Time: r.Time * 1e6, Value: r.Value, Quality: r.Quality})
		}
	}
	p.t.Fatal("node-opcua ended")
	return nil
}

// config reads the counters with the strongest security, trusting the peer's
// certificate. The client's certificate is in pki, shared by the tests.
func (p *peer) config(pki string, counters int) Config {
	cfg := testConfig(p.endpoint())
	cfg.SecurityPolicy, cfg.PKIDir = "auto", pki
	cfg.ServerCertificate = filepath.Join(p.pki, "server", "own", "certs", "certificate.pem")
	for i := range counters {
		name := fmt.Sprintf("Counter%d", i)
		cfg.Nodes = append(cfg.Nodes, node(name))
	}
	return cfg
}

// published drops the first value of each node, which is from before.
func published(rows []row) (out []row) {
	for _, r := range rows {
		if r.Value != 0 {
			out = append(out, r)
		}
	}
	return out
}

func requireSame(t *testing.T, truth, got []row, counters int) {
	t.Helper()
	require.Len(t, got, len(truth))
	for i := range counters {
		tag := fmt.Sprintf("t/Counter%d", i)
		require.Equal(t, of(truth, tag), of(got, tag))
	}
}

func TestPeer(t *testing.T) {
	peerPKI, pki := t.TempDir(), t.TempDir()
	user := selfSigned(t, "operator", time.Now().Add(-time.Hour), time.Now().Add(time.Hour))
	userCert, userKey := user[0], user[1]
	users := filepath.Join(peerPKI, "user", "trusted", "certs")
	require.NoError(t, os.MkdirAll(users, 0o700))
	require.NoError(t, os.WriteFile(filepath.Join(users, "operator.pem"), userCert, 0o600))
	p := startPeer(t, peerPKI, 0)
	const counters = 20
	rounds := 0

	t.Run("value by value", func(t *testing.T) {
		h := connect(t, p.config(pki, counters))
		h.until(atLeast(counters)) // the values there are
		var truth []row
		for range 5 {
			truth = append(truth, p.publish(50)...)
			h.until(func(rows []row) bool { return len(published(rows)) >= len(truth) })
		}
		rounds = 250
		requireSame(t, truth, published(h.rows), counters)
		require.Empty(t, h.meter.Totals().Dropped)
		require.Contains(t, of(published(h.rows), "t/Counter0"), truth[9*counters]) // the uncertain one
		require.EqualValues(t, 0x40900000, truth[9*counters].Quality)
	})

	for _, policy := range []Policy{"auto", "Basic256Sha256", "Aes128_Sha256_RsaOaep", "Aes256_Sha256_RsaPss"} {
		for _, mode := range []Mode{"Sign", "SignAndEncrypt"} {
			for _, user := range []string{"", "operator"} {
				t.Run(fmt.Sprintf("%s %s %s", policy, mode, user), func(t *testing.T) {
					cfg := p.config(pki, 1)
					cfg.SecurityPolicy, cfg.SecurityMode = policy, mode
					if user != "" {
						cfg.Auth.Username, cfg.Auth.Password = user, "secret"
					}
					h := connect(t, cfg)
					require.Equal(t, float64(rounds)*1000+0.5, h.until(atLeast(1))[0].Value)
				})
			}
		}
	}

	t.Run("wrong password", func(t *testing.T) {
		cfg := p.config(pki, 1)
		cfg.Auth.Username, cfg.Auth.Password = "operator", "guess-me"
		h := newHarness(t, cfg)
		err := h.Connect(h.ctx)
		require.ErrorContains(t, err, "wrong name or password")
		require.True(t, pipeline.IsPermanent(err))
		require.NotContains(t, err.Error()+h.log.String(), "guess-me")
	})

	t.Run("password over a plain connection", func(t *testing.T) {
		cfg := p.config(pki, 1)
		cfg.SecurityPolicy, cfg.Auth.Username, cfg.Auth.Password = "None", "operator", "secret"
		h := connect(t, cfg) // this server takes it encrypted with its certificate
		h.until(atLeast(1))
	})

	for name, user := range map[string][2][]byte{"known": {userCert, userKey}, "unknown": selfSigned(t, "stranger", time.Now().Add(-time.Hour), time.Now().Add(time.Hour))} {
		t.Run("user certificate, "+name, func(t *testing.T) {
			dir := t.TempDir()
			cfg := p.config(pki, 1)
			cfg.Auth.Certificate, cfg.Auth.Key = filepath.Join(dir, "user.pem"), filepath.Join(dir, "user.key")
			require.NoError(t, os.WriteFile(cfg.Auth.Certificate, user[0], 0o600))
			require.NoError(t, os.WriteFile(cfg.Auth.Key, user[1], 0o600))
			h := newHarness(t, cfg)
			err := h.Connect(h.ctx)
			if name == "known" {
				require.NoError(t, err)
				h.until(atLeast(1))
				return
			}
			require.ErrorContains(t, err, "this user")
			require.True(t, pipeline.IsPermanent(err))
		})
	}

	t.Run("trust is given by a person", func(t *testing.T) {
		cfg := p.config(t.TempDir(), 1)
		cfg.ServerCertificate = ""
		h := newHarness(t, cfg)
		err := h.Connect(h.ctx)
		require.ErrorContains(t, err, "not trusted")
		require.True(t, pipeline.IsPermanent(err))
		_, move, ok := strings.Cut(err.Error(), ": mv ")
		require.True(t, ok, err)
		from, to, _ := strings.Cut(move, " ")
		require.NoError(t, os.Rename(from, filepath.Join(to, "peer.der")))
		require.NoError(t, h.Connect(h.ctx))
		h.until(atLeast(1))
	})

	t.Run("another certificate than expected", func(t *testing.T) {
		other := selfSigned(t, "other", time.Now().Add(-time.Hour), time.Now().Add(time.Hour))
		cfg := p.config(pki, 1)
		cfg.ServerCertificate = filepath.Join(t.TempDir(), "other.pem")
		require.NoError(t, os.WriteFile(cfg.ServerCertificate, other[0], 0o600))
		h := newHarness(t, cfg)
		err := h.Connect(h.ctx)
		require.ErrorContains(t, err, "another certificate")
		require.True(t, pipeline.IsPermanent(err))
	})

	t.Run("expired client certificate", func(t *testing.T) {
		pair := selfSigned(t, "expired", time.Now().AddDate(-1, 0, 0), time.Now().Add(-24*time.Hour))
		dir := t.TempDir()
		cfg := p.config(pki, 1)
		cfg.Certificate, cfg.Key = filepath.Join(dir, "c.pem"), filepath.Join(dir, "k.pem")
		require.NoError(t, os.WriteFile(cfg.Certificate, pair[0], 0o600))
		require.NoError(t, os.WriteFile(cfg.Key, pair[1], 0o600))
		h := newHarness(t, cfg)
		err := h.Connect(h.ctx)
		require.ErrorContains(t, err, "expired on")
		require.True(t, pipeline.IsPermanent(err))
	})

	t.Run("types, unknown nodes and browsing", func(t *testing.T) {
		cfg := p.config(pki, 0)
		cfg.Nodes = []Node{{ID: "ns=1;s=Nowhere", Tag: "nowhere"}, {ID: "nsu=urn:nobody;s=x", Tag: "nobody"}, {ID: "i=85", Tag: "folder"}}
		cfg.Browse = []Browse{{Root: "i=85", Include: []string{"Line1/**"}, Exclude: []string{"Line1/Counter*"}}}
		cfg.MaxArray = 3
		h := connect(t, cfg)
		rows := h.until(atLeast(22))
		got := map[string]row{}
		for _, r := range rows {
			r.Time = 0
			got[strings.TrimPrefix(r.Tag, "Line1/Types/")] = r
		}
		number := func(tag string, v float64) {
			t.Helper()
			require.Equal(t, row{Tag: "Line1/Types/" + tag, Value: v}, got[tag])
		}
		number("ABoolean", 1)
		number("ASByte", -8)
		number("AByte", 200)
		number("AInt16", -1600)
		number("AUInt16", 60000)
		number("AInt32", -320000)
		number("AUInt32", 4e9)
		number("AInt64", -1)
		number("AUInt64", 1<<32)
		number("AFloat", 1.5)
		number("ADouble", -2.25)
		number("ADateTime", 1714557600)
		number("AStatusCode", 0x808C0000)
		number("Array[0]", 1)
		number("Array[2]", 3)
		number("Long[2]", 0)
		require.Equal(t, row{Tag: "Line1/Types/AString", Null: true, Text: "Grüße"}, got["AString"])
		require.Equal(t, row{Tag: "Line1/Types/ALocalizedText", Null: true, Text: "läuft"}, got["ALocalizedText"])
		require.Equal(t, row{Tag: "Line1/Types/Strings[1]", Null: true, Text: "y"}, got["Strings[1]"])
		require.Equal(t, row{Tag: "Line1/Types/Bad", Null: true, Quality: pipeline.BadSensor}, got["Bad"])
		require.NotContains(t, got, "Long[3]")
		dropped := h.meter.Totals().Dropped
		require.EqualValues(t, 97, dropped["array_too_long"])
		require.EqualValues(t, 1, dropped["unsupported_type"])
		require.EqualValues(t, 3, dropped["node_refused"])
		for _, say := range []string{"ns=1;s=Nowhere", "urn:nobody", "tag=folder", "Line1/Types/Bytes", "max_array"} {
			require.Contains(t, h.log.String(), say)
		}
	})
}

// TestPeerRestart kills the server in the middle and starts it again.
func TestPeerRestart(t *testing.T) {
	dir, pki := t.TempDir(), t.TempDir()
	first := startPeer(t, dir, 0)
	cfg := first.config(pki, 20)
	cfg.Auth.Username, cfg.Auth.Password = "operator", "secret"
	h := connect(t, cfg)
	h.until(atLeast(20))
	truth := first.publish(20)
	h.until(func(rows []row) bool { return len(published(rows)) >= len(truth) })
	requireSame(t, truth, published(h.rows), 20)
	first.kill()
	for h.meter.Totals().Connected["plc"] {
		_, _, err := h.Read(h.ctx)
		require.NoError(t, err)
	}

	second := startPeer(t, dir, first.port)
	back := time.Now()
	h.rows = nil
	h.until(atLeast(20))
	require.Less(t, time.Since(back), 10*time.Second)
	truth = second.publish(20)
	h.until(func(rows []row) bool { return len(published(rows)) >= len(truth) })
	requireSame(t, truth, published(h.rows), 20)
}

func TestPeerWithExpiredCertificate(t *testing.T) {
	p := startPeer(t, t.TempDir(), 0, "--expired")
	cfg := p.config(t.TempDir(), 1)
	cfg.ServerCertificate, cfg.TrustAny = "", true
	h := newHarness(t, cfg)
	err := h.Connect(h.ctx)
	require.ErrorContains(t, err, "expired on")
	require.True(t, pipeline.IsPermanent(err))
}

// selfSigned makes a certificate and its key, PEM.
func selfSigned(t *testing.T, name string, from, to time.Time) [2][]byte {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	require.NoError(t, err)
	c := &x509.Certificate{SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name}, NotBefore: from, NotAfter: to,
		URIs: []*url.URL{{Scheme: "urn", Opaque: "test:" + name}}, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageContentCommitment | x509.KeyUsageKeyEncipherment | x509.KeyUsageDataEncipherment}
	der, err := x509.CreateCertificate(rand.Reader, c, c, &key.PublicKey, key)
	require.NoError(t, err)
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	require.NoError(t, err)
	return [2][]byte{pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8})}
}
