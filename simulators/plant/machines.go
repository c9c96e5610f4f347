package plant

import (
	"fmt"
	"math"
)

// build makes the halls and their machines: eight pumps with motors, two
// compressors and three exchangers, half of the assets of each sort on OPC UA,
// half on MQTT.
func (p *Plant) build() {
	for i := range 3 {
		rng := stream(p.cfg.Seed, fmt.Sprintf("hall%d", i+1))
		p.halls = append(p.halls, &hall{rng: rng,
			phase1: rng.Float64() * 2 * math.Pi, phase2: rng.Float64() * 2 * math.Pi,
			period1: 1500 + 900*rng.Float64(), period2: 500 + 300*rng.Float64(),
			dayPhase: rng.Float64() * 2 * math.Pi, dayLevel: 21 + 3*rng.Float64()})
		a := p.asset(i, "ambient", fmt.Sprintf("hall%d", i+1), i)
		p.machines = append(p.machines, newAmbient(a))
	}
	for i := range 8 {
		unit := fmt.Sprintf("train%02d", i+1)
		pump := newPump(p.asset(i/3, fmt.Sprintf("pump%02d", i+1), unit, i))
		p.machines = append(p.machines, pump)
		p.machines = append(p.machines, newMotor(p.asset(i/3, fmt.Sprintf("motor%02d", i+1), unit, i+1), pump))
	}
	for i := range 2 {
		name := fmt.Sprintf("compressor%02d", i+1)
		p.machines = append(p.machines, newCompressor(p.asset(i+1, name, name, i)))
	}
	for i := range 3 {
		name := fmt.Sprintf("exchanger%02d", i+1)
		p.machines = append(p.machines, newExchanger(p.asset(i, name, name, i)))
	}
}

func (p *Plant) asset(hall int, name, unit string, n int) *asset {
	a := &asset{name: fmt.Sprintf("plant1/hall%d/%s", hall+1, name), hall: hall, unit: unit, seed: p.cfg.Seed, step: p.cfg.Step}
	a.rng = stream(p.cfg.Seed, a.name)
	a.phase, a.period = a.rng.Float64()*2*math.Pi, 900+900*a.rng.Float64()
	a.protocol = OPCUA
	if n%2 == 1 {
		a.protocol = MQTT
	}
	p.assets = append(p.assets, a)
	p.byName[a.name] = a
	return a
}

// spread returns x varied by ±part: no two machines are the same.
func (a *asset) spread(x, part float64) float64 { return x * (1 + part*(2*a.rng.Float64()-1)) }

type ambient struct{ temperature, humidity *channel }

func newAmbient(a *asset) *ambient {
	return &ambient{
		temperature: a.measure("temperature", "°C", "Air temperature of the hall", slow, sensor{sigma: 0.06, slow: 0.03, quantum: 0.01}),
		humidity:    a.measure("humidity", "%", "Relative humidity of the hall", slow, sensor{sigma: 0.3, slow: 0.1, quantum: 0.05}),
	}
}

func (m *ambient) step(c conditions) {
	m.temperature.truth = c.ambient
	m.humidity.truth = 50 - 1.8*(c.ambient-22)
}

type pump struct {
	*asset
	curve              pumpCurve
	static, resistance float64
	rated              float64 // rpm
	base               float64 // mm/s at rated speed
	worn               float64 // mm/s that come over from the motor
	bearingHeat        lag
	sealHeat           lag
	bursting           bool
	burst              float64 // strength of the present burst of cavitation
	shaft, relative    float64 // kW, relative speed: what the motor must give
	speed, inlet, flow, suction, discharge, valve, power,
	bearing, seal, vibX, vibY *channel
}

