package opcua

import (
	"strings"
	"testing"
	"time"

	"github.com/gopcua/opcua/ua"
	"github.com/stretchr/testify/require"

	"github.com/penstock/penstock/pipeline"
	"github.com/penstock/penstock/simulators"
	sim "github.com/penstock/penstock/simulators/opcua"
)

// fetch sends one publish request and returns the message with data that
// answers it.
func fetch(t *testing.T, h *harness, l *link, acks ...*ua.SubscriptionAcknowledgement) *delivery {
	t.Helper()
	for {
		res, err := ask[*ua.PublishResponse](h.ctx, l.sess, &ua.PublishRequest{SubscriptionAcknowledgements: acks})
		require.NoError(t, err)
		acks = nil
		if len(res.NotificationMessage.NotificationData) > 0 {
			return &delivery{table: l.table, response: res, message: res.NotificationMessage, received: time.Now().UnixNano()}
		}
	}
}

// TestMessagesInOrder has messages overtake each other, go missing, and get
// lost for good.
func TestMessagesInOrder(t *testing.T) {
	srv := startServer(t, sim.Config{Tags: []string{"a"}})
	h := newHarness(t, testConfig(srv.Endpoint(), node("a")))
	l, err := h.open(h.ctx)
	require.NoError(t, err)
	defer l.sess.close()
	sub := l.order[0]
	value := 0.0
	next := func(acks ...*ua.SubscriptionAcknowledgement) *delivery {
		value++
		_, err := srv.Set([]simulators.Sample{{Tag: "a", Time: base + int64(value)*100, Value: value}})
		require.NoError(t, err)
		return fetch(t, h, l, acks...)
	}
	take := func(f func() error, want ...float64) {
		t.Helper()
		done := make(chan error, 1)
		go func() { done <- f() }()
		h.rows = nil
		h.until(atLeast(len(want)))
		require.NoError(t, <-done)
		var got []float64
		for _, r := range h.rows {
			got = append(got, r.Value)
		}
		require.Equal(t, want, got)
	}

	first, second, third := next(), next(), next()
	require.NoError(t, l.sequence(h.ctx, third))
	require.NoError(t, l.sequence(h.ctx, second))
	take(func() error { return l.sequence(h.ctx, first) }, 1, 2, 3)
	require.True(t, sub.gap.IsZero())
	require.NoError(t, l.sequence(h.ctx, first)) // twice is once

	next() // 4 never gets here, 5 does
	require.NoError(t, l.sequence(h.ctx, next()))
	require.NoError(t, l.fillGaps(h.ctx)) // too early to ask
	sub.gap = time.Now().Add(-gapPatience)
	take(func() error { return l.fillGaps(h.ctx) }, 4, 5)
	require.Empty(t, h.meter.Totals().Dropped)

	gone := next() // 6, and the server forgets it
	seventh := next(&ua.SubscriptionAcknowledgement{SubscriptionID: sub.id, SequenceNumber: gone.message.SequenceNumber})
	require.NoError(t, l.sequence(h.ctx, seventh))
	sub.gap = time.Now().Add(-gapPatience)
	take(func() error { return l.fillGaps(h.ctx) }, 7)
	require.EqualValues(t, 1, h.meter.Totals().Dropped[messageLost])

	next() // 8 is missing, and only a keep-alive tells
	keepAlive := &delivery{response: &ua.PublishResponse{SubscriptionID: sub.id}, message: &ua.NotificationMessage{SequenceNumber: after(sub.next)}}
	require.NoError(t, l.sequence(h.ctx, keepAlive))
	sub.gap = time.Now().Add(-gapPatience)
	take(func() error { return l.fillGaps(h.ctx) }, 8)

	ended := next()
	ended.message.NotificationData[0].Value = &ua.StatusChangeNotification{Status: ua.StatusBadTimeout}
	require.ErrorContains(t, l.sequence(h.ctx, ended), "ended a subscription")
}

