package config

import (
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/lexer"
	"github.com/goccy/go-yaml/parser"
	"github.com/goccy/go-yaml/token"
)

// Limits on what a file may make of itself: aliases and merge keys turn a
// small file into a huge one, and nesting turns it into a deep stack.
const (
	maxValues = 200_000
	maxDepth  = 64
	maxKeys   = 5000 // of one mapping in block style
	maxOdd    = 5000
)

type kind uint8

const (
	nullKind kind = iota
	boolKind
	intKind
	floatKind
	stringKind
	listKind
	mapKind
)

// String completes the sentence "this is ...".
func (k kind) String() string {
	return [...]string{"empty", "true or false", "a whole number", "a number", "text", "a list", "a mapping"}[k]
}

// plainFloat is a number of the YAML 1.2 core schema.
var plainFloat = regexp.MustCompile(`^[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?$`)

// lineBreaks are all read alike by YAML; the library counts lines wrong with
// any but the plain one.
var lineBreaks = strings.NewReplacer("\r\n", "\n", "\r", "\n")

// unquotedReference breaks a {flow: mapping}.
var unquotedReference = regexp.MustCompile(`[:,{\[] *\$\{`)

type position struct{ line, column int }

// node is a YAML value with its place. Aliases share the node of their anchor,
// merge keys are resolved.
type node struct {
	kind    kind
	pos     position
	text    string // of a scalar, as written; of a string its value
	items   []*node
	entries []entry
}

type entry struct {
	key   string
	pos   position
	value *node
}

func (n *node) get(key string) (entry, bool) {
	if n != nil {
		for _, e := range n.entries {
			if e.key == key {
				return e, true
			}
		}
	}
	return entry{}, false
}

// place is a node, where errors about it are shown, and its path.
type place struct {
	node *node
	pos  position
	path string
}

// find returns where path, below p, stands in the file, or its nearest parent
// that does. Scalars are found at their value, lists and mappings at their key.
func (p place) find(path string) position {
	n, pos := p.node, p.pos
	if n != nil && pos.line == 0 {
		pos = n.pos
	}
	for n != nil && path != "" {
		next, at, rest, ok := n.step(strings.TrimPrefix(path, "."))
		if !ok {
			break
		}
		if next.kind < listKind && next.kind != nullKind {
			at = next.pos
		}
		n, pos, path = next, at, rest
	}
	return pos
}

// step goes from n along the first segment of path. A key may hold dots and
// brackets, so the longest key that fits is taken.
func (n *node) step(path string) (next *node, at position, rest string, ok bool) {
	if inner, after, found := strings.Cut(path, "]"); found && strings.HasPrefix(inner, "[") {
		inner = inner[1:]
		if n.kind == listKind {
			if i, err := strconv.Atoi(inner); err == nil && i >= 0 && i < len(n.items) {
				return n.items[i], n.items[i].pos, after, true
			}
			return nil, at, "", false
		}
		if q, err := strconv.Unquote(inner); err == nil {
			inner = q
		}
		if e, found := n.get(inner); found {
			return e.value, e.pos, after, true
		}
	}
	best := -1
	for i, e := range n.entries {
		tail, found := strings.CutPrefix(path, e.key)
		if found && (tail == "" || tail[0] == '.' || tail[0] == '[') && (best < 0 || len(e.key) > len(n.entries[best].key)) {
			best, rest = i, tail
		}
	}
	if best < 0 {
		return nil, at, "", false
	}
	return n.entries[best].value, n.entries[best].pos, rest, true
}

// tree is being built from one file.
type tree struct {
	report  func(pos position, path, message, hint string)
	anchors map[string]*node
	values  int
	full    bool
}

