package config

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/penstock/penstock/pipeline"
)

// Common is inlined, as some components do with what they share.
type common struct {
	Retry time.Duration `yaml:"retry"`
}

type topic struct {
	Filter string `yaml:"filter"`
	QoS    int    `yaml:"qos"`
}

type tlsConfig struct {
	CA string `yaml:"ca"`
}

// fakeConfig has a field of every shape that components use.
type fakeConfig struct {
	common `yaml:",inline"`
	// Broker is the address.
	Broker   string            `yaml:"broker"`
	Password pipeline.Secret   `yaml:"password"`
	Topics   []topic           `yaml:"topics"`
	Labels   map[string]string `yaml:"labels"`
	Columns  map[int]float64   `yaml:"columns"`
	TLS      *tlsConfig        `yaml:"tls"`
	Buffer   pipeline.ByteSize `yaml:"buffer"`
	Ratio    float64           `yaml:"ratio"`
	Port     uint16            `yaml:"port"`
	Clean    bool              `yaml:"clean"`
	Params   map[string]any    `yaml:"params"`
	When     time.Time         `yaml:"when"`
	Mode     WhenFull          `yaml:"mode"`
	//lint:ignore U1000 decoding must pass it by
	hidden int
}

func (c *fakeConfig) Validate(p *pipeline.Problems) {
	if c.Broker == "" {
		p.Add("broker", "is empty", "write tcp://host:1883")
	}
	if c.Broker == "bad" {
		p.Add("broker", fmt.Sprintf("%q with password %q is no address", c.Broker, string(c.Password)), "use "+string(c.Password))
	}
	for i, t := range c.Topics {
		if t.QoS > 2 {
			p.Add(fmt.Sprintf("topics[%d].qos", i), fmt.Sprintf("%d is not a QoS", t.QoS), "write 0, 1 or 2")
		}
		if t.Filter == "" {
			p.Add(fmt.Sprintf("topics[%d].filter", i), "is empty", "write a filter")
		}
	}
}

type fakeAlert struct {
	Column string   `yaml:"column"`
	Above  *float64 `yaml:"above"`
}

func registry() Registry {
	mk := func() any {
		c := &fakeConfig{Broker: "tcp://127.0.0.1:1883", Buffer: 64 << 20, Mode: Block, Columns: map[int]float64{1: 1}}
		c.Retry = time.Second
		return c
	}
	return Registry{
		Sources:   map[string]func() any{"mqtt": mk, "opcua": mk},
		Operators: map[string]func() any{"window": mk, "wasm": mk},
		Sinks:     map[string]func() any{"influxdb": mk, "console": mk},
		Alert:     func() any { return &fakeAlert{Column: "score"} },
	}
}

const full = `# a comment
version: 1
name: demo
x-shared: &defaults
  retry: 3s
  labels: {site: "ä", line: b}
journal: {dir: ./data, max_bytes: 2GiB, when_full: drop_oldest, sync: always, shards: 2}
tags:
  - {match: "plant1/*/temperature", unit: "°C"}
sources:
  - name: floor
    type: mqtt
    <<: *defaults
    broker: tcp://${env:PENSTOCK_TEST_HOST}:1883
    password: "${file:secret.txt}"
    port: ${env:PENSTOCK_TEST_PORT}
    topics:
      - {filter: a/#, qos: 1}
      - filter: b/+
    columns: {1: 2.5, 2: 3, 3: 1e3}
    tls: {ca: /ca.pem}
    buffer: 1MiB
    ratio: 1
    clean: true
    params: {half_life: 30s, n: 3, f: 1.5, on: true, list: [1, a, null], deep: {x: y}}
    when: 2024-05-01T00:00:00Z
    mode: drop_oldest
operators:
  - {name: score, type: wasm, inputs: [floor]}
alerts:
  - {name: high, input: score, above: 6}
sinks:
  - {name: out, type: console, inputs: [score, alerts], password: "$${env:X}", broker: "${1}/$${HOME}"}
http: {listen: ""}
`

