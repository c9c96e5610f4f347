package mqtt

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"sync"
	"time"

	"github.com/penstock/penstock/ingest"
	"github.com/penstock/penstock/ingest/decode"
	"github.com/penstock/penstock/pipeline"
)

// maxPendingBytes closes a batch whose payloads are large, before max_rows.
const maxPendingBytes = 4 << 20

// Source is a [pipeline.Source] that subscribes to a broker. It is
// [pipeline.Draining] too.
//
// paho's reading goroutine decodes straight into the batcher; Read takes the
// batch away. While a batch is full and Read is not called, nothing is read
// from the broker. Messages of QoS 1 and 2 are acknowledged when all their
// rows are in the journal: what was not is sent again after a reconnect, so
// rows come at least once. A message that cannot be decoded is counted,
// logged and acknowledged.
type Source struct {
	cfg     Config
	env     pipeline.Env
	log     *slog.Logger
	rules   []rule
	idle    time.Duration // how long Read waits when nothing comes
	session session

	wake chan struct{} // to Read: there is something to look at
	free chan struct{} // to the tap: there is room

	mu       sync.Mutex
	batcher  *ingest.Batcher
	routes   map[string]*route // by topic; at most max_tags
	open     *ackSet           // of the open batch
	first    time.Time         // when the first message of the open batch came
	taken    int               // messages in it
	bytes    int               // their payloads
	stalled  bool              // the broker waits for what is in it
	draining bool
	closed   bool
	ready    []pipeline.Batch // flushed, not yet handed out
	next     int              // the first of them
	readySet *ackSet
	spare    []*ackSet
	refused  throttle // logs of messages that were dropped, all topics together
}

// New returns a source that is not connected yet.
func New(cfg Config, env pipeline.Env) (*Source, error) {
	if env.Meter == nil {
		env.Meter = pipeline.NewMeter()
	}
	s := &Source{cfg: cfg, env: env, log: env.Log, wake: make(chan struct{}, 1), free: make(chan struct{}, 1),
		batcher: ingest.NewBatcher(cfg.Batch, env), routes: map[string]*route{}, open: &ackSet{}}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	if s.idle = cfg.Batch.IdleAfter / 4; s.idle <= 0 || s.idle > time.Second {
		s.idle = time.Second
	}
	for i := range cfg.Topics {
		t := &cfg.Topics[i]
		f, err := parseFilter(t.Topic)
		if err != nil {
			return nil, fmt.Errorf("topics[%d].topic: %w", i, err)
		}
		tmpl, err := parseTemplate(t.Tag, t.Decode.Named(), f)
		if err != nil {
			return nil, fmt.Errorf("topics[%d].tag: %w", i, err)
		}
		d, err := decode.New(t.Decode)
		if err != nil {
			return nil, fmt.Errorf("topics[%d]: %w", i, err)
		}
		s.rules = append(s.rules, rule{filter: f, template: tmpl, decoder: d})
	}
	if err := s.session.init(s); err != nil {
		return nil, err
	}
	return s, nil
}

// clientID is the name that survives a restart.
func clientID(cfg *Config, env *pipeline.Env) string {
	if cfg.ClientID != "" {
		return cfg.ClientID
	}
	host, err := os.Hostname()
	if err != nil {
		host = "localhost"
	}
	return "penstock-" + env.Name + "-" + host
}

// publish decodes a message into the open batch. The tap calls it.
func (s *Source) publish(t *tap, m *message) bool {
	s.mu.Lock()
	if s.draining { // not acknowledged: the next session brings it
		s.mu.Unlock()
		if m.qos == 0 {
			s.env.Meter.Dropped(s.env.Name, "stopping", 1)
		}
		return true
	}
	if s.full() {
		s.mu.Unlock()
		return false
	}
	if s.open.tap != t { // acknowledgements of a broken connection are void
		s.open.tap, s.open.ids = t, s.open.ids[:0]
	}
	if m.qos > 0 {
		fresh, again := t.expect(m)
		if !fresh {
			s.mu.Unlock()
			if again {
				t.send(typePubrec, m.id)
			}
			return true
		}
		s.open.ids = append(s.open.ids, owed{m.id, m.qos})
	}
	wake := s.taken == 0
	if wake {
		s.first = m.at
	}
	s.taken++
	s.decode(m)
	wake = wake || s.full()
	s.mu.Unlock()
	if wake {
		signal(s.wake)
	}
	return true
}

