package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/penstock/penstock/configs"
	"github.com/penstock/penstock/dashboards/web"
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
	plain                bool
	logHere              bool // --log-level was given: logs go to standard error
}

// check finds what is wrong with the flags before anything starts.
func (f *demoFlags) check() error {
	bad := func(format string, args ...any) error { return usageError{fmt.Errorf(format, args...)} }
	if f.duration < 0 || f.duration > 0 && f.duration < demoStep {
		return bad("--for %v: write a duration of %v or more, such as 30s", f.duration, demoStep)
	}
	if _, port, err := net.SplitHostPort(f.listen); err != nil || port == "" {
		return bad("--listen %q: write host:port, such as 127.0.0.1:8080", f.listen)
	}
	if f.summary != "" {
		if st, err := os.Stat(filepath.Dir(f.summary)); err != nil || !st.IsDir() {
			return bad("--summary %q: there is no folder %s", f.summary, filepath.Dir(f.summary))
		}
		if st, err := os.Stat(f.summary); err == nil && st.IsDir() {
			return bad("--summary %q is a folder: write the name of a file", f.summary)
		}
	}
	if f.influx != "" {
		p := pipeline.NewProblems()
		c := f.influxConfig()
		c.Validate(p)
		for _, x := range p.All() {
			flag := map[string]string{"url": "--influxdb", "org": "--org", "bucket": "--bucket", "token": "INFLUX_TOKEN"}[x.Path]
			return bad("%s: %s; %s", cmp.Or(flag, x.Path), x.Message, x.Hint)
		}
	}
	return nil
}

func (f *demoFlags) influxConfig() influxdb.Config {
	c := influxdb.DefaultConfig()
	c.URL, c.Org, c.Bucket, c.Token = f.influx, f.org, f.bucket, pipeline.Secret(os.Getenv("INFLUX_TOKEN"))
	return c
}

// demoStep is the time between two steps of the plant.
const demoStep = 100 * time.Millisecond

