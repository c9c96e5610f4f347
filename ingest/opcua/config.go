package opcua

import (
	"fmt"
	"net/url"
	"path"
	"strings"
	"time"

	"github.com/gopcua/opcua/ua"

	"github.com/penstock/penstock/ingest"
	"github.com/penstock/penstock/pipeline"
)

// Policy is an OPC UA security policy by its short name, or auto.
type Policy string

// Enum lists the policies.
func (Policy) Enum() []string {
	return []string{"auto", "None", "Basic256Sha256", "Aes128_Sha256_RsaOaep", "Aes256_Sha256_RsaPss"}
}

// Mode is an OPC UA message security mode, or auto.
type Mode string

// Enum lists the modes.
func (Mode) Enum() []string { return []string{"auto", "None", "Sign", "SignAndEncrypt"} }

// Timestamps says which clock gives a reading its time.
type Timestamps string

// Enum lists the clocks.
func (Timestamps) Enum() []string { return []string{"source", "server", "received"} }

// Trigger says which change of a node makes a new reading.
type Trigger string

// Enum lists the triggers.
func (Trigger) Enum() []string { return []string{"status", "value", "timestamp"} }

// DeadbandType says how a deadband is measured.
type DeadbandType string

// Enum lists the types.
func (DeadbandType) Enum() []string { return []string{"absolute", "percent"} }

// Config is one OPC UA server and what is read from it.
type Config struct {
	// Endpoint is the server's URL, such as opc.tcp://plc1:4840. Its host is the
	// one that is dialled, whatever host name the server gives itself.
	Endpoint string `yaml:"endpoint"`
	// SecurityPolicy of the connection. auto takes the best that the server
	// offers, but never None: write None to go without any security.
	SecurityPolicy Policy `yaml:"security_policy"`
	// SecurityMode of the connection. auto takes SignAndEncrypt before Sign, and
	// None only with security_policy None.
	SecurityMode Mode `yaml:"security_mode"`
	// Auth is how this client logs in: anonymously when it is empty.
	Auth Auth `yaml:"auth"`
	// AllowPlaintextPassword sends the password even where anybody on the
	// network can read it.
	AllowPlaintextPassword bool `yaml:"allow_plaintext_password"`
	// Certificate is a file with this client's certificate, PEM or DER. Without
	// it a self-signed one is made and kept in pki_dir.
	Certificate string `yaml:"certificate"`
	// Key is the file of the certificate's RSA key, PEM or DER, without a
	// passphrase.
	Key string `yaml:"key"`
	// PKIDir keeps certificates: own/ this client's, trusted/ the servers' (or
	// their CAs') that it trusts, rejected/ those that it was shown and refused.
	PKIDir string `yaml:"pki_dir"`
	// ServerCertificate is a file with the one certificate that the server must
	// show.
	ServerCertificate string `yaml:"server_certificate"`
	// TrustDir is a folder of certificates to trust, instead of trusted/ in
	// pki_dir.
	TrustDir string `yaml:"trust_dir"`
	// TrustAny takes any server certificate that is not expired: whoever can
	// redirect the connection can then read and change what comes over it.
	TrustAny bool `yaml:"trust_any"`
	// Nodes are variables to read.
	Nodes []Node `yaml:"nodes"`
	// Browse are subtrees whose variables are read.
	Browse []Browse `yaml:"browse"`
	// PublishingInterval is how often the server sends what has changed.
	PublishingInterval time.Duration `yaml:"publishing_interval"`
	// SamplingInterval is how often the server looks at a variable; 0 is at every
	// change, or as often as the server can.
	SamplingInterval time.Duration `yaml:"sampling_interval"`
	// QueueSize is how many changes of one variable the server keeps between two
	// publishes.
	QueueSize uint32 `yaml:"queue_size"`
	// Trigger is what makes a new reading: a change of status, of status or
	// value, or of status, value or source timestamp.
	Trigger Trigger `yaml:"trigger"`
	// Timestamps says which clock gives the time of a reading: source, else
	// server, else the moment of arrival.
	Timestamps Timestamps `yaml:"timestamps"`
	// ItemsPerSubscription splits the variables over subscriptions.
	ItemsPerSubscription int `yaml:"items_per_subscription"`
	// ItemsPerRequest limits how many nodes one request names; 0 takes the
	// server's own limit, or 200 where it does not tell.
	ItemsPerRequest int `yaml:"items_per_request"`
	// MaxArray is how many elements of an array are read, each as its own tag
	// "TAG[0]", "TAG[1]" and so on; further ones are counted as dropped.
	MaxArray int `yaml:"max_array"`
	// RequestTimeout is how long the server may take to answer.
	RequestTimeout time.Duration `yaml:"request_timeout"`
	// KeepAlive is how often the server must be heard of, at least: a silent
	// connection is tested after half as long again, and replaced.
	KeepAlive time.Duration `yaml:"keep_alive"`
	// RetryNodes is how often nodes are tried again that the server refused.
	RetryNodes time.Duration `yaml:"retry_nodes"`
	// Batch says how readings are put together.
	Batch ingest.BatchConfig `yaml:"batch"`
}

