package config

import (
	"encoding/json"
	"fmt"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/stretchr/testify/require"
)

// accepts says why v does not fit the schema s, or "". It knows the keywords
// that JSONSchema writes; any other is a failure.
func accepts(root, s map[string]any, v any, at string) string {
	for k, arg := range s {
		why := ""
		switch k {
		case "$schema", "title", "description", "default", "$defs", "then", "patternProperties":
		case "$ref":
			def, ok := root["$defs"].(map[string]any)[strings.TrimPrefix(arg.(string), "#/$defs/")].(map[string]any)
			if !ok {
				return at + ": dead $ref " + arg.(string)
			}
			why = accepts(root, def, v, at)
		case "type":
			types, ok := arg.([]any)
			if !ok {
				types = []any{arg}
			}
			if !slices.ContainsFunc(types, func(t any) bool { return isType(v, t.(string)) }) {
				why = fmt.Sprintf("%s: %v is not %v", at, v, arg)
			}
		case "const":
			if fmt.Sprint(v) != fmt.Sprint(arg) {
				why = fmt.Sprintf("%s: %v is not %v", at, v, arg)
			}
		case "enum":
			if !slices.Contains(arg.([]any), v) {
				why = fmt.Sprintf("%s: %v is not one of %v", at, v, arg)
			}
		case "pattern":
			if text, ok := v.(string); ok && !regexp.MustCompile(arg.(string)).MatchString(text) {
				why = fmt.Sprintf("%s: %q does not match %v", at, text, arg)
			}
		case "minimum":
			if n, ok := v.(float64); ok && n < arg.(float64) {
				why = fmt.Sprintf("%s: %v < %v", at, v, arg)
			}
		case "items":
			list, _ := v.([]any)
			for i, item := range list {
				if why == "" {
					why = accepts(root, arg.(map[string]any), item, fmt.Sprintf("%s[%d]", at, i))
				}
			}
		case "minItems":
			if list, ok := v.([]any); ok && len(list) < int(arg.(float64)) {
				why = at + ": too few"
			}
		case "uniqueItems":
			list, _ := v.([]any)
			for i, item := range list {
				if slices.Contains(list[:i], item) {
					why = at + ": twice"
				}
			}
		case "required":
			o, isObject := v.(map[string]any)
			for _, key := range arg.([]any) {
				if _, ok := o[key.(string)]; isObject && !ok {
					why = fmt.Sprintf("%s: %v is missing", at, key)
				}
			}
		case "properties":
			o, _ := v.(map[string]any)
			for key, sub := range arg.(map[string]any) {
				if x, ok := o[key]; ok && why == "" {
					why = accepts(root, sub.(map[string]any), x, at+"."+key)
				}
			}
		case "additionalProperties":
			o, _ := v.(map[string]any)
			known, _ := s["properties"].(map[string]any)
			patterns, _ := s["patternProperties"].(map[string]any)
			for key, x := range o {
				_, ok := known[key]
				for p := range patterns {
					ok = ok || regexp.MustCompile(p).MatchString(key)
				}
				if sub, isSchema := arg.(map[string]any); !ok && isSchema {
					why = accepts(root, sub, x, at+"."+key)
				} else if !ok {
					why = fmt.Sprintf("%s: unknown key %s", at, key)
				}
			}
		case "allOf":
			for _, sub := range arg.([]any) {
				if why == "" {
					why = accepts(root, sub.(map[string]any), v, at)
				}
			}
		case "if":
			if accepts(root, arg.(map[string]any), v, at) == "" {
				why = accepts(root, s["then"].(map[string]any), v, at)
			}
		default:
			why = "the test does not know the keyword " + k
		}
		if why != "" {
			return why
		}
	}
	return ""
}

func isType(v any, t string) bool {
	switch v := v.(type) {
	case nil:
		return t == "null"
	case bool:
		return t == "boolean"
	case string:
		return t == "string"
	case float64:
		return t == "number" || t == "integer" && v == float64(int64(v))
	case []any:
		return t == "array"
	}
	return t == "object"
}

