package plant

import (
	"math"
	"time"
)

// Kind is what is wrong with a machine or a sensor.
type Kind string

// The kinds of fault. The first four are of machines, the others of sensors.
const (
	BearingWear Kind = "bearing_wear" // motor, compressor: vibration and bearing temperature grow ever faster
	Cavitation  Kind = "cavitation"   // pump: bursts of noise in pressure, flow and vibration, and lost head
	Leak        Kind = "leak"         // pump: liquid lost between its two flow meters, and pressure with it
	Fouling     Kind = "fouling"      // exchanger: a layer grows that hinders heat and flow
	StuckSensor Kind = "stuck_sensor" // the value freezes; its quality stays Good
	Drift       Kind = "drift"        // the value leaves the truth slowly and steadily
	Spikes      Kind = "spikes"       // single samples far off
	BadQuality  Kind = "bad_quality"  // status BadSensorFailure and no value
)

// Kinds are all kinds of fault, in the order in which the demo shows them.
var Kinds = []Kind{BearingWear, Fouling, Drift, Leak, StuckSensor, Cavitation, BadQuality, Spikes}

// Fault is one thing that goes wrong. Times count from the start of the plant.
type Fault struct {
	ID    string
	Kind  Kind
	Asset string
	// Tags are those that the fault disturbs, also of other assets. A fault of
	// a sensor acts on the first.
	Tags  []string
	Start time.Duration
	// End is when maintenance has repaired it; 0 is never.
	End time.Duration
	// Growth is how long the fault takes to its full extent.
	Growth time.Duration
	// Severity scales the full extent: 1 is plain to see.
	Severity float64
}

// repairTime is how fast a fault's effect goes away at its end, in seconds.
const repairTime = 1.0

// level returns the extent of the fault at t seconds: 0 before it starts, near
// its severity when it is full grown, 0 again once repaired.
func (f *Fault) level(t float64) float64 {
	start, end := f.Start.Seconds(), f.End.Seconds()
	if t < start {
		return 0
	}
	repaired := 1.0
	if f.End > 0 && t >= end {
		repaired = 1 - (t-end)/repairTime
		if repaired <= 0 {
			return 0
		}
		t = end
	}
	x := 1.0
	if f.Growth > 0 {
		x = min((t-start)/f.Growth.Seconds(), 1)
	}
	if f.Kind == BearingWear { // damage makes damage
		x = math.Expm1(3*x) / math.Expm1(3)
	}
	return f.Severity * x * repaired
}

// active reports whether the fault is present at t seconds.
func (f *Fault) active(t float64) bool {
	return t >= f.Start.Seconds() && (f.End == 0 || t < f.End.Seconds())
}