func TestParse(t *testing.T) {
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "secret.txt"), []byte("hunter2\n"), 0o600))
	t.Setenv("PENSTOCK_TEST_HOST", "mosquitto")
	t.Setenv("PENSTOCK_TEST_PORT", "8883")
	for _, eol := range []string{"\n", "\r\n"} {
		c, err := Parse(filepath.Join(dir, "p.yaml"), []byte(strings.ReplaceAll(full, "\n", eol)), registry())
		require.NoError(t, err)
		require.Equal(t, "demo", c.Name)
		j := DefaultJournal()
		j.MaxBytes, j.WhenFull, j.Sync, j.Shards = 2<<30, DropOldest, SyncAlways, 2
		require.Equal(t, j, c.Journal)
		require.Equal(t, []pipeline.TagRule{{Match: "plant1/*/temperature", Unit: "°C"}}, c.Tags)
		require.Equal(t, "", c.HTTP.Listen)

		s := c.Sources[0]
		require.Equal(t, "floor mqtt 11:5 sources[0]", fmt.Sprintf("%s %s %d:%d %s", s.Name, s.Type, s.Line, s.Column, s.Path))
		six := 6.0
		want := &fakeConfig{common: common{Retry: 3 * time.Second}, Broker: "tcp://mosquitto:1883", Password: "hunter2",
			Topics: []topic{{"a/#", 1}, {"b/+", 0}}, Labels: map[string]string{"site": "ä", "line": "b"},
			Columns: map[int]float64{1: 2.5, 2: 3, 3: 1000}, TLS: &tlsConfig{"/ca.pem"}, Buffer: 1 << 20, Ratio: 1, Port: 8883, Clean: true,
			Params: map[string]any{"half_life": "30s", "n": int64(3), "f": 1.5, "on": true, "list": []any{int64(1), "a", nil}, "deep": map[string]any{"x": "y"}},
			When:   time.Date(2024, 5, 1, 0, 0, 0, 0, time.UTC), Mode: DropOldest}
		require.Equal(t, want, s.Settings)
		require.Equal(t, []string{"floor"}, c.Operators[0].Inputs)
		require.Equal(t, time.Second, c.Operators[0].Settings.(*fakeConfig).Retry, "default kept")
		require.Equal(t, Component{Name: "high", Type: AlertType, Inputs: []string{"score"}, Settings: &fakeAlert{"score", &six}, Line: 31, Column: 5, Path: "alerts[0]"}, c.Alerts[0])
		sink := c.Sinks[0].Settings.(*fakeConfig)
		require.Equal(t, pipeline.Secret("${env:X}"), sink.Password)
		require.Equal(t, "${1}/${HOME}", sink.Broker)
		require.Len(t, c.Components(), 4)
	}
}

