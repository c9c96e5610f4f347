package replay

import (
	"bytes"
	"compress/gzip"
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/apache/arrow/go/v17/arrow"
	"github.com/apache/arrow/go/v17/arrow/array"
	"github.com/apache/arrow/go/v17/arrow/ipc"
	"github.com/apache/arrow/go/v17/arrow/memory"
	"github.com/apache/arrow/go/v17/parquet"
	"github.com/apache/arrow/go/v17/parquet/pqarrow"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/penstock/penstock/ingest"
	"github.com/penstock/penstock/pipeline"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// harness is a source under test with what it logged and counted.
type harness struct {
	*Source
	t     *testing.T
	log   bytes.Buffer
	meter *pipeline.Meter
}

func start(t *testing.T, change func(c *Config)) *harness {
	t.Helper()
	h, err := try(t, change)
	require.NoError(t, err)
	return h
}

func try(t *testing.T, change func(c *Config)) (*harness, error) {
	t.Helper()
	cfg := DefaultConfig()
	cfg.Speed = 0
	change(&cfg)
	p := pipeline.NewProblems()
	cfg.Validate(p)
	require.Empty(t, p.All())
	return connect(t, cfg, memory.NewCheckedAllocator(memory.DefaultAllocator))
}

func connect(t *testing.T, cfg Config, alloc memory.Allocator) (*harness, error) {
	t.Helper()
	h := &harness{t: t, meter: pipeline.NewMeter()}
	s, err := New(cfg, pipeline.Env{Name: "file", Log: slog.New(slog.NewTextHandler(&h.log, nil)), Meter: h.meter, Alloc: alloc, Shards: 1})
	require.NoError(t, err)
	h.Source = s
	t.Cleanup(func() {
		require.NoError(t, s.Close(context.Background()))
		if checked, ok := alloc.(*memory.CheckedAllocator); ok {
			checked.AssertSize(t, 0)
		}
	})
	return h, s.Connect(context.Background())
}

// all reads to the end and returns the rows as text.
func (h *harness) all() []string {
	h.t.Helper()
	rows, err := h.some(1 << 30)
	require.Equal(h.t, io.EOF, err)
	return rows
}

func (h *harness) some(most int) (rows []string, err error) {
	for len(rows) < most {
		b, ack, err := h.Read(context.Background())
		if err != nil {
			return rows, err
		}
		ack(nil)
		if b.Record == nil {
			continue
		}
		rows = append(rows, format(h.t, b.Record)...)
		b.Record.Release()
	}
	return rows, nil
}

func format(t *testing.T, rec arrow.Record) (rows []string) {
	runs, err := pipeline.Runs(nil, rec, pipeline.ColTag)
	require.NoError(t, err)
	for _, r := range runs {
		for i := r.Start; i < r.End; i++ {
			at := time.Unix(0, int64(rec.Column(pipeline.ColTime).(*array.Timestamp).Value(i))).UTC().Format(time.RFC3339Nano)
			row := at + " " + r.Tag + " " + rec.Column(pipeline.ColValue).ValueStr(i)
			if text := rec.Column(pipeline.ColText); text.IsValid(i) {
				row += " " + text.ValueStr(i)
			}
			if q := rec.Column(pipeline.ColQuality).(*array.Uint32).Value(i); q != 0 {
				row += fmt.Sprintf(" %#x", q)
			}
			rows = append(rows, row)
		}
	}
	return rows
}

func write(t *testing.T, name, text string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), name)
	require.NoError(t, os.WriteFile(file, []byte(text), 0o600))
	return file
}

