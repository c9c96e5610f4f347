// Package ingest is where readings enter: the batcher that every source fills,
// and, one package each, the sources themselves.
package ingest

import (
	"fmt"
	"sort"
	"strings"
	"time"

	"github.com/apache/arrow/go/v17/arrow"
	"github.com/apache/arrow/go/v17/arrow/array"
	"github.com/apache/arrow/go/v17/arrow/memory"

	"github.com/penstock/penstock/pipeline"
)

// BatchConfig is the `batch` section that every live source has.
type BatchConfig struct {
	// MaxRows closes a batch before its linger is over.
	MaxRows int `yaml:"max_rows"`
	// Linger is how long a reading may wait for others.
	Linger time.Duration `yaml:"linger"`
	// MaxFuture drops a reading whose source time is further ahead of the
	// gateway's clock than this: one reading from 2100 would otherwise close
	// every window. 0 takes all.
	MaxFuture time.Duration `yaml:"max_future"`
	// MaxPast drops a reading that is older than this. 0 takes all.
	MaxPast time.Duration `yaml:"max_past"`
	// MaxTags bounds how many tags a source may make: an endless stream of new
	// topic names must not fill the memory.
	MaxTags int `yaml:"max_tags"`
	// Lateness is how far behind the newest reading of the source others may
	// lag before they count as late.
	Lateness time.Duration `yaml:"lateness"`
	// IdleAfter is how long a source may be silent before it stops holding
	// time back.
	IdleAfter time.Duration `yaml:"idle_after"`
}

// DefaultBatch are the settings where the YAML is silent.
func DefaultBatch() BatchConfig {
	return BatchConfig{MaxRows: 4096, Linger: 10 * time.Millisecond, MaxFuture: 10 * time.Minute,
		MaxPast: 10 * 365 * 24 * time.Hour, MaxTags: 100_000, Lateness: 2 * time.Second, IdleAfter: 10 * time.Second}
}

// Validate checks the settings.
func (c *BatchConfig) Validate(p *pipeline.Problems) {
	if c.MaxRows < 1 || c.MaxRows > 1<<20 {
		p.Add("max_rows", fmt.Sprintf("%d is out of range", c.MaxRows), "write 1 to 1048576; 4096 suits most gateways")
	}
	for _, d := range []struct {
		key string
		v   time.Duration
	}{{"linger", c.Linger}, {"max_future", c.MaxFuture}, {"max_past", c.MaxPast}, {"lateness", c.Lateness}, {"idle_after", c.IdleAfter}} {
		if d.v < 0 {
			p.Add(d.key, fmt.Sprintf("%v is negative", d.v), "write a duration such as 10ms, 2s or 1h")
		}
	}
	if c.MaxTags < 1 {
		p.Add("max_tags", fmt.Sprintf("%d is out of range", c.MaxTags), "write how many tags this source may have, such as 100000")
	}
}

// TagID is a tag's number in one Batcher. NoTag is none: the limit is reached.
type TagID int32

// NoTag is returned for a tag beyond MaxTags; Append counts its rows as dropped.
const NoTag TagID = -1

// Batcher turns readings, as they are decoded, into Arrow batches of the
// schema [pipeline.Readings], one per shard, grouped by tag and in time order.
// It is not safe for concurrent use.
//
// Every call to Append counts the row as ingested at the next Flush; rows
// outside the time bounds, or without a tag, are counted as dropped too.
type Batcher struct {
	cfg    BatchConfig
	env    pipeline.Env
	source string

	ids    map[string]TagID
	names  []string
	shards []int32

	// The open batch, one entry a row.
	tag            []TagID
	time, received []int64
	value          []float64
	quality        []uint32
	flags          []uint8
	textAt         []int32 // row → end of its text in text; only when some row has text
	text           []byte
	hasText        bool
	anyNull        bool

	count   []int32 // by TagID: rows in the open batch, then the write position
	touched []TagID // tags in the open batch, in order of first row

	ingested                                 int
	future, past, noTag                      int
	futureTag, pastTag                       string
	futureTime, pastTime                     int64
	lastFutureLog, lastPastLog, lastNoTagLog time.Time
}

const (
	rowHasValue = 1 << iota
	rowHasText
)

