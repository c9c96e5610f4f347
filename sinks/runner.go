// Package sinks takes results out: the runner that reads a sink's queue and
// never gives up, and, one package each, the sinks themselves.
package sinks

import (
	"bytes"
	"context"
	"encoding/gob"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"sync/atomic"
	"time"

	"github.com/apache/arrow/go/v17/arrow"
	"github.com/apache/arrow/go/v17/arrow/array"
	"github.com/cenkalti/backoff/v5"

	"github.com/penstock/penstock/pipeline"
	"github.com/penstock/penstock/pipeline/journal"
)

// Feed is one thing a sink reads: a shard of its own queue, or, for a sink
// wired straight to sources, a shard of the journal.
type Feed struct {
	Name  string // stable: the position is kept under it
	Log   *journal.Log
	Shard int
	// Sources, when set, are the sources of the journal that the sink takes;
	// all else is passed over. nil for a queue, which is the sink's own.
	Sources map[string]bool
}

// Options of a Runner.
type Options struct {
	Name  string
	Sink  pipeline.Sink
	Feeds []Feed
	State *journal.State
	Dead  *journal.Log // the dead-letter queue, with one shard
	Meter *pipeline.Meter
	Log   *slog.Logger
	// MaxRecords and MaxRows bound what is handed to a BatchSink at once.
	MaxRecords, MaxRows int
	// Persist is how often positions are stored: after a crash the sink may
	// see rows again that it has accepted since.
	Persist time.Duration
}

// closeTimeout bounds a sink's Close: a stop must not wait long for a peer.
const closeTimeout = 2 * time.Second

// Runner moves rows from feeds into one sink. One goroutine calls Run.
type Runner struct {
	o       Options
	wake    chan struct{}
	feeds   []*feed
	times   []int64
	saved   time.Time
	changed bool
}

type feed struct {
	Feed
	r      *journal.Reader
	pos    journal.Position // collected
	done   journal.Position // accepted
	seq    atomic.Uint64    // done.Seq, for others
	purged int64            // what the log had appended at the newest purge
	schema *arrow.Schema    // newest, and with its node
	tagged *arrow.Schema
}

type item struct {
	f    *feed
	rec  arrow.Record
	meta journal.Meta
}

// NewRunner restores the positions of the feeds.
func NewRunner(ctx context.Context, o Options) (*Runner, error) {
	if o.MaxRecords == 0 {
		o.MaxRecords = 256
	}
	if o.MaxRows == 0 {
		o.MaxRows = 20_000
	}
	if o.Persist == 0 {
		o.Persist = time.Second
	}
	r := &Runner{o: o, wake: make(chan struct{}, 1), saved: time.Now()}
	positions := map[string]journal.Position{}
	data, err := o.State.Get(ctx, r.key())
	if err != nil {
		return nil, err
	}
	if data != nil {
		if err := gob.NewDecoder(bytes.NewReader(data)).Decode(&positions); err != nil {
			return nil, fmt.Errorf("sink %s: stored position: %w", o.Name, err)
		}
	}
	for _, fd := range o.Feeds {
		pos := fd.Log.Resume(fd.Shard, positions[fd.Name])
		r.changed = r.changed || pos != positions[fd.Name]
		f := &feed{Feed: fd, pos: pos, done: pos}
		f.seq.Store(f.pos.Seq)
		if err := f.Log.Hold(ctx, r.holder(), f.Shard, f.pos); err != nil {
			return nil, err
		}
		f.r = f.Log.Reader(f.Shard, f.pos, r.wake)
		if f.Sources == nil {
			f.r.Pace()
		}
		r.feeds = append(r.feeds, f)
	}
	// A position that had to go back is stored before new entries come.
	return r, r.persist(ctx, math.MaxInt64)
}

func (r *Runner) key() string    { return "sink." + r.o.Name }
func (r *Runner) holder() string { return "sink." + r.o.Name }

// Seq returns the sequence up to which feed i has been accepted. Safe for
// concurrent use.
func (r *Runner) Seq(i int) uint64 { return r.feeds[i].seq.Load() }

// Feeds returns what the runner reads.
func (r *Runner) Feeds() []Feed { return r.o.Feeds }

