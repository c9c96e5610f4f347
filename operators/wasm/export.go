package wasm

import (
	"fmt"

	"github.com/apache/arrow/go/v17/arrow"
	"github.com/apache/arrow/go/v17/arrow/array"
	"github.com/apache/arrow/go/v17/arrow/bitutil"
)

// exporter lays records out in the arena:
//
//	out ArrowArray | in ArrowArray | its children's pointers |
//	per column: ArrowArray, its buffers' pointers, for a tag the dictionary's |
//	then each buffer, aligned to 64 bytes
//
// The part up to the buffers has the same place in every batch.
type exporter struct {
	cols []exportColumn
	head uint64
}

const (
	outOff      = 0
	inOff       = outOff + arraySize
	nullPtrOff  = inOff + arraySize // the record's own validity: none
	childrenOff = nullPtrOff + 8
)

type exportColumn struct {
	name  string
	index int // in the record
	typ   columnType
	at    uint64 // of the ArrowArray; its three buffer pointers follow
	dict  uint64 // of the dictionary's ArrowArray, likewise; 0 for none

	// The batch at hand.
	data                              arrow.ArrayData
	rows, nulls                       int
	valid, offsets, bytes, dictOffset uint64 // offsets of buffers in the arena
	dictBytes                         uint64
	strs                              *array.String // the column's or its dictionary's texts
	strBytes                          uint64
	runs                              []int32 // tag: dictionary position of each run
	runEnds                           []int32
	normal                            bool // tag: the index is the run's number already
	seen                              []bool
}

const columnSize = arraySize + 16

func newExporter(cols []exportColumn) *exporter {
	e := &exporter{cols: cols, head: align64(childrenOff + 4*uint64(len(cols)))}
	for i := range e.cols {
		c := &e.cols[i]
		c.at, e.head = e.head, e.head+columnSize
		if c.typ.format == "i" {
			c.dict, e.head = e.head, e.head+columnSize
		}
	}
	e.head = align64(e.head)
	return e
}

// plan takes a record, which must live until forget, and returns how many bytes
// of arena it needs.
func (e *exporter) plan(rec arrow.Record) (uint64, error) {
	n := e.head
	place := func(size uint64) uint64 {
		at := n
		n += align64(size)
		return at
	}
	for i := range e.cols {
		c := &e.cols[i]
		if c.index >= int(rec.NumCols()) {
			return 0, fmt.Errorf("the batch has no column %q", c.name)
		}
		arr := rec.Column(c.index)
		// The same type is most often the same object, and TypeEqual reflects.
		if t := arr.DataType(); t != c.typ.arrow && !arrow.TypeEqual(t, c.typ.arrow) {
			return 0, fmt.Errorf("column %q is %s, want %s", c.name, arr.DataType(), c.typ.arrow)
		}
		c.data, c.rows, c.nulls = arr.Data(), arr.Len(), arr.NullN()
		c.valid, c.strs = 0, nil
		rows := uint64(c.rows)
		if c.nulls > 0 {
			c.valid = place((rows + 7) / 8)
		}
		switch c.typ.width {
		case -1:
			c.strs = arr.(*array.String)
			c.strBytes = uint64(len(c.strs.ValueBytes()))
			c.offsets, c.bytes = place(4*(rows+1)), place(c.strBytes)
		case 0:
			c.bytes = place((rows + 7) / 8)
		default:
			c.bytes = place(rows * uint64(c.typ.width))
		}
		if c.dict != 0 {
			if err := c.planTags(arr.(*array.Dictionary)); err != nil {
				return 0, err
			}
			c.dictOffset, c.dictBytes = place(4*uint64(len(c.runs)+1)), place(c.strBytes)
		}
	}
	return n, nil
}

// planTags finds the runs and whether the dictionary is just theirs, in their
// order, as the guest may expect. That of a filtered or sliced record is not.
func (c *exportColumn) planTags(d *array.Dictionary) error {
	var ok bool
	if c.strs, ok = d.Dictionary().(*array.String); !ok || c.nulls > 0 || c.strs.NullN() > 0 {
		return fmt.Errorf("column %q has nulls or no text in its dictionary", c.name)
	}
	idx := d.Indices().(*array.Int32).Int32Values()
	dict := c.strs.Len()
	c.seen = append(c.seen[:0], make([]bool, dict)...)
	c.runs, c.runEnds, c.normal, c.strBytes = c.runs[:0], c.runEnds[:0], true, 0
	for i := 0; i < len(idx); {
		v := idx[i]
		if uint(v) >= uint(dict) {
			return fmt.Errorf("column %q: row %d has index %d of %d tags", c.name, i, v, dict)
		}
		if c.seen[v] {
			return fmt.Errorf("column %q is not grouped: tag %q has two runs", c.name, c.strs.Value(int(v)))
		}
		c.seen[v] = true
		c.normal = c.normal && int(v) == len(c.runs)
		c.runs = append(c.runs, v)
		c.strBytes += uint64(c.strs.ValueLen(int(v)))
		for i++; i < len(idx) && idx[i] == v; i++ {
		}
		c.runEnds = append(c.runEnds, int32(i))
	}
	c.normal = c.normal && len(c.runs) == dict
	return nil
}

// write lays the planned record out in m.
func (e *exporter) write(m image, rows int) {
	m.clear(0, e.head)
	m.put64(inOff+arrayLength, uint64(rows))
	m.put64(inOff+arrayNBuffers, 1)
	m.put64(inOff+arrayNChildren, uint64(len(e.cols)))
	m.putPtr(inOff+arrayBuffers, nullPtrOff)
	m.putPtr(inOff+arrayChildren, childrenOff)
	for i := range e.cols {
		c := &e.cols[i]
		m.putPtr(childrenOff+4*uint64(i), c.at)
		c.write(m)
	}
}

