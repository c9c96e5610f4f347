package cli

import (
	"encoding/json"
	"fmt"
	"io"
	"strconv"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/penstock/penstock/internal/app"
	"github.com/penstock/penstock/pipeline"
	"github.com/penstock/penstock/pipeline/flow"
)

// liveCommands change the modules of a pipeline while it runs.
func liveCommands() []*cobra.Command {
	shadow := &cobra.Command{Use: "shadow", Short: "Run a candidate beside the module that runs, and compare"}
	shadow.AddCommand(
		changeCommand("start", "PIPELINE OPERATOR MODULE", "Start a candidate: it gets the same batches, its outputs go nowhere", 3),
		shadowReportCommand(),
		changeCommand("stop", "PIPELINE OPERATOR", "End the candidate", 2))
	return []*cobra.Command{
		changeCommand("deploy", "PIPELINE OPERATOR MODULE", "Put a module in place between two batches, state and all", 3),
		changeCommand("rollback", "PIPELINE OPERATOR", "Put the module that ran before back in place", 2),
		changeCommand("promote", "PIPELINE OPERATOR", "Put the shadow in place, with the state it has", 2),
		shadow, statusCommand(),
	}
}

const wherePipeline = `PIPELINE is the config file of a running pipeline, or the folder of its journal. The
command must run on the same machine, as the same user.`

func changeCommand(name, args, short string, n int) *cobra.Command {
	var warm time.Duration
	cmd := &cobra.Command{Use: name + " " + args, Short: short, Long: short + ".\n\n" + wherePipeline, Args: cobra.ExactArgs(n),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := newControlClient(args[0])
			if err != nil {
				return err
			}
			module := ""
			if len(args) > 2 {
				module = args[2]
			}
			action := controlActions[name]
			if warm > 0 {
				change, err := c.change(cmd.Context(), pipeline.ControlShadow, args[1], module)
				if err != nil {
					return err
				}
				warnOfFailures(cmd, change)
				fmt.Fprintf(cmd.OutOrStdout(), "the module learns beside the one that runs, for %v\n", warm)
				select {
				case <-time.After(warm):
				case <-cmd.Context().Done():
					return fmt.Errorf("%w: it still runs beside the other; end that with penstock operator shadow stop", cmd.Context().Err())
				}
				action, module = pipeline.ControlPromote, ""
			}
			change, err := c.change(cmd.Context(), action, args[1], module)
			if err != nil {
				return err
			}
			state := "afresh"
			if change.Carried {
				state = map[string]string{pipeline.ControlPromote: "with what it has learnt", pipeline.ControlRollback: "with the state that it had"}[action]
				if state == "" {
					state = "with the state of the one before"
				}
			} else if change.Shown > 0 {
				state = fmt.Sprintf("afresh, having been shown %d rows of the journal", change.Shown)
			}
			warnOfFailures(cmd, change)
			switch name {
			case "start":
				fmt.Fprintf(cmd.OutOrStdout(), "a candidate runs beside %s; the flow paused %v\n", change.Module, change.Pause)
			case "stop":
				fmt.Fprintf(cmd.OutOrStdout(), "the candidate is gone; %s runs on\n", change.Module)
			default:
				fmt.Fprintf(cmd.OutOrStdout(), "%s runs %s (%.12s) on %s, %s; the flow paused %v\n", change.Operator, change.Module, change.Digest, change.Engine, state, change.Pause)
			}
			return nil
		}}
	if name == "deploy" {
		cmd.Flags().DurationVar(&warm, "warm", 0, "let it learn beside the module that runs for this long first: for one that cannot go on with its state")
	}
	return cmd
}

func warnOfFailures(cmd *cobra.Command, c app.Change) {
	if c.Failed > 0 {
		fmt.Fprintf(cmd.ErrOrStderr(), "WARNING: %d calls failed while it was shown the journal; the pipeline's log says why\n", c.Failed)
	}
}

