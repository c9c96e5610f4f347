package filter

import (
	"cmp"
	"math"
)

type relation uint8

const (
	eq relation = iota
	ne
	lt
	le
	gt
	ge
)

// compare makes the truth of x rel y; null where one of them is null.
func compare[T cmp.Ordered](rel relation, pick func(vec) []T) func(*vec, vec, vec) vec {
	return func(dst *vec, x, y vec) vec {
		a, b := pick(x), pick(y)
		dst.b = grow(dst.b, len(a))
		out := dst.b
		if len(b) == 1 {
			compareConst(rel, out, a, b[0])
		} else {
			compareBoth(rel, out, a, b)
		}
		mask(out, x.null)
		mask(out, y.null)
		return vec{b: out}
	}
}

func compareConst[T cmp.Ordered](rel relation, out []truth, a []T, c T) {
	out = out[:len(a)]
	switch rel {
	case eq:
		for i, v := range a {
			out[i] = verdict(v == c)
		}
	case ne:
		for i, v := range a {
			out[i] = verdict(v != c)
		}
	case lt:
		for i, v := range a {
			out[i] = verdict(v < c)
		}
	case le:
		for i, v := range a {
			out[i] = verdict(v <= c)
		}
	case gt:
		for i, v := range a {
			out[i] = verdict(v > c)
		}
	case ge:
		for i, v := range a {
			out[i] = verdict(v >= c)
		}
	}
}

func compareBoth[T cmp.Ordered](rel relation, out []truth, a, b []T) {
	for i, v := range a {
		w := b[i]
		var t bool
		switch rel {
		case eq:
			t = v == w
		case ne:
			t = v != w
		case lt:
			t = v < w
		case le:
			t = v <= w
		case gt:
			t = v > w
		case ge:
			t = v >= w
		}
		out[i] = verdict(t)
	}
}

func mask(out []truth, null []bool) {
	for i, n := range null {
		if n {
			out[i] = unknown
		}
	}
}

// logic combines truths.
func logic(pick func(a, b truth) truth) func(*vec, vec, vec) vec {
	return func(dst *vec, x, y vec) vec {
		dst.b = grow(dst.b, len(x.b))
		for i, v := range x.b {
			w := y.b[0]
			if len(y.b) > 1 {
				w = y.b[i]
			}
			dst.b[i] = pick(v, w)
		}
		return vec{b: dst.b}
	}
}

// and and or have loops of their own, without a call for each row.
func and(dst *vec, x, y vec) vec {
	dst.b = grow(dst.b, len(x.b))
	if out := dst.b; len(y.b) == len(out) {
		for i, w := range y.b {
			out[i] = x.b[i] & w
		}
	} else {
		for i, v := range x.b {
			out[i] = v & y.b[0]
		}
	}
	return vec{b: dst.b}
}

func or(dst *vec, x, y vec) vec {
	dst.b = grow(dst.b, len(x.b))
	if out := dst.b; len(y.b) == len(out) {
		for i, w := range y.b {
			out[i] = x.b[i] | w
		}
	} else {
		for i, v := range x.b {
			out[i] = v | y.b[0]
		}
	}
	return vec{b: dst.b}
}

// sameTruth is == and != of booleans.
func sameTruth(equal bool) func(*vec, vec, vec) vec {
	return logic(func(a, b truth) truth {
		if a == unknown || b == unknown {
			return unknown
		}
		return verdict((a == b) == equal)
	})
}

// test makes the truth of p for each entry; null where the entry is null.
func test[T any](p func(T) bool, pick func(vec) []T) func(*vec, vec) vec {
	return func(dst *vec, x vec) vec {
		a := pick(x)
		dst.b = grow(dst.b, len(a))
		for i, v := range a {
			dst.b[i] = verdict(p(v))
		}
		mask(dst.b, x.null)
		return vec{b: dst.b}
	}
}

// isNil is `x == nil` (want true) and `x != nil`.
func isNil(want bool) func(*vec, vec) vec {
	return func(dst *vec, x vec) vec {
		dst.b = grow(dst.b, max(len(x.f), len(x.i), len(x.b), len(x.s)))
		for i := range dst.b {
			null := isNull(x.null, i) || x.b != nil && x.b[i] == unknown
			dst.b[i] = verdict(null == want)
		}
		return vec{b: dst.b}
	}
}

// arith combines numbers; null where one of them is null.
func arith[T any](f func(a, b T) T, pick func(vec) []T, put func(*vec) *[]T) func(*vec, vec, vec) vec {
	return func(dst *vec, x, y vec) vec {
		a, b, d := pick(x), pick(y), put(dst)
		*d = grow(*d, len(a))
		out := *d
		if len(b) == 1 {
			for i, v := range a {
				out[i] = f(v, b[0])
			}
		} else {
			for i, v := range a {
				out[i] = f(v, b[i])
			}
		}
		var r vec
		*put(&r) = out
		r.null = eitherNull(dst, x.null, y.null)
		return r
	}
}

func eitherNull(dst *vec, a, b []bool) []bool {
	if a == nil || b == nil {
		if a == nil {
			return b
		}
		return a
	}
	dst.null = grow(dst.null, len(a))
	for i := range a {
		dst.null[i] = a[i] || b[i]
	}
	return dst.null
}

func mapFloat(f func(float64) float64) func(*vec, vec) vec {
	return func(dst *vec, x vec) vec {
		dst.f = grow(dst.f, len(x.f))
		for i, v := range x.f {
			dst.f[i] = f(v)
		}
		return vec{f: dst.f, null: x.null}
	}
}

func mapString(f func(string) string) func(*vec, vec) vec {
	return func(dst *vec, x vec) vec {
		dst.s = grow(dst.s, len(x.s))
		for i, v := range x.s {
			dst.s[i] = f(v)
		}
		return vec{s: dst.s, null: x.null}
	}
}

func not(dst *vec, x vec) vec {
	dst.b = grow(dst.b, len(x.b))
	for i, v := range x.b {
		dst.b[i] = opposite[v&yes]
	}
	return vec{b: dst.b}
}

func floats(v vec) []float64          { return v.f }
func ints(v vec) []int64              { return v.i }
func texts(v vec) []string            { return v.s }
func toFloats(v *vec) *[]float64      { return &v.f }
func toInts(v *vec) *[]int64          { return &v.i }
func add[T int64 | float64](a, b T) T { return a + b }
func sub[T int64 | float64](a, b T) T { return a - b }
func mul(a, b float64) float64        { return a * b }
func div(a, b float64) float64        { return a / b }
func power(a, b float64) float64      { return math.Pow(a, b) }
