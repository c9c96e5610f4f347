package flow

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/apache/arrow/go/v17/arrow"
	"github.com/apache/arrow/go/v17/arrow/array"

	"github.com/penstock/penstock/pipeline"
)

// shadow is a candidate module beside a node's own: it gets the same batches,
// its outputs are compared with the node's and go nowhere. Copies of the alert
// rules that read the node show which alerts it would raise.
type shadow struct {
	op    pipeline.Operator
	m     Module
	rules []shadowRule
	live  []arrow.Record // what the node emitted for the batch at hand, retained
	made  collected      // what the candidate emitted
	stats ShadowStats
	diffs []*columnDiff
	raise map[[2]string][2]int // by rule and tag: alerts of live, of candidate
}

type shadowRule struct {
	node int // of the rule that it copies
	op   pipeline.Operator
	made collected
}

// collected keeps the records of the main port.
type collected []arrow.Record

// Emit implements pipeline.Emitter.
func (c *collected) Emit(port string, rec arrow.Record) error {
	if port == "" {
		rec.Retain()
		*c = append(*c, rec)
	}
	return nil
}

func (c *collected) release() {
	for i, r := range *c {
		r.Release()
		(*c)[i] = nil
	}
	*c = (*c)[:0]
}

// ShadowStats says how a candidate compares with the module that runs, since
// it was started, in this process or another.
type ShadowStats struct {
	Module  string `json:"module"`
	Digest  string `json:"digest"`
	Engine  string `json:"engine"`
	Failed  string `json:"failed,omitempty"` // why the candidate is not called any more
	Batches int64  `json:"batches"`
	Rows    int64  `json:"rows"` // of input
	// Of time in Process, per row of input.
	LiveNsPerRow      float64       `json:"live_ns_per_row"`
	CandidateNsPerRow float64       `json:"candidate_ns_per_row"`
	OtherRows         int64         `json:"other_rows,omitempty"` // batches for which the two made different numbers of rows
	Columns           []ColumnStats `json:"columns"`
	Alerts            AlertStats    `json:"alerts"`

	liveTime, candidateTime time.Duration
}

// ColumnStats compares one column. Where the two made different numbers of
// rows, only the distributions count them.
type ColumnStats struct {
	Name          string        `json:"name"`
	Rows          int64         `json:"rows"`                     // compared one by one
	Different     int64         `json:"different"`                // of these
	OnlyLive      int64         `json:"only_live,omitempty"`      // booleans: true in the live module alone
	OnlyCandidate int64         `json:"only_candidate,omitempty"` // or in the candidate alone
	LargestDiff   float64       `json:"largest_difference,omitempty"`
	Live          *Distribution `json:"live,omitempty"` // numbers
	Candidate     *Distribution `json:"candidate,omitempty"`
}

// Distribution is where the values of a column lie, to about a tenth.
type Distribution struct {
	P1  float64 `json:"p1"`
	P50 float64 `json:"p50"`
	P99 float64 `json:"p99"`
	Max float64 `json:"max"`
}

// AlertStats counts alerts that were raised; OnlyLive and OnlyCandidate name
// rule and tag of those that the other did not raise.
type AlertStats struct {
	Live          int      `json:"live"`
	Candidate     int      `json:"candidate"`
	OnlyLive      []string `json:"only_live,omitempty"`
	OnlyCandidate []string `json:"only_candidate,omitempty"`
}

// maxAlertKeys bounds how many pairs of rule and tag a shadow counts.
const maxAlertKeys = 10_000

// shadow starts the module that c names beside node i's, at journal entry seq,
// or ends what runs there when it names none.
func (w *Worker) shadow(i int, c pipeline.Control, seq uint64) (warmed int64, err error) {
	n := &w.o.Plan.Nodes[i]
	if c.Digest == "" {
		if w.shadows[i] == nil {
			return 0, fmt.Errorf("operator %s has no candidate: start one with penstock operator shadow start", n.Name)
		}
		w.endShadow(i)
		return 0, nil
	}
	live, err := w.running(i)
	if err != nil {
		return 0, err
	}
	return w.startShadow(i, c, seq, live.State)
}

