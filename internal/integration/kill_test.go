// Package integration holds the tests of the whole program against real
// servers: Mosquitto, node-opcua, InfluxDB.
package integration

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	mqtt "github.com/eclipse/paho.mqtt.golang"
	"github.com/stretchr/testify/require"

	"github.com/penstock/penstock/internal/testpeer"
)

// buildProgram builds penstock, with the race detector when the test has it.
func buildProgram(t *testing.T) string {
	t.Helper()
	bin := filepath.Join(t.TempDir(), "penstock")
	args := []string{"build", "-o", bin}
	if raceEnabled {
		args = append(args, "-race")
	}
	out, err := exec.Command("go", append(args, "github.com/penstock/penstock")...).CombinedOutput()
	require.NoError(t, err, string(out))
	return bin
}

const killConfig = `version: 1
name: kill
journal: {dir: %q, checkpoint: 300ms, shards: 2}
sources:
  - name: floor
    type: mqtt
    broker: %q
    client_id: kill-test
    topics: [{topic: "plant/#", qos: 1, decode: {value: v, time: t, time_format: ns}}]
operators:
  - {name: score, type: wasm, inputs: [floor], module: ewma, params: {half_life: 30s}}
sinks:
  - {name: history, type: influxdb, inputs: [floor, score], url: %q, org: plant, bucket: penstock, token: "x:y", measurement: "{node}"}
http: {listen: ""}
`

// Ten times the program is killed without warning while readings come in at
// QoS 1. After the last start every reading is in InfluxDB, with its value,
// both as it was read and with its score.
func TestKillNineLosesNothing(t *testing.T) {
	if testing.Short() {
		t.Skip("kills a program ten times")
	}
	broker := testpeer.Mosquitto(t, testpeer.MosquittoConfig{Extra: "max_inflight_messages 1000\n"})
	db := testpeer.Influx(t, testpeer.InfluxConfig{})
	bin := buildProgram(t)
	dir := t.TempDir()
	cfg := filepath.Join(dir, "kill.yaml")
	require.NoError(t, os.WriteFile(cfg, fmt.Appendf(nil, killConfig, filepath.Join(dir, "data"), broker.URL, db.URL), 0o600))

	const tags = 20
	start := time.Now().Add(-time.Minute).Truncate(time.Second).UnixNano()
	var published atomic.Int64 // the broker has them
	pub := mqtt.NewClient(mqtt.NewClientOptions().AddBroker(broker.URL).SetClientID("publisher"))
	require.True(t, pub.Connect().WaitTimeout(10*time.Second))
	defer pub.Disconnect(0)
	publish := func(n int) error { // returns once the broker has them
		var tokens []mqtt.Token
		for i := published.Load(); len(tokens) < n; i++ {
			payload := fmt.Sprintf(`{"v": %d.5, "t": %d}`, i, start+i*1e6)
			tokens = append(tokens, pub.Publish(fmt.Sprintf("plant/machine%02d/load", i%tags), 1, false, payload))
		}
		for _, tok := range tokens {
			if !tok.WaitTimeout(20 * time.Second) {
				return errors.New("the broker acknowledges nothing")
			}
			if tok.Error() != nil {
				return tok.Error()
			}
		}
		published.Add(int64(n))
		return nil
	}

	var stderr bytes.Buffer
	launch := func() *exec.Cmd {
		stderr.Reset()
		cmd := exec.Command(bin, "run", cfg)
		cmd.Stderr = &stderr
		require.NoError(t, cmd.Start())
		return cmd
	}
	count := func(measurement string) int64 { return db.Count(measurement, "value") }
	wait := func(what string, timeout time.Duration, ok func() bool) {
		t.Helper()
		ctx, cancel := context.WithTimeout(context.Background(), timeout)
		defer cancel()
		for !ok() {
			select {
			case <-ctx.Done():
				t.Fatalf("%s did not happen within %v\n%s", what, timeout, stderr.String())
			case <-time.After(50 * time.Millisecond):
			}
		}
	}

	// The first run makes the session at the broker; what was published before
	// is not owed.
	cmd := launch()
	wait("the first rows in InfluxDB", time.Minute, func() bool {
		require.NoError(t, publish(10))
		return count("score") > 0
	})
	owed := published.Load()
	load := make(chan error, 1)
	enough := make(chan struct{})
	go func() {
		tick := time.NewTicker(20 * time.Millisecond)
		defer tick.Stop()
		for {
			if err := publish(40); err != nil {
				load <- err
				return
			}
			select {
			case <-enough:
				load <- nil
				return
			case <-tick.C:
			}
		}
	}()
	rng := rand.New(rand.NewPCG(1, 2))
	for kill := range 10 {
		if kill%3 != 2 { // sometimes it is killed while it starts, or catches up
			before := count("floor")
			wait("new rows after a restart", time.Minute, func() bool { return count("floor") > before })
		}
		// At any moment of a batch, of a checkpoint, of a start.
		<-time.After(time.Duration(rng.IntN(400)) * time.Millisecond)
		require.NoError(t, cmd.Process.Signal(syscall.SIGKILL))
		require.ErrorContains(t, cmd.Wait(), "killed", "kill %d: the program ended before it was killed: %s", kill, stderr.String())
		cmd = launch()
	}
	close(enough)
	require.NoError(t, <-load)
	missing := func(measurement string) int64 {
		have := map[float64]bool{}
		for _, row := range db.Query(`from(bucket: "penstock") |> range(start: -1h) |> filter(fn: (r) => r._measurement == "` + measurement + `" and r._field == "value")`) {
			v := row["_value"].(float64)
			at := row["_time"].(time.Time).UnixNano()
			require.EqualValues(t, start+int64(v-0.5)*1e6, at, "a value has the wrong time")
			have[v] = true
		}
		n := int64(0)
		for i := owed; i < published.Load(); i++ {
			if !have[float64(i)+0.5] {
				n++
			}
		}
		return n
	}
	for _, m := range []string{"floor", "score"} {
		wait(fmt.Sprintf("every one of %d readings in %s", published.Load(), m), time.Minute, func() bool { return missing(m) == 0 })
	}
	t.Logf("10 kills, %d readings, none missing", published.Load()-owed)
	require.NoError(t, cmd.Process.Signal(syscall.SIGTERM))
	require.NoError(t, cmd.Wait(), stderr.String())
}
