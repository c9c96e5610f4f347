package integration

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	mqtt "github.com/eclipse/paho.mqtt.golang"
	"github.com/stretchr/testify/require"

	"github.com/penstock/penstock/internal/testpeer"
)

// line publishes numbered readings, one after the other, until it is stopped.
type line struct {
	client mqtt.Client
	begin  int64 // ns
	mu     sync.Mutex
	truth  map[point]any // what the broker has
	next   int64
}

// publish sends n readings and waits until the broker has them. value, when
// not nil, gives their values.
func (l *line) publish(n int, topic string, value func(i int64) float64) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	type sent struct {
		mqtt.Token
		again func() mqtt.Token
		at    point
		v     float64
	}
	var out []sent
	for range n {
		i := l.next
		l.next++
		at, v, to := l.begin+i*int64(time.Millisecond), float64(i)+0.25, topic
		if to == "" {
			to = fmt.Sprintf("factory/hall%d/machine%d/load", i%2, i%10)
		}
		if value != nil {
			v = value(i)
		}
		tag := strings.Replace(to, "factory", "plant1", 1)
		send := func() mqtt.Token { return l.client.Publish(to, 1, false, fmt.Sprintf(`{"v": %v, "t": %d}`, v, at)) }
		out = append(out, sent{send(), send, point{tag, at}, v})
	}
	end := time.Now().Add(30 * time.Second)
	for _, s := range out {
		// What is being written when the connection goes is an error of the
		// token, though the client sends it again.
		for ok := s.WaitTimeout(time.Until(end)); !ok || s.Error() != nil; ok = s.WaitTimeout(time.Until(end)) {
			if !ok || time.Now().After(end) {
				return errors.Join(errors.New("the broker acknowledges nothing"), s.Error())
			}
			time.Sleep(10 * time.Millisecond)
			s.Token = s.again()
		}
		l.truth[s.at] = s.v
	}
	return nil
}

// run publishes until ctx ends.
func (l *line) run(ctx context.Context) error {
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			if err := l.publish(10, "", nil); err != nil {
				return err
			}
		}
	}
}

const plantConfig = `version: 1
name: plant
journal: {dir: %q, checkpoint: 200ms}
sources:
  - name: floor
    type: mqtt
    broker: %q
    client_id: penstock-test
    username: gateway
    password: a-password
    tls: {ca: %q}
    topics: [{topic: "factory/#", qos: 1, tag: "plant1/{2}/{3}/{4}", decode: {value: v, time: t, time_format: ns}}]
  - name: plc
    type: opcua
    endpoint: %q
    security_policy: Basic256Sha256
    security_mode: SignAndEncrypt
    auth: {username: operator, password: secret}
    server_certificate: %q
    pki_dir: %q
    publishing_interval: 50ms
    nodes:
%s
operators:
  - {name: score, type: wasm, inputs: [floor, plc], module: ewma, params: {half_life: 30s}}
alerts:
  - {name: too_hot, input: floor, column: value, above: 1000000, hysteresis: 10, severity: critical, tags: ["plant1/oven/*/*"]}
sinks:
  - {name: influx, type: influxdb, inputs: [floor, plc, score], url: %q, org: plant, bucket: penstock, token: %q, measurement: "{node}"}
  - {name: pager, type: webhook, inputs: [alerts], url: %q}
http: {listen: ""}
`

