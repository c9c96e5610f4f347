//go:build wasip1

// Command summary is a Penstock operator: what each tag's readings were in each
// window of time. A window is closed by the watermark, or by the tag's first
// reading of a later one.
package main

import (
	"errors"
	"time"

	penstock "github.com/penstock/penstock/operators/sdk/go"
)

// Columns and parameters are those of manifest.json, in its order.
var inputs = []penstock.Column{
	{Name: "time", Type: penstock.Timestamp},
	{Name: "tag", Type: penstock.Tag},
	{Name: "value", Type: penstock.Float64, Nullable: true},
	{Name: "quality", Type: penstock.Uint32},
}

const (
	colTime    = 0
	colValue   = 2
	colQuality = 3
)

var outputs = []penstock.Column{
	{Name: "time", Type: penstock.Timestamp},
	{Name: "tag", Type: penstock.Tag},
	{Name: "count", Type: penstock.Int64},
	{Name: "mean", Type: penstock.Float64, Nullable: true},
	{Name: "min", Type: penstock.Float64, Nullable: true},
	{Name: "max", Type: penstock.Float64, Nullable: true},
	{Name: "late", Type: penstock.Int64},
	{Name: "condition", Type: penstock.String},
}

const (
	colEnd       = 0
	colCount     = 2
	colMean      = 3
	colMin       = 4
	colMax       = 5
	colLate      = 6
	colCondition = 7
)

type params struct {
	Window    time.Duration
	Low, High float64
}

type state struct {
	sum, min, max     float64
	start             int64 // of the window, or the first that the next may have
	rows, count, late int64
}

type windows struct{ params }

func (w *windows) Open(p params) error {
	if p.Low > p.High {
		return errors.New("low must not be above high")
	}
	w.params = p
	return nil
}

func (w *windows) condition(s *state) string {
	switch {
	case s.count == 0:
		return "no data"
	case s.max > w.High:
		return "high"
	case s.min < w.Low:
		return "low"
	}
	return "normal"
}

func (w *windows) close(r *penstock.Run, s *state) {
	i, end := r.AddRow(), s.start+int64(w.Window)
	r.PutTimestamp(colEnd, i, end)
	r.PutInt64(colCount, i, s.count)
	if s.count > 0 {
		r.PutFloat64(colMean, i, s.sum/float64(s.count))
		r.PutFloat64(colMin, i, s.min)
		r.PutFloat64(colMax, i, s.max)
	}
	r.PutInt64(colLate, i, s.late)
	r.PutString(colCondition, i, w.condition(s))
	*s = state{start: end}
}

func (w *windows) Run(r *penstock.Run, s *state) error {
	value, quality := r.Float64s(colValue), r.Uint32s(colQuality)
	for i, t := range r.Timestamps(colTime) {
		if t < s.start {
			s.late++
			continue
		}
		if s.rows > 0 && t-s.start >= int64(w.Window) {
			w.close(r, s)
		}
		if s.rows == 0 {
			s.start = t - t%int64(w.Window)
		}
		s.rows++
		x := value[i]
		if r.IsNull(colValue, i) || penstock.IsBad(quality[i]) {
			continue
		}
		if !(x > -1e150 && x < 1e150) {
			continue // also not a number
		}
		if s.count == 0 || x < s.min {
			s.min = x
		}
		if s.count == 0 || x > s.max {
			s.max = x
		}
		s.sum += x
		s.count++
	}
	return nil
}

func (w *windows) Advance(r *penstock.Run, s *state, watermark int64) error {
	if s.rows > 0 && watermark-s.start >= int64(w.Window) {
		w.close(r, s)
	}
	return nil
}

func init() { penstock.Emit(inputs, outputs, &windows{}) }

func main() {}
