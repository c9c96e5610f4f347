package columns

import (
	"github.com/apache/arrow/go/v17/arrow"
	"github.com/apache/arrow/go/v17/arrow/array"
)

// Size is about how many bytes the rows of rec take when they are encoded:
// fixed is for dictionaries, which each cut of the record has whole. It depends
// on what rec holds only, not on how that lies in memory.
func Size(rec arrow.Record) (fixed, byRow int64) {
	for _, c := range rec.Columns() {
		if d, ok := c.(*array.Dictionary); ok {
			fixed += size(d.Dictionary())
			c = d.Indices()
		}
		byRow += size(c)
	}
	return fixed, byRow
}

func size(c arrow.Array) int64 {
	rows := int64(c.Len())
	n := (rows + 7) / 8
	switch a := c.(type) {
	case *array.String:
		return n + 4*rows + int64(len(a.ValueBytes()))
	case *array.Boolean:
		return 2 * n
	case *array.Int32, *array.Uint32:
		return n + 4*rows
	}
	return n + 8*rows
}
