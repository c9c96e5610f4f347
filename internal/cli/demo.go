package cli

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"github.com/penstock/penstock/configs"
	"github.com/penstock/penstock/internal/app"
	"github.com/penstock/penstock/internal/natsd"
	"github.com/penstock/penstock/pipeline"
	"github.com/penstock/penstock/pipeline/config"
	"github.com/penstock/penstock/simulators"
	simmqtt "github.com/penstock/penstock/simulators/mqtt"
	simopcua "github.com/penstock/penstock/simulators/opcua"
	"github.com/penstock/penstock/simulators/plant"
	"github.com/penstock/penstock/sinks/influxdb"
)

// demoFlags are the flags of `penstock demo`.
type demoFlags struct {
	duration             time.Duration
	summary, dir, listen string
	seed                 int64
	influx, org, bucket  string
	truth                string
	plain                bool
}

func demoCommand(logger func() (*slog.Logger, error)) *cobra.Command {
	var f demoFlags
	c := &cobra.Command{
		Use:   "demo",
		Short: "Run a simulated plant with degrading machines, everything inside this process",
		Long: `Starts a simulated plant on loopback: an OPC UA server, MQTT devices and their
broker, with machines that degrade; runs the pipeline of configs/demo.yaml on it;
and shows rates, alerts and faults here and on a web page. The exit status is 0
only if no reading was lost.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			log, err := logger()
			if err != nil {
				return err
			}
			return demo(cmd.Context(), f, log)
		},
	}
	c.Flags().DurationVar(&f.duration, "for", 0, "end by itself after this long")
	c.Flags().StringVar(&f.summary, "summary", "", "write a JSON summary to this file at the end")
	c.Flags().StringVar(&f.dir, "dir", "", "keep journal, archive and ground truth here; without it they are removed at the end")
	c.Flags().StringVar(&f.listen, "listen", "127.0.0.1:0", "where the page is served")
	c.Flags().Int64Var(&f.seed, "seed", 1, "seed of the plant: the same seed, the same values and faults")
	c.Flags().StringVar(&f.influx, "influxdb", "", "write to this InfluxDB (URL) too; the token comes from INFLUX_TOKEN")
	c.Flags().StringVar(&f.org, "org", "penstock", "organisation in InfluxDB")
	c.Flags().StringVar(&f.bucket, "bucket", "penstock", "bucket in InfluxDB")
	c.Flags().BoolVar(&f.plain, "plain", false, "plain lines, even on a terminal")
	return c
}

// errLost makes the exit status 1 after the summary has been shown.
var errLost = errors.New("readings were lost")

func demo(ctx context.Context, f demoFlags, log *slog.Logger) (err error) {
	dir := f.dir
	if dir == "" {
		if dir, err = os.MkdirTemp("", "penstock-demo-"); err != nil {
			return err
		}
		defer os.RemoveAll(dir)
	}
	meter := pipeline.NewMeter()
	p, err := startPlant(ctx, filepath.Join(dir, "broker"), f.seed, meter, log)
	if err != nil {
		return err
	}
	defer p.Close()
	cfg, err := demoConfig(f, dir, p)
	if err != nil {
		return err
	}
	page := newPage(cfg, meter)
	a, err := app.Start(ctx, app.Options{Config: cfg, Log: log, Meter: meter, Tap: page.Tap})
	if err != nil {
		return err
	}
	stopped := false
	defer func() {
		if !stopped {
			stop(a)
		}
	}()
	srv, err := serve(cfg.HTTP.Listen, a, page, meter, log)
	if err != nil {
		return err
	}
	defer srv.Close()
	if err := waitReady(ctx, a); err != nil {
		return err
	}
	if f.duration > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, f.duration)
		defer cancel()
	}
	if err := p.Start(); err != nil {
		return err
	}
	page.SetFaults(func() any { return p.plant.Truth() })
	v := newView(f.plain, srv.URL(), dir, f.dir != "", meter, a, p.plant)
	v.Run(ctx, a.Done())

	// The plant stops first; then everything it published must come through.
	perr := p.Stop()
	t := meter.Totals()
	deadline := time.Now().Add(drainTimeout)
	for t.Ingested < t.Published && time.Now().Before(deadline) && a.Err() == nil {
		time.Sleep(5 * time.Millisecond)
		t = meter.Totals()
	}
	stopped = true
	err = errors.Join(perr, stop(a))
	s := a.Summary()
	published := meter.Totals().Published
	s.Readings.Published = &published
	judge(s, p.plant)
	v.Final(s)
	if werr := writeSummary(f.summary, s); werr != nil {
		err = errors.Join(err, werr)
	}
	if f.dir != "" {
		if werr := writeTruth(filepath.Join(dir, "truth.json"), p.plant); werr != nil {
			err = errors.Join(err, werr)
		}
	}
	if n := s.Lost(); n > 0 && err == nil {
		err = fmt.Errorf("%w: %d", errLost, n)
	}
	return err
}

// demoConfig reads the embedded pipeline with the addresses of this run.
func demoConfig(f demoFlags, dir string, p *demoPlant) (*config.Config, error) {
	for k, v := range map[string]string{
		"PENSTOCK_DEMO_OPCUA": p.server.Endpoint(),
		"PENSTOCK_DEMO_MQTT":  "tcp://" + p.broker.MQTTAddr,
		"PENSTOCK_DEMO_DIR":   dir,
		"PENSTOCK_DEMO_HTTP":  f.listen,
	} {
		if err := os.Setenv(k, v); err != nil {
			return nil, err
		}
	}
	cfg, err := config.Parse("configs/demo.yaml", configs.Demo, app.Registry())
	if err != nil {
		return nil, err
	}
	if f.influx != "" {
		ic := influxdb.DefaultConfig()
		ic.URL, ic.Org, ic.Bucket, ic.Token = f.influx, f.org, f.bucket, pipeline.Secret(os.Getenv("INFLUX_TOKEN"))
		var inputs []string
		for _, list := range [][]config.Component{cfg.Sources, cfg.Operators} {
			for _, c := range list {
				inputs = append(inputs, c.Name)
			}
		}
		for _, c := range cfg.Alerts {
			inputs = append(inputs, c.Name)
		}
		cfg.Sinks = append(cfg.Sinks, config.Component{Name: "influxdb", Type: "influxdb", Inputs: inputs, Settings: &ic})
	}
	return cfg, nil
}

func waitReady(ctx context.Context, a *app.App) error {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	for {
		ok, missing := a.Ready()
		if ok {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("not connected after 20 s: %v", missing)
		case <-a.Done():
			return a.Err()
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// judge sets the alerts against the ground truth.
func judge(s *app.Summary, p *plant.Plant) {
	var raised []plant.Alert
	for _, a := range s.Alerts {
		raised = append(raised, plant.Alert{Rule: a.Rule, Asset: a.Asset, Tag: a.Tag, Raised: a.Raised})
	}
	faults, wrong := plant.Evaluate(p.Truth(), raised)
	s.Faults, s.FalseAlarms = faults, &wrong
}

func writeTruth(path string, p *plant.Plant) error {
	w, err := os.Create(path)
	if err != nil {
		return err
	}
	if err := plant.WriteJSON(w, p.Truth()); err != nil {
		w.Close()
		return err
	}
	return w.Close()
}

// demoPlant is the simulated plant with what serves it.
type demoPlant struct {
	seed   int64
	plant  *plant.Plant
	broker *natsd.Server
	server *simopcua.Server
	fleet  *simmqtt.Fleet
	meter  *pipeline.Meter

	stop   chan struct{}
	done   sync.WaitGroup
	failed error
}

// startPlant starts the broker, the OPC UA server and the devices; nothing is
// published yet.
func startPlant(ctx context.Context, dir string, seed int64, meter *pipeline.Meter, log *slog.Logger) (d *demoPlant, err error) {
	d = &demoPlant{seed: seed, meter: meter, stop: make(chan struct{})}
	defer func() {
		if err != nil {
			d.Close()
		}
	}()
	// This one only tells the tags; Start builds the one that runs, for its
	// first step is to be then.
	if d.plant, err = plant.New(plant.Config{Seed: seed}); err != nil {
		return nil, err
	}
	if d.broker, err = natsd.Start(natsd.Options{Name: "demo-broker", Dir: dir, MQTT: true, Log: log}); err != nil {
		return nil, err
	}
	var tags []string
	for _, t := range d.plant.Tags() {
		if t.Protocol == plant.OPCUA {
			tags = append(tags, t.Tag)
		}
	}
	if d.server, err = simopcua.New(simopcua.Config{Listen: "127.0.0.1:0", Tags: tags}); err != nil {
		return nil, err
	}
	if err = d.server.Start(ctx); err != nil {
		return nil, err
	}
	d.fleet = simmqtt.New(simmqtt.Config{Broker: "tcp://" + d.broker.MQTTAddr, ClientID: "plant-devices", QoS: 1, Meter: meter})
	return d, d.fleet.Connect(ctx)
}

// Start begins to publish: one step of the plant every 100 ms.
func (d *demoPlant) Start() (err error) {
	start := time.Now().Truncate(100 * time.Millisecond).Add(100 * time.Millisecond)
	if d.plant, err = plant.New(plant.Config{Seed: d.seed, Start: start}); err != nil {
		return err
	}
	d.done.Add(1)
	go func() {
		defer d.done.Done()
		overUA := map[string]bool{}
		for _, t := range d.plant.Tags() {
			overUA[t.Tag] = t.Protocol == plant.OPCUA
		}
		var ua, mq []simulators.Sample
		for step := int64(0); ; step++ {
			wait := time.NewTimer(time.Until(d.plant.StepTime(step)))
			select {
			case <-d.stop:
				wait.Stop()
				return
			case <-wait.C:
			}
			ua, mq = ua[:0], mq[:0]
			for _, s := range d.plant.Step() {
				if overUA[s.Tag] {
					ua = append(ua, s)
				} else {
					mq = append(mq, s)
				}
			}
			n, err := d.server.Set(ua)
			d.meter.Published("opcua", n)
			if err != nil {
				d.failed = fmt.Errorf("simulated OPC UA server: %w", err)
				return
			}
			if err := d.fleet.Publish(context.Background(), mq); err != nil {
				d.failed = fmt.Errorf("simulated devices: %w", err)
				return
			}
		}
	}()
	return nil
}

// Stop ends publishing and waits until the broker has everything.
func (d *demoPlant) Stop() error {
	close(d.stop)
	d.done.Wait()
	return d.failed
}

// Close ends the servers.
func (d *demoPlant) Close() {
	if d.fleet != nil {
		d.fleet.Close()
	}
	if d.server != nil {
		d.server.Close()
	}
	if d.broker != nil {
		d.broker.Stop()
	}
}
