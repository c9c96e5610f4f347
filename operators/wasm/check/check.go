// Package check tests any module, knowing no more of it than its manifest: that
// it loads, keeps to its golden vectors, is deterministic, gives the same on
// every engine, lives on in its snapshots, bears every input that the ABI
// allows, does not grow, and takes the parameters that it says it takes.
package check

import (
	"bytes"
	"errors"
	"fmt"
	"strings"

	"github.com/apache/arrow/go/v17/arrow/memory"

	"github.com/penstock/penstock/operators/wasm"
)

// Names of the checks, in the order in which they run.
const (
	Load        = "load"
	Golden      = "golden"
	Determinism = "determinism"
	Engines     = "engines"
	Snapshot    = "snapshot"
	Inputs      = "inputs"
	Memory      = "memory"
	Params      = "params"
)

// Result is the outcome of one check on one engine.
type Result struct {
	Check  string
	Engine string // empty when the check is about the file, or about all engines
	Err    error  // nil when it passed
	Do     string // what its author should do about Err
	Note   string // what was checked, or why it was not
	Skip   bool   // it could not be checked, and that is no failure
}

// Module runs all checks of a packed module on every engine of this build and
// hands each result to report as it comes. It returns how many failed.
func Module(code []byte, report func(Result)) (failed int) {
	c := &checker{code: code, compiled: map[string]*wasm.Probe{}}
	defer func() { c.close(); failed = c.failed }()
	c.report = func(r Result) {
		if r.Err != nil {
			c.failed++
			if do := mend[wasm.FailureReason(r.Err)]; do != "" {
				r.Do = do
			}
		}
		report(r)
	}
	var err error
	if c.info, err = wasm.Inspect(code); err != nil {
		c.report(Result{Check: Load, Err: err, Do: "operators/ABI.md says what a module exports and may import; `penstock operator pack` adds the manifest, and `sign` a signature that holds"})
		return c.failed
	}
	c.sets = settings(&c.info.Manifest)
	c.setting = &c.sets[0]
	c.load()
	if len(c.engines) == 0 {
		return c.failed
	}
	c.each(Golden, c.golden)
	ok := c.stream()
	defer func() { wasm.ReleaseSteps(c.steps); wasm.ReleaseSteps(c.other) }()
	if !ok {
		return c.failed
	}
	c.each(Determinism, c.inEachSetting(c.determinism))
	c.sameOnEngines()
	c.each(Snapshot, c.inEachSetting(c.snapshot))
	c.inputs()
	c.each(Memory, c.memory)
	c.each(Params, c.extremes)
	return c.failed
}

// mend is what to do about failures whose cause is the same in all checks.
var mend = map[string]string{
	"module_trap":       "it trapped: look for an index or address out of range, a whole number divided by 0, an assertion that does not hold; the module's own message, if it has one, is above",
	"module_fuel":       "look for a loop that does not end, or for work for each row that grows with the state",
	"module_stack":      "bound the recursion",
	"module_bad_output": "operators/ABI.md says, call by call, how a module hands out what it makes, and what of it is checked",
}

type checker struct {
	code     []byte
	info     wasm.Info
	sets     []setting
	setting  *setting               // of sets, the one at hand
	engines  []string               // those that the module loads on
	compiled map[string]*wasm.Probe // on each of them; other instances are made from it
	report   func(Result)
	failed   int

	steps, other []wasm.Step // streams that most checks share
}

// setting is a choice of parameters: the defaults, or those of a golden vector.
type setting struct {
	name   string
	params map[string]any
	refs   map[string][]byte // what each engine makes of the checker's steps
}

// inEachSetting is f with each choice of parameters, until one fails.
func (c *checker) inEachSetting(f func(string) (string, string, error)) func(string) (string, string, error) {
	return func(engine string) (note, do string, err error) {
		defer func() { c.setting = &c.sets[0] }()
		for i := range c.sets {
			c.setting = &c.sets[i]
			if note, do, err = f(engine); err != nil {
				return note, do, fmt.Errorf("with %s: %w", c.setting.name, err)
			}
		}
		return note, do, nil
	}
}

// each runs a check on every engine. It returns a note, what to do, an error.
func (c *checker) each(name string, f func(engine string) (note, do string, err error)) {
	for _, e := range c.engines {
		if name != Golden && name != Params && c.setting.refs[e] == nil {
			continue // said already
		}
		note, do, err := f(e)
		c.report(Result{Check: name, Engine: e, Note: note, Do: do, Err: err, Skip: err == nil && strings.HasPrefix(note, "no ")})
	}
}