func newPump(a *asset) *pump {
	m := &pump{asset: a, static: a.spread(12, 0.1), resistance: a.spread(2.1e-3, 0.1), rated: 1480, base: a.spread(1.5, 0.15)}
	m.curve = pumpCurve{h0: a.spread(52, 0.06), a: a.spread(6.9e-4, 0.06), best: 118, eta: a.spread(0.78, 0.03)}
	m.speed = a.measure("speed", "1/min", "Shaft speed", fast, sensor{sigma: 1.2, slow: 0.6, quantum: 0.1})
	m.inlet = a.measure("inlet_flow", "m³/h", "Flow into the pump", fast, sensor{sigma: 0.5, slow: 0.2, quantum: 0.01})
	m.flow = a.measure("flow", "m³/h", "Flow delivered to the line", fast, sensor{sigma: 0.5, slow: 0.2, quantum: 0.01})
	m.suction = a.measure("suction_pressure", "bar", "Pressure at the suction flange", fast, sensor{sigma: 0.008, slow: 0.003, quantum: 0.0005})
	m.discharge = a.measure("discharge_pressure", "bar", "Pressure at the discharge flange", fast, sensor{sigma: 0.02, slow: 0.008, quantum: 0.001})
	m.valve = a.measure("valve_position", "%", "Opening of the control valve", fast, sensor{sigma: 0.1, slow: 0.05, quantum: 0.01})
	m.power = a.measure("power", "kW", "Shaft power", fast, sensor{sigma: 0.1, slow: 0.04, quantum: 0.005})
	m.bearing = a.measure("bearing_temperature", "°C", "Temperature of the pump's bearing", slow, sensor{sigma: 0.15, slow: 0.05, quantum: 0.02})
	m.seal = a.measure("seal_temperature", "°C", "Temperature of the shaft seal", slow, sensor{sigma: 0.15, slow: 0.05, quantum: 0.02})
	m.vibX = a.measure("vibration_x", "mm/s", "Vibration velocity, horizontal, RMS", fast, sensor{relative: 0.04, slow: 0.02, quantum: 0.001})
	m.vibY = a.measure("vibration_y", "mm/s", "Vibration velocity, vertical, RMS", fast, sensor{relative: 0.04, slow: 0.02, quantum: 0.001})
	a.compute("efficiency", "%", "Hydraulic power over shaft power", fast, 0.01, func() float64 {
		head := (m.discharge.value - m.suction.value) / bar(1)
		return 100 * hydraulicPower(m.inlet.value, head) / max(m.power.value, 0.1)
	}, m.inlet, m.suction, m.discharge, m.power)
	a.compute("flow_balance", "m³/h", "Flow in less flow out: what is lost", fast, 0.01,
		func() float64 { return m.inlet.value - m.flow.value }, m.inlet, m.flow)
	return m
}

func (m *pump) step(c conditions) {
	s := 0.95 + 0.5*(c.demand-1)
	valve := 70 + 40*(c.demand-1)
	r := m.resistance * (70 / valve) * (70 / valve)
	flow, line, head := m.curve.operate(s, m.static, r, 2.2*m.effect(Leak, c.t))

	// Vapour bubbles collapse in bursts, some tenths of a second long.
	cavitation := m.effect(Cavitation, c.t)
	u := m.rng.Float64()
	n1, n2, n3 := m.rng.NormFloat64(), m.rng.NormFloat64(), m.rng.NormFloat64()
	if m.bursting = u < 0.3 != m.bursting; m.bursting {
		m.burst = 1
	} else {
		m.burst = 0.2
	}
	rough := cavitation * m.burst
	head *= max(1-0.05*cavitation+0.05*rough*n1, 0.1)
	flow *= max(1-0.03*cavitation+0.04*rough*n2, 0.1)
	line *= max(1-0.03*cavitation+0.04*rough*n2, 0.1)

	m.relative = s
	m.shaft = hydraulicPower(flow, head) / m.curve.efficiency(s, flow)
	m.speed.truth = m.rated * s
	m.inlet.truth, m.flow.truth = flow, line
	m.suction.truth = 1.5 + 0.01*rough*n1
	m.discharge.truth = m.suction.truth + bar(head)
	m.valve.truth = valve
	m.power.truth = m.shaft
	m.bearing.truth = m.bearingHeat.to(c.ambient+20*s*s, c.dt, 60)
	m.seal.truth = m.sealHeat.to(c.ambient+14*s*s+4*cavitation, c.dt, 30)
	vibration := m.base*s*s*(1+0.6*cavitation+0.8*rough*math.Abs(n3)) + m.worn
	m.vibX.truth, m.vibY.truth = vibration, 0.85*vibration
}

type motor struct {
	*asset
	drives               *pump
	eta, base, imbalance float64
	winding, deHeat, nde lag
	supply               float64 // V, off the rated 400
	current, voltage, power, factor, frequency,
	windingT, deT, ndeT, vibX, vibY *channel
}

