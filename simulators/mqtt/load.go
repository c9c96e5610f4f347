package mqtt

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"
)

// LoadConfig says what Load publishes: readings of tags "load/0000" and so on,
// whose values change with each message. The JSON is that of [Config].
type LoadConfig struct {
	Broker, User, Password string
	QoS                    byte
	Tags                   int // how many tags, at least 1
	PerMessage             int // readings a message, at least 1
	Rate                   int // readings/s; 0 is as fast as the broker takes them
	Count                  int // readings in all, rounded up to whole messages
}

// LoadResult is what Load did.
type LoadResult struct {
	Messages, Readings int
	Elapsed            time.Duration
}

// pre is a PUBLISH packet whose times, values and packet id are filled in.
type pre struct {
	data   []byte
	id     int   // offset of the packet id; 0 at QoS 0
	times  []int // offsets of the 19 digits of ns since 1970
	values []int // offsets of 6 digits
}

// Load publishes until Count readings are through: acknowledged or, at QoS 0,
// written. Packets are encoded once; per message only digits are filled in.
func Load(ctx context.Context, cfg LoadConfig) (LoadResult, error) {
	var res LoadResult
	if cfg.Tags < 1 || cfg.PerMessage < 1 || cfg.QoS > 2 || cfg.Rate < 0 {
		return res, fmt.Errorf("load: %d tags, %d readings a message, QoS %d, rate %d", cfg.Tags, cfg.PerMessage, cfg.QoS, cfg.Rate)
	}
	dialing, cancel := context.WithTimeout(ctx, stall)
	k, err := connect(dialing, &Config{Broker: cfg.Broker, User: cfg.User, Password: cfg.Password})
	cancel()
	if err != nil {
		return res, err
	}
	defer k.conn.Close()
	defer k.during(ctx)()
	messages := prepare(&cfg)
	total := (cfg.Count + cfg.PerMessage - 1) / cfg.PerMessage
	began := time.Now()
	waiting := 0
	failed := func(err error) (LoadResult, error) {
		res.Elapsed = time.Since(began)
		return res, errors.Join(ctx.Err(), err)
	}
	for n := range total {
		now := time.Now()
		if cfg.Rate > 0 {
			due := began.Add(time.Duration(float64(n*cfg.PerMessage) / float64(cfg.Rate) * 1e9))
			if due.After(now) {
				if err := k.w.Flush(); err != nil {
					return failed(err)
				}
				time.Sleep(due.Sub(now))
				now = time.Now()
			}
		}
		for waiting >= window {
			if _, err := k.acknowledged(); err != nil {
				return failed(err)
			}
			waiting--
		}
		p := &messages[n%len(messages)]
		p.fill(n, now.UnixNano())
		if _, err := k.w.Write(p.data); err != nil {
			return failed(err)
		}
		if cfg.QoS > 0 {
			waiting++
		}
		res.Messages++
		res.Readings += len(p.times)
	}
	for ; waiting > 0; waiting-- {
		if _, err := k.acknowledged(); err != nil {
			return failed(err)
		}
	}
	res.Elapsed = time.Since(began)
	return res, k.close()
}

// prepare encodes the messages of one round over all tags.
func prepare(cfg *LoadConfig) []pre {
	var out []pre
	for first := 0; first < cfg.Tags; first += cfg.PerMessage {
		var p pre
		var body []byte
		reading := func(tag string) {
			body = append(body, '{')
			if tag != "" {
				body = append(body, `"tag":"`+tag+`",`...)
			}
			body = append(body, `"value":20.`...)
			p.values = append(p.values, len(body))
			body = append(body, `000000,"time":`...)
			p.times = append(p.times, len(body))
			body = append(body, `0000000000000000000,"quality":0}`...)
		}
		topic := fmt.Sprintf("load/%04d", first)
		if cfg.PerMessage == 1 {
			reading("")
		} else {
			topic = "load"
			body = append(body, `{"readings":[`...)
			for i := range cfg.PerMessage {
				if i > 0 {
					body = append(body, ',')
				}
				reading(fmt.Sprintf("%04d", (first+i)%cfg.Tags))
			}
			body = append(body, "]}"...)
		}
		p.data = packet(nil, cfg.QoS, topic, 1, body)
		at := len(p.data) - len(body)
		if cfg.QoS > 0 {
			p.id = at - 2
		}
		for i := range p.times {
			p.times[i] += at
			p.values[i] += at
		}
		out = append(out, p)
	}
	return out
}

// fill makes p the n-th message.
func (p *pre) fill(n int, now int64) {
	if p.id > 0 {
		id := n%65535 + 1
		p.data[p.id], p.data[p.id+1] = byte(id>>8), byte(id)
	}
	var digits [20]byte
	t := strconv.AppendInt(digits[:0], now, 10)
	for i, at := range p.times {
		copy(p.data[at:at+19], t)
		v := uint32(n*31+i*17) * 2654435761 % 1_000_000
		for d := 5; d >= 0; d-- {
			p.data[p.values[i]+d] = byte('0' + v%10)
			v /= 10
		}
	}
}
