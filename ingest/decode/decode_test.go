package decode

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/apache/arrow/go/v17/arrow/array"
	"github.com/apache/arrow/go/v17/arrow/memory"
	"github.com/buger/jsonparser"
	"github.com/stretchr/testify/require"
	"github.com/valyala/fastjson"

	"github.com/penstock/penstock/ingest"
	"github.com/penstock/penstock/pipeline"
)

const arrival = int64(1_800_000_000_123_456_789)

func batcher(mem memory.Allocator) *ingest.Batcher {
	cfg := ingest.DefaultBatch()
	cfg.MaxFuture, cfg.MaxPast = 0, 0
	return ingest.NewBatcher(cfg, pipeline.Env{Name: "t", Alloc: mem, Shards: 1})
}

// rows prints a batch, one line per row: tag, time, value or text, quality.
func rows(t *testing.T, b *ingest.Batcher) []string {
	t.Helper()
	var out []string
	for _, bt := range b.Flush(nil) {
		rec := bt.Record
		runs, err := pipeline.Runs(nil, rec, pipeline.ColTag)
		require.NoError(t, err)
		for _, run := range runs {
			for i := run.Start; i < run.End; i++ {
				v := "null"
				if c := rec.Column(pipeline.ColValue).(*array.Float64); c.IsValid(i) {
					v = fmt.Sprint(c.Value(i))
				}
				if c := rec.Column(pipeline.ColText).(*array.String); c.IsValid(i) {
					v = fmt.Sprintf("%q", c.Value(i))
				}
				at := int64(rec.Column(pipeline.ColTime).(*array.Timestamp).Value(i))
				when := fmt.Sprint(at)
				if at == arrival {
					when = "now"
				}
				out = append(out, fmt.Sprintf("%s %s %s %x", run.Tag, when, v, rec.Column(pipeline.ColQuality).(*array.Uint32).Value(i)))
			}
		}
		rec.Release()
	}
	return out
}

