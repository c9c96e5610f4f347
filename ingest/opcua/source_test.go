package opcua

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"math"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/apache/arrow/go/v17/arrow/array"
	"github.com/apache/arrow/go/v17/arrow/memory"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/penstock/penstock/pipeline"
	"github.com/penstock/penstock/simulators"
	sim "github.com/penstock/penstock/simulators/opcua"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// row is one reading as a test sees it.
type row struct {
	Tag     string
	Time    int64
	Value   float64
	Null    bool
	Text    string
	Quality uint32
}

// logBuffer is a log that can be read while it is written.
type logBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// harness is a source under test with what it logged and counted.
type harness struct {
	*Source
	t     *testing.T
	ctx   context.Context
	log   *logBuffer
	meter *pipeline.Meter
	rows  []row
}

func testContext(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	t.Cleanup(cancel)
	return ctx
}

// testConfig reads from endpoint without security and quickly.
func testConfig(endpoint string, nodes ...Node) Config {
	cfg := DefaultConfig()
	cfg.Endpoint, cfg.Nodes = endpoint, nodes
	cfg.SecurityPolicy = "None"
	cfg.PublishingInterval = 20 * time.Millisecond
	cfg.RequestTimeout = 3 * time.Second
	cfg.KeepAlive = 400 * time.Millisecond
	return cfg
}

// newHarness builds the source and checks at the end of the test that it is
// closed cleanly and that it leaks no memory.
func newHarness(t *testing.T, cfg Config) *harness {
	t.Helper()
	p := pipeline.NewProblems()
	cfg.Validate(p)
	require.Empty(t, p.All())
	alloc := memory.NewCheckedAllocator(memory.DefaultAllocator)
	log, meter := &logBuffer{}, pipeline.NewMeter()
	s, err := New(cfg, pipeline.Env{Name: "plc", Log: slog.New(slog.NewTextHandler(log, nil)), Meter: meter, Tags: pipeline.NewTags(nil), Alloc: alloc, Shards: 1})
	require.NoError(t, err)
	h := &harness{Source: s, t: t, ctx: testContext(t), log: log, meter: meter}
	t.Cleanup(func() {
		require.NoError(t, s.Close(context.Background()))
		_, _, err := s.Read(context.Background())
		require.ErrorIs(t, err, io.EOF)
		alloc.AssertSize(t, 0)
		if t.Failed() {
			t.Log(log.String())
		}
	})
	return h
}

func connect(t *testing.T, cfg Config) *harness {
	t.Helper()
	h := newHarness(t, cfg)
	require.NoError(t, h.Connect(h.ctx))
	return h
}

// until reads until enough says so of all rows so far.
func (h *harness) until(enough func(rows []row) bool) []row {
	h.t.Helper()
	for !enough(h.rows) {
		b, ack, err := h.Read(h.ctx)
		if err != nil {
			h.t.Fatalf("after %d rows: %v\n%v", len(h.rows), err, h.rows[max(0, len(h.rows)-10):])
		}
		ack(nil)
		if b.Record == nil {
			continue
		}
		runs, err := pipeline.Runs(nil, b.Record, pipeline.ColTag)
		require.NoError(h.t, err)
		times := b.Record.Column(pipeline.ColTime).(*array.Timestamp)
		values := b.Record.Column(pipeline.ColValue).(*array.Float64)
		texts := b.Record.Column(pipeline.ColText).(*array.String)
		quality := b.Record.Column(pipeline.ColQuality).(*array.Uint32)
		for _, r := range runs {
			for i := r.Start; i < r.End; i++ {
				out := row{Tag: strings.Clone(r.Tag), Time: int64(times.Value(i)), Null: values.IsNull(i), Quality: quality.Value(i)}
				if !out.Null {
					out.Value = values.Value(i)
				}
				if texts.IsValid(i) {
					out.Text = strings.Clone(texts.Value(i))
				}
				h.rows = append(h.rows, out)
			}
		}
		b.Record.Release()
	}
	return h.rows
}

func atLeast(n int) func([]row) bool { return func(r []row) bool { return len(r) >= n } }

