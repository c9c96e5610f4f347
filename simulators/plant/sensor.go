package plant

import (
	"hash/fnv"
	"math"
	"math/rand/v2"

	"github.com/penstock/penstock/pipeline"
)

// sensor turns a true value into a reading: white noise, slower noise of a
// first-order autoregressive process, a resolution, and its own faults.
type sensor struct {
	sigma    float64 // white noise, in the tag's unit
	relative float64 // further white noise, as a part of the true value
	slow     float64 // standard deviation of the slow noise
	phi      float64 // of the slow noise, per sample
	quantum  float64 // resolution

	rng    *rand.Rand
	drift  float64 // state of the slow noise
	held   float64 // the last value, which a stuck sensor repeats
	toNext int     // samples until the next spike

	faults []*Fault // those acting on this sensor
}

// slowNoise is the time constant of the slow noise in seconds.
const slowNoise = 0.4

// stream returns a random stream of its own for name: what is added to the
// plant changes no other stream.
func stream(seed int64, name string) *rand.Rand {
	h := fnv.New64a()
	_, _ = h.Write([]byte(name))
	return rand.New(rand.NewPCG(uint64(seed), h.Sum64()))
}

// read takes one sample of truth at t seconds.
func (s *sensor) read(truth, t float64) (float64, uint32) {
	// The same random numbers are drawn with or without a fault.
	white, slow, u := s.rng.NormFloat64(), s.rng.NormFloat64(), s.rng.Float64()
	s.drift = s.phi*s.drift + math.Sqrt(1-s.phi*s.phi)*slow
	noise := math.Hypot(s.sigma, s.relative*truth)
	v := truth + noise*white + s.slow*s.drift
	for _, f := range s.faults {
		if !f.active(t) {
			continue
		}
		scale := f.level(t) * math.Hypot(noise, s.slow)
		switch f.Kind {
		case BadQuality:
			return math.NaN(), pipeline.BadSensor
		case StuckSensor:
			return s.held, pipeline.Good
		case Drift:
			v += 14 * scale
		case Spikes:
			if s.toNext--; s.toNext < 0 {
				s.toNext = 8 + int(u*10)
				v += math.Copysign(30*scale, white)
			}
		}
	}
	if s.quantum > 0 {
		v = math.Round(v/s.quantum) * s.quantum
	}
	s.held = v
	return v, pipeline.Good
}