// NewBatcher returns an empty batcher for the source called env.Name.
func NewBatcher(cfg BatchConfig, env pipeline.Env) *Batcher {
	if env.Alloc == nil {
		env.Alloc = memory.DefaultAllocator
	}
	return &Batcher{cfg: cfg, env: env, source: env.Name, ids: map[string]TagID{}}
}

// Tag returns the number of the tag called name, new or known. Look a tag up
// once and keep the number.
func (b *Batcher) Tag(name string) TagID {
	if id, ok := b.ids[name]; ok {
		return id
	}
	name = strings.ToValidUTF8(strings.Clone(name), "\uFFFD")
	if id, ok := b.ids[name]; ok {
		return id
	}
	if len(b.names) >= b.cfg.MaxTags {
		return NoTag
	}
	id := TagID(len(b.names))
	b.ids[name] = id
	b.names = append(b.names, name)
	b.count = append(b.count, 0)
	shard := 0
	if b.env.Shards > 1 {
		shard = b.env.Tags.Shard(name, b.env.Shards)
	}
	b.shards = append(b.shards, int32(shard))
	return id
}

// TagBytes is Tag for a name in a buffer; it allocates only for a new tag.
func (b *Batcher) TagBytes(name []byte) TagID {
	if id, ok := b.ids[string(name)]; ok {
		return id
	}
	return b.Tag(string(name))
}

// Name returns the name of a tag.
func (b *Batcher) Name(id TagID) string { return b.names[id] }

func (b *Batcher) admit(id TagID, t, received int64) bool {
	b.ingested++
	switch {
	case id < 0:
		b.noTag++
	// A difference as uint64 is right even where it overflows int64.
	case b.cfg.MaxFuture > 0 && t > received && uint64(t-received) > uint64(b.cfg.MaxFuture):
		b.future, b.futureTag, b.futureTime = b.future+1, b.names[id], t
	case b.cfg.MaxPast > 0 && t < received && uint64(received-t) > uint64(b.cfg.MaxPast):
		b.past, b.pastTag, b.pastTime = b.past+1, b.names[id], t
	default:
		return true
	}
	return false
}

func (b *Batcher) row(id TagID, t int64, v float64, q uint32, received int64, flags uint8) {
	if b.count[id] == 0 {
		b.touched = append(b.touched, id)
	}
	b.count[id]++
	b.tag = append(b.tag, id)
	b.time = append(b.time, t)
	b.value = append(b.value, v)
	b.quality = append(b.quality, q)
	b.received = append(b.received, received)
	b.flags = append(b.flags, flags)
	if b.hasText {
		b.textAt = append(b.textAt, int32(len(b.text)))
	}
}

// Append adds a number: source time and time of arrival in ns since 1970,
// quality an OPC UA StatusCode.
func (b *Batcher) Append(id TagID, t int64, v float64, q uint32, received int64) {
	if b.admit(id, t, received) {
		b.row(id, t, v, q, received, rowHasValue)
	}
}

// AppendNull adds a reading that has no value, such as one of Bad quality.
func (b *Batcher) AppendNull(id TagID, t int64, q uint32, received int64) {
	if b.admit(id, t, received) {
		b.anyNull = true
		b.row(id, t, 0, q, received, 0)
	}
}

// AppendText adds a string; the bytes are copied, and what is not UTF-8 in
// them is replaced.
func (b *Batcher) AppendText(id TagID, t int64, text []byte, q uint32, received int64) {
	if !b.admit(id, t, received) {
		return
	}
	if !b.hasText {
		b.hasText = true
		for range b.tag {
			b.textAt = append(b.textAt, 0)
		}
	}
	b.text = append(b.text, strings.ToValidUTF8(string(text), "\uFFFD")...)
	b.anyNull = true
	b.row(id, t, 0, q, received, rowHasText)
}

// Len returns how many rows the open batch has.
func (b *Batcher) Len() int { return len(b.tag) }

// maxText closes a batch before its rows do: a batch of long texts must fit
// into a message of the journal, and into memory.
const maxText = 4 << 20

