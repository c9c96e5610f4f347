package console

import (
	"context"
	"fmt"
	"io"
	"os"
	"slices"
	"time"

	"github.com/apache/arrow/go/v17/arrow"
	"github.com/apache/arrow/go/v17/arrow/array"

	"github.com/penstock/penstock/pipeline"
)

// Sink prints rows. Rows beyond the limit are accepted, not printed, and told
// of with the next second's first row, or at Close.
type Sink struct {
	cfg Config
	out io.Writer
	now func() time.Time

	second time.Time // start of the second whose budget is being spent
	left   int       // rows that may still be printed in it
	hidden int       // rows not printed since the last word about them
	buf    []byte
}

var _ pipeline.Sink = (*Sink)(nil)

// New returns a sink that prints to the stream of the config.
func New(cfg Config, _ pipeline.Env) (*Sink, error) {
	s := &Sink{cfg: cfg, out: os.Stdout, now: time.Now}
	if cfg.To == "stderr" {
		s.out = os.Stderr
	}
	return s, nil
}

// Connect does nothing: the stream is there.
func (s *Sink) Connect(context.Context) error { return nil }

// Write prints the rows that the limit allows.
func (s *Sink) Write(_ context.Context, in arrow.Record) error {
	rows := int(in.NumRows())
	show := rows
	s.buf = s.buf[:0]
	if s.cfg.MaxRowsPerSecond > 0 {
		if now := s.now(); now.Sub(s.second) >= time.Second {
			s.second, s.left = now, s.cfg.MaxRowsPerSecond
			s.tellHidden()
		}
		show = min(rows, s.left)
		s.left -= show
		s.hidden += rows - show
	}
	var cols []int
	for i, f := range in.Schema().Fields() {
		if len(s.cfg.Columns) == 0 || slices.Contains(s.cfg.Columns, f.Name) {
			cols = append(cols, i)
		}
	}
	if len(s.cfg.Columns) > 0 {
		slices.SortFunc(cols, func(a, b int) int {
			return slices.Index(s.cfg.Columns, in.ColumnName(a)) - slices.Index(s.cfg.Columns, in.ColumnName(b))
		})
	}
	node := pipeline.Node(in.Schema())
	for row := range show {
		if s.cfg.Format == "json" {
			s.buf = appendJSON(s.buf, node, in, cols, row)
		} else {
			s.buf = appendText(s.buf, node, in, cols, row)
		}
	}
	return s.flush()
}

// tellHidden says how many rows were not printed.
func (s *Sink) tellHidden() {
	if s.hidden == 0 {
		return
	}
	if s.cfg.Format == "json" {
		s.buf = fmt.Appendf(s.buf, `{"not_shown":%d}`+"\n", s.hidden)
	} else {
		s.buf = fmt.Appendf(s.buf, "… %d rows not shown\n", s.hidden)
	}
	s.hidden = 0
}

func (s *Sink) flush() error {
	if len(s.buf) == 0 {
		return nil
	}
	_, err := s.out.Write(s.buf)
	s.buf = s.buf[:0]
	return err
}

// Close tells of rows that were not printed.
func (s *Sink) Close(context.Context) error {
	s.tellHidden()
	return s.flush()
}

// stringAt returns the value of a string column, or of a dictionary of them.
func stringAt(a arrow.Array, row int) (string, bool) {
	switch a := a.(type) {
	case *array.String:
		return a.Value(row), true
	case *array.Dictionary:
		if v, ok := a.Dictionary().(*array.String); ok {
			return v.Value(a.GetValueIndex(row)), true
		}
	}
	return "", false
}
