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

// output is where one output column's data are; every batch uses them again.
type output struct {
	words    []uint64
	valid    []byte
	pointers [2]uint32
	array    arrowArray
	schema   arrowSchema
	name     []byte
}

// self is all that the exports share.
var self struct {
	inputs, outputs []Column
	params          reflect.Type
	stateSize       int
	newState        func() []byte
	open            func(slots []uint64) error
	run             func(r *Run, state []byte) error

	error     []byte
	blocks    map[uint32][]byte // what penstock_alloc gave
	tagColumn int
	current   Run
	out       []output
	list      []uint32
	noBuffer  [1]uint32
	formats   [len(formats)][]byte
	root      []byte // "+s", and an empty text behind it
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
		return status(errors.New("the module calls penstock.Map in no init function"))
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
	self.tagColumn = -1
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
		if c.Type == Tag || c.Type == String {
			return errors.New("output column " + c.Name + " may not be a tag or a string")
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

// zeroed returns b with n elements, all zero, and its place in memory if it is
// large enough.
func zeroed[T any](b []T, n int) []T {
	if cap(b) < n {
		return make([]T, n, max(n, 2*cap(b), 1))
	}
	b = b[:n]
	clear(b)
	return b
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
	for i, c := range self.outputs {
		o := &self.out[i]
		words := n
		switch c.Type {
		case Bool:
			words = (n + 63) / 64
		case Uint32:
			words = (n + 1) / 2
		}
		o.words, o.valid = zeroed(o.words, words), zeroed(o.valid, (n+7)/8)
		o.pointers = [2]uint32{0, ptr(unsafe.SliceData(o.words))}
		o.array = arrowArray{length: in.length, nBuffers: 2, buffers: ptr(&o.pointers[0])}
		if c.Nullable {
			o.pointers[0], o.array.nullCount = ptr(unsafe.SliceData(o.valid)), -1
		}
		self.list[i] = ptr(&o.array)
	}
	*out = arrowArray{length: in.length, nBuffers: 1, buffers: ptr(&self.noBuffer[0]), nChildren: int64(len(self.outputs)), children: ptr(unsafe.SliceData(self.list))}
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
		if err := self.run(r, stateOf(r.Tag)); err != nil {
			return err
		}
	}
	return nil
}