// Run connects the sink and writes until ctx ends, then stores the positions
// and closes the sink. It returns an error only for one that is permanent at
// Connect, or when the journal itself fails.
func (r *Runner) Run(ctx context.Context) (err error) {
	background := context.WithoutCancel(ctx)
	connected := false
	defer func() {
		for _, f := range r.feeds {
			f.r.Close()
		}
		err = errors.Join(err, r.persist(background, 0))
		if connected {
			cctx, cancel := context.WithTimeout(background, closeTimeout)
			defer cancel()
			err = errors.Join(err, r.o.Sink.Close(cctx))
		}
	}()
	if err := r.retry(ctx, "connect", r.o.Sink.Connect); err != nil {
		if ctx.Err() != nil {
			return nil
		}
		return fmt.Errorf("sink %s: %w", r.o.Name, err)
	}
	connected = true
	r.o.Meter.Connected(r.o.Name, true)
	tick := time.NewTicker(r.o.Persist)
	defer tick.Stop()
	for ctx.Err() == nil {
		items, err := r.collect(ctx)
		if err == nil && len(items) > 0 {
			err = r.write(ctx, items)
		}
		for _, it := range items {
			it.rec.Release()
		}
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return fmt.Errorf("sink %s: %w", r.o.Name, err)
		}
		if r.changed && time.Since(r.saved) >= r.o.Persist {
			if err := r.persist(background, purgeBytes); err != nil {
				return fmt.Errorf("sink %s: %w", r.o.Name, err)
			}
		}
		if len(items) > 0 {
			continue
		}
		select {
		case <-ctx.Done():
		case <-r.wake:
		case <-tick.C:
		}
	}
	return nil
}

// collect takes what is ready, up to the limits. The caller owns the records.
func (r *Runner) collect(ctx context.Context) (items []item, err error) {
	rows := 0
	for _, f := range r.feeds {
		for len(items) < r.o.MaxRecords && rows < r.o.MaxRows {
			e, ok, err := f.r.Next(ctx)
			if err != nil {
				return items, err
			}
			if !ok {
				f.pos = f.r.Position() // what has aged out is passed over
				break
			}
			if e.LostBatches > 0 || e.Corrupt != nil {
				r.o.Meter.Dropped(r.o.Name, "queue_gap", int(e.LostRows))
				r.o.Log.Error("rows are missing before this sink", "feed", f.Name, "rows", e.LostRows, "batches", e.LostBatches, "error", e.Corrupt)
			}
			f.pos = f.r.Position()
			if e.Record == nil || f.Sources != nil && !f.Sources[e.Source] {
				if e.Record != nil {
					e.Record.Release()
				}
				continue
			}
			rec := e.Record
			if f.Sources != nil {
				rec = f.named(rec, e.Source)
				r.o.Meter.Edge(e.Source, r.o.Name, int(rec.NumRows()))
			}
			rows += int(rec.NumRows())
			items = append(items, item{f, rec, e.Meta})
		}
	}
	if len(items) == 0 {
		r.accepted()
	}
	return items, nil
}

// named puts the source's name into the schema. It takes over rec.
func (f *feed) named(rec arrow.Record, source string) arrow.Record {
	if f.schema != rec.Schema() || pipeline.Node(f.tagged) != source {
		f.schema, f.tagged = rec.Schema(), pipeline.WithNode(rec.Schema(), source)
	}
	out := array.NewRecord(f.tagged, rec.Columns(), rec.NumRows())
	rec.Release()
	return out
}

// write hands items to the sink until it has accepted or refused each.
func (r *Runner) write(ctx context.Context, items []item) error {
	if bs, ok := r.o.Sink.(pipeline.BatchSink); ok && len(items) > 1 {
		recs := make([]arrow.Record, len(items))
		for i, it := range items {
			recs[i] = it.rec
		}
		err := r.retry(ctx, "write", func(ctx context.Context) error { return bs.WriteAll(ctx, recs) })
		if err == nil {
			for _, it := range items {
				r.count(it)
			}
			r.accepted()
			return nil
		}
		if !pipeline.IsPermanent(err) {
			return err
		}
	}
	for _, it := range items {
		err := r.retry(ctx, "write", func(ctx context.Context) error { return r.o.Sink.Write(ctx, it.rec) })
		switch {
		case err == nil:
			r.count(it)
		case pipeline.IsPermanent(err):
			if err := r.bury(ctx, it, err); err != nil {
				return err
			}
		default:
			return err
		}
	}
	r.accepted()
	return nil
}

