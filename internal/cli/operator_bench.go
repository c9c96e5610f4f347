package cli

import (
	"encoding/json"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/penstock/penstock/operators/wasm"
	"github.com/penstock/penstock/operators/wasm/check"
)

func operatorBenchCommand() *cobra.Command {
	var against string
	var asJSON bool
	var each time.Duration
	c := &cobra.Command{
		Use: "bench MODULE", Short: "Measure what a module costs per row", Args: cobra.ExactArgs(1),
		Long: `MODULE is the path of a .wasm file or the name of a built-in module. For each
engine of this build and each shape of batch it prints the median time of a call
and of a row, copying in and out included, with the manifest's defaults; then
that of a row when the module is metered, and the fuel that it used. With
--against another module takes turns with it, and ratio is MODULE's time over
that one's: below 1 is faster.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			code, err := wasm.Load(args[0])
			if err != nil {
				return err
			}
			var base []byte
			if against != "" {
				if base, err = wasm.Load(against); err != nil {
					return err
				}
			}
			if each <= 0 {
				return usageError{fmt.Errorf("--time %v: write a duration above 0, such as 200ms", each)}
			}
			out := cmd.OutOrStdout()
			e := json.NewEncoder(out)
			report := func(m check.Measurement) { _ = e.Encode(m) }
			if !asJSON {
				fmt.Fprintf(out, "%-8s %7s %6s %10s %10s", "engine", "rows", "tags", "µs/call", "ns/row")
				fmt.Fprintf(out, " %10s %9s", "metered", "fuel/row")
				if base != nil {
					fmt.Fprintf(out, " %12s %6s", "against", "ratio")
				}
				fmt.Fprintln(out)
				report = func(m check.Measurement) {
					fmt.Fprintf(out, "%-8s %7d %6d %10.2f %10.2f", m.Engine, m.Rows, m.Tags, m.CallUs, m.NsPerRow)
					fmt.Fprintf(out, " %10.2f %9.0f", m.MeteredNsPerRow, m.FuelPerRow)
					if base != nil {
						fmt.Fprintf(out, " %12.2f %6.2f", m.BaseNsPerRow, m.Ratio)
					}
					fmt.Fprintln(out)
				}
			}
			return check.Bench(cmd.Context(), code, base, each, report)
		},
	}
	c.Flags().StringVar(&against, "against", "", "a module to compare with")
	c.Flags().BoolVar(&asJSON, "json", false, "one JSON object per line")
	c.Flags().DurationVar(&each, "time", 200*time.Millisecond, "how long to measure for each figure")
	return c
}
