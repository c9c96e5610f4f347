package filter

import (
	"errors"
	"fmt"
	"math"
	"regexp"
	"strings"
	"time"

	"github.com/apache/arrow/go/v17/arrow"
	"github.com/expr-lang/expr/ast"
	"github.com/expr-lang/expr/file"
	"github.com/expr-lang/expr/parser"

	"github.com/penstock/penstock/pipeline"
)

const supported = "an expression has columns, numbers, \"strings\", true, false, nil, + - * / % **, == != < <= > >=, and or not, in [...], " +
	"c ? x : y, x ?? y, matches, contains, startsWith, endsWith, abs ceil floor round sqrt min max lower upper, " +
	"good(quality) uncertain(quality) bad(quality), date(\"...\") and duration(\"...\")"

const maxExpr = 16 << 10 // characters

// kind is the type of an expression.
type kind uint8

const (
	kindAny kind = iota // not known before Open
	kindNull
	kindNumber
	kindBool
	kindString
	kindTime
	kindDuration
)

func (k kind) String() string {
	return [...]string{"any", "nil", "number", "boolean", "string", "time", "duration"}[k]
}

// badExpr is an error in the expression, with its place in it.
type badExpr struct {
	line, col int // from 1
	msg, hint string
}

func (e *badExpr) Error() string {
	if e.line > 1 {
		return fmt.Sprintf("line %d, column %d: %s", e.line, e.col, e.msg)
	}
	return fmt.Sprintf("column %d: %s", e.col, e.msg)
}

// program is a compiled expression. Its memory is reused from batch to batch.
type program struct {
	root node
	tag  int // column, or -1
	b    batch
	last vec
}

// run evaluates the expression over rec. The result is valid until the next run.
func (p *program) run(rec arrow.Record) (vec, error) {
	p.b.rec, p.b.rows = rec, int(rec.NumRows())
	if p.tag >= 0 {
		var err error
		if p.b.runs, err = pipeline.Runs(p.b.runs[:0], rec, p.tag); err != nil {
			return vec{}, err
		}
	}
	v, err := p.root.eval(&p.b)
	p.b.rec = nil
	return v, err
}

type compiler struct {
	schema  *arrow.Schema
	tags    *pipeline.Tags
	tag     int
	lenient bool // names that the schema does not have may be anything
	source  file.Source
}

// typed is a compiled part of the expression and its type.
type typed struct {
	node
	kind kind
	at   ast.Node
}

// compile makes a program for inputs of schema s. When lenient, it only
// checks: columns that s does not have may still be there.
func compile(src string, s *arrow.Schema, tags *pipeline.Tags, lenient bool) (_ *program, bad *badExpr) {
	if len(src) > maxExpr {
		return nil, &badExpr{1, maxExpr, fmt.Sprintf("the expression is longer than %d characters", maxExpr), "split it into several filters"}
	}
	tree, err := parser.Parse(src)
	if err != nil {
		var fe *file.Error
		if errors.As(err, &fe) {
			return nil, &badExpr{max(fe.Line, 1), fe.Column + 1, fe.Message, supported}
		}
		return nil, &badExpr{1, 1, err.Error(), supported}
	}
	c := &compiler{schema: s, tags: tags, tag: pipeline.Column(s, pipeline.NameTag), lenient: lenient, source: tree.Source}
	if c.tag >= 0 && !arrow.TypeEqual(s.Field(c.tag).Type, pipeline.TagType) {
		c.tag = -1
	}
	defer func() { // the compiler's own, thrown by fail
		switch r := recover().(type) {
		case nil:
		case *badExpr:
			bad = r
		default:
			panic(r)
		}
	}()
	root := c.want(c.expr(tree.Node), kindBool)
	return &program{root: root.node, tag: c.tag}, nil
}

func (c *compiler) fail(at ast.Node, hint, format string, args ...any) {
	e := (&file.Error{Location: at.Location()}).Bind(c.source)
	panic(&badExpr{e.Line, e.Column + 1, fmt.Sprintf(format, args...), hint})
}

