package cli

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestWrongArgumentsAreExplained(t *testing.T) {
	c := operatorCommand()
	c.SilenceErrors, c.SilenceUsage = true, true
	explainArgs(c)
	c.SetArgs([]string{"bench"})
	err := c.Execute()
	require.EqualError(t, err, "accepts 1 arg(s), received 0: write operator bench MODULE [flags]")
	require.ErrorAs(t, err, new(usageError))
	c.SetArgs([]string{"shadow", "report", "my.yaml"})
	require.ErrorContains(t, c.Execute(), "write operator shadow report PIPELINE OPERATOR [flags]")
}