// forget lets go of the record.
func (e *exporter) forget() {
	for i := range e.cols {
		e.cols[i].data, e.cols[i].strs = nil, nil
	}
}

func (c *exportColumn) write(m image) {
	rows, off := uint64(c.rows), c.data.Offset()
	bufs := c.data.Buffers()
	ptrs := c.at + arraySize
	m.put64(c.at+arrayLength, rows)
	m.put64(c.at+arrayNullCount, uint64(c.nulls))
	m.put64(c.at+arrayNBuffers, 2)
	m.putPtr(c.at+arrayBuffers, ptrs)
	if c.nulls > 0 {
		m.putPtr(ptrs, c.valid)
		c.copyBits(m, c.valid, bufs[0].Bytes(), off)
	}
	switch w := c.typ.width; w {
	case -1:
		m.put64(c.at+arrayNBuffers, 3)
		m.putPtr(ptrs+4, c.offsets)
		m.putPtr(ptrs+8, c.bytes)
		copyOffsets(m, c.offsets, c.strs)
		copy(m.b[c.bytes:], c.strs.ValueBytes())
		m.clearTail(c.bytes, c.strBytes)
	case 0:
		m.putPtr(ptrs+4, c.bytes)
		if rows > 0 {
			c.copyBits(m, c.bytes, bufs[1].Bytes(), off)
		}
	default:
		m.putPtr(ptrs+4, c.bytes)
		n := rows * uint64(w)
		switch {
		case rows == 0:
		case c.dict != 0 && !c.normal:
			c.renumber(m)
		default:
			copy(m.buffer(c.bytes, n), bufs[1].Bytes()[off*w:])
		}
		m.clearTail(c.bytes, n)
	}
	if c.dict != 0 {
		c.writeDict(m)
	}
}

func (c *exportColumn) copyBits(m image, at uint64, src []byte, off int) {
	n := (uint64(c.rows) + 7) / 8
	m.clear(at, align64(n))
	bitutil.CopyBitmap(src, off, c.rows, m.buffer(at, n), 0)
}

func copyOffsets(m image, at uint64, s *array.String) {
	n := uint64(0)
	if s.Len() == 0 {
		m.put32(at, 0)
	} else {
		offs := s.ValueOffsets()
		n = uint64(len(offs) - 1)
		if first := offs[0]; first == 0 {
			copy(m.buffer(at, 4*(n+1)), arrow.Int32Traits.CastToBytes(offs))
		} else {
			for i, o := range offs {
				m.put32(at+4*uint64(i), uint32(o-first))
			}
		}
	}
	m.clearTail(at, 4*(n+1))
}

// renumber writes each row's run number.
func (c *exportColumn) renumber(m image) {
	i := int32(0)
	for run, end := range c.runEnds {
		for ; i < end; i++ {
			m.put32(c.bytes+4*uint64(i), uint32(run))
		}
	}
}

// writeDict writes the runs' tags.
func (c *exportColumn) writeDict(m image) {
	n := uint64(len(c.runs))
	ptrs := c.dict + arraySize
	m.putPtr(c.at+arrayDictionary, c.dict)
	m.put64(c.dict+arrayLength, n)
	m.put64(c.dict+arrayNBuffers, 3)
	m.putPtr(c.dict+arrayBuffers, ptrs)
	m.putPtr(ptrs+4, c.dictOffset)
	m.putPtr(ptrs+8, c.dictBytes)
	if c.normal {
		copyOffsets(m, c.dictOffset, c.strs)
		copy(m.b[c.dictBytes:], c.strs.ValueBytes())
	} else {
		pos := uint64(0)
		for i, v := range c.runs {
			m.put32(c.dictOffset+4*uint64(i), uint32(pos))
			pos += uint64(copy(m.b[c.dictBytes+pos:], c.strs.Value(int(v))))
		}
		m.put32(c.dictOffset+4*n, uint32(pos))
		m.clearTail(c.dictOffset, 4*(n+1))
	}
	m.clearTail(c.dictBytes, c.strBytes)
}

// Where a bind call's structs lie: the output's ArrowSchema, then the input's.
const (
	bindOut  = 0
	bindIn   = bindOut + schemaSize
	bindHead = bindIn + schemaSize
)

// schemaSizeOf returns how much arena a bind call needs.
func schemaSizeOf(cols []Column) uint64 {
	n := uint64(bindHead + 4*len(cols) + 8 + 2*schemaSize*len(cols))
	for _, c := range cols {
		n += uint64(len(c.Name) + 1 + len("tsn:UTC") + 1)
	}
	return align64(n + 16)
}

func writeSchema(m image, cols []Column) {
	m.clear(0, uint64(len(m.b)))
	children := uint64(bindHead)
	structs := align64(children + 4*uint64(len(cols)))
	text := structs + 2*schemaSize*uint64(len(cols))
	put := func(field uint64, s string) {
		m.putPtr(field, text)
		m.text(text, s)
		text += uint64(len(s)) + 1
	}
	put(bindIn+schemaFormat, "+s")
	put(bindIn+schemaName, "")
	m.put64(bindIn+schemaNChildren, uint64(len(cols)))
	m.putPtr(bindIn+schemaChildren, children)
	for i, c := range cols {
		at := structs + 2*schemaSize*uint64(i)
		m.putPtr(children+4*uint64(i), at)
		put(at+schemaFormat, columnTypes[c.Type].format)
		put(at+schemaName, c.Name)
		if c.Nullable {
			m.put64(at+schemaFlags, flagNullable)
		}
		if c.Type == "tag" {
			dict := at + schemaSize
			m.putPtr(at+schemaDictionary, dict)
			put(dict+schemaFormat, "u")
			put(dict+schemaName, "")
		}
	}
}
