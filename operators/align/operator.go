package align

import (
	"context"
	"fmt"
	"io"
	"math"
	"slices"
	"strings"

	"github.com/apache/arrow/go/v17/arrow"
	"github.com/apache/arrow/go/v17/arrow/memory"

	"github.com/penstock/penstock/internal/columns"
	"github.com/penstock/penstock/internal/state"
	"github.com/penstock/penstock/pipeline"
)

// maxRows is where Advance begins another record.
const maxRows = 8192

// Operator makes wide frames. See the package comment.
type Operator struct {
	cfg              Config
	env              pipeline.Env
	interval, offset int64
	age              arrow.Timestamp
	delay            int64 // from a grid point to its row
	out              *arrow.Schema
	cols             struct{ time, tag, value, quality int }

	tags   columns.Names
	slots  []int // by tag: its series, or -1 when it is not listed
	assets columns.Names
	series []series // by asset, then measurement
	closed int64    // number of the last grid point whose rows are out

	runs  []pipeline.Run
	rows  output
	whole []series // scratch of emitAsset
}

// output collects the rows that Advance emits.
type output struct {
	keys    columns.Keys
	vals    [][]float64
	valid   [][]bool
	quality []uint32
}

// New returns the operator.
func New(cfg Config, env pipeline.Env) (*Operator, error) {
	if cfg.Interval <= 0 {
		return nil, fmt.Errorf("interval %v makes no grid", cfg.Interval)
	}
	if env.Alloc == nil {
		env.Alloc = memory.DefaultAllocator
	}
	if env.Tags == nil {
		env.Tags = pipeline.NewTags(nil)
	}
	n := int64(cfg.Interval)
	o := &Operator{cfg: cfg, env: env, interval: n, offset: (int64(cfg.Offset)%n + n) % n, age: arrow.Timestamp(cfg.MaxAge), closed: math.MinInt64}
	if o.age == 0 {
		o.age = arrow.Timestamp(10 * n)
		if cfg.Method == methodLinear {
			o.age = arrow.Timestamp(2 * n)
		}
	}
	if cfg.Method == methodLinear {
		o.delay = int64(o.age)
	}
	return o, nil
}

// Open finds the columns: time, tag, the one to take and, if there is one,
// quality.
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
	fields := []arrow.Field{{Name: pipeline.NameTime, Type: pipeline.TimeType}, {Name: pipeline.NameTag, Type: pipeline.TagType}}
	for _, m := range o.cfg.Measurements {
		fields = append(fields, arrow.Field{Name: m, Type: arrow.PrimitiveTypes.Float64, Nullable: true})
	}
	fields = append(fields, arrow.Field{Name: pipeline.NameQuality, Type: arrow.PrimitiveTypes.Uint32})
	o.out = arrow.NewSchema(fields, nil)
	n := len(o.cfg.Measurements)
	o.rows.vals, o.rows.valid = make([][]float64, n), make([][]bool, n)
	return o.out, nil
}

// slot returns the series of a tag, or -1.
func (o *Operator) slot(tag string) int {
	id := o.tags.ID(tag)
	if id == len(o.slots) {
		info, slot := o.env.Tags.Info(tag), -1
		if m := slices.Index(o.cfg.Measurements, info.Measurement); m >= 0 {
			n := len(o.cfg.Measurements)
			asset := o.assets.ID(info.Asset)
			if asset*n == len(o.series) {
				o.series = append(o.series, make([]series, n)...)
			}
			slot = asset*n + m
		}
		o.slots = append(o.slots, slot)
	}
	return o.slots[id]
}

// Process keeps the readings until their grid points are due.
func (o *Operator) Process(_ context.Context, in arrow.Record, _ pipeline.Emitter) error {
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
	late := 0
	closed := o.at(o.closed)
	for _, run := range o.runs {
		slot := o.slot(run.Tag)
		if slot < 0 {
			continue
		}
		s := o.series[slot]
		for i := run.Start; i < run.End; i++ {
			x := sample{t: times[i], v: vals.Values[i]}
			if qual != nil {
				x.q = qual[i]
			}
			if x.t <= closed && o.tooLate(s, x.t, closed) {
				late++
				continue
			}
			x.ok = usable(x.q, x.v, vals.Null(i))
			s = s.insert(x)
		}
		o.series[slot] = s
	}
	o.env.Meter.Dropped(o.env.Name, "late", late)
	return nil
}

// tooLate reports whether a reading at or before the last closed grid point
// says nothing about those to come.
func (o *Operator) tooLate(s series, t, closed arrow.Timestamp) bool {
	if o.cfg.Method == methodMean {
		return t < closed
	}
	return len(s) > 0 && s[0].t <= closed && t < s[0].t // s[0] holds at closed
}

// at returns the time of grid point n.
func (o *Operator) at(n int64) arrow.Timestamp {
	if n == math.MinInt64 {
		return math.MinInt64
	}
	return arrow.Timestamp(n*o.interval + o.offset)
}

// Advance emits the rows of the grid points that are due.
func (o *Operator) Advance(_ context.Context, watermark arrow.Timestamp, out pipeline.Emitter) error {
	if int64(watermark) < math.MinInt64+o.delay+o.interval {
		return nil
	}
	now := floorDiv(int64(watermark)-o.delay-o.offset, o.interval)
	if now <= o.closed {
		return nil
	}
	before := o.closed
	o.closed = now
	n := len(o.cfg.Measurements)
	for asset := range o.assets.Len() {
		if err := o.emitAsset(o.assets.Name(asset), o.series[asset*n:(asset+1)*n], before, now, out); err != nil {
			return err
		}
	}
	return o.flush(out)
}