func TestCSV(t *testing.T) {
	for _, c := range []struct {
		name, file, text string
		change           func(c *Config)
		want             []string
		bad              []string // the places of bad rows, in the log
	}{
		{name: "our own columns", text: "time,tag,value,text,quality\n" +
			"2024-05-01T10:00:00Z,p/a,1.5,,\n2024-05-01T10:00:01.25+02:00,p/b,,running,Uncertain\n2024-05-01T10:00:02Z,p/a,,,0x808C0000\n2024-05-01T10:00:03Z,p/a,true,,0\n",
			want: []string{"2024-05-01T10:00:00Z p/a 1.5", "2024-05-01T10:00:02Z p/a (null) 0x808c0000", "2024-05-01T10:00:03Z p/a 1", "2024-05-01T08:00:01.25Z p/b (null) running 0x40000000"}},
		{name: "bad rows", text: "time,tag,value\n" +
			"yesterday,a,1\n1714557600,a,x7\n1714557600,,1\n1714557600,a\n1714557600,\"a\"b,1\n1714557601,a,2\n",
			want: []string{"2024-05-01T10:00:01Z a 2"}, bad: []string{"f.csv:2:1", "f.csv:3:14", "f.csv:4:12", "f.csv:5:12", "f.csv:6:14"}},
		{name: "other names, one tag, times in ms", text: "\uFEFFwhen;reading\n1714557600123;1e3\n",
			change: func(c *Config) {
				c.Columns, c.Tag, c.Delimiter = Columns{Time: "when", Value: "reading"}, "p/x", ";"
			},
			want: []string{"2024-05-01T10:00:00.123Z p/x 1000"}},
		{name: "wide", text: "time,speed,state,temp\n1714557600,1,run,20.5\n1714557601,2,,\n1714557602,bad,stop,-3\n",
			change: func(c *Config) { c.Wide, c.Tag = true, "p/${column}" },
			want: []string{"2024-05-01T10:00:00Z p/speed 1", "2024-05-01T10:00:01Z p/speed 2", "2024-05-01T10:00:00Z p/state (null) run",
				"2024-05-01T10:00:02Z p/state (null) stop", "2024-05-01T10:00:00Z p/temp 20.5", "2024-05-01T10:00:02Z p/temp -3"},
			bad: []string{"f.csv:4:12"}},
		{name: "a layout and a zone", text: "time,tag,value\n01.05.2024 12:00:00,a,1\n", change: func(c *Config) {
			c.TimeFormat, c.TimeZone = "02.01.2006 15:04:05", "Europe/Berlin"
		}, want: []string{"2024-05-01T10:00:00Z a 1"}},
		{name: "tabs by the name", file: "f.tsv", text: "time\ttag\tvalue\n1714557600.5\ta\t1\n", want: []string{"2024-05-01T10:00:00.5Z a 1"}},
		{name: "quoted over lines", text: "time,tag,text,value\n1714557600,a,\"x\ny\",\n1714557601,a,,oops\n", want: []string{"2024-05-01T10:00:00Z a (null) x\ny"}, bad: []string{"f.csv:4:15"}},
		{name: "only a head", text: "time,tag,value\n"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if c.file == "" {
				c.file = "f.csv"
			}
			h := start(t, func(cfg *Config) {
				cfg.Path = write(t, c.file, c.text)
				if c.change != nil {
					c.change(cfg)
				}
			})
			require.Equal(t, c.want, h.all())
			for _, place := range c.bad {
				require.Contains(t, h.log.String(), place)
			}
			totals := h.meter.Totals()
			require.EqualValues(t, len(c.bad), totals.Dropped["bad_row"])
			require.EqualValues(t, len(c.want)+len(c.bad), totals.Ingested)
		})
	}
}

func TestTooManyBadRows(t *testing.T) {
	h := start(t, func(c *Config) {
		c.Path, c.MaxBadRows = write(t, "f.csv", "time,tag,value\n"+strings.Repeat("x,a,1\n", 100)), 10
	})
	for range 2 {
		_, err := h.some(1)
		require.ErrorContains(t, err, "max_bad_rows")
		require.True(t, pipeline.IsPermanent(err))
	}
	require.EqualValues(t, 11, h.meter.Totals().Dropped["bad_row"])
}

func TestFilesInOrder(t *testing.T) {
	dir := t.TempDir()
	put := func(name, text string) {
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600))
	}
	put("2.csv", "time,tag,value\n1714557602,a,2\n")
	put("1.csv", "time,tag,value\n1714557601,a,1\n")
	put("3.csv", "something,else\n1,2\n")
	var gz bytes.Buffer
	w := gzip.NewWriter(&gz)
	io.WriteString(w, "time,tag,value\n1714557604,a,4\n")
	require.NoError(t, w.Close())
	put("4.csv.gz", gz.String())
	h := start(t, func(c *Config) { c.Path = filepath.Join(dir, "*.csv*") })
	require.Equal(t, []string{"2024-05-01T10:00:01Z a 1", "2024-05-01T10:00:02Z a 2", "2024-05-01T10:00:04Z a 4"}, h.all())
	require.EqualValues(t, 1, h.meter.Totals().Dropped["unreadable_file"])
	require.Contains(t, h.log.String(), "something")
}

