// Package bench measures what this machine can carry: the load and the peers
// run in this process, the pipeline, or a bare client that only counts, in a
// child process whose CPU time and memory are the result.
package bench

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"sync"
	"time"
)

// mqttLoad is what a peer sends.
type mqttLoad struct {
	QoS        byte
	Tags       int
	PerMessage int
	Count      int // readings in all
	Rate       int // readings/s; 0 sends as fast as the subscriber takes them
	Window     int // QoS 1: messages that may await their acknowledgement
}

// mqttPeer is the far end of one MQTT connection: it greets like a broker and
// then sends pre-built messages straight into the socket, so that TCP and the
// acknowledgements set the pace and nothing between costs CPU or loses any.
type mqttPeer struct {
	l    net.Listener
	load mqttLoad

	mu         sync.Mutex
	acked      *sync.Cond
	acks       int
	closed     bool
	subscribed chan struct{}
	start      chan struct{}
	done       chan error
}

func newMQTTPeer(load mqttLoad) (*mqttPeer, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	p := &mqttPeer{l: l, load: load, subscribed: make(chan struct{}), start: make(chan struct{}), done: make(chan error, 1)}
	p.acked = sync.NewCond(&p.mu)
	go func() { p.done <- p.serve() }()
	return p, nil
}

func (p *mqttPeer) url() string { return "tcp://" + p.l.Addr().String() }

func (p *mqttPeer) serve() error {
	c, err := p.l.Accept()
	if err != nil {
		return err
	}
	defer c.Close()
	sent := make(chan error, 1)
	go func() {
		<-p.start
		sent <- p.send(c)
	}()
	err = p.receive(c)
	p.mu.Lock()
	p.closed = true
	p.acked.Broadcast()
	p.mu.Unlock()
	select {
	case <-p.start:
		return errors.Join(err, <-sent)
	default:
		return err
	}
}

// receive answers the client's packets until it disconnects.
func (p *mqttPeer) receive(c net.Conn) error {
	r := bufio.NewReaderSize(c, 64<<10)
	for {
		head, err := r.ReadByte()
		if err != nil {
			if errors.Is(err, io.EOF) || errors.Is(err, net.ErrClosed) {
				return nil
			}
			return err
		}
		n, err := binary.ReadUvarint(r) // MQTT's remaining length is a uvarint
		if err != nil || n > 1<<20 {
			return fmt.Errorf("mqtt peer: remaining length %d: %v", n, err)
		}
		body := make([]byte, n)
		if _, err := io.ReadFull(r, body); err != nil {
			return err
		}
		var answer []byte
		switch head >> 4 {
		case 1: // CONNECT
			answer = []byte{0x20, 2, 0, 0}
		case 4: // PUBACK
			p.mu.Lock()
			p.acks++
			p.acked.Signal()
			p.mu.Unlock()
		case 8: // SUBSCRIBE: one topic
			answer = []byte{0x90, 3, body[0], body[1], p.load.QoS}
		case 12: // PINGREQ
			answer = []byte{0xd0, 0}
		case 14: // DISCONNECT
			return nil
		}
		if answer != nil {
			if _, err := c.Write(answer); err != nil {
				return err
			}
		}
		if head>>4 == 8 {
			close(p.subscribed)
		}
	}
}

// message is a PUBLISH packet whose times and packet id are filled in place.
type message struct {
	data  []byte
	id    int   // offset of the packet id, 0 without
	times []int // offsets of the 16 digits of µs
	value []int // offsets of 6 digits
}

// build makes the messages: with one reading each, one topic a tag; with more,
// one topic and the tags inside.
func (l mqttLoad) build() []message {
	var out []message
	for first := 0; first < l.Tags; first += l.PerMessage {
		var m message
		topic := fmt.Sprintf("plant/line%d/tag%04d", first%10, first)
		body := []byte{}
		reading := func(i int, named bool) {
			body = append(body, '{')
			if named {
				body = append(body, fmt.Sprintf(`"tag":"plant/line%d/tag%04d",`, i%10, i)...)
			}
			body = append(body, `"value":20.`...)
			m.value = append(m.value, len(body))
			body = append(body, `000000,"ts":`...)
			m.times = append(m.times, len(body))
			body = append(body, `0000000000000000}`...)
		}
		if l.PerMessage == 1 {
			reading(first, false)
		} else {
			topic = "plant/gateway"
			body = append(body, `{"readings":[`...)
			for i := range min(l.PerMessage, l.Tags-first) {
				if i > 0 {
					body = append(body, ',')
				}
				reading(first+i, true)
			}
			body = append(body, `]}`...)
		}
		var v []byte
		v = binary.BigEndian.AppendUint16(v, uint16(len(topic)))
		v = append(v, topic...)
		head := []byte{0x30 | l.QoS<<1}
		idLen := 0
		if l.QoS > 0 {
			idLen = 2
		}
		head = binary.AppendUvarint(head, uint64(len(v)+idLen+len(body)))
		m.data = append(head, v...)
		if idLen > 0 {
			m.id = len(m.data)
			m.data = append(m.data, 0, 0)
		}
		at := len(m.data)
		for i := range m.times {
			m.times[i] += at
			m.value[i] += at
		}
		m.data = append(m.data, body...)
		out = append(out, m)
	}
	return out
}

func (m *message) fill(packet int, now int64) {
	if m.id > 0 {
		binary.BigEndian.PutUint16(m.data[m.id:], uint16(packet%65535+1))
	}
	us := strconv.AppendInt(nil, now/1000, 10)
	for i, at := range m.times {
		copy(m.data[at:], us)
		v := uint32(packet*31+i*17) * 2654435761 % 1_000_000
		for d := 5; d >= 0; d-- {
			m.data[m.value[i]+d] = byte('0' + v%10)
			v /= 10
		}
	}
}

func (p *mqttPeer) send(c net.Conn) error {
	l := p.load
	msgs := l.build()
	w := bufio.NewWriterSize(c, 64<<10)
	began := time.Now()
	for n := 0; n*l.PerMessage < l.Count; n++ {
		if l.Rate > 0 {
			due := began.Add(time.Duration(float64(n*l.PerMessage) / float64(l.Rate) * float64(time.Second)))
			if d := time.Until(due); d > 0 {
				if err := w.Flush(); err != nil {
					return err
				}
				time.Sleep(d)
			}
		}
		if l.QoS > 0 {
			p.mu.Lock()
			for !p.closed && n-p.acks >= l.Window {
				p.mu.Unlock()
				if err := w.Flush(); err != nil {
					return err
				}
				p.mu.Lock()
				if !p.closed && n-p.acks >= l.Window {
					p.acked.Wait()
				}
			}
			closed := p.closed
			p.mu.Unlock()
			if closed {
				return errors.New("mqtt peer: the subscriber left early")
			}
		}
		m := &msgs[n%len(msgs)]
		m.fill(n, time.Now().UnixNano())
		if _, err := w.Write(m.data); err != nil {
			return err
		}
	}
	return w.Flush()
}
