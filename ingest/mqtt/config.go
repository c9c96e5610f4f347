// Package mqtt is the source that subscribes to an MQTT 3.1.1 broker.
//
// The paho client makes and keeps the session: CONNECT, SUBSCRIBE, pings. The
// connection under it is ours. It reads in bursts, takes the PUBLISH packets out
// of the stream, decodes them where they lie, and writes their acknowledgements
// once the rows are in the journal, one write for a whole batch.
package mqtt

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/penstock/penstock/ingest"
	"github.com/penstock/penstock/ingest/decode"
	"github.com/penstock/penstock/pipeline"
)

// Config is a source of type mqtt.
type Config struct {
	// Broker is the broker's URL: tcp://host:1883, ssl://host:8883 (or tls://),
	// ws://host/path or wss://host/path.
	Broker string `yaml:"broker"`
	// Brokers are further URLs of the same broker, tried in order after Broker.
	Brokers []string `yaml:"brokers"`
	// ClientID names the session at the broker. It must stay the same over
	// restarts, for the broker keeps what arrives meanwhile under it, and no
	// other client may use it. Empty stands for
	// "penstock-SOURCE-HOSTNAME".
	ClientID string `yaml:"client_id"`
	Username string `yaml:"username"`
	// Password may be given as "${env:NAME}" or "${file:/path}".
	Password pipeline.Secret `yaml:"password"`
	// TLS applies to ssl:// and wss:// brokers.
	TLS TLSConfig `yaml:"tls"`
	// CleanSession makes the broker forget the session at each disconnect:
	// what is published while Penstock is away is lost, at QoS 1 and 2 too.
	CleanSession bool `yaml:"clean_session"`
	// KeepAlive is how long the connection may be silent before a ping.
	KeepAlive time.Duration `yaml:"keep_alive"`
	// ConnectTimeout bounds one attempt to connect.
	ConnectTimeout time.Duration `yaml:"connect_timeout"`
	// Topics are what to subscribe to. The first whose filter matches a
	// message says how it is read.
	Topics []TopicConfig `yaml:"topics"`
	// MaxPayload is the largest payload that is taken. Larger ones are counted
	// and dropped (and acknowledged: the broker would send them for ever),
	// without ever being held in memory.
	MaxPayload pipeline.ByteSize `yaml:"max_payload"`
	// Batch says how readings are gathered into batches.
	//
	// At QoS 1 and 2 a broker sends only so many messages ahead of their
	// acknowledgement (Mosquitto: max_inflight_messages, 20 unless set; NATS:
	// max_ack_pending, 1024), and we acknowledge when the batch is in the
	// journal. The source finds out how many that are and closes a batch as soon
	// as the broker waits for us. A window of 1000 or more still makes larger
	// batches, which cost less.
	Batch ingest.BatchConfig `yaml:"batch"`
}

// TopicConfig is one subscription.
type TopicConfig struct {
	// Topic is the topic filter: "plant/+/temperature", "plant/#",
	// "$share/group/plant/#".
	Topic string `yaml:"topic"`
	// QoS asks for 0 (at most once), 1 or 2 (at least once into the journal).
	QoS int `yaml:"qos"`
	// Tag makes the tag's name: {topic} is the whole topic, {1}, {2} and so on
	// are its segments, {field} is the name that the reading itself brings
	// (decode.tag, decode.fields). Empty stands for {topic}. Where readings
	// bring a name and the template has no {field}, "/{field}" is added.
	Tag string `yaml:"tag"`
	// Decode says what the payload looks like.
	Decode decode.Config `yaml:"decode"`
}

// TLSConfig is the `tls` section. Files are PEM.
type TLSConfig struct {
	// CA is the file of the authority that signed the broker's certificate.
	// Empty stands for the system's authorities.
	CA string `yaml:"ca"`
	// Cert and Key are the files of the client's certificate, if the broker
	// asks for one.
	Cert string `yaml:"cert"`
	Key  string `yaml:"key"`
	// ServerName is the name expected in the broker's certificate, when it is
	// not the host in the URL.
	ServerName string `yaml:"server_name"`
	// InsecureSkipVerify takes any certificate: whoever is in between can read
	// and change everything. For tests only.
	InsecureSkipVerify bool `yaml:"insecure_skip_verify"`
}

// DefaultConfig are the settings where the YAML is silent.
func DefaultConfig() Config {
	return Config{KeepAlive: 30 * time.Second, ConnectTimeout: 10 * time.Second, MaxPayload: 1 << 20, Batch: ingest.DefaultBatch()}
}

var defaultPorts = map[string]string{"tcp": "1883", "mqtt": "1883", "ssl": "8883", "tls": "8883", "mqtts": "8883", "ws": "", "wss": ""}

// parseBroker checks a URL and fills in the default port.
func parseBroker(s string) (*url.URL, error) {
	u, err := url.Parse(s)
	if err != nil {
		return nil, fmt.Errorf("%q is not a URL", s)
	}
	port, ok := defaultPorts[u.Scheme]
	switch {
	case !ok:
		return nil, fmt.Errorf("%q has no scheme that is known", u.Redacted())
	case u.Hostname() == "":
		return nil, fmt.Errorf("%q has no host", u.Redacted())
	case u.User != nil:
		return nil, fmt.Errorf("%q has a user in it", u.Redacted())
	case u.Port() == "" && port != "":
		u.Host = net.JoinHostPort(u.Hostname(), port)
	}
	return u, nil
}

