//go:build wasip1

package main

import (
	"errors"
	"time"

	"penstock.local/example/penstock"
)

var inputs = []penstock.Column{
	{Name: "time", Type: penstock.Timestamp},
	{Name: "tag", Type: penstock.Tag},
	{Name: "value", Type: penstock.Float64, Nullable: true},
	{Name: "text", Type: penstock.String, Nullable: true},
	{Name: "quality", Type: penstock.Uint32},
	{Name: "flag", Type: penstock.Bool, Nullable: true},
	{Name: "count", Type: penstock.Int64, Nullable: true},
}

var outputs = []penstock.Column{
	{Name: "time_out", Type: penstock.Timestamp},
	{Name: "value_out", Type: penstock.Float64, Nullable: true},
	{Name: "size", Type: penstock.Int64, Nullable: true},
	{Name: "quality_out", Type: penstock.Uint32},
	{Name: "flag_out", Type: penstock.Bool, Nullable: true},
	{Name: "on_out", Type: penstock.Bool},
	{Name: "count_out", Type: penstock.Int64, Nullable: true},
	{Name: "params", Type: penstock.Float64},
	{Name: "before", Type: penstock.Float64},
	{Name: "text_out", Type: penstock.String, Nullable: true},
	{Name: "label", Type: penstock.String},
}

type params struct {
	N     int
	On    bool
	Wait  time.Duration
	Mode  int64
	Label string
}

type state struct {
	last         [3]float64
	rows, unused uint32
}

type mirror struct{ p params }

func (m *mirror) Open(p params) error {
	m.p = p
	return nil
}

func (m *mirror) Run(r *penstock.Run, s *state) error {
	p := &m.p
	sum := float64(p.N) + p.Wait.Seconds()*100 + float64(len(p.Label))*10000 + float64(p.Label[1])
	if p.On {
		sum += 10
	}
	switch p.Mode {
	case 1:
		r.Int64s(2)
	case 2:
		r.PutInt64(1, 0, 1)
	case 3:
		r.PutFloat64(1, r.Rows, 1)
	case 4:
		return errors.New("no, not today")
	case 5:
		r.AddRow()
	}
	for i := r.Rows - 1; i >= 0; i-- {
		if !r.IsNull(3, i) {
			r.PutString(9, i, "gone")
			r.PutString(9, i, r.String(3, i))
		}
		if i%2 == 0 {
			r.PutString(10, i, r.Tag)
		}
	}
	value, quality, count := r.Float64s(2), r.Uint32s(4), r.Int64s(6)
	for i, t := range r.Timestamps(0) {
		r.PutTimestamp(0, i, t+1)
		if !r.IsNull(2, i) {
			r.PutFloat64(1, i, value[i])
		}
		if !r.IsNull(3, i) {
			r.PutInt64(2, i, int64(len(r.String(3, i))+1000*len(r.Tag)))
		}
		if i%2 == 0 {
			r.PutUint32(3, i, quality[i])
		}
		if !r.IsNull(5, i) {
			r.PutBool(4, i, r.Bool(5, i))
		}
		r.PutBool(5, i, !p.On)
		r.PutBool(5, i, p.On)
		if !r.IsNull(6, i) {
			r.PutInt64(6, i, count[i])
		}
		r.PutFloat64(7, i, sum)
		at := s.rows % 3
		r.PutFloat64(8, i, s.last[at])
		s.last[at] = float64(t)
		s.rows++
	}
	return nil
}

func init() { penstock.Map(inputs, outputs, &mirror{}) }

func main() {}
