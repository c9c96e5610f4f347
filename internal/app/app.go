package app

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/apache/arrow/go/v17/arrow"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/penstock/penstock/ingest"
	"github.com/penstock/penstock/internal/natsd"
	"github.com/penstock/penstock/operators/wasm"
	"github.com/penstock/penstock/pipeline"
	"github.com/penstock/penstock/pipeline/config"
	"github.com/penstock/penstock/pipeline/flow"
	"github.com/penstock/penstock/pipeline/graph"
	"github.com/penstock/penstock/pipeline/journal"
	"github.com/penstock/penstock/sinks"
)

// Options of an App.
type Options struct {
	Config *config.Config
	Log    *slog.Logger
	Meter  *pipeline.Meter
	// Cache is the directory where compiled modules are kept for the next
	// start; "" keeps none.
	Cache string
	// Tap is shown every record that flows, borrowed; it must not block.
	Tap func(node string, rec arrow.Record)
}

// App is one running pipeline: Start, then wait for Done or for what else ends
// it, then Stop.
type App struct {
	o      Options
	Alerts AlertBook
	graph  *graph.Graph

	compiler *wasm.Compiler
	server   *natsd.Server
	nc       *nats.Conn
	journal  *journal.Log
	logs     []*journal.Log
	sources  []runningSource
	workers  []atomic.Pointer[flow.Worker] // by shard
	wasm     []map[string]*nodeModules     // by shard and operator
	modules  moduleStore
	swaps    swaps
	sinks    []*sinks.Runner

	stopSources, stopRest context.CancelFunc
	sourcing, rest        sync.WaitGroup
	failure               atomic.Pointer[error]
	done                  chan struct{} // closed when all sources have ended or something failed
	doneOnce              sync.Once
	ready                 atomic.Bool

	newWorker func(ctx context.Context, shard int, counted uint64) (*flow.Worker, error)
	counted   []uint64 // by shard: the newest entry that a worker has run through
	forget    []func() // by shard: the worker is not waited for any more
}

type runningSource struct {
	name string
	source
	runner *ingest.Runner
	ended  chan struct{}
}

// keptModules is how many modules without a user stay compiled: the way back to
// the version before takes no time then, and none of the kilobytes that Wasmer
// leaks whenever a module is loaded.
const keptModules = 4

func (a *App) keepModules(n int) {
	if err := a.compiler.Keep(n); err != nil {
		a.o.Log.Warn("a module that is not used any more cannot be freed", "error", err)
	}
}

