package binfmt

import (
	"errors"
	"fmt"
	"math"
	"strings"
)

// floats is, while code is scanned, a v128 that a float operation made: Wasmer
// gives it another type than other vectors. unknown is a value in dead code.
const (
	floats  = '\x01'
	unknown = '\x00'
)

// Hazards returns what in the module Wasmer 2.0 (Cranelift 0.74) compiles into
// code that computes something else, one text per function:
//
//   - select of two v128: only the low 32 bits move;
//   - i8x16.swizzle: it clobbers its mask;
//   - v128.not of a vector with float lanes;
//
// and what it does not compile at all: the instructions of wasmerLacks.
// Of many functions it names some. It follows the types of the values on the
// stack, as a validator does; what is not valid is an error.
func (o *Outline) Hazards() ([]string, error) {
	var out []string
	more := 0
	err := o.scanAll(nil, func(s *scan, f *Function) {
		switch {
		case len(s.found) == 0:
		case len(out) < maxHazards:
			out = append(out, o.function(f.Index)+" uses "+strings.Join(s.found, " and "))
		default:
			more++
		}
	})
	if more > 0 {
		out = append(out, fmt.Sprintf("so do %d other functions", more))
	}
	return out, err
}

// Function is a function that the module defines.
type Function struct {
	Index  uint32 // imported functions come first
	Type   Signature
	Body   []byte // declarations of locals, then code
	Groups int    // declarations of locals, in front of which their number stands
	Code   int    // where in Body the code begins
	Locals int    // parameters included
	Blocks int    // loops and conditionals included
	Slots  int    // the most that it holds at one time, locals and operands, in units of 8 bytes

	selects []selectAt
}

// Functions goes through the code. It calls instruction for each instruction
// of a function with the place in the body where it begins and ends and the
// number of blocks that are open before it, that of the function itself
// included; then function. An error is code that is not valid or beyond a limit.
func (o *Outline) Functions(instruction func(body []byte, from, to, depth int), function func(*Function)) error {
	return o.scanAll(instruction, func(_ *scan, f *Function) { function(f) })
}

func (o *Outline) scanAll(instruction func(body []byte, from, to, depth int), done func(*scan, *Function)) error {
	imported := o.ImportedFunctions()
	r := reader{b: o.Code, ours: o.ours}
	bodies, branching := 0, int64(0)
	if len(o.Code) > 0 {
		bodies = r.count()
	}
	joins, values := uint64(0), uint64(0)
	for i := range bodies {
		f := Function{Index: uint32(imported + i)}
		if int(f.Index) >= len(o.Funcs) || int(o.Funcs[f.Index]) >= len(o.Types) {
			return fmt.Errorf("the module is damaged: function %d has no type", f.Index)
		}
		f.Type, f.Body = o.Types[o.Funcs[f.Index]], r.take(r.u32())
		if r.err != nil {
			return refusal(r.err)
		}
		if len(f.Body) > maxBody && !r.ours {
			return refusal(fmt.Errorf("%s: %w", o.function(f.Index), tooMany("bytes", uint64(len(f.Body)), maxBody)))
		}
		s := scan{o: o, f: &f, reader: reader{b: f.Body, ours: o.ours}, visit: instruction}
		s.body()
		if s.err != nil {
			return refusal(fmt.Errorf("%s: %w", o.function(f.Index), s.err))
		}
		if joins += uint64(f.Blocks) * uint64(f.Locals); joins > maxJoins && !r.ours {
			return refusal(fmt.Errorf("%s: %w", o.function(f.Index), tooMany("pairs of a block and a local up to here", joins, maxJoins)))
		}
		if values += s.values; values > maxValues && !r.ours {
			return refusal(fmt.Errorf("%s: %w", o.function(f.Index), tooMany("values handed to calls and blocks and back up to here", values, maxValues)))
		}
		if branching += s.branches * (s.branches + loopWeight*s.loops); branching > maxBranching && !r.ours {
			return refusal(fmt.Errorf("%s: %w", o.function(f.Index), limitError{fmt.Sprintf(
				"with its %d branches and %d loops the module would keep a compiler busy for too long: split it into smaller functions", s.branches, s.loops)}))
		}
		done(&s, &f)
	}
	if len(r.b) > 0 {
		return errors.New("the module is damaged: there is something behind its code")
	}
	if bodies != len(o.Funcs)-imported {
		return fmt.Errorf("the module is damaged: it declares %d functions and has code for %d", len(o.Funcs)-imported, bodies)
	}
	return nil
}

