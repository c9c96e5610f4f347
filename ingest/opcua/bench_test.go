package opcua

import (
	"context"
	"fmt"
	"log/slog"
	"syscall"
	"testing"
	"time"

	gopcua "github.com/gopcua/opcua"
	"github.com/gopcua/opcua/ua"
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

const benchTags = 1000

// load starts a simulator with 1000 variables and returns what sets them all,
// ten times a second, rounds times.
func load(b *testing.B) (srv *sim.Server, names []string, run func(rounds int)) {
	samples := make([]simulators.Sample, benchTags)
	for i := range samples {
		names = append(names, fmt.Sprintf("plant/line%d/v%d", i%10, i))
		samples[i].Tag = names[i]
	}
	srv, err := sim.New(sim.Config{Tags: names})
	require.NoError(b, err)
	require.NoError(b, srv.Start(context.Background()))
	b.Cleanup(func() { srv.Close() })
	return srv, names, func(rounds int) {
		tick := time.NewTicker(100 * time.Millisecond)
		defer tick.Stop()
		for i := range rounds {
			now := (<-tick.C).UnixNano()
			for k := range samples {
				samples[k].Time, samples[k].Value = now, float64(i)
			}
			srv.Set(samples)
		}
	}
}

func report(b *testing.B, used time.Duration) {
	total := float64(b.N * benchTags)
	b.ReportMetric(used.Seconds()/total*1e6, "CPU-s/Mvalues")
	b.ReportMetric(total/b.Elapsed().Seconds(), "values/s")
}

// BenchmarkSource reads 10 000 values a second into Arrow batches, for b.N
// times 100 ms: run it with -benchtime 100x. The simulator is in the same
// process, here and in BenchmarkBareGopcua, so compare the two.
func BenchmarkSource(b *testing.B) {
	srv, _, run := load(b)
	cfg := DefaultConfig()
	cfg.Endpoint, cfg.SecurityPolicy, cfg.Browse = srv.Endpoint(), "None", []Browse{{Root: "i=85"}}
	s, err := New(cfg, pipeline.Env{Name: "plc", Log: slog.New(slog.DiscardHandler), Meter: pipeline.NewMeter(), Tags: pipeline.NewTags(nil), Shards: 1})
	require.NoError(b, err)
	ctx := context.Background()
	require.NoError(b, s.Connect(ctx))
	defer s.Close(ctx)
	require.NoError(b, srv.WaitSubscribed(ctx, benchTags))
	b.ResetTimer()
	start := cpu()
	go run(b.N)
	for got := 0; got < b.N*benchTags; {
		batch, _, err := s.Read(ctx)
		require.NoError(b, err)
		if batch.Record != nil {
			got += int(batch.Record.NumRows())
			batch.Record.Release()
		}
	}
	report(b, cpu()-start)
}

// BenchmarkBareGopcua has gopcua's own client count the same values.
func BenchmarkBareGopcua(b *testing.B) {
	srv, names, run := load(b)
	ctx := context.Background()
	c, err := gopcua.NewClient(srv.Endpoint(), gopcua.SecurityMode(ua.MessageSecurityModeNone), gopcua.AutoReconnect(false))
	require.NoError(b, err)
	require.NoError(b, c.Connect(ctx))
	defer c.Close(ctx)
	ch := make(chan *gopcua.PublishNotificationData, 100)
	sub, err := c.Subscribe(ctx, &gopcua.SubscriptionParameters{Interval: 100 * time.Millisecond}, ch)
	require.NoError(b, err)
	var items []*ua.MonitoredItemCreateRequest
	for i, name := range names {
		items = append(items, gopcua.NewMonitoredItemCreateRequestWithDefaults(ua.NewStringNodeID(1, name), ua.AttributeIDValue, uint32(i)))
	}
	_, err = sub.Monitor(ctx, ua.TimestampsToReturnBoth, items...)
	require.NoError(b, err)
	b.ResetTimer()
	start := cpu()
	go run(b.N)
	for got := 0; got < b.N*benchTags; {
		n := <-ch
		require.NoError(b, n.Error)
		got += len(n.Value.(*ua.DataChangeNotification).MonitoredItems)
	}
	report(b, cpu()-start)
}
