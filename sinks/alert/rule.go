package alert

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"path"

	"github.com/apache/arrow/go/v17/arrow"
	"github.com/apache/arrow/go/v17/arrow/memory"

	"github.com/penstock/penstock/internal/columns"
	"github.com/penstock/penstock/internal/state"
	"github.com/penstock/penstock/pipeline"
)

// Rule is an alert rule: an operator from rows with a time and a tag to
// [pipeline.AlertEvents]. Its name is env.Name.
type Rule struct {
	cfg          Config
	env          pipeline.Env
	kind         condition
	above, below float64 // infinite when there is none
	timing       timing
	cols         struct{ time, tag, value, quality int } // value and quality: -1 for none

	names   columns.Names
	watched []bool          // by tag
	tags    []machine       // by tag
	next    arrow.Timestamp // nothing is due before

	runs   []pipeline.Run
	events events
}

// New returns the rule.
func New(cfg Config, env pipeline.Env) (*Rule, error) {
	kinds := cfg.conditions()
	if len(kinds) != 1 {
		return nil, fmt.Errorf("a rule has one condition, this one has %d", len(kinds))
	}
	if env.Alloc == nil {
		env.Alloc = memory.DefaultAllocator
	}
	if env.Tags == nil {
		env.Tags = pipeline.NewTags(nil)
	}
	r := &Rule{cfg: cfg, env: env, kind: kinds[0], above: math.Inf(1), below: math.Inf(-1), next: never,
		timing: timing{on: arrow.Timestamp(cfg.OnDelay), off: arrow.Timestamp(cfg.OffDelay), quiet: arrow.Timestamp(cfg.Stale + cfg.Stuck), samples: int64(cfg.MinSamples)}}
	if cfg.Above != nil {
		r.above = *cfg.Above
	}
	if cfg.Below != nil {
		r.below = *cfg.Below
	}
	return r, nil
}

// Open finds the columns that the condition needs.
func (r *Rule) Open(_ context.Context, in *arrow.Schema) (*arrow.Schema, error) {
	var err error
	if r.cols.time, err = columns.Find(in, pipeline.NameTime, pipeline.TimeType); err != nil {
		return nil, err
	}
	if r.cols.tag, err = columns.Find(in, pipeline.NameTag, pipeline.TagType); err != nil {
		return nil, err
	}
	name := r.cfg.Column
	if name == "" {
		name = pipeline.NameValue
		if r.kind == onLimit {
			name = "score"
		}
	}
	r.cols.value, err = columns.Find(in, name, arrow.PrimitiveTypes.Float64)
	if err != nil && (r.kind == onLimit || r.kind == onStuck || r.cfg.Column != "") {
		return nil, fmt.Errorf("column: %w", err)
	}
	r.cols.quality, err = columns.Find(in, pipeline.NameQuality, arrow.PrimitiveTypes.Uint32)
	if err != nil && r.kind == onBad {
		return nil, fmt.Errorf("bad: %w", err)
	}
	return pipeline.AlertEvents, nil
}

// input is one batch.
type input struct {
	times []arrow.Timestamp
	vals  columns.Floats
	qual  []uint32
}

// Process follows the condition row by row.
func (r *Rule) Process(_ context.Context, rec arrow.Record, out pipeline.Emitter) error {
	var in input
	var err error
	if in.times, err = columns.Times(rec, r.cols.time); err != nil {
		return err
	}
	if r.cols.value >= 0 {
		if in.vals, err = columns.Float64(rec, r.cols.value); err != nil {
			return err
		}
	}
	if in.qual, err = columns.Uint32(rec, r.cols.quality); err != nil {
		return err
	}
	if r.runs, err = pipeline.Runs(r.runs[:0], rec, r.cols.tag); err != nil {
		return err
	}
	late := 0
	for _, run := range r.runs {
		id := r.names.ID(run.Tag)
		if id == len(r.tags) {
			r.tags = append(r.tags, machine{clock: math.MinInt64, due: never})
			r.watched = append(r.watched, r.watches(run.Tag))
		}
		if !r.watched[id] {
			continue
		}
		m := &r.tags[id]
		i := run.Start
		for i < run.End && in.times[i] < m.clock {
			i++
		}
		late += i - run.Start
		r.follow(id, m, &in, i, run.End)
		r.next = min(r.next, m.due)
	}
	r.env.Meter.Dropped(r.env.Name, "late", late)
	return r.events.flush(r.env.Alloc, out)
}

func (r *Rule) watches(tag string) bool {
	for _, g := range r.cfg.Tags {
		if ok, _ := path.Match(g, tag); ok {
			return true
		}
	}
	return len(r.cfg.Tags) == 0
}

