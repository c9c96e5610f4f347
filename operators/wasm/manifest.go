package wasm

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/apache/arrow/go/v17/arrow"

	"github.com/penstock/penstock/operators/wasm/binfmt"
	"github.com/penstock/penstock/operators/wasm/trust"
	"github.com/penstock/penstock/pipeline"
)

// manifestSection is the custom section that the manifest travels in.
const manifestSection = "penstock.manifest"

// Limits of a manifest.
const (
	maxManifest = 64 << 10
	maxParams   = 64
	maxColumns  = 64
	maxEnum     = 64
	maxDoc      = 4096
)

// Kinds of modules.
const (
	KindMap  = "map"  // adds columns to each input row
	KindEmit = "emit" // makes rows of its own
)

// Manifest says what a module is. It is JSON in a custom section of the .wasm.
type Manifest struct {
	Name    string   `json:"name"`    // lower case, digits, _ and -
	Version string   `json:"version"` // semantic version, without a v
	ABI     int      `json:"abi"`     // 1
	Kind    string   `json:"kind"`    // map or emit
	Doc     string   `json:"doc"`
	Params  []Param  `json:"params,omitempty"`
	Input   []Column `json:"input"`
	Output  []Column `json:"output"`
	Limits  Limits   `json:"limits,omitzero"`
	// State names the layout of the module's snapshots: a module of the same
	// name whose manifest says the same goes on with them. Empty: only the very
	// same build does.
	State  string   `json:"state,omitempty"`
	Golden []Golden `json:"golden,omitempty"`
}

// Param is one parameter. Default, Min and Max are written as the value is in
// the YAML: a number, true, "30s", one of Enum, a string. Without a default
// the parameter must be given.
type Param struct {
	Name    string   `json:"name"`
	Type    string   `json:"type"` // float int bool duration enum string
	Unit    string   `json:"unit,omitempty"`
	Default any      `json:"default,omitempty"`
	Min     any      `json:"min,omitempty"` // inclusive
	Max     any      `json:"max,omitempty"` // inclusive
	Enum    []string `json:"enum,omitempty"`
	Doc     string   `json:"doc"`
}

// Column is one column that a module takes or makes.
type Column struct {
	Name     string `json:"name"`
	Type     string `json:"type"` // timestamp tag float64 uint32 string bool int64
	Nullable bool   `json:"nullable,omitempty"`
	Unit     string `json:"unit,omitempty"`
	Doc      string `json:"doc,omitempty"`
}

// Limits are what the module needs to work at its best.
type Limits struct {
	MemoryPages uint32 `json:"memory_pages,omitempty"` // of 64 KiB; 0 says nothing
}

// ReadManifest returns the manifest that travels in wasm, validated.
func ReadManifest(wasm []byte) (Manifest, error) {
	secs, err := binfmt.Sections(wasm)
	if err != nil {
		return Manifest{}, err
	}
	var found []byte
	for _, s := range secs {
		if s.ID == binfmt.SecCustom && s.Name == manifestSection {
			if found != nil {
				return Manifest{}, fmt.Errorf("the module has two %q sections", manifestSection)
			}
			found = s.Body
		}
	}
	if found == nil {
		return Manifest{}, fmt.Errorf("the module has no manifest (custom section %q): add one with `penstock operator pack`", manifestSection)
	}
	m, err := ParseManifest(found)
	if err == nil {
		err = m.complete()
	}
	return m, err
}

// ParseManifest reads and validates a manifest's JSON. Unknown keys are errors.
func ParseManifest(text []byte) (Manifest, error) {
	var m Manifest
	if len(text) > maxManifest {
		return m, fmt.Errorf("the manifest has %d bytes, the limit is %d", len(text), maxManifest)
	}
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	if err := d.Decode(&m); err != nil {
		return Manifest{}, fmt.Errorf("the manifest is not as it should be: %w", plainJSON(text, err))
	}
	if _, err := d.Token(); err != io.EOF {
		return Manifest{}, errors.New("the manifest has more than one JSON value")
	}
	if err := m.Validate(); err != nil {
		return Manifest{}, err
	}
	return m, nil
}

// plainJSON says where in text a JSON error is, and without the words of Go.
func plainJSON(text []byte, err error) error {
	var syntax *json.SyntaxError
	var wrong *json.UnmarshalTypeError
	switch {
	case errors.As(err, &syntax):
		line := 1 + bytes.Count(text[:min(int(syntax.Offset), len(text))], []byte{'\n'})
		return fmt.Errorf("line %d: %w", line, err)
	case errors.As(err, &wrong):
		line := 1 + bytes.Count(text[:min(int(wrong.Offset), len(text))], []byte{'\n'})
		if wrong.Field == "" {
			return fmt.Errorf("line %d: it is a JSON %s, not an object", line, wrong.Value)
		}
		return fmt.Errorf("line %d: %s cannot be a JSON %s", line, wrong.Field, wrong.Value)
	}
	return err
}

// codeOnly is the module without what it says about itself.
func codeOnly(wasm []byte) ([]byte, error) {
	return binfmt.WithoutCustom(wasm, manifestSection, trust.Section)
}

