package wasm

import (
	"errors"
	"fmt"
	"math"
	"strings"
	"time"

	"github.com/penstock/penstock/operators/wasm/binfmt"
	"github.com/penstock/penstock/operators/wasm/engine"
	"github.com/penstock/penstock/operators/wasm/meter"
)

// Reasons why a guest's call failed, as they are counted.
const (
	reasonError  = "module_error"      // it said so: a status that is not 0
	reasonTrap   = "module_trap"       // it trapped, or broke a rule of the host
	reasonOutput = "module_bad_output" // what it returned makes no sense
	reasonMemory = "module_memory"     // the batch does not fit into its memory
	reasonFuel   = "module_fuel"       // it did more than a call may
	reasonStack  = "module_stack"      // its calls were nested too deep
)

// guestError is a failed call into the guest. fatal says that the instance is
// in an unknown state and must go.
type guestError struct {
	reason string
	fatal  bool
	after  time.Duration // that the clock gave the call, when it ended it
	err    error
}

func (e *guestError) Error() string { return e.err.Error() }
func (e *guestError) Unwrap() error { return e.err }

// TooLate returns how long the call had that the clock ended, or 0.
func (e *guestError) TooLate() time.Duration { return e.after }

func badOutput(what string, err error) error {
	return &guestError{reason: reasonOutput, fatal: true, err: fmt.Errorf("%s: %w", what, err)}
}

// exports that every module has, and those for a kind.
var (
	commonExports = map[string]binfmt.Signature{
		"penstock_abi_version": sig("", "i"),
		"penstock_alloc":       sig("ii", "i"),
		"penstock_free":        sig("iii", ""),
		"penstock_open":        sig("ii", "i"),
		"penstock_bind":        sig("ii", "i"),
		"penstock_process":     sig("ii", "i"),
		"penstock_snapshot":    sig("i", "i"),
		"penstock_restore":     sig("ii", "i"),
		"penstock_last_error":  sig("i", "i"),
	}
	advanceExport = sig("Ii", "i")
)

// sig is a function type, written as types does.
func sig(params, results string) binfmt.Signature {
	return binfmt.Signature{Params: types(params), Results: types(results)}
}

// checkExports reports every export that is missing or of another type.
func checkExports(o *binfmt.Outline, kind string) error {
	var errs []error
	check := func(name string, want binfmt.Signature) {
		e, ok := o.Export(name)
		switch {
		case !ok:
			errs = append(errs, fmt.Errorf("the module does not export the function %s %s", name, want))
		case e.Kind != binfmt.KindFunc || e.Sig != want:
			errs = append(errs, fmt.Errorf("the module exports %s as %s, it must be %s", name, e.Sig, want))
		}
	}
	for _, name := range sortedKeys(commonExports) {
		check(name, commonExports[name])
	}
	if kind == KindEmit {
		check("penstock_advance", advanceExport)
	}
	if _, ok := o.Export("_initialize"); ok {
		check("_initialize", binfmt.Signature{})
	}
	for _, name := range meter.Reserved {
		if _, ok := o.Export(name); ok {
			errs = append(errs, fmt.Errorf("the module exports %s, which is the host's to add: rename it", name))
		}
	}
	if e, ok := o.Export("memory"); !ok || e.Kind != binfmt.KindMemory {
		errs = append(errs, errors.New(`the module does not export its memory as "memory"`))
	}
	return errors.Join(errs...)
}

// guest is one instance of the module and its arena.
type guest struct {
	inst engine.Instance
	host *host
	mem  view // fresh after every call

	alloc, free, open, bind, process, advance, snapshot, restore, lastError engine.Function

	fuel   Fuel
	rows   int             // that the call at hand is given, and may use fuel for
	budget int64           // of the last call
	refuel engine.Function // nil when the module is not metered
	left   engine.Global   // fuel
	depth  engine.Global   // of the call stack, what is left

	arena, size uint32
	limit       uint64 // of the arena: the memory's
	clock       *deadline
}

