package config

import (
	"fmt"
	"maps"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/penstock/penstock/pipeline"
)

// maxErrors bounds how many errors one file is told of.
const maxErrors = 100

// AllAlerts is the input that means every alert rule.
const AllAlerts = "alerts"

// AlertType is the Component.Type of alert rules.
const AlertType = "alert"

var nameForm = regexp.MustCompile(`^[a-z0-9_-]{1,64}$`)

// sectionKeys are the keys at the top of the file, as errors list them. Keys that
// begin with x- hold nothing but anchors and are not read.
var sectionKeys = []string{"version", "name", "journal", "modules", "tags", "sources", "operators", "alerts", "sinks", "http"}

// fileParser is reading one file.
type fileParser struct {
	cfg   *Config
	reg   Registry
	dec   *decoder
	errs  Errors
	more  int
	wrong map[string]bool // paths with an error, or that an unknown key meant
}

// Parse reads the pipeline in data; file is its name in errors, and its folder
// is where relative ${file:...} begin. The error is of type [Errors] and holds
// everything that is wrong. Beside an error the Config, if not nil, holds what
// could be read; it is good for looking for further errors only.
func Parse(file string, data []byte, reg Registry) (*Config, error) {
	p := &fileParser{reg: reg, wrong: map[string]bool{},
		cfg: &Config{File: file, Journal: DefaultJournal(), Modules: pipeline.DefaultModules(), HTTP: DefaultHTTP(), sections: map[string]place{}}}
	p.dec = &decoder{dir: filepath.Dir(file), secrets: &p.cfg.secrets, report: p.report, wrong: p.wrong}
	switch {
	case len(data) > MaxFileSize:
		p.report(position{}, "", fmt.Sprintf("is larger than %v", pipeline.ByteSize(MaxFileSize)), "split the pipeline")
	case !utf8.Valid(data):
		p.report(position{}, "", "is not UTF-8 text", "save it as UTF-8")
	default:
		p.cfg.root = parseTree(data, p.report)
	}
	if p.cfg.root == nil {
		return nil, p.result()
	}
	p.document(p.cfg.root)
	return p.cfg, p.result()
}

func (p *fileParser) report(pos position, path, message, hint string) {
	p.wrong[path] = true
	if len(p.errs) >= maxErrors {
		p.more++
		return
	}
	e := Error{File: p.cfg.File, Line: pos.line, Column: pos.column, Path: path, Message: message, Hint: hint}
	if !slices.Contains(p.errs, e) {
		p.errs = append(p.errs, e)
	}
}

// result redacts messages at the end: a secret may be read after the message
// that happens to hold it. Hints here name keys and types, which a password
// such as "pass" must not blot out.
func (p *fileParser) result() error {
	for i := range p.errs {
		p.errs[i].Message = p.cfg.secrets.redact(p.errs[i].Message)
	}
	p.errs.Sort()
	if p.more > 0 {
		p.errs = append(p.errs, Error{File: p.cfg.File, Message: fmt.Sprintf("and %d more errors", p.more)})
	}
	if len(p.errs) == 0 {
		return nil
	}
	return p.errs
}

func (p *fileParser) document(root *node) {
	if root.kind != mapKind {
		p.report(root.pos, "", "is "+root.kind.String()+", want a pipeline", "begin with version: 1")
		return
	}
	c := p.cfg
	for _, e := range root.entries {
		switch e.key {
		case "version":
			p.dec.decode(e.value, reflect.ValueOf(&c.Version).Elem(), e.key)
			if !p.wrong[e.key] && c.Version != Version {
				p.report(e.value.pos, e.key, fmt.Sprintf("%d is not a version this program reads", c.Version), fmt.Sprintf("write %d", Version))
			}
		case "name":
			p.dec.decode(e.value, reflect.ValueOf(&c.Name).Elem(), e.key)
			if !p.wrong[e.key] {
				p.checkName(c.Name, e.value.pos, e.key)
			}
		case "journal":
			p.dec.decode(e.value, reflect.ValueOf(&c.Journal).Elem(), e.key)
		case "modules":
			p.dec.decode(e.value, reflect.ValueOf(&c.Modules).Elem(), e.key)
		case "tags":
			p.dec.decode(e.value, reflect.ValueOf(&c.Tags).Elem(), e.key)
		case "sources":
			c.Sources = p.components(e, p.reg.Sources)
		case "operators":
			c.Operators = p.components(e, p.reg.Operators)
		case "alerts":
			c.Alerts = p.components(e, nil)
		case "sinks":
			c.Sinks = p.components(e, p.reg.Sinks)
		case "http":
			p.dec.decode(e.value, reflect.ValueOf(&c.HTTP).Elem(), e.key)
		default:
			if !strings.HasPrefix(e.key, "x-") {
				p.dec.unknown(e, "", sectionKeys)
			}
		}
	}
	for _, m := range []struct{ key, hint string }{
		{"version", fmt.Sprintf("write version: %d", Version)}, {"name", "write a name for the pipeline, such as name: plant1"}, {"sources", "write at least one source"}} {
		if e, ok := root.get(m.key); !ok && !p.wrong[m.key] {
			p.report(root.pos, m.key, "is missing", m.hint)
		} else if ok && m.key == "sources" && len(e.value.items) == 0 && !p.wrong[m.key] {
			p.report(e.pos, m.key, "is empty", m.hint)
		}
	}
	p.validate("", place{node: root}, "journal", &c.Journal)
	p.validate("", place{node: root}, "modules", &c.Modules)
	p.validate("", place{node: root}, "http", &c.HTTP)
	for i := range c.Tags {
		p.validate("", place{node: root}, fmt.Sprintf("tags[%d]", i), &c.Tags[i])
	}
	if p.reg.Prepare != nil {
		p.reg.Prepare(c)
	}
	for _, comp := range c.Components() {
		e, i := p.entryOf(comp.Path)
		if u, ok := comp.Settings.(pipeline.ModuleUser); ok {
			u.UseModules(c.Modules)
		}
		p.validate(comp.Path, place{node: e.value.items[i], pos: position{comp.Line, comp.Column}}, "", comp.Settings)
	}
}