// Pack returns wasm with m as its manifest; one that it has is replaced, and
// signatures, which would not hold, are left out. Golden vectors without a
// digest are refused: see [FillGolden].
func Pack(wasm []byte, m Manifest) ([]byte, error) {
	if err := errors.Join(m.Validate(), m.complete()); err != nil {
		return nil, err
	}
	out, err := codeOnly(wasm)
	if err != nil {
		return nil, err
	}
	text, err := json.Marshal(m)
	if err != nil {
		return nil, err
	}
	if len(text) > maxManifest {
		return nil, fmt.Errorf("the manifest has %d bytes, the limit is %d", len(text), maxManifest)
	}
	body := binfmt.AppendU32(nil, uint32(len(manifestSection)))
	body = append(body, manifestSection...)
	body = append(body, text...)
	out = append(out, binfmt.SecCustom)
	out = binfmt.AppendU32(out, uint32(len(body)))
	return append(out, body...), nil
}

var (
	nameRE    = regexp.MustCompile(`^[a-z][a-z0-9_-]{0,63}$`)
	columnRE  = regexp.MustCompile(`^[a-z][a-z0-9_]{0,63}$`)
	versionRE = regexp.MustCompile(`^\d{1,9}\.\d{1,9}\.\d{1,9}(-[0-9A-Za-z.-]{1,32})?$`)
)

// Validate returns all that is wrong with m, joined, or nil.
func (m *Manifest) Validate() error {
	var errs []error
	bad := func(format string, a ...any) { errs = append(errs, fmt.Errorf("manifest: "+format, a...)) }
	if !nameRE.MatchString(m.Name) {
		bad("name %q: write lower-case letters, digits, _ and -, at most 64", m.Name)
	}
	if !versionRE.MatchString(m.Version) {
		bad("version %q: write a semantic version such as 1.0.0", m.Version)
	}
	if m.ABI != abiVersion {
		bad("abi %d: this Penstock speaks ABI %d", m.ABI, abiVersion)
	}
	if m.Kind != KindMap && m.Kind != KindEmit {
		bad("kind %q: write map or emit", m.Kind)
	}
	if len(m.Doc) > maxDoc {
		bad("doc has %d bytes, the limit is %d", len(m.Doc), maxDoc)
	}
	if len(m.Params) > maxParams {
		bad("%d params, the limit is %d", len(m.Params), maxParams)
	}
	if n := m.Limits.MemoryPages; n > binfmt.MaxPages {
		bad("limits.memory_pages %d: 32-bit memory has at most %d", n, binfmt.MaxPages)
	}
	seen := map[string]bool{}
	for i := range m.Params {
		p := &m.Params[i]
		if seen[p.Name] {
			bad("params[%d]: the name %q comes twice", i, p.Name)
		}
		seen[p.Name] = true
		if err := p.validate(); err != nil {
			bad("params[%d] %q: %w", i, p.Name, err)
		}
	}
	for _, l := range []struct {
		what string
		cols []Column
	}{{"input", m.Input}, {"output", m.Output}} {
		if len(l.cols) == 0 || len(l.cols) > maxColumns {
			bad("%s has %d columns: write 1 to %d", l.what, len(l.cols), maxColumns)
		}
		clear(seen)
		tags := 0
		for i, c := range l.cols {
			if seen[c.Name] {
				bad("%s[%d]: the name %q comes twice", l.what, i, c.Name)
			}
			seen[c.Name] = true
			if !columnRE.MatchString(c.Name) {
				bad("%s[%d]: name %q: write lower-case letters, digits and _, at most 64", l.what, i, c.Name)
			}
			if _, ok := columnTypes[c.Type]; !ok {
				bad("%s[%d] %q: type %q: write one of %s", l.what, i, c.Name, c.Type, strings.Join(typeNames, ", "))
			}
			if len(c.Doc) > maxDoc || len(c.Unit) > 64 {
				bad("%s[%d] %q: doc or unit is too long", l.what, i, c.Name)
			}
			if c.Type == "tag" {
				tags++
				if c.Nullable {
					bad("%s[%d] %q: a tag is never null", l.what, i, c.Name)
				}
				if l.what == "output" && m.Kind == KindMap {
					bad("output[%d] %q: a map module adds columns to the input's rows, which have their tag", i, c.Name)
				}
			}
		}
		if tags > 1 {
			bad("%s has %d tag columns, at most one is possible", l.what, tags)
		}
	}
	if len(errs) == 0 { // they are made from what is right
		return m.validateGolden()
	}
	return errors.Join(errs...)
}

var paramTypes = []string{"float", "int", "bool", "duration", "enum", "string"}

