// Package decode turns the payloads that devices send into readings, straight
// into an [ingest.Batcher]: no map and no struct per message.
package decode

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/penstock/penstock/pipeline"
)

// Config says what a payload looks like. Its shape follows from the paths:
//
//	{"v": 1.5, "ts": 1700000000000}                  value: v, time: ts
//	{"ts": 1700000000, "data": [{"n":"a","v":1}]}    each: data, tag: n, value: v, time: $.ts
//	[[1700000000, 1.5], [1700000001, 1.6]]           each: $, time: "0", value: "1"
//	{"ts": 1700000000, "temp": 20.5, "rpm": 1480}    fields: ["*"], time: ts
//
// A path is keys and array positions joined by dots: `sensor.value`,
// `values.0`. It starts at the reading, which is the element of `each` or, where
// there is no `each`, the message. A path that starts with `$.` starts at the
// message. `$` alone is the whole message and `.` the whole element. A key
// that has a dot in its name is written with `\.`.
type Config struct {
	// Format of the payload: json.
	Format string `yaml:"format"`
	// Value is the path of the value; `value` where nothing else is said.
	// Numbers are taken as they are, true is 1 and false is 0, strings go to
	// the text column and are never read as numbers, null is a reading without
	// a value, of Bad quality.
	Value string `yaml:"value"`
	// Fields makes every field of the reading a tag of its own, named by the
	// field: all with ["*"], or those listed by path. Fields of nested objects
	// are joined with "/"; arrays are passed over. It replaces value.
	Fields []string `yaml:"fields"`
	// Each is the path of an array whose elements are readings.
	Each string `yaml:"each"`
	// Tag is the path of a string that names the reading within its topic.
	Tag string `yaml:"tag"`
	// Time is the path of the source time. Without it, readings have the time
	// of arrival.
	Time string `yaml:"time"`
	// TimeFormat is s, ms, us or ns (a number since 1970, or a string that
	// holds one; fractions are fine), rfc3339, or auto: strings are RFC 3339,
	// numbers go by their size: below 1e11 seconds (until the year 5138), below
	// 1e14 milliseconds, below 1e17 microseconds, else nanoseconds.
	TimeFormat string `yaml:"time_format"`
	// TimeMissing says what becomes of a reading without a time: `now` gives
	// it the time of arrival, `drop` drops and counts it.
	TimeMissing string `yaml:"time_missing"`
	// Quality is the path of the quality: an OPC UA StatusCode, or "good",
	// "uncertain" or "bad", or a boolean. Absent or null is good.
	Quality string `yaml:"quality"`
}

// DefaultConfig reads {"value": 1.5}. Its Value is empty, which stands for
// "value" unless there are fields.
func DefaultConfig() Config {
	return Config{Format: "json", TimeFormat: "auto", TimeMissing: "now"}
}

// WithDefaults returns c with what it leaves empty filled in.
func (c Config) WithDefaults() Config {
	d := DefaultConfig()
	if c.Format == "" {
		c.Format = d.Format
	}
	if c.Value == "" && len(c.Fields) == 0 {
		c.Value = "value"
	}
	if c.TimeFormat == "" {
		c.TimeFormat = d.TimeFormat
	}
	if c.TimeMissing == "" {
		c.TimeMissing = d.TimeMissing
	}
	return c
}

// Named reports whether readings bring a name of their own, beside the topic.
func (c Config) Named() bool { return c.Tag != "" || len(c.Fields) > 0 }

// Validate checks the config; what is empty stands for its default.
func (c *Config) Validate(p *pipeline.Problems) {
	d := c.WithDefaults()
	if d.Format != "json" {
		p.Add("format", fmt.Sprintf("%q is not a format", d.Format), "write json")
	}
	if !slices.Contains([]string{"auto", "s", "ms", "us", "ns", "rfc3339"}, d.TimeFormat) {
		p.Add("time_format", fmt.Sprintf("%q is not a time format", d.TimeFormat), "write auto, s, ms, us, ns or rfc3339")
	}
	if d.TimeMissing != "now" && d.TimeMissing != "drop" {
		p.Add("time_missing", fmt.Sprintf("%q is neither", d.TimeMissing), "write now or drop")
	}
	if len(c.Fields) > 0 && c.Value != "" {
		p.Add("value", "does not go with fields", "leave one of the two out")
	}
	if len(c.Fields) > 0 && c.Tag != "" {
		p.Add("tag", "does not go with fields, which name the readings", "leave one of the two out")
	}
	check := func(key, path string) {
		if path == "" {
			return
		}
		if _, err := parsePath(path); err != nil {
			p.Add(key, err.Error(), "write keys joined by dots, such as sensor.value or $.ts")
		}
	}
	check("value", d.Value)
	check("each", d.Each)
	check("tag", d.Tag)
	check("time", d.Time)
	check("quality", d.Quality)
	for i, f := range c.Fields {
		key := fmt.Sprintf("fields[%d]", i)
		if f == "*" {
			if len(c.Fields) > 1 {
				p.Add(key, `"*" already takes all fields`, `write ["*"], or list the fields`)
			}
			continue
		}
		check(key, f)
		if strings.HasPrefix(f, "$") || f == "." || f == "" {
			p.Add(key, fmt.Sprintf("%q is not a field of the reading", f), "write its name, such as temperature")
		}
	}
}

// path is a parsed path: where it starts and the keys from there. A key that
// is a decimal number is an array position too.
type path struct {
	message bool // starts at the message
	keys    []string
}

func parsePath(s string) (path, error) {
	var p path
	switch {
	case s == "$":
		return path{message: true}, nil
	case s == ".":
		return path{}, nil
	case strings.HasPrefix(s, "$."):
		p.message = true
		s = s[2:]
	}
	var key strings.Builder
	for i := 0; i <= len(s); i++ {
		switch {
		case i < len(s) && s[i] == '\\' && i+1 < len(s):
			i++
			key.WriteByte(s[i])
		case i == len(s) || s[i] == '.':
			if key.Len() == 0 {
				return path{}, fmt.Errorf("path %q has an empty key", s)
			}
			p.keys = append(p.keys, key.String())
			key.Reset()
		default:
			key.WriteByte(s[i])
		}
	}
	if len(p.keys) > maxDepth {
		return path{}, fmt.Errorf("path %q is deeper than %d", s, maxDepth)
	}
	return p, nil
}

// position returns the array position that a key stands for, or -1.
func position(key string) int {
	if n, err := strconv.ParseUint(key, 10, 31); err == nil && (key == "0" || key[0] != '0') {
		return int(n)
	}
	return -1
}