// TestDecodeOddities decodes what the peers of the other tests do not send.
func TestDecodeOddities(t *testing.T) {
	h := newHarness(t, testConfig("opc.tcp://127.0.0.1:1", node("a")))
	it := &item{text: "ns=1;s=a", tag: "t/a"}
	received := time.Now().UnixNano()
	server := time.Unix(0, received-5e9)
	data := func(v any) *ua.DataValue {
		return &ua.DataValue{EncodingMask: ua.DataValueValue, Value: ua.MustVariant(v), ServerTimestamp: server}
	}
	var items []*ua.MonitoredItemNotification
	for _, v := range []*ua.DataValue{
		data(1.5),                             // server time stands in for the source's
		{Status: 0x480, Value: &ua.Variant{}}, // no value, no time, and the queue overflowed
		data([]float64{}),
		data(time.Time{}),
		data([]bool{true, false}),
		data([]*ua.Variant{ua.MustVariant(int32(4)), ua.MustVariant("x"), ua.MustVariant([]byte{1})}),
		data([][]int32{{1, 2}, {3, 4}}),
		data(&ua.ExtensionObject{TypeID: ua.NewFourByteExpandedNodeID(2, 7)}),
		data(&ua.QualifiedName{Name: "q"}),
	} {
		items = append(items, &ua.MonitoredItemNotification{Value: v})
	}
	items = append(items, &ua.MonitoredItemNotification{ClientHandle: 7, Value: data(1.0)})
	h.current = &delivery{table: []*item{it}, received: received, message: &ua.NotificationMessage{NotificationData: []*ua.ExtensionObject{
		{Value: &ua.DataChangeNotification{MonitoredItems: items}}, {Value: &ua.EventNotificationList{}}}}}
	rows := h.until(atLeast(9))
	at := server.UnixNano()
	require.ElementsMatch(t, []row{
		{Tag: "t/a", Time: at, Value: 1.5}, {Tag: "t/a", Time: received, Null: true, Quality: 0x480}, {Tag: "t/a", Time: at, Null: true},
		{Tag: "t/a", Time: at, Null: true}, {Tag: "t/a[0]", Time: at, Value: 1}, {Tag: "t/a[1]", Time: at}, {Tag: "t/a[0]", Time: at, Value: 4},
		{Tag: "t/a[1]", Time: at, Null: true, Text: "x"}, {Tag: "t/a", Time: at, Null: true, Text: "q"}}, rows)
	require.Equal(t, map[string]int64{"server_queue_overflow": 1, "unsupported_type": 3, "unknown_handle": 1}, h.meter.Totals().Dropped)
	require.EqualValues(t, 9+4, h.meter.Totals().Ingested)
	require.Contains(t, h.log.String(), "queue_size")
}

// TestBatchesAreBounded has one message that is larger than a batch.
func TestBatchesAreBounded(t *testing.T) {
	cfg := testConfig("opc.tcp://127.0.0.1:1", node("a"))
	cfg.Batch.MaxRows = 100
	h := newHarness(t, cfg)
	var items []*ua.MonitoredItemNotification
	for i := range 250 {
		items = append(items, &ua.MonitoredItemNotification{Value: &ua.DataValue{EncodingMask: ua.DataValueValue, Value: ua.MustVariant(int32(i))}})
	}
	h.current = &delivery{table: []*item{{tag: "a"}}, received: base, message: &ua.NotificationMessage{NotificationData: []*ua.ExtensionObject{
		{Value: &ua.DataChangeNotification{MonitoredItems: items}}}}}
	for _, want := range []int64{100, 100, 50} {
		b, _, err := h.Read(h.ctx)
		require.NoError(t, err)
		require.Equal(t, want, b.Record.NumRows())
		b.Record.Release()
	}
}

func TestValidate(t *testing.T) {
	ok := DefaultConfig()
	ok.Endpoint, ok.Nodes = "opc.tcp://plc:4840", []Node{{ID: "nsu=urn:x:y;s=a;b", Tag: "t"}}
	for _, c := range []struct {
		path   string
		change func(c *Config)
	}{
		{"endpoint", func(c *Config) { c.Endpoint = "http://plc" }},
		{"security_mode", func(c *Config) { c.SecurityPolicy, c.SecurityMode = "None", "Sign" }},
		{"security_mode", func(c *Config) { c.SecurityPolicy, c.SecurityMode = "Basic256Sha256", "None" }},
		{"key", func(c *Config) { c.Certificate = "x" }},
		{"auth.certificate", func(c *Config) { c.Auth = Auth{Key: "x"} }},
		{"auth.certificate", func(c *Config) { c.Auth = Auth{Username: "u", Certificate: "x", Key: "y"} }},
		{"auth.username", func(c *Config) { c.Auth.Password = "p" }},
		{"pki_dir", func(c *Config) { c.PKIDir = "" }},
		{"server_certificate", func(c *Config) { c.ServerCertificate, c.TrustAny = "x", true }},
		{"nodes", func(c *Config) { c.Nodes = nil }},
		{"nodes[0].id", func(c *Config) { c.Nodes[0].ID = "ns=x;i=1" }},
		{"nodes[0].id", func(c *Config) { c.Nodes[0].ID = "" }},
		{"nodes[0].tag", func(c *Config) { c.Nodes[0].Tag = "" }},
		{"nodes[0].deadband", func(c *Config) { c.Nodes[0].Deadband = -1 }},
		{"nodes[1].tag", func(c *Config) { c.Nodes = append(c.Nodes, Node{ID: "i=1", Tag: "t"}) }},
		{"browse[0].root", func(c *Config) { c.Browse = []Browse{{}} }},
		{"browse[0].tag", func(c *Config) { c.Browse = []Browse{{Root: "i=85", Tag: "same"}} }},
		{"browse[0].include[0]", func(c *Config) { c.Browse = []Browse{{Root: "i=85", Include: []string{"a/[/**"}}} }},
		{"publishing_interval", func(c *Config) { c.PublishingInterval = 0 }},
		{"queue_size", func(c *Config) { c.QueueSize = 0 }},
		{"batch.max_rows", func(c *Config) { c.Batch.MaxRows = 0 }},
	} {
		cfg := ok
		cfg.Nodes = append([]Node(nil), ok.Nodes...)
		c.change(&cfg)
		p := pipeline.NewProblems()
		cfg.Validate(p)
		require.Len(t, p.All(), 1, c.path)
		require.Equal(t, c.path, p.All()[0].Path)
		require.NotEmpty(t, p.All()[0].Hint)
	}
	p := pipeline.NewProblems()
	ok.Validate(p)
	require.Empty(t, p.All())
}

