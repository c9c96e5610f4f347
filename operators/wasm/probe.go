package wasm

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/apache/arrow/go/v17/arrow"
	"github.com/apache/arrow/go/v17/arrow/array"

	"github.com/penstock/penstock/operators/wasm/binfmt"
	"github.com/penstock/penstock/pipeline"
)

// Probe runs a module by itself, for golden vectors, tests and measurements:
// its input has just the columns that the manifest lists, its output just those
// that the module makes. There is no policy: a failed call is an error, and the
// next one begins with a fresh instance. It may be used by one goroutine at a
// time.
type Probe struct {
	op   *Operator
	out  *arrow.Schema
	owns bool // the operator's module
}

// ProbeOptions say how a Probe runs. The zero value is auto, the manifest's
// defaults, the default memory limit.
type ProbeOptions struct {
	Engine string
	Params map[string]any
	Memory pipeline.ByteSize
	Seed   uint64 // of random numbers
	// Metered is that of Config; empty is auto.
	Metered string
}

// OpenProbe compiles a module and starts an instance. Golden vectors do not run.
func OpenProbe(wasm []byte, o ProbeOptions) (*Probe, error) {
	cfg := DefaultConfig()
	cfg.Module, cfg.Params, cfg.Seed, cfg.OnError = "under test", o.Params, o.Seed, OnErrorStop
	if o.Engine != "" {
		cfg.Engine = o.Engine
		if o.Engine == EngineWasmer { // a probe is asked for by who has decided that
			cfg.Engine = EngineWasmerUntrusted
		}
	}
	if o.Memory != 0 {
		cfg.Memory = o.Memory
	}
	if o.Metered != "" {
		cfg.Metered = o.Metered
	}
	op, err := newFrom(wasm, cfg, quiet("probe"), NewCompiler("", nil))
	if err != nil {
		return nil, err
	}
	if op.mod, err = op.compiler.Compile(op.choice.Engine, op.code); err != nil {
		return nil, errors.Join(err, op.Close(context.Background()))
	}
	p, err := op.probe(op.params, o.Seed)
	if err != nil {
		return nil, errors.Join(err, op.Close(context.Background()))
	}
	p.owns = true
	return p, nil
}

// Another starts a fresh instance of the same compiled module, which must be
// closed before p is.
func (p *Probe) Another(params map[string]any) (*Probe, error) {
	values, err := p.op.info.Manifest.values(params)
	if err != nil {
		return nil, err
	}
	return p.op.probe(values, p.op.cfg.Seed)
}

// probe starts an instance of the compiled module that shares nothing with the
// operator but the code.
func (op *Operator) probe(params []paramValue, seed uint64) (*Probe, error) {
	env := quiet("probe")
	c := &Operator{cfg: op.cfg, env: env, info: op.info, choice: op.choice, code: op.code, params: params, mod: op.mod, deadline: op.deadline}
	c.cfg.Prefix, c.cfg.OnError, c.cfg.Seed = probePrefix, OnErrorStop, seed
	module, _ := op.Module()
	o, err := binfmt.ParseRewritten(op.code)
	if err != nil {
		return nil, err
	}
	if c.host, err = newHost(env, module, seed); err != nil {
		return nil, err
	}
	c.host.hears = true
	if c.funcs, err = c.host.imports(o); err != nil {
		return nil, err
	}
	if err := c.register(); err != nil {
		return nil, err
	}
	if err := c.bindSchemas(op.info.Manifest.InputSchema()); err != nil {
		return nil, err
	}
	if err := c.instantiate(); err != nil {
		return nil, c.host.withHeard(err)
	}
	return &Probe{op: c, out: schemaOf(c.outs)}, nil
}

// probePrefix keeps a map module's columns apart from its input's.
const probePrefix = "made_by_module_"

// InputSchema is a record of just the columns that the module takes.
func (m *Manifest) InputSchema() *arrow.Schema { return schemaOf(m.Input) }

func schemaOf(cols []Column) *arrow.Schema {
	fields := make([]arrow.Field, len(cols))
	for i, c := range cols {
		fields[i] = arrow.Field{Name: c.Name, Type: columnTypes[c.Type].arrow, Nullable: c.Nullable}
	}
	return arrow.NewSchema(fields, nil)
}

// FuelUsed returns what the last call used; false when it is not metered.
func (p *Probe) FuelUsed() (int64, bool) { return p.op.FuelUsed() }

