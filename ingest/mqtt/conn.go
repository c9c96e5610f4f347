package mqtt

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/url"
	"time"

	paho "github.com/eclipse/paho.mqtt.golang"

	"github.com/penstock/penstock/internal/quickack"
)

const (
	// readInterval is the shortest time from one read of the socket to the
	// next while packets trickle in. A lone packet is read at once; under load
	// a read brings all that came within the interval. At 5 000 messages/s
	// waking up is nearly all that a subscriber does: 2 ms cost half the CPU
	// time of 1 ms, and 4 ms save little more.
	readInterval = 2 * time.Millisecond
	readBuffer   = 64 << 10
)

// pacedConn reads its connection in bursts. It lies below TLS, so that the
// many small records of a broker that encrypts each message by itself come
// from memory.
//
// One goroutine reads. Deadlines and Close are those of the connection; a
// reader in its pause sees them up to readInterval late.
type pacedConn struct {
	net.Conn
	quick  func()    // after each read; see quickack.For
	last   time.Time // end of the last read
	full   bool      // it filled its buffer: there is more
	buffer []byte    // for small reads; allocated when one comes
	r, w   int
}

func newPacedConn(c net.Conn) *pacedConn { return &pacedConn{Conn: c, quick: quickack.For(c)} }

func (c *pacedConn) Read(p []byte) (int, error) {
	if c.r == c.w {
		if len(p) >= readBuffer/2 {
			return c.read(p)
		}
		if c.buffer == nil {
			c.buffer = make([]byte, readBuffer)
		}
		n, err := c.read(c.buffer)
		if n == 0 {
			return 0, err
		}
		c.r, c.w = 0, n
	}
	n := copy(p, c.buffer[c.r:c.w])
	c.r += n
	return n, nil
}

func (c *pacedConn) read(p []byte) (int, error) {
	if !c.full {
		if pause := readInterval - time.Since(c.last); pause > 0 {
			time.Sleep(pause)
		}
	}
	n, err := c.Conn.Read(p)
	c.last, c.full = time.Now(), n == len(p)
	c.quick()
	return n, err
}

// dial opens the transport that the URL names. A websocket is not paced:
// its library dials and buffers by itself.
func dial(ctx context.Context, u *url.URL, t *tls.Config, timeout time.Duration) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	switch u.Scheme {
	case "ws", "wss":
		return paho.NewWebsocket(u.String(), t, timeout, nil, nil)
	case "tcp", "mqtt", "ssl", "tls", "mqtts":
		raw, err := new(net.Dialer).DialContext(ctx, "tcp", u.Host)
		if err != nil {
			return nil, err
		}
		conn := net.Conn(newPacedConn(raw))
		if !encrypted(u) {
			return conn, nil
		}
		if t.ServerName == "" {
			t = t.Clone()
			t.ServerName = u.Hostname()
		}
		secure := tls.Client(conn, t)
		if err := secure.HandshakeContext(ctx); err != nil {
			raw.Close()
			return nil, err
		}
		return secure, nil
	}
	return nil, errors.New("unknown scheme " + u.Scheme)
}
