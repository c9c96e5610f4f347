package influxdb

import (
	"bytes"
	"context"
	"log/slog"
	"math"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/apache/arrow/go/v17/arrow"
	"github.com/apache/arrow/go/v17/arrow/array"
	"github.com/apache/arrow/go/v17/arrow/memory"
	"github.com/influxdata/line-protocol/v2/lineprotocol"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/penstock/penstock/internal/testpeer"
	"github.com/penstock/penstock/pipeline"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func testEnv(rules ...pipeline.TagRule) pipeline.Env {
	return pipeline.Env{Name: "influx", Log: slog.New(slog.DiscardHandler), Meter: pipeline.NewMeter(), Tags: pipeline.NewTags(rules),
		Alloc: memory.DefaultAllocator, Shards: 1}
}

func open(t *testing.T, cfg Config, env pipeline.Env) *Sink {
	t.Helper()
	p := pipeline.NewProblems()
	cfg.Validate(p)
	require.Empty(t, p.All())
	s, err := New(cfg, env)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, s.Close(context.Background())) })
	return s
}

func configFor(url string) Config {
	cfg := DefaultConfig()
	cfg.URL, cfg.Org, cfg.Bucket = url, "plant", "penstock"
	return cfg
}

// reading is one row of a test record; a nil value is null.
type reading struct {
	at      int64
	tag     string
	value   any // float64, string or nil
	quality uint32
}

func readings(t testing.TB, mem memory.Allocator, node string, rows ...reading) arrow.Record {
	t.Helper()
	b := array.NewRecordBuilder(mem, pipeline.WithNode(pipeline.Readings, node))
	defer b.Release()
	for _, r := range rows {
		b.Field(0).(*array.TimestampBuilder).Append(arrow.Timestamp(r.at))
		require.NoError(t, b.Field(1).(*array.BinaryDictionaryBuilder).AppendString(r.tag))
		if v, ok := r.value.(float64); ok {
			b.Field(2).(*array.Float64Builder).Append(v)
		} else {
			b.Field(2).AppendNull()
		}
		if s, ok := r.value.(string); ok {
			b.Field(3).(*array.StringBuilder).Append(s)
		} else {
			b.Field(3).AppendNull()
		}
		b.Field(4).(*array.Uint32Builder).Append(r.quality)
		b.Field(5).(*array.TimestampBuilder).Append(arrow.Timestamp(r.at + 1))
	}
	return b.NewRecord()
}

const t0 = 1_700_000_000_000_000_000

func TestLines(t *testing.T) {
	mem := memory.NewCheckedAllocator(memory.DefaultAllocator)
	defer mem.AssertSize(t, 0)
	rules := []pipeline.TagRule{{Match: "plant1/*/*/temperature", Unit: "°C"}}
	for name, c := range map[string]struct {
		change func(*Config)
		rows   []reading
		want   string
	}{
		"defaults": {nil, []reading{{t0, "plant1/hall2/pump3/temperature", 21.5, 0}, {t0 + 1, "plant1/hall2/pump3/temperature", 3.0, pipeline.BadSensor}},
			"temperature,asset=plant1/hall2/pump3,node=plc,tag=plant1/hall2/pump3/temperature value=21.5,quality=0i 1700000000000000000\n" +
				"temperature,asset=plant1/hall2/pump3,node=plc,tag=plant1/hall2/pump3/temperature value=3,quality=2156658688i 1700000000000000001\n"},
		"null and NaN leave the quality": {nil, []reading{{t0, "a/x", nil, pipeline.BadNoData}, {t0 + 1, "a/x", math.NaN(), 0}, {t0 + 2, "a/x", math.Inf(-1), 0}},
			"x,asset=a,node=plc,tag=a/x quality=2157641728i 1700000000000000000\n" +
				"x,asset=a,node=plc,tag=a/x quality=0i 1700000000000000001\n" +
				"x,asset=a,node=plc,tag=a/x quality=0i 1700000000000000002\n"},
		"templates": {func(c *Config) {
			c.Measurement = "{node}"
			c.Tags = map[string]string{"unit": "{unit}", "hall": "{2}", "site": "Basel", "node": "", "none": "{9}", "asset": "A-{asset}"}
		}, []reading{{t0, "plant1/hall2/pump3/temperature", 1e300, 0}},
			"plc,asset=A-plant1/hall2/pump3,hall=hall2,site=Basel,tag=plant1/hall2/pump3/temperature,unit=°C value=1e+300,quality=0i 1700000000000000000\n"},
		"escapes": {nil, []reading{{t0, `a b,c=d/x,y z`, "say \"hi\" \\ ü\nnext", 0}, {t0, "line\nbreak\\", -0.5, 0}},
			`x\,y\ z,asset=a\ b\,c\=d,node=plc,tag=a\ b\,c\=d/x\,y\ z text="say \"hi\" \\ ü` + "\nnext\",quality=0i 1700000000000000000\n" +
				`line_break_,node=plc,tag=line_break_ value=-0.5,quality=0i 1700000000000000000` + "\n"},
		"quality tag": {func(c *Config) { c.QualityTag = true; c.Fields = []string{"value"} },
			[]reading{{t0, "a/x", 1.0, 0}, {t0, "b/x", 2.0, pipeline.Uncertain}, {t0, "c/x", 3.0, pipeline.Bad}, {t0, "d/x", 4.0, 0xC0000000}},
			"x,asset=a,node=plc,quality_class=good,tag=a/x value=1 1700000000000000000\n" +
				"x,asset=b,node=plc,quality_class=uncertain,tag=b/x value=2 1700000000000000000\n" +
				"x,asset=c,node=plc,quality_class=bad,tag=c/x value=3 1700000000000000000\n" +
				"x,asset=d,node=plc,quality_class=bad,tag=d/x value=4 1700000000000000000\n"},
		"a row without any field is dropped": {func(c *Config) { c.Fields = []string{"value"} },
			[]reading{{t0, "a/x", nil, 0}, {t0 + 1, "a/x", math.Copysign(0, -1), 0}},
			"x,asset=a,node=plc,tag=a/x value=-0 1700000000000000001\n"},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := DefaultConfig()
			if c.change != nil {
				c.change(&cfg)
			}
			e := newEncoder(cfg)
			e.series.tags = pipeline.NewTags(rules)
			rec := readings(t, mem, "plc", c.rows...)
			defer rec.Release()
			require.NoError(t, e.append(rec))
			require.Equal(t, c.want, string(e.buf))
			d := lineprotocol.NewDecoderWithBytes(e.buf)
			n := 0
			for d.Next() {
				n++
			}
			require.Equal(t, len(e.ends), n)
		})
	}
}

