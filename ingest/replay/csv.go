package replay

import (
	"bufio"
	"compress/gzip"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/penstock/penstock/ingest"
)

// csvFile reads a CSV file whose first line names the columns. The csv reader
// of Go's library, unlike Arrow's, tells where a bad cell is and goes on after
// it.
type csvFile struct {
	s    *Source
	name string
	file *os.File
	gz   *gzip.Reader
	csv  *csv.Reader
	layout

	columns int
	lastTag string // of the row before: rows of one tag often stand together
	lastID  ingest.TagID
}

func openCSV(s *Source, name string) (_ reader, err error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	c := &csvFile{s: s, name: name, file: f, lastID: ingest.NoTag}
	defer func() {
		if err != nil {
			c.close()
		}
	}()
	var in io.Reader = f
	if strings.HasSuffix(name, ".gz") {
		if c.gz, err = gzip.NewReader(f); err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		in = c.gz
	}
	buf := bufio.NewReaderSize(in, 64<<10)
	if bom, _ := buf.Peek(3); string(bom) == "\uFEFF" {
		buf.Discard(3)
	}
	c.csv = csv.NewReader(buf)
	c.csv.ReuseRecord, c.csv.FieldsPerRecord = true, -1
	c.csv.Comma = []rune(s.cfg.Delimiter)[0]
	if strings.HasSuffix(strings.TrimSuffix(strings.ToLower(name), ".gz"), ".tsv") {
		c.csv.Comma = '\t'
	}
	head, err := c.csv.Read()
	if err != nil {
		return nil, fmt.Errorf("%s: the line with the names of the columns: %w", name, err)
	}
	names := make([]string, len(head))
	for i, n := range head {
		names[i] = strings.Clone(strings.TrimSpace(n))
	}
	c.columns = len(names)
	if c.layout, err = s.layoutOf(name, names); err != nil {
		return nil, err
	}
	return c, nil
}

func (c *csvFile) close() error {
	var err error
	if c.gz != nil {
		err = c.gz.Close()
	}
	return errors.Join(err, c.file.Close())
}

func (c *csvFile) read(out *chunk) error {
	for out.len() < chunkRows {
		rec, err := c.csv.Read()
		var bad *csv.ParseError
		switch {
		case errors.As(err, &bad):
			c.s.bad(c.name, bad.Line, bad.Column, bad.Err.Error())
			if c.s.badRows > c.s.cfg.MaxBadRows {
				return nil
			}
			continue
		case err != nil:
			return err
		case len(rec) != c.columns:
			c.bad(len(rec)-1, fmt.Sprintf("the row has %d fields, the head has %d", len(rec), c.columns))
		default:
			c.row(out, rec)
		}
		if c.s.badRows > c.s.cfg.MaxBadRows {
			return nil
		}
	}
	return nil
}

// bad reports the cell of the newest row that cannot be read.
func (c *csvFile) bad(field int, problem string) {
	line, column := c.csv.FieldPos(field)
	c.s.bad(c.name, line, column, problem)
}

func (c *csvFile) row(out *chunk, rec []string) {
	t, err := c.s.clock.parse(rec[c.time])
	if err != nil {
		c.bad(c.time, err.Error())
		return
	}
	var q uint32
	if c.quality >= 0 {
		if q, err = quality(strings.TrimSpace(rec[c.quality])); err != nil {
			c.bad(c.quality, err.Error())
			return
		}
	}
	if c.wide != nil {
		for i := range c.wide {
			c.cell(out, &c.wide[i], t, rec[c.wide[i].index], q)
		}
		return
	}
	tag := c.constant
	if c.tag >= 0 {
		name := rec[c.tag]
		if name == "" {
			c.bad(c.tag, "the tag is empty")
			return
		}
		if name != c.lastTag {
			c.lastTag = strings.Clone(name)
			c.lastID = c.s.batcher.Tag(c.lastTag)
		}
		tag = c.lastID
	}
	if c.value >= 0 {
		if cell := strings.TrimSpace(rec[c.value]); !isEmpty(cell) {
			v, ok := value(cell)
			if !ok {
				c.bad(c.value, clip(cell)+" is not a number")
				return
			}
			out.add(tag, t, isNumber, v, "", q)
			return
		}
	}
	if c.text >= 0 && rec[c.text] != "" {
		out.add(tag, t, isText, 0, rec[c.text], q)
		return
	}
	out.add(tag, t, isNull, 0, "", q)
}

// cell reads one cell of a wide row. An empty one is no reading. The first
// cell with something in it says whether the column holds numbers or text.
func (c *csvFile) cell(out *chunk, w *wideColumn, t int64, cell string, q uint32) {
	cell = strings.TrimSpace(cell)
	if isEmpty(cell) {
		return
	}
	v, ok := value(cell)
	if w.kind == isNull {
		if w.kind = isText; ok {
			w.kind = isNumber
		}
	}
	switch {
	case w.kind == isText:
		out.add(w.tag, t, isText, 0, cell, q)
	case ok:
		out.add(w.tag, t, isNumber, v, "", q)
	default:
		c.bad(w.index, clip(cell)+" is not a number")
	}
}
