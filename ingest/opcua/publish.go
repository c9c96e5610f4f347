package opcua

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gopcua/opcua/ua"
)

const (
	maxNotifications  = 10_000 // in one message
	maxPublishers     = 8
	maxHeld           = 1000 // messages that wait for an earlier one
	maxUndecodable    = 20   // answers in a row
	gapPatience       = 300 * time.Millisecond
	publishGrace      = 2 * time.Second
	messageUnreadable = "message_unreadable"
	messageLost       = "message_lost"
)

// link is a session with its subscriptions and monitored items.
type link struct {
	src       *Source
	sess      *session
	table     []*item // by client handle
	subs      map[uint32]*subscription
	order     []*subscription
	keepAlive time.Duration // at most so long apart are the messages of a subscription

	acksMu sync.Mutex
	acks   []*ua.SubscriptionAcknowledgement

	arrived    chan *delivery // from the publishers
	publishers atomic.Int32
	heard      atomic.Int64 // when the last answer came, ns of time.Since(began)
	began      time.Time
}

// subscription puts the messages of one subscription into order.
type subscription struct {
	id    uint32
	items []*item
	next  uint32               // number of the message that is due
	held  map[uint32]*delivery // came too early, by number
	upTo  uint32               // with gap: the messages before this one were sent
	gap   time.Time            // since when a message is missing
}

// delivery is one message with data, on its way to Read.
type delivery struct {
	table    []*item
	response *ua.PublishResponse
	message  *ua.NotificationMessage
	received int64
}

// open makes a session and monitors everything.
func (s *Source) open(ctx context.Context) (*link, error) {
	sess, err := s.cfg.openSession(ctx)
	if err != nil {
		return nil, err
	}
	l := &link{src: s, sess: sess, subs: map[uint32]*subscription{}, arrived: make(chan *delivery), began: time.Now()}
	if l.table, err = s.items(ctx, sess); err == nil {
		err = l.subscribe(ctx)
	}
	if err != nil {
		sess.close()
		return nil, err
	}
	return l, nil
}

// serve fetches notifications until the connection fails or ctx ends, and says
// which it was. When it returns nothing of it runs any more.
func (l *link) serve(ctx context.Context) error {
	ctx, fail := context.WithCancelCause(ctx)
	defer fail(nil)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer fail(nil)
	n := min(len(l.subs)+1, maxPublishers)
	l.publishers.Store(int32(n))
	for range n {
		wg.Add(1)
		go func() {
			defer wg.Done()
			if err := l.publish(ctx, n); err != nil {
				fail(err)
			}
		}()
	}
	wg.Add(1)
	go func() {
		defer wg.Done()
		if err := l.watch(ctx); err != nil {
			fail(err)
		}
	}()
	gaps := time.NewTicker(gapPatience / 2)
	defer gaps.Stop()
	retry := time.NewTicker(l.src.cfg.RetryNodes)
	defer retry.Stop()
	for {
		var err error
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case d := <-l.arrived:
			err = l.sequence(ctx, d)
		case <-gaps.C:
			err = l.fillGaps(ctx)
		case <-retry.C:
			err = l.retry(ctx)
		}
		if err != nil {
			fail(err)
			return context.Cause(ctx)
		}
	}
}

// publish keeps one publish request at the server. Several run at a time, so
// that the server always has one to answer.
func (l *link) publish(ctx context.Context, n int) error {
	// Every subscription answers at least once in a keep-alive interval, so a
	// request waits for at most as many of them as there are requests.
	timeout := l.keepAlive*time.Duration(n+1) + publishGrace
	unreadable := 0
	for {
		acks := l.takeAcks()
		res, err := send[*ua.PublishResponse](ctx, l.sess.channel, l.sess.token, timeout, &ua.PublishRequest{SubscriptionAcknowledgements: acks})
		var status ua.StatusCode
		var netErr net.Error
		switch {
		case ctx.Err() != nil:
			return nil
		case err == nil:
			unreadable = 0
			l.heard.Store(int64(time.Since(l.began)))
			d := &delivery{table: l.table, response: res, message: res.NotificationMessage, received: time.Now().UnixNano()}
			select {
			case l.arrived <- d:
			case <-ctx.Done():
				return nil
			}
		case errors.Is(err, ua.StatusBadTooManyPublishRequests):
			if l.publishers.Add(-1) >= 1 {
				return nil // the others go on
			}
			l.publishers.Add(1)
			if !sleep(ctx, time.Second) {
				return nil
			}
		case errors.Is(err, io.EOF) || errors.As(err, &netErr) || errors.Is(err, net.ErrClosed):
			return errors.New("the server closed the connection")
		case errors.As(err, &status) && status != ua.StatusBadEncodingLimitsExceeded && status != ua.StatusBadDecodingError:
			if status == ua.StatusBadTimeout {
				return errors.New("the server no longer publishes")
			}
			return fmt.Errorf("the server no longer publishes: %w", err)
		default: // the library cannot decode the answer; the next may be fine
			l.src.env.Meter.Dropped(l.src.env.Name, messageUnreadable, 1)
			l.src.log.Error("a message of the server cannot be decoded", "error", err)
			if unreadable++; unreadable >= maxUndecodable {
				return fmt.Errorf("the server sends nothing that can be decoded: %w", err)
			}
		}
	}
}

