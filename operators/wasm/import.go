package wasm

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"unicode/utf8"

	"github.com/apache/arrow/go/v17/arrow"
	"github.com/apache/arrow/go/v17/arrow/array"
	"github.com/apache/arrow/go/v17/arrow/bitutil"
	"github.com/apache/arrow/go/v17/arrow/memory"

	"github.com/penstock/penstock/pipeline"
)

// importer copies a guest's record out. It believes nothing: a pointer, length
// or index that is out of bounds is an error, and no error leaves memory
// behind.
type importer struct {
	alloc memory.Allocator
	cols  []Column
	mem   view
	// maxRows and maxBytes bound what one call may hand out.
	maxRows  int64
	maxBytes uint64
	// left is how many bytes may still be copied out of this call: columns
	// may overlap in the guest, so its memory is no bound for their sum.
	left   uint64
	out    []arrow.Array
	tags   map[string]struct{} // of the column at hand
	begins []int64             // of its runs
	tagLimit
}

// anyRows as the expected number of rows takes what comes.
const anyRows = -1

// read copies out the record at ptr and returns its columns, which the caller
// owns, in a slice that the next read overwrites, and its number of rows.
func (im *importer) read(mem view, ptr uint32, rows int64) ([]arrow.Array, int64, error) {
	im.mem, im.left, im.out = mem, min(uint64(len(mem)), im.maxBytes), im.out[:0]
	n, err := im.record(ptr, rows)
	if err != nil {
		for _, a := range im.out {
			a.Release()
		}
		im.out = im.out[:0]
		return nil, 0, err
	}
	return im.out, n, nil
}

func (im *importer) record(ptr uint32, rows int64) (int64, error) {
	root, err := im.mem.array(ptr)
	if err != nil {
		return 0, fmt.Errorf("output record: %w", err)
	}
	if rows != anyRows && root.length != rows {
		return 0, fmt.Errorf("output record: %d rows for %d input rows", root.length, rows)
	}
	if rows == anyRows && root.length > im.maxRows {
		return 0, fmt.Errorf("output record: %d rows, the limit is %d (max_output_rows)", root.length, im.maxRows)
	}
	if rows == anyRows && root.length == 0 && root.nChildren == 0 {
		return 0, nil
	}
	if root.nChildren != int64(len(im.cols)) {
		return 0, fmt.Errorf("output record: %d columns, the manifest has %d", root.nChildren, len(im.cols))
	}
	if root.offset != 0 || root.nulls > 0 {
		return 0, errors.New("output record: it has an offset or nulls of its own")
	}
	for i := range im.cols {
		at, err := im.mem.ptr(root.children, i)
		if err == nil {
			var a arrow.Array
			if a, err = im.column(at, &im.cols[i], root.length); err == nil {
				im.out = append(im.out, a)
			}
		}
		if err != nil {
			return 0, fmt.Errorf("output column %q: %w", im.cols[i].Name, err)
		}
	}
	return root.length, im.checkOrder()
}

// checkOrder checks that each tag's rows are in time order.
func (im *importer) checkOrder() error {
	tag := slices.IndexFunc(im.cols, func(c Column) bool { return c.Type == "tag" })
	at := slices.IndexFunc(im.cols, func(c Column) bool { return c.Type == "timestamp" && c.Name == pipeline.NameTime })
	if tag < 0 || at < 0 {
		return nil
	}
	run := im.out[tag].(*array.Dictionary).Indices().(*array.Int32).Int32Values()
	t := im.out[at].(*array.Timestamp).TimestampValues()
	for i := 1; i < len(t) && i < len(run); i++ {
		if t[i] < t[i-1] && run[i] == run[i-1] {
			return fmt.Errorf("output record: row %d is older than the one before it, of the same tag", i)
		}
	}
	return nil
}

func (im *importer) column(ptr uint32, c *Column, rows int64) (arrow.Array, error) {
	a, err := im.mem.array(ptr)
	if err != nil {
		return nil, err
	}
	if a.length != rows {
		return nil, fmt.Errorf("it has %d rows, the record has %d", a.length, rows)
	}
	typ := columnTypes[c.Type]
	if typ.format != "i" {
		data, err := im.data(a, typ.arrow, typ.width, c.Nullable)
		if err != nil {
			return nil, err
		}
		defer data.Release()
		return array.MakeFromData(data), nil
	}
	return im.tagColumn(a, typ)
}

