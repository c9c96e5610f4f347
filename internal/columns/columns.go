// Package columns reads and makes the Arrow columns that native operators
// work on: typed slices in, typed slices out, nothing per row in between.
package columns

import (
	"fmt"
	"slices"
	"strings"

	"github.com/apache/arrow/go/v17/arrow"
	"github.com/apache/arrow/go/v17/arrow/array"
	"github.com/apache/arrow/go/v17/arrow/memory"

	"github.com/penstock/penstock/pipeline"
)

// Floats is a float64 column: its values, and which of them are null. It
// aliases the record's memory.
type Floats struct {
	Values []float64
	valid  []byte // nil when nothing is null
	offset int
}

// HasNulls reports whether some row is null.
func (f Floats) HasNulls() bool { return f.valid != nil }

// Null reports whether row i is null; its value then means nothing.
func (f Floats) Null(i int) bool {
	if f.valid == nil {
		return false
	}
	i += f.offset
	return f.valid[i>>3]&(1<<(i&7)) == 0
}

// Float64 returns column col of rec, which must be float64.
func Float64(rec arrow.Record, col int) (Floats, error) {
	a, ok := rec.Column(col).(*array.Float64)
	if !ok {
		return Floats{}, wrongType(rec, col, "float64")
	}
	f := Floats{Values: a.Float64Values()}
	if a.NullN() > 0 {
		f.valid, f.offset = a.NullBitmapBytes(), a.Offset()
	}
	return f, nil
}

// Times returns column col of rec, which must be of [pipeline.TimeType].
func Times(rec arrow.Record, col int) ([]arrow.Timestamp, error) {
	a, ok := rec.Column(col).(*array.Timestamp)
	if !ok {
		return nil, wrongType(rec, col, pipeline.TimeType.String())
	}
	return a.TimestampValues(), nil
}

// Uint32 returns column col of rec, which must be uint32; nil for col -1.
func Uint32(rec arrow.Record, col int) ([]uint32, error) {
	if col < 0 {
		return nil, nil
	}
	a, ok := rec.Column(col).(*array.Uint32)
	if !ok {
		return nil, wrongType(rec, col, "uint32")
	}
	return a.Uint32Values(), nil
}

func wrongType(rec arrow.Record, col int, want string) error {
	return fmt.Errorf("column %q is %s, want %s", rec.ColumnName(col), rec.Column(col).DataType(), want)
}

// Find returns the position of the column called name and of type want; the
// error lists the columns that would do.
func Find(s *arrow.Schema, name string, want arrow.DataType) (int, error) {
	i := pipeline.Column(s, name)
	if i >= 0 && arrow.TypeEqual(s.Field(i).Type, want) {
		return i, nil
	}
	var have []string
	for _, f := range s.Fields() {
		if arrow.TypeEqual(f.Type, want) {
			have = append(have, f.Name)
		}
	}
	if i >= 0 {
		err := fmt.Errorf("the column %q is %s and not %s", name, TypeName(s.Field(i).Type), TypeName(want))
		if len(have) > 0 {
			err = fmt.Errorf("%w; those of %s are %q", err, TypeName(want), have)
		}
		return -1, err
	}
	if len(have) == 0 {
		return -1, fmt.Errorf("the input has no %s column, and %q is needed", TypeName(want), name)
	}
	return -1, fmt.Errorf("the input has no %s column %q; it has %q", TypeName(want), name, have)
}

// Timed says what is wrong with rows that need a time each.
func Timed(s *arrow.Schema) error {
	i, err := Find(s, pipeline.NameTime, pipeline.TimeType)
	if err == nil && s.Field(i).Nullable {
		err = fmt.Errorf("column %q may be null, and every row needs a time", pipeline.NameTime)
	}
	return err
}