// startShadow starts a shadow that goes on with state, where it understands it.
func (w *Worker) startShadow(i int, c pipeline.Control, seq uint64, state []byte) (warmed int64, err error) {
	n := &w.o.Plan.Nodes[i]
	o, carried, err := w.openWith(i, c.Digest, true, state)
	if err != nil {
		return 0, err
	}
	if !carried {
		if warmed, err = w.warmUp(i, shadowNode(n.Name), &o, c.From, seq); err != nil {
			return 0, err
		}
	}
	s := &shadow{op: o.Op, m: o.Module, raise: map[[2]string][2]int{}}
	defer func() {
		if err != nil {
			for _, op := range s.operators() {
				err = errors.Join(err, op.Close(w.ctx))
			}
		}
	}()
	s.stats.Module, s.stats.Digest, s.stats.Engine = o.Module.Name, o.Module.Digest, o.Module.Engine
	for _, t := range n.Outputs[""].Targets {
		rule := &w.o.Plan.Nodes[t]
		if rule.Again == nil {
			continue
		}
		r, err := rule.Again(w.ctx)
		if err == nil {
			s.rules = append(s.rules, shadowRule{node: t, op: r})
			var state []byte
			if state, err = snapshot(rule.Op); err == nil {
				err = r.Restore(bytes.NewReader(state))
			}
		}
		if err != nil {
			return 0, fmt.Errorf("a copy of alert rule %s: %w", rule.Name, err)
		}
	}
	w.endShadow(i)
	w.shadows[i] = s
	for _, r := range s.rules {
		w.watched[r.node] = append(w.watched[r.node], s)
	}
	w.moved = true
	return warmed, nil
}

func (w *Worker) endShadow(i int) {
	s := w.shadows[i]
	if s == nil {
		return
	}
	w.shadows[i] = nil
	for _, r := range s.rules {
		w.watched[r.node] = slices.DeleteFunc(w.watched[r.node], func(x *shadow) bool { return x == s })
	}
	for _, op := range s.operators() {
		if err := op.Close(w.ctx); err != nil {
			w.o.Log.Warn("a shadow does not close", "operator", w.o.Plan.Nodes[i].Name, "error", err)
		}
	}
	s.drop()
	w.moved = true
}

func (s *shadow) operators() []pipeline.Operator {
	ops := []pipeline.Operator{s.op}
	for _, r := range s.rules {
		ops = append(ops, r.op)
	}
	return ops
}

func (s *shadow) drop() {
	(*collected)(&s.live).release()
	s.made.release()
}

// promote puts the shadow of node i in its place, with the state it has.
func (w *Worker) promote(i int) error {
	n, s := &w.o.Plan.Nodes[i], w.shadows[i]
	if s == nil {
		return fmt.Errorf("operator %s has no candidate: start one with penstock operator shadow start", n.Name)
	}
	state, err := snapshot(s.op)
	if q, ok := s.op.(Quarantined); err == nil && ok && q.Quarantined() {
		err = errors.New(q.QuarantinedFor())
	}
	if err != nil {
		s.fail(err)
	}
	if s.stats.Failed != "" {
		return fmt.Errorf("the shadow of operator %s has failed: %s", n.Name, s.stats.Failed)
	}
	if s.m.Digest == n.Module.Digest {
		w.endShadow(i)
		return nil
	}
	was, err := w.running(i)
	if err != nil {
		return err
	}
	opened, carried, err := w.openWith(i, s.m.Digest, false, state)
	if err != nil {
		return err
	}
	if !carried {
		return errors.Join(fmt.Errorf("module %s does not take back its own state", s.m.Name), opened.Op.Close(w.ctx))
	}
	w.put(i, opened)
	w.previous[i] = was
	w.endShadow(i)
	return nil
}

// process gives the candidate the batch that the node has just taken, which
// took so long, and compares.
func (s *shadow) process(ctx context.Context, in arrow.Record, took time.Duration) {
	s.step(int(in.NumRows()), took, func() error { return s.op.Process(ctx, in, &s.made) })
}