// emitAsset adds the rows of one asset at the grid points in (before, now] and
// forgets the readings that later ones cannot use.
func (o *Operator) emitAsset(asset string, all []series, before, now int64, out pipeline.Emitter) error {
	o.whole = append(o.whole[:0], all...)
	g := before + 1
	if before == math.MinInt64 {
		g = o.reached(all, math.MinInt64+1)
	}
	for g <= now {
		t := o.at(g)
		used := o.row(asset, t, all)
		o.forget(all, t)
		if used {
			g++
		} else {
			g = max(g+1, o.reached(all, t))
		}
		if o.rows.keys.Len() >= maxRows {
			if err := o.flush(out); err != nil {
				return err
			}
		}
	}
	o.forget(all, o.at(now))
	for m, s := range all { // back to the front of its memory
		all[m] = o.whole[m][:copy(o.whole[m], s)]
	}
	return nil
}

// reached returns the first grid point that a reading after t counts for.
func (o *Operator) reached(all []series, t arrow.Timestamp) int64 {
	g := int64(math.MaxInt64)
	for _, s := range all {
		if o.cfg.Method == methodMean {
			if k := s.upTo(t - 1); k < len(s) {
				g = min(g, floorDiv(int64(s[k].t)-o.offset, o.interval)+1)
			}
		} else if k := s.upTo(t); k < len(s) {
			g = min(g, -floorDiv(o.offset-int64(s[k].t), o.interval))
		}
	}
	return g
}

// forget drops the readings that no grid point after t needs.
func (o *Operator) forget(all []series, t arrow.Timestamp) {
	for m, s := range all {
		if o.cfg.Method == methodMean {
			all[m] = s[s.upTo(t-1):]
		} else {
			all[m] = s[max(s.upTo(t)-1, 0):]
		}
	}
}

// row adds the row of one asset at t, unless no reading is in use there.
func (o *Operator) row(asset string, t arrow.Timestamp, all []series) bool {
	var worst point
	r := &o.rows
	for m, s := range all {
		var p point
		switch o.cfg.Method {
		case methodMean:
			p = s.mean(t-arrow.Timestamp(o.interval), t)
		case methodLinear:
			p = s.linear(t, o.age)
		default:
			p = s.last(t, o.age)
		}
		r.vals[m], r.valid[m] = append(r.vals[m], p.v), append(r.valid[m], p.ok)
		if p.used {
			worst.use(sample{q: p.q})
		}
	}
	if !worst.used {
		for m := range all {
			r.vals[m], r.valid[m] = r.vals[m][:r.keys.Len()], r.valid[m][:r.keys.Len()]
		}
		return false
	}
	r.keys.Add(asset, t)
	r.quality = append(r.quality, worst.q)
	return true
}

func (o *Operator) flush(out pipeline.Emitter) error {
	r := &o.rows
	if r.keys.Len() == 0 {
		return nil
	}
	times, tags := r.keys.Arrays(o.env.Alloc)
	cols := []arrow.Array{times, tags}
	for m := range r.vals {
		cols = append(cols, columns.Float64s(o.env.Alloc, r.vals[m], r.valid[m]))
		r.vals[m], r.valid[m] = r.vals[m][:0], r.valid[m][:0]
	}
	cols = append(cols, columns.Uint32s(o.env.Alloc, r.quality))
	r.keys.Reset()
	r.quality = r.quality[:0]
	rec := columns.Record(o.out, cols)
	defer rec.Release()
	return out.Emit("", rec)
}

const (
	stateVersion = 1
	sampleBytes  = 8 + 8 + 4 + 1 // in a snapshot
)

// Snapshot writes the readings that rows to come may need.
func (o *Operator) Snapshot(w io.Writer) error {
	s := state.NewWriter("align", stateVersion)
	s.Int(o.interval)
	s.Int(o.offset)
	s.String(o.cfg.Method)
	s.String(strings.Join(o.cfg.Measurements, "\n"))
	s.Int(o.closed)
	s.Uint(uint64(o.assets.Len()))
	for a := range o.assets.Len() {
		s.String(o.assets.Name(a))
	}
	for _, l := range o.series {
		s.Uint(uint64(len(l)))
		for _, x := range l {
			s.Int(int64(x.t))
			s.Float(x.v)
			s.Uint32(x.q)
			s.Bool(x.ok)
		}
	}
	return s.Flush(w)
}

// Restore brings the readings back. It fails if the grid or the columns of the
// config are not those of the snapshot.
func (o *Operator) Restore(src io.Reader) error {
	r := state.NewReader(src, "align", stateVersion)
	r.Expect("interval (ns)", r.Int(), o.interval)
	r.Expect("offset (ns)", r.Int(), o.offset)
	r.Expect("method", r.String(), o.cfg.Method)
	r.Expect("measurements", r.String(), strings.Join(o.cfg.Measurements, "\n"))
	closed := r.Int()
	var assets columns.Names
	for a := range r.Len(1) {
		if name := r.String(); assets.ID(name) != a {
			r.Fail(fmt.Errorf("snapshot has asset %q twice", name))
			break
		}
	}
	all := make([]series, assets.Len()*len(o.cfg.Measurements))
	for k := range all {
		l := make(series, r.Len(sampleBytes))
		for i := range l {
			l[i] = sample{t: arrow.Timestamp(r.Int()), v: r.Float(), q: r.Uint32(), ok: r.Bool()}
		}
		all[k] = l
	}
	if err := r.Close(); err != nil {
		return err
	}
	o.assets, o.series, o.closed = assets, all, closed
	o.tags, o.slots = columns.Names{}, nil
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
