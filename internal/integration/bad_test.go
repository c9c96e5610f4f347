package integration

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/penstock/penstock/internal/testpeer"
)

const badPayloadConfig = `version: 1
name: bad
journal: {dir: %q}
sources:
  - name: floor
    type: mqtt
    broker: %q
    topics: [{topic: "plant/#", qos: 1, decode: {value: v, time: t}}]
operators:
  - {name: score, type: wasm, inputs: [floor], module: ewma, params: {half_life: 30s}}
sinks:
  - {name: influx, type: influxdb, inputs: [floor, score], url: %q, org: plant, bucket: penstock, token: "x:y", measurement: "{node}"}
http: {listen: ""}
`

// What devices send wrongly is named with its topic and counted, and what
// others send beside it is all there.
func TestBadPayloads(t *testing.T) {
	broker := testpeer.Mosquitto(t, testpeer.MosquittoConfig{})
	db := testpeer.Influx(t, testpeer.InfluxConfig{})
	p := start(t, fmt.Sprintf(badPayloadConfig, t.TempDir(), broker.URL, db.URL))
	p.waitReady()
	pub := publisher(t, broker, "", "")

	now := time.Now().UnixMilli()
	cases := []struct {
		topic, payload, reason string
		log                    []string
	}{
		{"plant/a/cut_off", fmt.Sprintf(`{"v": 1.5, "t": %d`, now), "undecodable", []string{"byte 29", "end of the payload"}},
		{"plant/b/no_json", "temperature=20", "undecodable", []string{"byte 0"}},
		{"plant/c/empty", "", "undecodable", []string{"byte 0"}},
		{"plant/d/wrong_value", fmt.Sprintf(`{"v": {"x": 1}, "t": %d}`, now), "undecodable", []string{"byte 6", "object"}},
		{"plant/e/wrong_time", `{"v": 1, "t": true}`, "undecodable", []string{"byte 14", "true"}},
		{"plant/f/no_value", fmt.Sprintf(`{"temperature": 1, "t": %d}`, now), "undecodable", []string{`value`}},
		{"plant/g/nan", fmt.Sprintf(`{"v": NaN, "t": %d}`, now), "undecodable", []string{"byte 6"}},
		{"plant/h/huge", `{"v": 1, "note": "` + string(bytes.Repeat([]byte("x"), 10<<20)) + `"}`, "payload_too_large", []string{"10485", "max_payload"}},
		{"plant/i/1970", `{"v": 1, "t": 1}`, "time_too_old", []string{"too old", "1970-01-01"}},
		{"plant/j/2100", `{"v": 1, "t": "2100-01-01T00:00:00Z"}`, "time_in_future", []string{"future", "2100-01-01"}},
	}
	truth := map[point]any{}
	good := func() {
		for range 20 {
			i := int64(len(truth))
			send(t, pub, "plant/good/load", fmt.Sprintf(`{"v": %d.5, "t": %d}`, i, now+i))
			truth[point{"plant/good/load", (now + i) * 1e6}] = float64(i) + 0.5
		}
	}
	good()
	want := map[string]int64{}
	for _, c := range cases {
		send(t, pub, c.topic, c.payload)
		want[c.reason]++
		good()
	}
	ingested := func() bool { return p.meter.Totals().Processed == int64(len(truth)) }
	wait(t, "the good readings going through", 20*time.Second, ingested)
	for _, c := range cases {
		t.Run(c.topic, func(t *testing.T) {
			wait(t, "a message about it", 2*time.Second, func() bool { return p.log.has(append(c.log, "level=WARN", c.topic)...) })
		})
	}
	require.Equal(t, map[string]map[string]int64{"floor": want}, p.meter.Totals().DroppedAt)
	p.stop()
	requireSame(t, "good readings", truth, points(t, db, "floor", "value"))
	requireSame(t, "their scores", truth, points(t, db, "score", "value"))
}