// parseTree reads data as one YAML document. It returns nil when the syntax is
// wrong or a limit is passed; report has been told why.
func parseTree(data []byte, report func(pos position, path, message, hint string)) (root *node) {
	// The library guards against most malformed files, not all.
	defer func() {
		if e := recover(); e != nil {
			report(position{}, "", "cannot be read as YAML", "check indentation, quotes and brackets")
			root = nil
		}
	}()
	text := lineBreaks.Replace(strings.TrimPrefix(string(data), "\ufeff"))
	tokens := lexer.Tokenize(text)
	var b bounds
	for _, tk := range tokens {
		if message, hint := b.token(tk); message != "" {
			report(tokenPosition(tk), "", message, hint)
			return nil
		}
	}
	file, err := parser.Parse(tokens, 0, parser.AllowDuplicateMapKey())
	if err != nil {
		reportSyntax(err, text, report)
		return nil
	}
	t := &tree{report: report, anchors: map[string]*node{}}
	for _, doc := range file.Docs {
		switch doc.Body.(type) {
		case nil, *ast.DirectiveNode, *ast.CommentGroupNode:
			continue
		}
		if root != nil {
			report(startOf(doc.Body), "", "is a second YAML document", "write one pipeline per file, without ---")
			return nil
		}
		root = t.convert(doc.Body, "", 0)
	}
	if root == nil && !t.full {
		root = &node{kind: mapKind, pos: position{1, 1}}
	}
	if t.full {
		return nil
	}
	return root
}

// reportSyntax leaves out the lines of the file that the library prints: they
// may hold secrets.
func reportSyntax(err error, text string, report func(pos position, path, message, hint string)) {
	var se *yaml.SyntaxError
	if !errors.As(err, &se) {
		report(position{}, "", "cannot be read as YAML", "check indentation, quotes and brackets")
		return
	}
	pos := tokenPosition(se.Token)
	hint := "check indentation, quotes and brackets here and on the line before"
	if lines := strings.Split(text, "\n"); pos.line > 0 && pos.line <= len(lines) && unquotedReference.MatchString(lines[pos.line-1]) {
		hint = `put "${...}" in quotes`
	}
	report(pos, "", "YAML syntax: "+se.Message, hint)
}

func tokenPosition(tk *token.Token) position {
	if tk == nil || tk.Position == nil {
		return position{}
	}
	return position{tk.Position.Line, tk.Position.Column}
}

func (t *tree) grow(pos position, n int) bool {
	if t.values += n; t.values > maxValues && !t.full {
		t.full = true
		t.report(pos, "", fmt.Sprintf("the file has more than %d values", maxValues), "split the pipeline, or use fewer aliases and merge keys")
	}
	return !t.full
}

// convert returns the node of a, never nil.
func (t *tree) convert(a ast.Node, path string, depth int) *node {
	n := &node{pos: position{1, 1}}
	if a == nil {
		return n
	}
	n.pos = startOf(a)
	if !t.grow(n.pos, 1) {
		return n
	}
	if depth > maxDepth {
		t.full = true
		t.report(n.pos, path, fmt.Sprintf("is nested more than %d deep", maxDepth), "flatten it")
		return n
	}
	switch a := a.(type) {
	case *ast.NullNode:
	case *ast.BoolNode:
		n.kind, n.text = boolKind, a.Token.Value
	case *ast.IntegerNode:
		n.kind, n.text = intKind, a.Token.Value
	case *ast.FloatNode:
		n.kind, n.text = floatKind, a.Token.Value
	case *ast.InfinityNode:
		n.kind, n.text = floatKind, a.Token.Value
	case *ast.NanNode:
		n.kind, n.text = floatKind, a.Token.Value
	case *ast.StringNode:
		n.kind, n.text = stringKind, a.Value
		// The library leaves 1e3 and what no int64 holds as text.
		if a.Token.Type == token.StringType && plainFloat.MatchString(a.Value) {
			n.kind = floatKind
		}
	case *ast.LiteralNode:
		n.kind, n.text = stringKind, a.Value.Value
	case *ast.TagNode:
		return t.convertTag(a, n, path, depth)
	case *ast.AnchorNode:
		v := t.convert(a.Value, path, depth+1)
		if a.Name != nil && a.Name.GetToken() != nil {
			t.anchors[a.Name.GetToken().Value] = v
		}
		return v
	case *ast.AliasNode:
		name := ""
		if a.Value != nil && a.Value.GetToken() != nil {
			name = a.Value.GetToken().Value
		}
		if v, ok := t.anchors[name]; ok {
			return v
		}
		t.report(n.pos, path, fmt.Sprintf("alias *%s has no anchor before it", clip(name)), "write &"+clip(name)+" at the value that it stands for")
	case *ast.SequenceNode:
		n.kind = listKind
		for i, v := range a.Values {
			n.items = append(n.items, t.convert(v, fmt.Sprintf("%s[%d]", path, i), depth+1))
		}
	case *ast.MappingNode:
		t.convertMapping(n, a.Values, path, depth)
	case *ast.MappingValueNode:
		t.convertMapping(n, []*ast.MappingValueNode{a}, path, depth)
	default:
		t.report(n.pos, path, "is not something a pipeline can hold", "write a list, a mapping or a plain value")
	}
	return n
}

