// Package natsd runs a NATS server inside this process: JetStream for the
// journal and the queues, and, for the demo and the benchmarks, an MQTT broker.
package natsd

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
)

// MaxPayload bounds one message: a batch of the largest allowed row count, or
// a checkpoint.
const MaxPayload = 64 << 20

// Options say how to start a server.
type Options struct {
	Name string
	Dir  string // where JetStream keeps its files; created with mode 0700
	// SyncAlways makes every message durable before it is acknowledged, one
	// fsync each. Otherwise files are synced every SyncInterval, which is the
	// loss window when the power goes; a killed process loses nothing.
	SyncAlways   bool
	SyncInterval time.Duration
	// MQTT opens an MQTT 3.1.1 listener on a free port of 127.0.0.1.
	MQTT bool
	Log  *slog.Logger
}

// Server is a running server. It listens on nothing but what Options name.
type Server struct {
	s        *server.Server
	lock     *os.File
	MQTTAddr string // host:port, when Options.MQTT
}

// Start starts a server and waits until it is ready.
func Start(o Options) (_ *Server, err error) {
	if err := os.MkdirAll(o.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("journal directory: %w", err)
	}
	lock, err := lockDir(o.Dir)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			lock.Close()
		}
	}()
	opts := &server.Options{
		ServerName: o.Name, DontListen: !o.MQTT, NoSigs: true,
		JetStream: true, StoreDir: o.Dir, SyncAlways: o.SyncAlways, SyncInterval: o.SyncInterval,
		MaxPayload: MaxPayload, MaxPending: 4 * MaxPayload, NoSystemAccount: false,
	}
	if o.MQTT {
		// The server wants a client listener beside the MQTT one.
		opts.Host, opts.Port = "127.0.0.1", server.RANDOM_PORT
		opts.MQTT = server.MQTTOpts{Host: "127.0.0.1", Port: server.RANDOM_PORT, MaxAckPending: 65535, AckWait: 30 * time.Second}
	}
	s, err := server.NewServer(opts)
	if err != nil {
		return nil, fmt.Errorf("embedded NATS server: %w", err)
	}
	s.SetLoggerV2(logger{o.Log}, false, false, false)
	s.Start()
	if !s.ReadyForConnections(20 * time.Second) {
		s.Shutdown()
		return nil, errors.New("embedded NATS server: not ready after 20 s")
	}
	if !s.JetStreamEnabled() {
		s.Shutdown()
		return nil, fmt.Errorf("embedded NATS server: no JetStream in %s: is the directory writable, and is there space?", o.Dir)
	}
	out := &Server{s: s, lock: lock}
	if o.MQTT {
		if o, err := s.Varz(nil); err == nil && o.MQTT.Port > 0 {
			out.MQTTAddr = net.JoinHostPort("127.0.0.1", fmt.Sprint(o.MQTT.Port))
		}
	}
	return out, nil
}

// Connect returns a client connection that stays inside the process.
func (s *Server) Connect() (*nats.Conn, error) {
	return nats.Connect("", nats.InProcessServer(s.s), nats.MaxReconnects(-1), nats.ReconnectWait(50*time.Millisecond))
}

// Stop flushes the files and ends the server.
func (s *Server) Stop() {
	s.s.Shutdown()
	s.s.WaitForShutdown()
	s.lock.Close()
}

type logger struct{ l *slog.Logger }

func (g logger) Noticef(f string, a ...any) { g.l.Debug(fmt.Sprintf(f, a...), "part", "nats") }
func (g logger) Warnf(f string, a ...any)   { g.l.Debug(fmt.Sprintf(f, a...), "part", "nats") }
func (g logger) Errorf(f string, a ...any)  { g.l.Error(fmt.Sprintf(f, a...), "part", "nats") }
func (g logger) Fatalf(f string, a ...any)  { g.l.Error(fmt.Sprintf(f, a...), "part", "nats") }
func (g logger) Debugf(string, ...any)      {}
func (g logger) Tracef(string, ...any)      {}
