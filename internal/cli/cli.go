// Package cli is the command line of penstock.
package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"github.com/penstock/penstock/pipeline/config"
)

// Main runs the command line and returns the exit status: 0 done, 1 failed,
// 2 wrong usage or config.
func Main(args []string) int {
	keepMemorySmall()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop) // a second signal ends the process at once
	root := &cobra.Command{
		Use:   "penstock",
		Short: "Industrial stream processor: OPC UA and MQTT in, Wasm detectors, InfluxDB and alerts out",
		Long: `Penstock reads sensor data from OPC UA and MQTT, keeps it in a journal on disk,
runs it through a graph of operators (windows, filters, and anomaly detectors as
WebAssembly kernels), raises alerts, and writes to InfluxDB, Parquet and alert
sinks. One YAML file describes it all.`,
		SilenceErrors: true, SilenceUsage: true,
	}
	var level, format string
	root.PersistentFlags().StringVar(&level, "log-level", "info", "debug, info, warn or error")
	root.PersistentFlags().StringVar(&format, "log-format", "text", "text or json; logs go to standard error")
	loggerTo := func(w io.Writer) (*slog.Logger, error) { return newLogger(w, level, format) }
	logger := func() (*slog.Logger, error) { return loggerTo(os.Stderr) }
	root.AddCommand(demoCommand(loggerTo), runCommand(logger), validateCommand(), graphCommand(), schemaCommand(), versionCommand(), benchCommand(logger))
	root.AddCommand(operatorCommand(), benchChildCommand())
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usageError{err} })
	explainArgs(root)
	root.SetArgs(args)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return 0
	}
	var cfg config.Errors
	var usage usageError
	if errors.As(err, &cfg) {
		fmt.Fprintln(os.Stderr, printable(cfg.Error()))
		fmt.Fprintf(os.Stderr, "%d error(s)\n", len(cfg))
		return 2
	}
	fmt.Fprintln(os.Stderr, "penstock:", printable(err.Error()))
	if errors.As(err, &usage) {
		return 2
	}
	return 1
}

type usageError struct{ error }

// explainArgs has c and the commands below it say what they take when they are
// given too few arguments or too many.
func explainArgs(c *cobra.Command) {
	if check := c.Args; check != nil {
		c.Args = func(c *cobra.Command, args []string) error {
			if err := check(c, args); err != nil {
				return usageError{fmt.Errorf("%w: write %s", err, c.UseLine())}
			}
			return nil
		}
	}
	for _, sub := range c.Commands() {
		explainArgs(sub)
	}
}

// printable is text in which a module may have had a say, as a terminal may get it:
// without what moves the cursor or changes what stands there.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r == '\n' || r == '\t' || strconv.IsPrint(r) {
			return r
		}
		return utf8.RuneError
	}, s)
}

func newLogger(w io.Writer, level, format string) (*slog.Logger, error) {
	var l slog.Level
	if err := l.UnmarshalText([]byte(level)); err != nil {
		return nil, usageError{fmt.Errorf("--log-level %q: write debug, info, warn or error", level)}
	}
	o := &slog.HandlerOptions{Level: l}
	switch format {
	case "text":
		return slog.New(slog.NewTextHandler(w, o)), nil
	case "json":
		return slog.New(slog.NewJSONHandler(w, o)), nil
	}
	return nil, usageError{fmt.Errorf("--log-format %q: write text or json", format)}
}
