package mqtt

import "time"

// What a packet id of QoS 1 or 2 stands for on one connection.
const (
	idFree  uint8 = iota
	idTaken       // its rows wait for the journal
	idDone        // QoS 2: PUBREC is sent, PUBREL is to come
)

// owed is one acknowledgement that is due when rows are in the journal.
type owed struct {
	id  uint16
	qos uint8
}

// ackSet is what is owed for one flush of the batcher: it falls due when all
// the batches of the flush are in the journal. Sets are reused.
type ackSet struct {
	tap  *tap // whose messages they are; a broken connection's are void
	ids  []owed
	left int // batches that are not in the journal yet
	done bool
}

// link is what one connection owes its broker. Source.mu guards it. A new
// connection starts afresh: what was not acknowledged comes again, and is
// taken again.
type link struct {
	queue   []*ackSet // in the order they are to be acknowledged (MQTT-4.6.0-2)
	state   []uint8   // by packet id
	unacked int
	last    time.Time // when the last message of QoS 1 or 2 came

	// The broker stops sending when window messages are not acknowledged. It
	// does not say how many that are. window is learned from two stalls in a
	// row at the same number, and forgotten when more come; 0 is unknown.
	window, stall int
}

// expect notes a message of QoS 1 or 2. It returns false for one that is
// here already, which a broker sends again when it has waited too long.
func (l *link) expect(m *message) (fresh, again bool) {
	if l.state == nil {
		l.state = make([]uint8, 1<<16)
	}
	switch l.state[m.id] {
	case idTaken:
		return false, false
	case idDone:
		if m.qos == 2 {
			return false, true
		}
	}
	l.state[m.id] = idTaken
	l.last = m.at
	l.unacked++
	if l.unacked > l.window {
		l.window = 0
	}
	return true, false
}

// lingered is told that a batch waited its whole linger: if the broker has
// been silent for half of it, it may be waiting for us.
func (l *link) lingered(now time.Time, linger time.Duration) {
	if l.unacked == 0 || now.Sub(l.last) < linger/2 {
		return
	}
	if l.unacked == l.stall {
		l.window = l.stall
	}
	l.stall = l.unacked
}

// waiting reports whether the broker is known to send nothing before it gets
// acknowledgements.
func (l *link) waiting() bool { return l.window > 0 && l.unacked >= l.window }

// finish marks a set as journaled and acknowledges it, and those behind it
// that were waiting for it. Sets that are through are appended to free.
func (t *tap) finish(set *ackSet, free []*ackSet) []*ackSet {
	set.done = true
	n := 0
	for n < len(t.queue) && t.queue[n].done {
		s := t.queue[n]
		n++
		for _, o := range s.ids {
			if o.qos == 2 {
				t.state[o.id] = idDone
			} else {
				t.state[o.id] = idFree
			}
		}
		t.unacked -= len(s.ids)
		t.sendAll(s.ids)
		free = append(free, s)
	}
	t.queue = append(t.queue[:0], t.queue[n:]...)
	return free
}

// sendAll queues the acknowledgements of a set. It does not block.
func (t *tap) sendAll(ids []owed) {
	t.pending.Lock()
	for _, o := range ids {
		kind := byte(typePuback)
		if o.qos == 2 {
			kind = typePubrec
		}
		t.out = append(t.out, kind<<4, 2, byte(o.id>>8), byte(o.id))
	}
	t.pending.Unlock()
	signal(t.flush)
}
