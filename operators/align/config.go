// Package align is the operator that turns readings into a wide frame: one row
// for each point of a time grid and asset, one column for each measurement. It
// is what multivariate models take.
//
// The grid is at whole multiples of `interval` since 1970, shifted by
// `offset`. A row has these columns:
//
//	time          the grid point
//	tag           path of the asset, so that later operators group by it
//	<measurement> one nullable float64 for each of `measurements`, in that order
//	quality       the worst of the readings that the row was made of
//
// A tag's asset and measurement come from the tag registry; tags whose
// measurement is not listed are passed over. A value at grid point g comes
// from the readings by `method`:
//
//	last    the newest reading at or before g
//	mean    the mean of the readings in [g-interval, g) that are not Bad
//	linear  on the straight line from the newest reading at or before g to the
//	        oldest one after it
//
// Readings older than `max_age`, as seen from g, are not used; for linear this
// holds on both sides. A reading that is Bad, null or not finite makes the
// value null, and is never replaced by an older good one. A grid point at
// which no reading of an asset is in use has no row.
//
// A row is emitted once the watermark reaches its grid point; for linear,
// which looks ahead, once it is max_age later, so let nothing that closes by
// time (window, align) follow a linear align. Readings that come too late to
// count are dropped with reason late.
package align

import (
	"fmt"
	"slices"
	"time"

	"github.com/penstock/penstock/pipeline"
)

// Config is the `align` operator.
type Config struct {
	// Interval is the distance between two rows of an asset.
	Interval time.Duration `yaml:"interval"`
	// Offset shifts the grid.
	Offset time.Duration `yaml:"offset"`
	// Measurements are the columns to make; a list, so that the columns are
	// known before the first reading.
	Measurements []string `yaml:"measurements"`
	// Method says how a value at a grid point comes from readings around it:
	// last, mean or linear.
	Method string `yaml:"method"`
	// MaxAge is how old a reading may be, as seen from the grid point, and
	// still count. Left out it is ten intervals, for linear two. mean does
	// not use it.
	MaxAge time.Duration `yaml:"max_age"`
	// Column is the float64 column of the input to take.
	Column string `yaml:"column"`
}

// DefaultConfig returns the settings where the YAML is silent.
func DefaultConfig() Config { return Config{Method: methodLast, Column: pipeline.NameValue} }

const (
	methodLast   = "last"
	methodMean   = "mean"
	methodLinear = "linear"
)

// Validate checks the settings.
func (c *Config) Validate(p *pipeline.Problems) {
	if c.Interval <= 0 {
		p.Add("interval", fmt.Sprintf("%v is not a distance", c.Interval), "write the distance between rows, such as 1s")
	}
	if len(c.Measurements) == 0 {
		p.Add("measurements", "is empty", "list the measurements that become columns, such as [temperature, vibration_x]")
	}
	for i, m := range c.Measurements {
		path := fmt.Sprintf("measurements[%d]", i)
		switch {
		case m == "":
			p.Add(path, "is empty", "write the name of a measurement, such as temperature")
		case m == pipeline.NameTime || m == pipeline.NameTag || m == pipeline.NameQuality:
			p.Add(path, fmt.Sprintf("%q is the name of another column", m), "give the measurement another name under `tags`")
		case slices.Contains(c.Measurements[:i], m):
			p.Add(path, fmt.Sprintf("%q is there twice", m), "remove one")
		}
	}
	if c.Method != methodLast && c.Method != methodMean && c.Method != methodLinear {
		p.Add("method", fmt.Sprintf("%q is not known", c.Method), "write last, mean or linear")
	}
	if c.MaxAge < 0 {
		p.Add("max_age", fmt.Sprintf("%v is negative", c.MaxAge), "write a duration such as 10s")
	}
	if c.Column == "" {
		p.Add("column", "is empty", "write the column to take, such as value")
	}
}
