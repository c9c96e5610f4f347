package filter

import (
	"context"
	"fmt"
	"io"

	"github.com/apache/arrow/go/v17/arrow"
	"github.com/apache/arrow/go/v17/arrow/memory"

	"github.com/penstock/penstock/internal/columns"
	"github.com/penstock/penstock/pipeline"
)

// PortRejected is the output of the rows that do not pass.
const PortRejected = "rejected"

// Operator keeps the rows for which its expression is true. It has no state.
// A batch that passes as a whole is handed on as it is.
type Operator struct {
	cfg    Config
	env    pipeline.Env
	schema *arrow.Schema
	prog   *program
	pass   []int32
	fail   []int32
}

// New returns the operator.
func New(cfg Config, env pipeline.Env) (*Operator, error) {
	if env.Alloc == nil {
		env.Alloc = memory.DefaultAllocator
	}
	if env.Tags == nil {
		env.Tags = pipeline.NewTags(nil)
	}
	return &Operator{cfg: cfg, env: env}, nil
}

// Open compiles the expression for the columns of in. The output has the same
// columns.
func (o *Operator) Open(_ context.Context, in *arrow.Schema) (*arrow.Schema, error) {
	prog, err := compile(o.cfg.Expr, in, o.env.Tags, false)
	if err != nil {
		return nil, fmt.Errorf("expr: %w; %s", err, err.hint)
	}
	o.prog, o.schema = prog, in
	return in, nil
}

// Ports returns the rejected output, if it is switched on.
func (o *Operator) Ports() map[string]*arrow.Schema {
	if !o.cfg.Rejected {
		return nil
	}
	return map[string]*arrow.Schema{PortRejected: o.schema}
}

// Process emits the rows that pass and, if asked for, those that do not.
func (o *Operator) Process(_ context.Context, in arrow.Record, out pipeline.Emitter) error {
	n := int(in.NumRows())
	if n == 0 {
		return nil
	}
	res, err := o.prog.run(in)
	if err != nil {
		return err
	}
	o.split(res, n)
	if err := o.emit("", in, o.pass, out); err != nil || !o.cfg.Rejected {
		return err
	}
	return o.emit(PortRejected, in, o.fail, out)
}

// split fills o.pass and o.fail with the row numbers.
func (o *Operator) split(res vec, n int) {
	o.pass, o.fail = grow(o.pass, n), grow(o.fail, n)
	res = expand(&o.prog.last, res, &o.prog.b, levelRow)
	k := 0
	if !o.cfg.Rejected {
		for i, t := range res.b {
			o.pass[k] = int32(i)
			k += int(t >> 1)
		}
		o.pass, o.fail = o.pass[:k], o.fail[:0]
		return
	}
	for i, t := range res.b {
		o.pass[k], o.fail[i-k] = int32(i), int32(i)
		k += int(t >> 1)
	}
	o.pass, o.fail = o.pass[:k], o.fail[:n-k]
}

func (o *Operator) emit(port string, in arrow.Record, rows []int32, out pipeline.Emitter) error {
	switch len(rows) {
	case 0:
		return nil
	case int(in.NumRows()):
		return out.Emit(port, in)
	}
	rec, err := columns.Take(o.env.Alloc, in, rows)
	if err != nil {
		return err
	}
	defer rec.Release()
	return out.Emit(port, rec)
}

// Advance does nothing: a filter holds no rows back.
func (o *Operator) Advance(context.Context, arrow.Timestamp, pipeline.Emitter) error { return nil }

// Snapshot writes nothing: a filter has no state.
func (o *Operator) Snapshot(io.Writer) error { return nil }

// Restore has nothing to bring back.
func (o *Operator) Restore(io.Reader) error { return nil }

// Close does nothing.
func (o *Operator) Close(context.Context) error { return nil }
