package wasm

import (
	"bytes"
	"crypto/ed25519"
	"fmt"
	"log/slog"
	"os"
	"testing"

	"github.com/apache/arrow/go/v17/arrow/memory"
	"github.com/stretchr/testify/require"

	"github.com/penstock/penstock/operators/modules"
	"github.com/penstock/penstock/operators/wasm/trust"
	"github.com/penstock/penstock/pipeline"
)

func testKey(n byte) ed25519.PrivateKey {
	return ed25519.NewKeyFromSeed(bytes.Repeat([]byte{n}, ed25519.SeedSize))
}

func TestChooseEngine(t *testing.T) {
	ops := trust.PublicKey(testKey(1), "ops")
	shipped, signed, unsigned := trust.Status{Shipped: true}, trust.Status{By: &ops}, trust.Status{}
	stranger := trust.Status{Signatures: []trust.Signature{{Key: ops, Valid: true}}}
	hazard := []string{"function 3 uses i8x16.swizzle"}
	for _, c := range []struct {
		name    string
		native  string
		hazards []string
		st      trust.Status
		want    string // engine: reason
	}{
		{EngineAuto, EngineWasmer, nil, shipped, "wasmer: the module is shipped with Penstock"},
		{EngineAuto, EngineWasmer, nil, signed, "wasmer: the module is signed by " + ops.ID() + " ops"},
		{EngineAuto, EngineWasmer, nil, unsigned, "wazero: the module is not signed, and wasmer is for trusted modules"},
		{EngineAuto, EngineWasmer, nil, stranger, "wazero: the module is signed by no trusted key (but by " + ops.ID() + " ops), and wasmer is for trusted modules"},
		{EngineAuto, EngineWasmer, hazard, signed, "wazero: wasmer gets this module wrong: function 3 uses i8x16.swizzle"},
		{EngineAuto, EngineWasmer, hazard, unsigned, "wazero: the module is not signed, and wasmer is for trusted modules"},
		{EngineAuto, "", nil, shipped, "wazero: it is the only engine of this build"},
		{EngineAuto, "", nil, unsigned, "wazero: it is the only engine of this build"},
		{EngineAuto, EngineWasmtime, nil, shipped, "wasmtime: it is the fastest engine of this build, and for all modules"},
		{EngineAuto, EngineWasmtime, hazard, unsigned, "wasmtime: it is the fastest engine of this build, and for all modules"},

		{EngineWasmer, EngineWasmer, nil, shipped, "wasmer: the config names it; the module is shipped with Penstock"},
		{EngineWasmer, EngineWasmer, nil, signed, "wasmer: the config names it; the module is signed by " + ops.ID() + " ops"},
		{EngineWasmer, EngineWasmer, nil, unsigned, "engine: wasmer is for trusted modules, since its compiler is no security boundary; this one is not signed"},
		{EngineWasmer, EngineWasmer, nil, stranger, "engine: wasmer is for trusted modules, since its compiler is no security boundary; this one is signed by no trusted key"},
		{EngineWasmer, EngineWasmer, hazard, signed, "engine: engine wasmer gets this module wrong: function 3"},
		{EngineWasmer, "", nil, shipped, "engine: this build has no wasmer"},

		{EngineWasmerUntrusted, EngineWasmer, nil, unsigned, "wasmer: the config names it; the module is not signed"},
		{EngineWasmerUntrusted, EngineWasmer, nil, shipped, "wasmer: the config names it; the module is shipped with Penstock"},
		{EngineWasmerUntrusted, EngineWasmer, hazard, unsigned, "engine: engine wasmer gets this module wrong"},
		{EngineWasmerUntrusted, "", nil, unsigned, "engine: this build has no wasmer"},

		{EngineWasmer, EngineWasmtime, nil, shipped, "engine: this build has no wasmer"},
		{EngineWasmerUntrusted, EngineWasmtime, nil, shipped, "engine: this build has no wasmer"},
		{EngineWasmtime, EngineWasmtime, hazard, unsigned, "wasmtime: the config names it"},
		{EngineWasmtime, EngineWasmer, nil, shipped, "engine: this build has no wasmtime"},
		{EngineWasmtime, "", nil, shipped, "engine: this build has no wasmtime"},

		{EngineWazero, EngineWasmer, hazard, unsigned, "wazero: the config names it"},
		{EngineWazero, "", nil, shipped, "wazero: the config names it"},
	} {
		engine, reason, err := chooseEngine(c.name, c.native, c.hazards, c.st)
		got := engine + ": " + reason
		if err != nil {
			got = err.Error()
			require.Empty(t, engine)
			require.Contains(t, got, c.want)
			continue
		}
		require.Equal(t, c.want, got)
	}
}

