package wasm

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/penstock/penstock/operators/wasm/binfmt"
	"github.com/penstock/penstock/operators/wasm/engine"
	"github.com/penstock/penstock/pipeline"
)

// host is what a guest can reach: its log, its metrics, and a WASI in which
// time is the watermark and chance is seeded. One per operator; it outlives
// the guest's instances.
type host struct {
	env   pipeline.Env
	log   *slog.Logger
	inst  engine.Instance // nil until instantiated
	fault error           // what the guest did to deserve an end; the call fails with it
	spent bool            // the fault is that it made the host do too much
	work  int64           // what the guest may yet make the host do in the call at hand
	kill  func()          // makes a metered guest stop soon after a fault; else nil

	// What a guest can tell apart, so it is part of a snapshot.
	watermark int64
	random    uint64

	gauge   *prometheus.GaugeVec
	metrics map[string]prometheus.Gauge

	said, failed rate // lines of the guest, and about it: it cannot talk the host down

	hears bool     // it is a probe's
	heard []string // the first warnings and errors since a probe began its call: why it trapped
}

// maxHeard is how many lines are kept to go with an error.
const maxHeard = 3

// rate limits lines of the log to so many per second.
type rate struct {
	second            int64
	lines, suppressed int
}

// callWork is what a call of the host costs, besides a unit for each byte that
// it reads or writes: it takes about as long as so many instructions.
const callWork = 1000

// Bounds of what a guest may say.
const (
	maxLogLine    = 4096
	maxLogRate    = 10 // lines per second
	maxMetrics    = 64
	maxMetricName = 64
)

const (
	modulePenstock = "penstock"
	moduleWASI     = "wasi_snapshot_preview1"
)

func newHost(env pipeline.Env, module string, seed uint64) (*host, error) {
	h := &host{env: env, log: env.Log.With("operator", env.Name, "module", module), random: seed, metrics: map[string]prometheus.Gauge{}}
	h.gauge = prometheus.NewGaugeVec(prometheus.GaugeOpts{Namespace: "penstock", Name: "module_metric",
		Help: "What a Wasm module reported last under a name of its own."}, []string{"operator", "name"})
	if err := register(env.Meter, &h.gauge); err != nil {
		return nil, err
	}
	return h, nil
}

// register adds c to the meter's registry, or replaces it by the one that an
// earlier operator put there.
func register[C prometheus.Collector](m *pipeline.Meter, c *C) error {
	err := m.Registry().Register(*c)
	var had prometheus.AlreadyRegisteredError
	if errors.As(err, &had) {
		var ok bool
		if *c, ok = had.ExistingCollector.(C); ok {
			return nil
		}
	}
	return err
}

func (h *host) fail(format string, a ...any) {
	if h.fault != nil {
		return
	}
	h.fault = fmt.Errorf(format, a...)
	if h.kill != nil {
		h.kill()
	}
}

// charge takes units of work; it is a fault when there are not so many left.
// What the host does for a guest would else cost the guest nothing.
func (h *host) charge(fn string, units uint64) {
	if h.work -= int64(units); h.work < 0 && h.fault == nil {
		h.spent = true
		h.fail("%s: it made the host do more than its fuel is for: if it needs more, raise fuel", fn)
	}
}

// memory returns n bytes of guest memory at ptr, or nil and a fault.
func (h *host) memory(fn string, ptr, n uint64) []byte {
	if h.inst == nil {
		h.fail("%s is called before the module is ready", fn)
		return nil
	}
	b, err := view(h.inst.Memory()).bytes(uint32(ptr), n)
	if err != nil {
		h.fail("%s: %w", fn, err)
		return nil
	}
	if h.charge(fn, n); h.fault != nil {
		return nil
	}
	return b
}

// valid is text that a guest wrote.
func valid(b []byte) string { return strings.ToValidUTF8(string(b), "\uFFFD") }

func (h *host) write(level slog.Level, text []byte) {
	line := func() string { return strings.TrimRight(valid(text), "\n") }
	if h.hears && level >= slog.LevelWarn && len(h.heard) < maxHeard {
		h.heard = append(h.heard, line())
	}
	h.limited(&h.said, func() { h.log.Log(context.Background(), level, line()) })
}

