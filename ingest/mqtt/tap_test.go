package mqtt

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"github.com/eclipse/paho.mqtt.golang/packets"
	"github.com/stretchr/testify/require"
)

// script is the far end of a connection: it delivers chunks and records what is
// written.
type script struct {
	net.Conn
	chunks  [][]byte
	written bytes.Buffer
}

func (s *script) Read(p []byte) (int, error) {
	if len(s.chunks) == 0 {
		return 0, io.EOF
	}
	n := copy(p, s.chunks[0])
	if s.chunks[0] = s.chunks[0][n:]; len(s.chunks[0]) == 0 {
		s.chunks = s.chunks[1:]
	}
	return n, nil
}
func (s *script) Write(p []byte) (int, error)      { return s.written.Write(p) }
func (s *script) SetWriteDeadline(time.Time) error { return nil }
func (s *script) Close() error                     { return nil }

// taker notes what it is given, and can be without room.
type taker struct {
	got     []string
	large   int
	refuse  bool
	rooms   chan struct{}
	empties int
}

func (k *taker) publish(_ *tap, m *message) bool {
	if k.refuse {
		return false
	}
	if m.payload == nil && m.size > 0 {
		k.large++
	}
	k.got = append(k.got, fmt.Sprintf("%s %d %d %t %d %x", m.topic, m.qos, m.id, m.dup, m.size, m.payload))
	return true
}
func (k *taker) room() <-chan struct{}    { return k.rooms }
func (k *taker) release(_ *tap, _ uint16) {}
func (k *taker) drained(*tap)             { k.empties++ }

const testLimit = 100_000

// FuzzTap: however the bytes are cut, publishes come out whole and in order,
// paho gets exactly the rest, and nothing panics.
func FuzzTap(f *testing.F) {
	f.Add(uint64(1), []byte{})
	f.Add(uint64(2), []byte{0x30, 0xff, 0xff, 0xff, 0xff})
	f.Add(uint64(3), []byte{0x36, 4, 0, 1, 'a', 0})
	f.Add(uint64(4), []byte{0x30, 2, 0, 9})
	f.Fuzz(func(t *testing.T, seed uint64, tail []byte) {
		r := rand.New(rand.NewPCG(seed, 0))
		var stream, rest, pubcomps bytes.Buffer
		var want []string
		for range r.IntN(30) {
			switch r.IntN(4) {
			case 0:
				p := packets.NewControlPacket(packets.Suback).(*packets.SubackPacket)
				p.MessageID, p.ReturnCodes = uint16(r.Uint32()), make([]byte, 1+r.IntN(300))
				_ = p.Write(io.MultiWriter(&stream, &rest))
			case 1:
				id := uint16(r.Uint32())
				stream.Write([]byte{0x62, 2, byte(id >> 8), byte(id)})
				pubcomps.Write([]byte{0x70, 2, byte(id >> 8), byte(id)})
			default:
				p := packets.NewControlPacket(packets.Publish).(*packets.PublishPacket)
				p.TopicName, p.Qos, p.Dup = "t/"+fmt.Sprint(r.IntN(1000)), byte(r.IntN(3)), r.IntN(2) == 0
				if p.Qos > 0 {
					p.MessageID = uint16(r.Uint32())
				}
				size := r.IntN(200)
				if r.IntN(8) == 0 {
					size = r.IntN(2 * testLimit)
				}
				p.Payload = bytes.Repeat([]byte{byte(r.Uint32())}, size)
				_ = p.Write(&stream)
				if size > testLimit {
					p.Payload = nil
				}
				want = append(want, fmt.Sprintf("%s %d %d %t %d %x", p.TopicName, p.Qos, p.MessageID, p.Dup, size, p.Payload))
			}
		}
		whole := stream.Len()
		stream.Write(tail)
		data := stream.Bytes()
		var chunks [][]byte
		for len(data) > 0 {
			n := min(1+r.IntN([]int{1, 3, 50, 3000, 200_000}[r.IntN(5)]), len(data))
			chunks = append(chunks, data[:n])
			data = data[n:]
		}
		k := &taker{}
		s := &script{chunks: chunks}
		c := newTap(s, k, testLimit)
		got, err := io.ReadAll(c)
		if cerr := c.writeOut(nil); cerr != nil {
			t.Fatal(cerr)
		}
		_ = c.Close()
		if len(tail) == 0 && err != nil {
			t.Fatal(err)
		}
		if len(got) < rest.Len() || !bytes.Equal(got[:rest.Len()], rest.Bytes()) {
			t.Fatalf("paho got %d bytes that are not the %d expected", len(got), rest.Len())
		}
		if len(k.got) < len(want) || fmt.Sprint(k.got[:len(want)]) != fmt.Sprint(want) {
			t.Fatalf("messages differ after %d bytes", whole)
		}
		if len(tail) == 0 && (len(got) != rest.Len() || len(k.got) != len(want)) {
			t.Fatal("more came out than went in")
		}
		c.writing.Lock()
		defer c.writing.Unlock()
		if out := s.written.Bytes(); !bytes.HasPrefix(out, pubcomps.Bytes()) {
			t.Fatalf("PUBCOMPs: got %x, want %x", out, pubcomps.Bytes())
		}
	})
}

