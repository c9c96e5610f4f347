package wasm

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"strings"
	"time"

	"github.com/apache/arrow/go/v17/arrow"
	"github.com/apache/arrow/go/v17/arrow/array"
	"github.com/apache/arrow/go/v17/arrow/memory"

	"github.com/penstock/penstock/pipeline"
)

// GoldenInput is a stream of batches: made from a seed, or written out. The
// generator is part of the format: the same fields and columns give the same
// rows in every version of Penstock. operators/GOLDEN.md specifies it.
type GoldenInput struct {
	Seed    uint64 `json:"seed,omitempty"`    // of the rows, and of random numbers that the module asks for
	Tags    int    `json:"tags,omitempty"`    // 1 to 256; without a tag column all rows are one run
	Rows    int    `json:"rows,omitempty"`    // of each batch
	Batches int    `json:"batches,omitempty"` // rows times batches is at most 16384
	// Clean leaves out all that is awkward: nulls, NaN, bad quality, irregular
	// times.
	Clean bool `json:"clean,omitempty"`
	// Explicit are the batches themselves, in place of generated ones.
	Explicit []GoldenBatch `json:"explicit,omitempty"`
}

// GoldenBatch is one batch written out. Columns has an array for each input
// column: numbers, true and false, texts, null. A float64 may also be "NaN",
// "-0", "Infinity" and "-Infinity", a timestamp is a whole number of ns since
// 1970 or an RFC 3339 text. Rows are grouped by tag and in time order.
type GoldenBatch struct {
	Columns map[string]json.RawMessage `json:"columns"`
	// Advance is the watermark after the batch, in ns since 1970; null is none.
	Advance *int64 `json:"advance,omitempty"`
}

// Step is a batch, or else a watermark.
type Step struct {
	Batch     arrow.Record
	Watermark int64
}

// ReleaseSteps releases the batches.
func ReleaseSteps(steps []Step) {
	for _, s := range steps {
		if s.Batch != nil {
			s.Batch.Release()
		}
	}
}

func (in *GoldenInput) validate(cols []Column) error {
	if len(in.Explicit) > 0 {
		if in.Tags != 0 || in.Rows != 0 || in.Batches != 0 || in.Clean {
			return errors.New("write either explicit batches or tags, rows and batches")
		}
		steps, err := in.Steps(cols, memory.DefaultAllocator)
		ReleaseSteps(steps)
		return err
	}
	switch {
	case in.Tags < 1 || in.Tags > maxGoldenTags:
		return fmt.Errorf("tags %d: write 1 to %d", in.Tags, maxGoldenTags)
	case in.Rows < 1 || in.Rows > maxGoldenRows || in.Batches < 1 || in.Batches > maxGoldenRows || in.Rows*in.Batches > maxGoldenRows:
		return fmt.Errorf("%d batches of %d rows: write at least 1 of each, at most %d rows in all", in.Batches, in.Rows, maxGoldenRows)
	}
	return nil
}

// Steps makes the batches for a module that takes cols, each followed by a
// watermark. The caller releases them.
func (in *GoldenInput) Steps(cols []Column, alloc memory.Allocator) ([]Step, error) {
	schema := schemaOf(cols)
	if len(in.Explicit) > 0 {
		return in.explicit(cols, schema, alloc)
	}
	g := newGenerator(in, cols)
	var steps []Step
	for b := range in.Batches {
		rb := array.NewRecordBuilder(alloc, schema)
		g.batch(rb, b)
		steps = append(steps, Step{Batch: rb.NewRecord()})
		rb.Release()
		w := g.latest - 2*int64(time.Second)
		if b == in.Batches-1 {
			w = g.latest + int64(time.Hour) // what is open closes
		}
		steps = append(steps, Step{Watermark: w})
	}
	return steps, nil
}

const (
	generatorStart  = 1_700_000_000_000_000_000 // ns since 1970
	generatorStream = 0x70656e73746f636b        // "penstock": PCG's second seed
)

// generator uses nothing but the PCG's 64-bit outputs, and integers until the
// last division by a power of two: no machine rounds anything.
type generator struct {
	in     *GoldenInput
	cols   []Column
	pcg    *rand.PCG
	tags   []generatorTag
	latest int64
}

type generatorTag struct {
	name  string
	time  int64
	level []int64 // of each column, in 1/1024
}

func newGenerator(in *GoldenInput, cols []Column) *generator {
	g := &generator{in: in, cols: cols, pcg: rand.NewPCG(in.Seed, generatorStream), latest: generatorStart}
	tags := 1
	for _, c := range cols {
		if c.Type == "tag" {
			tags = in.Tags
		}
	}
	for i := range tags {
		t := generatorTag{name: tagName(i), time: generatorStart + int64(i)*int64(time.Millisecond), level: make([]int64, len(cols))}
		for c := range cols {
			t.level[c] = 1024 * int64(20+7*(i%16)+c)
		}
		g.tags = append(g.tags, t)
	}
	return g
}

