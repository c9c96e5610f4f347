package align

import (
	"slices"
	"sort"

	"github.com/apache/arrow/go/v17/arrow"

	"github.com/penstock/penstock/pipeline"
)

// sample is a reading. With ok false it has no value that may be used.
type sample struct {
	t  arrow.Timestamp
	v  float64
	q  uint32
	ok bool
}

// series is what is known of one measurement of one asset: the readings that
// rows to come may need, in time order, equal times in order of arrival.
type series []sample

func (s series) insert(x sample) series {
	if n := len(s); n == 0 || s[n-1].t <= x.t { // nearly always
		return append(s, x)
	}
	return slices.Insert(s, s.upTo(x.t), x)
}

// upTo returns how many samples are at or before t.
func (s series) upTo(t arrow.Timestamp) int {
	return sort.Search(len(s), func(k int) bool { return s[k].t > t })
}

// point is a value at a grid point. used is false when no reading counted.
type point struct {
	v        float64
	ok, used bool
	q        uint32
}

func (p *point) use(s sample) {
	if !p.used || s.q>>30 > p.q>>30 {
		p.q = s.q
	}
	p.used = true
}

// last is the newest sample at or before g, if it is not older than age.
func (s series) last(g, age arrow.Timestamp) (p point) {
	k := s.upTo(g)
	if k == 0 || g-s[k-1].t > age {
		return p
	}
	x := s[k-1]
	p.use(x)
	p.v, p.ok = x.v, x.ok
	return p
}

// mean is over the samples in [from, g).
func (s series) mean(from, g arrow.Timestamp) (p point) {
	sum, n := 0.0, 0
	for _, x := range s[s.upTo(from-1):s.upTo(g-1)] {
		p.use(x)
		if x.ok {
			sum += x.v
			n++
		}
	}
	p.v, p.ok = sum/float64(max(n, 1)), n > 0
	return p
}

// linear is between the neighbours of g, each at most age away.
func (s series) linear(g, age arrow.Timestamp) (p point) {
	k := s.upTo(g)
	if k == 0 || g-s[k-1].t > age {
		return p
	}
	a := s[k-1]
	p.use(a)
	if a.t == g {
		p.v, p.ok = a.v, a.ok
		return p
	}
	if k == len(s) || s[k].t-g > age {
		return p
	}
	b := s[k]
	p.use(b)
	w := float64(g-a.t) / float64(b.t-a.t)
	p.v, p.ok = a.v+float64(w*(b.v-a.v)), a.ok && b.ok
	return p
}

func usable(q uint32, v float64, null bool) bool { return !null && v-v == 0 && !pipeline.IsBad(q) }
