// Package state is the binary form of operator snapshots: little-endian fixed
// numbers, varint counts, no reflection, the same bytes for the same state.
package state

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
)

// Writer collects a snapshot.
type Writer struct{ b []byte }

// NewWriter begins a snapshot of the given kind and version.
func NewWriter(kind string, version uint64) *Writer {
	w := &Writer{}
	w.String(kind)
	w.Uint(version)
	return w
}

func (w *Writer) Uint(v uint64)   { w.b = binary.AppendUvarint(w.b, v) }
func (w *Writer) Int(v int64)     { w.b = binary.LittleEndian.AppendUint64(w.b, uint64(v)) }
func (w *Writer) Uint32(v uint32) { w.b = binary.LittleEndian.AppendUint32(w.b, v) }
func (w *Writer) Float(v float64) {
	w.b = binary.LittleEndian.AppendUint64(w.b, math.Float64bits(v))
}
func (w *Writer) String(s string) { w.Uint(uint64(len(s))); w.b = append(w.b, s...) }
func (w *Writer) Bool(v bool) {
	if v {
		w.b = append(w.b, 1)
	} else {
		w.b = append(w.b, 0)
	}
}

// Flush writes the snapshot to dst.
func (w *Writer) Flush(dst io.Writer) error {
	_, err := dst.Write(w.b)
	return err
}

// Reader takes a snapshot apart. The first error sticks: the values read after
// it are zero, and [Reader.Close] returns it.
type Reader struct {
	b   []byte
	err error
}

var errShort = errors.New("snapshot is truncated")

// NewReader reads all of src, which must be a snapshot of this kind and
// version.
func NewReader(src io.Reader, kind string, version uint64) *Reader {
	r := &Reader{}
	r.b, r.err = io.ReadAll(src)
	if k := r.String(); r.err == nil && k != kind {
		r.err = fmt.Errorf("snapshot is of %q, want %q", k, kind)
	}
	if v := r.Uint(); r.err == nil && v != version {
		r.err = fmt.Errorf("snapshot of %q has version %d, want %d", kind, v, version)
	}
	return r
}

func (r *Reader) take(n int) []byte {
	if r.err == nil && len(r.b) < n {
		r.err = errShort
	}
	if r.err != nil {
		return make([]byte, min(n, 8))
	}
	b := r.b[:n]
	r.b = r.b[n:]
	return b
}

func (r *Reader) Uint() uint64 {
	if r.err != nil {
		return 0
	}
	v, n := binary.Uvarint(r.b)
	if n <= 0 {
		r.err = errShort
		return 0
	}
	r.b = r.b[n:]
	return v
}
func (r *Reader) Int() int64     { return int64(binary.LittleEndian.Uint64(r.take(8))) }
func (r *Reader) Uint32() uint32 { return binary.LittleEndian.Uint32(r.take(4)) }
func (r *Reader) Float() float64 { return math.Float64frombits(binary.LittleEndian.Uint64(r.take(8))) }
func (r *Reader) Bool() bool     { return r.take(1)[0] != 0 }
func (r *Reader) String() string {
	n := r.Len(1)
	if n == 0 {
		return ""
	}
	return string(r.take(n))
}

// Len reads a count of items that take at least size bytes each: a count that
// the rest of the snapshot cannot hold is an error, not an allocation.
func (r *Reader) Len(size int) int {
	n := r.Uint()
	if r.err == nil && n > uint64(len(r.b)/size) {
		r.err = errShort
	}
	if r.err != nil {
		return 0
	}
	return int(n)
}

// Expect notes an error unless have, a setting the state depends on, is want.
func (r *Reader) Expect(setting string, have, want any) {
	if r.err == nil && have != want {
		r.err = fmt.Errorf("snapshot was made with %s %v, and the config now says %v", setting, have, want)
	}
}

// Fail notes an error.
func (r *Reader) Fail(err error) {
	if r.err == nil {
		r.err = err
	}
}

// Err returns the first error.
func (r *Reader) Err() error { return r.err }

// Close returns the first error, or one when bytes are left over.
func (r *Reader) Close() error {
	if r.err == nil && len(r.b) > 0 {
		r.err = fmt.Errorf("snapshot has %d bytes too many", len(r.b))
	}
	return r.err
}
