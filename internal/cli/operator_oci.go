package cli

import (
	"encoding/json"
	"fmt"
	"os"
	"regexp"
	"strings"

	"github.com/spf13/cobra"

	"github.com/penstock/penstock/operators/modules"
	"github.com/penstock/penstock/operators/wasm"
	"github.com/penstock/penstock/operators/wasm/oci"
)

const referenceHelp = `REF is oci://REGISTRY/REPOSITORY:TAG for a registry, or oci-layout:FOLDER:TAG for
an OCI image-layout folder, such as one on a USB stick; @sha256:DIGEST behind it
pins what it names. Credentials for a registry are those of ` + "`docker login`" + `, read
from the Docker config file.`

func plainHTTPFlag(c *cobra.Command, client *oci.Client) {
	c.Flags().BoolVar(&client.PlainHTTP, "plain-http", false, "speak http with the registry: anybody on the way can read and change what is sent")
}

func listCommand() *cobra.Command {
	var client oci.Client
	c := &cobra.Command{
		Use: "list [REF]", Short: "List the modules that are built in, or the tags in a registry or folder", Args: cobra.MaximumNArgs(1),
		Long: "REF is oci://REGISTRY/REPOSITORY or oci-layout:FOLDER. Without it, the modules that are built in are listed.",
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return listShipped(cmd)
			}
			ref, err := oci.Parse(args[0])
			if err != nil {
				return usageError{err}
			}
			tags, err := client.Tags(cmd.Context(), ref)
			if err != nil {
				return err
			}
			for _, t := range tags {
				fmt.Fprintln(cmd.OutOrStdout(), t)
			}
			return nil
		},
	}
	plainHTTPFlag(c, &client)
	return c
}

func listShipped(cmd *cobra.Command) error {
	for _, name := range modules.Names() {
		data, _ := modules.Get(name)
		m, err := wasm.ReadManifest(data)
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		what, _, _ := strings.Cut(m.Doc, ". ")
		fmt.Fprintf(cmd.OutOrStdout(), "%-8s %-7s %s.\n", m.Name, m.Version, strings.TrimSuffix(what, "."))
	}
	return nil
}

func pushCommand() *cobra.Command {
	var client oci.Client
	c := &cobra.Command{
		Use: "push MODULE REF", Short: "Put a module into a registry or a folder", Args: cobra.ExactArgs(2),
		Long: "MODULE is the path of a .wasm file or the name of a built-in module.\n" + referenceHelp,
		RunE: func(cmd *cobra.Command, args []string) error {
			ref, err := oci.Parse(args[1])
			if err != nil {
				return usageError{err}
			}
			module, err := wasm.Load(args[0])
			if err != nil {
				return err
			}
			digest, err := client.Push(cmd.Context(), module, ref)
			if err != nil {
				return err
			}
			return printPinned(cmd, module, ref.Pinned(digest))
		},
	}
	plainHTTPFlag(c, &client)
	return c
}

func pullCommand() *cobra.Command {
	var client oci.Client
	var out, store string
	c := &cobra.Command{
		Use: "pull REF", Short: "Get a module from a registry or a folder", Args: cobra.ExactArgs(1),
		Long: referenceHelp + "\nThe module is checked; without -o or --store it is kept nowhere.",
		RunE: func(cmd *cobra.Command, args []string) error {
			ref, err := oci.Parse(args[0])
			if err != nil {
				return usageError{err}
			}
			desc, err := client.Resolve(cmd.Context(), ref)
			if err != nil {
				return err
			}
			ref = ref.Pinned(desc.Digest)
			var module []byte
			if store != "" {
				s := oci.Store{Dir: store, Client: &client}
				module, err = s.Get(cmd.Context(), ref.String())
			} else {
				module, _, err = client.Pull(cmd.Context(), ref)
			}
			if err != nil {
				return err
			}
			if _, err := wasm.Inspect(module); err != nil {
				return fmt.Errorf("%s: %w", ref, err)
			}
			if out != "" {
				if err := os.WriteFile(out, module, 0o644); err != nil {
					return err
				}
			}
			return printPinned(cmd, module, ref)
		},
	}
	plainHTTPFlag(c, &client)
	c.Flags().StringVarP(&out, "output", "o", "", "write the module to this file")
	c.Flags().StringVar(&store, "store", "", "put the module into this layout folder, such as a pipeline's module store: DIR/modules with journal.dir: DIR")
	return c
}

var plainYAML = regexp.MustCompile(`^[A-Za-z0-9:/@._+-]+$`)

// printPinned prints what the module is, and the line for the YAML.
func printPinned(cmd *cobra.Command, module []byte, ref oci.Reference) error {
	m, err := wasm.ReadManifest(module)
	if err != nil {
		return err
	}
	value := ref.String()
	if !plainYAML.MatchString(value) {
		text, err := json.Marshal(value)
		if err != nil {
			return err
		}
		value = string(text)
	}
	_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s@%s, %d bytes\n%s\nmodule: %s\n", m.Name, m.Version, len(module), ref.Digest, value)
	return err
}
