package wasm

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"regexp"
	"runtime"
	"slices"
	"sync"
	"time"

	"github.com/apache/arrow/go/v17/arrow/memory"

	"github.com/penstock/penstock/pipeline"
)

// Golden is one golden vector of a manifest: an input and the digest of what
// the module makes of it. Vectors run when a module is loaded, on the engine
// and CPU at hand, so that a miscompiled module never sees production data.
type Golden struct {
	Name   string         `json:"name"`             // as a module's name
	Params map[string]any `json:"params,omitempty"` // as in the YAML; what is left out has its default
	Input  GoldenInput    `json:"input"`
	// Digest is the SHA-256, in hex, of all output batches in the encoding of
	// [AppendCanonical], one after another. `penstock operator build --golden`
	// fills in one that is empty.
	Digest string `json:"digest"`
}

// Limits of golden vectors: all of a module's take a few ms together.
const (
	maxGolden     = 8
	maxGoldenTags = 256
	maxGoldenRows = 1 << 14 // of all batches of a vector
)

var digestRE = regexp.MustCompile(`^[0-9a-f]{64}$`)

func (m *Manifest) validateGolden() error {
	var errs []error
	bad := func(format string, a ...any) { errs = append(errs, fmt.Errorf("manifest: "+format, a...)) }
	if len(m.Golden) > maxGolden {
		bad("%d golden vectors, the limit is %d", len(m.Golden), maxGolden)
		return errors.Join(errs...)
	}
	for i := range m.Golden {
		g := &m.Golden[i]
		if !nameRE.MatchString(g.Name) {
			bad("golden[%d]: name %q: write lower-case letters, digits, _ and -, at most 64", i, g.Name)
		}
		if slices.ContainsFunc(m.Golden[:i], func(o Golden) bool { return o.Name == g.Name }) {
			bad("golden[%d]: the name %q comes twice", i, g.Name)
		}
		if g.Digest != "" && !digestRE.MatchString(g.Digest) {
			bad("golden[%d] %q: the digest is not 64 hex digits: leave it empty and build with --golden", i, g.Name)
		}
		for _, name := range slices.Sorted(maps.Keys(g.Params)) {
			if !slices.ContainsFunc(m.Params, func(p Param) bool { return p.Name == name }) {
				bad("golden[%d] %q: there is no parameter %q", i, g.Name, name)
			}
		}
		if _, err := m.values(g.Params); err != nil {
			bad("golden[%d] %q: %w", i, g.Name, err)
		}
		if err := g.Input.validate(m.Input); err != nil {
			bad("golden[%d] %q: input: %w", i, g.Name, err)
		}
	}
	return errors.Join(errs...)
}

// complete says which vectors have no digest yet.
func (m *Manifest) complete() error {
	for _, g := range m.Golden {
		if g.Digest == "" {
			return fmt.Errorf("golden vector %q has no digest: `penstock operator pack --golden` computes it, or `build --golden`", g.Name)
		}
	}
	return nil
}

// run feeds the vector's input to a fresh instance and returns the digest of
// what it makes, which may be far more than memory holds. After until, if that
// is not zero, it begins no more calls.
func (g *Golden) run(p *Probe, cols []Column, until time.Time) (string, error) {
	steps, err := g.Input.Steps(cols, memory.DefaultAllocator)
	if err != nil {
		return "", err
	}
	defer ReleaseSteps(steps)
	hash := sha256.New()
	var out []byte
	for i, s := range steps {
		if !until.IsZero() && time.Now().After(until) {
			return "", p.op.deadline.error("golden vectors")
		}
		if out, err = p.step(out[:0], i, s); err != nil {
			return "", err
		}
		hash.Write(out)
	}
	return hex.EncodeToString(hash.Sum(nil)), nil
}

// FillGolden computes, on wazero, the digests that m leaves empty for the
// module wasm, and returns the names of their vectors. m is changed in place.
func FillGolden(wasm []byte, m *Manifest) ([]string, error) {
	if err := m.Validate(); err != nil {
		return nil, err
	}
	bare := *m
	bare.Golden = nil
	packed, err := Pack(wasm, bare)
	if err != nil {
		return nil, err
	}
	var names []string
	for i := range m.Golden {
		g := &m.Golden[i]
		if g.Digest != "" {
			continue
		}
		p, err := OpenProbe(packed, ProbeOptions{Engine: EngineWazero, Params: g.Params, Seed: g.Input.Seed})
		if err != nil {
			return nil, fmt.Errorf("golden vector %q: %w", g.Name, err)
		}
		g.Digest, err = g.run(p, m.Input, time.Time{})
		if err := errors.Join(err, p.Close()); err != nil {
			return nil, fmt.Errorf("golden vector %q: %w", g.Name, err)
		}
		names = append(names, g.Name)
	}
	return names, nil
}

