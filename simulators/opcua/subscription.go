package opcua

import (
	"context"
	"encoding/binary"
	"math"
	"time"

	"github.com/gopcua/opcua/id"
	"github.com/gopcua/opcua/ua"
)

const (
	// One message must fit into one chunk of 64 KiB, encryption included.
	maxMessageBytes    = 56 << 10
	maxPublishRequests = 100
	maxRetransmission  = 100
	maxSubscriptions   = 100
	epochOffset        = 116444736000000000 // 100 ns from 1601 to 1970
)

// subscription collects the notifications of its items, encoded, and sends
// them when its interval is over. The server's mutex guards it; a goroutine of
// its own sends.
type subscription struct {
	id       uint32
	srv      *Server
	sess     *session
	interval time.Duration
	most     int // notifications in one message
	items    map[uint32]*item

	pending []message // the last one is open
	held    int       // notifications in pending
	sent    []message // not acknowledged yet, oldest first
	seq     uint32    // of the last message

	keepAlive, lifetime uint32 // in intervals
	quiet, unserved     uint32 // intervals since the last message, since the last request
	started             bool   // has sent its first message
	late                bool   // waits for a publish request
	wake                chan struct{}
	cancel              context.CancelFunc
}

// message is a DataChangeNotification: its items, encoded one after another.
type message struct {
	seq   uint32
	count int
	body  []byte
}

// item is a monitored item.
type item struct {
	id     uint32
	sub    *subscription
	v      *variable
	handle [4]byte // the client's
	source bool    // send the source's time
	server bool    // send the server's time
}

type publishRequest struct {
	id  uint32
	req *ua.PublishRequest
	ack []ua.StatusCode
}

// Encode is what gopcua calls to write the notification.
func (m message) Encode() ([]byte, error) {
	b := make([]byte, 0, len(m.body)+8)
	b = binary.LittleEndian.AppendUint32(b, uint32(m.count))
	b = append(b, m.body...)
	return binary.LittleEndian.AppendUint32(b, math.MaxUint32), nil // no diagnostics
}

func (m message) notification() *ua.NotificationMessage {
	return &ua.NotificationMessage{SequenceNumber: m.seq, PublishTime: time.Now(), NotificationData: []*ua.ExtensionObject{{
		EncodingMask: ua.ExtensionObjectBinary, Value: m, TypeID: ua.NewFourByteExpandedNodeID(0, id.DataChangeNotification_Encoding_DefaultBinary)}}}
}

// push queues the variable's value for the item. The server's mutex is held.
func (sub *subscription) push(it *item, v *variable) {
	if n := len(sub.pending); n == 0 || sub.pending[n-1].count >= sub.most || len(sub.pending[n-1].body) > maxMessageBytes {
		if sub.held >= sub.srv.cfg.Buffer {
			oldest := sub.pending[0]
			sub.held -= oldest.count
			sub.pending = sub.pending[1:]
			sub.srv.lost.Add(int64(oldest.count))
			sub.srv.log.Warn("a client does not fetch its notifications: the oldest are lost", "client", sub.sess.conn.tcp.RemoteAddr(), "lost", oldest.count)
		}
		sub.pending = append(sub.pending, message{})
	}
	m := &sub.pending[len(sub.pending)-1]
	m.count++
	sub.held++

	q := v.sample.Quality
	b := append(m.body, it.handle[:]...)
	mask := len(b)
	b = append(b, 0)
	if q>>31 == 0 {
		b[mask] |= ua.DataValueValue
		b = append(b, byte(ua.TypeIDDouble))
		b = binary.LittleEndian.AppendUint64(b, math.Float64bits(v.sample.Value))
	}
	if q != 0 {
		b[mask] |= ua.DataValueStatusCode
		b = binary.LittleEndian.AppendUint32(b, q)
	}
	if it.source {
		b[mask] |= ua.DataValueSourceTimestamp
		b = binary.LittleEndian.AppendUint64(b, uint64(v.sample.Time/100+epochOffset))
	}
	if it.server {
		b[mask] |= ua.DataValueServerTimestamp
		b = binary.LittleEndian.AppendUint64(b, uint64(v.server/100+epochOffset))
	}
	m.body = b
}

