// Package sdk makes and builds WebAssembly operators in C, Rust, AssemblyScript
// and Go. The SDKs and the examples that a new operator begins as are embedded,
// so a new folder needs nothing from the network but AssemblyScript's compiler.
package sdk

import (
	"bytes"
	"embed"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"text/template"

	"github.com/goccy/go-yaml"

	"github.com/penstock/penstock/operators/wasm"
)

//go:embed c/*.h c/*/*.c
//go:embed rust/Cargo.toml rust/src/*.rs rust/*/src/lib.rs rust/project/Cargo.toml
//go:embed assemblyscript/*.ts assemblyscript/*/operator.ts assemblyscript/project/*.json
//go:embed go/*.go go/*/main.go
//go:embed template/*.json template/README.md
var files embed.FS

// Languages are those that an operator can be written in.
var Languages = []string{"c", "rust", "assemblyscript", "go"}

// Kinds are those that an operator can be of, the usual one first.
var Kinds = []string{wasm.KindMap, wasm.KindEmit}

// example is the operator that a new one begins as, and what its README says.
type example struct {
	name          string
	About, Params string
}

var examples = map[string]example{
	wasm.KindMap:  {"zscore", "a rolling z-score for each tag", "{alpha: 0.05, threshold: 4}"},
	wasm.KindEmit: {"summary", "count, mean, least and greatest reading of each tag in each window of time", "{window: 1m, high: 80}"},
}

// project is the folder of what all examples in a language share; in it, they
// are called that.
const project, projectName = "project", "example"

// language says where the files of a language go, and what its README says.
type language struct {
	Title, Source, SDK, Docs, Install string
	ignore                            []string
	extra                             map[string]string // files that are in no folder of the SDK
}

var languages = map[string]language{
	"c": {
		Title: "C", Source: "{{.Name}}.c", SDK: "sdk", Docs: "Read the top of `sdk/penstock_operator.h`.", Install: "# " + installC,
	},
	"rust": {
		Title: "Rust", Source: "src/lib.rs", SDK: "sdk", Docs: "Read `sdk/src/lib.rs`.", Install: "# " + installRust, ignore: []string{"/target/"},
	},
	"assemblyscript": {
		Title: "AssemblyScript", Source: "operator.ts", SDK: "sdk", Docs: "Read the top of `sdk/penstock.ts`.", Install: "# " + installNode, ignore: []string{"/node_modules/"},
	},
	"go": {
		Title: "Go", Source: "main.go", SDK: "penstock", Docs: "Read `penstock/operator.go`; for an editor set GOOS=wasip1 GOARCH=wasm.", Install: "# " + installGo,
		extra: map[string]string{"go.mod": "module {{.Module}}\n\ngo 1.24\n"},
	},
}

// goImport is how the example in Go names the SDK; a new operator has it in its
// own module.
const goImport = `penstock "github.com/penstock/penstock/operators/sdk/go"`

