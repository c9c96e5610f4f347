package ingest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"time"

	"github.com/apache/arrow/go/v17/arrow"
	"github.com/apache/arrow/go/v17/arrow/array"
	"github.com/cenkalti/backoff/v5"

	"github.com/penstock/penstock/pipeline"
	"github.com/penstock/penstock/pipeline/journal"
)

// RunnerOptions of a Runner.
type RunnerOptions struct {
	Name    string
	Source  pipeline.Source
	Journal *journal.Log
	Shards  int
	// Lateness and IdleAfter are those of [BatchConfig]. With IdleAfter 0 the
	// source never counts as idle before it ends.
	Lateness, IdleAfter time.Duration
	// RetryRefused is how often a source is connected again that its peer
	// refuses for good: a wrong password of one source must not stop the
	// others, and a person may mend it at the peer. With 0 the refusal ends Run.
	RetryRefused time.Duration
	// Sinks are those that read this source straight from the journal: what is
	// journaled is queued for them.
	Sinks []string
	Meter *pipeline.Meter
	Log   *slog.Logger
}

// Runner moves batches from one source into the journal and acknowledges them.
// It also says how far event time has come: the newest reading less the
// lateness; and, when the source is idle, the clock less the lateness. Both are
// journaled, so that a replay sees the same.
type Runner struct {
	o         RunnerOptions
	watermark int64   // after everything appended so far
	seen      []int64 // by shard: the watermark its newest entry carried
	idle      bool
	last      time.Time // when the last rows came

	draining context.Context // ends with drain
	drain    context.CancelFunc
}

// NewRunner returns a Runner.
func NewRunner(o RunnerOptions) *Runner {
	r := &Runner{o: o, watermark: math.MinInt64, seen: make([]int64, max(o.Shards, 1))}
	for i := range r.seen {
		r.seen[i] = math.MinInt64
	}
	r.draining, r.drain = context.WithCancel(context.Background())
	return r
}

// Drain stops new deliveries, if the source can: Run then ends once what was
// taken is in the journal, or at once when the source is not connected yet. It
// reports whether Run will end. It may be called while Run runs.
func (r *Runner) Drain(ctx context.Context) (bool, error) {
	d, ok := r.o.Source.(pipeline.Draining)
	if !ok {
		return false, nil
	}
	r.drain()
	return true, d.Drain(ctx)
}

// Run connects the source and works until ctx ends (nil), the source ends (nil;
// its last tick lets all windows close) or fails for good. It does not close
// the source.
func (r *Runner) Run(ctx context.Context) error {
	connected := make(chan struct{})
	// While the first connection is awaited, the source must not hold time back.
	waiting := make(chan error, 1)
	go func() { waiting <- r.awaitConnect(ctx, connected) }()
	err := r.connect(ctx)
	close(connected)
	if werr := <-waiting; err == nil {
		err = werr
	}
	if err != nil {
		if ctx.Err() != nil || r.draining.Err() != nil {
			return nil
		}
		return fmt.Errorf("source %s: %w", r.o.Name, err)
	}
	r.last = time.Now()
	// What has been read is stored even when ctx has ended meanwhile: the
	// source may hand out a last batch, and its peer will not send it again.
	store, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	defer context.AfterFunc(ctx, func() { time.AfterFunc(storeGrace, cancel) })()
	for {
		b, ack, err := r.o.Source.Read(ctx)
		if err == nil {
			if err = r.append(store, b, ack); err == nil && !b.More {
				err = r.tick(store)
			}
		}
		switch {
		case err == nil:
		case errors.Is(err, io.EOF):
			return r.end(store)
		case ctx.Err() != nil:
			return nil
		default:
			return fmt.Errorf("source %s: %w", r.o.Name, err)
		}
	}
}

// storeGrace is how long a batch that was read may take into the journal after
// the end of the context: a full journal must not hold up a stop.
const storeGrace = 500 * time.Millisecond

