package grafana

import (
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/penstock/penstock/internal/testpeer"
)

// TestDemoFillsTheDashboards runs the demo into a real InfluxDB: every reading
// it published is there, and every query of every dashboard returns data.
func TestDemoFillsTheDashboards(t *testing.T) {
	if testing.Short() {
		t.Skip("takes 40 s")
	}
	db := testpeer.Influx(t, testpeer.InfluxConfig{})
	dir := t.TempDir()
	program, summary := filepath.Join(dir, "penstock"), filepath.Join(dir, "summary.json")
	out, err := exec.Command("go", "build", "-o", program, "github.com/penstock/penstock").CombinedOutput()
	require.NoError(t, err, string(out))

	from := time.Now().Add(-time.Second)
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	out, err = exec.CommandContext(ctx, program, "demo", "--plain", "--for", "30s", "--summary", summary,
		"--influxdb", db.URL, "--org", db.Org, "--bucket", db.Bucket).CombinedOutput()
	require.NoError(t, err, string(out))
	data, err := os.ReadFile(summary)
	require.NoError(t, err)
	var s struct{ Readings struct{ Published int64 } }
	require.NoError(t, json.Unmarshal(data, &s))
	require.Positive(t, s.Readings.Published)

	stored := int64(0)
	for _, row := range db.Query(`from(bucket: "` + db.Bucket + `") |> range(start: -1h) |> filter(fn: (r) => r._field == "quality" and (r.node == "plc" or r.node == "devices")) |> count() |> group() |> sum()`) {
		stored += row["_value"].(int64)
	}
	require.Equal(t, s.Readings.Published, stored)
	everyQueryReturnsData(t, db, from, time.Now())
}
