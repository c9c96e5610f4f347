package console

import (
	"bytes"
	"context"
	"encoding/json"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/apache/arrow/go/v17/arrow"
	"github.com/apache/arrow/go/v17/arrow/array"
	"github.com/apache/arrow/go/v17/arrow/memory"
	"github.com/stretchr/testify/require"

	"github.com/penstock/penstock/pipeline"
)

func record(mem memory.Allocator, n int) arrow.Record {
	b := array.NewRecordBuilder(mem, pipeline.WithNode(pipeline.Readings, "plc"))
	defer b.Release()
	at := time.Date(2026, 5, 4, 13, 0, 0, 250e6, time.UTC)
	for i := range n {
		b.Field(0).(*array.TimestampBuilder).Append(arrow.Timestamp(at.Add(time.Duration(i) * time.Second).UnixNano()))
		_ = b.Field(1).(*array.BinaryDictionaryBuilder).AppendString("a/\x1b[31mx")
		switch i {
		case 0:
			b.Field(2).(*array.Float64Builder).Append(1.23456789)
			b.Field(3).AppendNull()
			b.Field(4).(*array.Uint32Builder).Append(0)
		case 1:
			b.Field(2).(*array.Float64Builder).Append(math.NaN())
			b.Field(3).AppendNull()
			b.Field(4).(*array.Uint32Builder).Append(pipeline.BadSensor)
		default:
			b.Field(2).AppendNull()
			b.Field(3).(*array.StringBuilder).Append("say \"hi\"\n")
			b.Field(4).(*array.Uint32Builder).Append(pipeline.Uncertain)
		}
		b.Field(5).(*array.TimestampBuilder).Append(arrow.Timestamp(at.UnixNano()))
	}
	return b.NewRecord()
}

func open(t *testing.T, cfg Config) (*Sink, *bytes.Buffer, *time.Time) {
	t.Helper()
	s, err := New(cfg, pipeline.Env{Name: "console"})
	require.NoError(t, err)
	var out bytes.Buffer
	clock := time.Unix(1000, 0)
	s.out, s.now = &out, func() time.Time { return clock }
	require.NoError(t, s.Connect(context.Background()))
	return s, &out, &clock
}

func TestText(t *testing.T) {
	mem := memory.NewCheckedAllocator(memory.DefaultAllocator)
	defer mem.AssertSize(t, 0)
	s, out, _ := open(t, DefaultConfig())
	rec := record(mem, 3)
	defer rec.Release()
	require.NoError(t, s.Write(context.Background(), rec))
	require.Equal(t, "13:00:00.250 plc a/�[31mx value=1.23457 quality=Good received=13:00:00.250\n"+
		"13:00:01.250 plc a/�[31mx value=NaN quality=Bad(0x808C0000) received=13:00:00.250\n"+
		"13:00:02.250 plc a/�[31mx text=\"say \\\"hi\\\"\\n\" quality=Uncertain(0x40000000) received=13:00:00.250\n", out.String())
}

func TestJSONAndColumns(t *testing.T) {
	cfg := DefaultConfig()
	cfg.Format, cfg.Columns = "json", []string{"value", "time", "text"}
	s, out, _ := open(t, cfg)
	rec := record(memory.DefaultAllocator, 3)
	defer rec.Release()
	require.NoError(t, s.Write(context.Background(), rec))
	require.Equal(t, `{"node":"plc","value":1.23456789,"time":"2026-05-04T13:00:00.25Z","text":null}
{"node":"plc","value":null,"time":"2026-05-04T13:00:01.25Z","text":null}
{"node":"plc","value":null,"time":"2026-05-04T13:00:02.25Z","text":"say \"hi\"\n"}
`, out.String())
	cfg.Columns = nil
	s, out, _ = open(t, cfg)
	require.NoError(t, s.Write(context.Background(), rec))
	for line := range strings.Lines(out.String()) {
		var v map[string]any
		require.NoError(t, json.Unmarshal([]byte(line), &v))
		require.Len(t, v, 7)
	}
}

func TestLimitTellsWhatItHides(t *testing.T) {
	for format, word := range map[string]string{"text": "… 25 rows not shown", "json": `{"not_shown":25}`} {
		cfg := DefaultConfig()
		cfg.Format, cfg.MaxRowsPerSecond = format, 5
		s, out, clock := open(t, cfg)
		rec := record(memory.DefaultAllocator, 10)
		defer rec.Release()
		ctx := context.Background()
		for range 3 {
			require.NoError(t, s.Write(ctx, rec))
		}
		require.Equal(t, 5, strings.Count(out.String(), "\n"))
		*clock = clock.Add(time.Second)
		out.Reset()
		require.NoError(t, s.Write(ctx, rec))
		require.True(t, strings.HasPrefix(out.String(), word+"\n"), out.String())
		require.Equal(t, 6, strings.Count(out.String(), "\n"))
		out.Reset()
		require.NoError(t, s.Close(ctx))
		require.Equal(t, strings.Replace(word, "25", "5", 1)+"\n", out.String())
	}
}

func TestUnlimitedAndOddColumns(t *testing.T) {
	cfg := DefaultConfig()
	cfg.MaxRowsPerSecond, cfg.Format = 0, "json"
	s, out, _ := open(t, cfg)
	schema := arrow.NewSchema([]arrow.Field{{Name: "flag", Type: arrow.FixedWidthTypes.Boolean}, {Name: "samples", Type: arrow.ListOf(arrow.PrimitiveTypes.Float32)}}, nil)
	rec, _, err := array.RecordFromJSON(memory.DefaultAllocator, schema, strings.NewReader(`[{"flag": true, "samples": [1, 2.5]}]`))
	require.NoError(t, err)
	defer rec.Release()
	require.NoError(t, s.Write(context.Background(), rec))
	require.Equal(t, `{"flag":true,"samples":[1,2.5]}`+"\n", out.String())
}
