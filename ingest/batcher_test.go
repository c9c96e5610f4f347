package ingest

import (
	"fmt"
	"log/slog"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/apache/arrow/go/v17/arrow"
	"github.com/apache/arrow/go/v17/arrow/array"
	"github.com/apache/arrow/go/v17/arrow/memory"
	"github.com/stretchr/testify/require"

	"github.com/penstock/penstock/pipeline"
)

// row is a reading as a test writes it.
type row struct {
	tag            string
	time, received int64
	value          string // %v of the value, or "null"
	text           string // quoted, or "null"
	quality        uint32
}

func testEnv(t testing.TB, shards int) pipeline.Env {
	alloc := memory.NewCheckedAllocator(memory.NewGoAllocator())
	t.Cleanup(func() { alloc.AssertSize(t, 0) })
	return pipeline.Env{Name: "src", Shards: shards, Alloc: alloc, Tags: pipeline.NewTags(nil), Meter: pipeline.NewMeter(), Log: slog.New(slog.DiscardHandler)}
}

// rows reads a record back, checks the schema's promises and releases it.
func rows(t testing.TB, rec arrow.Record) (out []row) {
	t.Helper()
	defer rec.Release()
	require.True(t, rec.Schema().Equal(pipeline.Readings))
	runs, err := pipeline.Runs(nil, rec, pipeline.ColTag)
	require.NoError(t, err)
	times := rec.Column(pipeline.ColTime).(*array.Timestamp)
	received := rec.Column(pipeline.ColReceived).(*array.Timestamp)
	value := rec.Column(pipeline.ColValue).(*array.Float64)
	text := rec.Column(pipeline.ColText).(*array.String)
	quality := rec.Column(pipeline.ColQuality).(*array.Uint32)
	idx := rec.Column(pipeline.ColTag).(*array.Dictionary)
	require.Equal(t, len(runs), idx.Dictionary().Len(), "the dictionary holds the tags of the runs and no other")
	nulls := [2]int{}
	for n, r := range runs {
		for i := r.Start; i < r.End; i++ {
			require.Equal(t, n, idx.GetValueIndex(i), "the index of a row is the number of its run")
			x := row{tag: strings.Clone(r.Tag), time: int64(times.Value(i)), received: int64(received.Value(i)), value: "null", text: "null", quality: quality.Value(i)}
			if value.IsValid(i) {
				x.value = fmt.Sprint(value.Value(i))
			} else {
				nulls[0]++
			}
			if text.IsValid(i) {
				x.text = fmt.Sprintf("%+q", text.Value(i))
			} else {
				nulls[1]++
			}
			out = append(out, x)
		}
	}
	require.Equal(t, nulls, [2]int{value.NullN(), text.NullN()})
	return out
}

// Rows come grouped by tag, in time order, equal times in order of arrival,
// with nulls and texts where they were put; a batch leaves nothing to the next.
func TestBatcherGroups(t *testing.T) {
	b := NewBatcher(BatchConfig{MaxRows: 5, MaxTags: 10}, testEnv(t, 1))
	x, y := b.Tag("x"), b.TagBytes([]byte("y"))
	require.Equal(t, x, b.TagBytes([]byte("x")))
	require.Equal(t, "y", b.Name(y))
	b.Append(x, 5, 1, 0, 100)
	b.Append(y, 3, math.NaN(), pipeline.Uncertain, 101)
	b.Append(x, 4, 2, 0, 102)
	b.AppendText(y, 2, []byte("on\xff"), 0, 103)
	require.False(t, b.Full())
	b.AppendNull(x, 5, pipeline.Bad, 104)
	require.True(t, b.Full())
	b.Append(x, 5, 3, 0, 105)
	b.AppendText(x, 6, nil, 0, 106)
	require.Equal(t, 7, b.Len())
	got := b.Flush(nil)
	require.Len(t, got, 1)
	require.Equal(t, "src", got[0].Source)
	require.Equal(t, []row{
		{"x", 4, 102, "2", "null", 0},
		{"x", 5, 100, "1", "null", 0},
		{"x", 5, 104, "null", "null", pipeline.Bad},
		{"x", 5, 105, "3", "null", 0},
		{"x", 6, 106, "null", `""`, 0},
		{"y", 2, 103, "null", `"on\ufffd"`, 0},
		{"y", 3, 101, "NaN", "null", pipeline.Uncertain},
	}, rows(t, got[0].Record))
	require.Empty(t, b.Flush(nil))
	b.Append(y, 1, 7, 0, 1)
	require.Equal(t, []row{{"y", 1, 1, "7", "null", 0}}, rows(t, b.Flush(nil)[0].Record))
}

