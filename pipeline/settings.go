package pipeline

import (
	"fmt"
	"log/slog"
	"strconv"
	"strings"
)

// Problems collects what is wrong with a component's config. Paths are those
// of the YAML keys, relative to the component: "topics[0].qos".
type Problems struct {
	prefix string
	list   *[]Problem
}

// Problem is one error of a config: where, what, and what to write instead.
type Problem struct{ Path, Message, Hint string }

// NewProblems returns an empty collection.
func NewProblems() *Problems { return &Problems{list: new([]Problem)} }

// Add notes a problem at path; hint says what to write instead.
func (p *Problems) Add(path, message, hint string) {
	*p.list = append(*p.list, Problem{Path: join(p.prefix, path), Message: message, Hint: hint})
}

// At returns a view of p whose paths start below path.
func (p *Problems) At(path string) *Problems {
	return &Problems{prefix: join(p.prefix, path), list: p.list}
}

// All returns what was noted, in order.
func (p *Problems) All() []Problem { return *p.list }

func join(a, b string) string {
	if a == "" || b == "" || strings.HasPrefix(b, "[") {
		return a + b
	}
	return a + "." + b
}

// Validator is a component config that can check itself. It is called after
// decoding, with defaults filled in, and touches neither network nor disk
// beyond reading files that the config names.
type Validator interface{ Validate(p *Problems) }

// Secret is a string that is never printed: logs, JSON and %v show "***".
// The value comes from string(s).
type Secret string

func (s Secret) String() string {
	if s == "" {
		return ""
	}
	return "***"
}
func (s Secret) GoString() string             { return s.String() }
func (s Secret) LogValue() slog.Value         { return slog.StringValue(s.String()) }
func (s Secret) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// ByteSize is a number of bytes, written in YAML as 512KiB, 64MiB, 2GB or a
// plain number.
type ByteSize int64

var byteUnits = []struct {
	suffix string
	n      int64
}{{"KiB", 1 << 10}, {"MiB", 1 << 20}, {"GiB", 1 << 30}, {"TiB", 1 << 40}, {"kB", 1e3}, {"KB", 1e3}, {"MB", 1e6}, {"GB", 1e9}, {"TB", 1e12}, {"B", 1}}

// UnmarshalText reads a size; goccy/go-yaml calls it for scalars.
func (b *ByteSize) UnmarshalText(t []byte) error {
	s := strings.TrimSpace(string(t))
	mult := int64(1)
	for _, u := range byteUnits {
		if rest, ok := strings.CutSuffix(s, u.suffix); ok {
			s, mult = strings.TrimSpace(rest), u.n
			break
		}
	}
	f, err := strconv.ParseFloat(s, 64)
	if err != nil || !(f >= 0 && f*float64(mult) <= 1<<62) { // NaN is refused too
		return fmt.Errorf("%q is not a size: write a number with a unit, like 64MiB", t)
	}
	*b = ByteSize(f * float64(mult))
	return nil
}

// MarshalText writes the size with the largest binary unit that divides it.
func (b ByteSize) MarshalText() ([]byte, error) { return []byte(b.String()), nil }

func (b ByteSize) String() string {
	for _, u := range []int{3, 2, 1, 0} {
		if n := byteUnits[u].n; int64(b) >= n && int64(b)%n == 0 {
			return strconv.FormatInt(int64(b)/n, 10) + byteUnits[u].suffix
		}
	}
	return strconv.FormatInt(int64(b), 10)
}
