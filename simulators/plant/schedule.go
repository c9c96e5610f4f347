package plant

import (
	"fmt"
	"math/rand/v2"
	"time"
)

// schedule makes the faults of a plant that was given none: the demo's eight,
// one of each kind, then others on machines that have been well for a while.
type schedule struct {
	plant  *Plant
	rng    *rand.Rand
	number int
	next   float64            // seconds: start of the next fault
	busy   map[string]float64 // unit → until when it is left alone
}

// rest is how long a repaired unit is left alone, in seconds.
const rest = 60

func newSchedule(p *Plant) *schedule {
	return &schedule{plant: p, rng: stream(p.cfg.Seed, "schedule"), busy: map[string]float64{}, next: 9}
}

// until adds all faults that start up to t seconds.
func (s *schedule) until(t float64) {
	for s.next <= t {
		if s.number < len(Kinds) {
			s.begin(Kinds[s.number])
			s.next += 1.3 + 0.2*s.rng.Float64() // the last starts before 20 s
			if s.number == len(Kinds) {
				s.next += 30
			}
			continue
		}
		s.begin(Kinds[s.rng.IntN(len(Kinds))])
		s.next += 15 + 30*s.rng.Float64()
	}
}

// begin starts a fault of kind k now, if a machine for it is free.
func (s *schedule) begin(k Kind) {
	s.number++
	var free []target
	for _, c := range s.plant.candidates(k) {
		if s.busy[c.asset.unit] <= s.next {
			free = append(free, c)
		}
	}
	growth, stay := extent(k, s.number <= len(Kinds))
	severity, more := 0.85+0.3*s.rng.Float64(), s.rng.Float64()
	if len(free) == 0 {
		return
	}
	c := free[s.rng.IntN(len(free))]
	stay += time.Duration(more * float64(stay) / 2).Truncate(time.Second)
	start := time.Duration(s.next * float64(time.Second)).Truncate(s.plant.cfg.Step)
	f := Fault{ID: fmt.Sprintf("F%03d", s.number), Kind: k, Asset: c.asset.name, Tags: c.tags,
		Start: start, End: start + growth + stay, Growth: growth, Severity: severity}
	s.busy[c.asset.unit] = f.End.Seconds() + rest
	if err := s.plant.add(f); err != nil {
		panic(err) // candidates are the plant's own
	}
}

// extent says how long a fault of kind k grows, and then stays. In the demo it
// has to be quick.
func extent(k Kind, demo bool) (growth, stay time.Duration) {
	growth, stay = time.Second, 30*time.Second
	switch k {
	case BearingWear, Fouling:
		growth = 30 * time.Second
		if demo {
			growth = 18 * time.Second
		}
	case Drift:
		growth = 20 * time.Second
		if demo {
			growth = 12 * time.Second
		}
	case Leak:
		growth = 3 * time.Second
	}
	if demo {
		stay = 45 * time.Second
	}
	return growth, stay
}

// target is an asset that a fault can strike, with the tags it disturbs.
type target struct {
	asset *asset
	tags  []string
}

// candidates returns all targets for faults of kind k. A fault of a sensor
// strikes one whose readings are never still; drift one of a regulated
// quantity, where it shows.
func (p *Plant) candidates(k Kind) []target {
	var list []target
	for i, m := range p.machines {
		a := p.assets[i]
		all := func() target { return target{a, a.tags()} }
		each := func(names ...string) {
			for _, n := range names {
				list = append(list, target{a, []string{a.tag(n)}})
			}
		}
		switch m := m.(type) {
		case *pump:
			motor := p.motorOf(m)
			switch k {
			case Cavitation, Leak:
				c := all()
				c.tags = append(c.tags, motor.tags()...)
				list = append(list, c)
			case StuckSensor:
				each("flow", "discharge_pressure", "power")
			case Drift:
				each("suction_pressure")
			case Spikes, BadQuality:
				each("discharge_pressure", "suction_pressure", "power", "bearing_temperature")
			}
		case *motor:
			switch k {
			case BearingWear:
				c := all()
				c.tags = append(c.tags, m.drives.tag("vibration_x"), m.drives.tag("vibration_y"))
				list = append(list, c)
			case StuckSensor:
				each("current", "power")
			case Spikes, BadQuality:
				each("current", "winding_temperature", "voltage")
			}
		case *compressor:
			switch k {
			case BearingWear:
				list = append(list, all())
			case StuckSensor, Spikes, BadQuality:
				each("discharge_pressure", "flow", "power")
			case Drift:
				each("oil_pressure", "oil_temperature")
			}
		case *exchanger:
			switch k {
			case Fouling:
				list = append(list, all())
			case Drift:
				each("cold_inlet_temperature")
			case StuckSensor, Spikes, BadQuality:
				each("hot_flow", "cold_flow")
			}
		}
	}
	return list
}

func (p *Plant) motorOf(m *pump) *asset {
	for _, x := range p.machines {
		if x, ok := x.(*motor); ok && x.drives == m {
			return x.asset
		}
	}
	return nil
}

// tags returns the names of all the asset's tags.
func (a *asset) tags() []string {
	names := make([]string, len(a.channels))
	for i, c := range a.channels {
		names[i] = c.spec.Tag
	}
	return names
}
