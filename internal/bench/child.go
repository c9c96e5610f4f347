package bench

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"sync/atomic"
	"time"

	mqtt "github.com/eclipse/paho.mqtt.golang"
	"github.com/gopcua/opcua"
	"github.com/gopcua/opcua/ua"

	"github.com/penstock/penstock/internal/app"
	"github.com/penstock/penstock/pipeline"
	"github.com/penstock/penstock/pipeline/config"
)

// quiet is how long a child waits without a reading before it gives up.
const quiet = 15 * time.Second

// Child runs the job on in and writes READY and then the result to out.
func Child(ctx context.Context, in io.Reader, out io.Writer) error {
	var j job
	if err := json.NewDecoder(in).Decode(&j); err != nil {
		return err
	}
	var count func() int64
	var finish func(*Result) error
	var err error
	switch j.Subject {
	case "pipeline":
		count, finish, err = childPipeline(ctx, j)
	case "bare-mqtt":
		count, finish, err = childMQTT(j)
	case "bare-opcua":
		count, finish, err = childOPCUA(ctx, j)
	default:
		err = fmt.Errorf("no subject is called %q", j.Subject)
	}
	if err != nil {
		return err
	}
	profile, err := startProfile()
	if err != nil {
		return err
	}
	before, _ := app.Usage()
	fmt.Fprintln(out, "READY")
	began := time.Now()
	var last time.Time
	n := int64(0)
	for n < j.Count {
		time.Sleep(20 * time.Millisecond)
		now := time.Now()
		if m := count(); m != n {
			n, last = m, now
		}
		switch {
		case n == 0 && now.Sub(last) > quiet && !last.IsZero():
			return errors.New("no reading came")
		case n == 0 && last.IsZero():
			last = now
		case n > 0 && now.Sub(last) > quiet:
			return fmt.Errorf("%d of %d readings came, then none for %v", n, j.Count, quiet)
		}
	}
	after, rss := app.Usage()
	if err := profile(); err != nil {
		return err
	}
	seconds := time.Since(began).Seconds()
	r := Result{Readings: n, Seconds: seconds, ReadingsPerS: float64(n) / seconds, CPUPerMillion: (after - before) / float64(n) * 1e6, RSS: rss}
	if err := finish(&r); err != nil {
		return err
	}
	return json.NewEncoder(out).Encode(r)
}

// childPipeline runs a whole pipeline; a reading counts when a sink has
// accepted it.
func childPipeline(ctx context.Context, j job) (func() int64, func(*Result) error, error) {
	cfg, err := config.Parse("bench.yaml", []byte(j.Config), app.Registry())
	if err != nil {
		return nil, nil, err
	}
	meter := pipeline.NewMeter()
	log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))
	a, err := app.Start(ctx, app.Options{Config: cfg, Log: log, Meter: meter})
	if err != nil {
		return nil, nil, err
	}
	for ok, missing := a.Ready(); !ok; ok, missing = a.Ready() {
		select {
		case <-a.Done():
			return nil, nil, fmt.Errorf("not connected: %v: %w", missing, a.Err())
		case <-ctx.Done():
			return nil, nil, ctx.Err()
		case <-time.After(5 * time.Millisecond):
		}
	}
	sink := cfg.Sinks[0].Name
	count := func() int64 { return meter.Totals().Sinks[sink].Accepted }
	return count, func(r *Result) error {
		if s := a.Summary(); s.LatencyMS != nil {
			r.P50, r.P99 = s.LatencyMS.P50, s.LatencyMS.P99
		}
		sctx, cancel := context.WithTimeout(ctx, 10*time.Second)
		defer cancel()
		return a.Stop(sctx)
	}, nil
}

// childMQTT is a bare paho subscriber that only counts.
func childMQTT(j job) (func() int64, func(*Result) error, error) {
	var n atomic.Int64
	per := int64(max(j.PerMsg, 1))
	c := mqtt.NewClient(mqtt.NewClientOptions().AddBroker(j.URL).SetClientID("bare").SetOrderMatters(true))
	if t := c.Connect(); t.Wait() && t.Error() != nil {
		return nil, nil, t.Error()
	}
	if t := c.Subscribe("plant/#", j.QoS, func(mqtt.Client, mqtt.Message) { n.Add(per) }); t.Wait() && t.Error() != nil {
		return nil, nil, t.Error()
	}
	return n.Load, func(*Result) error { c.Disconnect(100); return nil }, nil
}

// childOPCUA is a bare gopcua subscriber that only counts.
func childOPCUA(ctx context.Context, j job) (func() int64, func(*Result) error, error) {
	c, err := opcua.NewClient(j.URL, opcua.SecurityMode(ua.MessageSecurityModeNone))
	if err != nil {
		return nil, nil, err
	}
	if err := c.Connect(ctx); err != nil {
		return nil, nil, err
	}
	notes := make(chan *opcua.PublishNotificationData, 1000)
	sub, err := c.Subscribe(ctx, &opcua.SubscriptionParameters{Interval: 100 * time.Millisecond}, notes)
	if err != nil {
		return nil, nil, err
	}
	var n atomic.Int64
	go func() {
		for m := range notes {
			if v, ok := m.Value.(*ua.DataChangeNotification); ok {
				n.Add(int64(len(v.MonitoredItems)))
			}
		}
	}()
	for first := 0; first < j.Nodes; first += 200 {
		var reqs []*ua.MonitoredItemCreateRequest
		for i := first; i < min(first+200, j.Nodes); i++ {
			id, err := ua.ParseNodeID(benchNode(i))
			if err != nil {
				return nil, nil, err
			}
			r := opcua.NewMonitoredItemCreateRequestWithDefaults(id, ua.AttributeIDValue, uint32(i))
			r.RequestedParameters.QueueSize = 10
			reqs = append(reqs, r)
		}
		res, err := sub.Monitor(ctx, ua.TimestampsToReturnBoth, reqs...)
		if err != nil {
			return nil, nil, err
		}
		for _, r := range res.Results {
			if r.StatusCode != ua.StatusOK {
				return nil, nil, r.StatusCode
			}
		}
	}
	return n.Load, func(*Result) error { return c.Close(ctx) }, nil
}
