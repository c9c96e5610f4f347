// Package log is the sink that writes alert events into the program's log.
package log

import "github.com/penstock/penstock/pipeline"

// Config is the `log` sink, which has nothing to set.
type Config struct{}

// DefaultConfig returns the settings where the YAML is silent.
func DefaultConfig() Config { return Config{} }

// Validate has nothing to check.
func (c *Config) Validate(*pipeline.Problems) {}
