package cli

import (
	"fmt"
	"io"
	"os"
	"slices"

	"github.com/spf13/cobra"

	"github.com/penstock/penstock/operators/sdk"
	"github.com/penstock/penstock/operators/wasm"
)

func packCommand() *cobra.Command {
	var out string
	var golden bool
	c := &cobra.Command{
		Use: "pack MODULE.wasm MANIFEST.json", Short: "Put a manifest into a module", Args: cobra.ExactArgs(2),
		Long: `Writes the manifest into a custom section of the module; one that it has is
replaced. A golden vector without a digest is refused: --golden runs the module
on wazero and fills in what is missing, in the module and, where the manifest's
file has "digest": "", there too. To renew a digest, empty it first.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			code, err := os.ReadFile(args[0])
			if err != nil {
				return err
			}
			text, err := os.ReadFile(args[1])
			if err != nil {
				return err
			}
			m, err := wasm.ParseManifest(text)
			if err != nil {
				return fmt.Errorf("%s: %w", args[1], err)
			}
			if golden {
				names, err := wasm.FillGolden(code, &m)
				if err != nil {
					return fmt.Errorf("%s: %w", args[1], err)
				}
				if filled, ok := sdk.FillDigests(text, &m, names); ok {
					if err := os.WriteFile(args[1], filled, 0o644); err != nil { // the mode that it has stays
						return err
					}
				}
				printDigests(cmd.OutOrStdout(), &m, names)
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
	c.Flags().BoolVar(&golden, "golden", false, "compute the digests of golden vectors that have none")
	return c
}

func printDigests(w io.Writer, m *wasm.Manifest, names []string) {
	for _, g := range m.Golden {
		if slices.Contains(names, g.Name) {
			fmt.Fprintf(w, "golden %s %s\n", g.Name, g.Digest)
		}
	}
}
