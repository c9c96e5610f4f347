// Package meter rewrites modules so that they count what they do and stop
// themselves. A run that is cut short by a clock ends somewhere else each
// time; a module that counts ends at the same instruction on every engine and
// in every replay.
//
// What is counted. Every instruction costs one unit of fuel, but for block,
// else, end and nop, which are no work. The units of a stretch of code are
// taken at its beginning: at the entry of a function for all that is not in a
// loop; at the head of a loop, on each turn, for what is in it and not in a
// loop further in; and, for what follows a block that a br_table jumps to the
// end of, there (so that one turn of an interpreter, or of the loop that Go
// makes of a function, does not pay for all its cases). What is skipped by a
// branch within a stretch is paid too: the count is an upper bound, and the same
// on all engines. Bulk operations and grows, which engines do outside the code,
// cost [FarFuel] more and by their length besides: one unit for 8 bytes or one
// entry of a table; a page by which memory has grown costs [PageFuel].
//
// Calls are counted in depth as well, by what their frames hold: how deep a
// native stack reaches differs between engines.
package meter

import (
	"encoding/binary"
	"fmt"
	"slices"

	"github.com/penstock/penstock/operators/wasm/binfmt"
)

// What an instrumented module exports besides its own.
const (
	// FuelGlobal is a mutable i64: the units that are left. It is written when
	// a function calls or returns, and read when a call is back: an imported
	// function that sets it below zero ends the run soon. It is below zero after
	// a trap because of it.
	FuelGlobal = "penstock_fuel"
	// StackGlobal is a mutable i32: the slots of the call stack that are left;
	// it is below zero after a trap because of it, and back at StackSlots after
	// a call that returns.
	StackGlobal = "penstock_stack"
	// RefuelFunction sets the fuel global to its one parameter, an i64. (The
	// host could set a global by itself, but through wasmer-go each time leaks.)
	RefuelFunction = "penstock_refuel"
	// StartFunction is what the module had as its start function, which no
	// longer runs by itself: the host calls it once, before anything else. It is
	// missing when there was none.
	StartFunction = "penstock_start"
)

// Reserved are the names that a module must not export itself.
var Reserved = []string{FuelGlobal, StackGlobal, RefuelFunction, StartFunction}

const (
	// StartFuel is what the fuel global holds in a new instance.
	StartFuel = 500_000_000
	// StackSlots bounds the frames of a call, in units of 8 bytes.
	StackSlots = 1 << 17
	// PageFuel is what a page of 64 KiB costs by which memory has grown.
	PageFuel = 1 << pageShift
	// FarFuel is what an instruction costs besides for which an engine leaves the
	// module's code, which takes 20 to 60 ns.
	FarFuel = 31

	pageShift  = 10
	byteShift  = 3  // bulk operations on bytes
	frameSlots = 8  // what a frame holds besides its locals and operands
	bodyBytes  = 32 // of code for one slot more: wazero gives each value of a body its own

	maxSize = 48 << 20 // of an instrumented module
)

// Instrument returns module with counters, or why that cannot be. The module
// may be anything. What comes out still has to be validated by the engine that
// compiles it; that the module's own code reaches neither the counters nor a way
// around them (an index or a branch that is one too far would) is checked here.
func Instrument(module []byte) ([]byte, error) {
	o, err := binfmt.Parse(module)
	if err != nil {
		return nil, err
	}
	secs, err := binfmt.Sections(module)
	if err != nil {
		return nil, err
	}
	for _, name := range Reserved {
		if _, ok := o.Export(name); ok {
			return nil, fmt.Errorf("the module exports %s, which is the host's to add: rename it", name)
		}
	}
	w := writer{o: o, types: o.Types, imported: uint32(o.ImportedFunctions()), fuel: uint32(len(o.Globals))}
	w.stack = w.fuel + 1
	w.refuelType = w.typeOf(binfmt.Signature{Params: string(rune(binfmt.I64))})
	if err := o.Functions(w.instruction, w.function); err != nil {
		return nil, err
	}
	out := w.module(module, secs)
	if len(out) > maxSize {
		return nil, fmt.Errorf("the module has too many loops and calls: metered it has %d bytes, the limit is %d", len(out), maxSize)
	}
	return out, nil
}

// writer makes the new code section.
type writer struct {
	o           *binfmt.Outline
	imported    uint32
	fuel, stack uint32             // indices of the globals
	types       []binfmt.Signature // the module's, then new ones
	refuelType  uint32
	code        []byte // the bodies so far
	plan        plan   // of the function at hand
}

// plan is what is to change in a function's body: found in one pass, since a
// stretch's cost is known at its end only, and written in a second.
type plan struct {
	edits   []edit
	costs   []int64 // of each stretch; the first is the function's
	frames  []frame
	current int  // stretch
	calls   bool // functions of the module
	scratch bool // needs a local for a length
}

