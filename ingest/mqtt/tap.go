package mqtt

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// MQTT 3.1.1 control packet types (section 2.2.1).
const (
	typeConnack  = 2
	typePublish  = 3
	typePuback   = 4
	typePubrec   = 5
	typePubrel   = 6
	typePubcomp  = 7
	typePingreq  = 12
	typePingresp = 13
)

// writeTimeout is how long a broker may take no bytes before the connection
// counts as lost.
const writeTimeout = 30 * time.Second

// maxControl bounds a packet that is not a PUBLISH.
const maxControl = 64 << 10

var pingresp = []byte{typePingresp << 4, 0}

// message is one PUBLISH packet. Topic and payload lie in the tap's buffer and
// are good until the call that gets them returns.
type message struct {
	topic, payload []byte
	size           int // of the payload; when it is over the limit, payload is nil
	qos            byte
	dup            bool
	id             uint16
	at             time.Time // when it was read from the socket
}

// receiver takes what the tap takes out of the stream. All its methods are
// called by the goroutine that reads the tap.
type receiver interface {
	// publish takes a message, or returns false when there is no room for it
	// now. The tap then reads no more until a value comes from room.
	publish(t *tap, m *message) bool
	room() <-chan struct{}
	// release ends a QoS 2 exchange. The tap answers with PUBCOMP.
	release(t *tap, id uint16)
	// drained says that all that was read from the socket has been taken.
	drained(t *tap)
}

// tap is the connection that paho gets. Going in, PUBLISH and PUBREL packets
// are taken out and handed to the receiver, and paho sees the rest: CONNACK,
// SUBACK, PINGRESP. paho itself would read each packet with three system
// calls, allocate it six times and hand it through four channels.
// Going out, acknowledgements are gathered by send and leave in one write
// per burst, in the order of the calls, before whatever paho writes next.
//
// One goroutine calls Read; all else is safe for concurrent use. Close ends a
// Read and a Write that wait.
//
// While the receiver has no room, the tap reads nothing and TCP holds the
// broker back. The broker's answer to a ping then lies in the socket behind
// what is not read, so the tap answers paho's pings itself: the pause is
// ours, and no reason to give up the connection. (The ping goes out
// nevertheless; the broker needs it.)
type tap struct {
	net.Conn
	link // owned by the receiver
	recv receiver
	max  int // largest payload

	buf     []byte
	r, w    int
	pass    []byte // what is left of the packet that paho is reading
	skip    int    // bytes of a dropped packet that are still to come
	msg     message
	at      time.Time
	session atomic.Bool // CONNACK said that the broker had kept the session

	writing sync.Mutex // held while writing to the connection
	pending sync.Mutex // guards out
	out     []byte     // acknowledgements to be written
	spare   []byte     // the other buffer; guarded by writing
	flush   chan struct{}
	pong    chan struct{} // holds a value while a ping is not answered
	heard   chan struct{} // holds a value when a PINGRESP has come

	closed chan struct{}
	once   sync.Once
	cause  atomic.Pointer[error]
}

// newTap returns a tap on conn, which it owns. Its writer runs until Close.
func newTap(conn net.Conn, recv receiver, maxPayload int) *tap {
	t := &tap{Conn: conn, recv: recv, max: maxPayload, buf: make([]byte, readBuffer), at: time.Now(),
		flush: make(chan struct{}, 1), pong: make(chan struct{}, 1),
		heard: make(chan struct{}, 1), closed: make(chan struct{})}
	go t.write()
	return t
}

// Read gives paho the bytes that are for it.
func (t *tap) Read(p []byte) (int, error) {
	for {
		if len(t.pass) > 0 {
			n := copy(p, t.pass)
			t.pass = t.pass[n:]
			return n, nil
		}
		more, err := t.next()
		if err == nil && more {
			err = t.fill()
		}
		if err != nil {
			return 0, t.reason(err)
		}
	}
}

// reason returns why the tap was ended, if it was, instead of err. paho says
// nothing of a "use of closed network connection" that it did not cause.
func (t *tap) reason(err error) error {
	if cause := t.cause.Load(); cause != nil {
		return *cause
	}
	return err
}

// fill reads once from the connection.
func (t *tap) fill() error {
	if t.r == t.w {
		t.r, t.w = 0, 0
		t.recv.drained(t)
	} else if t.w == len(t.buf) {
		if t.r == 0 {
			t.buf = append(t.buf, make([]byte, len(t.buf))...)
		} else {
			t.w = copy(t.buf, t.buf[t.r:t.w])
			t.r = 0
		}
	}
	n, err := t.Conn.Read(t.buf[t.w:])
	t.w += n
	t.at = time.Now()
	if n > 0 {
		return nil
	}
	return err
}

// next deals with the packet at the front of the buffer, as far as it is
// there; more asks for further bytes.
func (t *tap) next() (more bool, err error) {
	if t.skip > 0 {
		n := min(t.skip, t.w-t.r)
		t.skip -= n
		t.r += n
		return t.skip > 0, nil
	}
	b := t.buf[t.r:t.w]
	if len(b) < 2 {
		return true, nil
	}
	length, head, err := remaining(b[1:])
	if err != nil || head == 0 {
		return true, err
	}
	head++
	size := head + length
	switch kind := b[0] >> 4; {
	case kind == typePublish:
		return t.publish(b, head, size)
	case length > maxControl:
		return false, fmt.Errorf("the broker sent a packet of type %d with %d bytes", kind, length)
	case len(b) < size:
		return true, nil
	case kind == typePubrel && length == 2:
		id := binary.BigEndian.Uint16(b[head:])
		t.recv.release(t, id)
		t.send(typePubcomp, id)
	case kind == typeConnack && length == 2:
		t.session.Store(b[head]&1 != 0)
		t.pass = b[:size]
	case kind == typePingresp:
		select {
		case <-t.pong:
		default:
		}
		signal(t.heard)
		t.pass = b[:size]
	default:
		t.pass = b[:size]
	}
	t.r += size
	return false, nil
}

