package cli

import "github.com/spf13/cobra"

func operatorCommand() *cobra.Command {
	c := &cobra.Command{Use: "operator", Short: "Work with WebAssembly operators"}
	c.AddCommand(
		listCommand(), pushCommand(), pullCommand(),
		inspectCommand(),
		operatorNewCommand(), operatorBuildCommand(), packCommand(),
		checkCommand(),
		operatorBenchCommand(),
		keygenCommand(),
		signCommand(),
		verifyCommand(),
	)
	c.AddCommand(liveCommands()...)
	return c
}
