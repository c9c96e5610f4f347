// Package modules holds the kernels that ship with Penstock: sources in C,
// manifests, and the built modules.
package modules

import (
	"bytes"
	"embed"
	"path"
	"strings"
)

//go:embed */*.wasm
var files embed.FS

// Get returns the shipped module called name.
func Get(name string) ([]byte, bool) {
	if name == "" || strings.ContainsAny(name, "/.") {
		return nil, false
	}
	b, err := files.ReadFile(path.Join(name, name+".wasm"))
	return b, err == nil
}

// Names returns the names of the shipped modules, sorted.
func Names() []string {
	var names []string
	dirs, _ := files.ReadDir(".")
	for _, d := range dirs {
		if _, ok := Get(d.Name()); ok {
			names = append(names, d.Name())
		}
	}
	return names
}

// Shipped reports whether wasm is, byte for byte, one of the shipped modules.
func Shipped(wasm []byte) bool {
	for _, name := range Names() {
		if b, ok := Get(name); ok && bytes.Equal(b, wasm) {
			return true
		}
	}
	return false
}
