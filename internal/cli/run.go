package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/penstock/penstock/configs"
	"github.com/penstock/penstock/internal/app"
	"github.com/penstock/penstock/pipeline"
	"github.com/penstock/penstock/pipeline/config"
)

// drainTimeout bounds how long a stop may take before what is under way is
// left to the next start.
const drainTimeout = 10 * time.Second

func runCommand(logger func() (*slog.Logger, error)) *cobra.Command {
	var duration time.Duration
	var summary string
	c := &cobra.Command{
		Use:   "run CONFIG",
		Short: "Run the pipeline of a YAML file",
		Long: `Runs the pipeline until its sources end, --for is over or a signal comes. SIGTERM
drains it: sources stop, what they have taken goes through, within 10 seconds.
What is not through by then stays in the journal for the next start.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			log, err := logger()
			if err != nil {
				return err
			}
			cfg, err := app.Read(cmd.Context(), args[0], log)
			if err != nil {
				return err
			}
			ctx := cmd.Context()
			if duration > 0 {
				var cancel context.CancelFunc
				ctx, cancel = context.WithTimeout(ctx, duration)
				defer cancel()
			}
			return run(ctx, cfg, log, summary)
		},
	}
	c.Flags().DurationVar(&duration, "for", 0, "end by itself after this long")
	c.Flags().StringVar(&summary, "summary", "", "write a JSON summary to this file at the end")
	return c
}

func run(ctx context.Context, cfg *config.Config, log *slog.Logger, summary string) error {
	meter := pipeline.NewMeter()
	page := newPage(cfg, meter)
	l, err := listen(cfg.HTTP.Listen)
	if err != nil {
		return err
	}
	a, err := app.Start(ctx, app.Options{Config: cfg, Log: log, Meter: meter, Cache: filepath.Join(cfg.Journal.Dir, "cache"), Tap: page.Tap})
	if err != nil {
		if l != nil {
			l.Close()
		}
		if ctx.Err() != nil { // a signal while it was starting is no failure
			log.Info("stopped before it had started", "cause", err)
			return nil
		}
		return err
	}
	srv := serve(l, a, page, meter, log)
	defer srv.Close()
	endControl, err := serveControl(cfg.Journal.Dir, a, log)
	if err != nil {
		stop(a)
		return err
	}
	defer endControl()
	log.Info("running", "pipeline", cfg.Name, "http", srv.URL())
	select {
	case <-ctx.Done():
	case <-a.Done():
	}
	err = stop(a)
	s := a.Summary()
	log.Info("stopped", "ingested", s.Readings.Ingested, "processed", s.Readings.Processed, "dropped", s.Readings.Dropped)
	if werr := writeSummary(summary, s); err == nil {
		err = werr
	}
	return err
}

func stop(a *app.App) error {
	ctx, cancel := context.WithTimeout(context.Background(), drainTimeout)
	defer cancel()
	return a.Stop(ctx)
}

// writeSummary writes s to path as JSON, whole or not at all. No path, no file.
func writeSummary(path string, s *app.Summary) error {
	if path == "" {
		return nil
	}
	data, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return err
	}
	tmp, err := os.CreateTemp(filepath.Dir(path), ".summary-*")
	if err != nil {
		return fmt.Errorf("--summary: %w", err)
	}
	defer os.Remove(tmp.Name())
	if _, err = tmp.Write(append(data, '\n')); err == nil {
		err = tmp.Chmod(0o644)
	}
	if cerr := tmp.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = os.Rename(tmp.Name(), path)
	}
	if err != nil {
		return fmt.Errorf("--summary: %w", err)
	}
	return nil
}

func validateCommand() *cobra.Command {
	verbose := false
	c := &cobra.Command{
		Use:   "validate CONFIG",
		Short: "Check a YAML file: all errors at once, with file:line:column",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			cfg, g, err := app.Load(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "%s: valid: %d nodes\n", args[0], len(g.Nodes))
			if verbose {
				return writeChoices(cmd.OutOrStdout(), cfg)
			}
			return nil
		},
	}
	c.Flags().BoolVarP(&verbose, "verbose", "v", false, "say which engine runs each module, and why")
	return c
}

func graphCommand() *cobra.Command {
	mermaid := false
	c := &cobra.Command{
		Use:   "graph CONFIG",
		Short: "Draw the graph of a YAML file",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			_, g, err := app.Load(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			out := g.Text()
			if mermaid {
				out = g.Mermaid()
			}
			fmt.Fprintln(cmd.OutOrStdout(), strings.TrimRight(out, "\n"))
			return nil
		},
	}
	c.Flags().BoolVar(&mermaid, "mermaid", false, "as a Mermaid flowchart")
	return c
}

func schemaCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "schema",
		Short: "Print the JSON Schema of the YAML, for editors",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			_, err := cmd.OutOrStdout().Write(configs.Schema)
			return err
		},
	}
}

func versionCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Print the version",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			version, rev := "(devel)", ""
			if bi, ok := debug.ReadBuildInfo(); ok {
				version = bi.Main.Version
				for _, s := range bi.Settings {
					if s.Key == "vcs.revision" {
						rev = " " + s.Value
					}
				}
			}
			fmt.Fprintf(cmd.OutOrStdout(), "penstock %s%s\n", version, rev)
			return nil
		},
	}
}