// frame is an open block.
type frame struct {
	loop   bool
	target bool // of a br_table
	resume int  // the stretch that it interrupts
}

// edit is a change at a place of the body.
type edit struct {
	at, to int // what is replaced; nothing when they are equal
	kind   byte
	n      uint32 // what kind needs
	depth  int    // blocks open there, that of the function included
}

const (
	editCharge    = iota // take the cost of stretch n
	editReturn           // leave through the function's end
	editSave             // the count to the global, before a call
	editLoad             // and back
	editBytes            // take the length on the stack, of bytes
	editEntries          // the same, of a table's entries
	editPages            // remember the memory's size
	editGrown            // take what it has grown by
	editTable            // remember the size of table n
	editTableGrew        // take what it has grown by
)

// index reads the unsigned number at b.
func index(b []byte) (uint32, []byte) {
	v, n := binary.Uvarint(b)
	return uint32(v), b[n:]
}

// instruction plans for one instruction; the body is known to be well formed.
func (w *writer) instruction(body []byte, from, to, depth int) {
	p := &w.plan
	if len(p.frames) == 0 {
		p.frames = append(p.frames, frame{})
		p.costs = append(p.costs, 1) // the call
	}
	add := func(at int, kind byte, n uint32) {
		p.edits = append(p.edits, edit{at: at, to: at, kind: kind, n: n, depth: depth})
	}
	stretch := func(cost int64, depth int) {
		p.current = len(p.costs)
		p.costs = append(p.costs, cost)
		p.edits = append(p.edits, edit{at: to, to: to, kind: editCharge, n: uint32(p.current), depth: depth})
	}
	switch body[from] {
	case 0x01: // nop
		return
	case 0x02: // block
		p.frames = append(p.frames, frame{resume: p.current})
		return
	case 0x03: // loop
		p.frames = append(p.frames, frame{loop: true, resume: p.current})
		stretch(1, depth+1)
		return
	case 0x05: // else
		p.current = p.frames[len(p.frames)-1].resume
		return
	case 0x0b: // end
		f := p.frames[len(p.frames)-1]
		if p.frames = p.frames[:len(p.frames)-1]; len(p.frames) == 0 {
			return
		}
		if p.current = f.resume; f.target {
			stretch(0, depth-1)
		}
		return
	}
	p.costs[p.current]++
	switch body[from] {
	case 0x04: // if
		p.frames = append(p.frames, frame{resume: p.current})
	case 0x0e: // br_table
		n, b := index(body[from+1 : to])
		for range uint64(n) + 1 {
			var label uint32
			label, b = index(b)
			if i := len(p.frames) - 1 - int(label); i >= 0 && !p.frames[i].loop {
				p.frames[i].target = true
			}
		}
	case 0x0f: // return
		p.edits = append(p.edits, edit{at: from, to: to, kind: editReturn, depth: depth})
	case 0x10, 0x11: // call, call_indirect
		// A call of the host alone takes nothing of the stack, but the host may
		// end the run by setting the count below zero.
		if callee, _ := index(body[from+1:]); body[from] != 0x10 || callee >= w.imported {
			p.calls = true
		}
		add(from, editSave, 0)
		add(to, editLoad, 0)
	case 0x40: // memory.grow
		p.costs[p.current] += FarFuel
		p.scratch = true
		add(from, editPages, 0)
		add(to, editGrown, 0)
	case 0xfc:
		sub, b := index(body[from+1:])
		if sub >= 8 && sub != 16 { // neither a conversion nor table.size
			p.costs[p.current] += FarFuel
		}
		switch sub {
		case 8, 10, 11: // memory.init, copy, fill
			p.scratch = true
			add(from, editBytes, 0)
		case 12, 14, 17: // table.init, copy, fill
			p.scratch = true
			add(from, editEntries, 0)
		case 15: // table.grow
			p.scratch = true
			table, _ := index(b)
			add(from, editTable, table)
			add(to, editTableGrew, table)
		}
	}
}

