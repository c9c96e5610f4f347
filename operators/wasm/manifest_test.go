package wasm

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/penstock/penstock/operators/wasm/binfmt"
	"github.com/penstock/penstock/pipeline"
)

func TestPack(t *testing.T) {
	wasm := readFile(t, testdata("probe"))
	m, err := ReadManifest(wasm)
	require.NoError(t, err)
	require.Equal(t, "probe", m.Name)

	m.Version = "9.9.9"
	packed, err := Pack(wasm, m)
	require.NoError(t, err)
	again, err := ReadManifest(packed)
	require.NoError(t, err)
	require.Equal(t, m, again)
	require.Len(t, packed, len(wasm)) // replaced, not added
	require.Equal(t, 1, strings.Count(string(packed), manifestSection))

	m.Version = ""
	_, err = Pack(wasm, m)
	require.ErrorContains(t, err, `version "": write a semantic version`)
	_, err = Pack([]byte("(module)"), again)
	require.ErrorContains(t, err, "not a WebAssembly core module")
	_, err = ReadManifest(binfmt.Magic)
	require.ErrorContains(t, err, "has no manifest")
}

const goodManifest = `{"name":"x","version":"1.0.0","abi":1,"kind":"map","doc":"d",
	"params":[{"name":"p","type":"float","doc":"d"}],
	"input":[{"name":"value","type":"float64","nullable":true}],"output":[{"name":"y","type":"float64"}]}`

func TestManifestIsStrict(t *testing.T) {
	_, err := ParseManifest([]byte(goodManifest))
	require.NoError(t, err)
	for _, c := range []struct{ old, new, says string }{
		{`"doc":"d",`, `"docs":"d",`, `unknown field "docs"`},
		{`"abi":1`, `"abi":"1"`, "line 1: abi cannot be a JSON string"},
		{`"abi":1`, `"abi":1,`, "line 1: invalid character ','"},
		{`"name":"x"`, `"name":"X y"`, `name "X y"`},
		{`"abi":1`, `"abi":2`, "abi 2: this Penstock speaks ABI 1"},
		{`"kind":"map"`, `"kind":"filter"`, `kind "filter": write map or emit`},
		{`"type":"float",`, `"type":"double",`, `type "double": write one of float, int, bool, duration, enum, string`},
		{`"type":"float",`, `"type":"enum",`, "enum has 0 values"},
		{`"type":"float",`, `"type":"enum","enum":["a","a"],`, `enum value "a" is empty, too long, or there twice`},
		{`"type":"float",`, `"type":"enum","enum":["a"],"default":"b",`, "default: b is not one of a"},
		{`"type":"float",`, `"type":"float","enum":["a"],`, "enum is for type enum only"},
		{`"type":"float",`, `"type":"float","min":3,"max":2,`, "min 3 is above max 2"},
		{`"type":"float",`, `"type":"float","min":3,"default":2,`, "default: 2 is below the minimum of 3"},
		{`"type":"float",`, `"type":"duration","default":30,`, "default: 30 is not a duration such as"},
		{`"type":"float",`, `"type":"int","default":1.5,`, "1.5 is not a whole number"},
		{`"type":"float",`, `"type":"bool","min":1,`, "min and max make no sense for type bool"},
		{`"params":[`, `"params":[{"name":"p","type":"int","doc":""},`, `the name "p" comes twice`},
		{`"output":[`, `"output":[{"name":"y","type":"bool"},`, `the name "y" comes twice`},
		{`"type":"float64"}`, `"type":"float32"}`, `type "float32": write one of timestamp, tag`},
		{`"type":"float64"}`, `"type":"tag"}`, "a map module adds columns to the input's rows"},
		{`"type":"float64","nullable":true}]`, `"type":"tag","nullable":true}]`, "a tag is never null"},
		{`[{"name":"value","type":"float64","nullable":true}]`, `[]`, "input has 0 columns"},
		{`"output":[{"name":"y","type":"float64"}]}`, `"output":[{"name":"y","type":"float64"}],"limits":{"memory_pages":65537}}`, "memory_pages 65537"},
		{`"output":[{"name":"y","type":"float64"}]}`, `"output":[{"name":"y","type":"float64"}]}{}`, "more than one JSON value"},
		{`"doc":"d",`, `"doc":"` + strings.Repeat("d", 5000) + `",`, "doc has 5000 bytes"},
		{`"doc":"d",`, `"doc":"` + strings.Repeat("d", 70000) + `",`, "the limit is 65536"},
	} {
		text := strings.Replace(goodManifest, c.old, c.new, 1)
		require.NotEqual(t, goodManifest, text, c.old)
		_, err := ParseManifest([]byte(text))
		require.ErrorContains(t, err, c.says)
	}
}