// The whole way, with everything secured, while each of the three servers is
// restarted: what was published is in InfluxDB, value by value, and alerts are
// delivered once.
func TestPlant(t *testing.T) {
	const counters = 10
	broker := testpeer.Mosquitto(t, testpeer.MosquittoConfig{TLS: true, User: "gateway", Password: "a-password"})
	plc := testpeer.NodeOPCUA(t, testpeer.NodeOPCUAConfig{Counters: counters})
	db := testpeer.Influx(t, testpeer.InfluxConfig{Auth: true})
	hook := newPager(t)
	var nodes strings.Builder
	for i := range counters {
		fmt.Fprintf(&nodes, "      - {id: \"ns=1;s=Counter%d\", tag: \"plant1/line1/Counter%d\"}\n", i, i)
	}
	dir := t.TempDir()
	cert := filepath.Join(plc.PKI, "server", "own", "certs", "certificate.pem")
	p := start(t, fmt.Sprintf(plantConfig, filepath.Join(dir, "data"), broker.URL, broker.CA, plc.Endpoint, cert, filepath.Join(dir, "pki"), nodes.String(), db.URL, db.Token, hook.URL))
	p.waitReady()

	floor := &line{client: publisher(t, broker, "gateway", "a-password"), begin: time.Now().Add(-time.Minute).UnixMilli() * 1e6, truth: map[point]any{}}
	plcTruth, plcQuality := map[point]any{}, map[point]any{}
	plcPublish := func() {
		t.Helper()
		for _, v := range plc.Publish(10) {
			k := point{"plant1/line1/" + v.Tag, v.Time.UnixNano()}
			plcTruth[k], plcQuality[k] = v.Value, int64(v.Quality)
		}
		// The next ones come at a later time than the last of these.
		wait(t, "the counters in the journal", 20*time.Second, func() bool {
			return p.meter.Totals().IngestedBy["plc"] >= int64(len(plcTruth)+counters)
		})
	}
	journaled := func() int64 { return p.meter.Totals().Journaled }
	accepted := func() int64 { return p.meter.Totals().Sinks["influx"].Accepted }
	oven := func(machine string, value float64) {
		t.Helper()
		require.NoError(t, floor.publish(1, "factory/oven/"+machine+"/temperature", func(int64) float64 { return value }))
	}

	ctx, cancel := context.WithCancel(t.Context())
	load := make(chan error, 1)
	go func() { load <- floor.run(ctx) }()
	wait(t, "the first rows in InfluxDB", 20*time.Second, func() bool { return accepted() > 100 })
	plcPublish()
	oven("a", 2e6)
	wait(t, "the alert", 20*time.Second, func() bool { return hook.count("too_hot", "plant1/oven/a/temperature", "raised") == 1 })
	oven("a", 20)
	wait(t, "the end of the alert", 20*time.Second, func() bool { return hook.count("too_hot", "plant1/oven/a/temperature", "cleared") == 1 })

	broker.Restart()
	before := p.meter.Totals().IngestedBy["floor"]
	t.Logf("broker restarted: rows again after %v", wait(t, "rows from the broker", 20*time.Second, func() bool { return p.meter.Totals().IngestedBy["floor"] > before }))

	db.Stop()
	before = journaled()
	wait(t, "rows in the journal without InfluxDB", 20*time.Second, func() bool { return journaled() > before+200 })
	oven("b", 3e6)
	t.Logf("InfluxDB away: alert after %v", wait(t, "an alert without InfluxDB", 20*time.Second, func() bool { return hook.count("too_hot", "plant1/oven/b/temperature", "raised") == 1 }))
	before = accepted()
	db.Restart()
	t.Logf("InfluxDB restarted: rows again after %v", wait(t, "rows in InfluxDB", 20*time.Second, func() bool { return accepted() > before }))

	plcBefore := p.meter.Totals().IngestedBy["plc"]
	plc.Stop()
	wait(t, "the loss of the OPC UA server being seen", 20*time.Second, func() bool { return !p.meter.Totals().Connected["plc"] })
	plc.Restart()
	back := wait(t, "data from the OPC UA server", 10*time.Second, func() bool {
		return p.meter.Totals().IngestedBy["plc"] >= plcBefore+counters && p.meter.Totals().Connected["plc"]
	})
	t.Logf("OPC UA server restarted: values again after %v", back)
	wasIngested := p.meter.Totals().IngestedBy["plc"]
	for _, v := range plc.Publish(10) {
		k := point{"plant1/line1/" + v.Tag, v.Time.UnixNano()}
		plcTruth[k], plcQuality[k] = v.Value, int64(v.Quality)
	}
	wait(t, "the counters after the restart", 20*time.Second, func() bool { return p.meter.Totals().IngestedBy["plc"] >= wasIngested+10*counters })

	cancel()
	require.NoError(t, <-load)
	sent := int64(len(floor.truth))
	wait(t, "the last reading", 20*time.Second, func() bool { return p.meter.Totals().IngestedBy["floor"] >= sent })
	p.stop()

	requireSame(t, "MQTT", floor.truth, points(t, db, "floor", "value"))
	scored := points(t, db, "score", "value")
	for k := range scored {
		if strings.HasPrefix(k.tag, "plant1/line1/") {
			delete(scored, k)
		}
	}
	requireSame(t, "scores of MQTT", floor.truth, scored)
	// The first value of each counter, at each start, is from before.
	values, quality := points(t, db, "plc", "value"), points(t, db, "plc", "quality")
	for k, v := range values {
		if v == 0.0 {
			delete(values, k)
			delete(quality, k)
		}
	}
	requireSame(t, "OPC UA", plcTruth, values)
	requireSame(t, "OPC UA quality", plcQuality, quality)
	require.Equal(t, 3, hook.total(), "alert events at the webhook: %v", hook.got)
	require.Empty(t, p.meter.Totals().Dropped)
	require.Zero(t, p.Summary().Lost())
	t.Logf("%d MQTT readings and %d OPC UA values, all in InfluxDB", sent, len(plcTruth))
}