// decode adds the rows of a message, or says why there are none.
func (s *Source) decode(m *message) {
	r, ok := s.routes[string(m.topic)]
	if !ok {
		topic := string(m.topic)
		r = newRoute(s.rules, s.batcher, topic)
		if len(s.routes) < s.cfg.Batch.MaxTags {
			s.routes[topic] = r
		}
	}
	switch {
	case r.err != nil:
		s.refuse(r, m, r.reason, r.err)
	case m.payload == nil && m.size > 0:
		s.refuse(r, m, "payload_too_large", fmt.Errorf("the payload has %d bytes, and max_payload is %d", m.size, s.cfg.MaxPayload))
	default:
		s.bytes += len(m.payload)
		if _, err := r.decoder.Decode(s.batcher, r.target, m.payload, m.at.UnixNano()); err != nil {
			s.refuse(r, m, "undecodable", err)
		}
		if n := r.decoder.NoTime; n > 0 {
			r.decoder.NoTime = 0
			s.env.Meter.Ingested(s.env.Name, n)
			s.drop(r, m, "no_time", n, fmt.Errorf("%d readings have no time, and time_missing is drop", n))
		}
	}
}

// refuse drops a message.
func (s *Source) refuse(r *route, m *message, reason string, err error) { s.drop(r, m, reason, 1, err) }

// drop counts, and logs each topic once in ten seconds. However many topics
// there are, the log takes only so many lines.
func (s *Source) drop(r *route, m *message, reason string, n int, err error) {
	s.env.Meter.Dropped(s.env.Name, reason, n)
	if !r.refused.due(m.at, 1) {
		return
	}
	if s.refused.due(m.at, maxDropLogs) {
		s.log.Warn("message dropped", "topic", string(m.topic), "reason", reason, "error", err.Error(), "dropped_since_last_log", r.refused.take())
	}
}

// full reports whether the open batch takes no more.
func (s *Source) full() bool { return s.batcher.Full() || s.bytes >= maxPendingBytes }

func (s *Source) room() <-chan struct{} { return s.free }

func (s *Source) release(t *tap, id uint16) {
	s.mu.Lock()
	if t.state != nil && t.state[id] == idDone {
		t.state[id] = idFree
	}
	s.mu.Unlock()
}

func (s *Source) drained(t *tap) {
	s.mu.Lock()
	wake := s.taken > 0 && !s.stalled && t.waiting()
	s.stalled = s.stalled || wake
	s.mu.Unlock()
	if wake {
		signal(s.wake)
	}
}

// Read waits for the next batch: until max_rows have come, or linger after the
// first row, or until the broker waits for acknowledgements. When nothing comes
// within a second (or idle_after/4, if that is shorter) the batch is empty.
// After Close, and once a drained source is empty, it returns io.EOF.
func (s *Source) Read(ctx context.Context) (pipeline.Batch, pipeline.AckFunc, error) {
	var timer *time.Timer
	idle := time.Now().Add(s.idle)
	for {
		if err := ctx.Err(); err != nil {
			return pipeline.Batch{}, nop, err
		}
		now := time.Now()
		batch, ack, wait, err := s.take(now)
		if err != nil || ack != nil {
			return batch, ack, err
		}
		if wait == 0 {
			if wait = idle.Sub(now); wait <= 0 {
				return pipeline.Batch{Source: s.env.Name}, nop, nil
			}
		}
		if timer == nil {
			timer = time.NewTimer(wait)
			defer timer.Stop()
		} else {
			timer.Reset(wait)
		}
		select {
		case <-s.wake:
		case <-timer.C:
		case <-ctx.Done():
		}
	}
}

func nop(error) {}

