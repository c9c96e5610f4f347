// Package filter is the operator that keeps the rows for which an expression
// is true.
//
// The language is that of expr-lang/expr, cut down to what runs on columns:
// the expression is parsed once and compiled to nodes that each take a whole
// batch. What depends on the tag alone (`tag`, `asset`, `measurement`, `unit`)
// is worked out once for each tag, not for each row.
//
// Values are numbers (float64; integer columns are converted), booleans,
// strings, times (`time > date("2026-05-01T06:00:00Z")`) and durations
// (`received - time > duration("5s")`).
//
// Null works as in SQL: whatever is computed from null is null, `false and
// null` is false, `true or null` is true, and a row whose result is null does
// not pass. `x == nil` and `x != nil` ask for null; `x ?? 0` replaces it.
// NaN works as in IEEE 754: every comparison with it is false, but != is true.
package filter

import (
	"github.com/penstock/penstock/pipeline"
)

// Config is the `filter` operator.
type Config struct {
	// Expr is the condition, over the columns of the input and the tag's
	// asset, measurement and unit: `good(quality) and value > 80`.
	Expr string `yaml:"expr"`
	// Rejected makes a second output, named `rejected`, of the rows that do
	// not pass.
	Rejected bool `yaml:"rejected"`
}

// DefaultConfig returns the settings where the YAML is silent.
func DefaultConfig() Config { return Config{} }

// Validate checks the expression as far as it can be without the input's
// columns; names that readings do not have are checked by Open.
func (c *Config) Validate(p *pipeline.Problems) {
	if c.Expr == "" {
		p.Add("expr", "is empty", "write a condition such as: good(quality) and value > 80")
		return
	}
	if _, err := compile(c.Expr, pipeline.Readings, nil, true); err != nil {
		p.Add("expr", err.Error(), err.hint)
	}
}
