package alert

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/apache/arrow/go/v17/arrow"
	"github.com/apache/arrow/go/v17/arrow/array"
	"github.com/apache/arrow/go/v17/arrow/memory"
	"github.com/cespare/xxhash/v2"

	"github.com/penstock/penstock/internal/columns"
	"github.com/penstock/penstock/pipeline"
)

// The states of an event.
const (
	StateRaised  = "raised"
	StateCleared = "cleared"
)

// ID returns the id of the alert that rule raised for tag at the given time:
// the same on every replay, the same for its raise and its clear.
func ID(rule, tag string, raised arrow.Timestamp) string {
	var d xxhash.Digest
	d.Reset()
	_, _ = d.WriteString(rule + "\x00" + tag + "\x00" + strconv.FormatInt(int64(raised), 10))
	return fmt.Sprintf("%016x", d.Sum64())
}

// events collects the rows of [pipeline.AlertEvents].
type events struct {
	keys                                      columns.Keys
	id, rule, asset, severity, state, message []string
	value, limit                              []float64
	valid                                     []bool
	raised                                    []arrow.Timestamp
}

// event notes a change of tag id at time t.
func (r *Rule) event(id int, m *machine, t arrow.Timestamp, ch change) {
	tag := r.names.Name(id)
	info := r.env.Tags.Info(tag)
	if ch == toRaised && r.kind != onLimit {
		m.limit = time.Duration(r.timing.quiet).Seconds()
	}
	e := &r.events
	e.keys.Add(tag, t)
	e.id = append(e.id, ID(r.env.Name, tag, m.raised))
	e.rule = append(e.rule, r.env.Name)
	e.asset = append(e.asset, info.Asset)
	e.severity = append(e.severity, r.cfg.Severity)
	e.value, e.valid = append(e.value, m.value), append(e.valid, m.hasValue)
	e.limit = append(e.limit, m.limit)
	e.raised = append(e.raised, m.raised)
	template, state := "{tag} is back to normal: {value}", StateCleared
	if ch == toRaised {
		template, state = r.template(m), StateRaised
	}
	e.state = append(e.state, state)
	value := "no value"
	if m.hasValue {
		value = number(m.value)
	}
	e.message = append(e.message, strings.NewReplacer("{tag}", tag, "{asset}", info.Asset, "{measurement}", info.Measurement, "{unit}", info.Unit,
		"{value}", value, "{limit}", number(m.limit), "{rule}", r.env.Name, "{severity}", r.cfg.Severity).Replace(template))
}

// number writes v for people.
func number(v float64) string { return strconv.FormatFloat(v, 'g', 6, 64) }

func (r *Rule) template(m *machine) string {
	switch {
	case r.cfg.Message != "":
		return r.cfg.Message
	case r.kind == onBad:
		return "{tag} has Bad quality"
	case r.kind == onStale:
		return "{tag} has sent nothing for {limit} s"
	case r.kind == onStuck:
		return "{tag} has not moved from {value} for {limit} s"
	case m.limit == r.below:
		return "{tag} is {value}, below {limit}"
	}
	return "{tag} is {value}, above {limit}"
}

func (e *events) flush(alloc memory.Allocator, out pipeline.Emitter) error {
	if e.keys.Len() == 0 {
		return nil
	}
	times, tags := e.keys.Arrays(alloc)
	rec := columns.Record(pipeline.AlertEvents, []arrow.Array{times, tags,
		columns.Strings(alloc, e.id), columns.Strings(alloc, e.rule), columns.Strings(alloc, e.asset), columns.Strings(alloc, e.severity),
		columns.Strings(alloc, e.state), columns.Float64s(alloc, e.value, e.valid), columns.Float64s(alloc, e.limit, nil),
		columns.Timestamps(alloc, e.raised), columns.Strings(alloc, e.message)})
	*e = events{}
	defer rec.Release()
	return out.Emit("", rec)
}

// Event is one row of [pipeline.AlertEvents], as it is delivered.
type Event struct {
	ID       string    `json:"id"`
	Rule     string    `json:"rule"`
	Asset    string    `json:"asset"`
	Tag      string    `json:"tag"`
	Severity string    `json:"severity"`
	State    string    `json:"state"` // raised or cleared
	Value    *float64  `json:"value"` // null when there is none, or when JSON cannot say it
	Limit    *float64  `json:"limit"`
	Time     time.Time `json:"time"`
	Raised   time.Time `json:"raised"`
	Message  string    `json:"message"`
}

// Key is the same whenever the event is delivered again.
func (e *Event) Key() string { return e.ID + "-" + e.State }

// Events reads a record of [pipeline.AlertEvents]. Any other is a permanent
// error: a retry would not make events of it.
func Events(rec arrow.Record) ([]Event, error) {
	s := rec.Schema()
	for i, f := range pipeline.AlertEvents.Fields() {
		if i >= s.NumFields() || s.Field(i).Name != f.Name || !arrow.TypeEqual(s.Field(i).Type, f.Type) {
			return nil, pipeline.Permanent(fmt.Errorf("this sink takes alert events, and node %q sends other rows: set its inputs to alerts, or to alert rules", pipeline.Node(s)))
		}
	}
	runs, err := pipeline.Runs(nil, rec, 1)
	if err != nil {
		return nil, pipeline.Permanent(err)
	}
	text := func(col, i int) string { return strings.Clone(rec.Column(col).(*array.String).Value(i)) }
	num := func(col, i int) *float64 {
		a := rec.Column(col).(*array.Float64)
		if a.IsNull(i) || a.Value(i)-a.Value(i) != 0 {
			return nil
		}
		v := a.Value(i)
		return &v
	}
	at := func(col, i int) time.Time {
		return time.Unix(0, int64(rec.Column(col).(*array.Timestamp).Value(i))).UTC()
	}
	var out []Event
	for _, run := range runs {
		for i := run.Start; i < run.End; i++ {
			out = append(out, Event{Time: at(0, i), Tag: strings.Clone(run.Tag), ID: text(2, i), Rule: text(3, i), Asset: text(4, i), Severity: text(5, i),
				State: text(6, i), Value: num(7, i), Limit: num(8, i), Raised: at(9, i), Message: text(10, i)})
		}
	}
	return out, nil
}
