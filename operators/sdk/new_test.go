package sdk_test

import (
	"context"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/penstock/penstock/operators/sdk"
	"github.com/penstock/penstock/operators/wasm"
)

func TestNewRefuses(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "x")
	require.ErrorContains(t, sdk.New(dir, "x", "cobol", "map", "v0"), `"cobol": write one of c, rust, assemblyscript, go`)
	require.ErrorContains(t, sdk.New(dir, "x", "c", "filter", "v0"), `"filter": write one of map, emit`)
	require.ErrorContains(t, sdk.New(dir, "My Detector", "c", "map", "v0"), `name "My Detector": write lower-case letters`)
	require.NoDirExists(t, dir)
	require.NoError(t, sdk.New(dir, "x", "c", "map", "v0"))
	require.ErrorContains(t, sdk.New(dir, "x", "c", "map", "v0"), "is not empty")
}

// Nothing of the example's name is left but what it computes.
func TestNewRenames(t *testing.T) {
	for _, lang := range sdk.Languages {
		for _, kind := range sdk.Kinds {
			dir := filepath.Join(t.TempDir(), "bearing-wear")
			require.NoError(t, sdk.New(dir, "bearing-wear", lang, kind, "v0"))
			readme, err := os.ReadFile(filepath.Join(dir, "README.md"))
			require.NoError(t, err)
			require.Contains(t, string(readme), "penstock operator test")
			require.NotContains(t, string(readme), "{{")
			require.NoError(t, filepath.WalkDir(dir, func(name string, d os.DirEntry, err error) error {
				if err != nil || d.IsDir() {
					return err
				}
				b, err := os.ReadFile(name)
				for _, word := range []string{"zscore", "summary", `"example"`} {
					require.NotContains(t, filepath.Base(name), word)
					require.NotContains(t, string(b), word, name)
				}
				return err
			}))
		}
	}
}

func TestBuildSaysWhatIsMissing(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	for lang, says := range map[string]string{"c": "clang is missing: apt-get install clang-16 lld-16", "assemblyscript": "Node.js with npm is missing: apt-get install nodejs npm"} {
		dir := filepath.Join(t.TempDir(), "x")
		require.NoError(t, sdk.New(dir, "x", lang, "map", "v0"))
		_, err := sdk.Build(context.Background(), dir, false, io.Discard)
		require.ErrorContains(t, err, says)
		require.ErrorAs(t, err, new(*sdk.MissingToolchain))
	}
	_, err := sdk.Build(context.Background(), t.TempDir(), false, io.Discard)
	require.ErrorContains(t, err, "has no penstock-operator.yaml: make an operator with penstock operator new")
}

// A command of the author's own replaces the toolchain; what it makes is packed
// and checked all the same.
func TestBuildWithCommand(t *testing.T) {
	made, err := filepath.Abs("../wasm/testdata/empty.wasm")
	require.NoError(t, err)
	manifest, err := os.ReadFile("../wasm/testdata/empty.json")
	require.NoError(t, err)
	dir := t.TempDir()
	write := func(name, text string) {
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644))
	}
	write("manifest.json", string(manifest))
	write(sdk.ProjectFile, "language: zig\noutput: out.wasm\ncommand: [cp, "+made+", \"{output}\"]\n")
	r, err := sdk.Build(context.Background(), dir, false, io.Discard)
	require.NoError(t, err)
	code, err := os.ReadFile(filepath.Join(dir, "out.wasm"))
	require.NoError(t, err)
	info, err := wasm.Inspect(code)
	require.NoError(t, err)
	require.Equal(t, info, r.Info)

	// Digests are of what was just built, not of a module that lies there.
	bare := wasm.Golden{Name: "few", Input: wasm.GoldenInput{Seed: 1, Tags: 1, Rows: 3, Batches: 1}}
	m := info.Manifest
	m.Golden = []wasm.Golden{bare}
	named, err := json.Marshal(m)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(dir, "out.wasm"), []byte("old"), 0o644))
	write("manifest.json", string(named))
	_, err = sdk.Build(context.Background(), dir, false, io.Discard)
	require.ErrorContains(t, err, "golden[0] \"few\" has no digest: `penstock operator build --golden` computes it")
	r, err = sdk.Build(context.Background(), dir, true, io.Discard)
	require.NoError(t, err)
	require.Equal(t, []string{"few"}, r.Golden)
	require.Len(t, r.Info.Manifest.Golden[0].Digest, 64)
	text, err := os.ReadFile(filepath.Join(dir, "manifest.json"))
	require.NoError(t, err)
	require.Contains(t, string(text), `"digest":"`+r.Info.Manifest.Golden[0].Digest+`"`)
	code, err = os.ReadFile(r.Path)
	require.NoError(t, err)
	require.NoError(t, wasm.CheckGolden(code, wasm.EngineWazero, "few"))
	again, err := sdk.Build(context.Background(), dir, true, io.Discard)
	require.NoError(t, err)
	require.Empty(t, again.Golden)
	require.Equal(t, r.Info, again.Info)
	write("manifest.json", strings.Replace(string(named), `,"digest":""`, "", 1))
	_, err = sdk.Build(context.Background(), dir, true, io.Discard)
	require.ErrorContains(t, err, `write "digest": "" in each golden vector`)
	write("manifest.json", string(manifest))

	for text, says := range map[string]string{
		"language: c\noutput: ../x.wasm\n":                                            "write the name of a .wasm file in this folder",
		"language: c\noutput: x.wasm\ncolour: blue\n":                                 "colour",
		"language: zig\noutput: x.wasm\n":                                             `language "zig": write one of c, rust, assemblyscript, go, or a command`,
		"language: zig\noutput: x.wasm\ncommand: [false]\n":                           "false: exit status 1",
		"language: zig\noutput: x.wasm\ncommand: [cp, manifest.json, \"{output}\"]\n": "this is not a WebAssembly core module",
	} {
		write(sdk.ProjectFile, text)
		_, err := sdk.Build(context.Background(), dir, false, io.Discard)
		require.ErrorContains(t, err, says)
	}
}
