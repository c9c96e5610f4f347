package influxdb

import (
	"slices"
	"strings"

	"github.com/influxdata/line-protocol/v2/lineprotocol"

	"github.com/penstock/penstock/pipeline"
)

// maxSeries bounds the prefixes kept; sources bound how many tags there are,
// this bounds what a long-lived sink remembers of tags that are gone.
const maxSeries = 200_000

// series makes the part of a line that all points of one series share, once
// per node and tag.
type series struct {
	tags        *pipeline.Tags
	measurement string
	keys        []string // tag keys, sorted
	values      []string // their templates
	qualityAt   int      // where qualityTag sorts among keys, or -1 without quality_tag
	byNode      map[string]map[string]prefixes
	count       int
}

// prefixes are the encoded measurement and tags with the space that ends
// them, by severity of the quality: good, uncertain, bad. Without quality_tag
// all three are the same bytes.
type prefixes [3][]byte

// qualityTag is not the field's name: queries could not tell them apart.
const qualityTag = "quality_class"

var severityNames = [3]string{"good", "uncertain", "bad"}

func newSeries(cfg Config, tags *pipeline.Tags) *series {
	all := map[string]string{"tag": "{tag}", "asset": "{asset}", "node": "{node}"}
	for k, v := range cfg.Tags {
		all[k] = v
	}
	s := &series{tags: tags, measurement: cfg.Measurement, qualityAt: -1, byNode: map[string]map[string]prefixes{}}
	for k, v := range all {
		if v != "" {
			s.keys = append(s.keys, k)
		}
	}
	slices.Sort(s.keys)
	for _, k := range s.keys {
		s.values = append(s.values, all[k])
	}
	if cfg.QualityTag {
		s.qualityAt, _ = slices.BinarySearch(s.keys, qualityTag)
	}
	return s
}

// node returns the prefixes known of a node, to be asked with [series.of].
func (s *series) node(node string) map[string]prefixes {
	if s.count > maxSeries {
		clear(s.byNode)
		s.count = 0
	}
	m := s.byNode[node]
	if m == nil {
		m = map[string]prefixes{}
		s.byNode[node] = m
	}
	return m
}

func (s *series) of(m map[string]prefixes, node, tag string) (prefixes, error) {
	if p, ok := m[tag]; ok {
		return p, nil
	}
	tag = strings.Clone(tag) // the record's memory is borrowed
	p, err := s.encode(node, tag)
	if err == nil {
		m[tag] = p
		s.count++
	}
	return p, err
}

func (s *series) encode(node, tag string) (p prefixes, err error) {
	info := pipeline.TagInfo{}
	if tag != "" {
		info = s.tags.Info(tag)
	}
	expand := func(tmpl string) string { return sanitize(expandTemplate(tmpl, node, tag, info)) }
	measurement := expand(s.measurement)
	if measurement == "" {
		measurement = sanitize(node)
	}
	if measurement == "" {
		measurement = "penstock"
	}
	for sev := range p {
		var e lineprotocol.Encoder
		e.StartLine(measurement)
		for i := 0; i <= len(s.keys); i++ {
			if i == s.qualityAt {
				e.AddTag(qualityTag, severityNames[sev])
			}
			if i < len(s.keys) {
				if v := expand(s.values[i]); v != "" {
					e.AddTag(s.keys[i], v)
				}
			}
		}
		if err := e.Err(); err != nil {
			return p, err
		}
		p[sev] = append(e.Bytes(), ' ')
		if s.qualityAt < 0 {
			return prefixes{p[0], p[0], p[0]}, nil
		}
	}
	return p, nil
}

// fieldKey returns the escaped key with its "=".
func fieldKey(name string) ([]byte, error) {
	var e lineprotocol.Encoder
	e.StartLine("m")
	e.AddField(sanitize(name), lineprotocol.BoolValue(true))
	if err := e.Err(); err != nil {
		return nil, err
	}
	b := e.Bytes()
	return b[len("m ") : len(b)-len("true")], nil
}

func expandTemplate(tmpl, node, tag string, info pipeline.TagInfo) string {
	if !strings.Contains(tmpl, "{") {
		return tmpl
	}
	return placeholder.ReplaceAllStringFunc(tmpl, func(m string) string {
		switch m {
		case "{tag}":
			return tag
		case "{asset}":
			return info.Asset
		case "{measurement}":
			return info.Measurement
		case "{unit}":
			return info.Unit
		case "{node}":
			return node
		}
		if seg := strings.Split(tag, "/"); len(m) == 3 && m[1] >= '1' && int(m[1]-'0') <= len(seg) {
			return seg[m[1]-'1']
		}
		return ""
	})
}

// sanitize makes s a name that line protocol can carry: valid UTF-8, control
// characters as _, and no backslash at the end.
func sanitize(s string) string {
	s = strings.Map(func(r rune) rune {
		if r < 0x20 || r == 0x7f {
			return '_'
		}
		return r
	}, strings.ToValidUTF8(s, "\uFFFD"))
	if rest, ok := strings.CutSuffix(s, `\`); ok {
		return rest + "_"
	}
	return s
}
