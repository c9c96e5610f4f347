package graph

import (
	"fmt"
	"slices"
	"strings"
)

// Text draws the graph for a terminal: a tree below each source. A node that
// several read into is drawn in full once; elsewhere "^" points up to it.
// After Resolve operators show the columns they make.
func (g *Graph) Text() string {
	d := drawing{g: g, drawn: map[*Node]bool{}}
	for _, n := range g.Nodes {
		if n.Kind == Source {
			if d.b.Len() > 0 {
				d.b.WriteByte('\n')
			}
			d.b.WriteString(label(n) + "\n")
			d.below(n, "")
		}
	}
	return d.b.String()
}

type drawing struct {
	g     *Graph
	b     strings.Builder
	drawn map[*Node]bool
}

// below draws what reads from n, each line after indent: first what is not
// drawn yet, then, on one line for each port, the names of what is.
func (d *drawing) below(n *Node, indent string) {
	d.drawn[n] = true
	type edge struct {
		port string
		to   *Node
	}
	var edges []edge
	for _, m := range d.g.Nodes {
		for _, in := range m.Inputs {
			if in.Node == n.Name {
				edges = append(edges, edge{in.Port, m})
			}
		}
	}
	line := func(port, text string, last bool) string {
		branch, next := "├─", "│  "
		if last {
			branch, next = "└─", "   "
		}
		if port != "" {
			port += " ─"
		}
		d.b.WriteString(indent + branch + port + "▶ " + text + "\n")
		return indent + next
	}
	for {
		i := slices.IndexFunc(edges, func(e edge) bool { return !d.drawn[e.to] })
		if i < 0 {
			break
		}
		e := edges[i]
		edges = slices.Delete(edges, i, i+1)
		d.below(e.to, line(e.port, label(e.to), len(edges) == 0))
	}
	for len(edges) > 0 {
		port := edges[0].port
		var names []string
		edges = slices.DeleteFunc(edges, func(e edge) bool {
			if e.port != port {
				return false
			}
			name := e.to.Name
			if e.to.Kind != Sink {
				name += " ^"
			}
			names = append(names, name)
			return true
		})
		line(port, strings.Join(names, ", "), len(edges) == 0)
	}
}

func label(n *Node) string {
	s := fmt.Sprintf("%s (%s)", n.Name, what(n))
	if out := n.Out[""]; n.Kind == Operator && out != nil {
		var cols []string
		for _, f := range out.Fields() {
			cols = append(cols, f.Name)
		}
		s += ": " + strings.Join(cols, " ")
	}
	return s
}

// what is "mqtt source", "window", "alert rule" or "influxdb sink".
func what(n *Node) string {
	switch n.Kind {
	case Operator:
		return n.Type
	case Alert:
		return "alert rule"
	}
	return n.Type + " " + string(n.Kind)
}

// Mermaid returns the graph as a Mermaid flowchart.
func (g *Graph) Mermaid() string {
	var b strings.Builder
	b.WriteString("flowchart LR\n")
	shapes := map[Kind][2]string{Source: {"([", "])"}, Operator: {"[", "]"}, Alert: {"{{", "}}"}, Sink: {"[(", ")]"}}
	// Names such as "end" are words of Mermaid, so nodes have numbers.
	for i, n := range g.Nodes {
		fmt.Fprintf(&b, "  n%d%s\"%s<br/>%s\"%s\n", i, shapes[n.Kind][0], n.Name, what(n), shapes[n.Kind][1])
	}
	for i, n := range g.Nodes {
		for _, in := range n.Inputs {
			from := slices.Index(g.Nodes, g.byName[in.Node])
			if in.Port == "" {
				fmt.Fprintf(&b, "  n%d --> n%d\n", from, i)
			} else {
				fmt.Fprintf(&b, "  n%d -->|%s| n%d\n", from, in.Port, i)
			}
		}
	}
	return b.String()
}
