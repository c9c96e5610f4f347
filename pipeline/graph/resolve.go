package graph

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/apache/arrow/go/v17/arrow"

	"github.com/penstock/penstock/pipeline"
	"github.com/penstock/penstock/pipeline/config"
)

// OpenFunc opens node n on an input of schema in and returns the schema of
// each output, "" the main one. Resolve calls it for operators, alert rules
// and sinks, each after all it reads from; of alert rules and sinks it takes
// only the error. For a sink whose inputs have several schemas it is called
// once for each.
type OpenFunc func(ctx context.Context, n *Node, in *arrow.Schema) (map[string]*arrow.Schema, error)

// Resolve finds the schema of every edge and fills In and Out of the nodes.
// What reads from a node that failed is left out: the first cause is told.
// Sources make [pipeline.Readings], alert rules [pipeline.AlertEvents].
func (g *Graph) Resolve(ctx context.Context, open OpenFunc) []Problem {
	r := resolver{g: g, open: open, failed: map[*Node]bool{}}
	for _, n := range g.Nodes {
		n.In, n.Out = nil, nil
		if n.Kind == Source {
			n.Out = map[string]*arrow.Schema{"": pipeline.Readings}
		} else {
			r.node(ctx, n)
		}
	}
	return r.problems
}

type resolver struct {
	g        *Graph
	open     OpenFunc
	failed   map[*Node]bool
	problems []Problem
}

func (r *resolver) add(n *Node, path, message, hint string) {
	r.failed[n] = true
	r.problems = append(r.problems, Problem{n.Name, pipeline.Problem{Path: path, Message: message, Hint: hint}})
}

func (r *resolver) node(ctx context.Context, n *Node) {
	var schemas []*arrow.Schema // of the inputs, each once
	for i, in := range n.Inputs {
		from := r.g.byName[in.Node]
		if r.failed[from] {
			r.failed[n] = true
			return
		}
		s, ok := from.Out[in.Port]
		if !ok || s == nil {
			r.noPort(n, i, from, in.Port)
			continue
		}
		if len(schemas) > 0 && n.Kind != Sink && !sameFields(schemas[0], s) {
			r.add(n, n.inputPath(i), fmt.Sprintf("%s does not fit %s: %s", in, n.Inputs[0], difference(schemas[0], s)),
				"give each its own operator, or bring both to the same columns first")
			continue
		}
		if !slices.ContainsFunc(schemas, func(o *arrow.Schema) bool { return sameFields(o, s) }) {
			schemas = append(schemas, s)
		}
	}
	if r.failed[n] {
		return
	}
	if len(schemas) == 1 {
		n.In = schemas[0]
	}
	for _, s := range schemas {
		out, err := r.open(ctx, n, s)
		if err != nil {
			r.add(n, "", err.Error(), "")
			return
		}
		switch {
		case n.Kind == Alert:
			n.Out = map[string]*arrow.Schema{"": pipeline.AlertEvents}
		case n.Kind == Operator:
			n.Out = maps.Clone(out)
		}
	}
}

func (r *resolver) noPort(n *Node, i int, from *Node, port string) {
	var have []string
	for p, s := range from.Out {
		if s != nil {
			have = append(have, Ref{from.Name, p}.String())
		}
	}
	slices.Sort(have)
	message := fmt.Sprintf("%s has no output %q", from.Name, port)
	if port == "" {
		message = from.Name + " has no main output"
	}
	hint := "write " + strings.Join(have, " or ")
	if near := config.Nearest(from.Name+"."+port, have); near != "" {
		hint = "did you mean " + near + "?"
	}
	r.add(n, n.inputPath(i), message, hint)
}

// sameFields compares names, types, nullability and order; metadata may differ.
func sameFields(a, b *arrow.Schema) bool { return difference(a, b) == "" }

// difference tells how b differs from a, or "".
func difference(a, b *arrow.Schema) string {
	var diffs []string
	for _, f := range a.Fields() {
		i := pipeline.Column(b, f.Name)
		if i < 0 {
			diffs = append(diffs, fmt.Sprintf("column %s (%s) is missing", f.Name, f.Type))
			continue
		}
		g := b.Field(i)
		if !arrow.TypeEqual(f.Type, g.Type) {
			diffs = append(diffs, fmt.Sprintf("column %s is %s instead of %s", f.Name, g.Type, f.Type))
		} else if f.Nullable != g.Nullable {
			diffs = append(diffs, fmt.Sprintf("column %s %s null", f.Name, map[bool]string{true: "may be", false: "is never"}[g.Nullable]))
		}
	}
	for _, f := range b.Fields() {
		if pipeline.Column(a, f.Name) < 0 {
			diffs = append(diffs, fmt.Sprintf("column %s (%s) is not in the other", f.Name, f.Type))
		}
	}
	if len(diffs) == 0 {
		for i, f := range a.Fields() {
			if i >= b.NumFields() || b.Field(i).Name != f.Name {
				return "the columns are in another order"
			}
		}
		if a.NumFields() != b.NumFields() {
			return "a column is there twice"
		}
	}
	const most = 5
	if len(diffs) > most {
		diffs = append(diffs[:most], fmt.Sprintf("and %d more", len(diffs)-most))
	}
	return strings.Join(diffs, ", ")
}