// want requires x to be one of kinds.
func (c *compiler) want(x typed, kinds ...kind) typed {
	var names []string
	for _, k := range kinds {
		if x.kind == k || x.kind == kindAny {
			return x
		}
		names = append(names, k.String())
	}
	c.fail(x.at, supported, "this is a %s, want a %s", x.kind, strings.Join(names, " or a "))
	return x
}

func (c *compiler) lit(at ast.Node, k kind, v vec) typed { return typed{&constant{v}, k, at} }

// fold evaluates n now if it depends on constants alone.
func (c *compiler) fold(n node, k kind, at ast.Node) typed {
	if n.level() == levelConst {
		v, err := n.eval(&batch{})
		if err != nil {
			c.fail(at, supported, "%v", err)
		}
		n = &constant{v}
	}
	return typed{n, k, at}
}

// predicate is a fold of a test on strings: what depends on the tag alone is
// remembered for each tag.
func (c *compiler) predicate(n node, at ast.Node) typed {
	if n.level() == levelRun {
		n = &perTag{of: n}
	}
	return c.fold(n, kindBool, at)
}

func (c *compiler) expr(n ast.Node) typed {
	switch n := n.(type) {
	case *ast.NilNode:
		return typed{&constant{}, kindNull, n}
	case *ast.IntegerNode:
		return c.lit(n, kindNumber, vec{f: []float64{float64(n.Value)}})
	case *ast.FloatNode:
		return c.lit(n, kindNumber, vec{f: []float64{n.Value}})
	case *ast.BoolNode:
		return c.lit(n, kindBool, vec{b: []truth{verdict(n.Value)}})
	case *ast.StringNode:
		return c.lit(n, kindString, vec{s: []string{n.Value}})
	case *ast.IdentifierNode:
		return c.name(n)
	case *ast.UnaryNode:
		return c.unary(n)
	case *ast.BinaryNode:
		return c.binary(n)
	case *ast.ConditionalNode:
		return c.choice(n)
	case *ast.BuiltinNode:
		return c.call(n, n.Name, n.Arguments)
	case *ast.CallNode:
		if id, ok := n.Callee.(*ast.IdentifierNode); ok {
			return c.call(n, id.Value, n.Arguments)
		}
	}
	c.fail(n, supported, "%s is not supported", n.String())
	return typed{}
}

func (c *compiler) name(n *ast.IdentifierNode) typed {
	col := pipeline.Column(c.schema, n.Value)
	if col >= 0 && col == c.tag {
		return typed{&tagColumn{}, kindString, n}
	}
	if col < 0 && c.tag >= 0 {
		facts := map[string]func(pipeline.TagInfo) string{
			"asset":       func(i pipeline.TagInfo) string { return i.Asset },
			"measurement": func(i pipeline.TagInfo) string { return i.Measurement },
			"unit":        func(i pipeline.TagInfo) string { return i.Unit },
		}
		if of := facts[n.Value]; of != nil {
			return typed{&tagColumn{tags: c.tags, of: of}, kindString, n}
		}
	}
	if col < 0 {
		if c.lenient {
			return typed{&column{}, kindAny, n}
		}
		c.fail(n, "the input has the columns "+strings.Join(names(c.schema), ", ")+" and, for each tag, asset, measurement, unit",
			"unknown column %q", n.Value)
	}
	k := kindOf(c.schema.Field(col).Type)
	if k == kindAny {
		c.fail(n, "use a column of numbers, booleans, strings or times", "column %q is %s", n.Value, c.schema.Field(col).Type)
	}
	return typed{&column{col: col, kind: k}, k, n}
}

func names(s *arrow.Schema) []string {
	var l []string
	for _, f := range s.Fields() {
		l = append(l, f.Name)
	}
	return l
}

