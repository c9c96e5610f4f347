package integration

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/penstock/penstock/internal/testpeer"
)

// A stop while InfluxDB and the broker are away ends within its bound, and the
// next start brings what was taken in before.
func TestStopWhilePeersAreAway(t *testing.T) {
	broker := testpeer.Mosquitto(t, testpeer.MosquittoConfig{})
	db := testpeer.Influx(t, testpeer.InfluxConfig{})
	yaml := fmt.Sprintf(badPayloadConfig, t.TempDir(), broker.URL, db.URL)
	p := start(t, yaml)
	p.waitReady()
	pub := publisher(t, broker, "", "")
	truth := map[point]any{}
	now := time.Now().UnixMilli()
	good := func(n int) {
		for range n {
			i := int64(len(truth))
			send(t, pub, "plant/good/load", fmt.Sprintf(`{"v": %d.5, "t": %d}`, i, now+i))
			truth[point{"plant/good/load", (now + i) * 1e6}] = float64(i) + 0.5
		}
		wait(t, "the readings in the journal", 20*time.Second, func() bool { return p.meter.Totals().Processed == int64(len(truth)) })
	}
	good(50)
	db.Stop()
	good(50)
	broker.Stop()
	wait(t, "the loss of the broker being seen", 20*time.Second, func() bool { return !p.meter.Totals().Connected["floor"] })
	const bound = 2 * time.Second
	ctx, cancel := context.WithTimeout(t.Context(), bound)
	defer cancel()
	begin := time.Now()
	p.once.Do(func() { require.NoError(t, p.Stop(ctx)) })
	took := time.Since(begin)
	t.Logf("stopped in %v", took)
	require.Less(t, took, bound+5*time.Second)

	p = start(t, yaml)
	db.Restart()
	wait(t, "the rest in InfluxDB", 30*time.Second, func() bool { return db.Count("floor", "value") == 100 && db.Count("score", "value") == 100 })
	begin = time.Now()
	p.stop()
	t.Logf("stopped in %v, without a broker", time.Since(begin))
	require.Less(t, time.Since(begin), 5*time.Second)
	requireSame(t, "readings", truth, points(t, db, "floor", "value"))
	requireSame(t, "scores", truth, points(t, db, "score", "value"))
}
