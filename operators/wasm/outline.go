package wasm

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"unicode/utf8"
)

// MaxModuleSize bounds a .wasm file.
const MaxModuleSize = 16 << 20

// PageSize is the unit of guest memory.
const PageSize = 64 << 10

// maxPages is all that 32-bit addresses reach.
const maxPages = 1 << 16

// maxItems bounds the entries of a section that the host reads.
const maxItems = 100_000

// Section numbers of the WebAssembly binary format.
const (
	secCustom = 0
	secType   = 1
	secImport = 2
	secFunc   = 3
	secMemory = 5
	secGlobal = 6
	secExport = 7
	secCode   = 10
)

// Kinds of imports and exports.
const (
	kindFunc   = 0
	kindTable  = 1
	kindMemory = 2
	kindGlobal = 3
)

var magic = []byte("\x00asm\x01\x00\x00\x00")

// reader reads the binary format. The first error sticks; after it every read
// gives zeros.
type reader struct {
	b   []byte
	err error
}

func (r *reader) fail(msg string) {
	if r.err == nil {
		r.err = errors.New(msg)
		r.b = nil
	}
}

func (r *reader) byte() byte {
	if len(r.b) == 0 {
		r.fail("the module ends in the middle")
		return 0
	}
	c := r.b[0]
	r.b = r.b[1:]
	return c
}

func (r *reader) u64() uint64 {
	var v uint64
	for shift := 0; shift < 64; shift += 7 {
		c := r.byte()
		v |= uint64(c&0x7f) << shift
		if c < 0x80 {
			return v
		}
	}
	r.fail("a number is too long")
	return 0
}

func (r *reader) u32() uint32 {
	v := r.u64()
	if v > math.MaxUint32 {
		r.fail("a number is too large")
		return 0
	}
	return uint32(v)
}

func (r *reader) take(n uint32) []byte {
	if uint64(n) > uint64(len(r.b)) {
		r.fail("a length reaches past the end of the module")
		return nil
	}
	b := r.b[:n]
	r.b = r.b[n:]
	return b
}

func (r *reader) name() string {
	b := r.take(r.u32())
	if !utf8.Valid(b) {
		r.fail("a name is not UTF-8")
		return ""
	}
	return string(b)
}

// count reads the length of a vector.
func (r *reader) count() int {
	n := r.u32()
	if n > maxItems || uint64(n) > uint64(len(r.b)) {
		r.fail("a section claims more entries than it can hold")
		return 0
	}
	return int(n)
}

// section is one section: its number, for a custom one its name, and its
// content after that. start and end are where the whole section lies.
type section struct {
	id         byte
	name       string
	body       []byte
	start, end int
}

func sections(wasm []byte) ([]section, error) {
	if len(wasm) > MaxModuleSize {
		return nil, fmt.Errorf("the module has %d bytes, the limit is %d", len(wasm), MaxModuleSize)
	}
	if !bytes.HasPrefix(wasm, magic) {
		return nil, errors.New("this is not a WebAssembly core module (version 1): the first 8 bytes are not \\0asm 1 0 0 0")
	}
	var out []section
	r := reader{b: wasm[len(magic):]}
	for len(r.b) > 0 && r.err == nil {
		s := section{start: len(wasm) - len(r.b), id: r.byte()}
		s.body = r.take(r.u32())
		s.end = len(wasm) - len(r.b)
		if s.id == secCustom {
			b := reader{b: s.body}
			s.name = b.name()
			s.body = b.b
			if b.err != nil {
				r.err = b.err
			}
		}
		out = append(out, s)
	}
	if r.err != nil {
		return nil, fmt.Errorf("the module is damaged: %w", r.err)
	}
	return out, nil
}

// signature is a function type: value types as in the binary format.
type signature struct{ params, results string }

// Value types of the binary format.
const (
	tI32  = '\x7f'
	tI64  = '\x7e'
	tF32  = '\x7d'
	tF64  = '\x7c'
	tV128 = '\x7b'
)

func (s signature) String() string {
	names := func(ts string) string {
		var b []byte
		for i := range len(ts) {
			if i > 0 {
				b = append(b, ' ')
			}
			switch ts[i] {
			case tI32:
				b = append(b, "i32"...)
			case tI64:
				b = append(b, "i64"...)
			case tF32:
				b = append(b, "f32"...)
			case tF64:
				b = append(b, "f64"...)
			case tV128:
				b = append(b, "v128"...)
			default:
				b = append(b, "ref"...)
			}
		}
		return string(b)
	}
	return "(" + names(s.params) + ") -> (" + names(s.results) + ")"
}

type importEntry struct {
	module, name string
	kind         byte
	sig          signature // of a function
}

type exportEntry struct {
	name  string
	kind  byte
	index uint32
	sig   signature // of a function
}

// outline is what the host needs to know of a module before it is compiled.
type outline struct {
	imports       []importEntry
	exports       []exportEntry
	hasMemory     bool
	minPages      uint64
	maxPages      uint64 // the most that is possible when none is declared
	memorySection section

	types   []signature
	funcs   []uint32 // type of each function, imported ones first
	globals []byte   // type of each global, imported ones first
	code    []byte   // the code section
	names   map[uint32]string
}

func (o *outline) export(name string) (exportEntry, bool) {
	for _, e := range o.exports {
		if e.name == name {
			return e, true
		}
	}
	return exportEntry{}, false
}

