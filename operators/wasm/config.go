package wasm

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/penstock/penstock/operators/modules"
	"github.com/penstock/penstock/operators/wasm/binfmt"
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
	// Module is the name of a shipped module, such as ewma, the path of a .wasm
	// file, or a reference with a digest into an OCI registry or layout folder:
	// oci://registry/repository:tag@sha256:..., oci-layout:folder:tag@sha256:...
	Module string `yaml:"module"`
	// Watch looks at the file every few seconds, and deploys what stands there
	// when it has changed, between two batches, as `penstock operator deploy`
	// does. Replace the file by renaming a new one over it. Of a reference it
	// looks at the tag, each minute in a registry: the digest says with which
	// module the pipeline starts, and what the tag names later is deployed when a
	// key in modules.trust signed it.
	Watch bool `yaml:"watch,omitempty"`
	// Params are the module's parameters, as its manifest lists them. Those
	// left out have the manifest's default.
	Params map[string]any `yaml:"params,omitempty"`
	// Prefix is put before the names of the columns that the module adds, so
	// that one input can pass through two modules whose columns have the same
	// names.
	Prefix string `yaml:"prefix,omitempty"`
	// Engine runs the module: wasmer, wazero, wasmtime, or auto. In a build
	// that has wasmer, auto is wasmer where the module is shipped or signed by a
	// key in modules.trust and uses no instruction that wasmer gets wrong; in
	// one that has wasmtime in its place, auto is wasmtime; else it is wazero.
	// wasmer is refused for a module that is not trusted; wasmer-untrusted runs
	// it there all the same, though wasmer's compiler is no security boundary:
	// for modules that you built yourself. The log says what was chosen and why.
	Engine string `yaml:"engine"`
	// Memory is the most that the module may have, 64KiB to 4GiB.
	Memory pipeline.ByteSize `yaml:"memory"`
	// Metered says whether the module counts its work and is stopped beyond
	// fuel: always, never, or auto, which is never for modules that ship with
	// Penstock or that a key in modules.trust signed, unless they run on wazero,
	// and always for all others. One that is metered runs slower by 5 to 15 %; one
	// that is not can be ended by deadline only, and on wazero not even by that.
	Metered string `yaml:"metered"`
	// Fuel bounds what one call may do, in instructions of the module (one that
	// moves or grows memory or tables counts as 32, and more by how much); what it
	// makes the host do may be as much again, a call of the host counting as
	// 1000 and each byte that the host reads or writes as 1. A call beyond it is
	// stopped at the same instruction each time, on every engine.
	Fuel Fuel `yaml:"fuel"`
	// Deadline is the last resort: a call that takes longer, by the clock, is the
	// last one of the module, which goes into quarantine. What is metered is
	// stopped by its fuel long before, at the same instruction each time; the
	// clock is for what is not. If it has not come back some seconds later, the
	// thread that is in it is left behind, and the pipeline goes on with the next
	// batch. 1s to 1h, or 0s for never.
	Deadline time.Duration `yaml:"deadline"`
	// MaxOutputRows bounds what a module that makes rows of its own may make
	// in one call, 1 to 16777216.
	MaxOutputRows int `yaml:"max_output_rows"`
	// MaxOutputBytes bounds what a module may hand out in one call.
	MaxOutputBytes pipeline.ByteSize `yaml:"max_output_bytes"`
	// MaxTags bounds how many tags a module may make, in each shard: an endless
	// stream of new ones would fill the memory of all that comes behind it. Those of
	// the batch that it was just given do not count. 1 to 1000000.
	MaxTags int `yaml:"max_tags"`
	// QuarantineAfter is after how many failed batches the module is not called
	// any more: its batches then go by on_error. Ten batches that it takes well make
	// up for one. 0 is never.
	QuarantineAfter int `yaml:"quarantine_after"`
	// OnError says what happens to a batch on which the module fails: pass
	// lets the input rows go on with nulls in the added columns (a module
	// that makes rows of its own has nothing to add to: its rows are dropped),
	// drop drops and counts them, stop stops the pipeline.
	OnError string `yaml:"on_error"`
	// Seed starts the random numbers that a module may ask for.
	Seed uint64 `yaml:"seed,omitempty"`

	source  func(ref string) ([]byte, error)
	modules pipeline.Modules // nothing is trusted but what is shipped, until UseModules
}

