package check_test

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/penstock/penstock/operators/modules"
	"github.com/penstock/penstock/operators/wasm"
	"github.com/penstock/penstock/operators/wasm/check"
)

func TestBench(t *testing.T) {
	code, _ := modules.Get("ewma")
	base, _ := modules.Get("cusum")
	engines := map[string]int{}
	err := check.Bench(context.Background(), code, base, time.Millisecond, func(m check.Measurement) {
		engines[m.Engine]++
		require.Positive(t, m.NsPerRow)
		require.InDelta(t, m.CallUs*1e3, m.NsPerRow*float64(m.Rows), 1)
		require.InDelta(t, m.Ratio, m.NsPerRow/m.BaseNsPerRow, 1e-6)
	})
	require.NoError(t, err)
	require.Len(t, engines, len(wasm.Engines()))

	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	require.ErrorIs(t, check.Bench(ctx, code, nil, time.Hour, func(check.Measurement) {}), context.Canceled)
}
