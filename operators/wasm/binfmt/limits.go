package binfmt

import (
	"errors"
	"fmt"
)

// MaxModuleSize bounds a .wasm file.
const MaxModuleSize = 16 << 20

// Bounds of what a module may make the host and a compiler work on. What
// compilers emit stays far below: a large module of Go (11 MB) has 6200
// functions, the largest of 50 KB, 550 blocks deep with 18 locals, 17 types and
// 100 000 pieces of data.
const (
	maxTypes     = 10_000
	maxParams    = 256 // and results
	maxImports   = 1_000
	maxFunctions = 50_000
	maxTables    = 16
	maxEntries   = 1 << 20 // of all tables together
	maxGlobals   = 10_000
	maxExports   = 10_000
	maxElements  = 10_000  // segments
	maxElemFuncs = 1 << 18 // entries of all segments together
	maxData      = 100_000 // segments
	maxBody      = 1 << 20 // bytes of one function
	maxNesting   = 4_096
	maxLocals    = 4_096 // of one function, parameters included

	// maxJoins bounds, over all functions, blocks times locals: what a compiler
	// has to bring together at the blocks' ends. wazero takes about 2 µs for each; the large
	// module of Go has 1.5 million.
	maxJoins = 4_000_000
	// The time of a compiler grows with the square of a function's branches, and
	// with its loops times its branches: both engines take about 7 ns for each
	// pair of branches and 12 times that for a loop and a branch, so this bounds
	// the sum over the functions to a few seconds.
	loopWeight   = 12
	maxBranching = 250_000_000
	// Some instructions count as branches, since metering puts one behind each, and
	// wazero makes more of them; its fills are loops. So does a br_table, for so
	// many entries.
	growBranches = 2
	copyBranches = 3
	fillBranches = 4
	tableEntries = 8

	// maxValues bounds, over all functions, what calls, blocks and branches take and
	// give: for each value engines take 2 to 8 µs, and 400 bytes. The large module of
	// Go has 140 000.
	maxValues = 2_000_000
)

// limitError is a module that may be sound, but is too much.
type limitError struct{ text string }

func (e limitError) Error() string { return e.text }

func tooMany(what string, n, limit uint64) error {
	return limitError{fmt.Sprintf("%d %s, the limit is %d", n, what, limit)}
}

// refusal says of err what it is about.
func refusal(err error) error {
	if l := (limitError{}); errors.As(err, &l) {
		return fmt.Errorf("the module is too large: %w", err)
	}
	return fmt.Errorf("the module is damaged: %w", err)
}

// limited fails when n is above limit, in a module that comes from outside.
func (r *reader) limited(what string, n, limit int) int {
	if n > limit && !r.ours && r.err == nil {
		r.err, r.b = tooMany(what, uint64(n), uint64(limit)), nil
		return 0
	}
	return n
}

// tables reads the table section: how many entries there are at the start, and
// whether each table says how large it may get.
func (r *reader) tables(o *Outline) {
	entries, most := uint64(0), uint64(0)
	o.tablesBounded = true
	for range r.limited("tables", r.count(), maxTables) {
		r.refType()
		lo, hi, hasMax := r.limits()
		entries += lo
		most += hi
		o.tablesBounded = o.tablesBounded && hasMax && most <= maxEntries
	}
	if entries > maxEntries && r.err == nil {
		r.err = tooMany("table entries", entries, maxEntries)
	}
}

// growsTable is for a table.grow: no engine has a limit for tables.
func (s *scan) growsTable() {
	if !s.o.tablesBounded && s.err == nil {
		s.err = limitError{fmt.Sprintf("it grows a table that declares no maximum, or its tables together one above %d entries: link it with a maximum", maxEntries)}
	}
}

// makesReference is for a ref.func: wazero keeps 50 bytes for each time that one
// runs until the instance is closed, and no memory limit counts them.
func (s *scan) makesReference() {
	if !s.ours && s.err == nil {
		s.err = limitError{"it takes a reference to a function in its code (ref.func), each of which takes memory for good: take it out of a table (table.get)"}
	}
}

func (r *reader) valueTypes(what string) string {
	n := r.limited(what, r.count(), maxParams)
	ts := make([]byte, 0, n)
	for range n {
		ts = append(ts, r.valueType())
	}
	return string(ts)
}

// element skips an element segment, all of whose functions must exist.
func (r *reader) element(o *Outline) {
	flags := r.u32()
	if flags > 7 {
		r.fail("it has an element segment of an unknown kind")
	}
	passive, explicit, exprs := flags&1 != 0, flags&2 != 0, flags&4 != 0
	if !passive {
		if explicit {
			r.u32()
		}
		r.constExpr(o)
	}
	switch {
	case !passive && !explicit:
	case exprs:
		r.refType()
	case r.byte() != 0:
		r.fail("it has an element segment of an unknown kind")
	}
	n := r.count()
	o.elemFuncs += n
	r.limited("entries of element segments", o.elemFuncs, maxElemFuncs)
	for range n {
		if r.err != nil {
			return
		}
		if exprs {
			r.constExpr(o)
		} else {
			r.below(len(o.Funcs), "function")
		}
	}
}
