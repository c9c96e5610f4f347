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
	"strings"
	"unicode"
	"unicode/utf8"
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
		f, err := parser.ParseFile(token.NewFileSet(), p, nil, parser.ParseComments|parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		dir, err := filepath.Rel(root, filepath.Dir(p))
		if err != nil {
			return err
		}
		docs.add(path.Join(module, filepath.ToSlash(dir)), f)
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read docs: %w", err)
	}
	return docs, nil
}

func (d Docs) add(pkg string, f *ast.File) {
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
			for _, field := range st.Fields.List {
				text := field.Doc.Text()
				if text == "" {
					text = field.Comment.Text()
				}
				for _, n := range field.Names {
					d[name+"."+n.Name] = prose(text)
				}
			}
		}
	}
}

// prose joins the lines of a comment.
func prose(s string) string { return strings.Join(strings.Fields(s), " ") }

// field returns the description of f, without the Go name that a comment
// begins with: the YAML's reader does not know it.
func (d Docs) field(f field) string {
	text := d[typeName(f.owner)+"."+f.goName]
	rest, ok := strings.CutPrefix(text, f.goName+" ")
	if !ok {
		return text
	}
	rest, _ = strings.CutPrefix(rest, "is ")
	first, n := utf8.DecodeRuneInString(rest)
	return string(unicode.ToUpper(first)) + rest[n:]
}

func typeName(t reflect.Type) string { return t.PkgPath() + "." + t.Name() }