// advance tells the candidate the watermark that the node has just been told.
func (s *shadow) advance(ctx context.Context, wm arrow.Timestamp) {
	s.step(0, 0, func() error { return s.op.Advance(ctx, wm, &s.made) })
	for i := range s.rules {
		if err := s.rules[i].op.Advance(ctx, wm, &s.rules[i].made); err != nil {
			s.fail(err)
		}
	}
	s.count()
}

func (s *shadow) step(rows int, took time.Duration, call func() error) {
	defer s.drop()
	if s.stats.Failed != "" {
		return
	}
	start := time.Now()
	err := call()
	own := time.Since(start)
	if err != nil {
		s.stats.Failed = err.Error()
		return
	}
	if q, ok := s.op.(Quarantined); ok && q.Quarantined() {
		s.stats.Failed = q.QuarantinedFor()
		return
	}
	if rows > 0 {
		s.stats.Batches++
		s.stats.Rows += int64(rows)
		s.stats.liveTime += took
		s.stats.candidateTime += own
	}
	s.compare()
	for _, rec := range s.made {
		for i := range s.rules {
			if err := s.rules[i].op.Process(context.Background(), rec, &s.rules[i].made); err != nil {
				s.stats.Failed = err.Error()
			}
		}
	}
}

func (s *shadow) fail(err error) {
	if s.stats.Failed == "" {
		s.stats.Failed = err.Error()
	}
}

// count takes the alerts that the copied rules have made.
func (s *shadow) count() {
	for i := range s.rules {
		for _, rec := range s.rules[i].made {
			s.alerts(rec, 1)
		}
		s.rules[i].made.release()
	}
}

// alerts counts the alerts that rec raises, for live (0) or candidate (1).
func (s *shadow) alerts(rec arrow.Record, side int) {
	rule, state := pipeline.Column(rec.Schema(), "rule"), pipeline.Column(rec.Schema(), "state")
	runs, err := pipeline.Runs(nil, rec, 1)
	if rule < 0 || state < 0 || err != nil {
		return
	}
	for _, run := range runs {
		for i := run.Start; i < run.End; i++ {
			if rec.Column(state).(*array.String).Value(i) != "raised" {
				continue
			}
			key := [2]string{strings.Clone(rec.Column(rule).(*array.String).Value(i)), strings.Clone(run.Tag)}
			n, known := s.raise[key]
			if !known && len(s.raise) == maxAlertKeys {
				continue
			}
			n[side]++
			s.raise[key] = n
		}
	}
}

// compare compares what live and candidate have made of one batch.
func (s *shadow) compare() {
	for k := range max(len(s.live), len(s.made)) {
		var a, b arrow.Record
		if k < len(s.live) {
			a = s.live[k]
		}
		if k < len(s.made) {
			b = s.made[k]
		}
		if a == nil || b == nil || a.NumRows() != b.NumRows() {
			s.stats.OtherRows++
		}
		for _, rec := range []arrow.Record{a, b} {
			if rec != nil {
				for _, f := range rec.Schema().Fields() {
					s.column(f)
				}
			}
		}
		for _, d := range s.diffs {
			d.take(of(a, d.stats.Name), of(b, d.stats.Name))
		}
	}
}

func of(rec arrow.Record, column string) arrow.Array {
	if rec == nil {
		return nil
	}
	if i := pipeline.Column(rec.Schema(), column); i >= 0 {
		return rec.Column(i)
	}
	return nil
}

// column adds column f to those that are compared: booleans and numbers.
func (s *shadow) column(f arrow.Field) {
	if f.Type.ID() != arrow.BOOL && f.Type.ID() != arrow.FLOAT64 {
		return
	}
	for _, d := range s.diffs {
		if d.stats.Name == f.Name {
			return
		}
	}
	d := &columnDiff{stats: ColumnStats{Name: f.Name}}
	if f.Type.ID() == arrow.FLOAT64 {
		d.live, d.candidate = new(sketch), new(sketch)
	}
	s.diffs = append(s.diffs, d)
}

