// Package flow runs the operator graph: a worker owns one shard, takes the
// entries of its journal in order and runs each through the whole graph before
// it takes the next. Nothing in it sees the wall clock, so the same journal
// gives the same outputs.
package flow

import (
	"context"

	"github.com/penstock/penstock/pipeline"
)

// Plan is the graph as a worker of one shard runs it. Operators belong to the
// worker, which closes them.
type Plan struct {
	// Nodes are the operators and alert rules in topological order.
	Nodes []Node
	// Sources and their targets, in the order of the config.
	Sources []Source
	// Alerts are the sinks that take alerts: the flow has some of its own.
	Alerts []Sink
}

// Source is where batches enter the graph.
type Source struct {
	Name    string
	Targets []int // indices of Nodes
}

// Node is one operator of the graph.
type Node struct {
	Name string
	Op   pipeline.Operator
	// Fingerprint stands for the operator's settings: a checkpoint's state is
	// restored only into the same one.
	Fingerprint string
	// Modules opens other modules in place of Op, and is nil where there is
	// nothing to change. Module is the one that runs, and Base the one that
	// the config names.
	Modules Modules
	Module  Module
	Base    string // digest
	// Again opens a second operator with the same settings, of an alert rule
	// that is to be tried on other input.
	Again func(ctx context.Context) (pipeline.Operator, error)
	// Outputs by port; "" is the main one.
	Outputs map[string]Output
}

// Output says where the records of one port go.
type Output struct {
	Targets []int // indices of Nodes, each beyond this one
	Sinks   []Sink
}

// Sink is one sink's queue, as a worker writes to it. Publish is given the
// journal position and the number of the output within it, which together
// grow; one that the queue already has is skipped.
type Sink struct {
	Name  string
	Queue *Queue
}
