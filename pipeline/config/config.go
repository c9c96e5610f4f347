// Package config reads a Penstock pipeline from its YAML file: strictly, all
// errors at once, each with file:line:column and what to write instead.
//
// It knows no component. What components exist, and the Go type of each one's
// settings, comes in a [Registry]; the YAML is decoded against those types.
package config

import (
	"fmt"
	"net"
	"os"
	"strconv"
	"time"

	"github.com/penstock/penstock/pipeline"
)

// Version is the version of the YAML format that this package reads.
const Version = 1

// MaxFileSize bounds a config file, in bytes.
const MaxFileSize = 1 << 20

// Registry says which components exist. Each function returns a pointer to a
// fresh settings struct with its defaults filled in. Settings that implement
// [pipeline.Validator] are checked after decoding.
type Registry struct {
	Sources, Operators, Sinks map[string]func() any // by the YAML's `type`
	Alert                     func() any            // the settings of one alert rule

	// Prepare, if not nil, is called with all that was decoded, before it is
	// checked: settings may need what stands elsewhere in the file.
	Prepare func(*Config)

	// Docs are descriptions for [JSONSchema], from [ReadDocs]; may be nil.
	Docs Docs
}

// Config is a whole pipeline.
type Config struct {
	Version   int
	Name      string
	Journal   Journal
	Modules   pipeline.Modules
	Tags      []pipeline.TagRule
	Sources   []Component
	Operators []Component
	Alerts    []Component
	Sinks     []Component
	HTTP      HTTP
	File      string // as given to Load or Parse

	root     *node
	secrets  secrets
	sections map[string]place // component name → where it stands
}

// Component is one entry of sources, operators, alerts or sinks.
type Component struct {
	Name string
	Type string // for alert rules "alert"
	// Inputs are names of sources, operators, `operator.port`, alert rules or
	// "alerts". An alert rule has one, written `input` in YAML.
	Inputs []string
	// Settings is the pointer that the Registry made; nil when Type is unknown.
	Settings any
	// Line and Column, from 1, of the entry in File.
	Line, Column int
	// Path of the entry in File, such as "operators[2]".
	Path string
}

// Journal says how readings are kept between ingest and flow.
type Journal struct {
	// Dir holds the journal, the sink queues and the checkpoints.
	Dir string `yaml:"dir"`
	// MaxBytes bounds the journal on disk.
	MaxBytes pipeline.ByteSize `yaml:"max_bytes"`
	// MaxAge is how long readings stay for replay.
	MaxAge time.Duration `yaml:"max_age"`
	// WhenFull says what gives way when max_bytes is reached with readings not
	// yet processed: block stops the sources, drop_oldest loses the oldest
	// readings, counts them and raises an alert.
	WhenFull WhenFull `yaml:"when_full"`
	// Sync says when a stored batch is on disk: always (one fsync a batch,
	// nothing is lost with the power) or interval (up to sync_interval is).
	Sync Sync `yaml:"sync"`
	// SyncInterval is the time between two fsyncs with sync: interval.
	SyncInterval time.Duration `yaml:"sync_interval"`
	// Shards is how many workers share the assets. More than the machine's
	// cores gain nothing.
	Shards int `yaml:"shards"`
	// Checkpoint is the time between two checkpoints of the operators' state.
	Checkpoint time.Duration `yaml:"checkpoint"`
	// QueueMaxBytes bounds the queue of each sink on disk.
	QueueMaxBytes pipeline.ByteSize `yaml:"queue_max_bytes"`
}

// WhenFull is what gives way when the journal is full.
type WhenFull string

const (
	Block      WhenFull = "block"
	DropOldest WhenFull = "drop_oldest"
)

// Enum lists the values.
func (WhenFull) Enum() []string { return []string{string(Block), string(DropOldest)} }

// Sync is when a stored batch is on disk.
type Sync string

const (
	SyncAlways   Sync = "always"
	SyncInterval Sync = "interval"
)

