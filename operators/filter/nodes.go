package filter

import (
	"fmt"

	"github.com/apache/arrow/go/v17/arrow"
	"github.com/apache/arrow/go/v17/arrow/array"

	"github.com/penstock/penstock/internal/columns"
	"github.com/penstock/penstock/pipeline"
)

// level says how often a value changes: never, with the tag run, or with the
// row. A node works at the lowest level it can.
type level uint8

const (
	levelConst level = iota
	levelRun
	levelRow
)

// A truth value in three-valued logic. The bits make `and` and `or` those of
// the machine, and the upper one says whether a row passes.
type truth = uint8

const (
	no      truth = 0b00
	unknown truth = 0b01 // null
	yes     truth = 0b11
)

// opposite[t] is not t.
var opposite = [4]truth{no: yes, unknown: unknown, yes: no}

// vec is the value of an expression over one batch: one entry in all, one for
// each run or one for each row, by level. One of f, i, b and s is set, by the
// expression's kind. It is valid until its node is evaluated again.
type vec struct {
	level level
	f     []float64
	i     []int64 // times and durations in ns
	b     []truth
	s     []string
	null  []bool // nil when nothing is null; booleans have unknown instead
}

// batch is what nodes are evaluated over.
type batch struct {
	rec  arrow.Record
	rows int
	runs []pipeline.Run // nil when the input has no tag column
}

func (b *batch) len(l level) int {
	switch l {
	case levelConst:
		return 1
	case levelRun:
		return len(b.runs)
	}
	return b.rows
}

// node is a compiled expression. It owns its scratch memory.
type node interface {
	level() level
	eval(b *batch) (vec, error)
}

func grow[T any](s []T, n int) []T {
	if cap(s) < n {
		return make([]T, n, n+n/4)
	}
	return s[:n]
}

// expand spreads v to level l, into dst, unless it already has it.
func expand(dst *vec, v vec, b *batch, l level) vec {
	if v.level >= l {
		return v
	}
	r := vec{level: l}
	if v.f != nil {
		dst.f = spread(dst.f, v.f, b, v.level, l)
		r.f = dst.f
	}
	if v.i != nil {
		dst.i = spread(dst.i, v.i, b, v.level, l)
		r.i = dst.i
	}
	if v.b != nil {
		dst.b = spread(dst.b, v.b, b, v.level, l)
		r.b = dst.b
	}
	if v.s != nil {
		dst.s = spread(dst.s, v.s, b, v.level, l)
		r.s = dst.s
	}
	if v.null != nil {
		dst.null = spread(dst.null, v.null, b, v.level, l)
		r.null = dst.null
	}
	return r
}

func spread[T any](dst, src []T, b *batch, from, to level) []T {
	dst = grow(dst, b.len(to))
	if from == levelConst {
		for k := range dst {
			dst[k] = src[0]
		}
		return dst
	}
	for r, run := range b.runs {
		v, part := src[r], dst[run.Start:run.End]
		for k := range part {
			part[k] = v
		}
	}
	return dst
}

// constant is a literal, or what was worked out of literals.
type constant struct{ v vec }

func (n *constant) level() level             { return levelConst }
func (n *constant) eval(*batch) (vec, error) { return n.v, nil }

// column reads a column of the input.
type column struct {
	col  int
	kind kind
	out  vec
}

func (n *column) level() level { return levelRow }