// Start opens the journal, restores what an earlier run left, and starts
// sinks, workers and sources, in that order. On an error nothing keeps
// running.
func Start(ctx context.Context, o Options) (a *App, err error) {
	a = &App{o: o, done: make(chan struct{}), modules: moduleStore{filepath.Join(o.Config.Journal.Dir, "deployed")},
		swaps: swaps{prepared: map[preparedKey]prepared{}}}
	a.compiler = wasm.NewCompiler(o.Cache, o.Log)
	begun := a                 // an error returns nil
	a.keepModules(math.MaxInt) // the check and all shards use the same code
	defer func() {
		if err != nil {
			begun.keepModules(0)
		} else {
			a.keepModules(keptModules)
		}
	}()
	if a.graph, err = buildWith(ctx, o.Config, a.compiler); err != nil {
		return nil, err
	}
	restCtx, stopRest := context.WithCancel(context.WithoutCancel(ctx))
	srcCtx, stopSources := context.WithCancel(restCtx)
	a.stopRest, a.stopSources = stopRest, stopSources
	defer func() {
		if err != nil {
			begun.close(restGrace)
		}
	}()
	j := o.Config.Journal
	if a.server, err = natsd.Start(natsd.Options{Name: "penstock", Dir: filepath.Join(j.Dir, "jetstream"), SyncAlways: j.Sync == config.SyncAlways,
		SyncInterval: j.SyncInterval, Log: o.Log}); err != nil {
		return nil, err
	}
	if a.nc, err = a.server.Connect(); err != nil {
		return nil, err
	}
	js, err := jetstream.New(a.nc)
	if err != nil {
		return nil, err
	}
	open := func(shards int, max int64, age, patience time.Duration, full journal.WhenFull, name ...string) (*journal.Log, error) {
		l, err := journal.Open(ctx, js, journal.Options{Stream: journal.StreamName(append([]string{o.Config.Name}, name...)...), Shards: shards,
			MaxBytes: max, MaxAge: age, Patience: patience, WhenFull: full, Log: o.Log})
		if err == nil {
			a.logs = append(a.logs, l)
		}
		return l, err
	}
	full := journal.WhenFull(j.WhenFull)
	if a.journal, err = open(j.Shards, int64(j.MaxBytes), j.MaxAge, 100*time.Millisecond, full, "journal"); err != nil {
		return nil, err
	}
	dead, err := open(1, int64(j.QueueMaxBytes), 0, 0, journal.DropOldest, "dead")
	if err != nil {
		return nil, err
	}
	state, err := journal.OpenState(ctx, js, journal.StreamName(o.Config.Name, "state"))
	if err != nil {
		return nil, err
	}
	tags := pipeline.NewTags(o.Config.Tags)
	env := func(name string) pipeline.Env {
		return pipeline.Env{Name: name, Log: o.Log.With("component", name), Meter: o.Meter, Tags: tags, Shards: j.Shards, Alloc: allocator}
	}

	isSource := map[string]bool{}
	for _, c := range o.Config.Sources {
		isSource[c.Name] = true
	}
	queues, direct := map[string]*journal.Log{}, map[string][]string{}
	for _, c := range o.Config.Sinks {
		sources, queued := map[string]bool{}, false
		for _, in := range c.Inputs {
			if isSource[in] {
				sources[in] = true
				direct[in] = append(direct[in], c.Name)
			} else {
				queued = true
			}
		}
		var feeds []sinks.Feed
		if queued {
			q, err := open(j.Shards, int64(j.QueueMaxBytes), 0, 100*time.Millisecond, full, "sink", c.Name)
			if err != nil {
				return nil, err
			}
			queues[c.Name] = q
			for s := range j.Shards {
				feeds = append(feeds, sinks.Feed{Name: fmt.Sprint("queue.", s), Log: q, Shard: s})
			}
		}
		if len(sources) > 0 {
			for s := range j.Shards {
				feeds = append(feeds, sinks.Feed{Name: fmt.Sprint("journal.", s), Log: a.journal, Shard: s, Sources: sources})
			}
		}
		sink, err := newSink(c.Settings, env(c.Name))
		if err != nil {
			return nil, a.at(c.Name, err)
		}
		r, err := sinks.NewRunner(ctx, sinks.Options{Name: c.Name, Sink: sink, Feeds: feeds, State: state, Dead: dead, Meter: o.Meter, Log: env(c.Name).Log})
		if err != nil {
			return nil, a.at(c.Name, err)
		}
		a.sinks = append(a.sinks, r)
	}
	a.newWorker = func(ctx context.Context, s int, counted uint64) (*flow.Worker, error) {
		again, meter := new(atomic.Bool), o.Meter
		if counted > 0 {
			meter = meter.Muted(again.Load)
		}
		plan, err := a.plan(ctx, s, func(name string) pipeline.Env { e := env(name); e.Meter = meter; return e }, queues)
		if err != nil {
			return nil, err
		}
		return flow.NewWorker(ctx, flow.Options{Plan: plan, Shard: s, Journal: a.journal, State: state, Checkpoint: j.Checkpoint, Meter: meter, Log: o.Log, Tap: a.tap,
			Done: a.swaps.told, Counted: counted, Again: again, Stuck: func(s int, why error) { go a.replace(restCtx, s, why) }})
	}
	a.counted, a.forget = make([]uint64, j.Shards), make([]func(), j.Shards)
	a.workers = make([]atomic.Pointer[flow.Worker], j.Shards)
	for s := range j.Shards {
		w, err := a.newWorker(ctx, s, 0)
		if err != nil {
			return nil, err
		}
		a.workers[s].Store(w)
	}
	for _, c := range o.Config.Sources {
		s, err := newSource(c.Settings, env(c.Name))
		if err != nil {
			return nil, a.at(c.Name, err)
		}
		a.sources = append(a.sources, runningSource{name: c.Name, source: s, ended: make(chan struct{})})
	}

	for _, r := range a.sinks {
		a.run(&a.rest, func() error { return r.Run(restCtx) })
	}
	for s := range a.workers {
		a.work(restCtx, s, a.workers[s].Load())
	}
	for i := range a.sources {
		s := &a.sources[i]
		s.runner = ingest.NewRunner(ingest.RunnerOptions{Name: s.name, Source: s.Source, Journal: a.journal, Shards: j.Shards, Lateness: s.lateness,
			IdleAfter: s.idleAfter, RetryRefused: s.retryRefused, Sinks: direct[s.name], Meter: o.Meter, Log: env(s.name).Log})
		a.run(&a.sourcing, func() error { defer close(s.ended); return s.runner.Run(srcCtx) })
	}
	go func() {
		a.sourcing.Wait()
		a.finish(nil)
	}()
	for _, m := range a.wasm[0] {
		if m.settings.Watch {
			a.run(&a.rest, func() error { a.watch(restCtx, m); return nil })
		}
	}
	a.ready.Store(true)
	return a, nil
}

