package plant

import "math"

const (
	gravity   = 9.81 // m/s²
	water     = 998. // kg/m³
	waterHeat = 4.18 // kJ/(kg K)
	gasHeat   = 1.005
	kappa     = 1.4 // of air
	kelvin    = 273.15
)

// lag is a first-order lag: a thermal mass, say. The first value is taken over
// at once, so that a plant starts warm.
type lag struct {
	value float64
	on    bool
}

func (l *lag) to(target, dt, tau float64) float64 {
	if !l.on {
		l.value, l.on = target, true
	}
	l.value += (target - l.value) * -math.Expm1(-dt/tau)
	return l.value
}

// pumpCurve is a centrifugal pump by the affinity laws: head
// h0·s² - a·q² at relative speed s and flow q (m³/h).
type pumpCurve struct {
	h0   float64 // m, head at no flow and rated speed
	a    float64 // m/(m³/h)²
	best float64 // m³/h, flow of best efficiency at rated speed
	eta  float64 // best efficiency
}

// operate returns the flow through the pump, the flow that arrives behind a
// leak, and the head, where the pump's curve meets the system's:
// head = static + r·line², pump flow = line + leak·√head.
func (c pumpCurve) operate(s, static, r, leak float64) (flow, line, head float64) {
	top := c.h0 * s * s
	lo, hi := static, top
	for range 48 { // the balance falls strictly with the head: bisect it
		head = (lo + hi) / 2
		flow = math.Sqrt(max(top-head, 0) / c.a)
		line = math.Sqrt(max(head-static, 0) / r)
		if flow > line+leak*math.Sqrt(head) {
			lo = head
		} else {
			hi = head
		}
	}
	return flow, line, head
}

// efficiency falls with the square of the distance from the best point.
func (c pumpCurve) efficiency(s, flow float64) float64 {
	x := flow/(c.best*s) - 1
	return c.eta * max(1-0.9*x*x, 0.1)
}

// hydraulicPower is in kW for flow in m³/h and head in m.
func hydraulicPower(flow, head float64) float64 {
	return water * gravity * flow / 3600 * head / 1000
}

// bar returns the pressure of a column of water of head m.
func bar(head float64) float64 { return water * gravity * head / 1e5 }

// effectiveness of a counterflow exchanger from its number of transfer units
// and the ratio of the heat capacity flows (smaller over larger).
func effectiveness(ntu, cr float64) float64 {
	if cr > 0.999 {
		return ntu / (1 + ntu)
	}
	e := math.Exp(-ntu * (1 - cr))
	return (1 - e) / (1 - cr*e)
}

// transferUnits is the inverse of effectiveness.
func transferUnits(eff, cr float64) float64 {
	if cr > 0.999 {
		return eff / (1 - eff)
	}
	return math.Log((1-eff*cr)/(1-eff)) / (1 - cr)
}

// cleanUA is the heat transfer (kW/K) of a clean exchanger: both films grow
// with the 0.8th power of their flows, relative to rated ones.
func cleanUA(ua, hot, cold float64) float64 {
	return ua / (0.5*math.Pow(hot, -0.8) + 0.5*math.Pow(cold, -0.8))
}

// polytropicTemperature is the discharge temperature (K) of a compressor.
func polytropicTemperature(inlet, ratio, eta float64) float64 {
	return inlet * math.Pow(ratio, (kappa-1)/kappa/eta)
}
