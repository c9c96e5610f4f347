package mqtt

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/stretchr/testify/require"
)

// broker is a real broker that a test can stop and start again.
type broker interface {
	start(t testing.TB)
	stop(t testing.TB)
	url() string
}

// brokers runs a test against each broker that is at hand. They send a message
// again to the next session only, however long its acknowledgement takes.
func brokers(t *testing.T, f func(t *testing.T, b broker)) { brokersWith(t, nil, f) }

// brokersWith sets options of NATS.
func brokersWith(t *testing.T, opts func(*server.Options), f func(t *testing.T, b broker)) {
	t.Run("nats", func(t *testing.T) { f(t, newNATSWith(t, opts)) })
	t.Run("mosquitto", func(t *testing.T) { f(t, newMosquitto(t, "")) })
}

// soonAgain is for tests that wait for a message to come again: NATS sends it to
// the next session too only when its acknowledgement has been due that long.
func soonAgain(o *server.Options) { o.MQTT.AckWait = 4 * time.Second }

func freePort(t testing.TB) int {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

type natsBroker struct {
	dir  string
	port int
	opts func(*server.Options)
	s    *server.Server
}

func newNATS(t testing.TB) *natsBroker { return newNATSWith(t, nil) }

func newNATSWith(t testing.TB, opts func(*server.Options)) *natsBroker {
	b := &natsBroker{dir: t.TempDir(), port: freePort(t), opts: opts}
	b.start(t)
	t.Cleanup(func() { b.stop(t) })
	return b
}

func (b *natsBroker) url() string { return fmt.Sprintf("tcp://127.0.0.1:%d", b.port) }

func (b *natsBroker) start(t testing.TB) {
	opts := &server.Options{ServerName: "test", Host: "127.0.0.1", Port: server.RANDOM_PORT, NoSigs: true,
		JetStream: true, StoreDir: b.dir, MaxPayload: 32 << 20, MaxPending: 64 << 20, MQTT: server.MQTTOpts{Host: "127.0.0.1", Port: b.port, AckWait: 10 * patience}}
	if b.opts != nil {
		b.opts(opts)
	}
	s, err := server.NewServer(opts)
	require.NoError(t, err)
	s.Start()
	require.True(t, s.ReadyForConnections(20*time.Second))
	b.s = s
}

func (b *natsBroker) stop(testing.TB) {
	if b.s != nil {
		b.s.Shutdown()
		b.s.WaitForShutdown()
		b.s = nil
	}
}

// mosquitto is Debian's, with a user and a password: "user", "secret".
type mosquitto struct {
	path, dir, conf string
	port            int
	cmd             *exec.Cmd
}

func mosquittoPath(t testing.TB) string {
	if p := os.Getenv("PENSTOCK_TEST_MOSQUITTO"); p != "" {
		return p
	}
	for _, p := range []string{"/usr/sbin/mosquitto", "/usr/local/sbin/mosquitto"} {
		if _, err := os.Stat(p); err == nil {
			return p
		}
	}
	if os.Getenv("CI") != "" || os.Getenv("PENSTOCK_TEST_PEERS") != "" {
		t.Fatal("mosquitto is not installed: run make test-deps, or set PENSTOCK_TEST_MOSQUITTO")
	}
	t.Skip("mosquitto is not installed: run make test-deps, or set PENSTOCK_TEST_MOSQUITTO")
	return ""
}

// newMosquitto starts a broker; extra is appended to its configuration, below
// the listener.
func newMosquitto(t testing.TB, extra string) *mosquitto {
	b := &mosquitto{path: mosquittoPath(t), dir: t.TempDir(), port: freePort(t)}
	b.conf = fmt.Sprintf(`per_listener_settings false
persistence true
persistence_location %s/
password_file %s/passwords
allow_anonymous false
max_queued_messages 1000000
listener %d 127.0.0.1
%s
`, b.dir, b.dir, b.port, extra)
	b.password(t, "secret")
	b.start(t)
	t.Cleanup(func() { b.stop(t) })
	return b
}

// password sets the user's password for the next start.
func (b *mosquitto) password(t testing.TB, pw string) {
	file := filepath.Join(b.dir, "passwords")
	tool, err := exec.LookPath("mosquitto_passwd")
	if err != nil {
		tool = filepath.Join(filepath.Dir(filepath.Dir(b.path)), "bin", "mosquitto_passwd")
	}
	out, err := exec.Command(tool, "-b", "-c", file, "user", pw).CombinedOutput()
	require.NoError(t, err, "%s", out)
	require.NoError(t, os.Chmod(file, 0o644)) // Mosquitto drops root before it reads it
	require.NoError(t, os.Chmod(b.dir, 0o777))
}

func (b *mosquitto) url() string { return fmt.Sprintf("tcp://127.0.0.1:%d", b.port) }

func (b *mosquitto) start(t testing.TB) {
	conf := filepath.Join(b.dir, "mosquitto.conf")
	require.NoError(t, os.WriteFile(conf, []byte("user root\n"+b.conf), 0o644))
	b.cmd = exec.Command(b.path, "-c", conf)
	log, err := os.Create(filepath.Join(b.dir, "log"))
	require.NoError(t, err)
	b.cmd.Stdout, b.cmd.Stderr = log, log
	require.NoError(t, b.cmd.Start())
	log.Close()
	require.Eventually(t, func() bool {
		c, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", b.port))
		if err == nil {
			c.Close()
		}
		return err == nil
	}, 10*time.Second, 10*time.Millisecond, "mosquitto does not start")
}

func (b *mosquitto) stop(t testing.TB) {
	if b.cmd == nil {
		return
	}
	require.NoError(t, b.cmd.Process.Signal(syscall.SIGTERM)) // it saves its sessions
	_ = b.cmd.Wait()
	b.cmd = nil
}

// certificates writes ca.pem, cert.pem and key.pem for 127.0.0.1 into dir.
func certificates(t testing.TB, dir string, notAfter time.Time) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	ca := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test CA"}, NotBefore: time.Now().Add(-48 * time.Hour),
		NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	caDER, err := x509.CreateCertificate(rand.Reader, ca, ca, &key.PublicKey, key)
	require.NoError(t, err)
	leafKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	leaf := &x509.Certificate{SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "broker"}, NotBefore: time.Now().Add(-24 * time.Hour),
		NotAfter: notAfter, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}
	leafDER, err := x509.CreateCertificate(rand.Reader, leaf, ca, &leafKey.PublicKey, key)
	require.NoError(t, err)
	keyDER, err := x509.MarshalECPrivateKey(leafKey)
	require.NoError(t, err)
	for name, b := range map[string]*pem.Block{"ca.pem": {Type: "CERTIFICATE", Bytes: caDER}, "cert.pem": {Type: "CERTIFICATE", Bytes: leafDER},
		"key.pem": {Type: "EC PRIVATE KEY", Bytes: keyDER}} {
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), pem.EncodeToMemory(b), 0o644))
	}
}
