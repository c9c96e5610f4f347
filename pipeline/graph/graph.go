// Package graph is the pipeline's graph: who reads from whom, checked for
// sense, in an order in which a batch can run through it.
package graph

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/apache/arrow/go/v17/arrow"

	"github.com/penstock/penstock/pipeline"
	"github.com/penstock/penstock/pipeline/config"
)

// Kind is what a node is.
type Kind string

const (
	Source   Kind = "source"
	Operator Kind = "operator"
	Alert    Kind = "alert"
	Sink     Kind = "sink"
)

// rank orders kinds as data flows.
func (k Kind) rank() int { return slices.Index([]Kind{Source, Operator, Alert, Sink}, k) }

// Ref names an output of a node; Port "" is its main one.
type Ref struct{ Node, Port string }

func (r Ref) String() string {
	if r.Port == "" {
		return r.Node
	}
	return r.Node + "." + r.Port
}

// ParseRef reads "node" or "node.port".
func ParseRef(s string) Ref {
	node, port, _ := strings.Cut(s, ".")
	if port == "" {
		return Ref{Node: s} // "node." is no name: nothing will be called so
	}
	return Ref{node, port}
}

// Node is a component in the graph.
type Node struct {
	Name   string
	Kind   Kind
	Type   string
	Inputs []Ref

	// Out is the schema of each output by port, "" the main one, and In that
	// of what it reads. [Graph.Resolve] fills both. In of a sink with inputs
	// of several schemas is nil: it sees each with its own.
	Out map[string]*arrow.Schema
	In  *arrow.Schema

	// paths holds for each input the config path of the entry it came from:
	// "alerts" stands for many.
	paths []string
}

// inputPath is the config path of input i.
func (n *Node) inputPath(i int) string {
	if i < len(n.paths) {
		return n.paths[i]
	}
	return fmt.Sprintf("inputs[%d]", i)
}

// Problem is a [pipeline.Problem] of the component called Node.
type Problem struct {
	Node string
	pipeline.Problem
}

// Graph is a graph in which every reference leads somewhere and none leads
// back.
type Graph struct {
	// Nodes in an order in which each comes after all it reads from. Sources
	// are first; else the order is that of the config as far as it can be.
	Nodes []*Node

	byName map[string]*Node
}

// Node returns the node called name, or nil.
func (g *Graph) Node(name string) *Node { return g.byName[name] }

// Readers returns the nodes that read from r, in order.
func (g *Graph) Readers(r Ref) []*Node {
	var out []*Node
	for _, n := range g.Nodes {
		if slices.Contains(n.Inputs, r) {
			out = append(out, n)
		}
	}
	return out
}

// New builds the graph of nodes, whose names are unique. With problems the
// graph is nil. Ports are checked by [Graph.Resolve]: operators know theirs
// once they are open.
func New(nodes []Node) (*Graph, []Problem) {
	b := builder{byName: map[string]*Node{}}
	for i := range nodes {
		n := nodes[i]
		b.nodes = append(b.nodes, &n)
		b.byName[n.Name] = &n
	}
	slices.SortStableFunc(b.nodes, func(a, b *Node) int { return cmp.Compare(a.Kind.rank(), b.Kind.rank()) })
	b.references()
	g := &Graph{Nodes: b.sort(), byName: b.byName}
	b.unused()
	if len(b.problems) > 0 {
		return nil, b.problems
	}
	return g, nil
}

type builder struct {
	nodes    []*Node
	byName   map[string]*Node
	problems []Problem
}

func (b *builder) add(n *Node, path, message, hint string) {
	b.problems = append(b.problems, Problem{n.Name, pipeline.Problem{Path: path, Message: message, Hint: hint}})
}

// references checks each input by itself.
func (b *builder) references() {
	for _, n := range b.nodes {
		if n.Kind == Source {
			if len(n.Inputs) > 0 {
				b.add(n, "inputs", "a source has no inputs", "remove inputs")
			}
			continue
		}
		if len(n.Inputs) == 0 {
			b.add(n, "inputs", "has no inputs", "name what it reads from: "+list(b.readable(n)))
		}
		for i, in := range n.Inputs {
			b.reference(n, i, in)
		}
	}
}

