package integration

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	mqtt "github.com/eclipse/paho.mqtt.golang"
	"github.com/stretchr/testify/require"

	"github.com/penstock/penstock/internal/app"
	"github.com/penstock/penstock/internal/testpeer"
	"github.com/penstock/penstock/pipeline"
	"github.com/penstock/penstock/pipeline/config"
)

// logBook keeps what is logged. Safe for concurrent use.
type logBook struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *logBook) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

func (l *logBook) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

// has reports whether one line has all the parts.
func (l *logBook) has(parts ...string) bool {
lines:
	for line := range strings.Lines(l.String()) {
		for _, p := range parts {
			if !strings.Contains(line, p) {
				continue lines
			}
		}
		return true
	}
	return false
}

// pipe is a pipeline that runs in this process.
type pipe struct {
	*app.App
	t     *testing.T
	meter *pipeline.Meter
	log   *logBook
	once  sync.Once
}

// start runs the pipeline of a YAML text until the test ends.
func start(t *testing.T, yaml string) *pipe {
	t.Helper()
	cfg, err := config.Parse("test.yaml", []byte(yaml), app.Registry())
	require.NoError(t, err)
	return startConfig(t, cfg)
}

func startConfig(t *testing.T, cfg *config.Config) *pipe {
	t.Helper()
	p := &pipe{t: t, meter: pipeline.NewMeter(), log: &logBook{}}
	var err error
	p.App, err = app.Start(t.Context(), app.Options{Config: cfg, Meter: p.meter, Log: slog.New(slog.NewTextHandler(p.log, nil))})
	require.NoError(t, err)
	t.Cleanup(func() {
		p.stop()
		if t.Failed() {
			t.Log("the log of the pipeline:\n" + p.log.String())
		}
	})
	return p
}

// stop drains the pipeline.
func (p *pipe) stop() {
	p.once.Do(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		if err := p.Stop(ctx); err != nil {
			p.t.Errorf("stop: %v", err)
		}
	})
}

// wait returns how long it took until ok, or fails the test.
func wait(t *testing.T, what string, timeout time.Duration, ok func() bool) time.Duration {
	t.Helper()
	begin := time.Now()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		if time.Since(begin) > timeout {
			t.Fatalf("%s did not happen within %v", what, timeout)
		}
		<-tick.C
	}
	return time.Since(begin)
}

func (p *pipe) waitReady() {
	p.t.Helper()
	wait(p.t, "the pipeline being ready", time.Minute, func() bool { ok, _ := p.Ready(); return ok })
}

// point names one row in InfluxDB.
type point struct {
	tag string
	at  int64 // ns
}

// points returns a field of all rows that a node of the graph made.
func points(t *testing.T, db *testpeer.InfluxDB, node, field string) map[point]any {
	t.Helper()
	m := map[point]any{}
	for _, row := range db.Query(fmt.Sprintf(`from(bucket: %q) |> range(start: 1970-01-01T00:00:00Z, stop: 2200-01-01T00:00:00Z) |> filter(fn: (r) => r.node == %q and r._field == %q)`, db.Bucket, node, field)) {
		k := point{row["tag"].(string), row["_time"].(time.Time).UnixNano()}
		require.NotContains(t, m, k, "a row is there twice")
		m[k] = row["_value"]
	}
	return m
}

// requireSame compares rows without printing all of them.
func requireSame(t *testing.T, what string, want, got map[point]any) {
	t.Helper()
	missing, wrong, extra := 0, 0, 0
	example := ""
	for k, v := range want {
		switch g, ok := got[k]; {
		case !ok:
			missing++
			example = fmt.Sprintf("%v is missing", k)
		case g != v:
			wrong++
			example = fmt.Sprintf("%v is %v, want %v", k, g, v)
		}
	}
	for k := range got {
		if _, ok := want[k]; !ok {
			extra++
			example = fmt.Sprintf("%v was not published", k)
		}
	}
	if missing+wrong+extra > 0 {
		t.Fatalf("%s: of %d rows %d are missing, %d are wrong, %d are too many; such as %s", what, len(want), missing, wrong, extra, example)
	}
}

// publisher is an MQTT client that has nothing to do with Penstock. A token is
// done when the broker has acknowledged the message, if need be after a
// restart of the broker.
func publisher(t *testing.T, b *testpeer.Broker, user, password string) mqtt.Client {
	t.Helper()
	o := mqtt.NewClientOptions().AddBroker(b.URL).SetClientID("publisher").SetUsername(user).SetPassword(password).
		SetCleanSession(false).SetAutoReconnect(true).SetMaxReconnectInterval(200 * time.Millisecond).SetOrderMatters(false)
	// paho's store in memory hands out the packet itself: what is sent again is
	// changed while it may still be written.
	o.SetStore(mqtt.NewFileStore(t.TempDir()))
	if b.Certs != nil {
		o.SetTLSConfig(b.Certs.ClientTLS(t))
	}
	c := mqtt.NewClient(o)
	tok := c.Connect()
	require.True(t, tok.WaitTimeout(10*time.Second))
	require.NoError(t, tok.Error())
	t.Cleanup(func() { c.Disconnect(100) })
	return c
}

// send publishes at QoS 1 and returns once the broker has the message.
func send(t *testing.T, c mqtt.Client, topic string, payload any) {
	t.Helper()
	tok := c.Publish(topic, 1, false, payload)
	require.True(t, tok.WaitTimeout(20*time.Second), "the broker acknowledges nothing")
	require.NoError(t, tok.Error())
}

// pager is a webhook that keeps what it is sent.
type pager struct {
	URL string
	mu  sync.Mutex
	got []map[string]any
}

func newPager(t *testing.T) *pager {
	p := &pager{}
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var e map[string]any
		if err := json.NewDecoder(r.Body).Decode(&e); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		p.mu.Lock()
		p.got = append(p.got, e)
		p.mu.Unlock()
	}))
	p.URL = s.URL
	t.Cleanup(s.Close)
	return p
}

// count returns how many events came with this rule, tag and state.
func (p *pager) count(rule, tag, state string) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	n := 0
	for _, e := range p.got {
		if e["rule"] == rule && e["tag"] == tag && e["state"] == state {
			n++
		}
	}
	return n
}

func (p *pager) total() int { p.mu.Lock(); defer p.mu.Unlock(); return len(p.got) }
