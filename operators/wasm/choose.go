package wasm

import (
	"fmt"
	"strings"

	"github.com/penstock/penstock/operators/wasm/trust"
	"github.com/penstock/penstock/pipeline"
)

// Engines that Config.Engine may name.
const (
	// EngineAuto is the build's native engine where it may run the module and
	// computes it rightly, else wazero. The native engine is wasmer, for trusted
	// modules only, or wasmtime in a build with the tag wasmtime; without cgo
	// there is none.
	EngineAuto     = "auto"
	EngineWasmer   = "wasmer"
	EngineWasmtime = "wasmtime"
	EngineWazero   = "wazero"
	// EngineWasmerUntrusted is wasmer for a module that nobody vouches for. Its
	// compiler, Cranelift 0.74, is no security boundary: a hostile module may
	// get out.
	EngineWasmerUntrusted = "wasmer-untrusted"
)

// Choice is which engine runs a module, and why.
type Choice struct {
	Engine string       // wasmer, wasmtime or wazero
	Reason string       // for people
	Trust  trust.Status // of the module
}

// refusal is a Choice that cannot be: which key of the config is to change, and
// to what.
type refusal struct{ key, message, hint string }

func (r *refusal) Error() string { return r.key + ": " + r.message + ": " + r.hint }

// Choose reads the module and says which engine would run it.
func (c *Config) Choose() (Choice, error) {
	wasm, err := c.Code()
	if err != nil {
		return Choice{}, err
	}
	info, err := Inspect(wasm)
	if err != nil {
		return Choice{}, err
	}
	return c.choose(wasm, &info)
}

// Inspect reads the module that the config names.
func (c *Config) Inspect() (Info, error) {
	wasm, err := c.Code()
	if err != nil {
		return Info{}, err
	}
	return Inspect(wasm)
}

// Trusted reports whether wasm is shipped or signed by a key in modules.trust.
// An error is a signature that does not hold.
func (c *Config) Trusted(wasm []byte) (bool, error) {
	st, err := trust.Check(wasm, c.modules.Trust)
	return st.Trusted(), err
}

func (c *Config) choose(wasm []byte, info *Info) (Choice, error) {
	st, err := trust.Check(wasm, c.modules.Trust)
	if err != nil {
		return Choice{}, err
	}
	if !st.Trusted() && c.modules.Unsigned == pipeline.UnsignedRefuse {
		return Choice{}, &refusal{"module", fmt.Sprintf("the module is %s, and modules.unsigned is refuse", st),
			"have it signed (penstock operator sign) by a key in modules.trust, or list the key of who signed it"}
	}
	name, reason, err := chooseEngine(c.Engine, nativeEngine, info.WasmerHazards, st)
	return Choice{Engine: name, Reason: reason, Trust: st}, err
}

// chooseEngine decides which engine runs a module, in a build with the native
// engine of that name, or none. One that the config names is taken or refused,
// never replaced. hazards are what wasmer gets wrong.
func chooseEngine(name, native string, hazards []string, st trust.Status) (engine, reason string, err error) {
	refuse := func(message, hint string) (string, string, error) {
		return "", "", &refusal{"engine", message, hint}
	}
	wrong := "wasmer gets this module wrong: " + strings.Join(hazards, "; ")
	switch name {
	case EngineAuto:
		switch {
		case native == "":
			return EngineWazero, "it is the only engine of this build", nil
		case native == EngineWasmtime: // maintained, and made for modules of strangers
			return EngineWasmtime, "it is the fastest engine of this build, and for all modules", nil
		case !st.Trusted():
			return EngineWazero, "the module is " + st.String() + ", and wasmer is for trusted modules", nil
		case len(hazards) > 0:
			return EngineWazero, wrong, nil
		}
		return EngineWasmer, "the module is " + st.String(), nil
	case EngineWasmer, EngineWasmerUntrusted:
		switch {
		case native != EngineWasmer:
			return refuse(missing(EngineWasmer, native), "write wazero, or auto")
		case len(hazards) > 0:
			return refuse("engine "+wrong, "write auto or wazero")
		case name == EngineWasmer && !st.Trusted():
			return refuse("wasmer is for trusted modules, since its compiler is no security boundary; this one is "+st.String(),
				"write auto or wazero, or list a key that signed it in modules.trust; wasmer-untrusted runs it there all the same")
		}
		return EngineWasmer, "the config names it; the module is " + st.String(), nil
	case EngineWasmtime:
		if native != EngineWasmtime {
			return refuse(missing(EngineWasmtime, native), "write wazero, or auto")
		}
	}
	return name, "the config names it", nil
}
