package wasm

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/penstock/penstock/pipeline"
)

// Info is what can be known of a module without running it.
type Info struct {
	Manifest             Manifest
	Digest               string // SHA-256 of the file, in hex
	Size                 int
	Imports              []string // "module.name (params) -> (results)"
	Exports              []string // "name (params) -> (results)"
	MemoryMin, MemoryMax uint64   // pages of 64 KiB
	// WasmerHazards are uses of what Wasmer 2.0 computes wrongly or ends at;
	// a module that has any runs on wazero only.
	WasmerHazards []string
}

// Inspect reads a module's outline and manifest and checks that Penstock can
// run it: its exports, its imports, its memory. It neither compiles nor runs
// anything.
func Inspect(wasm []byte) (Info, error) {
	info, _, err := inspect(wasm)
	return info, err
}

func inspect(wasm []byte) (Info, *outline, error) {
	o, err := parse(wasm)
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
	hazards, err := o.hazards()
	if err != nil {
		return Info{}, nil, err
	}
	digest := sha256.Sum256(wasm)
	info := Info{Manifest: m, Digest: hex.EncodeToString(digest[:]), Size: len(wasm), MemoryMin: o.minPages, MemoryMax: o.maxPages, WasmerHazards: append(hazards, o.vectorExports()...)}
	for _, im := range o.imports {
		info.Imports = append(info.Imports, fmt.Sprintf("%s.%s %s", im.module, im.name, im.sig))
	}
	for _, e := range o.exports {
		if e.kind == kindFunc {
			info.Exports = append(info.Exports, fmt.Sprintf("%s %s", e.name, e.sig))
		}
	}
	return info, o, nil
}

func checkMemory(o *outline) error {
	if !o.hasMemory {
		return errors.New("the module has no memory of its own")
	}
	if o.minPages > maxPages || o.maxPages > maxPages || o.minPages > o.maxPages {
		return fmt.Errorf("the module declares a memory of %d to %d pages", o.minPages, o.maxPages)
	}
	return nil
}

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }

// pages is how many pages of guest memory fit into size.
func pages(size pipeline.ByteSize) uint64 { return uint64(size) / PageSize }
