package opcua

import (
	"context"
	"fmt"
	"log/slog"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/penstock/penstock/pipeline"
	"github.com/penstock/penstock/simulators"
	sim "github.com/penstock/penstock/simulators/opcua"
)

func cpu() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		panic(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkTenThousandValuesASecond reads 1000 variables that change ten times
// a second, for b.N times 100 ms. The simulator runs in the same process.
func BenchmarkTenThousandValuesASecond(b *testing.B) {
	const tags = 1000
	var names []string
	cfg := DefaultConfig()
	samples := make([]simulators.Sample, tags)
	for i := range tags {
		names = append(names, fmt.Sprintf("plant/line%d/v%d", i%10, i))
		samples[i].Tag = names[i]
	}
	srv, err := sim.New(sim.Config{Tags: names})
	require.NoError(b, err)
	require.NoError(b, srv.Start(context.Background()))
	defer srv.Close()
	cfg.Endpoint, cfg.SecurityPolicy, cfg.Browse = srv.Endpoint(), "None", []Browse{{Root: "i=85"}}
	s, err := New(cfg, pipeline.Env{Name: "plc", Log: slog.New(slog.DiscardHandler), Meter: pipeline.NewMeter(), Tags: pipeline.NewTags(nil), Shards: 1})
	require.NoError(b, err)
	ctx := context.Background()
	require.NoError(b, s.Connect(ctx))
	defer s.Close(ctx)
	require.NoError(b, srv.WaitSubscribed(ctx, tags))
	total := b.N * tags
	b.ResetTimer()
	start := cpu()
	var set time.Duration
	go func() {
		tick := time.NewTicker(100 * time.Millisecond)
		defer tick.Stop()
		for i := range b.N {
			<-tick.C
			now := time.Now()
			for k := range samples {
				samples[k].Time, samples[k].Value = now.UnixNano(), float64(i)
			}
			srv.Set(samples)
			set += time.Since(now)
		}
	}()
	for got := 0; got < total; {
		batch, _, err := s.Read(ctx)
		require.NoError(b, err)
		if batch.Record != nil {
			got += int(batch.Record.NumRows())
			batch.Record.Release()
		}
	}
	used := cpu() - start
	b.ReportMetric(used.Seconds()/float64(total)*1e6, "CPU-s/Mvalues")
	b.ReportMetric(set.Seconds()/float64(total)*1e6, "set-s/Mvalues")
	b.ReportMetric(float64(total)/b.Elapsed().Seconds(), "values/s")
}