func (n *column) eval(b *batch) (vec, error) {
	v := vec{level: levelRow}
	arr := b.rec.Column(n.col)
	switch a := arr.(type) {
	case *array.Float64:
		v.f = a.Float64Values()
	case *array.Float32:
		v.f = convert(&n.out.f, a.Float32Values())
	case *array.Int8:
		v.f = convert(&n.out.f, a.Int8Values())
	case *array.Int16:
		v.f = convert(&n.out.f, a.Int16Values())
	case *array.Int32:
		v.f = convert(&n.out.f, a.Int32Values())
	case *array.Int64:
		v.f = convert(&n.out.f, a.Int64Values())
	case *array.Uint8:
		v.f = convert(&n.out.f, a.Uint8Values())
	case *array.Uint16:
		v.f = convert(&n.out.f, a.Uint16Values())
	case *array.Uint32:
		v.f = convert(&n.out.f, a.Uint32Values())
	case *array.Uint64:
		v.f = convert(&n.out.f, a.Uint64Values())
	case *array.Timestamp:
		v.i = convert(&n.out.i, a.TimestampValues())
	case *array.Duration:
		v.i = convert(&n.out.i, a.DurationValues())
	case *array.Boolean:
		n.out.b = grow(n.out.b, b.rows)
		for i := range n.out.b {
			n.out.b[i] = no
			if a.IsNull(i) {
				n.out.b[i] = unknown
			} else if a.Value(i) {
				n.out.b[i] = yes
			}
		}
		v.b = n.out.b
		return v, nil
	case *array.String:
		n.out.s = grow(n.out.s, b.rows)
		for i := range n.out.s {
			n.out.s[i] = ""
			if a.IsValid(i) {
				n.out.s[i] = a.Value(i)
			}
		}
		v.s = n.out.s
	case *array.Dictionary:
		names, ok := a.Dictionary().(*array.String)
		if !ok {
			return vec{}, fmt.Errorf("column %q is %s, which changed since Open", b.rec.ColumnName(n.col), arr.DataType())
		}
		n.out.s = grow(n.out.s, b.rows)
		for i := range n.out.s {
			n.out.s[i] = ""
			if a.IsValid(i) {
				n.out.s[i] = names.Value(a.GetValueIndex(i))
			}
		}
		v.s = n.out.s
	default:
		return vec{}, fmt.Errorf("column %q is %s, which changed since Open", b.rec.ColumnName(n.col), arr.DataType())
	}
	if arr.NullN() > 0 {
		n.out.null = grow(n.out.null, b.rows)
		bits, off := arr.NullBitmapBytes(), arr.Data().Offset()
		for i := range n.out.null {
			n.out.null[i] = bits[(off+i)>>3]&(1<<((off+i)&7)) == 0
		}
		v.null = n.out.null
	}
	return v, nil
}

type number interface {
	~int8 | ~int16 | ~int32 | ~int64 | ~uint8 | ~uint16 | ~uint32 | ~uint64 | ~float32 | ~float64
}

func convert[D, S number](dst *[]D, src []S) []D {
	*dst = grow(*dst, len(src))
	for i, v := range src {
		(*dst)[i] = D(v)
	}
	return *dst
}

// tagColumn is the tag itself, or a fact about it, for each run.
type tagColumn struct {
	tags *pipeline.Tags
	of   func(pipeline.TagInfo) string // nil for the tag itself
	out  []string
}

func (n *tagColumn) level() level { return levelRun }

func (n *tagColumn) eval(b *batch) (vec, error) {
	n.out = grow(n.out, len(b.runs))
	for r, run := range b.runs {
		n.out[r] = run.Tag
		if n.of != nil {
			n.out[r] = n.of(n.tags.Info(run.Tag))
		}
	}
	return vec{level: levelRun, s: n.out}, nil
}

// perTag remembers the outcome of a predicate that depends on the tag alone.
type perTag struct {
	of    node
	names columns.Names
	known []truth
	out   []truth
	one   [1]pipeline.Run
}

func (n *perTag) level() level { return levelRun }

func (n *perTag) eval(b *batch) (vec, error) {
	n.out = grow(n.out, len(b.runs))
	for r, run := range b.runs {
		id := n.names.ID(run.Tag)
		if id == len(n.known) {
			n.one[0] = run
			v, err := n.of.eval(&batch{rec: b.rec, runs: n.one[:]})
			if err != nil {
				return vec{}, err
			}
			n.known = append(n.known, v.b[0])
		}
		n.out[r] = n.known[id]
	}
	return vec{level: levelRun, b: n.out}, nil
}

