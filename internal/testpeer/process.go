// Package testpeer starts the real servers that tests talk to, on free
// loopback ports, with their files in the test's temporary directory, and ends
// them, by process id, when the test is over.
//
// A server that is not installed skips the test, with what to run; with
// PENSTOCK_TEST_PEERS=1, as `make test` sets it, it fails the test.
package testpeer

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"
)

const (
	startTimeout = 30 * time.Second
	stopTimeout  = 10 * time.Second
)

// missing skips or fails the test for want of a server.
func missing(t testing.TB, what string) {
	t.Helper()
	if os.Getenv("PENSTOCK_TEST_PEERS") == "1" {
		t.Fatalf("%s is missing: run tools/test-deps.sh", what)
	}
	t.Skipf("%s is missing: run tools/test-deps.sh, or make test", what)
}

// root returns the directory of go.mod, above the package under test.
func root(t testing.TB) string {
	t.Helper()
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir
		}
		up := filepath.Dir(dir)
		if up == dir {
			t.Fatal("no go.mod above the test's directory")
		}
		dir = up
	}
}

// binary finds a program: in .cache/bin of the repository, on the PATH, or
// where Debian puts servers.
func binary(t testing.TB, name string) string {
	t.Helper()
	for _, p := range []string{filepath.Join(root(t), ".cache", "bin", name), name, filepath.Join("/usr/sbin", name)} {
		if path, err := exec.LookPath(p); err == nil {
			return path
		}
	}
	missing(t, name)
	return ""
}

// FreePort returns a loopback TCP port that nobody listens on.
func FreePort(t testing.TB) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

// process is a server that can be stopped and started again with the same
// command. One goroutine uses it.
type process struct {
	name    string
	command func() *exec.Cmd
	ready   func(ctx context.Context) error // nil once the server answers

	cmd  *exec.Cmd
	done chan struct{} // closed when the process has ended
	log  tail
}

// start runs the command and waits until the server answers.
func (p *process) start() error {
	p.cmd = p.command()
	if p.cmd.Stdout == nil {
		p.cmd.Stdout = &p.log
	}
	p.cmd.Stderr = &p.log
	p.cmd.SysProcAttr = dieWithParent()
	if err := p.cmd.Start(); err != nil {
		return err
	}
	p.done = make(chan struct{})
	go func(cmd *exec.Cmd, done chan struct{}) {
		_ = cmd.Wait()
		close(done)
	}(p.cmd, p.done)
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		err := p.ready(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-p.done:
			return fmt.Errorf("%s ended at its start: %v\n%s", p.name, p.cmd.ProcessState, p.log.String())
		case <-ctx.Done():
			p.end(syscall.SIGKILL)
			return fmt.Errorf("%s does not answer after %v: %w\n%s", p.name, startTimeout, err, p.log.String())
		case <-tick.C:
		}
	}
}

// end sends the signal and waits for the process to go, with a SIGKILL if it
// takes too long.
func (p *process) end(sig syscall.Signal) {
	if p.cmd == nil {
		return
	}
	_ = p.cmd.Process.Signal(sig)
	timer := time.NewTimer(stopTimeout)
	defer timer.Stop()
	select {
	case <-p.done:
	case <-timer.C:
		_ = p.cmd.Process.Kill()
		<-p.done
	}
	p.cmd = nil
}

// run starts the server that make describes, with other ports when the first
// ones were taken meanwhile, and ends it with the test.
func run(t testing.TB, make func() *process) *process {
	t.Helper()
	var errs error
	for range 3 {
		p := make()
		err := p.start()
		if err == nil {
			t.Cleanup(func() {
				p.end(syscall.SIGTERM)
				if t.Failed() {
					t.Logf("the end of what %s printed:\n%s", p.name, p.log.String())
				}
			})
			return p
		}
		errs = errors.Join(errs, err)
	}
	t.Fatal(errs)
	return nil
}

func (p *process) restart(t testing.TB) {
	t.Helper()
	p.end(syscall.SIGTERM)
	if err := p.start(); err != nil {
		t.Fatal(err)
	}
}

func dial(ctx context.Context, addr string) error {
	c, err := (&net.Dialer{Timeout: time.Second}).DialContext(ctx, "tcp", addr)
	if err != nil {
		return err
	}
	return c.Close()
}

// tail keeps the last 32 KiB written to it.
type tail struct {
	mu  sync.Mutex
	buf []byte
}

func (b *tail) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.buf = append(b.buf, p...)
	if over := len(b.buf) - 32<<10; over > 0 {
		b.buf = append(b.buf[:0], b.buf[over:]...)
	}
	return len(p), nil
}

func (b *tail) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return string(bytes.TrimSpace(b.buf))
}
