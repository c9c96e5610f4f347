//go:build wasip1

// Package penstock lets you write a Penstock operator in Go without touching
// Arrow. Name the columns, a struct of parameters and a struct that is the state
// of one tag, implement [Operator] and call [Map] in an init function, or
// [Emitter] and [Emit]; main stays empty. It needs nothing but the standard
// library.
//
// Asking for a column by another type than it has, or for a row that is not
// there, panics: the message goes to the host's log and the module is stopped.
package penstock

import (
	"errors"
	"math"
	"reflect"
	"time"
	"unsafe"
)

// Type is that of a column.
type Type int

// The types of columns.
const (
	Timestamp Type = iota
	Tag
	Float64
	Uint32
	String
	Bool
	Int64
)

var formats = [...]string{"tsn:UTC", "i", "g", "I", "u", "b", "l"}

// Column is a column of the manifest. Only an "emit" operator makes a Tag.
type Column struct {
	Name     string
	Type     Type
	Nullable bool
}

// Operator is an operator of the kind "map": it adds columns to each row.
//
// P is a struct with a field for each parameter, in the manifest's order:
// float64; int or int64 for int and for an enum's position; bool;
// time.Duration; string. S is a struct of numbers and arrays of them, largest
// first; it is zero when its tag is first seen, and saved and restored for you.
type Operator[P, S any] interface {
	// Open is called once, at the start.
	Open(p P) error
	// Run is called for each tag of each batch. It keeps neither of its
	// arguments.
	Run(r *Run, s *S) error
}

// Emitter is an operator of the kind "emit": it makes rows of its own, in Run and
// in Advance, each with [Run.AddRow].
type Emitter[P, S any] interface {
	Operator[P, S]
	// Advance is called for each tag seen so far, in the order in which they
	// came, when the input is complete up to the watermark, in ns since 1970. R
	// has the tag, and no rows.
	Advance(r *Run, s *S, watermark int64) error
}

// Map makes op the module's operator. Inputs and outputs are the manifest's, in
// its order.
func Map[P, S any](inputs, outputs []Column, op Operator[P, S]) {
	self.inputs, self.outputs = inputs, outputs
	self.out = make([]output, len(outputs))
	self.params = reflect.TypeFor[P]()
	self.stateSize = int(unsafe.Sizeof(*new(S)))
	self.newState = func() []byte {
		return unsafe.Slice((*byte)(unsafe.Pointer(new(S))), self.stateSize)
	}
	self.open = func(slots []uint64) error {
		if err := onlyNumbers(reflect.TypeFor[S]()); err != nil {
			return err
		}
		var p P
		if err := readParams(reflect.ValueOf(&p).Elem(), slots); err != nil {
			return err
		}
		return op.Open(p)
	}
	self.run = func(r *Run, state []byte) error { return op.Run(r, stateAs[S](state)) }
}

// Emit makes op the module's operator. Inputs and outputs are the manifest's, in
// its order.
func Emit[P, S any](inputs, outputs []Column, op Emitter[P, S]) {
	Map[P, S](inputs, outputs, op)
	self.advance = func(r *Run, state []byte, watermark int64) error { return op.Advance(r, stateAs[S](state), watermark) }
}

func stateAs[S any](state []byte) *S { return (*S)(unsafe.Pointer(unsafe.SliceData(state))) }

func readParams(to reflect.Value, slots []uint64) error {
	for i := range to.NumField() {
		f, n := to.Field(i), math.Float64frombits(slots[i])
		if !f.CanSet() {
			return errors.New("the parameter " + to.Type().Field(i).Name + " must begin with a capital letter")
		}
		switch {
		case f.Type() == reflect.TypeFor[time.Duration]():
			f.SetInt(int64(n * float64(time.Second)))
		case f.Kind() == reflect.Float64:
			f.SetFloat(n)
		case f.Kind() == reflect.Int || f.Kind() == reflect.Int64:
			f.SetInt(int64(n))
		case f.Kind() == reflect.Bool:
			f.SetBool(n != 0)
		case f.Kind() == reflect.String:
			f.SetString(string(bytesAt(uint32(slots[i]), int(slots[i]>>32)))) // a copy
		default:
			return errors.New("the parameter " + to.Type().Field(i).Name + " is of type " + f.Type().String())
		}
	}
	return nil
}

func onlyNumbers(t reflect.Type) error {
	switch t.Kind() {
	case reflect.Struct:
		for i := range t.NumField() {
			if err := onlyNumbers(t.Field(i).Type); err != nil {
				return err
			}
		}
		return nil
	case reflect.Array:
		return onlyNumbers(t.Elem())
	case reflect.Bool, reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64, reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32,
		reflect.Uint64, reflect.Float32, reflect.Float64:
		return nil
	}
	return errors.New("a state has a " + t.String() + ": it may hold numbers only")
}

// Run is the rows of one tag in a batch, in time order, and where results go.
// Row i of the input is one of 0 to Rows-1. So is row i of the output of a "map"
// operator; that of an "emit" operator is one that AddRow added.
type Run struct {
	// Tag is empty when no input column is a tag: the batch is one run then.
	Tag string
	// Rows is at least 1; in Advance it is 0.
	Rows int

	first           int
	batch           []*arrowArray
	madeFirst, made int // of the output
}

func (r *Run) input(column int, t Type) *arrowArray {
	if c := self.inputs[column]; c.Type != t {
		panic("penstock: input column " + c.Name + " is read by another type than it has")
	}
	if r.Rows == 0 {
		panic("penstock: an input column is read in advance, where there is none")
	}
	return r.batch[column]
}

