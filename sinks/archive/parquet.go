package archive

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/apache/arrow/go/v17/arrow"
	"github.com/apache/arrow/go/v17/arrow/array"
	"github.com/apache/arrow/go/v17/arrow/memory"
	"github.com/apache/arrow/go/v17/parquet"
	"github.com/apache/arrow/go/v17/parquet/pqarrow"
)

// rowGroup bounds the rows that writing a file holds in memory.
const rowGroup = 128 << 10

// writeParquet makes the spool's rows one Parquet file at path: written beside
// the spool, brought to the disk, then renamed. It returns how many rows are in it.
func (s *spool) writeParquet(path string, cfg *Config, mem memory.Allocator) (rows int64, err error) {
	tmp := s.path + ".tmp"
	f, err := os.Create(tmp)
	if err != nil {
		return 0, err
	}
	defer func() {
		if err != nil {
			_ = os.Remove(tmp)
		}
	}()
	schema := plain(s.schema)
	props := []parquet.WriterProperty{
		parquet.WithAllocator(mem), parquet.WithVersion(parquet.V2_LATEST), parquet.WithCompression(codecs[cfg.Compression]),
		parquet.WithMaxRowGroupLength(rowGroup), parquet.WithCreatedBy("penstock"),
		// The library's default, Repeated, makes readers that count the root's
		// level, such as hyparquet, look for levels that are not there.
		parquet.WithRootRepetition(parquet.Repetitions.Required),
	}
	for _, field := range schema.Fields() {
		if field.Type.ID() == arrow.TIMESTAMP { // nearly all different, a small step apart
			props = append(props, parquet.WithDictionaryFor(field.Name, false), parquet.WithEncodingFor(field.Name, parquet.Encodings.DeltaBinaryPacked))
		}
	}
	arrowProps := []pqarrow.WriterOption{pqarrow.WithAllocator(mem)}
	if cfg.TimeUnit == "us" {
		arrowProps = append(arrowProps, pqarrow.WithCoerceTimestamps(arrow.Microsecond), pqarrow.WithTruncatedTimestamps(true))
	}
	w, err := pqarrow.NewFileWriter(schema, keepOpen{f}, parquet.NewWriterProperties(props...), pqarrow.NewArrowWriterProperties(arrowProps...))
	if err != nil {
		return 0, errors.Join(err, f.Close())
	}
	first := true
	_, err = s.frames(func(data []byte, _ uint64) error {
		if first {
			first = false
			return nil
		}
		return decode(data, mem, func(rec arrow.Record) error {
			out, err := flatten(rec, schema, mem)
			if err != nil {
				return err
			}
			defer out.Release()
			return w.WriteBuffered(out)
		})
	})
	if err = errors.Join(err, w.Close()); err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return 0, err
	}
	if err = os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return 0, err
	}
	if err = os.Rename(tmp, path); err != nil {
		return 0, err
	}
	return int64(w.NumRows()), syncDir(filepath.Dir(path))
}

// keepOpen hides Close: the Parquet writer would close the file before it is
// synced.
type keepOpen struct{ f *os.File }

func (k keepOpen) Write(p []byte) (int, error) { return k.f.Write(p) }

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// plain returns s with dictionary columns as what they stand for: Parquet has
// dictionaries of its own.
func plain(s *arrow.Schema) *arrow.Schema {
	fields := make([]arrow.Field, s.NumFields())
	for i, f := range s.Fields() {
		if d, ok := f.Type.(*arrow.DictionaryType); ok {
			f.Type = d.ValueType
		}
		fields[i] = f
	}
	md := s.Metadata()
	return arrow.NewSchema(fields, &md)
}

// flatten returns rec with the schema that plain made. The caller owns it.
func flatten(rec arrow.Record, schema *arrow.Schema, mem memory.Allocator) (arrow.Record, error) {
	cols := make([]arrow.Array, rec.NumCols())
	defer func() {
		for _, c := range cols {
			if c != nil {
				c.Release()
			}
		}
	}()
	for i, c := range rec.Columns() {
		d, ok := c.(*array.Dictionary)
		if !ok {
			c.Retain()
			cols[i] = c
			continue
		}
		values, ok := d.Dictionary().(*array.String)
		if !ok {
			return nil, fmt.Errorf("column %q is %s: only dictionaries of strings can be archived", rec.ColumnName(i), d.DataType())
		}
		b := array.NewStringBuilder(mem)
		b.Reserve(d.Len())
		for row := range d.Len() {
			if d.IsNull(row) {
				b.AppendNull()
			} else {
				b.Append(values.Value(d.GetValueIndex(row)))
			}
		}
		cols[i] = b.NewArray()
		b.Release()
	}
	return array.NewRecord(schema, cols, rec.NumRows()), nil
}
