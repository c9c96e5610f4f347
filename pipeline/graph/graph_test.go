package graph

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/apache/arrow/go/v17/arrow"
	"github.com/stretchr/testify/require"

	"github.com/penstock/penstock/pipeline"
	"github.com/penstock/penstock/pipeline/config"
)

// parse reads nodes of lines such as "sink out < score alerts".
func parse(t *testing.T, text string) []Node {
	t.Helper()
	var nodes []Node
	for _, line := range strings.Split(strings.TrimSpace(text), "\n") {
		left, right, _ := strings.Cut(line, "<")
		f := strings.Fields(left)
		require.Len(t, f, 2, line)
		n := Node{Kind: Kind(f[0]), Name: f[1], Type: "t"}
		for _, in := range strings.Fields(right) {
			n.Inputs = append(n.Inputs, ParseRef(in))
		}
		nodes = append(nodes, n)
	}
	return nodes
}

func show(problems []Problem) string {
	var lines []string
	for _, p := range problems {
		lines = append(lines, fmt.Sprintf("%s %s: %s; %s", p.Node, p.Path, p.Message, p.Hint))
	}
	return strings.Join(lines, "\n")
}

const good = `
sink out < late_sink_input_op high score.late
operator late_sink_input_op < score
alert high < score
source plc
source floor
operator score < floor plc
sink raw < plc high
`

func TestOrder(t *testing.T) {
	g, problems := New(parse(t, good))
	require.Empty(t, problems)
	var names []string
	for _, n := range g.Nodes {
		names = append(names, n.Name)
	}
	require.Equal(t, "plc floor score late_sink_input_op high out raw", strings.Join(names, " "))
	require.Equal(t, Operator, g.Node("score").Kind)
	require.Nil(t, g.Node("x"))
	readers := g.Readers(Ref{Node: "plc"})
	require.Len(t, readers, 2)
	require.Equal(t, "score raw", readers[0].Name+" "+readers[1].Name)
}

func TestProblems(t *testing.T) {
	for name, c := range map[string]struct{ in, want string }{
		"unknown": {"source plc\nsource other\noperator a < plcc\nsink out < a zzzzzz", `a inputs[0]: nothing is called "plcc"; did you mean plc?
out inputs[1]: nothing is called "zzzzzz"; write one of plc, other, a
other : source other leads nowhere; name it in the inputs of a sink, an alert rule or an operator that leads to one, or remove it`},
		"port of a typo": {"source plc\noperator window < plc\nsink out < windw.late", `out inputs[0]: nothing is called "windw"; did you mean window.late?`},
		"cycle":          {"source s\noperator a < s c\noperator b < a\noperator c < b\nsink out < c", `a inputs[1]: the graph runs in a circle: a -> b -> c -> a; remove one of these inputs`},
		"two cycles": {"source s\noperator a < s b\noperator b < a\noperator c < s d\noperator d < c\nsink out < a c", `a inputs[1]: the graph runs in a circle: a -> b -> a; remove one of these inputs
c inputs[1]: the graph runs in a circle: c -> d -> c; remove one of these inputs`},
		"self":      {"source s\noperator a < s a\nsink out < a", `a inputs[1]: reads from itself; name another node`},
		"duplicate": {"source s\noperator a < s s\nsink out < a a.late", `a inputs[1]: s is an input already; remove it`},
		"no inputs": {"source s\noperator a\nsink out\nsink b < s a", `a inputs: has no inputs; name what it reads from: s
out inputs: has no inputs; name what it reads from: s, a`},
		"from sink": {"source s\nsink out < s\nsink b < out\noperator c < out\nalert d < c", `c inputs[0]: out is a sink, which has no output; read from what the sink reads: s
b inputs[0]: out is a sink, which has no output; read from what the sink reads: s`},
		"from alert":    {"source s\nalert r < s\noperator a < r\nsink out < a r", `a inputs[0]: r is an alert rule, which only sinks can read; read from what the rule watches: s`},
		"port":          {"source s\nsink out < s.late", `out inputs[0]: s is a source and has no output "late"; write s`},
		"source inputs": {"source s < t\nsource t\nsink out < s t", `s inputs: a source has no inputs; remove inputs`},
		"unused": {"source s\nsource t\noperator a < s\noperator b < t\nsink out < b", `s : source s leads nowhere; name it in the inputs of a sink, an alert rule or an operator that leads to one, or remove it
a : operator a leads nowhere; name it in the inputs of a sink, an alert rule or an operator that leads to one, or remove it`},
		"alert without sink": {"source s\nalert r < s", ``},
	} {
		t.Run(name, func(t *testing.T) {
			g, problems := New(parse(t, c.in))
			require.Equal(t, c.want, show(problems))
			require.Equal(t, c.want == "", g != nil)
		})
	}
}

