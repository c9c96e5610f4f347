//go:build wasip1

package penstock

import (
	"errors"
	"math"
	"reflect"
	"structs"
	"unsafe"
)

// The Arrow C Data Interface in wasm32: pointers have 4 bytes.
type arrowSchema struct {
	_                         structs.HostLayout
	format, name, metadata    uint32
	_                         uint32
	flags, nChildren          int64
	children, dictionary      uint32
	release, privateDataOfOne uint32
}

type arrowArray struct {
	_                                              structs.HostLayout
	length, nullCount, offset, nBuffers, nChildren int64
	buffers, children, dictionary                  uint32
	release, privateData                           uint32
	_                                              uint32
}

const nullable = 2

// at is what the host's pointer points to.
func at(p uint32) unsafe.Pointer { return unsafe.Add(unsafe.Pointer(nil), p) }

// ptr is the host's pointer to what p points to, which must be kept by a
// variable of this package: Go moves nothing, but frees what nothing keeps.
func ptr[T any](p *T) uint32 { return uint32(uintptr(unsafe.Pointer(p))) }

func pointers(p uint32, n int) []uint32 { return unsafe.Slice((*uint32)(at(p)), n) }

func bytesAt(p uint32, n int) []byte {
	if n == 0 {
		return nil
	}
	return unsafe.Slice((*byte)(at(p)), n)
}

func stringAt(p uint32, n int) string {
	if n == 0 {
		return ""
	}
	return unsafe.String((*byte)(at(p)), n)
}

func cString(p uint32) string {
	n := 0
	for *(*byte)(at(p + uint32(n))) != 0 {
		n++
	}
	return stringAt(p, n)
}

func bit(bits uint32, i int) bool { return *(*byte)(at(bits + uint32(i>>3)))>>(i&7)&1 != 0 }

func (a *arrowArray) buffer(i int) uint32 { return *(*uint32)(at(a.buffers + 4*uint32(i))) }

// text is text i of an array of strings.
func (a *arrowArray) text(i int) string {
	ends := (*[2]int32)(at(a.buffer(1) + 4*uint32(int(a.offset)+i)))
	return stringAt(a.buffer(2)+uint32(ends[0]), int(ends[1]-ends[0]))
}

// buf is a piece of memory that is handed out.
type buf struct{ ptr, len uint32 }

// output is where one output column's data are; every call uses them again. A
// text or tag stands in words as where it begins in put and, in the upper half,
// its length, until finish.
type output struct {
	words     []uint64
	valid     []byte
	put, text []byte
	pointers  [3]uint32
	array     arrowArray
	schema    arrowSchema
	name      []byte
}

// self is all that the exports share.
var self struct {
	inputs, outputs []Column
	params          reflect.Type
	stateSize       int
	newState        func() []byte
	open            func(slots []uint64) error
	run             func(r *Run, state []byte) error
	advance         func(r *Run, state []byte, watermark int64) error // nil: kind "map"

	error     []byte
	blocks    map[uint32][]byte // what penstock_alloc gave
	tagColumn int               // of the input; -1: none
	outTag    int               // -1: none
	current   Run
	out       []output
	room      int    // for so many rows, all zero until they are written
	runTag    uint64 // that of the rows of the run, as it stands in words
	list      []uint32
	noBuffer  [1]uint32
	formats   [len(formats)][]byte
	root      []byte // "+s", and an empty text behind it

	ends              []int32 // of the texts of the tags' dictionary
	dictionaryBuffers [3]uint32
	dictionary        arrowArray
}

func status(err error) int32 {
	if err == nil {
		return 0
	}
	self.error = []byte(err.Error())
	return 1
}

//go:wasmexport penstock_abi_version
func abiVersion() int32 { return 1 }

//go:wasmexport penstock_last_error
func lastError(out uint32) int32 {
	*(*buf)(at(out)) = buf{ptr(unsafe.SliceData(self.error)), uint32(len(self.error))}
	return 0
}

//go:wasmexport penstock_alloc
func alloc(size, align uint32) uint32 {
	if size > 1<<30 || align > 64 {
		return 0
	}
	if self.blocks == nil {
		self.blocks = map[uint32][]byte{}
	}
	b := make([]byte, size+64)
	p := (ptr(unsafe.SliceData(b)) + 63) &^ 63
	self.blocks[p] = b
	return p
}

//go:wasmexport penstock_free
func free(p, _, _ uint32) { delete(self.blocks, p) }

