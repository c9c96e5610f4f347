package mqtt

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/apache/arrow/go/v17/arrow/array"
	"github.com/apache/arrow/go/v17/arrow/memory"
	paho "github.com/eclipse/paho.mqtt.golang"
	"github.com/nats-io/nats-server/v2/server"
	"github.com/stretchr/testify/require"

	"github.com/penstock/penstock/ingest/decode"
	"github.com/penstock/penstock/pipeline"
	"github.com/penstock/penstock/simulators"
	simmqtt "github.com/penstock/penstock/simulators/mqtt"
)

const patience = 20 * time.Second

func config(b broker, topics ...TopicConfig) Config {
	c := DefaultConfig()
	c.Broker, c.Username, c.Password, c.ClientID, c.Topics = b.url(), "user", "secret", "penstock", topics
	c.Batch.MaxPast, c.Batch.MaxFuture = 0, 0
	return c
}

// logBuffer is a log that a test can look into while it is written.
type logBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}
func (l *logBuffer) String() string { l.mu.Lock(); defer l.mu.Unlock(); return l.b.String() }

// fixture is a source under test, with what Env gives it.
type fixture struct {
	*Source
	meter *pipeline.Meter
	log   *logBuffer
}

func open(t *testing.T, c Config) *fixture { return openShards(t, c, 1) }

func openShards(t *testing.T, c Config, shards int) *fixture {
	t.Helper()
	p := pipeline.NewProblems()
	c.Validate(p)
	require.Empty(t, p.All())
	mem := memory.NewCheckedAllocator(memory.NewGoAllocator())
	f := &fixture{meter: pipeline.NewMeter(), log: &logBuffer{}}
	s, err := New(c, pipeline.Env{Name: "floor", Log: slog.New(slog.NewTextHandler(f.log, nil)), Meter: f.meter,
		Tags: pipeline.NewTags(nil), Alloc: mem, Shards: shards})
	require.NoError(t, err)
	f.Source = s
	t.Cleanup(func() {
		require.NoError(t, s.Close(context.Background()))
		mem.AssertSize(t, 0)
		if t.Failed() {
			t.Logf("the source's log:\n%s", f.log)
		}
	})
	return f
}

func (f *fixture) connect(t *testing.T) *fixture {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	require.NoError(t, f.Connect(ctx))
	return f
}

// rows reads until n rows have come and acknowledges them; it returns how
// often each "tag value" came.
func (f *fixture) rows(t *testing.T, n int) map[string]int {
	t.Helper()
	got := map[string]int{}
	for total := 0; total < n; {
		b, ack := f.batch(t)
		total += count(t, b, got)
		b.Record.Release()
		ack(nil)
	}
	return got
}

func (f *fixture) batch(t *testing.T) (pipeline.Batch, pipeline.AckFunc) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	for {
		b, ack, err := f.Read(ctx)
		require.NoError(t, err, "totals: %+v", f.meter.Totals())
		if b.Record != nil {
			require.Equal(t, "floor", b.Source)
			return b, ack
		}
		ack(nil)
	}
}

func count(t *testing.T, b pipeline.Batch, into map[string]int) int {
	runs, err := pipeline.Runs(nil, b.Record, pipeline.ColTag)
	require.NoError(t, err)
	v := b.Record.Column(pipeline.ColValue).(*array.Float64)
	for _, r := range runs {
		for i := r.Start; i < r.End; i++ {
			into[fmt.Sprintf("%s %v", r.Tag, v.Value(i))]++
		}
	}
	return int(b.Record.NumRows())
}

// publisher is a plain client.
func publisher(t *testing.T, url string) paho.Client {
	t.Helper()
	c := paho.NewClient(paho.NewClientOptions().AddBroker(url).SetUsername("user").SetPassword("secret").SetClientID("device").SetAutoReconnect(false))
	token := c.Connect()
	require.True(t, token.WaitTimeout(patience))
	require.NoError(t, token.Error())
	t.Cleanup(func() { c.Disconnect(250) })
	return c
}

