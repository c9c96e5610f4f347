package config

import (
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"time"

	"github.com/penstock/penstock/pipeline"
)

type object = map[string]any

// A reference may stand for any scalar.
const referencePattern = `\$\{(env|file):[^}]+\}`

// JSONSchema returns a JSON Schema (draft 2020-12) of the YAML file for
// editors. It accepts what [Parse] accepts up to what only a component's
// Validate and the graph can tell.
func JSONSchema(reg Registry) ([]byte, error) {
	s := schema{docs: reg.Docs, defs: object{}}
	name := object{"type": "string", "pattern": nameForm.String()}
	root := object{
		"$schema":     "https://json-schema.org/draft/2020-12/schema",
		"title":       "Penstock pipeline",
		"description": "One pipeline: sources, operators, alert rules and sinks.",
		"type":        "object",
		"required":    []string{"version", "name", "sources"},
		"properties": object{
			"version": object{"const": Version, "description": "Version of this format."},
			"name":    with(name, "description", "Name of the pipeline."),
			"journal": with(s.structure(reflect.ValueOf(DefaultJournal())), "description", "How readings are kept between ingest and flow."),
			"modules": with(s.structure(reflect.ValueOf(pipeline.DefaultModules())), "description", "Which Wasm modules are trusted, and what becomes of the others."),
			"http":    with(s.structure(reflect.ValueOf(DefaultHTTP())), "description", "The operator page, /metrics, /healthz and /readyz."),
			"tags": with(s.of(reflect.TypeFor[[]pipeline.TagRule](), reflect.Value{}), "description",
				"What is known of tags: the first rule that matches a tag counts."),
		},
		"patternProperties":    object{"^x-": object{"description": "Not read; a place for YAML anchors."}},
		"additionalProperties": false,
		"$defs":                s.defs,
	}
	props := root["properties"].(object)
	for _, sec := range []struct {
		key, def string
		doc      string
		types    map[string]func() any
		common   object
		required []string
	}{
		{"sources", "source", "Where readings come from.", reg.Sources, object{}, nil},
		{"operators", "operator", "What is made of them.", reg.Operators, object{"inputs": inputs("Sources, operators or operator.port that it reads.")}, []string{"inputs"}},
		{"sinks", "sink", "Where results go.", reg.Sinks, object{"inputs": inputs(`Sources, operators, operator.port, alert rules, or "alerts" for all rules.`)}, []string{"inputs"}},
	} {
		items, err := s.section(sec.def, sec.types, sec.common, sec.required)
		if err != nil {
			return nil, err
		}
		props[sec.key] = object{"type": []string{"array", "null"}, "items": items, "description": sec.doc}
	}
	if reg.Alert != nil {
		def, err := s.component(reg.Alert(), object{"input": object{"type": "string", "description": "The source, operator or operator.port that the rule watches."}}, []string{"input"})
		if err != nil {
			return nil, fmt.Errorf("alert: %w", err)
		}
		s.defs["alert"] = def
		props["alerts"] = object{"type": []string{"array", "null"}, "items": object{"$ref": "#/$defs/alert"}, "description": "Rules that raise and clear alerts."}
	}
	out, err := json.MarshalIndent(root, "", "  ")
	if err != nil {
		return nil, err
	}
	return append(out, '\n'), nil
}

func inputs(description string) object {
	return object{"type": "array", "items": object{"type": "string"}, "minItems": 1, "uniqueItems": true, "description": description}
}

// with returns o with one more key.
func with(o object, key string, v any) object {
	o = maps.Clone(o)
	o[key] = v
	return o
}

type schema struct {
	docs  Docs
	defs  object
	stack []reflect.Type
}

// section returns the schema of an entry whose `type` picks one of types.
func (s *schema) section(def string, types map[string]func() any, common object, required []string) (object, error) {
	names := slices.Sorted(maps.Keys(types))
	picks := []any{}
	for _, t := range names {
		o, err := s.component(types[t](), with(common, "type", object{"const": t, "description": "What kind of " + def + " it is."}), append([]string{"type"}, required...))
		if err != nil {
			return nil, fmt.Errorf("%s %s: %w", def, t, err)
		}
		s.defs[def+"_"+t] = o
		picks = append(picks, object{
			"if":   object{"properties": object{"type": object{"const": t}}, "required": []string{"type"}},
			"then": object{"$ref": "#/$defs/" + def + "_" + t},
		})
	}
	o := object{"type": "object", "required": append([]string{"name", "type"}, required...),
		"properties": object{"type": object{"enum": names}}}
	if len(picks) > 0 {
		o["allOf"] = picks
	}
	return o, nil
}

