package pipeline

import (
	"maps"
	"sync"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
	"github.com/prometheus/client_golang/prometheus"
)

// Meter counts what happens to rows, for Prometheus, for the summary and for
// the page. All methods are safe for concurrent use and are called per batch,
// never per row.
type Meter struct {
	*counts
	mute func() bool // nil is never
}

type counts struct {
	reg       *prometheus.Registry
	published *prometheus.CounterVec
	ingested  *prometheus.CounterVec
	journaled *prometheus.CounterVec
	processed *prometheus.CounterVec
	dropped   *prometheus.CounterVec
	edges     *prometheus.CounterVec
	queued    *prometheus.CounterVec
	accepted  *prometheus.CounterVec
	dead      *prometheus.CounterVec
	opRows    *prometheus.CounterVec
	opCalls   *prometheus.CounterVec
	opSeconds *prometheus.CounterVec
	connected *prometheus.GaugeVec

	mu      sync.Mutex
	totals  Totals
	latency *hdrhistogram.Histogram // µs
}

// Totals is a copy of all counts so far, in rows.
type Totals struct {
	Published, Ingested, Journaled, Processed int64
	Dropped                                   map[string]int64            // by reason
	DroppedAt                                 map[string]map[string]int64 // by component, then reason
	Sinks                                     map[string]SinkTotals
	Operators                                 map[string]OperatorTotals
	Edges                                     map[[2]string]int64 // from, to
	Connected                                 map[string]bool
	IngestedBy                                map[string]int64 // by source
}

// SinkTotals counts the rows of one sink.
type SinkTotals struct{ Queued, Accepted, DeadLettered int64 }

// OperatorTotals counts the work of one operator. Busy is time inside it.
type OperatorTotals struct {
	Module, Engine string
	Rows, Calls    int64
	Busy           time.Duration
}

// NewMeter returns a Meter with a Prometheus registry of its own.
func NewMeter() *Meter {
	m := &Meter{counts: &counts{
		reg:     prometheus.NewRegistry(),
		latency: hdrhistogram.New(1, int64(time.Hour/time.Microsecond), 3),
		totals: Totals{Dropped: map[string]int64{}, DroppedAt: map[string]map[string]int64{}, Sinks: map[string]SinkTotals{},
			Operators: map[string]OperatorTotals{}, Edges: map[[2]string]int64{}, Connected: map[string]bool{}, IngestedBy: map[string]int64{}},
	}}
	vec := func(name, help string, labels ...string) *prometheus.CounterVec {
		v := prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: "penstock", Name: name, Help: help}, labels)
		m.reg.MustRegister(v)
		return v
	}
	m.published = vec("published_rows_total", "Readings that the built-in simulators published.", "source")
	m.ingested = vec("ingested_rows_total", "Readings decoded by a source.", "source")
	m.journaled = vec("journaled_rows_total", "Readings stored in the journal.", "source")
	m.processed = vec("processed_rows_total", "Readings that a flow worker has run through the graph.", "shard")
	m.dropped = vec("dropped_rows_total", "Rows dropped, by component and reason.", "component", "reason")
	m.edges = vec("edge_rows_total", "Rows handed over along an edge of the graph.", "from", "to")
	m.queued = vec("sink_queued_rows_total", "Rows put into a sink's queue.", "sink")
	m.accepted = vec("sink_accepted_rows_total", "Rows a sink accepted.", "sink")
	m.dead = vec("sink_dead_lettered_rows_total", "Rows a sink refused for good.", "sink")
	m.opRows = vec("operator_rows_total", "Rows an operator took.", "operator", "module", "engine")
	m.opCalls = vec("operator_calls_total", "Batches an operator took.", "operator", "module", "engine")
	m.opSeconds = vec("operator_busy_seconds_total", "Time spent inside an operator.", "operator", "module", "engine")
	m.connected = prometheus.NewGaugeVec(prometheus.GaugeOpts{Namespace: "penstock", Name: "connected", Help: "1 while the component is connected to its peer."}, []string{"component"})
	m.reg.MustRegister(m.connected)
	return m
}

// Muted returns m, but that it does not count while mute says so: work that is
// done again.
func (m *Meter) Muted(mute func() bool) *Meter { return &Meter{counts: m.counts, mute: mute} }

// Counts reports whether what happens is to be counted.
func (m *Meter) Counts() bool { return m.mute == nil || !m.mute() }

// Registry is where further collectors may be registered and /metrics reads.
func (m *Meter) Registry() *prometheus.Registry { return m.reg }

func (m *Meter) count(v *prometheus.CounterVec, rows int, f func(t *Totals, n int64), labels ...string) {
	if rows <= 0 || !m.Counts() {
		return
	}
	v.WithLabelValues(labels...).Add(float64(rows))
	m.mu.Lock()
	f(&m.totals, int64(rows))
	m.mu.Unlock()
}