// function writes the body that was planned.
//
//	block                      ;; left when a counter is below zero
//	  block (result ...)       ;; left by return
//	    take from both counters
//	    the code
//	  end
//	  give back to both counters
//	  return
//	end
//	fuel = -1
//	unreachable
func (w *writer) function(f *binfmt.Function) {
	p := &w.plan
	e := emitter{count: uint32(f.Locals), scratch: uint32(f.Locals) + 1, fuel: w.fuel, costs: p.costs}
	groups := 1
	if p.scratch {
		groups = 2
	}
	_, n := binary.Uvarint(f.Body)
	e.u32(uint32(f.Groups + groups))
	e.b = append(e.b, f.Body[n:f.Code]...)
	e.op(1, binfmt.I64)
	if p.scratch {
		e.op(1, binfmt.I32)
	}
	e.op(0x02, 0x40, 0x02)
	e.b = append(e.b, w.blockType(f.Type.Results)...)
	slots := int64(f.Slots + frameSlots + len(f.Body)/bodyBytes)
	if p.calls {
		e.opU32(0x23, w.stack)
		e.constI32(slots)
		e.op(0x6b)
		e.opU32(0x24, w.stack)
		e.opU32(0x23, w.stack)
		e.constI32(0)
		e.op(0x48)
		e.opU32(0x0d, 1)
	}
	e.opU32(0x23, w.fuel)
	e.constI64(p.costs[0])
	e.take(1)
	at := f.Code
	for _, d := range p.edits {
		e.b = append(e.b, f.Body[at:d.at]...)
		e.edit(d)
		at = d.to
	}
	e.b = append(e.b, f.Body[at:]...) // its end is that of the inner block
	if p.calls {
		e.opU32(0x23, w.stack)
		e.constI32(slots)
		e.op(0x6a)
		e.opU32(0x24, w.stack)
	}
	e.edit(edit{kind: editSave})
	e.op(0x0f, 0x0b)
	e.constI64(-1)
	e.opU32(0x24, w.fuel)
	e.op(0x00, 0x0b)

	w.code = binfmt.AppendU32(w.code, uint32(len(e.b)))
	w.code = append(w.code, e.b...)
	*p = plan{edits: p.edits[:0], costs: p.costs[:0], frames: p.frames[:0]}
}

// blockType is that of a block without parameters.
func (w *writer) blockType(results string) []byte {
	switch len(results) {
	case 0:
		return []byte{0x40}
	case 1:
		return []byte(results)
	}
	return appendS64(nil, int64(w.typeOf(binfmt.Signature{Results: results})))
}

// typeOf returns the index of a type, which it adds where it is missing.
func (w *writer) typeOf(t binfmt.Signature) uint32 {
	i := slices.Index(w.types, t)
	if i < 0 {
		i = len(w.types)
		w.types = append(w.types, t)
	}
	return uint32(i)
}

// emitter writes instructions.
type emitter struct {
	b              []byte
	count, scratch uint32 // locals
	fuel           uint32 // global
	costs          []int64
}

func (e *emitter) op(b ...byte)               { e.b = append(e.b, b...) }
func (e *emitter) u32(v uint32)               { e.b = binfmt.AppendU32(e.b, v) }
func (e *emitter) opU32(op byte, v uint32)    { e.b = binfmt.AppendU32(append(e.b, op), v) }
func (e *emitter) constI32(v int64)           { e.b = appendS64(append(e.b, 0x41), v) }
func (e *emitter) constI64(v int64)           { e.b = appendS64(append(e.b, 0x42), v) }
func (e *emitter) prefixed(sub, table uint32) { e.opU32(0xfc, sub); e.u32(table) }

// take takes the upper of the two values on the stack from the lower, makes
// that the count, and leaves when it is below zero.
func (e *emitter) take(depth int) {
	e.op(0x7d)
	e.opU32(0x22, e.count)
	e.constI64(0)
	e.op(0x53)
	e.opU32(0x0d, uint32(depth))
}

func (e *emitter) edit(d edit) {
	switch d.kind {
	case editCharge:
		if e.costs[d.n] == 0 {
			return
		}
		e.opU32(0x20, e.count)
		e.constI64(e.costs[d.n])
		e.take(d.depth)
	case editReturn:
		e.opU32(0x0c, uint32(d.depth-1))
	case editSave:
		e.opU32(0x20, e.count)
		e.opU32(0x24, e.fuel)
	case editLoad:
		e.opU32(0x23, e.fuel)
		e.opU32(0x21, e.count)
	case editBytes, editEntries:
		e.opU32(0x22, e.scratch)
		e.opU32(0x20, e.count)
		e.opU32(0x20, e.scratch)
		e.op(0xad) // i64.extend_i32_u
		if d.kind == editBytes {
			e.constI64(byteShift)
			e.op(0x88) // i64.shr_u
		}
		e.take(d.depth)
	case editPages:
		e.op(0x3f, 0)
		e.opU32(0x21, e.scratch)
	case editTable:
		e.prefixed(16, d.n)
		e.opU32(0x21, e.scratch)
	case editGrown, editTableGrew:
		e.opU32(0x20, e.count)
		if d.kind == editGrown {
			e.op(0x3f, 0)
		} else {
			e.prefixed(16, d.n)
		}
		e.opU32(0x20, e.scratch)
		e.op(0x6b, 0xad)
		if d.kind == editGrown {
			e.constI64(pageShift)
			e.op(0x86) // i64.shl
		}
		e.take(d.depth)
	}
}

// appendS64 appends v as signed LEB128.
func appendS64(b []byte, v int64) []byte {
	for v < -64 || v > 63 {
		b = append(b, byte(v)|0x80)
		v >>= 7
	}
	return append(b, byte(v)&0x7f)
}