// component returns the schema of one entry with these settings, as a Registry
// function returns them.
func (s *schema) component(settings any, common object, required []string) (object, error) {
	t, err := settingsType(settings)
	if err != nil {
		return nil, err
	}
	o := s.structure(reflect.ValueOf(settings).Elem())
	props := o["properties"].(object)
	common = with(common, "name", object{"type": "string", "pattern": nameForm.String(), "description": "Unique in the pipeline."})
	for k, v := range common {
		if _, taken := props[k]; taken {
			return nil, fmt.Errorf("%s has a key %q, which every component has", t, k)
		}
		props[k] = v
	}
	o["required"] = append([]string{"name"}, required...)
	if text := s.docs[typeName(t)]; text != "" {
		o["description"] = text
	}
	return o, nil
}

// structure returns the schema of struct v, whose values are the defaults.
func (s *schema) structure(v reflect.Value) object {
	t := v.Type()
	if slices.Contains(s.stack, t) {
		return object{"type": "object"} // a type that holds itself ends here
	}
	s.stack = append(s.stack, t)
	defer func() { s.stack = s.stack[:len(s.stack)-1] }()
	props := object{}
	for _, f := range fieldsOf(t) {
		fv := v.FieldByIndex(f.index)
		o := s.of(f.typ, fv)
		if text := s.docs.field(f); text != "" {
			o["description"] = text
		}
		if def := defaultOf(fv); def != nil {
			o["default"] = def
		}
		props[f.key] = o
	}
	return object{"type": []string{"object", "null"}, "properties": props, "additionalProperties": false}
}

// of returns the schema of type t; v, if valid, holds its default.
func (s *schema) of(t reflect.Type, v reflect.Value) object {
	switch {
	case t.Kind() == reflect.Pointer:
		if v.IsValid() && !v.IsNil() {
			return s.of(t.Elem(), v.Elem())
		}
		return s.of(t.Elem(), reflect.Value{})
	case t == durationType:
		return object{"type": "string", "pattern": `^-?([0-9]+(\.[0-9]*)?(ns|us|µs|ms|s|m|h))+$|^0$|` + referencePattern}
	case t == byteSizeType:
		return object{"type": []string{"string", "integer"}, "minimum": 0, "pattern": `^[0-9]+(\.[0-9]*)? ?([KMGT]iB|[kKMGT]?B)?$|` + referencePattern}
	case isText(t):
		return object{"type": []string{"string", "number", "boolean"}}
	}
	if values := enumOf(t); values != nil {
		return object{"enum": values}
	}
	switch t.Kind() {
	case reflect.Struct:
		if !v.IsValid() {
			v = reflect.Zero(t)
		}
		return s.structure(v)
	case reflect.Map:
		return object{"type": []string{"object", "null"}, "additionalProperties": s.of(t.Elem(), reflect.Value{})}
	case reflect.Slice:
		return object{"type": []string{"array", "null"}, "items": s.of(t.Elem(), reflect.Value{})}
	case reflect.Bool:
		return object{"type": []string{"boolean", "string"}, "pattern": referencePattern}
	case reflect.String:
		return object{"type": "string"}
	case reflect.Float32, reflect.Float64:
		return object{"type": []string{"number", "string"}, "pattern": referencePattern}
	case reflect.Interface:
		return object{}
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		return object{"type": []string{"integer", "string"}, "pattern": referencePattern, "minimum": 0}
	}
	return object{"type": []string{"integer", "string"}, "pattern": referencePattern}
}

// defaultOf returns what v is as YAML, or nil when there is nothing to tell.
func defaultOf(v reflect.Value) any {
	t := v.Type()
	switch {
	case t == secretType, v.IsZero():
		return nil
	case t == durationType:
		return shortDuration(v.Interface().(time.Duration))
	case t == byteSizeType:
		return v.Interface().(pipeline.ByteSize).String()
	}
	switch t.Kind() {
	case reflect.String, reflect.Bool, reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64,
		reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64, reflect.Float32, reflect.Float64:
		return v.Interface()
	}
	return nil
}

// shortDuration writes 72h, not 72h0m0s.
func shortDuration(d time.Duration) string {
	for _, u := range []struct {
		name string
		d    time.Duration
	}{{"h", time.Hour}, {"m", time.Minute}, {"s", time.Second}, {"ms", time.Millisecond}} {
		if d%u.d == 0 {
			return fmt.Sprintf("%d%s", d/u.d, u.name)
		}
	}
	return d.String()
}
