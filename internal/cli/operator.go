package cli

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/penstock/penstock/operators/modules"
	"github.com/penstock/penstock/operators/wasm"
)

func operatorCommand() *cobra.Command {
	c := &cobra.Command{Use: "operator", Short: "Work with WebAssembly operators"}
	c.AddCommand(
		&cobra.Command{
			Use: "list", Short: "List the modules that are built in", Args: cobra.NoArgs,
			RunE: func(cmd *cobra.Command, _ []string) error {
				for _, name := range modules.Names() {
					data, _ := modules.Get(name)
					m, err := wasm.ReadManifest(data)
					if err != nil {
						return fmt.Errorf("%s: %w", name, err)
					}
					fmt.Fprintf(cmd.OutOrStdout(), "%-8s %-7s %s\n", m.Name, m.Version, m.Doc)
				}
				return nil
			},
		},
		&cobra.Command{
			Use: "inspect MODULE", Short: "Show a module's manifest, imports and memory", Args: cobra.ExactArgs(1),
			Long: "MODULE is the path of a .wasm file or the name of a built-in module.",
			RunE: func(cmd *cobra.Command, args []string) error {
				data, err := readModule(args[0])
				if err != nil {
					return err
				}
				info, err := wasm.Inspect(data)
				if err != nil {
					return fmt.Errorf("%s: %w", args[0], err)
				}
				e := json.NewEncoder(cmd.OutOrStdout())
				e.SetIndent("", "  ")
				return e.Encode(info)
			},
		},
		packCommand(),
		checkCommand(),
		operatorBenchCommand(),
	)
	return c
}

// readModule returns a built-in module, or the file at a path.
func readModule(name string) ([]byte, error) {
	if data, ok := modules.Get(name); ok {
		return data, nil
	}
	f, err := os.Open(name)
	if err != nil {
		return nil, fmt.Errorf("%w (the built-in modules are %s)", err, strings.Join(modules.Names(), ", "))
	}
	defer f.Close() //nolint:errcheck // only read
	data, err := io.ReadAll(io.LimitReader(f, wasm.MaxModuleSize+1))
	if err == nil && len(data) > wasm.MaxModuleSize {
		err = fmt.Errorf("%s is larger than %d bytes", name, wasm.MaxModuleSize)
	}
	return data, err
}