func TestConnectErrorsArePermanent(t *testing.T) {
	for name, path := range map[string]string{
		"no such file":   filepath.Join(t.TempDir(), "*.csv"),
		"no time column": write(t, "f.csv", "a,b\n1,2\n"),
		"unknown format": write(t, "f.xyz", ""),
		"no parquet":     write(t, "f.parquet", "PAR1 this is not one PAR1"),
		"no arrow":       write(t, "f.arrow", "ARROW1\x00\x00 nor this"),
		"no stream":      write(t, "f.arrows", "\xff\xff\xff\xff\xff\xff\xff\x7fx"),
		"empty":          write(t, "e.csv", ""),
	} {
		t.Run(name, func(t *testing.T) {
			_, err := try(t, func(c *Config) { c.Path = path })
			require.Error(t, err)
			require.True(t, pipeline.IsPermanent(err))
		})
	}
}

// readings makes a batch as sources do.
func readings(t *testing.T, rows func(b *ingest.Batcher)) arrow.Record {
	cfg := ingest.DefaultBatch()
	cfg.MaxPast = 0
	b := ingest.NewBatcher(cfg, pipeline.Env{Name: "x", Tags: pipeline.NewTags(nil), Meter: pipeline.NewMeter()})
	rows(b)
	out := b.Flush(nil)
	require.Len(t, out, 1)
	return out[0].Record
}

func sample(b *ingest.Batcher) {
	t0 := time.Date(2024, 5, 1, 10, 0, 0, 0, time.UTC).UnixNano()
	for i := range int64(3000) {
		b.Append(b.Tag("p/a"), t0+i*1e6, float64(i), 0, t0)
	}
	b.AppendNull(b.Tag("p/b"), t0+1, pipeline.BadSensor, t0)
	b.AppendText(b.Tag("p/c"), t0+2, []byte("on"), 0, t0)
}

// TestArrowAndParquet has what sources make come back from every format.
func TestArrowAndParquet(t *testing.T) {
	rec := readings(t, sample)
	want := format(t, rec)
	dir := t.TempDir()
	create := func(name string) *os.File {
		f, err := os.Create(filepath.Join(dir, name))
		require.NoError(t, err)
		return f
	}
	f := create("file.arrow")
	fw, err := ipc.NewFileWriter(f, ipc.WithSchema(rec.Schema()))
	require.NoError(t, err)
	require.NoError(t, fw.Write(rec))
	require.NoError(t, fw.Close())
	require.NoError(t, f.Close())

	s := create("stream.arrows")
	sw := ipc.NewWriter(s, ipc.WithSchema(rec.Schema()), ipc.WithZstd())
	require.NoError(t, sw.Write(rec))
	require.NoError(t, sw.Close())
	require.NoError(t, s.Close())

	p := create("table.parquet")
	pw, err := pqarrow.NewFileWriter(rec.Schema(), p, parquet.NewWriterProperties(), pqarrow.NewArrowWriterProperties(pqarrow.WithStoreSchema()))
	require.NoError(t, err)
	require.NoError(t, pw.Write(rec))
	require.NoError(t, pw.Close())
	rec.Release()

	for _, name := range []string{"file.arrow", "stream.arrows", "table.parquet"} {
		t.Run(name, func(t *testing.T) {
			h := start(t, func(c *Config) { c.Path = filepath.Join(dir, name) })
			got := h.all()
			require.ElementsMatch(t, want, got)
			require.EqualValues(t, len(want), h.meter.Totals().Ingested)
		})
		t.Run(name+" damaged", func(t *testing.T) {
			data, err := os.ReadFile(filepath.Join(dir, name))
			require.NoError(t, err)
			for cut := 8; cut < len(data); cut += len(data)/40 + 1 {
				clear(data[cut : cut+min(16, len(data)-cut)])
				file := filepath.Join(t.TempDir(), name)
				require.NoError(t, os.WriteFile(file, data, 0o600))
				cfg := DefaultConfig()
				cfg.Path, cfg.Speed = file, 0
				// The library forgets buffers when a file is damaged.
				h, err := connect(t, cfg, memory.DefaultAllocator)
				if err == nil {
					h.some(1 << 30) // whatever it gives, it must end
				}
			}
		})
	}
}