// take returns the next batch with its ack; or no ack and how long to wait for
// the open batch, 0 when there is none.
func (s *Source) take(now time.Time) (pipeline.Batch, pipeline.AckFunc, time.Duration, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.next == len(s.ready) && !s.closed && s.taken > 0 {
		age := now.Sub(s.first)
		lingered := age >= s.cfg.Batch.Linger
		if !lingered && !s.full() && !s.stalled && !s.draining {
			return pipeline.Batch{}, nil, s.cfg.Batch.Linger - age, nil
		}
		if lingered && s.open.tap != nil {
			s.open.tap.lingered(now, s.cfg.Batch.Linger)
		}
		s.cut()
	}
	switch {
	case s.closed:
		return pipeline.Batch{}, nop, 0, io.EOF
	case s.next < len(s.ready):
		b, set := s.ready[s.next], s.readySet
		s.ready[s.next] = pipeline.Batch{}
		s.next++
		return b, func(err error) { s.journaled(set, err) }, 0, nil
	case s.draining:
		return pipeline.Batch{}, nop, 0, io.EOF
	}
	return pipeline.Batch{}, nil, 0, nil
}

// cut closes the open batch.
func (s *Source) cut() {
	s.ready, s.next = s.batcher.Flush(s.ready[:0]), 0
	set := s.open
	set.left = len(s.ready)
	s.readySet = set
	s.open = &ackSet{tap: set.tap}
	if n := len(s.spare); n > 0 {
		s.open = s.spare[n-1]
		s.spare = s.spare[:n-1]
		*s.open = ackSet{tap: set.tap, ids: s.open.ids[:0]}
	}
	s.taken, s.bytes, s.stalled = 0, 0, false
	if len(set.ids) > 0 {
		set.tap.queue = append(set.tap.queue, set)
	}
	if set.left == 0 { // none of its messages had a row
		s.finish(set)
	}
	signal(s.free)
}

// finish acknowledges a set.
func (s *Source) finish(set *ackSet) {
	if len(set.ids) == 0 {
		s.spare = append(s.spare, set)
		return
	}
	s.spare = set.tap.finish(set, s.spare)
}

// journaled is the ack of one batch of a set. When a batch will never be in
// the journal its messages must come again, which takes a new connection.
func (s *Source) journaled(set *ackSet, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err != nil {
		if len(set.ids) > 0 && !s.closed && !s.draining {
			go set.tap.end(fmt.Errorf("rows are not in the journal, the broker shall send them again: %w", err))
		}
		return
	}
	if set.left--; set.left == 0 {
		s.finish(set)
	}
}

// Drain stops taking messages. Those of QoS 1 and 2 that come nevertheless are
// not acknowledged, and the broker keeps them for the next session; those of
// QoS 0 are counted as dropped.
func (s *Source) Drain(context.Context) error {
	s.mu.Lock()
	s.draining = true
	s.mu.Unlock()
	signal(s.wake)
	signal(s.free)
	return nil
}

// Close writes the acknowledgements that are due, says DISCONNECT, and makes
// Read return.
func (s *Source) Close(ctx context.Context) error {
	if err := s.Drain(ctx); err != nil {
		return err
	}
	err := s.session.close(ctx)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	for ; s.next < len(s.ready); s.next++ {
		s.ready[s.next].Record.Release()
	}
	signal(s.wake)
	return err
}

func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

const (
	dropLogEvery = 10 * time.Second
	maxDropLogs  = 50 // log lines of all topics in that time
)

// throttle lets some log lines through in each dropLogEvery, and counts all.
type throttle struct {
	since time.Time
	lines int // since then
	count int // since take
}

// due notes that there is something to log and reports whether it is one of
// the first lines of its time.
func (t *throttle) due(now time.Time, lines int) bool {
	t.count++
	if t.since.IsZero() || now.Sub(t.since) >= dropLogEvery {
		t.since, t.lines = now, 0
	}
	t.lines++
	return t.lines <= lines
}

// take returns how often due was called since the last take.
func (t *throttle) take() int {
	n := t.count
	t.count = 0
	return n
}
