package quickack

import (
	"net"
	"testing"

	"github.com/stretchr/testify/require"
)

// What has no socket is left alone, and a closed one does no harm.
func TestFor(t *testing.T) {
	a, b := net.Pipe()
	For(a)()
	require.NoError(t, a.Close())
	require.NoError(t, b.Close())

	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	c, err := net.Dial("tcp", l.Addr().String())
	require.NoError(t, err)
	quick := For(c)
	quick()
	require.NoError(t, c.Close())
	quick()
}
