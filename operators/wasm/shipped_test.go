package wasm

import (
	"bytes"
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"testing"

	"github.com/apache/arrow/go/v17/arrow"
	"github.com/apache/arrow/go/v17/arrow/array"
	"github.com/apache/arrow/go/v17/arrow/memory"
	"github.com/stretchr/testify/require"

	"github.com/penstock/penstock/operators/modules"
	"github.com/penstock/penstock/pipeline"
)

// plant makes batches with all that a kernel has to bear: tags that come and
// go, irregular, repeated and backward times, nulls, NaN, Bad quality.
func plant(alloc memory.Allocator, rng *rand.Rand, batch int) arrow.Record {
	b := array.NewRecordBuilder(alloc, pipeline.Readings)
	defer b.Release()
	for tag := range 20 {
		if rng.IntN(4) == 0 {
			continue
		}
		t := int64(1_700_000_000_000_000_000) + int64(batch)*60_000_000_000
		for range rng.IntN(80) {
			t += int64(rng.IntN(2_000_000_000)) * int64(rng.IntN(3))
			at := t
			if rng.IntN(50) == 0 {
				at -= 30_000_000_000
			}
			b.Field(0).(*array.TimestampBuilder).Append(arrow.Timestamp(at))
			_ = b.Field(1).(*array.BinaryDictionaryBuilder).AppendString(fmt.Sprintf("plant/pump%d/vibration", tag))
			v := b.Field(2).(*array.Float64Builder)
			switch rng.IntN(30) {
			case 0:
				v.AppendNull()
			case 1:
				v.Append(math.NaN())
			case 2:
				v.Append(math.Inf(1))
			case 3:
				v.Append(1e6)
			default:
				v.Append(rng.NormFloat64() + float64(tag) + float64(batch)/10)
			}
			b.Field(3).AppendNull()
			q := uint32(0)
			if rng.IntN(20) == 0 {
				q = pipeline.BadSensor
			}
			b.Field(4).(*array.Uint32Builder).Append(q)
			b.Field(5).(*array.TimestampBuilder).Append(arrow.Timestamp(at + 1_000_000))
		}
	}
	return b.NewRecord()
}

// Every shipped module runs with its defaults and gives the same bytes on
// every engine, also when it is stopped in the middle and restored.
func TestShippedModules(t *testing.T) {
	require.NotEmpty(t, modules.Names())
	for _, name := range modules.Names() {
		t.Run(name, func(t *testing.T) {
			wasm, ok := modules.Get(name)
			require.True(t, ok)
			info, err := Inspect(wasm)
			require.NoError(t, err)
			require.Equal(t, name, info.Manifest.Name)
			set := func(c *Config) { c.Module, c.OnError, c.Params = name, OnErrorStop, required(&info.Manifest) }
			var want []byte
			for _, engine := range engines {
				run := func(f *fixture, rng *rand.Rand, from, to int) {
					for i := from; i < to; i++ {
						rec := plant(f.alloc, rng, i)
						require.NoError(t, f.process(rec))
						rec.Release()
						require.NoError(t, f.Advance(context.Background(), arrow.Timestamp(1_700_000_000_000_000_000+int64(i)*60_000_000_000), f.out))
					}
				}
				whole := start(t, pipeline.Readings, name, engine, set)
				run(whole, rand.New(rand.NewPCG(1, 2)), 0, 30)
				got := whole.out.bytes(t)
				if want == nil {
					want = got
				}
				require.True(t, bytes.Equal(want, got), engine)

				rng := rand.New(rand.NewPCG(1, 2))
				first := start(t, pipeline.Readings, name, engine, set)
				run(first, rng, 0, 13)
				var state bytes.Buffer
				require.NoError(t, first.Snapshot(&state))
				second := start(t, pipeline.Readings, name, engine, set)
				require.NoError(t, second.Restore(&state))
				second.out.recs, first.out.recs = first.out.recs, nil
				run(second, rng, 13, 30)
				require.True(t, bytes.Equal(want, second.out.bytes(t)), "%s, restored", engine)
			}
		})
	}
}

// required gives a value to each parameter that has no default.
func required(m *Manifest) map[string]any {
	out := map[string]any{}
	for _, p := range m.Params {
		if p.Default != nil {
			continue
		}
		switch p.Type {
		case "duration":
			out[p.Name] = "30s"
		case "bool":
			out[p.Name] = true
		case "enum":
			out[p.Name] = p.Enum[0]
		case "string":
			out[p.Name] = "x"
		default:
			out[p.Name] = 5
		}
	}
	return out
}