func (r *Runner) count(it item) {
	r.o.Meter.Accepted(r.o.Name, int(it.rec.NumRows()))
	// Only rows that came straight from a reading say how long it took.
	if pipeline.Column(it.rec.Schema(), pipeline.NameReceived) < 0 {
		return
	}
	if ts, ok := it.rec.Column(pipeline.Column(it.rec.Schema(), pipeline.NameTime)).(*array.Timestamp); ok {
		r.times = r.times[:0]
		for _, t := range ts.TimestampValues() {
			r.times = append(r.times, int64(t))
		}
		r.o.Meter.Latency(r.times, time.Now().UnixNano())
	}
}

// bury puts a record that the sink refuses for good into the dead-letter queue.
func (r *Runner) bury(ctx context.Context, it item, why error) error {
	r.o.Log.Error("the sink refuses these rows for good; they go to the dead-letter queue", "rows", it.rec.NumRows(), "node", pipeline.Node(it.rec.Schema()), "error", why)
	md := it.rec.Schema().Metadata().ToMap()
	md["penstock.sink"], md["penstock.reason"] = r.o.Name, why.Error()
	meta := arrow.MetadataFrom(md)
	rec := array.NewRecord(arrow.NewSchema(it.rec.Schema().Fields(), &meta), it.rec.Columns(), it.rec.NumRows())
	defer rec.Release()
	if _, err := r.o.Dead.Append(ctx, 0, journal.Meta{Kind: journal.KindBatch, Source: r.o.Name}, rec); err != nil {
		return err
	}
	r.o.Meter.DeadLettered(r.o.Name, int(it.rec.NumRows()))
	return nil
}

// accepted notes that everything collected so far is dealt with.
func (r *Runner) accepted() {
	for _, f := range r.feeds {
		if f.done != f.pos {
			f.done, r.changed = f.pos, true
			f.seq.Store(f.done.Seq)
		}
	}
}

// purgeBytes is how much a queue grows before what the sink has accepted is
// deleted: each purge makes the server load a block.
const purgeBytes = 128 << 20

// persist stores how far the sink has come, frees what lies before, and
// deletes it from a queue that has grown by at least purge bytes.
func (r *Runner) persist(ctx context.Context, purge int64) error {
	r.saved = time.Now()
	if !r.changed {
		return nil
	}
	positions := map[string]journal.Position{}
	for _, f := range r.feeds {
		positions[f.Name] = f.done
	}
	var b bytes.Buffer
	if err := gob.NewEncoder(&b).Encode(positions); err != nil {
		return err
	}
	if err := r.o.State.Put(ctx, r.key(), b.Bytes()); err != nil {
		return err
	}
	r.changed = false
	for _, f := range r.feeds {
		f.Log.Release(r.holder(), f.Shard, f.done.Seq)
		if grown := f.Log.Appended(); f.Sources == nil && grown-f.purged >= purge {
			f.purged = grown
			if err := f.Log.Purge(ctx, f.Shard, f.done.Seq); err != nil {
				r.o.Log.Warn("cannot purge the queue; it grows until it can", "feed", f.Name, "error", err)
			}
		}
	}
	return nil
}

// retry calls f until it succeeds, fails for good, or ctx ends.
func (r *Runner) retry(ctx context.Context, what string, f func(context.Context) error) error {
	failed := false
	eb := backoff.NewExponentialBackOff()
	eb.InitialInterval, eb.MaxInterval = 100*time.Millisecond, 15*time.Second
	_, err := backoff.Retry(ctx, func() (struct{}, error) {
		err := f(ctx)
		if err == nil || ctx.Err() != nil {
			return struct{}{}, err
		}
		if pipeline.IsPermanent(err) {
			return struct{}{}, backoff.Permanent(err)
		}
		if !failed {
			failed = true
			r.o.Meter.Connected(r.o.Name, false)
		}
		return struct{}{}, err
	}, backoff.WithBackOff(eb), backoff.WithMaxElapsedTime(0), backoff.WithNotify(func(err error, d time.Duration) {
		r.o.Log.Warn("sink cannot "+what+"; trying again", "in", d.Round(time.Millisecond), "error", err)
	}))
	if failed && (err == nil || pipeline.IsPermanent(err)) { // it answers
		r.o.Meter.Connected(r.o.Name, true)
		r.o.Log.Info("sink works again")
	}
	return err
}
