package influxdb

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/apache/arrow/go/v17/arrow"
	"github.com/apache/arrow/go/v17/arrow/array"
	"github.com/apache/arrow/go/v17/arrow/bitutil"

	"github.com/penstock/penstock/pipeline"
)

// encoder turns records into lines: buf holds them, ends where each stops.
//
// A line is the series' prefix, which lineprotocol.Encoder made once, then
// fields appended in place: the Encoder scans every key of every row for
// characters to escape, which costs more than the rest of the line together.
type encoder struct {
	fields []string
	series *series
	bound  map[string]*binding // by node
	runs   []pipeline.Run

	buf  []byte
	ends []int

	nonFinite int // NaN and infinite values left out: InfluxDB has none
	noFields  int // rows left out because no field of theirs has a value
	outside   int // unsigned integers beyond int64 left out
	unfit     func(node, column string, t arrow.DataType)
}

// binding is how records of one schema become lines.
type binding struct {
	schema  *arrow.Schema
	time    int
	key     int // the dictionary column whose runs are series, or -1
	quality int // column of severity, or -1
	cols    []column
}

type kind uint8

const (
	kindFloat kind = iota
	kindInt
	kindBool
	kindString
	kindDictionary
)

// column is one field: which column, how it is written, and the values of the
// record at hand.
type column struct {
	index int
	kind  kind
	key   []byte

	nulls    []byte // validity bitmap, nil when no row is null
	offset   int
	floats   []float64
	ints     []int64
	unsigned bool
	bools    *array.Boolean
	text     *array.String
	dict     *array.Dictionary

	floatScratch []float64
	intScratch   []int64
}

// reset forgets the lines. A buffer that a failed request may still be
// reading is left to it.
func (e *encoder) reset(abandon bool) {
	if abandon || cap(e.buf) > 16<<20 {
		e.buf = nil
	}
	e.buf, e.ends = e.buf[:0], e.ends[:0]
}

// append encodes all rows of rec.
func (e *encoder) append(rec arrow.Record) error {
	node := pipeline.Node(rec.Schema())
	b, err := e.bind(node, rec.Schema())
	if err != nil {
		return err
	}
	n := int(rec.NumRows())
	if b.key >= 0 {
		if e.runs, err = pipeline.Runs(e.runs[:0], rec, b.key); err != nil {
			return err
		}
	} else {
		e.runs = append(e.runs[:0], pipeline.Run{End: n})
	}
	for i := range b.cols {
		b.cols[i].load(rec.Column(b.cols[i].index))
	}
	defer b.release()
	times := rec.Column(b.time).(*array.Timestamp)
	if times.NullN() > 0 {
		return fmt.Errorf("column %q has %d nulls: a point needs a time", pipeline.NameTime, times.NullN())
	}
	var quality []uint32
	if b.quality >= 0 {
		quality = rec.Column(b.quality).(*array.Uint32).Uint32Values()
	}
	known := e.series.node(node)
	for _, run := range e.runs {
		p, err := e.series.of(known, node, run.Tag)
		if err != nil {
			return fmt.Errorf("tag %q: %w", run.Tag, err)
		}
		e.rows(b.cols, times.TimestampValues(), quality, run, &p)
	}
	return nil
}

func (e *encoder) rows(cols []column, times []arrow.Timestamp, quality []uint32, run pipeline.Run, p *prefixes) {
	buf := e.buf
	prefix := p[0]
	for i := run.Start; i < run.End; i++ {
		if quality != nil {
			prefix = p[min(quality[i]>>30, 2)]
		}
		start := len(buf)
		buf = append(buf, prefix...)
		first := len(buf)
		for c := range cols {
			col := &cols[c]
			if col.nulls != nil && !bitutil.BitIsSet(col.nulls, col.offset+i) {
				continue
			}
			switch col.kind {
			case kindFloat:
				v := col.floats[i]
				if math.IsNaN(v) || math.IsInf(v, 0) {
					e.nonFinite++
					continue
				}
				buf = append(buf, col.key...)
				buf = appendFloat(buf, v)
			case kindInt:
				v := col.ints[i]
				if v < 0 && col.unsigned {
					e.outside++
					continue
				}
				buf = append(buf, col.key...)
				buf = append(strconv.AppendInt(buf, v, 10), 'i')
			case kindBool:
				buf = append(buf, col.key...)
				buf = strconv.AppendBool(buf, col.bools.Value(i))
			case kindString:
				buf = append(buf, col.key...)
				buf = appendString(buf, col.text.Value(i))
			case kindDictionary:
				buf = append(buf, col.key...)
				buf = appendString(buf, col.text.Value(col.dict.GetValueIndex(i)))
			}
			buf = append(buf, ',')
		}
		if len(buf) == first {
			buf = buf[:start]
			e.noFields++
			continue
		}
		buf[len(buf)-1] = ' '
		buf = strconv.AppendInt(buf, int64(times[i]), 10)
		buf = append(buf, '\n')
		e.ends = append(e.ends, len(buf))
	}
	e.buf = buf
}

// appendFloat writes the shortest text that reads back as v. Whole numbers,
// such as flags, counts and set points, are common and have a short way.
func appendFloat(buf []byte, v float64) []byte {
	if n := int64(v); float64(n) == v && n > -1<<53 && n < 1<<53 && n != 0 {
		return strconv.AppendInt(buf, n, 10)
	}
	return strconv.AppendFloat(buf, v, 'g', -1, 64)
}