// Each case is a whole file, or, when it begins with a space, the settings of
// a source called s; want are the errors without the file name.
func TestErrors(t *testing.T) {
	t.Setenv("PENSTOCK_TEST_SECRET", "tops3cret")
	t.Setenv("PENSTOCK_TEST_WORD", "numbe")
	const head = "version: 1\nname: n\nsources:\n  - name: s\n    type: mqtt\n"
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "big"), make([]byte, maxSecretFile+1), 0o600))
	for name, c := range map[string]struct{ in, want string }{
		"empty": {"", `1:1: name: is missing; write a name for the pipeline, such as name: plant1
1:1: sources: is missing; write at least one source
1:1: version: is missing; write version: 1`},
		"a list":      {"- a\n", `1:1: is a list, want a pipeline; begin with version: 1`},
		"two files":   {"version: 1\n---\nversion: 1\n", `3:1: is a second YAML document; write one pipeline per file, without ---`},
		"not UTF-8":   {"version: \xff\n", `is not UTF-8 text; save it as UTF-8`},
		"unknown key": {"versoin: 1\nname: n\nsources: [{name: s, type: mqtt}]\nfoo: 1\n", "1:1: versoin: unknown key; did you mean version?\n4:1: foo: unknown key; the known keys are alerts, http, journal, modules, name, operators, sinks, sources, tags, version"},
		"many at once": {`version: 2
name: My Plant
journal: {when_full: blok, max_bytes: 3, shards: x, dirr: a}
tags: [{match: "["}, {unit: 5}]
sources:
  - name: plc
    type: mqqt
    password: "${env:PENSTOCK_NOT_SET}"
  - {type: mqtt}
  - {name: plc, brokr: x}
  - 5
operators: {name: x}
alerts:
  - {name: alerts, inputs: [a], above: high}
sinks:
  - name: out
    type: console
    inputs: out
`, `1:10: version: 2 is not a version this program reads; write 1
2:7: name: "My Plant" is not a name; write 1 to 64 of a-z, 0-9, _ and -
3:22: journal.when_full: "blok" is not a value of this key; did you mean block?
3:39: journal.max_bytes: 3 is too small; write at least 1MiB; 1GiB suits most gateways
3:50: journal.shards: is text, want a whole number; write a whole number
3:53: journal.dirr: unknown key; did you mean dir?
4:16: tags[0].match: syntax error in pattern; write a pattern such as "plant1/*/*/temperature"
4:22: tags[1].match: is empty; write a pattern such as "plant1/*/*/temperature"
4:29: tags[1].unit: is a whole number, want text; put it in quotes
7:11: sources[0].type: "mqqt" is not a type of sources; did you mean mqtt?
8:15: sources[0].password: environment variable PENSTOCK_NOT_SET is not set; export PENSTOCK_NOT_SET=... before the start
9:5: sources[1].name: is missing; write a name that is not used yet
10:5: sources[2].type: is missing; the types are mqtt, opcua
10:12: sources[2].name: "plc" is the name of sources[0] already, at line 6; write another name
11:5: sources[3]: is a whole number, want a mapping; write - {name: ..., type: ...}
12:12: operators: is a mapping, want a list; begin each entry with - name:
14:5: alerts[0].input: is missing; write the operator or source that the rule watches
14:12: alerts[0].name: "alerts" means all alert rules; write another name
14:20: alerts[0].inputs: unknown key; did you mean input?
14:40: alerts[0].above: is text, want a number; write a number
18:13: sinks[0].inputs: is text, want a list; put it in brackets: [...]`},
		"duplicate key":   {"    broker: a\n    retry: 1s\n    broker: b\n", `8:5: sources[0].broker: is set twice, first at 6:5; keep one of the two`},
		"validate":        {"    topics:\n      - filter: a\n        qos: 3\n      - qos: 1\n", "8:14: sources[0].topics[0].qos: 3 is not a QoS; write 0, 1 or 2\n9:9: sources[0].topics[1].filter: is empty; write a filter"},
		"validate parent": {"    broker: \"\"\n", "6:13: sources[0].broker: is empty; write tcp://host:1883"},
		"told once":       {"    topics: [{qos: 3, fliter: x}, {qos: many, filter: a}]\n", "6:20: sources[0].topics[0].qos: 3 is not a QoS; write 0, 1 or 2\n6:23: sources[0].topics[0].fliter: unknown key; did you mean filter?\n6:41: sources[0].topics[1].qos: is text, want a whole number; write a whole number"},
		"inline":          {"    rety: 1s\n", "6:5: sources[0].rety: unknown key; did you mean retry?"},
		"duration":        {"    retry: 10\n    params: {a: 1}\n", "6:12: sources[0].retry: 10 has no unit; write 10s for seconds, or ms, m, h"},
		"days":            {"    retry: 7d\n", "6:12: sources[0].retry: 7d is in days; write 168h"},
		"size":            {"    buffer: much\n", `6:13: sources[0].buffer: "much" is not a size: write a number with a unit, like 64MiB`},
		"types": {"    tls: yes\n    labels: [a]\n    columns: {x: 1, 2: y}\n    port: 70000\n    ratio: [1]\n    clean: 1\n    when: noon\n    broker: {a: 1}\n", `6:10: sources[0].tls: is text, want a mapping (key: value); write a mapping (key: value)
7:13: sources[0].labels: is a list, want a mapping (key: value); write a mapping (key: value)
8:15: sources[0].columns.x: is text, want a whole number; write a whole number
8:24: sources[0].columns.2: is text, want a number; write a number
9:11: sources[0].port: is out of range; write a smaller number
10:12: sources[0].ratio: is a list, want a number; write a number
11:12: sources[0].clean: is a whole number, want true or false; write true or false
12:11: sources[0].when: parsing time "noon" as "2006-01-02T15:04:05Z07:00": cannot parse "noon" as "2006"
13:13: sources[0].broker: is a mapping, want text; write text`},
		"negative":     {"    port: -1\n    buffer:\n    clean: ~\n", "6:11: sources[0].port: -1 is negative; write 0 or more\n7:12: sources[0].buffer: is empty; write a size such as 64MiB, or remove the key\n8:12: sources[0].clean: is empty; write true or false, or remove the key"},
		"huge number":  {"    port: 99999999999999999999999\n", "6:11: sources[0].port: is a number, want a whole number; write a whole number"},
		"shell":        {"    broker: ${BROKER}\n", "6:13: sources[0].broker: ${BROKER} is not replaced by anything; write ${env:BROKER} for the environment variable, $${BROKER} for the text itself"},
		"no file":      {"    password: ${file:/nowhere/x}\n    broker: \"${file:" + dir + "}\"\n    labels: {a: \"${file:" + dir + "/big}\"}\n", "6:15: sources[0].password: file /nowhere/x: no such file or directory; write ${file:/path} of a readable file that holds just the value\n7:13: sources[0].broker: file DIR: is not a regular file; write ${file:/path} of a readable file that holds just the value\n8:17: sources[0].labels.a: file DIR/big: is larger than 64KiB; write ${file:/path} of a readable file that holds just the value"},
		"secret":       {"    broker: bad\n    password: s3\"cr3t\n", `6:13: sources[0].broker: "bad" with password "***" is no address; use ***`},
		"short secret": {"    broker: bad\n    password: x\n", `6:13: sources[0].broker: "bad" with password "***" is no address; use ***`},
		"env is secret": {"    retry: ${env:PENSTOCK_TEST_SECRET}\n    port: ${env:PENSTOCK_TEST_SECRET}\n    password: 12345\n", `6:12: sources[0].retry: "***" is not a duration; write a number with a unit, such as 500ms, 10s or 1h30m
7:11: sources[0].port: does not hold what belongs here, want a whole number; write a whole number
8:15: sources[0].password: is a whole number, want text; put it in quotes`},
		"env is maybe secret": {"    broker: bad\n    password: x${env:PENSTOCK_TEST_SECRET}y\n    when: tcp://${env:PENSTOCK_TEST_SECRET}x\n    retry: ${env:PENSTOCK_TEST_WORD}\n    port: plant\n", `6:13: sources[0].broker: "bad" with password "***" is no address; use ***
8:11: sources[0].when: parsing time "***" as "2006-01-02T15:04:05Z07:00": cannot parse "***" as "2006"
9:12: sources[0].retry: "***" is not a duration; write a number with a unit, such as 500ms, 10s or 1h30m
10:11: sources[0].port: is text, want a whole number; write a whole number`},
		"listen":        {"http: {listen: here}\nversion: 1\nname: n\nsources: [{name: s, type: mqtt}]\n", `1:16: http.listen: "here" is not host:port; write 127.0.0.1:8080, :8080 for every network, or "" for no server`},
		"syntax":        {"    broker: [a\n    password: hunter2\n", "SYNTAX"},
		"flow ref":      {"    tls: {ca: ${env:X}}\n", `6:16: YAML syntax: ',' or '}' must be specified; put "${...}" in quotes`},
		"tab":           {"\tbroker: a\n", "SYNTAX"},
		"unknown alias": {"    broker: *nope\n", "6:13: sources[0].broker: alias *nope has no anchor before it; write &nope at the value that it stands for\n6:13: sources[0].broker: is empty; write text, or remove the key"},
		"own alias":     {"    params: &a {x: *a}\n", "6:20: sources[0].params.x: alias *a has no anchor before it; write &a at the value that it stands for"},
		"tag":           {"    broker: !!binary YQ==\n", "6:13: sources[0].broker: has a YAML tag; leave the !tag out\n6:13: sources[0].broker: is empty; write text, or remove the key"},
		"merge text":    {"    <<: 5\n", "6:9: sources[0]: << merges a whole number; write <<: *anchor of a mapping"},
	} {
		t.Run(name, func(t *testing.T) {
			in := c.in
			if strings.HasPrefix(in, " ") || strings.HasPrefix(in, "\t") {
				in = head + in
			}
			_, err := Parse("f", []byte(in), registry())
			require.Error(t, err)
			got := strings.ReplaceAll(strings.ReplaceAll("\n"+err.Error(), "\nf:", "\n"), dir, "DIR")[1:]
			got = strings.TrimPrefix(got, " ")
			if c.want == "SYNTAX" {
				require.Len(t, err.(Errors), 1)
				require.Regexp(t, `^\d+:\d+: YAML syntax: `, got)
				require.NotContains(t, got, "hunter2")
				t.Log(got)
				return
			}
			require.Equal(t, c.want, got)
		})
	}
}

