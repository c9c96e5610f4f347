package app

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"

	"github.com/apache/arrow/go/v17/arrow"
	"github.com/apache/arrow/go/v17/arrow/memory"

	"github.com/penstock/penstock/operators/wasm"
	"github.com/penstock/penstock/operators/wasm/oci"
	"github.com/penstock/penstock/pipeline"
	"github.com/penstock/penstock/pipeline/config"
	"github.com/penstock/penstock/pipeline/flow"
	"github.com/penstock/penstock/pipeline/graph"
	"github.com/penstock/penstock/pipeline/journal"
)

var allocator memory.Allocator = memory.DefaultAllocator

// Load reads the pipeline at path and checks it as far as that goes without
// touching network or plant: every operator is opened once on the schema it
// will see. The error is a [config.Errors] with all that is wrong.
func Load(ctx context.Context, path string) (*config.Config, *graph.Graph, error) {
	c, err := read(path, Registry())
	if err != nil {
		return nil, nil, err
	}
	g, err := Build(ctx, c)
	return c, g, err
}

// Read is Load without opening the operators, which [Start] does. It pulls the
// modules that are not in the pipeline's module store yet.
func Read(ctx context.Context, path string, log *slog.Logger) (*config.Config, error) {
	return read(path, registry(ctx, oci.Store{Client: &oci.Client{}, Log: log}))
}

func read(path string, reg config.Registry) (*config.Config, error) {
	c, err := config.Load(path, reg)
	var errs config.Errors
	if errors.As(err, &errs) {
		if c != nil {
			_, more := graph.Build(c)
			errs = append(errs, more...)
		}
		return nil, errs.Err()
	}
	return c, err
}

// Build makes the graph of c with the schema of every edge.
func Build(ctx context.Context, c *config.Config) (*graph.Graph, error) {
	return buildWith(ctx, c, wasm.NewCompiler("", quiet))
}

// quiet is the log of operators that are opened only to be looked at.
var quiet = slog.New(slog.DiscardHandler)

func buildWith(ctx context.Context, c *config.Config, compiler *wasm.Compiler) (*graph.Graph, error) {
	g, errs := graph.Build(c)
	if len(errs) > 0 {
		return nil, errs.Err()
	}
	settings := settingsByName(c)
	tags := pipeline.NewTags(c.Tags)
	problems := g.Resolve(ctx, func(ctx context.Context, n *graph.Node, in *arrow.Schema) (map[string]*arrow.Schema, error) {
		if n.Kind == graph.Sink {
			if a, ok := settings[n.Name].(pipeline.Accepter); ok {
				return nil, a.Accept(in)
			}
			return nil, nil
		}
		op, err := newOperator(settings[n.Name], pipeline.Env{Name: n.Name, Log: quiet, Meter: pipeline.NewMeter(), Tags: tags, Alloc: allocator, Shards: 1}, compiler)
		if err != nil {
			return nil, err
		}
		out, err := op.Open(ctx, in)
		if err != nil {
			return nil, errors.Join(err, op.Close(ctx))
		}
		ports := map[string]*arrow.Schema{"": out}
		if p, ok := op.(pipeline.Ported); ok {
			for name, s := range p.Ports() {
				ports[name] = s
			}
		}
		return ports, op.Close(ctx)
	})
	if errs := graph.Errors(c, problems); len(errs) > 0 {
		return nil, errs.Err()
	}
	return g, nil
}

func settingsByName(c *config.Config) map[string]any {
	m := map[string]any{}
	for _, x := range c.Components() {
		m[x.Name] = x.Settings
	}
	return m
}