// data copies the buffers of an array that has no children.
func (im *importer) data(a guestArray, dt arrow.DataType, width int, nullable bool) (*array.Data, error) {
	want := int64(2)
	if width < 0 {
		want = 3
	}
	if a.nChildren != 0 || a.nBuffers != want {
		return nil, fmt.Errorf("%d buffers and %d children, want %d and 0", a.nBuffers, a.nChildren, want)
	}
	var ptrs [3]uint32
	for i := range want {
		p, err := im.mem.ptr(a.buffers, int(i))
		if err != nil {
			return nil, err
		}
		ptrs[i] = p
	}
	var bufs [3]*memory.Buffer
	defer func() {
		for _, b := range bufs {
			if b != nil {
				b.Release()
			}
		}
	}()
	valid, nulls, err := im.validity(a, ptrs[0], nullable)
	if err != nil {
		return nil, err
	}
	bufs[0] = valid
	rows, off := uint64(a.length), uint64(a.offset)
	switch {
	case width < 0:
		if bufs[1], bufs[2], err = im.texts(ptrs[1], ptrs[2], rows, off); err != nil {
			return nil, err
		}
	case width == 0:
		if bufs[1], err = im.bits(ptrs[1], rows, off); err != nil {
			return nil, err
		}
	default:
		w := uint64(width)
		if bufs[1], err = im.fixed(ptrs[1], off*w, rows*w); err != nil {
			return nil, err
		}
		if dt.ID() == arrow.FLOAT64 {
			canonicalNaN(arrow.Float64Traits.CastFromBytes(bufs[1].Bytes()))
		}
	}
	return array.NewData(dt, int(a.length), bufs[:want], nil, nulls, 0), nil
}

// canonicalNaN gives every NaN the same bits: engines differ in them.
func canonicalNaN(v []float64) {
	nan := math.NaN()
	for i, x := range v {
		if x != x {
			v[i] = nan
		}
	}
}

func (im *importer) take(n uint64) (*memory.Buffer, error) {
	if n > im.left {
		return nil, fmt.Errorf("the columns together are larger than the guest's memory or %d bytes (max_output_bytes)", im.maxBytes)
	}
	im.left -= n
	b := memory.NewResizableBuffer(im.alloc)
	b.Resize(int(n))
	return b, nil
}

// fixed copies n bytes that lie skip bytes after ptr.
func (im *importer) fixed(ptr uint32, skip, n uint64) (*memory.Buffer, error) {
	src, err := im.mem.bytes(ptr, skip+n)
	if err != nil {
		return nil, err
	}
	b, err := im.take(n)
	if err != nil {
		return nil, err
	}
	copy(b.Bytes(), src[skip:])
	return b, nil
}

// bits copies n bits that begin off bits after ptr.
func (im *importer) bits(ptr uint32, n, off uint64) (*memory.Buffer, error) {
	src, err := im.mem.bytes(ptr, (off+n+7)/8)
	if err != nil {
		return nil, err
	}
	b, err := im.take((n + 7) / 8)
	if err != nil {
		return nil, err
	}
	clear(b.Bytes())
	if n > 0 {
		bitutil.CopyBitmap(src, int(off), int(n), b.Bytes(), 0)
	}
	return b, nil
}

// validity returns nil when no row is null. The guest's null_count must be -1
// or right.
func (im *importer) validity(a guestArray, ptr uint32, nullable bool) (*memory.Buffer, int, error) {
	if ptr == 0 {
		if a.nulls > 0 {
			return nil, 0, fmt.Errorf("null_count is %d, but there is no validity bitmap", a.nulls)
		}
		return nil, 0, nil
	}
	b, err := im.bits(ptr, uint64(a.length), uint64(a.offset))
	if err != nil {
		return nil, 0, err
	}
	nulls := int(a.length) - bitutil.CountSetBits(b.Bytes(), 0, int(a.length))
	switch {
	case a.nulls >= 0 && int(a.nulls) != nulls:
		err = fmt.Errorf("null_count is %d, the validity bitmap has %d nulls", a.nulls, nulls)
	case nulls > 0 && !nullable:
		err = fmt.Errorf("%d nulls in a column that the manifest calls not nullable", nulls)
	case nulls > 0:
		return b, nulls, nil
	}
	b.Release()
	return nil, 0, err
}

// texts copies offsets, rebased to 0, and the bytes they span.
func (im *importer) texts(offPtr, bytePtr uint32, n, off uint64) (offs, text *memory.Buffer, err error) {
	if n == 0 {
		if offs, err = im.take(4); err == nil {
			clear(offs.Bytes())
			text, err = im.take(0)
		}
		return offs, text, err
	}
	if offs, err = im.fixed(offPtr, 4*off, 4*(n+1)); err != nil {
		return nil, nil, err
	}
	o := arrow.Int32Traits.CastFromBytes(offs.Bytes())
	first, last := o[0], o[n]
	prev := first
	for _, v := range o {
		if v < prev || v < 0 {
			return offs, nil, fmt.Errorf("text offset %d comes after %d", v, prev)
		}
		prev = v
	}
	if text, err = im.fixed(bytePtr, uint64(first), uint64(last-first)); err != nil {
		return offs, nil, err
	}
	b := text.Bytes()
	for i := range o {
		o[i] -= first
	}
	if !utf8.Valid(b) {
		return offs, text, errors.New("a text is not UTF-8")
	}
	for _, v := range o {
		if int(v) < len(b) && !utf8.RuneStart(b[v]) {
			return offs, text, errors.New("a text is not UTF-8: it begins inside a character")
		}
	}
	return offs, text, nil
}

