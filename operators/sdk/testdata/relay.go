//go:build wasip1

package main

import (
	"errors"

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
	{Name: "value", Type: penstock.Float64, Nullable: true},
	{Name: "text", Type: penstock.String, Nullable: true},
	{Name: "time", Type: penstock.Timestamp},
	{Name: "tag", Type: penstock.Tag},
	{Name: "quality", Type: penstock.Uint32},
	{Name: "flag", Type: penstock.Bool, Nullable: true},
	{Name: "count", Type: penstock.Int64, Nullable: true},
}

const (
	right = iota
	input
	output
	row
	fail
	forget
	order
	twice
	flood
	lateInput
	lateFail
)

type params struct{ Mode int }

type state struct{ rows, due uint32 }

type relay struct{ mode int }

func (m *relay) Open(p params) error {
	m.mode = p.Mode
	return nil
}

func (m *relay) Run(r *penstock.Run, s *state) error {
	switch m.mode {
	case input:
		r.Int64s(2)
	case fail:
		return errors.New("no, not today")
	}
	for m.mode == flood {
		r.PutString(1, r.AddRow(), "more and more")
	}
	value, quality, count := r.Float64s(2), r.Uint32s(4), r.Int64s(6)
	for i, t := range r.Timestamps(0) {
		copies := s.rows % 3
		s.rows++
		for ; copies > 0; copies-- {
			at := r.AddRow()
			time := t
			switch m.mode {
			case output:
				r.PutInt64(0, at, 1)
			case row:
				r.PutFloat64(0, at+1, 1)
			case twice:
				r.PutTag(3, at, []string{"b", "a"}[s.rows%2])
			case order:
				time = -t - int64(copies)
			}
			r.PutTimestamp(2, at, time)
			if m.mode != forget {
				r.PutUint32(4, at, quality[i])
			}
			if !r.IsNull(2, i) {
				r.PutFloat64(0, at, value[i])
			}
			if !r.IsNull(3, i) {
				r.PutString(1, at, r.String(3, i))
			}
			if !r.IsNull(5, i) {
				r.PutBool(5, at, r.Bool(5, i))
			}
			if !r.IsNull(6, i) {
				r.PutInt64(6, at, count[i])
			}
		}
	}
	s.due = 1
	return nil
}

func (m *relay) Advance(r *penstock.Run, s *state, watermark int64) error {
	switch m.mode {
	case lateInput:
		_ = r.String(3, 0)
	case lateFail:
		return errors.New("no, not tonight")
	}
	if s.due == 0 {
		return nil
	}
	s.due = 0
	first, second := r.AddRow(), r.AddRow()
	r.PutTag(3, second, "due/"+r.Tag)
	r.PutTimestamp(2, second, watermark+1)
	r.PutTimestamp(2, first, watermark)
	r.PutUint32(4, first, s.rows)
	r.PutUint32(4, second, 7)
	r.PutString(1, second, "")
	r.PutString(1, first, r.Tag)
	return nil
}

func init() { penstock.Emit(inputs, outputs, &relay{}) }

func main() {}
