package flow

import (
	"context"
	"fmt"
	"log/slog"
	"math"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/apache/arrow/go/v17/arrow"
	"github.com/apache/arrow/go/v17/arrow/array"

	"github.com/penstock/penstock/internal/columns"
	"github.com/penstock/penstock/pipeline"
	"github.com/penstock/penstock/pipeline/journal"
)

// Options of a Worker.
type Options struct {
	Plan       Plan
	Shard      int
	Journal    *journal.Log
	State      *journal.State
	Checkpoint time.Duration // how often state is stored
	Meter      *pipeline.Meter
	Log        *slog.Logger
	// Done, when set, is told what became of a control. It must not block.
	Done func(shard int, seq uint64, o Outcome)
	// Tap, when set, is shown every record that a source or node gives, for
	// the live page. The record is borrowed; Tap must not block.
	Tap func(node string, rec arrow.Record)
	// Counted is the newest entry that another worker of this process has run
	// through the graph. Again, which may be nil, says whether the entry at hand is
	// one of those: what happens then has been counted. Of the entry in which that
	// worker was left, what came before is counted twice.
	Counted uint64
	Again   *atomic.Bool
	// Stuck is told why the worker does not come back, on another goroutine: the
	// journal says which call its successor is not to make again. It must not block.
	Stuck func(shard int, why error)
}

// Worker runs the graph of one shard. One goroutine calls Run.
type Worker struct {
	o       Options
	reader  *journal.Reader
	wake    chan struct{}
	pos     journal.Position
	seq     atomic.Uint64 // pos.Seq, for others
	out     uint64        // outputs of the current entry so far
	sources map[string]int
	wm      []int64   // by source: its watermark
	idle    []bool    // by source
	feeds   [][]int   // by node: the sources upstream of it
	nodeWM  []int64   // by node: the watermark it was last given
	emit    []emitter // by node
	ctx     context.Context
	shard   string
	child   time.Duration // time spent in callees of the running operator
	ckpt    time.Time     // of the newest checkpoint
	moved   bool          // since then
	late    atomic.Bool   // the grace is over: the entry at hand is abandoned

	at       uint64 // sequence of the entry at hand
	phase    phase
	calls    []int // by node: how many the entry has made
	kills    []journal.Kill
	raised   []raised    // by node: the alert that its module is in quarantine
	previous []before    // by node: the module before
	shadows  []*shadow   // by node: the candidate beside it, or nil
	watched  [][]*shadow // by node: shadows that count the alerts of this rule
	status   atomic.Pointer[[]NodeStatus]
}

// grace is how long the entry at hand may take once ctx has ended. One that is
// not through by then, because a queue is full and its sink away, is run again
// at the next start.
const grace = time.Second

// holderName is the worker's name among the journal's readers.
const holderName = "flow"

// NewWorker restores the newest checkpoint. The operators of the plan are
// open and fresh.
func NewWorker(ctx context.Context, o Options) (*Worker, error) {
	w := &Worker{o: o, wake: make(chan struct{}, 1), sources: map[string]int{}, shard: strconv.Itoa(o.Shard)}
	for i, s := range o.Plan.Sources {
		w.sources[s.Name] = i
		w.wm = append(w.wm, math.MinInt64)
		w.idle = append(w.idle, false)
	}
	n := len(o.Plan.Nodes)
	w.feeds, w.nodeWM, w.emit = make([][]int, n), make([]int64, n), make([]emitter, n)
	w.previous, w.shadows, w.watched, w.raised = make([]before, n), make([]*shadow, n), make([][]*shadow, n), make([]raised, n)
	w.calls, w.kills = make([]int, n), o.Journal.Kills(o.Shard)
	w.ctx = ctx
	up := make([]map[int]bool, n)
	for i := range up {
		up[i] = map[int]bool{}
		w.nodeWM[i] = math.MinInt64
		w.emit[i] = emitter{w: w, node: i}
	}
	for s, src := range o.Plan.Sources {
		for _, t := range src.Targets {
			up[t][s] = true
		}
	}
	for i, node := range o.Plan.Nodes {
		for s := range o.Plan.Sources {
			if up[i][s] {
				w.feeds[i] = append(w.feeds[i], s)
			}
		}
		for _, out := range node.Outputs {
			for _, t := range out.Targets {
				if t <= i {
					return nil, fmt.Errorf("node %s: target %s is not downstream", node.Name, o.Plan.Nodes[t].Name)
				}
				for s := range up[i] {
					up[t][s] = true
				}
			}
		}
	}
	if err := w.restore(ctx); err != nil {
		return nil, err
	}
	w.phase = between
	for i, n := range o.Plan.Nodes {
		w.watch(i, n.Name, n.Op, n.Module)
	}
	if err := o.Journal.Hold(ctx, holderName, o.Shard, w.pos); err != nil {
		return nil, err
	}
	w.seq.Store(w.pos.Seq)
	w.publishStatus()
	// A position that had to go back is stored before new entries come.
	if err := w.checkpoint(); err != nil {
		return nil, err
	}
	w.reader = o.Journal.Reader(o.Shard, w.pos, w.wake)
	w.reader.Pace()
	return w, nil
}

