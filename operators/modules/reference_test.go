package modules_test

import (
	"math"
	"slices"
	"time"
)

// The references: the definitions in plain Go, one row at a time, as slow and
// as obvious as can be. Each takes a tag's rows in order and returns the
// module's columns for the row, or nil where they are null.
type reference interface {
	row(r *reading) []*float64
}

func numbers(v ...float64) []*float64 {
	out := make([]*float64, len(v))
	for i := range v {
		out[i] = &v[i]
	}
	return out
}

func truth(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

// clock decides what a row's time means.
type clock struct {
	seen bool
	last int64
}

func (c *clock) late(t int64) bool  { return c.seen && t < c.last }
func (c *clock) again(t int64) bool { return c.seen && t == c.last }

type ewmaRef struct {
	halfLife, freeze          time.Duration
	warmup                    int
	threshold, minStd, minRel float64
	skip                      bool
	clock                     clock
	count                     int
	mean, variance            float64
	settled, flagged          bool
	since                     int64
}

func (e *ewmaRef) row(r *reading) []*float64 {
	if !r.usable(e.skip) || e.clock.late(r.time) {
		return nil
	}
	d := r.value - e.mean
	var out []*float64
	far := false
	if e.count >= e.warmup {
		std := max(math.Sqrt(e.variance), e.minStd, e.minRel*math.Abs(e.mean))
		far = math.Abs(d/std) > e.threshold
		out = numbers(e.mean, std, d/std, truth(far))
	}
	if e.clock.again(r.time) {
		return out
	}
	dt := time.Duration(r.time - e.clock.last)
	e.count++
	e.clock = clock{true, r.time}
	if e.count == 1 {
		e.mean = r.value
		return out
	}
	if far {
		if !e.flagged {
			e.since = r.time
		}
		e.flagged = true
		if time.Duration(r.time-e.since) < e.freeze {
			return out
		}
	} else {
		e.flagged = false
	}
	g := -math.Expm1(-math.Ln2 * float64(min(dt, e.halfLife)) / float64(e.halfLife))
	if !e.settled {
		least := 1 / float64(e.count)
		e.settled = e.count > e.warmup && g >= least
		g = max(g, least)
	}
	e.mean += g * d
	e.variance = (1 - g) * (e.variance + g*d*d)
	return out
}

type cusumRef struct {
	k, h, clip, cap, target, sigma, minSigma, minRel float64
	warmup                                           int
	reset, skip                                      bool
	clock                                            clock
	learnt                                           []float64
	high, low                                        float64
}

func (c *cusumRef) row(r *reading) []*float64 {
	if !r.usable(c.skip) || c.clock.late(r.time) {
		return nil
	}
	again := c.clock.again(r.time)
	c.clock = clock{true, r.time}
	target, sigma := c.target, c.sigma
	if sigma == 0 {
		if len(c.learnt) < c.warmup {
			if !again {
				c.learnt = append(c.learnt, r.value)
			}
			return nil
		}
		for _, x := range c.learnt {
			target += x / float64(c.warmup)
		}
		for _, x := range c.learnt {
			sigma += (x - target) * (x - target) / float64(c.warmup-1)
		}
		sigma = math.Sqrt(sigma)
	}
	sigma = max(sigma, c.minSigma, c.minRel*math.Abs(target))
	if !again {
		z := max(-c.clip, min(c.clip, (r.value-target)/sigma))
		c.high = min(c.cap, max(0, c.high+z-c.k))
		c.low = min(c.cap, max(0, c.low-z-c.k))
	}
	high, low := c.high, c.low
	flag := max(high, low) > c.h
	if flag && c.reset {
		c.high, c.low = 0, 0
	}
	return numbers(high, low, max(high, low), truth(flag))
}

type hampelRef struct {
	window, warmup              int
	threshold, minScale, minRel float64
	skip                        bool
	clock                       clock
	values                      []float64
}

func medianOf(x []float64) float64 {
	s := slices.Sorted(slices.Values(x))
	n := len(s)
	return (s[(n-1)/2] + s[n/2]) / 2
}

func (h *hampelRef) row(r *reading) []*float64 {
	if !r.usable(h.skip) || h.clock.late(r.time) {
		return nil
	}
	var out []*float64
	if n := len(h.values); n >= min(h.warmup, h.window) {
		m := medianOf(h.values)
		dev := make([]float64, n)
		for i, x := range h.values {
			dev[i] = math.Abs(x - m)
		}
		scale := max(1.4826*medianOf(dev), h.minScale, h.minRel*math.Abs(m))
		score := (r.value - m) / scale
		out = numbers(m, scale, score, truth(math.Abs(score) > h.threshold))
	}
	if !h.clock.again(r.time) {
		h.clock = clock{true, r.time}
		h.values = append(h.values, r.value)
		if len(h.values) > h.window {
			h.values = h.values[1:]
		}
	}
	return out
}

type rulRef struct {
	limit, confidence         float64
	direction                 string
	window, interval, horizon time.Duration
	bins, minPoints           int
	skip                      bool
	clock                     clock
	due                       int64
	rows                      []reading
}

// row returns nil where the kernel makes no row.
func (u *rulRef) row(r *reading) []*float64 {
	if !r.usable(u.skip) || u.clock.late(r.time) || u.clock.again(r.time) {
		return nil
	}
	next := func(t int64) int64 {
		return (t/int64(u.interval) + 1) * int64(u.interval)
	}
	if !u.clock.seen {
		u.due = next(r.time)
	}
	u.clock = clock{true, r.time}
	u.rows = append(u.rows, *r)
	if r.time < u.due {
		return nil
	}
	u.due = next(r.time)
	return u.estimate(r.time)
}

func (u *rulRef) estimate(now int64) []*float64 {
	width := int64(u.window) / int64(u.bins)
	newest := now / width
	type bin struct{ t, x, n float64 }
	points := map[int64]*bin{}
	quality := 0.0
	for _, r := range u.rows {
		b := r.time / width
		if b <= newest-int64(u.bins) {
			continue
		}
		if points[b] == nil {
			points[b] = &bin{}
		}
		p := points[b]
		p.t, p.x, p.n = p.t+float64(r.time-now)*1e-9, p.x+r.value, p.n+1
		if r.quality>>30 == 1 {
			quality = 1 << 30
		}
	}
	n := len(points)
	if n < u.minPoints {
		return nil
	}
	var t, x []float64
	for b := newest - int64(u.bins) + 1; b <= newest; b++ {
		if p := points[b]; p != nil {
			t, x = append(t, p.t/p.n), append(x, p.x/p.n)
		}
	}
	var slopes []float64
	for i := range t {
		for j := i + 1; j < n; j++ {
			slopes = append(slopes, (x[j]-x[i])/(t[j]-t[i]))
		}
	}
	slices.Sort(slopes)
	level := func(b float64) float64 {
		res := make([]float64, n)
		for i := range t {
			res[i] = x[i] - b*t[i]
		}
		return medianOf(res)
	}
	slope := medianOf(slopes)
	value := level(slope)
	if u.direction == "auto" {
		u.direction = "falling"
		if value+slope*t[0] < u.limit {
			u.direction = "rising"
		}
	}
	sign := 1.0
	if u.direction == "falling" {
		sign = -1
	}
	z := math.Sqrt2 * math.Erfinv(u.confidence)
	rank := int(float64(len(slopes))-z*math.Sqrt(float64(n*(n-1)*(2*n+5))/18)) / 2
	out := numbers(value, slope*3600, 0, 0, 0, 0, 0, quality)
	out[2], out[3], out[4] = nil, nil, nil
	known := func(rul, low, high float64) []*float64 {
		rul, low, high = max(rul, 0), max(low, 0), max(high, 0)
		if rul >= 1e10 {
			return out
		}
		out[2], out[3], out[5], out[6] = ptr(rul), ptr(low), ptr(u.horizon.Seconds()/(u.horizon.Seconds()+rul)), ptr(truth(rul < u.horizon.Seconds()))
		if high < 1e10 {
			out[4] = ptr(high)
		}
		return out
	}
	if sign*(u.limit-value) <= 0 {
		return known(0, 0, 0)
	}
	if rank < 1 {
		return out
	}
	slow, fast := slopes[rank-1], slopes[len(slopes)-rank]
	if sign < 0 {
		slow, fast = fast, slow
	}
	if sign*slow <= 0 {
		return out
	}
	reach := func(b float64) float64 { return (u.limit - level(b)) / b }
	return known(reach(slope), min(reach(fast), reach(slope)), max(reach(slow), reach(slope)))
}
