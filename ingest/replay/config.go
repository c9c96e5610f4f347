package replay

import (
	"fmt"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/penstock/penstock/ingest"
	"github.com/penstock/penstock/pipeline"
)

// Format is a file format, or auto.
type Format string

// Enum lists the formats.
func (Format) Enum() []string { return []string{"auto", "csv", "parquet", "arrow"} }

// Rebase says what happens to recorded times.
type Rebase string

// Enum lists the ways.
func (Rebase) Enum() []string { return []string{"none", "now"} }

// Config says which files are replayed and how.
type Config struct {
	// Path is a file or a pattern such as data/2024-*.parquet; files are read in
	// the order of their names. A name that ends in .gz is a compressed CSV.
	Path string `yaml:"path"`
	// Format of the files; auto goes by their names: .csv, .tsv, .txt, .parquet,
	// .arrow, .arrows, .ipc, .feather.
	Format Format `yaml:"format"`
	// Speed is max, or a factor of the recorded pace: 1x, 10x, 0.5x.
	Speed Speed `yaml:"speed"`
	// Rebase now moves all times so that the first reading is recorded at the
	// moment the replay begins; none keeps them.
	Rebase Rebase `yaml:"rebase"`
	// Loop begins again after the last file, with times that go on from there.
	Loop bool `yaml:"loop"`
	// Wide files have a time column and one column for each tag; others have one
	// row for each reading.
	Wide bool `yaml:"wide"`
	// Columns names the columns of the files.
	Columns Columns `yaml:"columns"`
	// Tag is the tag of all readings of files without a tag column, or in wide
	// files a template with ${column}, such as plant1/pump3/${column}.
	Tag string `yaml:"tag"`
	// TimeFormat says how text and plain numbers are read as times: auto takes
	// RFC 3339 and 2006-01-02 15:04:05, and whole numbers by their size; s, ms,
	// us and ns are numbers since 1970; anything else is a layout of Go's time
	// package.
	TimeFormat string `yaml:"time_format"`
	// TimeZone is where times that do not say it are from, such as
	// Europe/Berlin.
	TimeZone string `yaml:"time_zone"`
	// Delimiter separates the fields of a CSV file; .tsv files have tabs.
	Delimiter string `yaml:"delimiter"`
	// MaxBadRows ends the replay when more rows than this cannot be read.
	MaxBadRows int `yaml:"max_bad_rows"`
	// Batch says how readings are put together. Unlike live sources a replay
	// takes readings of any time and never counts as idle.
	Batch ingest.BatchConfig `yaml:"batch"`
}

// Columns are the names of columns. Text and quality may be missing in files,
// and so may tag when the setting tag says what all readings are.
type Columns struct {
	// Time of the reading.
	Time string `yaml:"time"`
	// Tag of the reading.
	Tag string `yaml:"tag"`
	// Value is the number.
	Value string `yaml:"value"`
	// Text is a string value.
	Text string `yaml:"text"`
	// Quality is an OPC UA status code, or Good, Uncertain or Bad.
	Quality string `yaml:"quality"`
}

// Speed is how much faster than recorded the replay is; 0 is as fast as
// possible.
type Speed float64

// UnmarshalText reads max or a factor.
func (s *Speed) UnmarshalText(b []byte) error {
	t := strings.TrimSpace(string(b))
	if t == "max" {
		*s = 0
		return nil
	}
	f, err := strconv.ParseFloat(strings.TrimSuffix(t, "x"), 64)
	if err != nil || !(f > 0) || f > 1e9 {
		return fmt.Errorf("%q is not a speed: write max, 1x, 10x or the like", t)
	}
	*s = Speed(f)
	return nil
}

// MarshalText writes the speed as it is read.
func (s Speed) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

func (s Speed) String() string {
	if s == 0 {
		return "max"
	}
	return strconv.FormatFloat(float64(s), 'g', -1, 64) + "x"
}

// DefaultConfig returns the settings where the YAML is silent.
func DefaultConfig() Config {
	b := ingest.DefaultBatch()
	b.MaxFuture, b.MaxPast, b.IdleAfter = 0, 0, 0
	return Config{Format: "auto", Speed: 1, Rebase: "none", Columns: Columns{Time: "time", Tag: "tag", Value: "value", Text: "text", Quality: "quality"},
		TimeFormat: "auto", TimeZone: "UTC", Delimiter: ",", MaxBadRows: 1000, Batch: b}
}

// Validate checks the settings.
func (c *Config) Validate(p *pipeline.Problems) {
	if c.Path == "" {
		p.Add("path", "is empty", "write a file or a pattern such as data/*.csv")
	} else if _, err := filepath.Match(c.Path, ""); err != nil {
		p.Add("path", fmt.Sprintf("%q is not a pattern", c.Path), "write a file or a pattern such as data/*.csv")
	}
	if c.Speed < 0 {
		p.Add("speed", fmt.Sprintf("%v is not a speed", float64(c.Speed)), "write max, 1x, 10x or the like")
	}
	if c.Columns.Time == "" {
		p.Add("columns.time", "is empty", "write the name of the column with the times")
	}
	switch {
	case c.Wide && c.Tag != "" && !strings.Contains(c.Tag, "${column}"):
		p.Add("tag", fmt.Sprintf("%q gives all columns the same tag", c.Tag), `write "${column}" in it`)
	case !c.Wide && strings.Contains(c.Tag, "${column}"):
		p.Add("tag", "${column} is for wide files", "write wide: true, or a tag without it")
	case !c.Wide && c.Columns.Tag == "" && c.Tag == "":
		p.Add("columns.tag", "is empty", "write the name of the column with the tags, or tag: for files of a single one")
	}
	if !c.Wide && c.Columns.Value == "" && c.Columns.Text == "" {
		p.Add("columns.value", "is empty", "write the name of the column with the values")
	}
	if len([]rune(c.Delimiter)) != 1 || strings.ContainsAny(c.Delimiter, "\"\r\n\uFFFD") {
		p.Add("delimiter", fmt.Sprintf("%q is not one character", c.Delimiter), `write "," or ";" or "\t"`)
	}
	if _, err := time.LoadLocation(c.TimeZone); err != nil {
		p.Add("time_zone", fmt.Sprintf("%q is not known here", c.TimeZone), "write UTC or a name such as Europe/Berlin")
	}
	if c.MaxBadRows < 0 {
		p.Add("max_bad_rows", fmt.Sprintf("%d is negative", c.MaxBadRows), "write 0 or more")
	}
	c.Batch.Validate(p.At("batch"))
}
