package plant_test

import (
	"context"
	"fmt"
	"log/slog"
	"math"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/apache/arrow/go/v17/arrow"
	"github.com/apache/arrow/go/v17/arrow/array"
	"github.com/apache/arrow/go/v17/arrow/memory"

	"github.com/penstock/penstock/ingest"
	"github.com/penstock/penstock/internal/app"
	"github.com/penstock/penstock/operators/filter"
	"github.com/penstock/penstock/operators/wasm"
	"github.com/penstock/penstock/operators/window"
	"github.com/penstock/penstock/pipeline"
	"github.com/penstock/penstock/pipeline/config"
	"github.com/penstock/penstock/simulators"
	"github.com/penstock/penstock/simulators/plant"
	"github.com/penstock/penstock/sinks/alert"
)

// demoConfig reads the demo's pipeline.
func demoConfig(t *testing.T) *config.Config {
	t.Helper()
	t.Setenv("PENSTOCK_DEMO_DIR", t.TempDir())
	t.Setenv("PENSTOCK_DEMO_HTTP", "127.0.0.1:0")
	t.Setenv("PENSTOCK_DEMO_OPCUA", "opc.tcp://127.0.0.1:4840")
	t.Setenv("PENSTOCK_DEMO_MQTT", "tcp://127.0.0.1:1883")
	cfg, err := config.Load(filepath.Join("..", "..", "configs", "demo.yaml"), app.Registry())
	if err != nil {
		t.Fatal(err)
	}
	return cfg
}

// rig runs the operators and rules of a pipeline in this goroutine, as a
// flow worker does, but without journal and network.
type rig struct {
	t       *testing.T
	nodes   []*rigNode
	targets map[string][]*rigNode // by name of source, operator or port
	alerts  []plant.Alert
	cleared int
}

type rigNode struct {
	rig  *rig
	name string
	op   pipeline.Operator
}

// Emit hands a record on; alert events are noted.
func (n *rigNode) Emit(port string, rec arrow.Record) error {
	if rec.Schema().Equal(pipeline.AlertEvents) {
		n.rig.note(rec)
		return nil
	}
	name := n.name
	if port != "" {
		name += "." + port
	}
	return n.rig.process(name, rec)
}

func (r *rig) process(from string, rec arrow.Record) error {
	for _, n := range r.targets[from] {
		if err := n.op.Process(context.Background(), rec, n); err != nil {
			return fmt.Errorf("%s: %w", n.name, err)
		}
	}
	return nil
}

func (r *rig) note(rec arrow.Record) {
	text := func(name string) *array.String {
		return rec.Column(pipeline.Column(rec.Schema(), name)).(*array.String)
	}
	rule, asset, state := text("rule"), text("asset"), text("state")
	times := rec.Column(0).(*array.Timestamp)
	runs, err := pipeline.Runs(nil, rec, 1)
	if err != nil {
		r.t.Fatal(err)
	}
	for _, run := range runs {
		for i := run.Start; i < run.End; i++ {
			if state.Value(i) != "raised" {
				r.cleared++
				continue
			}
			r.alerts = append(r.alerts, plant.Alert{Rule: strings.Clone(rule.Value(i)), Asset: strings.Clone(asset.Value(i)),
				Tag: strings.Clone(run.Tag), Raised: time.Unix(0, int64(times.Value(i))).UTC()})
		}
	}
}

