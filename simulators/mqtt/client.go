// Package mqtt is the devices of the simulated plant that publish to an MQTT
// broker, and a load generator that costs little CPU.
package mqtt

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"time"

	"github.com/penstock/penstock/internal/quickack"
)

// window is how many messages may await their acknowledgement: more and the
// broker and we could both be writing, and neither reading.
const window = 256

// stall is how long a broker may keep us waiting for a byte.
const stall = 30 * time.Second

// MQTT 3.1.1 packet types (section 2.2.1).
const (
	connack = 2
	publish = 3
	puback  = 4
	pubrec  = 5
	pubrel  = 6
	pubcomp = 7
)

// client is an MQTT 3.1.1 connection that only publishes. One goroutine
// uses it: whoever publishes reads the acknowledgements too, so that nothing
// waits and nothing is handed over.
type client struct {
	conn  net.Conn
	r     *bufio.Reader
	w     *bufio.Writer
	quick func()
}

// connect opens a connection and a session that the broker keeps. ctx bounds
// the attempt.
func connect(ctx context.Context, c *Config) (*client, error) {
	u, err := url.Parse(c.Broker)
	if err != nil {
		return nil, err
	}
	var conn net.Conn
	switch u.Scheme {
	case "tcp", "mqtt":
		conn, err = new(net.Dialer).DialContext(ctx, "tcp", u.Host)
	case "ssl", "tls", "mqtts":
		conn, err = (&tls.Dialer{Config: c.TLS}).DialContext(ctx, "tcp", u.Host)
	default:
		err = fmt.Errorf("broker %q: write tcp://host:port or ssl://host:port", c.Broker)
	}
	if err != nil {
		return nil, err
	}
	raw := conn
	if t, ok := conn.(*tls.Conn); ok {
		raw = t.NetConn()
	}
	k := &client{conn: conn, r: bufio.NewReaderSize(conn, 16<<10), w: bufio.NewWriterSize(conn, 64<<10), quick: quickack.For(raw)}
	if err := k.hello(ctx, c); err != nil {
		conn.Close()
		return nil, fmt.Errorf("broker %s: %w", c.Broker, err)
	}
	return k, nil
}

// during makes ctx break the connection until the function it returns is
// called.
func (k *client) during(ctx context.Context) (end func() bool) {
	return context.AfterFunc(ctx, func() { k.conn.Close() })
}

func (k *client) hello(ctx context.Context, c *Config) error {
	defer k.during(ctx)()
	flags := byte(0)
	if c.ClientID == "" {
		flags |= 2 // clean session
	}
	var body []byte
	body = str(body, "MQTT")
	at := len(body) + 1
	body = append(body, 4, 0, 0, 0) // level, flags, keep alive: none
	body = str(body, c.ClientID)
	if c.User != "" {
		flags |= 0x80
		body = str(body, c.User)
		if c.Password != "" {
			flags |= 0x40
			body = str(body, c.Password)
		}
	}
	body[at] = flags
	k.w.WriteByte(0x10)
	k.w.Write(binary.AppendUvarint(nil, uint64(len(body)))) // MQTT's remaining length is a uvarint
	k.w.Write(body)
	if err := k.w.Flush(); err != nil {
		return err
	}
	kind, answer, err := k.read()
	switch {
	case err != nil:
		return err
	case kind != connack:
		return fmt.Errorf("answered CONNECT with a packet of type %d", kind)
	case answer != 0:
		return fmt.Errorf("refused the connection: code %d", byte(answer))
	}
	return nil
}

func str(b []byte, s string) []byte {
	b = binary.BigEndian.AppendUint16(b, uint16(len(s)))
	return append(b, s...)
}

// read reads one packet: all that a publisher gets have two bytes, a packet id
// or, of CONNACK, the return code in the lower one.
func (k *client) read() (kind byte, id uint16, err error) {
	if err := k.conn.SetReadDeadline(time.Now().Add(stall)); err != nil {
		return 0, 0, err
	}
	waits := k.r.Buffered() == 0
	head, err := k.r.ReadByte()
	if err != nil {
		return 0, 0, err
	}
	if waits {
		k.quick()
	}
	n, err := binary.ReadUvarint(k.r)
	if err != nil {
		return 0, 0, err
	}
	if n != 2 {
		return 0, 0, fmt.Errorf("sent a packet of type %d with %d bytes", head>>4, n)
	}
	var b [2]byte
	if _, err := io.ReadFull(k.r, b[:]); err != nil {
		return 0, 0, err
	}
	id = binary.BigEndian.Uint16(b[:])
	if head>>4 == connack {
		id &= 0xff
	}
	return head >> 4, id, nil
}

// acknowledged waits for the next message to be acknowledged for good, and
// returns its packet id.
func (k *client) acknowledged() (uint16, error) {
	for {
		if k.r.Buffered() == 0 {
			if err := k.w.Flush(); err != nil {
				return 0, err
			}
		}
		kind, id, err := k.read()
		if err != nil {
			return 0, err
		}
		switch kind {
		case puback, pubcomp:
			return id, nil
		case pubrec:
			if _, err := k.w.Write([]byte{pubrel<<4 | 2, 2, byte(id >> 8), byte(id)}); err != nil {
				return 0, err
			}
		default:
			return 0, fmt.Errorf("sent a packet of type %d to a publisher", kind)
		}
	}
}

// close says DISCONNECT.
func (k *client) close() error {
	_, err := k.w.Write([]byte{0xe0, 0})
	return errors.Join(err, k.w.Flush(), k.conn.Close())
}