// maxHazards is how many of a kind are named.
const maxHazards = 20

// VectorExports returns some of the exports at which Wasmer 2.0 ends the whole
// process: its interface has no vectors.
func (o *Outline) VectorExports() []string {
	var out []string
	for _, e := range o.Exports {
		vector := false
		switch {
		case e.Kind == KindFunc:
			vector = strings.ContainsRune(e.Sig.Params+e.Sig.Results, V128)
		case e.Kind == KindGlobal && uint64(e.Index) < uint64(len(o.Globals)):
			vector = o.Globals[e.Index] == V128
		}
		if vector && len(out) < maxHazards {
			out = append(out, fmt.Sprintf("it exports %s, which has a vector in its type", Shown(e.Name)))
		}
	}
	return out
}

// ImportedFunctions is how many functions come from outside; their indices
// come first.
func (o *Outline) ImportedFunctions() int {
	n := 0
	for _, im := range o.Imports {
		if im.Kind == KindFunc {
			n++
		}
	}
	return n
}

// frame is a block, loop, if or the function itself.
type frame struct {
	params, results string
	height          int // of the stack below its parameters
	dead            bool
}

type scan struct {
	reader
	o      *Outline
	f      *Function
	visit  func(body []byte, from, to, depth int) // nil for none
	high   int                                    // the highest that the stack was
	wide   bool                                   // a vector was on it
	locals []byte
	stack  []byte
	frames []frame
	found  []string

	branches, loops int64  // loops are branches too
	values          uint64 // that calls, blocks and branches take and give
}

func (s *scan) hazard(what string) {
	for _, f := range s.found {
		if f == what {
			return
		}
	}
	s.found = append(s.found, what)
}

func (s *scan) push(ts ...byte) {
	for _, t := range ts {
		s.wide = s.wide || t == V128 || t == floats
	}
	s.stack = append(s.stack, ts...)
	s.high = max(s.high, len(s.stack))
}

func (s *scan) pop() byte {
	if len(s.frames) == 0 {
		s.fail("there is code after its end")
		return unknown
	}
	f := &s.frames[len(s.frames)-1]
	if len(s.stack) == f.height {
		if !f.dead {
			s.fail("a value is missing on the stack")
		}
		return unknown
	}
	t := s.stack[len(s.stack)-1]
	s.stack = s.stack[:len(s.stack)-1]
	return t
}

func (s *scan) popN(n int) {
	for range n {
		s.pop()
	}
}

// op pops n values and pushes those of result.
func (s *scan) op(n int, result string) {
	s.popN(n)
	s.push([]byte(result)...)
}

// unreachable ends what can run of the block.
func (s *scan) unreachable() {
	if len(s.frames) == 0 {
		s.fail("there is code after its end")
		return
	}
	f := &s.frames[len(s.frames)-1]
	s.stack = s.stack[:f.height]
	f.dead = true
}

func (s *scan) enter(sig Signature) {
	s.popN(len(sig.Params))
	if len(s.frames) > maxNesting && !s.ours {
		s.err = limitError{fmt.Sprintf("its blocks are nested deeper than %d", maxNesting)}
		return
	}
	s.f.Blocks++
	s.hands(sig)
	s.frames = append(s.frames, frame{params: sig.Params, results: sig.Results, height: len(s.stack)})
	s.push([]byte(sig.Params)...)
}

// leave ends the innermost block; again begins its else.
func (s *scan) leave(again bool) {
	if len(s.frames) == 0 {
		s.fail("it has an end too many")
		return
	}
	f := s.frames[len(s.frames)-1]
	s.stack = s.stack[:f.height]
	if again {
		s.frames[len(s.frames)-1].dead = false
		s.push([]byte(f.params)...)
		return
	}
	s.frames = s.frames[:len(s.frames)-1]
	s.push([]byte(f.results)...)
}

