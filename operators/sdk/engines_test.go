package sdk_test

import (
	"io"
	"log/slog"

	"github.com/penstock/penstock/operators/wasm"
	"github.com/penstock/penstock/pipeline"
)

// engines are those that this build has.
var engines = func() []string {
	c := wasm.DefaultConfig()
	c.Module, c.Engine = "ewma", wasm.EngineWasmer
	p := pipeline.NewProblems()
	if c.Validate(p); len(p.All()) > 0 {
		return []string{wasm.EngineWazero}
	}
	return []string{wasm.EngineWasmer, wasm.EngineWazero}
}()

func newLog(w io.Writer) *slog.Logger { return slog.New(slog.NewTextHandler(w, nil)) }
