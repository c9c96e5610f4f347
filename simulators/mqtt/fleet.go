package mqtt

import (
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/cenkalti/backoff/v5"

	"github.com/penstock/penstock/pipeline"
	"github.com/penstock/penstock/simulators"
)

// Config says where and how a fleet publishes.
type Config struct {
	Broker string // tcp://host:port or ssl://host:port
	// ClientID names the session; empty lets the broker choose one, which it
	// forgets at a reconnect.
	ClientID       string
	User, Password string
	TLS            *tls.Config // for ssl://
	QoS            byte
	// Topic is where samples go; {tag} is the sample's tag. Empty stands for
	// {tag} or, with several samples a message, for "readings".
	Topic string
	// PerMessage is how many samples go into one message, 0 and 1 for one:
	// {"value":1.5,"time":NS,"quality":0}, else
	// {"readings":[{"tag":"a","value":1.5,"time":NS,"quality":0}, ...]}.
	// A NaN is published as null.
	PerMessage int
	Meter      *pipeline.Meter // counts as source "mqtt"; may be nil
}

// Fleet publishes samples as the devices of a plant do. One goroutine uses it.
type Fleet struct {
	cfg      Config
	client   *client
	id       uint16
	packets  [][]byte // of the window: what is not acknowledged yet
	rows     []int    // samples in them
	inflight map[uint16]int
	body     []byte
}

// New returns a fleet that is not connected.
func New(cfg Config) *Fleet {
	cfg.PerMessage = max(cfg.PerMessage, 1)
	if cfg.Topic == "" {
		cfg.Topic = "{tag}"
		if cfg.PerMessage > 1 {
			cfg.Topic = "readings"
		}
	}
	return &Fleet{cfg: cfg, packets: make([][]byte, window), rows: make([]int, window), inflight: map[uint16]int{}}
}

// Connect makes the first connection.
func (f *Fleet) Connect(ctx context.Context) error {
	if f.cfg.QoS > 2 {
		return fmt.Errorf("%d is no QoS", f.cfg.QoS)
	}
	k, err := connect(ctx, &f.cfg)
	if err != nil {
		return err
	}
	f.client = k
	return nil
}

// Publish publishes the samples and returns when the broker has acknowledged
// all of them or, at QoS 0, when they are written. When the broker goes away
// it reconnects until ctx ends and sends again what was not acknowledged. What
// has got through is counted as published.
func (f *Fleet) Publish(ctx context.Context, samples []simulators.Sample) error {
	for len(samples) > 0 {
		n := 0
		for ; n < window && len(samples) > 0; n++ {
			take := min(f.cfg.PerMessage, len(samples))
			f.encode(n, samples[:take])
			samples = samples[take:]
		}
		if err := f.deliver(ctx, n); err != nil {
			return err
		}
	}
	return nil
}

// deliver gets the first n packets through.
func (f *Fleet) deliver(ctx context.Context, n int) error {
	clear(f.inflight)
	for i := range n {
		if f.cfg.QoS > 0 {
			f.inflight[packetID(f.packets[i])] = i
		}
	}
	b := backoff.NewExponentialBackOff()
	b.InitialInterval, b.MaxInterval = 50*time.Millisecond, 2*time.Second
	for {
		err := f.try(ctx, n)
		if err == nil {
			return nil
		}
		if f.client != nil {
			f.client.conn.Close()
			f.client = nil
		}
		pause := time.NewTimer(b.NextBackOff())
		select {
		case <-ctx.Done():
			pause.Stop()
			return errors.Join(ctx.Err(), err)
		case <-pause.C:
		}
	}
}

// try sends what is not acknowledged of the first n packets over one
// connection.
func (f *Fleet) try(ctx context.Context, n int) error {
	if f.client == nil {
		if err := f.Connect(ctx); err != nil {
			return err
		}
		for _, i := range f.inflight {
			f.packets[i][0] |= 8 // DUP
		}
	}
	k := f.client
	defer k.during(ctx)()
	for i := range n {
		if _, waits := f.inflight[packetID(f.packets[i])]; f.cfg.QoS > 0 && !waits {
			continue
		}
		if _, err := k.w.Write(f.packets[i]); err != nil {
			return err
		}
	}
	if err := k.w.Flush(); err != nil {
		return err
	}
	if f.cfg.QoS == 0 {
		for i := range n {
			f.count(f.rows[i])
		}
		return nil
	}
	for len(f.inflight) > 0 {
		id, err := k.acknowledged()
		if err != nil {
			return err
		}
		if i, ok := f.inflight[id]; ok {
			delete(f.inflight, id)
			f.count(f.rows[i])
		}
	}
	return nil
}

func (f *Fleet) count(rows int) {
	if f.cfg.Meter != nil {
		f.cfg.Meter.Published("mqtt", rows)
	}
}

// encode writes samples as packet i of the window.
func (f *Fleet) encode(i int, samples []simulators.Sample) {
	body := f.body[:0]
	if f.cfg.PerMessage == 1 {
		body = f.sample(body, &samples[0], false)
	} else {
		body = append(body, `{"readings":[`...)
		for j := range samples {
			if j > 0 {
				body = append(body, ',')
			}
			body = f.sample(body, &samples[j], true)
		}
		body = append(body, "]}"...)
	}
	f.body = body
	topic := strings.ReplaceAll(f.cfg.Topic, "{tag}", samples[0].Tag)
	f.id++
	if f.id == 0 {
		f.id = 1
	}
	f.packets[i] = packet(f.packets[i][:0], f.cfg.QoS, topic, f.id, body)
	f.rows[i] = len(samples)
}

func (f *Fleet) sample(b []byte, s *simulators.Sample, named bool) []byte {
	b = append(b, '{')
	if named {
		b = append(b, `"tag":`...)
		b = strconv.AppendQuote(b, s.Tag)
		b = append(b, ',')
	}
	b = append(b, `"value":`...)
	if math.IsNaN(s.Value) || math.IsInf(s.Value, 0) {
		b = append(b, "null"...)
	} else {
		b = strconv.AppendFloat(b, s.Value, 'g', -1, 64)
	}
	b = append(b, `,"time":`...)
	b = strconv.AppendInt(b, s.Time, 10)
	b = append(b, `,"quality":`...)
	b = strconv.AppendUint(b, uint64(s.Quality), 10)
	return append(b, '}')
}

// packet appends a PUBLISH packet to b.
func packet(b []byte, qos byte, topic string, id uint16, payload []byte) []byte {
	n := 2 + len(topic) + len(payload)
	if qos > 0 {
		n += 2
	}
	b = append(b, publish<<4|qos<<1)
	b = binary.AppendUvarint(b, uint64(n))
	b = str(b, topic)
	if qos > 0 {
		b = binary.BigEndian.AppendUint16(b, id)
	}
	return append(b, payload...)
}

// packetID reads the id of a PUBLISH packet of QoS 1 or 2.
func packetID(p []byte) uint16 {
	if p[0]>>1&3 == 0 {
		return 0
	}
	_, n := binary.Uvarint(p[1:])
	at := 1 + n
	at += 2 + int(binary.BigEndian.Uint16(p[at:]))
	return binary.BigEndian.Uint16(p[at:])
}

// Close says good-bye; all that Publish took is acknowledged by then.
func (f *Fleet) Close() error {
	if f.client == nil {
		return nil
	}
	k := f.client
	f.client = nil
	return k.close()
}