// valueType reads one of the types that have a single byte. A longer one, of a
// newer WebAssembly, must not pass: what follows would be read as something else.
func (r *reader) valueType() byte {
	t := r.byte()
	if (t < V128 || t > I32) && t != funcRef && t != externRef {
		r.fail(fmt.Sprintf("it has the unknown type %#x", t))
	}
	return t
}

func (r *reader) refType() {
	if t := r.valueType(); t != funcRef && t != externRef && r.err == nil {
		r.fail(fmt.Sprintf("the type %#x is no reference", t))
	}
}

// below reads an index, which must be below n.
func (r *reader) below(n int, what string) uint32 {
	i := r.u32()
	if uint64(i) >= uint64(n) && r.err == nil {
		r.fail("it uses a " + what + " that does not exist")
		return 0
	}
	return i
}

// constExpr skips the initial value of a global or table entry, or an offset.
func (r *reader) constExpr(o *Outline) {
	for r.err == nil {
		switch r.byte() {
		case 0x0b:
			return
		case 0x41:
			r.leb(32, true)
		case 0x42:
			r.leb(64, true)
		case 0x43:
			r.take(4)
		case 0x44:
			r.take(8)
		case 0x23:
			r.below(len(o.Globals), "global")
		case 0xd2:
			r.below(len(o.Funcs), "function")
		case 0xd0:
			r.refType()
		case 0xfd:
			if r.u32() != 12 {
				r.fail("a global's value is no constant")
			}
			r.take(16)
		default:
			r.fail("a global's value is no constant")
		}
	}
}

func (s *scan) blockType() Signature {
	if len(s.b) > 0 && s.b[0]&0xc0 == 0x40 { // a negative number: none or one result
		if s.b[0] == 0x40 {
			s.byte()
		} else {
			c := s.valueType()
			return Signature{Results: string([]byte{c})}
		}
		return Signature{}
	}
	i := s.u32()
	if uint64(i) >= uint64(len(s.o.Types)) {
		s.fail("a block has no type")
		return Signature{}
	}
	return s.o.Types[i]
}

func (s *scan) memarg() {
	if s.u32() > 4 { // flags of a newer WebAssembly, or an alignment above 16
		s.fail("an alignment is too large")
	}
	s.u32()
}

func (s *scan) memoryIndex() {
	if s.byte() != 0 {
		s.fail("it uses a second memory")
	}
}

func (s *scan) label() {
	if i := s.below(len(s.frames), "block"); s.err == nil {
		f := &s.frames[len(s.frames)-1-int(i)]
		s.hands(Signature{f.params, f.results})
	}
}

// hands counts the values that go over where control does.
func (s *scan) hands(sig Signature) { s.values += uint64(len(sig.Params) + len(sig.Results)) }

func (s *scan) body() {
	f := s.f
	s.locals = append(s.locals, f.Type.Params...)
	f.Groups = s.count()
	for range f.Groups {
		n, t := s.u32(), s.valueType()
		if uint64(len(s.locals))+uint64(n) > maxLocals && !s.ours {
			s.err = tooMany("locals", uint64(len(s.locals))+uint64(n), maxLocals)
			return
		}
		for range n {
			s.locals = append(s.locals, t)
		}
	}
	f.Locals, f.Code = len(s.locals), len(f.Body)-len(s.b)
	s.enter(Signature{Results: f.Type.Results})
	for len(s.frames) > 0 && s.err == nil {
		from, depth := len(f.Body)-len(s.b), len(s.frames)
		s.instruction()
		if s.visit != nil && s.err == nil {
			s.visit(f.Body, from, len(f.Body)-len(s.b), depth)
		}
	}
	if s.err == nil && len(s.b) > 0 {
		s.fail("there is code after its end")
	}
	f.Slots = s.high
	if s.wide {
		f.Slots *= 2
	}
	for _, t := range s.locals {
		f.Slots++
		if t == V128 {
			f.Slots++
		}
	}
}