// appendString writes a quoted string. InfluxDB knows two escapes only, \" and
// \\, and takes line breaks as they are.
func appendString(buf []byte, s string) []byte {
	if !utf8.ValidString(s) {
		s = strings.ToValidUTF8(s, "\uFFFD")
	}
	buf = append(buf, '"')
	for {
		i := strings.IndexAny(s, `"\`)
		if i < 0 {
			break
		}
		buf = append(buf, s[:i]...)
		buf = append(buf, '\\', s[i])
		s = s[i+1:]
	}
	buf = append(buf, s...)
	return append(buf, '"')
}

func (e *encoder) bind(node string, s *arrow.Schema) (*binding, error) {
	if b := e.bound[node]; b != nil && (b.schema == s || b.schema.Equal(s)) {
		return b, nil
	}
	b := &binding{schema: s, time: pipeline.Column(s, pipeline.NameTime), key: -1, quality: -1}
	if b.time < 0 || !arrow.TypeEqual(s.Field(b.time).Type, pipeline.TimeType) {
		return nil, fmt.Errorf("the rows have no column %q of %s", pipeline.NameTime, pipeline.TimeType)
	}
	for _, name := range []string{pipeline.NameTag, "asset"} { // a wide frame's rows are an asset's
		if i := pipeline.Column(s, name); i >= 0 && arrow.TypeEqual(s.Field(i).Type, pipeline.TagType) {
			b.key = i
			break
		}
	}
	if i := pipeline.Column(s, pipeline.NameQuality); i >= 0 && e.series.qualityAt >= 0 && s.Field(i).Type.ID() == arrow.UINT32 {
		b.quality = i
	}
	for i, f := range s.Fields() {
		if i == b.time || i == b.key || slices.Contains(e.series.keys, f.Name) {
			continue // a tag and a field of one name make queries ambiguous
		}
		if len(e.fields) > 0 && !slices.Contains(e.fields, f.Name) || len(e.fields) == 0 && f.Name == pipeline.NameReceived {
			continue
		}
		k, ok := kindOf(f.Type)
		if !ok {
			e.unfit(node, f.Name, f.Type)
			continue
		}
		key, err := fieldKey(f.Name)
		if err != nil {
			return nil, err
		}
		b.cols = append(b.cols, column{index: i, kind: k, key: key})
	}
	if len(b.cols) == 0 {
		return nil, fmt.Errorf("no column of the rows can be stored: they have %v", s.Fields())
	}
	e.bound[node] = b
	return b, nil
}

func kindOf(t arrow.DataType) (kind, bool) {
	switch t.ID() {
	case arrow.FLOAT64, arrow.FLOAT32:
		return kindFloat, true
	case arrow.INT64, arrow.INT32, arrow.INT16, arrow.INT8, arrow.UINT64, arrow.UINT32, arrow.UINT16, arrow.UINT8, arrow.TIMESTAMP:
		return kindInt, true
	case arrow.BOOL:
		return kindBool, true
	case arrow.STRING:
		return kindString, true
	case arrow.DICTIONARY:
		return kindDictionary, t.(*arrow.DictionaryType).ValueType.ID() == arrow.STRING
	}
	return 0, false
}

// load points the column at the values of arr, which is borrowed until release.
func (c *column) load(arr arrow.Array) {
	c.nulls, c.offset = nil, arr.Data().Offset()
	if arr.NullN() > 0 {
		c.nulls = arr.NullBitmapBytes()
	}
	switch a := arr.(type) {
	case *array.Float64:
		c.floats = a.Float64Values()
	case *array.Float32:
		c.floatScratch = widen(c.floatScratch, a.Float32Values())
		c.floats = c.floatScratch
	case *array.Int64:
		c.ints = a.Int64Values()
	case *array.Timestamp:
		c.intScratch = widen(c.intScratch, a.TimestampValues())
		c.ints = c.intScratch
	case *array.Int32:
		c.intScratch = widen(c.intScratch, a.Int32Values())
		c.ints = c.intScratch
	case *array.Int16:
		c.intScratch = widen(c.intScratch, a.Int16Values())
		c.ints = c.intScratch
	case *array.Int8:
		c.intScratch = widen(c.intScratch, a.Int8Values())
		c.ints = c.intScratch
	case *array.Uint64:
		c.intScratch = widen(c.intScratch, a.Uint64Values())
		c.ints, c.unsigned = c.intScratch, true // beyond int64 comes out negative
	case *array.Uint32:
		c.intScratch = widen(c.intScratch, a.Uint32Values())
		c.ints = c.intScratch
	case *array.Uint16:
		c.intScratch = widen(c.intScratch, a.Uint16Values())
		c.ints = c.intScratch
	case *array.Uint8:
		c.intScratch = widen(c.intScratch, a.Uint8Values())
		c.ints = c.intScratch
	case *array.Boolean:
		c.bools = a
	case *array.String:
		c.text = a
	case *array.Dictionary:
		c.dict, c.text = a, a.Dictionary().(*array.String)
	}
}

func widen[D int64 | float64, S int8 | int16 | int32 | uint8 | uint16 | uint32 | uint64 | float32 | arrow.Timestamp](dst []D, src []S) []D {
	dst = slices.Grow(dst[:0], len(src))[:len(src)]
	for i, v := range src {
		dst[i] = D(v)
	}
	return dst
}

// release drops what load borrowed.
func (b *binding) release() {
	for i := range b.cols {
		c := &b.cols[i]
		c.nulls, c.floats, c.ints, c.bools, c.text, c.dict = nil, nil, nil, nil, nil, nil
	}
}