// connect tries until the source is connected, is refused for good, is drained,
// or ctx ends.
func (r *Runner) connect(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(r.draining, cancel)()
	eb := backoff.NewExponentialBackOff()
	eb.InitialInterval, eb.MaxInterval = 250*time.Millisecond, 10*time.Second
	for {
		err := r.o.Source.Connect(ctx)
		if err == nil || ctx.Err() != nil {
			return err
		}
		pause := eb.NextBackOff()
		if !pipeline.IsPermanent(err) {
			r.o.Log.Warn("source cannot connect; trying again", "in", pause.Round(time.Millisecond), "error", err)
		} else if pause = r.o.RetryRefused; pause > 0 {
			r.o.Log.Error("source is refused; the others go on; trying again", "in", pause, "error", err)
		} else {
			return err
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (r *Runner) awaitConnect(ctx context.Context, connected <-chan struct{}) error {
	if r.o.IdleAfter <= 0 {
		return nil
	}
	t := time.NewTicker(r.o.IdleAfter)
	defer t.Stop()
	for {
		select {
		case <-connected:
			return nil
		case <-ctx.Done():
			return nil
		case <-t.C:
			if err := r.beat(ctx); err != nil {
				return err
			}
		}
	}
}

// append stores a batch and acknowledges it. It takes over b.Record.
func (r *Runner) append(ctx context.Context, b pipeline.Batch, ack pipeline.AckFunc) error {
	if b.Record == nil {
		ack(nil)
		return nil
	}
	defer b.Record.Release()
	rows := int(b.Record.NumRows())
	if t := newest(b.Record); t > math.MinInt64+int64(r.o.Lateness) {
		r.watermark = max(r.watermark, t-int64(r.o.Lateness))
	}
	r.idle, r.last = false, time.Now()
	_, err := r.o.Journal.Append(ctx, b.Shard, journal.Meta{Kind: journal.KindBatch, Source: r.o.Name, Watermark: r.watermark}, b.Record)
	if err == nil {
		r.seen[b.Shard] = r.watermark
		r.o.Meter.Journaled(r.o.Name, rows)
		for _, s := range r.o.Sinks {
			r.o.Meter.Queued(s, rows)
		}
	}
	ack(err)
	return err
}

// newest returns the latest time of a batch. Runs are in time order, so only
// the last row of each is looked at.
func newest(rec arrow.Record) int64 {
	times := rec.Column(pipeline.ColTime).(*array.Timestamp).TimestampValues()
	idx := rec.Column(pipeline.ColTag).(*array.Dictionary).Indices().(*array.Int32).Int32Values()
	last := int64(math.MinInt64)
	for i, t := range times {
		if i+1 == len(idx) || idx[i+1] != idx[i] {
			last = max(last, int64(t))
		}
	}
	return last
}

// tick tells shards that have had no rows how far time has come, and beats
// when the source has been silent.
func (r *Runner) tick(ctx context.Context) error {
	if r.o.IdleAfter > 0 && time.Since(r.last) >= r.o.IdleAfter {
		r.last = time.Now()
		return r.beat(ctx)
	}
	for s, w := range r.seen {
		// Once a second of event time is often enough for a shard without rows.
		if r.watermark != math.MinInt64 && (w == math.MinInt64 || r.watermark-w > int64(time.Second)) {
			if err := r.send(ctx, s); err != nil {
				return err
			}
		}
	}
	return nil
}

// beat journals that the source is idle and that time goes on.
func (r *Runner) beat(ctx context.Context) error {
	r.idle = true
	r.watermark = max(r.watermark, time.Now().UnixNano()-int64(r.o.Lateness))
	return r.sendAll(ctx)
}

// end journals that nothing is still to come, not even late rows. A source
// that was drained goes on at the next start, late rows included.
func (r *Runner) end(ctx context.Context) error {
	r.idle = true
	if r.watermark != math.MinInt64 && r.draining.Err() == nil {
		r.watermark += int64(r.o.Lateness)
	}
	return r.sendAll(ctx)
}

func (r *Runner) sendAll(ctx context.Context) error {
	for s := range r.seen {
		if err := r.send(ctx, s); err != nil {
			return err
		}
	}
	return nil
}

func (r *Runner) send(ctx context.Context, shard int) error {
	_, err := r.o.Journal.Append(ctx, shard, journal.Meta{Kind: journal.KindTick, Source: r.o.Name, Watermark: r.watermark, Idle: r.idle}, nil)
	if err == nil {
		r.seen[shard] = r.watermark
	}
	return err
}