func kindOf(t arrow.DataType) kind {
	switch t := t.(type) {
	case *arrow.Float64Type, *arrow.Float32Type, *arrow.Int8Type, *arrow.Int16Type, *arrow.Int32Type, *arrow.Int64Type,
		*arrow.Uint8Type, *arrow.Uint16Type, *arrow.Uint32Type, *arrow.Uint64Type:
		return kindNumber
	case *arrow.BooleanType:
		return kindBool
	case *arrow.StringType:
		return kindString
	case *arrow.TimestampType:
		if t.Unit == arrow.Nanosecond {
			return kindTime
		}
	case *arrow.DurationType:
		if t.Unit == arrow.Nanosecond {
			return kindDuration
		}
	case *arrow.DictionaryType:
		if t.ValueType.ID() == arrow.STRING {
			return kindString
		}
	}
	return kindAny
}

func (c *compiler) unary(n *ast.UnaryNode) typed {
	x := c.expr(n.Node)
	switch n.Operator {
	case "not", "!":
		return c.fold(&unary{x: c.want(x, kindBool).node, do: not}, kindBool, n)
	case "-":
		return c.fold(&unary{x: c.want(x, kindNumber).node, do: mapFloat(func(v float64) float64 { return -v })}, kindNumber, n)
	case "+":
		return c.want(x, kindNumber)
	}
	c.fail(n, supported, "operator %q is not supported", n.Operator)
	return typed{}
}

var relations = map[string]relation{"==": eq, "!=": ne, "<": lt, "<=": le, ">": gt, ">=": ge}

// mirrored[r] is what r becomes when its sides change places.
var mirrored = [...]relation{eq: eq, ne: ne, lt: gt, le: ge, gt: lt, ge: le}

func (c *compiler) binary(n *ast.BinaryNode) typed {
	if n.Operator == "in" {
		return c.in(n)
	}
	x, y := c.expr(n.Left), c.expr(n.Right)
	if rel, ok := relations[n.Operator]; ok {
		return c.compare(n, rel, x, y)
	}
	switch n.Operator {
	case "and", "&&":
		return c.fold(&binary{x: c.want(x, kindBool).node, y: c.want(y, kindBool).node, do: and}, kindBool, n)
	case "or", "||":
		return c.fold(&binary{x: c.want(x, kindBool).node, y: c.want(y, kindBool).node, do: or}, kindBool, n)
	case "+", "-":
		return c.sum(n, x, y)
	case "*", "/", "%", "**", "^":
		f := map[string]func(a, b float64) float64{"*": mul, "/": div, "%": math.Mod, "**": power, "^": power}[n.Operator]
		return c.fold(&binary{x: c.want(x, kindNumber).node, y: c.want(y, kindNumber).node, do: arith(f, floats, toFloats)}, kindNumber, n)
	case "??":
		if x.kind == kindNull {
			return y
		}
		known := c.fold(&unary{x: x.node, do: isNil(false)}, kindBool, n)
		return c.pick(n, known, x, y)
	case "matches", "contains", "startsWith", "endsWith":
		return c.textTest(n, x, y)
	}
	c.fail(n, supported, "operator %q is not supported", n.Operator)
	return typed{}
}

func (c *compiler) compare(n ast.Node, rel relation, x, y typed) typed {
	if x.kind == kindNull {
		x, y, rel = y, x, mirrored[rel]
	}
	if y.kind == kindNull {
		if rel != eq && rel != ne {
			c.fail(n, "write == nil or != nil", "nil has no order")
		}
		if x.kind == kindNull {
			return c.lit(n, kindBool, vec{b: []truth{verdict(rel == eq)}})
		}
		return c.fold(&unary{x: x.node, do: isNil(rel == eq)}, kindBool, n)
	}
	if x.kind != y.kind && x.kind != kindAny && y.kind != kindAny {
		c.fail(n, `compare like with like: value > 80, tag == "a/b", time > date("2026-05-01T06:00:00Z"), received - time > duration("5s")`,
			"a %s cannot be compared with a %s", x.kind, y.kind)
	}
	if x.level() == levelConst { // the fast path has the constant on the right
		x, y, rel = y, x, mirrored[rel]
	}
	b := &binary{x: x.node, y: y.node}
	switch max(x.kind, y.kind) {
	case kindString:
		b.do = compare(rel, texts)
		return c.predicate(b, n)
	case kindTime, kindDuration:
		b.do = compare(rel, ints)
	case kindBool:
		if rel != eq && rel != ne {
			c.fail(n, "write == or !=", "booleans have no order")
		}
		b.do = sameTruth(rel == eq)
	default:
		b.do = compare(rel, floats)
	}
	return c.fold(b, kindBool, n)
}