func (t *tree) convertTag(a *ast.TagNode, n *node, path string, depth int) *node {
	tag := token.ReservedTagKeyword("")
	if a.Start != nil {
		tag = token.ReservedTagKeyword(a.Start.Value)
	}
	switch tag {
	case token.StringTag:
		if v := t.convert(a.Value, path, depth+1); v.kind > nullKind && v.kind < listKind {
			return &node{kind: stringKind, pos: v.pos, text: v.text}
		}
	case token.IntegerTag, token.FloatTag, token.BooleanTag, token.NullTag, token.MappingTag, token.SequenceTag:
		return t.convert(a.Value, path, depth+1)
	}
	t.report(n.pos, path, "has a YAML tag", "leave the !tag out")
	return n
}

func (t *tree) convertMapping(n *node, values []*ast.MappingValueNode, path string, depth int) {
	n.kind = mapKind
	seen := make(map[string]position, len(values))
	var merges []*node
	for _, mv := range values {
		pos := tokenPosition(mv.Key.GetToken())
		if mv.Key.IsMergeKey() {
			merges = append(merges, t.convert(mv.Value, path, depth+1))
			continue
		}
		key, ok := keyText(mv.Key)
		if !ok {
			t.report(pos, path, "has a key that is not plain text", "write key: value")
			continue
		}
		v := t.convert(mv.Value, joinPath(path, clip(key)), depth+1)
		if first, dup := seen[key]; dup {
			t.report(pos, joinPath(path, clip(key)), fmt.Sprintf("is set twice, first at %d:%d", first.line, first.column), "keep one of the two")
			continue
		}
		seen[key] = pos
		n.entries = append(n.entries, entry{key, pos, v})
	}
	for _, m := range merges {
		t.merge(n, m, seen, path)
	}
}

// merge adds the entries of m that n lacks, as the YAML merge key does.
func (t *tree) merge(n, m *node, seen map[string]position, path string) {
	switch m.kind {
	case listKind:
		for _, i := range m.items {
			if i.kind != mapKind {
				t.report(i.pos, path, "<< merges "+i.kind.String(), "write <<: *anchor of a mapping")
				continue
			}
			t.merge(n, i, seen, path)
		}
	case mapKind:
		if !t.grow(m.pos, len(m.entries)) {
			return
		}
		for _, e := range m.entries {
			if _, ok := seen[e.key]; !ok {
				seen[e.key] = e.pos
				n.entries = append(n.entries, e)
			}
		}
	default:
		t.report(m.pos, path, "<< merges "+m.kind.String(), "write <<: *anchor of a mapping")
	}
}

func keyText(k ast.MapKeyNode) (string, bool) {
	switch k := k.(type) {
	case *ast.StringNode:
		return k.Value, true
	case *ast.MappingKeyNode:
		inner, ok := k.Value.(ast.MapKeyNode)
		if !ok {
			return "", false
		}
		return keyText(inner)
	case *ast.IntegerNode, *ast.FloatNode, *ast.BoolNode, *ast.NullNode:
		return k.GetToken().Value, true
	}
	return "", false
}

// startOf is where a reader sees a begin. A block mapping's own token is the
// colon of its first entry.
func startOf(a ast.Node) position {
	switch a := a.(type) {
	case *ast.MappingNode:
		if !a.IsFlowStyle && len(a.Values) > 0 {
			return tokenPosition(a.Values[0].Key.GetToken())
		}
	case *ast.MappingValueNode:
		return tokenPosition(a.Key.GetToken())
	case *ast.LiteralNode:
		return tokenPosition(a.Start)
	}
	return tokenPosition(a.GetToken())
}

// clip shortens what a file says to what an error line can hold.
func clip(s string) string {
	const most = 60
	if r := []rune(s); len(r) > most {
		return string(r[:most]) + "..."
	}
	return s
}
