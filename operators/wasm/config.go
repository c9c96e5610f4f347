package wasm

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"

	"github.com/penstock/penstock/operators/modules"
	"github.com/penstock/penstock/pipeline"
)

// What happens to a batch on which the module fails.
const (
	OnErrorPass = "pass"
	OnErrorDrop = "drop"
	OnErrorStop = "stop"
)

// Config is a `wasm` operator: a module that computes on whole batches.
type Config struct {
	// Module is the name of a shipped module, such as ewma, or the path of a
	// .wasm file.
	Module string `yaml:"module"`
	// Params are the module's parameters, as its manifest lists them. Those
	// left out have the manifest's default.
	Params map[string]any `yaml:"params,omitempty"`
	// Prefix is put before the names of the columns that the module adds, so
	// that one input can pass through two modules whose columns have the same
	// names.
	Prefix string `yaml:"prefix,omitempty"`
	// Engine runs the module: wasmer, wazero, wasmtime, or auto, which is the
	// build's native engine (wasmer, or wasmtime in a build that has it in its
	// place) unless there is none or it gets an instruction of the module wrong;
	// then it is wazero. The log says what was chosen and why.
	Engine string `yaml:"engine"`
	// Memory is the most that the module may have, 64KiB to 4GiB.
	Memory pipeline.ByteSize `yaml:"memory"`
	// OnError says what happens to a batch on which the module fails: pass
	// lets the input rows go on with nulls in the added columns (a module
	// that makes rows of its own has nothing to add to: its rows are dropped),
	// drop drops and counts them, stop stops the pipeline.
	OnError string `yaml:"on_error"`
	// Seed starts the random numbers that a module may ask for.
	Seed uint64 `yaml:"seed,omitempty"`
}

// DefaultConfig is a Config where the YAML is silent.
func DefaultConfig() Config {
	return Config{Engine: EngineAuto, Memory: 64 << 20, OnError: OnErrorPass}
}

// Validate checks the settings, reads the module, and checks the parameters
// against its manifest.
func (c *Config) Validate(p *pipeline.Problems) {
	oneOf(p, "engine", c.Engine, EngineAuto, EngineWasmer, EngineWasmtime, EngineWazero)
	oneOf(p, "on_error", c.OnError, OnErrorPass, OnErrorDrop, OnErrorStop)
	if m := missing(c.Engine); m != "" {
		p.Add("engine", m, "write wazero, or auto")
	}
	if c.Memory < PageSize || c.Memory > maxPages*PageSize {
		p.Add("memory", fmt.Sprintf("%v is out of range", c.Memory), "write 64KiB to 4GiB; 64MiB suits most modules")
	}
	if c.Prefix != "" && !columnRE.MatchString(c.Prefix) {
		p.Add("prefix", fmt.Sprintf("%q cannot begin a column's name", c.Prefix), "write lower-case letters, digits and _, beginning with a letter, such as slow_")
	}
	if c.Module == "" {
		p.Add("module", "is missing", "write "+shippedOr("a path to a .wasm file"))
		return
	}
	wasm, err := Load(c.Module)
	if err != nil {
		p.Add("module", err.Error(), "write "+shippedOr("a path to a .wasm file"))
		return
	}
	info, err := Inspect(wasm)
	if err != nil {
		p.Add("module", err.Error(), "use a module that is built for Penstock (see operators/sdk)")
		return
	}
	if _, _, err := engineFor(c.Engine, &info); err != nil && missing(c.Engine) == "" {
		p.Add("engine", err.Error(), "write auto or wazero")
	}
	if need := pipeline.ByteSize(info.MemoryMin) * PageSize; need > c.Memory && c.Memory >= PageSize {
		p.Add("memory", fmt.Sprintf("the module needs %v at its start, more than %v", need, c.Memory), fmt.Sprintf("write at least %v", need))
	}
	c.validateParams(p.At("params"), &info.Manifest)
}

func (c *Config) validateParams(p *pipeline.Problems, m *Manifest) {
	names := make([]string, len(m.Params))
	for i := range m.Params {
		names[i] = m.Params[i].Name
	}
	for _, key := range slices.Sorted(maps.Keys(c.Params)) {
		i := slices.Index(names, key)
		if i < 0 {
			hint := fmt.Sprintf("the module %s has no parameters", m.Name)
			if len(names) > 0 {
				hint = fmt.Sprintf("its parameters are %s", strings.Join(names, ", "))
				if n := nearest(key, names); n != "" {
					hint = fmt.Sprintf("did you mean %s? %s", n, hint)
				}
			}
			p.Add(key, fmt.Sprintf("the module %s has no such parameter", m.Name), hint)
			continue
		}
		if _, err := m.Params[i].value(c.Params[key]); err != nil {
			p.Add(key, err.Error(), m.Params[i].hint())
		}
	}
	for i := range m.Params {
		if _, given := c.Params[names[i]]; !given && m.Params[i].Default == nil {
			p.Add(names[i], fmt.Sprintf("is missing: the module %s has no default for it", m.Name), m.Params[i].hint())
		}
	}
}