// Full reports whether the open batch has reached MaxRows, or holds much text.
func (b *Batcher) Full() bool { return len(b.tag) >= b.cfg.MaxRows || len(b.text) >= maxText }

// Flush closes the open batch and appends it to dst, one Batch per shard that
// has rows. The caller owns the records.
func (b *Batcher) Flush(dst []pipeline.Batch) []pipeline.Batch {
	b.report()
	if len(b.tag) == 0 {
		return dst
	}
	shards := max(b.env.Shards, 1)
	if shards > 1 {
		sort.SliceStable(b.touched, func(i, j int) bool { return b.shards[b.touched[i]] < b.shards[b.touched[j]] })
	}
	// Counting sort: count becomes each tag's write position.
	order := make([]int32, len(b.tag))
	pos := int32(0)
	for _, id := range b.touched {
		n := b.count[id]
		b.count[id] = pos
		pos += n
	}
	for i, id := range b.tag {
		order[b.count[id]] = int32(i)
		b.count[id]++
	}
	// count[id] is now the end of the tag's run.
	start := int32(0)
	for _, id := range b.touched {
		end := b.count[id]
		b.sortRun(order[start:end])
		start = end
	}
	first, row := 0, int32(0)
	for first < len(b.touched) {
		last := first + 1
		for last < len(b.touched) && b.shards[b.touched[last]] == b.shards[b.touched[first]] {
			last++
		}
		end := b.count[b.touched[last-1]]
		dst = append(dst, pipeline.Batch{Source: b.source, Shard: int(b.shards[b.touched[first]]), Record: b.record(b.touched[first:last], order[row:end], row), More: last < len(b.touched)})
		first, row = last, end
	}
	for _, id := range b.touched {
		b.count[id] = 0
	}
	b.tag, b.time, b.value, b.quality, b.received, b.flags = b.tag[:0], b.time[:0], b.value[:0], b.quality[:0], b.received[:0], b.flags[:0]
	b.touched, b.text, b.textAt, b.hasText, b.anyNull = b.touched[:0], b.text[:0], b.textAt[:0], false, false
	return dst
}

// sortRun puts one tag's rows in time order, equal times in order of arrival.
// They nearly always are already.
func (b *Batcher) sortRun(run []int32) {
	for i := 1; i < len(run); i++ {
		if b.time[run[i]] < b.time[run[i-1]] {
			sort.SliceStable(run, func(i, j int) bool { return b.time[run[i]] < b.time[run[j]] })
			return
		}
	}
}

// record builds the Arrow record of the rows in order, whose runs are tags.
func (b *Batcher) record(tags []TagID, order []int32, base int32) arrow.Record {
	n := len(order)
	times := b.buffer(n * 8)
	recv := b.buffer(n * 8)
	idx := b.buffer(n * 4)
	vals := b.buffer(n * 8)
	qual := b.buffer(n * 4)
	tv, rv := arrow.Int64Traits.CastFromBytes(times.Bytes()), arrow.Int64Traits.CastFromBytes(recv.Bytes())
	iv, vv := arrow.Int32Traits.CastFromBytes(idx.Bytes()), arrow.Float64Traits.CastFromBytes(vals.Bytes())
	qv := arrow.Uint32Traits.CastFromBytes(qual.Bytes())
	for k, i := range order {
		tv[k], rv[k], vv[k], qv[k] = b.time[i], b.received[i], b.value[i], b.quality[i]
	}
	start := int32(0)
	names := array.NewStringBuilder(b.env.Alloc)
	names.Reserve(len(tags))
	size := 0
	for _, id := range tags {
		size += len(b.names[id])
	}
	names.ReserveData(size)
	for run, id := range tags {
		end := b.count[id] - base
		for k := start; k < end; k++ {
			iv[k] = int32(run)
		}
		start = end
		names.Append(b.names[id])
	}
	dict := names.NewStringArray()
	names.Release()

	var valid *memory.Buffer
	nulls := 0
	if b.anyNull {
		valid = b.buffer((n + 7) / 8)
		clear(valid.Bytes())
		for k, i := range order {
			if b.flags[i]&rowHasValue != 0 {
				valid.Bytes()[k>>3] |= 1 << (k & 7)
			} else {
				nulls++
			}
		}
	}
	text := b.textArray(order)
	cols := []arrow.Array{
		fixed(pipeline.TimeType, n, 0, nil, times),
		dictionary(n, idx, dict),
		fixed(arrow.PrimitiveTypes.Float64, n, nulls, valid, vals),
		text,
		fixed(arrow.PrimitiveTypes.Uint32, n, 0, nil, qual),
		fixed(pipeline.TimeType, n, 0, nil, recv),
	}
	rec := array.NewRecord(pipeline.Readings, cols, int64(n))
	for _, c := range cols {
		c.Release()
	}
	dict.Release()
	return rec
}