// entryOf finds the section and the index of a component's path.
func (p *fileParser) entryOf(path string) (entry, int) {
	var i int
	section, rest, _ := strings.Cut(path, "[")
	_, _ = fmt.Sscanf(rest, "%d", &i)
	e, _ := p.cfg.root.get(section)
	return e, i
}

// components reads one section; types is nil for alerts.
func (p *fileParser) components(section entry, types map[string]func() any) []Component {
	n := section.value
	if n.kind == nullKind {
		return nil
	}
	if n.kind != listKind {
		p.report(n.pos, section.key, "is "+n.kind.String()+", want a list", "begin each entry with - name:")
		return nil
	}
	list := make([]Component, 0, len(n.items))
	for i, item := range n.items {
		path := fmt.Sprintf("%s[%d]", section.key, i)
		if item.kind != mapKind {
			p.report(item.pos, path, "is "+item.kind.String()+", want a mapping", "write - {name: ..., type: ...}")
			continue
		}
		list = append(list, p.component(item, section.key, path, types))
	}
	return list
}

func (p *fileParser) component(item *node, section, path string, types map[string]func() any) Component {
	c := Component{Line: item.pos.line, Column: item.pos.column, Path: path}
	common := []string{"name"}
	p.componentName(&c, item)
	switch section {
	case "alerts":
		common = append(common, "input")
		c.Type = AlertType
		if e, ok := item.get("input"); ok {
			var in string
			p.dec.decode(e.value, reflect.ValueOf(&in).Elem(), path+".input")
			if in != "" {
				c.Inputs = []string{in}
			}
		} else {
			p.report(item.pos, path+".input", "is missing", "write the operator or source that the rule watches")
		}
		if p.reg.Alert != nil {
			c.Settings = p.reg.Alert()
		}
	default:
		common = append(common, "type")
		p.componentType(&c, item, types)
		if section != "sources" {
			common = append(common, "inputs")
			if e, ok := item.get("inputs"); ok {
				p.dec.decode(e.value, reflect.ValueOf(&c.Inputs).Elem(), path+".inputs")
			}
		}
	}
	if c.Settings == nil {
		// Unknown keys cannot be told, but dead references can.
		_ = p.dec.any(item, path)
		return c
	}
	if _, err := settingsType(c.Settings); err != nil {
		panic(fmt.Sprintf("config: %s %q: %v", section, c.Type, err))
	}
	v := reflect.ValueOf(c.Settings).Elem()
	p.dec.structure(item, v, path, common)
	return c
}

func (p *fileParser) componentName(c *Component, item *node) {
	e, ok := item.get("name")
	at := c.Path + ".name"
	if !ok {
		p.report(item.pos, at, "is missing", "write a name that is not used yet")
		return
	}
	p.dec.decode(e.value, reflect.ValueOf(&c.Name).Elem(), at)
	if p.wrong[at] {
		return
	}
	p.checkName(c.Name, e.value.pos, at)
	if c.Name == AllAlerts {
		p.report(e.value.pos, at, `"alerts" means all alert rules`, "write another name")
		return
	}
	if first, dup := p.cfg.sections[c.Name]; dup {
		p.report(e.value.pos, at, fmt.Sprintf("%q is the name of %s already, at line %d", clip(c.Name), first.path, first.pos.line), "write another name")
		return
	}
	p.cfg.sections[c.Name] = place{node: item, pos: item.pos, path: c.Path}
}

func (p *fileParser) checkName(name string, pos position, path string) {
	if !nameForm.MatchString(name) {
		p.report(pos, path, fmt.Sprintf("%q is not a name", clip(name)), "write 1 to 64 of a-z, 0-9, _ and -")
	}
}

func (p *fileParser) componentType(c *Component, item *node, types map[string]func() any) {
	known := slices.Sorted(maps.Keys(types))
	e, ok := item.get("type")
	at := c.Path + ".type"
	if !ok {
		p.report(item.pos, at, "is missing", "the types are "+strings.Join(known, ", "))
		return
	}
	p.dec.decode(e.value, reflect.ValueOf(&c.Type).Elem(), at)
	if p.wrong[at] {
		return
	}
	if mk := types[c.Type]; mk != nil {
		c.Settings = mk()
		return
	}
	section, _, _ := strings.Cut(c.Path, "[")
	p.report(e.value.pos, at, fmt.Sprintf("%q is not a type of %s", clip(c.Type), section), meant(c.Type, known, "the types"))
}

// validate asks settings at base (in the file) + rel for their problems.
// What already has an error is not told again.
func (p *fileParser) validate(base string, at place, rel string, settings any) {
	v, ok := settings.(pipeline.Validator)
	if !ok {
		return
	}
	problems := pipeline.NewProblems()
	v.Validate(problems.At(rel))
	for _, pr := range problems.All() {
		path := joinPath(base, pr.Path)
		if !p.alreadyWrong(path, base) {
			p.report(at.find(pr.Path), path, pr.Message, p.cfg.secrets.redact(pr.Hint))
		}
	}
}

// alreadyWrong reports whether path or a parent of it below base has an error.
func (p *fileParser) alreadyWrong(path, base string) bool {
	for len(path) > len(base) {
		if p.wrong[path] {
			return true
		}
		path = path[:max(strings.LastIndexAny(path, ".["), 0)]
	}
	return false
}