func send(t *testing.T, c paho.Client, qos byte, topic string, payload any) {
	t.Helper()
	token := c.Publish(topic, qos, false, payload)
	require.True(t, token.WaitTimeout(patience))
	require.NoError(t, token.Error())
}

func TestReadings(t *testing.T) {
	brokers(t, func(t *testing.T, b broker) {
		f := open(t, config(b,
			TopicConfig{Topic: "plant/+/temp", QoS: 0, Tag: "p1/{2}/temperature", Decode: decode.Config{Value: "v", Time: "ts"}},
			TopicConfig{Topic: "gw/#", QoS: 2, Tag: "{topic}/{field}", Decode: decode.Config{Fields: []string{"*"}}},
			TopicConfig{Topic: "plant/#", QoS: 1, Decode: decode.Config{Value: "$"}},
		)).connect(t)
		c := publisher(t, b.url())
		want := map[string]int{}
		n := 0
		for i := range 300 {
			v := float64(i) + 0.25
			send(t, c, byte(i%3), "plant/pump1/temp", fmt.Sprintf(`{"v":%v,"ts":%d}`, v, 1_700_000_000_000+i))
			want[fmt.Sprintf("p1/pump1/temperature %v", v)]++
			n++
			if i%10 == 0 {
				send(t, c, 1, "plant/pump2", fmt.Sprint(v))
				send(t, c, 2, "gw/a/b", fmt.Sprintf(`{"x":%v,"y":true}`, v))
				want[fmt.Sprintf("plant/pump2 %v", v)]++
				want[fmt.Sprintf("gw/a/b/x %v", v)]++
				want["gw/a/b/y 1"]++
				n += 3
			}
		}
		require.Equal(t, want, f.rows(t, n))
		totals := f.meter.Totals()
		require.EqualValues(t, n, totals.Ingested)
		require.Empty(t, totals.Dropped)
		require.True(t, totals.Connected["floor"])
		require.Eventually(t, func() bool { f.mu.Lock(); defer f.mu.Unlock(); return f.session.tap.unacked == 0 }, patience, time.Millisecond)
	})
}

// What was not acknowledged comes again, what was does not.
func TestAckAfterAppend(t *testing.T) {
	brokersWith(t, soonAgain, func(t *testing.T, b broker) {
		for _, qos := range []int{1, 2} {
			t.Run(fmt.Sprint("qos ", qos), func(t *testing.T) {
				c := config(b, TopicConfig{Topic: fmt.Sprintf("q%d/+", qos), QoS: qos, Decode: decode.Config{Value: "$"}})
				c.ClientID = fmt.Sprint("penstock", qos)
				f := open(t, c).connect(t)
				p := publisher(t, b.url())
				for i := range 5 {
					send(t, p, byte(qos), fmt.Sprintf("q%d/a", qos), fmt.Sprint(i))
				}
				first := f.rows(t, 5)
				for i := 5; i < 10; i++ {
					send(t, p, byte(qos), fmt.Sprintf("q%d/a", qos), fmt.Sprint(i))
				}
				lost := map[string]int{}
				var acks []pipeline.AckFunc
				for n := 0; n < 5; {
					batch, ack := f.batch(t)
					n += count(t, batch, lost)
					batch.Record.Release()
					acks = append(acks, ack)
				}
				require.Eventually(t, func() bool { f.mu.Lock(); defer f.mu.Unlock(); return f.session.tap.unacked == 5 }, patience, time.Millisecond)
				// kill -9: the socket goes without a DISCONNECT.
				require.NoError(t, f.session.tap.Conn.Close())
				require.NoError(t, f.Close(context.Background()))
				for _, ack := range acks {
					ack(nil) // too late: must do nothing
				}
				again := open(t, c).connect(t)
				require.Equal(t, lost, again.rows(t, 5))
				require.NotContains(t, lost, firstKey(first))
				send(t, p, byte(qos), fmt.Sprintf("q%d/a", qos), "99")
				require.Equal(t, map[string]int{fmt.Sprintf("q%d/a 99", qos): 1}, again.rows(t, 1))
			})
		}
	})
}

