package opcua

import (
	"context"
	"fmt"
	"math"
	"testing"
	"time"

	client "github.com/gopcua/opcua"
	"github.com/gopcua/opcua/id"
	"github.com/gopcua/opcua/ua"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/penstock/penstock/simulators"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func start(t *testing.T, cfg Config) (*Server, context.Context) {
	t.Helper()
	s, err := New(cfg)
	require.NoError(t, err)
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	require.NoError(t, s.Start(ctx))
	t.Cleanup(func() {
		require.NoError(t, s.Close())
		cancel()
	})
	return s, ctx
}

// connect uses gopcua's own client: a peer that ingest/opcua shares no code
// of its own with.
func connect(t *testing.T, ctx context.Context, s *Server) *client.Client {
	t.Helper()
	c, err := client.NewClient(s.Endpoint(), client.SecurityMode(ua.MessageSecurityModeNone), client.AutoReconnect(false))
	require.NoError(t, err)
	require.NoError(t, c.Connect(ctx))
	t.Cleanup(func() { require.NoError(t, c.Close(context.Background())) })
	return c
}

func subscribe(t *testing.T, ctx context.Context, c *client.Client, interval time.Duration, tags []string) chan *client.PublishNotificationData {
	t.Helper()
	ch := make(chan *client.PublishNotificationData, 100)
	sub, err := c.Subscribe(ctx, &client.SubscriptionParameters{Interval: interval}, ch)
	require.NoError(t, err)
	var items []*ua.MonitoredItemCreateRequest
	for i, tag := range tags {
		items = append(items, client.NewMonitoredItemCreateRequestWithDefaults(ua.NewStringNodeID(1, tag), ua.AttributeIDValue, uint32(i)))
	}
	res, err := sub.Monitor(ctx, ua.TimestampsToReturnBoth, items...)
	require.NoError(t, err)
	for _, r := range res.Results {
		require.Equal(t, ua.StatusOK, r.StatusCode)
	}
	return ch
}

func TestEveryValueReachesEverySubscriber(t *testing.T) {
	const tags, rounds = 200, 100 // 2000 values in one interval: more than one message holds
	var names []string
	for i := range tags {
		names = append(names, fmt.Sprintf("plant/unit%d/v%d", i%7, i))
	}
	s, ctx := start(t, Config{Tags: names})
	var chans []chan *client.PublishNotificationData
	for range 2 {
		chans = append(chans, subscribe(t, ctx, connect(t, ctx, s), 50*time.Millisecond, names))
	}
	require.NoError(t, s.WaitSubscribed(ctx, 2*tags))
	base := time.Now().Truncate(time.Second)
	samples := make([]simulators.Sample, tags)
	for r := range rounds {
		for i := range samples {
			samples[i] = simulators.Sample{Tag: names[i], Time: base.Add(time.Duration(r) * time.Millisecond).UnixNano(), Value: float64(r)}
		}
		n, err := s.Set(samples)
		require.NoError(t, err)
		require.Equal(t, 2*tags, n)
	}
	for _, ch := range chans {
		next := make([]int, tags)
		for got := 0; got < tags*rounds; {
			select {
			case n := <-ch:
				require.NoError(t, n.Error)
				for _, it := range n.Value.(*ua.DataChangeNotification).MonitoredItems {
					want := next[it.ClientHandle]
					require.Equal(t, float64(want), it.Value.Value.Value())
					require.Equal(t, base.Add(time.Duration(want)*time.Millisecond).UnixNano(), it.Value.SourceTimestamp.UnixNano())
					require.False(t, it.Value.ServerTimestamp.IsZero())
					next[it.ClientHandle]++
					got++
				}
			case <-ctx.Done():
				t.Fatalf("%d of %d values came", got, tags*rounds)
			}
		}
	}
	require.EqualValues(t, 2*tags*rounds, s.Published())
	require.Zero(t, s.Lost())
}

func TestFirstValueAndQuality(t *testing.T) {
	s, ctx := start(t, Config{Tags: []string{"a", "b", "c"}})
	at := time.Now().Truncate(time.Second)
	n, err := s.Set([]simulators.Sample{{Tag: "a", Time: at.UnixNano(), Value: 1}, {Tag: "b", Time: at.UnixNano(), Value: math.NaN(), Quality: 0x808C0000}, {Tag: "x"}})
	require.ErrorContains(t, err, `"x"`)
	require.Zero(t, n) // nobody listens
	ch := subscribe(t, ctx, connect(t, ctx, s), 10*time.Millisecond, []string{"a", "b", "c"})
	first := (<-ch).Value.(*ua.DataChangeNotification).MonitoredItems
	require.Len(t, first, 2) // c was never set
	require.Equal(t, 1.0, first[0].Value.Value.Value())
	require.Equal(t, ua.StatusCode(0x808C0000), first[1].Value.Status)
	require.False(t, first[1].Value.Has(ua.DataValueValue))
	require.EqualValues(t, 2, s.Published())
}