func (c *checker) close() {
	for e, p := range c.compiled {
		if err := p.Close(); err != nil {
			c.report(Result{Check: Load, Engine: e, Err: err, Do: "an engine cannot end the module: report it"})
		}
	}
}

// with runs f on a fresh instance.
func (c *checker) with(engine string, f func(*wasm.Probe) error) error {
	p, err := c.compiled[engine].Another(c.setting.params)
	if err != nil {
		return err
	}
	return errors.Join(f(p), p.Close())
}

func (c *checker) load() {
	for _, e := range wasm.Engines() {
		if e == wasm.EngineWasmer && len(c.info.WasmerHazards) > 0 {
			c.report(Result{Check: Load, Engine: e, Skip: true, Note: "the module uses instructions that wasmer gets wrong, and runs on wazero only: " + strings.Join(c.info.WasmerHazards, "; ")})
			continue
		}
		p, err := wasm.OpenProbe(c.code, wasm.ProbeOptions{Engine: e, Params: c.setting.params})
		c.report(Result{Check: Load, Engine: e, Err: err, Note: fmt.Sprintf("%s@%s, %d bytes", c.info.Manifest.Name, c.info.Manifest.Version, c.info.Size),
			Do: "mend penstock_open and penstock_bind: they must succeed for the manifest's defaults and columns"})
		if err == nil {
			c.engines = append(c.engines, e)
			c.compiled[e] = p
		}
	}
}

func (c *checker) golden(engine string) (string, string, error) {
	vectors := c.info.Manifest.Golden
	if len(vectors) == 0 {
		return "no golden vectors in the manifest: add some, and `penstock operator build --golden`", "", nil
	}
	for _, g := range vectors {
		err := wasm.CheckGolden(c.code, engine, g.Name)
		if wasm.FailureReason(err) != "" {
			return "", "the module must not fail on a golden vector", err
		} else if err != nil {
			return "", "if its results were meant to change, write \"digest\": \"\" in the manifest and `penstock operator build --golden`; if not, it is a bug of the module, or of the engine if only one fails", err
		}
	}
	return plural(len(vectors), "vector"), "", nil
}

// stream makes the input that most checks share, and each engine's output for
// it. An engine that fails on it is out of the checks that need it.
func (c *checker) stream() bool {
	cols := c.info.Manifest.Input
	main, other := wasm.GoldenInput{Seed: 11, Tags: 9, Rows: 300, Batches: 12}, wasm.GoldenInput{Seed: 12, Tags: 30, Rows: 400, Batches: 3}
	var err error
	if c.steps, err = main.Steps(cols, memory.DefaultAllocator); err == nil {
		c.other, err = other.Steps(cols, memory.DefaultAllocator)
	}
	if err != nil {
		c.report(Result{Check: Inputs, Err: err})
		return false
	}
	// Batches of many sizes, the largest first: a module may keep that.
	for i, s := range c.steps {
		if s.Batch != nil {
			c.steps[i].Batch = s.Batch.NewSlice(0, s.Batch.NumRows()-int64(i)*83%211)
			s.Batch.Release()
		}
	}
	able := false
	for _, e := range c.engines {
		_, do, err := c.inEachSetting(func(engine string) (string, string, error) {
			return "", "a module must bear nulls, NaN, infinities, -0, Bad quality, late rows and times that repeat: handle them in penstock_process",
				c.with(engine, func(p *wasm.Probe) (err error) {
					c.setting.refs[engine], err = p.Run([]byte{}, c.steps)
					return err
				})
		})(e)
		if err != nil {
			for i := range c.sets {
				delete(c.sets[i].refs, e)
			}
			c.report(Result{Check: Inputs, Engine: e, Err: err, Do: do})
		}
		able = able || err == nil
	}
	return able
}