func newMotor(a *asset, drives *pump) *motor {
	m := &motor{asset: a, drives: drives, eta: a.spread(0.92, 0.01), base: a.spread(1.2, 0.15), imbalance: 0.3 * a.rng.Float64()}
	m.current = a.measure("current", "A", "Current, mean of three phases", fast, sensor{sigma: 0.15, slow: 0.06, quantum: 0.01})
	m.voltage = a.measure("voltage", "V", "Line voltage", fast, sensor{sigma: 0.5, slow: 0.2, quantum: 0.05})
	m.power = a.measure("power", "kW", "Electrical power", fast, sensor{sigma: 0.1, slow: 0.04, quantum: 0.005})
	m.factor = a.measure("power_factor", "1", "Power factor", fast, sensor{sigma: 0.002, slow: 0.001, quantum: 0.0005})
	m.frequency = a.measure("frequency", "Hz", "Output frequency of the drive", fast, sensor{sigma: 0.03, slow: 0.01, quantum: 0.005})
	m.windingT = a.measure("winding_temperature", "°C", "Temperature of the winding", slow, sensor{sigma: 0.25, slow: 0.08, quantum: 0.05})
	m.deT = a.measure("bearing_de_temperature", "°C", "Temperature of the bearing at the drive end", slow, sensor{sigma: 0.15, slow: 0.05, quantum: 0.02})
	m.ndeT = a.measure("bearing_nde_temperature", "°C", "Temperature of the bearing at the other end", slow, sensor{sigma: 0.15, slow: 0.05, quantum: 0.02})
	m.vibX = a.measure("vibration_x", "mm/s", "Vibration velocity, horizontal, RMS", fast, sensor{relative: 0.04, slow: 0.02, quantum: 0.001})
	m.vibY = a.measure("vibration_y", "mm/s", "Vibration velocity, vertical, RMS", fast, sensor{relative: 0.04, slow: 0.02, quantum: 0.001})
	return m
}

func (m *motor) step(c conditions) {
	wear := m.effect(BearingWear, c.t)
	s := m.drives.relative
	m.supply = ornstein(m.rng, m.supply, 1, c.dt, 20)
	volt := 400 + m.supply
	shaft := m.drives.shaft * (1 + 0.01*wear)
	electric := shaft / m.eta
	factor := 0.86 + 0.004*(shaft-17)
	current := electric * 1000 / (math.Sqrt(3) * volt * factor)
	friction := s * s * (1 + 1.2*wear)
	m.current.truth, m.voltage.truth, m.power.truth, m.factor.truth = current, volt, electric, factor
	m.frequency.truth = 50 * s
	m.windingT.truth = m.winding.to(c.ambient+45*(current/32)*(current/32), c.dt, 60)
	m.deT.truth = m.deHeat.to(c.ambient+24*friction, c.dt, 25)
	m.ndeT.truth = m.nde.to(c.ambient+21*s*s*(1+0.1*wear), c.dt, 25)
	own := m.base * s * s * (1 + m.imbalance)
	vibration := own * (1 + 4.5*wear)
	m.vibX.truth, m.vibY.truth = vibration, 0.9*vibration
	m.drives.worn = 0.02 * (vibration - own)
}

type compressor struct {
	*asset
	eta, base         float64
	discharge, bearHT lag
	regulated         float64 // oil pressure off its set point, relative
	suctionP, suctionT, dischargeP, dischargeT, flow, speed, vane, power,
	oilP, oilT, bearing, vibX, vibY, axial *channel
}

