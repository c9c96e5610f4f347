package pipeline

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// The totals and the Prometheus counters say the same, and a copy of the
// totals stays as it is.
func TestMeterTotals(t *testing.T) {
	m := NewMeter()
	m.Published("plc", 9)
	m.Ingested("plc", 5)
	m.Ingested("floor", 2)
	m.Ingested("floor", 0)
	m.Ingested("floor", -3) // counters only grow
	m.Journaled("plc", 4)
	m.Processed("0", 4)
	m.Dropped("plc", "time_in_future", 1)
	m.Dropped("floor", "time_in_future", 2)
	m.Dropped("floor", "undecodable", 3)
	m.Edge("plc", "score", 4)
	m.Queued("influx", 4)
	m.Accepted("influx", 3)
	m.DeadLettered("influx", 1)
	m.Operator("score", "ewma@1", "wasmer", 4, time.Millisecond)
	m.Connected("plc", true)
	want := Totals{Published: 9, Ingested: 7, Journaled: 4, Processed: 4,
		Dropped:   map[string]int64{"time_in_future": 3, "undecodable": 3},
		DroppedAt: map[string]map[string]int64{"plc": {"time_in_future": 1}, "floor": {"time_in_future": 2, "undecodable": 3}},
		Sinks:     map[string]SinkTotals{"influx": {Queued: 4, Accepted: 3, DeadLettered: 1}},
		Operators: map[string]OperatorTotals{"score": {Module: "ewma@1", Engine: "wasmer", Rows: 4, Calls: 1, Busy: time.Millisecond}},
		Edges:     map[[2]string]int64{{"plc", "score"}: 4}, Connected: map[string]bool{"plc": true}, IngestedBy: map[string]int64{"plc": 5, "floor": 2}}
	got := m.Totals()
	require.Equal(t, want, got)
	families, err := m.Registry().Gather()
	require.NoError(t, err)
	values := map[string]float64{} // sums over all labels
	for _, f := range families {
		for _, v := range f.GetMetric() {
			values[f.GetName()] += v.GetCounter().GetValue() + v.GetGauge().GetValue()
		}
	}
	require.Subset(t, values, map[string]float64{"penstock_dropped_rows_total": 6, "penstock_connected": 1})

	m.Dropped("plc", "time_in_future", 1)
	m.Accepted("influx", 1)
	m.Edge("plc", "score", 1)
	m.Operator("score", "ewma@1", "wasmer", 1, 0)
	m.Connected("plc", false)
	require.Equal(t, want, got, "the copy is the caller's")
}

// Latency is counted for every row; a device whose clock is ahead, and an
// outage of hours, stay within the scale.
func TestMeterLatency(t *testing.T) {
	m := NewMeter()
	_, ok := m.LatencyQuantile(50)
	require.False(t, ok)
	now := time.Now().UnixNano()
	at := func(d time.Duration) int64 { return now - int64(d) }
	m.Latency([]int64{at(10 * time.Millisecond), at(10 * time.Millisecond), at(10 * time.Millisecond), at(-time.Hour), at(5 * time.Hour)}, now)
	p50, ok := m.LatencyQuantile(50)
	require.True(t, ok)
	require.InDelta(t, 10*time.Millisecond, p50, float64(20*time.Microsecond))
	low, _ := m.LatencyQuantile(0)
	require.LessOrEqual(t, low, time.Microsecond)
	high, _ := m.LatencyQuantile(100)
	require.InDelta(t, time.Hour, high, float64(10*time.Second))
}
