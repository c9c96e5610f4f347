package modules_test

import (
	"bytes"
	"cmp"
	"context"
	"io"
	"log/slog"
	"math"
	"math/rand/v2"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/apache/arrow/go/v17/arrow"
	"github.com/apache/arrow/go/v17/arrow/array"
	"github.com/apache/arrow/go/v17/arrow/memory"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/penstock/penstock/operators/wasm"
	"github.com/penstock/penstock/pipeline"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// reading is a row of input.
type reading struct {
	tag     string
	time    int64 // ns
	value   float64
	null    bool
	quality uint32
}

// usable is what the manifests say of rows that count.
func (r *reading) usable(skipUncertain bool) bool {
	return !r.null && math.Abs(r.value) < 1e150 && !pipeline.IsBad(r.quality) && !(skipUncertain && pipeline.IsUncertain(r.quality))
}

// kernel is an operator under test.
type kernel struct {
	t     *testing.T
	op    *wasm.Operator
	meter *pipeline.Meter
	alloc *memory.CheckedAllocator
	added int // position of the first column that the module made
}

func open(t *testing.T, engine, module string, params map[string]any, change ...func(*wasm.Config)) *kernel {
	t.Helper()
	cfg := wasm.DefaultConfig()
	cfg.Module, cfg.Params, cfg.Engine, cfg.OnError = module, params, engine, wasm.OnErrorStop
	for _, f := range change {
		f(&cfg)
	}
	p := pipeline.NewProblems()
	cfg.Validate(p)
	require.Empty(t, p.All())
	k := &kernel{t: t, meter: pipeline.NewMeter(), alloc: memory.NewCheckedAllocator(memory.NewGoAllocator())}
	op, err := wasm.New(cfg, pipeline.Env{Name: module, Log: slog.New(slog.DiscardHandler), Meter: k.meter, Tags: pipeline.NewTags(nil), Alloc: k.alloc, Shards: 1})
	require.NoError(t, err)
	k.op = op
	t.Cleanup(func() {
		require.NoError(t, op.Close(context.Background()))
		k.alloc.AssertSize(t, 0)
	})
	out, err := op.Open(context.Background(), pipeline.Readings)
	require.NoError(t, err)
	if out.Field(0).Name == pipeline.NameTime && out.NumFields() > pipeline.Readings.NumFields() && out.Field(pipeline.ColReceived).Name == pipeline.NameReceived {
		k.added = pipeline.Readings.NumFields()
	}
	return k
}

// result is a row of output: numbers, nil where null; booleans are 0 or 1.
type result struct {
	tag    string
	time   int64
	values []*float64
}

// Emit keeps the rows of a record, with every column that the module made but
// time and tag.
type collector struct {
	added int
	rows  []result
}

func (c *collector) Emit(_ string, rec arrow.Record) error {
	times := rec.Column(0).(*array.Timestamp)
	tags := rec.Column(1).(*array.Dictionary)
	for i := range int(rec.NumRows()) {
		r := result{tag: tags.Dictionary().(*array.String).Value(tags.GetValueIndex(i)), time: int64(times.Value(i))}
		for _, col := range rec.Columns()[max(c.added, 2):] {
			var v *float64
			if col.IsValid(i) {
				switch a := col.(type) {
				case *array.Float64:
					v = ptr(a.Value(i))
				case *array.Uint32:
					v = ptr(float64(a.Value(i)))
				case *array.Boolean:
					v = ptr(0)
					if a.Value(i) {
						*v = 1
					}
				}
			}
			r.values = append(r.values, v)
		}
		c.rows = append(c.rows, r)
	}
	return nil
}

func ptr(v float64) *float64 { return &v }

// record makes a batch of readings, which are grouped by tag.
func record(alloc memory.Allocator, rows []reading) arrow.Record {
	b := array.NewRecordBuilder(alloc, pipeline.Readings)
	defer b.Release()
	for _, r := range rows {
		b.Field(pipeline.ColTime).(*array.TimestampBuilder).Append(arrow.Timestamp(r.time))
		if err := b.Field(pipeline.ColTag).(*array.BinaryDictionaryBuilder).AppendString(r.tag); err != nil {
			panic(err)
		}
		v := b.Field(pipeline.ColValue).(*array.Float64Builder)
		if r.null {
			v.AppendNull()
		} else {
			v.Append(r.value)
		}
		b.Field(pipeline.ColText).AppendNull()
		b.Field(pipeline.ColQuality).(*array.Uint32Builder).Append(r.quality)
		b.Field(pipeline.ColReceived).(*array.TimestampBuilder).Append(arrow.Timestamp(r.time))
	}
	return b.NewRecord()
}

func (k *kernel) try(rows []reading) ([]result, error) {
	rec := record(k.alloc, rows)
	defer rec.Release()
	c := &collector{added: k.added}
	err := k.op.Process(context.Background(), rec, c)
	return c.rows, err
}

func (k *kernel) process(rows []reading) []result {
	k.t.Helper()
	out, err := k.try(rows)
	require.NoError(k.t, err)
	return out
}

func (k *kernel) snapshot() []byte {
	k.t.Helper()
	var buf bytes.Buffer
	require.NoError(k.t, k.op.Snapshot(&buf))
	return buf.Bytes()
}

func (k *kernel) restore(state []byte) error { return k.op.Restore(io.Reader(bytes.NewReader(state))) }

// stream makes batches that have all that the manifests speak of: tags that
// are sampled regularly and irregularly, come and go and change their order;
// noise, spikes, steps, ramps and constants; nulls, NaN, infinities and huge
// values; every quality; equal and, from one batch to the next, older times.
func stream(rnd *rand.Rand, batches int) [][]reading {
	const start = 1_700_000_000_000_000_000
	type signal struct {
		name          string
		now           int64
		level, noise  float64
		slope         float64
		jitter, hurts bool
		step          int64
	}
	signals := make([]*signal, 1+rnd.IntN(9))
	for i := range signals {
		signals[i] = &signal{name: "p" + strconv.Itoa(rnd.IntN(1000)) + "/tag" + strconv.Itoa(i) + "/measurement"[:rnd.IntN(12)],
			now: start + rnd.Int64N(1e9), level: 100 * rnd.NormFloat64(), noise: rnd.ExpFloat64(), slope: rnd.NormFloat64() * 0.01,
			jitter: rnd.IntN(2) == 0, hurts: rnd.IntN(3) > 0, step: 1e8 * (1 + rnd.Int64N(20))}
		if rnd.IntN(5) == 0 {
			signals[i].noise, signals[i].slope = 0, 0
		}
		if rnd.IntN(10) == 0 {
			signals[i].level, signals[i].noise = 0, 0
		}
	}
	var out [][]reading
	var held []reading // to be late
	for range batches {
		batch := held
		held = nil
		for _, s := range signals {
			if rnd.IntN(6) == 0 {
				continue
			}
			for range 1 + rnd.IntN(1<<rnd.IntN(8)) {
				s.now += s.step
				if s.jitter {
					s.now += rnd.Int64N(s.step) - s.step/2
				}
				s.level += s.slope
				r := reading{tag: s.name, time: s.now, value: s.level + s.noise*rnd.NormFloat64()}
				if !s.hurts {
					batch = append(batch, r)
					continue
				}
				switch rnd.IntN(40) {
				case 0:
					r.null = true
				case 1:
					r.value = []float64{math.NaN(), math.Inf(1), math.Inf(-1), 1e200, -1e151}[rnd.IntN(5)]
				case 2:
					r.quality = pipeline.BadSensor
				case 3, 4:
					r.quality = pipeline.Uncertain | uint32(rnd.IntN(1<<20))
				case 5:
					r.value += 50 * s.noise
				case 6:
					s.level += 20 * s.noise * rnd.NormFloat64()
				case 7:
					batch = append(batch, r) // the same time again
					r.value += s.noise
				case 8:
					if rnd.IntN(3) == 0 {
						s.now += int64(time.Hour) // a gap
					}
				case 9:
					held = append(held, r)
					continue
				}
				batch = append(batch, r)
			}
		}
		if rnd.IntN(4) == 0 {
			rnd.Shuffle(len(signals), func(i, j int) { signals[i], signals[j] = signals[j], signals[i] })
		}
		order := map[string]int{}
		for i, s := range signals {
			order[s.name] = i
		}
		slices.SortStableFunc(batch, func(a, b reading) int {
			return cmp.Or(cmp.Compare(order[a.tag], order[b.tag]), cmp.Compare(a.time, b.time))
		})
		if len(batch) > 0 {
			out = append(out, batch)
		}
	}
	return out
}

// split cuts batches at random places.
func split(rnd *rand.Rand, batches [][]reading) [][]reading {
	var out [][]reading
	for _, b := range batches {
		for len(b) > 0 {
			n := 1 + rnd.IntN(len(b))
			out = append(out, b[:n])
			b = b[n:]
		}
	}
	return out
}

// requireSame fails unless the rows are equal in every bit.
func requireSame(t *testing.T, want, got []result) {
	t.Helper()
	require.Len(t, got, len(want))
	for i := range want {
		require.Equal(t, want[i].tag, got[i].tag, "row %d", i)
		require.Equal(t, want[i].time, got[i].time, "row %d", i)
		for c := range want[i].values {
			a, b := want[i].values[c], got[i].values[c]
			require.Equal(t, a == nil, b == nil, "row %d column %d is null", i, c)
			if a != nil {
				require.Equal(t, math.Float64bits(*a), math.Float64bits(*b), "row %d column %d: %v and %v", i, c, *a, *b)
			}
		}
	}
}
