// Package archive keeps rows as Parquet files that any Parquet tool reads, in
// one folder for each node and hour of event time:
//
//	DIR/node=score/date=2026-05-04/hour=13/part-18f2a6c4d1e7b3a0.parquet
//
// A Write is accepted once its rows are in a spool file below DIR/.spool. When
// the hour is over, or the file large or old enough, the spool becomes one
// Parquet file, which appears whole under its name or not at all.
//
// What can be lost: nothing when the process dies. When the machine loses
// power, with `sync: interval` the last second; with `sync: always` nothing,
// for one fsync per write. What can be there twice: rows written within a
// second before the process was killed, and only if their Parquet file was
// finished in that second; while the spool is open a repeated write is
// recognised by its bytes.
package archive

import (
	"fmt"
	"slices"
	"time"

	"github.com/apache/arrow/go/v17/arrow"
	"github.com/apache/arrow/go/v17/parquet/compress"

	"github.com/penstock/penstock/internal/columns"
	"github.com/penstock/penstock/pipeline"
)

// Config is the YAML of an `archive` sink.
type Config struct {
	// Dir is the folder of the archive. One sink only may write to it.
	Dir string `yaml:"dir"`
	// Compression of the Parquet files: zstd, snappy (faster, larger) or none.
	Compression string `yaml:"compression"`
	// TimeUnit of the times in the files: ns, or us for tools that have no
	// nanoseconds. us cuts them off.
	TimeUnit string `yaml:"time_unit"`
	// Sync says when rows reach the disk: "interval" is once a second, "always"
	// before each write is accepted.
	Sync string `yaml:"sync"`
	// CloseAfter is how long an hour's file stays open after the event time of
	// its node has left the hour. Rows that come later go into a further file.
	CloseAfter time.Duration `yaml:"close_after"`
	// MaxFileAge finishes a file that has been open this long: what readers of
	// the archive lag behind at most.
	MaxFileAge time.Duration `yaml:"max_file_age"`
	// MaxFileBytes finishes a file whose spool has reached this size; the
	// Parquet file is several times smaller.
	MaxFileBytes pipeline.ByteSize `yaml:"max_file_bytes"`
	// MaxOpen is how many files may be open; the one unused for longest is
	// finished to make room.
	MaxOpen int `yaml:"max_open"`
	// MaxBytes deletes the oldest hours when the archive is larger. 0 keeps all.
	MaxBytes pipeline.ByteSize `yaml:"max_bytes"`
	// MaxAge deletes hours that ended longer ago than this. 0 keeps all.
	MaxAge time.Duration `yaml:"max_age"`
}

// DefaultConfig is what holds where the YAML is silent.
func DefaultConfig() Config {
	return Config{Compression: "zstd", TimeUnit: "ns", Sync: "interval", CloseAfter: 5 * time.Minute,
		MaxFileAge: time.Hour, MaxFileBytes: 64 << 20, MaxOpen: 32}
}

var codecs = map[string]compress.Compression{
	"zstd": compress.Codecs.Zstd, "snappy": compress.Codecs.Snappy, "none": compress.Codecs.Uncompressed,
}

// Accept implements pipeline.Accepter.
func (c *Config) Accept(in *arrow.Schema) error { return columns.Timed(in) }

// Validate checks the settings.
func (c *Config) Validate(p *pipeline.Problems) {
	if c.Dir == "" {
		p.Add("dir", "is empty", "write the folder for the files, such as ./archive")
	}
	if _, ok := codecs[c.Compression]; !ok {
		p.Add("compression", fmt.Sprintf("%q is not known", c.Compression), "write zstd, snappy or none")
	}
	oneOf := func(key, v string, of ...string) {
		if !slices.Contains(of, v) {
			p.Add(key, fmt.Sprintf("%q is not known", v), "write "+of[0]+" or "+of[1])
		}
	}
	oneOf("time_unit", c.TimeUnit, "ns", "us")
	oneOf("sync", c.Sync, "interval", "always")
	if c.CloseAfter < 0 {
		p.Add("close_after", fmt.Sprintf("%v is negative", c.CloseAfter), "write a duration such as 5m")
	}
	if c.MaxFileAge < time.Second {
		p.Add("max_file_age", fmt.Sprintf("%v is too short", c.MaxFileAge), "write 1s or more; 1h makes good files")
	}
	if c.MaxFileBytes < 1<<10 || c.MaxFileBytes > 1<<30 {
		p.Add("max_file_bytes", fmt.Sprintf("%v is out of range", c.MaxFileBytes), "write 1KiB to 1GiB")
	}
	if c.MaxOpen < 1 || c.MaxOpen > 1000 {
		p.Add("max_open", fmt.Sprintf("%d is out of range", c.MaxOpen), "write 1 to 1000")
	}
	if c.MaxBytes != 0 && c.MaxBytes < 2*c.MaxFileBytes {
		p.Add("max_bytes", fmt.Sprintf("%v holds less than two files", c.MaxBytes), "write at least twice max_file_bytes, or 0 to keep all")
	}
	if c.MaxAge != 0 && c.MaxAge < time.Hour {
		p.Add("max_age", fmt.Sprintf("%v is less than an hour", c.MaxAge), "write 1h or more, or 0 to keep all")
	}
}
