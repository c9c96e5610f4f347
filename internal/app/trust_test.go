package app

import (
	"bytes"
	"crypto/ed25519"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/penstock/penstock/operators/modules"
	"github.com/penstock/penstock/operators/wasm"
	"github.com/penstock/penstock/operators/wasm/trust"
)

// foreignModule is a module that works like ewma, but is not the one that is
// shipped.
func foreignModule(t *testing.T) []byte {
	t.Helper()
	code, ok := modules.Get("ewma")
	require.True(t, ok)
	m, err := wasm.ReadManifest(code)
	require.NoError(t, err)
	m.Name, m.Doc = "mine", "a module of somebody's own"
	code, err = wasm.Pack(code, m)
	require.NoError(t, err)
	return code
}

// The section `modules` decides what runs where; what may not run is an error
// with its place, and the log says at the start what was chosen and why.
func TestModuleTrust(t *testing.T) {
	dir := t.TempDir()
	key, err := trust.GenerateKey()
	require.NoError(t, err)
	_, err = trust.WriteKey(filepath.Join(dir, "ops"), key)
	require.NoError(t, err)
	stranger, err := trust.GenerateKey()
	require.NoError(t, err)
	write := func(name string, keys ...ed25519.PrivateKey) []byte {
		module := foreignModule(t)
		for _, k := range keys {
			module, err = trust.Sign(module, k)
			require.NoError(t, err)
		}
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), module, 0o644))
		return module
	}
	write("unsigned.wasm")
	write("strange.wasm", stranger)
	signed := write("signed.wasm", key, stranger)
	signed[bytes.Index(signed, []byte("somebody"))] ^= 4
	require.NoError(t, os.WriteFile(filepath.Join(dir, "damaged.wasm"), signed, 0o644))
	write("signed.wasm", key, stranger)
	require.NoError(t, os.WriteFile(filepath.Join(dir, "in.csv"), []byte("time,tag,value\n2024-05-01T00:00:00Z,a/b,1\n"), 0o644))

	pipeline := func(section, operator string) string {
		return fmt.Sprintf(`version: 1
name: t
journal: {dir: %[1]s/data}
http: {listen: ""}
%[2]s
sources:
  - {name: in, type: replay, path: "%[1]s/in.csv"}
operators:
  - {name: score, type: wasm, inputs: [in], %[3]s}
sinks:
  - {name: files, type: archive, inputs: [score], dir: %[1]s/out}
`, dir, section, strings.ReplaceAll(operator, "DIR", dir))
	}
	load := func(section, operator string) string {
		file := filepath.Join(dir, "p.yaml")
		require.NoError(t, os.WriteFile(file, []byte(pipeline(section, operator)), 0o644))
		_, _, err := Load(t.Context(), file)
		if err == nil {
			return ""
		}
		return strings.ReplaceAll(err.Error(), dir+"/", "")
	}
	const trusting = `modules: {trust: ["${file:ops.pub}"]}`
	const strict = `modules: {trust: ["${file:ops.pub}"], unsigned: refuse}`

	for _, section := range []string{"", trusting, strict} {
		require.Empty(t, load(section, "module: ewma"), section)
	}
	require.Empty(t, load("", "module: DIR/unsigned.wasm"))
	require.Empty(t, load(strict, "module: DIR/signed.wasm"))
	require.Equal(t, `p.yaml:9:53: operators[0].module: the module is not signed, and modules.unsigned is refuse; have it signed (penstock operator sign) by a key in modules.trust, or list the key of who signed it`,
		load(strict, "module: DIR/unsigned.wasm"))
	require.Regexp(t, `^p.yaml:9:53: operators\[0\].module: the module is signed by no trusted key \(but by ed25519:.*=\), and modules.unsigned is refuse; `,
		load(strict, "module: DIR/strange.wasm"))
	require.Regexp(t, `^p.yaml:9:53: operators\[0\].module: the signature of ed25519:.*= does not hold: the module, or the signature, was changed after signing`,
		load("", "module: DIR/damaged.wasm"))
	require.Equal(t, `p.yaml:5:19: modules.trust[0]: this is a private key, which only signing needs: write the public one, from the .pub file that was made with it`,
		load(`modules: {trust: ["${file:ops.key}"]}`, "module: ewma"))
	require.Equal(t, `p.yaml:5:38: modules.trust[1]: this key is trust[0] already; remove one of the two`,
		load(`modules: {trust: ["${file:ops.pub}", "${file:ops.pub}"]}`, "module: ewma"))
	require.Contains(t, load(`modules: {unsigned: no-way}`, "module: ewma"), `p.yaml:5:21: modules.unsigned: "no-way" is not a value of this key; `)
	probe := wasm.DefaultConfig()
	probe.Module = "ewma"
	fast, err := probe.Choose()
	require.NoError(t, err)
	if fast.Engine == wasm.EngineWasmer {
		require.Regexp(t, `^p.yaml:9:\d+: operators\[0\].engine: wasmer is for trusted modules, since its compiler is no security boundary; this one is not signed; write auto`,
			load(trusting, "module: DIR/unsigned.wasm, engine: wasmer"))
		require.Empty(t, load(trusting, "module: DIR/unsigned.wasm, engine: wasmer-untrusted"))
		require.Empty(t, load(trusting, "module: DIR/signed.wasm, engine: wasmer"))
	}

	foreign := "engine=" + fast.Engine + ` reason="`
	if fast.Engine == wasm.EngineWasmer {
		foreign = `engine=wazero reason="the module is not signed, and wasmer is for trusted modules"`
	}
	for operator, says := range map[string]string{
		"module: DIR/unsigned.wasm": foreign,
		"module: DIR/signed.wasm":   `engine=` + fast.Engine + ` reason="`,
	} {
		yaml := strings.Replace(pipeline(strings.Replace(trusting, "ops.pub", dir+"/ops.pub", 1), operator), "journal: {", "journal: {shards: 3, ", 1)
		a, b := startApp(t, yaml)
		<-a.Done()
		stopApp(t, a)
		log := b.log.String()
		require.Equal(t, 1, strings.Count(log, "engine chosen"), log)
		require.Contains(t, log, `msg="engine chosen" component=score module=mine@`)
		require.Contains(t, log, says)
		require.NoError(t, os.RemoveAll(filepath.Join(dir, "data")))
	}
}