func firstKey(m map[string]int) string {
	for k := range m {
		return k
	}
	return ""
}

// A batch that will never be in the journal makes the broker send it again.
func TestFailedBatchComesAgain(t *testing.T) {
	brokersWith(t, soonAgain, func(t *testing.T, b broker) {
		f := open(t, config(b, TopicConfig{Topic: "a", QoS: 1, Decode: decode.Config{Value: "$"}})).connect(t)
		send(t, publisher(t, b.url()), 1, "a", "7")
		batch, ack := f.batch(t)
		batch.Record.Release()
		ack(errors.New("disk is full"))
		require.Equal(t, map[string]int{"a 7": 1}, f.rows(t, 1))
		require.Contains(t, f.log.String(), "disk is full")
	})
}

func TestBadInput(t *testing.T) {
	brokers(t, func(t *testing.T, b broker) {
		c := config(b, TopicConfig{Topic: "in/#", QoS: 1, Decode: decode.Config{Value: "v", Time: "ts", TimeMissing: "drop"}},
			TopicConfig{Topic: "short/#", QoS: 1, Tag: "x/{3}"})
		c.MaxPayload = 1 << 16
		c.Batch.MaxFuture = time.Hour
		c.Batch.MaxPast = 24 * time.Hour
		f := open(t, c).connect(t)
		p := publisher(t, b.url())
		now := time.Now().UnixMilli()
		for _, bad := range []string{`{"v":`, `{"v":NaN,"ts":1}`, `{"v":"NaN","ts":1}`, `{"v":[],"ts":1}`, "", "\xff\xfe",
			strings.Repeat("[", 5000), fmt.Sprintf(`{"v":1e999,"ts":%d}`, now)} {
			send(t, p, 1, "in/a", bad)
		}
		send(t, p, 1, "in/a", bytes.Repeat([]byte("x"), 10<<20))
		send(t, p, 1, "in/a", bytes.Repeat([]byte(" "), 1<<16+1))
		send(t, p, 1, "in/a", `{"v":1}`)                 // no time
		send(t, p, 1, "in/a", `{"v":1,"ts":0}`)          // 1970
		send(t, p, 1, "in/a", `{"v":1,"ts":4102444800}`) // 2100
		send(t, p, 1, "short/a", `{"value":1}`)          // has no third segment
		big := fmt.Sprintf(`{"v":5,"ts":%d}%s`, now, bytes.Repeat([]byte(" "), 65000))
		send(t, p, 1, "in/a", big)
		require.Equal(t, map[string]int{"in/a 5": 1}, f.rows(t, 1))
		require.Equal(t, map[string]int64{"undecodable": 8, "payload_too_large": 2, "no_time": 1, "time_too_old": 1, "time_in_future": 1, "no_tag": 1},
			f.meter.Totals().Dropped)
		require.Contains(t, f.log.String(), "topic=in/a")
		require.Contains(t, f.log.String(), "byte 5: expected a value, found the end of the payload")
		// All of it is acknowledged: nothing comes again.
		require.Eventually(t, func() bool { f.mu.Lock(); defer f.mu.Unlock(); return f.session.tap.unacked == 0 }, patience, time.Millisecond)
		require.NoError(t, f.Close(context.Background()))
		again := open(t, c).connect(t)
		send(t, p, 1, "in/a", fmt.Sprintf(`{"v":6,"ts":%d}`, now))
		require.Equal(t, map[string]int{"in/a 6": 1}, again.rows(t, 1))
		require.Empty(t, again.meter.Totals().Dropped)
	})
}