func tagName(i int) string {
	switch i % 4 {
	case 1:
		return fmt.Sprintf("werk1/halle%d/pümpe%d/温度", i%3, i)
	case 2:
		return fmt.Sprintf("🙂%d", i)
	}
	return fmt.Sprintf("plant1/hall%d/pump%d/vibration_x", i%3, i)
}

func (g *generator) below(n uint64) uint64 { return g.pcg.Uint64() % n }

// one is true once in n times, and never for clean input.
func (g *generator) one(n uint64) bool { return !g.in.Clean && g.below(n) == 0 }

// batch appends the b-th batch to rb: tags in an order that changes, some of
// them left out, every fourth with one row, the others with equal shares.
func (g *generator) batch(rb *array.RecordBuilder, b int) {
	var order []int
	for k := range g.tags {
		i := (k + b) % len(g.tags)
		if g.in.Clean || len(g.tags) < 2 || (i+b)%5 != 4 {
			order = append(order, i)
		}
	}
	order = order[:min(len(order), g.in.Rows)]
	rows := make([]int, len(order))
	left, sharing := g.in.Rows, 0
	for k, i := range order {
		rows[k] = 1
		left--
		if i%4 != 3 {
			sharing++
		}
	}
	last := 0
	for k, i := range order {
		if i%4 != 3 && sharing > 0 {
			n := left / sharing
			rows[k], left, sharing, last = rows[k]+n, left-n, sharing-1, k
		}
	}
	rows[last] += left
	for k, i := range order {
		t := &g.tags[i]
		if b > 0 && g.one(8) {
			t.time -= 5 * int64(time.Second) // late rows
		}
		for range rows[k] {
			g.step(t)
			for c := range g.cols {
				g.cell(rb.Field(c), c, t)
			}
		}
	}
}

// step moves a tag's time on.
func (g *generator) step(t *generatorTag) {
	switch {
	case g.in.Clean:
		t.time += int64(time.Second)
	case g.below(16) == 0: // the same time again
	case g.below(64) == 0:
		t.time += int64(g.below(3600)) * int64(time.Second)
	default:
		t.time += 1 + int64(g.below(2_000_000_000))
	}
	g.latest = max(g.latest, t.time)
}

var (
	badQualities = []uint32{pipeline.Bad, pipeline.BadNoData, pipeline.BadSensor, pipeline.BadNoComm}
	sampleTexts  = []string{"", "ok", "ü", "温度", "🙂", "running", "a\nb", strings.Repeat("long text ", 10)}
)

// cell appends a value of column c.
func (g *generator) cell(b array.Builder, c int, t *generatorTag) {
	col := &g.cols[c]
	isTime := col.Type == "timestamp" && col.Name == pipeline.NameTime
	if col.Nullable && !isTime && g.one(16) {
		b.AppendNull()
		return
	}
	switch b := b.(type) {
	case *array.TimestampBuilder:
		if isTime {
			b.Append(arrow.Timestamp(t.time))
			return
		}
		b.Append(arrow.Timestamp(t.time + int64(g.below(1_000_000_000))))
	case *array.BinaryDictionaryBuilder:
		_ = b.AppendString(t.name) // fails for no text
	case *array.Float64Builder:
		b.Append(g.float(&t.level[c]))
	case *array.Uint32Builder:
		b.Append(g.uint32(col.Name == pipeline.NameQuality))
	case *array.StringBuilder:
		b.Append(sampleTexts[g.below(uint64(len(sampleTexts)))])
	case *array.BooleanBuilder:
		b.Append(g.below(2) == 1)
	case *array.Int64Builder:
		switch {
		case g.one(16):
			b.Append(math.MinInt64)
		case g.one(16):
			b.Append(math.MaxInt64)
		default:
			b.Append(int64(g.below(2001)) - 1000)
		}
	}
}

// float is a level that wanders and steps, with noise and spikes; or one of
// the values that arithmetic is afraid of.
func (g *generator) float(level *int64) float64 {
	kind := uint64(math.MaxUint64)
	if !g.in.Clean {
		kind = g.below(128)
	}
	r := g.pcg.Uint64()
	noise := int64(r&1023) + int64(r>>16&1023) + int64(r>>32&1023) + int64(r>>48&1023) - 2046
	*level += int64(r>>10&15) - 7
	switch kind {
	case 0:
		return math.NaN()
	case 1:
		return math.Copysign(0, -1)
	case 2:
		return math.Inf(1)
	case 3:
		return math.Inf(-1)
	case 4:
		return 1e200
	case 5:
		return 0x1p-1074 // the least above 0
	case 6, 7:
		noise += 1 << 20 // a spike
	case 8:
		*level += 16 << 10 // a step
	}
	return float64(*level+noise) / 1024
}

func (g *generator) uint32(quality bool) uint32 {
	switch {
	case !quality:
		return uint32(g.pcg.Uint64())
	case g.one(16):
		return badQualities[g.below(uint64(len(badQualities)))]
	case g.one(16):
		return pipeline.Uncertain | uint32(g.below(1<<20))
	}
	return 0
}