// Seq returns the sequence of the newest journal entry that has been run
// through the graph. Safe for concurrent use.
func (w *Worker) Seq() uint64 { return w.seq.Load() }

// Run works until ctx ends, then stores a checkpoint and closes the operators.
// It returns nil when ctx ended.
func (w *Worker) Run(ctx context.Context) (err error) {
	// What is begun is finished and stored, if that can be done in time.
	background := context.WithoutCancel(ctx)
	var abandon context.CancelFunc
	w.ctx, abandon = context.WithCancel(background)
	defer abandon()
	over := make(chan struct{})
	defer close(over)
	defer context.AfterFunc(ctx, func() {
		select {
		case <-over:
		case <-time.After(grace):
			w.late.Store(true)
			abandon()
		}
	})()
	defer func() {
		w.reader.Close()
		w.ctx = background
		switch {
		case err == nil:
			err = w.checkpoint()
		case ctx.Err() != nil && w.late.Load():
			// The operators are ahead of the position: the last checkpoint counts.
			err = nil
		}
		if cerr := w.closeAll(background); err == nil {
			err = cerr
		}
	}()
	tick := time.NewTicker(w.o.Checkpoint)
	defer tick.Stop()
	for ctx.Err() == nil {
		e, ok, err := w.reader.Next(ctx)
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return err
		}
		if !ok {
			if p := w.reader.Position(); p.Seq != w.pos.Seq { // what was next has aged out
				w.pos, w.moved = p, true
				w.seq.Store(p.Seq)
			}
			select {
			case <-ctx.Done():
			case <-w.wake:
			case <-tick.C:
				if err := w.checkpoint(); err != nil {
					return err
				}
			}
			continue
		}
		if err := w.entry(&e); err != nil {
			return err
		}
		if time.Since(w.ckpt) >= w.o.Checkpoint {
			if err := w.checkpoint(); err != nil {
				return err
			}
		}
	}
	return nil
}

// closeAll closes the operators.
func (w *Worker) closeAll(ctx context.Context) (err error) {
	for i := range w.shadows {
		w.endShadow(i)
	}
	for _, n := range w.o.Plan.Nodes {
		if cerr := n.Op.Close(ctx); cerr != nil && err == nil {
			err = fmt.Errorf("close %s: %w", n.Name, cerr)
		}
	}
	return err
}

// entry runs one journal entry through the graph. It takes over e.Record.
func (w *Worker) entry(e *journal.Entry) error {
	if e.Record != nil {
		defer e.Record.Release()
	}
	if w.o.Again != nil {
		w.o.Again.Store(e.Seq <= w.o.Counted)
	}
	if e.LostBatches > 0 {
		w.o.Meter.Dropped("journal", "journal_gap", int(e.LostRows))
		w.o.Log.Error("the journal has a gap: it was full or too old, or its disk lost data",
			"shard", w.o.Shard, "before", e.Seq, "batches", e.LostBatches, "rows", e.LostRows)
	}
	if e.Corrupt != nil {
		w.o.Log.Error("a journal entry cannot be read and is left out", "shard", w.o.Shard, "entry", e.Seq, "error", e.Corrupt)
	}
	w.out, w.at = 0, e.Seq
	defer func() { w.phase = between }()
	if e.Kind == journal.KindControl {
		w.phase = changing
		if err := w.settleKills(journal.CallChange); err != nil {
			return err
		}
		if err := w.control(e); err != nil {
			return err
		}
		w.pos, w.moved = e.After(), true
		w.seq.Store(e.Seq)
		return w.settleKills(journal.CallState)
	}
	s, ok := w.sources[e.Source]
	if !ok && e.Record != nil {
		w.o.Meter.Dropped(e.Source, "source_removed", int(e.Record.NumRows()))
	}
	clear(w.calls)
	w.phase = calling
	if ok && e.Corrupt == nil {
		if e.Record != nil {
			src := w.o.Plan.Sources[s]
			if w.o.Tap != nil {
				w.o.Tap(src.Name, e.Record)
			}
			for _, t := range src.Targets {
				w.o.Meter.Edge(src.Name, w.o.Plan.Nodes[t].Name, int(e.Record.NumRows()))
				if err := w.process(t, e.Record, e.Seq); err != nil {
					return err
				}
			}
		}
		w.wm[s] = max(w.wm[s], e.Watermark)
		w.idle[s] = e.Idle
		if err := w.advance(e.Seq); err != nil {
			return err
		}
	}
	w.phase = changing
	if e.Record != nil {
		w.o.Meter.Processed(w.shard, int(e.Record.NumRows()))
	}
	if err := w.relieve(); err != nil {
		return err
	}
	w.pos = e.After()
	if e.Corrupt != nil {
		w.pos = w.reader.Position()
	}
	w.moved = true
	w.seq.Store(e.Seq)
	return w.settleKills(journal.CallState)
}

// process gives a record to a node and accounts for the time in it.
func (w *Worker) process(node int, rec arrow.Record, pos uint64) error {
	w.emit[node].pos = pos
	w.called(node)
	own, err := w.timed(node, int(rec.NumRows()), func(n *Node) error {
		return n.Op.Process(w.ctx, rec, &w.emit[node])
	})
	if s := w.shadows[node]; s != nil {
		s.process(w.ctx, rec, own)
	}
	return err
}