func values[T any](r *Run, column int, t Type) []T {
	a := r.input(column, t)
	return unsafe.Slice((*T)(at(a.buffer(1))), int(a.offset)+r.first+r.Rows)[int(a.offset)+r.first:]
}

// Float64s returns the column's values; that of a null is undefined.
func (r *Run) Float64s(column int) []float64 { return values[float64](r, column, Float64) }

// Int64s returns the column's values.
func (r *Run) Int64s(column int) []int64 { return values[int64](r, column, Int64) }

// Uint32s returns the column's values.
func (r *Run) Uint32s(column int) []uint32 { return values[uint32](r, column, Uint32) }

// Timestamps returns the column's values, in ns since 1970.
func (r *Run) Timestamps(column int) []int64 { return values[int64](r, column, Timestamp) }

func (r *Run) row(i int) int {
	if uint(i) >= uint(r.Rows) {
		panic("penstock: the run has no such row")
	}
	return r.first + i
}

// Bool returns the column's value in row i.
func (r *Run) Bool(column, i int) bool {
	a := r.input(column, Bool)
	return bit(a.buffer(1), int(a.offset)+r.row(i))
}

// String returns the column's text in row i. It is valid for the call only:
// strings.Clone keeps it.
func (r *Run) String(column, i int) string { return r.input(column, String).text(r.row(i)) }

// IsNull says whether the column is null in row i.
func (r *Run) IsNull(column, i int) bool {
	a := r.batch[column]
	valid := a.buffer(0)
	return valid != 0 && !bit(valid, int(a.offset)+r.row(i))
}

// AddRow adds a row to what an "emit" operator makes and returns its number, for
// what is put into it: 0 is the first of this run. Its tag is the run's, unless
// another is put. Rows of one tag stand together, their time never goes down, and
// the host sets a limit (max_output_rows).
func (r *Run) AddRow() int {
	if self.advance == nil {
		panic("penstock: a row is added by a map operator")
	}
	row := r.madeFirst + r.made
	if row == self.room {
		makeRoom(max(64, 2*row))
	}
	if self.outTag >= 0 && self.tagColumn >= 0 {
		o := &self.out[self.outTag]
		if r.made == 0 {
			self.runTag = o.keep(r.Tag)
		}
		o.words[row] = self.runTag
		o.valid[row>>3] |= 1 << (row & 7)
	}
	r.made++
	return r.made - 1
}

// put marks row i as not null. A row of a nullable output column is null until
// then. One that is not nullable is 0, false, "" in a "map" operator; in an
// "emit" operator it must be put, or the call fails.
func (r *Run) put(column, i int, t Type) (*output, int) {
	if c := self.outputs[column]; c.Type != t {
		panic("penstock: output column " + c.Name + " is written by another type than it has")
	}
	if uint(i) >= uint(r.made) {
		panic("penstock: the run has no such row to write to")
	}
	o, row := &self.out[column], r.madeFirst+i
	o.valid[row>>3] |= 1 << (row & 7)
	return o, row
}

// PutFloat64 sets the output column's value in row i.
func (r *Run) PutFloat64(column, i int, v float64) {
	o, row := r.put(column, i, Float64)
	o.words[row] = math.Float64bits(v)
}

// PutInt64 sets the output column's value in row i.
func (r *Run) PutInt64(column, i int, v int64) {
	o, row := r.put(column, i, Int64)
	o.words[row] = uint64(v)
}

// PutTimestamp sets the output column's value in row i, in ns since 1970.
func (r *Run) PutTimestamp(column, i int, ns int64) {
	o, row := r.put(column, i, Timestamp)
	o.words[row] = uint64(ns)
}

// PutUint32 sets the output column's value in row i.
func (r *Run) PutUint32(column, i int, v uint32) {
	o, row := r.put(column, i, Uint32)
	word := &o.words[row/2]
	shift := row % 2 * 32
	*word = *word&^(math.MaxUint32<<shift) | uint64(v)<<shift
}

// PutBool sets the output column's value in row i.
func (r *Run) PutBool(column, i int, v bool) {
	o, row := r.put(column, i, Bool)
	word, mask := &o.words[row/64], uint64(1)<<(row%64)
	if *word &^= mask; v {
		*word |= mask
	}
}

// PutString sets the output column's text in row i: UTF-8, of which a copy is
// kept.
func (r *Run) PutString(column, i int, v string) {
	o, row := r.put(column, i, String)
	o.words[row] = o.keep(v)
}

// PutTag sets the tag of row i.
func (r *Run) PutTag(column, i int, v string) {
	o, row := r.put(column, i, Tag)
	o.words[row] = o.keep(v)
}

// IsBad says whether an OPC UA quality is Bad; 0 is Good.
func IsBad(quality uint32) bool { return quality>>31 != 0 }

// Level is that of a line in the log.
type Level int32

// Levels of the log.
const (
	Debug Level = iota
	Info
	Warn
	Error
)

//go:wasmimport penstock log
func hostLog(level int32, text unsafe.Pointer, n uint32)

//go:wasmimport penstock metric
func hostMetric(name unsafe.Pointer, n uint32, value float64)

// Log writes to the host's log: ten lines a second at most.
func Log(level Level, text string) {
	hostLog(int32(level), unsafe.Pointer(unsafe.StringData(text)), uint32(len(text)))
}

// Metric sets a gauge of the host's metrics: lower-case letters, digits and _.
func Metric(name string, value float64) {
	hostMetric(unsafe.Pointer(unsafe.StringData(name)), uint32(len(name)), value)
}