func TestAlertEvents(t *testing.T) {
	b := array.NewRecordBuilder(memory.DefaultAllocator, pipeline.WithNode(pipeline.AlertEvents, "vibration_high"))
	defer b.Release()
	b.Field(0).(*array.TimestampBuilder).Append(t0)
	require.NoError(t, b.Field(1).(*array.BinaryDictionaryBuilder).AppendString("p/1/x"))
	for i, s := range []string{"A1", "vibration_high", "p/1", "warning", "raised"} {
		b.Field(2 + i).(*array.StringBuilder).Append(s)
	}
	b.Field(7).AppendNull()
	b.Field(8).(*array.Float64Builder).Append(6)
	b.Field(9).(*array.TimestampBuilder).Append(t0)
	b.Field(10).(*array.StringBuilder).Append("too high")
	rec := b.NewRecord()
	defer rec.Release()
	e := newEncoder(DefaultConfig())
	require.NoError(t, e.append(rec))
	require.Equal(t, `x,asset=p/1,node=vibration_high,tag=p/1/x id="A1",rule="vibration_high",severity="warning",state="raised",limit=6,raised=1700000000000000000i,message="too high" 1700000000000000000`+"\n",
		string(e.buf))
}

func TestEveryColumnType(t *testing.T) {
	mem := memory.NewCheckedAllocator(memory.DefaultAllocator)
	defer mem.AssertSize(t, 0)
	schema := arrow.NewSchema([]arrow.Field{
		{Name: "time", Type: pipeline.TimeType},
		{Name: "asset", Type: pipeline.TagType},
		{Name: "f 32", Type: arrow.PrimitiveTypes.Float32}, {Name: "i64", Type: arrow.PrimitiveTypes.Int64}, {Name: "i32", Type: arrow.PrimitiveTypes.Int32},
		{Name: "i16", Type: arrow.PrimitiveTypes.Int16}, {Name: "i8", Type: arrow.PrimitiveTypes.Int8}, {Name: "u64", Type: arrow.PrimitiveTypes.Uint64},
		{Name: "u16", Type: arrow.PrimitiveTypes.Uint16}, {Name: "u8", Type: arrow.PrimitiveTypes.Uint8}, {Name: "ok", Type: arrow.FixedWidthTypes.Boolean, Nullable: true},
		{Name: "state", Type: pipeline.TagType}, {Name: "raised", Type: pipeline.TimeType}, {Name: "samples", Type: arrow.ListOf(arrow.PrimitiveTypes.Float32)},
	}, nil)
	rec, _, err := array.RecordFromJSON(mem, schema, strings.NewReader(`[
		{"time": 1, "asset": "p/1", "f 32": 0.5, "i64": -7, "i32": 1, "i16": 2, "i8": 3, "u64": 9223372036854774784, "u16": 4, "u8": 5, "ok": true, "state": "on", "raised": 9, "samples": [1]},
		{"time": 2, "asset": "p/1", "f 32": 1.5, "i64": -8, "i32": 1, "i16": 2, "i8": 3, "u64": 9223372036854775808, "u16": 4, "u8": 5, "ok": null, "state": "off", "raised": 9, "samples": [1]}]`))
	require.NoError(t, err)
	defer rec.Release()
	e := newEncoder(DefaultConfig())
	var left []string
	e.unfit = func(_, column string, _ arrow.DataType) { left = append(left, column) }
	const head = `1,asset=p,tag=p/1 f\ 32=`
	require.NoError(t, e.append(rec))
	require.Equal(t, head+`0.5,i64=-7i,i32=1i,i16=2i,i8=3i,u64=9223372036854774784i,u16=4i,u8=5i,ok=true,state="on",raised=9i 1`+"\n"+
		head+`1.5,i64=-8i,i32=1i,i16=2i,i8=3i,u16=4i,u8=5i,state="off",raised=9i 2`+"\n", string(e.buf))
	require.Equal(t, []string{"samples"}, left)
	require.Equal(t, 1, e.outside)

	e.reset(false) // a slice's validity and offset
	part := rec.NewSlice(1, 2)
	defer part.Release()
	require.NoError(t, e.append(part))
	require.Equal(t, head+`1.5,i64=-8i,i32=1i,i16=2i,i8=3i,u16=4i,u8=5i,state="off",raised=9i 2`+"\n", string(e.buf))
}

