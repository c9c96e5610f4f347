package archive

import (
	"context"
	"io/fs"
	"log/slog"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/apache/arrow/go/v17/arrow"
	"github.com/apache/arrow/go/v17/arrow/array"
	"github.com/apache/arrow/go/v17/arrow/memory"
	"github.com/apache/arrow/go/v17/parquet"
	"github.com/apache/arrow/go/v17/parquet/file"
	"github.com/apache/arrow/go/v17/parquet/pqarrow"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/penstock/penstock/pipeline"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var hour13 = time.Date(2026, 5, 4, 13, 0, 0, 0, time.UTC)

// fixture is a sink whose clock stands still and which is maintained by the test
// alone.
type fixture struct {
	*Sink
	t     *testing.T
	mem   *memory.CheckedAllocator
	clock time.Time
}

func open(t *testing.T, cfg Config) *fixture {
	t.Helper()
	p := pipeline.NewProblems()
	cfg.Validate(p)
	require.Empty(t, p.All())
	f := &fixture{t: t, mem: memory.NewCheckedAllocator(memory.NewGoAllocator()), clock: hour13}
	s, err := New(cfg, pipeline.Env{Name: "archive", Log: slog.New(slog.DiscardHandler), Meter: pipeline.NewMeter(), Alloc: f.mem})
	require.NoError(t, err)
	s.now = func() time.Time { return f.clock }
	f.Sink = s
	require.NoError(t, s.Connect(context.Background()))
	close(s.stop)
	<-s.done
	s.stop = nil
	t.Cleanup(func() {
		require.NoError(t, s.Close(context.Background()))
		f.mem.AssertSize(t, 0)
	})
	return f
}

// die leaves the sink as a killed process would: files closed, nothing else.
func (f *fixture) die() {
	f.mu.Lock()
	defer f.mu.Unlock()
	require.NoError(f.t, f.letGo())
}

func (f *fixture) write(rec arrow.Record) {
	f.t.Helper()
	defer rec.Release()
	require.NoError(f.t, f.Write(context.Background(), rec))
}

func config(dir string) Config {
	cfg := DefaultConfig()
	cfg.Dir = dir
	return cfg
}

type row struct {
	At      time.Time
	Tag     string
	Value   float64 // NaN is null
	Text    string  // "" is null
	Quality uint32
}

func record(mem memory.Allocator, node string, rows ...row) arrow.Record {
	b := array.NewRecordBuilder(mem, pipeline.WithNode(pipeline.Readings, node))
	defer b.Release()
	for _, r := range rows {
		b.Field(0).(*array.TimestampBuilder).Append(arrow.Timestamp(r.At.UnixNano()))
		if err := b.Field(1).(*array.BinaryDictionaryBuilder).AppendString(r.Tag); err != nil {
			panic(err)
		}
		if math.IsNaN(r.Value) {
			b.Field(2).AppendNull()
		} else {
			b.Field(2).(*array.Float64Builder).Append(r.Value)
		}
		if r.Text == "" {
			b.Field(3).AppendNull()
		} else {
			b.Field(3).(*array.StringBuilder).Append(r.Text)
		}
		b.Field(4).(*array.Uint32Builder).Append(r.Quality)
		b.Field(5).(*array.TimestampBuilder).Append(arrow.Timestamp(r.At.UnixNano() + 5))
	}
	return b.NewRecord()
}

// files lists the archive's Parquet files, relative to dir, IDs as *.
func files(t *testing.T, dir string) (paths, shapes []string) {
	t.Helper()
	paths, err := fs.Glob(os.DirFS(dir), "node=*/date=*/hour=*/part-*.parquet")
	require.NoError(t, err)
	for _, p := range paths {
		shapes = append(shapes, filepath.Dir(p))
	}
	return paths, shapes
}

// read returns the rows of all files, in order of time then tag.
func read(t *testing.T, dir string) (rows []row) {
	t.Helper()
	paths, _ := files(t, dir)
	for _, p := range paths {
		r, err := file.OpenParquetFile(filepath.Join(dir, p), false)
		require.NoError(t, err)
		require.Equal(t, parquet.Repetitions.Required, r.MetaData().Schema.Root().RepetitionType(), "hyparquet and others stumble over Repeated")
		fr, err := pqarrow.NewFileReader(r, pqarrow.ArrowReadProperties{}, memory.DefaultAllocator)
		require.NoError(t, err)
		table, err := fr.ReadTable(context.Background())
		require.NoError(t, err)
		tr := array.NewTableReader(table, 0)
		for tr.Next() {
			rec := tr.Record()
			for i := range int(rec.NumRows()) {
				out := row{
					At:  rec.Column(0).(*array.Timestamp).Value(i).ToTime(rec.Schema().Field(0).Type.(*arrow.TimestampType).Unit),
					Tag: rec.Column(1).(*array.String).Value(i), Value: math.NaN(), Quality: rec.Column(4).(*array.Uint32).Value(i)}
				if c := rec.Column(2).(*array.Float64); c.IsValid(i) {
					out.Value = c.Value(i)
				}
				if c := rec.Column(3).(*array.String); c.IsValid(i) {
					out.Text = c.Value(i)
				}
				rows = append(rows, out)
			}
		}
		tr.Release()
		table.Release()
		require.NoError(t, r.Close())
	}
	slices.SortStableFunc(rows, func(a, b row) int {
		if c := a.At.Compare(b.At); c != 0 {
			return c
		}
		return strings.Compare(a.Tag, b.Tag)
	})
	return rows
}

func sample(tag string, at ...time.Time) (rows []row) {
	for i, t := range at {
		rows = append(rows, row{At: t, Tag: tag, Value: float64(i) + 0.25})
	}
	return rows
}

// same compares rows where NaN stands for null.
func same(t *testing.T, want, got []row) {
	t.Helper()
	fix := func(rows []row) []row {
		out := slices.Clone(rows)
		for i := range out {
			if math.IsNaN(out[i].Value) {
				out[i].Value = -999
			}
		}
		return out
	}
	require.Equal(t, fix(want), fix(got))
}

func TestHourBoundaryNodesAndValues(t *testing.T) {
	for _, compression := range []string{"zstd", "snappy", "none"} {
		dir := t.TempDir()
		cfg := config(dir)
		cfg.Compression = compression
		f := open(t, cfg)
		boundary := hour13.Add(time.Hour)
		want := []row{
			{hour13, "a/x", 1.5, "", 0},
			{boundary.Add(-1), "a/x", math.NaN(), "stuck", pipeline.BadSensor},
			{boundary, "a/x", 3, "", 0},
			{boundary.Add(-1), "b/x", 4, "", 0},
			{boundary, "b/x", 5, "", 0},
			{time.Unix(0, -1).UTC(), "c/x", 6, "", 0},
		}
		f.write(record(f.mem, "plc", want...))
		f.write(record(f.mem, "a/b c", row{hour13, "z", 7, "", 0}))
		require.NoError(t, f.Close(context.Background()))
		_, shapes := files(t, dir)
		require.Equal(t, []string{"node=a%2Fb%20c/date=2026-05-04/hour=13",
			"node=plc/date=1969-12-31/hour=23", "node=plc/date=2026-05-04/hour=13", "node=plc/date=2026-05-04/hour=14"}, shapes)
		same(t, []row{want[5], want[0], {hour13, "z", 7, "", 0}, want[1], want[3], want[2], want[4]}, read(t, dir))
		left, err := filepath.Glob(filepath.Join(dir, ".spool", "*.*"))
		require.NoError(t, err)
		require.Empty(t, left)
	}
}

func TestCrashLosesNothingAndRepeatsNothing(t *testing.T) {
	dir := t.TempDir()
	f := open(t, config(dir))
	first := sample("a/x", hour13, hour13.Add(time.Second))
	second := sample("a/y", hour13.Add(2*time.Second), hour13.Add(time.Hour))
	f.write(record(f.mem, "plc", first...))
	f.write(record(f.mem, "plc", second...))
	f.die()
	paths, _ := files(t, dir)
	require.Empty(t, paths)

	// The crash tore the last write of each spool, and a Parquet file.
	spools, err := filepath.Glob(filepath.Join(dir, ".spool", "*.spool"))
	require.NoError(t, err)
	require.Len(t, spools, 2)
	for i, torn := range [][]byte{{9, 9, 9}, append([]byte{8, 0, 0, 0}, make([]byte, 40)...)} {
		sp, err := os.OpenFile(spools[i], os.O_APPEND|os.O_WRONLY, 0)
		require.NoError(t, err)
		_, err = sp.Write(torn)
		require.NoError(t, err)
		require.NoError(t, sp.Close())
	}
	require.NoError(t, os.WriteFile(spools[0]+".tmp", []byte("PAR1"), 0o644))

	f = open(t, config(dir))
	f.write(record(f.mem, "plc", second...)) // the queue hands it over again
	third := sample("a/z", hour13.Add(3*time.Second))
	f.write(record(f.mem, "plc", third...))
	require.NoError(t, f.Close(context.Background()))
	want := slices.Concat(first, second[:1], third, second[1:])
	same(t, want, read(t, dir))
	paths, _ = files(t, dir)
	require.Len(t, paths, 2)
}

func TestCrashBetweenRenameAndDelete(t *testing.T) {
	dir := t.TempDir()
	f := open(t, config(dir))
	rows := sample("a/x", hour13)
	f.write(record(f.mem, "plc", rows...))
	for _, sp := range f.open {
		_, err := sp.writeParquet(f.target(sp), &f.cfg, f.mem)
		require.NoError(t, err)
	}
	f.die()
	f = open(t, config(dir))
	require.NoError(t, f.Close(context.Background()))
	same(t, rows, read(t, dir))
}

func TestFilesAreFinishedWhenDue(t *testing.T) {
	dir := t.TempDir()
	cfg := config(dir)
	f := open(t, cfg)
	count := func() int { paths, _ := files(t, dir); return len(paths) }

	f.write(record(f.mem, "plc", sample("a/x", hour13)...))
	f.clock = f.clock.Add(50 * time.Minute)
	require.NoError(t, f.maintain())
	require.Equal(t, 0, count(), "the hour is not over")
	f.write(record(f.mem, "wild", sample("a/x", hour13.AddDate(200, 0, 0))...))
	require.NoError(t, f.maintain())
	require.Equal(t, 0, count(), "nor does it end by the times of another node")
	f.write(record(f.mem, "plc", sample("a/x", hour13.Add(time.Hour+cfg.CloseAfter+1))...))
	require.NoError(t, f.maintain())
	require.Equal(t, 1, count(), "the hour is over")

	f.write(record(f.mem, "plc", sample("late/x", hour13.Add(time.Minute))...))
	require.NoError(t, f.maintain())
	require.Equal(t, 1, count(), "late rows wait for others")
	f.clock = f.clock.Add(cfg.CloseAfter)
	f.write(record(f.mem, "plc", sample("late/y", hour13.Add(time.Minute))...))
	require.NoError(t, f.maintain())
	require.Equal(t, 2, count(), "late rows have a file of their own")

	f.clock = f.clock.Add(cfg.MaxFileAge)
	require.NoError(t, f.maintain())
	require.Equal(t, 4, count(), "an idle source's file is finished by age")
	require.Len(t, read(t, dir), 5)
}

func TestSizeAndNumberOfOpenFiles(t *testing.T) {
	dir := t.TempDir()
	cfg := config(dir)
	cfg.MaxOpen, cfg.MaxFileBytes = 2, 4<<10
	f := open(t, cfg)
	for h := range 5 {
		f.clock = f.clock.Add(time.Second)
		f.write(record(f.mem, "plc", sample("a/x", hour13.Add(time.Duration(h)*time.Hour))...))
		require.LessOrEqual(t, len(f.open), 2)
	}
	paths, _ := files(t, dir)
	require.Len(t, paths, 3)
	var many []time.Time
	for i := range 500 {
		many = append(many, hour13.Add(4*time.Hour+time.Duration(i+1)*time.Second))
	}
	f.write(record(f.mem, "plc", sample("a/x", many...)...))
	paths, _ = files(t, dir)
	require.Len(t, paths, 4, "the large one is finished")
	require.NoError(t, f.Close(context.Background()))
	require.Len(t, read(t, dir), 505)
}

func TestRetention(t *testing.T) {
	dir := t.TempDir()
	cfg := config(dir)
	cfg.MaxAge = 3 * time.Hour
	f := open(t, cfg)
	f.clock = hour13.Add(6 * time.Hour)
	for h := range 5 {
		f.write(record(f.mem, "plc", sample("a/x", hour13.Add(time.Duration(h)*time.Hour))...))
	}
	foreign := filepath.Join(dir, "node=plc", "date=2026-05-04", "hour=13", "notes.txt")
	require.NoError(t, os.MkdirAll(filepath.Dir(foreign), 0o755))
	require.NoError(t, os.WriteFile(foreign, []byte("mine"), 0o644))
	require.NoError(t, f.Close(context.Background()))
	_, shapes := files(t, dir)
	require.Equal(t, []string{"node=plc/date=2026-05-04/hour=15", "node=plc/date=2026-05-04/hour=16", "node=plc/date=2026-05-04/hour=17"}, shapes)
	require.FileExists(t, foreign)
	require.NoDirExists(t, filepath.Join(dir, "node=plc", "date=2026-05-04", "hour=14"))

	parts, err := f.parts()
	require.NoError(t, err)
	f.cfg.MaxAge, f.cfg.MaxBytes = 0, pipeline.ByteSize(parts[2].bytes+1)
	require.NoError(t, f.expire())
	_, shapes = files(t, dir)
	require.Equal(t, []string{"node=plc/date=2026-05-04/hour=17"}, shapes)
}

func TestOneSinkOnlyPerFolder(t *testing.T) {
	dir := t.TempDir()
	open(t, config(dir))
	second, err := New(config(dir), pipeline.Env{Name: "second"})
	require.NoError(t, err)
	err = second.Connect(context.Background())
	require.ErrorContains(t, err, "in use by another sink")
	require.True(t, pipeline.IsPermanent(err))
	require.NoError(t, second.Close(context.Background()))
}

func TestDamagedSpoolIsCounted(t *testing.T) {
	dir := t.TempDir()
	f := open(t, config(dir))
	f.write(record(f.mem, "plc", sample("a/x", hour13)...))
	f.write(record(f.mem, "plc", sample("a/x", hour13.Add(1), hour13.Add(2))...))
	for _, sp := range f.open {
		_, err := sp.file.WriteAt([]byte{0xff, 0xff}, sp.size-2)
		require.NoError(t, err)
	}
	require.NoError(t, f.Close(context.Background()))
	require.Len(t, read(t, dir), 1)
	require.EqualValues(t, 2, f.env.Meter.Totals().DroppedAt["archive"]["spool_damaged"])
	kept, err := filepath.Glob(filepath.Join(dir, ".spool", "*.damaged"))
	require.NoError(t, err)
	require.Len(t, kept, 1)
}

func TestMicroseconds(t *testing.T) {
	dir := t.TempDir()
	cfg := config(dir)
	cfg.TimeUnit = "us"
	f := open(t, cfg)
	f.write(record(f.mem, "plc", sample("a/x", hour13.Add(1999))...))
	require.NoError(t, f.Close(context.Background()))
	require.Equal(t, hour13.Add(1000), read(t, dir)[0].At)
}

func TestOtherSchemas(t *testing.T) {
	dir := t.TempDir()
	cfg := config(dir)
	cfg.Sync = "always"
	f := open(t, cfg)
	schema := arrow.NewSchema([]arrow.Field{{Name: "time", Type: pipeline.TimeType}, {Name: "tag", Type: pipeline.TagType},
		{Name: "sample_rate", Type: arrow.PrimitiveTypes.Float64}, {Name: "samples", Type: arrow.ListOf(arrow.PrimitiveTypes.Float32)}}, nil)
	rec, _, err := array.RecordFromJSON(f.mem, schema, strings.NewReader(`[{"time": 1000, "tag": "a/x", "sample_rate": 25600, "samples": [1, 2, 3]}]`))
	require.NoError(t, err)
	f.write(rec)
	b := array.NewRecordBuilder(f.mem, pipeline.WithNode(pipeline.AlertEvents, "vibration_high"))
	b.Field(0).(*array.TimestampBuilder).Append(2000)
	require.NoError(t, b.Field(1).(*array.BinaryDictionaryBuilder).AppendString("a/x"))
	for i := 2; i < 7; i++ {
		b.Field(i).(*array.StringBuilder).Append("s")
	}
	b.Field(7).AppendNull()
	b.Field(8).(*array.Float64Builder).Append(6)
	b.Field(9).(*array.TimestampBuilder).Append(1500)
	b.Field(10).(*array.StringBuilder).Append("high")
	f.write(b.NewRecord())
	b.Release()

	bad, _, err := array.RecordFromJSON(f.mem, arrow.NewSchema([]arrow.Field{{Name: "value", Type: arrow.PrimitiveTypes.Float64}}, nil), strings.NewReader(`[{"value": 1}]`))
	require.NoError(t, err)
	defer bad.Release()
	require.True(t, pipeline.IsPermanent(f.Write(context.Background(), bad)))
	require.NoError(t, f.Close(context.Background()))
	_, shapes := files(t, dir)
	require.Equal(t, []string{"node=unknown/date=1970-01-01/hour=00", "node=vibration_high/date=1970-01-01/hour=00"}, shapes)
}

func BenchmarkArchive(b *testing.B) {
	const tags, rows = 1000, 8
	s, err := New(config(b.TempDir()), pipeline.Env{Name: "archive"})
	require.NoError(b, err)
	require.NoError(b, s.Connect(context.Background()))
	n := 0
	for b.Loop() {
		b.StopTimer()
		var all []row
		for t := range tags {
			for r := range rows {
				all = append(all, row{hour13.Add(time.Duration(n*rows+r)*time.Millisecond + time.Duration(t)), "plant1/hall2/pump" + string(rune('A'+t%26)) + strings.Repeat("x", t/26), float64(t*r) / 7, "", 0})
			}
		}
		n++
		rec := record(memory.DefaultAllocator, "plc", all...)
		b.StartTimer()
		require.NoError(b, s.Write(context.Background(), rec))
		rec.Release()
	}
	require.NoError(b, s.Close(context.Background()))
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*tags*rows), "ns/row")
	parts, err := s.parts()
	require.NoError(b, err)
	total := int64(0)
	for _, p := range parts {
		total += p.bytes
	}
	b.ReportMetric(float64(total)/float64(b.N*tags*rows), "B/row")
}
