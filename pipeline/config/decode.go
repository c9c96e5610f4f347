package config

import (
	"encoding"
	"fmt"
	"math"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"
)

// decoder puts nodes into Go values. It goes on after an error, so that all
// are found; what has an error keeps its default.
type decoder struct {
	dir     string
	secrets *secrets
	report  func(pos position, path, message, hint string)
	wrong   map[string]bool // see fileParser.wrong
	visits  int
	stopped bool
}

// visit counts what aliases multiply, and says whether to go on.
func (d *decoder) visit(n *node, path string) bool {
	if d.visits++; d.visits > maxValues && !d.stopped {
		d.stopped = true
		d.report(n.pos, path, fmt.Sprintf("the aliases of the file make more than %d values", maxValues), "use fewer aliases")
	}
	return !d.stopped
}

func (d *decoder) decode(n *node, v reflect.Value, path string) {
	if !d.visit(n, path) {
		return
	}
	t := v.Type()
	if t.Kind() == reflect.Pointer {
		if n.kind == nullKind {
			return
		}
		if v.IsNil() {
			v.Set(reflect.New(t.Elem()))
		}
		d.decode(n, v.Elem(), path)
		return
	}
	text := isText(t)
	if n.kind == nullKind {
		// An empty section is one whose entries are all commented out.
		switch t.Kind() {
		case reflect.Map, reflect.Slice, reflect.Interface:
			return
		case reflect.Struct:
			if !text {
				return
			}
		}
		d.report(n.pos, path, "is empty", "write "+want(t)+", or remove the key")
		return
	}
	switch {
	case t == durationType:
		d.duration(n, v, path)
	case text:
		if s, _, ok := d.scalar(n, t, path); ok {
			if err := v.Addr().Interface().(encoding.TextUnmarshaler).UnmarshalText([]byte(s)); err != nil {
				d.report(n.pos, path, err.Error(), "")
			}
		}
	default:
		d.decodeKind(n, v, path)
	}
}

func (d *decoder) decodeKind(n *node, v reflect.Value, path string) {
	t := v.Type()
	switch t.Kind() {
	case reflect.Struct:
		d.structure(n, v, path, nil)
	case reflect.Map:
		d.mapping(n, v, path)
	case reflect.Slice:
		if n.kind != listKind {
			d.mismatch(n, t, path)
			return
		}
		s := reflect.MakeSlice(t, len(n.items), len(n.items))
		for i, item := range n.items {
			d.decode(item, s.Index(i), fmt.Sprintf("%s[%d]", path, i))
		}
		v.Set(s)
	case reflect.Interface:
		if x := d.any(n, path); x != nil && reflect.TypeOf(x).AssignableTo(t) {
			v.Set(reflect.ValueOf(x))
		}
	case reflect.String:
		d.str(n, v, path)
	case reflect.Bool:
		s, expanded, ok := d.scalar(n, t, path)
		if !ok {
			return
		}
		b, err := strconv.ParseBool(s)
		if n.kind != boolKind && !expanded || err != nil {
			d.mismatch(n, t, path)
			return
		}
		v.SetBool(b)
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		s, expanded, ok := d.scalar(n, t, path)
		if !ok {
			return
		}
		i, err := strconv.ParseInt(digits(s), 0, 64)
		d.number(n, path, t, err, n.kind == intKind || expanded, err == nil && v.OverflowInt(i), func() { v.SetInt(i) })
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		s, expanded, ok := d.scalar(n, t, path)
		if !ok {
			return
		}
		i, err := strconv.ParseUint(digits(s), 0, 64)
		if n.kind == intKind && strings.HasPrefix(s, "-") {
			d.report(n.pos, path, s+" is negative", "write 0 or more")
			return
		}
		d.number(n, path, t, err, n.kind == intKind || expanded, err == nil && v.OverflowUint(i), func() { v.SetUint(i) })
	case reflect.Float32, reflect.Float64:
		s, expanded, ok := d.scalar(n, t, path)
		if !ok {
			return
		}
		f, err := float(s)
		d.number(n, path, t, err, n.kind == intKind || n.kind == floatKind || expanded, err == nil && v.OverflowFloat(f), func() { v.SetFloat(f) })
	default:
		panic(fmt.Sprintf("config: %s has the type %s, which YAML cannot fill", path, t))
	}
}

