// Package opcua reads variables of an OPC UA server by subscription.
//
// OPC UA has no hold on delivery: once the server has sent a notification and
// this client has taken it, it is gone from the server, in the journal or not.
// So the AckFunc of a batch does nothing, and what is between the server and
// the journal when the gateway dies is lost: at most a few batches. While the
// journal does not take more, nothing is fetched, and the server's own queues
// (queue_size) fill; what overflows there is marked by the server, counted
// and logged.
//
// A reading's quality is the server's status code, unchanged. A Bad reading
// has the value the server sent with it, which is mostly none, never an older
// one.
package opcua

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/penstock/penstock/ingest"
	"github.com/penstock/penstock/pipeline"
)

const (
	firstPause = 250 * time.Millisecond
	// maxPause keeps a server that is back from waiting: with the connection
	// itself, data flows within ten seconds.
	maxPause = 5 * time.Second
	// A server that refuses the user again and again may lock the account.
	refusedPause = time.Minute
	idleAfter    = time.Second
)

// Source is a connection to one OPC UA server. See [pipeline.Source].
type Source struct {
	cfg     Config
	env     pipeline.Env
	log     *slog.Logger
	batcher *ingest.Batcher

	deliveries chan *delivery

	// What follows belongs to Read.
	ready          []pipeline.Batch
	current        *delivery
	group, row     int // how far current is decoded
	leftOut        leftOut
	overflowLogged time.Time

	mu     sync.Mutex
	cancel context.CancelFunc
	done   chan struct{}
	closed chan struct{}
}

// New returns a source that is not connected yet.
func New(cfg Config, env pipeline.Env) (*Source, error) {
	if env.Log == nil {
		env.Log = slog.New(slog.DiscardHandler)
	}
	if env.Meter == nil {
		env.Meter = pipeline.NewMeter()
	}
	if env.Tags == nil {
		env.Tags = pipeline.NewTags(nil)
	}
	return &Source{cfg: cfg, env: env, log: env.Log.With("endpoint", cfg.Endpoint), batcher: ingest.NewBatcher(cfg.Batch, env),
		deliveries: make(chan *delivery), closed: make(chan struct{})}, nil
}

// Connect makes the first session and its subscriptions. From then on the
// source keeps itself connected.
func (s *Source) Connect(ctx context.Context) error {
	s.mu.Lock()
	running := s.cancel != nil
	s.mu.Unlock()
	if running {
		return nil
	}
	l, err := s.open(ctx)
	if err != nil {
		return fmt.Errorf("OPC UA server %s: %w", s.cfg.Endpoint, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	select {
	case <-s.closed:
		l.sess.close()
		return errors.New("the source is closed")
	default:
	}
	run, cancel := context.WithCancel(context.Background())
	s.cancel, s.done = cancel, make(chan struct{})
	s.connected(l)
	go func() {
		defer close(s.done)
		s.run(run, l)
	}()
	return nil
}

func (s *Source) connected(l *link) {
	s.env.Meter.Connected(s.env.Name, true)
	s.log.Info("connected", "nodes", l.monitored(), "refused", len(l.table)-l.monitored(), "subscriptions", len(l.subs))
}

// run serves link after link until ctx ends.
func (s *Source) run(ctx context.Context, l *link) {
	for {
		err := l.serve(ctx)
		s.env.Meter.Connected(s.env.Name, false)
		if ctx.Err() != nil {
			l.sess.close()
			return
		}
		s.log.Warn("connection lost; connecting again", "error", err)
		l.sess.close() // log out if that still goes: small servers have few sessions
		if l = s.reopen(ctx); l == nil {
			return
		}
		s.connected(l)
	}
}

// reopen tries until there is a new link, or nil when ctx ends first.
func (s *Source) reopen(ctx context.Context) *link {
	pause := firstPause
	refusals := 0
	var lastText string
	var lastLog time.Time
	for {
		if !sleep(ctx, time.Duration(float64(pause)*(0.75+rand.Float64()/4))) {
			return nil
		}
		l, err := s.open(ctx)
		if err == nil {
			return l
		}
		if ctx.Err() != nil {
			return nil
		}
		if text := err.Error(); text != lastText || time.Since(lastLog) > time.Minute {
			s.log.Warn("cannot connect; trying on", "error", err)
			lastText, lastLog = text, time.Now()
		}
		pause = min(2*pause, maxPause)
		if pipeline.IsPermanent(err) {
			if refusals++; refusals > 3 {
				pause = refusedPause
			}
		} else {
			refusals = 0
		}
	}
}

// Read returns the next batch; one without rows after a second of silence.
// The AckFunc does nothing: see the package comment.
func (s *Source) Read(ctx context.Context) (pipeline.Batch, pipeline.AckFunc, error) {
	if len(s.ready) == 0 {
		if err := s.fill(ctx); err != nil {
			return pipeline.Batch{}, nothing, err
		}
	}
	if len(s.ready) == 0 {
		return pipeline.Batch{Source: s.env.Name}, nothing, nil
	}
	b := s.ready[0]
	s.ready[0] = pipeline.Batch{}
	s.ready = s.ready[1:]
	return b, nothing, nil
}

func nothing(error) {}

// fill waits for notifications and flushes them once the batch is full or its
// linger over.
func (s *Source) fill(ctx context.Context) error {
	wait := time.NewTimer(idleAfter)
	defer wait.Stop()
	lingering := false
	for {
		if s.current != nil {
			done := s.decode()
			if !done || s.batcher.Full() {
				break
			}
			if !lingering && s.batcher.Len() > 0 {
				lingering = true
				wait.Reset(s.cfg.Batch.Linger)
			}
		}
		select {
		case s.current = <-s.deliveries:
			continue
		case <-wait.C:
		case <-ctx.Done():
			if s.batcher.Len() == 0 {
				return ctx.Err()
			}
		case <-s.closed:
			if s.batcher.Len() == 0 {
				return io.EOF
			}
		}
		break
	}
	s.report()
	s.ready = s.batcher.Flush(s.ready[:0])
	return nil
}

// Close logs out and disconnects; a Read that waits returns.
func (s *Source) Close(ctx context.Context) error {
	s.mu.Lock()
	select {
	case <-s.closed:
	default:
		close(s.closed)
	}
	cancel, done := s.cancel, s.done
	s.mu.Unlock()
	if cancel == nil {
		return nil
	}
	cancel()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
