package wasm

import (
	"encoding/binary"
	"fmt"
	"math"
)

// abiVersion is that of operators/sdk/c/penstock.h.
const abiVersion = 1

// The Arrow C Data Interface in wasm32: pointers have 4 bytes, int64 fields
// are aligned to 8.
//
//	ArrowSchema             ArrowArray
//	 0 format       ptr      0 length       int64
//	 4 name         ptr      8 null_count   int64
//	 8 metadata     ptr     16 offset       int64
//	16 flags        int64   24 n_buffers    int64
//	24 n_children   int64   32 n_children   int64
//	32 children     ptr     40 buffers      ptr
//	36 dictionary   ptr     44 children     ptr
//	40 release      ptr     48 dictionary   ptr
//	44 private_data ptr     52 release      ptr
//	48                      56 private_data ptr
//	                        64 (60, and padding)
const (
	schemaFormat     = 0
	schemaName       = 4
	schemaFlags      = 16
	schemaNChildren  = 24
	schemaChildren   = 32
	schemaDictionary = 36
	schemaSize       = 48

	arrayLength     = 0
	arrayNullCount  = 8
	arrayOffset     = 16
	arrayNBuffers   = 24
	arrayNChildren  = 32
	arrayBuffers    = 40
	arrayChildren   = 44
	arrayDictionary = 48
	arraySize       = 64

	flagNullable = 2

	bufSize = 8 // penstock_buf: ptr, len
)

// align is that of the arena and of every buffer in it: whole cache lines, so
// a kernel may use aligned vector loads and read a vector past the end.
const align = 64

func align64(n uint64) uint64 { return (n + align - 1) &^ (align - 1) }

// image is the arena, being written. Offsets are relative to it; pointers are
// the guest's.
type image struct {
	b    []byte
	base uint32
}

func (m image) ptr(off uint64) uint32         { return m.base + uint32(off) }
func (m image) put32(off uint64, v uint32)    { binary.LittleEndian.PutUint32(m.b[off:], v) }
func (m image) put64(off uint64, v uint64)    { binary.LittleEndian.PutUint64(m.b[off:], v) }
func (m image) get32(off uint64) uint32       { return binary.LittleEndian.Uint32(m.b[off:]) }
func (m image) get64(off uint64) uint64       { return binary.LittleEndian.Uint64(m.b[off:]) }
func (m image) putPtr(off uint64, to uint64)  { m.put32(off, m.ptr(to)) }
func (m image) clear(off, n uint64)           { clear(m.b[off : off+n]) }
func (m image) text(off uint64, s string)     { m.b[off+uint64(copy(m.b[off:], s))] = 0 }
func (m image) buffer(off, n uint64) []byte   { return m.b[off : off+n : off+n] }
func (m image) clearTail(off, written uint64) { m.clear(off+written, align64(written)-written) }

// view is the guest's memory, being read. Everything in it is untrusted: each
// read is checked against its end.
type view []byte

func (v view) bytes(ptr uint32, n uint64) ([]byte, error) {
	if n == 0 && uint64(ptr) > uint64(len(v)) {
		return nil, fmt.Errorf("nothing at %#x, which is past the memory's end at %#x: the address of what is empty must be in memory too, 0 will do", ptr, len(v))
	}
	if n > uint64(len(v)) || uint64(ptr) > uint64(len(v))-n {
		return nil, fmt.Errorf("%d bytes at %#x reach past the memory's end at %#x", n, ptr, len(v))
	}
	return v[ptr : uint64(ptr)+n], nil
}

// ptr reads the i-th pointer of the array at base.
func (v view) ptr(base uint32, i int) (uint32, error) {
	at := uint64(base) + 4*uint64(i)
	if at > math.MaxUint32 {
		return 0, fmt.Errorf("pointer %d of the array at %#x is beyond 32 bits", i, base)
	}
	b, err := v.bytes(uint32(at), 4)
	if err != nil {
		return 0, err
	}
	return binary.LittleEndian.Uint32(b), nil
}

// buf reads a penstock_buf and what it points to.
func (v view) buf(ptr uint32) ([]byte, error) {
	b, err := v.bytes(ptr, bufSize)
	if err != nil {
		return nil, err
	}
	return v.bytes(binary.LittleEndian.Uint32(b), uint64(binary.LittleEndian.Uint32(b[4:])))
}

// cstring reads a text that ends with a zero within limit bytes.
func (v view) cstring(ptr uint32, limit int) (string, error) {
	for n := range limit {
		if uint64(ptr)+uint64(n) >= uint64(len(v)) {
			break
		}
		if v[uint64(ptr)+uint64(n)] == 0 {
			return string(v[ptr : uint64(ptr)+uint64(n)]), nil
		}
	}
	return "", fmt.Errorf("the text at %#x has no end within %d bytes", ptr, limit)
}

// guestArray is an ArrowArray as the guest wrote it.
type guestArray struct {
	length, nulls, offset, nBuffers, nChildren int64
	buffers, children, dictionary              uint32
}

// maxRows bounds a batch that a guest makes.
const maxRows = 1 << 24

func (v view) array(ptr uint32) (guestArray, error) {
	b, err := v.bytes(ptr, arraySize)
	if err != nil {
		return guestArray{}, err
	}
	i64 := func(off int) int64 { return int64(binary.LittleEndian.Uint64(b[off:])) }
	u32 := func(off int) uint32 { return binary.LittleEndian.Uint32(b[off:]) }
	a := guestArray{
		length: i64(arrayLength), nulls: i64(arrayNullCount), offset: i64(arrayOffset),
		nBuffers: i64(arrayNBuffers), nChildren: i64(arrayNChildren),
		buffers: u32(arrayBuffers), children: u32(arrayChildren), dictionary: u32(arrayDictionary),
	}
	switch {
	case a.length < 0 || a.length > maxRows:
		return a, fmt.Errorf("length %d is not in 0..%d", a.length, maxRows)
	case a.offset < 0 || a.offset > math.MaxInt32:
		return a, fmt.Errorf("offset %d is not in 0..%d", a.offset, math.MaxInt32)
	case a.nulls < -1 || a.nulls > a.length:
		return a, fmt.Errorf("null_count %d is not in -1..%d", a.nulls, a.length)
	}
	return a, nil
}
