package check

import (
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"

	"github.com/penstock/penstock/operators/wasm"
)

// settings are the choices of parameters that a module is tested with: its
// defaults and those of its golden vectors.
func settings(m *wasm.Manifest) []setting {
	out := []setting{{name: "default parameters", params: guess(m), refs: map[string][]byte{}}}
	for _, g := range m.Golden {
		params := guess(m)
		maps.Copy(params, g.Params)
		if !slices.ContainsFunc(out, func(s setting) bool { return reflect.DeepEqual(s.params, params) }) {
			out = append(out, setting{name: "the parameters of golden vector " + g.Name, params: params, refs: map[string][]byte{}})
		}
	}
	return out
}

// guess gives a value to each parameter that has no default: that of a golden
// vector, or else one within its range.
func guess(m *wasm.Manifest) map[string]any {
	out := map[string]any{}
	for _, p := range m.Params {
		if p.Default != nil {
			continue
		}
		for _, g := range m.Golden {
			if v, ok := g.Params[p.Name]; ok && out[p.Name] == nil {
				out[p.Name] = v
			}
		}
		if out[p.Name] != nil {
			continue
		}
		switch {
		case p.Type == "enum":
			out[p.Name] = p.Enum[0]
		case p.Type == "bool":
			out[p.Name] = false
		case p.Type == "string":
			out[p.Name] = "x"
		case p.Min != nil:
			out[p.Name] = p.Min
		case p.Max != nil:
			out[p.Name] = p.Max
		case p.Type == "duration":
			out[p.Name] = "1m"
		default:
			out[p.Name] = 1
		}
	}
	return out
}

// extremes opens the module with each parameter at its ends, the others as they
// are, and runs it. It may refuse values that do not go together, if it says why.
func (c *checker) extremes(engine string) (string, string, error) {
	const do = "the module must open and run with every value within min and max, or refuse it in penstock_open with a reason in penstock_last_error; else narrow the range in the manifest"
	m := &c.info.Manifest
	tried := 0
	var refused []string
	for i := range m.Params {
		p := &m.Params[i]
		for _, v := range ends(p) {
			tried++
			params := maps.Clone(c.sets[0].params)
			params[p.Name] = v
			probe, err := c.compiled[engine].Another(params)
			if err != nil {
				if wasm.FailureReason(err) != "module_error" || strings.HasSuffix(err.Error(), "no reason given") {
					return "", do, fmt.Errorf("%s = %v: %w", p.Name, v, err)
				}
				refused = append(refused, fmt.Sprintf("%s = %v", p.Name, v))
				continue
			}
			_, err = probe.Run(nil, c.other)
			if cerr := probe.Close(); err == nil {
				err = cerr
			}
			if err != nil {
				return "", do, fmt.Errorf("%s = %v: %w", p.Name, v, err)
			}
		}
	}
	if tried == 0 {
		return "no parameters with ends", "", nil
	}
	note := plural(tried, "value")
	if len(refused) > 0 {
		note += ", of which the module refuses, with a reason, beside the others' defaults: " + strings.Join(refused, ", ")
	}
	return note, "", nil
}

// ends are the values between which a parameter may lie, or all that it may have.
func ends(p *wasm.Param) []any {
	var out []any
	switch p.Type {
	case "bool":
		return []any{false, true}
	case "enum":
		for _, e := range p.Enum {
			out = append(out, e)
		}
		return out
	case "string":
		return []any{"", "ü🙂"}
	}
	if p.Min != nil {
		out = append(out, p.Min)
	}
	if p.Max != nil {
		out = append(out, p.Max)
	}
	return out
}
