package replay

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"math"
	"os"

	"github.com/apache/arrow/go/v17/arrow"
	"github.com/apache/arrow/go/v17/arrow/array"
	"github.com/apache/arrow/go/v17/arrow/ipc"
	"github.com/apache/arrow/go/v17/parquet/file"
	"github.com/apache/arrow/go/v17/parquet/pqarrow"

	"github.com/penstock/penstock/ingest"
)

// arrowFile reads a file that comes as Arrow records.
type arrowFile struct {
	s    *Source
	name string
	layout
	next  func() (arrow.Record, error) // owned by the caller; io.EOF at the end
	stop  func() error
	rec   arrow.Record // being read
	row   int
	total int // rows of earlier records
	cells []cells
	tags  tagColumn
}

func openArrow(s *Source, name string) (_ reader, err error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	a := &arrowFile{s: s, name: name, stop: f.Close}
	defer a.guard(&err)
	// A file is a stream between a magic word and an index. Read as a stream it
	// may replace dictionaries, and the library forgets no memory.
	magic := make([]byte, 8)
	if _, err := io.ReadFull(f, magic); err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	if string(magic[:6]) != "ARROW1" {
		if _, err := f.Seek(0, io.SeekStart); err != nil {
			return nil, err
		}
	}
	r, err := ipc.NewReader(bufio.NewReaderSize(f, 64<<10), ipc.WithAllocator(s.env.Alloc))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	a.next = func() (arrow.Record, error) {
		if !r.Next() {
			if err := r.Err(); err != nil {
				return nil, err
			}
			return nil, io.EOF
		}
		rec := r.Record()
		rec.Retain()
		return rec, nil
	}
	a.stop = func() error { r.Release(); return f.Close() }
	return a.bind(r.Schema())
}

func openParquet(ctx context.Context, s *Source, name string) (_ reader, err error) {
	a := &arrowFile{s: s, name: name, stop: func() error { return nil }}
	defer a.guard(&err)
	pf, err := file.OpenParquetFile(name, false)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	a.stop = pf.Close
	fr, err := pqarrow.NewFileReader(pf, pqarrow.ArrowReadProperties{BatchSize: chunkRows}, s.env.Alloc)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	rr, err := fr.GetRecordReader(ctx, nil, nil)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	a.next = func() (arrow.Record, error) {
		rec, err := rr.Read()
		if err == nil && rec == nil {
			err = io.EOF
		}
		if err != nil {
			return nil, err
		}
		rec.Retain()
		return rec, nil
	}
	a.stop = func() error { rr.Release(); return pf.Close() }
	return a.bind(rr.Schema())
}

// guard closes the file when opening it failed, and turns a panic of the
// library over a damaged file into an error.
func (a *arrowFile) guard(err *error) {
	if p := recover(); p != nil {
		*err = fmt.Errorf("%s is damaged: %v", a.name, p)
	}
	if *err != nil {
		a.close()
	}
}

// bind finds the columns and checks their types.
func (a *arrowFile) bind(schema *arrow.Schema) (reader, error) {
	names := make([]string, schema.NumFields())
	for i, f := range schema.Fields() {
		names[i] = f.Name
	}
	var err error
	if a.layout, err = a.s.layoutOf(a.name, names); err != nil {
		return nil, err
	}
	a.cells = make([]cells, len(names))
	return a, nil
}

func (a *arrowFile) close() error {
	if a.rec != nil {
		a.rec.Release()
		a.rec = nil
	}
	return a.stop()
}

func (a *arrowFile) read(out *chunk) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("%s is damaged: %v", a.name, p)
		}
	}()
	for out.len() < chunkRows && a.s.badRows <= a.s.cfg.MaxBadRows {
		if a.rec == nil {
			if a.rec, err = a.next(); err != nil {
				a.rec = nil
				return err
			}
			if err := a.load(); err != nil {
				return err
			}
			a.row = 0
		}
		end := min(a.row+chunkRows, int(a.rec.NumRows()))
		for ; a.row < end; a.row++ {
			a.one(out, a.row)
		}
		if a.row == int(a.rec.NumRows()) {
			a.total += a.row
			a.rec.Release()
			a.rec = nil
		}
	}
	return nil
}