// Auth is a user: username and password, or a certificate and its key, or
// neither.
type Auth struct {
	// Username of the user on the server.
	Username string `yaml:"username"`
	// Password of the user; write "${env:NAME}" or "${file:/path}".
	Password pipeline.Secret `yaml:"password"`
	// Certificate is a file with the user's certificate, PEM or DER.
	Certificate string `yaml:"certificate"`
	// Key is the file of the user certificate's RSA key.
	Key string `yaml:"key"`
}

// Node is one variable.
type Node struct {
	// ID is the node id: ns=2;s=Pump3.Speed, ns=2;i=1001, i=2258, or with the
	// namespace's name, which stays when the server numbers anew:
	// nsu=urn:acme:plant;s=Pump3.Speed.
	ID string `yaml:"id"`
	// Tag is the name of its readings.
	Tag string `yaml:"tag"`
	// SamplingInterval replaces that of the source where given.
	SamplingInterval time.Duration `yaml:"sampling_interval"`
	// QueueSize replaces that of the source where given.
	QueueSize uint32 `yaml:"queue_size"`
	// Deadband leaves out changes smaller than this.
	Deadband float64 `yaml:"deadband"`
	// DeadbandType says whether the deadband is in the variable's unit
	// (absolute, also where absent) or in percent of its range.
	DeadbandType DeadbandType `yaml:"deadband_type"`
}

// Browse is a subtree of the address space. All variables below its root are
// read, but not their properties, nor the Server object.
type Browse struct {
	// Root is the node id where it begins; i=85 is the Objects folder.
	Root string `yaml:"root"`
	// Tag makes the tag of a variable: ${path} is the way to it from the root,
	// ${name} its browse name, ${id} the identifier in its node id.
	Tag string `yaml:"tag"`
	// MaxDepth is how many levels below the root are searched, 10 where absent.
	MaxDepth int `yaml:"max_depth"`
	// MaxNodes limits how many variables are read, 10000 where absent.
	MaxNodes int `yaml:"max_nodes"`
	// Include are patterns over ${path}: * is any part of one level, ** any
	// number of levels. Without them everything is read.
	Include []string `yaml:"include"`
	// Exclude are patterns of what is not read, even if it is included.
	Exclude []string `yaml:"exclude"`
}

// DefaultConfig returns the settings where the YAML is silent.
func DefaultConfig() Config {
	return Config{SecurityPolicy: "auto", SecurityMode: "auto", PKIDir: "pki", PublishingInterval: 100 * time.Millisecond, QueueSize: 100,
		Trigger: "value", Timestamps: "source", ItemsPerSubscription: 1000, MaxArray: 64, RequestTimeout: 5 * time.Second, KeepAlive: 2 * time.Second,
		RetryNodes: 30 * time.Second, Batch: ingest.DefaultBatch()}
}

const (
	defaultMaxDepth = 10
	defaultMaxNodes = 10_000
)

// Validate checks the settings.
func (c *Config) Validate(p *pipeline.Problems) {
	u, err := url.Parse(c.Endpoint)
	if c.Endpoint == "" || err != nil || u.Scheme != "opc.tcp" || u.Hostname() == "" {
		p.Add("endpoint", fmt.Sprintf("%q is not the URL of an OPC UA server", c.Endpoint), "write opc.tcp://host:port")
	}
	if none := c.SecurityPolicy == "None"; none && c.SecurityMode != "auto" && c.SecurityMode != "None" {
		p.Add("security_mode", fmt.Sprintf("%s needs a security policy", c.SecurityMode), "write None, or another security_policy")
	} else if !none && c.SecurityPolicy != "auto" && c.SecurityMode == "None" {
		p.Add("security_mode", fmt.Sprintf("None does not go with security_policy %s", c.SecurityPolicy), "write auto, Sign or SignAndEncrypt")
	}
	pair := func(p *pipeline.Problems, cert, key string) {
		if cert != "" && key == "" {
			p.Add("key", "is missing beside certificate", "write the file of the certificate's RSA key")
		} else if key != "" && cert == "" {
			p.Add("certificate", "is missing beside key", "write the file of the key's certificate")
		}
	}
	pair(p, c.Certificate, c.Key)
	c.Auth.validate(p.At("auth"), pair)
	if c.Certificate == "" && c.PKIDir == "" && !c.insecure() {
		p.Add("pki_dir", "is empty, and there is no certificate", "write a folder such as ./pki, or certificate and key")
	}
	if c.ServerCertificate != "" && (c.TrustDir != "" || c.TrustAny) {
		p.Add("server_certificate", "is given together with trust_dir or trust_any", "keep one of them")
	}
	if len(c.Nodes)+len(c.Browse) == 0 {
		p.Add("nodes", "nothing is read", `write nodes: [{id: "ns=2;s=...", tag: "..."}] or browse: [{root: "i=85"}]`)
	}
	tags := map[string]int{}
	for i := range c.Nodes {
		at := fmt.Sprintf("nodes[%d]", i)
		c.Nodes[i].validate(p.At(at))
		if first, twice := tags[c.Nodes[i].Tag]; twice && c.Nodes[i].Tag != "" {
			p.Add(at+".tag", fmt.Sprintf("%q is the tag of nodes[%d] too", c.Nodes[i].Tag, first), "give every node a tag of its own")
		}
		tags[c.Nodes[i].Tag] = i
	}
	for i := range c.Browse {
		c.Browse[i].validate(p.At(fmt.Sprintf("browse[%d]", i)))
	}
	within := func(key string, v, low, high time.Duration) {
		if v < low || v > high {
			p.Add(key, fmt.Sprintf("%v is out of range", v), fmt.Sprintf("write %v to %v", low, high))
		}
	}
	within("publishing_interval", c.PublishingInterval, time.Millisecond, time.Hour)
	within("sampling_interval", c.SamplingInterval, 0, time.Hour)
	within("request_timeout", c.RequestTimeout, 100*time.Millisecond, 10*time.Minute)
	within("keep_alive", c.KeepAlive, 100*time.Millisecond, time.Hour)
	within("retry_nodes", c.RetryNodes, time.Second, 24*time.Hour)
	count := func(key string, v, low, high int) {
		if v < low || v > high {
			p.Add(key, fmt.Sprintf("%d is out of range", v), fmt.Sprintf("write %d to %d", low, high))
		}
	}
	count("queue_size", int(c.QueueSize), 1, 1_000_000)
	count("items_per_subscription", c.ItemsPerSubscription, 1, 1_000_000)
	count("items_per_request", c.ItemsPerRequest, 0, 100_000)
	count("max_array", c.MaxArray, 1, 65535)
	c.Batch.Validate(p.At("batch"))
}