// New writes a new operator called name into dir, which must be empty or not be
// there yet. Version is that of the program, for the record.
func New(dir, name, lang, kind, version string) error {
	l, ok := languages[lang]
	if !ok {
		return fmt.Errorf("--lang %q: write one of %s", lang, strings.Join(Languages, ", "))
	}
	ex, ok := examples[kind]
	if !ok {
		return fmt.Errorf("--kind %q: write one of %s", kind, strings.Join(Kinds, ", "))
	}
	manifest, err := newManifest(name, ex)
	if err != nil {
		return err
	}
	if lang == "rust" && name == "penstock-operator" {
		return fmt.Errorf("%q is what the SDK itself is called: take another name", name)
	}
	if had, err := os.ReadDir(dir); err == nil && len(had) > 0 {
		return fmt.Errorf("%s is not empty: take another name, or remove it", dir)
	}
	data := struct {
		language
		example
		Name, Module string
	}{l, ex, name, "penstock.local/" + name}
	fill := func(text string) (string, error) {
		t, err := template.New("").Parse(text)
		if err != nil {
			return "", err
		}
		var b strings.Builder
		err = t.Execute(&b, data)
		return b.String(), err
	}
	if data.Source, err = fill(l.Source); err != nil {
		return err
	}
	out := map[string]string{
		"manifest.json": manifest,
		".gitignore":    strings.Join(append(l.ignore, ""), "\n"),
		ProjectFile:     projectText(lang, name, version),
	}
	readme, err := files.ReadFile("template/README.md")
	if err != nil {
		return err
	}
	if out["README.md"], err = fill(string(readme)); err != nil {
		return err
	}
	for file, text := range l.extra {
		if out[file], err = fill(text); err != nil {
			return err
		}
	}
	err = fs.WalkDir(files, lang, func(from string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := files.ReadFile(from)
		if err != nil {
			return err
		}
		rel := strings.TrimPrefix(from, lang+"/")
		folder, inner, _ := strings.Cut(rel, "/")
		switch folder {
		case ex.name:
			text := strings.ReplaceAll(string(b), goImport, `"`+data.Module+`/penstock"`)
			out[strings.ReplaceAll(inner, ex.name, name)] = strings.ReplaceAll(text, ex.name, name)
		case project:
			out[inner] = strings.ReplaceAll(string(b), projectName, name)
		default:
			if !isExample(folder) {
				out[path.Join(l.SDK, rel)] = string(b)
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	for file, text := range out {
		if text == "" {
			continue
		}
		at := filepath.Join(dir, filepath.FromSlash(file))
		if err := os.MkdirAll(filepath.Dir(at), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(at, []byte(text), 0o644); err != nil {
			return err
		}
	}
	return nil
}

func isExample(folder string) bool {
	for _, ex := range examples {
		if ex.name == folder {
			return true
		}
	}
	return false
}

// newManifest is the example's manifest under another name.
func newManifest(name string, ex example) (string, error) {
	b, err := files.ReadFile("template/" + ex.name + ".json")
	if err != nil {
		return "", err
	}
	text := strings.Replace(string(b), `"name": "`+ex.name+`"`, `"name": `+quoted(name), 1)
	if _, err := wasm.ParseManifest([]byte(text)); err != nil {
		return "", err
	}
	return text, nil
}

func quoted(s string) string {
	b, _ := json.Marshal(s)
	return string(b)
}

// ProjectFile says how an operator is built; it lies beside its manifest.json.
const ProjectFile = "penstock-operator.yaml"

// Project is what ProjectFile says.
type Project struct {
	// Language is c, rust, assemblyscript or go.
	Language string `yaml:"language"`
	// Output is the module that is built, within the folder.
	Output string `yaml:"output"`
	// Command, if there is one, is run in the folder instead of the language's
	// toolchain; {output} in it is the path that it must write the module to.
	Command []string `yaml:"command,omitempty"`
	// SDK is the version of the program that the SDK came with.
	SDK string `yaml:"sdk,omitempty"`
}

func projectText(lang, name, version string) string {
	return fmt.Sprintf(`# How penstock operator build makes the module.
language: %s
output: %s.wasm
sdk: %s   # the version of Penstock that the SDK in this folder came with
# command: [make, "{output}"]   # runs instead of the language's own toolchain
`, lang, name, quoted(version))
}

const maxProjectFile = 64 << 10

func readProject(dir string) (Project, error) {
	var p Project
	b, err := readLimited(filepath.Join(dir, ProjectFile), maxProjectFile)
	if errors.Is(err, fs.ErrNotExist) {
		return p, fmt.Errorf("%s has no %s: make an operator with penstock operator new", dir, ProjectFile)
	}
	if err != nil {
		return p, err
	}
	if err := yaml.NewDecoder(bytes.NewReader(b), yaml.Strict()).Decode(&p); err != nil {
		return p, fmt.Errorf("%s: %w", ProjectFile, err)
	}
	if _, ok := languages[p.Language]; !ok && len(p.Command) == 0 {
		return p, fmt.Errorf("%s: language %q: write one of %s, or a command", ProjectFile, p.Language, strings.Join(Languages, ", "))
	}
	if !filepath.IsLocal(p.Output) || filepath.Ext(p.Output) != ".wasm" {
		return p, fmt.Errorf("%s: output %q: write the name of a .wasm file in this folder", ProjectFile, p.Output)
	}
	return p, nil
}
