package binfmt

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// Numbers are read as the format has them: no bit beyond those of the type.
func TestNumbers(t *testing.T) {
	for _, c := range []struct {
		bytes  string
		bits   int
		signed bool
		ok     bool
	}{
		{"\x00", 32, false, true},
		{"\xff\xff\xff\xff\x0f", 32, false, true},
		{"\x80\x80\x80\x80\x00", 32, false, true}, // longer than it need be
		{"\xff\xff\xff\xff\x1f", 32, false, false},
		{"\x80\x80\x80\x80\x80\x00", 32, false, false},
		{"\x80", 32, false, false},
		{"\xff\xff\xff\xff\x07", 32, true, true},
		{"\x80\x80\x80\x80\x78", 32, true, true},
		{"\xff\xff\xff\xff\x7f", 32, true, true},
		{"\x80\x80\x80\x80\x70", 32, true, false},
		{"\xff\xff\xff\xff\x0f", 32, true, false},
		{"\xff\xff\xff\xff\xff\x7f", 32, true, false},
		{"\x80\x80\x80\x80\x80\x80\x80\x80\x80\x7f", 64, true, true},
		{"\xff\xff\xff\xff\xff\xff\xff\xff\xff\x00", 64, true, true},
		{"\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", 64, true, false},
		{"\x80\x80\x80\x80\x80\x80\x80\x80\x80\x7e", 64, true, false},
	} {
		r := reader{b: []byte(c.bytes)}
		r.leb(c.bits, c.signed)
		require.Equal(t, c.ok, r.err == nil, "%x", c.bytes)
	}
}
