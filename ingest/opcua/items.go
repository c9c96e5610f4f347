package opcua

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/gopcua/opcua/id"
	"github.com/gopcua/opcua/ua"

	"github.com/penstock/penstock/ingest"
)

// item is a variable that is monitored, or is to be. Its place in the table is
// the handle that its notifications carry.
type item struct {
	text   string // the node id as the YAML or the server writes it
	node   *ua.NodeID
	tag    string
	params ua.MonitoringParameters
	status ua.StatusCode // of the last attempt to monitor it

	// What follows belongs to Read.
	resolved bool
	id       ingest.TagID
	elements []ingest.TagID // of an array, as far as seen
	odd      bool           // a value of it was left out, and that was logged
}

// items makes the table of one session: the listed nodes, then what browsing
// finds. Node ids are looked up anew in each session, as servers may number
// their namespaces differently after a restart.
func (s *Source) items(ctx context.Context, sess *session) ([]*item, error) {
	var table []*item
	byNode, byTag := map[string]bool{}, map[string]bool{}
	add := func(it *item, listed bool) {
		if it.node != nil {
			if key := it.node.String(); byNode[key] && !listed {
				return // listed and browsed: the list decides
			} else {
				byNode[key] = true
			}
		}
		if byTag[it.tag] {
			s.refused(it, "another node has this tag already; give it another `tag` in browse")
			return
		}
		byTag[it.tag] = true
		table = append(table, it)
	}
	for i := range s.cfg.Nodes {
		n := &s.cfg.Nodes[i]
		it := &item{text: n.ID, tag: n.Tag, params: s.params(n)}
		if ex, err := ua.ParseExpandedNodeID(n.ID, sess.namespaces); err == nil {
			it.node = ex.NodeID
		} else {
			it.status = ua.StatusBadNodeIDUnknown
			s.refused(it, err.Error())
		}
		add(it, true)
	}
	for i := range s.cfg.Browse {
		b := &s.cfg.Browse[i]
		ex, err := ua.ParseExpandedNodeID(b.Root, sess.namespaces)
		if err != nil {
			s.log.Error("a subtree cannot be browsed", "root", b.Root, "error", err)
			s.env.Meter.Dropped(s.env.Name, "node_refused", 1)
			continue
		}
		list, truncated, err := sess.browse(ctx, ex.NodeID, b, func(node *ua.NodeID, status ua.StatusCode) {
			s.log.Warn("the server does not let a node be browsed", "root", b.Root, "node", node, "status", status)
			s.env.Meter.Dropped(s.env.Name, "node_refused", 1)
		})
		if err != nil {
			return nil, err
		}
		if truncated {
			s.log.Warn("a subtree has more variables than max_nodes; the others are not read", "root", b.Root, "read", len(list))
		}
		if len(list) == 0 {
			s.log.Warn("there are no variables in this subtree, or include and exclude leave none", "root", b.Root)
		}
		for _, f := range list {
			add(&item{text: f.node.String(), node: f.node, tag: b.tag(f), params: s.params(&Node{})}, false)
		}
	}
	for handle, it := range table {
		it.params.ClientHandle = uint32(handle)
	}
	return table, nil
}

// refused logs and counts a node that will not be read.
func (s *Source) refused(it *item, why string) {
	s.log.Error("a node is not read", "node", it.text, "tag", it.tag, "reason", why, "retry_in", s.cfg.RetryNodes)
	s.env.Meter.Dropped(s.env.Name, "node_refused", 1)
}

// params turns the settings of a node into what the server is asked for.
func (s *Source) params(n *Node) ua.MonitoringParameters {
	sampling, queue := n.SamplingInterval, n.QueueSize
	if sampling == 0 {
		sampling = s.cfg.SamplingInterval
	}
	if queue == 0 {
		queue = s.cfg.QueueSize
	}
	p := ua.MonitoringParameters{SamplingInterval: milliseconds(sampling), QueueSize: queue, DiscardOldest: true, Filter: ua.NewExtensionObject(nil)}
	if n.Deadband > 0 || s.cfg.Trigger != "value" {
		f := &ua.DataChangeFilter{Trigger: map[Trigger]ua.DataChangeTrigger{"status": ua.DataChangeTriggerStatus, "value": ua.DataChangeTriggerStatusValue,
			"timestamp": ua.DataChangeTriggerStatusValueTimestamp}[s.cfg.Trigger]}
		if n.Deadband > 0 {
			f.DeadbandType, f.DeadbandValue = uint32(ua.DeadbandTypeAbsolute), n.Deadband
			if n.DeadbandType == "percent" {
				f.DeadbandType = uint32(ua.DeadbandTypePercent)
			}
		}
		p.Filter = &ua.ExtensionObject{EncodingMask: ua.ExtensionObjectBinary, Value: f, TypeID: ua.NewFourByteExpandedNodeID(0, id.DataChangeFilter_Encoding_DefaultBinary)}
	}
	return p
}

