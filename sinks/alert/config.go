// Package alert turns rows into alerts. A [Rule] is an operator, so that
// alerts are deterministic: the same journal gives the same alerts with the
// same ids. Its output, [pipeline.AlertEvents], has one row for each change:
// raised or cleared. The packages below it deliver these rows.
//
// A rule has one condition, which it follows for each tag by itself:
//
//	above, below  the number in `column` is beyond the limit (either, or both
//	              for a band). It is over once the number is back by
//	              `hysteresis`, or at the limit without one.
//	bad           quality is Bad.
//	stale         no row of the tag has come for this long. Tags never seen
//	              cannot be stale.
//	stuck         the number has not moved by more than `tolerance` for this
//	              long, whether the same value is sent again or, as an OPC UA
//	              server does, nothing.
//
// Times are event times. `on_delay` and `off_delay` run from the first row
// that meets (no longer meets) the condition, and start anew when a row
// disagrees, be it in the very last moment; between two rows the first one
// holds. A delay is over when a row or the watermark is beyond its end, and the
// event carries the time of its end: it does not depend on which of them came
// first, nor on how rows are batched.
//
// Rows that are Bad, null or not a number are treated by `when_bad`: hold
// neither raises nor clears, and delays that run start anew; clear takes them
// for rows that do not meet the condition; raise for rows that do. Uncertain
// rows count like Good ones. Rows older than what the rule has already decided
// for their tag are counted as dropped with reason late.
package alert

import (
	"fmt"
	"path"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/penstock/penstock/pipeline"
)

// Config is one rule under `alerts`.
type Config struct {
	// Above raises when the number is greater.
	Above *float64 `yaml:"above,omitempty"`
	// Below raises when the number is less.
	Below *float64 `yaml:"below,omitempty"`
	// Bad raises when the quality is Bad.
	Bad bool `yaml:"bad,omitempty"`
	// Stale raises when no row of a tag has come for this long.
	Stale time.Duration `yaml:"stale,omitempty"`
	// Stuck raises when the number has not moved for this long.
	Stuck time.Duration `yaml:"stuck,omitempty"`
	// Tolerance is how far a stuck number may move, in its unit.
	Tolerance float64 `yaml:"tolerance,omitempty"`
	// Column is the float64 column to watch. Left out it is `score` for above
	// and below, and `value` for the others.
	Column string `yaml:"column,omitempty"`
	// Hysteresis is how far the number must come back before the alert
	// clears, in its unit.
	Hysteresis float64 `yaml:"hysteresis,omitempty"`
	// OnDelay is how long the condition must hold before the alert is raised.
	OnDelay time.Duration `yaml:"on_delay,omitempty"`
	// OffDelay is how long it must be over before the alert clears.
	OffDelay time.Duration `yaml:"off_delay,omitempty"`
	// MinSamples is how many rows in a row must meet the condition before the
	// alert is raised.
	MinSamples int `yaml:"min_samples,omitempty"`
	// WhenBad says what rows without a usable number do: hold, clear or raise.
	WhenBad string `yaml:"when_bad"`
	// Severity is info, warning or critical.
	Severity string `yaml:"severity"`
	// Tags are globs over the tag's segments, as in path.Match: only tags that
	// match one are watched. Left out, all are.
	Tags []string `yaml:"tags,omitempty"`
	// Message is the text of the raise. {tag}, {asset}, {measurement}, {unit},
	// {value}, {limit}, {rule} and {severity} are filled in.
	Message string `yaml:"message,omitempty"`
}

// DefaultConfig returns the settings where the YAML is silent.
func DefaultConfig() Config { return Config{WhenBad: "hold", Severity: "warning"} }

// condition is what kind of rule it is.
type condition uint8

const (
	onLimit condition = iota
	onBad
	onStale
	onStuck
)

// conditions returns those that the config has.
func (c *Config) conditions() []condition {
	var l []condition
	if c.Above != nil || c.Below != nil {
		l = append(l, onLimit)
	}
	if c.Bad {
		l = append(l, onBad)
	}
	if c.Stale != 0 {
		l = append(l, onStale)
	}
	if c.Stuck != 0 {
		l = append(l, onStuck)
	}
	return l
}

var (
	placeholder  = regexp.MustCompile(`\{[^{}]*\}`)
	placeholders = []string{"{tag}", "{asset}", "{measurement}", "{unit}", "{value}", "{limit}", "{rule}", "{severity}"}
)

// Validate checks the settings.
func (c *Config) Validate(p *pipeline.Problems) {
	switch kinds := c.conditions(); {
	case len(kinds) == 0:
		p.Add("", "the rule has no condition", "write one of above: 6, below: 2, bad: true, stale: 30s, stuck: 10s")
	case len(kinds) > 1:
		p.Add("", "the rule has more than one condition", "make a rule for each; only above and below go together")
	default:
		c.validateFor(kinds[0], p)
	}
	for _, d := range []struct {
		key string
		v   time.Duration
	}{{"on_delay", c.OnDelay}, {"off_delay", c.OffDelay}, {"stale", c.Stale}, {"stuck", c.Stuck}} {
		if d.v < 0 {
			p.Add(d.key, fmt.Sprintf("%v is negative", d.v), "write a duration such as 10s")
		}
	}
	if c.MinSamples < 0 {
		p.Add("min_samples", fmt.Sprintf("%d is negative", c.MinSamples), "write how many rows in a row must meet the condition")
	}
	if !slices.Contains([]string{"info", "warning", "critical"}, c.Severity) {
		p.Add("severity", fmt.Sprintf("%q is not a severity", c.Severity), "write info, warning or critical")
	}
	if !slices.Contains([]string{"hold", "clear", "raise"}, c.WhenBad) {
		p.Add("when_bad", fmt.Sprintf("%q is not known", c.WhenBad), "write hold, clear or raise")
	}
	for i, g := range c.Tags {
		if _, err := path.Match(g, ""); err != nil || g == "" {
			p.Add(fmt.Sprintf("tags[%d]", i), fmt.Sprintf("%q is not a pattern", g), `write a pattern such as "plant1/*/*/vibration*"`)
		}
	}
	for _, ph := range placeholder.FindAllString(c.Message, -1) {
		if !slices.Contains(placeholders, ph) {
			p.Add("message", ph+" is not known", "write one of "+strings.Join(placeholders, " "))
		}
	}
}

func (c *Config) validateFor(kind condition, p *pipeline.Problems) {
	if c.Hysteresis < 0 || c.Hysteresis > 0 && kind != onLimit {
		p.Add("hysteresis", "has no meaning here", "write a number that is not negative, with above or below")
	}
	if c.Above != nil && c.Below != nil && !(*c.Below+c.Hysteresis <= *c.Above-c.Hysteresis) {
		p.Add("below", fmt.Sprintf("%v and above %v leave no room for normal values with hysteresis %v", *c.Below, *c.Above, c.Hysteresis),
			"write a below that is less than above by at least two hystereses")
	}
	if c.Tolerance < 0 || c.Tolerance > 0 && kind != onStuck {
		p.Add("tolerance", "has no meaning here", "write a number that is not negative, with stuck")
	}
	if kind == onStale || kind == onStuck {
		if c.OnDelay > 0 {
			p.Add("on_delay", "has no meaning here", "make the time after stale or stuck longer")
		}
		if c.MinSamples > 1 {
			p.Add("min_samples", "has no meaning here", "remove it: stale and stuck are about time")
		}
	}
}