// newGuest makes an instance and runs _initialize.
func newGuest(mod engine.Module, imports []engine.HostFunc, h *host, limit uint64, fuel Fuel, clock *deadline) (*guest, error) {
	h.inst, h.fault, h.kill, h.work = nil, nil, nil, math.MaxInt64
	clock.begin("start function") // unless metering makes a function of its own of it
	inst, err := mod.Instantiate(imports)
	if late := clock.end(); late != nil {
		if err == nil {
			late = errors.Join(late, inst.Close())
		}
		return nil, late
	}
	if err != nil {
		return nil, &guestError{reason: reasonTrap, fatal: true, err: err}
	}
	g := &guest{inst: inst, host: h, limit: limit, fuel: fuel, clock: clock,
		refuel: inst.Function(meter.RefuelFunction), left: inst.Global(meter.FuelGlobal), depth: inst.Global(meter.StackGlobal)}
	for name, f := range map[string]*engine.Function{"alloc": &g.alloc, "free": &g.free, "open": &g.open, "bind": &g.bind, "process": &g.process,
		"advance": &g.advance, "snapshot": &g.snapshot, "restore": &g.restore, "last_error": &g.lastError} {
		*f = inst.Function("penstock_" + name)
	}
	if g.left != nil {
		h.kill = func() { g.left.Set(math.MaxUint64) /* -1 */ }
	}
	if err := g.start(); err != nil {
		return nil, errors.Join(err, g.close())
	}
	return g, nil
}

func (g *guest) start() error {
	// Metering makes this of a start function, which else has run already.
	if start := g.inst.Function(meter.StartFunction); start != nil {
		if _, err := g.call("start function", start); err != nil {
			return err
		}
	}
	g.host.inst = g.inst
	if g.host.fault != nil {
		return &guestError{reason: reasonTrap, fatal: true, err: g.host.fault}
	}
	if init := g.inst.Function("_initialize"); init != nil {
		if _, err := g.call("_initialize", init); err != nil {
			return err
		}
	}
	v, err := g.call("penstock_abi_version", g.inst.Function("penstock_abi_version"))
	if err != nil {
		return err
	}
	if v != abiVersion {
		return &guestError{reason: reasonOutput, fatal: true, err: fmt.Errorf("the module speaks ABI %d, this Penstock speaks %d", int32(v), abiVersion)}
	}
	return nil
}

func (g *guest) close() error {
	g.host.inst, g.host.kill, g.mem = nil, nil, nil
	return g.inst.Close()
}

// call calls f; a trap or a broken rule is an error.
func (g *guest) call(name string, f engine.Function, args ...uint64) (uint64, error) {
	rows := g.rows
	g.host.fault, g.host.spent, g.host.work, g.rows = nil, false, math.MaxInt64, 0
	if g.refuel != nil {
		g.budget = g.fuel.PerCall + int64(rows)*g.fuel.PerRow
		g.host.work = g.budget
		if _, err := g.refuel.Call(uint64(g.budget)); err != nil {
			g.mem = nil
			return 0, &guestError{reason: reasonTrap, fatal: true, err: fmt.Errorf("%s: %w", meter.RefuelFunction, err)}
		}
	}
	g.clock.begin(name)
	v, err := f.Call(args...)
	if late := g.clock.end(); late != nil {
		g.mem = nil
		return 0, late
	}
	reason := reasonTrap
	switch {
	case g.host.fault != nil:
		if err = g.host.fault; g.host.spent {
			reason = reasonFuel
		}
	case err == nil || g.refuel == nil:
	case int32(g.depth.Get()) < 0:
		reason, err = reasonStack, errors.New("its calls are nested too deep: is there a recursion without an end?")
	case int64(g.left.Get()) < 0:
		reason, err = reasonFuel, fmt.Errorf("it did more than %d instructions for %d rows: if it needs more, raise fuel", g.budget, rows)
	}
	if err != nil {
		g.mem = nil
		return 0, &guestError{reason: reason, fatal: true, err: fmt.Errorf("%s: %w", name, err)}
	}
	g.mem = g.inst.Memory()
	return v, nil
}

// do calls f, whose result is a status.
func (g *guest) do(name string, f engine.Function, args ...uint64) error {
	status, err := g.call(name, f, args...)
	if err != nil {
		return err
	}
	if status == 0 {
		return nil
	}
	msg := "no reason given"
	if m := g.image(); len(m.b) >= bufSize {
		m.clear(0, bufSize)
		if _, err := g.call("penstock_last_error", g.lastError, uint64(g.arena)); err != nil {
			return err
		}
		if b, err := g.mem.buf(g.arena); err == nil && len(b) > 0 {
			msg = strings.ToValidUTF8(string(b[:min(len(b), 1024)]), "\uFFFD")
		}
	}
	return &guestError{reason: reasonError, err: fmt.Errorf("%s returned %d: %s", name, int32(status), msg)}
}

