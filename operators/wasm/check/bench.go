package check

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/apache/arrow/go/v17/arrow"

	"github.com/penstock/penstock/operators/wasm"
)

// Measurement is what a module costs for one shape of batch on one engine:
// medians over all calls, copying in and out included.
type Measurement struct {
	Engine   string  `json:"engine"`
	Rows     int     `json:"rows"` // of a batch
	Tags     int     `json:"tags"`
	NsPerRow float64 `json:"ns_per_row"`
	CallUs   float64 `json:"us_per_call"`
	// When it counts what it does: the time, and what a call used of its fuel.
	MeteredNsPerRow float64 `json:"metered_ns_per_row"`
	FuelPerRow      float64 `json:"fuel_per_row"`
	// Of the baseline module; 0 without one. Ratio is this module's time over
	// the baseline's: below 1 is faster.
	BaseNsPerRow float64 `json:"baseline_ns_per_row,omitempty"`
	Ratio        float64 `json:"ratio,omitempty"`
}

// benchShapes are few tags with long runs and many tags with runs of 8 rows.
var benchShapes = []shape{
	{tags: 1, rows: 1},
	{tags: 4, rows: 256}, {tags: 32, rows: 256},
	{tags: 16, rows: 4096}, {tags: 512, rows: 4096},
	{tags: 16, rows: 65536}, {tags: 8192, rows: 65536},
}

// Bench measures a packed module, against a baseline if that is not nil, on
// every engine of this build that runs both, for the given time per figure. The
// two take turns, so that what else the machine does hits both.
func Bench(ctx context.Context, code, baseline []byte, each time.Duration, report func(Measurement)) error {
	var infos []wasm.Info
	codes := [][]byte{code}
	if baseline != nil {
		codes = append(codes, baseline)
	}
	for _, c := range codes {
		info, err := wasm.Inspect(c)
		if err != nil {
			return err
		}
		infos = append(infos, info)
	}
	ran := false
	for _, engine := range wasm.Engines() {
		if engine == wasm.EngineWasmer && slices.ContainsFunc(infos, func(i wasm.Info) bool { return len(i.WasmerHazards) > 0 }) {
			continue
		}
		for _, s := range benchShapes {
			m, err := measure(ctx, engine, codes, infos, s, each)
			if err != nil {
				return fmt.Errorf("%s, %d rows of %d tags: %w", engine, s.rows, s.tags, err)
			}
			report(m)
			ran = true
		}
	}
	if !ran {
		return errors.New("no engine of this build runs the module")
	}
	return nil
}

func measure(ctx context.Context, engine string, codes [][]byte, infos []wasm.Info, s shape, each time.Duration) (m Measurement, err error) {
	var runners []*runner
	defer func() {
		for _, r := range runners {
			err = errors.Join(err, r.close())
		}
	}()
	start := func(i int, metered string) error {
		r, err := newRunner(engine, codes[i], &infos[i].Manifest, s, metered)
		if err == nil {
			runners = append(runners, r)
		}
		return err
	}
	for i := range codes {
		if err := start(i, wasm.MeteredNever); err != nil {
			return m, err
		}
	}
	if err := start(0, wasm.MeteredAlways); err != nil {
		return m, err
	}
	const turns = 10
	for turn := range turns + 1 {
		for _, r := range runners {
			if turn == 1 {
				r.took = r.took[:0] // the first turn warmed it up
			}
			until := time.Now().Add(each / turns)
			for first := true; first || time.Now().Before(until); first = false {
				if err := ctx.Err(); err != nil {
					return m, err
				}
				if err := r.call(); err != nil {
					return m, err
				}
			}
		}
	}
	call := runners[0].median()
	m = Measurement{Engine: engine, Rows: s.rows, Tags: s.tags, NsPerRow: call / float64(s.rows), CallUs: call / 1e3}
	metered := runners[len(runners)-1]
	m.MeteredNsPerRow = metered.median() / float64(s.rows)
	if fuel, ok := metered.probe.FuelUsed(); ok {
		m.FuelPerRow = float64(fuel) / float64(s.rows)
	}
	if len(codes) > 1 {
		base := runners[1].median()
		m.BaseNsPerRow, m.Ratio = base/float64(s.rows), call/base
	}
	return m, nil
}

// runner calls one module again and again with a batch whose times move on.
type runner struct {
	probe *wasm.Probe
	batch arrow.Record
	span  time.Duration // of a batch
	took  []time.Duration
}

func newRunner(engine string, code []byte, m *wasm.Manifest, s shape, metered string) (*runner, error) {
	p, err := wasm.OpenProbe(code, wasm.ProbeOptions{Engine: engine, Params: guess(m), Memory: 1 << 30, Metered: metered})
	if err != nil {
		return nil, err
	}
	r := &runner{probe: p, batch: s.record(m, epoch), span: time.Duration(s.rows/s.tags) * time.Second}
	if !hasTag(m) {
		r.span = time.Duration(s.rows) * time.Second
	}
	return r, nil
}

func (r *runner) call() error {
	later(r.batch, r.span)
	begin := time.Now()
	out, err := r.probe.Process(r.batch)
	r.took = append(r.took, time.Since(begin))
	if out != nil {
		out.Release()
	}
	return err
}

// median is in ns.
func (r *runner) median() float64 {
	slices.Sort(r.took)
	return float64(r.took[len(r.took)/2])
}

func (r *runner) close() error {
	r.batch.Release()
	return r.probe.Close()
}