// Engine is the name of the engine that runs the module.
func (p *Probe) Engine() string { return p.op.choice.Engine }

// Manifest is the module's.
func (p *Probe) Manifest() *Manifest { return &p.op.info.Manifest }

// MemorySize is how many bytes of memory the instance has.
func (p *Probe) MemorySize() int {
	if p.op.guest == nil {
		return 0
	}
	return len(p.op.guest.inst.Memory())
}

// Process calls the module with in, also when that is empty. The record made is
// the caller's; it is nil when there is no row.
func (p *Probe) Process(in arrow.Record) (arrow.Record, error) {
	need, err := p.op.exp.plan(in)
	if err != nil {
		return nil, err
	}
	p.op.host.heard = nil
	return p.made(p.op.run(need, int(in.NumRows())))
}

// Advance sets the module's clock and calls an emit module's advance.
func (p *Probe) Advance(watermark int64) (arrow.Record, error) {
	p.op.host.watermark = watermark
	if p.op.info.Manifest.Kind != KindEmit {
		return nil, nil
	}
	p.op.host.heard = nil
	return p.made(p.op.advance(watermark))
}

func (p *Probe) made(cols []arrow.Array, rows int64, err error) (arrow.Record, error) {
	if err != nil {
		return nil, p.failed(err)
	}
	var rec arrow.Record
	if rows > 0 {
		rec = array.NewRecord(p.out, cols, rows)
	}
	for _, c := range cols {
		c.Release()
	}
	return rec, nil
}

// withHeard adds to the error of a trap what the module said before it, which a
// pipeline has in its log.
func (h *host) withHeard(err error) error {
	if FailureReason(err) != reasonTrap || len(h.heard) == 0 {
		return err
	}
	return fmt.Errorf("%w\nthe module says: %s", err, strings.Join(h.heard, "\n"))
}

// failed ends the instance when err says that its state is unknown.
func (p *Probe) failed(err error) error {
	err = p.op.host.withHeard(err)
	var ge *guestError
	if errors.As(err, &ge) && ge.fatal && p.op.guest != nil {
		err = errors.Join(err, p.op.guest.close())
		p.op.guest = nil
	}
	return err
}

// Snapshot returns the state, as an operator's Snapshot writes it.
func (p *Probe) Snapshot() ([]byte, error) {
	var b bytes.Buffer
	p.op.host.heard = nil
	if err := p.op.Snapshot(&b); err != nil {
		return nil, p.failed(err)
	}
	return b.Bytes(), nil
}

// Restore brings back a state, of this or another engine.
func (p *Probe) Restore(state []byte) error {
	p.op.host.heard = nil
	if err := p.op.Restore(bytes.NewReader(state)); err != nil {
		return p.failed(err)
	}
	return nil
}

// Run takes the steps and appends to dst what the module made of them, in the
// encoding of [AppendCanonical].
func (p *Probe) Run(dst []byte, steps []Step) ([]byte, error) {
	for i, s := range steps {
		var err error
		if dst, err = p.step(dst, i, s); err != nil {
			return dst, err
		}
	}
	return dst, nil
}

// step takes step number i.
func (p *Probe) step(dst []byte, i int, s Step) ([]byte, error) {
	var rec arrow.Record
	var err error
	if s.Batch != nil {
		if rec, err = p.Process(s.Batch); err != nil {
			return dst, fmt.Errorf("step %d, %d rows: %w", i, s.Batch.NumRows(), err)
		}
	} else if rec, err = p.Advance(s.Watermark); err != nil {
		return dst, fmt.Errorf("step %d, advance: %w", i, err)
	}
	if rec != nil {
		dst = AppendCanonical(dst, rec)
		rec.Release()
	}
	return dst, nil
}

// Close ends the instance.
func (p *Probe) Close() error {
	var errs []error
	if p.op.guest != nil {
		errs = append(errs, p.op.guest.close())
		p.op.guest = nil
	}
	if p.owns && p.op.mod != nil {
		errs = append(errs, p.op.mod.Close())
	}
	p.op.mod = nil
	return errors.Join(errs...)
}

// FailureReason returns why the module failed, as it is counted (module_trap,
// module_error, module_bad_output, module_memory), or "" when err is no failure
// of a module.
func FailureReason(err error) string {
	var ge *guestError
	if errors.As(err, &ge) {
		return ge.reason
	}
	return ""
}
