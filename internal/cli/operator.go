package cli

import (
	"encoding/json"
	"fmt"
	"os"

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
				data, ok := modules.Get(args[0])
				if !ok {
					var err error
					if data, err = os.ReadFile(args[0]); err != nil {
						return err
					}
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
		packCommand(), operatorNewCommand(), operatorBuildCommand(),
	)
	return c
}

func packCommand() *cobra.Command {
	var out string
	c := &cobra.Command{
		Use: "pack MODULE.wasm MANIFEST.json", Short: "Put a manifest into a module", Args: cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			code, err := os.ReadFile(args[0])
			if err != nil {
				return err
			}
			text, err := os.ReadFile(args[1])
			if err != nil {
				return err
			}
			var m wasm.Manifest
			if err := json.Unmarshal(text, &m); err != nil {
				return fmt.Errorf("%s: %w", args[1], err)
			}
			packed, err := wasm.Pack(code, m)
			if err != nil {
				return fmt.Errorf("%s: %w", args[1], err)
			}
			if out == "" {
				out = args[0]
			}
			return os.WriteFile(out, packed, 0o644)
		},
	}
	c.Flags().StringVarP(&out, "output", "o", "", "write here instead of over MODULE.wasm")
	return c
}