// newRig builds the graph. Operators stand in the YAML behind their inputs.
func newRig(t *testing.T, cfg *config.Config, env pipeline.Env) *rig {
	t.Helper()
	r := &rig{t: t, targets: map[string][]*rigNode{}}
	schemas := map[string]*arrow.Schema{}
	for _, s := range cfg.Sources {
		schemas[s.Name] = pipeline.Readings
	}
	for _, c := range append(slices.Clone(cfg.Operators), cfg.Alerts...) {
		env := env
		env.Name = c.Name
		n := &rigNode{rig: r, name: c.Name}
		var err error
		switch s := c.Settings.(type) {
		case *filter.Config:
			n.op, err = filter.New(*s, env)
		case *wasm.Config:
			n.op, err = wasm.New(*s, env)
		case *window.Config:
			n.op, err = window.New(*s, env)
		case *alert.Config:
			n.op, err = alert.New(*s, env)
		default:
			t.Fatalf("operator %s has settings %T", c.Name, s)
		}
		if err != nil {
			t.Fatalf("%s: %v", c.Name, err)
		}
		t.Cleanup(func() { _ = n.op.Close(context.Background()) })
		in := schemas[c.Inputs[0]]
		if in == nil {
			t.Fatalf("%s stands before its input %s", c.Name, c.Inputs[0])
		}
		out, err := n.op.Open(context.Background(), in)
		if err != nil {
			t.Fatalf("%s: %v", c.Name, err)
		}
		schemas[c.Name] = out
		if p, ok := n.op.(pipeline.Ported); ok {
			for port, s := range p.Ports() {
				schemas[c.Name+"."+port] = s
			}
		}
		for _, from := range c.Inputs {
			r.targets[from] = append(r.targets[from], n)
		}
		r.nodes = append(r.nodes, n)
	}
	return r
}

// run drives a plant through the rig for d of plant time, perBatch steps to a
// batch.
func (r *rig) run(p *plant.Plant, cfg *config.Config, env pipeline.Env, d time.Duration, perBatch int64) {
	r.t.Helper()
	var source [2]*ingest.Batcher
	for i, s := range cfg.Sources {
		env := env
		env.Name = s.Name
		source[i] = ingest.NewBatcher(ingest.DefaultBatch(), env)
	}
	of := map[string]int{}
	for _, spec := range p.Tags() {
		if spec.Protocol == plant.MQTT {
			of[spec.Tag] = 1
		}
	}
	lateness := ingest.DefaultBatch().Lateness
	steps := int64(d / p.StepTime(1).Sub(p.StepTime(0)))
	for n := range steps {
		at := p.StepTime(n).UnixNano()
		for _, s := range p.Step() {
			add(source[of[s.Tag]], s, at)
		}
		if (n+1)%perBatch != 0 && n+1 < steps {
			continue
		}
		for i, b := range source {
			for _, batch := range b.Flush(nil) {
				err := r.process(cfg.Sources[i].Name, batch.Record)
				batch.Record.Release()
				if err != nil {
					r.t.Fatal(err)
				}
			}
		}
		for _, node := range r.nodes {
			if err := node.op.Advance(context.Background(), arrow.Timestamp(at-int64(lateness)), node); err != nil {
				r.t.Fatalf("%s: %v", node.name, err)
			}
		}
	}
}

func add(b *ingest.Batcher, s simulators.Sample, at int64) {
	if math.IsNaN(s.Value) {
		b.AppendNull(b.Tag(s.Tag), s.Time, s.Quality, at)
		return
	}
	b.Append(b.Tag(s.Tag), s.Time, s.Value, s.Quality, at)
}

var start = time.Date(2026, 3, 1, 6, 0, 0, 0, time.UTC)

// detect runs the demo's pipeline over a plant for d.
func detect(t *testing.T, c plant.Config, d time.Duration, perBatch int64) (*rig, []plant.FaultRecord) {
	t.Helper()
	if c.Start.IsZero() {
		c.Start = start
	}
	p, err := plant.New(c)
	if err != nil {
		t.Fatal(err)
	}
	cfg := demoConfig(t)
	alloc := memory.NewCheckedAllocator(memory.DefaultAllocator)
	env := pipeline.Env{Name: "test", Log: slog.New(slog.DiscardHandler), Meter: pipeline.NewMeter(), Tags: pipeline.NewTags(cfg.Tags), Alloc: alloc, Shards: 1}
	t.Cleanup(func() { alloc.AssertSize(t, 0) })
	r := newRig(t, cfg, env)
	r.run(p, cfg, env, d, perBatch)
	return r, p.Truth()
}