const badPeersConfig = `version: 1
name: peers
journal: {dir: %[1]q}
sources:
  - name: floor
    type: mqtt
    broker: %[2]q
    username: gateway
    password: a-password
    topics: [{topic: "plant/#", qos: 1, decode: {value: v, time: t}}]
  - name: wrong_password
    type: mqtt
    broker: %[2]q
    username: gateway
    password: not-the-password
    topics: [{topic: "plant/#", qos: 1}]
  - name: expired_broker
    type: mqtt
    broker: %[3]q
    tls: {ca: %[4]q}
    topics: [{topic: "plant/#", qos: 1}]
  - name: plc
    type: opcua
    endpoint: %[5]q
    auth: {username: operator, password: secret}
    server_certificate: %[6]q
    pki_dir: %[7]q
    publishing_interval: 50ms
    nodes:
      - {id: "ns=1;s=Counter0", tag: "plant/plc/good"}
      - {id: "ns=1;s=NoSuchNode", tag: "plant/plc/missing"}
      - {id: "nsu=urn:no:such:namespace;s=Counter1", tag: "plant/plc/elsewhere"}
  - name: plc_wrong_password
    type: opcua
    endpoint: %[5]q
    auth: {username: operator, password: wrong-secret}
    server_certificate: %[6]q
    pki_dir: %[7]q
    nodes: [{id: "ns=1;s=Counter0", tag: "plant/plc/never"}]
  - name: plc_expired
    type: opcua
    endpoint: %[8]q
    trust_any: true
    pki_dir: %[7]q
    nodes: [{id: "ns=1;s=Counter0", tag: "plant/plc/never2"}]
sinks:
  - {name: influx, type: influxdb, inputs: [floor, plc, wrong_password, expired_broker, plc_wrong_password, plc_expired], url: %[9]q, org: plant, bucket: penstock, token: "x:y", measurement: "{node}"}
http: {listen: ""}
`

// A source whose peer refuses it, or cannot be trusted, says so with the
// peer's address, and the others work.
func TestBadPeers(t *testing.T) {
	broker := testpeer.Mosquitto(t, testpeer.MosquittoConfig{User: "gateway", Password: "a-password"})
	expired := testpeer.Mosquitto(t, testpeer.MosquittoConfig{TLS: true, Certs: testpeer.NewCerts(t, testpeer.CertOptions{Expired: true})})
	plc := testpeer.NodeOPCUA(t, testpeer.NodeOPCUAConfig{Counters: 2})
	plcExpired := testpeer.NodeOPCUA(t, testpeer.NodeOPCUAConfig{Counters: 1, Expired: true})
	db := testpeer.Influx(t, testpeer.InfluxConfig{})
	dir := t.TempDir()
	p := start(t, fmt.Sprintf(badPeersConfig, filepath.Join(dir, "data"), broker.URL, expired.URL, expired.CA, plc.Endpoint,
		filepath.Join(plc.PKI, "server", "own", "certs", "certificate.pem"), filepath.Join(dir, "pki"), plcExpired.Endpoint, db.URL))
	for _, parts := range [][]string{
		{"component=wrong_password", broker.URL, "wrong user name or password", "gateway"},
		{"component=expired_broker", expired.URL, "expired", "certificate"},
		{"component=plc ", "level=ERROR", plc.Endpoint, "ns=1;s=NoSuchNode", "plant/plc/missing", "BadNodeIDUnknown"},
		{"component=plc ", "level=ERROR", plc.Endpoint, "nsu=urn:no:such:namespace;s=Counter1", "plant/plc/elsewhere"},
		{"component=plc_wrong_password", plc.Endpoint, "wrong name or password"},
		{"component=plc_expired", plcExpired.Endpoint, "expired on"},
	} {
		wait(t, fmt.Sprint("a message with ", parts), 60*time.Second, func() bool { return p.log.has(parts...) })
	}
	wait(t, "the good sources being connected", 60*time.Second, func() bool {
		up := p.meter.Totals().Connected
		return up["floor"] && up["plc"]
	})
	_, missing := p.Ready()
	require.Equal(t, []string{"wrong_password", "expired_broker", "plc_wrong_password", "plc_expired"}, missing)

	pub := publisher(t, broker, "gateway", "a-password")
	truth := map[point]any{}
	now := time.Now().UnixMilli()
	for i := range int64(50) {
		send(t, pub, "plant/good/load", fmt.Sprintf(`{"v": %d.5, "t": %d}`, i, now+i))
		truth[point{"plant/good/load", (now + i) * 1e6}] = float64(i) + 0.5
	}
	plcTruth := map[point]any{}
	for _, v := range plc.Publish(5) {
		if v.Tag == "Counter0" {
			plcTruth[point{"plant/plc/good", v.Time.UnixNano()}] = v.Value
		}
	}
	// How many OPC UA values come is not fixed: a connection that is made anew
	// gives each node's first value again, with the time it had.
	wait(t, "the good readings going through", 30*time.Second, func() bool {
		values := points(t, db, "plc", "value")
		for k := range plcTruth {
			if _, ok := values[k]; !ok {
				return false
			}
		}
		return len(points(t, db, "floor", "value")) == len(truth)
	})
	p.stop()
	requireSame(t, "MQTT", truth, points(t, db, "floor", "value"))
	values := points(t, db, "plc", "value")
	for k, v := range values {
		if v == 0.0 { // the first value is from before
			delete(values, k)
		}
	}
	requireSame(t, "OPC UA", plcTruth, values)
	require.Equal(t, map[string]map[string]int64{"plc": {"node_refused": 2}}, p.meter.Totals().DroppedAt)
	require.NotContains(t, p.log.String(), "not-the-password")
	require.NotContains(t, p.log.String(), "wrong-secret")
}

