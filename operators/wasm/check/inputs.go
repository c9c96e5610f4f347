package check

import (
	"fmt"
	"math"
	"strings"
	"time"

	"github.com/apache/arrow/go/v17/arrow"
	"github.com/apache/arrow/go/v17/arrow/array"
	"github.com/apache/arrow/go/v17/arrow/memory"

	"github.com/penstock/penstock/operators/wasm"
	"github.com/penstock/penstock/pipeline"
)

// shape is a plain batch.
type shape struct {
	tags, rows int // rows of all tags together; a multiple of tags
	name       func(tag int) string
	float      func(row int) float64
	null       bool // all that may be null is
	quality    uint32
}

const epoch = int64(1_700_000_000_000_000_000)

// record makes the batch for a module that takes m's input, a row of each tag
// per second.
func (s shape) record(m *wasm.Manifest, from int64) arrow.Record {
	rb := array.NewRecordBuilder(memory.DefaultAllocator, m.InputSchema())
	defer rb.Release()
	tags := max(s.tags, 1)
	per := max(s.rows/tags, 1)
	for row := range s.rows {
		tag, at := row/per, from+int64(row%per)*int64(time.Second)
		if !hasTag(m) {
			at = from + int64(row)*int64(time.Second)
		}
		for i, c := range m.Input {
			b := rb.Field(i)
			if s.null && c.Nullable {
				b.AppendNull()
				continue
			}
			switch b := b.(type) {
			case *array.TimestampBuilder:
				b.Append(arrow.Timestamp(at))
			case *array.BinaryDictionaryBuilder:
				_ = b.AppendString(s.tag(tag)) // fails for no text
			case *array.Float64Builder:
				b.Append(s.value(row))
			case *array.Uint32Builder:
				b.Append(s.quality)
			case *array.StringBuilder:
				b.Append("text")
			case *array.BooleanBuilder:
				b.Append(row%2 == 0)
			case *array.Int64Builder:
				b.Append(int64(row % 100))
			}
		}
	}
	return rb.NewRecord()
}

func (s shape) tag(i int) string {
	if s.name != nil {
		return s.name(i)
	}
	return fmt.Sprintf("plant1/hall%d/pump%d/vibration_x", i%3, i)
}

// value is a level with noise that repeats itself after 64 rows, unless the
// shape has its own.
func (s shape) value(row int) float64 {
	if s.float != nil {
		return s.float(row)
	}
	return 20 + float64(row*37%64-32)/16
}

func hasTag(m *wasm.Manifest) bool {
	for _, c := range m.Input {
		if c.Type == "tag" {
			return true
		}
	}
	return false
}

// later moves the times of a batch that is the caller's alone.
func later(rec arrow.Record, by time.Duration) {
	for _, c := range rec.Columns() {
		if t, ok := c.(*array.Timestamp); ok {
			values := t.TimestampValues()
			for i := range values {
				values[i] += arrow.Timestamp(by)
			}
		}
	}
}

// awkward is what the ABI allows and authors forget.
func awkward() []namedShape {
	constant := func(v float64) func(int) float64 { return func(int) float64 { return v } }
	return []namedShape{
		{"an empty batch", shape{}},
		{"one row", shape{tags: 1, rows: 1}},
		{"4096 tags with one row each", shape{tags: 4096, rows: 4096}},
		{"65536 rows of 64 tags", shape{tags: 64, rows: 65536}},
		{"65536 rows of one tag", shape{tags: 1, rows: 65536}},
		{"tags in unicode, one of 2000 bytes", shape{tags: 8, rows: 80, name: func(i int) string { return strings.Repeat("温度🙂é", 1+i%2*133) + fmt.Sprint(i) }}},
		{"nulls only", shape{tags: 4, rows: 400, null: true}},
		{"NaN only", shape{tags: 4, rows: 400, float: constant(math.NaN())}},
		{"-0 only", shape{tags: 4, rows: 400, float: constant(math.Copysign(0, -1))}},
		{"infinities", shape{tags: 4, rows: 400, float: func(i int) float64 { return math.Inf(i%2*2 - 1) }}},
		{"the largest numbers", shape{tags: 4, rows: 400, float: func(i int) float64 { return math.MaxFloat64 * float64(i%2*2-1) }}},
		{"Bad quality only", shape{tags: 4, rows: 400, quality: pipeline.Bad}},
	}
}

type namedShape struct {
	name string
	shape
}

// inputs runs, for each awkward batch and each engine, a fresh instance that has
// and one that has not seen plain rows before.
func (c *checker) inputs() {
	const second = int64(time.Second)
	plain, m := shape{tags: 4, rows: 400}, &c.info.Manifest
	before, after := plain.record(m, epoch), plain.record(m, epoch+71_000*second)
	defer before.Release()
	defer after.Release()
	kinds := awkward()
	failed := map[string]error{}
	for _, k := range kinds {
		rec := k.record(m, epoch+1000*second)
		steps := []wasm.Step{{Batch: before}, {Watermark: epoch + 900*second}, {Batch: rec}, {Watermark: epoch + 1000*second}, {Batch: after}, {Watermark: epoch + 80_000*second}}
		for _, e := range c.engines {
			for _, from := range []int{2, 0} {
				if c.setting.refs[e] == nil || failed[e] != nil {
					continue
				}
				err := c.with(e, func(p *wasm.Probe) error {
					_, err := p.Run(nil, steps[from:])
					return err
				})
				if err != nil {
					failed[e] = fmt.Errorf("%s: %w", k.name, err)
				}
			}
		}
		rec.Release()
	}
	c.each(Inputs, func(engine string) (string, string, error) {
		return plural(len(kinds), "kind") + ": empty, one row, 64 k rows, unicode tags, null, NaN, -0, ...",
			"penstock_process must bear it: a trap costs the module its state, an error the batch", failed[engine]
	})
}

// memory watches the instance's memory over 200 batches of one shape, once the
// module has had as many to come to its size.
func (c *checker) memory(engine string) (string, string, error) {
	const warm, batches = 200, 200
	s := shape{tags: 16, rows: 1024}
	span := time.Duration(s.rows/s.tags) * time.Second
	rec := s.record(&c.info.Manifest, epoch)
	defer rec.Release()
	var before, after int
	err := c.with(engine, func(p *wasm.Probe) error {
		for i := range warm + batches {
			if i == warm {
				before = p.MemorySize()
			}
			later(rec, span)
			if _, err := p.Run(nil, []wasm.Step{{Batch: rec}, {Watermark: epoch + int64(i)*int64(span)}}); err != nil {
				return fmt.Errorf("equal batch %d of %d: %w", i+1, warm+batches, err)
			}
			if _, err := p.Snapshot(); err != nil {
				return fmt.Errorf("equal batch %d of %d: %w", i+1, warm+batches, err)
			}
		}
		after = p.MemorySize()
		return nil
	})
	if err == nil && after > before {
		err = fmt.Errorf("memory grows from %d to %d KiB over %d equal batches", before>>10, after>>10, batches)
	}
	return fmt.Sprintf("%d KiB after %d equal batches", after>>10, warm+batches), "free or reuse what a call allocates, also in penstock_snapshot and penstock_free, and bound the state of each tag", err
}
