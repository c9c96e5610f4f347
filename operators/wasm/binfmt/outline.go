// Package binfmt reads the WebAssembly binary format: what a module imports,
// exports and declares, and its code, instruction by instruction. Nothing here
// compiles or runs a module. What comes in is untrusted: everything has a limit.
package binfmt

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// PageSize is the unit of guest memory.
const PageSize = 64 << 10

// MaxPages is all that 32-bit addresses reach.
const MaxPages = 1 << 16

// Section numbers of the WebAssembly binary format.
const (
	SecCustom = 0
	SecType   = 1
	SecImport = 2
	SecFunc   = 3
	SecTable  = 4
	SecMemory = 5
	SecGlobal = 6
	SecExport = 7
	SecStart  = 8
	SecElem   = 9
	SecCode   = 10
	SecData   = 11
	SecCount  = 12 // of the data segments
	SecTag    = 13
)

// Kinds of imports and exports.
const (
	KindFunc   = 0
	KindTable  = 1
	KindMemory = 2
	KindGlobal = 3
)

// Magic begins every core module of version 1.
var Magic = []byte("\x00asm\x01\x00\x00\x00")

// reader reads the binary format. The first error sticks; after it every read
// gives zeros.
type reader struct {
	b    []byte
	err  error
	ours bool // no limits: see ParseRewritten
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

// leb reads a LEB128 number of so many bits. One that is longer than it need be
// passes as far as the format allows: engines differ in what they make of others.
func (r *reader) leb(bits int, signed bool) uint64 {
	var v uint64
	for shift := 0; shift < bits; shift += 7 {
		c := r.byte()
		v |= uint64(c&0x7f) << shift
		if left := bits - shift; left < 7 { // the last one, with bits to spare
			spare := c >> left
			if signed {
				if spare = c >> (left - 1); spare == 0x7f>>(left-1) {
					spare = 0
				}
			}
			if spare != 0 {
				break
			}
		}
		if c < 0x80 {
			return v
		}
	}
	r.fail("a number is too large")
	return 0
}

func (r *reader) u32() uint32 { return uint32(r.leb(32, false)) }

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
	if uint64(n) > uint64(len(r.b)) {
		r.fail("a section claims more entries than it can hold")
		return 0
	}
	return int(n)
}

// Section is one section: its number, for a custom one its name, and its
// content after that. Start and End are where the whole section lies.
type Section struct {
	ID         byte
	Name       string
	Body       []byte
	Start, End int
}

// Sections splits a module into its sections.
func Sections(wasm []byte) ([]Section, error) {
	if len(wasm) > MaxModuleSize {
		return nil, refusal(tooMany("bytes", uint64(len(wasm)), MaxModuleSize))
	}
	return split(wasm)
}

func split(wasm []byte) ([]Section, error) {
	if !bytes.HasPrefix(wasm, Magic) {
		return nil, errors.New("this is not a WebAssembly core module (version 1): the first 8 bytes are not \\0asm 1 0 0 0")
	}
	var out []Section
	r := reader{b: wasm[len(Magic):]}
	for len(r.b) > 0 && r.err == nil {
		s := Section{Start: len(wasm) - len(r.b), ID: r.byte()}
		s.Body = r.take(r.u32())
		s.End = len(wasm) - len(r.b)
		if s.ID == SecCustom {
			b := reader{b: s.Body}
			s.Name = b.name()
			s.Body = b.b
			if b.err != nil {
				r.err = b.err
			}
		}
		out = append(out, s)
	}
	if r.err != nil {
		return nil, refusal(r.err)
	}
	return out, nil
}

// Signature is a function type: value types as in the binary format.
type Signature struct{ Params, Results string }

// Value types of the binary format.
const (
	I32  = '\x7f'
	I64  = '\x7e'
	F32  = '\x7d'
	F64  = '\x7c'
	V128 = '\x7b'

	funcRef   = '\x70'
	externRef = '\x6f'
)

