package mqtt

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/penstock/penstock/ingest/decode"
	"github.com/penstock/penstock/pipeline"
)

func TestFilters(t *testing.T) {
	for _, c := range []struct {
		filter, topic string
		want          bool
	}{
		{"a/b", "a/b", true}, {"a/b", "a", false}, {"a", "a/b", false}, {"a/+", "a/b", true}, {"a/+", "a", false}, {"a/+", "a/", true},
		{"a/#", "a", true}, {"a/#", "a/b/c", true}, {"#", "a/b", true}, {"+/b", "a/b", true}, {"+", "/a", false}, {"+/+", "/a", true},
		{"#", "$SYS/x", false}, {"+/x", "$SYS/x", false}, {"$SYS/#", "$SYS/x", true}, {"$share/g/a/+", "a/b", true},
	} {
		f, err := parseFilter(c.filter)
		require.NoError(t, err)
		require.Equal(t, c.want, f.match(strings.Split(c.topic, "/")), "%s %s", c.filter, c.topic)
	}
	for _, bad := range []string{"", "a/#/b", "a+", "a/b#", "$share/g", "$share//a", "$share/+/a", "a\x00"} {
		_, err := parseFilter(bad)
		require.Error(t, err, bad)
	}
}

func TestSubscriptions(t *testing.T) {
	for _, c := range []struct {
		topics []TopicConfig
		want   map[string]byte
	}{
		{[]TopicConfig{{Topic: "a/+", QoS: 2}, {Topic: "a/#", QoS: 1}, {Topic: "b", QoS: 0}}, map[string]byte{"a/#": 2, "b": 0}},
		{[]TopicConfig{{Topic: "a/b/c"}, {Topic: "a/+/c"}, {Topic: "a/+/+"}, {Topic: "#", QoS: 1}}, map[string]byte{"#": 1}},
		{[]TopicConfig{{Topic: "a/+"}, {Topic: "+/b"}}, map[string]byte{"a/+": 0, "+/b": 0}},
		{[]TopicConfig{{Topic: "$SYS/a"}, {Topic: "#"}}, map[string]byte{"$SYS/a": 0, "#": 0}},
		{[]TopicConfig{{Topic: "$share/g/a"}, {Topic: "a"}}, map[string]byte{"$share/g/a": 0, "a": 0}},
		{[]TopicConfig{{Topic: "a/#"}, {Topic: "a"}}, map[string]byte{"a/#": 0}},
	} {
		require.Equal(t, c.want, subscriptions(c.topics))
	}
}

func TestTemplates(t *testing.T) {
	topic := "plant1/hall2/pump3"
	segments := strings.Split(topic, "/")
	for _, c := range []struct {
		tmpl           string
		named          bool
		prefix, suffix string
		err            string
	}{
		{"", false, topic, "", ""},
		{"", true, topic + "/", "", ""},
		{"{1}/{3}/x", false, "plant1/pump3/x", "", ""},
		{"{3}:{field}.{1}", true, "pump3:", ".plant1", ""},
		{"{field}", false, "", "", "neither decode.tag nor decode.fields"},
		{"{field}{field}", true, "", "", "twice"},
		{"{0}", false, "", "", "{0} is not known"},
		{"{name}", false, "", "", "{name} is not known"},
		{"{1", false, "", "", "without its }"},
		{"{4}", false, "", "", "beyond the 3 segments"},
	} {
		f, err := parseFilter("plant1/+/+")
		require.NoError(t, err)
		tm, err := parseTemplate(c.tmpl, c.named, f)
		if c.err != "" {
			require.ErrorContains(t, err, c.err)
			continue
		}
		require.NoError(t, err)
		prefix, err := expand(tm.prefix, topic, segments)
		require.NoError(t, err)
		suffix, err := expand(tm.suffix, topic, segments)
		require.NoError(t, err)
		require.Equal(t, c.prefix, prefix)
		require.Equal(t, c.suffix, suffix)
	}
}

func TestValidate(t *testing.T) {
	c := DefaultConfig()
	c.Broker = "http://x"
	c.Brokers = []string{"tcp://user:pw@x", "ssl://"}
	c.TLS = TLSConfig{CA: "/does/not/exist", Cert: "x"}
	c.Password = "secret"
	c.KeepAlive, c.ConnectTimeout, c.MaxPayload = 0, 0, 0
	c.Topics = []TopicConfig{{Topic: "a/#/b", QoS: 3, Tag: "{x}", Decode: decode.Config{Format: "xml"}}, {Topic: "a/#/b"}}
	c.Batch.MaxRows = 0
	p := pipeline.NewProblems()
	c.Validate(p)
	var got []string
	for _, x := range p.All() {
		require.NotEmpty(t, x.Hint)
		require.NotContains(t, x.Message, "pw@")
		got = append(got, x.Path)
	}
	require.Equal(t, []string{"broker", "brokers[0]", "brokers[1]", "tls", "tls.ca", "tls.cert", "username", "keep_alive", "connect_timeout", "max_payload",
		"topics[0].topic", "topics[0].qos", "topics[0].tag", "topics[0].decode.format", "topics[1].topic", "topics[1].topic", "batch.max_rows"}, got)

	p = pipeline.NewProblems()
	c = DefaultConfig()
	c.Validate(p)
	require.Len(t, p.All(), 2) // no broker, no topics

	for in, want := range map[string]string{"tcp://h": "tcp://h:1883", "ssl://h": "ssl://h:8883", "tls://[::1]": "tls://[::1]:8883", "ws://h/mqtt": "ws://h/mqtt", "tcp://h:1": "tcp://h:1"} {
		u, err := parseBroker(in)
		require.NoError(t, err)
		require.Equal(t, want, u.String())
	}
}

// The window is learned from two stalls at the same number, and forgotten
// when more comes.
func TestWindow(t *testing.T) {
	var l link
	m := &message{qos: 1}
	for range 20 {
		m.id++
		fresh, _ := l.expect(m)
		require.True(t, fresh)
	}
	require.False(t, l.waiting())
	now := m.at.Add(20e6)
	l.lingered(now, 10e6)
	require.False(t, l.waiting())
	l.lingered(now, 10e6)
	require.True(t, l.waiting())
	l.unacked = 19
	require.False(t, l.waiting())
	l.unacked = 20
	fresh, again := l.expect(m)
	require.False(t, fresh || again, "the same id again is the same message")
	m.id++
	l.expect(m)
	require.False(t, l.waiting())
}