// run runs one part of the pipeline; the first that fails ends it.
func (a *App) run(wg *sync.WaitGroup, f func() error) {
	wg.Add(1)
	go func() {
		defer wg.Done()
		if err := f(); err != nil {
			a.finish(err)
		}
	}()
}

// work runs the worker of a shard.
func (a *App) work(ctx context.Context, shard int, w *flow.Worker) {
	a.rest.Add(1)
	done := sync.OnceFunc(a.rest.Done)
	a.workers[shard].Store(w)
	a.forget[shard] = done
	go func() {
		defer done()
		if err := w.Run(ctx); err != nil {
			a.finish(err)
		}
	}()
}

// replace puts a new worker in the place of one whose goroutine does not come back
// from a module. It goes on from the newest checkpoint, as after a restart; the
// journal says which call not to make again.
func (a *App) replace(ctx context.Context, shard int, why error) {
	if ctx.Err() != nil {
		return
	}
	a.o.Log.Error("a worker is replaced; a thread is in the module still, until it comes back or the process ends", "shard", shard, "error", why)
	old, forget := a.workers[shard].Load(), a.forget[shard]
	defer forget()
	a.counted[shard] = max(a.counted[shard], old.Seq())
	a.swaps.drop(ctx, func(s int) bool { return s == shard })
	old.Leave()
	w, err := a.newWorker(ctx, shard, a.counted[shard])
	switch {
	case err == nil:
		a.work(ctx, shard, w)
	case ctx.Err() == nil:
		a.finish(errors.Join(why, err))
	}
}

func (a *App) finish(err error) {
	if err != nil && a.failure.CompareAndSwap(nil, &err) {
		a.o.Log.Error("the pipeline stops", "error", err)
	}
	a.doneOnce.Do(func() { close(a.done) })
}

// Done is closed when all sources have ended or some part has failed.
func (a *App) Done() <-chan struct{} { return a.done }

// Err returns what failed, or nil.
func (a *App) Err() error {
	if p := a.failure.Load(); p != nil {
		return *p
	}
	return nil
}

// Graph returns the graph that runs.
func (a *App) Graph() *graph.Graph { return a.graph }

// Ready reports whether the pipeline runs and every source and sink has its
// peer; missing names those that have not.
func (a *App) Ready() (ok bool, missing []string) {
	up := a.o.Meter.Totals().Connected
	for _, c := range append(append([]config.Component{}, a.o.Config.Sources...), a.o.Config.Sinks...) {
		if !up[c.Name] {
			missing = append(missing, c.Name)
		}
	}
	return a.ready.Load() && a.Err() == nil && len(missing) == 0, missing
}

// Backlog returns how many journal entries await the flow, and how many
// entries await each sink.
func (a *App) Backlog() (flow uint64, bySink map[string]uint64) {
	for i := range a.workers {
		w := a.workers[i].Load()
		flow += behind(a.journal.End(i), w.Seq())
	}
	bySink = map[string]uint64{}
	for i, r := range a.sinks {
		n := uint64(0)
		for k, f := range r.Feeds() {
			n += behind(f.Log.End(f.Shard), r.Seq(k))
		}
		bySink[a.o.Config.Sinks[i].Name] = n
	}
	return flow, bySink
}