func (s Signature) String() string {
	names := func(ts string) string {
		var b []byte
		for i := range len(ts) {
			if i > 0 {
				b = append(b, ' ')
			}
			switch ts[i] {
			case I32:
				b = append(b, "i32"...)
			case I64:
				b = append(b, "i64"...)
			case F32:
				b = append(b, "f32"...)
			case F64:
				b = append(b, "f64"...)
			case V128:
				b = append(b, "v128"...)
			default:
				b = append(b, "ref"...)
			}
		}
		return string(b)
	}
	return "(" + names(s.Params) + ") -> (" + names(s.Results) + ")"
}

// Import is what a module asks for.
type Import struct {
	Module, Name string
	Kind         byte
	Sig          Signature // of a function
}

// Export is what a module offers.
type Export struct {
	Name  string
	Kind  byte
	Index uint32
	Sig   Signature // of a function
}

// Outline is what the host needs to know of a module before it is compiled.
type Outline struct {
	Imports       []Import
	Exports       []Export
	HasMemory     bool
	MinPages      uint64
	MaxPages      uint64 // the most that is possible when none is declared
	memorySection Section

	Types   []Signature
	Funcs   []uint32 // type of each function, imported ones first
	Globals []byte   // type of each global, imported ones first
	Code    []byte   // the code section
	// Start is the function that runs when the module is instantiated.
	Start    uint32
	HasStart bool
	names    map[uint32]string

	ours          bool // no limits: see ParseRewritten
	tablesBounded bool // every table says how large it may get
	elemFuncs     int  // entries of element segments
}

// Export returns the export called name.
func (o *Outline) Export(name string) (Export, bool) {
	for _, e := range o.Exports {
		if e.Name == name {
			return e, true
		}
	}
	return Export{}, false
}

func (r *reader) limits() (lo, hi uint64, hasMax bool) {
	flags := r.byte()
	if flags > 1 {
		r.fail("a memory or table is shared or 64-bit, which Penstock does not offer")
		return
	}
	lo, hi = uint64(r.u32()), MaxPages
	if flags == 1 {
		hi, hasMax = uint64(r.u32()), true
	}
	return
}

// Parse reads the module's outline. The engine validates the rest.
func Parse(wasm []byte) (*Outline, error) {
	secs, err := Sections(wasm)
	if err != nil {
		return nil, err
	}
	return parse(secs, false)
}

// ParseRewritten is Parse for what Penstock has made of a module that passed
// Parse, and that may be larger than one from outside.
func ParseRewritten(wasm []byte) (*Outline, error) {
	secs, err := split(wasm)
	if err != nil {
		return nil, err
	}
	return parse(secs, true)
}

func parse(secs []Section, ours bool) (*Outline, error) {
	out := Outline{names: map[uint32]string{}, ours: ours}
	sigOf := func(r *reader, i uint32) Signature {
		if uint64(i) >= uint64(len(out.Types)) {
			r.fail("a function has no type")
			return Signature{}
		}
		return out.Types[i]
	}
	seen := map[byte]bool{}
	for _, s := range secs {
		if s.ID == SecCustom {
			if s.Name == "name" {
				out.readNames(s.Body)
			}
			continue
		}
		if seen[s.ID] {
			return nil, fmt.Errorf("the module is damaged: section %d comes twice", s.ID)
		}
		seen[s.ID] = true
		r := &reader{b: s.Body, ours: ours}
		switch s.ID {
		case SecType:
			for range r.limited("types", r.count(), maxTypes) {
				if r.byte() != 0x60 {
					r.fail("it has a type that is no function type")
				}
				p := r.valueTypes("parameters of one function")
				out.Types = append(out.Types, Signature{p, r.valueTypes("results of one function")})
			}
		case SecImport:
			for range r.limited("imports", r.count(), maxImports) {
				e := Import{Module: r.name(), Name: r.name(), Kind: r.byte()}
				switch e.Kind {
				case KindFunc:
					t := r.u32()
					e.Sig = sigOf(r, t)
					out.Funcs = append(out.Funcs, t)
				case KindTable:
					r.refType()
					r.limits()
				case KindMemory:
					r.limits()
				case KindGlobal:
					out.Globals = append(out.Globals, r.valueType())
					r.byte()
				default:
					r.fail("it has an import of unknown kind")
				}
				out.Imports = append(out.Imports, e)
			}
		case SecFunc:
			for range r.limited("functions", r.count(), maxFunctions) {
				out.Funcs = append(out.Funcs, r.u32())
			}
		case SecTable:
			r.tables(&out)
		case SecMemory:
			if r.count() != 1 {
				r.fail("it has not exactly one memory")
			}
			out.HasMemory, out.memorySection = true, s
			out.MinPages, out.MaxPages, _ = r.limits()
		case SecGlobal:
			for range r.limited("globals", r.count(), maxGlobals) {
				out.Globals = append(out.Globals, r.valueType())
				r.byte()
				r.constExpr(&out)
			}
		case SecCode:
			out.Code, r.b = r.b, nil
		case SecStart:
			out.Start, out.HasStart = r.below(len(out.Funcs), "function"), true
			if r.err == nil && sigOf(r, out.Funcs[out.Start]) != (Signature{}) {
				r.fail("its start function takes or gives something")
			}
		case SecElem:
			for range r.limited("element segments", r.count(), maxElements) {
				r.element(&out)
			}
		case SecData:
			r.limited("data segments", r.count(), maxData)
			r.b = nil
		case SecExport:
			for range r.limited("exports", r.count(), maxExports) {
				e := Export{Name: r.name(), Kind: r.byte(), Index: r.u32()}
				if e.Kind == KindFunc && r.err == nil {
					if uint64(e.Index) >= uint64(len(out.Funcs)) {
						r.fail("an export names no function")
					} else {
						e.Sig = sigOf(r, out.Funcs[e.Index])
					}
				}
				out.Exports = append(out.Exports, e)
			}
		default:
			continue
		}
		if r.err == nil && len(r.b) > 0 {
			r.fail("a section has bytes left over")
		}
		if r.err != nil {
			return nil, refusal(r.err)
		}
	}
	return &out, nil
}

