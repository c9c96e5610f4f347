package cli

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/penstock/penstock/operators/modules"
	"github.com/penstock/penstock/operators/wasm"
)

// penstockOperator runs `penstock operator args...`.
func penstockOperator(args ...string) (string, error) {
	var out bytes.Buffer
	c := operatorCommand()
	c.SetArgs(args)
	c.SetOut(&out)
	c.SilenceErrors, c.SilenceUsage = true, true
	err := c.Execute()
	return out.String(), err
}

// From a key to a module that is trusted, as the README tells it.
func TestSignAndVerify(t *testing.T) {
	t.Chdir(t.TempDir())
	code, _ := modules.Get("ewma")
	m, err := wasm.ReadManifest(code)
	require.NoError(t, err)
	m.Name = "mine"
	code, err = wasm.Pack(code, m)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile("mine.wasm", code, 0o644))
	run := func(args ...string) string {
		t.Helper()
		out, err := penstockOperator(args...)
		require.NoError(t, err)
		return out
	}
	fails := func(says string, args ...string) {
		t.Helper()
		_, err := penstockOperator(args...)
		require.ErrorContains(t, err, says)
	}

	require.Contains(t, run("keygen", "ops"), "ops.key  keep it secret\nops.pub  ed25519:")
	fails("ops.key exists already", "keygen", "ops")
	run("keygen", "lab")

	fails("mine.wasm is not trusted: it is not signed", "verify", "mine.wasm", "--trust", "ops.pub")
	require.Contains(t, run("sign", "mine.wasm", "--key", "lab.key", "-o", "lab.wasm"), "lab.wasm: mine@")
	fails("it is signed by no trusted key", "verify", "lab.wasm", "--trust", "ops.pub")
	fails("it is signed by no trusted key", "verify", "lab.wasm")
	require.Contains(t, run("sign", "lab.wasm", "--key", "ops.key"), "2 signature(s), sha256 ")
	out := run("verify", "lab.wasm", "--trust", "ops.pub")
	require.Equal(t, 2, strings.Count(out, "valid    ed25519:"))
	require.Regexp(t, `trusted: lab.wasm is signed by ed25519:.* ops\n$`, out)
	require.Contains(t, run("verify", "ewma"), "trusted: ewma is shipped with Penstock")

	var info struct {
		Digest, Trust, Engine, Reason string
		Signatures                    []struct {
			Key   string
			Valid bool
		}
	}
	require.NoError(t, json.Unmarshal([]byte(run("inspect", "lab.wasm")), &info))
	require.Len(t, info.Signatures, 2)
	require.True(t, info.Signatures[0].Valid && info.Signatures[1].Valid)
	require.Equal(t, wasm.EngineWazero, info.Engine)
	require.Contains(t, info.Reason, "signed by no trusted key")
	require.NoError(t, json.Unmarshal([]byte(run("inspect", "lab.wasm", "--trust", "ops.pub")), &info))
	require.Regexp(t, `^signed by ed25519:.* ops$`, info.Trust)

	signed, err := os.ReadFile("lab.wasm")
	require.NoError(t, err)
	at := bytes.Index(signed, []byte("Exponentially weighted")) // in the manifest; elsewhere another check may see it first
	require.Positive(t, at)
	signed[at] = 'e'
	require.NoError(t, os.WriteFile("bad.wasm", signed, 0o644))
	out, err = penstockOperator("verify", "bad.wasm", "--trust", "ops.pub")
	require.ErrorContains(t, err, "does not hold")
	require.Equal(t, 2, strings.Count(out, "INVALID  ed25519:"))
	fails("does not hold", "inspect", "bad.wasm")
	fails("--strip removes", "sign", "bad.wasm", "--key", "ops.key")
	run("sign", "lab.wasm", "--strip", "-o", "plain.wasm")
	plain, err := os.ReadFile("plain.wasm")
	require.NoError(t, err)
	require.Equal(t, code, plain)

	fails("--key is missing", "sign", "mine.wasm")
	fails("is a built-in module: write -o FILE", "sign", "ewma", "--key", "ops.key")
	fails("this is a private key", "verify", "mine.wasm", "--trust", "ops.key")
	fails("holds no private key", "sign", "mine.wasm", "--key", "ops.pub")
	left, err := filepath.Glob(".penstock-*")
	require.NoError(t, err)
	require.Empty(t, left)
}

// validate -v says what runs where.
func TestValidateSaysTheEngine(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "p.yaml")
	require.NoError(t, os.WriteFile(filepath.Join(dir, "in.csv"), []byte("time,tag,value\n"), 0o644))
	require.NoError(t, os.WriteFile(file, []byte(`version: 1
name: t
sources: [{name: in, type: replay, path: "`+dir+`/in.csv"}]
operators: [{name: score, type: wasm, inputs: [in], module: ewma, engine: wazero}]
sinks: [{name: out, type: console, inputs: [score]}]
`), 0o644))
	var out bytes.Buffer
	c := validateCommand()
	c.SetArgs([]string{"-v", file})
	c.SetOut(&out)
	require.NoError(t, c.Execute())
	require.Contains(t, out.String(), "score: module ewma runs on wazero: the config names it\n")
}