// insecure reports whether the YAML asks for a connection without security.
func (c *Config) insecure() bool { return c.SecurityPolicy == "None" || c.SecurityMode == "None" }

func (a *Auth) validate(p *pipeline.Problems, pair func(*pipeline.Problems, string, string)) {
	pair(p, a.Certificate, a.Key)
	switch {
	case a.Username != "" && a.Certificate != "":
		p.Add("certificate", "is given beside username", "keep one of them: a session has one user")
	case a.Username == "" && a.Password != "":
		p.Add("username", "is missing beside password", "write the user's name")
	}
}

func (n *Node) validate(p *pipeline.Problems) {
	if err := checkNodeID(n.ID); err != nil {
		p.Add("id", err.Error(), nodeIDHint)
	}
	if n.Tag == "" {
		p.Add("tag", "is empty", "write the tag of the readings, such as plant1/pump3/speed")
	}
	if n.SamplingInterval < 0 || n.SamplingInterval > time.Hour {
		p.Add("sampling_interval", fmt.Sprintf("%v is out of range", n.SamplingInterval), "write 0s to 1h")
	}
	if !(n.Deadband >= 0) {
		p.Add("deadband", fmt.Sprintf("%v is no deadband", n.Deadband), "write 0 or more")
	}
	if n.DeadbandType == "percent" && n.Deadband > 100 {
		p.Add("deadband", fmt.Sprintf("%v is more than 100 percent", n.Deadband), "write 0 to 100")
	}
}

func (b *Browse) validate(p *pipeline.Problems) {
	if err := checkNodeID(b.Root); err != nil {
		p.Add("root", err.Error(), nodeIDHint+"; i=85 is the Objects folder")
	}
	if b.Tag != "" && !strings.Contains(b.Tag, "${path}") && !strings.Contains(b.Tag, "${id}") {
		p.Add("tag", fmt.Sprintf("%q gives different variables the same tag", b.Tag), `write "${path}" in it, such as "plant1/${path}"`)
	}
	if b.MaxDepth < 0 || b.MaxDepth > 100 {
		p.Add("max_depth", fmt.Sprintf("%d is out of range", b.MaxDepth), "write 1 to 100")
	}
	if b.MaxNodes < 0 || b.MaxNodes > 1_000_000 {
		p.Add("max_nodes", fmt.Sprintf("%d is out of range", b.MaxNodes), "write 1 to 1000000")
	}
	globs := func(key string, list []string) {
		for i, g := range list {
			if _, err := path.Match(strings.ReplaceAll(g, "**", "*"), ""); err != nil || g == "" {
				p.Add(fmt.Sprintf("%s[%d]", key, i), fmt.Sprintf("%q is not a pattern", g), `write one such as "**/Vibration*"`)
			}
		}
	}
	globs("include", b.Include)
	globs("exclude", b.Exclude)
}

const nodeIDHint = "write ns=2;s=Name, ns=2;i=1001, or nsu=urn:of:namespace;s=Name"

// checkNodeID checks how a node id is written; namespace names are not known
// before the server is.
func checkNodeID(s string) error {
	if s == "" {
		return fmt.Errorf("the node id is empty")
	}
	var names []string
	if rest, ok := strings.CutPrefix(s, "nsu="); ok {
		name, _, _ := strings.Cut(rest, ";")
		names = []string{name}
	}
	_, err := ua.ParseExpandedNodeID(s, names)
	return err
}