func (s *Server) createSubscription(sess *session, r *ua.CreateSubscriptionRequest) (ua.Response, error) {
	if len(s.subs) >= maxSubscriptions {
		return nil, ua.StatusBadTooManySubscriptions
	}
	ms := r.RequestedPublishingInterval
	if !(ms >= 1) { // NaN too
		ms = 1
	}
	ms = min(ms, 60_000)
	s.nextSub++
	ctx, cancel := context.WithCancel(context.Background())
	sub := &subscription{id: s.nextSub, srv: s, sess: sess, interval: time.Duration(ms * float64(time.Millisecond)), items: map[uint32]*item{},
		most: int(r.MaxNotificationsPerPublish), keepAlive: max(r.RequestedMaxKeepAliveCount, 1), wake: make(chan struct{}, 1), cancel: cancel}
	sub.lifetime = max(r.RequestedLifetimeCount, 3*sub.keepAlive)
	if sub.most == 0 {
		sub.most = math.MaxInt
	}
	s.subs[sub.id] = sub
	s.wg.Add(1)
	go func() {
		defer s.wg.Done()
		sub.run(ctx)
	}()
	return &ua.CreateSubscriptionResponse{ResponseHeader: header(r, ua.StatusOK), SubscriptionID: sub.id, RevisedPublishingInterval: ms,
		RevisedLifetimeCount: sub.lifetime, RevisedMaxKeepAliveCount: sub.keepAlive}, nil
}

// dropSubscription forgets a subscription; what it holds is lost. s.mu is held.
func (s *Server) dropSubscription(sub *subscription) {
	if s.subs[sub.id] != sub {
		return
	}
	delete(s.subs, sub.id)
	sub.cancel()
	for _, it := range sub.items {
		it.detach()
	}
	s.lost.Add(int64(sub.held))
	sub.items, sub.pending, sub.held = nil, nil, 0
	s.itemsChanged()
}

func (it *item) detach() {
	for i, other := range it.v.items {
		if other == it {
			it.v.items = append(it.v.items[:i:i], it.v.items[i+1:]...)
			return
		}
	}
}

func (s *Server) deleteSubscriptions(sess *session, r *ua.DeleteSubscriptionsRequest) (ua.Response, error) {
	results := make([]ua.StatusCode, len(r.SubscriptionIDs))
	for i, subID := range r.SubscriptionIDs {
		if sub := s.subs[subID]; sub != nil && sub.sess == sess {
			s.dropSubscription(sub)
		} else {
			results[i] = ua.StatusBadSubscriptionIDInvalid
		}
	}
	return &ua.DeleteSubscriptionsResponse{ResponseHeader: header(r, ua.StatusOK), Results: results}, nil
}

func (s *Server) createMonitoredItems(sess *session, r *ua.CreateMonitoredItemsRequest) (ua.Response, error) {
	sub := s.subs[r.SubscriptionID]
	if sub == nil || sub.sess != sess {
		return nil, ua.StatusBadSubscriptionIDInvalid
	}
	if len(r.ItemsToCreate) > maxItemsPerCall {
		return nil, ua.StatusBadTooManyOperations
	}
	results := make([]*ua.MonitoredItemCreateResult, len(r.ItemsToCreate))
	ts := r.TimestampsToReturn
	for i, c := range r.ItemsToCreate {
		res := &ua.MonitoredItemCreateResult{FilterResult: ua.NewExtensionObject(nil)}
		results[i] = res
		n := s.space.nodes[c.ItemToMonitor.NodeID.String()]
		switch {
		case n == nil:
			res.StatusCode = ua.StatusBadNodeIDUnknown
			continue
		case n.variable == nil || c.ItemToMonitor.AttributeID != ua.AttributeIDValue:
			res.StatusCode = ua.StatusBadAttributeIDInvalid
			continue
		}
		s.nextItem++
		it := &item{id: s.nextItem, sub: sub, v: n.variable,
			source: ts == ua.TimestampsToReturnSource || ts == ua.TimestampsToReturnBoth, server: ts == ua.TimestampsToReturnServer || ts == ua.TimestampsToReturnBoth}
		binary.LittleEndian.PutUint32(it.handle[:], c.RequestedParameters.ClientHandle)
		sub.items[it.id] = it
		it.v.items = append(it.v.items, it)
		if it.v.set {
			sub.push(it, it.v)
			s.published.Add(1)
		}
		res.MonitoredItemID = it.id
		res.RevisedSamplingInterval = float64(sub.interval) / float64(time.Millisecond)
		res.RevisedQueueSize = max(c.RequestedParameters.QueueSize, 1)
	}
	s.itemsChanged()
	return &ua.CreateMonitoredItemsResponse{ResponseHeader: header(r, ua.StatusOK), Results: results}, nil
}

func (s *Server) deleteMonitoredItems(sess *session, r *ua.DeleteMonitoredItemsRequest) (ua.Response, error) {
	sub := s.subs[r.SubscriptionID]
	if sub == nil || sub.sess != sess {
		return nil, ua.StatusBadSubscriptionIDInvalid
	}
	results := make([]ua.StatusCode, len(r.MonitoredItemIDs))
	for i, itemID := range r.MonitoredItemIDs {
		if it := sub.items[itemID]; it != nil {
			it.detach()
			delete(sub.items, itemID)
		} else {
			results[i] = ua.StatusBadMonitoredItemIDInvalid
		}
	}
	s.itemsChanged()
	return &ua.DeleteMonitoredItemsResponse{ResponseHeader: header(r, ua.StatusOK), Results: results}, nil
}

