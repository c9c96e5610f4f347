package testpeer

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
)

// MosquittoConfig says what the broker asks of its clients.
type MosquittoConfig struct {
	// TLS makes the listener speak TLS with the server certificate of Certs.
	TLS bool
	// Certs is made when nil and TLS is set.
	Certs *Certs
	// ClientCert asks for a client certificate of the same CA.
	ClientCert bool
	// User and Password, when set, are the only login.
	User, Password string
	// Extra lines for mosquitto.conf.
	Extra string
}

// Broker is a running Mosquitto that keeps sessions and queued messages over
// a Restart.
type Broker struct {
	URL   string // tcp://… or ssl://…
	Addr  string // host:port
	CA    string // PEM file, with TLS
	Certs *Certs // with TLS
	proc  *process
	t     testing.TB
}

// Mosquitto starts a broker.
func Mosquitto(t testing.TB, cfg MosquittoConfig) *Broker {
	t.Helper()
	bin := binary(t, "mosquitto")
	dir := t.TempDir()
	b := &Broker{t: t}
	conf := fmt.Sprintf("persistence true\npersistence_location %s/\nautosave_interval 1\nmax_queued_messages 0\nlog_dest stderr\nlog_type error\nlog_type warning\nlog_type notice\n", dir)
	if os.Getuid() == 0 {
		conf += "user root\n" // it would give up root, and with it the test's directory
	}
	if cfg.User == "" {
		conf += "allow_anonymous true\n"
	} else {
		file := filepath.Join(dir, "passwords")
		if out, err := exec.Command(binary(t, "mosquitto_passwd"), "-c", "-b", file, cfg.User, cfg.Password).CombinedOutput(); err != nil {
			t.Fatalf("mosquitto_passwd: %v: %s", err, out)
		}
		conf += "allow_anonymous false\npassword_file " + file + "\n"
	}
	scheme, listener := "tcp", ""
	if cfg.TLS {
		if cfg.Certs == nil {
			cfg.Certs = NewCerts(t, CertOptions{})
		}
		scheme, b.Certs, b.CA = "ssl", cfg.Certs, cfg.Certs.CA
		listener = fmt.Sprintf("cafile %s\ncertfile %s\nkeyfile %s\nrequire_certificate %v\n", b.CA, cfg.Certs.Server, cfg.Certs.ServerKey, cfg.ClientCert)
	}
	b.proc = run(t, func() *process {
		b.Addr = fmt.Sprintf("127.0.0.1:%d", FreePort(t))
		b.URL = scheme + "://" + b.Addr
		file := filepath.Join(dir, "mosquitto.conf")
		text := fmt.Sprintf("%slistener %s 127.0.0.1\n%s%s\n", conf, b.Addr[len("127.0.0.1:"):], listener, cfg.Extra)
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return &process{
			name:    "mosquitto",
			command: func() *exec.Cmd { return exec.Command(bin, "-c", file) },
			ready:   func(ctx context.Context) error { return dial(ctx, b.Addr) },
		}
	})
	return b
}

// Stop ends the broker cleanly: it saves its sessions.
func (b *Broker) Stop() { b.proc.end(syscall.SIGTERM) }

// Kill ends the broker with SIGKILL: what it did not save is lost.
func (b *Broker) Kill() { b.proc.end(syscall.SIGKILL) }

// Restart stops the broker, if it runs, and starts it on the same port.
func (b *Broker) Restart() { b.t.Helper(); b.proc.restart(b.t) }
