package config

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"unicode"
)

// Docs are the doc comments of settings structs and their fields, by
// "import/path.Type" and "import/path.Type.Field".
type Docs map[string]string

// ReadDocs reads the doc comments of all structs in the Go module at root. It
// needs the sources: it is for generating the schema, not for the program.
func ReadDocs(root string) (Docs, error) {
	mod, err := os.ReadFile(filepath.Join(root, "go.mod"))
	if err != nil {
		return nil, fmt.Errorf("read docs: %w", err)
	}
	line, _, _ := strings.Cut(string(mod), "\n")
	module := strings.TrimSpace(strings.TrimPrefix(line, "module"))
	docs := Docs{}
	err = filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name := d.Name()
		if d.IsDir() {
			if p != root && (strings.HasPrefix(name, ".") || strings.HasPrefix(name, "_") || name == "testdata" || name == "node_modules") {
				return filepath.SkipDir
			}
			return nil
		}
		if !strings.HasSuffix(name, ".go") || strings.HasSuffix(name, "_test.go") {
			return nil
		}
		set := token.NewFileSet()
		f, err := parser.ParseFile(set, p, nil, parser.ParseComments|parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		dir, err := filepath.Rel(root, filepath.Dir(p))
		if err != nil {
			return err
		}
		docs.add(path.Join(module, filepath.ToSlash(dir)), set, f)
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read docs: %w", err)
	}
	return docs, nil
}

func (d Docs) add(pkg string, set *token.FileSet, f *ast.File) {
	for _, decl := range f.Decls {
		gen, ok := decl.(*ast.GenDecl)
		if !ok {
			continue
		}
		for _, spec := range gen.Specs {
			ts, ok := spec.(*ast.TypeSpec)
			if !ok {
				continue
			}
			st, ok := ts.Type.(*ast.StructType)
			if !ok {
				continue
			}
			name := pkg + "." + ts.Name.Name
			if doc := ts.Doc; doc != nil {
				d[name] = prose(doc.Text())
			} else if gen.Doc != nil && len(gen.Specs) == 1 {
				d[name] = prose(gen.Doc.Text())
			}
			text, line := "", 0
			for _, field := range st.Fields.List {
				// A field without a comment right below another shares its, if
				// it speaks of both: "Cert and Key are ...".
				below := set.Position(field.Pos()).Line == line+1
				line = set.Position(field.End()).Line
				if field.Doc != nil || !below {
					text = prose(field.Doc.Text())
				}
				for _, n := range field.Names {
					if field.Doc != nil || slices.Contains(strings.FieldsFunc(text, notLetter), n.Name) {
						d[name+"."+n.Name] = text
					}
				}
			}
		}
	}
}

func notLetter(r rune) bool { return !unicode.IsLetter(r) && !unicode.IsDigit(r) }

// prose joins the lines of a comment.
func prose(s string) string { return strings.Join(strings.Fields(s), " ") }

// field returns the description of f. The Go names that a comment begins with
// ("Cert and Key are ...") become YAML keys.
func (d Docs) field(f field) string {
	keys := map[string]string{}
	for _, other := range fieldsOf(f.owner) {
		keys[other.goName] = other.key
	}
	words := strings.Fields(d[typeName(f.owner)+"."+f.goName])
	for i, w := range words {
		name := strings.TrimSuffix(w, ",")
		key, ok := keys[name]
		if !ok && w != "and" {
			break
		}
		if ok {
			words[i] = key + w[len(name):]
		}
	}
	return strings.Join(words, " ")
}

func typeName(t reflect.Type) string { return t.PkgPath() + "." + t.Name() }