// report returns the comparison so far.
func (s *shadow) report() ShadowStats {
	r := s.stats
	if r.Rows > 0 {
		r.LiveNsPerRow = float64(r.liveTime.Nanoseconds()) / float64(r.Rows)
		r.CandidateNsPerRow = float64(r.candidateTime.Nanoseconds()) / float64(r.Rows)
	}
	for _, d := range s.diffs {
		if d.same {
			continue
		}
		c := d.stats
		if d.live != nil {
			c.Live, c.Candidate = d.live.distribution(), d.candidate.distribution()
		}
		r.Columns = append(r.Columns, c)
	}
	for key, n := range s.raise {
		r.Alerts.Live += n[0]
		r.Alerts.Candidate += n[1]
		switch {
		case n[0] > n[1]:
			r.Alerts.OnlyLive = append(r.Alerts.OnlyLive, key[0]+" "+key[1])
		case n[1] > n[0]:
			r.Alerts.OnlyCandidate = append(r.Alerts.OnlyCandidate, key[0]+" "+key[1])
		}
	}
	slices.Sort(r.Alerts.OnlyLive)
	slices.Sort(r.Alerts.OnlyCandidate)
	return r
}

// columnDiff compares one column, batch after batch.
type columnDiff struct {
	stats           ColumnStats
	same            bool // both hand on the input's own column
	live, candidate *sketch
}

func (d *columnDiff) take(a, b arrow.Array) {
	if d.same = a != nil && a == b; d.same {
		return
	}
	if d.live != nil {
		d.live.take(a)
		d.candidate.take(b)
	}
	if a == nil || b == nil || a.Len() != b.Len() {
		return
	}
	d.stats.Rows += int64(a.Len())
	switch a := a.(type) {
	case *array.Boolean:
		b, ok := b.(*array.Boolean)
		if !ok {
			return
		}
		for i := range a.Len() {
			x, y := a.IsValid(i) && a.Value(i), b.IsValid(i) && b.Value(i)
			switch {
			case x && !y:
				d.stats.OnlyLive++
			case y && !x:
				d.stats.OnlyCandidate++
			case a.IsNull(i) == b.IsNull(i):
				continue
			}
			d.stats.Different++
		}
	case *array.Float64:
		b, ok := b.(*array.Float64)
		if !ok {
			return
		}
		for i := range a.Len() {
			if a.IsNull(i) || b.IsNull(i) {
				if a.IsNull(i) != b.IsNull(i) {
					d.stats.Different++
				}
				continue
			}
			if x, y := a.Value(i), b.Value(i); math.Float64bits(x) != math.Float64bits(y) {
				d.stats.Different++
				if diff := math.Abs(x - y); diff > d.stats.LargestDiff && !math.IsInf(diff, 0) {
					d.stats.LargestDiff = diff
				}
			}
		}
	}
}

// sketch is a histogram over all float64: sign, exponent and three bits of the
// mantissa make the bucket, so a quantile is right to an eighth.
type sketch struct {
	count [1 << 15]uint32
	n     int64
	max   float64
}

func (s *sketch) take(a arrow.Array) {
	f, ok := a.(*array.Float64)
	if !ok {
		return
	}
	for i, v := range f.Float64Values() {
		if f.IsNull(i) || v-v != 0 { // no number, or infinite
			continue
		}
		if s.n == 0 || v > s.max {
			s.max = v
		}
		if n := &s.count[math.Float64bits(v)>>49]; *n < math.MaxUint32 {
			*n++
		}
		s.n++
	}
}

func (s *sketch) distribution() *Distribution {
	if s.n == 0 {
		return nil
	}
	return &Distribution{P1: s.quantile(0.01), P50: s.quantile(0.5), P99: s.quantile(0.99), Max: s.max}
}

func (s *sketch) quantile(q float64) float64 {
	rank := int64(q * float64(s.n-1))
	const negative = 1 << 14
	for k := range len(s.count) {
		b := negative + (negative - 1 - k) // from the most negative up
		if k >= negative {
			b = k - negative
		}
		if rank -= int64(s.count[b]); rank < 0 {
			return math.Float64frombits(uint64(b) << 49)
		}
	}
	return s.max
}
