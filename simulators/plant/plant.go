package plant

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/penstock/penstock/pipeline"
	"github.com/penstock/penstock/simulators"
)

// Config describes a plant.
type Config struct {
	// Seed decides everything: values, faults, on which assets and when.
	Seed int64
	// Start is the time of step 0.
	Start time.Time
	// Step is the time between two steps; 0 is 100 ms.
	Step time.Duration
	// Faults are those of the plant; nil is the demo's: eight kinds that begin
	// from 9 s to 20 s, then others without end. An empty list is none.
	Faults []Fault
}

// Protocol says who serves a tag.
type Protocol string

// A tag is served by the OPC UA server or by an MQTT device.
const (
	OPCUA Protocol = "opcua"
	MQTT  Protocol = "mqtt"
)

// TagSpec describes a tag.
type TagSpec struct {
	Tag         string
	Asset       string
	Unit        string
	Description string
	Protocol    Protocol // the same for all tags of an asset
	Period      time.Duration
}

// Plant is a running plant. One goroutine calls Step; Truth may be called
// from any.
type Plant struct {
	cfg      Config
	dt       float64 // seconds per step
	n        int64   // the next step
	assets   []*asset
	byName   map[string]*asset
	machines []machine
	halls    []*hall
	out      []simulators.Sample

	mu       sync.Mutex
	faults   []*Fault // in order of their start; those of the demo grow
	now      float64  // seconds, of the last step
	schedule *schedule
}

// conditions are what a machine finds around it at one step.
type conditions struct {
	t, dt   float64
	demand  float64 // 1 is rated
	ambient float64 // °C
}

// machine computes the true values of its asset's channels.
type machine interface{ step(c conditions) }

// asset is a machine with its sensors.
type asset struct {
	name     string // path
	hall     int
	unit     string // machines that work together fail one at a time
	protocol Protocol
	channels []*channel
	faults   []*Fault
	rng      *rand.Rand // what happens in the machine itself
	seed     int64
	step     time.Duration
	// The load of this asset goes its own way about that of its hall.
	phase, period float64
}

// channel is one tag.
type channel struct {
	spec    TagSpec
	every   int64 // steps between samples
	sensor  sensor
	truth   float64
	value   float64 // as measured last
	quality uint32
	soft    func() float64 // computed by the controller from measured values
	inputs  []*channel     // of soft
}

// hall is a part of the plant with a load and an ambient of its own.
type hall struct {
	rng                *rand.Rand
	phase1, phase2     float64
	period1, period2   float64
	wiggle, air        float64 // slow random parts of load and ambient
	dayPhase, dayLevel float64
	temperature        float64
}

const (
	fast = 100 * time.Millisecond
	slow = 200 * time.Millisecond // temperatures
)

// New builds a plant. A fault of an unknown asset or tag is an error.
func New(cfg Config) (*Plant, error) {
	if cfg.Step <= 0 {
		cfg.Step = 100 * time.Millisecond
	}
	p := &Plant{cfg: cfg, dt: cfg.Step.Seconds(), byName: map[string]*asset{}}
	p.build()
	if cfg.Faults == nil {
		p.schedule = newSchedule(p)
	}
	for _, f := range cfg.Faults {
		if err := p.add(f); err != nil {
			return nil, err
		}
	}
	for _, a := range p.assets {
		for range a.channels {
			p.out = append(p.out, simulators.Sample{})
		}
	}
	return p, nil
}

// add puts a fault into the plant.
func (p *Plant) add(f Fault) error {
	a := p.byName[f.Asset]
	if a == nil {
		return fmt.Errorf("fault %s: the plant has no asset %q", f.ID, f.Asset)
	}
	switch f.Kind {
	case StuckSensor, Drift, Spikes, BadQuality:
		if len(f.Tags) == 0 {
			return fmt.Errorf("fault %s: %s needs the tag of the sensor", f.ID, f.Kind)
		}
		c := a.channel(f.Tags[0])
		if c == nil || c.soft != nil {
			return fmt.Errorf("fault %s: asset %s has no sensor %q", f.ID, f.Asset, f.Tags[0])
		}
		c.sensor.faults = append(p.present(c.sensor.faults), &f)
	default:
		a.faults = append(p.present(a.faults), &f)
	}
	p.mu.Lock()
	p.faults = append(p.faults, &f)
	p.mu.Unlock()
	return nil
}

// present returns the faults that are not long repaired.
func (p *Plant) present(list []*Fault) []*Fault {
	return slices.DeleteFunc(list, func(f *Fault) bool { return f.End > 0 && p.now > f.End.Seconds()+repairTime })
}

