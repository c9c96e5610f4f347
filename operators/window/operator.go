package window

import (
	"context"
	"fmt"
	"io"
	"math"
	"slices"
	"sort"

	"github.com/apache/arrow/go/v17/arrow"
	"github.com/apache/arrow/go/v17/arrow/memory"

	"github.com/penstock/penstock/internal/columns"
	"github.com/penstock/penstock/internal/state"
	"github.com/penstock/penstock/pipeline"
)

// PortLate is the output of late rows, when they are routed.
const PortLate = "late"

// maxRows is where Advance begins another record, at the next tag.
const maxRows = 8192

// Operator makes windows. See the package comment.
type Operator struct {
	cfg           Config
	env           pipeline.Env
	every, offset int64
	panes         int64 // in a window
	in, out       *arrow.Schema
	cols          struct{ time, tag, value, quality int }

	names  columns.Names
	open   [][]pane // by tag: the panes of windows that are open, in time order
	closed int64    // the number of the last closed window: it ends at closed*every+offset

	runs []pipeline.Run
	late []int32 // rows of the batch at hand
	rows output
}

// output collects the rows that Advance emits.
type output struct {
	keys    columns.Keys
	start   []arrow.Timestamp
	vals    [][]float64
	valid   [][]bool
	count   []float64
	quality []uint32
}

// New returns the operator.
func New(cfg Config, env pipeline.Env) (*Operator, error) {
	if env.Alloc == nil {
		env.Alloc = memory.DefaultAllocator
	}
	if cfg.Size == 0 {
		cfg.Size = cfg.Every
	}
	if cfg.Every <= 0 || cfg.Size < cfg.Every || cfg.Size%cfg.Every != 0 {
		return nil, fmt.Errorf("every %v and size %v make no windows", cfg.Every, cfg.Size)
	}
	every := int64(cfg.Every)
	// count has a column of its own.
	cfg.Aggregates = slices.DeleteFunc(slices.Clone(cfg.Aggregates), func(a string) bool { return a == "count" })
	return &Operator{cfg: cfg, env: env, every: every, offset: (int64(cfg.Offset)%every + every) % every,
		panes: int64(cfg.Size) / every, closed: math.MinInt64}, nil
}

// Open finds the columns: time, tag, the one to aggregate and, if there is
// one, quality.
func (o *Operator) Open(_ context.Context, in *arrow.Schema) (*arrow.Schema, error) {
	var err error
	if o.cols.time, err = columns.Find(in, pipeline.NameTime, pipeline.TimeType); err != nil {
		return nil, err
	}
	if o.cols.tag, err = columns.Find(in, pipeline.NameTag, pipeline.TagType); err != nil {
		return nil, err
	}
	if o.cols.value, err = columns.Find(in, o.cfg.Column, arrow.PrimitiveTypes.Float64); err != nil {
		return nil, err
	}
	o.cols.quality = pipeline.Column(in, pipeline.NameQuality)
	fields := []arrow.Field{
		{Name: pipeline.NameTime, Type: pipeline.TimeType},
		{Name: pipeline.NameTag, Type: pipeline.TagType},
		{Name: "window_start", Type: pipeline.TimeType},
	}
	for _, a := range o.cfg.Aggregates {
		fields = append(fields, arrow.Field{Name: a, Type: arrow.PrimitiveTypes.Float64, Nullable: true})
	}
	fields = append(fields, arrow.Field{Name: "count", Type: arrow.PrimitiveTypes.Float64},
		arrow.Field{Name: pipeline.NameQuality, Type: arrow.PrimitiveTypes.Uint32})
	o.in, o.out = in, arrow.NewSchema(fields, nil)
	o.rows.vals, o.rows.valid = make([][]float64, len(o.cfg.Aggregates)), make([][]bool, len(o.cfg.Aggregates))
	return o.out, nil
}