func encrypted(u *url.URL) bool {
	return u.Scheme == "ssl" || u.Scheme == "tls" || u.Scheme == "mqtts" || u.Scheme == "wss"
}

// urls returns the brokers in the order they are tried.
func (c *Config) urls() (list []*url.URL) {
	for _, s := range append([]string{c.Broker}, c.Brokers...) {
		if u, err := parseBroker(s); s != "" && err == nil {
			list = append(list, u)
		}
	}
	return list
}

// Validate checks the config.
func (c *Config) Validate(p *pipeline.Problems) {
	const hint = "write a URL such as tcp://broker:1883 or ssl://broker:8883; user and password have keys of their own"
	secure := false
	check := func(key, s string) {
		u, err := parseBroker(s)
		if err != nil {
			p.Add(key, err.Error(), hint)
			return
		}
		secure = secure || encrypted(u)
	}
	if c.Broker == "" && len(c.Brokers) == 0 {
		p.Add("broker", "is missing", hint)
	}
	if c.Broker != "" {
		check("broker", c.Broker)
	}
	for i, s := range c.Brokers {
		check(fmt.Sprintf("brokers[%d]", i), s)
	}
	if c.TLS != (TLSConfig{}) && !secure {
		p.Add("tls", "is set, but no broker is reached over TLS", "write ssl:// or wss:// in the broker's URL, or leave tls out")
	}
	c.TLS.validate(p.At("tls"))
	if c.Password != "" && c.Username == "" {
		p.Add("username", "is missing beside a password", "write the user's name")
	}
	if len(c.ClientID) > 65535 || strings.ContainsRune(c.ClientID, 0) {
		p.Add("client_id", "is not a client id", "write a short name, such as gateway-7")
	}
	if c.KeepAlive < time.Second || c.KeepAlive > 65535*time.Second {
		p.Add("keep_alive", fmt.Sprintf("%v is out of range", c.KeepAlive), "write 1s to 18h; 30s suits most networks")
	}
	if c.ConnectTimeout <= 0 {
		p.Add("connect_timeout", fmt.Sprintf("%v is out of range", c.ConnectTimeout), "write a duration such as 10s")
	}
	if c.MaxPayload < 1 || c.MaxPayload > 256<<20 {
		p.Add("max_payload", fmt.Sprintf("%v is out of range", c.MaxPayload), "write a size up to 256MiB, such as 1MiB")
	}
	if len(c.Topics) == 0 {
		p.Add("topics", "is empty", `write what to subscribe to, such as [{topic: "plant/#", qos: 1}]`)
	}
	seen := map[string]int{}
	for i := range c.Topics {
		t := &c.Topics[i]
		at := p.At(fmt.Sprintf("topics[%d]", i))
		t.validate(at)
		if first, ok := seen[t.Topic]; ok {
			at.Add("topic", fmt.Sprintf("%q is that of topics[%d] too", t.Topic, first), "leave one of the two out")
		}
		seen[t.Topic] = i
	}
	c.Batch.Validate(p.At("batch"))
}

func (t *TopicConfig) validate(p *pipeline.Problems) {
	filter, err := parseFilter(t.Topic)
	if err != nil {
		p.Add("topic", err.Error(), `write a topic filter, such as "plant/+/temperature" or "plant/#"`)
	}
	if t.QoS < 0 || t.QoS > 2 {
		p.Add("qos", fmt.Sprintf("%d is not a QoS", t.QoS), "write 0, 1 or 2")
	}
	if _, err := parseTemplate(t.Tag, t.Decode.Named(), filter); err != nil {
		p.Add("tag", err.Error(), `write a template of {topic}, {1}, {2}, ... and {field}, such as "plant1/{2}/{3}"`)
	}
	t.Decode.Validate(p.At("decode"))
}

func (c *TLSConfig) validate(p *pipeline.Problems) {
	if c.CA != "" {
		if _, err := c.roots(); err != nil {
			p.Add("ca", err.Error(), "write the path of a PEM file")
		}
	}
	switch {
	case (c.Cert == "") != (c.Key == ""):
		p.Add("cert", "cert and key go together", "write both, or neither")
	case c.Cert != "":
		if _, err := tls.LoadX509KeyPair(c.Cert, c.Key); err != nil {
			p.Add("cert", err.Error(), "write the paths of the PEM files of a certificate and its key")
		}
	}
}

func (c *TLSConfig) roots() (*x509.CertPool, error) {
	pem, err := os.ReadFile(c.CA)
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("%s holds no certificate", c.CA)
	}
	return pool, nil
}

// load reads the files.
func (c *TLSConfig) load() (*tls.Config, error) {
	t := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: c.ServerName, InsecureSkipVerify: c.InsecureSkipVerify}
	var err error
	if c.CA != "" {
		if t.RootCAs, err = c.roots(); err != nil {
			return nil, err
		}
	}
	if c.Cert != "" {
		cert, err := tls.LoadX509KeyPair(c.Cert, c.Key)
		if err != nil {
			return nil, err
		}
		t.Certificates = []tls.Certificate{cert}
	}
	return t, nil
}