func (s *scan) local() byte {
	i := s.u32()
	if uint64(i) >= uint64(len(s.locals)) {
		s.fail("it uses a local that it does not have")
		return unknown
	}
	return s.locals[i]
}

func (s *scan) call(t uint32) {
	if uint64(t) >= uint64(len(s.o.Types)) {
		s.fail("it calls what has no type")
		return
	}
	s.hands(s.o.Types[t])
	s.op(len(s.o.Types[t].Params), s.o.Types[t].Results)
}

const rI32 = string(rune(I32))

// plain holds, for opcodes 0x45 to 0xc4, how many values each takes and what
// it gives.
var plain = func() (t [256]struct {
	pops   int
	result string
}) {
	set := func(from, to, pops int, result byte) {
		for i := from; i <= to; i++ {
			t[i].pops, t[i].result = pops, string([]byte{result})
		}
	}
	set(0x45, 0x66, 2, I32) // comparisons
	set(0x45, 0x45, 1, I32)
	set(0x50, 0x50, 1, I32)
	for i, ty := range []byte{I32, I64} {
		set(0x67+0x12*i, 0x69+0x12*i, 1, ty)
		set(0x6a+0x12*i, 0x78+0x12*i, 2, ty)
	}
	for i, ty := range []byte{F32, F64} {
		set(0x8b+0x0e*i, 0x91+0x0e*i, 1, ty)
		set(0x92+0x0e*i, 0x98+0x0e*i, 2, ty)
	}
	set(0xa7, 0xab, 1, I32)
	set(0xac, 0xb1, 1, I64)
	set(0xb2, 0xb6, 1, F32)
	set(0xb7, 0xbb, 1, F64)
	set(0xbc, 0xbc, 1, I32)
	set(0xbd, 0xbd, 1, I64)
	set(0xbe, 0xbe, 1, F32)
	set(0xbf, 0xbf, 1, F64)
	set(0xc0, 0xc1, 1, I32)
	set(0xc2, 0xc4, 1, I64)
	return t
}()

func (s *scan) instruction() {
	switch c := s.byte(); {
	case c >= 0x45 && c <= 0xc4:
		s.op(plain[c].pops, plain[c].result)
	case c >= 0x28 && c <= 0x35: // loads
		s.memarg()
		s.op(1, []string{"\x7f", "\x7e", "\x7d", "\x7c", "\x7f", "\x7f", "\x7f", "\x7f", "\x7e", "\x7e", "\x7e", "\x7e", "\x7e", "\x7e"}[c-0x28])
	case c >= 0x36 && c <= 0x3e: // stores
		s.memarg()
		s.popN(2)
	case c == 0xfc:
		s.prefixed()
	case c == 0xfd:
		s.simd()
	default:
		s.control(c)
	}
}

