// Package app wires a config into a running pipeline: it is the one place that
// knows every component.
package app

import (
	"context"
	"fmt"
	"path/filepath"
	"time"

	"github.com/penstock/penstock/ingest"
	"github.com/penstock/penstock/ingest/mqtt"
	"github.com/penstock/penstock/ingest/opcua"
	"github.com/penstock/penstock/ingest/replay"
	"github.com/penstock/penstock/operators/align"
	"github.com/penstock/penstock/operators/filter"
	"github.com/penstock/penstock/operators/wasm"
	"github.com/penstock/penstock/operators/wasm/oci"
	"github.com/penstock/penstock/operators/window"
	"github.com/penstock/penstock/pipeline"
	"github.com/penstock/penstock/pipeline/config"
	"github.com/penstock/penstock/sinks/alert"
	alertlog "github.com/penstock/penstock/sinks/alert/log"
	alertmqtt "github.com/penstock/penstock/sinks/alert/mqtt"
	"github.com/penstock/penstock/sinks/alert/webhook"
	"github.com/penstock/penstock/sinks/archive"
	"github.com/penstock/penstock/sinks/console"
	"github.com/penstock/penstock/sinks/influxdb"
)

// ModuleStore is the folder in which a pipeline keeps the modules that it has
// pulled.
func ModuleStore(c *config.Config) string { return filepath.Join(c.Journal.Dir, "modules") }

func settings[C any](defaults func() C) func() any {
	return func() any { c := defaults(); return &c }
}

// Registry lists every component that a YAML file can name. Modules that a
// reference names come from the pipeline's module store; nothing is pulled from
// a registry.
func Registry() config.Registry { return registry(context.Background(), oci.Store{}) }

// registry is Registry with a store for modules, whose folder is to be filled
// in with the pipeline's.
func registry(ctx context.Context, store oci.Store) config.Registry {
	return config.Registry{
		Prepare: func(c *config.Config) {
			store.Dir = ModuleStore(c)
			for _, comp := range c.Operators {
				if w, ok := comp.Settings.(*wasm.Config); ok {
					w.SetSource(func(ref string) ([]byte, error) { return store.Get(ctx, ref) })
				}
			}
		},
		Sources: map[string]func() any{
			"mqtt":   settings(mqtt.DefaultConfig),
			"opcua":  settings(opcua.DefaultConfig),
			"replay": settings(replay.DefaultConfig),
		},
		Operators: map[string]func() any{
			"align":  settings(align.DefaultConfig),
			"filter": settings(filter.DefaultConfig),
			"wasm":   settings(wasm.DefaultConfig),
			"window": settings(window.DefaultConfig),
		},
		Alert: settings(alert.DefaultConfig),
		Sinks: map[string]func() any{
			"archive":  settings(archive.DefaultConfig),
			"console":  settings(console.DefaultConfig),
			"influxdb": settings(influxdb.DefaultConfig),
			"log":      settings(alertlog.DefaultConfig),
			"mqtt":     settings(alertmqtt.DefaultConfig),
			"webhook":  settings(webhook.DefaultConfig),
		},
	}
}

// source is a built source with what its runner must know.
type source struct {
	pipeline.Source
	lateness, idleAfter, retryRefused time.Duration
}

// retryRefused is seldom enough for servers that lock a user out after a few
// wrong passwords in a row.
const retryRefused = 30 * time.Second

func newSource(settings any, env pipeline.Env) (s source, err error) {
	var b ingest.BatchConfig
	switch c := settings.(type) {
	case *mqtt.Config:
		b = c.Batch
		s.Source, err = mqtt.New(*c, env)
	case *opcua.Config:
		b = c.Batch
		s.Source, err = opcua.New(*c, env)
	case *replay.Config:
		b = c.Batch
		s.Source, err = replay.New(*c, env)
	default:
		err = fmt.Errorf("no source has settings %T", settings)
	}
	s.lateness, s.idleAfter = b.Lateness, b.IdleAfter
	if _, finite := settings.(*replay.Config); !finite {
		s.retryRefused = retryRefused
	}
	return s, err
}

func newOperator(settings any, env pipeline.Env, compiler *wasm.Compiler) (pipeline.Operator, error) {
	switch c := settings.(type) {
	case *align.Config:
		return align.New(*c, env)
	case *filter.Config:
		return filter.New(*c, env)
	case *wasm.Config:
		return wasm.NewWith(*c, env, compiler)
	case *window.Config:
		return window.New(*c, env)
	case *alert.Config:
		return alert.New(*c, env)
	}
	return nil, fmt.Errorf("no operator has settings %T", settings)
}

func newSink(settings any, env pipeline.Env) (pipeline.Sink, error) {
	switch c := settings.(type) {
	case *archive.Config:
		return archive.New(*c, env)
	case *console.Config:
		return console.New(*c, env)
	case *influxdb.Config:
		return influxdb.New(*c, env)
	case *alertlog.Config:
		return alertlog.New(*c, env)
	case *alertmqtt.Config:
		return alertmqtt.New(*c, env)
	case *webhook.Config:
		return webhook.New(*c, env)
	}
	return nil, fmt.Errorf("no sink has settings %T", settings)
}
