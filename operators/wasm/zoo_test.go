package wasm

import (
	"context"
	"io"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/apache/arrow/go/v17/arrow"
	"github.com/apache/arrow/go/v17/arrow/memory"
	"github.com/stretchr/testify/require"

	"github.com/penstock/penstock/operators/modules"
	"github.com/penstock/penstock/pipeline"
)

// A shipped module with one bit flipped anywhere is refused, fails or works,
// within its limits: nothing crashes and nothing hangs.
func TestBitFlips(t *testing.T) {
	const flips = 150 // for each engine, each its own
	code, _ := modules.Get("ewma")
	info, err := Inspect(code)
	require.NoError(t, err)
	values := required(&info.Manifest)
	var recs []arrow.Record
	rng := rand.New(rand.NewPCG(5, 6))
	for i := range 3 {
		recs = append(recs, plant(memory.DefaultAllocator, rng, i))
		defer recs[i].Release()
	}
	forEngines(t, func(t *testing.T, engine string) {
		ends := map[string]int{}
		run := func(code []byte) string {
			cfg := DefaultConfig()
			cfg.Module, cfg.Params, cfg.Engine, cfg.OnError = "flipped", values, engine, OnErrorDrop
			cfg.Fuel = Fuel{PerCall: 2_000_000, PerRow: 10_000}
			if engine == EngineWasmer {
				cfg.Engine = EngineWasmerUntrusted
			}
			op, err := newFrom(code, cfg, quiet("flipped"), NewCompiler("", nil))
			if err != nil {
				return "refused"
			}
			defer op.Close(context.Background()) //nolint:errcheck // nothing to do about it
			if _, err := op.Open(context.Background(), pipeline.Readings); err != nil {
				return "does not start"
			}
			for _, rec := range recs {
				if err := op.Process(context.Background(), rec, discard{}); err != nil {
					return "ends the pipeline: " + err.Error()
				}
				if op.Failures() > 0 {
					return "fails"
				}
			}
			return "works"
		}
		rng := rand.New(rand.NewPCG(uint64(engine[2]), 9))
		for range flips {
			bit := rng.IntN(8 * len(code))
			flipped := append([]byte(nil), code...)
			flipped[bit/8] ^= 1 << (bit % 8)
			end := make(chan string, 1)
			go func() { end <- run(flipped) }()
			select {
			case e := <-end:
				require.NotContains(t, e, "ends the pipeline", "bit %d", bit)
				ends[e]++
			case <-time.After(20 * time.Second):
				t.Fatalf("bit %d: it hangs", bit)
			}
		}
		t.Log(ends)
		require.Positive(t, ends["refused"])
	})
}

// What a module makes the host do is paid from its fuel: it ends after the same work on every engine, and
// what it did wrong ends it at once.
func TestHostWorkIsPaid(t *testing.T) {
	for mode, says := range map[string]string{
		"log_flood":    "penstock_process: log: it made the host do more than its fuel is for",
		"random_flood": "penstock_process: random_get: it made the host do more than its fuel is for",
	} {
		t.Run(mode, func(t *testing.T) {
			var want int64
			for _, engine := range engines {
				f := start(t, pipeline.Readings, "zoo/beast", engine, func(c *Config) {
					params("mode", mode)(c)
					c.Fuel, c.OnError = Fuel{PerCall: 1_000_000, PerRow: 1000}, OnErrorDrop
				})
				rec := readings(10)
				begun := time.Now()
				require.NoError(t, f.process(rec))
				rec.Release()
				require.Less(t, time.Since(begun), 5*time.Second)
				require.Contains(t, f.log.String(), says)
				require.Equal(t, map[string]int64{reasonFuel: 10}, f.meter.Totals().Dropped)
				if want == 0 {
					want = f.host.work
				}
				require.Equal(t, want, f.host.work, engine)
			}
		})
	}
}

// A module cannot hide why it failed behind lines of its own.
func TestFailureIsLoggedBehindAFlood(t *testing.T) {
	f := start(t, pipeline.Readings, "zoo/beast", EngineAuto, func(c *Config) {
		params("mode", "log_flood")(c)
		c.Fuel = Fuel{PerCall: 1_000_000}
	})
	rec := readings(10)
	defer rec.Release()
	require.NoError(t, f.process(rec))
	require.Contains(t, f.log.String(), "module failed and lost its state")
}

// What a guest calls its state is bounded: each checkpoint stores it.
func TestStateLimit(t *testing.T) {
	f := start(t, pipeline.Readings, "zoo/beast", EngineAuto, func(c *Config) {
		params("mode", "state_huge")(c)
		c.Memory = 40 << 20
	})
	require.NoError(t, f.Snapshot(io.Discard))
	require.Contains(t, f.log.String(), "the limit is 33554432")
}