// limited runs f if the rate allows it.
func (h *host) limited(r *rate, f func()) {
	now := time.Now().Unix()
	if now != r.second {
		if r.suppressed > 0 {
			h.log.Warn("module log lines suppressed", "lines", r.suppressed)
		}
		*r = rate{second: now}
	}
	if r.lines++; r.lines > maxLogRate {
		r.suppressed++
		return
	}
	f()
}

// failure logs a failed call.
func (h *host) failure(err error, eng string, rows int, fatal bool) {
	text := "module failed"
	if fatal {
		text = "module failed and lost its state"
	}
	h.limited(&h.failed, func() { h.log.Error(text, "engine", eng, "rows", rows, "error", err) })
}

func (h *host) metric(name string, v float64) {
	g, ok := h.metrics[name]
	if !ok {
		if !columnRE.MatchString(name) {
			h.fail("metric: %q is no name: lower-case letters, digits and _", name)
			return
		}
		if len(h.metrics) == maxMetrics {
			h.fail("metric: %q is one name too many, the limit is %d", name, maxMetrics)
			return
		}
		g = h.gauge.WithLabelValues(h.env.Name, name)
		h.metrics[name] = g
	}
	g.Set(v)
}

// types writes a signature with i for i32, I for i64 and d for f64.
func types(s string) string {
	return strings.NewReplacer("i", "\x7f", "I", "\x7e", "d", "\x7c").Replace(s)
}

// functions is all that a module may import.
func (h *host) functions() []engine.HostFunc {
	levels := []slog.Level{slog.LevelDebug, slog.LevelInfo, slog.LevelWarn, slog.LevelError}
	own := []engine.HostFunc{
		{Name: "log", Params: types("iii"), Call: func(a []uint64) uint64 {
			if b := h.memory("log", a[1], min(a[2], maxLogLine)); h.fault == nil {
				h.write(levels[min(a[0], uint64(len(levels)-1))], b)
			}
			return 0
		}},
		{Name: "metric", Params: types("iid"), Call: func(a []uint64) uint64 {
			if b := h.memory("metric", a[0], min(a[1], maxMetricName+1)); h.fault == nil {
				h.metric(valid(b), math.Float64frombits(a[2]))
			}
			return 0
		}},
	}
	for i := range own {
		own[i].Module = modulePenstock
	}
	own = append(own, h.wasi()...)
	for i := range own {
		name, call := own[i].Name, own[i].Call
		own[i].Call = func(a []uint64) uint64 {
			if h.charge(name, callWork); h.fault != nil {
				return 0
			}
			return call(a)
		}
	}
	return own
}

// imports returns the host functions that the module asks for, and an error
// that names some of those that do not exist or are of another type.
func (h *host) imports(o *binfmt.Outline) ([]engine.HostFunc, error) {
	have := map[[2]string]engine.HostFunc{}
	for _, f := range h.functions() {
		have[[2]string{f.Module, f.Name}] = f
	}
	taken := map[[2]string]bool{}
	var out []engine.HostFunc
	var errs []error
	const most = 8
	for i, im := range o.Imports {
		if len(errs) == most {
			errs = append(errs, fmt.Errorf("these are not all: there are %d more imports", len(o.Imports)-i))
			break
		}
		key := [2]string{im.Module, im.Name}
		called := binfmt.Shown(im.Module) + "." + binfmt.Shown(im.Name)
		f, ok := have[key]
		switch {
		case im.Kind != binfmt.KindFunc:
			errs = append(errs, fmt.Errorf("the module imports %s, which is no function: nothing else is offered", called))
		case !ok:
			errs = append(errs, fmt.Errorf("the module imports the function %s, which Penstock does not offer", called))
		case im.Sig != binfmt.Signature{Params: f.Params, Results: f.Results}:
			errs = append(errs, fmt.Errorf("the module imports %s as %s, it is %s", called, im.Sig, binfmt.Signature{Params: f.Params, Results: f.Results}))
		case !taken[key]:
			taken[key] = true
			out = append(out, f)
		}
	}
	return out, errors.Join(errs...)
}