// number stores a parsed number with set unless something is wrong with it.
func (d *decoder) number(n *node, path string, t reflect.Type, err error, isNumber, overflows bool, set func()) {
	switch {
	case !isNumber:
		d.mismatch(n, t, path)
	case overflows || err != nil && strings.HasSuffix(err.Error(), strconv.ErrRange.Error()):
		d.report(n.pos, path, "is out of range", "write a smaller number")
	case err != nil:
		d.mismatch(n, t, path)
	default:
		set()
	}
}

func digits(s string) string { return strings.TrimPrefix(strings.ReplaceAll(s, "_", ""), "+") }

// float reads a YAML float.
func float(s string) (float64, error) {
	s = digits(s)
	switch strings.ToLower(s) {
	case ".nan":
		return math.NaN(), nil
	case ".inf":
		return math.Inf(1), nil
	case "-.inf":
		return math.Inf(-1), nil
	}
	if i, err := strconv.ParseInt(s, 0, 64); err == nil {
		return float64(i), nil
	}
	return strconv.ParseFloat(s, 64)
}

// structure fills the fields of v from the keys of n; skip names keys that
// were read before.
func (d *decoder) structure(n *node, v reflect.Value, path string, skip []string) {
	if n.kind != mapKind {
		d.mismatch(n, v.Type(), path)
		return
	}
	fields := fieldsOf(v.Type())
	known := slices.Clone(skip)
	for _, f := range fields {
		known = append(known, f.key)
	}
	for _, e := range n.entries {
		if slices.Contains(skip, e.key) {
			continue
		}
		i := slices.IndexFunc(fields, func(f field) bool { return f.key == e.key })
		if i < 0 {
			d.unknown(e, path, known)
			continue
		}
		d.decode(e.value, v.FieldByIndex(fields[i].index), joinPath(path, e.key))
	}
}

func (d *decoder) unknown(e entry, path string, known []string) {
	d.report(e.pos, joinPath(path, clip(e.key)), "unknown key", meant(e.key, known, "the known keys"))
	if n := Nearest(e.key, known); n != "" {
		d.wrong[joinPath(path, n)] = true
	}
}

func (d *decoder) mapping(n *node, v reflect.Value, path string) {
	t := v.Type()
	if n.kind != mapKind {
		d.mismatch(n, t, path)
		return
	}
	m := reflect.MakeMapWithSize(t, len(n.entries))
	for _, e := range n.entries {
		at := joinPath(path, clip(e.key))
		k := reflect.New(t.Key()).Elem()
		d.decode(&node{kind: keyKind(e.key, t.Key()), pos: e.pos, text: e.key}, k, at)
		elem := reflect.New(t.Elem()).Elem()
		d.decode(e.value, elem, at)
		m.SetMapIndex(k, elem)
	}
	v.Set(m)
}

// keyKind: a key is text in the tree; where the map has numbers as keys it is
// one.
func keyKind(key string, t reflect.Type) kind {
	if t.Kind() != reflect.String && !isText(t) {
		if _, err := strconv.ParseInt(digits(key), 0, 64); err == nil {
			return intKind
		}
	}
	return stringKind
}

// any returns n as map[string]any, []any, string, bool, int64 or float64.
func (d *decoder) any(n *node, path string) any {
	switch n.kind {
	case nullKind:
		return nil
	case boolKind:
		return strings.EqualFold(n.text, "true")
	case intKind:
		if i, err := strconv.ParseInt(digits(n.text), 0, 64); err == nil {
			return i
		}
		fallthrough
	case floatKind:
		f, err := float(n.text)
		if err != nil {
			d.report(n.pos, path, "is out of range", "write a smaller number")
		}
		return f
	case listKind:
		l := make([]any, 0, len(n.items))
		for i, item := range n.items {
			at := fmt.Sprintf("%s[%d]", path, i)
			if !d.visit(item, at) {
				break
			}
			l = append(l, d.any(item, at))
		}
		return l
	case mapKind:
		m := make(map[string]any, len(n.entries))
		for _, e := range n.entries {
			at := joinPath(path, clip(e.key))
			if !d.visit(e.value, at) {
				break
			}
			m[e.key] = d.any(e.value, at)
		}
		return m
	}
	s, _, _ := d.scalar(n, reflect.TypeFor[string](), path)
	return s
}