// Ports returns the output of late rows, if they are routed.
func (o *Operator) Ports() map[string]*arrow.Schema {
	if o.cfg.Late != "route" {
		return nil
	}
	return map[string]*arrow.Schema{PortLate: o.in}
}

// Process takes the rows into their panes.
func (o *Operator) Process(_ context.Context, in arrow.Record, out pipeline.Emitter) error {
	times, err := columns.Times(in, o.cols.time)
	if err != nil {
		return err
	}
	vals, err := columns.Float64(in, o.cols.value)
	if err != nil {
		return err
	}
	qual, err := columns.Uint32(in, o.cols.quality)
	if err != nil {
		return err
	}
	if o.runs, err = pipeline.Runs(o.runs[:0], in, o.cols.tag); err != nil {
		return err
	}
	o.late = o.late[:0]
	for _, run := range o.runs {
		id := o.names.ID(run.Tag)
		if id == len(o.open) {
			o.open = append(o.open, nil)
		}
		for i := run.Start; i < run.End; {
			index := floorDiv(int64(times[i])-o.offset, o.every)
			begin := arrow.Timestamp(index*o.every + o.offset)
			j := i + 1
			// In time order, so the rows of a pane adjoin.
			for j < run.End && times[j] >= begin && times[j]-begin < arrow.Timestamp(o.every) {
				j++
			}
			if o.closed != math.MinInt64 && index <= o.closed-o.panes {
				for ; i < j; i++ {
					o.late = append(o.late, int32(i))
				}
				continue
			}
			o.take(o.pane(id, index), times, vals, qual, i, j)
			i = j
		}
	}
	if len(o.late) == 0 {
		return nil
	}
	if o.cfg.Late != "route" {
		o.env.Meter.Dropped(o.env.Name, "late", len(o.late))
		return nil
	}
	rec, err := columns.Take(o.env.Alloc, in, o.late)
	if err != nil {
		return err
	}
	defer rec.Release()
	return out.Emit(PortLate, rec)
}

func (o *Operator) take(p *pane, times []arrow.Timestamp, vals columns.Floats, qual []uint32, i, j int) {
	p.rows += int64(j - i)
	include := o.cfg.Bad == "include"
	for ; i < j; i++ {
		q := uint32(0)
		if qual != nil {
			q = qual[i]
		}
		if pipeline.IsGood(q) {
			p.good++
		}
		v := vals.Values[i]
		if vals.Null(i) || v-v != 0 { // null, NaN or infinite
			continue
		}
		if !pipeline.IsBad(q) {
			p.fit++
		} else if !include {
			continue
		}
		p.add(times[i], v)
	}
}

// pane returns the pane of a tag with the given index, new or known.
func (o *Operator) pane(tag int, index int64) *pane {
	l := o.open[tag]
	k := len(l)
	for k > 0 && l[k-1].index > index { // nearly always the last one
		k--
	}
	if k > 0 && l[k-1].index == index {
		return &l[k-1]
	}
	o.open[tag] = slices.Insert(l, k, pane{index: index})
	return &o.open[tag][k]
}

// Advance emits the windows that end at or before the watermark.
func (o *Operator) Advance(_ context.Context, watermark arrow.Timestamp, out pipeline.Emitter) error {
	if int64(watermark) < math.MinInt64+o.every {
		return nil
	}
	now := floorDiv(int64(watermark)-o.offset, o.every)
	if now <= o.closed {
		return nil
	}
	before := o.closed
	o.closed = now
	for tag, l := range o.open {
		if len(l) == 0 || l[0].index >= now {
			continue
		}
		o.emitTag(tag, l, before, now)
		keep := sort.Search(len(l), func(k int) bool { return l[k].index > now-o.panes })
		o.open[tag] = l[:copy(l, l[keep:])]
		if o.rows.keys.Len() >= maxRows {
			if err := o.flush(out); err != nil {
				return err
			}
		}
	}
	return o.flush(out)
}