func statusCommand() *cobra.Command {
	asJSON := false
	c := &cobra.Command{Use: "status PIPELINE", Short: "Show which modules a pipeline runs", Long: "Shows which modules a pipeline runs.\n\n" + wherePipeline, Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := newControlClient(args[0])
			if err != nil {
				return err
			}
			shards, err := c.status(cmd.Context())
			if err != nil {
				return err
			}
			if asJSON {
				return indented(cmd.OutOrStdout(), shards)
			}
			t := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 2, ' ', 0)
			fmt.Fprintln(t, "shard\toperator\tmodule\tdigest\tengine\tbefore\tshadow\t")
			for s, nodes := range shards {
				for _, n := range nodes {
					shadow := "-"
					if n.Shadow != nil {
						shadow = n.Shadow.Module
					}
					note := ""
					if n.Quarantined {
						note = "IN QUARANTINE"
					}
					fmt.Fprintf(t, "%d\t%s\t%s\t%.12s\t%s\t%s\t%s\t%s\n", s, n.Node, n.Module, n.Digest, n.Engine, orDash(n.Previous), shadow, note)
				}
			}
			return t.Flush()
		}}
	c.Flags().BoolVar(&asJSON, "json", false, "print all that is known, by shard")
	return c
}

func orDash(digest string) string {
	if digest == "" {
		return "-"
	}
	return digest[:min(12, len(digest))]
}

func indented(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	return e.Encode(v)
}

func shadowReportCommand() *cobra.Command {
	asJSON := false
	c := &cobra.Command{Use: "report PIPELINE OPERATOR", Short: "Show how the candidate compares with the module that runs",
		Long: "Shows how the candidate compares with the module that runs.\n\n" + wherePipeline, Args: cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := newControlClient(args[0])
			if err != nil {
				return err
			}
			shards, err := c.status(cmd.Context())
			if err != nil {
				return err
			}
			byShard := map[string]*flow.ShadowStats{}
			for s, nodes := range shards {
				for _, n := range nodes {
					if n.Node == args[1] && n.Shadow != nil {
						byShard[strconv.Itoa(s)] = n.Shadow
					}
				}
			}
			if len(byShard) == 0 {
				return fmt.Errorf("operator %s has no candidate: start one with penstock operator shadow start", args[1])
			}
			if asJSON {
				return indented(cmd.OutOrStdout(), byShard)
			}
			for s := range len(shards) {
				if st := byShard[strconv.Itoa(s)]; st != nil {
					printShadow(cmd.OutOrStdout(), s, st)
				}
			}
			return nil
		}}
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON, by shard")
	return c
}

func printShadow(w io.Writer, shard int, s *flow.ShadowStats) {
	fmt.Fprintf(w, "shard %d: candidate %s (%.12s) on %s, %d batches, %d rows\n", shard, s.Module, s.Digest, s.Engine, s.Batches, s.Rows)
	if s.Failed != "" {
		fmt.Fprintf(w, "  FAILED and is not called any more: %s\n", printable(s.Failed))
	}
	fmt.Fprintf(w, "  ns per row: %.1f live, %.1f candidate\n", s.LiveNsPerRow, s.CandidateNsPerRow)
	fmt.Fprintf(w, "  alerts raised: %d live, %d candidate\n", s.Alerts.Live, s.Alerts.Candidate)
	for _, a := range s.Alerts.OnlyLive {
		fmt.Fprintf(w, "    only live:      %s\n", a)
	}
	for _, a := range s.Alerts.OnlyCandidate {
		fmt.Fprintf(w, "    only candidate: %s\n", a)
	}
	if s.OtherRows > 0 {
		fmt.Fprintf(w, "  batches with other numbers of rows: %d\n", s.OtherRows)
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "  column\tdifferent\tof rows\tonly live\tonly candidate\tp1\tp50\tp99\tmax\t(candidate:) p1\tp50\tp99\tmax\t")
	for _, c := range s.Columns {
		fmt.Fprintf(t, "  %s\t%d\t%d\t%d\t%d\t%s\t%s\n", c.Name, c.Different, c.Rows, c.OnlyLive, c.OnlyCandidate, spread(c.Live), spread(c.Candidate))
	}
	t.Flush() //nolint:errcheck // to the terminal
}

func spread(d *flow.Distribution) string {
	if d == nil {
		return "\t\t\t"
	}
	return fmt.Sprintf("%.3g\t%.3g\t%.3g\t%.3g", d.P1, d.P50, d.P99, d.Max)
}