func TestReadAndBrowse(t *testing.T) {
	s, ctx := start(t, Config{Tags: []string{"plant/pump/speed", "plant/pump/flow", "plant"}})
	at := time.Now().Truncate(time.Second)
	_, err := s.Set([]simulators.Sample{{Tag: "plant/pump/speed", Time: at.UnixNano(), Value: 3, Quality: 0x40000000}})
	require.NoError(t, err)
	c := connect(t, ctx, s)
	speed := ua.NewStringNodeID(1, "plant/pump/speed")
	res, err := c.Read(ctx, &ua.ReadRequest{TimestampsToReturn: ua.TimestampsToReturnBoth, NodesToRead: []*ua.ReadValueID{{NodeID: speed}, {NodeID: ua.NewStringNodeID(1, "plant/pump/flow")},
		{NodeID: ua.NewStringNodeID(1, "nothing")}, {NodeID: speed, AttributeID: ua.AttributeIDDisplayName}, {NodeID: speed, AttributeID: ua.AttributeIDDataType},
		{NodeID: ua.NewStringNodeID(1, "plant/pump")}}})
	require.NoError(t, err)
	require.Equal(t, 3.0, res.Results[0].Value.Value())
	require.Equal(t, ua.StatusCode(0x40000000), res.Results[0].Status)
	require.Equal(t, at.UnixNano(), res.Results[0].SourceTimestamp.UnixNano())
	require.Equal(t, ua.StatusBadWaitingForInitialData, res.Results[1].Status)
	require.Equal(t, ua.StatusBadNodeIDUnknown, res.Results[2].Status)
	require.Equal(t, "speed", res.Results[3].Value.Value().(*ua.LocalizedText).Text)
	require.Equal(t, uint32(id.Double), res.Results[4].Value.Value().(*ua.NodeID).IntID())
	require.Equal(t, ua.StatusBadAttributeIDInvalid, res.Results[5].Status)

	nodes, err := c.Node(ua.NewStringNodeID(1, "plant/pump")).ReferencedNodes(ctx, id.HierarchicalReferences, ua.BrowseDirectionForward, ua.NodeClassAll, true)
	require.NoError(t, err)
	require.Len(t, nodes, 2)
	require.Equal(t, "ns=1;s=plant/pump/speed", nodes[0].ID.String())
}

// TestClientThatDoesNotFetch fills the buffer of a subscription that nobody
// sends publish requests for.
func TestClientThatDoesNotFetch(t *testing.T) {
	s, ctx := start(t, Config{Tags: []string{"a"}, Buffer: 10_000})
	c := connect(t, ctx, s)
	var created *ua.CreateSubscriptionResponse
	require.NoError(t, c.Send(ctx, &ua.CreateSubscriptionRequest{RequestedPublishingInterval: 3_600_000, RequestedLifetimeCount: 1000, RequestedMaxKeepAliveCount: 100,
		MaxNotificationsPerPublish: 1000, PublishingEnabled: true}, func(r ua.Response) error { created = r.(*ua.CreateSubscriptionResponse); return nil }))
	require.NoError(t, c.Send(ctx, &ua.CreateMonitoredItemsRequest{SubscriptionID: created.SubscriptionID, TimestampsToReturn: ua.TimestampsToReturnBoth,
		ItemsToCreate: []*ua.MonitoredItemCreateRequest{client.NewMonitoredItemCreateRequestWithDefaults(ua.NewStringNodeID(1, "a"), ua.AttributeIDValue, 0)}},
		func(ua.Response) error { return nil }))
	for i := range 25_000 {
		_, err := s.Set([]simulators.Sample{{Tag: "a", Value: float64(i)}})
		require.NoError(t, err)
	}
	require.EqualValues(t, 25_000, s.Published())
	require.InDelta(t, 15_000, s.Lost(), 1000)
}

func TestBadTags(t *testing.T) {
	for _, tags := range [][]string{{""}, {"a//b"}, {"/a"}, {"a/"}, {"a", "a"}} {
		_, err := New(Config{Tags: tags})
		require.Error(t, err, tags)
	}
}

// BenchmarkSet sets 1000 variables that one client monitors.
func BenchmarkSet(b *testing.B) {
	var names []string
	samples := make([]simulators.Sample, 1000)
	for i := range samples {
		names = append(names, fmt.Sprintf("v%d", i))
		samples[i].Tag = names[i]
	}
	s, err := New(Config{Tags: names})
	require.NoError(b, err)
	sub := &subscription{srv: s, items: map[uint32]*item{}, most: math.MaxInt}
	for _, v := range s.space.tags {
		v.items = []*item{{sub: sub, v: v, source: true, server: true}}
	}
	for b.Loop() {
		s.Set(samples)
		sub.pending, sub.held = sub.pending[:0], 0
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*len(samples)), "ns/value")
}
