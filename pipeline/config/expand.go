package config

import (
	"cmp"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
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
	var values []string
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
		values = append(values, v)
		sec.add(v, false)
		return v
	})
	for _, v := range values {
		// Glued to other text it is no word of its own; then all of it counts.
		if v != "" && strings.Contains(replaceWord(out, v), v) {
			sec.add(out, false)
		}
	}
	return out, len(values) > 0
}

// secrets are the values that no error may show: true for those that are
// passwords by their type, false for what came from the environment or a file
// into other settings, which may be one.
type secrets struct{ values map[string]bool }

func (s *secrets) add(v string, password bool) {
	if strings.TrimSpace(v) == "" {
		return
	}
	if s.values == nil {
		s.values = map[string]bool{}
	}
	s.values[v] = s.values[v] || password
}

// redact replaces every secret in text by ***. Those that are short, or may
// not be secrets at all, count only as whole words: else a host called "plant"
// would blot out part of every "plant1".
func (s *secrets) redact(text string) string {
	longestFirst := slices.SortedFunc(maps.Keys(s.values), func(a, b string) int {
		return cmp.Or(cmp.Compare(len(b), len(a)), cmp.Compare(a, b))
	})
	for _, v := range longestFirst {
		shown := []string{v}
		if q := strconv.Quote(v); q[1:len(q)-1] != v {
			shown = append(shown, q[1:len(q)-1]) // as %q shows it
		}
		for _, w := range shown {
			if s.values[v] && len(v) >= 4 {
				text = strings.ReplaceAll(text, w, "***")
			} else {
				text = replaceWord(text, w)
			}
		}
	}
	return text
}

// replaceWord replaces word in text by *** where it is not part of a longer
// word.
func replaceWord(text, word string) string {
	isWord := func(c byte) bool {
		return c == '_' || c >= 0x80 || c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z'
	}
	first, last := isWord(word[0]), isWord(word[len(word)-1])
	var b strings.Builder
	for i := 0; i < len(text); {
		end := i + len(word)
		if strings.HasPrefix(text[i:], word) && !(first && i > 0 && isWord(text[i-1])) && !(last && end < len(text) && isWord(text[end])) {
			b.WriteString("***")
			i = end
			continue
		}
		b.WriteByte(text[i])
		i++
	}
	return b.String()
}
