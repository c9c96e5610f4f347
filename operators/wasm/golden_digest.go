package wasm

import (
	"encoding/binary"
	"math"

	"github.com/apache/arrow/go/v17/arrow"
	"github.com/apache/arrow/go/v17/arrow/array"
)

// AppendCanonical appends a batch that a module made to dst, so that two
// batches have the same bytes when they mean the same:
//
//	rows            uint32
//	then, for each column in the manifest's order:
//	  a byte per row: 1 for a value, 0 for null
//	  each value that is not null:
//	    timestamp int64   8 bytes (a timestamp is ns since 1970)
//	    float64           8 bytes, IEEE 754; every NaN is 0x7ff8000000000001, -0 is not 0
//	    uint32            4 bytes
//	    bool              1 byte, 0 or 1
//	    string tag        uint32 length, then UTF-8
//
// All integers are little-endian. What lies in the slot of a null, and how a
// dictionary is laid out, does not count. A batch without rows is not encoded.
func AppendCanonical(dst []byte, rec arrow.Record) []byte {
	le := binary.LittleEndian
	text := func(s string) {
		dst = le.AppendUint32(dst, uint32(len(s)))
		dst = append(dst, s...)
	}
	rows := int(rec.NumRows())
	dst = le.AppendUint32(dst, uint32(rows))
	for _, col := range rec.Columns() {
		for i := range rows {
			v := byte(1)
			if col.IsNull(i) {
				v = 0
			}
			dst = append(dst, v)
		}
		for i := range rows {
			if col.IsNull(i) {
				continue
			}
			switch a := col.(type) {
			case *array.Timestamp:
				dst = le.AppendUint64(dst, uint64(a.Value(i)))
			case *array.Int64:
				dst = le.AppendUint64(dst, uint64(a.Value(i)))
			case *array.Float64:
				v := a.Value(i)
				if v != v {
					v = math.NaN()
				}
				dst = le.AppendUint64(dst, math.Float64bits(v))
			case *array.Uint32:
				dst = le.AppendUint32(dst, a.Value(i))
			case *array.Boolean:
				v := byte(0)
				if a.Value(i) {
					v = 1
				}
				dst = append(dst, v)
			case *array.String:
				text(a.Value(i))
			case *array.Dictionary:
				text(a.Dictionary().(*array.String).Value(a.GetValueIndex(i)))
			}
		}
	}
	return dst
}