func TestTapRefusesNonsense(t *testing.T) {
	for name, c := range map[string]struct {
		in   []byte
		want string
	}{
		"endless length":  {[]byte{0x30, 0xff, 0xff, 0xff, 0xff, 1}, "malformed packet length"},
		"QoS 3":           {[]byte{0x36, 5, 0, 1, 'a', 0, 1}, "malformed PUBLISH"},
		"long topic":      {[]byte{0x30, 4, 0, 9, 'a', 'b'}, "malformed PUBLISH"},
		"no topic":        {[]byte{0x30, 2, 0, 0}, "malformed PUBLISH"},
		"too short":       {[]byte{0x32, 3, 0, 1, 'a'}, "malformed PUBLISH"},
		"large non-event": {[]byte{0x90, 0xff, 0xff, 0x7f}, "type 9 with 2097151 bytes"},
	} {
		t.Run(name, func(t *testing.T) {
			tap := newTap(&script{chunks: [][]byte{c.in}}, &taker{}, testLimit)
			defer tap.Close()
			_, err := io.ReadAll(tap)
			require.ErrorContains(t, err, c.want)
		})
	}
}

// A payload over the limit is passed over without being held.
func TestTapSkipsLargePayloads(t *testing.T) {
	const size = 50 << 20
	head := binary.AppendUvarint([]byte{0x32}, 5+size)
	head = append(head, 0, 1, 'a', 0, 7)
	chunk := make([]byte, 1<<20)
	chunks := [][]byte{head}
	for range size >> 20 {
		chunks = append(chunks, chunk)
	}
	chunks = append(chunks, []byte{0x30, 4, 0, 1, 'b', 'x'})
	k := &taker{}
	tap := newTap(&script{chunks: chunks}, k, testLimit)
	defer tap.Close()
	_, err := io.ReadAll(tap)
	require.NoError(t, err)
	require.Equal(t, []string{"a 1 7 false 52428800 ", "b 0 0 false 1 78"}, k.got)
	require.Equal(t, readBuffer, len(tap.buf))
}

// While there is no room, the tap answers paho's pings and goes on where it
// was when room comes; Close ends the pause.
func TestTapPause(t *testing.T) {
	k := &taker{refuse: true, rooms: make(chan struct{}, 1)}
	s := &script{chunks: [][]byte{{0x30, 4, 0, 1, 'b', 'x'}, {0xd0, 0}}}
	tap := newTap(s, k, testLimit)
	_, err := tap.Write([]byte{0xc0, 0})
	require.NoError(t, err)
	p := make([]byte, 2)
	_, err = io.ReadFull(tap, p)
	require.NoError(t, err)
	require.Equal(t, pingresp, p)
	require.Empty(t, k.got)

	k.refuse = false
	_, err = io.ReadFull(tap, p) // the broker's own answer
	require.NoError(t, err)
	require.Equal(t, pingresp, p)
	require.Equal(t, []string{"b 0 0 false 1 78"}, k.got)

	k.refuse = true
	s.chunks = [][]byte{{0x30, 4, 0, 1, 'b', 'x'}}
	go func() { _ = tap.Close() }()
	_, err = tap.Read(p)
	require.ErrorIs(t, err, net.ErrClosed)
}

// Acknowledgements leave together and in order, before what paho writes after
// them.
func TestTapWritesInOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, far := net.Pipe()
		tap := newTap(near, &taker{}, testLimit)
		tap.sendAll([]owed{{1, 1}, {2, 2}, {3, 1}})
		synctest.Wait() // the writer is in its write
		tap.sendAll([]owed{{4, 1}})
		tap.send(typePubcomp, 5)
		go func() { _, _ = tap.Write([]byte{0xe0, 0}) }()
		p := make([]byte, 100)
		n, err := far.Read(p)
		require.NoError(t, err)
		require.Equal(t, []byte{0x40, 2, 0, 1, 0x50, 2, 0, 2, 0x40, 2, 0, 3}, p[:n])
		n, err = io.ReadFull(far, p[:10])
		require.NoError(t, err)
		require.Equal(t, []byte{0x40, 2, 0, 4, 0x70, 2, 0, 5, 0xe0, 0}, p[:n])
		require.NoError(t, tap.Close())
		require.NoError(t, far.Close())
	})
}

// A broker that takes nothing ends the connection with a reason.
func TestTapWriteTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, far := net.Pipe()
		tap := newTap(near, &taker{}, testLimit)
		tap.send(typePubcomp, 1)
		began := time.Now()
		_, err := tap.Read(make([]byte, 1))
		require.ErrorContains(t, err, "writing acknowledgements")
		require.Equal(t, writeTimeout, time.Since(began))
		require.NoError(t, far.Close())
	})
}

// A lone byte is read at once, the next ones together after the interval.
func TestPacedConn(t *testing.T) {
	for _, size := range []int{16, readBuffer} { // through its own buffer, and straight
		synctest.Test(t, func(t *testing.T) {
			near, far := net.Pipe()
			c := newPacedConn(near)
			p := make([]byte, size)
			read := func() (string, time.Duration) {
				began := time.Now()
				n, err := c.Read(p)
				require.NoError(t, err)
				return string(p[:n]), time.Since(began)
			}
			time.Sleep(time.Second)
			go func() { _, _ = far.Write([]byte("a")) }()
			got, took := read()
			require.Equal(t, "a", got)
			require.Zero(t, took)
			go func() { _, _ = far.Write([]byte("bc")) }()
			got, took = read()
			require.Equal(t, "bc", got)
			require.Equal(t, readInterval, took)
			require.NoError(t, c.SetReadDeadline(time.Now().Add(5*time.Millisecond)))
			_, err := c.Read(p)
			var timeout net.Error
			require.True(t, errors.As(err, &timeout) && timeout.Timeout())
			require.NoError(t, near.Close())
			_, err = c.Read(p)
			require.Error(t, err)
			require.NoError(t, far.Close())
		})
	}
}
