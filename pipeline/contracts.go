package pipeline

import (
	"context"
	"errors"
	"io"
	"log/slog"

	"github.com/apache/arrow/go/v17/arrow"
	"github.com/apache/arrow/go/v17/arrow/memory"
)

// AckFunc is called once, when the rows of the batch that came with it are in
// the journal (err nil) or never will be (err says why). It must not block.
type AckFunc func(err error)

// Source brings readings in. One goroutine calls Read at a time; Close may be
// called while Read runs and makes it return.
type Source interface {
	// Connect makes the first connection. Its errors are retried with back-off.
	// One that [IsPermanent] ends a source that reads files; one with a peer is
	// retried slowly, for the refusal may be mended there. After Connect
	// the source keeps itself connected: a drop is its own business.
	Connect(ctx context.Context) error
	// Read waits for the next batch, which the caller owns. The ack is never
	// nil. io.EOF ends a finite source. ctx ending returns its error. A Batch
	// with a nil Record carries no rows: the linger passed and nothing came.
	Read(ctx context.Context) (Batch, AckFunc, error)
	Close(ctx context.Context) error
}

// Draining is a Source that has acks outstanding at its peer: Drain stops new
// deliveries; Read then returns what was taken and, after it, io.EOF.
type Draining interface {
	Drain(ctx context.Context) error
}

// Emitter takes an operator's output. The record is borrowed. Port "" is the
// main output; others are named by [Ported].
type Emitter interface {
	Emit(port string, rec arrow.Record) error
}

// Operator transforms batches. It is used by one goroutine, sees event time
// and its inputs only, and is deterministic: the same calls give the same
// bytes. No wall clock, no unseeded randomness, no map iteration order.
type Operator interface {
	// Open binds the operator to its input and returns its output schema.
	Open(ctx context.Context, in *arrow.Schema) (*arrow.Schema, error)
	// Process takes one batch, grouped by tag. Any record it emits that has a
	// tag column is grouped by tag too, each run in time order.
	Process(ctx context.Context, in arrow.Record, out Emitter) error
	// Advance says that no row older than watermark is still to come but late
	// ones. Called after Process, with values that never decrease.
	Advance(ctx context.Context, watermark arrow.Timestamp, out Emitter) error
	// Snapshot writes all state; Restore, called after Open on a fresh
	// operator with the same config, brings it back.
	Snapshot(w io.Writer) error
	Restore(r io.Reader) error
	Close(ctx context.Context) error
}

// Ported is an Operator with further outputs beside the main one, such as the
// late rows of a window. A node refers to one as "operator.port". Known after
// Open.
type Ported interface {
	Ports() map[string]*arrow.Schema
}

// Sink takes results out. One goroutine uses it.
type Sink interface {
	// Connect is retried with back-off unless its error [IsPermanent].
	Connect(ctx context.Context) error
	// Write returns nil once the rows are accepted. An error that
	// [IsPermanent] sends them to the dead-letter queue; any other is retried
	// with back-off, so a Write may see rows again: keys are idempotent.
	// Node(in.Schema()) says which graph node made the record.
	Write(ctx context.Context, in arrow.Record) error
	Close(ctx context.Context) error
}

// BatchSink is a Sink that takes several records in one request. nil means
// that all are accepted. After an error that [IsPermanent] the records are
// tried one by one with Write.
type BatchSink interface {
	WriteAll(ctx context.Context, in []arrow.Record) error
}

// Accepter is implemented by the settings of a sink that does not take rows of
// every schema: Accept says what is wrong with in, before anything runs.
type Accepter interface {
	Accept(in *arrow.Schema) error
}

// Env is what a component is built with, beside its own config.
type Env struct {
	Name   string // the component's name in the YAML
	Log    *slog.Logger
	Meter  *Meter
	Tags   *Tags
	Alloc  memory.Allocator
	Shards int // how many shards readings are split into, at least 1
}

type permanent struct{ error }

func (p permanent) Unwrap() error { return p.error }

// Permanent marks err as one that a retry cannot mend.
func Permanent(err error) error {
	if err == nil {
		return nil
	}
	return permanent{err}
}

// IsPermanent reports whether err, or one it wraps, was marked by [Permanent].
func IsPermanent(err error) bool {
	var p permanent
	return errors.As(err, &p)
}
