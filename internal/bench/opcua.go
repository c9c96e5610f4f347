package bench

import (
	"context"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/penstock/penstock/simulators"
	simopcua "github.com/penstock/penstock/simulators/opcua"
)

const (
	opcuaTags = 1000
	opcuaRate = 10_000 // values/s
)

func benchTag(i int) string  { return fmt.Sprintf("bench/line%d/tag%04d", i%10, i) }
func benchNode(i int) string { return "ns=1;s=" + benchTag(i) }

// OPCUA measures a subscription to 1000 variables that change ten times a
// second, with the pipeline and with a bare gopcua client that only counts.
func OPCUA(ctx context.Context, scale float64, report func(Result)) error {
	for _, subject := range []string{"bare-opcua", "pipeline"} {
		r, err := opcuaRun(ctx, subject, int64(150_000*scale))
		if err != nil {
			return fmt.Errorf("opcua: %w", err)
		}
		r.Scenario = "opcua, 10 000 values/s"
		report(r)
	}
	return nil
}

func opcuaRun(ctx context.Context, subject string, count int64) (Result, error) {
	tags := make([]string, opcuaTags)
	for i := range tags {
		tags[i] = benchTag(i)
	}
	s, err := simopcua.New(simopcua.Config{Tags: tags})
	if err != nil {
		return Result{}, err
	}
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer func() { cancel(); wg.Wait(); s.Close() }()
	if err := s.Start(ctx); err != nil {
		return Result{}, err
	}
	url, stop, err := nullHTTP()
	if err != nil {
		return Result{}, err
	}
	defer stop()
	dir, err := os.MkdirTemp("", "penstock-bench-")
	if err != nil {
		return Result{}, err
	}
	defer os.RemoveAll(dir)
	return child(ctx, job{Subject: subject, URL: s.Endpoint(), Nodes: opcuaTags, Count: count, Config: fmt.Sprintf(opcuaConfig, dir, s.Endpoint(), url)}, func() {
		wg.Add(1)
		go func() {
			defer wg.Done()
			if s.WaitSubscribed(ctx, opcuaTags) != nil {
				return
			}
			samples := make([]simulators.Sample, 0, opcuaTags/10)
			t := time.NewTicker(opcuaTags / 10 * time.Second / opcuaRate)
			defer t.Stop()
			for n := 0; ctx.Err() == nil; n++ {
				now := time.Now().UnixNano()
				samples = samples[:0]
				for i := range opcuaTags / 10 {
					samples = append(samples, simulators.Sample{Tag: tags[n%10*(opcuaTags/10)+i], Time: now, Value: float64(n*31%997) / 10})
				}
				s.Set(samples)
				select {
				case <-t.C:
				case <-ctx.Done():
				}
			}
		}()
	})
}

const opcuaConfig = `version: 1
name: bench
journal: {dir: %q, max_bytes: 512MiB}
sources:
  - {name: plc, type: opcua, endpoint: %q, security_policy: None, publishing_interval: 100ms, browse: [{root: "i=85", tag: "${path}"}]}
operators:
  - {name: score, type: wasm, inputs: [plc], module: ewma, params: {half_life: 30s}}
sinks:
  - {name: influx, type: influxdb, inputs: [score], url: %q, org: bench, bucket: bench, token: bench, fields: [value, score, flag, quality]}
http: {listen: ""}
`