// emitTag adds the rows of one tag's windows with numbers in (before, now].
func (o *Operator) emitTag(tag int, l []pane, before, now int64) {
	i := 0
	for w := max(before, l[0].index) + 1; w <= now; w++ { // window w has the panes [w-panes, w)
		for i < len(l) && l[i].index < w-o.panes {
			i++
		}
		if i == len(l) {
			return
		}
		if l[i].index >= w {
			w = l[i].index // nothing until the window after
			continue
		}
		sum := l[i]
		for k := i + 1; k < len(l) && l[k].index < w; k++ {
			sum.join(&l[k])
		}
		o.row(o.names.Name(tag), w, &sum)
	}
}

func (o *Operator) row(tag string, w int64, p *pane) {
	r := &o.rows
	end := arrow.Timestamp(w*o.every + o.offset)
	r.keys.Add(tag, end)
	r.start = append(r.start, end-arrow.Timestamp(o.panes*o.every))
	for k, a := range o.cfg.Aggregates {
		v, ok := p.value(a)
		r.vals[k], r.valid[k] = append(r.vals[k], v), append(r.valid[k], ok)
	}
	r.count = append(r.count, float64(p.n))
	r.quality = append(r.quality, p.quality())
}

func (o *Operator) flush(out pipeline.Emitter) error {
	r := &o.rows
	if r.keys.Len() == 0 {
		return nil
	}
	times, tags := r.keys.Arrays(o.env.Alloc)
	cols := []arrow.Array{times, tags, columns.Timestamps(o.env.Alloc, r.start)}
	for k := range r.vals {
		cols = append(cols, columns.Float64s(o.env.Alloc, r.vals[k], r.valid[k]))
		r.vals[k], r.valid[k] = r.vals[k][:0], r.valid[k][:0]
	}
	cols = append(cols, columns.Float64s(o.env.Alloc, r.count, nil), columns.Uint32s(o.env.Alloc, r.quality))
	r.keys.Reset()
	r.start, r.count, r.quality = r.start[:0], r.count[:0], r.quality[:0]
	rec := columns.Record(o.out, cols)
	defer rec.Release()
	return out.Emit("", rec)
}

const stateVersion = 1

// Snapshot writes the open panes.
func (o *Operator) Snapshot(w io.Writer) error {
	s := state.NewWriter("window", stateVersion)
	s.Int(o.every)
	s.Int(o.offset)
	s.Int(o.panes)
	s.Int(o.closed)
	s.Uint(uint64(len(o.open)))
	for tag, l := range o.open {
		s.String(o.names.Name(tag))
		s.Uint(uint64(len(l)))
		for k := range l {
			l[k].write(s)
		}
	}
	return s.Flush(w)
}

// Restore brings the open panes back. It fails if the windows of the config
// are not those of the snapshot.
func (o *Operator) Restore(src io.Reader) error {
	r := state.NewReader(src, "window", stateVersion)
	r.Expect("every (ns)", r.Int(), o.every)
	r.Expect("offset (ns)", r.Int(), o.offset)
	r.Expect("size/every", r.Int(), o.panes)
	closed := r.Int()
	n := r.Len(2)
	var names columns.Names
	open := make([][]pane, n)
	for tag := range open {
		if names.ID(r.String()) != tag {
			r.Fail(fmt.Errorf("snapshot has tag %q twice", names.Name(tag-1)))
			break
		}
		open[tag] = make([]pane, r.Len(paneBytes))
		for k := range open[tag] {
			open[tag][k].read(r)
		}
	}
	if err := r.Close(); err != nil {
		return err
	}
	o.names, o.open, o.closed = names, open, closed
	return nil
}

// Close does nothing.
func (o *Operator) Close(context.Context) error { return nil }

func floorDiv(a, b int64) int64 {
	q := a / b
	if a%b < 0 {
		q--
	}
	return q
}