func (p *Param) validate() error {
	if !columnRE.MatchString(p.Name) {
		return errors.New("name: write lower-case letters, digits and _, at most 64")
	}
	if !slices.Contains(paramTypes, p.Type) {
		return fmt.Errorf("type %q: write one of %s", p.Type, strings.Join(paramTypes, ", "))
	}
	if len(p.Doc) > maxDoc || len(p.Unit) > 64 {
		return errors.New("doc or unit is too long")
	}
	if p.Type == "enum" {
		if len(p.Enum) == 0 || len(p.Enum) > maxEnum {
			return fmt.Errorf("enum has %d values: write 1 to %d", len(p.Enum), maxEnum)
		}
		for i, e := range p.Enum {
			if e == "" || len(e) > 64 || slices.Contains(p.Enum[:i], e) {
				return fmt.Errorf("enum value %q is empty, too long, or there twice", e)
			}
		}
	} else if len(p.Enum) > 0 {
		return errors.New("enum is for type enum only")
	}
	if p.Type == "bool" || p.Type == "enum" || p.Type == "string" {
		if p.Min != nil || p.Max != nil {
			return fmt.Errorf("min and max make no sense for type %s", p.Type)
		}
	} else {
		lo, hi := math.Inf(-1), math.Inf(1)
		var err error
		if p.Min != nil {
			if lo, err = p.number(p.Min); err != nil {
				return fmt.Errorf("min: %w", err)
			}
		}
		if p.Max != nil {
			if hi, err = p.number(p.Max); err != nil {
				return fmt.Errorf("max: %w", err)
			}
		}
		if lo > hi {
			return fmt.Errorf("min %v is above max %v", p.Min, p.Max)
		}
	}
	if p.Default != nil {
		if _, err := p.value(p.Default); err != nil {
			return fmt.Errorf("default: %w", err)
		}
	}
	return nil
}

// paramValue is a parameter as the guest sees it: a number or, for type
// string, text.
type paramValue struct {
	num    float64
	text   string
	isText bool
}

// value converts v, as YAML or JSON decodes it, and checks its range.
func (p *Param) value(v any) (paramValue, error) {
	if p.Type == "string" {
		s, ok := v.(string)
		if !ok || len(s) > maxDoc {
			return paramValue{}, fmt.Errorf("%v is not a text of at most %d bytes", v, maxDoc)
		}
		return paramValue{text: s, isText: true}, nil
	}
	n, err := p.number(v)
	if err != nil {
		return paramValue{}, err
	}
	for _, b := range []struct {
		bound any
		out   func(a, b float64) bool
		word  string
	}{{p.Min, func(a, b float64) bool { return a < b }, "below the minimum"}, {p.Max, func(a, b float64) bool { return a > b }, "above the maximum"}} {
		if b.bound == nil {
			continue
		}
		if lim, err := p.number(b.bound); err == nil && b.out(n, lim) {
			return paramValue{}, fmt.Errorf("%v is %s of %v%s", v, b.word, b.bound, unitSuffix(p.Unit))
		}
	}
	return paramValue{num: n}, nil
}

func unitSuffix(u string) string {
	if u == "" {
		return ""
	}
	return " " + u
}

// number converts a value of any type but string, without checking its range.
func (p *Param) number(v any) (float64, error) {
	switch p.Type {
	case "bool":
		if b, ok := v.(bool); ok {
			if b {
				return 1, nil
			}
			return 0, nil
		}
		return 0, fmt.Errorf("%v is not true or false", v)
	case "enum":
		s, _ := v.(string)
		if i := slices.Index(p.Enum, s); i >= 0 {
			return float64(i), nil
		}
		return 0, fmt.Errorf("%v is not one of %s", v, strings.Join(p.Enum, ", "))
	case "duration":
		switch d := v.(type) {
		case time.Duration:
			return d.Seconds(), nil
		case string:
			if t, err := time.ParseDuration(d); err == nil {
				return t.Seconds(), nil
			}
		}
		return 0, fmt.Errorf("%v is not a duration such as 500ms, 30s or 2h", v)
	}
	var n float64
	switch x := v.(type) {
	case int:
		n = float64(x)
	case int64:
		n = float64(x)
	case uint64:
		n = float64(x)
	case float64:
		n = x
	default:
		return 0, fmt.Errorf("%v is not a number", v)
	}
	if math.IsNaN(n) || math.IsInf(n, 0) {
		return 0, fmt.Errorf("%v is not a finite number", v)
	}
	if p.Type == "int" && (n != math.Trunc(n) || math.Abs(n) > 1<<53) {
		return 0, fmt.Errorf("%v is not a whole number", v)
	}
	return n, nil
}

// columnType maps a manifest's type to Arrow.
type columnType struct {
	arrow  arrow.DataType
	format string // of the Arrow C Data Interface
	width  int    // bytes per row; 0: bits, -1: offsets and bytes
}

var (
	typeNames   = []string{"timestamp", "tag", "float64", "uint32", "string", "bool", "int64"}
	columnTypes = map[string]columnType{
		"timestamp": {pipeline.TimeType, "tsn:UTC", 8},
		"tag":       {pipeline.TagType, "i", 4},
		"float64":   {arrow.PrimitiveTypes.Float64, "g", 8},
		"uint32":    {arrow.PrimitiveTypes.Uint32, "I", 4},
		"string":    {arrow.BinaryTypes.String, "u", -1},
		"bool":      {arrow.FixedWidthTypes.Boolean, "b", 0},
		"int64":     {arrow.PrimitiveTypes.Int64, "l", 8},
	}
)
