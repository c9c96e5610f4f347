// Package opcua is the simulated OPC UA server of the demo, of the benchmarks
// and of the tests. It stands on the transport and the codec of gopcua; the
// services are its own, because the server package of gopcua keeps only the
// newest value of a monitored item between two publishes, does not split
// answers larger than 64 KiB and holds the whole standard node set in memory.
// Here every value that is set reaches every subscriber.
//
// It offers security policy None only and lets anybody in: gopcua cannot tell,
// on the server's side, plain from encrypted connections to the same port.
package opcua

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gopcua/opcua/ua"
	"github.com/gopcua/opcua/uacp"
	"github.com/gopcua/opcua/uasc"

	"github.com/penstock/penstock/simulators"
)

// Config says what the server serves. Only Tags is needed.
type Config struct {
	// Listen is host:port of the server, 127.0.0.1:0 where empty.
	Listen string
	// Tags become variables of type Double with the node id ns=1;s=TAG, in a
	// tree of folders made of the parts of their names between slashes.
	Tags []string
	// Buffer is how many notifications a subscription holds for a client that
	// does not fetch them; the oldest beyond it are lost. 1 000 000 where 0.
	Buffer int
	// Log is where the server reports clients and losses. nil is silent.
	Log *slog.Logger
}

// Server is an OPC UA server. Its methods are safe for concurrent use.
type Server struct {
	cfg   Config
	log   *slog.Logger
	start time.Time

	space *space

	ln       *net.TCPListener
	endpoint string
	cancel   context.CancelFunc
	wg       sync.WaitGroup

	published, lost atomic.Int64
	channels        atomic.Uint32

	mu       sync.Mutex // guards what follows and all variables, sessions and subscriptions
	conns    map[*conn]struct{}
	sessions map[string]*session
	subs     map[uint32]*subscription
	nextSub  uint32
	nextItem uint32
	changed  chan struct{} // closed and replaced when monitored items come or go
	closed   bool
}