func TestRealServer(t *testing.T) {
	certs := testpeer.NewCerts(t, testpeer.CertOptions{})
	db := testpeer.Influx(t, testpeer.InfluxConfig{Auth: true, Certs: certs})
	cfg := configFor(db.URL)
	cfg.Token, cfg.TLS.CA, cfg.MaxLinesPerRequest = pipeline.Secret(db.Token), certs.CA, 7
	cfg.Gzip = "always"
	s := open(t, cfg, testEnv())
	ctx := context.Background()
	require.NoError(t, s.Connect(ctx))

	rec := scoredRecord(memory.DefaultAllocator, 10, 10, 17)
	defer rec.Release()
	text := readings(t, memory.DefaultAllocator, "plc", reading{t0, "a/b,c d=e", "two\nlines \"and\" \\", 0}, reading{t0, "a/null", nil, pipeline.Bad})
	defer text.Release()
	for range 2 { // the second time changes nothing
		require.NoError(t, s.WriteAll(ctx, []arrow.Record{rec, text}))
	}
	db.Restart()
	require.NoError(t, s.Write(ctx, rec)) // over a connection the server closed
	require.EqualValues(t, 100, db.Count("vibration_x", "value"))

	got := map[string]float64{}
	for _, row := range db.Query(`from(bucket: "penstock") |> range(start: 2000-01-01T00:00:00Z) |> filter(fn: (r) => r._field == "score" and r.node == "score")`) {
		got[row["tag"].(string)+row["_time"].(time.Time).String()] = row["_value"].(float64)
	}
	runs, err := pipeline.Runs(nil, rec, 1)
	require.NoError(t, err)
	want := map[string]float64{}
	for _, r := range runs {
		for i := r.Start; i < r.End; i++ {
			at := rec.Column(0).(*array.Timestamp).Value(i).ToTime(arrow.Nanosecond)
			want[r.Tag+at.String()] = rec.Column(6).(*array.Float64).Value(i)
		}
	}
	require.Equal(t, want, got)
	row := db.Query(`from(bucket: "penstock") |> range(start: 2000-01-01T00:00:00Z) |> filter(fn: (r) => r._field == "text")`)
	require.Len(t, row, 1)
	require.Equal(t, "two\nlines \"and\" \\", row[0]["_value"])
	require.Equal(t, "a/b,c d=e", row[0]["tag"])
	require.Equal(t, "b,c d=e", row[0]["_measurement"])

	for name, c := range map[string]struct {
		change func(*Config)
		want   string
		fatal  bool
	}{
		"wrong password": {func(c *Config) { c.Token = "admin:nonsense" }, "check token", false},
		"no token":       {func(c *Config) { c.Token = "" }, "check token", false},
		"wrong bucket":   {func(c *Config) { c.Bucket = "nowhere" }, `database not found: "nowhere" (check bucket`, false},
		"foreign CA":     {func(c *Config) { c.TLS.CA = "" }, "certificate", false},
		"wrong port":     {func(c *Config) { c.URL = "https://127.0.0.1:1" }, "connection refused", false},
		"plain http":     {func(c *Config) { c.URL, c.TLS = "http"+strings.TrimPrefix(c.URL, "https"), TLSConfig{} }, "HTTPS server", true},
	} {
		t.Run(name, func(t *testing.T) {
			bad := cfg
			c.change(&bad)
			err := open(t, bad, testEnv()).Connect(ctx)
			require.ErrorContains(t, err, c.want)
			require.NotContains(t, err.Error(), "secret-of-the-test")
			require.Equal(t, c.fatal, pipeline.IsPermanent(err), "%v", err)
		})
	}
	t.Run("field type conflict", func(t *testing.T) {
		db.Write("x,asset=a,node=plc,tag=a/x value=\"text\" 1700000000000000000\n")
		rec := readings(t, memory.DefaultAllocator, "plc", reading{t0, "a/x", 1.0, 0}, reading{t0, "a/y", 1.0, 0})
		defer rec.Release()
		err := s.Write(ctx, rec)
		require.True(t, pipeline.IsPermanent(err))
		require.ErrorContains(t, err, "field type conflict")
		require.EqualValues(t, 1, db.Count("y", "value"), "the point that is right is stored")
	})
	t.Run("insecure_skip_verify", func(t *testing.T) {
		loose := cfg
		loose.TLS = TLSConfig{InsecureSkipVerify: true}
		require.NoError(t, open(t, loose, testEnv()).Connect(ctx))
	})
}