// The broker goes away and comes back, twice, under load: at QoS 1 nothing is
// lost.
func TestBrokerRestart(t *testing.T) {
	brokersWith(t, soonAgain, func(t *testing.T, b broker) {
		f := open(t, config(b, TopicConfig{Topic: "plant/#", QoS: 1, Decode: decode.Config{Value: "value", Time: "time"}})).connect(t)
		fleet := simmqtt.New(simmqtt.Config{Broker: b.url(), ClientID: "fleet", User: "user", Password: "secret", QoS: 1, Meter: f.meter})
		ctx, cancel := context.WithTimeout(context.Background(), 3*patience)
		defer cancel()
		require.NoError(t, fleet.Connect(ctx))
		defer func() { require.NoError(t, fleet.Close()) }()
		const n = 3000
		half := make(chan struct{})
		published := make(chan error, 1)
		go func() {
			for i := 0; i < n; i += 10 {
				if i == n/3 {
					close(half)
				}
				var s []simulators.Sample
				for j := i; j < i+10; j++ {
					s = append(s, simulators.Sample{Tag: fmt.Sprintf("plant/t%d", j%7), Time: time.Now().UnixNano(), Value: float64(j)})
				}
				if err := fleet.Publish(ctx, s); err != nil {
					published <- err
					return
				}
			}
			published <- nil
		}()
		go func() {
			<-half
			b.stop(t)
			b.start(t)
		}()
		got := map[string]int{}
		for len(got) < n {
			batch, ack := f.batch(t)
			count(t, batch, got)
			batch.Record.Release()
			ack(nil)
		}
		require.NoError(t, <-published)
		for i := range n {
			require.Contains(t, got, fmt.Sprintf("plant/t%d %d", i%7, i))
		}
		require.EqualValues(t, n, f.meter.Totals().Published)
		require.Contains(t, f.log.String(), "connection to broker lost")
	})
}

func TestWrongPassword(t *testing.T) {
	b := newMosquitto(t, "")
	c := config(b, TopicConfig{Topic: "a", QoS: 1, Decode: decode.Config{Value: "$"}})
	c.Password = "wrong-one"
	err := open(t, c).Connect(context.Background())
	require.True(t, pipeline.IsPermanent(err), "%v", err)
	require.ErrorContains(t, err, b.url())
	require.ErrorContains(t, err, `user "user"`)
	require.NotContains(t, err.Error(), "wrong-one")

	// Later on, it keeps trying and says why.
	c.Password = "secret"
	f := open(t, c).connect(t)
	b.stop(t)
	b.password(t, "changed")
	b.start(t)
	require.Eventually(t, func() bool { return strings.Contains(f.log.String(), "wrong user name or password") }, patience, 10*time.Millisecond)
	require.False(t, f.meter.Totals().Connected["floor"])
	b.stop(t)
	b.password(t, "secret")
	b.start(t)
	require.Eventually(t, func() bool { return f.meter.Totals().Connected["floor"] }, patience, 10*time.Millisecond)
	send(t, publisher(t, b.url()), 1, "a", "1")
	require.Len(t, f.rows(t, 1), 1)
	require.NotContains(t, f.log.String(), "secret")
}

func TestNoBroker(t *testing.T) {
	b := &natsBroker{port: freePort(t)}
	err := open(t, config(b, TopicConfig{Topic: "a"})).Connect(context.Background())
	require.ErrorContains(t, err, "cannot be reached")
	require.False(t, pipeline.IsPermanent(err))
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	require.ErrorIs(t, open(t, config(b, TopicConfig{Topic: "a"})).Connect(ctx), context.Canceled)
}

func TestRefusedSubscription(t *testing.T) {
	b := newNATSWith(t, func(o *server.Options) {
		o.Users = []*server.User{{Username: "user", Password: "secret", Permissions: &server.Permissions{
			Subscribe: &server.SubjectPermission{Deny: []string{"private.>"}}}}}
	})
	err := open(t, config(b, TopicConfig{Topic: "ok/a"}, TopicConfig{Topic: "private/+"})).Connect(context.Background())
	require.True(t, pipeline.IsPermanent(err))
	require.ErrorContains(t, err, "subscription to private/+")
}