func TestDecode(t *testing.T) {
	timed := Config{Value: "v", Time: "ts"}
	format := func(f string) Config { c := timed; c.TimeFormat = f; return c }
	quality := Config{Value: "v", Quality: "q"}
	each := Config{Each: "data", Value: "v", Tag: "n", Time: "$.ts"}
	for _, c := range []struct {
		name    string
		cfg     Config
		payload string
		want    []string
		err     string
	}{
		{"default", Config{}, `{"value": 12.34}`, []string{"T now 12.34 0"}, ""},
		{"bare number", Config{Value: "$"}, ` 12.5 `, []string{"T now 12.5 0"}, ""},
		{"nested", Config{Value: "$.a.b"}, `{"x":[1,{"a":2}],"a":{"c":null,"b":-1e3}}`, []string{"T now -1000 0"}, ""},
		{"array position", Config{Value: "a.1"}, `{"a":[1,2,3]}`, []string{"T now 2 0"}, ""},
		{"dotted key", Config{Value: `a\.b`}, `{"a.b":1}`, []string{"T now 1 0"}, ""},
		{"escaped key", Config{Value: "ü\""}, `{"\u00fc\"":1}`, []string{"T now 1 0"}, ""},
		{"17 digits", Config{}, `{"value":0.12345678901234566}`, []string{"T now 0.12345678901234566 0"}, ""},
		{"true", Config{}, `{"value":true}`, []string{"T now 1 0"}, ""},
		{"false", Config{}, `{"value":false}`, []string{"T now 0 0"}, ""},
		{"string stays text", Config{}, `{"value":"12.5"}`, []string{`T now "12.5" 0`}, ""},
		{"escapes in text", Config{}, `{"value":"a\n\u20ac\ud83d\ude00\ud800"}`, []string{`T now "a\n€😀�" 0`}, ""},
		{"null", Config{}, `{"value":null}`, []string{"T now null 809b0000"}, ""},
		{"null keeps a bad quality", quality, `{"v":null,"q":"bad"}`, []string{"T now null 80000000"}, ""},
		{"quality code", quality, `{"v":1,"q":2156658688}`, []string{"T now 1 808c0000"}, ""},
		{"quality word", quality, `{"v":1,"q":"Uncertain"}`, []string{"T now 1 40000000"}, ""},
		{"quality bool", quality, `{"v":1,"q":false}`, []string{"T now 1 80000000"}, ""},
		{"quality absent", quality, `{"v":1}`, []string{"T now 1 0"}, ""},
		{"quality wrong", quality, `{"v":1,"q":"so-so"}`, nil, `byte 12: expected an OPC UA status code, good, uncertain, bad or a boolean at "q", found so-so`},
		{"quality negative", quality, `{"v":1,"q":-1}`, nil, "byte 11: expected an OPC UA status code"},

		{"auto s", timed, `{"v":1,"ts":1700000000}`, []string{"T 1700000000000000000 1 0"}, ""},
		{"auto s with fraction", timed, `{"v":1,"ts":1700000000.123456789}`, []string{"T 1700000000123456789 1 0"}, ""},
		{"auto ms", timed, `{"v":1,"ts":1700000000123}`, []string{"T 1700000000123000000 1 0"}, ""},
		{"auto us", timed, `{"v":1,"ts":1700000000123456}`, []string{"T 1700000000123456000 1 0"}, ""},
		{"auto ns", timed, `{"v":1,"ts":1700000000123456789}`, []string{"T 1700000000123456789 1 0"}, ""},
		{"auto 1970", timed, `{"v":1,"ts":0}`, []string{"T 0 1 0"}, ""},
		{"auto RFC 3339", timed, `{"v":1,"ts":"2023-11-14T23:13:20.5+01:00"}`, []string{"T 1700000000500000000 1 0"}, ""},
		{"auto takes no numeric string", timed, `{"v":1,"ts":"1700000000"}`, nil, `byte 13: expected a number since 1970 or a time like 2026-01-31T12:00:00.5Z at "ts", found a string 1700000000`},
		{"no zone", timed, `{"v":1,"ts":"2023-11-14T23:13:20"}`, nil, "byte 13: expected a number since 1970 or a time like"},
		{"ms as string", format("ms"), `{"v":1,"ts":"1700000000123.5"}`, []string{"T 1700000000123500000 1 0"}, ""},
		{"exponent", format("s"), `{"v":1,"ts":1.7e9}`, []string{"T 1700000000000000000 1 0"}, ""},
		{"negative", format("s"), `{"v":1,"ts":-1.5}`, []string{"T -1500000000 1 0"}, ""},
		{"ns", format("ns"), `{"v":1,"ts":5.9}`, []string{"T 5 1 0"}, ""},
		{"s too large", format("s"), `{"v":1,"ts":1700000000123}`, nil, "byte 12: expected a time between 1677 and 2262 at \"ts\" (time_format s), found 1700000000123"},
		{"time too large", timed, `{"v":1,"ts":99999999999999999999999}`, nil, "byte 12: expected a time between 1677 and 2262"},
		{"rfc3339 takes no number", format("rfc3339"), `{"v":1,"ts":1700000000}`, nil, "expected a time like"},
		{"year 9999", timed, `{"v":1,"ts":"9999-01-01T00:00:00Z"}`, nil, "expected a time between 1677 and 2262"},
		{"time absent", timed, `{"v":1}`, []string{"T now 1 0"}, ""},
		{"time null", timed, `{"v":1,"ts":null}`, []string{"T now 1 0"}, ""},
		{"time an object", timed, `{"v":1,"ts":{}}`, nil, "found an object"},

		{"each", each, `{"data":[{"n":"a","v":1},{"v":"x","n":"b\t"}],"ts":1700000000}`,
			[]string{"T/a 1700000000000000000 1 0", "T/b\t 1700000000000000000 \"x\" 0"}, ""},
		{"each empty", each, `{"data":[]}`, nil, ""},
		{"each absent", each, `{"ts":1}`, nil, `byte 0: expected an array of readings at "data", found nothing`},
		{"each no array", each, `{"data":{}}`, nil, "byte 8: expected an array of readings, found an object"},
		{"each one broken", each, `{"data":[{"n":"a","v":1},{"n":"b"}]}`, nil, `byte 25: expected a value at "v", found nothing`},
		{"each no tag", each, `{"data":[{"v":1}]}`, nil, `byte 9: expected a string, the tag, at "n", found nothing`},
		{"each long tag", each, `{"data":[{"v":1,"n":"` + strings.Repeat("x", 513) + `"}]}`, nil, "expected a tag of 1 to 512 bytes"},
		{"each at the root", Config{Each: "$", Time: "0", Value: "1"}, `[[1,5],[2,6]]`, []string{"T 1000000000 5 0", "T 2000000000 6 0"}, ""},
		{"each bare", Config{Each: "a.b", Value: "."}, `{"a":{"b":[1,2]}}`, []string{"T now 1 0", "T now 2 0"}, ""},
		{"own time before the message's", Config{Each: "d", Value: "v", Time: "t"}, `{"d":[{"v":1,"t":1},{"v":2}]}`, []string{"T 1000000000 1 0", "T now 2 0"}, ""},

		{"fields", Config{Fields: []string{"*"}, Time: "ts", Quality: "m.q"},
			`{"ts":1,"temp":20.5,"on":true,"mode":"auto","m":{"q":"bad","x":1},"arr":[1,2],"none":null}`,
			[]string{"T/temp 1000000000 20.5 80000000", "T/on 1000000000 1 80000000", "T/mode 1000000000 \"auto\" 80000000", "T/m/x 1000000000 1 80000000", "T/none 1000000000 null 80000000"}, ""},
		{"fields listed", Config{Fields: []string{"a", "b.c"}}, `{"a":1,"b":{"c":2,"d":3},"c":4}`, []string{"T/a now 1 0", "T/b/c now 2 0"}, ""},
		{"fields of each", Config{Each: "$", Fields: []string{"*"}, Time: "t"}, `[{"t":1,"a":1},{"t":2,"a":2,"b":3}]`,
			[]string{"T/a 1000000000 1 0", "T/a 2000000000 2 0", "T/b 2000000000 3 0"}, ""},
		{"fields of a number", Config{Fields: []string{"*"}}, `5`, nil, "byte 0: expected an object of fields, found a number"},

		{"no value", Config{}, `{"val":1}`, nil, `byte 0: expected a value at "value", found nothing`},
		{"value an array", Config{}, `{"value":[1]}`, nil, "byte 9: expected a number, boolean, string or null as the value, found an array"},
		{"overflow", Config{}, `{"value":1e999}`, nil, "byte 9: expected a number that fits 64 bits, found 1e999"},
		{"NaN", Config{}, `{"value":NaN}`, nil, `byte 9: expected a value, found "NaN", which is not JSON: send null`},
		{"-Infinity", Config{}, `{"value":-Infinity}`, nil, `byte 9: expected a number, found "-Infinity", which is not JSON`},
		{"NaN string", Config{}, `{"value":"NaN"}`, nil, `byte 10: expected a value, found the string "NaN": send null`},
		{"-inf string", Config{}, `{"value":"-inf"}`, nil, "send null"},
		{"empty", Config{}, ``, nil, "byte 0: expected JSON, found an empty payload"},
		{"cut off", Config{}, `{"value": 1`, nil, `byte 11: expected "," or "}", found the end of the payload`},
		{"trailing", Config{}, `{"value":1} x`, nil, `byte 12: expected the end of the payload, found "x"`},
		{"not JSON", Config{}, `temp=5`, nil, `byte 0: expected a value, found "temp=5"`},
		{"binary", Config{}, "\xff\x00", nil, "byte 0: expected a value, found \"\\xff\""},
		{"leading zero", Config{}, `{"value":01}`, nil, `byte 10: expected "," or "}", found "1"`},
		{"deep", Config{}, strings.Repeat("[", 1000) + strings.Repeat("]", 1000), nil, "byte 64: expected at most 64 levels of nesting"},
		{"control character", Config{}, "{\"value\":\"a\nb\"}", nil, "byte 11: expected control characters"},
		{"bad escape", Config{}, `{"value":"\x"}`, nil, "byte 11: expected an escape"},
		{"open string", Config{}, `{"value":"abc`, nil, "byte 13: expected the end of the string that starts at byte 9"},
		{"too many", Config{Each: "$", Value: "."}, "[" + strings.Repeat("1,", maxReadings) + "1]", nil, "expected at most 65536 readings"},
	} {
		t.Run(c.name, func(t *testing.T) {
			mem := memory.NewCheckedAllocator(memory.NewGoAllocator())
			defer mem.AssertSize(t, 0)
			b := batcher(mem)
			d, err := New(c.cfg)
			require.NoError(t, err)
			to := NewTarget(b, "T")
			if c.cfg.Named() {
				to = NewNamedTarget("T/", "")
			}
			n, err := d.Decode(b, to, []byte(c.payload), arrival)
			if c.err != "" {
				require.ErrorContains(t, err, c.err)
				var e *Error
				require.True(t, errors.As(err, &e))
				require.Zero(t, n)
				require.Zero(t, b.Len(), "a broken message adds no rows")
				return
			}
			require.NoError(t, err)
			require.Len(t, c.want, n)
			require.Equal(t, c.want, rows(t, b))
		})
	}
}

