package pipeline

import (
	"fmt"
	"path"
	"strconv"
	"strings"
	"sync"

	"github.com/cespare/xxhash/v2"
)

// TagInfo is what the registry knows of one tag.
type TagInfo struct {
	Asset       string // ISA-95 path of the asset, e.g. "plant1/hall2/pump3"
	Measurement string // e.g. "vibration_x"
	Unit        string // UCUM or plain text, for people
	Description string
}

// TagRule gives facts about the tags that match a pattern. In YAML a list of
// them stands under `tags`; the first that matches a tag counts.
type TagRule struct {
	// Match is a glob over the tag's segments, as in path.Match: * is one segment.
	Match string `yaml:"match"`
	// Asset and Measurement replace what the tag's path says. ${n} is the n-th
	// segment of the tag, from 1.
	Asset       string `yaml:"asset,omitempty"`
	Measurement string `yaml:"measurement,omitempty"`
	Unit        string `yaml:"unit,omitempty"`
	Description string `yaml:"description,omitempty"`
}

// Validate checks the pattern and the templates.
func (r *TagRule) Validate(p *Problems) {
	if r.Match == "" {
		p.Add("match", "is empty", `write a pattern such as "plant1/*/*/temperature"`)
	} else if _, err := path.Match(r.Match, ""); err != nil {
		p.Add("match", err.Error(), `write a pattern such as "plant1/*/*/temperature"`)
	}
	for _, t := range []struct{ key, tmpl string }{{"asset", r.Asset}, {"measurement", r.Measurement}} {
		for _, part := range strings.Split(t.tmpl, "${")[1:] {
			n, _, closed := strings.Cut(part, "}")
			if i, err := strconv.Atoi(n); !closed || err != nil || i < 1 {
				p.Add(t.key, fmt.Sprintf("${%s is not the number of a segment", part), "write ${1} for the first segment of the tag, ${2} for the second")
			}
		}
	}
}

// Tags is the tag registry: it maps a tag to its asset and measurement. What
// no rule says comes from the tag's path: all but the last segment is the
// asset, the last is the measurement. Safe for concurrent use; a pure function
// of its rules, with a cache.
type Tags struct {
	rules []TagRule
	cache sync.Map // string → TagInfo
}

// NewTags returns a registry with these rules.
func NewTags(rules []TagRule) *Tags { return &Tags{rules: rules} }

// Info returns what is known of tag. The cache holds every tag ever asked for:
// sources and modules bound how many they make.
func (t *Tags) Info(tag string) TagInfo {
	if v, ok := t.cache.Load(tag); ok {
		return v.(TagInfo)
	}
	tag = strings.Clone(tag)
	info := TagInfo{Measurement: tag}
	if i := strings.LastIndexByte(tag, '/'); i >= 0 {
		info.Asset, info.Measurement = tag[:i], tag[i+1:]
	}
	for _, r := range t.rules {
		if ok, _ := path.Match(r.Match, tag); !ok {
			continue
		}
		seg := strings.Split(tag, "/")
		if r.Asset != "" {
			info.Asset = expandSegments(r.Asset, seg)
		}
		if r.Measurement != "" {
			info.Measurement = expandSegments(r.Measurement, seg)
		}
		info.Unit, info.Description = r.Unit, r.Description
		break
	}
	t.cache.Store(tag, info)
	return info
}

// Shard returns which of n shards the tag's asset belongs to, in [0, n).
func (t *Tags) Shard(tag string, n int) int {
	if n <= 1 {
		return 0
	}
	return int(xxhash.Sum64String(t.Info(tag).Asset) % uint64(n))
}

func expandSegments(tmpl string, seg []string) string {
	if !strings.Contains(tmpl, "${") {
		return tmpl
	}
	var b strings.Builder
	for {
		i := strings.Index(tmpl, "${")
		j := strings.IndexByte(tmpl[max(i, 0):], '}')
		if i < 0 || j < 0 {
			b.WriteString(tmpl)
			return b.String()
		}
		b.WriteString(tmpl[:i])
		if n, err := strconv.Atoi(tmpl[i+2 : i+j]); err == nil && n >= 1 && n <= len(seg) {
			b.WriteString(seg[n-1])
		}
		tmpl = tmpl[i+j+1:]
	}
}