func (s *scan) control(c byte) {
	switch c {
	case 0x03:
		s.loops++
		s.branches++
	case 0x02, 0x04, 0x05, 0x0c, 0x0d, 0x0e:
		s.branches++
	}
	switch c {
	case 0x00:
		s.unreachable()
	case 0x01:
	case 0x02, 0x03:
		s.enter(s.blockType())
	case 0x04:
		s.pop()
		s.enter(s.blockType())
	case 0x05:
		s.leave(true)
	case 0x0b:
		s.leave(false)
	case 0x0c:
		s.label()
		s.unreachable()
	case 0x0d: // br_if leaves its operands: their types are the label's, but for float lanes
		s.label()
		s.pop()
	case 0x0e:
		n := s.count()
		s.branches += int64(n / tableEntries)
		for range n + 1 {
			s.label()
		}
		s.unreachable()
	case 0x0f:
		s.unreachable()
	case 0x10:
		if i := s.below(len(s.o.Funcs), "function"); s.err == nil {
			s.call(s.o.Funcs[i])
		}
	case 0x11:
		t := s.u32()
		s.u32()
		s.pop()
		s.call(t)
	case 0x1a:
		s.pop()
	case 0x1b, 0x1c:
		sel := selectAt{from: len(s.f.Body) - len(s.b) - 1}
		if c == 0x1c {
			for range s.count() {
				s.valueType()
			}
		}
		s.pop()
		a, b := s.pop(), s.pop()
		for _, t := range []byte{a, b} {
			if t == V128 || t == floats {
				s.hazard("select of v128 (use v128.bitselect)")
			}
		}
		if a == unknown {
			a = b
		}
		s.push(a)
		sel.to, sel.of = len(s.f.Body)-len(s.b), a
		s.f.selects = append(s.f.selects, sel)
	case 0x20:
		s.push(s.local())
	case 0x21:
		s.local()
		s.pop()
	case 0x22:
		s.local()
		s.push(s.pop())
	case 0x23:
		if i := s.below(len(s.o.Globals), "global"); s.err == nil {
			s.push(s.o.Globals[i])
		}
	case 0x24:
		s.below(len(s.o.Globals), "global")
		s.pop()
	case 0x25:
		s.u32()
		s.op(1, "\x70")
	case 0x26:
		s.u32()
		s.popN(2)
	case 0x3f:
		s.memoryIndex()
		s.push(I32)
	case 0x40:
		s.branches += growBranches
		s.memoryIndex()
		s.op(1, rI32)
	case 0x41:
		s.leb(32, true)
		s.push(I32)
	case 0x42:
		s.leb(64, true)
		s.push(I64)
	case 0x43:
		s.take(4)
		s.push(F32)
	case 0x44:
		s.take(8)
		s.push(F64)
	case 0xd0:
		s.refType()
		s.push(funcRef)
	case 0xd1:
		s.op(1, rI32)
	case 0xd2:
		s.below(len(s.o.Funcs), "function")
		s.push(funcRef)
		s.makesReference()
	default:
		s.fail(fmt.Sprintf("it has the unknown instruction %#x", c))
	}
}

// prefixed are the instructions behind 0xfc: saturating conversions, and bulk
// operations on memory and tables.
func (s *scan) prefixed() {
	switch c := s.u32(); c {
	case 0, 1, 2, 3:
		s.op(1, rI32)
	case 4, 5, 6, 7:
		s.op(1, "\x7e")
	case 9, 13:
		s.u32()
	case 8, 10, 12, 14:
		s.branches += copyBranches
		s.u32()
		s.u32()
		s.popN(3)
	case 11, 17:
		s.branches += fillBranches
		s.loops++
		s.u32()
		s.popN(3)
	case 15:
		s.branches += growBranches
		s.u32()
		s.op(2, rI32)
		s.growsTable()
	case 16:
		s.u32()
		s.push(I32)
	default:
		s.fail(fmt.Sprintf("it has the unknown instruction 0xfc %d", c))
	}
}

// simdOps says for each vector instruction what is behind it (m an address, l
// a lane, x 16 bytes), how many values it takes, and what it gives (v a vector,
// f one with float lanes, i I s d a scalar, - nothing). Unlisted ones do not exist.
var simdOps = func() (t [256]string) {
	for _, e := range []struct {
		from, to int
		what     string
	}{
		{0, 10, "m1v"}, {11, 11, "m2-"}, {12, 12, "x0v"}, {13, 13, "x2v"}, {14, 14, "2v"}, {15, 18, "1v"}, {19, 20, "1f"},
		{21, 22, "l1i"}, {23, 23, "l2v"}, {24, 25, "l1i"}, {26, 26, "l2v"}, {27, 27, "l1i"}, {28, 28, "l2v"}, {29, 29, "l1I"}, {30, 30, "l2v"},
		{31, 31, "l1s"}, {32, 32, "l2f"}, {33, 33, "l1d"}, {34, 34, "l2f"}, {35, 76, "2v"}, {77, 77, "1v"}, {78, 81, "2v"}, {82, 82, "3v"},
		{83, 83, "1i"}, {84, 87, "ml2v"}, {88, 91, "ml2-"}, {92, 93, "m1v"}, {94, 95, "1f"}, {96, 98, "1v"}, {99, 100, "1i"}, {101, 102, "2v"},
		{103, 106, "1f"}, {107, 115, "2v"}, {116, 117, "1f"}, {118, 121, "2v"}, {122, 122, "1f"}, {123, 123, "2v"}, {124, 129, "1v"}, {130, 130, "2v"},
		{131, 132, "1i"}, {133, 134, "2v"}, {135, 138, "1v"}, {139, 147, "2v"}, {148, 148, "1f"}, {149, 153, "2v"}, {155, 159, "2v"}, {160, 161, "1v"},
		{163, 164, "1i"}, {167, 170, "1v"}, {171, 174, "2v"}, {177, 177, "2v"}, {181, 186, "2v"}, {188, 191, "2v"}, {192, 193, "1v"}, {195, 196, "1i"},
		{199, 202, "1v"}, {203, 206, "2v"}, {209, 209, "2v"}, {213, 223, "2v"}, {224, 225, "1f"}, {227, 227, "1f"}, {228, 235, "2f"}, {236, 237, "1f"},
		{239, 239, "1f"}, {240, 247, "2f"}, {248, 249, "1v"}, {250, 251, "1f"}, {252, 253, "1v"}, {254, 255, "1f"},
	} {
		for i := e.from; i <= e.to; i++ {
			t[i] = e.what
		}
	}
	return t
}()

