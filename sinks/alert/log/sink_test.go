package log

import (
	"bytes"
	"context"
	"log/slog"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/penstock/penstock/internal/alerttest"
	"github.com/penstock/penstock/internal/optest"
	"github.com/penstock/penstock/pipeline"
)

func TestLines(t *testing.T) {
	env := optest.Env(t)
	var b bytes.Buffer
	env.Log = slog.New(slog.NewTextHandler(&b, nil))
	s, err := New(DefaultConfig(), env)
	require.NoError(t, err)
	require.NoError(t, s.Connect(context.Background()))
	rec := alerttest.Record(t, env, "hall/pump1/temperature", 81.5, 20)
	defer rec.Release()
	require.NoError(t, s.Write(context.Background(), rec))
	lines := strings.Split(strings.TrimSpace(b.String()), "\n")
	require.Len(t, lines, 2)
	require.Contains(t, lines[0], `level=ERROR msg="alert: hall/pump1/temperature is 81.5, above 80" state=raised rule=hot asset=hall/pump1 tag=hall/pump1/temperature severity=critical id=`)
	require.Contains(t, lines[0], "value=81.5")
	require.Contains(t, lines[1], `level=INFO msg="alert: hall/pump1/temperature is back to normal: 20" state=cleared`)

	other := optest.Readings(env.Alloc, []optest.Row{{Tag: "a", T: 1, V: 1}})
	defer other.Release()
	require.True(t, pipeline.IsPermanent(s.Write(context.Background(), other)))
	require.NoError(t, s.Close(context.Background()))
}
