package config

import (
	"encoding"
	"fmt"
	"reflect"
	"strings"
	"time"

	"github.com/penstock/penstock/pipeline"
)

// Enumerated is a string type with a fixed set of values: any other is an
// error, and editors offer them.
type Enumerated interface{ Enum() []string }

var (
	durationType   = reflect.TypeFor[time.Duration]()
	secretType     = reflect.TypeFor[pipeline.Secret]()
	byteSizeType   = reflect.TypeFor[pipeline.ByteSize]()
	textType       = reflect.TypeFor[encoding.TextUnmarshaler]()
	enumeratedType = reflect.TypeFor[Enumerated]()
)

// field is a YAML key of a settings struct.
type field struct {
	key    string
	index  []int // for reflect.Value.FieldByIndex
	typ    reflect.Type
	owner  reflect.Type // the struct that declares it
	goName string
}

// fieldsOf lists the YAML keys of struct type t, inline structs included, in
// the order of declaration.
func fieldsOf(t reflect.Type) []field {
	var out []field
	for i := range t.NumField() {
		f := t.Field(i)
		name, opts, _ := strings.Cut(f.Tag.Get("yaml"), ",")
		if name == "-" {
			continue
		}
		if f.Type.Kind() == reflect.Struct && (strings.Contains(opts, "inline") || f.Anonymous && name == "") {
			for _, in := range fieldsOf(f.Type) {
				in.index = append([]int{i}, in.index...)
				out = append(out, in)
			}
			continue
		}
		if !f.IsExported() {
			continue
		}
		if name == "" {
			name = strings.ToLower(f.Name)
		}
		out = append(out, field{key: name, index: []int{i}, typ: f.Type, owner: t, goName: f.Name})
	}
	return out
}

func isText(t reflect.Type) bool { return reflect.PointerTo(t).Implements(textType) }

func enumOf(t reflect.Type) []string {
	if t.Kind() == reflect.String && t.Implements(enumeratedType) {
		return reflect.Zero(t).Interface().(Enumerated).Enum()
	}
	return nil
}

// settingsType is the struct behind what a Registry function returns.
func settingsType(v any) (reflect.Type, error) {
	t := reflect.TypeOf(v)
	if t == nil || t.Kind() != reflect.Pointer || t.Elem().Kind() != reflect.Struct {
		return nil, fmt.Errorf("settings are %T, want a pointer to a struct", v)
	}
	return t.Elem(), nil
}
