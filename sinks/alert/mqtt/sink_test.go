package mqtt

import (
	"context"
	"encoding/json"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	paho "github.com/eclipse/paho.mqtt.golang"
	"github.com/eclipse/paho.mqtt.golang/packets"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/penstock/penstock/internal/alerttest"
	"github.com/penstock/penstock/internal/optest"
	"github.com/penstock/penstock/internal/testpeer"
	"github.com/penstock/penstock/pipeline"
	"github.com/penstock/penstock/sinks/alert"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func sink(t *testing.T, cfg Config, env pipeline.Env) *Sink {
	p := pipeline.NewProblems()
	cfg.Validate(p)
	require.Empty(t, p.All())
	s, err := New(cfg, env)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, s.Close(context.Background())) })
	return s
}

// subscribe returns what is published below topic.
func subscribe(t *testing.T, broker *testpeer.Broker, o *paho.ClientOptions, topic string) <-chan paho.Message {
	c := paho.NewClient(o.AddBroker(broker.URL).SetClientID("watcher").SetAutoReconnect(false))
	token := c.Connect()
	require.True(t, token.WaitTimeout(10*time.Second))
	require.NoError(t, token.Error())
	t.Cleanup(func() { c.Disconnect(50) })
	got := make(chan paho.Message, 100)
	token = c.Subscribe(topic, 1, func(_ paho.Client, m paho.Message) { got <- m })
	require.True(t, token.WaitTimeout(10*time.Second))
	require.NoError(t, token.Error())
	return got
}

func next(t *testing.T, ch <-chan paho.Message) paho.Message {
	select {
	case m := <-ch:
		return m
	case <-time.After(10 * time.Second):
		require.FailNow(t, "no message")
		return nil
	}
}

func TestPublishOverTLSAndAgainAfterTheBrokersRestart(t *testing.T) {
	broker := testpeer.Mosquitto(t, testpeer.MosquittoConfig{TLS: true, User: "pen", Password: "stock"})
	env := optest.Env(t)
	cfg := DefaultConfig()
	cfg.Broker, cfg.Username, cfg.Password, cfg.TLS.CA, cfg.Retained = broker.URL, "pen", "stock", broker.CA, true
	s := sink(t, cfg, env)
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	rec := alerttest.Record(t, env, "hall/pump+1/temperature", 81.5, 20)
	defer rec.Release()
	require.NoError(t, s.Connect(ctx))
	require.Eventually(t, func() bool { return env.Meter.Totals().Connected["test"] }, 10*time.Second, 5*time.Millisecond)

	tls := broker.Certs.ClientTLS(t)
	got := subscribe(t, broker, paho.NewClientOptions().SetTLSConfig(tls).SetUsername("pen").SetPassword("stock"), "penstock/alerts/#")
	require.NoError(t, s.Write(ctx, rec))
	for _, state := range []string{"raised", "cleared"} {
		m := next(t, got)
		require.Equal(t, "penstock/alerts/hot/hall/pump_1", m.Topic())
		var e alert.Event
		require.NoError(t, json.Unmarshal(m.Payload(), &e))
		require.Equal(t, state, e.State)
		require.Equal(t, "hall/pump+1", e.Asset)
		require.Equal(t, "critical", e.Severity)
	}

	broker.Stop()
	require.Eventually(t, func() bool { return !env.Meter.Totals().Connected["test"] }, 10*time.Second, 5*time.Millisecond)
	err := s.Write(ctx, rec)
	require.Error(t, err)
	require.False(t, pipeline.IsPermanent(err))
	broker.Restart()
	// The runner's part: it tries again.
	require.Eventually(t, func() bool { return s.Write(ctx, rec) == nil }, 20*time.Second, 20*time.Millisecond)
}