// explicit reads the batches that are written out.
func (in *GoldenInput) explicit(cols []Column, schema *arrow.Schema, alloc memory.Allocator) ([]Step, error) {
	var steps []Step
	rows := 0
	for i := range in.Explicit {
		rec, err := in.Explicit[i].record(cols, schema, alloc)
		if err == nil {
			steps = append(steps, Step{Batch: rec})
			if rows += int(rec.NumRows()); rows > maxGoldenRows {
				err = fmt.Errorf("more than %d rows", maxGoldenRows)
			}
		}
		if err != nil {
			ReleaseSteps(steps)
			return nil, fmt.Errorf("explicit[%d]: %w", i, err)
		}
		if a := in.Explicit[i].Advance; a != nil {
			steps = append(steps, Step{Watermark: *a})
		}
	}
	return steps, nil
}

func (b *GoldenBatch) record(cols []Column, schema *arrow.Schema, alloc memory.Allocator) (arrow.Record, error) {
	if len(b.Columns) != len(cols) {
		return nil, fmt.Errorf("%d columns, the module takes %d", len(b.Columns), len(cols))
	}
	rb := array.NewRecordBuilder(alloc, schema)
	defer rb.Release()
	rows := -1
	for i := range cols {
		text, ok := b.Columns[cols[i].Name]
		if !ok {
			return nil, fmt.Errorf("column %q is missing", cols[i].Name)
		}
		var cells []any
		d := json.NewDecoder(bytes.NewReader(text))
		d.UseNumber()
		if err := d.Decode(&cells); err != nil {
			return nil, fmt.Errorf("column %q is no array: %w", cols[i].Name, err)
		}
		if rows >= 0 && len(cells) != rows {
			return nil, fmt.Errorf("column %q has %d rows, the first one %d", cols[i].Name, len(cells), rows)
		}
		rows = len(cells)
		for row, v := range cells {
			if err := appendCell(rb.Field(i), v, cols[i].Nullable); err != nil {
				return nil, fmt.Errorf("column %q, row %d: %w", cols[i].Name, row, err)
			}
		}
	}
	rec := rb.NewRecord()
	if err := checkGrouped(rec, cols); err != nil {
		rec.Release()
		return nil, err
	}
	return rec, nil
}

// checkGrouped checks that no tag has two runs and each is in time order.
func checkGrouped(rec arrow.Record, cols []Column) error {
	var tags []int32
	var times []arrow.Timestamp
	for i, c := range cols {
		switch a := rec.Column(i).(type) {
		case *array.Dictionary:
			tags = a.Indices().(*array.Int32).Int32Values()
		case *array.Timestamp:
			if c.Name == pipeline.NameTime {
				times = a.TimestampValues()
			}
		}
	}
	for i := 1; i < int(rec.NumRows()); i++ {
		if tags != nil && tags[i] < tags[i-1] {
			return fmt.Errorf("row %d: a tag comes again after another one: group the rows by tag", i)
		}
		if times != nil && times[i] < times[i-1] && (tags == nil || tags[i] == tags[i-1]) {
			return fmt.Errorf("row %d is older than the one before it, of the same tag", i)
		}
	}
	return nil
}

func appendCell(b array.Builder, v any, nullable bool) error {
	if v == nil {
		if !nullable {
			return errors.New("null in a column that is not nullable")
		}
		b.AppendNull()
		return nil
	}
	wrong := func(want string) error { return fmt.Errorf("%v is not %s", v, want) }
	num, isNum := v.(json.Number)
	str, isText := v.(string)
	switch b := b.(type) {
	case *array.TimestampBuilder:
		if t, err := time.Parse(time.RFC3339Nano, str); isText && err == nil {
			b.Append(arrow.Timestamp(t.UnixNano()))
			return nil
		}
		n, err := num.Int64()
		if !isNum || err != nil {
			return wrong("a time in ns since 1970 or as RFC 3339")
		}
		b.Append(arrow.Timestamp(n))
	case *array.Int64Builder:
		n, err := num.Int64()
		if !isNum || err != nil {
			return wrong("a whole number")
		}
		b.Append(n)
	case *array.Uint32Builder:
		n, err := num.Int64()
		if !isNum || err != nil || n < 0 || n > math.MaxUint32 {
			return wrong("a whole number from 0 to 4294967295")
		}
		b.Append(uint32(n))
	case *array.Float64Builder:
		special, ok := map[string]float64{"NaN": math.NaN(), "-0": math.Copysign(0, -1), "Infinity": math.Inf(1), "-Infinity": math.Inf(-1)}[str]
		if isText && ok {
			b.Append(special)
			return nil
		}
		x, err := num.Float64()
		if !isNum || err != nil {
			return wrong(`a number, "NaN", "-0", "Infinity" or "-Infinity"`)
		}
		b.Append(x)
	case *array.BooleanBuilder:
		x, ok := v.(bool)
		if !ok {
			return wrong("true or false")
		}
		b.Append(x)
	case *array.StringBuilder:
		if !isText {
			return wrong("a text")
		}
		b.Append(str)
	case *array.BinaryDictionaryBuilder:
		if !isText {
			return wrong("a text")
		}
		return b.AppendString(str)
	}
	return nil
}