// An InfluxDB that refuses the token stops nothing, and once it takes it the
// rows are there: none has gone to the dead-letter queue.
func TestWrongToken(t *testing.T) {
	broker := testpeer.Mosquitto(t, testpeer.MosquittoConfig{})
	db := testpeer.Influx(t, testpeer.InfluxConfig{Auth: true})
	hook := newPager(t)
	p := start(t, fmt.Sprintf(`version: 1
name: token
journal: {dir: %q}
sources:
  - name: floor
    type: mqtt
    broker: %q
    topics: [{topic: "plant/#", qos: 1, decode: {value: v, time: t}}]
alerts:
  - {name: high, input: floor, column: value, above: 100}
sinks:
  - {name: influx, type: influxdb, inputs: [floor], url: %q, org: plant, bucket: penstock, token: "gateway:its-password"}
  - {name: pager, type: webhook, inputs: [alerts], url: %q}
http: {listen: ""}
`, t.TempDir(), broker.URL, db.URL, hook.URL))
	wait(t, "a message about the token", 20*time.Second, func() bool { return p.log.has("component=influx", db.URL, "check token") })
	wait(t, "the connection to the broker", 20*time.Second, func() bool { return p.meter.Totals().Connected["floor"] })
	pub := publisher(t, broker, "", "")
	truth := map[point]any{}
	now := time.Now().UnixMilli()
	for i := range int64(50) {
		send(t, pub, "plant/good/load", fmt.Sprintf(`{"v": %d.5, "t": %d}`, 80+i, now+i))
		truth[point{"plant/good/load", (now + i) * 1e6}] = float64(80+i) + 0.5
	}
	wait(t, "the alert", 20*time.Second, func() bool { return hook.count("high", "plant/good/load", "raised") == 1 })
	require.Zero(t, p.meter.Totals().Sinks["influx"].Accepted)
	db.InfluxQL("CREATE USER gateway WITH PASSWORD 'its-password'")
	db.InfluxQL("GRANT ALL ON penstock TO gateway")
	wait(t, "the rows in InfluxDB", 30*time.Second, func() bool { return p.meter.Totals().Sinks["influx"].Accepted == 50 })
	p.stop()
	requireSame(t, "readings", truth, points(t, db, "floor", "value"))
	require.Zero(t, p.meter.Totals().Sinks["influx"].DeadLettered)
	require.NotContains(t, p.log.String(), "its-password")
}

// `penstock validate` names everything that is wrong at once, each with its
// place and what to write.
func TestWrongYAML(t *testing.T) {
	bin := buildProgram(t)
	dir := t.TempDir()
	file := filepath.Join(dir, "my.yaml")
	require.NoError(t, os.WriteFile(file, []byte(`version: 1
name: mine
sources:
  - name: floor
    type: mqtt
    brokr: tcp://127.0.0.1:1883
    topics: [{topic: "plant/#", qos: 3}]
operators:
  - {name: score, type: wasm, inputs: [flor], module: ewma}
sinks:
  - {name: out, type: console, inputs: [score]}
`), 0o600))
	cmd := exec.Command(bin, "validate", file)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	require.Error(t, cmd.Run())
	require.Equal(t, 2, cmd.ProcessState.ExitCode())
	for _, want := range []string{
		file + ":6:5: sources[0].brokr", "did you mean broker?",
		file + ":7:38: sources[0].topics[0].qos", "write 0, 1 or 2",
		file + ":9:40: operators[0].inputs[0]", `"flor"; did you mean floor?`,
	} {
		require.Contains(t, stderr.String(), want)
	}
	t.Log("\n" + stderr.String())
}