func (l *link) takeAcks() []*ua.SubscriptionAcknowledgement {
	l.acksMu.Lock()
	defer l.acksMu.Unlock()
	acks := l.acks
	l.acks = nil
	return acks
}

func (l *link) acknowledge(sub, seq uint32) {
	l.acksMu.Lock()
	l.acks = append(l.acks, &ua.SubscriptionAcknowledgement{SubscriptionID: sub, SequenceNumber: seq})
	l.acksMu.Unlock()
}

// watch tests the connection whenever the server has been silent for longer
// than it should: a peer that is gone without a word is noticed here.
func (l *link) watch(ctx context.Context) error {
	tick := time.NewTicker(max(l.src.cfg.KeepAlive/4, 10*time.Millisecond))
	defer tick.Stop()
	limit := l.src.cfg.KeepAlive * 3 / 2
	var tested time.Duration
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		now := time.Since(l.began)
		if now-max(time.Duration(l.heard.Load()), tested) < limit {
			continue
		}
		if err := l.sess.alive(ctx); err != nil && ctx.Err() == nil {
			return fmt.Errorf("the server does not answer: %w", err)
		}
		tested = time.Since(l.began)
	}
}

// after returns the number that follows seq: 0 is never used.
func after(seq uint32) uint32 { return max(seq+1, 1) }

// early reports whether message a comes before b; numbers wrap around.
func early(a, b uint32) bool { return int32(a-b) < 0 }

// sequence hands on the messages of each subscription in their order: the
// answers to several requests may overtake each other on the way here.
func (l *link) sequence(ctx context.Context, d *delivery) error {
	sub, msg := l.subs[d.response.SubscriptionID], d.message
	if sub == nil {
		return nil // of a subscription that was given up
	}
	seq := msg.SequenceNumber
	if len(msg.NotificationData) == 0 { // keep-alive: seq is yet to come
		if early(sub.next, seq) {
			sub.miss(seq)
		}
		return nil
	}
	l.acknowledge(sub.id, seq)
	switch {
	case early(seq, sub.next):
		return nil // had it
	case seq != sub.next:
		if len(sub.held) >= maxHeld {
			return fmt.Errorf("message %d of subscription %d does not come", sub.next, sub.id)
		}
		sub.held[seq] = d
		sub.miss(seq)
		return nil
	}
	return l.deliver(ctx, sub, d)
}

func (sub *subscription) miss(seq uint32) {
	if sub.gap.IsZero() {
		sub.gap, sub.upTo = time.Now(), seq
	} else if early(sub.upTo, seq) {
		sub.upTo = seq
	}
}

// deliver hands on the message that is due and those held that follow it.
func (l *link) deliver(ctx context.Context, sub *subscription, d *delivery) error {
	for d != nil {
		for _, data := range d.message.NotificationData {
			if change, ok := data.Value.(*ua.StatusChangeNotification); ok {
				return fmt.Errorf("the server ended a subscription: %w", change.Status)
			}
		}
		select {
		case l.src.deliveries <- d:
		case <-ctx.Done():
			return ctx.Err()
		}
		sub.next = after(sub.next)
		d = sub.held[sub.next]
		delete(sub.held, sub.next)
	}
	if !early(sub.next, sub.upTo) {
		sub.gap = time.Time{}
	}
	return nil
}

// fillGaps asks again for messages that have been missing for a while. What
// the server no longer has is lost, and counted.
func (l *link) fillGaps(ctx context.Context) error {
	for _, sub := range l.order {
		if sub.gap.IsZero() || time.Since(sub.gap) < gapPatience {
			continue
		}
		for early(sub.next, sub.upTo) {
			if d := sub.held[sub.next]; d != nil {
				delete(sub.held, sub.next)
				if err := l.deliver(ctx, sub, d); err != nil {
					return err
				}
				continue
			}
			seq := sub.next
			res, err := ask[*ua.RepublishResponse](ctx, l.sess, &ua.RepublishRequest{SubscriptionID: sub.id, RetransmitSequenceNumber: seq})
			var status ua.StatusCode
			switch {
			case err == nil:
				l.acknowledge(sub.id, seq)
				if err := l.deliver(ctx, sub, &delivery{table: l.table, message: res.NotificationMessage, received: time.Now().UnixNano()}); err != nil {
					return err
				}
			case errors.As(err, &status) && status == ua.StatusBadTimeout || errors.Is(err, io.EOF):
				return fmt.Errorf("asking again for a message: %w", err)
			default:
				l.src.log.Error("a message of the server is lost", "subscription", sub.id, "number", seq, "error", err)
				l.src.env.Meter.Dropped(l.src.env.Name, messageLost, 1)
				sub.next = after(seq)
			}
		}
		sub.gap = time.Time{}
		if d := sub.held[sub.next]; d != nil {
			delete(sub.held, sub.next)
			if err := l.deliver(ctx, sub, d); err != nil {
				return err
			}
		}
	}
	return nil
}

// sleep waits, and reports false when ctx ended first.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
