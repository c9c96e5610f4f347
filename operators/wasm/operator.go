// Package wasm is the `wasm` operator: it runs a module on whole batches, over
// the Arrow C Data Interface in the module's memory (operators/sdk/c/penstock.h
// is the contract that a module is written against).
package wasm

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/apache/arrow/go/v17/arrow"
	"github.com/apache/arrow/go/v17/arrow/array"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/penstock/penstock/internal/columns"
	"github.com/penstock/penstock/operators/wasm/binfmt"
	"github.com/penstock/penstock/operators/wasm/engine"
	"github.com/penstock/penstock/operators/wasm/meter"
	"github.com/penstock/penstock/pipeline"
)

// Operator runs one module. A module that traps, or returns what makes no
// sense, loses its state: it goes on with a fresh instance, as after a start.
type Operator struct {
	cfg    Config
	env    pipeline.Env
	info   Info
	code   []byte // with the memory's maximum lowered to the limit, and metered
	params []paramValue
	host   *host
	funcs  []engine.HostFunc
	lost   *prometheus.CounterVec // rows
	quarantine

	deadline *deadline

	choice   Choice
	compiler *Compiler
	mod      engine.Module
	guest    *guest // nil after a fatal failure, until the next batch

	out  *arrow.Schema
	ins  []Column // the manifest's, nullable as the input is
	outs []Column
	exp  *exporter
	imp  importer
	cols []arrow.Array
}

// New reads the module and checks it and its parameters. Nothing runs before
// Open.
func New(cfg Config, env pipeline.Env) (*Operator, error) {
	return NewWith(cfg, env, NewCompiler("", env.Log))
}

// NewWith is New with a compiler that operators share.
func NewWith(cfg Config, env pipeline.Env, compiler *Compiler) (*Operator, error) {
	wasm, err := cfg.Code()
	if err != nil {
		return nil, fmt.Errorf("module: %w", err)
	}
	return newFrom(wasm, cfg, env, compiler)
}

// newFrom is NewWith for a module that has been read.
func newFrom(wasm []byte, cfg Config, env pipeline.Env, compiler *Compiler) (*Operator, error) {
	info, o, err := inspect(wasm)
	if err != nil {
		return nil, fmt.Errorf("module %s: %w", cfg.Module, err)
	}
	op := &Operator{cfg: cfg, env: env, info: info, compiler: compiler, quarantine: quarantine{after: cfg.QuarantineAfter}, deadline: &deadline{after: cfg.Deadline}}
	if op.params, err = info.Manifest.values(cfg.Params); err != nil {
		return nil, err
	}
	if op.code, err = binfmt.CapMemory(wasm, o, pages(cfg.Memory)); err != nil {
		return nil, fmt.Errorf("module %s: %w", cfg.Module, err)
	}
	// Builds that differ in their manifest only are compiled once.
	if op.code, err = codeOnly(op.code); err != nil {
		return nil, err
	}
	if op.choice, err = cfg.choose(wasm, &info); err != nil {
		return nil, err
	}
	if cfg.meters(op.choice) {
		if op.code, err = meter.Instrument(op.code); err != nil {
			return nil, fmt.Errorf("module %s: %w", cfg.Module, err)
		}
	}
	module, _ := op.Module()
	if op.host, err = newHost(env, module, cfg.Seed); err != nil {
		return nil, err
	}
	if op.funcs, err = op.host.imports(o); err != nil {
		return nil, fmt.Errorf("module %s: %w", cfg.Module, err)
	}
	return op, op.register()
}

// register registers what the operator counts.
func (op *Operator) register() error {
	op.lost = prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: "penstock", Name: "module_failed_rows_total",
		Help: "Rows of batches on which a Wasm module failed, by reason."}, []string{"operator", "reason"})
	if err := register(op.env.Meter, &op.lost); err != nil {
		return err
	}
	return op.quarantine.register(op.env)
}

// Module returns name@version of the module and the engine that runs it.
func (op *Operator) Module() (module, engine string) {
	return op.info.Manifest.Name + "@" + op.info.Manifest.Version, op.choice.Engine
}

// Choice is which engine runs the module, and why.
func (op *Operator) Choice() Choice { return op.choice }

// Digest is the SHA-256 of the module, in hex: another build of it does not
// understand this one's state.
func (op *Operator) Digest() string { return op.info.Digest }

// Open compiles the module, runs its golden vectors, starts it and binds it to
// its input. A module that does not come back from that within its deadline is
// an error, and goes on with a core of its own until the process ends: it cannot
// be opened in the same way again.
func (op *Operator) Open(_ context.Context, in *arrow.Schema) (*arrow.Schema, error) {
	if err := op.bindSchemas(in); err != nil {
		return nil, err
	}
	var err error
	if err, ok := condemned.Load(op.startKey()); ok {
		return nil, err.(error)
	}
	if op.mod, err = op.compiler.Compile(op.choice.Engine, op.code); err != nil {
		return nil, op.named(err)
	}
	op.deadline.watch()
	if err = op.Guarded(op.checkGolden); err != nil {
		if _, bare := err.(*guestError); bare { //nolint:errorlint // of Guarded itself
			err = op.named(fmt.Errorf("golden vectors: %w", err))
		}
		return nil, condemn(&verdicts, op.verdictKey(), err)
	}
	if err = op.Guarded(op.instantiate); err != nil {
		return nil, condemn(&condemned, op.startKey(), op.named(err))
	}
	return op.out, nil
}