// CheckGolden runs one of the module's golden vectors on an engine and returns
// an error that names module, vector and engine when its digest differs.
func CheckGolden(wasm []byte, engine, vector string) error {
	info, err := Inspect(wasm)
	if err != nil {
		return err
	}
	i := slices.IndexFunc(info.Manifest.Golden, func(g Golden) bool { return g.Name == vector })
	if i < 0 {
		return fmt.Errorf("the module has no golden vector %q", vector)
	}
	g := &info.Manifest.Golden[i]
	p, err := OpenProbe(wasm, ProbeOptions{Engine: engine, Params: g.Params, Seed: g.Input.Seed})
	if err != nil {
		return fmt.Errorf("golden vector %q on %s: %w", vector, engine, err)
	}
	return errors.Join(p.op.checkVector(g, p, time.Time{}), p.Close())
}

// digestError is of a vector that ran and gave something else.
type digestError string

func (e digestError) Error() string { return string(e) }

// checkVector runs g in p and compares.
func (op *Operator) checkVector(g *Golden, p *Probe, until time.Time) error {
	module, engine := op.Module()
	got, err := g.run(p, op.info.Manifest.Input, until)
	if err != nil {
		return fmt.Errorf("module %s: golden vector %q fails on %s: %w", module, g.Name, engine, err)
	}
	if got != g.Digest {
		return digestError(fmt.Sprintf("module %s: golden vector %q gives digest %.12s on %s (%s/%s), its manifest says %.12s",
			module, g.Name, got, engine, runtime.GOOS, runtime.GOARCH, g.Digest))
	}
	return nil
}

// verdictKey is what the outcome of a module's vectors depends on.
type verdictKey struct {
	digest, engine string
	metered        bool
	limits         limits
}

// limits of the settings that may end a call.
type limits struct {
	memory, outputBytes pipeline.ByteSize
	outputRows, tags    int
	fuel                Fuel
	deadline            time.Duration
}

func (c *Config) limits() limits {
	return limits{c.Memory, c.MaxOutputBytes, c.MaxOutputRows, c.MaxTags, c.Fuel, c.Deadline}
}

// verdicts has the outcome of a module's vectors, an error or true, by verdictKey:
// they run once in a process, not once per shard and restart. Who is in them cannot
// be waited for, so two that open a module at once both run them.
var verdicts sync.Map

// checkGolden runs the module's vectors, each in an instance of its own, with
// the vectors' parameters and not the operator's. All together have as long as one
// call has.
func (op *Operator) checkGolden() error {
	if len(op.info.Manifest.Golden) == 0 {
		return nil
	}
	if v, ok := verdicts.Load(op.verdictKey()); ok {
		err, _ := v.(error)
		return err
	}
	var until time.Time
	if op.deadline.after > 0 {
		until = time.Now().Add(op.deadline.after)
	}
	for i := range op.info.Manifest.Golden {
		if err := op.tryVector(&op.info.Manifest.Golden[i], until); err != nil {
			verdicts.Store(op.verdictKey(), err)
			return err
		}
	}
	verdicts.Store(op.verdictKey(), true)
	return nil
}

func (op *Operator) verdictKey() verdictKey {
	return verdictKey{op.info.Digest, op.choice.Engine, op.cfg.meters(op.choice), op.cfg.limits()}
}

// condemned has the error of a start that a module did not come back from, by
// startKey.
var condemned sync.Map

type startKey struct {
	verdictKey
	params string
	seed   uint64
}

func (op *Operator) startKey() startKey {
	return startKey{op.verdictKey(), fmt.Sprint(op.params), op.cfg.Seed}
}

// condemn returns err, and keeps it in m if it is one of the clock: the module is
// not tried in this way again.
func condemn(m *sync.Map, key any, err error) error {
	var ge *guestError
	if errors.As(err, &ge) && ge.reason == reasonDeadline {
		m.Store(key, err)
	}
	return err
}

func (op *Operator) tryVector(g *Golden, until time.Time) error {
	params, err := op.info.Manifest.values(g.Params)
	if err != nil {
		return err
	}
	p, err := op.probe(params, g.Input.Seed)
	if err != nil {
		module, engine := op.Module()
		return fmt.Errorf("module %s: golden vector %q fails on %s: %w", module, g.Name, engine, err)
	}
	err = op.checkVector(g, p, until)
	if _, differs := err.(digestError); differs {
		err = fmt.Errorf("%w: this engine computes the module wrongly here, or the module was changed and not its digests. `penstock operator test` shows which", err)
	}
	return errors.Join(err, p.Close())
}

// quiet is an environment that nothing leaves.
func quiet(name string) pipeline.Env {
	return pipeline.Env{Name: name, Log: slog.New(slog.DiscardHandler), Meter: pipeline.NewMeter(), Tags: pipeline.NewTags(nil), Alloc: memory.DefaultAllocator, Shards: 1}
}