func (r *reader) limits() (lo, hi uint64, hasMax bool) {
	flags := r.byte()
	if flags > 1 {
		r.fail("the memory is shared or 64-bit, which Penstock does not offer")
		return
	}
	lo, hi = uint64(r.u32()), maxPages
	if flags == 1 {
		hi, hasMax = uint64(r.u32()), true
	}
	return
}

// parse reads the module's outline. The engine validates the rest.
func parse(wasm []byte) (*outline, error) {
	secs, err := sections(wasm)
	if err != nil {
		return nil, err
	}
	out := outline{names: map[uint32]string{}}
	sigOf := func(r *reader, i uint32) signature {
		if uint64(i) >= uint64(len(out.types)) {
			r.fail("a function has no type")
			return signature{}
		}
		return out.types[i]
	}
	seen := map[byte]bool{}
	for _, s := range secs {
		if s.id == secCustom {
			if s.name == "name" {
				out.readNames(s.body)
			}
			continue
		}
		if seen[s.id] {
			return nil, fmt.Errorf("the module is damaged: section %d comes twice", s.id)
		}
		seen[s.id] = true
		r := &reader{b: s.body}
		switch s.id {
		case secType:
			for range r.count() {
				if r.byte() != 0x60 {
					r.fail("it has a type that is no function type")
				}
				p := string(r.take(uint32(r.count())))
				out.types = append(out.types, signature{p, string(r.take(uint32(r.count())))})
			}
		case secImport:
			for range r.count() {
				e := importEntry{module: r.name(), name: r.name(), kind: r.byte()}
				switch e.kind {
				case kindFunc:
					t := r.u32()
					e.sig = sigOf(r, t)
					out.funcs = append(out.funcs, t)
				case kindTable:
					r.byte()
					r.limits()
				case kindMemory:
					r.limits()
				case kindGlobal:
					out.globals = append(out.globals, r.byte())
					r.byte()
				default:
					r.fail("it has an import of unknown kind")
				}
				out.imports = append(out.imports, e)
			}
		case secFunc:
			for range r.count() {
				out.funcs = append(out.funcs, r.u32())
			}
		case secMemory:
			if r.count() != 1 {
				r.fail("it has not exactly one memory")
			}
			out.hasMemory, out.memorySection = true, s
			out.minPages, out.maxPages, _ = r.limits()
		case secGlobal:
			for range r.count() {
				out.globals = append(out.globals, r.byte())
				r.byte()
				r.constExpr()
			}
		case secCode:
			out.code, r.b = r.b, nil
		case secExport:
			for range r.count() {
				e := exportEntry{name: r.name(), kind: r.byte(), index: r.u32()}
				if e.kind == kindFunc && r.err == nil {
					if uint64(e.index) >= uint64(len(out.funcs)) {
						r.fail("an export names no function")
					} else {
						e.sig = sigOf(r, out.funcs[e.index])
					}
				}
				out.exports = append(out.exports, e)
			}
		default:
			continue
		}
		if r.err == nil && len(r.b) > 0 {
			r.fail("a section has bytes left over")
		}
		if r.err != nil {
			return nil, fmt.Errorf("the module is damaged: %w", r.err)
		}
	}
	return &out, nil
}

// readNames takes the functions' names from the name section: for messages, so
// what is damaged is left out.
func (o *outline) readNames(b []byte) {
	r := reader{b: b}
	for len(r.b) > 0 && r.err == nil {
		id, sub := r.byte(), reader{}
		sub.b = r.take(r.u32())
		if id != 1 {
			continue
		}
		for range sub.count() {
			i, name := sub.u32(), sub.name()
			if sub.err == nil && len(name) <= 256 {
				o.names[i] = name
			}
		}
	}
}

// function says which function has index i, for people.
func (o *outline) function(i uint32) string {
	name := o.names[i]
	for _, e := range o.exports {
		if e.kind == kindFunc && e.index == i {
			name = e.name
		}
	}
	if name == "" {
		return fmt.Sprintf("function %d", i)
	}
	return fmt.Sprintf("function %d (%s)", i, name)
}

func appendU32(b []byte, v uint32) []byte {
	for v >= 0x80 {
		b = append(b, byte(v)|0x80)
		v >>= 7
	}
	return append(b, byte(v))
}

// capMemory returns wasm with the memory's declared maximum lowered to pages:
// the engine then refuses to grow beyond it, whatever the guest asks for.
func capMemory(wasm []byte, o *outline, pages uint64) ([]byte, error) {
	if !o.hasMemory {
		return nil, errors.New("the module has no memory of its own")
	}
	if o.minPages > pages {
		return nil, fmt.Errorf("the module wants %d pages of 64 KiB at its start (%d bytes), the limit is %d bytes",
			o.minPages, o.minPages*PageSize, pages*PageSize)
	}
	body := []byte{1, 1}
	body = appendU32(body, uint32(o.minPages))
	body = appendU32(body, uint32(min(o.maxPages, pages)))
	out := make([]byte, 0, len(wasm)+8)
	out = append(out, wasm[:o.memorySection.start]...)
	out = append(out, secMemory)
	out = appendU32(out, uint32(len(body)))
	out = append(out, body...)
	return append(out, wasm[o.memorySection.end:]...), nil
}
