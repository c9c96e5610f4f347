// Package optest drives operators in tests: readings in, rows of text out.
package optest

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"math"
	"math/rand/v2"
	"sort"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/apache/arrow/go/v17/arrow"
	"github.com/apache/arrow/go/v17/arrow/array"
	"github.com/apache/arrow/go/v17/arrow/memory"
	"github.com/stretchr/testify/require"

	"github.com/penstock/penstock/internal/columns"
	"github.com/penstock/penstock/pipeline"
)

// Row is one reading: T in seconds since 1970, Null for no value.
type Row struct {
	Tag  string
	T    float64
	V    float64
	Q    uint32
	Null bool
	Text string
}

// Step is one batch of readings, or, without rows, a watermark in seconds.
type Step struct {
	Rows      []Row
	Watermark float64
}

// Seconds converts seconds since 1970 to a timestamp.
func Seconds(s float64) arrow.Timestamp { return arrow.Timestamp(math.Round(s * 1e9)) }

// Env returns an environment for a component called "test", whose allocator
// must have nothing left at the end of the test.
func Env(t testing.TB) pipeline.Env {
	alloc := memory.NewCheckedAllocator(memory.DefaultAllocator)
	t.Cleanup(func() { alloc.AssertSize(t, 0) })
	return pipeline.Env{Name: "test", Log: slog.New(slog.DiscardHandler), Meter: pipeline.NewMeter(), Tags: pipeline.NewTags(nil), Alloc: alloc, Shards: 1}
}

// Readings makes a record of rows, grouped by tag in order of first
// appearance, each tag's rows in time order. The caller owns it.
func Readings(alloc memory.Allocator, rows []Row) arrow.Record {
	order := map[string]int{}
	for _, r := range rows {
		if _, ok := order[r.Tag]; !ok {
			order[r.Tag] = len(order)
		}
	}
	rows = append([]Row(nil), rows...)
	sort.SliceStable(rows, func(i, j int) bool {
		if a, b := order[rows[i].Tag], order[rows[j].Tag]; a != b {
			return a < b
		}
		return rows[i].T < rows[j].T
	})
	var keys columns.Keys
	val, text, qual := array.NewFloat64Builder(alloc), array.NewStringBuilder(alloc), []uint32{}
	defer val.Release()
	defer text.Release()
	for _, r := range rows {
		keys.Add(r.Tag, Seconds(r.T))
		if r.Null {
			val.AppendNull()
		} else {
			val.Append(r.V)
		}
		if r.Text == "" {
			text.AppendNull()
		} else {
			text.Append(r.Text)
		}
		qual = append(qual, r.Q)
	}
	times, tags := keys.Arrays(alloc)
	return columns.Record(pipeline.Readings, []arrow.Array{times, tags, val.NewArray(), text.NewArray(), columns.Uint32s(alloc, qual), columns.Timestamps(alloc, keys.Times)})
}

// Collector is an Emitter that writes every row down as text.
type Collector struct {
	T    testing.TB
	Rows map[string][]string // by port
	Recs int
}

// Emit notes the rows of rec, after checking that its tag column, if it has
// one, is grouped and has a dictionary of one entry for each run.
func (c *Collector) Emit(port string, rec arrow.Record) error {
	if c.Rows == nil {
		c.Rows = map[string][]string{}
	}
	c.Recs++
	if col := pipeline.Column(rec.Schema(), pipeline.NameTag); col >= 0 {
		runs, err := pipeline.Runs(nil, rec, col)
		require.NoError(c.T, err)
		d := rec.Column(col).(*array.Dictionary)
		require.Equal(c.T, len(runs), d.Dictionary().Len(), "one dictionary entry for each run")
		times, err := columns.Times(rec, pipeline.Column(rec.Schema(), pipeline.NameTime))
		require.NoError(c.T, err)
		seen := map[string]bool{}
		for i, run := range runs {
			require.False(c.T, seen[run.Tag], "tag %s has two runs", run.Tag)
			seen[run.Tag] = true
			require.Equal(c.T, i, d.GetValueIndex(run.Start))
			for k := run.Start + 1; k < run.End; k++ {
				require.LessOrEqual(c.T, times[k-1], times[k], "time order within a run")
			}
		}
	}
	for i := range int(rec.NumRows()) {
		var cells []string
		for k, f := range rec.Schema().Fields() {
			cells = append(cells, f.Name+"="+cell(rec.Column(k), i))
		}
		c.Rows[port] = append(c.Rows[port], strings.Join(cells, " "))
	}
	return nil
}