func of(rows []row, tag string) (out []row) {
	for _, r := range rows {
		if r.Tag == tag {
			out = append(out, r)
		}
	}
	return out
}

func startServer(t *testing.T, cfg sim.Config) *sim.Server {
	t.Helper()
	s, err := sim.New(cfg)
	require.NoError(t, err)
	require.NoError(t, s.Start(context.Background()))
	t.Cleanup(func() { require.NoError(t, s.Close()) })
	return s
}

func node(tag string) Node { return Node{ID: "ns=1;s=" + tag, Tag: "t/" + tag} }

// base is a time in whole 100 ns, the resolution of OPC UA, not long ago: the
// batcher refuses readings from the far past.
var base = time.Now().Truncate(time.Second).UnixNano()

func TestEveryValueArrives(t *testing.T) {
	srv := startServer(t, sim.Config{Tags: []string{"a", "b"}})
	h := connect(t, testConfig(srv.Endpoint(), node("a"), node("b")))
	require.NoError(t, srv.WaitSubscribed(h.ctx, 2))
	const n = 5000
	want := map[string][]row{}
	for i := range n {
		for _, tag := range []string{"a", "b"} {
			s := simulators.Sample{Tag: tag, Time: base + int64(i)*1000, Value: float64(i) * 1.5}
			_, err := srv.Set([]simulators.Sample{s})
			require.NoError(t, err)
			want["t/"+tag] = append(want["t/"+tag], row{Tag: "t/" + tag, Time: s.Time, Value: s.Value})
		}
	}
	rows := h.until(atLeast(2 * n))
	require.Equal(t, want["t/a"], of(rows, "t/a"))
	require.Equal(t, want["t/b"], of(rows, "t/b"))
	require.EqualValues(t, 2*n, srv.Published())
	require.Zero(t, srv.Lost())
	require.EqualValues(t, 2*n, h.meter.Totals().Ingested)
	require.Empty(t, h.meter.Totals().Dropped)
}

func TestQualityIsTheServers(t *testing.T) {
	srv := startServer(t, sim.Config{Tags: []string{"a"}})
	h := connect(t, testConfig(srv.Endpoint(), node("a")))
	_, err := srv.Set([]simulators.Sample{
		{Tag: "a", Time: base, Value: 1}, {Tag: "a", Time: base + 100, Value: 2, Quality: 0x40920000},
		{Tag: "a", Time: base + 200, Value: 3, Quality: pipeline.BadSensor}, {Tag: "a", Time: base + 300, Value: math.Inf(1)}})
	require.NoError(t, err)
	require.Equal(t, []row{{Tag: "t/a", Time: base, Value: 1}, {Tag: "t/a", Time: base + 100, Value: 2, Quality: 0x40920000},
		{Tag: "t/a", Time: base + 200, Null: true, Quality: pipeline.BadSensor}, {Tag: "t/a", Time: base + 300, Value: math.Inf(1)}}, h.until(atLeast(4)))
}

func TestSilenceGivesEmptyBatches(t *testing.T) {
	srv := startServer(t, sim.Config{Tags: []string{"a"}})
	h := connect(t, testConfig(srv.Endpoint(), node("a")))
	start := time.Now()
	b, ack, err := h.Read(h.ctx)
	require.NoError(t, err)
	require.NotNil(t, ack)
	require.Nil(t, b.Record)
	require.Less(t, time.Since(start), 3*time.Second)
}

func TestBadNodesDoNotStopTheRest(t *testing.T) {
	srv := startServer(t, sim.Config{Tags: []string{"good"}})
	cfg := testConfig(srv.Endpoint(), Node{ID: "ns=1;s=none", Tag: "t/none"}, node("good"), Node{ID: "nsu=urn:elsewhere;s=x", Tag: "t/x"},
		Node{ID: "nsu=urn:penstock:simulator;s=good", Tag: "t/named"})
	h := connect(t, cfg)
	_, err := srv.Set([]simulators.Sample{{Tag: "good", Time: base, Value: 7}})
	require.NoError(t, err)
	rows := h.until(atLeast(2))
	require.Equal(t, []row{{Tag: "t/good", Time: base, Value: 7}}, of(rows, "t/good"))
	require.Equal(t, []row{{Tag: "t/named", Time: base, Value: 7}}, of(rows, "t/named"))
	require.Contains(t, h.log.String(), "ns=1;s=none")
	require.Contains(t, h.log.String(), "StatusBadNodeIDUnknown")
	require.Contains(t, h.log.String(), "urn:elsewhere")
	require.EqualValues(t, 2, h.meter.Totals().Dropped["node_refused"])
}

