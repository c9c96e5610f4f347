//go:build wasip1

// Command zscore is a Penstock operator: how far a reading lies from what its
// tag mostly reads, in standard deviations. Mean and variance are exponentially
// weighted, per tag.
package main

import (
	"errors"
	"math"

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
	colValue   = 2
	colQuality = 3
)

var outputs = []penstock.Column{
	{Name: "score", Type: penstock.Float64, Nullable: true},
	{Name: "flag", Type: penstock.Bool, Nullable: true},
}

const (
	colScore = 0
	colFlag  = 1
)

type params struct {
	Alpha, Threshold float64
	Warmup           int64
}

type state struct {
	mean, variance float64
	count          int64
}

type detector struct{ params }

func (d *detector) Open(p params) error {
	if !(p.Alpha > 0 && p.Alpha <= 1) {
		return errors.New("alpha must be above 0 and at most 1")
	}
	d.params = p
	return nil
}

func (d *detector) Run(r *penstock.Run, s *state) error {
	quality := r.Uint32s(colQuality)
	for i, x := range r.Float64s(colValue) {
		if r.IsNull(colValue, i) || penstock.IsBad(quality[i]) {
			continue
		}
		if !(x > -1e150 && x < 1e150) {
			continue // also not a number: squares must not overflow
		}
		diff := x - s.mean
		if s.count >= d.Warmup && s.variance > 0 {
			score := diff / math.Sqrt(s.variance)
			r.PutFloat64(colScore, i, score)
			r.PutBool(colFlag, i, score > d.Threshold || score < -d.Threshold)
		}
		if s.count == 0 {
			s.mean = x
		} else {
			step := d.Alpha * diff
			s.mean = s.mean + step
			s.variance = (1 - d.Alpha) * (s.variance + step*diff)
		}
		s.count++
	}
	return nil
}

func init() { penstock.Map(inputs, outputs, &detector{}) }

func main() {}
