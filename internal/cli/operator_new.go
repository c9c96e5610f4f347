package cli

import (
	"fmt"
	"path/filepath"
	"runtime/debug"
	"strings"

	"github.com/spf13/cobra"

	"github.com/penstock/penstock/operators/sdk"
)

func operatorNewCommand() *cobra.Command {
	var lang, kind string
	c := &cobra.Command{
		Use: "new NAME --lang LANGUAGE", Short: "Begin an operator of your own", Args: cobra.ExactArgs(1),
		Long: `Writes a folder NAME with an operator that builds as it is, its manifest and the
SDK that came with this program. LANGUAGE is one of ` + strings.Join(sdk.Languages, ", ") + `.
One of --kind map adds columns to each row: the example is a rolling z-score per
tag. One of --kind emit makes rows of its own: a summary of each tag's readings in
each window of time.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			if lang == "" {
				return usageError{fmt.Errorf("--lang is missing: write one of %s", strings.Join(sdk.Languages, ", "))}
			}
			dir := filepath.Clean(args[0])
			if err := sdk.New(dir, filepath.Base(dir), lang, kind, programVersion()); err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "%s is here. Next: cd %s && penstock operator build && penstock operator test\n", dir, dir)
			return nil
		},
	}
	c.Flags().StringVar(&lang, "lang", "", strings.Join(sdk.Languages, ", "))
	c.Flags().StringVar(&kind, "kind", sdk.Kinds[0], strings.Join(sdk.Kinds, " or "))
	return c
}

func operatorBuildCommand() *cobra.Command {
	var golden bool
	c := &cobra.Command{
		Use: "build [DIR]", Short: "Build an operator that operator new began", Args: cobra.MaximumNArgs(1),
		Long: `Compiles the operator in DIR (here, if not given), as its ` + sdk.ProjectFile + `
says, and puts its manifest.json into the module. When the operator is to compute
something else, write "digest": "" in its golden vectors: --golden fills them in.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			dir := "."
			if len(args) > 0 {
				dir = args[0]
			}
			r, err := sdk.Build(cmd.Context(), dir, golden, cmd.ErrOrStderr())
			if err != nil {
				return err
			}
			printDigests(cmd.OutOrStdout(), &r.Info.Manifest, r.Golden)
			fmt.Fprintf(cmd.OutOrStdout(), "%s: %s@%s, %d bytes, sha256 %s (%s)\n", r.Path, r.Info.Manifest.Name, r.Info.Manifest.Version,
				r.Info.Size, r.Info.Digest, r.Tools)
			for _, h := range r.Info.WasmerHazards {
				fmt.Fprintln(cmd.OutOrStdout(), "runs on wazero only, Wasmer computes wrong results for it:", h)
			}
			return nil
		},
	}
	c.Flags().BoolVar(&golden, "golden", false, "compute the digests of golden vectors that have none, in manifest.json too")
	return c
}

// programVersion is the version of the module that this program was built from.
func programVersion() string {
	if bi, ok := debug.ReadBuildInfo(); ok && bi.Main.Version != "" {
		return bi.Main.Version
	}
	return "(devel)"
}