func (c *checker) determinism(engine string) (string, string, error) {
	// Two instances at once, in turns.
	err := c.with(engine, func(a *wasm.Probe) error {
		return c.with(engine, func(b *wasm.Probe) error {
			var outA, outB []byte
			for _, s := range c.steps {
				var err error
				if outA, err = a.Run(outA, []wasm.Step{s}); err != nil {
					return err
				}
				if outB, err = b.Run(outB, []wasm.Step{s}); err != nil {
					return err
				}
			}
			if !bytes.Equal(outA, c.setting.refs[engine]) || !bytes.Equal(outB, outA) {
				return fmt.Errorf("the same stream gives other bytes in another instance, from byte %d on", min(differ(outA, c.setting.refs[engine]), differ(outB, c.setting.refs[engine])))
			}
			return nil
		})
	})
	if err != nil {
		return "", "output may depend on parameters, input and state only", err
	}
	// An instance that has seen other data, set back to the start. A module may
	// refuse that, since no host of ours asks for it.
	note := "two instances"
	err = c.with(engine, func(p *wasm.Probe) error {
		start, err := p.Snapshot()
		if err != nil {
			return err
		}
		if _, err := p.Run(nil, c.other); err != nil {
			return err
		}
		if err := p.Restore(start); err != nil {
			if wasm.FailureReason(err) == "module_error" {
				return nil
			}
			return err
		}
		note = "two instances; a used one restored to its start"
		out, err := p.Run(nil, c.steps)
		if err == nil && !bytes.Equal(out, c.setting.refs[engine]) {
			err = fmt.Errorf("an instance that has seen other data and is restored to its first state gives other bytes than a fresh one, from byte %d on", differ(out, c.setting.refs[engine]))
		}
		return err
	})
	return note, "penstock_restore must replace all state, or refuse: look for counters and buffers that it leaves as they are, and for memory that is read before it is written", err
}

func (c *checker) sameOnEngines() {
	var able []string
	for _, e := range c.engines {
		if c.setting.refs[e] != nil {
			able = append(able, e)
		}
	}
	if len(able) < 2 {
		c.report(Result{Check: Engines, Skip: true, Note: "only one engine runs the module here"})
		return
	}
	for _, e := range able[1:] {
		r := Result{Check: Engines}
		total := 0
		for _, s := range c.sets {
			total += len(s.refs[e])
			if !bytes.Equal(s.refs[able[0]], s.refs[e]) {
				r.Err = fmt.Errorf("with %s: %s and %s give different bytes, from byte %d on", s.name, able[0], e, differ(s.refs[able[0]], s.refs[e]))
				r.Do = "look for the bits of a NaN used as data; if there are none, an engine computes the module wrongly: report it, and name the other engine in the YAML"
				break
			}
		}
		r.Note = fmt.Sprintf("%s and %s make the same %d bytes", able[0], e, total)
		c.report(r)
	}
}

// snapshot goes on from snapshots taken on one engine, on every engine.
func (c *checker) snapshot(engine string) (string, string, error) {
	const do = "penstock_snapshot must hold all state that later output depends on, and change none; penstock_restore must bring it back. With an SDK: keep in the tag's state, not in a variable of the module, what a later row depends on"
	n := len(c.steps)
	for _, at := range []int{0, 1, n / 2, n - 2} {
		var head, state []byte
		err := c.with(engine, func(p *wasm.Probe) (err error) {
			if head, err = p.Run(nil, c.steps[:at]); err != nil {
				return err
			}
			if state, err = p.Snapshot(); err != nil {
				return err
			}
			out, err := p.Run(bytes.Clone(head), c.steps[at:])
			if err == nil && !bytes.Equal(out, c.setting.refs[engine]) {
				err = errors.New("taking a snapshot changes what comes after it")
			}
			return err
		})
		if err != nil {
			return "", do, fmt.Errorf("after %d steps: %w", at, err)
		}
		for _, to := range c.engines {
			if c.setting.refs[to] == nil {
				continue
			}
			err := c.with(to, func(p *wasm.Probe) error {
				if err := p.Restore(state); err != nil {
					return err
				}
				out, err := p.Run(bytes.Clone(head), c.steps[at:])
				if err == nil && !bytes.Equal(out, c.setting.refs[engine]) {
					err = errors.New("the output goes on differently than without the stop")
				}
				return err
			})
			if err != nil {
				return "", do, fmt.Errorf("taken after %d steps, restored on %s: %w", at, to, err)
			}
		}
	}
	return "moved to " + strings.Join(c.engines, " and "), "", nil
}

// differ is the position of the first byte that differs.
func differ(a, b []byte) int {
	n := min(len(a), len(b))
	for i := range n {
		if a[i] != b[i] {
			return i
		}
	}
	return n
}

func plural(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}