// sum is + and -, of numbers, times and durations.
func (c *compiler) sum(n *ast.BinaryNode, x, y typed) typed {
	minus := n.Operator == "-"
	if x.kind == kindAny || y.kind == kindAny {
		return typed{&column{}, kindAny, n}
	}
	b := &binary{x: x.node, y: y.node, do: arith(add[int64], ints, toInts)}
	if minus {
		b.do = arith(sub[int64], ints, toInts)
	}
	switch {
	case x.kind == kindNumber && y.kind == kindNumber:
		b.do = arith(add[float64], floats, toFloats)
		if minus {
			b.do = arith(sub[float64], floats, toFloats)
		}
		return c.fold(b, kindNumber, n)
	case x.kind == kindTime && y.kind == kindTime && minus, x.kind == kindDuration && y.kind == kindDuration:
		return c.fold(b, kindDuration, n)
	case x.kind == kindTime && y.kind == kindDuration, x.kind == kindDuration && y.kind == kindTime && !minus:
		return c.fold(b, kindTime, n)
	}
	c.fail(n, supported, "%s %s %s is not supported", x.kind, n.Operator, y.kind)
	return typed{}
}

func (c *compiler) choice(n *ast.ConditionalNode) typed {
	return c.pick(n, c.want(c.expr(n.Cond), kindBool), c.expr(n.Exp1), c.expr(n.Exp2))
}

func (c *compiler) pick(n ast.Node, cond, x, y typed) typed {
	k := x.kind
	if k == kindAny {
		k = y.kind
	}
	if k == kindNull || y.kind == kindNull {
		c.fail(n, supported, "nil is not supported here")
	}
	c.want(y, k)
	return c.fold(&choice{c: cond.node, x: x.node, y: y.node}, k, n)
}

func (c *compiler) textTest(n *ast.BinaryNode, x, y typed) typed {
	c.want(x, kindString)
	k, ok := y.node.(*constant)
	if !ok || y.kind != kindString {
		c.fail(n.Right, `write a string, such as tag endsWith "/temperature"`, "the right side of %s must be a constant string", n.Operator)
	}
	s := k.v.s[0]
	var p func(string) bool
	switch n.Operator {
	case "matches":
		re, err := regexp.Compile(s)
		if err != nil {
			c.fail(n.Right, `write a regular expression in RE2 syntax, such as "pump[0-9]+/.*"`, "%v", err)
		}
		p = re.MatchString
	case "contains":
		p = func(v string) bool { return strings.Contains(v, s) }
	case "startsWith":
		p = func(v string) bool { return strings.HasPrefix(v, s) }
	case "endsWith":
		p = func(v string) bool { return strings.HasSuffix(v, s) }
	}
	return c.predicate(&unary{x: x.node, do: test(p, texts)}, n)
}

func (c *compiler) in(n *ast.BinaryNode) typed {
	x := c.want(c.expr(n.Left), kindNumber, kindString)
	list, ok := n.Right.(*ast.ArrayNode)
	if !ok {
		c.fail(n.Right, `write a list, such as tag in ["a", "b"], or 1 <= value <= 9 for a range`, "the right side of in must be a list of constants")
	}
	nums, strs := map[float64]bool{}, map[string]bool{}
	for _, e := range list.Nodes {
		y := c.expr(e)
		k, ok := y.node.(*constant)
		if !ok || y.kind != x.kind && x.kind != kindAny || y.kind != kindNumber && y.kind != kindString {
			c.fail(e, `write a list of constants of one kind, such as ["a", "b"]`, "this cannot be in a list that is compared with a %s", x.kind)
		}
		if y.kind == kindNumber {
			nums[k.v.f[0]] = true
		} else {
			strs[k.v.s[0]] = true
		}
	}
	if x.kind == kindString {
		return c.predicate(&unary{x: x.node, do: test(func(v string) bool { return strs[v] }, texts)}, n)
	}
	return c.fold(&unary{x: x.node, do: test(func(v float64) bool { return nums[v] }, floats)}, kindBool, n)
}