func TestTLS(t *testing.T) {
	dir := t.TempDir()
	certificates(t, dir, time.Now().Add(time.Hour))
	tls := func(dir string) string {
		return fmt.Sprintf("certfile %s/cert.pem\nkeyfile %s/key.pem\n", dir, dir)
	}
	b := newMosquitto(t, tls(dir))
	c := config(b, TopicConfig{Topic: "a/#", QoS: 1, Decode: decode.Config{Value: "$"}})
	c.Broker = strings.Replace(b.url(), "tcp:", "ssl:", 1)

	err := open(t, c).Connect(context.Background())
	require.ErrorContains(t, err, "certificate that cannot be trusted")
	require.ErrorContains(t, err, "unknown authority")

	c.TLS.CA = filepath.Join(dir, "ca.pem")
	f := open(t, c).connect(t)
	own := c
	own.ClientID = "other"
	own.TLS = TLSConfig{InsecureSkipVerify: true}
	g := open(t, own).connect(t)
	require.Contains(t, g.log.String(), "TLS CERTIFICATE CHECKS ARE OFF")

	options := paho.NewClientOptions().AddBroker(c.Broker).SetUsername("user").SetPassword("secret").SetClientID("device")
	loaded, err := c.TLS.load()
	require.NoError(t, err)
	p := paho.NewClient(options.SetTLSConfig(loaded))
	token := p.Connect()
	require.True(t, token.WaitTimeout(patience))
	require.NoError(t, token.Error())
	defer p.Disconnect(250)
	var tokens []paho.Token
	for i := range 2000 {
		tokens = append(tokens, p.Publish("a/b", 1, false, fmt.Sprint(i)))
	}
	for _, token := range tokens {
		require.True(t, token.WaitTimeout(patience))
	}
	require.Len(t, f.rows(t, 2000), 2000)

	// A certificate that has run out.
	old := t.TempDir()
	certificates(t, old, time.Now().Add(-time.Hour))
	b = newMosquitto(t, tls(old))
	c.Broker = strings.Replace(b.url(), "tcp:", "ssl:", 1)
	c.TLS.CA = filepath.Join(old, "ca.pem")
	err = open(t, c).Connect(context.Background())
	require.ErrorContains(t, err, "expired")
	require.ErrorContains(t, err, "this machine's clock")
}

func TestWebsocket(t *testing.T) {
	port := freePort(t)
	b := newNATSWith(t, func(o *server.Options) {
		o.Websocket = server.WebsocketOpts{Host: "127.0.0.1", Port: port, NoTLS: true}
	})
	c := config(b, TopicConfig{Topic: "a", QoS: 1, Decode: decode.Config{Value: "$"}})
	c.Broker = fmt.Sprintf("ws://127.0.0.1:%d/mqtt", port)
	f := open(t, c).connect(t)
	p := publisher(t, c.Broker)
	for i := range 100 {
		send(t, p, 1, "a", fmt.Sprint(i))
	}
	require.Len(t, f.rows(t, 100), 100)
}

// Nobody reads: the source takes what one batch holds, then the broker is held
// back; at QoS 1 all of it comes in the end.
func TestBackPressure(t *testing.T) {
	brokers(t, func(t *testing.T, b broker) {
		c := config(b, TopicConfig{Topic: "a", QoS: 1, Decode: decode.Config{Value: "$"}})
		c.Batch.MaxRows = 10
		f := open(t, c).connect(t)
		p := publisher(t, b.url())
		for i := range 300 {
			send(t, p, 1, "a", fmt.Sprint(i))
		}
		require.Eventually(t, func() bool { f.mu.Lock(); defer f.mu.Unlock(); return f.full() }, patience, time.Millisecond)
		require.Equal(t, 10, f.batcher.Len())
		require.Len(t, f.rows(t, 300), 300)
	})
}

