package grafana

import (
	"context"
	"encoding/json"
	"log/slog"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/apache/arrow/go/v17/arrow"
	"github.com/apache/arrow/go/v17/arrow/array"
	"github.com/apache/arrow/go/v17/arrow/memory"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/penstock/penstock/internal/testpeer"
	"github.com/penstock/penstock/pipeline"
	"github.com/penstock/penstock/sinks/influxdb"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// TestPanelsReturnData fills InfluxDB, through the sink, with two minutes of
// what the demo's nodes put out, and runs every query.
func TestPanelsReturnData(t *testing.T) {
	db := testpeer.Influx(t, testpeer.InfluxConfig{})
	cfg := influxdb.DefaultConfig()
	cfg.URL, cfg.Org, cfg.Bucket = db.URL, db.Org, db.Bucket
	sink, err := influxdb.New(cfg, pipeline.Env{Name: "influx", Log: slog.New(slog.DiscardHandler)})
	require.NoError(t, err)
	ctx := context.Background()
	require.NoError(t, sink.Connect(ctx))
	defer func() { require.NoError(t, sink.Close(ctx)) }()

	to := time.Now()
	from := to.Add(-2 * time.Minute)
	write := func(node string, columns string, rows []map[string]any) {
		rec := synthetic(t, node, columns, rows)
		defer rec.Release()
		require.NoError(t, sink.Write(ctx, rec))
	}
	var score, drift, spikes, life, window []map[string]any
	for _, tag := range []string{"plant1/hall1/pump1/vibration_x", "plant1/hall1/pump1/pressure", "plant1/hall2/motor1/vibration_x"} {
		for i := range 110 {
			at := from.Add(time.Duration(i) * time.Second)
			wave := math.Sin(float64(i) / 7)
			row := func(more map[string]any) map[string]any {
				all := map[string]any{"time": at.UnixNano(), "tag": tag, "value": 10 + wave, "text": nil, "quality": 0, "received": at.UnixNano() + 1000}
				for k, v := range more {
					all[k] = v
				}
				return all
			}
			quality := 0
			if i == 50 {
				quality = int(pipeline.BadSensor)
			}
			score = append(score, row(map[string]any{"quality": quality, "mean": 10, "std": 0.5, "score": wave / 0.5, "flag": i%40 == 39}))
			drift = append(drift, row(map[string]any{"high": math.Abs(wave), "low": 0.5, "score": math.Abs(wave), "flag": false}))
			spikes = append(spikes, row(map[string]any{"median": 10, "scale": 0.4, "score": wave / 0.4, "flag": false}))
			life = append(life, row(map[string]any{"slope": 0.1, "rul": 5000 - 10*i, "rul_low": 4000 - 10*i, "rul_high": nil, "score": 0.2, "flag": false}))
			window = append(window, row(map[string]any{"window_start": at.UnixNano() - 1e9, "mean": 10, "min": 9, "max": 11, "std": 0.5, "count": 10}))
		}
	}
	for i := range life {
		if i%3 != 0 { // the interval has no upper end for a while
			life[i]["rul_high"] = 6000 - 10*i%110
		}
	}
	const readings = "time tag value text quality received"
	write("score", readings+" mean std score flag", score)
	write("drift", readings+" high low score flag", drift)
	write("spikes", readings+" median scale score flag", spikes)
	write("life", "time tag value quality slope rul rul_low rul_high score flag", life)
	write("per_second", "time tag window_start mean min max std count quality", window)
	event := func(after time.Duration, rule, tag, state string) map[string]any {
		at := from.Add(after).UnixNano()
		return map[string]any{"time": at, "tag": tag, "id": "A1", "rule": rule, "asset": tag[:strings.LastIndex(tag, "/")], "severity": "warning", "state": state,
			"value": 7.5, "limit": 6, "raised": at, "message": tag + " is " + state}
	}
	const events = "time tag id rule asset severity state value limit raised message"
	write("vibration_high", events, []map[string]any{event(20*time.Second, "vibration_high", "plant1/hall1/pump1/vibration_x", "raised"),
		event(60*time.Second, "vibration_high", "plant1/hall1/pump1/vibration_x", "cleared"), event(70*time.Second, "vibration_high", "plant1/hall2/motor1/vibration_x", "raised")})

	everyQueryReturnsData(t, db, from.Add(-time.Second), to)

	t.Run("what the panels say", func(t *testing.T) {
		d := load(t)["plant-overview.json"]
		a := newAsker(t, db, from.Add(-time.Second), to)
		set := a.combinations(d)[0]
		answers := map[string][]map[string]any{}
		for what, query := range d.queries() {
			answers[what] = a.ask(query, set)
		}
		one := func(what string) any {
			require.Len(t, answers[what], 1, what)
			return answers[what][0]["_value"]
		}
		require.EqualValues(t, 1, one(`stat 1 "Active alerts", query A`))
		require.EqualValues(t, 5000-10*109, one(`stat 2 "Shortest remaining life", query A`))
		require.EqualValues(t, 2, one(`stat 3 "Assets", query A`))
		require.InDelta(t, 1.0/110, one(`stat 4 "Readings of bad quality", query A`), 1e-9)
		require.Len(t, answers[`table 5 "Health of the assets", query A`], 2)
		table := answers[`table 6 "Active alerts", query A`]
		require.Len(t, table, 1)
		require.Equal(t, "plant1/hall2/motor1/vibration_x", table[0]["tag"])
		require.Equal(t, "plant1/hall2/motor1/vibration_x is raised", table[0]["message"])
	})
}

// synthetic builds a record whose columns have the types that they have
// everywhere in Penstock.
func synthetic(t *testing.T, node, columns string, rows []map[string]any) arrow.Record {
	t.Helper()
	var fields []arrow.Field
	for _, name := range strings.Fields(columns) {
		f := arrow.Field{Name: name, Type: arrow.PrimitiveTypes.Float64, Nullable: true}
		switch name {
		case "time", "received", "raised", "window_start":
			f.Type = pipeline.TimeType
		case "tag":
			f.Type = pipeline.TagType
		case "quality":
			f.Type = arrow.PrimitiveTypes.Uint32
		case "flag":
			f.Type = arrow.FixedWidthTypes.Boolean
		case "text", "id", "rule", "asset", "severity", "state", "message":
			f.Type = arrow.BinaryTypes.String
		}
		fields = append(fields, f)
	}
	for i := range rows {
		keep := map[string]any{}
		for _, f := range fields {
			keep[f.Name] = rows[i][f.Name]
		}
		rows[i] = keep
	}
	data, err := json.Marshal(rows)
	require.NoError(t, err)
	rec, _, err := array.RecordFromJSON(memory.DefaultAllocator, pipeline.WithNode(arrow.NewSchema(fields, nil), node), strings.NewReader(string(data)), array.WithUseNumber())
	require.NoError(t, err)
	return rec
}