// New returns a server that does not listen yet.
func New(cfg Config) (*Server, error) {
	if cfg.Listen == "" {
		cfg.Listen = "127.0.0.1:0"
	}
	if cfg.Buffer == 0 {
		cfg.Buffer = 1_000_000
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	sp, err := newSpace(cfg.Tags)
	if err != nil {
		return nil, err
	}
	s := &Server{cfg: cfg, log: cfg.Log, space: sp, start: time.Now(),
		conns: map[*conn]struct{}{}, sessions: map[string]*session{}, subs: map[uint32]*subscription{}, changed: make(chan struct{})}
	return s, nil
}

// Start listens and serves until Close or until ctx ends.
func (s *Server) Start(ctx context.Context) error {
	ln, err := new(net.ListenConfig).Listen(ctx, "tcp", s.cfg.Listen)
	if err != nil {
		return err
	}
	s.ln = ln.(*net.TCPListener)
	s.endpoint = "opc.tcp://" + ln.Addr().String()
	ctx, s.cancel = context.WithCancel(ctx)
	s.wg.Add(2)
	go func() {
		defer s.wg.Done()
		<-ctx.Done()
		s.shutdown()
	}()
	go func() {
		defer s.wg.Done()
		s.accept(ctx)
	}()
	return nil
}

// Endpoint is the URL of the server, known after Start.
func (s *Server) Endpoint() string { return s.endpoint }

// Close ends all connections and waits until everything has stopped.
func (s *Server) Close() error {
	if s.cancel != nil {
		s.cancel()
	}
	s.wg.Wait()
	return nil
}

func (s *Server) shutdown() {
	s.mu.Lock()
	s.closed = true
	s.ln.Close()
	for c := range s.conns {
		c.tcp.Close()
	}
	s.mu.Unlock()
}

// Set gives variables new values and queues each for every subscriber. Samples
// of one tag go out in the order given. OPC UA has a resolution of 100 ns: what
// is finer in Time is cut off. A sample of Bad quality goes out without a
// value. It returns how many notifications that made; samples of unknown tags
// and of tags that nobody monitors make none. An error names unknown tags; the
// others are set.
func (s *Server) Set(samples []simulators.Sample) (int, error) {
	var err error
	n := 0
	now := time.Now().UnixNano()
	s.mu.Lock()
	for i := range samples {
		v := s.space.tags[samples[i].Tag]
		if v == nil {
			if err == nil {
				err = fmt.Errorf("no tag %q on this server", samples[i].Tag)
			}
			continue
		}
		v.set, v.sample, v.server = true, samples[i], now
		for _, it := range v.items {
			it.sub.push(it, v)
			n++
		}
	}
	s.mu.Unlock()
	s.published.Add(int64(n))
	return n, err
}

// Published is how many notifications were queued for subscribers since the
// start, the first value of each monitored item included.
func (s *Server) Published() int64 { return s.published.Load() }

// Lost is how many of them were given up because a client did not fetch them
// or went away.
func (s *Server) Lost() int64 { return s.lost.Load() }

// WaitSubscribed waits until at least n monitored items exist.
func (s *Server) WaitSubscribed(ctx context.Context, n int) error {
	for {
		s.mu.Lock()
		have, changed := 0, s.changed
		for _, sub := range s.subs {
			have += len(sub.items)
		}
		s.mu.Unlock()
		if have >= n {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return fmt.Errorf("%d of %d items are monitored: %w", have, n, ctx.Err())
		}
	}
}

// itemsChanged wakes who waits in WaitSubscribed. s.mu is held.
func (s *Server) itemsChanged() {
	close(s.changed)
	s.changed = make(chan struct{})
}

// conn is one client connection with its secure channel.
type conn struct {
	srv *Server
	tcp *net.TCPConn
	sc  *uasc.SecureChannel
}

func (s *Server) accept(ctx context.Context) {
	for {
		tcp, err := s.ln.AcceptTCP()
		if err != nil {
			if ctx.Err() == nil && !errors.Is(err, net.ErrClosed) {
				s.log.Error("listening ended", "error", err)
			}
			return
		}
		c := &conn{srv: s, tcp: tcp}
		s.mu.Lock()
		if s.closed {
			s.mu.Unlock()
			tcp.Close()
			return
		}
		s.conns[c] = struct{}{}
		s.wg.Add(1)
		s.mu.Unlock()
		go func() {
			defer s.wg.Done()
			if err := c.serve(ctx); err != nil && ctx.Err() == nil {
				s.log.Debug("connection ended", "client", tcp.RemoteAddr(), "error", err)
			}
			c.close()
		}()
	}
}

// serve does the handshake and then answers requests until the client leaves.
func (c *conn) serve(ctx context.Context) error {
	uc, err := uacp.NewConn(c.tcp, uacp.DefaultServerACK)
	if err != nil {
		return err
	}
	c.tcp.SetReadDeadline(time.Now().Add(10 * time.Second))
	hello, err := uc.Receive()
	if err != nil {
		return err
	}
	c.tcp.SetReadDeadline(time.Time{})
	if string(hello[:4]) != "HELF" {
		uc.SendError(ua.StatusBadTCPMessageTypeInvalid)
		return fmt.Errorf("the client began with %q", hello[:4])
	}
	if err := uc.Send("ACKF", uacp.DefaultServerACK); err != nil {
		return err
	}
	cfg := &uasc.Config{SecurityPolicyURI: ua.SecurityPolicyURINone, SecurityMode: ua.MessageSecurityModeNone,
		Lifetime: uint32(time.Hour / time.Millisecond)}
	id := c.srv.channels.Add(1)
	sc, err := uasc.NewServerSecureChannel(c.srv.endpoint, uc, cfg, make(chan error, 1), id, 1, id)
	if err != nil {
		return err
	}
	c.sc = sc
	for {
		msg := sc.Receive(ctx)
		if msg.Err != nil {
			return msg.Err
		}
		req := msg.Request()
		if req == nil { // the channel was opened or renewed
			continue
		}
		resp, err := c.handle(req, msg.RequestID)
		if err != nil {
			status, ok := err.(ua.StatusCode)
			if !ok {
				status = ua.StatusBadInternalError
			}
			resp = &ua.ServiceFault{ResponseHeader: header(req, status)}
		}
		if resp == nil { // answered later
			continue
		}
		if err := sc.SendResponseWithContext(ctx, msg.RequestID, resp); err != nil {
			return err
		}
	}
}

func (c *conn) close() {
	c.tcp.Close()
	s := c.srv
	s.mu.Lock()
	delete(s.conns, c)
	for _, sess := range s.sessions {
		if sess.conn == c {
			s.dropSession(sess)
		}
	}
	s.mu.Unlock()
}

// header is the header of the answer to req.
func header(req ua.Request, status ua.StatusCode) *ua.ResponseHeader {
	return &ua.ResponseHeader{
		Timestamp:          time.Now(),
		RequestHandle:      req.Header().RequestHandle,
		ServiceResult:      status,
		ServiceDiagnostics: &ua.DiagnosticInfo{},
		AdditionalHeader:   ua.NewExtensionObject(nil),
	}
}