func TestWideParquet(t *testing.T) {
	schema := arrow.NewSchema([]arrow.Field{
		{Name: "ts", Type: arrow.FixedWidthTypes.Timestamp_ms}, {Name: "speed", Type: arrow.PrimitiveTypes.Int32, Nullable: true},
		{Name: "on", Type: arrow.FixedWidthTypes.Boolean, Nullable: true}, {Name: "mode", Type: arrow.BinaryTypes.String, Nullable: true}}, nil)
	b := array.NewRecordBuilder(memory.DefaultAllocator, schema)
	defer b.Release()
	b.Field(0).(*array.TimestampBuilder).AppendValues([]arrow.Timestamp{1714557600123, 1714557601123}, nil)
	b.Field(1).(*array.Int32Builder).AppendValues([]int32{7, 0}, []bool{true, false})
	b.Field(2).(*array.BooleanBuilder).AppendValues([]bool{false, true}, nil)
	b.Field(3).(*array.StringBuilder).AppendValues([]string{"", "auto"}, []bool{false, true})
	rec := b.NewRecord()
	defer rec.Release()
	file := filepath.Join(t.TempDir(), "w.parquet")
	f, err := os.Create(file)
	require.NoError(t, err)
	pw, err := pqarrow.NewFileWriter(schema, f, parquet.NewWriterProperties(), pqarrow.DefaultWriterProps())
	require.NoError(t, err)
	require.NoError(t, pw.Write(rec))
	require.NoError(t, pw.Close())
	h := start(t, func(c *Config) { c.Path, c.Wide, c.Columns.Time = file, true, "ts" })
	require.ElementsMatch(t, []string{"2024-05-01T10:00:00.123Z speed 7", "2024-05-01T10:00:00.123Z on 0", "2024-05-01T10:00:01.123Z on 1",
		"2024-05-01T10:00:01.123Z mode (null) auto"}, h.all())
}

// TestPace runs on a clock that jumps, so it measures exactly.
func TestPace(t *testing.T) {
	file := write(t, "f.csv", "time,tag,value\n1714557600,a,0\n1714557601,a,1\n1714557603.5,a,2\n1714557603.5,b,3\n")
	for _, c := range []struct {
		speed Speed
		want  []time.Duration
	}{
		{1, []time.Duration{0, time.Second, 3500 * time.Millisecond, 3500 * time.Millisecond}},
		{10, []time.Duration{0, 100 * time.Millisecond, 350 * time.Millisecond, 350 * time.Millisecond}},
		{0.5, []time.Duration{0, 2 * time.Second, 7 * time.Second, 7 * time.Second}},
	} {
		for _, rebase := range []Rebase{"none", "now"} {
			t.Run(fmt.Sprintf("%v %s", c.speed, rebase), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					h := start(t, func(cfg *Config) { cfg.Path, cfg.Speed, cfg.Rebase = file, c.speed, rebase })
					begin := time.Now()
					var at []time.Duration
					last := begin
					for {
						b, _, err := h.Read(context.Background())
						if err == io.EOF {
							break
						}
						require.NoError(t, err)
						require.LessOrEqual(t, time.Since(last), time.Second+time.Millisecond, "an empty batch at least once a second")
						last = time.Now()
						if b.Record == nil {
							continue
						}
						first := b.Record.Column(pipeline.ColTime).(*array.Timestamp).Value(0)
						if rebase == "now" {
							require.GreaterOrEqual(t, int64(first), begin.UnixNano())
						} else {
							require.Equal(t, 2024, first.ToTime(arrow.Nanosecond).Year())
						}
						for range b.Record.NumRows() {
							at = append(at, time.Since(begin))
						}
						b.Record.Release()
					}
					require.Len(t, at, len(c.want))
					for i := range at {
						require.InDelta(t, c.want[i].Seconds(), at[i].Seconds(), 0.015) // the linger is 10 ms
					}
				})
			})
		}
	}
}