// wasmerLacks are the vector instructions that Wasmer 2.0 does not compile: the
// specification took them in later.
var wasmerLacks = map[uint32]string{
	94: "f32x4.demote_f64x2_zero", 95: "f64x2.promote_low_f32x4", 98: "i8x16.popcnt",
	124: "i16x8.extadd_pairwise_i8x16_s", 125: "i16x8.extadd_pairwise_i8x16_u", 126: "i32x4.extadd_pairwise_i16x8_s", 127: "i32x4.extadd_pairwise_i16x8_u",
	130: "i16x8.q15mulr_sat_s",
	156: "i16x8.extmul_low_i8x16_s", 157: "i16x8.extmul_high_i8x16_s", 158: "i16x8.extmul_low_i8x16_u", 159: "i16x8.extmul_high_i8x16_u",
	188: "i32x4.extmul_low_i16x8_s", 189: "i32x4.extmul_high_i16x8_s", 190: "i32x4.extmul_low_i16x8_u", 191: "i32x4.extmul_high_i16x8_u",
	199: "i64x2.extend_low_i32x4_s", 200: "i64x2.extend_high_i32x4_s", 201: "i64x2.extend_low_i32x4_u", 202: "i64x2.extend_high_i32x4_u",
	220: "i64x2.extmul_low_i32x4_s", 221: "i64x2.extmul_high_i32x4_s", 222: "i64x2.extmul_low_i32x4_u", 223: "i64x2.extmul_high_i32x4_u",
	252: "i32x4.trunc_sat_f64x2_s_zero", 253: "i32x4.trunc_sat_f64x2_u_zero", 255: "f64x2.convert_low_i32x4_u",
}

func (s *scan) simd() {
	c := min(s.u32(), math.MaxUint16)
	if c >= 256 || simdOps[c] == "" {
		s.fail(fmt.Sprintf("it has the unknown vector instruction %d", c))
		return
	}
	for _, w := range simdOps[c] {
		switch w {
		case 'm':
			s.memarg()
		case 'l':
			s.byte()
		case 'x':
			s.take(16)
		case '0', '1', '2', '3':
			if c == 77 && len(s.stack) > 0 && s.stack[len(s.stack)-1] == floats {
				s.hazard("v128.not of float lanes (compare the other way round, or go through an integer operation)")
			}
			s.popN(int(w - '0'))
		case 'v':
			s.push(V128)
		case 'f':
			s.push(floats)
		case 'i':
			s.push(I32)
		case 'I':
			s.push(I64)
		case 's':
			s.push(F32)
		case 'd':
			s.push(F64)
		}
	}
	if name := wasmerLacks[c]; name != "" {
		s.hazard(name + ", which it lacks")
	}
	if c == 14 {
		s.hazard("i8x16.swizzle (use i8x16.shuffle, or scalar code)")
	}
}