func demoCommand(logger func(io.Writer) (*slog.Logger, error)) *cobra.Command {
	var f demoFlags
	c := &cobra.Command{
		Use:   "demo",
		Short: "Run a simulated plant with degrading machines, everything inside this process",
		Long: `Starts a simulated plant on loopback: an OPC UA server, MQTT devices and their
broker, with machines that degrade; runs the pipeline of configs/demo.yaml on it;
and shows rates, alerts and faults here and on a web page. The exit status is 0
only if no reading was lost. Logs go to penstock.log beside the journal, or to
standard error where --log-level is given.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := f.check(); err != nil {
				return err
			}
			f.logHere = cmd.Flags().Changed("log-level")
			return demo(cmd.Context(), f, logger)
		},
	}
	c.Flags().DurationVar(&f.duration, "for", 0, "end by itself after this much of the plant's time")
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

func demo(ctx context.Context, f demoFlags, logger func(io.Writer) (*slog.Logger, error)) (err error) {
	dir, keep := f.dir, f.dir != ""
	if keep {
		err = os.MkdirAll(dir, 0o755)
	} else {
		dir, err = os.MkdirTemp("", "penstock-demo-")
	}
	if err != nil {
		return err
	}
	defer func() {
		if keep {
			return
		}
		if errors.Is(err, errLost) {
			err = fmt.Errorf("%w; logs and journal are kept in %s", err, dir)
			return
		}
		os.RemoveAll(dir)
	}()
	var logs io.Writer = os.Stderr
	if !f.logHere {
		file, err := os.OpenFile(filepath.Join(dir, "penstock.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
		if err != nil {
			return err
		}
		defer file.Close()
		logs = file
	}
	log, err := logger(logs)
	if err != nil {
		return err
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
	cache := ""
	if keep {
		cache = filepath.Join(cfg.Journal.Dir, "cache")
	}
	l, err := listen(cfg.HTTP.Listen)
	if err != nil {
		return err
	}
	a, err := app.Start(ctx, app.Options{Config: cfg, Log: log, Meter: meter, Cache: cache, Tap: page.Tap})
	if err != nil {
		if l != nil {
			l.Close()
		}
		return err
	}
	stopped := false
	defer func() {
		if !stopped {
			stop(a)
		}
	}()
	srv := serve(l, a, page, meter, log)
	defer srv.Close()
	endControl, err := serveControl(cfg.Journal.Dir, a, log)
	if err != nil {
		return err
	}
	defer endControl()
	if err := waitReady(ctx, a, p); err != nil {
		return err
	}
	if err := p.Start(int64(f.duration / demoStep)); err != nil {
		return err
	}
	page.SetFaults(func() []web.Fault { return pageFaults(p.plant, a.Alerts.All()) })
	v := newView(f.plain, srv.URL(), dir, keep, meter, a, p.plant)
	v.Run(ctx, p.Done(), a.Done())

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
	if keep {
		if werr := writeTruth(filepath.Join(dir, "truth.json"), p.plant); werr != nil {
			err = errors.Join(err, werr)
		}
	}
	return errors.Join(err, lost(s))
}

// lost is an error when not every reading came through.
func lost(s *app.Summary) error {
	if n := s.Lost(); n > 0 {
		return fmt.Errorf("%w: %d", errLost, n)
	}
	return nil
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
		ic := f.influxConfig()
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

// waitReady waits until every source and sink is connected and every tag that
// the OPC UA server has is monitored.
func waitReady(ctx context.Context, a *app.App, p *demoPlant) error {
	const patience = 20 * time.Second
	ctx, cancel := context.WithTimeoutCause(ctx, patience, fmt.Errorf("not within %v", patience))
	defer cancel()
	for {
		ok, missing := a.Ready()
		if ok {
			return p.server.WaitSubscribed(ctx, p.overUA)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("not connected: %s: %w", strings.Join(missing, ", "), context.Cause(ctx))
		case <-a.Done():
			return cmp.Or(a.Err(), errors.New("the sources ended at the start"))
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// raised are alerts as the plant's judge takes them.
func raised(list []app.Alert) []plant.Alert {
	out := make([]plant.Alert, len(list))
	for i, a := range list {
		out[i] = plant.Alert{Rule: a.Rule, Asset: a.Asset, Tag: a.Tag, Raised: a.Raised}
	}
	return out
}

// judge sets the alerts against the ground truth.
func judge(s *app.Summary, p *plant.Plant) {
	faults, wrong := plant.Evaluate(p.Truth(), raised(s.Alerts))
	s.Faults, s.FalseAlarms = faults, &wrong
}

// pageFaults is the ground truth with what was found of it.
func pageFaults(p *plant.Plant, alerts []app.Alert) []web.Fault {
	truth := p.Truth()
	results, _ := plant.Evaluate(truth, raised(alerts))
	out := make([]web.Fault, len(truth))
	for i, r := range results {
		out[i] = web.Fault{Kind: r.Kind, Asset: r.Asset, Tags: truth[i].Tags, Start: r.Start, End: truth[i].End, DelayS: r.DelayS}
	}
	return out
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
	overUA int // tags on the OPC UA server

	stop   chan struct{}
	done   chan struct{} // closed when it has published its last step
	failed error         // valid then
}

// startPlant starts the broker, the OPC UA server and the devices, which run
// until Close, also when ctx ends before; nothing is published yet.
func startPlant(ctx context.Context, dir string, seed int64, meter *pipeline.Meter, log *slog.Logger) (d *demoPlant, err error) {
	d = &demoPlant{seed: seed, meter: meter, stop: make(chan struct{}), done: make(chan struct{})}
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
	d.overUA = len(tags)
	if d.server, err = simopcua.New(simopcua.Config{Listen: "127.0.0.1:0", Tags: tags, Log: log}); err != nil {
		return nil, err
	}
	if err = d.server.Start(context.WithoutCancel(ctx)); err != nil {
		return nil, err
	}
	d.fleet = simmqtt.New(simmqtt.Config{Broker: "tcp://" + d.broker.MQTTAddr, ClientID: "plant-devices", QoS: 1, Meter: meter})
	return d, d.fleet.Connect(ctx)
}

// Start begins to publish, a step of the plant every [demoStep]: so many, or
// until Stop where steps is 0. The first is at a whole second, so that windows
// cut the plant's time alike in every run.
func (d *demoPlant) Start(steps int64) (err error) {
	start := time.Now().Truncate(time.Second).Add(time.Second)
	if d.plant, err = plant.New(plant.Config{Seed: d.seed, Start: start, Step: demoStep}); err != nil {
		return err
	}
	go func() {
		defer close(d.done)
		d.failed = d.publish(steps)
	}()
	return nil
}

func (d *demoPlant) publish(steps int64) error {
	overUA := map[string]bool{}
	for _, t := range d.plant.Tags() {
		overUA[t.Tag] = t.Protocol == plant.OPCUA
	}
	var ua, mq []simulators.Sample
	counted := int64(0)
	// The server counts what it sends, first values of new subscriptions
	// included.
	count := func() {
		n := d.server.Published()
		d.meter.Published("opcua", int(n-counted))
		counted = n
	}
	defer count()
	for step := int64(0); steps == 0 || step < steps; step++ {
		wait := time.NewTimer(time.Until(d.plant.StepTime(step)))
		select {
		case <-d.stop:
			wait.Stop()
			return nil
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
		if _, err := d.server.Set(ua); err != nil {
			return fmt.Errorf("simulated OPC UA server: %w", err)
		}
		count()
		if err := d.fleet.Publish(context.Background(), mq); err != nil {
			return fmt.Errorf("simulated devices: %w", err)
		}
	}
	return nil
}

// Done is closed when the plant has published all its steps.
func (d *demoPlant) Done() <-chan struct{} { return d.done }

// Stop ends publishing and waits until the broker has everything.
func (d *demoPlant) Stop() error {
	close(d.stop)
	<-d.done
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