// Rows that come closer together than the linger do not wait for a full batch.
func TestNoRowWaitsLongerThanTheLinger(t *testing.T) {
	var text strings.Builder
	text.WriteString("time,tag,value\n")
	for i := range 1000 {
		fmt.Fprintf(&text, "%d,a,1\n", 1714557600000+i)
	}
	file := write(t, "f.csv", text.String())
	synctest.Test(t, func(t *testing.T) {
		h := start(t, func(cfg *Config) { cfg.Path, cfg.Speed, cfg.Rebase = file, 0.2, "now" }) // a row in 5 ms
		rows := 0
		for {
			b, _, err := h.Read(context.Background())
			if err == io.EOF {
				break
			}
			require.NoError(t, err)
			if b.Record == nil {
				continue
			}
			require.LessOrEqual(t, b.Record.NumRows(), int64(3)) // the linger is 10 ms
			rows += int(b.Record.NumRows())
			b.Record.Release()
		}
		require.Equal(t, 1000, rows)
	})
}

func TestLoopGoesOnInTime(t *testing.T) {
	h := start(t, func(c *Config) {
		c.Path, c.Loop = write(t, "f.csv", "time,tag,value\n1714557600,a,1\n1714557601,a,2\n"), true
		c.Batch.MaxRows = 1
	})
	rows, err := h.some(5)
	require.NoError(t, err)
	require.Equal(t, []string{"2024-05-01T10:00:00Z a 1", "2024-05-01T10:00:01Z a 2", "2024-05-01T10:00:02Z a 1", "2024-05-01T10:00:03Z a 2", "2024-05-01T10:00:04Z a 1"}, rows)
}

func TestCloseEndsAWaitingRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := start(t, func(c *Config) {
			c.Path, c.Speed = write(t, "f.csv", "time,tag,value\n1714557600,a,1\n1714567600,a,2\n"), 1
		})
		_, err := h.some(1)
		require.NoError(t, err)
		got := make(chan error)
		go func() {
			for {
				if _, _, err := h.Read(context.Background()); err != nil {
					got <- err
					return
				}
			}
		}()
		synctest.Wait()
		require.NoError(t, h.Close(context.Background()))
		require.Equal(t, io.EOF, <-got)
	})
}

func TestValidate(t *testing.T) {
	c := Config{Path: "[", Speed: -1, Wide: true, Tag: "x", TimeZone: "Nowhere/Here", Delimiter: "ab", MaxBadRows: -1}
	p := pipeline.NewProblems()
	c.Validate(p)
	var paths []string
	for _, problem := range p.All() {
		paths = append(paths, problem.Path)
		require.NotEmpty(t, problem.Hint)
	}
	require.Subset(t, paths, []string{"path", "speed", "columns.time", "tag", "delimiter", "time_zone", "max_bad_rows", "batch.max_rows"})
	var s Speed
	for text, want := range map[string]Speed{"max": 0, "1x": 1, "20": 20, "0.5x": 0.5} {
		require.NoError(t, s.UnmarshalText([]byte(text)))
		require.Equal(t, want, s)
	}
	for _, text := range []string{"", "fast", "-1x", "0x", "NaN", "Inf"} {
		require.Error(t, s.UnmarshalText([]byte(text)), text)
	}
}

func FuzzTime(f *testing.F) {
	for _, s := range []string{"1714557600.5", "2024-05-01T10:00:00Z", "-1.5", "9223372036854775807.9", ""} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		for _, format := range []string{"auto", "s", "ns", "2006-01-02"} {
			c, err := newClock(format, "UTC")
			require.NoError(t, err)
			c.parse(s) // must not panic
		}
	})
}

func BenchmarkCSV(b *testing.B) {
	var text strings.Builder
	text.WriteString("time,tag,value\n")
	const rows = 100_000
	for i := range rows {
		fmt.Fprintf(&text, "%d,plant/pump%d/speed,%g\n", 1714557600000+i, i%100, float64(i)*0.37)
	}
	file := filepath.Join(b.TempDir(), "f.csv")
	require.NoError(b, os.WriteFile(file, []byte(text.String()), 0o600))
	for b.Loop() {
		cfg := DefaultConfig()
		cfg.Path, cfg.Speed = file, 0
		s, err := New(cfg, pipeline.Env{Name: "f"})
		require.NoError(b, err)
		require.NoError(b, s.Connect(context.Background()))
		for {
			batch, _, err := s.Read(context.Background())
			if err == io.EOF {
				break
			}
			if batch.Record != nil {
				batch.Record.Release()
			}
		}
		s.Close(context.Background())
	}
	b.ReportMetric(float64(rows*b.N)/b.Elapsed().Seconds(), "rows/s")
}
