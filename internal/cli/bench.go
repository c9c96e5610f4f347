package cli

import (
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"os"

	"github.com/spf13/cobra"

	"github.com/penstock/penstock/internal/bench"
)

func benchCommand(func() (*slog.Logger, error)) *cobra.Command {
	var asJSON bool
	var scale float64
	var only string
	c := &cobra.Command{
		Use:       "bench [mqtt|opcua|kernels]",
		Short:     "Measure what this machine can carry",
		ValidArgs: []string{"mqtt", "opcua", "kernels"},
		Args:      cobra.MatchAll(cobra.MaximumNArgs(1), cobra.OnlyValidArgs),
		Long: `Runs a pipeline in a process of its own under load from this one, over loopback:
every reading is journaled, scored by the ewma kernel and written as line
protocol to an HTTP server that throws it away. Beside each figure stands that
of a bare client that only counts, measured in the same run. CPU seconds and
memory are those of the measured process alone.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			out := cmd.OutOrStdout()
			report := func(r bench.Result) { printResult(out, r) }
			if asJSON {
				e := json.NewEncoder(out)
				report = func(r bench.Result) { _ = e.Encode(r) }
			} else {
				fmt.Fprintf(out, "%-34s %-10s %12s %12s %10s %10s %9s\n", "scenario", "subject", "readings/s", "CPU-s/M", "p50 ms", "p99 ms", "RSS MB")
			}
			what := ""
			if len(args) > 0 {
				what = args[0]
			}
			if what == "" || what == "mqtt" {
				if err := bench.MQTT(cmd.Context(), scale, only, report); err != nil {
					return err
				}
			}
			if what == "" || what == "opcua" {
				if err := bench.OPCUA(cmd.Context(), scale, report); err != nil {
					return err
				}
			}
			if what == "" || what == "kernels" {
				return bench.Kernels(cmd.Context(), report)
			}
			return nil
		},
	}
	c.Flags().BoolVar(&asJSON, "json", false, "one JSON object per line")
	c.Flags().Float64Var(&scale, "scale", 1, "multiply the number of readings")
	c.Flags().StringVar(&only, "only", "", "only the MQTT scenarios whose name contains this")
	return c
}

func benchChildCommand() *cobra.Command {
	return &cobra.Command{
		Use: bench.ChildCommand, Hidden: true, Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return bench.Child(cmd.Context(), os.Stdin, os.Stdout)
		},
	}
}

func printResult(w io.Writer, r bench.Result) {
	latency := func(v float64) string {
		if v == 0 {
			return "-"
		}
		return fmt.Sprintf("%.1f", v)
	}
	fmt.Fprintf(w, "%-34s %-10s %12.0f %12.2f %10s %10s %9.0f\n", r.Scenario, r.Subject, r.ReadingsPerS, r.CPUPerMillion, latency(r.P50), latency(r.P99), float64(r.RSS)/1e6)
}