// scalar returns the text of n with its references expanded.
func (d *decoder) scalar(n *node, t reflect.Type, path string) (s string, expanded, ok bool) {
	if n.kind == nullKind || n.kind >= listKind {
		d.mismatch(n, t, path)
		return "", false, false
	}
	if n.kind != stringKind {
		return n.text, false, true
	}
	ok = true
	s, expanded = expand(n.text, d.dir, d.secrets, func(message, hint string) {
		ok = false
		d.report(n.pos, path, message, hint)
	})
	return s, expanded, ok
}

func (d *decoder) str(n *node, v reflect.Value, path string) {
	t := v.Type()
	if n.kind != stringKind {
		d.mismatch(n, t, path)
		return
	}
	s, _, ok := d.scalar(n, t, path)
	if !ok {
		return
	}
	if t == secretType {
		d.secrets.add(s, true)
	}
	if values := enumOf(t); values != nil && !slices.Contains(values, s) {
		d.report(n.pos, path, fmt.Sprintf("%q is not a value of this key", clip(s)), meant(s, values, "the values"))
		return
	}
	v.SetString(s)
}

func (d *decoder) duration(n *node, v reflect.Value, path string) {
	s, _, ok := d.scalar(n, v.Type(), path)
	if !ok {
		return
	}
	if dur, err := time.ParseDuration(s); err == nil {
		v.SetInt(int64(dur))
		return
	}
	if _, err := strconv.ParseFloat(s, 64); err == nil {
		d.report(n.pos, path, clip(s)+" has no unit", "write "+d.secrets.redact(clip(s))+"s for seconds, or ms, m, h")
		return
	}
	if days, err := strconv.ParseFloat(strings.TrimSuffix(s, "d"), 64); err == nil && math.Abs(days) < 1e5 {
		d.report(n.pos, path, clip(s)+" is in days", fmt.Sprintf("write %sh", d.secrets.redact(strconv.FormatFloat(days*24, 'g', -1, 64))))
		return
	}
	d.report(n.pos, path, fmt.Sprintf("%q is not a duration", clip(s)), "write a number with a unit, such as 500ms, 10s or 1h30m")
}

// mismatch reports that n is of the wrong kind. It does not show the value, which
// may be a password without quotes.
func (d *decoder) mismatch(n *node, t reflect.Type, path string) {
	hint := "write " + want(t)
	switch {
	case n.kind < listKind && t.Kind() == reflect.String:
		hint = "put it in quotes"
	case n.kind < listKind && t.Kind() == reflect.Slice:
		hint = "put it in brackets: [...]"
	}
	is := "is " + n.kind.String()
	if n.kind == stringKind && strings.Contains(n.text, "${") {
		is = "does not hold what belongs here"
	}
	d.report(n.pos, path, is+", want "+want(t), hint)
}

// want completes the sentence "write ...".
func want(t reflect.Type) string {
	switch {
	case t == durationType:
		return "a duration such as 10s"
	case t == byteSizeType:
		return "a size such as 64MiB"
	case isText(t):
		return "text"
	}
	switch t.Kind() {
	case reflect.Pointer:
		return want(t.Elem())
	case reflect.Struct, reflect.Map:
		return "a mapping (key: value)"
	case reflect.Slice:
		return "a list"
	case reflect.Bool:
		return "true or false"
	case reflect.Float32, reflect.Float64:
		return "a number"
	case reflect.String:
		return "text"
	case reflect.Interface:
		return "a value"
	}
	return "a whole number"
}
