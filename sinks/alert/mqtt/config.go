// Package mqtt is the sink that publishes alert events as JSON to an MQTT
// broker.
//
// The payload has the fields id, rule, asset, tag, severity, state, value,
// limit, time, raised and message (see [alert.Event]). With QoS 1 an event may
// come twice: id and state together tell.
package mqtt

import (
	"fmt"
	"net"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/penstock/penstock/internal/tlsconf"
	"github.com/penstock/penstock/pipeline"
)

// Config is the `mqtt` sink.
type Config struct {
	// Broker is the URL of the broker: tcp://host:1883 or ssl://host:8883.
	Broker string `yaml:"broker"`
	// ClientID names this connection; each connection of a broker needs
	// another. Left out, the broker makes one up.
	ClientID string `yaml:"client_id"`
	// Username and Password log in.
	Username string          `yaml:"username"`
	Password pipeline.Secret `yaml:"password"`
	// Topic is where an event goes: {rule}, {asset}, {tag}, {severity},
	// {state} and {id} are filled in. + and # in them become _.
	Topic string `yaml:"topic"`
	// QoS is 0 (at most once), 1 or 2.
	QoS int `yaml:"qos"`
	// Retained makes the broker keep the last event of each topic for
	// subscribers to come.
	Retained bool `yaml:"retained"`
	// Timeout bounds connecting and each delivery.
	Timeout time.Duration `yaml:"timeout"`
	// KeepAlive is how long a silent connection goes unchecked.
	KeepAlive time.Duration `yaml:"keep_alive"`
	// TLS is for ssl://.
	TLS tlsconf.Config `yaml:"tls,omitempty"`
}

// DefaultConfig returns the settings where the YAML is silent.
func DefaultConfig() Config {
	return Config{Topic: "penstock/alerts/{rule}/{asset}", QoS: 1, Timeout: 10 * time.Second, KeepAlive: 30 * time.Second}
}

var ports = map[string]string{"tcp": "1883", "mqtt": "1883", "ssl": "8883", "tls": "8883", "mqtts": "8883", "ws": "80", "wss": "443"}

// broker returns the URL with its port.
func (c *Config) broker() (*url.URL, error) {
	u, err := url.Parse(c.Broker)
	if err != nil {
		return nil, fmt.Errorf("is not a URL") // the error would show what may be secret
	}
	port, ok := ports[u.Scheme]
	switch {
	case !ok || u.Hostname() == "":
		return nil, fmt.Errorf("%q is not the URL of a broker", u.Redacted())
	case u.User != nil:
		return nil, fmt.Errorf("%q has a user in it", u.Redacted())
	case u.Port() == "":
		u.Host = net.JoinHostPort(u.Hostname(), port)
	}
	return u, nil
}

var (
	placeholder  = regexp.MustCompile(`\{[^{}]*\}`)
	placeholders = []string{"{rule}", "{asset}", "{tag}", "{severity}", "{state}", "{id}"}
)

// Validate checks the settings.
func (c *Config) Validate(p *pipeline.Problems) {
	u, err := c.broker()
	if err != nil {
		p.Add("broker", err.Error(), "write a URL such as tcp://broker:1883 or ssl://broker:8883; user and password have keys of their own")
	} else if c.TLS != (tlsconf.Config{}) && !slices.Contains([]string{"ssl", "tls", "mqtts", "wss"}, u.Scheme) {
		p.Add("tls", "is set, but the broker is not reached over TLS", "write ssl:// in the broker's URL, or leave tls out")
	}
	if c.Password != "" && c.Username == "" {
		p.Add("username", "is missing beside a password", "write the user's name")
	}
	if c.Topic == "" || strings.ContainsAny(c.Topic, "+#\x00") || strings.HasPrefix(c.Topic, "$") {
		p.Add("topic", fmt.Sprintf("%q is not a topic to publish to", c.Topic), "write a topic without wildcards, such as penstock/alerts/{rule}/{asset}")
	}
	for _, ph := range placeholder.FindAllString(c.Topic, -1) {
		if !slices.Contains(placeholders, ph) {
			p.Add("topic", ph+" is not known", "write one of "+strings.Join(placeholders, " "))
		}
	}
	if c.QoS < 0 || c.QoS > 2 {
		p.Add("qos", fmt.Sprintf("%d is not a QoS", c.QoS), "write 0, 1 or 2")
	}
	if c.Timeout <= 0 {
		p.Add("timeout", fmt.Sprintf("%v is not a time limit", c.Timeout), "write a duration such as 10s")
	}
	if c.KeepAlive < time.Second || c.KeepAlive > 18*time.Hour {
		p.Add("keep_alive", fmt.Sprintf("%v is out of range", c.KeepAlive), "write 1s to 18h; 30s suits most networks")
	}
	c.TLS.Validate(p.At("tls"))
}