// load converts the columns that are needed of a new record.
func (a *arrowFile) load() error {
	get := func(i int) error {
		if i < 0 {
			return nil
		}
		var err error
		if i == a.time {
			err = a.cells[i].times(a.rec.Column(i), a.s.clock)
		} else {
			err = a.cells[i].values(a.rec.Column(i))
		}
		if err != nil {
			return fmt.Errorf("%s: column %q: %w", a.name, a.rec.ColumnName(i), err)
		}
		return nil
	}
	for _, i := range []int{a.time, a.value, a.text, a.quality} {
		if err := get(i); err != nil {
			return err
		}
	}
	for _, w := range a.wide {
		if err := get(w.index); err != nil {
			return err
		}
	}
	if a.tag >= 0 {
		if err := a.tags.load(a.rec.Column(a.tag), a.s.batcher); err != nil {
			return fmt.Errorf("%s: column %q: %w", a.name, a.rec.ColumnName(a.tag), err)
		}
	}
	return nil
}

// bad reports a row; its line is its number in the file, from 1.
func (a *arrowFile) bad(row, column int, problem string) {
	a.s.bad(a.name, a.total+row+1, column+1, problem)
}

func (a *arrowFile) one(out *chunk, row int) {
	tc := &a.cells[a.time]
	if tc.array.IsNull(row) {
		a.bad(row, a.time, "there is no time")
		return
	}
	t := int64(0)
	if tc.text != nil {
		var err error
		if t, err = a.s.clock.parse(tc.text(row)); err != nil {
			a.bad(row, a.time, err.Error())
			return
		}
	} else if t = tc.whole[row]; t == math.MinInt64 {
		a.bad(row, a.time, "the time is out of range")
		return
	}
	var q uint32
	if a.quality >= 0 && a.cells[a.quality].array.IsValid(row) {
		qc := &a.cells[a.quality]
		if qc.text != nil {
			var err error
			if q, err = quality(qc.text(row)); err != nil {
				a.bad(row, a.quality, err.Error())
				return
			}
		} else if v := qc.number[row]; v >= 0 && v <= math.MaxUint32 {
			q = uint32(v)
		} else {
			a.bad(row, a.quality, fmt.Sprintf("%v is not a status code", v))
			return
		}
	}
	if a.wide != nil {
		for _, w := range a.wide {
			if c := &a.cells[w.index]; c.array.IsValid(row) {
				c.add(out, w.tag, t, row, q)
			}
		}
		return
	}
	tag := a.constant
	if a.tag >= 0 {
		var ok bool
		if tag, ok = a.tags.at(row); !ok {
			a.bad(row, a.tag, "the tag is empty")
			return
		}
	}
	for _, i := range [2]int{a.value, a.text} {
		if i >= 0 && a.cells[i].array.IsValid(row) {
			a.cells[i].add(out, tag, t, row, q)
			return
		}
	}
	out.add(tag, t, isNull, 0, "", q)
}

// tagColumn maps the tags of one record to their numbers.
type tagColumn struct {
	array arrow.Array
	index []ingest.TagID // of a dictionary's entries, or of the rows
	dict  *array.Dictionary
}

func (c *tagColumn) load(a arrow.Array, b *ingest.Batcher) error {
	c.array, c.dict, c.index = a, nil, c.index[:0]
	names := a
	if d, ok := a.(*array.Dictionary); ok {
		c.dict, names = d, d.Dictionary()
	}
	text := textOf(names)
	if text == nil {
		return fmt.Errorf("is %s, not text", a.DataType())
	}
	last, id := "", ingest.NoTag
	for i := range names.Len() {
		switch {
		case names.IsNull(i) || text(i) == "":
			c.index = append(c.index, noName)
			continue
		case text(i) != last || id == ingest.NoTag:
			last = text(i)
			id = b.Tag(last)
		}
		c.index = append(c.index, id)
	}
	return nil
}

// noName marks an empty tag; NoTag is one beyond the limit of tags.
const noName ingest.TagID = -2

func (c *tagColumn) at(row int) (ingest.TagID, bool) {
	if c.array.IsNull(row) {
		return 0, false
	}
	if c.dict != nil {
		row = c.dict.GetValueIndex(row)
	}
	return c.index[row], c.index[row] != noName
}
