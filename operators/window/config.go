// Package window is the operator that makes event-time aggregates per tag,
// over tumbling or sliding windows.
//
// A window covers [start, end); windows end at whole multiples of `every`
// since 1970, shifted by `offset`, and are `size` long. A window is emitted
// once the watermark reaches its end; windows without rows are not. Its row
// has these columns:
//
//	time          end of the window (what is known at that time, nothing later)
//	tag
//	window_start  start of the window
//	<aggregate>   one nullable float64 for each of `aggregates`, in that order
//	count         float64: the rows that were aggregated
//	quality       Good when all rows of the window are Good; Bad when none has a
//	              number that is not Bad; Uncertain otherwise
//
// Aggregates are over the numbers of the window: rows that are null, not
// finite or (with `bad: skip`) of Bad quality only count for the quality. mean and std
// use Welford's update, panes are joined by the formula of Chan et al. (1979):
// stable, and the same bits however rows are cut into batches. std is the
// sample standard deviation (n-1), null for fewer than two rows. first and
// last go by time; of equal times, first takes the row that came first and
// last the one that came last. rate is (last-first)/(t_last-t_first) per
// second, null for fewer than two different times; a counter's reset shows as
// a negative rate. good is the share of the window's rows that are Good.
//
// A row all of whose windows are closed is late: it is counted as dropped
// with reason late or, with `late: route`, emitted at the port `late`.
package window

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/penstock/penstock/pipeline"
)

// Config is the `window` operator.
type Config struct {
	// Every is the distance from one window to the next.
	Every time.Duration `yaml:"every"`
	// Size is how much time a window covers: a multiple of every, which it is
	// when left out (tumbling windows). A larger one makes sliding windows.
	Size time.Duration `yaml:"size"`
	// Offset shifts the windows, such as 6h for days that begin at six (UTC).
	Offset time.Duration `yaml:"offset"`
	// Aggregates are the columns to make: mean, min, max, std, count, first,
	// last, rate, good. The column count is always there.
	Aggregates []string `yaml:"aggregates"`
	// Column is the float64 column to aggregate.
	Column string `yaml:"column"`
	// Bad says what becomes of rows of Bad quality: skip, or include.
	Bad string `yaml:"bad"`
	// Late says what becomes of late rows: drop (and count), or route to the
	// port `late`.
	Late string `yaml:"late"`
}

// DefaultConfig returns the settings where the YAML is silent.
func DefaultConfig() Config {
	return Config{Aggregates: []string{"mean", "min", "max"}, Column: pipeline.NameValue, Bad: "skip", Late: "drop"}
}

const maxPanes = 10_000 // size / every

var aggregates = []string{"mean", "min", "max", "std", "count", "first", "last", "rate", "good"}

// Validate checks the settings.
func (c *Config) Validate(p *pipeline.Problems) {
	if c.Every <= 0 {
		p.Add("every", fmt.Sprintf("%v is not a window", c.Every), "write how often a window ends, such as 60s")
	} else if c.Size < 0 || c.Size%c.Every != 0 {
		p.Add("size", fmt.Sprintf("%v is not a multiple of every (%v)", c.Size, c.Every),
			fmt.Sprintf("write a multiple such as %v, or leave it out for windows that do not overlap", 5*c.Every))
	} else if c.Size/c.Every > maxPanes {
		p.Add("size", fmt.Sprintf("%v is %d times every", c.Size, c.Size/c.Every), fmt.Sprintf("write at most %d times every", maxPanes))
	}
	if len(c.Aggregates) == 0 {
		p.Add("aggregates", "is empty", "write a list such as [mean, max]; there are "+strings.Join(aggregates, ", "))
	}
	for i, a := range c.Aggregates {
		path := fmt.Sprintf("aggregates[%d]", i)
		if !slices.Contains(aggregates, a) {
			p.Add(path, fmt.Sprintf("%q is not an aggregate", a), "write one of "+strings.Join(aggregates, ", "))
		} else if slices.Contains(c.Aggregates[:i], a) {
			p.Add(path, fmt.Sprintf("%q is there twice", a), "remove one")
		}
	}
	if c.Column == "" {
		p.Add("column", "is empty", "write the column to aggregate, such as value or score")
	}
	if c.Bad != "skip" && c.Bad != "include" {
		p.Add("bad", fmt.Sprintf("%q is not known", c.Bad), "write skip or include")
	}
	if c.Late != "drop" && c.Late != "route" {
		p.Add("late", fmt.Sprintf("%q is not known", c.Late), "write drop or route")
	}
}