// SetSource sets what gets the module that a reference names. Without it a
// reference is an error. An error of source may have a method Hint() string
// that says what to write instead.
func (c *Config) SetSource(source func(ref string) ([]byte, error)) { c.source = source }

// UseModules says which keys are trusted and what becomes of other modules.
func (c *Config) UseModules(m pipeline.Modules) { c.modules = m }

// Fuel is what a call may use: per_call, and for process per_row with each row
// of the batch besides. A loop in a batch of 8192 rows is stopped after 1 to 3
// seconds with the defaults; the shipped kernels use 30 to 1000 per row.
type Fuel struct {
	// PerCall is for each call into the module, whatever it does: 10000 to 1e15.
	PerCall int64 `yaml:"per_call"`
	// PerRow is for each row of a batch besides: up to 1e9.
	PerRow int64 `yaml:"per_row"`
}

// Values of Config.Metered.
const (
	MeteredAuto   = "auto"
	MeteredAlways = "always"
	MeteredNever  = "never"
)

const (
	minFuelCall = 10_000
	maxFuelCall = 1_000_000_000_000_000
	maxFuelRow  = 1_000_000_000
)

// DefaultConfig is a Config where the YAML is silent.
func DefaultConfig() Config {
	return Config{Engine: EngineAuto, Memory: 64 << 20, OnError: OnErrorPass, Metered: MeteredAuto, Fuel: Fuel{PerCall: 500_000_000, PerRow: 100_000}, Deadline: 30 * time.Second,
		MaxOutputRows: 1 << 20, MaxOutputBytes: 64 << 20, MaxTags: 250_000, QuarantineAfter: 10}
}

