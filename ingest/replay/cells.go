package replay

import (
	"fmt"
	"math"

	"github.com/apache/arrow/go/v17/arrow"
	"github.com/apache/arrow/go/v17/arrow/array"

	"github.com/penstock/penstock/ingest"
)

// cells is one column of a record, converted: one of number, whole and text is
// set.
type cells struct {
	array  arrow.Array
	number []float64
	whole  []int64 // times in ns; math.MinInt64 is out of range
	text   func(row int) string
}

func (c *cells) add(out *chunk, tag ingest.TagID, t int64, row int, q uint32) {
	if c.text != nil {
		out.add(tag, t, isText, 0, c.text(row), q)
		return
	}
	out.add(tag, t, isNumber, c.number[row], "", q)
}

// textOf returns how to read a column of text, nil for other types.
func textOf(a arrow.Array) func(int) string {
	switch a := a.(type) {
	case *array.String:
		return a.Value
	case *array.LargeString:
		return a.Value
	case *array.Binary:
		return func(i int) string { return string(a.Value(i)) }
	case *array.Dictionary:
		if text := textOf(a.Dictionary()); text != nil {
			return func(i int) string { return text(a.GetValueIndex(i)) }
		}
	}
	return nil
}

type integer interface {
	~int8 | ~int16 | ~int32 | ~int64 | ~uint8 | ~uint16 | ~uint32 | ~uint64
}

func convert[From integer | ~float32 | ~float64](dst []float64, src []From) []float64 {
	for _, v := range src {
		dst = append(dst, float64(v))
	}
	return dst
}

// values converts a column of numbers, truth values or text.
func (c *cells) values(a arrow.Array) error {
	c.array, c.whole, c.text = a, nil, nil
	n := c.number[:0]
	switch a := a.(type) {
	case *array.Float64:
		n = append(n, a.Float64Values()...)
	case *array.Float32:
		n = convert(n, a.Float32Values())
	case *array.Float16:
		for i := range a.Len() {
			n = append(n, float64(a.Value(i).Float32()))
		}
	case *array.Int8:
		n = convert(n, a.Int8Values())
	case *array.Int16:
		n = convert(n, a.Int16Values())
	case *array.Int32:
		n = convert(n, a.Int32Values())
	case *array.Int64:
		n = convert(n, a.Int64Values())
	case *array.Uint8:
		n = convert(n, a.Uint8Values())
	case *array.Uint16:
		n = convert(n, a.Uint16Values())
	case *array.Uint32:
		n = convert(n, a.Uint32Values())
	case *array.Uint64:
		n = convert(n, a.Uint64Values())
	case *array.Decimal128:
		scale := a.DataType().(*arrow.Decimal128Type).Scale
		for i := range a.Len() {
			n = append(n, a.Value(i).ToFloat64(scale))
		}
	case *array.Boolean:
		for i := range a.Len() {
			v := 0.0
			if a.Value(i) {
				v = 1
			}
			n = append(n, v)
		}
	case *array.Null:
	default:
		if c.text = textOf(a); c.text == nil {
			return fmt.Errorf("values of type %s are not read", a.DataType())
		}
	}
	c.number = n
	return nil
}

// times converts a column of times to ns since 1970.
func (c *cells) times(a arrow.Array, clock clock) error {
	c.array, c.text = a, nil
	w := c.whole[:0]
	switch a := a.(type) {
	case *array.Timestamp:
		unit := int64(a.DataType().(*arrow.TimestampType).Unit.Multiplier())
		for _, v := range a.TimestampValues() {
			r := int64(v) * unit
			if r/unit != int64(v) {
				r = math.MinInt64
			}
			w = append(w, r)
		}
	case *array.Int64:
		for _, v := range a.Int64Values() {
			r, err := clock.number(v)
			if err != nil {
				r = math.MinInt64
			}
			w = append(w, r)
		}
	case *array.Date64:
		for _, v := range a.Date64Values() {
			w = append(w, int64(v)*1e6)
		}
	case *array.Date32:
		for _, v := range a.Date32Values() {
			w = append(w, int64(v)*86400e9)
		}
	case *array.Float64:
		unit := float64(max(clock.unit, 1))
		if clock.unit == 0 {
			unit = 1e9
		}
		for _, v := range a.Float64Values() {
			r := v * unit
			if !(math.Abs(r) < math.MaxInt64) {
				w = append(w, math.MinInt64)
			} else {
				w = append(w, int64(math.Round(r)))
			}
		}
	default:
		if c.text = textOf(a); c.text == nil {
			return fmt.Errorf("is %s, not a time", a.DataType())
		}
	}
	c.whole = w
	return nil
}