// TestRefusedNodesAreRetried has a node come up while the session lasts.
func TestRefusedNodesAreRetried(t *testing.T) {
	srv := startServer(t, sim.Config{Tags: []string{"a", "b"}})
	h := newHarness(t, testConfig(srv.Endpoint(), node("a"), node("b")))
	l, err := h.open(h.ctx)
	require.NoError(t, err)
	defer l.sess.close()
	l.table[1].status = 0x80340000
	require.Equal(t, 1, l.monitored())
	require.NoError(t, l.retry(h.ctx))
	require.Equal(t, 2, l.monitored())
	require.Contains(t, h.log.String(), "a node is read now")
}

func TestBrowse(t *testing.T) {
	var tags []string
	for i := range 1500 { // more than one answer holds
		tags = append(tags, fmt.Sprintf("plant/flat/v%04d", i))
	}
	tags = append(tags, "plant/hall/pump1/speed", "plant/hall/pump1/vibration_x", "plant/hall/pump2/speed")
	srv := startServer(t, sim.Config{Tags: tags})
	for _, c := range []struct {
		name   string
		browse Browse
		want   func(tag string) string // the expected tag, or ""
	}{
		{"everything", Browse{Root: "i=85"}, func(tag string) string { return tag }},
		{"below a folder, with a template", Browse{Root: "ns=1;s=plant/hall", Tag: "x/${path}"}, func(tag string) string {
			rest, ok := strings.CutPrefix(tag, "plant/hall/")
			if !ok {
				return ""
			}
			return "x/" + rest
		}},
		{"by id", Browse{Root: "ns=1;s=plant/hall", Tag: "${id}"}, func(tag string) string {
			if strings.HasPrefix(tag, "plant/hall") {
				return tag
			}
			return ""
		}},
		{"included", Browse{Root: "i=85", Include: []string{"**/speed"}}, func(tag string) string {
			if strings.HasSuffix(tag, "/speed") {
				return tag
			}
			return ""
		}},
		{"excluded", Browse{Root: "i=85", Exclude: []string{"plant/flat/**", "**/pump2/*"}}, func(tag string) string {
			if strings.HasPrefix(tag, "plant/hall/pump1") {
				return tag
			}
			return ""
		}},
		{"not deep", Browse{Root: "i=85", MaxDepth: 3}, func(tag string) string {
			if strings.HasPrefix(tag, "plant/flat") {
				return tag
			}
			return ""
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			cfg := testConfig(srv.Endpoint())
			cfg.Browse = []Browse{c.browse}
			h := newHarness(t, cfg)
			sess, err := h.cfg.openSession(h.ctx)
			require.NoError(t, err)
			defer sess.close()
			items, err := h.items(h.ctx, sess)
			require.NoError(t, err)
			var want, got []string
			for _, tag := range tags {
				if w := c.want(tag); w != "" {
					want = append(want, w)
				}
			}
			for _, it := range items {
				got = append(got, it.tag)
			}
			require.NotEmpty(t, want)
			require.ElementsMatch(t, want, got)
		})
	}
	t.Run("not many", func(t *testing.T) {
		cfg := testConfig(srv.Endpoint())
		cfg.Browse = []Browse{{Root: "i=85", MaxNodes: 10}}
		h := connect(t, cfg)
		require.NoError(t, srv.WaitSubscribed(h.ctx, 10))
		require.Contains(t, h.log.String(), "max_nodes")
	})
}

