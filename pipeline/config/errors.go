package config

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"github.com/penstock/penstock/pipeline"
)

// Error is one thing that is wrong with a config. No secret is ever in it.
type Error struct {
	File         string
	Line, Column int    // from 1; 0 when the error is about the whole file
	Path         string // YAML path, such as "sources[0].topics[2].qos"
	Message      string
	Hint         string // what to write instead
}

// Error returns "file:line:column: path: message; hint".
func (e Error) Error() string {
	var b strings.Builder
	b.WriteString(e.File)
	if e.Line > 0 {
		fmt.Fprintf(&b, ":%d:%d", e.Line, e.Column)
	}
	b.WriteString(": ")
	if e.Path != "" {
		b.WriteString(e.Path + ": ")
	}
	b.WriteString(e.Message)
	if e.Hint != "" {
		b.WriteString("; " + e.Hint)
	}
	return b.String()
}

// Errors is everything that is wrong with a config, in the order of the file.
type Errors []Error

// Error returns one error a line.
func (e Errors) Error() string {
	lines := make([]string, len(e))
	for i := range e {
		lines[i] = e[i].Error()
	}
	return strings.Join(lines, "\n")
}

// Sort puts the errors in the order of the file.
func (e Errors) Sort() {
	slices.SortStableFunc(e, func(a, b Error) int {
		return cmp.Or(cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column), cmp.Compare(a.Path, b.Path))
	})
}

// Err returns e as an error, sorted, or nil when it is empty.
func (e Errors) Err() error {
	if len(e) == 0 {
		return nil
	}
	e.Sort()
	return e
}

// ErrorAt places a problem that another stage found: with the component of
// that name, at path below it ("inputs[0]"), or, when component is "", at path
// from the top of the file. What the file does not hold is placed at its
// nearest parent that it does.
func (c *Config) ErrorAt(component string, p pipeline.Problem) Error {
	at, prefix := place{node: c.root}, ""
	if component != "" {
		if s, ok := c.sections[component]; ok {
			at, prefix = s, s.path
		}
	}
	if strings.HasPrefix(prefix, "alerts[") && p.Path == "inputs[0]" {
		p.Path = "input" // the one input of a rule is written so
	}
	pos := at.find(p.Path)
	return Error{File: c.File, Line: pos.line, Column: pos.column, Path: joinPath(prefix, p.Path),
		Message: c.secrets.redact(p.Message), Hint: c.secrets.redact(p.Hint)}
}

func joinPath(a, b string) string {
	if a == "" || b == "" || strings.HasPrefix(b, "[") {
		return a + b
	}
	return a + "." + b
}

// plainPathError leaves out the operation and the path, which the error's
// place already says.
func plainPathError(err error) error {
	var pe *fs.PathError
	if errors.As(err, &pe) {
		return pe.Err
	}
	return err
}