func milliseconds(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// subscribe makes the subscriptions of a session and monitors the items of the
// table, items_per_subscription in each.
func (l *link) subscribe(ctx context.Context) error {
	for at := 0; at < len(l.table) || len(l.subs) == 0; at += l.src.cfg.ItemsPerSubscription {
		sub, err := l.newSubscription(ctx)
		if err != nil {
			var status ua.StatusCode
			if len(l.subs) > 0 && errors.As(err, &status) && status == ua.StatusBadTooManySubscriptions {
				l.src.log.Warn("the server allows no further subscription: the last one gets all other nodes", "subscriptions", len(l.subs))
				last := l.order[len(l.order)-1]
				last.items = append(last.items, l.table[at:]...)
				return l.monitor(ctx, last, l.table[at:], true)
			}
			return err
		}
		sub.items = l.table[at:min(at+l.src.cfg.ItemsPerSubscription, len(l.table))]
		if err := l.monitor(ctx, sub, sub.items, true); err != nil {
			return err
		}
	}
	return nil
}

func (l *link) newSubscription(ctx context.Context) (*subscription, error) {
	c := &l.src.cfg
	keepAlive := max(uint32(c.KeepAlive/c.PublishingInterval), 1)
	res, err := ask[*ua.CreateSubscriptionResponse](ctx, l.sess, &ua.CreateSubscriptionRequest{PublishingEnabled: true,
		RequestedPublishingInterval: milliseconds(c.PublishingInterval), RequestedMaxKeepAliveCount: keepAlive,
		RequestedLifetimeCount: max(uint32(10*time.Minute/c.PublishingInterval), 10*keepAlive), MaxNotificationsPerPublish: maxNotifications})
	if err != nil {
		return nil, fmt.Errorf("creating a subscription: %w", err)
	}
	if l.subs[res.SubscriptionID] != nil {
		return nil, fmt.Errorf("the server gives two subscriptions the id %d", res.SubscriptionID)
	}
	sub := &subscription{id: res.SubscriptionID, next: 1, held: map[uint32]*delivery{}}
	interval := time.Duration(res.RevisedPublishingInterval * float64(time.Millisecond))
	l.keepAlive = max(l.keepAlive, interval*time.Duration(max(res.RevisedMaxKeepAliveCount, 1)))
	if interval > c.PublishingInterval {
		l.src.log.Info("the server publishes less often than asked", "asked", c.PublishingInterval, "given", interval)
	}
	l.subs[sub.id] = sub
	l.order = append(l.order, sub)
	return sub, nil
}

// monitor asks the server to monitor the items in sub; the items keep the
// answer. It fails only when the connection does.
func (l *link) monitor(ctx context.Context, sub *subscription, items []*item, first bool) error {
	per := l.sess.perMonitor
	var batch []*item
	for len(items) > 0 || len(batch) > 0 {
		for len(batch) < per && len(items) > 0 {
			if items[0].node != nil {
				batch = append(batch, items[0])
			}
			items = items[1:]
		}
		if len(batch) == 0 {
			return nil
		}
		req := &ua.CreateMonitoredItemsRequest{SubscriptionID: sub.id, TimestampsToReturn: l.src.timestamps()}
		for _, it := range batch[:min(per, len(batch))] {
			params := it.params
			req.ItemsToCreate = append(req.ItemsToCreate, &ua.MonitoredItemCreateRequest{ItemToMonitor: readValue(it.node),
				MonitoringMode: ua.MonitoringModeReporting, RequestedParameters: &params})
		}
		res, err := ask[*ua.CreateMonitoredItemsResponse](ctx, l.sess, req)
		if n := len(req.ItemsToCreate); n > 1 && (errors.Is(err, ua.StatusBadTooManyOperations) || errors.Is(err, ua.StatusBadRequestTooLarge) ||
			errors.Is(err, ua.StatusBadEncodingLimitsExceeded)) {
			per = n / 2
			continue
		}
		if err != nil {
			return fmt.Errorf("monitoring nodes: %w", err)
		}
		if len(res.Results) != len(req.ItemsToCreate) {
			return fmt.Errorf("monitoring nodes: %w", ua.StatusBadUnknownResponse)
		}
		for i, r := range res.Results {
			it := batch[i]
			bad := uint32(r.StatusCode)>>31 == 1
			switch {
			case bad && (first || it.status != r.StatusCode):
				l.src.refused(it, r.StatusCode.Error())
			case !bad && !first:
				l.src.log.Info("a node is read now", "node", it.text, "tag", it.tag)
			}
			if it.status = r.StatusCode; !bad {
				it.status = ua.StatusOK
			}
		}
		batch = batch[len(res.Results):]
	}
	return nil
}

// retry tries again to monitor what the server refused.
func (l *link) retry(ctx context.Context) error {
	for _, sub := range l.order {
		var failed []*item
		for _, it := range sub.items {
			if it.status != ua.StatusOK && it.node != nil {
				failed = append(failed, it)
			}
		}
		if err := l.monitor(ctx, sub, failed, false); err != nil {
			return err
		}
	}
	return nil
}

func (l *link) monitored() (n int) {
	for _, it := range l.table {
		if it.status == ua.StatusOK {
			n++
		}
	}
	return n
}

func (s *Source) timestamps() ua.TimestampsToReturn {
	switch s.cfg.Timestamps {
	case "server":
		return ua.TimestampsToReturnServer
	case "received":
		return ua.TimestampsToReturnNeither
	}
	return ua.TimestampsToReturnBoth
}
