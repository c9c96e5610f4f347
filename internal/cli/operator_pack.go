package cli

import (
	"fmt"
	"os"
	"regexp"
	"slices"

	"github.com/spf13/cobra"

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
				if err := writeDigests(args[1], text, &m, names); err != nil {
					return err
				}
				for _, g := range m.Golden {
					if slices.Contains(names, g.Name) {
						fmt.Fprintf(cmd.OutOrStdout(), "golden %s %s\n", g.Name, g.Digest)
					}
				}
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

// emptyDigest matches in JSON text only a key: a quote within a text has a
// backslash before it.
var emptyDigest = regexp.MustCompile(`"digest"(\s*:\s*)""`)

// writeDigests puts the digests of the named vectors where the manifest's text
// has empty ones, and leaves its layout alone. A text that has no such place
// for each of them stays as it is.
func writeDigests(path string, text []byte, m *wasm.Manifest, names []string) error {
	var digests []string
	for _, g := range m.Golden {
		if slices.Contains(names, g.Name) {
			digests = append(digests, g.Digest)
		}
	}
	if len(digests) == 0 || len(emptyDigest.FindAll(text, -1)) != len(digests) {
		return nil
	}
	filled := emptyDigest.ReplaceAllFunc(text, func(b []byte) []byte {
		d := digests[0]
		digests = digests[1:]
		return append(append([]byte{}, b[:len(b)-2]...), `"`+d+`"`...)
	})
	st, err := os.Stat(path)
	if err != nil {
		return err
	}
	return os.WriteFile(path, filled, st.Mode().Perm())
}
