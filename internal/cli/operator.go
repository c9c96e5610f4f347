package cli

import (
	"encoding/json"
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"github.com/penstock/penstock/operators/wasm"
)

func operatorCommand() *cobra.Command {
	c := &cobra.Command{Use: "operator", Short: "Work with WebAssembly operators"}
	c.AddCommand(
		listCommand(), pushCommand(), pullCommand(),
		inspectCommand(),
		packCommand(),
		keygenCommand(),
		signCommand(),
		verifyCommand(),
	)
	c.AddCommand(liveCommands()...)
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