func TestExpiredCertificate(t *testing.T) {
	certs := testpeer.NewCerts(t, testpeer.CertOptions{Expired: true})
	server := httptest.NewUnstartedServer(http.NotFoundHandler())
	server.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	server.TLS = certs.ServerTLS(t)
	server.StartTLS()
	defer server.Close()
	cfg := configFor(server.URL)
	cfg.TLS.CA = certs.CA
	require.ErrorContains(t, open(t, cfg, testEnv()).Connect(context.Background()), "expired")
}

func TestTooLargeIsHalved(t *testing.T) {
	var largest atomic.Int64
	server := testpeer.NullHTTP(t, func(_ *http.Request, body []byte, _ int64) int {
		n := int64(bytes.Count(body, []byte("\n")))
		if n > 10 {
			return http.StatusRequestEntityTooLarge
		}
		largest.Store(max(largest.Load(), n))
		return http.StatusNoContent
	})
	rec := scoredRecord(memory.DefaultAllocator, 3, 33, 3)
	defer rec.Release()
	for _, gzip := range []string{"never", "always"} {
		cfg := configFor(server.URL)
		cfg.Gzip = gzip
		before := server.Lines()
		require.NoError(t, open(t, cfg, testEnv()).Write(context.Background(), rec))
		require.EqualValues(t, 99, server.Lines()-before)
	}
	require.LessOrEqual(t, largest.Load(), int64(10))
}

func TestOneLineTooLargeIsPermanent(t *testing.T) {
	server := testpeer.NullHTTP(t, func(*http.Request, []byte, int64) int { return http.StatusRequestEntityTooLarge })
	rec := scoredRecord(memory.DefaultAllocator, 1, 4, 3)
	defer rec.Release()
	require.True(t, pipeline.IsPermanent(open(t, configFor(server.URL), testEnv()).Write(context.Background(), rec)))
}

func TestWhichAnswersArePermanent(t *testing.T) {
	rec := scoredRecord(memory.DefaultAllocator, 1, 1, 3)
	defer rec.Release()
	for status, permanent := range map[int]bool{301: false, 400: true, 401: false, 403: false, 404: false, 408: false, 422: true, 429: false, 500: false, 502: false, 503: false} {
		server := testpeer.NullHTTP(t, func(*http.Request, []byte, int64) int { return status })
		err := open(t, configFor(server.URL), testEnv()).Write(context.Background(), rec)
		require.Error(t, err)
		require.Equal(t, permanent, pipeline.IsPermanent(err), "%d: %v", status, err)
	}
}