// TypeName is what a module's manifest calls a type, or Arrow does if that has
// no word for it.
func TypeName(t arrow.DataType) string {
	switch {
	case arrow.TypeEqual(t, pipeline.TimeType):
		return "timestamp"
	case arrow.TypeEqual(t, pipeline.TagType):
		return "tag"
	case arrow.TypeEqual(t, arrow.BinaryTypes.String):
		return "string"
	}
	return t.String()
}

// Names numbers tags in the order of their first appearance.
type Names struct {
	ids  map[string]int
	list []string
	next int
}

// ID returns the number of name, a new one if it is not known; the string is
// copied. Names that come in the same order each time are found without
// hashing.
func (n *Names) ID(name string) int {
	if n.next < len(n.list) && n.list[n.next] == name {
		n.next++
		return n.next - 1
	}
	id, ok := n.ids[name]
	if !ok {
		if n.ids == nil {
			n.ids = map[string]int{}
		}
		id = len(n.list)
		name = strings.Clone(name)
		n.ids[name] = id
		n.list = append(n.list, name)
	}
	n.next = id + 1
	if n.next == len(n.list) {
		n.next = 0
	}
	return id
}

// Name returns the name with number id.
func (n *Names) Name(id int) string { return n.list[id] }

// Len returns how many names there are.
func (n *Names) Len() int { return len(n.list) }

// Keys collects the time and tag of rows that come grouped by tag.
type Keys struct {
	Times []arrow.Timestamp
	index []int32
	tags  []string
}

// Add appends a row; a tag other than the last row's begins a run.
func (k *Keys) Add(tag string, t arrow.Timestamp) {
	if len(k.tags) == 0 || k.tags[len(k.tags)-1] != tag {
		k.tags = append(k.tags, tag)
	}
	k.Times = append(k.Times, t)
	k.index = append(k.index, int32(len(k.tags)-1))
}

// Len returns how many rows there are.
func (k *Keys) Len() int { return len(k.Times) }

// Reset empties k and keeps its memory.
func (k *Keys) Reset() { k.Times, k.index, k.tags = k.Times[:0], k.index[:0], k.tags[:0] }

// Arrays returns the time and the tag column. The caller owns them.
func (k *Keys) Arrays(alloc memory.Allocator) (times, tags arrow.Array) {
	dict := Strings(alloc, k.tags)
	b := array.NewInt32Builder(alloc)
	b.AppendValues(k.index, nil)
	idx := b.NewArray()
	b.Release()
	tags = array.NewDictionaryArray(pipeline.TagType, idx, dict)
	idx.Release()
	dict.Release()
	return Timestamps(alloc, k.Times), tags
}

// Timestamps makes a column of [pipeline.TimeType].
func Timestamps(alloc memory.Allocator, v []arrow.Timestamp) arrow.Array {
	b := array.NewTimestampBuilder(alloc, pipeline.TimeType)
	defer b.Release()
	b.AppendValues(v, nil)
	return b.NewArray()
}

// Strings makes a utf8 column.
func Strings(alloc memory.Allocator, v []string) arrow.Array {
	b := array.NewStringBuilder(alloc)
	defer b.Release()
	b.AppendValues(v, nil)
	return b.NewArray()
}

// Uint32s makes a uint32 column.
func Uint32s(alloc memory.Allocator, v []uint32) arrow.Array {
	b := array.NewUint32Builder(alloc)
	defer b.Release()
	b.AppendValues(v, nil)
	return b.NewArray()
}

// Float64s makes a float64 column; where valid is false the row is null.
func Float64s(alloc memory.Allocator, v []float64, valid []bool) arrow.Array {
	b := array.NewFloat64Builder(alloc)
	defer b.Release()
	if !slices.Contains(valid, false) {
		valid = nil
	}
	b.AppendValues(v, valid)
	return b.NewArray()
}

// Record makes a record of the columns, which it takes over.
func Record(s *arrow.Schema, cols []arrow.Array) arrow.Record {
	rec := array.NewRecord(s, cols, int64(cols[0].Len()))
	for _, c := range cols {
		c.Release()
	}
	return rec
}