func wide(cols ...string) *arrow.Schema {
	fields := []arrow.Field{{Name: "time", Type: pipeline.TimeType}}
	for _, c := range cols {
		fields = append(fields, arrow.Field{Name: c, Type: arrow.PrimitiveTypes.Float64})
	}
	return arrow.NewSchema(fields, nil)
}

func TestResolve(t *testing.T) {
	g, problems := New(parse(t, good))
	require.Empty(t, problems)
	ab := wide("a", "b")
	var opened []string
	require.Empty(t, g.Resolve(t.Context(), func(_ context.Context, n *Node, in *arrow.Schema) (map[string]*arrow.Schema, error) {
		opened = append(opened, n.Name)
		if n.Name == "score" {
			require.True(t, in.Equal(pipeline.Readings))
			return map[string]*arrow.Schema{"": ab, "late": pipeline.WithNode(pipeline.Readings, "score")}, nil
		}
		if n.Kind == Operator {
			require.True(t, in.Equal(ab))
			return map[string]*arrow.Schema{"": in}, nil
		}
		return nil, nil
	}))
	require.Equal(t, ab, g.Node("late_sink_input_op").Out[""])
	require.Equal(t, pipeline.AlertEvents, g.Node("high").Out[""])
	require.Nil(t, g.Node("out").In, "three schemas")
	require.Equal(t, "score late_sink_input_op high out out out raw raw", strings.Join(opened, " "))
}

func TestResolveProblems(t *testing.T) {
	ok := func(s *arrow.Schema) (map[string]*arrow.Schema, error) { return map[string]*arrow.Schema{"": s}, nil }
	nullable := arrow.NewSchema([]arrow.Field{{Name: "time", Type: pipeline.TimeType, Nullable: true}, {Name: "a", Type: arrow.PrimitiveTypes.Float32}}, nil)
	other := func(s *arrow.Schema) OpenFunc {
		return func(_ context.Context, n *Node, in *arrow.Schema) (map[string]*arrow.Schema, error) {
			switch n.Name {
			case "a":
				return map[string]*arrow.Schema{"": wide("a", "b"), "late": in}, nil
			case "b":
				return ok(s)
			case "bad":
				return nil, errors.New("cannot read that")
			}
			return ok(in)
		}
	}
	const join = "source s\noperator a < s\noperator b < s\noperator c < a b\nsink out < c a b"
	md := arrow.MetadataFrom(map[string]string{"k": "v"})
	meta := arrow.NewSchema(wide("a", "b").Fields(), &md)
	for name, c := range map[string]struct {
		in   string
		b    *arrow.Schema
		want string
	}{
		"metadata differs": {join, meta, ``},
		"columns":          {join, wide("b", "c"), `c inputs[1]: b does not fit a: column a (float64) is missing, column c (float64) is not in the other; give each its own operator, or bring both to the same columns first`},
		"types":            {join, nullable, `c inputs[1]: b does not fit a: column time may be null, column a is float32 instead of float64, column b (float64) is missing; give each its own operator, or bring both to the same columns first`},
		"order":            {join, wide("b", "a"), `c inputs[1]: b does not fit a: the columns are in another order; give each its own operator, or bring both to the same columns first`},
		"many columns":     {join, wide("b", "1", "2", "3", "4", "5", "6"), `c inputs[1]: b does not fit a: column a (float64) is missing, column 1 (float64) is not in the other, column 2 (float64) is not in the other, column 3 (float64) is not in the other, column 4 (float64) is not in the other, and 2 more; give each its own operator, or bring both to the same columns first`},
		"no port":          {"source s\noperator a < s\nsink out < a.lat a.x_y_z", nil, "out inputs[0]: a has no output \"lat\"; did you mean a.late?\nout inputs[1]: a has no output \"x_y_z\"; write a or a.late"},
		"fails once":       {"source s\noperator bad < s\noperator c < bad\nalert r < bad\nsink out < c s", nil, "bad : cannot read that; "},
		"sink fails":       {"source s\noperator a < s\nsink bad < s a", nil, "bad : cannot read that; "},
	} {
		t.Run(name, func(t *testing.T) {
			g, problems := New(parse(t, c.in))
			require.Empty(t, problems)
			require.Equal(t, c.want, show(g.Resolve(t.Context(), other(c.b))))
		})
	}
}

