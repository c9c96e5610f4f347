package wasm

import (
	"github.com/penstock/penstock/operators/wasm/binfmt"
)

// MaxModuleSize bounds a .wasm file.
const MaxModuleSize = binfmt.MaxModuleSize

// PageSize is the unit of guest memory.
const PageSize = binfmt.PageSize

// meters decides whether a module counts its work: one that is neither shipped
// nor signed by a trusted key does, unless the settings say otherwise, and so do
// all on wazero. Its code runs on the threads of Go, whose collector waits for a
// call to come back: a clock would stand still.
func (c *Config) meters(choice Choice) bool {
	if c.Metered != MeteredAuto {
		return c.Metered == MeteredAlways
	}
	return !choice.Trust.Trusted() || choice.Engine == EngineWazero
}

// FuelUsed returns what the last call into the module used, an upper bound of
// its instructions; false when it is not metered or there was no call.
func (op *Operator) FuelUsed() (int64, bool) {
	if op.guest == nil || op.guest.refuel == nil {
		return 0, false
	}
	return op.guest.budget - int64(op.guest.left.Get()), true
}
