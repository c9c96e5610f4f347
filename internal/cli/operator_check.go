package cli

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/penstock/penstock/operators/modules"
	"github.com/penstock/penstock/operators/wasm"
	"github.com/penstock/penstock/operators/wasm/check"
)

func checkCommand() *cobra.Command {
	return &cobra.Command{
		Use: "test [MODULE|DIR]", Short: "Test a module on every engine of this build", Args: cobra.MaximumNArgs(1),
		Long: `MODULE is the path of a .wasm file or the name of a built-in module; DIR is a
folder with .wasm files, in it or one below it. Without either it is this folder.

Tests, knowing no more of the module than its manifest: that it loads, keeps to
its golden vectors, is deterministic, gives the same bytes on every engine, goes
on from its snapshots (also on the other engine), bears every input that the ABI
allows, does not grow, and opens with its parameters at their ends. Prints a line
per check and ends with status 1 when one fails.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			target := "."
			if len(args) > 0 {
				target = args[0]
			}
			names, err := modulesAt(target)
			if err != nil {
				return err
			}
			failed := 0
			for _, name := range names {
				code, err := wasm.Load(name)
				if err != nil {
					return err
				}
				if len(names) > 1 {
					fmt.Fprintln(cmd.OutOrStdout(), name)
				}
				failed += check.Module(code, func(r check.Result) { printCheck(cmd.OutOrStdout(), r) })
			}
			if failed > 0 {
				return fmt.Errorf("failed checks: %d", failed)
			}
			return nil
		},
	}
}

// modulesAt returns what target names: a module, or those of a folder.
func modulesAt(target string) ([]string, error) {
	if _, ok := modules.Get(target); ok {
		return []string{target}, nil
	}
	st, err := os.Stat(target)
	if err != nil || !st.IsDir() {
		return []string{target}, nil // reading it says what is wrong
	}
	for _, pattern := range []string{"*.wasm", "*/*.wasm"} {
		found, err := filepath.Glob(filepath.Join(target, pattern))
		if err != nil {
			return nil, err
		}
		if len(found) > 0 {
			return found, nil
		}
	}
	return nil, fmt.Errorf("%s has no .wasm file: build the module first", target)
}

func printCheck(w io.Writer, r check.Result) {
	status, text := "ok", r.Note
	switch {
	case r.Err != nil:
		status, text = "FAIL", strings.ReplaceAll(printable(r.Err.Error()), "\n", "\n      ")
	case r.Skip:
		status = "skip"
	}
	engine := r.Engine
	if engine == "" {
		engine = "-"
	}
	fmt.Fprintf(w, "%-4s  %-11s  %-8s  %s\n", status, r.Check, engine, text)
	if r.Err != nil && r.Do != "" {
		fmt.Fprintf(w, "      %s\n", r.Do)
	}
}