func behind(end, seq uint64) uint64 {
	if end <= seq {
		return 0
	}
	return end - seq
}

// Stop drains the pipeline: sources stop, what they have taken goes through
// the graph and into the sinks, then everything is stored and closed. What is
// not through when ctx ends stays in the journal and the queues for the next
// run. Of the time that ctx gives, half is kept for closing.
func (a *App) Stop(ctx context.Context) error {
	a.ready.Store(false)
	end, ok := ctx.Deadline()
	if ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, time.Until(end)/2)
		defer cancel()
	}
	for _, s := range a.sources {
		ends, err := s.runner.Drain(ctx)
		if err != nil {
			a.o.Log.Warn("source does not drain", "source", s.name, "error", err)
		}
		if ends {
			select {
			case <-s.ended:
			case <-ctx.Done():
			}
		}
	}
	a.stopSources()
	if ended(&a.sourcing, sourceGrace) && a.Err() == nil {
		a.settle(ctx)
	}
	a.close(max(restGrace, time.Until(end)))
	return a.Err()
}

// settle waits until nothing is under way any more, or ctx ends.
func (a *App) settle(ctx context.Context) {
	t := time.NewTicker(2 * time.Millisecond)
	defer t.Stop()
	for a.Err() == nil {
		flow, bySink := a.Backlog()
		waiting := flow
		for _, n := range bySink {
			waiting += n
		}
		if waiting == 0 {
			return
		}
		select {
		case <-t.C:
		case <-ctx.Done():
			a.o.Log.Warn("not everything is through; the rest goes on at the next start", "flow_entries", flow, "sink_entries", bySink)
			return
		}
	}
}

// How long parts may take at least to end once they are told to. What has not
// ended by then, such as a peer's library that does not return, is left behind:
// the journal is as it would be after a crash, and that loses nothing.
const (
	sourceGrace = time.Second
	restGrace   = 3 * time.Second
)

// ended waits until wg is done, for at most d, and reports whether it is.
func ended(wg *sync.WaitGroup, d time.Duration) bool {
	done := make(chan struct{})
	go func() { wg.Wait(); close(done) }()
	select {
	case <-done:
		return true
	case <-time.After(d):
		return false
	}
}

// close ends everything that runs, in the order of the flow. Sources and then
// sinks and operators have grace for it.
func (a *App) close(grace time.Duration) {
	a.stopSources()
	sourced := ended(&a.sourcing, sourceGrace)
	ctx, cancel := context.WithTimeout(context.Background(), grace)
	defer cancel()
	var closing sync.WaitGroup
	for _, s := range a.sources {
		closing.Go(func() {
			if err := s.Close(ctx); err != nil {
				a.o.Log.Warn("source does not close", "source", s.name, "error", err)
			}
		})
	}
	a.stopRest()
	if !ended(&a.rest, grace) {
		a.o.Log.Error("a sink or operator does not end and is left behind")
	}
	end, _ := ctx.Deadline()
	left := func() time.Duration { return max(sourceGrace, time.Until(end)) }
	if !ended(&closing, left()) || !sourced && !ended(&a.sourcing, left()) {
		a.o.Log.Error("a source does not end and is left behind")
	}
	for _, l := range a.logs {
		l.Close()
	}
	if a.nc != nil {
		a.nc.Close()
	}
	if a.server != nil {
		a.server.Stop()
	}
	a.keepModules(0)
}

func (a *App) tap(node string, rec arrow.Record) {
	a.Alerts.Take(rec)
	if a.o.Tap != nil {
		a.o.Tap(node, rec)
	}
}

// at places an error of a component in the config.
func (a *App) at(component string, err error) error {
	var e config.Errors
	if errors.As(err, &e) {
		return err
	}
	return config.Errors{a.o.Config.ErrorAt(component, pipeline.Problem{Message: err.Error()})}
}