// plan opens the operators of one shard and wires them.
func (a *App) plan(ctx context.Context, shard int, env func(string) pipeline.Env, queues map[string]*journal.Log) (p flow.Plan, err error) {
	defer func() {
		if err != nil {
			for _, n := range p.Nodes {
				n.Op.Close(ctx)
			}
		}
	}()
	settings := settingsByName(a.o.Config)
	ends := map[string]*flow.Queue{}
	for name, q := range queues {
		if ends[name], err = flow.NewQueue(ctx, q, shard, a.journal.End(shard)); err != nil {
			return p, a.at(name, err)
		}
	}
	index := map[string]int{}
	if len(a.wasm) == shard { // else a worker is replaced
		a.wasm = append(a.wasm, map[string]*nodeModules{})
	}
	for _, n := range a.graph.Nodes {
		if n.Kind == graph.Source || n.Kind == graph.Sink {
			continue
		}
		nm := a.wasm[shard][n.Name] // of the worker that is replaced
		set := settings[n.Name]
		if nm != nil {
			set = nm.with(nm.base)
		}
		op, err := newOperator(set, env(n.Name), a.compiler)
		if err != nil {
			return p, a.at(n.Name, err)
		}
		index[n.Name] = len(p.Nodes)
		node := flow.Node{Name: n.Name, Op: op, Fingerprint: fingerprint(n, settings[n.Name], op), Outputs: map[string]flow.Output{}}
		p.Nodes = append(p.Nodes, node)
		if _, err := op.Open(ctx, n.In); err != nil {
			return p, a.at(n.Name, err)
		}
		last := &p.Nodes[len(p.Nodes)-1]
		if m, ok := op.(*wasm.Operator); ok {
			last.Module.Name, last.Module.Engine = m.Module()
			last.Module.Digest, last.Base = m.Digest(), m.Digest()
			if nm == nil {
				nm = &nodeModules{a: a, shard: shard, node: n, settings: settings[n.Name].(*wasm.Config), base: last.Base, env: env(n.Name)}
				if err := nm.keep(m); err != nil {
					return p, a.at(n.Name, err)
				}
				a.wasm[shard][n.Name] = nm
			}
			own := *nm
			own.env = env(n.Name) // a worker in another's place counts in its own way
			last.Modules = &own
			if shard == 0 { // the other shards choose alike
				a.o.Log.Info("engine chosen", "component", n.Name, "module", last.Module.Name, "engine", last.Module.Engine, "reason", m.Choice().Reason)
			}
		}
		if n.Kind == graph.Alert {
			last.Again = func(ctx context.Context) (pipeline.Operator, error) {
				e := env(n.Name)
				e.Meter = pipeline.NewMeter()
				op, err := newOperator(settings[n.Name], e, a.compiler)
				if err != nil {
					return nil, err
				}
				if _, err := op.Open(ctx, n.In); err != nil {
					return nil, errors.Join(err, op.Close(ctx))
				}
				return op, nil
			}
		}
	}
	alerted := map[string]bool{}
	for _, n := range a.graph.Nodes {
		if n.Kind != graph.Alert {
			continue
		}
		for _, r := range a.graph.Readers(graph.Ref{Node: n.Name}) {
			if r.Kind == graph.Sink && !alerted[r.Name] {
				alerted[r.Name] = true
				p.Alerts = append(p.Alerts, flow.Sink{Name: r.Name, Queue: ends[r.Name]})
			}
		}
	}
	for _, n := range a.graph.Nodes {
		switch n.Kind {
		case graph.Source:
			s := flow.Source{Name: n.Name}
			for _, r := range a.graph.Readers(graph.Ref{Node: n.Name}) {
				if i, ok := index[r.Name]; ok {
					s.Targets = append(s.Targets, i)
				}
			}
			p.Sources = append(p.Sources, s)
		case graph.Operator, graph.Alert:
			for port := range n.Out {
				out := flow.Output{}
				for _, r := range a.graph.Readers(graph.Ref{Node: n.Name, Port: port}) {
					if i, ok := index[r.Name]; ok {
						out.Targets = append(out.Targets, i)
					} else {
						out.Sinks = append(out.Sinks, flow.Sink{Name: r.Name, Queue: ends[r.Name]})
					}
				}
				p.Nodes[index[n.Name]].Outputs[port] = out
			}
		}
	}
	return p, nil
}

// fingerprint stands for what an operator's state depends on: its settings,
// what it reads, and the code of its module, which a new release may change.
func fingerprint(n *graph.Node, settings any, op any) string {
	data, err := json.Marshal(settings)
	if err != nil {
		data = fmt.Appendf(nil, "%+v", settings)
	}
	h := sha256.New()
	fmt.Fprintln(h, n.Type, n.Inputs, n.In)
	if m, ok := op.(interface{ Digest() string }); ok {
		fmt.Fprintln(h, m.Digest())
	}
	h.Write(data)
	return hex.EncodeToString(h.Sum(nil)[:12])
}
