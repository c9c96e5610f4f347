package pipeline

import (
	"fmt"

	"github.com/apache/arrow/go/v17/arrow"
	"github.com/apache/arrow/go/v17/arrow/array"
)

// Batch is what a source hands to the journal: readings of one shard, grouped
// by tag, each tag's rows contiguous and in time order. The holder owns Record.
type Batch struct {
	Source string
	Shard  int
	Record arrow.Record // schema Readings
	// More says that the next batches hold readings of the same time, for other
	// shards: until they are in the journal, time has not come further there.
	More bool
}

// Tick is a source's promise that it will send nothing older than Watermark
// (ns since 1970): an idle source lets time go on with it. Ticks are journaled
// like batches, so that a replay closes the same windows.
type Tick struct {
	Source    string
	Watermark arrow.Timestamp
	Idle      bool // the source is idle and does not hold the watermark back
}

// Run is the rows [Start, End) of a record that have one tag.
type Run struct {
	Tag        string
	Start, End int
}

// Runs appends to dst the tag runs of column col of rec, which must be of
// [TagType] and grouped by tag, and returns the result. It allocates nothing
// but dst; the tag strings alias the record's memory and live as long as it.
func Runs(dst []Run, rec arrow.Record, col int) ([]Run, error) {
	d, ok := rec.Column(col).(*array.Dictionary)
	if !ok {
		return dst, fmt.Errorf("column %q is %s, want %s", rec.ColumnName(col), rec.Column(col).DataType(), TagType)
	}
	names, ok := d.Dictionary().(*array.String)
	idx, ok2 := d.Indices().(*array.Int32)
	if !ok || !ok2 {
		return dst, fmt.Errorf("column %q is %s, want %s", rec.ColumnName(col), d.DataType(), TagType)
	}
	v := idx.Int32Values()
	for i := 0; i < len(v); {
		j := i + 1
		for j < len(v) && v[j] == v[i] {
			j++
		}
		dst = append(dst, Run{Tag: names.Value(int(v[i])), Start: i, End: j})
		i = j
	}
	return dst, nil
}

// Column returns the position of the column called name, or -1.
func Column(s *arrow.Schema, name string) int {
	ix := s.FieldIndices(name)
	if len(ix) == 0 {
		return -1
	}
	return ix[0]
}