// TestLostOnTheWayIsSentOnce has a broker that takes an alert, goes away before
// it acknowledges it, and comes back: then one try follows, not paho's too.
func TestLostOnTheWayIsSentOnce(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	var first, away atomic.Bool
	var later atomic.Int32
	first.Store(true)
	var done sync.WaitGroup
	serve := func(conn net.Conn) {
		defer conn.Close()
		for !away.Load() {
			in, err := packets.ReadPacket(conn)
			if err != nil {
				return
			}
			switch p := in.(type) {
			case *packets.ConnectPacket:
				err = packets.NewControlPacket(packets.Connack).Write(conn)
			case *packets.PublishPacket:
				if first.Swap(false) {
					away.Store(true)
					return
				}
				later.Add(1)
				ack := packets.NewControlPacket(packets.Puback).(*packets.PubackPacket)
				ack.MessageID = p.MessageID
				err = ack.Write(conn)
			}
			if err != nil {
				return
			}
		}
	}
	done.Go(func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			done.Go(func() { serve(conn) })
		}
	})
	t.Cleanup(func() { ln.Close(); done.Wait() })

	env := optest.Env(t)
	cfg := DefaultConfig()
	cfg.Broker, cfg.Timeout = "mqtt://"+ln.Addr().String(), 300*time.Millisecond
	s := sink(t, cfg, env)
	ctx := t.Context()
	require.NoError(t, s.Connect(ctx))
	rec := alerttest.Record(t, env, "hall/pump/temperature", 81.5)
	defer rec.Release()
	require.Error(t, s.Write(ctx, rec))
	away.Store(false)
	require.Eventually(t, func() bool { return s.Write(ctx, rec) == nil }, 20*time.Second, 20*time.Millisecond)
	require.NoError(t, s.Close(ctx)) // what else it had to send is there
	require.EqualValues(t, 1, later.Load())
}

// A broker that lets the client in and hangs up, as one does whose client_id another
// client uses, is not asked again and again without a pause.
func TestThrownOutAtOnce(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	var asked atomic.Int32
	var done sync.WaitGroup
	done.Go(func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			asked.Add(1)
			if _, err := packets.ReadPacket(conn); err == nil {
				packets.NewControlPacket(packets.Connack).Write(conn) //nolint:errcheck // it hangs up
			}
			conn.Close()
		}
	})
	t.Cleanup(func() { ln.Close(); done.Wait() })
	env := optest.Env(t)
	cfg := DefaultConfig()
	cfg.Broker = "mqtt://" + ln.Addr().String()
	s := sink(t, cfg, env)
	begun := time.Now()
	require.NoError(t, s.Connect(t.Context()))
	env.Meter.Connected("test", true) // as the runner says, maybe after the loss
	require.Eventually(t, func() bool { return asked.Load() >= 4 }, 20*time.Second, time.Millisecond)
	require.Greater(t, time.Since(begun), 200*time.Millisecond)
	require.Eventually(t, func() bool { return !env.Meter.Totals().Connected["test"] }, 10*time.Second, time.Millisecond)
}

func TestRefused(t *testing.T) {
	broker := testpeer.Mosquitto(t, testpeer.MosquittoConfig{User: "pen", Password: "stock"})
	env := optest.Env(t)
	cfg := DefaultConfig()
	cfg.Broker, cfg.Username, cfg.Password = broker.URL, "pen", "wrong-one"
	s := sink(t, cfg, env)
	err := s.Connect(context.Background())
	require.ErrorContains(t, err, "broker 127.0.0.1:")
	require.NotContains(t, err.Error(), "wrong-one")
	other := optest.Readings(env.Alloc, []optest.Row{{Tag: "a", T: 1, V: 1}})
	defer other.Release()
	require.True(t, pipeline.IsPermanent(s.Write(context.Background(), other)))
}

func TestValidate(t *testing.T) {
	cfg := Config{Broker: "tcp://h", Password: "x", Topic: "a/#/{nope}", QoS: 3}
	cfg.TLS.ServerName = "h"
	p := pipeline.NewProblems()
	cfg.Validate(p)
	(&Config{Broker: "tcp://u:pw@h", Topic: "a", Timeout: 1, KeepAlive: time.Second}).Validate(p)
	var got []string
	for _, x := range p.All() {
		got = append(got, x.Path)
		require.NotContains(t, x.Message, "pw")
		require.NotEmpty(t, x.Hint)
	}
	require.Equal(t, strings.Fields("tls username topic topic qos timeout keep_alive broker"), got)
}