// publish hands the PUBLISH packet at the front of b to the receiver. head is
// the length of its fixed header, size that of the packet.
func (t *tap) publish(b []byte, head, size int) (more bool, err error) {
	qos := b[0] >> 1 & 3
	tail := 2 // length of what precedes the payload, behind the fixed header
	if qos > 0 {
		tail = 4
	}
	if qos == 3 || size < head+tail {
		return false, errors.New("the broker sent a malformed PUBLISH packet")
	}
	if len(b) < head+2 {
		return true, nil
	}
	topic := int(binary.BigEndian.Uint16(b[head:]))
	tail += topic
	payload := size - head - tail
	if payload < 0 || topic == 0 {
		return false, errors.New("the broker sent a malformed PUBLISH packet")
	}
	large := payload > t.max
	if len(b) < size && !(large && len(b) >= head+tail) {
		t.grow(size, large, head+tail)
		return true, nil
	}
	m := &t.msg
	*m = message{topic: b[head+2 : head+2+topic], size: payload, qos: qos, dup: b[0]&8 != 0, at: t.at}
	if qos > 0 {
		m.id = binary.BigEndian.Uint16(b[head+2+topic:])
	}
	if !large {
		m.payload = b[head+tail : size]
	}
	for !t.recv.publish(t, m) {
		select {
		case <-t.recv.room():
		case <-t.pong:
			t.pass = pingresp
			return false, nil
		case <-t.closed:
			return false, net.ErrClosed
		}
	}
	taken := min(size, len(b))
	t.r += taken
	t.skip = size - taken
	return false, nil
}

// grow makes room for a packet that is larger than the buffer.
func (t *tap) grow(size int, large bool, header int) {
	if large {
		size = header
	}
	if size > len(t.buf) {
		buf := make([]byte, size)
		t.w = copy(buf, t.buf[t.r:t.w])
		t.buf, t.r = buf, 0
	}
}

// remaining reads the length field behind the first byte of a packet
// (section 2.2.3) and how many bytes it has: 0 when they are not all there.
func remaining(b []byte) (length, n int, err error) {
	for n < len(b) && n < 4 {
		length |= int(b[n]&0x7f) << (7 * n)
		n++
		if b[n-1]&0x80 == 0 {
			return length, n, nil
		}
	}
	if n == 4 {
		return 0, 0, errors.New("the broker sent a malformed packet length")
	}
	return 0, 0, nil
}

// Write takes a whole packet from paho.
func (t *tap) Write(p []byte) (int, error) {
	if len(p) > 0 && p[0]>>4 == typePingreq {
		signal(t.pong)
	}
	if err := t.writeOut(p); err != nil {
		return 0, err
	}
	return len(p), nil
}

// send queues an acknowledgement. It does not block.
func (t *tap) send(kind byte, id uint16) {
	t.pending.Lock()
	t.out = append(t.out, kind<<4, 2, byte(id>>8), byte(id))
	t.pending.Unlock()
	signal(t.flush)
}

// settle returns when the broker has taken in all acknowledgements that were
// queued before, or after timeout. A broker reads packet by packet and answers
// in order, so its answer to a ping comes after them; without it, a client
// that comes back at once can overtake its own acknowledgements, and is
// sent again what it had acknowledged.
func (t *tap) settle(timeout time.Duration) {
	select {
	case <-t.heard:
	default:
	}
	if t.writeOut([]byte{typePingreq << 4, 0}) != nil {
		return
	}
	timer := time.NewTimer(timeout)
	defer timer.Stop()
	select {
	case <-t.heard:
	case <-t.closed:
	case <-timer.C:
	}
}

// write writes what send queues.
func (t *tap) write() {
	for {
		select {
		case <-t.flush:
			if err := t.writeOut(nil); err != nil {
				t.end(fmt.Errorf("writing acknowledgements: %w", err))
				return
			}
		case <-t.closed:
			return
		}
	}
}

// writeOut writes the queued acknowledgements and p, in one piece.
func (t *tap) writeOut(p []byte) error {
	t.writing.Lock()
	defer t.writing.Unlock()
	t.pending.Lock()
	out := t.out
	t.out = t.spare[:0]
	t.pending.Unlock()
	out = append(out, p...)
	t.spare = out[:0]
	if len(out) == 0 {
		return nil
	}
	if err := t.Conn.SetWriteDeadline(time.Now().Add(writeTimeout)); err != nil {
		return err
	}
	_, err := t.Conn.Write(out)
	return err
}

// end closes the tap and lets paho see cause as the reason.
func (t *tap) end(cause error) {
	t.cause.CompareAndSwap(nil, &cause)
	t.Close()
}

// Close closes the connection.
func (t *tap) Close() error {
	var err error
	t.once.Do(func() {
		close(t.closed)
		err = t.Conn.Close()
	})
	return err
}