// named puts the module's name before an error.
func (op *Operator) named(err error) error {
	if err != nil {
		err = fmt.Errorf("module %s: %w", op.cfg.Module, err)
	}
	return err
}

// bindSchemas finds the input columns and makes the output schema.
func (op *Operator) bindSchemas(in *arrow.Schema) error {
	m := &op.info.Manifest
	var errs []error
	var cols []exportColumn
	op.ins = slices.Clone(m.Input)
	for i, c := range m.Input {
		typ := columnTypes[c.Type]
		at := pipeline.Column(in, c.Name)
		switch {
		case at < 0:
			errs = append(errs, fmt.Errorf("module %s needs a column %q (%s); the input has %s", m.Name, c.Name, c.Type, fieldNames(in)))
			continue
		case !arrow.TypeEqual(in.Field(at).Type, typ.arrow):
			errs = append(errs, fmt.Errorf("module %s needs column %q as %s, the input has it as %s", m.Name, c.Name, c.Type, columns.TypeName(in.Field(at).Type)))
			continue
		case in.Field(at).Nullable && !c.Nullable:
			errs = append(errs, fmt.Errorf("module %s takes no nulls in column %q, the input may have some: its manifest must call the column nullable", m.Name, c.Name))
			continue
		}
		op.ins[i].Nullable = in.Field(at).Nullable
		cols = append(cols, exportColumn{name: c.Name, index: at, typ: typ})
	}
	var fields []arrow.Field
	if m.Kind == KindMap {
		fields = slices.Clone(in.Fields())
	}
	op.outs = m.Output
	for _, c := range m.Output {
		f := arrow.Field{Name: op.cfg.Prefix + c.Name, Type: columnTypes[c.Type].arrow, Nullable: c.Nullable || m.Kind == KindMap && op.cfg.OnError == OnErrorPass}
		if c.Unit != "" {
			f.Metadata = arrow.MetadataFrom(map[string]string{"unit": c.Unit})
		}
		if m.Kind == KindMap && pipeline.Column(in, f.Name) >= 0 {
			errs = append(errs, fmt.Errorf("module %s adds a column %q, which the input has already: give the operator a prefix", m.Name, f.Name))
		}
		fields = append(fields, f)
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	op.exp = newExporter(cols)
	op.imp = importer{alloc: op.env.Alloc, cols: op.outs, maxRows: int64(op.cfg.MaxOutputRows), maxBytes: uint64(op.cfg.MaxOutputBytes), tagLimit: tagLimit{most: op.cfg.MaxTags}}
	op.out = arrow.NewSchema(fields, nil)
	return nil
}

func fieldNames(s *arrow.Schema) string {
	out := ""
	for i, f := range s.Fields() {
		if i > 0 {
			out += ", "
		}
		out += f.Name
	}
	return out
}

// instantiate makes a fresh guest, opened and bound.
func (op *Operator) instantiate() error {
	g, err := newGuest(op.mod, op.funcs, op.host, uint64(op.cfg.Memory), op.cfg.Fuel, op.deadline)
	if err != nil {
		return err
	}
	if err = g.openWith(op.params); err == nil {
		err = g.bindTo(op.ins, op.outs)
	}
	if err != nil {
		return errors.Join(err, g.close())
	}
	op.guest = g
	return nil
}

// Process runs the module on in. A failure of the module is treated by
// on_error; an error returned is permanent.
func (op *Operator) Process(_ context.Context, in arrow.Record, out pipeline.Emitter) error {
	rows := int(in.NumRows())
	if rows == 0 {
		return nil
	}
	if op.quarantined {
		return op.pass(reasonQuarantine, in, out)
	}
	need, err := op.exp.plan(in)
	if err != nil {
		return pipeline.Permanent(err)
	}
	var made []arrow.Array
	var n int64
	if err = op.givenUp("penstock_process"); err == nil {
		made, n, err = op.run(need, rows)
	}
	if err != nil {
		if err := op.failed(err, callProcess, rows); err != nil {
			return err
		}
		var ge *guestError
		errors.As(err, &ge)
		return op.pass(ge.reason, in, out)
	}
	op.well(callProcess)
	return op.emit(in, made, n, out)
}

// run calls the guest on the planned record and returns the columns it made,
// which the caller owns.
func (op *Operator) run(need uint64, rows int) ([]arrow.Array, int64, error) {
	defer op.exp.forget()
	if op.guest == nil {
		if err := op.instantiate(); err != nil {
			return nil, 0, err
		}
	}
	g := op.guest
	m, err := g.reserve(need)
	if err != nil {
		return nil, 0, err
	}
	op.exp.write(m, rows)
	g.rows = rows
	if err := g.do("penstock_process", g.process, uint64(m.ptr(inOff)), uint64(m.ptr(outOff))); err != nil {
		return nil, 0, err
	}
	want := int64(rows)
	if op.info.Manifest.Kind == KindEmit {
		want = anyRows
	}
	op.imp.given = op.exp.cols
	return op.result("penstock_process", m.ptr(outOff), want)
}

func (op *Operator) result(call string, ptr uint32, rows int64) ([]arrow.Array, int64, error) {
	made, n, err := op.imp.read(op.guest.mem, ptr, rows)
	if err != nil {
		return nil, 0, badOutput(call, err)
	}
	return made, n, nil
}

// emit hands on the columns that the guest made, behind those of in for a map
// module, and releases them.
func (op *Operator) emit(in arrow.Record, made []arrow.Array, rows int64, out pipeline.Emitter) error {
	op.cols = op.cols[:0]
	if op.info.Manifest.Kind == KindMap {
		op.cols = append(op.cols, in.Columns()...)
	}
	op.cols = append(op.cols, made...)
	var err error
	if rows > 0 {
		rec := array.NewRecord(op.out, op.cols, rows)
		err = out.Emit("", rec)
		rec.Release()
	}
	for _, a := range made {
		a.Release()
	}
	clear(op.cols)
	return err
}

// failed takes a failed call: it logs and counts it and frees the guest when
// it is in an unknown state, or in quarantine from now on. It returns an error,
// which is permanent, when the pipeline is to stop.
func (op *Operator) failed(err error, call, rows int) error {
	var ge *guestError
	if !errors.As(err, &ge) {
		return pipeline.Permanent(err)
	}
	module, eng := op.Module()
	op.host.failure(err, eng, rows, ge.fatal)
	if ge.fatal {
		err = errors.Join(err, op.drop())
	}
	late := ge.reason == reasonDeadline // each time may cost a core
	if late {
		op.set(true, fmt.Sprintf("%s took longer than %v", callNames[call], op.deadline.after))
	}
	if op.cfg.OnError == OnErrorStop {
		op.lose(ge.reason, rows)
		return pipeline.Permanent(fmt.Errorf("module %s: %w", module, err))
	}
	if !late && !op.count(call) {
		return nil
	}
	op.host.log.Error("module in quarantine: it is not called any more, its batches go by on_error; mend or replace it, a change of its settings ends this",
		"reason", op.why, "digest", op.info.Digest, "error", err)
	if err := op.drop(); err != nil {
		return pipeline.Permanent(err)
	}
	return nil
}

// drop frees the guest, whose state is lost.
func (op *Operator) drop() error {
	if op.guest == nil {
		return nil
	}
	err := op.guest.close()
	op.guest = nil
	return err
}

func (op *Operator) lose(reason string, rows int) {
	if op.env.Meter.Counts() {
		op.lost.WithLabelValues(op.env.Name, reason).Add(float64(rows))
	}
}

// pass hands on in, or not, as on_error says of a batch that the module did
// nothing with.
func (op *Operator) pass(reason string, in arrow.Record, out pipeline.Emitter) error {
	rows := int(in.NumRows())
	op.lose(reason, rows)
	if op.cfg.OnError != OnErrorPass || op.info.Manifest.Kind == KindEmit {
		op.env.Meter.Dropped(op.env.Name, reason, rows)
		return nil
	}
	made := make([]arrow.Array, len(op.outs))
	for i, c := range op.outs {
		made[i] = array.MakeArrayOfNull(op.env.Alloc, columnTypes[c.Type].arrow, rows)
	}
	return op.emit(in, made, int64(rows), out)
}

// Advance sets the guest's clock and lets an emit module close what is due.
func (op *Operator) Advance(_ context.Context, watermark arrow.Timestamp, out pipeline.Emitter) error {
	op.host.watermark = int64(watermark)
	if op.info.Manifest.Kind != KindEmit || op.quarantined {
		return nil
	}
	var made []arrow.Array
	var n int64
	err := op.givenUp("penstock_advance")
	if err == nil {
		made, n, err = op.advance(int64(watermark))
	}
	if err != nil {
		return op.failed(err, callAdvance, 0)
	}
	op.well(callAdvance)
	return op.emit(nil, made, n, out)
}

func (op *Operator) advance(watermark int64) ([]arrow.Array, int64, error) {
	if op.guest == nil {
		if err := op.instantiate(); err != nil {
			return nil, 0, err
		}
	}
	g := op.guest
	m, err := g.reserve(arraySize)
	if err != nil {
		return nil, 0, err
	}
	m.clear(0, arraySize)
	if err := g.do("penstock_advance", g.advance, uint64(watermark), uint64(m.base)); err != nil {
		return nil, 0, err
	}
	op.imp.given = nil
	return op.result("penstock_advance", m.base, anyRows)
}

// Close frees the guest and gives the module back, unless a goroutine is in it for
// good.
func (op *Operator) Close(context.Context) error {
	if op.deadline.close() {
		return nil
	}
	errs := []error{op.drop()}
	if op.mod != nil {
		errs = append(errs, op.mod.Close())
		op.mod = nil
	}
	return errors.Join(errs...)
}