func TestTimeMissingDrop(t *testing.T) {
	d, err := New(Config{Each: "$", Value: "v", Time: "t", TimeMissing: "drop"})
	require.NoError(t, err)
	b := batcher(memory.NewGoAllocator())
	n, err := d.Decode(b, NewTarget(b, "T"), []byte(`[{"v":1},{"v":2,"t":3}]`), arrival)
	require.NoError(t, err)
	require.Equal(t, 1, n)
	require.Equal(t, 1, d.NoTime)
	require.Equal(t, []string{"T 3000000000 2 0"}, rows(t, b))
}

func TestTagLimit(t *testing.T) {
	cfg := ingest.DefaultBatch()
	cfg.MaxTags = 2
	b := ingest.NewBatcher(cfg, pipeline.Env{Name: "t", Shards: 1})
	d, err := New(Config{Fields: []string{"*"}})
	require.NoError(t, err)
	to := NewNamedTarget("", "")
	for i := range 100 {
		_, err := d.Decode(b, to, fmt.Appendf(nil, `{"f%d":1}`, i), time.Now().UnixNano())
		require.NoError(t, err)
	}
	require.Equal(t, 2, b.Len())
	require.Len(t, to.names, 2, "names beyond the limit are not kept")
}

func TestValidate(t *testing.T) {
	c := Config{Format: "xml", Value: "a..b", Fields: []string{"*", "x", "$.y"}, Tag: "n", TimeFormat: "minutes", TimeMissing: "guess", Each: "."}
	p := pipeline.NewProblems()
	c.Validate(p)
	var got []string
	for _, x := range p.All() {
		require.NotEmpty(t, x.Hint)
		got = append(got, x.Path)
	}
	require.Equal(t, []string{"format", "time_format", "time_missing", "value", "tag", "value", "fields[0]", "fields[2]"}, got)
	_, err := New(c)
	require.Error(t, err)

	p = pipeline.NewProblems()
	d := DefaultConfig()
	d.Validate(p)
	require.Empty(t, p.All())
}

