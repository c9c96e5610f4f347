package plant

import (
	"bytes"
	"encoding/csv"
	"encoding/json"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/penstock/penstock/pipeline"
	"github.com/penstock/penstock/simulators"
)

var start = time.Date(2026, 3, 1, 6, 0, 0, 0, time.UTC)

func newPlant(t *testing.T, cfg Config) *Plant {
	t.Helper()
	if cfg.Start.IsZero() {
		cfg.Start = start
	}
	p, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// record runs the plant for d and returns each tag's samples.
func record(p *Plant, d time.Duration) map[string][]simulators.Sample {
	series := map[string][]simulators.Sample{}
	for range int(d / p.cfg.Step) {
		for _, s := range p.Step() {
			series[s.Tag] = append(series[s.Tag], s)
		}
	}
	return series
}

// stats returns mean and standard deviation of the samples in [from, to).
func stats(list []simulators.Sample, from, to time.Duration) (mean, sd float64) {
	n := 0.0
	for _, s := range list {
		if at := s.Time - start.UnixNano(); at >= int64(from) && at < int64(to) {
			mean += s.Value
			sd += s.Value * s.Value
			n++
		}
	}
	mean /= n
	return mean, math.Sqrt(max(sd/n-mean*mean, 0))
}

func TestSameSeedSameValues(t *testing.T) {
	a := newPlant(t, Config{Seed: 7})
	b := newPlant(t, Config{Seed: 7, Start: start.Add(1234567 * time.Millisecond)})
	c := newPlant(t, Config{Seed: 8})
	differs := false
	for n := range 900 {
		x, y, z := slices.Clone(a.Step()), b.Step(), c.Step()
		if len(x) != len(y) {
			t.Fatalf("step %d: %d and %d samples", n, len(x), len(y))
		}
		for i := range x {
			if x[i].Tag != y[i].Tag || math.Float64bits(x[i].Value) != math.Float64bits(y[i].Value) || x[i].Quality != y[i].Quality {
				t.Fatalf("step %d: %+v and %+v", n, x[i], y[i])
			}
			differs = differs || x[i].Value != z[i].Value
			if want := start.Add(time.Duration(n) * 100 * time.Millisecond).UnixNano(); x[i].Time != want {
				t.Fatalf("step %d: time %d, want %d", n, x[i].Time, want)
			}
		}
	}
	if !differs {
		t.Error("another seed gave the same values")
	}
	for i, f := range a.Truth() {
		g := b.Truth()[i]
		if f.ID != g.ID || f.Asset != g.Asset || f.Start.Sub(start) != g.Start.Sub(start.Add(1234567*time.Millisecond)) {
			t.Errorf("faults differ: %+v, %+v", f, g)
		}
	}
}

func TestTags(t *testing.T) {
	p := newPlant(t, Config{Seed: 1})
	tags := p.Tags()
	if len(tags) < 200 || len(tags) > 260 {
		t.Errorf("%d tags, want 200 to 260", len(tags))
	}
	rate := 0.0
	byProtocol := map[Protocol]map[string]bool{OPCUA: {}, MQTT: {}}
	protocolOf := map[string]Protocol{}
	seen := map[string]bool{}
	for _, s := range tags {
		if seen[s.Tag] || s.Description == "" || s.Unit == "" || s.Period <= 0 {
			t.Errorf("bad tag %+v", s)
		}
		seen[s.Tag] = true
		if parts := strings.Split(s.Tag, "/"); len(parts) != 4 || strings.Join(parts[:3], "/") != s.Asset {
			t.Errorf("tag %q of asset %q is not site/area/asset/measurement", s.Tag, s.Asset)
		}
		if was, ok := protocolOf[s.Asset]; ok && was != s.Protocol {
			t.Errorf("asset %s is on both protocols", s.Asset)
		}
		protocolOf[s.Asset] = s.Protocol
		byProtocol[s.Protocol][s.Asset] = true
		rate += float64(time.Second) / float64(s.Period)
	}
	if rate < 1500 || rate > 3000 {
		t.Errorf("%.0f readings/s, want 1500 to 3000", rate)
	}
	if a, b := len(byProtocol[OPCUA]), len(byProtocol[MQTT]); a-b > 2 || b-a > 2 {
		t.Errorf("%d assets on OPC UA, %d on MQTT", a, b)
	}
	for tag, list := range record(p, 10*time.Second) {
		i := slices.IndexFunc(tags, func(s TagSpec) bool { return s.Tag == tag })
		if want := int(10 * time.Second / tags[i].Period); len(list) != want {
			t.Errorf("%s: %d samples in 10 s, want %d", tag, len(list), want)
		}
	}
}

// Over ten healthy minutes the load moves the plant, the laws that couple its
// variables hold, no value repeats for long and none is absurd.
func TestHealthyPhysics(t *testing.T) {
	p := newPlant(t, Config{Seed: 3, Faults: []Fault{}})
	series := record(p, 10*time.Minute)
	if n := len(p.Truth()); n != 0 {
		t.Errorf("%d faults, want none", n)
	}
	for tag, list := range series {
		run := 0
		for i, s := range list {
			if math.IsNaN(s.Value) || math.IsInf(s.Value, 0) || s.Quality != pipeline.Good {
				t.Fatalf("%s: %+v", tag, s)
			}
			if run++; i > 0 && s.Value != list[i-1].Value {
				run = 1
			}
			if run > 8 {
				t.Fatalf("%s stands still at %v for %d samples", tag, s.Value, run)
			}
		}
	}
	mean := func(tag string, minute int) float64 {
		m, _ := stats(series[tag], time.Duration(minute)*time.Minute, time.Duration(minute+1)*time.Minute)
		return m
	}
	near := func(what string, got, want, tolerance float64) {
		t.Helper()
		if math.Abs(got-want) > tolerance*math.Abs(want) {
			t.Errorf("%s: %.4g, want %.4g", what, got, want)
		}
	}
	moved := 0.0
	for minute := range 10 {
		pump, motor := "plant1/hall2/pump04/", "plant1/hall2/motor04/"
		flow, speed := mean(pump+"flow", minute), mean(pump+"speed", minute)
		near("flow balance", mean(pump+"inlet_flow", minute), flow, 0.002)
		head := (mean(pump+"discharge_pressure", minute) - mean(pump+"suction_pressure", minute)) / bar(1)
		near("power", mean(pump+"power", minute), hydraulicPower(flow, head)/(mean(pump+"efficiency", minute)/100), 0.01)
		volt, amp := mean(motor+"voltage", minute), mean(motor+"current", minute)
		near("electrical power", mean(motor+"power", minute), math.Sqrt(3)*volt*amp*mean(motor+"power_factor", minute)/1000, 0.01)
		near("vibration ~ speed²", mean(pump+"vibration_x", minute)/mean(pump+"vibration_x", 0), math.Pow(speed/mean(pump+"speed", 0), 2), 0.03)
		x := "plant1/hall3/exchanger03/"
		hot := heatFlow(mean(x+"hot_flow", minute)) * (mean(x+"hot_inlet_temperature", minute) - mean(x+"hot_outlet_temperature", minute))
		cold := heatFlow(mean(x+"cold_flow", minute)) * (mean(x+"cold_outlet_temperature", minute) - mean(x+"cold_inlet_temperature", minute))
		near("heat balance", cold, hot, 0.01)
		moved = max(moved, math.Abs(flow/mean(pump+"flow", 0)-1))
	}
	if moved < 0.01 {
		t.Errorf("flow moved by %.2f%% in ten minutes: no load cycle", 100*moved)
	}
}

// Each kind of fault does to its asset what its name says, by several standard
// deviations, and to others nothing.
func TestFaultsShow(t *testing.T) {
	const from, until = 20 * time.Second, 40 * time.Second
	sigmas := func(list []simulators.Sample, at time.Duration) float64 {
		m0, sd := stats(list, 0, from)
		m1, _ := stats(list, at, at+2*time.Second)
		return (m1 - m0) / sd
	}
	pump, motor, exchanger, compressor := "plant1/hall1/pump02", "plant1/hall1/motor02", "plant1/hall1/exchanger01", "plant1/hall2/compressor01"
	for _, c := range []struct {
		kind       Kind
		asset, tag string
		check      func(list []simulators.Sample) bool
	}{
		{BearingWear, motor, "vibration_x", func(l []simulators.Sample) bool {
			return sigmas(l, 32*time.Second) > 8 && sigmas(l, 38*time.Second) > 50
		}},
		{BearingWear, motor, "bearing_de_temperature", func(l []simulators.Sample) bool { return sigmas(l, 38*time.Second) > 10 }},
		{BearingWear, compressor, "vibration_y", func(l []simulators.Sample) bool { return sigmas(l, 38*time.Second) > 40 }},
		{Cavitation, pump, "discharge_pressure", func(l []simulators.Sample) bool {
			_, a := stats(l, 0, from)
			_, b := stats(l, from+2*time.Second, until)
			return b > 3*a
		}},
		{Leak, pump, "flow_balance", func(l []simulators.Sample) bool { return sigmas(l, 30*time.Second) > 5 }},
		{Leak, pump, "discharge_pressure", func(l []simulators.Sample) bool { return sigmas(l, 30*time.Second) < -5 }},
		{Fouling, exchanger, "effectiveness", func(l []simulators.Sample) bool { return sigmas(l, 38*time.Second) < -5 }},
		{Fouling, exchanger, "fouling_resistance", func(l []simulators.Sample) bool { return sigmas(l, 38*time.Second) > 8 }},
		{StuckSensor, pump, "flow", func(l []simulators.Sample) bool {
			_, sd := stats(l, from, until)
			return sd < 1e-6
		}},
		{Drift, compressor, "oil_pressure", func(l []simulators.Sample) bool { return sigmas(l, 38*time.Second) > 7 }},
		{Spikes, motor, "current", func(l []simulators.Sample) bool {
			n := 0
			for _, s := range l[200:400] {
				m, sd := stats(l, 0, from)
				if math.Abs(s.Value-m) > 12*sd {
					n++
				}
			}
			return n >= 8 && n <= 25
		}},
		{BadQuality, pump, "suction_pressure", func(l []simulators.Sample) bool {
			for i, s := range l[:400] {
				if bad := i >= 200; pipeline.IsBad(s.Quality) != bad || math.IsNaN(s.Value) != bad {
					return false
				}
			}
			return true
		}},
	} {
		t.Run(string(c.kind)+" "+c.tag, func(t *testing.T) {
			f := Fault{ID: "x", Kind: c.kind, Asset: c.asset, Tags: []string{c.asset + "/" + c.tag}, Start: from, End: until, Severity: 1}
			f.Growth, _ = extent(c.kind, true)
			p := newPlant(t, Config{Seed: 5, Faults: []Fault{f}})
			series := record(p, 2*time.Minute)
			if !c.check(series[c.asset+"/"+c.tag]) {
				t.Errorf("the fault does not show: %.1f sigmas at 38 s", sigmas(series[c.asset+"/"+c.tag], 38*time.Second))
			}
			// Repaired, and thermal masses given their time, all is well again.
			if s := sigmas(series[c.asset+"/"+c.tag], 118*time.Second); !(math.Abs(s) < 12) {
				t.Errorf("%.1f sigmas off long after the repair", s)
			}
			healthy := record(newPlant(t, Config{Seed: 5, Faults: []Fault{}}), 2*time.Minute)
			for tag, list := range series {
				if strings.HasPrefix(tag, pump) || strings.HasPrefix(tag, motor) || strings.HasPrefix(tag, c.asset) {
					continue
				}
				if !slices.Equal(list, healthy[tag]) {
					t.Fatalf("%s is disturbed too", tag)
				}
			}
			truth := p.Truth()
			if len(truth) != 1 || truth[0].Kind != c.kind || !truth[0].Start.Equal(start.Add(from)) || truth[0].End == nil {
				t.Errorf("truth %+v", truth)
			}
		})
	}
}

func TestDemoSchedule(t *testing.T) {
	for seed := range int64(20) {
		p := newPlant(t, Config{Seed: seed})
		record(p, 30*time.Second)
		truth := p.Truth()
		kinds, assets := map[Kind]bool{}, map[string]bool{}
		for _, f := range truth {
			kinds[f.Kind], assets[f.Asset] = true, true
			if at := f.Start.Sub(start); at < 9*time.Second || at > 20*time.Second {
				t.Errorf("seed %d: %s starts at %v", seed, f.Kind, at)
			}
			if f.End != nil {
				t.Errorf("seed %d: %s ends within the demo", seed, f.Kind)
			}
		}
		if len(truth) != 8 || len(kinds) != 8 || len(assets) != 8 {
			t.Errorf("seed %d: %d faults of %d kinds on %d assets, want 8 of each", seed, len(truth), len(kinds), len(assets))
		}
	}
}

// A plant that runs on keeps failing and being repaired.
func TestScheduleGoesOn(t *testing.T) {
	p := newPlant(t, Config{Seed: 2})
	record(p, 20*time.Minute)
	truth := p.Truth()
	open := 0
	kinds := map[Kind]int{}
	for _, f := range truth {
		kinds[f.Kind]++
		if f.End == nil {
			open++
		} else if !f.End.After(f.Start) {
			t.Errorf("%+v ends before it starts", f)
		}
	}
	if len(truth) < 30 || len(kinds) != 8 || open > 8 {
		t.Errorf("%d faults of %d kinds in 20 minutes, %d still there", len(truth), len(kinds), open)
	}
}

func TestNewRefusesUnknownTargets(t *testing.T) {
	for _, f := range []Fault{
		{ID: "a", Kind: Leak, Asset: "plant1/hall1/pump99"},
		{ID: "b", Kind: Drift, Asset: "plant1/hall1/pump01"},
		{ID: "c", Kind: Drift, Asset: "plant1/hall1/pump01", Tags: []string{"plant1/hall1/pump02/flow"}},
		{ID: "d", Kind: StuckSensor, Asset: "plant1/hall1/pump01", Tags: []string{"plant1/hall1/pump01/efficiency"}},
	} {
		if _, err := New(Config{Faults: []Fault{f}}); err == nil || !strings.Contains(err.Error(), f.ID) {
			t.Errorf("fault %s: error %v", f.ID, err)
		}
	}
}

func TestTruthFiles(t *testing.T) {
	p := newPlant(t, Config{Seed: 1})
	record(p, 70*time.Second)
	truth := p.Truth()
	var j, c bytes.Buffer
	if err := WriteJSON(&j, truth); err != nil {
		t.Fatal(err)
	}
	var back []FaultRecord
	if err := json.Unmarshal(j.Bytes(), &back); err != nil || len(back) != len(truth) || back[3].Kind != truth[3].Kind || !back[3].Start.Equal(truth[3].Start) {
		t.Errorf("JSON does not read back: %v", err)
	}
	if err := WriteCSV(&c, truth); err != nil {
		t.Fatal(err)
	}
	rows, err := csv.NewReader(&c).ReadAll()
	if err != nil || len(rows) != len(truth)+1 || rows[1][0] != truth[0].ID {
		t.Errorf("CSV does not read back: %v", err)
	}
}

func TestEvaluate(t *testing.T) {
	at := func(s float64) time.Time { return start.Add(time.Duration(s * float64(time.Second))) }
	end := at(20)
	truth := []FaultRecord{
		{ID: "F1", Kind: Leak, Asset: "p/a", Tags: []string{"p/a/flow", "p/b/current"}, Start: at(10), End: &end},
		{ID: "F2", Kind: Drift, Asset: "p/c", Start: at(15)},
		{ID: "F3", Kind: Spikes, Asset: "p/d", Start: at(16)},
	}
	results, wrong := Evaluate(truth, []Alert{
		{Asset: "p/a", Tag: "p/a/power", Raised: at(9.9)},             // too early: false
		{Asset: "p/b", Tag: "p/b/current", Raised: at(14)},            // on a tag that the leak disturbs
		{Asset: "p/a", Tag: "p/a/flow", Raised: at(12.5)},             // the first
		{Asset: "p/a", Tag: "p/a/flow", Raised: end.Add(Grace)},       // just in time
		{Asset: "p/a", Tag: "p/a/flow", Raised: end.Add(Grace + 1e6)}, // false
		{Asset: "p/b", Tag: "p/b/voltage", Raised: at(14)},            // another tag there: false
		{Asset: "p/c", Tag: "p/c/oil", Raised: at(500)},               // never repaired
	})
	if wrong != 3 {
		t.Errorf("%d false alarms, want 3", wrong)
	}
	if !results[0].Detected || *results[0].DelayS != 2.5 || !results[1].Detected || *results[1].DelayS != 485 || results[2].Detected || results[2].DelayS != nil {
		t.Errorf("results %+v", results)
	}
	b, _ := json.Marshal(results[2])
	if want := `{"id":"F3","kind":"spikes","asset":"p/d","start":"2026-03-01T06:00:16Z","detected":false}`; string(b) != want {
		t.Errorf("%s, want %s", b, want)
	}
}

func BenchmarkStep(b *testing.B) {
	p, err := New(Config{Seed: 1})
	if err != nil {
		b.Fatal(err)
	}
	rows := 0
	b.ReportAllocs()
	for b.Loop() {
		rows += len(p.Step())
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(rows), "ns/reading")
}
