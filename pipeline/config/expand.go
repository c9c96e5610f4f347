package config

import (
	"cmp"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// maxSecretFile bounds a file named by ${file:...}, in bytes.
const maxSecretFile = 64 << 10

var (
	// Other ${...}, such as ${1} of a tag template, belong to the component.
	reference = regexp.MustCompile(`\$?\$\{(env|file):([^}]*)\}`)
	shellLike = regexp.MustCompile(`\$?\$\{[A-Z_][A-Z0-9_]+\}`)
)

// expand replaces ${env:NAME} and ${file:/path} in s; $${ stands for ${ before
// env: and file:. A file's trailing line break is left out. Relative paths are
// those below dir. What it put in is remembered in sec. bad is told of each
// reference that leads nowhere.
func expand(s, dir string, sec *secrets, bad func(message, hint string)) (out string, expanded bool) {
	if !strings.Contains(s, "${") {
		return s, false
	}
	s = shellLike.ReplaceAllStringFunc(s, func(ref string) string {
		if strings.HasPrefix(ref, "$$") {
			return ref[1:]
		}
		name := ref[2 : len(ref)-1]
		bad(ref+" is not replaced by anything", fmt.Sprintf("write ${env:%s} for the environment variable, $%s for the text itself", name, ref))
		return ref
	})
	out = reference.ReplaceAllStringFunc(s, func(ref string) string {
		if strings.HasPrefix(ref, "$$") {
			return ref[1:]
		}
		what, name, _ := strings.Cut(ref[2:len(ref)-1], ":")
		var v string
		switch what {
		case "env":
			var ok bool
			if v, ok = os.LookupEnv(name); !ok || name == "" {
				bad(fmt.Sprintf("environment variable %s is not set", clip(name)), fmt.Sprintf("export %s=... before the start", clip(name)))
				return ""
			}
		case "file":
			p := name
			if !filepath.IsAbs(p) {
				p = filepath.Join(dir, p)
			}
			data, err := readFile(p, maxSecretFile)
			if err != nil {
				bad(fmt.Sprintf("file %s: %v", clip(name), err), "write ${file:/path} of a readable file that holds just the value")
				return ""
			}
			v = strings.TrimRight(string(data), "\r\n")
		}
		expanded = true
		sec.add(v)
		return v
	})
	return out, expanded
}

// secrets are the values that no error may show.
type secrets struct{ values map[string]bool }

func (s *secrets) add(v string) {
	if strings.TrimSpace(v) == "" {
		return
	}
	if s.values == nil {
		s.values = map[string]bool{}
	}
	s.values[v] = true
}

// redact replaces every secret in text by ***. Short ones count only as whole
// words: else a password "1" would blot out every 1.
func (s *secrets) redact(text string) string {
	longestFirst := slices.SortedFunc(maps.Keys(s.values), func(a, b string) int {
		return cmp.Or(cmp.Compare(len(b), len(a)), cmp.Compare(a, b))
	})
	for _, v := range longestFirst {
		if len(v) >= 4 {
			text = strings.ReplaceAll(text, v, "***")
			// As %q shows it.
			if q := fmt.Sprintf("%q", v); q[1:len(q)-1] != v {
				text = strings.ReplaceAll(text, q[1:len(q)-1], "***")
			}
			continue
		}
		text = replaceWord(text, v)
	}
	return text
}

func replaceWord(text, word string) string {
	isWord := func(i int) bool {
		if i < 0 || i >= len(text) {
			return false
		}
		c := text[i]
		return c == '_' || c >= 0x80 || c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z'
	}
	var b strings.Builder
	for i := 0; i < len(text); {
		if strings.HasPrefix(text[i:], word) && !isWord(i-1) && !isWord(i+len(word)) {
			b.WriteString("***")
			i += len(word)
			continue
		}
		b.WriteByte(text[i])
		i++
	}
	return b.String()
}