// tagColumn copies a dictionary column and checks what every operator may rely
// on: grouped by tag, and the index is the number of the run.
func (im *importer) tagColumn(a guestArray, typ columnType) (arrow.Array, error) {
	if a.dictionary == 0 {
		return nil, errors.New("it has no dictionary")
	}
	d, err := im.mem.array(a.dictionary)
	if err != nil {
		return nil, fmt.Errorf("dictionary: %w", err)
	}
	idx, err := im.data(a, arrow.PrimitiveTypes.Int32, 4, false)
	if err != nil {
		return nil, err
	}
	defer idx.Release()
	run := int32(-1)
	im.begins = im.begins[:0]
	for i, v := range arrow.Int32Traits.CastFromBytes(idx.Buffers()[1].Bytes()) {
		if v != run || run < 0 { // before the first row, run is itself what a guest may write
			if run++; v != run {
				return nil, fmt.Errorf("row %d has index %d, want %d: the index is the number of the run", i, v, run)
			}
			im.begins = append(im.begins, int64(i))
		}
	}
	if int64(run)+1 != d.length {
		return nil, fmt.Errorf("the dictionary has %d tags for %d runs", d.length, run+1)
	}
	dict, err := im.data(d, arrow.BinaryTypes.String, -1, false)
	if err != nil {
		return nil, fmt.Errorf("dictionary: %w", err)
	}
	defer dict.Release()
	names := array.NewStringData(dict)
	defer names.Release()
	if im.tags == nil {
		im.tags = map[string]struct{}{}
	}
	defer clear(im.tags)
	for i := range names.Len() {
		name := names.Value(i)
		if len(name) > maxTag {
			return nil, fmt.Errorf("a tag has %d bytes, the limit is %d", len(name), maxTag)
		}
		if _, twice := im.tags[name]; twice {
			return nil, errors.New("the dictionary has a tag twice")
		}
		im.tags[name] = struct{}{}
	}
	if err := im.count(names, im.tags); err != nil {
		return nil, err
	}
	// Sinks write the name with each row.
	written, end := uint64(0), a.length
	for run := len(im.begins) - 1; run >= 0; run-- {
		written += uint64(names.ValueLen(run)) * uint64(end-im.begins[run])
		if end = im.begins[run]; written > im.maxBytes {
			return nil, fmt.Errorf("the rows' tags are together longer than %d bytes (max_output_bytes)", im.maxBytes)
		}
	}
	data := array.NewDataWithDictionary(typ.arrow, int(a.length), idx.Buffers(), 0, 0, dict)
	defer data.Release()
	return array.NewDictionaryData(data), nil
}

// readSchema checks what a bind call left at ptr against the manifest.
func readSchema(mem view, ptr uint32, cols []Column) error {
	format, _, _, children, n, err := mem.schema(ptr)
	if err != nil {
		return fmt.Errorf("output schema: %w", err)
	}
	if format != "+s" || n != int64(len(cols)) {
		return fmt.Errorf("output schema: format %q with %d columns, want \"+s\" with %d as in the manifest", format, n, len(cols))
	}
	for i, c := range cols {
		at, err := mem.ptr(children, i)
		if err != nil {
			return fmt.Errorf("output schema: column %d: %w", i, err)
		}
		format, name, flags, _, _, err := mem.schema(at)
		if err != nil {
			return fmt.Errorf("output schema: column %d: %w", i, err)
		}
		if want := columnTypes[c.Type].format; name != c.Name || format != want {
			return fmt.Errorf("output schema: column %d is %q of format %q, the manifest has %q of %q (%s)", i, name, format, c.Name, want, c.Type)
		}
		if flags&flagNullable != 0 && !c.Nullable {
			return fmt.Errorf("output schema: column %q is nullable, in the manifest it is not", c.Name)
		}
	}
	return nil
}

func (v view) schema(ptr uint32) (format, name string, flags uint64, children uint32, n int64, err error) {
	b, err := v.bytes(ptr, schemaSize)
	if err != nil {
		return
	}
	m := image{b: b}
	if format, err = v.cstring(m.get32(schemaFormat), 64); err != nil {
		return
	}
	if p := m.get32(schemaName); p != 0 {
		if name, err = v.cstring(p, 256); err != nil {
			return
		}
	}
	return format, name, m.get64(schemaFlags), m.get32(schemaChildren), int64(m.get64(schemaNChildren)), nil
}