func (b *Batcher) textArray(order []int32) arrow.Array {
	if !b.hasText { // nearly always: all null
		n := len(order)
		offsets, valid := b.buffer((n+1)*4), b.buffer((n+7)/8)
		clear(offsets.Bytes())
		clear(valid.Bytes())
		d := array.NewData(arrow.BinaryTypes.String, n, []*memory.Buffer{valid, offsets, nil}, nil, n, 0)
		offsets.Release()
		valid.Release()
		a := array.MakeFromData(d)
		d.Release()
		return a
	}
	tb := array.NewStringBuilder(b.env.Alloc)
	defer tb.Release()
	tb.Reserve(len(order))
	for _, i := range order {
		if b.flags[i]&rowHasText == 0 {
			tb.AppendNull()
			continue
		}
		from := int32(0)
		if i > 0 {
			from = b.textAt[i-1]
		}
		tb.Append(string(b.text[from:b.textAt[i]]))
	}
	return tb.NewArray()
}

func (b *Batcher) buffer(n int) *memory.Buffer {
	buf := memory.NewResizableBuffer(b.env.Alloc)
	buf.Resize(n)
	return buf
}

// fixed makes an array of buffers that it takes over.
func fixed(t arrow.DataType, n, nulls int, valid, data *memory.Buffer) arrow.Array {
	d := array.NewData(t, n, []*memory.Buffer{valid, data}, nil, nulls, 0)
	if valid != nil {
		valid.Release()
	}
	data.Release()
	a := array.MakeFromData(d)
	d.Release()
	return a
}

func dictionary(n int, idx *memory.Buffer, dict *array.String) arrow.Array {
	d := array.NewDataWithDictionary(pipeline.TagType, n, []*memory.Buffer{nil, idx}, 0, 0, dict.Data().(*array.Data))
	idx.Release()
	a := array.MakeFromData(d)
	d.Release()
	return a
}

// report counts what came in since the last flush, and says what was refused,
// at most once in ten seconds for each reason.
func (b *Batcher) report() {
	m := b.env.Meter
	if m != nil {
		m.Ingested(b.source, b.ingested)
		m.Dropped(b.source, "time_in_future", b.future)
		m.Dropped(b.source, "time_too_old", b.past)
		m.Dropped(b.source, "too_many_tags", b.noTag)
	}
	if log := b.env.Log; log != nil && b.future+b.past+b.noTag > 0 {
		now := time.Now()
		if b.future > 0 && now.Sub(b.lastFutureLog) > 10*time.Second {
			b.lastFutureLog = now
			log.Warn("readings dropped: source time is in the future; check the device's clock or the timestamp unit",
				"tag", b.futureTag, "time", time.Unix(0, b.futureTime).UTC(), "rows", b.future, "max_future", b.cfg.MaxFuture)
		}
		if b.past > 0 && now.Sub(b.lastPastLog) > 10*time.Second {
			b.lastPastLog = now
			log.Warn("readings dropped: source time is too old; check the device's clock or the timestamp unit",
				"tag", b.pastTag, "time", time.Unix(0, b.pastTime).UTC(), "rows", b.past, "max_past", b.cfg.MaxPast)
		}
		if b.noTag > 0 && now.Sub(b.lastNoTagLog) > 10*time.Second {
			b.lastNoTagLog = now
			log.Warn("readings dropped: the source has reached its limit of tags; raise batch.max_tags or narrow what it reads",
				"max_tags", b.cfg.MaxTags, "rows", b.noTag)
		}
	}
	b.ingested, b.future, b.past, b.noTag = 0, 0, 0, 0
}
