package integration

import (
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/penstock/penstock/internal/app"
	"github.com/penstock/penstock/internal/testpeer"
)

// The example for a real plant, as it stands in configs, runs against the real
// servers it is written for.
func TestPlantExample(t *testing.T) {
	variables := []string{"Line1.Motor1.VibrationX", "Line1.Motor1.BearingTemperature"}
	tags := map[string]string{variables[0]: "plant1/line1/motor1/vibration_x", variables[1]: "plant1/line1/motor1/bearing_temperature"}
	broker := testpeer.Mosquitto(t, testpeer.MosquittoConfig{TLS: true, User: "gateway", Password: "a-password"})
	plc := testpeer.NodeOPCUA(t, testpeer.NodeOPCUAConfig{Counters: 1, Variables: variables})
	db := testpeer.Influx(t, testpeer.InfluxConfig{Auth: true})
	hook := newPager(t)
	dir := t.TempDir()
	for k, v := range map[string]string{
		"PENSTOCK_DIR": dir, "MQTT_URL": broker.URL, "MQTT_CA": broker.CA, "MQTT_USER": "gateway", "MQTT_PASSWORD": "a-password",
		"OPCUA_ENDPOINT": plc.Endpoint, "OPCUA_SERVER_CERT": filepath.Join(plc.PKI, "server", "own", "certs", "certificate.pem"),
		"OPCUA_USER": "operator", "OPCUA_PASSWORD": "secret", "INFLUX_URL": db.URL, "INFLUX_ORG": db.Org, "INFLUX_BUCKET": db.Bucket,
		"INFLUX_TOKEN": db.Token, "PAGER_URL": hook.URL,
	} {
		t.Setenv(k, v)
	}
	cfg, _, err := app.Load(t.Context(), "../../configs/plant.yaml")
	require.NoError(t, err)
	pub := publisher(t, broker, "gateway", "a-password")
	p := startConfig(t, cfg)
	wait(t, "the connection to the broker", 20*time.Second, func() bool { return p.meter.Totals().Connected["floor"] })

	// Twenty minutes of a pump that vibrates too much: the rule wants two.
	truth := map[point]any{}
	now := time.Now().Truncate(time.Second)
	for i := range 600 {
		at := now.Add(time.Duration(i-600) * 2 * time.Second)
		v := 6 + float64(i%7)/64
		tok := pub.Publish("factory/hall2/pump3/vibration", 1, false, fmt.Sprintf(`{"value": %v, "ts": %d}`, v, at.UnixMilli()))
		truth[point{"plant1/hall2/pump3/vibration", at.UnixNano()}] = v
		if i%20 == 19 {
			require.True(t, tok.WaitTimeout(20*time.Second))
			require.NoError(t, tok.Error())
		}
	}
	send(t, pub, "gateway/hall2/compressor1", fmt.Sprintf(`{"ts": %q, "oil_temperature": 61.5, "speed": 2980}`, now.Format(time.RFC3339Nano)))
	truth[point{"plant1/hall2/compressor1/oil_temperature", now.UnixNano()}] = 61.5
	truth[point{"plant1/hall2/compressor1/speed", now.UnixNano()}] = 2980.0
	floor := int64(len(truth))
	p.waitReady()
	wait(t, "the first value of each node", 20*time.Second, func() bool { return p.meter.Totals().IngestedBy["plc"] >= 2 })
	for _, v := range plc.Publish(10) {
		if tag, ok := tags[v.Tag]; ok {
			truth[point{tag, v.Time.UnixNano()}] = v.Value
		}
	}
	wait(t, "all readings being processed", 30*time.Second, func() bool { return p.meter.Totals().Processed >= int64(len(truth)+2) })
	require.Equal(t, floor, p.meter.Totals().IngestedBy["floor"])
	const tag = "plant1/hall2/pump3/vibration"
	wait(t, "the alert at the pager", 30*time.Second, func() bool { return hook.count("vibration_high", tag, "raised") == 1 })
	p.stop()

	got := points(t, db, "score", "value")
	for k, v := range got {
		if v == 0.0 { // the first value of each node is from before
			delete(got, k)
		}
	}
	requireSame(t, "scored readings", truth, got)
	require.Equal(t, 1, hook.count("vibration_high", tag, "raised"))
	minutes := 0
	for k, v := range points(t, db, "per_minute", "mean") {
		if k.tag == tag {
			minutes++
			require.InDelta(t, 6.05, v, 0.05)
		}
	}
	require.GreaterOrEqual(t, minutes, 18)
	require.Empty(t, p.meter.Totals().Dropped)
	require.Zero(t, p.Summary().Lost())
	files, err := filepath.Glob(filepath.Join(dir, "archive", "*"))
	require.NoError(t, err)
	require.NotEmpty(t, files)
	t.Logf("%d readings, %d minutes, %d alert events", len(truth), minutes, hook.total())
}