// readNames takes the functions' names from the name section: for messages, so
// what is damaged is left out.
func (o *Outline) readNames(b []byte) {
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
func (o *Outline) function(i uint32) string {
	name := o.names[i]
	for _, e := range o.Exports {
		if e.Kind == KindFunc && e.Index == i {
			name = e.Name
		}
	}
	if name == "" {
		return fmt.Sprintf("function %d", i)
	}
	return fmt.Sprintf("function %d (%s)", i, Shown(name))
}

// Shown is a name of the module's as it stands in messages: short, and without what
// a terminal obeys.
func Shown(name string) string {
	const most = 100
	if len(name) > most {
		name = strings.ToValidUTF8(name[:most], "") + "..."
	}
	if q := strconv.Quote(name); q != `"`+name+`"` {
		return q
	}
	return name
}

// AppendU32 appends v as LEB128.
func AppendU32(b []byte, v uint32) []byte {
	for v >= 0x80 {
		b = append(b, byte(v)|0x80)
		v >>= 7
	}
	return append(b, byte(v))
}

// WithoutCustom returns the module without its custom sections of these names.
func WithoutCustom(wasm []byte, names ...string) ([]byte, error) {
	secs, err := Sections(wasm)
	if err != nil {
		return nil, err
	}
	out := slices.Clone(Magic)
	for _, s := range secs {
		if s.ID != SecCustom || !slices.Contains(names, s.Name) {
			out = append(out, wasm[s.Start:s.End]...)
		}
	}
	return out, nil
}

// CapMemory returns wasm with the memory's declared maximum lowered to pages:
// the engine then refuses to grow beyond it, whatever the guest asks for.
func CapMemory(wasm []byte, o *Outline, pages uint64) ([]byte, error) {
	if !o.HasMemory {
		return nil, errors.New("the module has no memory of its own")
	}
	if o.MinPages > pages {
		return nil, fmt.Errorf("the module wants %d pages of 64 KiB at its start (%d bytes), the limit is %d bytes",
			o.MinPages, o.MinPages*PageSize, pages*PageSize)
	}
	body := []byte{1, 1}
	body = AppendU32(body, uint32(o.MinPages))
	body = AppendU32(body, uint32(min(o.MaxPages, pages)))
	out := make([]byte, 0, len(wasm)+8)
	out = append(out, wasm[:o.memorySection.Start]...)
	out = append(out, SecMemory)
	out = AppendU32(out, uint32(len(body)))
	out = append(out, body...)
	return append(out, wasm[o.memorySection.End:]...), nil
}