// severity tells good, uncertain and bad quality apart by the two top bits of
// the OPC UA StatusCode.
type severity struct {
	col int
	is  func(uint32) bool
	out []truth
}

func (n *severity) level() level { return levelRow }

func (n *severity) eval(b *batch) (vec, error) {
	q, err := columns.Uint32(b.rec, n.col)
	if err != nil {
		return vec{}, err
	}
	n.out = grow(n.out, len(q))
	// Neighbours nearly always have the same quality.
	last, res := uint32(0), verdict(n.is(0))
	for i, v := range q {
		if v != last {
			last, res = v, verdict(n.is(v))
		}
		n.out[i] = res
	}
	return vec{level: levelRow, b: n.out}, nil
}

// verdict is written so that it compiles without a branch.
func verdict(ok bool) truth {
	var t truth
	if ok {
		t = 1
	}
	return -t & yes
}

// unary applies do to all entries of its operand. Null stays null.
type unary struct {
	x   node
	do  func(dst *vec, x vec) vec
	out vec
}

func (n *unary) level() level { return n.x.level() }

func (n *unary) eval(b *batch) (vec, error) {
	x, err := n.x.eval(b)
	if err != nil {
		return vec{}, err
	}
	r := n.do(&n.out, x)
	r.level = x.level
	return r, nil
}

// binary applies do to its operands, brought to one level. A constant on the
// right stays one entry: do knows it by its length.
type binary struct {
	x, y   node
	do     func(dst *vec, x, y vec) vec
	ex, ey vec
	out    vec
}

func (n *binary) level() level { return max(n.x.level(), n.y.level()) }

func (n *binary) eval(b *batch) (vec, error) {
	x, err := n.x.eval(b)
	if err != nil {
		return vec{}, err
	}
	y, err := n.y.eval(b)
	if err != nil {
		return vec{}, err
	}
	l := max(x.level, y.level)
	x = expand(&n.ex, x, b, l)
	if y.level != levelConst || y.null != nil {
		y = expand(&n.ey, y, b, l)
	}
	r := n.do(&n.out, x, y)
	r.level = l
	return r, nil
}

// choice is `c ? x : y`.
type choice struct {
	c, x, y    node
	ec, ex, ey vec
	out        vec
}

func (n *choice) level() level { return max(n.c.level(), n.x.level(), n.y.level()) }

func (n *choice) eval(b *batch) (vec, error) {
	l := n.level()
	var in [3]vec
	for k, p := range []struct {
		n node
		e *vec
	}{{n.c, &n.ec}, {n.x, &n.ex}, {n.y, &n.ey}} {
		v, err := p.n.eval(b)
		if err != nil {
			return vec{}, err
		}
		in[k] = expand(p.e, v, b, l)
	}
	c, x, y := in[0].b, in[1], in[2]
	r := vec{level: l}
	switch {
	case x.b != nil:
		r.b = choose(&n.out.b, c, x.b, y.b)
		for i, t := range c {
			if t == unknown {
				r.b[i] = unknown
			}
		}
		return r, nil
	case x.f != nil:
		r.f = choose(&n.out.f, c, x.f, y.f)
	case x.i != nil:
		r.i = choose(&n.out.i, c, x.i, y.i)
	default:
		r.s = choose(&n.out.s, c, x.s, y.s)
	}
	n.out.null = grow(n.out.null, len(c))
	for i, t := range c {
		n.out.null[i] = t == unknown || t == yes && isNull(x.null, i) || t == no && isNull(y.null, i)
	}
	r.null = n.out.null
	return r, nil
}

func choose[T any](dst *[]T, c []truth, x, y []T) []T {
	*dst = grow(*dst, len(c))
	for i, t := range c {
		if t == yes {
			(*dst)[i] = x[i]
		} else {
			(*dst)[i] = y[i]
		}
	}
	return *dst
}

func isNull(null []bool, i int) bool { return null != nil && null[i] }
