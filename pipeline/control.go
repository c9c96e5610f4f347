package pipeline

import (
	"errors"
	"strings"

	"github.com/apache/arrow/go/v17/arrow"
	"github.com/apache/arrow/go/v17/arrow/array"
	"github.com/apache/arrow/go/v17/arrow/memory"
)

// What a Control asks for.
const (
	// ControlDeploy puts the module in place of the node's.
	ControlDeploy = "deploy"
	// ControlRollback puts the module that ran before back in place.
	ControlRollback = "rollback"
	// ControlShadow lets the module run beside the node's on the same batches.
	// Its outputs are compared and go nowhere. Without a digest it ends that.
	ControlShadow = "shadow"
	// ControlPromote puts the shadow, with the state it has, in place.
	ControlPromote = "promote"
)

// Control is one thing that a person asks of a running flow. It is an entry of
// the journal, so it takes effect between the same two batches on every replay.
type Control struct {
	Action string
	Node   string // the operator's name
	Digest string // of the module, SHA-256 in hex, where the action needs one
	// From is the first entry of the journal that a module which starts afresh
	// is shown before it takes over; 0 is none.
	From uint64
}

var controlSchema = arrow.NewSchema([]arrow.Field{
	{Name: "action", Type: arrow.BinaryTypes.String},
	{Name: "node", Type: arrow.BinaryTypes.String},
	{Name: "digest", Type: arrow.BinaryTypes.String},
	{Name: "from", Type: arrow.PrimitiveTypes.Uint64},
}, nil)

// Record returns c as a record of one row, which the caller owns.
func (c Control) Record(alloc memory.Allocator) arrow.Record {
	b := array.NewRecordBuilder(alloc, controlSchema)
	defer b.Release()
	for i, s := range []string{c.Action, c.Node, c.Digest} {
		b.Field(i).(*array.StringBuilder).Append(s)
	}
	b.Field(3).(*array.Uint64Builder).Append(c.From)
	return b.NewRecord()
}

// ReadControl reads what Record made. rec is borrowed.
func ReadControl(rec arrow.Record) (c Control, err error) {
	if rec == nil || rec.NumRows() != 1 || !rec.Schema().Equal(controlSchema) {
		return c, errors.New("the entry is no control")
	}
	for i, p := range []*string{&c.Action, &c.Node, &c.Digest} {
		*p = strings.Clone(rec.Column(i).(*array.String).Value(0))
	}
	c.From = rec.Column(3).(*array.Uint64).Value(0)
	return c, nil
}
