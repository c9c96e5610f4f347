package alert

import (
	"math"

	"github.com/apache/arrow/go/v17/arrow"

	"github.com/penstock/penstock/internal/state"
)

const never = arrow.Timestamp(math.MaxInt64)

// phase is where a tag stands with its rule.
type phase uint8

const (
	normal   phase = iota
	pending        // the condition is met, the on-delay runs
	raised         // the alert is on
	clearing       // the alert is on, the condition is over, the off-delay runs
)

// verdict is what one row says of the condition.
type verdict uint8

const (
	met  verdict = iota // the condition is met
	over                // the condition is not met
	open                // neither: within the hysteresis, or a row that does not count
)

// machine is the state of one tag.
type machine struct {
	phase phase
	rows  int64           // pending: rows in a row that met the condition
	clock arrow.Timestamp // time of the last row or decision
	since arrow.Timestamp // pending, clearing: when that began
	due   arrow.Timestamp // when the phase ends by itself, or never

	// stale and stuck: quiet is since when nothing came or moved, while armed.
	armed bool
	quiet arrow.Timestamp
	ref   float64 // stuck: the number that does not move
	known bool    // ref is set

	raised   arrow.Timestamp // of the alert that is on
	value    float64         // what the next event reports
	hasValue bool
	limit    float64
}

// timing is the part of the config that machines need.
type timing struct {
	on, off, quiet arrow.Timestamp
	samples        int64
}

// change tells what a machine did.
type change uint8

const (
	none change = iota
	toRaised
	toCleared
)

// row moves the machine on by a row of time t; what is due before t has been
// done.
func (m *machine) row(t arrow.Timestamp, v verdict, c *timing) (ch change) {
	switch {
	case v == met && m.phase == normal:
		m.phase, m.since, m.rows = pending, t, 1
	case v == met && m.phase == pending:
		m.rows++
	case v == met && m.phase == clearing, v == open && m.phase == clearing:
		m.phase = raised
	case v == over && m.phase == raised:
		m.phase, m.since = clearing, t
	case v != met && m.phase == pending:
		m.phase = normal
	}
	switch {
	case m.phase == pending && m.rows >= c.samples && t-m.since >= c.on:
		ch = m.raise(t)
	case m.phase == clearing && t-m.since >= c.off:
		ch = m.clear()
	}
	m.schedule(c)
	return ch
}

func (m *machine) raise(t arrow.Timestamp) change {
	m.phase, m.raised = raised, t
	return toRaised
}

func (m *machine) clear() change {
	m.phase = normal
	return toCleared
}

// fire does what is due, and returns when that was.
func (m *machine) fire(c *timing) (t arrow.Timestamp, ch change) {
	t = m.due
	m.clock = max(m.clock, t)
	switch m.phase {
	case normal, pending:
		ch = m.raise(t)
	case clearing:
		if m.quietEnds(c) <= t { // quiet again before the off-delay is over
			m.phase = raised
		} else {
			ch = m.clear()
		}
	}
	m.schedule(c)
	return t, ch
}

// quietEnds is when a quiet tag becomes stale or stuck.
func (m *machine) quietEnds(c *timing) arrow.Timestamp {
	if !m.armed {
		return never
	}
	return later(m.quiet, c.quiet)
}

func (m *machine) schedule(c *timing) {
	m.due = never
	switch m.phase {
	case normal:
		m.due = m.quietEnds(c)
	case pending:
		if m.rows >= c.samples {
			m.due = later(m.since, c.on)
		}
	case clearing:
		m.due = min(later(m.since, c.off), m.quietEnds(c))
	}
}

// later returns t+d, or never when that is beyond what a timestamp can hold.
func later(t, d arrow.Timestamp) arrow.Timestamp {
	if t > never-d {
		return never
	}
	return t + d
}

const machineBytes = 5 + 9*8 // in a snapshot

func (m *machine) write(w *state.Writer) {
	w.Bool(m.phase&1 != 0)
	w.Bool(m.phase&2 != 0)
	w.Bool(m.armed)
	w.Bool(m.known)
	w.Bool(m.hasValue)
	for _, v := range []int64{m.rows, int64(m.clock), int64(m.since), int64(m.due), int64(m.quiet), int64(m.raised)} {
		w.Int(v)
	}
	w.Float(m.ref)
	w.Float(m.value)
	w.Float(m.limit)
}

func (m *machine) read(r *state.Reader) {
	if r.Bool() {
		m.phase |= 1
	}
	if r.Bool() {
		m.phase |= 2
	}
	m.armed, m.known, m.hasValue = r.Bool(), r.Bool(), r.Bool()
	m.rows = r.Int()
	for _, t := range []*arrow.Timestamp{&m.clock, &m.since, &m.due, &m.quiet, &m.raised} {
		*t = arrow.Timestamp(r.Int())
	}
	m.ref, m.value, m.limit = r.Float(), r.Float(), r.Float()
}