func (w *Worker) timed(node, rows int, call func(*Node) error) (own time.Duration, err error) {
	n := &w.o.Plan.Nodes[node]
	outer := w.child
	w.child = 0
	start := time.Now()
	err = call(n)
	took := time.Since(start)
	own = took - w.child
	w.child = outer + took
	if rows > 0 {
		w.o.Meter.Operator(n.Name, n.Module.Name, n.Module.Engine, rows, own)
	}
	if err != nil {
		err = fmt.Errorf("operator %s: %w", n.Name, err)
	}
	return own, err
}

// advance tells each node, in topological order, the least watermark of the
// sources upstream of it. Idle sources do not count, unless all are idle.
func (w *Worker) advance(pos uint64) error {
	for i := range w.o.Plan.Nodes {
		low, all := int64(math.MaxInt64), int64(math.MinInt64)
		for _, s := range w.feeds[i] {
			all = max(all, w.wm[s])
			if !w.idle[s] {
				low = min(low, w.wm[s])
			}
		}
		if low == math.MaxInt64 {
			low = all
		}
		if low <= w.nodeWM[i] {
			continue
		}
		w.nodeWM[i] = low
		w.emit[i].pos = pos
		w.called(i)
		if _, err := w.timed(i, 0, func(n *Node) error { return n.Op.Advance(w.ctx, arrow.Timestamp(low), &w.emit[i]) }); err != nil {
			return err
		}
		if s := w.shadows[i]; s != nil {
			s.advance(w.ctx, arrow.Timestamp(low))
		}
	}
	return nil
}

// emitter hands on what one node emits.
type emitter struct {
	w      *Worker
	node   int
	pos    uint64
	last   *arrow.Schema // of the newest record, and what it becomes for sinks
	tagged *arrow.Schema
	port   string
}

// Emit implements pipeline.Emitter: downstream operators run at once.
func (e *emitter) Emit(port string, rec arrow.Record) error {
	w := e.w
	n := &w.o.Plan.Nodes[e.node]
	rows := int(rec.NumRows())
	if rows == 0 {
		return nil
	}
	if w.o.Tap != nil {
		w.o.Tap(portName(n.Name, port), rec)
	}
	if s := w.shadows[e.node]; s != nil && port == "" {
		rec.Retain()
		s.live = append(s.live, rec)
	}
	for _, s := range w.watched[e.node] {
		s.alerts(rec, 0)
	}
	out := n.Outputs[port]
	for _, t := range out.Targets {
		w.o.Meter.Edge(n.Name, w.o.Plan.Nodes[t].Name, rows)
		if err := w.process(t, rec, e.pos); err != nil {
			return err
		}
	}
	if len(out.Sinks) == 0 {
		return nil
	}
	name := portName(n.Name, port)
	if e.last != rec.Schema() || e.port != port {
		e.last, e.port, e.tagged = rec.Schema(), port, pipeline.WithNode(rec.Schema(), name)
	}
	named := array.NewRecord(e.tagged, rec.Columns(), rec.NumRows())
	defer named.Release()
	start := time.Now()
	err := e.publish(out.Sinks, name, named)
	w.child += time.Since(start)
	return err
}

// publish puts a record into the queues of sinks. One that is too large for an
// entry goes as several, cut by its rows; a row that is too large by itself is
// dropped and counted. How it is cut depends on the record only: a replay
// numbers its outputs alike.
func (e *emitter) publish(sinks []Sink, name string, rec arrow.Record) error {
	w, n := e.w, &e.w.o.Plan.Nodes[e.node]
	rows := int(rec.NumRows())
	if fixed, byRow := columns.Size(rec); fixed+byRow > maxOutput {
		if rows == 1 || fixed > maxOutput/2 {
			w.o.Meter.Dropped(n.Name, "output_too_large", rows)
			w.o.Log.Error("an output is too large for a queue and is dropped", "shard", w.o.Shard, "operator", n.Name, "rows", rows, "bytes", fixed+byRow, "limit", maxOutput)
			return nil
		}
		for _, cut := range [][2]int{{0, rows / 2}, {rows / 2, rows}} {
			part := rec.NewSlice(int64(cut[0]), int64(cut[1]))
			err := e.publish(sinks, name, part)
			part.Release()
			if err != nil {
				return err
			}
		}
		return nil
	}
	w.out++
	for _, s := range sinks {
		fresh, err := s.Queue.Publish(w.ctx, e.pos, w.out, name, rec)
		if err != nil {
			return fmt.Errorf("queue of sink %s: %w", s.Name, err)
		}
		if fresh {
			w.o.Meter.Edge(n.Name, s.Name, rows)
			w.o.Meter.Queued(s.Name, rows)
		}
	}
	return nil
}

// maxOutput bounds one output, with room for what the encoding adds.
const maxOutput = journal.MaxEntry - 1<<20

func portName(node, port string) string {
	if port == "" {
		return node
	}
	return node + "." + port
}