func cell(a arrow.Array, i int) string {
	if a.IsNull(i) {
		return "null"
	}
	switch a := a.(type) {
	case *array.Timestamp:
		return strconv.FormatFloat(float64(a.Value(i))/1e9, 'f', -1, 64)
	case *array.Float64:
		return strconv.FormatFloat(a.Value(i), 'g', -1, 64)
	case *array.Uint32:
		return fmt.Sprintf("%#x", a.Value(i))
	}
	return a.ValueStr(i)
}

// Play runs a fresh operator through steps and returns what it emitted, by
// port. With snapshot k >= 0 the operator is replaced after step k by another
// that is restored from its snapshot.
func Play(t testing.TB, alloc memory.Allocator, make func() pipeline.Operator, steps []Step, snapshot int) map[string][]string {
	t.Helper()
	ctx := context.Background()
	out := &Collector{T: t, Rows: map[string][]string{}}
	op := make()
	_, err := op.Open(ctx, pipeline.Readings)
	require.NoError(t, err)
	for k, s := range steps {
		if len(s.Rows) > 0 {
			rec := Readings(alloc, s.Rows)
			require.NoError(t, op.Process(ctx, rec, out))
			rec.Release()
		} else {
			require.NoError(t, op.Advance(ctx, Seconds(s.Watermark), out))
		}
		if k == snapshot {
			var b, again bytes.Buffer
			require.NoError(t, op.Snapshot(&b))
			first := append([]byte(nil), b.Bytes()...)
			require.NoError(t, op.Close(ctx))
			op = make()
			_, err := op.Open(ctx, pipeline.Readings)
			require.NoError(t, err)
			require.NoError(t, op.Restore(&b))
			require.NoError(t, op.Snapshot(&again))
			require.Equal(t, first, again.Bytes(), "a restored operator has the same snapshot")
		}
	}
	require.NoError(t, op.Close(ctx))
	return out.Rows
}

// Random makes a script of n batches of about rows readings each, with a
// watermark after each: several tags, irregular times, a bit out of order from
// batch to batch, some late; nulls, NaN, Bad and Uncertain quality.
func Random(seed uint64, n, rows int) []Step {
	r := rand.New(rand.NewPCG(seed, 1))
	var steps []Step
	now := 1000.0
	for range n {
		var s Step
		for range 1 + r.IntN(2*rows) {
			now += r.ExpFloat64() * 0.2
			row := Row{Tag: fmt.Sprintf("p/a%d/m%d", r.IntN(3), r.IntN(2)), T: math.Round((now-r.Float64())*1000) / 1000, V: math.Round(r.NormFloat64()*1000) / 100}
			if r.IntN(20) == 0 {
				row.T -= 9
			}
			switch r.IntN(12) {
			case 0:
				row.Null, row.Q = true, pipeline.BadSensor
			case 1:
				row.V = math.NaN()
			case 2:
				row.Q = pipeline.Uncertain
			case 3:
				row.Q = pipeline.Bad
			}
			s.Rows = append(s.Rows, row)
		}
		sort.SliceStable(s.Rows, func(i, j int) bool { return s.Rows[i].T < s.Rows[j].T })
		steps = append(steps, s, Step{Watermark: now - 1.5})
	}
	return append(steps, Step{Watermark: now + 1000})
}

// Split cuts every batch of steps into batches of at most n readings.
func Split(steps []Step, n int) []Step {
	var out []Step
	for _, s := range steps {
		rows := s.Rows
		for len(rows) > n {
			out = append(out, Step{Rows: rows[:n]})
			rows = rows[n:]
		}
		out = append(out, Step{Rows: rows, Watermark: s.Watermark})
	}
	return out
}

// Bench makes a record of n readings of tags tags at 10 Hz, from time at (s).
func Bench(alloc memory.Allocator, n, tags int, at float64) arrow.Record {
	r := rand.New(rand.NewPCG(7, 7))
	rows := make([]Row, 0, n)
	for i := range n {
		rows = append(rows, Row{Tag: fmt.Sprintf("plant/hall/pump%d/temperature", i%tags), T: at + float64(i/tags)*0.1, V: 70 + 10*r.NormFloat64()})
	}
	return Readings(alloc, rows)
}

// Discard is an Emitter that does nothing.
type Discard struct{}

// Emit drops rec.
func (Discard) Emit(string, arrow.Record) error { return nil }

// PerRow reports ns/row of a benchmark whose iterations took rows rows each.
func PerRow(b *testing.B, rows int) {
	b.ReportMetric(float64(b.Elapsed())/float64(time.Nanosecond)/float64(b.N)/float64(rows), "ns/row")
}
