package web

import (
	"slices"
	"time"

	"github.com/penstock/penstock/pipeline"
	"github.com/penstock/penstock/pipeline/graph"
)

// state is what GET /api/state answers.
type state struct {
	Name     string            `json:"name"`
	Now      int64             `json:"now"` // ms since 1970
	UptimeS  float64           `json:"uptime_s"`
	Readings map[string]int64  `json:"readings"`
	Rate     float64           `json:"rate"` // readings/s
	Dropped  map[string]int64  `json:"dropped"`
	Latency  []float64         `json:"latency_ms"` // p50, p99
	Backlog  uint64            `json:"backlog"`
	Queues   map[string]uint64 `json:"queues"`
	Nodes    []node            `json:"nodes"`
	Edges    []edge            `json:"edges"`
	Alerts   []Alert           `json:"alerts"` // newest first
	Active   int               `json:"active"`
	Tags     []string          `json:"tags"`
	Suspects []string          `json:"suspects"` // tags with anomalies, most recent first
	Faults   []Fault           `json:"faults"`   // newest first; null without a simulated plant
}

type node struct {
	Name   string  `json:"name"`
	Kind   string  `json:"kind"`
	Type   string  `json:"type"`
	Level  int     `json:"level"` // 0 for sources; one more than its deepest input
	NsRow  float64 `json:"ns_per_row,omitempty"`
	Module string  `json:"module,omitempty"`
	Engine string  `json:"engine,omitempty"`
	Up     *bool   `json:"up,omitempty"`
	Active int     `json:"active,omitempty"` // alerts of this rule
}

type edge struct {
	From string  `json:"from"`
	To   string  `json:"to"`
	Port string  `json:"port,omitempty"`
	Rows int64   `json:"rows"`
	Rate float64 `json:"rate"` // rows/s
}

// rates turns counts into rates over about two seconds.
type rates struct {
	at    time.Time
	edges map[[2]string]int64
	in    int64
	edge  map[[2]string]float64
	rate  float64
}

func (r *rates) update(t pipeline.Totals, now time.Time) {
	dt := now.Sub(r.at).Seconds()
	if r.edges != nil && dt < 1.5 {
		return
	}
	if r.edges != nil {
		r.edge = map[[2]string]float64{}
		for k, n := range t.Edges {
			r.edge[k] = float64(n-r.edges[k]) / dt
		}
		r.rate = float64(t.Ingested-r.in) / dt
	}
	r.at, r.edges, r.in = now, t.Edges, t.Ingested
}

// maxListed bounds the alerts, and the faults, in one answer.
const maxListed = 200

func (p *Page) state() state {
	t := p.o.Meter.Totals()
	now := time.Now()
	p.mu.Lock()
	p.rates.update(t, now)
	live, r, faults := p.live, p.rates, p.faults
	p.mu.Unlock()
	s := state{Name: p.o.Name, Now: now.UnixMilli(), UptimeS: now.Sub(p.start).Seconds(), Rate: r.rate, Dropped: t.Dropped,
		Readings: map[string]int64{"ingested": t.Ingested, "journaled": t.Journaled, "processed": t.Processed},
		Nodes:    []node{}, Edges: []edge{}, Alerts: []Alert{}}
	for _, q := range []float64{50, 99} {
		if d, ok := p.o.Meter.LatencyQuantile(q); ok {
			s.Latency = append(s.Latency, float64(d.Microseconds())/1e3)
		}
	}
	if live.Backlog != nil {
		s.Backlog, s.Queues = live.Backlog()
	}
	active := map[string]int{} // by rule
	if live.Alerts != nil {
		all := live.Alerts()
		for _, a := range all {
			if a.Cleared == nil {
				s.Active++
				active[a.Rule]++
			}
		}
		slices.Reverse(all)
		s.Alerts = all[:min(len(all), maxListed)]
	}
	if live.Graph != nil {
		level := map[string]int{}
		for _, n := range live.Graph.Nodes {
			v := node{Name: n.Name, Kind: string(n.Kind), Type: n.Type, Active: active[n.Name]}
			for _, in := range n.Inputs {
				level[n.Name] = max(level[n.Name], level[in.Node]+1)
				k := [2]string{in.Node, n.Name}
				s.Edges = append(s.Edges, edge{From: in.Node, To: n.Name, Port: in.Port, Rows: t.Edges[k], Rate: r.edge[k]})
			}
			v.Level = level[n.Name]
			if o, ok := t.Operators[n.Name]; ok && o.Rows > 0 {
				v.NsRow, v.Module, v.Engine = float64(o.Busy.Nanoseconds())/float64(o.Rows), o.Module, o.Engine
			}
			if up, ok := t.Connected[n.Name]; ok && (n.Kind == graph.Source || n.Kind == graph.Sink) {
				v.Up = &up
			}
			s.Nodes = append(s.Nodes, v)
		}
	}
	if faults != nil {
		all := faults()
		slices.Reverse(all)
		s.Faults = all[:min(len(all), maxListed)]
	}
	s.Tags, s.Suspects = p.series.names()
	return s
}

// names returns all tags, and those with anomalies, the newest first.
func (s *series) names() (all, suspects []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	all = slices.Clone(s.list)
	suspects = []string{}
	last := func(tag string) int64 { m := s.tags[tag].marks; return m[len(m)-1].T }
	for _, tag := range all {
		if len(s.tags[tag].marks) > 0 {
			suspects = append(suspects, tag)
		}
	}
	slices.SortStableFunc(suspects, func(a, b string) int { return int(last(b) - last(a)) })
	return all, suspects
}