func TestManySubscriptions(t *testing.T) {
	var tags []string
	var nodes []Node
	var samples []simulators.Sample
	for i := range 95 {
		tag := fmt.Sprintf("v%d", i)
		tags, nodes = append(tags, tag), append(nodes, node(tag))
		samples = append(samples, simulators.Sample{Tag: tag, Time: base, Value: float64(i)})
	}
	srv := startServer(t, sim.Config{Tags: tags})
	cfg := testConfig(srv.Endpoint(), nodes...)
	cfg.ItemsPerSubscription, cfg.ItemsPerRequest = 10, 7
	h := connect(t, cfg)
	require.NoError(t, srv.WaitSubscribed(h.ctx, 95))
	for range 3 {
		_, err := srv.Set(samples)
		require.NoError(t, err)
	}
	rows := h.until(atLeast(3 * 95))
	for i, tag := range tags {
		got := of(rows, "t/"+tag)
		require.Len(t, got, 3)
		require.Equal(t, float64(i), got[0].Value)
	}
	require.Contains(t, h.log.String(), "subscriptions=10")
}

func TestServerRestart(t *testing.T) {
	first := startServer(t, sim.Config{Tags: []string{"a"}})
	h := connect(t, testConfig(first.Endpoint(), node("a")))
	_, err := first.Set([]simulators.Sample{{Tag: "a", Time: base, Value: 1}})
	require.NoError(t, err)
	h.until(atLeast(1))
	require.NoError(t, first.Close())
	for h.meter.Totals().Connected["plc"] {
		_, _, err := h.Read(h.ctx)
		require.NoError(t, err)
	}
	second := startServer(t, sim.Config{Tags: []string{"a"}, Listen: strings.TrimPrefix(first.Endpoint(), "opc.tcp://")})
	back := time.Now()
	_, err = second.Set([]simulators.Sample{{Tag: "a", Time: base + 100, Value: 2}})
	require.NoError(t, err)
	rows := h.until(atLeast(2))
	require.Less(t, time.Since(back), 10*time.Second)
	require.Equal(t, row{Tag: "t/a", Time: base + 100, Value: 2}, rows[1])
	require.True(t, h.meter.Totals().Connected["plc"])
}

// relay forwards to a server until it is told to swallow everything, as a
// cable does that somebody has pulled.
type relay struct {
	ln     net.Listener
	mu     sync.Mutex
	dead   bool
	conns  []net.Conn
	target string
	wg     sync.WaitGroup
}

func startRelay(t *testing.T, target string) *relay {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	r := &relay{ln: ln, target: target}
	pipe := func(dst, src net.Conn) {
		defer r.wg.Done()
		buf := make([]byte, 64<<10)
		for {
			n, err := src.Read(buf)
			if err != nil {
				dst.Close()
				return
			}
			r.mu.Lock()
			dead := r.dead
			r.mu.Unlock()
			if !dead {
				dst.Write(buf[:n])
			}
		}
	}
	r.wg.Add(1)
	go func() {
		defer r.wg.Done()
		for {
			in, err := ln.Accept()
			if err != nil {
				return
			}
			out, err := net.Dial("tcp", r.target)
			if err != nil {
				in.Close()
				continue
			}
			r.mu.Lock()
			r.conns = append(r.conns, in, out)
			r.mu.Unlock()
			r.wg.Add(2)
			go pipe(out, in)
			go pipe(in, out)
		}
	}()
	t.Cleanup(func() {
		ln.Close()
		r.mu.Lock()
		for _, c := range r.conns {
			c.Close()
		}
		r.mu.Unlock()
		r.wg.Wait()
	})
	return r
}

func (r *relay) setDead(dead bool) {
	r.mu.Lock()
	r.dead = dead
	r.mu.Unlock()
}

