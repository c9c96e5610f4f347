package testpeer

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// NodeOPCUAConfig says what the server offers.
type NodeOPCUAConfig struct {
	Counters  int      // variables Counter0…, 20 when 0
	Variables []string // further ones, with node id ns=1;s=NAME, published like counters
	Expired   bool     // the server's certificate ended days ago
}

// OPCUAServer is a running node-opcua server: a peer that is not the library
// Penstock uses. It takes anonymous users, operator/secret, and None,
// Basic256Sha256, Aes128_Sha256_RsaOaep and Aes256_Sha256_RsaPss. Its
// variables lie below Objects/Line1. A Restart keeps the port and the
// certificates, and begins the counters anew.
type OPCUAServer struct {
	Endpoint string // opc.tcp://…
	PKI      string // folder with the server's and the users' certificates

	proc  *process
	port  int
	stdin io.WriteCloser
	out   *lines
	t     testing.TB
}

// Truth is one value that the server published.
type Truth struct {
	Tag     string
	Time    time.Time
	Value   float64
	Quality uint32
}

// NodeOPCUA starts a server. It takes a few seconds, for keys are made.
func NodeOPCUA(t testing.TB, cfg NodeOPCUAConfig) *OPCUAServer {
	t.Helper()
	node := binary(t, "node")
	dir := filepath.Join(root(t), "ingest", "opcua", "testdata", "node-opcua")
	if _, err := os.Stat(filepath.Join(dir, "node_modules", "node-opcua")); err != nil {
		missing(t, "node-opcua")
	}
	if cfg.Counters == 0 {
		cfg.Counters = 20
	}
	s := &OPCUAServer{PKI: t.TempDir(), t: t}
	s.proc = run(t, func() *process {
		return &process{name: "node-opcua", ready: s.ready, command: func() *exec.Cmd {
			args := []string{filepath.Join(dir, "server.js"), "--port", strconv.Itoa(s.port), "--pki", s.PKI, "--counters", strconv.Itoa(cfg.Counters)}
			if cfg.Expired {
				args = append(args, "--expired")
			}
			if len(cfg.Variables) > 0 {
				args = append(args, "--variables", strings.Join(cfg.Variables, ","))
			}
			cmd := exec.Command(node, args...)
			cmd.Env = append(os.Environ(), "NODEOPCUA_LOG_LEVEL=ERROR")
			s.out = newLines()
			cmd.Stdout = s.out
			s.stdin, _ = cmd.StdinPipe() // fails only when Stdin is set
			return cmd
		}}
	})
	s.Endpoint = fmt.Sprintf("opc.tcp://127.0.0.1:%d", s.port)
	return s
}

func (s *OPCUAServer) ready(context.Context) error {
	for _, line := range s.out.all() {
		if data, ok := strings.CutPrefix(line, "READY "); ok {
			var at struct{ Port int }
			if err := json.Unmarshal([]byte(data), &at); err != nil {
				return err
			}
			s.port = at.Port
			return nil
		}
	}
	return errors.New("no READY line yet")
}

// Publish gives every counter new values, rounds times, and returns them.
func (s *OPCUAServer) Publish(rounds int) []Truth {
	s.t.Helper()
	from := len(s.out.all())
	if _, err := fmt.Fprintf(s.stdin, "publish %d\n", rounds); err != nil {
		s.t.Fatal(err)
	}
	timer := time.NewTimer(30 * time.Second)
	defer timer.Stop()
	var truths []Truth
	for {
		changed := s.out.changed()
		fresh := s.out.all()[from:]
		from += len(fresh)
		for _, line := range fresh {
			if line == "DONE" {
				return truths
			}
			if data, ok := strings.CutPrefix(line, "TRUTH "); ok {
				var v struct {
					Tag     string
					Time    int64 // ms
					Value   float64
					Quality uint32
				}
				if err := json.Unmarshal([]byte(data), &v); err != nil {
					s.t.Fatalf("%v: %s", err, line)
				}
				truths = append(truths, Truth{v.Tag, time.UnixMilli(v.Time).UTC(), v.Value, v.Quality})
			}
		}
		select {
		case <-changed:
		case <-s.proc.done:
			s.t.Fatalf("node-opcua ended: %s", s.proc.log.String())
		case <-timer.C:
			s.t.Fatal("node-opcua does not finish publishing")
		}
	}
}

// Stop ends the server; Kill does it without a word to its clients.
func (s *OPCUAServer) Stop() { s.proc.end(syscall.SIGTERM) }
func (s *OPCUAServer) Kill() { s.proc.end(syscall.SIGKILL) }

// Restart stops the server, if it runs, and starts it on the same port.
func (s *OPCUAServer) Restart() { s.t.Helper(); s.proc.restart(s.t) }

// lines keeps what a process prints, by line.
type lines struct {
	mu   sync.Mutex
	rest []byte
	got  []string
	wake chan struct{} // closed and replaced when a line comes
}

func newLines() *lines { return &lines{wake: make(chan struct{})} }

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.rest = append(l.rest, p...)
	for {
		i := bytes.IndexByte(l.rest, '\n')
		if i < 0 {
			break
		}
		l.got = append(l.got, string(bytes.TrimRight(l.rest[:i], "\r")))
		l.rest = l.rest[i+1:]
	}
	close(l.wake)
	l.wake = make(chan struct{})
	return len(p), nil
}

func (l *lines) all() []string { l.mu.Lock(); defer l.mu.Unlock(); return l.got }

func (l *lines) changed() <-chan struct{} { l.mu.Lock(); defer l.mu.Unlock(); return l.wake }
