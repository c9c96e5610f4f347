package natsd

import (
	"log/slog"
	"testing"

	"github.com/stretchr/testify/require"
)

// Two processes that write one journal would destroy it: the second is refused
// and told why; after the first has ended, the directory is free.
func TestOneServerADirectory(t *testing.T) {
	o := Options{Name: "test", Dir: t.TempDir(), Log: slog.New(slog.DiscardHandler)}
	a, err := Start(o)
	require.NoError(t, err)
	_, err = Start(o)
	require.ErrorContains(t, err, o.Dir)
	require.ErrorContains(t, err, "in use")
	a.Stop()
	b, err := Start(o)
	require.NoError(t, err)
	b.Stop()
}