var decoders = []Config{
	{Value: "v", Time: "ts", Quality: "q"},
	{Each: "d", Value: "v", Tag: "n", Time: "$.ts", Quality: "q"},
	{Each: "$", Fields: []string{"*"}, Time: "ts", TimeFormat: "s"},
	{Fields: []string{"a", "b.c"}, Time: "ts", TimeFormat: "ns"},
	{Value: "0.1"},
	{Value: "$"},
}

// FuzzDecode: no payload panics, what is no JSON is refused, what is refused
// adds nothing, and a bare value decodes to what encoding/json makes of it.
func FuzzDecode(f *testing.F) {
	for _, s := range []string{`{"v":1,"ts":1700000000,"q":"bad"}`, `{"d":[{"n":"a","v":true}],"ts":"2024-01-01T00:00:00Z"}`, `[{"a":1,"ts":"5"},{"b":{"c":"\u00e4"}}]`,
		`[[1,-0.5e+3]]`, `"\ud83d\ude00"`, `NaN`, `{"a":{"b":[{}]}}`, `{"v":1e400}`, ` 12 `, `{"v":-}`, `"\u12`, `{"\\":1}`} {
		f.Add([]byte(s))
	}
	b := batcher(memory.NewGoAllocator())
	var ds []*Decoder
	for _, c := range decoders {
		d, err := New(c)
		require.NoError(f, err)
		ds = append(ds, d)
	}
	f.Fuzz(func(t *testing.T, payload []byte) {
		valid := json.Valid(payload)
		for i, d := range ds {
			to := NewTarget(b, "T")
			if d.cfg.Named() {
				to = NewNamedTarget("T/", "")
			}
			before := b.Len()
			n, err := d.Decode(b, to, payload, arrival)
			if err == nil && !valid {
				t.Fatalf("decoder %d took what is no JSON: %q", i, payload)
			}
			if b.Len() != before+n {
				t.Fatalf("decoder %d returned %d and added %d rows", i, n, b.Len()-before)
			}
		}
		s := scanner{}
		if err := s.scan(payload, nil, true); (err == nil) != valid {
			if valid && strings.Contains(err.Error(), "levels of nesting") {
				return
			}
			t.Fatalf("scan says %v, encoding/json says valid=%v: %q", err, valid, payload)
		}
		for _, batch := range b.Flush(nil) {
			batch.Record.Release()
		}
		var want any
		if valid && json.Unmarshal(payload, &want) == nil {
			if _, err := ds[len(ds)-1].Decode(b, NewTarget(b, "T"), payload, arrival); err == nil {
				for _, batch := range b.Flush(nil) {
					check(t, want, batch)
					batch.Record.Release()
				}
			}
		}
	})
}