// Enum lists the values.
func (Sync) Enum() []string { return []string{string(SyncAlways), string(SyncInterval)} }

// DefaultJournal are the settings where the YAML is silent.
func DefaultJournal() Journal {
	return Journal{Dir: "./data", MaxBytes: 1 << 30, MaxAge: 72 * time.Hour, WhenFull: Block, Sync: SyncInterval,
		SyncInterval: time.Second, Shards: 1, Checkpoint: 5 * time.Second, QueueMaxBytes: 1 << 30}
}

// Validate checks the settings.
func (j *Journal) Validate(p *pipeline.Problems) {
	if j.Dir == "" {
		p.Add("dir", "is empty", "write a folder, such as ./data or /var/lib/penstock")
	}
	for _, s := range []struct {
		key string
		v   pipeline.ByteSize
	}{{"max_bytes", j.MaxBytes}, {"queue_max_bytes", j.QueueMaxBytes}} {
		if s.v < 1<<20 {
			p.Add(s.key, fmt.Sprintf("%v is too small", s.v), "write at least 1MiB; 1GiB suits most gateways")
		}
	}
	if j.MaxAge < time.Second {
		p.Add("max_age", fmt.Sprintf("%v is too short", j.MaxAge), "write a duration of at least 1s, such as 72h")
	}
	for _, d := range []struct {
		key string
		v   time.Duration
	}{{"sync_interval", j.SyncInterval}, {"checkpoint", j.Checkpoint}} {
		if d.v < 10*time.Millisecond {
			p.Add(d.key, fmt.Sprintf("%v is too short", d.v), "write a duration of at least 10ms, such as 1s")
		}
	}
	if j.Shards < 1 || j.Shards > 256 {
		p.Add("shards", fmt.Sprintf("%d is out of range", j.Shards), "write 1 to 256, at most the number of cores")
	}
}

// HTTP is where the operator page, /metrics, /healthz and /readyz are served.
type HTTP struct {
	// Listen is host:port; empty turns the server off.
	Listen string `yaml:"listen"`
}

// DefaultHTTP is used where the YAML is silent: this machine only.
func DefaultHTTP() HTTP { return HTTP{Listen: "127.0.0.1:8080"} }

// Validate checks the address.
func (h *HTTP) Validate(p *pipeline.Problems) {
	if h.Listen == "" {
		return
	}
	_, port, err := net.SplitHostPort(h.Listen)
	if err == nil {
		_, err = strconv.ParseUint(port, 10, 16)
	}
	if err != nil {
		p.Add("listen", fmt.Sprintf("%q is not host:port", h.Listen), `write 127.0.0.1:8080, :8080 for every network, or "" for no server`)
	}
}

// Load reads the pipeline in the file at path. See [Parse].
func Load(path string, reg Registry) (*Config, error) {
	data, err := readFile(path, MaxFileSize)
	if err != nil {
		return nil, Errors{{File: path, Message: err.Error()}}
	}
	return Parse(path, data, reg)
}

// Components returns all components in the order sources, operators, alerts, sinks.
func (c *Config) Components() []Component {
	var all []Component
	for _, l := range [][]Component{c.Sources, c.Operators, c.Alerts, c.Sinks} {
		all = append(all, l...)
	}
	return all
}

// readFile reads a regular file of at most limit bytes. A device or a pipe
// could block or never end, so they are refused.
func readFile(path string, limit int64) ([]byte, error) {
	st, err := os.Stat(path)
	if err != nil {
		return nil, plainPathError(err)
	}
	if !st.Mode().IsRegular() {
		return nil, fmt.Errorf("is not a regular file")
	}
	if st.Size() > limit {
		return nil, fmt.Errorf("is larger than %v", pipeline.ByteSize(limit))
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, plainPathError(err)
	}
	if int64(len(data)) > limit {
		return nil, fmt.Errorf("is larger than %v", pipeline.ByteSize(limit))
	}
	return data, nil
}