var floatFuncs = map[string]func(float64) float64{"abs": math.Abs, "ceil": math.Ceil, "floor": math.Floor, "round": math.Round, "sqrt": math.Sqrt}

var severities = map[string]func(uint32) bool{"good": pipeline.IsGood, "uncertain": pipeline.IsUncertain, "bad": pipeline.IsBad}

func (c *compiler) call(n ast.Node, name string, args []ast.Node) typed {
	if len(args) == 0 {
		hint := supported
		if name == "now" {
			hint = "an operator sees event time only: use the time or received column"
		}
		c.fail(n, hint, "%s() is not supported", name)
	}
	if f := floatFuncs[name]; f != nil && len(args) == 1 {
		return c.fold(&unary{x: c.want(c.expr(args[0]), kindNumber).node, do: mapFloat(f)}, kindNumber, n)
	}
	if is := severities[name]; is != nil && len(args) == 1 {
		return c.severity(n, args[0], name, is)
	}
	switch {
	case name == "min" || name == "max":
		x := c.want(c.expr(args[0]), kindNumber)
		f := func(a, b float64) float64 { return min(a, b) }
		if name == "max" {
			f = func(a, b float64) float64 { return max(a, b) }
		}
		for _, a := range args[1:] {
			x = c.fold(&binary{x: x.node, y: c.want(c.expr(a), kindNumber).node, do: arith(f, floats, toFloats)}, kindNumber, n)
		}
		return x
	case (name == "lower" || name == "upper") && len(args) == 1:
		f := strings.ToLower
		if name == "upper" {
			f = strings.ToUpper
		}
		return c.fold(&unary{x: c.want(c.expr(args[0]), kindString).node, do: mapString(f)}, kindString, n)
	case (name == "date" || name == "duration") && len(args) == 1:
		return c.timeLiteral(n, name, args[0])
	}
	c.fail(n, supported, "function %s with %d arguments is not supported", name, len(args))
	return typed{}
}

func (c *compiler) severity(n, arg ast.Node, name string, is func(uint32) bool) typed {
	id, ok := arg.(*ast.IdentifierNode)
	if !ok {
		c.fail(n, "write "+name+"(quality)", "%s takes a quality column", name)
	}
	col := pipeline.Column(c.schema, id.Value)
	if col < 0 && c.lenient {
		return typed{&column{}, kindBool, n}
	}
	if col < 0 || c.schema.Field(col).Type.ID() != arrow.UINT32 {
		c.fail(arg, "write "+name+"(quality)", "%q is not a quality column of the input", id.Value)
	}
	return typed{&severity{col: col, is: is}, kindBool, n}
}

func (c *compiler) timeLiteral(n ast.Node, name string, arg ast.Node) typed {
	s, ok := arg.(*ast.StringNode)
	if !ok {
		c.fail(n, `write date("2026-05-01T06:00:00Z") or duration("5s")`, "%s takes a constant string", name)
	}
	if name == "duration" {
		d, err := time.ParseDuration(s.Value)
		if err != nil {
			c.fail(arg, `write duration("5s")`, "%v", err)
		}
		return c.lit(n, kindDuration, vec{i: []int64{int64(d)}})
	}
	t, err := time.Parse(time.RFC3339Nano, s.Value)
	if err != nil {
		t, err = time.Parse(time.DateOnly, s.Value)
	}
	if err != nil {
		c.fail(arg, `write date("2026-05-01T06:00:00Z"), or date("2026-05-01") for midnight UTC`, "%q is not a time", s.Value)
	}
	return c.lit(n, kindTime, vec{i: []int64{t.UnixNano()}})
}