// follow takes the rows [i, end), which are of one tag and in time order.
func (r *Rule) follow(id int, m *machine, in *input, i, end int) {
	quick := r.kind == onLimit && r.cfg.WhenBad != "raise"
	for ; i < end; i++ {
		if quick && m.phase == normal {
			// Rows that are within the limits change nothing, whatever their
			// quality; NaN and what stands under a null are looked at below.
			v := in.vals.Values[i:end]
			k := 0
			for k < len(v) && !(v[k] > r.above || v[k] < r.below) {
				k++
			}
			if i += k; i == end {
				m.clock = in.times[end-1]
				return
			}
		}
		t := in.times[i]
		r.catchUp(id, m, t)
		m.clock = t
		if ch := m.row(t, r.judge(m, in, i), &r.timing); ch != none {
			r.event(id, m, t, ch)
		}
	}
}

// catchUp does what is due before t. What is due at t waits: a row of that time
// may still disagree.
func (r *Rule) catchUp(id int, m *machine, t arrow.Timestamp) {
	for m.due < t {
		if at, ch := m.fire(&r.timing); ch != none {
			r.event(id, m, at, ch)
		}
	}
}

// judge says what row i means for the condition, and notes its number.
func (r *Rule) judge(m *machine, in *input, i int) verdict {
	v, ok := 0.0, false
	if r.cols.value >= 0 && !in.vals.Null(i) {
		v = in.vals.Values[i]
		ok = v == v
	}
	bad := in.qual != nil && pipeline.IsBad(in.qual[i])
	usable := ok && !bad
	switch r.kind {
	case onBad:
		m.value, m.hasValue = v, ok
		if bad {
			return met
		}
		return over
	case onStale:
		if ok {
			m.value, m.hasValue = v, true
		}
		m.armed, m.quiet = true, in.times[i]
		return over
	}
	if usable {
		m.value, m.hasValue = v, true
	}
	if r.kind == onStuck {
		return r.judgeMove(m, in.times[i], v, usable)
	}
	switch {
	case !usable && r.cfg.WhenBad == "hold":
		return open
	case !usable && r.cfg.WhenBad == "clear":
		return over
	case !usable:
		m.value, m.hasValue = v, ok
		if m.phase == normal {
			m.limit = r.limitOf(v)
		}
		return met
	case v > r.above || v < r.below:
		if m.phase == normal {
			m.limit = r.limitOf(v)
		}
		return met
	case v <= r.above-r.cfg.Hysteresis && v >= r.below+r.cfg.Hysteresis:
		return over
	}
	return open
}

// limitOf returns the limit that v is beyond; for others, the one there is.
func (r *Rule) limitOf(v float64) float64 {
	if v < r.below || r.cfg.Above == nil {
		return r.below
	}
	return r.above
}

func (r *Rule) judgeMove(m *machine, t arrow.Timestamp, v float64, usable bool) verdict {
	moved := usable && (!m.known || math.Abs(v-m.ref) > r.cfg.Tolerance)
	switch {
	case usable:
		if moved {
			m.ref, m.known = v, true
		}
		if moved || !m.armed {
			m.armed, m.quiet = true, t
		}
	case r.cfg.WhenBad == "hold":
		m.armed = false
	case r.cfg.WhenBad == "clear":
		m.armed, m.known, moved = false, false, true
	}
	if moved {
		return over
	}
	if m.phase == clearing && usable { // it moved, and now rests within the off-delay
		return over
	}
	return open
}

// Advance raises and clears what is due before the watermark.
func (r *Rule) Advance(_ context.Context, watermark arrow.Timestamp, out pipeline.Emitter) error {
	if watermark <= r.next {
		return nil
	}
	r.next = never
	for id := range r.tags {
		m := &r.tags[id]
		r.catchUp(id, m, watermark)
		r.next = min(r.next, m.due)
	}
	return r.events.flush(r.env.Alloc, out)
}

const stateVersion = 1

// Snapshot writes the state of every tag.
func (r *Rule) Snapshot(w io.Writer) error {
	s := state.NewWriter("alert", stateVersion)
	s.Uint(uint64(r.kind))
	s.Uint(uint64(len(r.tags)))
	for id := range r.tags {
		s.String(r.names.Name(id))
		r.tags[id].write(s)
	}
	return s.Flush(w)
}

// Restore brings the state back. It fails if the rule's condition is of
// another kind than that of the snapshot; limits and delays may differ.
func (r *Rule) Restore(src io.Reader) error {
	s := state.NewReader(src, "alert", stateVersion)
	if kind := condition(s.Uint()); s.Err() == nil && kind != r.kind {
		s.Fail(errors.New("snapshot is of a rule with another kind of condition"))
	}
	n := s.Len(machineBytes)
	var names columns.Names
	tags, watched, next := make([]machine, n), make([]bool, n), never
	for id := range tags {
		tag := s.String()
		if names.ID(tag) != id {
			s.Fail(fmt.Errorf("snapshot has tag %q twice", tag))
			break
		}
		tags[id].read(s)
		watched[id] = r.watches(tag)
		next = min(next, tags[id].due)
	}
	if err := s.Close(); err != nil {
		return err
	}
	r.names, r.tags, r.watched, r.next = names, tags, watched, next
	return nil
}

// Close does nothing.
func (r *Rule) Close(context.Context) error { return nil }
