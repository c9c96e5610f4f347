package graph

import (
	"fmt"

	"github.com/penstock/penstock/pipeline/config"
)

// FromConfig returns the nodes of a config. The input "alerts" becomes all
// alert rules. Components without a name are left out: the config reports
// them, and nothing can refer to them.
func FromConfig(c *config.Config) []Node {
	var nodes []Node
	add := func(kind Kind, list []config.Component) {
		for _, comp := range list {
			if comp.Name == "" {
				continue
			}
			n := Node{Name: comp.Name, Kind: kind, Type: comp.Type}
			for i, in := range comp.Inputs {
				path := fmt.Sprintf("inputs[%d]", i)
				if in != config.AllAlerts || kind != Sink || len(c.Alerts) == 0 {
					n.Inputs, n.paths = append(n.Inputs, ParseRef(in)), append(n.paths, path)
					continue
				}
				for _, a := range c.Alerts {
					if a.Name != "" {
						n.Inputs, n.paths = append(n.Inputs, Ref{Node: a.Name}), append(n.paths, path)
					}
				}
			}
			nodes = append(nodes, n)
		}
	}
	add(Source, c.Sources)
	add(Operator, c.Operators)
	add(Alert, c.Alerts)
	add(Sink, c.Sinks)
	return nodes
}

// Build makes the graph of c; its errors have places in the file. It also
// serves a config that has errors itself, to find all at once; then its graph
// is not to be used.
func Build(c *config.Config) (*Graph, config.Errors) {
	g, problems := New(FromConfig(c))
	return g, Errors(c, problems)
}

// Errors gives problems their places in the file.
func Errors(c *config.Config, problems []Problem) config.Errors {
	var errs config.Errors
	for _, p := range problems {
		errs = append(errs, c.ErrorAt(p.Node, p.Problem))
	}
	errs.Sort()
	return errs
}
