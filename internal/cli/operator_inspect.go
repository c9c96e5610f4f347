package cli

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/penstock/penstock/operators/wasm"
	"github.com/penstock/penstock/pipeline"
)

func inspectCommand() *cobra.Command {
	var files []string
	c := &cobra.Command{
		Use: "inspect MODULE", Short: "Show a module's manifest, imports, memory, signatures and engine", Args: cobra.ExactArgs(1),
		Long: `MODULE is the path of a .wasm file or the name of a built-in module. The engine is
the one that engine: auto takes in a pipeline that trusts the keys given.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			keys, err := readKeys(files)
			if err != nil {
				return err
			}
			data, err := wasm.Load(args[0])
			if err != nil {
				return err
			}
			info, err := wasm.Inspect(data)
			if err != nil {
				return fmt.Errorf("%s: %w", args[0], err)
			}
			cfg := wasm.DefaultConfig()
			cfg.Module = args[0]
			cfg.UseModules(pipeline.Modules{Trust: keys})
			choice, err := cfg.Choose()
			if err != nil {
				return fmt.Errorf("%s: %w", args[0], err)
			}
			var text strings.Builder
			e := json.NewEncoder(&text)
			e.SetIndent("", "  ")
			e.SetEscapeHTML(false)
			if err := e.Encode(struct {
				wasm.Info
				Trust, Engine, Reason string
			}{info, choice.Trust.String(), choice.Engine, choice.Reason}); err != nil {
				return err
			}
			_, err = io.WriteString(cmd.OutOrStdout(), printable(text.String()))
			return err
		},
	}
	c.Flags().StringArrayVar(&files, "trust", nil, "the .pub file of a key to trust; may be repeated")
	return c
}
