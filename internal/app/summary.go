package app

import (
	"os"
	"strconv"
	"strings"
	"syscall"

	"github.com/penstock/penstock/simulators/plant"
)

// Summary is what `--summary` writes.
type Summary struct {
	Readings    ReadingsSummary        `json:"readings"`
	Sinks       map[string]SinkSummary `json:"sinks"`
	Alerts      []Alert                `json:"alerts"`
	Faults      []plant.FaultResult    `json:"faults,omitempty"`       // demo only
	FalseAlarms *int                   `json:"false_alarms,omitempty"` // demo only
	LatencyMS   *LatencySummary        `json:"latency_ms,omitempty"`
	Operators   []OperatorSummary      `json:"operators"`
	PeakRSS     int64                  `json:"peak_rss_bytes"`
	CPUSeconds  float64                `json:"cpu_seconds"`
}

// ReadingsSummary counts readings through the stages.
type ReadingsSummary struct {
	Published *int64           `json:"published,omitempty"` // where the simulators run inside
	Ingested  int64            `json:"ingested"`
	Journaled int64            `json:"journaled"`
	Processed int64            `json:"processed"`
	Dropped   map[string]int64 `json:"dropped"`
}

// SinkSummary counts the rows of one sink.
type SinkSummary struct {
	Queued       int64 `json:"queued"`
	Accepted     int64 `json:"accepted"`
	DeadLettered int64 `json:"dead_lettered"`
}

// LatencySummary is the time from a reading's source time to its acceptance by
// a sink, in ms.
type LatencySummary struct {
	P50 float64 `json:"p50"`
	P99 float64 `json:"p99"`
}

// OperatorSummary is the work of one operator.
type OperatorSummary struct {
	Name     string  `json:"name"`
	Module   string  `json:"module,omitempty"`
	Engine   string  `json:"engine,omitempty"`
	Rows     int64   `json:"rows"`
	Calls    int64   `json:"calls"`
	NsPerRow float64 `json:"ns_per_row"`
}

// Summary reads the counters as they stand.
func (a *App) Summary() *Summary {
	t := a.o.Meter.Totals()
	s := &Summary{
		Readings: ReadingsSummary{Ingested: t.Ingested, Journaled: t.Journaled, Processed: t.Processed, Dropped: t.Dropped},
		Sinks:    map[string]SinkSummary{}, Alerts: a.Alerts.All(), Operators: []OperatorSummary{},
	}
	for _, c := range a.o.Config.Sinks {
		v := t.Sinks[c.Name]
		s.Sinks[c.Name] = SinkSummary{v.Queued, v.Accepted, v.DeadLettered}
	}
	for _, n := range a.graph.Nodes {
		if o, ok := t.Operators[n.Name]; ok {
			row := OperatorSummary{Name: n.Name, Module: o.Module, Engine: o.Engine, Rows: o.Rows, Calls: o.Calls}
			if o.Rows > 0 {
				row.NsPerRow = float64(o.Busy.Nanoseconds()) / float64(o.Rows)
			}
			s.Operators = append(s.Operators, row)
		}
	}
	if p50, ok := a.o.Meter.LatencyQuantile(50); ok {
		p99, _ := a.o.Meter.LatencyQuantile(99)
		s.LatencyMS = &LatencySummary{float64(p50.Microseconds()) / 1e3, float64(p99.Microseconds()) / 1e3}
	}
	s.CPUSeconds, s.PeakRSS = Usage()
	return s
}

// Lost returns how many readings did not get through: published but not
// ingested, ingested but not processed, queued but not accepted, or dropped.
func (s *Summary) Lost() int64 {
	lost := max(s.Readings.Ingested-s.Readings.Journaled, 0) + max(s.Readings.Journaled-s.Readings.Processed, 0)
	if s.Readings.Published != nil {
		lost += max(*s.Readings.Published-s.Readings.Ingested, 0)
	}
	for _, k := range s.Sinks {
		lost += max(k.Queued-k.Accepted, 0)
	}
	return lost
}

// Usage returns the CPU seconds and the peak resident memory of this process.
func Usage() (cpu float64, peakRSS int64) {
	var u syscall.Rusage
	if syscall.Getrusage(syscall.RUSAGE_SELF, &u) == nil {
		cpu = float64(u.Utime.Sec+u.Stime.Sec) + float64(u.Utime.Usec+u.Stime.Usec)/1e6
		peakRSS = u.Maxrss * 1024
	}
	// The kernel's high-water mark of this process alone, where there is /proc:
	// ru_maxrss survives an exec.
	if data, err := os.ReadFile("/proc/self/status"); err == nil {
		for _, line := range strings.Split(string(data), "\n") {
			if rest, ok := strings.CutPrefix(line, "VmHWM:"); ok {
				if kb, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(rest), " kB"), 10, 64); err == nil {
					peakRSS = kb * 1024
				}
			}
		}
	}
	return cpu, peakRSS
}
