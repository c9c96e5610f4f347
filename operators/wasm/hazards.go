package wasm

import (
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

const maxLocals = 50_000

// hazards returns what in the module Wasmer 2.0 (Cranelift 0.74) compiles into
// code that computes something else, one text per function:
//
//   - select of two v128: only the low 32 bits move;
//   - i8x16.swizzle: it clobbers its mask;
//   - v128.not of a vector with float lanes;
//
// and what it does not compile at all: the instructions of wasmerLacks.
// It follows the types of the values on the stack, as a validator does; what is
// not valid is an error.
func (o *outline) hazards() ([]string, error) {
	var out []string
	err := o.bodies(func(index uint32, s *scan, _ []byte) {
		if len(s.found) > 0 {
			out = append(out, o.function(index)+" uses "+strings.Join(s.found, " and "))
		}
	})
	return out, err
}

// bodies scans every function's code and calls f with what was found.
func (o *outline) bodies(f func(index uint32, s *scan, body []byte)) error {
	imported := 0
	for _, im := range o.imports {
		if im.kind == kindFunc {
			imported++
		}
	}
	r := reader{b: o.code}
	bodies := 0
	if len(o.code) > 0 {
		bodies = r.count()
	}
	for i := range bodies {
		index := imported + i
		if index >= len(o.funcs) || int(o.funcs[index]) >= len(o.types) {
			return fmt.Errorf("the module is damaged: function %d has no type", index)
		}
		body := r.take(r.u32())
		if r.err != nil {
			return fmt.Errorf("the module is damaged: %w", r.err)
		}
		s := scan{o: o, reader: reader{b: body}, size: len(body)}
		s.body(o.types[o.funcs[index]])
		if s.err != nil {
			return fmt.Errorf("the module is damaged: %s: %w", o.function(uint32(index)), s.err)
		}
		f(uint32(index), &s, body)
	}
	return nil
}

// vectorExports returns the exports at which Wasmer 2.0 ends the whole process:
// its interface has no vectors.
func (o *outline) vectorExports() []string {
	var out []string
	for _, e := range o.exports {
		vector := false
		switch {
		case e.kind == kindFunc:
			vector = strings.ContainsRune(e.sig.params+e.sig.results, tV128)
		case e.kind == kindGlobal && uint64(e.index) < uint64(len(o.globals)):
			vector = o.globals[e.index] == tV128
		}
		if vector {
			out = append(out, fmt.Sprintf("it exports %s, which has a vector in its type", e.name))
		}
	}
	return out
}

// frame is a block, loop, if or the function itself.
type frame struct {
	params, results string
	height          int // of the stack below its parameters
	dead            bool
}

type scan struct {
	reader
	size   int // of the body, in bytes
	o      *outline
	locals []byte
	stack  []byte
	frames []frame
	found  []string

	selects []selectAt
}

// selectAt is a select in a body: where it begins and ends, and the type it
// selects from.
type selectAt struct {
	from, to int
	of       byte
}

func (s *scan) hazard(what string) {
	for _, f := range s.found {
		if f == what {
			return
		}
	}
	s.found = append(s.found, what)
}

func (s *scan) push(ts ...byte) { s.stack = append(s.stack, ts...) }

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

func (s *scan) enter(sig signature) {
	s.popN(len(sig.params))
	s.frames = append(s.frames, frame{params: sig.params, results: sig.results, height: len(s.stack)})
	s.push([]byte(sig.params)...)
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

// leb skips a signed number.
func (r *reader) leb() {
	for range 10 {
		if r.byte() < 0x80 {
			return
		}
	}
	r.fail("a number is too long")
}

// constExpr skips the initial value of a global.
func (r *reader) constExpr() {
	for r.err == nil {
		switch r.byte() {
		case 0x0b:
			return
		case 0x41, 0x42:
			r.leb()
		case 0x43:
			r.take(4)
		case 0x44:
			r.take(8)
		case 0x23, 0xd2:
			r.u32()
		case 0xd0:
			r.byte()
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

func (s *scan) blockType() signature {
	if len(s.b) > 0 && s.b[0]&0xc0 == 0x40 { // a negative number: none or one result
		if c := s.byte(); c != 0x40 {
			return signature{results: string([]byte{c})}
		}
		return signature{}
	}
	i := s.u32()
	if uint64(i) >= uint64(len(s.o.types)) {
		s.fail("a block has no type")
		return signature{}
	}
	return s.o.types[i]
}

func (s *scan) memarg() {
	s.u32()
	s.u32()
}

func (s *scan) body(sig signature) {
	s.locals = append(s.locals, sig.params...)
	for range s.count() {
		n, t := s.u32(), s.byte()
		if uint64(len(s.locals))+uint64(n) > maxLocals {
			s.fail("it has too many locals")
			return
		}
		for range n {
			s.locals = append(s.locals, t)
		}
	}
	s.enter(signature{results: sig.results})
	for len(s.frames) > 0 && s.err == nil {
		s.instruction()
	}
	if s.err == nil && len(s.b) > 0 {
		s.fail("there is code after its end")
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
	if uint64(t) >= uint64(len(s.o.types)) {
		s.fail("it calls what has no type")
		return
	}
	s.op(len(s.o.types[t].params), s.o.types[t].results)
}

const rI32 = string(rune(tI32))

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
	set(0x45, 0x66, 2, tI32) // comparisons
	set(0x45, 0x45, 1, tI32)
	set(0x50, 0x50, 1, tI32)
	for i, ty := range []byte{tI32, tI64} {
		set(0x67+0x12*i, 0x69+0x12*i, 1, ty)
		set(0x6a+0x12*i, 0x78+0x12*i, 2, ty)
	}
	for i, ty := range []byte{tF32, tF64} {
		set(0x8b+0x0e*i, 0x91+0x0e*i, 1, ty)
		set(0x92+0x0e*i, 0x98+0x0e*i, 2, ty)
	}
	set(0xa7, 0xab, 1, tI32)
	set(0xac, 0xb1, 1, tI64)
	set(0xb2, 0xb6, 1, tF32)
	set(0xb7, 0xbb, 1, tF64)
	set(0xbc, 0xbc, 1, tI32)
	set(0xbd, 0xbd, 1, tI64)
	set(0xbe, 0xbe, 1, tF32)
	set(0xbf, 0xbf, 1, tF64)
	set(0xc0, 0xc1, 1, tI32)
	set(0xc2, 0xc4, 1, tI64)
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
		s.u32()
		s.unreachable()
	case 0x0d: // br_if leaves its operands: their types are the label's, but for float lanes
		s.u32()
		s.pop()
	case 0x0e:
		for range s.count() + 1 {
			s.u32()
		}
		s.unreachable()
	case 0x0f:
		s.unreachable()
	case 0x10:
		i := s.u32()
		if uint64(i) >= uint64(len(s.o.funcs)) {
			s.fail("it calls a function that does not exist")
			return
		}
		s.call(s.o.funcs[i])
	case 0x11:
		t := s.u32()
		s.u32()
		s.pop()
		s.call(t)
	case 0x1a:
		s.pop()
	case 0x1b, 0x1c:
		sel := selectAt{from: s.size - len(s.b) - 1}
		if c == 0x1c {
			s.take(uint32(s.count()))
		}
		s.pop()
		a, b := s.pop(), s.pop()
		for _, t := range []byte{a, b} {
			if t == tV128 || t == floats {
				s.hazard("select of v128 (use v128.bitselect)")
			}
		}
		if a == unknown {
			a = b
		}
		s.push(a)
		sel.to, sel.of = s.size-len(s.b), a
		s.selects = append(s.selects, sel)
	case 0x20:
		s.push(s.local())
	case 0x21:
		s.local()
		s.pop()
	case 0x22:
		s.local()
		s.push(s.pop())
	case 0x23:
		i := s.u32()
		if uint64(i) >= uint64(len(s.o.globals)) {
			s.fail("it uses a global that does not exist")
			return
		}
		s.push(s.o.globals[i])
	case 0x24:
		s.u32()
		s.pop()
	case 0x25:
		s.u32()
		s.op(1, "\x70")
	case 0x26:
		s.u32()
		s.popN(2)
	case 0x3f:
		s.byte()
		s.push(tI32)
	case 0x40:
		s.byte()
		s.op(1, rI32)
	case 0x41:
		s.leb()
		s.push(tI32)
	case 0x42:
		s.leb()
		s.push(tI64)
	case 0x43:
		s.take(4)
		s.push(tF32)
	case 0x44:
		s.take(8)
		s.push(tF64)
	case 0xd0:
		s.push(s.byte())
	case 0xd1:
		s.op(1, rI32)
	case 0xd2:
		s.u32()
		s.push('\x70')
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
		s.u32()
		s.u32()
		s.popN(3)
	case 11, 17:
		s.u32()
		s.popN(3)
	case 15:
		s.u32()
		s.op(2, rI32)
	case 16:
		s.u32()
		s.push(tI32)
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
			s.push(tV128)
		case 'f':
			s.push(floats)
		case 'i':
			s.push(tI32)
		case 'I':
			s.push(tI64)
		case 's':
			s.push(tF32)
		case 'd':
			s.push(tF64)
		}
	}
	if name := wasmerLacks[c]; name != "" {
		s.hazard(name + ", which it lacks")
	}
	if c == 14 {
		s.hazard("i8x16.swizzle (use i8x16.shuffle, or scalar code)")
	}
}
