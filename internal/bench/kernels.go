package bench

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"math"
	"slices"
	"time"

	"github.com/apache/arrow/go/v17/arrow"
	"github.com/apache/arrow/go/v17/arrow/memory"

	"github.com/penstock/penstock/ingest"
	"github.com/penstock/penstock/operators/modules"
	"github.com/penstock/penstock/operators/wasm"
	"github.com/penstock/penstock/pipeline"
)

type discard struct{}

func (discard) Emit(string, arrow.Record) error { return nil }

// Kernels measures the shipped kernels as the pipeline calls them: copies in
// and out included, 1000 tags with 8 rows each in a batch.
func Kernels(ctx context.Context, report func(Result)) error {
	const tags, rows, rounds = 1000, 8, 200
	for _, name := range modules.Names() {
		cfg := wasm.DefaultConfig()
		cfg.Module = name
		if name == "rul" {
			cfg.Params = map[string]any{"limit": 100.0}
		}
		p := pipeline.NewProblems()
		cfg.Validate(p)
		if all := p.All(); len(all) > 0 {
			return fmt.Errorf("kernel %s: %s: %s", name, all[0].Path, all[0].Message)
		}
		op, err := wasm.New(cfg, pipeline.Env{Name: name, Log: slog.New(slog.NewTextHandler(io.Discard, nil)), Meter: pipeline.NewMeter(), Alloc: memory.DefaultAllocator})
		if err != nil {
			return fmt.Errorf("kernel %s: %w", name, err)
		}
		if _, err := op.Open(ctx, pipeline.Readings); err != nil {
			return fmt.Errorf("kernel %s: %w", name, err)
		}
		b := ingest.NewBatcher(ingest.BatchConfig{MaxTags: tags}, pipeline.Env{Name: "bench"})
		took := make([]time.Duration, 0, rounds)
		t := time.Now().UnixNano()
		for round := range rounds {
			for i := range tags {
				id := b.Tag(benchTag(i))
				for k := range rows {
					n := round*rows + k
					b.Append(id, t+int64(n)*1e8, 20+math.Sin(float64(n+i)), 0, t)
				}
			}
			for _, batch := range b.Flush(nil) {
				start := time.Now()
				err := op.Process(ctx, batch.Record, discard{})
				took = append(took, time.Since(start))
				batch.Record.Release()
				if err != nil {
					return fmt.Errorf("kernel %s: %w", name, err)
				}
			}
		}
		if err := op.Close(ctx); err != nil {
			return err
		}
		slices.Sort(took)
		ns := float64(took[len(took)/2].Nanoseconds()) / (tags * rows)
		report(Result{Scenario: "kernel " + name, Subject: "wasmer", Readings: rounds * tags * rows, ReadingsPerS: 1e9 / ns, CPUPerMillion: ns / 1e3})
	}
	return nil
}
