package mqtt

import (
	"context"
	"encoding/json"
	"fmt"
	"math"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	paho "github.com/eclipse/paho.mqtt.golang"
	"github.com/nats-io/nats-server/v2/server"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/penstock/penstock/pipeline"
	"github.com/penstock/penstock/simulators"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m,
		// nats-server starts them once a process and never ends them.
		goleak.IgnoreTopFunction("github.com/nats-io/nats-server/v2/server/pse.periodic"),
		goleak.IgnoreAnyFunction("github.com/nats-io/nats-server/v2/server/ats.Register.func1"))
}

const patience = 20 * time.Second

type broker struct {
	dir  string
	port int
	s    *server.Server
}

func newBroker(t *testing.T) *broker {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	b := &broker{dir: t.TempDir(), port: l.Addr().(*net.TCPAddr).Port}
	require.NoError(t, l.Close())
	b.start(t)
	t.Cleanup(b.stop)
	return b
}

func (b *broker) url() string { return fmt.Sprintf("tcp://127.0.0.1:%d", b.port) }

func (b *broker) start(t *testing.T) {
	s, err := server.NewServer(&server.Options{ServerName: "test", Host: "127.0.0.1", Port: server.RANDOM_PORT, NoSigs: true, JetStream: true,
		StoreDir: b.dir, MQTT: server.MQTTOpts{Host: "127.0.0.1", Port: b.port, Username: "user", Password: "secret"}})
	require.NoError(t, err)
	s.Start()
	require.True(t, s.ReadyForConnections(patience))
	b.s = s
}

func (b *broker) stop() {
	b.s.Shutdown()
	b.s.WaitForShutdown()
}

// inbox is what a subscriber got.
type inbox struct {
	mu  sync.Mutex
	got []string
}

func (i *inbox) list() []string {
	i.mu.Lock()
	defer i.mu.Unlock()
	return append([]string(nil), i.got...)
}

func subscribe(t *testing.T, b *broker) *inbox {
	in := &inbox{}
	c := paho.NewClient(paho.NewClientOptions().AddBroker(b.url()).SetUsername("user").SetPassword("secret").SetClientID("sub").SetCleanSession(false).
		SetMaxReconnectInterval(50 * time.Millisecond).SetResumeSubs(true))
	token := c.Connect()
	require.True(t, token.WaitTimeout(patience))
	require.NoError(t, token.Error())
	token = c.Subscribe("#", 1, func(_ paho.Client, m paho.Message) {
		in.mu.Lock()
		defer in.mu.Unlock()
		in.got = append(in.got, m.Topic()+" "+string(m.Payload()))
	})
	require.True(t, token.WaitTimeout(patience))
	require.NoError(t, token.Error())
	t.Cleanup(func() { c.Disconnect(250) })
	return in
}

func samples(n int) (s []simulators.Sample) {
	for i := range n {
		s = append(s, simulators.Sample{Tag: fmt.Sprintf("p/t%d", i), Time: 1_700_000_000_000_000_000 + int64(i), Value: float64(i) + 0.5})
	}
	return s
}

func TestFleet(t *testing.T) {
	for qos := range byte(3) {
		for _, per := range []int{0, 1, 7} {
			t.Run(fmt.Sprintf("qos %d, %d a message", qos, per), func(t *testing.T) {
				b := newBroker(t)
				in := subscribe(t, b)
				meter := pipeline.NewMeter()
				f := New(Config{Broker: b.url(), ClientID: "fleet", User: "user", Password: "secret", QoS: qos, PerMessage: per, Meter: meter})
				require.NoError(t, f.Connect(context.Background()))
				const n = 600 // more than a window
				s := samples(n)
				s[3].Value, s[3].Quality = math.NaN(), pipeline.BadSensor
				require.NoError(t, f.Publish(context.Background(), s))
				require.EqualValues(t, n, meter.Totals().Published)
				require.NoError(t, f.Close())
				messages := n
				if per > 1 {
					messages = (n + per - 1) / per
				}
				require.Eventually(t, func() bool { return len(in.list()) == messages }, patience, time.Millisecond)
				got := in.list()
				if per > 1 {
					require.True(t, strings.HasPrefix(got[0], `readings {"readings":[{"tag":"p/t0","value":0.5,"time":1700000000000000000,"quality":0},{"tag":"p/t1"`), got[0])
				} else {
					require.Equal(t, `p/t1 {"value":1.5,"time":1700000000000000001,"quality":0}`, got[1])
					require.Equal(t, `p/t3 {"value":null,"time":1700000000000000003,"quality":2156658688}`, got[3])
				}
				for _, m := range got {
					_, payload, _ := strings.Cut(m, " ")
					require.True(t, json.Valid([]byte(payload)), payload)
				}
			})
		}
	}
}

// A broker that goes away in the middle: all is published in the end, at
// least once.
func TestFleetReconnects(t *testing.T) {
	b := newBroker(t)
	in := subscribe(t, b)
	meter := pipeline.NewMeter()
	f := New(Config{Broker: b.url(), ClientID: "fleet", User: "user", Password: "secret", QoS: 1, Meter: meter})
	require.NoError(t, f.Connect(context.Background()))
	require.NoError(t, f.Publish(context.Background(), samples(10)))
	b.stop()
	ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
	err := f.Publish(ctx, samples(1))
	cancel()
	require.ErrorIs(t, err, context.DeadlineExceeded)
	require.EqualValues(t, 10, meter.Totals().Published)
	done := make(chan error, 1)
	go func() { done <- f.Publish(context.Background(), samples(500)) }()
	b.start(t)
	require.NoError(t, <-done)
	require.EqualValues(t, 510, meter.Totals().Published)
	require.NoError(t, f.Close())
	require.Eventually(t, func() bool {
		seen := map[string]bool{}
		for _, m := range in.list() {
			seen[m] = true
		}
		return len(seen) == 500
	}, patience, 10*time.Millisecond)
}

func TestRefused(t *testing.T) {
	b := newBroker(t)
	require.ErrorContains(t, New(Config{Broker: b.url(), User: "user", Password: "wrong"}).Connect(context.Background()), "refused the connection")
	require.ErrorContains(t, New(Config{Broker: "http://x"}).Connect(context.Background()), "write tcp://host:port")
	require.Error(t, New(Config{Broker: b.url(), QoS: 3}).Connect(context.Background()))
	_, err := Load(context.Background(), LoadConfig{Broker: b.url()})
	require.Error(t, err)
}

func TestLoad(t *testing.T) {
	for qos := range byte(3) {
		for _, per := range []int{1, 10} {
			b := newBroker(t)
			in := subscribe(t, b)
			r, err := Load(context.Background(), LoadConfig{Broker: b.url(), User: "user", Password: "secret", QoS: qos, Tags: 25, PerMessage: per, Rate: 20_000, Count: 995})
			require.NoError(t, err)
			want := (995 + per - 1) / per
			require.Equal(t, want, r.Messages)
			require.Equal(t, want*per, r.Readings)
			require.Greater(t, r.Elapsed, 40*time.Millisecond)
			require.Eventually(t, func() bool { return len(in.list()) == want }, patience, time.Millisecond)
			distinct := map[string]bool{}
			for _, m := range in.list() {
				_, payload, _ := strings.Cut(m, " ")
				require.True(t, json.Valid([]byte(payload)), payload)
				distinct[payload] = true
			}
			require.Len(t, distinct, want)
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	b := newBroker(t)
	_, err := Load(ctx, LoadConfig{Broker: b.url(), User: "user", Password: "secret", Tags: 1, PerMessage: 1, Count: 1})
	require.ErrorIs(t, err, context.Canceled)
}
