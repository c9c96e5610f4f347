// Command packmodule writes a manifest into a module: packmodule MODULE.wasm
// MANIFEST.json OUT.wasm. `make kernels` runs it.
package main

import (
	"fmt"
	"os"

	"github.com/penstock/penstock/operators/wasm"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "packmodule:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) != 3 {
		return fmt.Errorf("want MODULE.wasm MANIFEST.json OUT.wasm")
	}
	module, err := os.ReadFile(args[0])
	if err != nil {
		return err
	}
	text, err := os.ReadFile(args[1])
	if err != nil {
		return err
	}
	m, err := wasm.ParseManifest(text)
	if err != nil {
		return err
	}
	packed, err := wasm.Pack(module, m)
	if err != nil {
		return err
	}
	return os.WriteFile(args[2], packed, 0o644)
}