// Validate checks the settings, reads the module, and checks the parameters
// against its manifest.
func (c *Config) Validate(p *pipeline.Problems) {
	oneOf(p, "engine", c.Engine, EngineAuto, EngineWasmer, EngineWasmtime, EngineWazero, EngineWasmerUntrusted)
	oneOf(p, "metered", c.Metered, MeteredAuto, MeteredAlways, MeteredNever)
	if c.Fuel.PerCall < minFuelCall || c.Fuel.PerCall > maxFuelCall {
		p.Add("fuel.per_call", fmt.Sprintf("%d is out of range", c.Fuel.PerCall), "write 10000 to 1000000000000000; 500000000 suits most modules")
	}
	if c.Fuel.PerRow < 0 || c.Fuel.PerRow > maxFuelRow {
		p.Add("fuel.per_row", fmt.Sprintf("%d is out of range", c.Fuel.PerRow), "write 0 to 1000000000; 100000 suits most modules")
	}
	if c.Deadline != 0 && (c.Deadline < time.Second || c.Deadline > time.Hour) {
		p.Add("deadline", fmt.Sprintf("%v is out of range", c.Deadline), "write 1s to 1h, or 0s for never; 30s suits most modules")
	}
	if c.MaxOutputRows < 1 || c.MaxOutputRows > maxRows {
		p.Add("max_output_rows", fmt.Sprintf("%d is out of range", c.MaxOutputRows), fmt.Sprintf("write 1 to %d", maxRows))
	}
	if c.MaxOutputBytes < 1 {
		p.Add("max_output_bytes", fmt.Sprintf("%v is out of range", c.MaxOutputBytes), "write 1B or more; 64MiB suits most modules")
	}
	if c.MaxTags < 1 || c.MaxTags > 1_000_000 {
		p.Add("max_tags", fmt.Sprintf("%d is out of range", c.MaxTags), "write how many tags the module may make, 1 to 1000000")
	}
	if c.QuarantineAfter < 0 {
		p.Add("quarantine_after", fmt.Sprintf("%d is negative", c.QuarantineAfter), "write a number of batches, or 0 for never")
	}
	oneOf(p, "on_error", c.OnError, OnErrorPass, OnErrorDrop, OnErrorStop)
	if c.Memory < PageSize || c.Memory > binfmt.MaxPages*PageSize {
		p.Add("memory", fmt.Sprintf("%v is out of range", c.Memory), "write 64KiB to 4GiB; 64MiB suits most modules")
	}
	if c.Prefix != "" && !columnRE.MatchString(c.Prefix) {
		p.Add("prefix", fmt.Sprintf("%q cannot begin a column's name", c.Prefix), "write lower-case letters, digits and _, beginning with a letter, such as slow_")
	}
	if c.Module == "" {
		p.Add("module", "is missing", "write "+shippedOr("a path to a .wasm file"))
		return
	}
	wasm, err := c.Code()
	if err != nil {
		hint := "write " + shippedOr("a path to a .wasm file")
		var hinted interface{ Hint() string }
		if errors.As(err, &hinted) {
			hint = hinted.Hint()
		}
		p.Add("module", err.Error(), hint)
		return
	}
	switch {
	case !c.Watch:
	case IsReference(c.Module) && !hasTag(c.Module):
		p.Add("watch", fmt.Sprintf("%s has no tag to look at", c.Module), "write the tag before the @")
	case IsReference(c.Module) && len(c.modules.Trust) == 0:
		p.Add("watch", "nothing that comes under the tag could be deployed, since modules.trust lists no key", "list the key that signs your modules (penstock operator keygen, sign), or take watch out")
	case !IsReference(c.Module) && !isFile(c.Module):
		p.Add("watch", fmt.Sprintf("%s is no file that could change", c.Module), "take watch out, or name a .wasm file or a reference with a tag")
	}
	info, err := Inspect(wasm)
	if err != nil {
		p.Add("module", err.Error(), "use a module that is built for Penstock (see operators/sdk)")
		return
	}
	if _, err := c.choose(wasm, &info); err != nil {
		var refused *refusal
		if errors.As(err, &refused) {
			p.Add(refused.key, refused.message, refused.hint)
		} else {
			p.Add("module", err.Error(), "")
		}
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

// values returns the parameters in the manifest's order, from those given.
func (m *Manifest) values(params map[string]any) ([]paramValue, error) {
	out := make([]paramValue, len(m.Params))
	for i := range m.Params {
		p := &m.Params[i]
		v, given := params[p.Name]
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

// isFile tells the path of a module from the name of a shipped one.
func isFile(name string) bool {
	return strings.ContainsAny(name, `/\`) || strings.HasSuffix(name, ".wasm")
}

// IsReference reports whether name is a reference into an OCI registry or
// layout folder, well formed or not.
func IsReference(name string) bool {
	return strings.HasPrefix(name, "oci:") || strings.HasPrefix(name, "oci-layout:")
}

// hasTag reports whether a well-formed reference has a tag.
func hasTag(ref string) bool {
	_, name, _ := strings.Cut(ref, ":")
	name = name[strings.LastIndexAny(name, `/\`)+1:]
	name, _, _ = strings.Cut(name, "@")
	return strings.Contains(name, ":")
}

// load returns the module that the config names.
func (c *Config) Code() ([]byte, error) {
	if c.source != nil && IsReference(c.Module) {
		return c.source(c.Module)
	}
	return Load(c.Module)
}

// Load returns a shipped module by its name, or the file at a path, which is
// what has a slash or ends in .wasm. A reference is an error: only a pipeline
// has a module store.
func Load(name string) ([]byte, error) {
	if IsReference(name) {
		return nil, fmt.Errorf("%s is a reference: `penstock operator pull` makes a file of it", name)
	}
	if !isFile(name) {
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