// What a config and its operator make of a module depends on the keys that the
// pipeline trusts, and on the bytes that are there when it starts.
func TestTrustDecides(t *testing.T) {
	plain := readFile(t, testdata("empty"))
	signed, err := trust.Sign(plain, testKey(1))
	require.NoError(t, err)
	damaged := bytes.Clone(signed)
	damaged[100] ^= 1
	file := t.TempDir() + "/x.wasm"
	trusted := pipeline.Modules{Trust: []pipeline.ModuleKey{trust.PublicKey(testKey(1), "ops")}, Unsigned: pipeline.UnsignedRefuse}
	fast := Engines()[0]
	check := func(module []byte, m pipeline.Modules, engine string) (problems string, chosen Choice, err error) {
		t.Helper()
		require.NoError(t, os.WriteFile(file, module, 0o644))
		cfg := DefaultConfig()
		cfg.Module, cfg.Engine = file, engine
		cfg.UseModules(m)
		p := pipeline.NewProblems()
		cfg.Validate(p)
		if all := p.All(); len(all) > 0 {
			problems = fmt.Sprint(all)
		}
		op, err := New(cfg, pipeline.Env{Name: "op", Log: slog.New(slog.DiscardHandler), Meter: pipeline.NewMeter(), Alloc: memory.DefaultAllocator})
		if err != nil {
			return problems, chosen, err
		}
		defer func() { require.NoError(t, op.Close(t.Context())) }()
		_, eng := op.Module()
		require.Equal(t, op.Choice().Engine, eng)
		return problems, op.Choice(), nil
	}

	problems, c, err := check(signed, trusted, EngineAuto)
	require.NoError(t, err)
	require.Empty(t, problems)
	require.Equal(t, fast, c.Engine)
	require.Equal(t, "ops", c.Trust.By.Name)

	problems, c, err = check(signed, pipeline.Modules{}, EngineAuto)
	require.NoError(t, err)
	require.Empty(t, problems)
	if fast == EngineWasmtime { // for strangers' modules too
		require.Equal(t, EngineWasmtime, c.Engine)
	} else {
		require.Equal(t, EngineWazero, c.Engine)
	}
	if fast == EngineWasmer {
		require.Contains(t, c.Reason, "signed by no trusted key")
	}
	require.False(t, c.Trust.Trusted())

	problems, _, err = check(plain, trusted, EngineAuto)
	require.ErrorContains(t, err, "modules.unsigned is refuse")
	require.Equal(t, "[{module the module is not signed, and modules.unsigned is refuse have it signed (penstock operator sign) by a key in modules.trust, or list the key of who signed it}]", problems)
	// No engine gets around the policy.
	for _, e := range []string{EngineWazero, EngineWasmer, EngineWasmerUntrusted} {
		_, _, err = check(plain, trusted, e)
		require.ErrorContains(t, err, "modules.unsigned is refuse", e)
	}
	for _, m := range []pipeline.Modules{{}, trusted} {
		problems, _, err = check(damaged, m, EngineWazero)
		require.Error(t, err)
		require.Contains(t, problems, "{module ")
	}
	if fast == EngineWasmer {
		problems, _, err = check(plain, pipeline.Modules{}, EngineWasmer)
		require.ErrorContains(t, err, "no security boundary")
		require.Contains(t, problems, "{engine wasmer is for trusted modules")
		_, c, err = check(plain, pipeline.Modules{}, EngineWasmerUntrusted)
		require.NoError(t, err)
		require.Equal(t, EngineWasmer, c.Engine)
	}

	for _, name := range modules.Names() {
		cfg := DefaultConfig()
		cfg.Module = name
		c, err := cfg.Choose()
		require.NoError(t, err)
		require.Equal(t, fast, c.Engine, name)
		wasm, _ := modules.Get(name)
		ok, err := cfg.Trusted(wasm)
		require.NoError(t, err)
		require.True(t, ok, name)
	}
}

// Packing drops signatures: they would not hold.
func TestPackDropsSignatures(t *testing.T) {
	plain := readFile(t, testdata("empty"))
	signed, err := trust.Sign(plain, testKey(1))
	require.NoError(t, err)
	info, err := Inspect(signed)
	require.NoError(t, err)
	require.Len(t, info.Signatures, 1)
	was, err := Inspect(plain)
	require.NoError(t, err)
	require.NotEqual(t, was.Digest, info.Digest, "the digest is that of the whole file")
	m := info.Manifest
	m.Doc = "another"
	packed, err := Pack(signed, m)
	require.NoError(t, err)
	info, err = Inspect(packed)
	require.NoError(t, err)
	require.Empty(t, info.Signatures)
}