//go:wasmexport penstock_open
func open(params, n uint32) int32 {
	if self.open == nil {
		return status(errors.New("the module calls penstock.Map or penstock.Emit in no init function"))
	}
	if self.params.Kind() != reflect.Struct || int(n) != 8*self.params.NumField() {
		return status(errors.New("the parameters in the source are not as many as in the manifest"))
	}
	slots := make([]uint64, n/8)
	if n > 0 {
		copy(slots, unsafe.Slice((*uint64)(at(params)), n/8))
	}
	return status(self.open(slots))
}

//go:wasmexport penstock_bind
func bindTo(in, out uint32) int32 {
	return status(bind((*arrowSchema)(at(in)), (*arrowSchema)(at(out))))
}

func bind(in, out *arrowSchema) error {
	if int(in.nChildren) != len(self.inputs) {
		return errors.New("the input columns in the source are not as many as in the manifest")
	}
	self.tagColumn, self.outTag = -1, -1
	for i, p := range pointers(in.children, len(self.inputs)) {
		c, s := self.inputs[i], (*arrowSchema)(at(p))
		if cString(s.name) != c.Name || cString(s.format) != formats[c.Type] {
			return errors.New("input column " + c.Name + " has another name, type or place in the manifest")
		}
		if s.flags&nullable != 0 && !c.Nullable {
			return errors.New("input column " + c.Name + " may have nulls: the source does not call it nullable")
		}
		if c.Type == Tag {
			self.tagColumn = i
		}
	}
	for i, f := range formats {
		self.formats[i] = append([]byte(f), 0)
	}
	self.root = []byte("+s\x00\x00")
	self.list = make([]uint32, len(self.outputs))
	for i, c := range self.outputs {
		if c.Type == Tag {
			if self.advance == nil {
				return errors.New("output column " + c.Name + " may not be a tag: a map operator's rows have theirs")
			}
			self.outTag = i
		}
		o := &self.out[i]
		o.name = append([]byte(c.Name), 0)
		o.schema = arrowSchema{format: ptr(&self.formats[c.Type][0]), name: ptr(&o.name[0])}
		if c.Nullable {
			o.schema.flags = nullable
		}
		self.list[i] = ptr(&o.schema)
	}
	*out = arrowSchema{format: ptr(&self.root[0]), name: ptr(&self.root[3]), nChildren: int64(len(self.outputs)), children: ptr(unsafe.SliceData(self.list))}
	return nil
}

//go:wasmexport penstock_process
func processBatch(in, out uint32) int32 {
	return status(process((*arrowArray)(at(in)), (*arrowArray)(at(out))))
}

// extend returns b with n elements: the first `keep` as they are, the others
// zero, and in its place in memory if that is large enough.
func extend[T any](b []T, keep, n int) []T {
	if cap(b) < n {
		more := make([]T, n, max(n, 2*cap(b)))
		copy(more, b[:keep])
		return more
	}
	b = b[:n]
	clear(b[keep:])
	return b
}

func wordsOf(t Type, rows int) int {
	switch t {
	case Bool:
		return (rows + 63) / 64
	case Uint32:
		return (rows + 1) / 2
	}
	return rows
}

func makeRoom(rows int) {
	for i, c := range self.outputs {
		o := &self.out[i]
		o.words = extend(o.words, wordsOf(c.Type, self.room), wordsOf(c.Type, rows))
		o.valid = extend(o.valid, (self.room+7)/8, (rows+7)/8)
	}
	self.room = rows
}

// begin begins a call that makes rows.
func begin() {
	self.room = 0
	for i := range self.out {
		self.out[i].put = self.out[i].put[:0]
	}
}

// keep copies a text and returns how it stands in words.
func (o *output) keep(v string) uint64 {
	from := len(o.put)
	o.put = append(o.put, v...)
	return uint64(from) | uint64(len(v))<<32
}

// kept is the text that row i was given.
func (o *output) kept(i int) []byte {
	from, n := uint32(o.words[i]), uint32(o.words[i]>>32)
	return o.put[from:][:n]
}

// finishTexts makes offsets of words, in their place: row i's 4 bytes are no
// further than the 8 that were read.
func (o *output) finishTexts(n int) {
	o.text = o.text[:0]
	offsets := unsafe.Slice((*int32)(unsafe.Pointer(unsafe.SliceData(o.words))), 2*n)
	for i := range n {
		o.text = append(o.text, o.kept(i)...)
		if i == 0 {
			offsets[0] = 0
		}
		offsets[i+1] = int32(len(o.text))
	}
	o.pointers[2] = ptr(unsafe.SliceData(o.text))
}

