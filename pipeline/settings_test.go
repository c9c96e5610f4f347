package pipeline

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestSecretIsNeverPrinted(t *testing.T) {
	type config struct{ Token Secret }
	c := config{"hunter2"}
	var out bytes.Buffer
	log := slog.New(slog.NewTextHandler(&out, nil))
	log.Info("x", "token", c.Token, "config", c, "pointer", &c)
	data, err := json.Marshal(c)
	require.NoError(t, err)
	out.Write(data)
	for _, f := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x"} {
		fmt.Fprintf(&out, f+"\n", c)
		fmt.Fprintf(&out, f+"\n", c.Token)
	}
	fmt.Fprintln(&out, fmt.Errorf("token %s", c.Token))
	require.NotContains(t, out.String(), "hunter2")
	require.NotContains(t, out.String(), fmt.Sprintf("%x", "hunter2"))
	require.Contains(t, out.String(), "***")
	require.Equal(t, "hunter2", string(c.Token))
	require.Equal(t, "", fmt.Sprint(Secret("")), "that none is set may be seen")
}

func TestByteSize(t *testing.T) {
	for in, want := range map[string]ByteSize{"0": 0, "12": 12, "1B": 1, "512KiB": 512 << 10, " 64 MiB ": 64 << 20, "1.5GiB": 3 << 29, "2GB": 2e9, "1kB": 1000, "1KB": 1000, "1TiB": 1 << 40} {
		var b ByteSize
		require.NoError(t, b.UnmarshalText([]byte(in)), in)
		require.Equal(t, want, b, in)
		var again ByteSize
		require.NoError(t, again.UnmarshalText([]byte(b.String())))
		require.Equal(t, b, again, "%s is written as %s", in, b)
	}
	for _, in := range []string{"", "MiB", "-1", "-1MiB", "1 parsec", "1e300", "NaN", "inf", "99999999TiB", "1 MiB 2"} {
		b := ByteSize(7)
		require.ErrorContains(t, b.UnmarshalText([]byte(in)), "64MiB", in)
		require.EqualValues(t, 7, b)
	}
	require.Equal(t, "1536KiB", ByteSize(1536<<10).String())
	require.Equal(t, "1001", ByteSize(1001).String())
}

func TestProblems(t *testing.T) {
	p := NewProblems()
	p.Add("a", "1", "")
	q := p.At("topics").At("[2]")
	q.Add("qos", "2", "h")
	q.At("decode").Add("", "3", "")
	require.Equal(t, []Problem{{"a", "1", ""}, {"topics[2].qos", "2", "h"}, {"topics[2].decode", "3", ""}}, p.All())
}