// What is outside the bounds is counted under its reason, at the extremes too.
func TestBatcherBounds(t *testing.T) {
	env := testEnv(t, 1)
	now := time.Date(2026, 5, 1, 0, 0, 0, 0, time.UTC).UnixNano()
	const limit = int64(time.Minute)
	b := NewBatcher(BatchConfig{MaxRows: 100, MaxFuture: time.Minute, MaxPast: time.Minute, MaxTags: 2}, env)
	x := b.Tag("x")
	for _, at := range []int64{now - limit, now, now + limit, // taken
		now + limit + 1, math.MaxInt64, // in the future
		now - limit - 1, 0, math.MinInt64} { // too old
		b.Append(x, at, 1, 0, now)
	}
	b.AppendText(x, math.MaxInt64, []byte("kept nowhere"), 0, now)
	require.Equal(t, TagID(1), b.Tag("bad\xff"))
	require.Equal(t, NoTag, b.Tag("z"))
	require.Equal(t, TagID(1), b.Tag("bad\xff"), "a known tag is found although the limit is reached")
	require.Equal(t, TagID(1), b.Tag("bad\ufffd"))
	b.Append(NoTag, now, 1, 0, now)
	b.AppendNull(NoTag, now, 0, now)
	require.Len(t, rows(t, b.Flush(nil)[0].Record), 3)
	tot := env.Meter.Totals()
	require.EqualValues(t, 11, tot.Ingested)
	require.Equal(t, map[string]int64{"time_in_future": 3, "time_too_old": 3, "too_many_tags": 2}, tot.DroppedAt["src"])

	huge := NewBatcher(BatchConfig{MaxRows: 100, MaxFuture: math.MaxInt64, MaxPast: math.MaxInt64, MaxTags: 1}, testEnv(t, 1))
	huge.Append(huge.Tag("x"), now, 1, 0, now)
	require.Len(t, rows(t, huge.Flush(nil)[0].Record), 1, "a bound without end drops nothing")
}

// Long texts close a batch before its rows do.
func TestBatcherBoundsText(t *testing.T) {
	b := NewBatcher(BatchConfig{MaxRows: 1 << 20, MaxTags: 1}, testEnv(t, 1))
	text := []byte(strings.Repeat("a", 1<<20))
	for !b.Full() {
		require.Less(t, b.Len(), 10)
		b.AppendText(b.Tag("x"), 1, text, 0, 1)
	}
	b.Flush(nil)[0].Record.Release()
	require.False(t, b.Full())
}

// Random readings come out as a stable sort of what went in, each shard with
// the tags that are its own.
func TestBatcherAgainstReference(t *testing.T) {
	rng := rand.New(rand.NewPCG(7, 8))
	for range 300 {
		shards := rng.IntN(4) + 1
		env := testEnv(t, shards)
		b := NewBatcher(BatchConfig{MaxRows: 1, MaxTags: 1000}, env)
		for range 3 { // the same batcher again
			var want []row
			first := map[string]int{}
			kinds := rng.IntN(3) + 1
			for i := range rng.IntN(200) {
				x := row{tag: fmt.Sprintf("a%d/m%d", rng.IntN(5), rng.IntN(3)), time: rng.Int64N(20), received: int64(i), value: "null", text: "null", quality: rng.Uint32()}
				id := b.Tag(x.tag)
				switch rng.IntN(kinds) {
				case 0:
					v := rng.NormFloat64()
					x.value = fmt.Sprint(v)
					b.Append(id, x.time, v, x.quality, x.received)
				case 1:
					b.AppendNull(id, x.time, x.quality, x.received)
				case 2:
					s := strings.Repeat("é", rng.IntN(4))
					x.text = fmt.Sprintf("%+q", s)
					b.AppendText(id, x.time, []byte(s), x.quality, x.received)
				}
				if _, ok := first[x.tag]; !ok {
					first[x.tag] = i
				}
				want = append(want, x)
			}
			slices.SortStableFunc(want, func(a, b row) int {
				if a.tag != b.tag {
					return first[a.tag] - first[b.tag]
				}
				return int(a.time - b.time)
			})
			got := b.Flush(nil)
			for i, batch := range got {
				require.Equal(t, i+1 < len(got), batch.More)
				mine := []row{}
				rest := want[:0:0]
				for _, x := range want {
					if env.Tags.Shard(x.tag, shards) == batch.Shard {
						mine = append(mine, x)
					} else {
						rest = append(rest, x)
					}
				}
				require.Equal(t, mine, rows(t, batch.Record))
				want = rest
			}
			require.Empty(t, want)
		}
	}
}

func BenchmarkBatcher(b *testing.B) {
	for _, tags := range []int{10, 1000} {
		for _, shards := range []int{1, 4} {
			b.Run(fmt.Sprintf("tags=%d/shards=%d", tags, shards), func(b *testing.B) {
				x := NewBatcher(DefaultBatch(), pipeline.Env{Shards: shards, Tags: pipeline.NewTags(nil)})
				ids := make([]TagID, tags)
				for i := range ids {
					ids[i] = x.Tag(fmt.Sprintf("plant/hall/asset%d/value", i))
				}
				now := time.Now().UnixNano()
				var out []pipeline.Batch
				b.ReportAllocs()
				for b.Loop() {
					for i := range 4096 {
						x.Append(ids[i%tags], now+int64(i), 1.5, 0, now)
					}
					out = x.Flush(out[:0])
					for _, r := range out {
						r.Record.Release()
					}
				}
				b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/4096, "ns/row")
			})
		}
	}
}
