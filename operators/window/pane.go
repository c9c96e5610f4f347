package window

import (
	"math"

	"github.com/apache/arrow/go/v17/arrow"

	"github.com/penstock/penstock/internal/state"
	"github.com/penstock/penstock/pipeline"
)

// pane is the aggregate of the rows of one tag in one step of `every`: a
// window is one pane or several.
type pane struct {
	index         int64 // covers [index*every, (index+1)*every) + offset
	rows, good    int64 // rows seen; those of Good quality
	fit           int64 // rows with a number that is not Bad
	n             int64 // rows aggregated
	mean, m2      float64
	low, high     float64
	first, last   float64
	tFirst, tLast arrow.Timestamp
}

// add takes in one number. Products are rounded before they are added (the
// conversions say so): a fused multiply-add would give other bits on arm64.
func (p *pane) add(t arrow.Timestamp, v float64) {
	p.n++
	if p.n == 1 {
		p.mean, p.m2, p.low, p.high = v, 0, v, v
		p.first, p.last, p.tFirst, p.tLast = v, v, t, t
		return
	}
	d := v - p.mean
	p.mean += float64(d * (1 / float64(p.n)))
	p.m2 += float64(d * (v - p.mean))
	if v < p.low {
		p.low = v
	}
	if v > p.high {
		p.high = v
	}
	if t >= p.tLast {
		p.last, p.tLast = v, t
	} else if t < p.tFirst {
		p.first, p.tFirst = v, t
	}
}

// join takes in the rows of a later pane.
func (p *pane) join(q *pane) {
	p.rows += q.rows
	p.good += q.good
	p.fit += q.fit
	if q.n == 0 {
		return
	}
	if p.n == 0 {
		index, rows, good, fit := p.index, p.rows, p.good, p.fit
		*p = *q
		p.index, p.rows, p.good, p.fit = index, rows, good, fit
		return
	}
	a, b := float64(p.n), float64(q.n)
	d := q.mean - p.mean
	p.n += q.n
	p.mean += float64(d * (b / (a + b)))
	p.m2 += q.m2 + float64(float64(d*d)*(a*b/(a+b)))
	p.low, p.high = min(p.low, q.low), max(p.high, q.high)
	p.last, p.tLast = q.last, q.tLast
}

// quality says what the window's rows were worth.
func (p *pane) quality() uint32 {
	switch {
	case p.good == p.rows:
		return pipeline.Good
	case p.fit == 0:
		return pipeline.Bad
	}
	return pipeline.Uncertain
}

// value returns an aggregate, and whether there is one.
func (p *pane) value(aggregate string) (float64, bool) {
	some := p.n > 0
	switch aggregate {
	case "mean":
		return p.mean, some
	case "min":
		return p.low, some
	case "max":
		return p.high, some
	case "first":
		return p.first, some
	case "last":
		return p.last, some
	case "count":
		return float64(p.n), true
	case "good":
		return float64(p.good) / float64(p.rows), true
	case "std":
		return math.Sqrt(p.m2 / float64(p.n-1)), p.n > 1
	case "rate":
		return (p.last - p.first) / (float64(p.tLast-p.tFirst) / 1e9), some && p.tLast > p.tFirst
	}
	return 0, false
}

const paneBytes = 13 * 8 // in a snapshot

func (p *pane) write(w *state.Writer) {
	for _, v := range []int64{p.index, p.rows, p.good, p.fit, p.n, int64(p.tFirst), int64(p.tLast)} {
		w.Int(v)
	}
	for _, v := range []float64{p.mean, p.m2, p.low, p.high, p.first, p.last} {
		w.Float(v)
	}
}

func (p *pane) read(r *state.Reader) {
	p.index, p.rows, p.good, p.fit, p.n = r.Int(), r.Int(), r.Int(), r.Int(), r.Int()
	p.tFirst, p.tLast = arrow.Timestamp(r.Int()), arrow.Timestamp(r.Int())
	for _, v := range []*float64{&p.mean, &p.m2, &p.low, &p.high, &p.first, &p.last} {
		*v = r.Float()
	}
}
