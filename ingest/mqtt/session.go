package mqtt

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/cenkalti/backoff/v5"
	paho "github.com/eclipse/paho.mqtt.golang"
	"github.com/eclipse/paho.mqtt.golang/packets"

	"github.com/penstock/penstock/pipeline"
)

// settled is how long a connection must last for the next one to be tried at
// once, without back-off.
const settled = 10 * time.Second

// session keeps the source connected. Each connection has a paho client of its
// own: paho's own reconnect neither says why it fails nor can be stopped.
type session struct {
	s      *Source
	id     string
	user   string
	urls   []*url.URL
	tls    *tls.Config
	ctx    context.Context // until close
	cancel context.CancelFunc
	keeper sync.WaitGroup

	lock    sync.Mutex
	client  paho.Client
	tap     *tap
	lost    chan error // of the connection at hand
	since   time.Time
	keeping bool
}

func (n *session) init(s *Source) error {
	n.s, n.id, n.user, n.urls = s, clientID(&s.cfg, &s.env), s.cfg.Username, s.cfg.urls()
	if len(n.urls) == 0 {
		return errors.New("mqtt: no broker")
	}
	var err error
	if n.tls, err = s.cfg.TLS.load(); err != nil {
		return fmt.Errorf("tls: %w", err)
	}
	n.ctx, n.cancel = context.WithCancel(context.Background())
	for _, u := range n.urls {
		switch {
		case encrypted(u) && n.tls.InsecureSkipVerify:
			s.log.Warn("TLS CERTIFICATE CHECKS ARE OFF: anybody in between can read and change the data; set tls.ca and remove insecure_skip_verify", "broker", u.String())
		case !encrypted(u) && s.cfg.Password != "" && !loopback(u):
			s.log.Warn("the password goes over the network in the clear; use ssl://", "broker", u.String())
		}
	}
	return nil
}

func loopback(u *url.URL) bool {
	ip := net.ParseIP(u.Hostname())
	return u.Hostname() == "localhost" || ip != nil && ip.IsLoopback()
}

func (n *session) brokers() string {
	var list []string
	for _, u := range n.urls {
		list = append(list, u.String())
	}
	return strings.Join(list, ", ")
}

// Connect makes the first connection and subscribes. A broker that refuses the
// user, the client id or a subscription is a permanent error.
func (s *Source) Connect(ctx context.Context) error {
	n := &s.session
	if err := n.connect(ctx, true); err != nil {
		return err
	}
	n.lock.Lock()
	defer n.lock.Unlock()
	if !n.keeping && n.ctx.Err() == nil {
		n.keeping = true
		n.keeper.Go(n.keep)
	}
	return nil
}

// connect makes one connection. The subscriptions are made anew unless the
// broker has kept them since this process made them: it would send retained
// messages again.
func (n *session) connect(ctx context.Context, first bool) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(n.ctx, cancel)()

	var lock sync.Mutex
	var current *tap
	lost := make(chan error, 1)
	cfg := &n.s.cfg
	o := paho.NewClientOptions()
	for _, u := range n.urls {
		o.AddBroker(u.String())
	}
	o.SetClientID(n.id).SetUsername(n.user).SetPassword(string(cfg.Password)).SetCleanSession(cfg.CleanSession).
		SetKeepAlive(cfg.KeepAlive).SetConnectTimeout(cfg.ConnectTimeout).SetProtocolVersion(4).
		SetAutoReconnect(false).SetAutoAckDisabled(true).
		SetConnectionLostHandler(func(_ paho.Client, err error) { lost <- err })
	o.SetCustomOpenConnectionFn(func(u *url.URL, _ paho.ClientOptions) (net.Conn, error) {
		conn, err := dial(ctx, u, n.tls, cfg.ConnectTimeout)
		if err != nil {
			return nil, err
		}
		t := newTap(conn, n.s, int(cfg.MaxPayload))
		context.AfterFunc(ctx, func() {
			lock.Lock()
			defer lock.Unlock()
			if current == t {
				t.Close()
			}
		})
		lock.Lock()
		current = t
		lock.Unlock()
		return t, nil
	})
	client := paho.NewClient(o)
	token := client.Connect().(*paho.ConnectToken)
	<-token.Done() // the connect timeout bounds it
	if err := token.Error(); err != nil {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		return n.explain(token.ReturnCode(), err)
	}
	lock.Lock()
	t := current
	lock.Unlock()
	if first || !t.session.Load() {
		if err := n.subscribe(ctx, client, lost); err != nil {
			client.Disconnect(100)
			t.Close()
			return err
		}
	}
	lock.Lock()
	current = nil // ctx ending no longer closes it
	lock.Unlock()

	n.lock.Lock()
	n.client, n.tap, n.lost, n.since = client, t, lost, time.Now()
	n.lock.Unlock()
	n.s.env.Meter.Connected(n.s.env.Name, true)
	n.s.log.Info("connected to broker", "broker", n.brokers(), "client_id", n.id, "session_kept", t.session.Load())
	return nil
}

