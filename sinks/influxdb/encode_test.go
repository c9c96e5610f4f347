package influxdb

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"

	"github.com/apache/arrow/go/v17/arrow"
	"github.com/apache/arrow/go/v17/arrow/array"
	"github.com/apache/arrow/go/v17/arrow/memory"
	"github.com/influxdata/line-protocol/v2/lineprotocol"
	"github.com/stretchr/testify/require"

	"github.com/penstock/penstock/pipeline"
)

var scored = pipeline.WithNode(arrow.NewSchema([]arrow.Field{
	{Name: "time", Type: pipeline.TimeType},
	{Name: "tag", Type: pipeline.TagType},
	{Name: "value", Type: arrow.PrimitiveTypes.Float64, Nullable: true},
	{Name: "quality", Type: arrow.PrimitiveTypes.Uint32},
	{Name: "received", Type: pipeline.TimeType},
	{Name: "mean", Type: arrow.PrimitiveTypes.Float64, Nullable: true},
	{Name: "score", Type: arrow.PrimitiveTypes.Float64, Nullable: true},
}, nil), "score")

// scoredRecord has tags×rows rows: value, quality, mean and score are fields.
func scoredRecord(mem memory.Allocator, tags, rows int, digits int) arrow.Record {
	b := array.NewRecordBuilder(mem, scored)
	defer b.Release()
	rng := rand.New(rand.NewPCG(1, 2))
	round := func(v float64) float64 {
		p := math.Pow(10, float64(digits))
		return math.Round(v*p) / p
	}
	for t := range tags {
		name := fmt.Sprintf("plant1/hall%d/pump%d/vibration_x", t%4, t)
		for r := range rows {
			ts := arrow.Timestamp(1_700_000_000_000_000_000 + int64(r)*100_000_000 + int64(t))
			b.Field(0).(*array.TimestampBuilder).Append(ts)
			_ = b.Field(1).(*array.BinaryDictionaryBuilder).AppendString(name)
			b.Field(2).(*array.Float64Builder).Append(round(20 + rng.NormFloat64()))
			b.Field(3).(*array.Uint32Builder).Append(0)
			b.Field(4).(*array.TimestampBuilder).Append(ts + 1000)
			b.Field(5).(*array.Float64Builder).Append(20 + rng.NormFloat64())
			b.Field(6).(*array.Float64Builder).Append(rng.NormFloat64())
		}
	}
	return b.NewRecord()
}

func newEncoder(cfg Config) *encoder {
	return &encoder{fields: cfg.Fields, series: newSeries(cfg, pipeline.NewTags(nil)), bound: map[string]*binding{},
		unfit: func(string, string, arrow.DataType) {}}
}

// BenchmarkEncode has four fields a row; run1 has every row in another series.
// The library variants do what the sink would do without prefixes.
func BenchmarkEncode(b *testing.B) {
	for _, c := range []struct {
		name             string
		tags, rows, digs int
	}{{"run100/noise", 10, 100, 17}, {"run1/noise", 1000, 1, 17}, {"run1/3digits", 1000, 1, 3}} {
		rec := scoredRecord(memory.DefaultAllocator, c.tags, c.rows, c.digs)
		perRow := func(b *testing.B) {
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(c.tags*c.rows), "ns/row")
			b.ReportMetric(0, "ns/op")
		}
		b.Run("prefix/"+c.name, func(b *testing.B) {
			e := newEncoder(DefaultConfig())
			b.ReportAllocs()
			for b.Loop() {
				e.reset(false)
				if err := e.append(rec); err != nil {
					b.Fatal(err)
				}
			}
			perRow(b)
		})
		b.Run("encoder/"+c.name, func(b *testing.B) {
			b.ReportAllocs()
			var e lineprotocol.Encoder
			e.SetLax(true)
			var runs []pipeline.Run
			tags := pipeline.NewTags(nil)
			for b.Loop() {
				e.Reset()
				runs, _ = pipeline.Runs(runs[:0], rec, 1)
				byEncoder(&e, rec, runs, tags)
			}
			perRow(b)
		})
	}
}

// byEncoder encodes a scored record with the library alone.
func byEncoder(e *lineprotocol.Encoder, rec arrow.Record, runs []pipeline.Run, tags *pipeline.Tags) {
	times := rec.Column(0).(*array.Timestamp).TimestampValues()
	value := rec.Column(2).(*array.Float64).Float64Values()
	quality := rec.Column(3).(*array.Uint32).Uint32Values()
	mean := rec.Column(5).(*array.Float64).Float64Values()
	score := rec.Column(6).(*array.Float64).Float64Values()
	for _, r := range runs {
		info := tags.Info(r.Tag)
		for i := r.Start; i < r.End; i++ {
			e.StartLine(info.Measurement)
			e.AddTag("asset", info.Asset)
			e.AddTag("node", "score")
			e.AddTag("tag", r.Tag)
			float := func(k string, v float64) {
				f, _ := lineprotocol.FloatValue(v)
				e.AddField(k, f)
			}
			float("value", value[i])
			e.AddField("quality", lineprotocol.IntValue(int64(quality[i])))
			float("mean", mean[i])
			float("score", score[i])
			e.EndLine(times[i].ToTime(arrow.Nanosecond))
		}
	}
}

func TestSameAsTheLibrary(t *testing.T) {
	rec := scoredRecord(memory.DefaultAllocator, 5, 20, 17)
	defer rec.Release()
	e := newEncoder(DefaultConfig())
	require.NoError(t, e.append(rec))
	var lib lineprotocol.Encoder
	runs, err := pipeline.Runs(nil, rec, 1)
	require.NoError(t, err)
	byEncoder(&lib, rec, runs, pipeline.NewTags(nil))
	require.NoError(t, lib.Err())
	require.Equal(t, string(lib.Bytes()), string(e.buf))
	require.Len(t, e.ends, 100)
}