func TestLimits(t *testing.T) {
	laughs := "x-a: &a0 [l,l,l,l,l,l,l,l,l,l]\n"
	for i := range 9 {
		laughs += fmt.Sprintf("x-%d: &a%d [%s*a%d]\n", i, i+1, strings.Repeat(fmt.Sprintf("*a%d,", i), 9), i)
	}
	merges := "x-a: &a {" + strings.Repeat("k%d: 1,", 0)
	for i := range 5000 {
		merges += fmt.Sprintf("k%d: 1, ", i)
	}
	merges += "}\nx-b:\n" + strings.Repeat("  - <<: *a\n", 5000)
	const head = "version: 1\nname: n\nsources: [{name: s, type: mqtt, params: {x: *a9}}]\n"
	for name, c := range map[string]struct{ in, want string }{
		"laughs":      {laughs + head, "aliases of the file make more than"},
		"merges":      {merges, "the file has more than"},
		"values":      {"x-a: [" + strings.Repeat("1,", maxValues) + "]\n", "the file has more than"},
		"flow depth":  {strings.Repeat("[", 400_000), "nested more than 64 deep"},
		"flow maps":   {strings.Repeat("{a: ", 100_000), "nested more than 64 deep"},
		"list depth":  {strings.Repeat("- ", 400_000), "nested more than 64 deep"},
		"key depth":   {strings.Repeat("? ", 400_000), "nested more than 64 deep"},
		"anchors":     {strings.Repeat("&a ", 300_000), "nested more than 64 deep"},
		"tags":        {strings.Repeat("!!a ", 200_000), "nested more than 64 deep"},
		"block depth": {deepBlock(1000), "nested more than 64 deep"},
		// What takes the library minutes.
		"many keys":     {manyKeys(60_000), "the mapping has more than 5000 keys"},
		"many keys in":  {"- - k: 1\n" + strings.Repeat("    k: 1\n", 60_000), "the mapping has more than 5000 keys"},
		"empty items":   {strings.Repeat("-\n#\n", 200_000), "more than 5000 empty values"},
		"empty lists":   {strings.Repeat("a:\n-\n-\n", 4000), "more than 5000 empty values"},
		"empty keys":    {strings.Repeat("- a:\n- b:\n  c:\n", 20_000), "more than 5000 empty values"},
		"question":      {strings.Repeat("? a\n", 200_000), "more than 5000 empty values"},
		"lone CR":       {strings.Repeat("a: b\r", 150_000), "the mapping has more than 5000 keys"},
		"large":         {strings.Repeat("#", MaxFileSize+1), "larger than 1MiB"},
		"many problems": {"version: 1\n" + manyKeys(4000), "more errors"},
		"long key":      {strings.Repeat("a", 500_000) + ": 1\n", "aaa...: unknown key"},
	} {
		t.Run(name, func(t *testing.T) {
			start := time.Now()
			_, err := Parse("f", []byte(c.in), registry())
			require.ErrorContains(t, err, c.want)
			require.Less(t, len(err.Error()), 40_000)
			t.Logf("%v for %d bytes", time.Since(start), len(c.in))
		})
	}
}

