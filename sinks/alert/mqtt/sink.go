package mqtt

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/apache/arrow/go/v17/arrow"
	paho "github.com/eclipse/paho.mqtt.golang"

	"github.com/penstock/penstock/pipeline"
	"github.com/penstock/penstock/sinks/alert"
)

// Sink publishes alert events.
type Sink struct {
	cfg    Config
	env    pipeline.Env
	opts   *paho.ClientOptions
	client paho.Client // nil before Connect
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
	s := &Sink{cfg: cfg, env: env}
	s.opts = paho.NewClientOptions().AddBroker(u.String()).SetClientID(cfg.ClientID).SetUsername(cfg.Username).SetPassword(string(cfg.Password)).
		SetTLSConfig(t).SetConnectTimeout(cfg.Timeout).SetWriteTimeout(cfg.Timeout).SetKeepAlive(cfg.KeepAlive).
		SetAutoReconnect(true).SetMaxReconnectInterval(10 * time.Second).SetConnectRetry(false).
		SetOnConnectHandler(func(paho.Client) { env.Meter.Connected(env.Name, true) }).
		SetConnectionLostHandler(func(_ paho.Client, err error) {
			env.Meter.Connected(env.Name, false)
			env.Log.Warn("connection to the broker lost; connecting again", "broker", u.Host, "error", err)
		})
	return s, nil
}

// Connect connects to the broker. From then on paho keeps the connection up,
// and another Connect has nothing to do.
func (s *Sink) Connect(ctx context.Context) error {
	if s.client != nil {
		return nil
	}
	client := paho.NewClient(s.opts)
	if err := s.wait(ctx, client.Connect()); err != nil {
		client.Disconnect(quiesce)
		return fmt.Errorf("broker %s: %w", s.opts.Servers[0].Host, err)
	}
	s.client = client
	return nil
}

// quiesce is how many ms paho may take to say good-bye.
const quiesce = 250

// Write publishes the events of in, in order, and returns when the broker has
// all of them.
func (s *Sink) Write(ctx context.Context, in arrow.Record) error {
	events, err := alert.Events(in)
	if err != nil {
		return err
	}
	if s.client == nil || !s.client.IsConnectionOpen() {
		return fmt.Errorf("broker %s: not connected", s.opts.Servers[0].Host)
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
		tokens = append(tokens, s.client.Publish(topic, byte(s.cfg.QoS), s.cfg.Retained, body))
	}
	for _, t := range tokens {
		if err := s.wait(ctx, t); err != nil {
			return fmt.Errorf("broker %s: %w", s.opts.Servers[0].Host, err)
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
	if s.client != nil {
		s.client.Disconnect(quiesce)
		s.client = nil
		s.env.Meter.Connected(s.env.Name, false)
	}
	return nil
}