func TestValidateConfig(t *testing.T) {
	for _, c := range []struct {
		set              func(*Config)
		path, says, hint string
	}{
		{func(c *Config) { c.Engine = "wasmr" }, "engine", `"wasmr" is not known`, "did you mean wasmer?"},
		{func(c *Config) { c.OnError = "ignore" }, "on_error", `"ignore" is not known`, "write one of pass, drop, stop"},
		{func(c *Config) { c.Memory = 1 }, "memory", "1 is out of range", "64KiB to 4GiB"},
		{func(c *Config) { c.Prefix = "9" }, "prefix", `"9" cannot begin`, "slow_"},
		{func(c *Config) { c.Module = "" }, "module", "is missing", "a path to a .wasm file"},
		{func(c *Config) { c.Module = "ewm" }, "module", `there is no shipped module "ewm": did you mean ewma?`, "ewma"},
		{func(c *Config) { c.Module = "no/such.wasm" }, "module", "no such file", "a path to a .wasm file"},
		{func(c *Config) { c.Module = "testdata/" }, "module", "is not a file", ""},
		{func(c *Config) { c.Module = "testdata/build.sh" }, "module", "not a WebAssembly core module", ""},
		{params("labl", "x"), "params.labl", "has no such parameter", "did you mean label? its parameters are mode, scale, label"},
		{params("scale", "2h"), "params.scale", "2h is above the maximum of 1h s", "write a duration such as 30s from 1ms to 1h; the default is 1s"},
		{params("scale", 5), "params.scale", "5 is not a duration", "write a duration"},
		{params("mode", "idntity"), "params.mode", "idntity is not one of identity", "write one of identity"},
		{params("label", true), "params.label", "true is not a text", "write a text"},
	} {
		cfg := DefaultConfig()
		cfg.Module = testdata("probe")
		c.set(&cfg)
		p := pipeline.NewProblems()
		cfg.Validate(p)
		require.Len(t, p.All(), 1, "%+v", cfg)
		got := p.All()[0]
		require.Equal(t, c.path, got.Path)
		require.Contains(t, got.Message, c.says)
		require.Contains(t, got.Hint, c.hint)
	}

	// All at once, and a parameter without default.
	cfg := DefaultConfig()
	cfg.Module, cfg.Engine, cfg.Params = "rul", "x", map[string]any{"a": 1, "b": 2}
	p := pipeline.NewProblems()
	cfg.Validate(p)
	var paths []string
	for _, x := range p.All() {
		paths = append(paths, x.Path)
	}
	require.Equal(t, []string{"engine", "params.a", "params.b", "params.limit"}, paths)
}

func TestParamValues(t *testing.T) {
	m, err := ParseManifest([]byte(`{"name":"x","version":"1.0.0","abi":1,"kind":"map","doc":"","params":[
		{"name":"f","type":"float","default":1.5,"doc":""},{"name":"i","type":"int","default":2,"doc":""},{"name":"b","type":"bool","default":true,"doc":""},
		{"name":"d","type":"duration","default":"1m30s","doc":""},{"name":"e","type":"enum","enum":["a","b"],"default":"b","doc":""},{"name":"s","type":"string","default":"t","doc":""}],
		"input":[{"name":"value","type":"float64"}],"output":[{"name":"y","type":"float64"}]}`))
	require.NoError(t, err)
	values := func(v map[string]any) []paramValue {
		out, err := m.values(v)
		require.NoError(t, err)
		return out
	}
	require.Equal(t, []paramValue{{num: 1.5}, {num: 2}, {num: 1}, {num: 90}, {num: 1}, {text: "t", isText: true}}, values(nil))
	require.Equal(t, []paramValue{{num: 3}, {num: 7}, {num: 0}, {num: 0.5}, {num: 0}, {text: "", isText: true}},
		values(map[string]any{"f": uint64(3), "i": int64(7), "b": false, "d": "500ms", "e": "a", "s": ""}))
	text, err := json.Marshal(m)
	require.NoError(t, err)
	again, err := ParseManifest(text)
	require.NoError(t, err)
	require.Equal(t, m, again)
}

func TestInspect(t *testing.T) {
	info, err := Inspect(readFile(t, testdata("tally")))
	require.NoError(t, err)
	require.Equal(t, "tally", info.Manifest.Name)
	require.Contains(t, info.Imports, "wasi_snapshot_preview1.clock_time_get (i32 i64 i32) -> (i32)")
	require.Contains(t, info.Exports, "penstock_advance (i64 i32) -> (i32)")
	require.Equal(t, uint64(2), info.MemoryMin)
	require.Equal(t, uint64(binfmt.MaxPages), info.MemoryMax)
	require.Len(t, info.Digest, 64)
}

// Every truncation and every flipped byte of the outline is an error or a
// module, never a panic.
func TestParseDamaged(t *testing.T) {
	wasm := readFile(t, testdata("tally"))
	for n := range wasm {
		if n%7 == 0 || n < 800 {
			_, _ = Inspect(wasm[:n])
			b := append([]byte(nil), wasm...)
			b[n] ^= 0xff
			_, _ = Inspect(b)
		}
	}
	_, err := Inspect(make([]byte, MaxModuleSize+1))
	require.ErrorContains(t, err, "the limit is 16777216")
}