func deepBlock(n int) string {
	var b strings.Builder
	for i := range n {
		b.WriteString(strings.Repeat(" ", i) + "a:\n")
	}
	return b.String()
}

// A plant with many nodes is far from every limit.
func TestLargeFile(t *testing.T) {
	var b strings.Builder
	b.WriteString("version: 1\nname: n\nsources:\n- name: s\n  type: mqtt\n  labels:\n")
	for i := range 4000 {
		fmt.Fprintf(&b, "    k%d: v\n", i)
	}
	b.WriteString("  topics:\n")
	for i := range 10_000 {
		fmt.Fprintf(&b, "  - filter: plant1/line%d/motor/vibration\n    # comment\n    qos: 1\n  - {filter: \"a/%d\"}\n", i, i)
	}
	start := time.Now()
	c, err := Parse("f", []byte(b.String()), registry())
	require.NoError(t, err)
	s := c.Sources[0].Settings.(*fakeConfig)
	require.Len(t, s.Topics, 20_000)
	require.Len(t, s.Labels, 4000)
	t.Logf("%v for %d bytes", time.Since(start), b.Len())
}

func manyKeys(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, "k%d: 1\n", i)
	}
	return b.String()
}

func TestLoad(t *testing.T) {
	_, err := Load("/nowhere/p.yaml", registry())
	require.EqualError(t, err, "/nowhere/p.yaml: no such file or directory")
	_, err = Load(t.TempDir(), registry())
	require.ErrorContains(t, err, "is not a regular file")
	p := filepath.Join(t.TempDir(), "p.yaml")
	require.NoError(t, os.WriteFile(p, []byte("version: 1\nname: a\nsources: [{name: s, type: opcua}]\n"), 0o600))
	c, err := Load(p, registry())
	require.NoError(t, err)
	require.Equal(t, p, c.File)
	require.Equal(t, DefaultHTTP(), c.HTTP)
}