func (b *builder) reference(n *Node, i int, in Ref) {
	from, known := b.byName[in.Node]
	path := n.inputPath(i)
	switch {
	case in.Node == n.Name:
		b.add(n, path, "reads from itself", "name another node")
	case !known && in.Node == config.AllAlerts && n.Kind == Sink:
		b.add(n, path, "there are no alert rules", "add rules under alerts, or remove it")
	case !known:
		hint := "write one of " + list(b.readable(n))
		if near := config.Nearest(in.Node, b.readable(n)); near != "" {
			hint = "did you mean " + Ref{near, in.Port}.String() + "?"
		}
		b.add(n, path, fmt.Sprintf("nothing is called %q", in.Node), hint)
	case from.Kind == Sink:
		b.add(n, path, fmt.Sprintf("%s is a sink, which has no output", in.Node), "read from what the sink reads: "+refs(from.Inputs))
	case from.Kind == Alert && n.Kind != Sink:
		b.add(n, path, fmt.Sprintf("%s is an alert rule, which only sinks can read", in.Node), "read from what the rule watches: "+refs(from.Inputs))
	case from.Kind != Operator && in.Port != "":
		b.add(n, path, fmt.Sprintf("%s is %s %s and has no output %q", in.Node, article(from.Kind), from.Kind, in.Port), "write "+in.Node)
	case slices.Contains(n.Inputs[:i], in):
		b.add(n, path, fmt.Sprintf("%s is an input already", in), "remove it")
	}
}

// readable lists what n may read from.
func (b *builder) readable(n *Node) []string {
	var names []string
	for _, m := range b.nodes {
		if m != n && (m.Kind == Source || m.Kind == Operator || m.Kind == Alert && n.Kind == Sink) {
			names = append(names, m.Name)
		}
	}
	if n.Kind == Sink && slices.ContainsFunc(b.nodes, func(m *Node) bool { return m.Kind == Alert }) {
		names = append(names, config.AllAlerts)
	}
	return names
}

// sort orders the nodes so that each follows what it reads: among those that
// are ready the first in the config comes first. Nodes on a cycle are left
// out and reported.
func (b *builder) sort() []*Node {
	done := map[string]bool{}
	ready := func(n *Node) bool {
		for _, in := range n.Inputs {
			if from := b.byName[in.Node]; from != nil && from != n && !done[in.Node] {
				return false
			}
		}
		return true
	}
	var order []*Node
	for left := slices.Clone(b.nodes); len(left) > 0; {
		i := slices.IndexFunc(left, ready)
		if i < 0 {
			b.cycles(left)
			break
		}
		done[left[i].Name] = true
		order = append(order, left[i])
		left = slices.Delete(left, i, i+1)
	}
	return order
}

// cycles reports each cycle among left once, at its first node in the config.
func (b *builder) cycles(left []*Node) {
	const white, grey, black = 0, 1, 2
	color := map[*Node]int{}
	var path []*Node
	var visit func(n *Node)
	visit = func(n *Node) {
		color[n] = grey
		path = append(path, n)
		for _, in := range n.Inputs {
			from := b.byName[in.Node]
			if from == nil || from == n || !slices.Contains(left, from) {
				continue
			}
			switch color[from] {
			case white:
				visit(from)
			case grey:
				b.cycle(path[slices.Index(path, from):])
			}
		}
		path = path[:len(path)-1]
		color[n] = black
	}
	for _, n := range left {
		if color[n] == white {
			visit(n)
		}
	}
}

// cycle reports a cycle; each of nodes reads from the next, the last from the
// first.
func (b *builder) cycle(nodes []*Node) {
	names := []string{nodes[0].Name}
	for _, n := range slices.Backward(nodes) {
		names = append(names, n.Name)
	}
	n := nodes[0]
	next := nodes[1%len(nodes)].Name
	i := slices.IndexFunc(n.Inputs, func(r Ref) bool { return r.Node == next })
	b.add(n, n.inputPath(i), "the graph runs in a circle: "+strings.Join(names, " -> "), "remove one of these inputs")
}

// unused reports what leads to neither a sink nor an alert rule (whose alerts
// the operator page shows, even without a sink). A misspelt input counts as
// the one that was meant.
func (b *builder) unused() {
	used := map[*Node]bool{}
	var mark func(n *Node)
	mark = func(n *Node) {
		if n == nil || used[n] {
			return
		}
		used[n] = true
		for _, in := range n.Inputs {
			from := b.byName[in.Node]
			if from == nil {
				from = b.byName[config.Nearest(in.Node, b.readable(n))]
			}
			mark(from)
		}
	}
	for _, n := range b.nodes {
		if n.Kind == Sink || n.Kind == Alert {
			mark(n)
		}
	}
	for _, n := range b.nodes {
		if !used[n] {
			b.add(n, "", fmt.Sprintf("%s %s leads nowhere", n.Kind, n.Name), "name it in the inputs of a sink, an alert rule or an operator that leads to one, or remove it")
		}
	}
}

func list(names []string) string {
	if len(names) == 0 {
		return "there is nothing yet"
	}
	return strings.Join(names, ", ")
}

func refs(in []Ref) string {
	names := make([]string, len(in))
	for i, r := range in {
		names[i] = r.String()
	}
	return list(names)
}

func article(k Kind) string {
	if k == Alert || k == Operator {
		return "an"
	}
	return "a"
}