func TestRetryAfterIsHonoured(t *testing.T) {
	p := &poster{where: "test"}
	for header, want := range map[string]time.Duration{"": 0, "7": 7 * time.Second, "-1": 0, "nonsense": 0, "99999999": maxRetryAfter} {
		require.Equal(t, want, retryAfter(header), header)
	}
	synctest.Test(t, func(t *testing.T) {
		require.InDelta(t, 90, retryAfter(time.Now().Add(90*time.Second).UTC().Format(http.TimeFormat)).Seconds(), 1)
		start := time.Now()
		p.notBefore = start.Add(7 * time.Second)
		require.NoError(t, p.wait(t.Context()))
		require.Equal(t, 7*time.Second, time.Since(start))
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		p.notBefore = time.Now().Add(time.Hour)
		require.ErrorIs(t, p.wait(ctx), context.DeadlineExceeded)
	})
}

func TestWhatCannotBeStoredIsCounted(t *testing.T) {
	server := testpeer.NullHTTP(t, nil)
	cfg := configFor(server.URL)
	cfg.Fields = []string{"value"}
	env := testEnv()
	s := open(t, cfg, env)
	rec := readings(t, memory.DefaultAllocator, "plc", reading{t0, "a/x", nil, 0}, reading{t0, "a/y", math.NaN(), 0}, reading{t0, "a/z", 1.0, 0})
	defer rec.Release()
	require.NoError(t, s.Write(context.Background(), rec))
	require.EqualValues(t, 1, server.Lines())
	require.EqualValues(t, 2, env.Meter.Totals().DroppedAt["influx"]["no_fields"])
	families, err := env.Meter.Registry().Gather()
	require.NoError(t, err)
	nan := 0.0
	for _, f := range families {
		if f.GetName() == "penstock_influxdb_skipped_fields_total" {
			nan = f.GetMetric()[0].GetCounter().GetValue()
		}
	}
	require.Equal(t, 1.0, nan)
}

func TestWrongRecordsArePermanent(t *testing.T) {
	server := testpeer.NullHTTP(t, nil)
	s := open(t, configFor(server.URL), testEnv())
	b := array.NewRecordBuilder(memory.DefaultAllocator, arrow.NewSchema([]arrow.Field{{Name: "value", Type: arrow.PrimitiveTypes.Float64}}, nil))
	defer b.Release()
	b.Field(0).(*array.Float64Builder).Append(1)
	rec := b.NewRecord()
	defer rec.Release()
	err := s.Write(context.Background(), rec)
	require.True(t, pipeline.IsPermanent(err))
	require.ErrorContains(t, err, `no column "time"`)
	require.Zero(t, server.Requests())
}

func TestGzipIsForOtherMachines(t *testing.T) {
	for url, want := range map[string]bool{"http://127.0.0.1:8086": false, "http://localhost:8086": false, "https://[::1]:8086": false, "https://influx.example:8086": true} {
		p, err := newPoster(configFor(url))
		require.NoError(t, err)
		require.Equal(t, want, p.gz != nil, url)
	}
}

func TestConfigProblems(t *testing.T) {
	cfg := DefaultConfig()
	cfg.URL, cfg.Gzip, cfg.Timeout, cfg.MaxLinesPerRequest, cfg.Measurement = "http://user:pw@host:8086", "on", 0, 0, "{meas}"
	cfg.Tags = map[string]string{"_field": "x"}
	cfg.Fields = []string{"value", "time"}
	cfg.TLS = TLSConfig{CA: "/nowhere.pem", Cert: "c.pem"}
	p := pipeline.NewProblems()
	cfg.Validate(p)
	var at []string
	for _, problem := range p.All() {
		at = append(at, problem.Path)
		require.NotEmpty(t, problem.Hint)
	}
	require.ElementsMatch(t, []string{"url", "bucket", "gzip", "timeout", "max_lines_per_request", "measurement", "tags._field", "fields[1]", "tls"}, at)
}

// BenchmarkWrite includes the server's side of the loopback, which unpacks and
// counts.
func BenchmarkWrite(b *testing.B) {
	rec := scoredRecord(memory.DefaultAllocator, 1000, 10, 3)
	defer rec.Release()
	for name, gzip := range map[string]string{"plain": "never", "gzip": "always"} {
		b.Run(name, func(b *testing.B) {
			var wire atomic.Int64
			server := testpeer.NullHTTP(b, func(r *http.Request, _ []byte, _ int64) int {
				wire.Add(r.ContentLength)
				return http.StatusNoContent
			})
			cfg := configFor(server.URL)
			cfg.Gzip = gzip
			s, err := New(cfg, testEnv())
			require.NoError(b, err)
			defer s.Close(context.Background())
			for b.Loop() {
				if err := s.Write(context.Background(), rec); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/10_000, "ns/row")
			b.ReportMetric(float64(wire.Load())/float64(server.Lines()), "B/row")
			b.ReportMetric(0, "ns/op")
		})
	}
}