func TestErrorAt(t *testing.T) {
	t.Setenv("PENSTOCK_TEST_HOST", "mosquitto")
	t.Setenv("PENSTOCK_TEST_PORT", "8883")
	c, err := Parse("f", []byte(strings.Replace(full, "${file:secret.txt}", "pass", 1)), registry())
	require.NoError(t, err)
	for _, tt := range []struct{ component, path, want string }{
		{"score", "inputs[0]", "f:29:40: operators[0].inputs[0]: m; h"},
		{"score", "inputs", "f:29:31: operators[0].inputs: m; h"},
		{"score", "module", "f:29:5: operators[0].module: m; h"},
		{"score", "", "f:29:5: operators[0]: m; h"},
		{"high", "inputs[0]", "f:31:25: alerts[0].input: m; h"},
		{"floor", "topics[1].filter", "f:19:17: sources[0].topics[1].filter: m; h"},
		{"floor", "topics[1].qos", "f:19:9: sources[0].topics[1].qos: m; h"},
		{"floor", "topics[7].qos", "f:17:5: sources[0].topics[7].qos: m; h"},
		{"floor", "params.deep.x", "f:25:84: sources[0].params.deep.x: m; h"},
		{"floor", `params["deep"].x`, `f:25:84: sources[0].params["deep"].x: m; h`},
		{"floor", "retry", "f:5:10: sources[0].retry: m; h"},
		{"", "journal.shards", "f:7:87: journal.shards: m; h"},
		{"", "tags[0].match", "f:9:13: tags[0].match: m; h"},
		{"nobody", "x", "f:2:1: x: m; h"},
	} {
		require.Equal(t, tt.want, c.ErrorAt(tt.component, pipeline.Problem{Path: tt.path, Message: "m", Hint: "h"}).Error())
	}
	require.Equal(t, "f:29:5: operators[0]: cannot log in with ***", c.ErrorAt("score", pipeline.Problem{Message: "cannot log in with pass"}).Error())
}

func TestNearest(t *testing.T) {
	names := []string{"topics", "qos", "broker", "tls"}
	for in, want := range map[string]string{"topic": "topics", "Topics": "topics", "qso": "qos", "borker": "broker", "zzz": "", "t": "", "": "", strings.Repeat("x", 1000): ""} {
		require.Equal(t, want, Nearest(in, names), in)
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(full))
	f.Add([]byte("version: 1\nname: n\nsources: [{name: s, type: mqtt, topics: [{qos: 3}], <<: {a: 1}}]\n"))
	f.Add([]byte("a: &a [*a]\n? b\n: |\n  c\n- d\n"))
	f.Add([]byte("version: !!str 1\nname: \"\\x00\"\nx-: {? a : b, <<: [*a, {}]}\n---\n"))
	f.Add([]byte("sources:\n  - name: s\n    type: mqtt\n    password: p\n    columns: {0x1: .nan, 1_0: -.inf}\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := Parse("f", data, registry())
		if err == nil && (c == nil || c.Version != 1 || len(c.Sources) == 0) {
			t.Fatalf("accepted as %+v", c)
		}
		if err != nil {
			for _, e := range err.(Errors) {
				if e.Message == "" || e.Line < 0 || e.Column < 0 {
					t.Fatalf("bad error %+v", e)
				}
			}
		}
		if c != nil {
			for _, comp := range c.Components() {
				_ = c.ErrorAt(comp.Name, pipeline.Problem{Path: "inputs[0]", Message: "m"})
			}
		}
	})
}