type settings struct{}

func TestFromConfig(t *testing.T) {
	mk := func() any { return &settings{} }
	reg := config.Registry{Sources: map[string]func() any{"mqtt": mk}, Operators: map[string]func() any{"window": mk},
		Sinks: map[string]func() any{"webhook": mk}, Alert: mk}
	load := func(text string) *config.Config {
		c, err := config.Parse("p.yaml", []byte(text), reg)
		require.NoError(t, err)
		return c
	}
	const head = "version: 1\nname: n\nsources:\n  - {name: floor, type: mqtt}\noperators:\n  - {name: minute, type: window, inputs: [floor]}\n" +
		"alerts:\n  - {name: high, input: minute}\n  - {name: low, input: minute.late}\n"
	g, errs := Build(load(head + "sinks:\n  - {name: end, type: webhook, inputs: [minute, alerts, minute.late]}\n"))
	require.NoError(t, errs.Err())
	require.Equal(t, []Ref{{Node: "minute"}, {Node: "high"}, {Node: "low"}, {"minute", "late"}}, g.Node("end").Inputs)

	require.Equal(t, `floor (mqtt source)
└─▶ minute (window)
   ├─▶ high (alert rule)
   │  └─▶ end (webhook sink)
   ├─late ─▶ low (alert rule)
   │  └─▶ end
   ├─▶ end
   └─late ─▶ end
`, g.Text())
	require.Equal(t, `flowchart LR
  n0(["floor<br/>mqtt source"])
  n1["minute<br/>window"]
  n2{{"high<br/>alert rule"}}
  n3{{"low<br/>alert rule"}}
  n4[("end<br/>webhook sink")]
  n0 --> n1
  n1 --> n2
  n1 -->|late| n3
  n1 --> n4
  n2 --> n4
  n3 --> n4
  n1 -->|late| n4
`, g.Mermaid())

	_, errs = Build(load(head + "sinks:\n  - name: out\n    type: webhook\n    inputs:\n      - minut\n      - alerts\n      - high\n"))
	require.EqualError(t, errs.Err(), `p.yaml:14:9: sinks[0].inputs[0]: nothing is called "minut"; did you mean minute?
p.yaml:16:9: sinks[0].inputs[2]: high is an input already; remove it`)
	_, errs = Build(load("version: 1\nname: n\nsources:\n  - {name: floor, type: mqtt}\nalerts:\n  - {name: r, input: flor}\nsinks:\n  - {name: out, type: webhook, inputs: [r]}\n"))
	require.EqualError(t, errs.Err(), `p.yaml:6:22: alerts[0].input: nothing is called "flor"; did you mean floor?`)
	_, errs = Build(load("version: 1\nname: n\nsources:\n  - {name: floor, type: mqtt}\nsinks:\n  - {name: out, type: webhook, inputs: [alerts, floor]}\n"))
	require.EqualError(t, errs.Err(), `p.yaml:6:41: sinks[0].inputs[0]: there are no alert rules; add rules under alerts, or remove it`)
}

// A bad file and a bad graph are told of together.
func TestBuildOfBrokenConfig(t *testing.T) {
	reg := config.Registry{Sources: map[string]func() any{"mqtt": func() any { return &settings{} }}}
	c, err := config.Parse("p.yaml", []byte("version: 1\nname: n\nsources: [{name: a, type: mqt}, {type: mqtt}]\nsinks: [{name: s, type: x, inputs: [b]}]\n"), reg)
	require.Error(t, err)
	_, errs := Build(c)
	require.ErrorContains(t, errs.Err(), `sinks[0].inputs[0]: nothing is called "b"`)
}