func TestGlob(t *testing.T) {
	for _, c := range []struct {
		pattern, yes, no string
	}{
		{"a/*/c", "a/b/c", "a/c a/b/b/c a/b a/b/c/d"}, {"**/c", "c a/c a/b/c", "a/b c/d"}, {"a/**", "a/b a/b/c", "a b"},
		{"**", "a a/b", ""}, {"a/**/c", "a/c a/b/c a/b/b/c", "a/b c"}, {"Vib*", "Vib Vibration", "a/Vib aVib"},
	} {
		for _, s := range strings.Fields(c.yes) {
			require.True(t, glob(c.pattern, s), "%s %s", c.pattern, s)
		}
		for _, s := range strings.Fields(c.no) {
			require.False(t, glob(c.pattern, s), "%s %s", c.pattern, s)
		}
	}
}

// TestChoice has servers offer this and that.
func TestChoice(t *testing.T) {
	endpoint := func(policy string, mode ua.MessageSecurityMode, users ...ua.UserTokenPolicy) *ua.EndpointDescription {
		e := &ua.EndpointDescription{SecurityPolicyURI: ua.SecurityPolicyURIPrefix + policy, SecurityMode: mode, SecurityLevel: 1}
		for _, u := range append(users, ua.UserTokenPolicy{PolicyID: "anonymous"}) {
			e.UserIdentityTokens = append(e.UserIdentityTokens, &u)
		}
		return e
	}
	name := func(policy string) ua.UserTokenPolicy {
		u := ua.UserTokenPolicy{PolicyID: "name", TokenType: ua.UserTokenTypeUserName}
		if policy != "" {
			u.SecurityPolicyURI = ua.SecurityPolicyURIPrefix + policy
		}
		return u
	}
	none, sign, encrypt := ua.MessageSecurityModeNone, ua.MessageSecurityModeSign, ua.MessageSecurityModeSignAndEncrypt
	for _, c := range []struct {
		name    string
		offers  []*ua.EndpointDescription
		policy  Policy
		user    string
		want    string // policy and mode, or part of the error
		exposed bool
	}{
		{"encryption before policy", []*ua.EndpointDescription{endpoint("None", none), endpoint("Aes256_Sha256_RsaPss", sign), endpoint("Basic256Sha256", encrypt)}, "auto", "",
			"Basic256Sha256/SignAndEncrypt", false},
		{"no broken policy by itself", []*ua.EndpointDescription{endpoint("None", none), endpoint("Basic256", encrypt)}, "auto", "", "it offers Basic256/SignAndEncrypt, None/None", false},
		{"a policy nobody knows", []*ua.EndpointDescription{endpoint("ECC_nistP256", encrypt)}, "auto", "", "it offers ECC_nistP256", false},
		{"an odd mode", []*ua.EndpointDescription{endpoint("Basic256Sha256", 77)}, "auto", "", "it offers", false},
		{"nothing", nil, "None", "", "no endpoint", false},
		{"user without login", []*ua.EndpointDescription{endpoint("None", none)}, "None", "u", "name and a password", false},
		{"plain password", []*ua.EndpointDescription{endpoint("None", none, name(""))}, "None", "u", "None/None", true},
		{"plain password on a signed channel", []*ua.EndpointDescription{endpoint("Basic256Sha256", sign, name("None"))}, "auto", "u", "Basic256Sha256/Sign", true},
		{"plain password in an encrypted channel", []*ua.EndpointDescription{endpoint("Basic256Sha256", encrypt, name("None"))}, "auto", "u", "Basic256Sha256/SignAndEncrypt", false},
		{"encrypted password on a plain channel", []*ua.EndpointDescription{endpoint("None", none, name("None"), name("Basic256Sha256"))}, "None", "u", "None/None", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			cfg := DefaultConfig()
			cfg.SecurityPolicy, cfg.Auth.Username = c.policy, c.user
			ep, err := cfg.choose(c.offers)
			if err != nil {
				require.ErrorContains(t, err, c.want)
				require.True(t, pipeline.IsPermanent(err))
				return
			}
			require.Equal(t, c.want, policyName(ep.SecurityPolicyURI)+"/"+modeName(ep.SecurityMode))
			require.Equal(t, c.exposed, cfg.exposesPassword(ep, cfg.userPolicies(ep)[0]))
		})
	}
}
