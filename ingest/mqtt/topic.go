package mqtt

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/penstock/penstock/ingest"
	"github.com/penstock/penstock/ingest/decode"
)

// filter is a topic filter, without the $share prefix, split at "/".
type filter []string

func parseFilter(s string) (filter, error) {
	if s == "" {
		return nil, errors.New("is empty")
	}
	if len(s) > 65535 || strings.ContainsRune(s, 0) {
		return nil, errors.New("is too long, or has a NUL in it")
	}
	if rest, ok := strings.CutPrefix(s, "$share/"); ok {
		group, topic, ok := strings.Cut(rest, "/")
		if !ok || group == "" || topic == "" || strings.ContainsAny(group, "+#") {
			return nil, fmt.Errorf("%q is not a shared subscription: $share/GROUP/FILTER", s)
		}
		s = topic
	}
	f := filter(strings.Split(s, "/"))
	for i, seg := range f {
		switch {
		case seg == "#" && i < len(f)-1:
			return nil, fmt.Errorf("%q has # before its end", s)
		case seg != "+" && seg != "#" && strings.ContainsAny(seg, "+#"):
			return nil, fmt.Errorf("%q has a wildcard that does not fill its segment", s)
		}
	}
	return f, nil
}

// match reports whether the filter takes the topic (MQTT 3.1.1, 4.7). A
// wildcard in front takes no topic that starts with $.
func (f filter) match(topic []string) bool {
	if strings.HasPrefix(topic[0], "$") && (f[0] == "+" || f[0] == "#") {
		return false
	}
	for i, seg := range f {
		switch {
		case seg == "#":
			return true
		case i >= len(topic) || seg != "+" && seg != topic[i]:
			return false
		}
	}
	return len(f) == len(topic)
}

// covers reports whether f takes every topic that g takes.
func (f filter) covers(g filter) bool {
	if strings.HasPrefix(g[0], "$") && (f[0] == "+" || f[0] == "#") {
		return false
	}
	for i, seg := range f {
		switch {
		case seg == "#":
			return true
		case i >= len(g) || g[i] == "#" || seg != "+" && seg != g[i]:
			return false
		}
	}
	return len(f) == len(g)
}

// subscriptions returns the filters to ask the broker for, with the QoS of
// each. A filter that another one covers is left to that one: brokers may send
// a message once for every filter it matches. For filters that overlap
// otherwise ("a/+" and "+/b") that stays so.
func subscriptions(topics []TopicConfig) map[string]byte {
	filters := make([]filter, len(topics))
	for i, t := range topics {
		filters[i], _ = parseFilter(t.Topic)
	}
	shared := func(i int) bool { return strings.HasPrefix(topics[i].Topic, "$share/") }
	out := map[string]byte{}
	for i := range topics {
		by, qos := i, topics[i].QoS
		for j := range topics {
			if j != i && !shared(i) && !shared(j) && filters[j].covers(filters[by]) && (j < by || !filters[by].covers(filters[j])) {
				by = j
			}
		}
		out[topics[by].Topic] = max(out[topics[by].Topic], byte(qos), byte(topics[by].QoS))
	}
	return out
}

// template makes a tag name of a topic. A part is a literal, or a reference:
// 0 is the whole topic, n the n-th segment.
type template struct {
	prefix, suffix []part // before and behind {field}
	named          bool   // readings bring a name of their own
}

type part struct {
	literal string
	ref     int // -1 for a literal
}

// parseTemplate reads a template; named says whether readings bring names.
// Segments that no topic of f has are an error.
func parseTemplate(s string, named bool, f filter) (template, error) {
	if s == "" {
		s = "{topic}"
	}
	t := template{named: named}
	to := &t.prefix
	field := false
	for s != "" {
		i := strings.IndexByte(s, '{')
		if i < 0 {
			i = len(s)
		}
		if i > 0 {
			*to = append(*to, part{literal: s[:i], ref: -1})
			s = s[i:]
			continue
		}
		j := strings.IndexByte(s, '}')
		if j < 0 {
			return t, fmt.Errorf("%q has a { without its }", s)
		}
		word := s[1:j]
		s = s[j+1:]
		n, err := strconv.Atoi(word)
		switch {
		case word == "topic":
			*to = append(*to, part{ref: 0})
		case word == "field" && !named:
			return t, errors.New("{field} is used, but neither decode.tag nor decode.fields gives a name")
		case word == "field" && field:
			return t, errors.New("{field} is used twice")
		case word == "field":
			field = true
			to = &t.suffix
		case err != nil || n < 1:
			return t, fmt.Errorf("{%s} is not known", word)
		case len(f) > 0 && f[len(f)-1] != "#" && n > len(f):
			return t, fmt.Errorf("{%d} is beyond the %d segments of the topic", n, len(f))
		default:
			*to = append(*to, part{ref: n})
		}
	}
	if named && !field {
		t.prefix = append(t.prefix, part{literal: "/", ref: -1})
	}
	return t, nil
}

func expand(parts []part, topic string, segments []string) (string, error) {
	var b strings.Builder
	for _, p := range parts {
		switch {
		case p.ref < 0:
			b.WriteString(p.literal)
		case p.ref == 0:
			b.WriteString(topic)
		case p.ref > len(segments):
			return "", fmt.Errorf("the tag template asks for segment {%d}, but the topic has %d", p.ref, len(segments))
		default:
			b.WriteString(segments[p.ref-1])
		}
	}
	return b.String(), nil
}

// rule is one subscription, ready to use.
type rule struct {
	filter   filter
	template template
	decoder  *decode.Decoder
}

// route is what is known of one topic: the first rule that matches it and
// where its readings go, or why there is none.
type route struct {
	decoder *decode.Decoder
	target  *decode.Target
	reason  string // of dropping
	err     error
	refused throttle // logs of its messages that were dropped
}

// newRoute resolves a topic.
func newRoute(rules []rule, b *ingest.Batcher, topic string) *route {
	segments := strings.Split(topic, "/")
	for i := range rules {
		r := &rules[i]
		if !r.filter.match(segments) {
			continue
		}
		prefix, err := expand(r.template.prefix, topic, segments)
		if err != nil {
			return &route{reason: "no_tag", err: err}
		}
		suffix, err := expand(r.template.suffix, topic, segments)
		if err != nil {
			return &route{reason: "no_tag", err: err}
		}
		if r.template.named {
			return &route{decoder: r.decoder, target: decode.NewNamedTarget(prefix, suffix)}
		}
		return &route{decoder: r.decoder, target: decode.NewTarget(b, prefix)}
	}
	return &route{reason: "no_subscription",
		err: errors.New("no topic filter matches: the broker's session still has a subscription that the config has lost")}
}