// finishTags likewise makes the numbers of runs, and a dictionary.
func (o *output) finishTags(n int) {
	o.text = o.text[:0]
	self.ends = append(self.ends[:0], 0)
	numbers := unsafe.Slice((*int32)(unsafe.Pointer(unsafe.SliceData(o.words))), 2*n)
	from := 0
	for i := range n {
		if name := o.kept(i); i == 0 || string(name) != string(o.text[from:]) {
			from = len(o.text)
			o.text = append(o.text, name...)
			self.ends = append(self.ends, int32(len(o.text)))
		}
		numbers[i] = int32(len(self.ends)) - 2
	}
	self.dictionaryBuffers = [3]uint32{0, ptr(unsafe.SliceData(self.ends)), ptr(unsafe.SliceData(o.text))}
	self.dictionary = arrowArray{length: int64(len(self.ends) - 1), nBuffers: 3, buffers: ptr(&self.dictionaryBuffers[0])}
	o.array.dictionary = ptr(&self.dictionary)
}

// finish hands out the rows that the call made.
func finish(n int, out *arrowArray) error {
	if n == 0 && self.advance != nil {
		return nil
	}
	for i, c := range self.outputs {
		o := &self.out[i]
		if self.advance != nil && !c.Nullable {
			for row := range n {
				if o.valid[row>>3]>>(row&7)&1 == 0 {
					return errors.New("output column " + c.Name + " has no value in a row, and is not nullable")
				}
			}
		}
		o.pointers = [3]uint32{0, ptr(unsafe.SliceData(o.words))}
		o.array = arrowArray{length: int64(n), nBuffers: 2, buffers: ptr(&o.pointers[0])}
		if c.Nullable {
			o.pointers[0], o.array.nullCount = ptr(unsafe.SliceData(o.valid)), -1
		}
		switch c.Type {
		case String:
			o.array.nBuffers = 3
			o.finishTexts(n)
		case Tag:
			o.finishTags(n)
		}
		self.list[i] = ptr(&o.array)
	}
	*out = arrowArray{length: int64(n), nBuffers: 1, buffers: ptr(&self.noBuffer[0]), nChildren: int64(len(self.outputs)), children: ptr(unsafe.SliceData(self.list))}
	return nil
}

func process(in, out *arrowArray) error {
	if int(in.nChildren) != len(self.inputs) || in.offset != 0 || in.length < 0 || in.length > math.MaxInt32 {
		return errors.New("the batch is not as it was bound")
	}
	r, n := &self.current, int(in.length)
	r.batch = r.batch[:0]
	for _, p := range pointers(in.children, len(self.inputs)) {
		r.batch = append(r.batch, (*arrowArray)(at(p)))
	}
	begin()
	if self.advance == nil {
		makeRoom(n)
	}
	made := 0
	for first := 0; first < n; first += r.Rows {
		r.Tag, r.first, r.Rows = "", first, n-first
		if self.tagColumn >= 0 {
			tag := r.batch[self.tagColumn]
			index := unsafe.Slice((*int32)(at(tag.buffer(1))), int(tag.offset)+n)[int(tag.offset)+first:]
			r.Rows = 1
			for r.Rows < len(index) && index[r.Rows] == index[0] {
				r.Rows++
			}
			r.Tag = (*arrowArray)(at(tag.dictionary)).text(int(index[0]))
		}
		if r.madeFirst, r.made = made, 0; self.advance == nil {
			r.made = r.Rows
		}
		if err := self.run(r, stateOf(r.Tag)); err != nil {
			return err
		}
		made += r.made
	}
	return finish(made, out)
}

//go:wasmexport penstock_advance
func advanceTo(watermark int64, out uint32) int32 {
	return status(advance(watermark, (*arrowArray)(at(out))))
}

func advance(watermark int64, out *arrowArray) error {
	if self.advance == nil {
		return errors.New("the module calls penstock.Map, but its manifest says emit")
	}
	begin()
	r, made := &self.current, 0
	for i, name := range tags.names {
		r.Tag, r.Rows, r.madeFirst, r.made = name, 0, made, 0
		if err := self.advance(r, tags.states[i], watermark); err != nil {
			return err
		}
		made += r.made
	}
	return finish(made, out)
}