// The broker sends 20 messages ahead. A linger that is waited for in vain
// would make this take 1000/20 times 300 ms = 15 s.
func TestLearnsTheWindow(t *testing.T) {
	b := newNATSWith(t, func(o *server.Options) { o.MQTT.MaxAckPending = 20 })
	c := config(b, TopicConfig{Topic: "a", QoS: 1, Decode: decode.Config{Value: "$"}})
	c.Batch.Linger = 300 * time.Millisecond
	f := open(t, c).connect(t)
	p := publisher(t, b.url())
	for i := range 1000 {
		p.Publish("a", 1, false, fmt.Sprint(i))
	}
	began := time.Now()
	require.Len(t, f.rows(t, 1000), 1000)
	require.Less(t, time.Since(began), 10*time.Second)
}

func TestDrain(t *testing.T) {
	brokersWith(t, soonAgain, func(t *testing.T, b broker) {
		c := config(b, TopicConfig{Topic: "a", QoS: 1, Decode: decode.Config{Value: "$"}})
		c.Batch.Linger = time.Hour // only draining closes the batch
		f := open(t, c).connect(t)
		p := publisher(t, b.url())
		for i := range 10 {
			send(t, p, 1, "a", fmt.Sprint(i))
		}
		require.Eventually(t, func() bool { f.mu.Lock(); defer f.mu.Unlock(); return f.batcher.Len() == 10 }, patience, time.Millisecond)
		require.NoError(t, f.Drain(context.Background()))
		send(t, p, 1, "a", "10")
		require.Len(t, f.rows(t, 10), 10)
		_, _, err := f.Read(context.Background())
		require.ErrorIs(t, err, io.EOF)
		require.NoError(t, f.Close(context.Background()))
		c.Batch.Linger = time.Millisecond
		require.Equal(t, map[string]int{"a 10": 1}, open(t, c).connect(t).rows(t, 1))
	})
}

// With several shards a message is acknowledged when all of them have its rows.
func TestShards(t *testing.T) {
	b := newNATS(t)
	f := openShards(t, config(b, TopicConfig{Topic: "a", QoS: 1, Decode: decode.Config{Each: "$", Tag: "n", Value: "v"}}), 4)
	f.connect(t)
	var payload []string
	for i := range 20 {
		payload = append(payload, fmt.Sprintf(`{"n":"asset%d/x","v":%d}`, i, i))
	}
	send(t, publisher(t, b.url()), 1, "a", "["+strings.Join(payload, ",")+"]")
	got := map[string]int{}
	shards := map[int]bool{}
	for n := 0; n < 20; {
		batch, ack := f.batch(t)
		require.False(t, shards[batch.Shard])
		shards[batch.Shard] = true
		n += count(t, batch, got)
		batch.Record.Release()
		f.mu.Lock()
		require.Equal(t, 1, f.session.tap.unacked)
		f.mu.Unlock()
		ack(nil)
	}
	require.Greater(t, len(shards), 1)
	require.Len(t, got, 20)
	f.mu.Lock()
	require.Zero(t, f.session.tap.unacked)
	f.mu.Unlock()
}

func TestReadReturns(t *testing.T) {
	b := newNATS(t)
	c := config(b, TopicConfig{Topic: "a"})
	c.Batch.IdleAfter = 40 * time.Millisecond
	f := open(t, c).connect(t)
	batch, ack, err := f.Read(context.Background())
	require.NoError(t, err)
	require.Nil(t, batch.Record)
	ack(nil)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	_, _, err = f.Read(ctx)
	require.ErrorIs(t, err, context.Canceled)
	done := make(chan error, 1)
	go func() {
		for {
			if _, _, err := f.Read(context.Background()); err != nil {
				done <- err
				return
			}
		}
	}()
	require.NoError(t, f.Close(context.Background()))
	require.ErrorIs(t, <-done, io.EOF)
}
