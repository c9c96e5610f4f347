package columns

import (
	"unsafe"

	"github.com/apache/arrow/go/v17/arrow"
	"github.com/apache/arrow/go/v17/arrow/array"
	"github.com/apache/arrow/go/v17/arrow/bitutil"
	"github.com/apache/arrow/go/v17/arrow/memory"

	"github.com/penstock/penstock/pipeline"
)

// Take copies the given rows, in rising order, of rec. Tag columns get a
// dictionary of just the tags that are left, in the order of their runs. The
// caller owns the result.
func Take(alloc memory.Allocator, rec arrow.Record, rows []int32) (arrow.Record, error) {
	cols := make([]arrow.Array, 0, rec.NumCols())
	defer func() {
		for _, c := range cols {
			c.Release()
		}
	}()
	for i, a := range rec.Columns() {
		c, err := takeColumn(alloc, a, rows, rec.ColumnName(i) == pipeline.NameTag)
		if err != nil {
			return nil, err
		}
		cols = append(cols, c)
	}
	return array.NewRecord(rec.Schema(), cols, int64(len(rows))), nil
}

func takeColumn(alloc memory.Allocator, a arrow.Array, rows []int32, tag bool) (arrow.Array, error) {
	switch a := a.(type) {
	case *array.Dictionary:
		idx, ok := a.Indices().(*array.Int32)
		names, ok2 := a.Dictionary().(*array.String)
		if tag && ok && ok2 && a.NullN() == 0 {
			return takeTags(alloc, idx.Int32Values(), names, rows), nil
		}
		ix, err := takeColumn(alloc, a.Indices(), rows, false)
		if err != nil {
			return nil, err
		}
		defer ix.Release()
		return array.NewDictionaryArray(a.DataType(), ix, a.Dictionary()), nil
	case *array.String:
		return takeStrings(alloc, a, rows), nil
	}
	ft, ok := a.DataType().(arrow.FixedWidthDataType)
	if !ok || a.DataType().ID() == arrow.EXTENSION {
		return takeRanges(alloc, a, rows)
	}
	switch ft.BitWidth() {
	case 8:
		return takeFixed[uint8](alloc, a, rows), nil
	case 16:
		return takeFixed[uint16](alloc, a, rows), nil
	case 32:
		return takeFixed[uint32](alloc, a, rows), nil
	case 64:
		return takeFixed[uint64](alloc, a, rows), nil
	}
	return takeRanges(alloc, a, rows)
}

func takeFixed[T uint8 | uint16 | uint32 | uint64](alloc memory.Allocator, a arrow.Array, rows []int32) arrow.Array {
	src := cast[T](a.Data().Buffers()[1].Bytes())[a.Data().Offset():]
	buf := buffer(alloc, len(rows)*int(unsafe.Sizeof(T(0))))
	dst := cast[T](buf.Bytes())
	for k, i := range rows {
		dst[k] = src[i]
	}
	valid, nulls := takeValid(alloc, a, rows)
	return finish(a.DataType(), len(rows), nulls, valid, buf)
}

func takeTags(alloc memory.Allocator, src []int32, names *array.String, rows []int32) arrow.Array {
	buf := buffer(alloc, len(rows)*4)
	dst := cast[int32](buf.Bytes())
	left := array.NewStringBuilder(alloc)
	defer left.Release()
	run, last := int32(-1), int32(-1)
	for k, i := range rows {
		if src[i] != last {
			run, last = run+1, src[i]
			left.Append(names.Value(int(last)))
		}
		dst[k] = run
	}
	idx := finish(arrow.PrimitiveTypes.Int32, len(rows), 0, nil, buf)
	defer idx.Release()
	dict := left.NewArray()
	defer dict.Release()
	return array.NewDictionaryArray(pipeline.TagType, idx, dict)
}

func takeStrings(alloc memory.Allocator, a *array.String, rows []int32) arrow.Array {
	valid, nulls := takeValid(alloc, a, rows)
	offs := buffer(alloc, (len(rows)+1)*4)
	to := cast[int32](offs.Bytes())
	clear(to)
	var data *memory.Buffer
	if nulls == len(rows) {
		data = buffer(alloc, 0)
	} else {
		from, n := a.ValueOffsets(), int32(0)
		for k, i := range rows {
			n += from[i+1] - from[i]
			to[k+1] = n
		}
		data = buffer(alloc, int(n))
		src, dst := a.ValueBytes(), data.Bytes()
		base := from[0]
		for k, i := range rows {
			copy(dst[to[k]:to[k+1]], src[from[i]-base:from[i+1]-base])
		}
	}
	return finish(a.DataType(), len(rows), nulls, valid, offs, data)
}

// takeValid copies the validity of rows; nil when none of them is null.
func takeValid(alloc memory.Allocator, a arrow.Array, rows []int32) (*memory.Buffer, int) {
	if a.NullN() == 0 {
		return nil, 0
	}
	buf := buffer(alloc, (len(rows)+7)/8)
	dst := buf.Bytes()
	clear(dst)
	if a.NullN() == a.Len() {
		return buf, len(rows)
	}
	src, off, nulls := a.NullBitmapBytes(), a.Data().Offset(), len(rows)
	for k, i := range rows {
		j := off + int(i)
		bit := src[j>>3] >> (j & 7) & 1
		dst[k>>3] |= bit << (k & 7)
		nulls -= int(bit)
	}
	if nulls == 0 {
		buf.Release()
		return nil, 0
	}
	return buf, nulls
}

// takeRanges is for types that readings do not have, such as lists and
// booleans: it joins the slices of adjoining rows.
func takeRanges(alloc memory.Allocator, a arrow.Array, rows []int32) (arrow.Array, error) {
	if b, ok := a.(*array.Boolean); ok {
		return takeBools(alloc, b, rows), nil
	}
	var parts []arrow.Array
	defer func() {
		for _, p := range parts {
			p.Release()
		}
	}()
	for i := 0; i < len(rows); {
		j := i + 1
		for j < len(rows) && rows[j] == rows[j-1]+1 {
			j++
		}
		parts = append(parts, array.NewSlice(a, int64(rows[i]), int64(rows[j-1])+1))
		i = j
	}
	return array.Concatenate(parts, alloc)
}

func takeBools(alloc memory.Allocator, a *array.Boolean, rows []int32) arrow.Array {
	buf := buffer(alloc, (len(rows)+7)/8)
	clear(buf.Bytes())
	for k, i := range rows {
		if a.Value(int(i)) {
			bitutil.SetBit(buf.Bytes(), k)
		}
	}
	valid, nulls := takeValid(alloc, a, rows)
	return finish(a.DataType(), len(rows), nulls, valid, buf)
}

func buffer(alloc memory.Allocator, n int) *memory.Buffer {
	b := memory.NewResizableBuffer(alloc)
	b.Resize(n)
	return b
}

// finish makes an array of buffers, which it takes over.
func finish(t arrow.DataType, n, nulls int, bufs ...*memory.Buffer) arrow.Array {
	d := array.NewData(t, n, bufs, nil, nulls, 0)
	for _, b := range bufs {
		if b != nil {
			b.Release()
		}
	}
	a := array.MakeFromData(d)
	d.Release()
	return a
}

func cast[T any](b []byte) []T {
	if len(b) == 0 {
		return nil
	}
	return unsafe.Slice((*T)(unsafe.Pointer(unsafe.SliceData(b))), len(b)/int(unsafe.Sizeof(*new(T))))
}
