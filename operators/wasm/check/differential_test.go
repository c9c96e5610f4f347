package check_test

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/apache/arrow/go/v17/arrow/memory"
	"github.com/stretchr/testify/require"

	"github.com/penstock/penstock/operators/modules"
	"github.com/penstock/penstock/operators/wasm"
)

// choose gives each parameter its default or some value within its range.
func choose(rnd *rand.Rand, m *wasm.Manifest) map[string]any {
	out := map[string]any{}
	for _, p := range m.Params {
		if p.Default != nil && rnd.IntN(2) == 0 {
			continue
		}
		lo, hasLo := number(p.Min)
		hi, hasHi := number(p.Max)
		switch p.Type {
		case "enum":
			out[p.Name] = p.Enum[rnd.IntN(len(p.Enum))]
			continue
		case "bool":
			out[p.Name] = rnd.IntN(2) == 0
			continue
		case "string":
			out[p.Name] = "x"
			continue
		}
		v := math.Exp(rnd.Float64()*10 - 3) // 0.05 to 1100
		if hasLo {
			v = max(v, lo)
		}
		if hasHi {
			v = min(v, hi)
		}
		switch p.Type {
		case "int":
			out[p.Name] = int(math.Ceil(v))
		case "duration":
			out[p.Name] = time.Duration(v * float64(time.Second)).String()
		default:
			out[p.Name] = v
		}
	}
	return out
}

// number is a bound of a parameter; a duration's is in seconds.
func number(v any) (float64, bool) {
	switch x := v.(type) {
	case float64:
		return x, true
	case string:
		d, err := time.ParseDuration(x)
		return d.Seconds(), err == nil
	}
	return 0, false
}

// Every shipped module gives the same bytes, and has the same state, on every
// engine after every step of random streams, with random parameters, while its
// state moves from engine to engine.
func TestEnginesDoNotDiffer(t *testing.T) {
	if len(wasm.Engines()) < 2 {
		t.Skip("this build has one engine")
	}
	rounds := 12
	if testing.Short() {
		rounds = 4
	}
	for _, name := range modules.Names() {
		t.Run(name, func(t *testing.T) {
			code, _ := modules.Get(name)
			m, err := wasm.ReadManifest(code)
			require.NoError(t, err)
			var compiled []*wasm.Probe
			for _, e := range wasm.Engines() {
				p, err := wasm.OpenProbe(code, wasm.ProbeOptions{Engine: e, Params: m.Golden[0].Params, Memory: 1 << 30})
				require.NoError(t, err)
				defer p.Close() //nolint:errcheck // it only ends
				compiled = append(compiled, p)
			}
			moved, made := 0, 0
			for round := range rounds {
				rnd := rand.New(rand.NewPCG(uint64(round), 77))
				params := choose(rnd, &m)
				first, err := compiled[0].Another(params)
				for wasm.FailureReason(err) == "module_error" { // they do not go together
					params = choose(rnd, &m)
					first, err = compiled[0].Another(params)
				}
				require.NoError(t, err, "%v", params)
				live := []*wasm.Probe{first}
				for _, c := range compiled[1:] {
					p, err := c.Another(params)
					require.NoError(t, err)
					live = append(live, p)
				}
				in := wasm.GoldenInput{Seed: rnd.Uint64(), Tags: 1 + rnd.IntN(1<<rnd.IntN(8)), Rows: 1 + rnd.IntN(1<<rnd.IntN(12)), Batches: 12, Clean: rnd.IntN(4) == 0}
				switch round {
				case 0:
					in.Tags, in.Rows, in.Batches = 256, 1<<16, 2
				case 1:
					in.Tags, in.Rows = 256, 256 // one row per tag, nearly
				}
				steps, err := in.Steps(m.Input, memory.DefaultAllocator)
				require.NoError(t, err)
				empty := steps[0].Batch.NewSlice(0, 0)
				steps = append(steps, wasm.Step{Batch: empty})
				steps[2], steps[len(steps)-1] = steps[len(steps)-1], steps[2] // not at the end
				for i := range steps {
					what := fmt.Sprintf("round %d, step %d, params %v, input %+v", round, i, params, in)
					want, err := live[0].Run(nil, steps[i:i+1])
					require.NoError(t, err, what)
					made += len(want)
					for _, p := range live[1:] {
						got, err := p.Run(nil, steps[i:i+1])
						require.NoError(t, err, what)
						require.True(t, string(want) == string(got), "%s differs from %s: %s", p.Engine(), live[0].Engine(), what)
					}
					if rnd.IntN(4) > 0 {
						continue
					}
					var states [][]byte
					for _, p := range live {
						s, err := p.Snapshot()
						require.NoError(t, err, what)
						require.NoError(t, p.Close())
						states = append(states, s)
						require.True(t, string(states[0]) == string(s), "state of %s differs from that of %s: %s", p.Engine(), live[0].Engine(), what)
					}
					for k := range live {
						live[k], err = compiled[k].Another(params)
						require.NoError(t, err)
						require.NoError(t, live[k].Restore(states[(k+1)%len(states)]), what)
					}
					moved++
				}
				for _, p := range live {
					require.NoError(t, p.Close())
				}
				wasm.ReleaseSteps(steps)
			}
			require.Positive(t, moved)
			require.Positive(t, made)
		})
	}
}
