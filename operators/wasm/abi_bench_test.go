package wasm

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"slices"
	"testing"
	"time"

	"github.com/apache/arrow/go/v17/arrow"
	"github.com/apache/arrow/go/v17/arrow/array"
	"github.com/apache/arrow/go/v17/arrow/ipc"
	"github.com/apache/arrow/go/v17/arrow/memory"
	"github.com/stretchr/testify/require"

	"github.com/penstock/penstock/pipeline"
)

// BenchmarkABI is what the boundary costs: a module that does nothing gets the
// six columns of a reading and hands one, of float64, back. Beside it: the same
// operator in Go, which copies that one column; the same copies without a
// module, what any boundary with memory of its own pays; and the record written
// as Arrow IPC and read again, in a message of its own or in a stream that has
// had its schema, or as JSON.
func BenchmarkABI(b *testing.B) {
	var all []contender
	for _, engine := range engines {
		all = append(all, moduleOn(engine, engine, MeteredNever), moduleOn(engine+"-metered", engine, MeteredAlways))
	}
	all = append(all,
		contender{"native-go", func(*testing.B) (func(arrow.Record) error, func()) {
			out := arrow.NewSchema(append(slices.Clone(pipeline.Readings.Fields()), arrow.Field{Name: "same", Type: arrow.PrimitiveTypes.Float64, Nullable: true}), nil)
			return func(rec arrow.Record) error { return nativeOperator(rec, out) }, func() {}
		}},
		contender{"copies-only", func(*testing.B) (func(arrow.Record) error, func()) {
			var arena []byte
			return func(rec arrow.Record) error { arena = copyColumns(arena, rec); return nil }, func() {}
		}},
		contender{"ipc-message", func(*testing.B) (func(arrow.Record) error, func()) {
			var buf bytes.Buffer
			return func(rec arrow.Record) error {
				buf.Reset()
				s := ipcStream{buf: &buf}
				defer s.close()
				return s.roundTrip(rec)
			}, func() {}
		}},
		contender{"ipc-stream", func(*testing.B) (func(arrow.Record) error, func()) {
			s := ipcStream{buf: &bytes.Buffer{}}
			return s.roundTrip, s.close
		}},
		contender{"json", func(*testing.B) (func(arrow.Record) error, func()) { return throughJSON, func() {} }},
	)
	compare(b, all)
}

// contender is a boundary that a record crosses.
type contender struct {
	name string
	open func(b *testing.B) (call func(arrow.Record) error, stop func())
}

// moduleOn is the operator with the module that does nothing.
func moduleOn(name, engine, metered string) contender {
	return contender{name, func(b *testing.B) (func(arrow.Record) error, func()) {
		cfg := DefaultConfig()
		cfg.Module, cfg.Engine, cfg.Metered = testdata("empty"), engine, metered
		if engine == EngineWasmer {
			cfg.Engine = EngineWasmerUntrusted
		}
		env := pipeline.Env{Name: "op", Log: slog.New(slog.DiscardHandler), Meter: pipeline.NewMeter(), Alloc: memory.DefaultAllocator}
		op, err := New(cfg, env)
		require.NoError(b, err)
		_, err = op.Open(context.Background(), pipeline.Readings)
		require.NoError(b, err)
		return func(rec arrow.Record) error { return op.Process(context.Background(), rec, discard{}) },
			func() { require.NoError(b, op.Close(context.Background())) }
	}}
}

// compare measures each with batches of four sizes. over-fixed is the time beyond
// that of one row, by the bytes beyond those of one row. A time is the median of
// many runs of calls.
func compare(b *testing.B, all []contender) {
	sizes := newExporter(readingColumns())
	for _, c := range all {
		var ns1, bytes1 float64
		for _, rows := range []int{1, 256, 4096, 65536} {
			b.Run(fmt.Sprintf("%s/rows=%d", c.name, rows), func(b *testing.B) {
				rec := readings(rows)
				defer rec.Release()
				in, err := sizes.plan(rec)
				require.NoError(b, err)
				out := 8 * rows
				call, stop := c.open(b)
				defer stop()
				ns := median(b, func() {
					if err := call(rec); err != nil {
						b.Fatal(err)
					}
				})
				total := float64(in) + float64(out)
				if rows == 1 {
					ns1, bytes1 = ns, total
				} else if ns1 > 0 {
					b.ReportMetric((ns-ns1)/(total-bytes1), "over-fixed-ns/byte")
				}
				b.ReportMetric(ns, "ns/op")
				b.ReportMetric(float64(in), "B-in")
				b.ReportMetric(float64(out), "B-out")
			})
		}
	}
}