// explain says what the broker's answer to CONNECT means.
func (n *session) explain(code byte, err error) error {
	at := fmt.Sprintf("broker %s refused client %q, user %q: ", n.brokers(), n.id, n.user)
	switch code {
	case packets.ErrRefusedBadUsernameOrPassword, packets.ErrRefusedNotAuthorised:
		return pipeline.Permanent(errors.New(at + "wrong user name or password, or not authorised; check username and password"))
	case packets.ErrRefusedIDRejected:
		return pipeline.Permanent(errors.New(at + "the client id is not accepted; set client_id"))
	case packets.ErrRefusedBadProtocolVersion:
		return pipeline.Permanent(errors.New(at + "it does not speak MQTT 3.1.1"))
	case packets.ErrRefusedServerUnavailable:
		return errors.New(at + "it is not available")
	}
	var cert *tls.CertificateVerificationError
	if errors.As(err, &cert) {
		return fmt.Errorf("broker %s has a certificate that cannot be trusted (check tls.ca, tls.server_name, its dates and this machine's clock): %w", n.brokers(), cert.Err)
	}
	return fmt.Errorf("broker %s cannot be reached: %w", n.brokers(), err)
}

// subscribe asks for all topics and checks what the broker granted.
func (n *session) subscribe(ctx context.Context, client paho.Client, lost <-chan error) error {
	filters := subscriptions(n.s.cfg.Topics)
	token := client.SubscribeMultiple(filters, nil).(*paho.SubscribeToken)
	timeout := time.NewTimer(n.s.cfg.ConnectTimeout)
	defer timeout.Stop()
	select {
	case <-token.Done():
	case err := <-lost:
		return fmt.Errorf("broker %s hung up when asked to subscribe: %w", n.brokers(), err)
	case <-timeout.C:
		return fmt.Errorf("broker %s does not answer to subscribe", n.brokers())
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	if err := token.Error(); err != nil {
		return fmt.Errorf("broker %s: subscribe: %w", n.brokers(), err)
	}
	granted := token.Result()
	var refused []string
	for topic, asked := range filters {
		switch q, ok := granted[topic]; {
		case !ok || q == 0x80:
			refused = append(refused, topic)
		case q < asked:
			n.s.log.Warn("the broker grants a lower QoS than asked for", "topic", topic, "asked", asked, "granted", q)
		}
	}
	slices.Sort(refused)
	if len(refused) > 0 {
		return pipeline.Permanent(fmt.Errorf("broker %s refused user %q the subscription to %s: check its access rules", n.brokers(), n.user, strings.Join(refused, ", ")))
	}
	return nil
}

// keep reconnects for ever.
func (n *session) keep() {
	b := backoff.NewExponentialBackOff()
	b.InitialInterval, b.MaxInterval = 200*time.Millisecond, 30*time.Second
	for {
		n.lock.Lock()
		lost, since, t := n.lost, n.since, n.tap
		n.lock.Unlock()
		var err error
		select {
		case err = <-lost:
		case <-n.ctx.Done():
			return
		}
		t.Close()
		n.s.env.Meter.Connected(n.s.env.Name, false)
		hint := ""
		if time.Since(since) > settled {
			b.Reset()
		} else {
			hint = "; if this goes on, another client may use the same client_id"
		}
		n.s.log.Warn("connection to broker lost, reconnecting"+hint, "broker", n.brokers(), "client_id", n.id, "error", err)
		for attempt := 1; ; attempt++ {
			select {
			case <-time.After(b.NextBackOff()):
			case <-n.ctx.Done():
				return
			}
			err := n.connect(n.ctx, false)
			if err == nil {
				break
			}
			if n.ctx.Err() != nil {
				return
			}
			n.s.log.Warn("reconnect failed, trying again", "attempt", attempt, "error", err)
		}
	}
}

// close disconnects, when the broker has taken in what is queued in the tap.
func (n *session) close(ctx context.Context) error {
	n.cancel()
	n.keeper.Wait()
	n.lock.Lock()
	defer n.lock.Unlock()
	if n.client == nil {
		return nil
	}
	quiesce := time.Second
	if d, ok := ctx.Deadline(); ok {
		quiesce = min(max(time.Until(d), 0), quiesce)
	}
	n.tap.settle(quiesce)
	n.client.Disconnect(uint(quiesce / time.Millisecond))
	n.tap.Close()
	n.client = nil
	n.s.env.Meter.Connected(n.s.env.Name, false)
	return nil
}
