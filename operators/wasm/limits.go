package wasm

import (
	"crypto/sha256"
	"encoding/hex"

	"github.com/penstock/penstock/operators/modules"
	"github.com/penstock/penstock/operators/wasm/binfmt"
)

// MaxModuleSize bounds a .wasm file.
const MaxModuleSize = binfmt.MaxModuleSize

// PageSize is the unit of guest memory.
const PageSize = binfmt.PageSize

// metered decides whether a module counts its work: one that did not ship
// with Penstock does, unless the settings say otherwise.
func metered(cfg *Config, info *Info) bool {
	if cfg.Metered != MeteredAuto {
		return cfg.Metered == MeteredAlways
	}
	return !shipped(info)
}

// shipped says whether the module is one that is built in, byte for byte.
func shipped(info *Info) bool {
	code, ok := modules.Get(info.Manifest.Name)
	digest := sha256.Sum256(code)
	return ok && hex.EncodeToString(digest[:]) == info.Digest
}

// FuelUsed returns what the last call into the module used, an upper bound of
// its instructions; false when it is not metered or there was no call.
func (op *Operator) FuelUsed() (int64, bool) {
	if op.guest == nil || op.guest.refuel == nil {
		return 0, false
	}
	return op.guest.budget - op.guest.left.Get(), true
}
