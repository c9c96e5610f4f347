package wasm

import (
	"errors"
	"log/slog"
	"testing"

	"github.com/stretchr/testify/require"
)

// A trap in a test comes with what the module said before it: an SDK that finds a
// mistake says which, and traps.
func TestProbeSaysWhatTheModuleSaid(t *testing.T) {
	h, err := newHost(quiet("probe"), "m@1.0.0", 0)
	require.NoError(t, err)
	h.hears = true
	p := &Probe{op: &Operator{host: h}}
	trap := &guestError{reason: reasonTrap, fatal: true, err: errors.New("unreachable")}
	require.EqualError(t, p.failed(trap), "unreachable")
	h.write(slog.LevelInfo, []byte("begun\n"))
	for _, line := range []string{"the run has no such row\n", "two", "three", "four"} {
		h.write(slog.LevelError, []byte(line))
	}
	err = p.failed(trap)
	require.EqualError(t, err, "unreachable\nthe module says: the run has no such row\ntwo\nthree")
	require.Equal(t, reasonTrap, FailureReason(err))
	require.EqualError(t, p.failed(&guestError{reason: reasonError, err: errors.New("its own reason")}), "its own reason")
}