// publish queues a publish request: a subscription answers it when it has
// something to say.
func (s *Server) publish(sess *session, r *ua.PublishRequest, reqID uint32) (ua.Response, error) {
	if len(sess.requests) >= maxPublishRequests {
		return nil, ua.StatusBadTooManyPublishRequests
	}
	any := false
	for _, sub := range s.subs {
		if sub.sess == sess {
			any = true
			if sub.late {
				select {
				case sub.wake <- struct{}{}:
				default:
				}
			}
		}
	}
	if !any {
		return nil, ua.StatusBadNoSubscription
	}
	ack := make([]ua.StatusCode, len(r.SubscriptionAcknowledgements))
	for i, a := range r.SubscriptionAcknowledgements {
		ack[i] = ua.StatusBadSequenceNumberUnknown
		if sub := s.subs[a.SubscriptionID]; sub == nil || sub.sess != sess {
			ack[i] = ua.StatusBadSubscriptionIDInvalid
		} else {
			for j, m := range sub.sent {
				if m.seq == a.SequenceNumber {
					sub.sent = append(sub.sent[:j:j], sub.sent[j+1:]...)
					ack[i] = ua.StatusOK
					break
				}
			}
		}
	}
	sess.requests = append(sess.requests, publishRequest{id: reqID, req: r, ack: ack})
	return nil, nil
}

func (s *Server) republish(sess *session, r *ua.RepublishRequest) (ua.Response, error) {
	sub := s.subs[r.SubscriptionID]
	if sub == nil || sub.sess != sess {
		return nil, ua.StatusBadSubscriptionIDInvalid
	}
	for _, m := range sub.sent {
		if m.seq == r.RetransmitSequenceNumber {
			return &ua.RepublishResponse{ResponseHeader: header(r, ua.StatusOK), NotificationMessage: m.notification()}, nil
		}
	}
	return nil, ua.StatusBadMessageNotAvailable
}

// run is the subscription's clock.
func (sub *subscription) run(ctx context.Context) {
	tick := time.NewTicker(sub.interval)
	defer tick.Stop()
	for {
		ticked := false
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			ticked = true
		case <-sub.wake:
		}
		for {
			req, resp := sub.next(ticked)
			if resp == nil {
				break
			}
			ticked = false
			if sub.sess.conn.sc.SendResponseWithContext(ctx, req.id, resp) != nil {
				sub.sess.conn.tcp.Close() // the reader of the connection cleans up
				return
			}
		}
	}
}

// next returns the message that is due and the request that it answers, nil
// when there is none.
func (sub *subscription) next(ticked bool) (publishRequest, ua.Response) {
	s := sub.srv
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.subs[sub.id] != sub {
		return publishRequest{}, nil
	}
	if ticked {
		sub.quiet++
		sub.unserved++
	}
	due := sub.held > 0 || sub.quiet >= sub.keepAlive || !sub.started
	if !due {
		sub.unserved = 0
		return publishRequest{}, nil
	}
	sub.late = len(sub.sess.requests) == 0
	if sub.late {
		if sub.unserved > sub.lifetime {
			s.log.Warn("a client asks for nothing any more: its subscription ends", "client", sub.sess.conn.tcp.RemoteAddr())
			s.dropSubscription(sub)
		}
		return publishRequest{}, nil
	}
	req := sub.sess.requests[0]
	sub.sess.requests = sub.sess.requests[1:]
	sub.quiet, sub.unserved, sub.started = 0, 0, true
	resp := &ua.PublishResponse{ResponseHeader: header(req.req, ua.StatusOK), SubscriptionID: sub.id, Results: req.ack}
	if sub.held == 0 { // keep-alive: the number of the next message
		resp.NotificationMessage = &ua.NotificationMessage{SequenceNumber: max(sub.seq+1, 1), PublishTime: time.Now()}
		return req, resp
	}
	m := sub.pending[0]
	sub.pending[0] = message{}
	sub.pending = sub.pending[1:]
	sub.held -= m.count
	sub.seq = max(sub.seq+1, 1)
	m.seq = sub.seq
	if len(sub.sent) >= maxRetransmission {
		sub.sent = sub.sent[1:]
	}
	sub.sent = append(sub.sent, m)
	for _, kept := range sub.sent {
		resp.AvailableSequenceNumbers = append(resp.AvailableSequenceNumbers, kept.seq)
	}
	resp.MoreNotifications = sub.held > 0
	resp.NotificationMessage = m.notification()
	return req, resp
}