func newCompressor(a *asset) *compressor {
	m := &compressor{asset: a, eta: a.spread(0.79, 0.02), base: a.spread(1.8, 0.15)}
	m.suctionP = a.measure("suction_pressure", "bar", "Pressure at the suction, absolute", fast, sensor{sigma: 0.003, slow: 0.001, quantum: 0.0005})
	m.suctionT = a.measure("suction_temperature", "°C", "Temperature at the suction", slow, sensor{sigma: 0.1, slow: 0.04, quantum: 0.01})
	m.dischargeP = a.measure("discharge_pressure", "bar", "Pressure at the discharge, absolute", fast, sensor{sigma: 0.012, slow: 0.005, quantum: 0.001})
	m.dischargeT = a.measure("discharge_temperature", "°C", "Temperature at the discharge", slow, sensor{sigma: 0.3, slow: 0.1, quantum: 0.05})
	m.flow = a.measure("flow", "kg/s", "Mass flow", fast, sensor{sigma: 0.01, slow: 0.004, quantum: 0.001})
	m.speed = a.measure("speed", "1/min", "Shaft speed", fast, sensor{sigma: 8, slow: 3, quantum: 1})
	m.vane = a.measure("guide_vane", "%", "Opening of the inlet guide vanes", fast, sensor{sigma: 0.1, slow: 0.05, quantum: 0.01})
	m.power = a.measure("power", "kW", "Shaft power", fast, sensor{sigma: 1.2, slow: 0.5, quantum: 0.1})
	m.oilP = a.measure("oil_pressure", "bar", "Lubrication oil pressure, regulated", fast, sensor{sigma: 0.015, slow: 0.005, quantum: 0.001})
	m.oilT = a.measure("oil_temperature", "°C", "Lubrication oil temperature, regulated", slow, sensor{sigma: 0.15, slow: 0.05, quantum: 0.02})
	m.bearing = a.measure("bearing_temperature", "°C", "Temperature of the radial bearing", slow, sensor{sigma: 0.15, slow: 0.05, quantum: 0.02})
	m.vibX = a.measure("vibration_x", "mm/s", "Vibration velocity, horizontal, RMS", fast, sensor{relative: 0.04, slow: 0.02, quantum: 0.001})
	m.vibY = a.measure("vibration_y", "mm/s", "Vibration velocity, vertical, RMS", fast, sensor{relative: 0.04, slow: 0.02, quantum: 0.001})
	m.axial = a.measure("axial_displacement", "µm", "Axial position of the rotor", fast, sensor{sigma: 1.5, slow: 0.5, quantum: 0.1})
	ratio := func() float64 { return m.dischargeP.value / max(m.suctionP.value, 0.1) }
	a.compute("pressure_ratio", "1", "Discharge pressure over suction pressure", fast, 0.001, ratio, m.suctionP, m.dischargeP)
	a.compute("polytropic_efficiency", "%", "From the measured pressures and temperatures", slow, 0.01, func() float64 {
		hot := math.Log((m.dischargeT.value + kelvin) / (m.suctionT.value + kelvin))
		return 100 * (kappa - 1) / kappa * math.Log(max(ratio(), 1.01)) / max(hot, 0.01)
	}, m.suctionP, m.suctionT, m.dischargeP, m.dischargeT)
	return m
}

func (m *compressor) step(c conditions) {
	wear := m.effect(BearingWear, c.t)
	s := 0.96 + 0.35*(c.demand-1)
	vane := 75 + 45*(c.demand-1)
	m.regulated = ornstein(m.rng, m.regulated, 0.001, c.dt, 3)
	flow := 4 * s * (0.4 + 0.6*vane/75)
	ratio := 1 + 1.7*s*s*(1.1-0.1*vane/75)
	inlet := c.ambient + kelvin
	outlet := polytropicTemperature(inlet, ratio, m.eta)
	m.suctionP.truth, m.suctionT.truth = 1.01, c.ambient
	m.dischargeP.truth = 1.01 * ratio
	m.dischargeT.truth = m.discharge.to(outlet-kelvin, c.dt, 20)
	m.flow.truth, m.speed.truth, m.vane.truth = flow, 14800*s, vane
	m.power.truth = flow * gasHeat * (outlet - inlet) * (1 + 0.01*wear)
	m.oilP.truth, m.oilT.truth = 3.2*(1+m.regulated), 48+20*m.regulated
	m.bearing.truth = m.bearHT.to(48+22*s*s*(1+1.2*wear), c.dt, 25)
	vibration := m.base * s * s * (1 + 3.5*wear)
	m.vibX.truth, m.vibY.truth = vibration, 0.95*vibration
	m.axial.truth = 120 + 150*(ratio-2.6) + 40*wear
}

type exchanger struct {
	*asset
	ua, ratedHot, ratedCold float64
	hotOutHeat, coldOutHeat lag
	supply                  float64 // °C, of both inlets off their set points
	hotIn, hotOut, coldIn, coldOut, hotFlow, coldFlow,
	hotDP, coldDP *channel
}

// exchangerArea is in m².
const exchangerArea = 50