func toJSON(t *testing.T, text string) any {
	t.Helper()
	root := parseTree([]byte(text), func(p position, path, message, hint string) { t.Fatal(p, path, message) })
	d := decoder{secrets: &secrets{}, report: func(p position, path, message, hint string) {}, wrong: map[string]bool{}}
	// References are what the schema must accept, so they stay.
	var raw func(n *node) any
	raw = func(n *node) any {
		switch n.kind {
		case stringKind:
			return n.text
		case listKind:
			l := []any{}
			for _, i := range n.items {
				l = append(l, raw(i))
			}
			return l
		case mapKind:
			m := map[string]any{}
			for _, e := range n.entries {
				m[e.key] = raw(e.value)
			}
			return m
		}
		x := d.any(n, "")
		if i, ok := x.(int64); ok {
			return float64(i)
		}
		return x
	}
	return raw(root)
}

func TestJSONSchema(t *testing.T) {
	reg := registry()
	docs, err := ReadDocs("../..")
	require.NoError(t, err)
	reg.Docs = docs
	data, err := JSONSchema(reg)
	require.NoError(t, err)
	require.True(t, utf8.Valid(data))
	again, err := JSONSchema(reg)
	require.NoError(t, err)
	require.Equal(t, data, again, "the same types give the same bytes")
	var root map[string]any
	require.NoError(t, json.Unmarshal(data, &root))

	require.Equal(t, "", accepts(root, root, toJSON(t, full), ""))
	for _, bad := range []struct{ from, to, want string }{
		{"version: 1", "version: 2", ".version: 2 is not 1"},
		{"name: demo", "nam: demo", "nam"},
		{"type: mqtt", "type: mqqt", ".sources[0].type: mqqt is not one of [mqtt opcua]"},
		{"retry: 3s", "retry: 3", ".sources[0].retry: 3 is not string"},
		{"retry: 3s", "retry: 3 s", `.sources[0].retry: "3 s" does not match`},
		{"buffer: 1MiB", "buffer: 1 Mb", ".sources[0].buffer"},
		{"qos: 1", "qos: high", ".sources[0].topics[0].qos"},
		{"qos: 1", "qs: 1", ".sources[0].topics[0]: unknown key qs"},
		{"mode: drop_oldest", "mode: drop", ".sources[0].mode: drop is not one of [block drop_oldest]"},
		{"inputs: [floor]", "inputs: []", ".operators[0].inputs: too few"},
		{", inputs: [floor]", "", "inputs is missing"},
		{"input: score, ", "", "input is missing"},
		{"max_bytes: 2GiB", "max_bites: 2GiB", ".journal: unknown key max_bites"},
	} {
		in := strings.Replace(full, bad.from, bad.to, 1)
		require.NotEqual(t, full, in, bad.from)
		require.Contains(t, accepts(root, root, toJSON(t, in), ""), bad.want)
	}

	journal := root["properties"].(map[string]any)["journal"].(map[string]any)["properties"].(map[string]any)
	age := journal["max_age"].(map[string]any)
	require.Equal(t, "72h", age["default"])
	require.Equal(t, "max_age is how long readings stay for replay.", age["description"])
	require.Equal(t, "1GiB", journal["max_bytes"].(map[string]any)["default"])
	require.NotContains(t, string(data), `"description": ""`)
	rule := func(field string) string { return docs["github.com/penstock/penstock/pipeline.TagRule."+field] }
	require.Contains(t, rule("Asset"), "Asset and Measurement")
	require.Equal(t, rule("Asset"), rule("Measurement"), "one comment for two fields")
	require.Empty(t, rule("Unit"), "not that of its neighbour")
	for _, f := range fieldsOf(reflectJournal) {
		require.Contains(t, journal[f.key], "description", f.key)
	}

	reg.Sinks["bad"] = func() any {
		return &struct {
			Type string `yaml:"type"`
		}{}
	}
	_, err = JSONSchema(reg)
	require.ErrorContains(t, err, `sink bad: struct { Type string "yaml:\"type\"" } has a key "type", which every component has`)
}

var reflectJournal = reflect.TypeFor[Journal]()