func TestSilentConnectionIsReplaced(t *testing.T) {
	srv := startServer(t, sim.Config{Tags: []string{"a"}})
	r := startRelay(t, strings.TrimPrefix(srv.Endpoint(), "opc.tcp://"))
	cfg := testConfig("opc.tcp://"+r.ln.Addr().String(), node("a"))
	cfg.RequestTimeout = time.Second
	h := connect(t, cfg)
	_, err := srv.Set([]simulators.Sample{{Tag: "a", Time: base, Value: 1}})
	require.NoError(t, err)
	h.until(atLeast(1))
	r.setDead(true)
	for h.meter.Totals().Connected["plc"] {
		_, _, err := h.Read(h.ctx)
		require.NoError(t, err)
	}
	require.Contains(t, h.log.String(), "the server does not answer")
	r.setDead(false)
	_, err = srv.Set([]simulators.Sample{{Tag: "a", Time: base + 100, Value: 2}})
	require.NoError(t, err)
	h.until(func(rows []row) bool { return len(rows) > 0 && rows[len(rows)-1].Value == 2 })
}

func TestSecurityIsNeverDroppedByItself(t *testing.T) {
	srv := startServer(t, sim.Config{Tags: []string{"a"}})
	cfg := testConfig(srv.Endpoint(), node("a"))
	cfg.SecurityPolicy, cfg.PKIDir = "auto", t.TempDir()
	h := newHarness(t, cfg)
	err := h.Connect(h.ctx)
	require.ErrorContains(t, err, "security_policy: None")
	require.True(t, pipeline.IsPermanent(err))

	cfg.SecurityMode = "None" // that says so too
	h = connect(t, cfg)
	require.True(t, h.meter.Totals().Connected["plc"])

	cfg.Auth.Username, cfg.Auth.Password = "x", "secret"
	h = newHarness(t, cfg)
	err = h.Connect(h.ctx)
	require.ErrorContains(t, err, "name and a password")
	require.True(t, pipeline.IsPermanent(err))
}

// TestStopWhileConnecting stops at every moment of connecting. The race detector
// has to find nothing, goleak nobody left behind.
func TestStopWhileConnecting(t *testing.T) {
	srv := startServer(t, sim.Config{Tags: []string{"a"}})
	cfg := testConfig(srv.Endpoint(), node("a"))
	for i := range 150 {
		h := newHarness(t, cfg)
		ctx, cancel := context.WithCancel(h.ctx)
		stop := time.AfterFunc(time.Duration(i)*100*time.Microsecond, cancel)
		err := h.Connect(ctx)
		stop.Stop()
		cancel()
		require.False(t, pipeline.IsPermanent(err))
	}
}

// TestStopWhileTheServerIsSilent stops while a peer takes the connection and
// says nothing.
func TestStopWhileTheServerIsSilent(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer ln.Close()
	cfg := testConfig("opc.tcp://"+ln.Addr().String(), node("a"))
	cfg.RequestTimeout = time.Minute
	h := newHarness(t, cfg)
	ctx, cancel := context.WithCancel(h.ctx)
	time.AfterFunc(50*time.Millisecond, cancel)
	begin := time.Now()
	require.ErrorIs(t, h.Connect(ctx), context.Canceled)
	require.Less(t, time.Since(begin), 20*time.Second)
}

func TestNobodyThere(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	addr := ln.Addr().String()
	require.NoError(t, ln.Close())
	h := newHarness(t, testConfig("opc.tcp://"+addr, node("a")))
	err = h.Connect(h.ctx)
	require.Error(t, err)
	require.False(t, pipeline.IsPermanent(err))
}

// TestNotAServer connects to peers that speak something else, or nothing.
func TestNotAServer(t *testing.T) {
	for name, answer := range map[string]string{"closes": "", "http": "HTTP/1.1 400 Bad Request\r\n\r\n", "huge": "ACKF\xff\xff\xff\x7f", "short": "ACKF\x08\x00\x00\x00"} {
		t.Run(name, func(t *testing.T) {
			ln, err := net.Listen("tcp", "127.0.0.1:0")
			require.NoError(t, err)
			done := make(chan struct{})
			go func() {
				defer close(done)
				for {
					c, err := ln.Accept()
					if err != nil {
						return
					}
					io.WriteString(c, answer)
					c.Close()
				}
			}()
			defer func() { ln.Close(); <-done }()
			h := newHarness(t, testConfig("opc.tcp://"+ln.Addr().String(), node("a")))
			err = h.Connect(h.ctx)
			require.Error(t, err)
			require.False(t, pipeline.IsPermanent(err))
		})
	}
}