func check(t *testing.T, want any, batch pipeline.Batch) {
	v, s := batch.Record.Column(pipeline.ColValue).(*array.Float64), batch.Record.Column(pipeline.ColText).(*array.String)
	switch w := want.(type) {
	case float64:
		if math.Float64bits(v.Value(0)) != math.Float64bits(w) {
			t.Fatalf("got %v, want %v", v.Value(0), w)
		}
	case string:
		if got, w := strings.ToValidUTF8(s.Value(0), "\uFFFD"), w; got != w && !strings.Contains(w, "\uFFFD") {
			t.Fatalf("got %q, want %q", got, w)
		}
	case bool:
		if (v.Value(0) == 1) != w {
			t.Fatalf("got %v, want %v", v.Value(0), w)
		}
	case nil:
		if v.IsValid(0) {
			t.Fatalf("got %v, want null", v.Value(0))
		}
	}
}

func TestDecodeAllocatesNothing(t *testing.T) {
	b := batcher(memory.NewGoAllocator())
	d, err := New(Config{Each: "d", Value: "v", Tag: "n", Time: "$.ts"})
	require.NoError(t, err)
	to := NewNamedTarget("T/", "")
	payload := []byte(`{"d":[{"n":"a\n","v":1},{"n":"b","v":null}],"ts":"2024-01-01T00:00:00Z"}`)
	run := func() {
		for range 100 {
			if _, err := d.Decode(b, to, payload, arrival); err != nil {
				t.Fatal(err)
			}
		}
	}
	run()
	run()
	run()
	for _, x := range b.Flush(nil) {
		x.Record.Release()
	}
	require.Zero(t, testing.AllocsPerRun(1, run))
}

var single = []byte(`{"value": 12.34, "ts": 1700000000000}`)

func BenchmarkDecodeSingle(b *testing.B) {
	bt := batcher(memory.NewGoAllocator())
	d, err := New(Config{Value: "value", Time: "ts"})
	require.NoError(b, err)
	to := NewTarget(bt, "T")
	warm(b, bt, func() { _, err = d.Decode(bt, to, single, arrival) })
	require.NoError(b, err)
}

// The peers parse and convert only; they append the row like the decoder.
func BenchmarkFastjsonSingle(b *testing.B) {
	bt := batcher(memory.NewGoAllocator())
	id := bt.Tag("T")
	var p fastjson.Parser
	warm(b, bt, func() {
		v, err := p.ParseBytes(single)
		if err != nil {
			b.Fatal(err)
		}
		bt.Append(id, v.GetInt64("ts")*1e6, v.GetFloat64("value"), 0, arrival)
	})
}

func BenchmarkJsonparserSingle(b *testing.B) {
	bt := batcher(memory.NewGoAllocator())
	id := bt.Tag("T")
	warm(b, bt, func() {
		v, err := jsonparser.GetFloat(single, "value")
		ts, err2 := jsonparser.GetInt(single, "ts")
		if err != nil || err2 != nil {
			b.Fatal(err, err2)
		}
		bt.Append(id, ts*1e6, v, 0, arrival)
	})
}

func BenchmarkDecodeArray100(b *testing.B) {
	bt := batcher(memory.NewGoAllocator())
	d, err := New(Config{Each: "r", Value: "v", Time: "t", Tag: "n"})
	require.NoError(b, err)
	var s strings.Builder
	s.WriteString(`{"r":[`)
	for i := range 100 {
		if i > 0 {
			s.WriteByte(',')
		}
		fmt.Fprintf(&s, `{"n":"tag%d","t":1700000000000,"v":%d.5}`, i, i)
	}
	s.WriteString("]}")
	payload := []byte(s.String())
	to := NewNamedTarget("T/", "")
	warm(b, bt, func() { _, err = d.Decode(bt, to, payload, arrival) })
	require.NoError(b, err)
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/100, "ns/reading")
}

// warm runs f with a batcher whose buffers have grown, flushing out of the
// measurement.
func warm(b *testing.B, bt *ingest.Batcher, f func()) {
	b.ReportAllocs()
	flush := func() {
		for _, x := range bt.Flush(nil) {
			x.Record.Release()
		}
	}
	for bt.Len() < 20000 {
		f()
	}
	flush()
	for b.Loop() {
		f()
		if bt.Len() > 15000 {
			b.StopTimer()
			flush()
			b.StartTimer()
		}
	}
}