// Tags returns what the plant measures, in the order of the samples.
func (p *Plant) Tags() []TagSpec {
	var specs []TagSpec
	for _, a := range p.assets {
		for _, c := range a.channels {
			specs = append(specs, c.spec)
		}
	}
	return specs
}

// StepTime returns the source time of the samples of step n.
func (p *Plant) StepTime(n int64) time.Time { return p.cfg.Start.Add(time.Duration(n) * p.cfg.Step) }

// Step computes the next step and returns its samples, which are valid until
// the next call. A tag is sampled at the steps that are multiples of its
// period.
func (p *Plant) Step() []simulators.Sample {
	t := float64(p.n) * p.dt
	if p.schedule != nil {
		p.schedule.until(t)
	}
	p.mu.Lock()
	p.now = t
	p.mu.Unlock()
	for _, h := range p.halls {
		h.step(t, p.dt)
	}
	for i, m := range p.machines {
		a := p.assets[i]
		h := p.halls[a.hall]
		own := 1 + 0.02*math.Sin(2*math.Pi*t/a.period+a.phase)
		m.step(conditions{t: t, dt: p.dt, demand: h.demand(t) * own, ambient: h.temperature})
	}
	at := p.StepTime(p.n).UnixNano()
	out := p.out[:0]
	for _, a := range p.assets {
		for _, c := range a.channels {
			if p.n%c.every == 0 {
				c.sample(t)
				out = append(out, simulators.Sample{Tag: c.spec.Tag, Time: at, Value: c.value, Quality: c.quality})
			}
		}
	}
	p.n++
	return out
}

func (c *channel) sample(t float64) {
	if c.soft == nil {
		c.value, c.quality = c.sensor.read(c.truth, t)
		return
	}
	c.quality = pipeline.Good
	for _, in := range c.inputs {
		if pipeline.IsBad(in.quality) {
			c.value, c.quality = math.NaN(), pipeline.Bad
			return
		}
	}
	c.value = c.soft()
	if q := c.sensor.quantum; q > 0 {
		c.value = math.Round(c.value/q) * q
	}
}

func (h *hall) step(t, dt float64) {
	h.wiggle = ornstein(h.rng, h.wiggle, 0.003, dt, 8)
	h.air = ornstein(h.rng, h.air, 0.1, dt, 120)
	h.temperature = h.dayLevel + 4*math.Sin(2*math.Pi*t/86400+h.dayPhase) + h.air
}

// demand goes up and down over tens of minutes, never in jumps.
func (h *hall) demand(t float64) float64 {
	return 0.98 + 0.05*math.Sin(2*math.Pi*t/h.period1+h.phase1) + 0.01*math.Sin(2*math.Pi*t/h.period2+h.phase2) + h.wiggle
}

// ornstein steps a mean-reverting random walk with this standard deviation
// and time constant.
func ornstein(rng *rand.Rand, x, sd, dt, tau float64) float64 {
	phi := math.Exp(-dt / tau)
	return phi*x + sd*math.Sqrt(1-phi*phi)*rng.NormFloat64()
}

// effect returns the extent of the asset's faults of one kind.
func (a *asset) effect(k Kind, t float64) float64 {
	sum := 0.0
	for _, f := range a.faults {
		if f.Kind == k {
			sum += f.level(t)
		}
	}
	return sum
}

func (a *asset) channel(tag string) *channel {
	for _, c := range a.channels {
		if c.spec.Tag == tag {
			return c
		}
	}
	return nil
}

// tag returns the full name of one of the asset's tags.
func (a *asset) tag(measurement string) string { return a.name + "/" + measurement }

// measure adds a sensor.
func (a *asset) measure(name, unit, description string, period time.Duration, s sensor) *channel {
	tag := a.tag(name)
	c := &channel{spec: TagSpec{Tag: tag, Asset: a.name, Unit: unit, Description: description, Protocol: a.protocol, Period: max(period, a.step)}, sensor: s}
	c.every = max(int64(period/a.step), 1)
	c.sensor.rng = stream(a.seed, tag)
	c.sensor.phi = math.Exp(-float64(c.every) * a.step.Seconds() / slowNoise)
	a.channels = append(a.channels, c)
	return c
}

// compute adds a tag that the controller computes from measured values.
func (a *asset) compute(name, unit, description string, period time.Duration, quantum float64, f func() float64, inputs ...*channel) *channel {
	c := a.measure(name, unit, description, period, sensor{quantum: quantum})
	c.soft, c.inputs = f, inputs
	return c
}