func newExchanger(a *asset) *exchanger {
	m := &exchanger{asset: a, ua: a.spread(140, 0.05), ratedHot: 60, ratedCold: 80}
	temperature := sensor{sigma: 0.06, slow: 0.02, quantum: 0.01}
	m.hotIn = a.measure("hot_inlet_temperature", "°C", "Temperature of the hot stream in", slow, temperature)
	m.hotOut = a.measure("hot_outlet_temperature", "°C", "Temperature of the hot stream out", slow, temperature)
	m.coldIn = a.measure("cold_inlet_temperature", "°C", "Temperature of the cooling water in, regulated", slow, temperature)
	m.coldOut = a.measure("cold_outlet_temperature", "°C", "Temperature of the cooling water out", slow, temperature)
	m.hotFlow = a.measure("hot_flow", "m³/h", "Flow of the hot stream", fast, sensor{sigma: 0.25, slow: 0.08, quantum: 0.01})
	m.coldFlow = a.measure("cold_flow", "m³/h", "Flow of the cooling water", fast, sensor{sigma: 0.3, slow: 0.1, quantum: 0.01})
	m.hotDP = a.measure("hot_pressure_drop", "bar", "Pressure drop of the hot side", fast, sensor{sigma: 0.002, slow: 0.001, quantum: 0.0002})
	m.coldDP = a.measure("cold_pressure_drop", "bar", "Pressure drop of the cold side", fast, sensor{sigma: 0.002, slow: 0.001, quantum: 0.0002})
	inputs := []*channel{m.hotIn, m.hotOut, m.coldIn, m.hotFlow}
	a.compute("duty", "kW", "Heat given off by the hot stream", slow, 0.5, func() float64 {
		return heatFlow(m.hotFlow.value) * (m.hotIn.value - m.hotOut.value)
	}, inputs...)
	a.compute("effectiveness", "%", "Heat exchanged over the most that could be", slow, 0.01,
		func() float64 { return 100 * m.measured() }, inputs...)
	a.compute("fouling_resistance", "m²K/kW", "Thermal resistance beyond that of clean films", slow, 0.0001, func() float64 {
		hot, cold := heatFlow(m.hotFlow.value), heatFlow(m.coldFlow.value)
		ua := hot * transferUnits(m.measured(), min(hot/cold, 1))
		return exchangerArea * (1/ua - 1/cleanUA(m.ua, m.hotFlow.value/m.ratedHot, m.coldFlow.value/m.ratedCold))
	}, append(inputs, m.coldFlow)...)
	return m
}

// heatFlow is the heat capacity flow in kW/K of water, flow in m³/h.
func heatFlow(flow float64) float64 { return max(flow, 1) * water / 3600 * waterHeat }

// measured is the effectiveness as the controller sees it.
func (m *exchanger) measured() float64 {
	e := (m.hotIn.value - m.hotOut.value) / max(m.hotIn.value-m.coldIn.value, 1)
	return min(max(e, 0.01), 0.99)
}

func (m *exchanger) step(c conditions) {
	layer := 0.02 + 0.1*m.effect(Fouling, c.t)
	m.supply = ornstein(m.rng, m.supply, 0.03, c.dt, 10)
	hotFlow, coldFlow := m.ratedHot*(1+0.5*(c.demand-1)), m.ratedCold*(1+0.3*(c.demand-1))
	hotIn, coldIn := 80+m.supply, 18-0.5*m.supply
	hot, cold := heatFlow(hotFlow), heatFlow(coldFlow)
	ua := 1 / (1/cleanUA(m.ua, hotFlow/m.ratedHot, coldFlow/m.ratedCold) + layer/exchangerArea)
	eff := effectiveness(ua/hot, hot/cold)
	duty := eff * hot * (hotIn - coldIn)
	m.hotIn.truth, m.coldIn.truth = hotIn, coldIn
	m.hotOut.truth = m.hotOutHeat.to(hotIn-duty/hot, c.dt, 3)
	m.coldOut.truth = m.coldOutHeat.to(coldIn+duty/cold, c.dt, 3)
	m.hotFlow.truth, m.coldFlow.truth = hotFlow, coldFlow
	narrow := 1 + 1.5*(layer-0.02)
	m.hotDP.truth = 0.35 * narrow * math.Pow(hotFlow/m.ratedHot, 1.8)
	m.coldDP.truth = 0.28 * narrow * math.Pow(coldFlow/m.ratedCold, 1.8)
}