// report logs what was found and what should not have been.
func report(t *testing.T, r *rig, truth []plant.FaultRecord) (results []plant.FaultResult, wrong int) {
	t.Helper()
	results, wrong = plant.Evaluate(truth, r.alerts)
	var line strings.Builder
	for _, f := range results {
		if f.Detected {
			fmt.Fprintf(&line, " %s %.1f s", f.Kind, *f.DelayS)
		} else {
			fmt.Fprintf(&line, " %s (%s) missed", f.Kind, f.Asset)
		}
	}
	t.Logf("%d alerts, %d false;%s", len(r.alerts), wrong, line.String())
	for _, a := range r.alerts {
		if _, w := plant.Evaluate(truth, []plant.Alert{a}); w > 0 {
			t.Logf("false alarm: %s on %s at %s", a.Rule, a.Tag, a.Raised.Format("15:04:05.0"))
		}
	}
	return results, wrong
}

// Half a minute of the demo finds the faults, whatever the seed, and cries
// wolf hardly ever.
func TestDemoDetects(t *testing.T) {
	for seed := int64(1); seed <= 10; seed++ {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			r, truth := detect(t, plant.Config{Seed: seed}, 30*time.Second, 1)
			results, wrong := report(t, r, truth)
			found := 0
			for _, f := range results {
				if f.Detected {
					found++
				}
			}
			if found < 7 {
				t.Errorf("%d of %d kinds of fault detected", found, len(results))
			}
			if wrong > 1 {
				t.Errorf("%d false alarms", wrong)
			}
		})
	}
}

// The same seed raises the same alerts, whenever the plant starts (at a whole
// second, for windows end at these) and however its readings are batched.
func TestDemoRepeats(t *testing.T) {
	a, _ := detect(t, plant.Config{Seed: 4}, 30*time.Second, 1)
	const later = 1234567 * time.Second
	b, _ := detect(t, plant.Config{Seed: 4, Start: start.Add(later)}, 30*time.Second, 7)
	list := func(r *rig, by time.Duration) (l []string) {
		for _, x := range r.alerts {
			l = append(l, fmt.Sprint(x.Raised.Add(-by).Format("15:04:05.000 "), x.Rule, " ", x.Tag))
		}
		slices.Sort(l)
		return l
	}
	if x, y := list(a, 0), list(b, later); len(x) == 0 || !slices.Equal(x, y) {
		t.Errorf("alerts differ:\n%s\n\n%s", strings.Join(x, "\n"), strings.Join(y, "\n"))
	}
}

// A healthy plant under its load cycles is left in peace.
func TestHealthyPlantIsQuiet(t *testing.T) {
	minutes := 10
	if testing.Short() {
		minutes = 2
	}
	r, truth := detect(t, plant.Config{Seed: 21, Faults: []plant.Fault{}}, time.Duration(minutes)*time.Minute, 2)
	if _, wrong := report(t, r, truth); wrong > 1 {
		t.Errorf("%d false alarms in %d healthy minutes", wrong, minutes)
	}
}

// Ten minutes of failures and repairs.
func TestDemoGoesOn(t *testing.T) {
	if testing.Short() {
		t.Skip("ten minutes of plant time")
	}
	r, truth := detect(t, plant.Config{Seed: 1}, 10*time.Minute, 2)
	results, wrong := report(t, r, truth)
	missed := 0
	for i, f := range results {
		if !f.Detected && truth[i].End != nil {
			missed++
		}
	}
	if missed > 2 {
		t.Errorf("%d of %d faults missed", missed, len(results))
	}
	if wrong > 3 {
		t.Errorf("%d false alarms in ten minutes", wrong)
	}
	if r.cleared == 0 {
		t.Error("no alert was ever cleared")
	}
}