// Published counts readings a simulator sent.
func (m *Meter) Published(source string, rows int) {
	m.count(m.published, rows, func(t *Totals, n int64) { t.Published += n }, source)
}

// Ingested counts readings a source decoded, those it then drops included.
func (m *Meter) Ingested(source string, rows int) {
	m.count(m.ingested, rows, func(t *Totals, n int64) { t.Ingested += n; t.IngestedBy[source] += n }, source)
}

// Journaled counts readings stored in the journal.
func (m *Meter) Journaled(source string, rows int) {
	m.count(m.journaled, rows, func(t *Totals, n int64) { t.Journaled += n }, source)
}

// Processed counts readings run through the graph by a shard's worker.
func (m *Meter) Processed(shard string, rows int) {
	m.count(m.processed, rows, func(t *Totals, n int64) { t.Processed += n }, shard)
}

// Dropped counts rows (or messages that could not be decoded into rows) that
// component gave up, by reason: a short snake_case word.
func (m *Meter) Dropped(component, reason string, rows int) {
	m.count(m.dropped, rows, func(t *Totals, n int64) {
		t.Dropped[reason] += n
		if t.DroppedAt[component] == nil {
			t.DroppedAt[component] = map[string]int64{}
		}
		t.DroppedAt[component][reason] += n
	}, component, reason)
}

// Edge counts rows handed from one node of the graph to another.
func (m *Meter) Edge(from, to string, rows int) {
	m.count(m.edges, rows, func(t *Totals, n int64) { t.Edges[[2]string{from, to}] += n }, from, to)
}

// Queued, Accepted and DeadLettered count the rows of a sink.
func (m *Meter) Queued(sink string, rows int) {
	m.count(m.queued, rows, func(t *Totals, n int64) { s := t.Sinks[sink]; s.Queued += n; t.Sinks[sink] = s }, sink)
}
func (m *Meter) Accepted(sink string, rows int) {
	m.count(m.accepted, rows, func(t *Totals, n int64) { s := t.Sinks[sink]; s.Accepted += n; t.Sinks[sink] = s }, sink)
}
func (m *Meter) DeadLettered(sink string, rows int) {
	m.count(m.dead, rows, func(t *Totals, n int64) { s := t.Sinks[sink]; s.DeadLettered += n; t.Sinks[sink] = s }, sink)
}

// Operator counts one call of an operator. module and engine are empty for
// native operators.
func (m *Meter) Operator(name, module, engine string, rows int, busy time.Duration) {
	if !m.Counts() {
		return
	}
	m.opRows.WithLabelValues(name, module, engine).Add(float64(rows))
	m.opCalls.WithLabelValues(name, module, engine).Inc()
	m.opSeconds.WithLabelValues(name, module, engine).Add(busy.Seconds())
	m.mu.Lock()
	o := m.totals.Operators[name]
	o.Module, o.Engine = module, engine
	o.Rows += int64(rows)
	o.Calls++
	o.Busy += busy
	m.totals.Operators[name] = o
	m.mu.Unlock()
}

// Connected says whether a component has its peer.
func (m *Meter) Connected(component string, up bool) {
	v := 0.0
	if up {
		v = 1
	}
	m.connected.WithLabelValues(component).Set(v)
	m.mu.Lock()
	m.totals.Connected[component] = up
	m.mu.Unlock()
}

// Latency records, for each source time in ns since 1970, how long it took
// until now (ns since 1970), when a sink accepted the row.
func (m *Meter) Latency(times []int64, now int64) {
	m.mu.Lock()
	for i := 0; i < len(times); {
		j := i + 1
		for j < len(times) && times[j] == times[i] {
			j++
		}
		_ = m.latency.RecordValues(min(max((now-times[i])/1000, 1), int64(time.Hour/time.Microsecond)), int64(j-i))
		i = j
	}
	m.mu.Unlock()
}

// LatencyQuantile returns the q-th percentile (0..100) of what Latency
// recorded, and false when it recorded nothing.
func (m *Meter) LatencyQuantile(q float64) (time.Duration, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.latency.TotalCount() == 0 {
		return 0, false
	}
	return time.Duration(m.latency.ValueAtPercentile(q)) * time.Microsecond, true
}

// Totals returns a deep copy of all counts.
func (m *Meter) Totals() Totals {
	m.mu.Lock()
	defer m.mu.Unlock()
	t := m.totals
	t.Dropped = maps.Clone(t.Dropped)
	t.Sinks = maps.Clone(t.Sinks)
	t.Operators = maps.Clone(t.Operators)
	t.Edges = maps.Clone(t.Edges)
	t.Connected = maps.Clone(t.Connected)
	t.IngestedBy = maps.Clone(t.IngestedBy)
	at := make(map[string]map[string]int64, len(t.DroppedAt))
	for k, v := range t.DroppedAt {
		at[k] = maps.Clone(v)
	}
	t.DroppedAt = at
	return t
}
