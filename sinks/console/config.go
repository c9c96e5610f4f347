// Package console prints rows, for people who want to see what flows: as lines
// of text or as JSON, one object a line.
package console

import (
	"fmt"
	"slices"

	"github.com/penstock/penstock/pipeline"
)

// Config is the YAML of a `console` sink.
type Config struct {
	// Format is "text" or "json".
	Format string `yaml:"format"`
	// To is "stdout" or "stderr".
	To string `yaml:"to"`
	// MaxRowsPerSecond bounds what is printed; how many rows were not is told
	// once a second. 0 prints all.
	MaxRowsPerSecond int `yaml:"max_rows_per_second"`
	// Columns to print, in this order. Empty prints all.
	Columns []string `yaml:"columns"`
}

// DefaultConfig is what holds where the YAML is silent.
func DefaultConfig() Config { return Config{Format: "text", To: "stdout", MaxRowsPerSecond: 20} }

// Validate checks the settings.
func (c *Config) Validate(p *pipeline.Problems) {
	if !slices.Contains([]string{"text", "json"}, c.Format) {
		p.Add("format", fmt.Sprintf("%q is not known", c.Format), "write text or json")
	}
	if !slices.Contains([]string{"stdout", "stderr"}, c.To) {
		p.Add("to", fmt.Sprintf("%q is not known", c.To), "write stdout or stderr")
	}
	if c.MaxRowsPerSecond < 0 {
		p.Add("max_rows_per_second", fmt.Sprintf("%d is negative", c.MaxRowsPerSecond), "write a number such as 20, or 0 to print all")
	}
}
