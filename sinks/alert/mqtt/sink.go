package mqtt

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/apache/arrow/go/v17/arrow"
	"github.com/cenkalti/backoff/v5"
	paho "github.com/eclipse/paho.mqtt.golang"

	"github.com/penstock/penstock/pipeline"
	"github.com/penstock/penstock/sinks/alert"
)

// Sink publishes alert events.
type Sink struct {
	cfg    Config
	env    pipeline.Env
	broker *url.URL
	tls    *tls.Config

	ctx    context.Context // ended by Close
	stop   context.CancelFunc
	keeper sync.WaitGroup
	link   atomic.Pointer[link] // nil while there is no connection
}

// link is one connection. paho's reconnecting is not used: it publishes again
// what it had under way, and the runner does so too.
type link struct {
	client paho.Client
	lost   chan error // one error, when the connection is lost
}

// New returns the sink.
func New(cfg Config, env pipeline.Env) (*Sink, error) {
	u, err := cfg.broker()
	if err != nil {
		return nil, err
	}
	t, err := cfg.TLS.Load()
	if err != nil {
		return nil, err
	}
	if env.Log == nil {
		env.Log = slog.New(slog.DiscardHandler)
	}
	if env.Meter == nil {
		env.Meter = pipeline.NewMeter()
	}
	s := &Sink{cfg: cfg, env: env, broker: u, tls: t}
	s.ctx, s.stop = context.WithCancel(context.Background())
	return s, nil
}

// Connect makes the first connection. From then on the sink keeps itself
// connected, so that one without alerts shows whether its broker is there.
func (s *Sink) Connect(ctx context.Context) error {
	l, err := s.dial(ctx)
	if err != nil {
		return err
	}
	s.keeper.Go(func() { s.keep(l) })
	return nil
}

// dial connects to the broker.
func (s *Sink) dial(ctx context.Context) (*link, error) {
	cfg, l := &s.cfg, &link{lost: make(chan error, 1)}
	l.client = paho.NewClient(paho.NewClientOptions().AddBroker(s.broker.String()).
		SetClientID(cfg.ClientID).SetUsername(cfg.Username).SetPassword(string(cfg.Password)).SetTLSConfig(s.tls).
		SetConnectTimeout(cfg.Timeout).SetWriteTimeout(cfg.Timeout).SetKeepAlive(cfg.KeepAlive).SetAutoReconnect(false).
		SetConnectionLostHandler(func(_ paho.Client, err error) { l.lose(err) }))
	if err := s.wait(ctx, l.client.Connect()); err != nil {
		l.client.Disconnect(quiesce)
		return nil, s.at(err)
	}
	s.link.Store(l)
	s.env.Meter.Connected(s.env.Name, true)
	return l, nil
}

// settled is how long a connection lives that is not lost again at once.
const settled = 5 * time.Second

// keep makes a new connection whenever one is lost, until Close.
func (s *Sink) keep(l *link) {
	eb := backoff.NewExponentialBackOff()
	eb.InitialInterval, eb.MaxInterval = 100*time.Millisecond, 10*time.Second
	for {
		since, hint := time.Now(), ""
		select {
		case err := <-l.lost:
			s.link.Store(nil)
			if time.Since(since) > settled {
				eb.Reset()
			} else {
				hint = "; if this goes on, another client may use the same client_id"
			}
			s.env.Log.Warn("connection to the broker lost; connecting again"+hint, "broker", s.broker.Host, "error", err)
		case <-s.ctx.Done():
			l.client.Disconnect(quiesce)
			s.env.Meter.Connected(s.env.Name, false)
			return
		}
		for l = nil; l == nil; {
			s.env.Meter.Connected(s.env.Name, false) // the runner may just have said true
			select {
			case <-time.After(eb.NextBackOff()):
			case <-s.ctx.Done():
				return
			}
			var err error
			if l, err = s.dial(s.ctx); err != nil && s.ctx.Err() == nil {
				s.env.Log.Warn("cannot connect; trying again", "error", err)
			}
		}
	}
}

func (l *link) lose(err error) {
	select {
	case l.lost <- err:
	default:
	}
}

func (s *Sink) at(err error) error { return fmt.Errorf("broker %s: %w", s.broker.Host, err) }

// quiesce is how many ms paho may take to say good-bye.
const quiesce = 250

// Write publishes the events of in, in order, and returns when the broker has
// all of them.
func (s *Sink) Write(ctx context.Context, in arrow.Record) error {
	events, err := alert.Events(in)
	if err != nil {
		return err
	}
	l := s.link.Load()
	if l == nil {
		return s.at(errors.New("not connected"))
	}
	tokens := make([]paho.Token, 0, len(events))
	for i := range events {
		e := &events[i]
		body, err := json.Marshal(e)
		if err != nil {
			return pipeline.Permanent(err)
		}
		topic := s.topic(e)
		if len(topic) > 65535 {
			return pipeline.Permanent(fmt.Errorf("the topic of alert %s has %d bytes, and MQTT takes 65535", e.ID, len(topic)))
		}
		tokens = append(tokens, l.client.Publish(topic, byte(s.cfg.QoS), s.cfg.Retained, body))
	}
	for _, t := range tokens {
		err := s.wait(ctx, t)
		if errors.Is(err, errTimeout) { // what comes next would wait behind it
			l.client.Disconnect(quiesce)
			l.lose(err)
		}
		if err != nil {
			return s.at(err)
		}
	}
	return nil
}

var noWildcards = strings.NewReplacer("+", "_", "#", "_", "\x00", "_")

func (s *Sink) topic(e *alert.Event) string {
	clean := noWildcards.Replace
	return strings.NewReplacer("{rule}", clean(e.Rule), "{asset}", clean(e.Asset), "{tag}", clean(e.Tag), "{severity}", clean(e.Severity),
		"{state}", clean(e.State), "{id}", clean(e.ID)).Replace(s.cfg.Topic)
}

var errTimeout = errors.New("no answer in time")

func (s *Sink) wait(ctx context.Context, t paho.Token) error {
	timer := time.NewTimer(s.cfg.Timeout)
	defer timer.Stop()
	select {
	case <-t.Done():
		return t.Error()
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return errTimeout
	}
}

// Close says good-bye to the broker.
func (s *Sink) Close(context.Context) error {
	s.stop()
	s.keeper.Wait()
	return nil
}