// median runs f until the benchmark is over and returns its time in ns: the
// median over runs of about 100 µs, which what else the machine does disturbs
// little.
func median(b *testing.B, f func()) float64 {
	const run = 100 * time.Microsecond
	for range 10 { // buffers grow, and what is new is slow
		f()
	}
	start := time.Now()
	f()
	calls := int(max(1, run/max(1, time.Since(start))))
	var times []float64
	for b.Loop() {
		start := time.Now()
		for range calls {
			f()
		}
		times = append(times, float64(time.Since(start).Nanoseconds())/float64(calls))
	}
	slices.Sort(times)
	return times[len(times)/2]
}

func readingColumns() []exportColumn {
	names := map[arrow.Type]string{arrow.TIMESTAMP: "timestamp", arrow.DICTIONARY: "tag", arrow.FLOAT64: "float64", arrow.STRING: "string", arrow.UINT32: "uint32"}
	var cols []exportColumn
	for i, f := range pipeline.Readings.Fields() {
		cols = append(cols, exportColumn{name: f.Name, index: i, typ: columnTypes[names[f.Type.ID()]]})
	}
	return cols
}

// nativeOperator does what the module and the host do together, as an operator
// in Go would: the six columns as they are, and a copy of the third.
func nativeOperator(rec arrow.Record, schema *arrow.Schema) error {
	same := copyFloats(rec.Column(2))
	defer same.Release()
	out := array.NewRecord(schema, append(slices.Clone(rec.Columns()), same), rec.NumRows())
	defer out.Release()
	return discard{}.Emit("", out)
}

func copyFloats(col arrow.Array) arrow.Array {
	b := memory.NewResizableBuffer(memory.DefaultAllocator)
	defer b.Release()
	b.Resize(8 * col.Len())
	copy(b.Bytes(), col.Data().Buffers()[1].Bytes())
	data := array.NewData(col.DataType(), col.Len(), []*memory.Buffer{nil, b}, nil, 0, 0)
	defer data.Release()
	return array.MakeFromData(data)
}

// copyColumns copies every buffer of rec into arena and one column out.
func copyColumns(arena []byte, rec arrow.Record) []byte {
	arena = arena[:0]
	for _, c := range rec.Columns() {
		datas := []arrow.ArrayData{c.Data()}
		if d, ok := c.(*array.Dictionary); ok {
			datas = append(datas, d.Dictionary().Data())
		}
		for _, d := range datas {
			for _, b := range d.Buffers() {
				if b != nil {
					arena = append(arena, b.Bytes()...)
				}
			}
		}
	}
	copyFloats(rec.Column(2)).Release()
	return arena
}

// reading is a row as a boundary of messages has it.
type reading struct {
	Time     int64    `json:"time"`
	Tag      string   `json:"tag"`
	Value    *float64 `json:"value"`
	Text     *string  `json:"text"`
	Quality  uint32   `json:"quality"`
	Received int64    `json:"received"`
}

// throughJSON writes the rows of rec as JSON and reads them again.
func throughJSON(rec arrow.Record) error {
	times, tags := rec.Column(0).(*array.Timestamp), rec.Column(1).(*array.Dictionary)
	names, values := tags.Dictionary().(*array.String), rec.Column(2).(*array.Float64)
	rows := make([]reading, rec.NumRows())
	for i := range rows {
		v := values.Value(i)
		rows[i] = reading{Time: int64(times.Value(i)), Tag: names.Value(tags.GetValueIndex(i)), Value: &v, Received: int64(times.Value(i))}
	}
	text, err := json.Marshal(rows)
	if err != nil {
		return err
	}
	var back []reading
	return json.Unmarshal(text, &back)
}

// ipcStream writes records as an Arrow IPC stream and reads them again. The
// schema goes ahead of the first one.
type ipcStream struct {
	buf *bytes.Buffer
	w   *ipc.Writer
	r   *ipc.Reader
}

func (s *ipcStream) write(rec arrow.Record) error {
	if s.w == nil {
		s.w = ipc.NewWriter(s.buf, ipc.WithSchema(rec.Schema()))
	}
	return s.w.Write(rec)
}

func (s *ipcStream) roundTrip(rec arrow.Record) (err error) {
	if err = s.write(rec); err != nil {
		return err
	}
	if s.r == nil {
		if s.r, err = ipc.NewReader(s.buf); err != nil {
			return err
		}
	}
	if !s.r.Next() || s.r.Record().NumRows() != rec.NumRows() {
		return fmt.Errorf("%d rows did not come back: %w", rec.NumRows(), s.r.Err())
	}
	return nil
}

func (s *ipcStream) close() {
	if s.r != nil {
		s.r.Release()
	}
}