// image is the arena.
func (g *guest) image() image {
	if uint64(g.arena)+uint64(g.size) > uint64(len(g.mem)) {
		return image{}
	}
	return image{b: g.mem[g.arena : g.arena+g.size], base: g.arena}
}

// reserve makes the arena hold n bytes and returns it. Its content is lost.
func (g *guest) reserve(n uint64) (image, error) {
	if n > uint64(g.size) {
		if err := g.growArena(n); err != nil {
			return image{}, err
		}
	}
	return g.image(), nil
}

func (g *guest) growArena(n uint64) error {
	full := &guestError{reason: reasonMemory, err: fmt.Errorf("%d bytes do not fit into the guest's memory (limit %d)", n, g.limit)}
	if n > g.limit || n > math.MaxUint32 {
		return full
	}
	if g.size > 0 {
		old, size := g.arena, g.size
		g.arena, g.size = 0, 0
		if _, err := g.call("penstock_free", g.free, uint64(old), uint64(size), align); err != nil {
			return err
		}
		// Twice as much each time: a guest whose free does nothing then
		// wastes no more than it uses.
		if twice := 2 * uint64(size); n < twice && twice <= g.limit/2 {
			n = twice
		}
	}
	n = max(n, 4096)
	ptr, err := g.call("penstock_alloc", g.alloc, n, align)
	if err != nil {
		return err
	}
	if ptr == 0 {
		return full
	}
	if _, err := g.mem.bytes(uint32(ptr), n); err != nil || ptr%align != 0 {
		return badOutput("penstock_alloc", fmt.Errorf("%d bytes at %#x are not in memory or not aligned to %d", n, ptr, align))
	}
	g.arena, g.size = uint32(ptr), uint32(n)
	return nil
}

// openWith hands over the parameters: a slot each, then the texts.
func (g *guest) openWith(params []paramValue) error {
	slots := 8 * uint64(len(params))
	need := slots
	for _, p := range params {
		need += uint64(len(p.text))
	}
	m, err := g.reserve(max(need, 1))
	if err != nil {
		return err
	}
	at := slots
	for i, p := range params {
		slot := 8 * uint64(i)
		if !p.isText {
			m.put64(slot, math.Float64bits(p.num))
			continue
		}
		m.putPtr(slot, at)
		m.put32(slot+4, uint32(len(p.text)))
		at += uint64(copy(m.b[at:], p.text))
	}
	return g.do("penstock_open", g.open, uint64(m.base), slots)
}

func (g *guest) bindTo(in, out []Column) error {
	m, err := g.reserve(schemaSizeOf(in))
	if err != nil {
		return err
	}
	writeSchema(m, in)
	if err := g.do("penstock_bind", g.bind, uint64(m.ptr(bindIn)), uint64(m.ptr(bindOut))); err != nil {
		return err
	}
	if err := readSchema(g.mem, m.ptr(bindOut), out); err != nil {
		return badOutput("penstock_bind", err)
	}
	return nil
}

// state returns the guest's snapshot, in guest memory.
func (g *guest) state() ([]byte, error) {
	m, err := g.reserve(bufSize)
	if err != nil {
		return nil, err
	}
	m.clear(0, bufSize)
	if err := g.do("penstock_snapshot", g.snapshot, uint64(m.base)); err != nil {
		return nil, err
	}
	b, err := g.mem.buf(m.base)
	if err == nil && len(b) > maxState {
		err = fmt.Errorf("its state has %d bytes, the limit is %d", len(b), maxState)
	}
	if err != nil {
		return nil, badOutput("penstock_snapshot", err)
	}
	return b, nil
}

func (g *guest) restoreFrom(state []byte) error {
	m, err := g.reserve(max(uint64(len(state)), 1))
	if err != nil {
		return err
	}
	copy(m.b, state)
	return g.do("penstock_restore", g.restore, uint64(m.base), uint64(len(state)))
}
