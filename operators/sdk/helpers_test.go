package sdk_test

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"io"
	"log/slog"
	"os"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/penstock/penstock/operators/wasm"
	"github.com/penstock/penstock/pipeline"
)

// engines are those that this build has.
var engines = func() []string {
	c := wasm.DefaultConfig()
	c.Module, c.Engine = "ewma", wasm.EngineWasmer
	p := pipeline.NewProblems()
	if c.Validate(p); len(p.All()) > 0 {
		return []string{wasm.EngineWazero}
	}
	return []string{wasm.EngineWasmer, wasm.EngineWazero}
}()

func newLog(w io.Writer) *slog.Logger { return slog.New(slog.NewTextHandler(w, nil)) }

// repack writes the module at from with another manifest to to.
func repack(t *testing.T, from, to string, manifest []byte) {
	code, err := os.ReadFile(from)
	require.NoError(t, err)
	m, err := wasm.ParseManifest(manifest)
	require.NoError(t, err)
	code, err = wasm.Pack(code, m)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(to, code, 0o644))
}

// resized is the snapshot with other bytes of the guest.
func resized(t *testing.T, snapshot, guest []byte) []byte {
	n := binary.LittleEndian.Uint32(snapshot[8:])
	var h map[string]any
	d := json.NewDecoder(bytes.NewReader(snapshot[12 : 12+n]))
	d.UseNumber()
	require.NoError(t, d.Decode(&h))
	h["size"] = len(guest)
	text, err := json.Marshal(h)
	require.NoError(t, err)
	out := binary.LittleEndian.AppendUint32(bytes.Clone(snapshot[:8]), uint32(len(text)))
	return append(append(out, text...), guest...)
}