// hint says what may be written for the parameter.
func (p *Param) hint() string {
	var s string
	switch p.Type {
	case "bool":
		s = "write true or false"
	case "enum":
		s = "write one of " + strings.Join(p.Enum, ", ")
	case "duration":
		s = "write a duration such as 30s"
	case "string":
		s = "write a text"
	case "int":
		s = "write a whole number" + unitPhrase(p.Unit)
	default:
		s = "write a number" + unitPhrase(p.Unit)
	}
	switch {
	case p.Min != nil && p.Max != nil:
		s += fmt.Sprintf(" from %v to %v", p.Min, p.Max)
	case p.Min != nil:
		s += fmt.Sprintf(", at least %v", p.Min)
	case p.Max != nil:
		s += fmt.Sprintf(", at most %v", p.Max)
	}
	if p.Default != nil {
		s += fmt.Sprintf("; the default is %v", p.Default)
	}
	return s
}

func unitPhrase(u string) string {
	if u == "" {
		return ""
	}
	return " in " + u
}

// values returns the parameters in the manifest's order.
func (c *Config) values(m *Manifest) ([]paramValue, error) {
	out := make([]paramValue, len(m.Params))
	for i := range m.Params {
		p := &m.Params[i]
		v, given := c.Params[p.Name]
		if !given {
			v = p.Default
		}
		if v == nil {
			return nil, fmt.Errorf("params.%s is missing", p.Name)
		}
		var err error
		if out[i], err = p.value(v); err != nil {
			return nil, fmt.Errorf("params.%s: %w", p.Name, err)
		}
	}
	return out, nil
}

func oneOf(p *pipeline.Problems, path, v string, allowed ...string) {
	if slices.Contains(allowed, v) {
		return
	}
	hint := "write one of " + strings.Join(allowed, ", ")
	if n := nearest(v, allowed); n != "" {
		hint = fmt.Sprintf("did you mean %s? %s", n, hint)
	}
	p.Add(path, fmt.Sprintf("%q is not known", v), hint)
}

func shippedOr(other string) string {
	names := modules.Names()
	if len(names) == 0 {
		return other
	}
	return "one of " + strings.Join(names, ", ") + ", or " + other
}

// Load returns the module that a config names: a shipped one, or the file at
// a path, which is what has a slash or ends in .wasm.
func Load(name string) ([]byte, error) {
	if !strings.ContainsAny(name, `/\`) && !strings.HasSuffix(name, ".wasm") {
		if b, ok := modules.Get(name); ok {
			return b, nil
		}
		if n := nearest(name, modules.Names()); n != "" {
			return nil, fmt.Errorf("there is no shipped module %q: did you mean %s?", name, n)
		}
		return nil, fmt.Errorf("there is no shipped module %q", name)
	}
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close() //nolint:errcheck // only read
	if st, err := f.Stat(); err != nil || !st.Mode().IsRegular() {
		return nil, errors.Join(err, fmt.Errorf("%s is not a file", name))
	}
	b, err := io.ReadAll(io.LimitReader(f, MaxModuleSize+1))
	if err != nil {
		return nil, err
	}
	if len(b) > MaxModuleSize {
		return nil, fmt.Errorf("%s is larger than %v", name, pipeline.ByteSize(MaxModuleSize))
	}
	return b, nil
}

// nearest returns which of names is at most two edits (a third of it, for
// short ones) from s, or "".
func nearest(s string, names []string) string {
	best, at := 1+max(1, min(2, len(s)/3)), ""
	for _, n := range names {
		if d := edits(s, n); d < best {
			best, at = d, n
		}
	}
	return at
}

// edits is the Levenshtein distance, with a swap of neighbours as one edit.
func edits(a, b string) int {
	if len(a) > 64 || len(b) > 64 {
		return 64
	}
	var d [65][65]int
	for i := range len(a) + 1 {
		d[i][0] = i
	}
	for j := range len(b) + 1 {
		d[0][j] = j
	}
	for i := 1; i <= len(a); i++ {
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			d[i][j] = min(d[i-1][j]+1, d[i][j-1]+1, d[i-1][j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				d[i][j] = min(d[i][j], d[i-2][j-2]+1)
			}
		}
	}
	return d[len(a)][len(b)]
}
