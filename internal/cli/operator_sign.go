package cli

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/penstock/penstock/operators/wasm"
	"github.com/penstock/penstock/operators/wasm/trust"
	"github.com/penstock/penstock/pipeline"
	"github.com/penstock/penstock/pipeline/config"
)

func keygenCommand() *cobra.Command {
	return &cobra.Command{
		Use: "keygen NAME", Short: "Make a key to sign modules with: NAME.key and NAME.pub", Args: cobra.ExactArgs(1),
		Long: `Writes NAME.key, the private key (PEM, PKCS#8, ed25519), and NAME.pub, the public
key on one line. Keep the first where modules are built; list the second under
modules.trust in the pipelines that are to run them. Nothing is overwritten.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			key, err := trust.GenerateKey()
			if err != nil {
				return err
			}
			public, err := trust.WriteKey(args[0], key)
			if err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "%s.key  keep it secret\n%s.pub  %s\n", args[0], args[0], public)
			return nil
		},
	}
}

func signCommand() *cobra.Command {
	var keyFile, out string
	strip := false
	c := &cobra.Command{
		Use: "sign MODULE.wasm --key NAME.key", Short: "Sign a module", Args: cobra.ExactArgs(1),
		Long: `Adds a signature over all bytes of the module, its manifest included. Several keys
may sign a module, in any order. It is the last step: what changes the module
afterwards breaks the signatures, and pack drops them. The digest of the file,
as inspect shows it, becomes another.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			if keyFile == "" && !strip {
				return usageError{errors.New("--key is missing: write the .key file of penstock operator keygen")}
			}
			data, err := wasm.Load(args[0])
			if err != nil {
				return err
			}
			if strip {
				if data, err = trust.Strip(data); err != nil {
					return fmt.Errorf("%s: %w", args[0], err)
				}
			}
			if keyFile != "" {
				key, err := trust.ReadPrivateKey(keyFile)
				if err != nil {
					return err
				}
				if data, err = trust.Sign(data, key); err != nil {
					return fmt.Errorf("%s: %w (--strip removes the signatures that it has)", args[0], err)
				}
			}
			info, err := wasm.Inspect(data)
			if err != nil {
				return fmt.Errorf("%s: %w", args[0], err)
			}
			if out == "" {
				if _, err := os.Stat(args[0]); err != nil {
					return usageError{fmt.Errorf("%s is a built-in module: write -o FILE", args[0])}
				}
				out = args[0]
			}
			if err := replaceFile(out, data); err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "%s: %s@%s, %d signature(s), sha256 %s\n", out, info.Manifest.Name, info.Manifest.Version, len(info.Signatures), info.Digest)
			return nil
		},
	}
	c.Flags().StringVar(&keyFile, "key", "", "the private key")
	c.Flags().StringVarP(&out, "output", "o", "", "write here instead of over MODULE.wasm")
	c.Flags().BoolVar(&strip, "strip", false, "remove the signatures that it has first; without --key, do no more")
	return c
}

// replaceFile writes data to path, whole or not at all.
func replaceFile(path string, data []byte) error {
	tmp, err := os.CreateTemp(filepath.Dir(path), ".penstock-*")
	if err != nil {
		return err
	}
	defer os.Remove(tmp.Name()) //nolint:errcheck // it is gone when all went well
	_, err = tmp.Write(data)
	if err == nil {
		err = tmp.Chmod(0o644)
	}
	if err = errors.Join(err, tmp.Close()); err != nil {
		return err
	}
	return os.Rename(tmp.Name(), path)
}

func verifyCommand() *cobra.Command {
	var files []string
	c := &cobra.Command{
		Use: "verify MODULE [--trust NAME.pub ...]", Short: "Check a module's signatures", Args: cobra.ExactArgs(1),
		Long: `Lists the module's signatures. The exit status is 0 only if all of them hold and the
module is trusted: it is built in, or a key given with --trust signed it. Needs no
network.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			keys, err := readKeys(files)
			if err != nil {
				return err
			}
			data, err := wasm.Load(args[0])
			if err != nil {
				return err
			}
			w := cmd.OutOrStdout()
			list, err := trust.Verify(data)
			for _, s := range list {
				if s.Valid {
					fmt.Fprintf(w, "valid    %s\n", s.Key)
				} else {
					fmt.Fprintf(w, "INVALID  %s\n", s.Key)
				}
			}
			if err != nil {
				return fmt.Errorf("%s: %w", args[0], err)
			}
			st, err := trust.Check(data, keys)
			if err != nil {
				return fmt.Errorf("%s: %w", args[0], err)
			}
			if !st.Trusted() {
				return fmt.Errorf("%s is not trusted: it is %s", args[0], st)
			}
			fmt.Fprintf(w, "trusted: %s is %s\n", args[0], st)
			return nil
		},
	}
	c.Flags().StringArrayVar(&files, "trust", nil, "the .pub file of a key to trust; may be repeated")
	return c
}

func readKeys(files []string) ([]pipeline.ModuleKey, error) {
	var keys []pipeline.ModuleKey
	for _, f := range files {
		k, err := trust.ReadPublicKey(f)
		if err != nil {
			return nil, err
		}
		keys = append(keys, k)
	}
	return keys, nil
}

// writeChoices says for each module of the pipeline which engine runs it.
func writeChoices(w io.Writer, cfg *config.Config) error {
	for _, c := range cfg.Operators {
		m, ok := c.Settings.(*wasm.Config)
		if !ok {
			continue
		}
		choice, err := m.Choose()
		if err != nil {
			return fmt.Errorf("%s: %w", c.Name, err)
		}
		fmt.Fprintf(w, "%s: module %s runs on %s: %s\n", c.Name, m.Module, choice.Engine, choice.Reason)
	}
	return nil
}
