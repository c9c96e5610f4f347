package wasm

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/penstock/penstock/operators/wasm/binfmt"
	"github.com/penstock/penstock/operators/wasm/trust"
	"github.com/penstock/penstock/pipeline"
)

// Info is what can be known of a module without running it.
type Info struct {
	Manifest             Manifest
	Digest               string // SHA-256 of the whole file, signatures included, in hex
	Size                 int
	Imports              []string // "module.name (params) -> (results)"
	Exports              []string // "name (params) -> (results)"
	MemoryMin, MemoryMax uint64   // pages of 64 KiB
	// WasmerHazards are uses of what Wasmer 2.0 computes wrongly or ends at;
	// a module that has any runs on wazero only.
	WasmerHazards []string
	// Signatures are those that the module has; all of them hold.
	Signatures []trust.Signature
}

// Inspect reads a module's outline and manifest and checks that Penstock can
// run it: its exports, its imports, its memory. It neither compiles nor runs
// anything.
func Inspect(wasm []byte) (Info, error) {
	info, _, err := inspect(wasm)
	return info, err
}

func inspect(wasm []byte) (Info, *binfmt.Outline, error) {
	o, err := binfmt.Parse(wasm)
	if err != nil {
		return Info{}, nil, err
	}
	m, err := ReadManifest(wasm)
	if err != nil {
		return Info{}, nil, err
	}
	if err := errors.Join(checkExports(o, m.Kind), checkMemory(o)); err != nil {
		return Info{}, nil, err
	}
	if _, err := (&host{}).imports(o); err != nil {
		return Info{}, nil, err
	}
	hazards, err := o.Hazards()
	if err != nil {
		return Info{}, nil, err
	}
	signatures, err := trust.Verify(wasm)
	if err != nil {
		return Info{}, nil, err
	}
	digest := sha256.Sum256(wasm)
	info := Info{Manifest: m, Digest: hex.EncodeToString(digest[:]), Size: len(wasm), MemoryMin: o.MinPages, MemoryMax: o.MaxPages, WasmerHazards: append(hazards, o.VectorExports()...), Signatures: signatures}
	for _, im := range o.Imports {
		info.Imports = append(info.Imports, fmt.Sprintf("%s.%s %s", im.Module, im.Name, im.Sig))
	}
	for _, e := range o.Exports {
		if e.Kind == binfmt.KindFunc {
			info.Exports = append(info.Exports, fmt.Sprintf("%s %s", e.Name, e.Sig))
		}
	}
	return info, o, nil
}

func checkMemory(o *binfmt.Outline) error {
	if !o.HasMemory {
		return errors.New("the module has no memory of its own")
	}
	if o.MinPages > binfmt.MaxPages || o.MaxPages > binfmt.MaxPages || o.MinPages > o.MaxPages {
		return fmt.Errorf("the module declares a memory of %d to %d pages", o.MinPages, o.MaxPages)
	}
	return nil
}

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }

// pages is how many pages of guest memory fit into size.
func pages(size pipeline.ByteSize) uint64 { return uint64(size) / PageSize }
