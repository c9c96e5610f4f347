package web

import (
	"math"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/apache/arrow/go/v17/arrow"
	"github.com/apache/arrow/go/v17/arrow/array"

	"github.com/penstock/penstock/pipeline"
)

// What the page remembers. A tag that is not looked at costs one ring.
const (
	ringPoints = 600  // newest points kept of a tag
	ringStep   = 90e6 // ns: closer points than this are thinned out
	maxTags    = 2000 // further tags are not shown
	maxMarks   = 600  // anomalies kept of a tag
)

// series holds the newest values of each tag and the anomalies found in it.
type series struct {
	mu   *sync.Mutex
	tags map[string]*ring
	list []string
}

type ring struct {
	times   [ringPoints]int64
	values  [ringPoints]float64 // NaN for Bad
	n       int                 // points ever taken
	marks   []mark
	score   float64 // newest
	scoreAt int64
}

type mark struct {
	T    int64     `json:"t"` // ms
	V    jsonFloat `json:"v"`
	Node string    `json:"node"`
}

// jsonFloat is null for NaN, which JSON has not.
type jsonFloat float64

func (f jsonFloat) MarshalJSON() ([]byte, error) {
	if math.IsNaN(float64(f)) || math.IsInf(float64(f), 0) {
		return []byte("null"), nil
	}
	return strconv.AppendFloat(nil, float64(f), 'g', 7, 64), nil
}

func newSeries() series { return series{mu: &sync.Mutex{}, tags: map[string]*ring{}} }

// Tap notes the rows of a record: values of readings, flags of detectors. The
// record is borrowed.
func (p *Page) Tap(node string, rec arrow.Record) {
	s := rec.Schema()
	tag, tim, val := pipeline.Column(s, pipeline.NameTag), pipeline.Column(s, pipeline.NameTime), pipeline.Column(s, pipeline.NameValue)
	flag, score := pipeline.Column(s, "flag"), pipeline.Column(s, "score")
	if tag < 0 || tim < 0 || val < 0 {
		return
	}
	raw := s.Equal(pipeline.Readings)
	if !raw && flag < 0 {
		return
	}
	times, ok1 := rec.Column(tim).(*array.Timestamp)
	values, ok2 := rec.Column(val).(*array.Float64)
	runs, err := pipeline.Runs(nil, rec, tag)
	if !ok1 || !ok2 || err != nil {
		return
	}
	var flags *array.Boolean
	var scores *array.Float64
	if flag >= 0 {
		flags, _ = rec.Column(flag).(*array.Boolean)
	}
	if score >= 0 {
		scores, _ = rec.Column(score).(*array.Float64)
	}
	quality, _ := rec.Column(max(pipeline.Column(s, pipeline.NameQuality), 0)).(*array.Uint32)
	ss := &p.series
	ss.mu.Lock()
	defer ss.mu.Unlock()
	for _, run := range runs {
		r := ss.ring(run.Tag)
		if r == nil {
			continue
		}
		for i := run.Start; i < run.End; i++ {
			v := math.NaN()
			if values.IsValid(i) && (quality == nil || !pipeline.IsBad(quality.Value(i))) {
				v = values.Value(i)
			}
			t := int64(times.Value(i))
			if raw {
				r.add(t, v)
			}
			if flags != nil && flags.IsValid(i) && flags.Value(i) {
				r.mark(mark{t / 1e6, jsonFloat(v), node})
			}
			if scores != nil && scores.IsValid(i) && (t > r.scoreAt || scores.Value(i) > r.score) {
				r.score, r.scoreAt = scores.Value(i), t
			}
		}
	}
}

// mark notes an anomaly, once if several detectors find it or if it is closer
// to another than points are kept.
func (r *ring) mark(m mark) {
	for i := len(r.marks) - 1; i >= max(0, len(r.marks)-32); i-- {
		if d := m.T - r.marks[i].T; d < ringStep/1e6 && d > -ringStep/1e6 {
			return
		}
	}
	if n := len(r.marks); n >= maxMarks {
		r.marks = append(r.marks[:0], r.marks[n/8:]...)
	}
	r.marks = append(r.marks, m)
}

func (s *series) ring(tag string) *ring {
	if r, ok := s.tags[tag]; ok {
		return r
	}
	if len(s.tags) >= maxTags {
		return nil
	}
	tag = strings.Clone(tag)
	r := &ring{}
	s.tags[tag] = r
	i, _ := slices.BinarySearch(s.list, tag)
	s.list = slices.Insert(s.list, i, tag)
	return r
}

func (r *ring) add(t int64, v float64) {
	if r.n > 0 {
		last := (r.n - 1) % ringPoints
		if t < r.times[last]+ringStep {
			return
		}
	}
	r.times[r.n%ringPoints], r.values[r.n%ringPoints] = t, v
	r.n++
}

// trend is one tag's newest points, as parallel arrays.
type trend struct {
	Tag    string      `json:"tag"`
	Unit   string      `json:"unit"`
	Times  []int64     `json:"t"` // ms since 1970
	Values []jsonFloat `json:"v"`
	Marks  []mark      `json:"marks"`
}

// maxTrends bounds the tags in one answer.
const maxTrends = 16

// trend returns the newest points of the tags; unknown ones are left out.
func (s *series) trend(tags []string, reg *pipeline.Tags) []trend {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := []trend{}
	for _, tag := range tags[:min(len(tags), maxTrends)] {
		r, ok := s.tags[tag]
		if !ok {
			continue
		}
		t := trend{Tag: tag, Times: []int64{}, Values: []jsonFloat{}, Marks: []mark{}}
		if reg != nil {
			t.Unit = reg.Info(tag).Unit
		}
		for i := max(0, r.n-ringPoints); i < r.n; i++ {
			t.Times = append(t.Times, r.times[i%ringPoints]/1e6)
			t.Values = append(t.Values, jsonFloat(r.values[i%ringPoints]))
		}
		if len(t.Times) > 0 {
			for _, m := range r.marks {
				if m.T >= t.Times[0] {
					t.Marks = append(t.Marks, m)
				}
			}
		}
		out = append(out, t)
	}
	return out
}
