package journal

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/apache/arrow/go/v17/arrow"
	"github.com/apache/arrow/go/v17/arrow/memory"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// ErrFenced says that another process writes to the same shard: this one has
// been replaced and must stop.
var ErrFenced = errors.New("another process writes to this stream: this worker has been replaced")

// WhenFull says what Append does when what nobody has read yet fills the limit.
type WhenFull string

const (
	Block      WhenFull = "block"       // wait until readers release some
	DropOldest WhenFull = "drop_oldest" // let JetStream discard it; readers see the gap
)

// Options of a Log.
type Options struct {
	Stream   string // stream name
	Shards   int
	MaxBytes int64
	MaxAge   time.Duration
	WhenFull WhenFull
	// Patience is how long Append waits for a paced reader (see
	// [Reader.Pace]) before it lets it fall behind what is kept in memory.
	Patience time.Duration
	Log      *slog.Logger
	Alloc    memory.Allocator
}

// Log is one JetStream stream of entries, one subject a shard. Entries of one
// shard are in one order. Append and readers of different shards are safe for
// concurrent use.
//
// A Log keeps its newest entries in memory, so that a reader that is not
// behind takes them without a copy or a look at the disk.
type Log struct {
	o      Options
	js     jetstream.JetStream
	stream jetstream.Stream
	shards []*shard

	mu      sync.Mutex
	holders map[holder]uint64 // last sequence released by each reader that must see everything
	unread  []sized           // appended and not yet released by all holders, oldest first
	bytes   int64             // sum of unread
	total   int64             // bytes appended since Open
	freed   chan struct{}     // closed and replaced when a release frees something

	killed sync.Mutex // over the rest
	cfg    jetstream.StreamConfig
	kills  []Kill
}

type holder struct {
	name  string
	shard int
}

type sized struct {
	seq   uint64
	shard int
	n     int64
	at    int64 // when it was appended, ns since 1970
}

type shard struct {
	subject string

	append sync.Mutex // held over a publish: the order of a shard is one
	last   uint64     // sequence of the newest entry; guarded by append and mu
	batch  uint64
	row    uint64
	body   bytes.Buffer // of the newest message: used again for the next

	mu    sync.Mutex
	newst uint64 // last, for readers
	tail  []Entry
	prev  []uint64 // prev[i] is the sequence before tail[i]
	rows  int64
	subs  map[*Reader]struct{}
	moved chan struct{} // sent to when a paced reader has moved
}

// What a shard keeps in memory for readers that keep up.
const (
	tailEntries = 64
	tailRows    = 48 << 10
)

// Open opens or creates the stream of a Log.
func Open(ctx context.Context, js jetstream.JetStream, o Options) (*Log, error) {
	if o.Alloc == nil {
		o.Alloc = memory.DefaultAllocator
	}
	if o.Log == nil {
		o.Log = slog.Default()
	}
	o.Shards = max(o.Shards, 1)
	cfg := jetstream.StreamConfig{
		Name: o.Stream, Subjects: []string{o.Stream + ".*"}, Storage: jetstream.FileStorage,
		Retention: jetstream.LimitsPolicy, Discard: jetstream.DiscardOld, MaxBytes: max(o.MaxBytes, 0), MaxAge: o.MaxAge,
		AllowDirect: true, Metadata: map[string]string{"penstock-shards": strconv.Itoa(o.Shards)},
	}
	if cfg.MaxBytes == 0 {
		cfg.MaxBytes = -1
	}
	var kills []Kill
	old, err := js.Stream(ctx, o.Stream)
	if err != nil && !errors.Is(err, jetstream.ErrStreamNotFound) {
		return nil, fmt.Errorf("stream %s: %w", o.Stream, err)
	}
	if err == nil {
		if kills, err = readKills(old.CachedInfo().Config.Metadata); err != nil {
			return nil, fmt.Errorf("stream %s: its metadata: %w", o.Stream, err)
		}
		if len(kills) > 0 {
			cfg.Metadata[killsKey] = old.CachedInfo().Config.Metadata[killsKey]
		}
		if n := old.CachedInfo().Config.Metadata["penstock-shards"]; n != "" && n != strconv.Itoa(o.Shards) && old.CachedInfo().State.Msgs > 0 {
			return nil, fmt.Errorf("stream %s was written with %s shards, the config says %d: set journal.shards back to %s, or start with an empty journal.dir", o.Stream, n, o.Shards, n)
		}
	}
	st, err := js.CreateOrUpdateStream(ctx, cfg)
	if err != nil {
		return nil, fmt.Errorf("stream %s: %w", o.Stream, err)
	}
	l := &Log{o: o, js: js, stream: st, holders: map[holder]uint64{}, freed: make(chan struct{}), cfg: cfg, kills: kills}
	for i := range o.Shards {
		s := &shard{subject: o.Stream + "." + strconv.Itoa(i), subs: map[*Reader]struct{}{}, moved: make(chan struct{}, 1)}
		e, err := l.lastEntry(ctx, s)
		if err != nil {
			return nil, err
		}
		if e != nil {
			p := e.After()
			s.last, s.newst, s.batch, s.row = p.Seq, p.Seq, p.Batch, p.Row
			if e.Record != nil {
				e.Record.Release()
			}
		}
		// The stream remembers its last sequence even when that entry has aged
		// out. Positions beyond this shard's own entries are still of this stream.
		if end := st.CachedInfo().State.LastSeq; o.Shards == 1 {
			s.last, s.newst = end, end
			if e == nil { // one entry a sequence: the numbering goes on
				s.batch = end
			}
		} else if e == nil {
			s.newst = end
		}
		l.shards = append(l.shards, s)
	}
	if lost := st.CachedInfo().State.Lost; lost != nil && len(lost.Msgs) > 0 {
		o.Log.Error("the store lost messages on disk; readers will report what is missing", "stream", o.Stream, "messages", len(lost.Msgs))
	}
	return l, nil
}

func (l *Log) lastEntry(ctx context.Context, s *shard) (*Entry, error) {
	m, err := l.stream.GetLastMsgForSubject(ctx, s.subject)
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("stream %s: last entry: %w", l.o.Stream, err)
	}
	e := l.entry(m)
	return &e, nil
}

// entry reads a stored message; what cannot be read is marked Corrupt.
func (l *Log) entry(m *jetstream.RawStreamMsg) Entry {
	e := Entry{Seq: m.Sequence}
	if e.Meta, e.Corrupt = decodeMeta(m.Header, m.Data); e.Corrupt == nil && len(m.Data) > 0 {
		e.Record, e.Corrupt = decodeRecord(m.Data, l.o.Alloc)
	}
	return e
}

// Last returns the newest entry of a shard without its record, or false when
// the shard is empty.
func (l *Log) Last(ctx context.Context, shard int) (Entry, bool, error) {
	e, err := l.lastEntry(ctx, l.shards[shard])
	if e == nil || err != nil {
		return Entry{}, false, err
	}
	if e.Record != nil {
		e.Record.Release()
		e.Record = nil
	}
	return *e, true, nil
}

// MaxEntry bounds the encoded size of one entry: the server's files hold no
// record above 32 MiB, and it would refuse a larger one for ever.
const MaxEntry = 31 << 20

// ErrTooLarge is that of an entry above MaxEntry.
var ErrTooLarge = fmt.Errorf("the limit is %d bytes", MaxEntry)

// overhead is at least what the store adds to the data of an entry: subject,
// headers and its own record.
const overhead = 320

// Append stores one entry and returns its sequence once JetStream has
// acknowledged it. rec, which may be nil for a tick, is borrowed. While what
// nobody has released fills the limit, Append waits (policy block) until ctx
// ends. A passing fault is retried until ctx ends; an entry is never stored
// twice, for each message names the sequence before it.
func (l *Log) Append(ctx context.Context, shard int, m Meta, rec arrow.Record) (uint64, error) {
	s := l.shards[shard]
	s.append.Lock()
	defer s.append.Unlock()
	m.Batch, m.Row = s.batch, s.row
	if rec != nil {
		s.pace(ctx, l.o.Patience, rec.NumRows())
	}
	msg, err := encode(&s.body, s.subject, m, rec, l.o.Alloc)
	if err != nil {
		return 0, err
	}
	if len(msg.Data) > MaxEntry {
		return 0, fmt.Errorf("stream %s: append %d bytes: %w", l.o.Stream, len(msg.Data), ErrTooLarge)
	}
	size := int64(len(msg.Data)) + overhead
	if err := l.room(ctx, size); err != nil {
		return 0, err
	}
	seq, err := uint64(0), error(nil)
	for try := 0; ; try++ {
		var ack *jetstream.PubAck
		pctx, cancel := context.WithTimeout(ctx, 10*time.Second)
		// With one shard the stream has one subject, and its last sequence is
		// that of the subject. To ask for the subject's makes the server load
		// the last message, at a fifth of the allocations of a run, and keep
		// every block it was in for ten seconds: 328 MB at a million readings
		// a second.
		expect := jetstream.WithExpectLastSequence(s.last)
		if l.o.Shards > 1 {
			expect = jetstream.WithExpectLastSequencePerSubject(s.last)
		}
		ack, err = l.js.PublishMsg(pctx, msg, expect)
		cancel()
		if err == nil {
			seq = ack.Sequence
			break
		}
		var api *jetstream.APIError
		if errors.As(err, &api) && api.ErrorCode == jetstream.JSErrCodeStreamWrongLastSequence {
			// Either an earlier try was stored and its answer lost, or
			// somebody else writes here.
			last, ok, lerr := l.Last(ctx, shard)
			if lerr == nil && ok && try > 0 && last.Meta == m {
				seq = last.Seq
				break
			}
			if lerr == nil && !ok && s.last > 0 && l.o.Shards > 1 {
				// All entries have aged out: the shard starts anew.
				s.last = 0
				continue
			}
			if lerr == nil {
				return 0, fmt.Errorf("stream %s: %w", l.o.Stream, ErrFenced)
			}
		}
		if ctx.Err() != nil || errors.Is(err, nats.ErrMaxPayload) {
			return 0, fmt.Errorf("stream %s: append %d bytes: %w", l.o.Stream, len(msg.Data), err)
		}
		if err := l.again(ctx, try, "cannot append; trying again", err); err != nil {
			return 0, err
		}
	}
	e := Entry{Meta: m, Seq: seq, Record: rec}
	if rec != nil {
		rec.Retain()
		s.row += uint64(rec.NumRows())
	}
	prev := s.last
	s.last = seq
	s.batch++
	l.mu.Lock()
	l.total += size
	if len(l.holders) > 0 && l.o.WhenFull == Block { // who blocks, counts
		l.unread = append(l.unread, sized{seq, shard, size, time.Now().UnixNano()})
		l.bytes += size
	}
	l.mu.Unlock()
	s.publish(e, prev)
	return seq, nil
}

// again waits before another try, longer each time up to a few seconds.
func (l *Log) again(ctx context.Context, try int, what string, err error) error {
	wait := time.Duration(50+rand.IntN(50)) * time.Millisecond << min(try, 6)
	l.o.Log.Warn(what, "stream", l.o.Stream, "in", wait, "error", err)
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(wait):
		return nil
	}
}

// publish makes an entry visible to readers. It takes over e.Record.
func (s *shard) publish(e Entry, prev uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.newst = e.Seq
	if len(s.subs) == 0 { // nobody reads: keep nothing
		if e.Record != nil {
			e.Record.Release()
		}
		return
	}
	s.tail = append(s.tail, e)
	s.prev = append(s.prev, prev)
	if e.Record != nil {
		s.rows += e.Record.NumRows()
	}
	drop := 0
	for len(s.tail)-drop > tailEntries || (s.rows > tailRows && len(s.tail)-drop > 1) {
		if r := s.tail[drop].Record; r != nil {
			s.rows -= r.NumRows()
			r.Release()
		}
		drop++
	}
	if drop > 0 {
		n := copy(s.tail, s.tail[drop:])
		clear(s.tail[n:])
		s.tail = s.tail[:n]
		s.prev = append(s.prev[:0], s.prev[drop:]...)
	}
	for r := range s.subs {
		select {
		case r.wake <- struct{}{}:
		default:
		}
	}
}

// pace waits, for at most the given time, until no paced reader would fall
// behind what is kept in memory by one more entry. A reader that has not moved
// since the last wait for it was in vain is not waited for again: it does not
// work at all, and must not slow down the others. rows is how many the entry
// has.
func (s *shard) pace(ctx context.Context, patience time.Duration, rows int64) {
	if patience <= 0 {
		return
	}
	var timeout <-chan time.Time
	for {
		s.mu.Lock()
		var slow *Reader
		if len(s.tail) > 0 && (len(s.tail) >= tailEntries || s.rows+rows > tailRows) {
			for r := range s.subs {
				if r.paced && r.read < s.tail[0].Seq && r.read != r.vain {
					slow = r
				}
			}
		}
		s.mu.Unlock()
		if slow == nil {
			return
		}
		if timeout == nil {
			t := time.NewTimer(patience)
			defer t.Stop()
			timeout = t.C
		}
		select {
		case <-s.moved:
		case <-ctx.Done():
			return
		case <-timeout:
			s.mu.Lock()
			for r := range s.subs {
				r.vain = r.read
			}
			s.mu.Unlock()
			return
		}
	}
}

// room waits until size more bytes fit, under policy block.
func (l *Log) room(ctx context.Context, size int64) error {
	if l.o.WhenFull != Block || l.o.MaxBytes <= 0 {
		return nil
	}
	warned := false
	for {
		l.mu.Lock()
		for len(l.unread) > 0 && l.o.MaxAge > 0 && time.Now().UnixNano()-l.unread[0].at > int64(l.o.MaxAge) {
			l.bytes -= l.unread[0].n // too old: the store has deleted it
			l.unread = l.unread[1:]
		}
		// A tenth is left for the store's own overhead.
		ok := len(l.unread) == 0 || l.bytes+size <= l.o.MaxBytes-l.o.MaxBytes/10
		freed := l.freed
		l.mu.Unlock()
		if ok {
			return nil
		}
		if !warned {
			warned = true
			l.o.Log.Warn("full: waiting for readers; what comes before it waits too", "stream", l.o.Stream, "max_bytes", l.o.MaxBytes)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-freed:
		case <-time.After(time.Second): // some may be too old by now
		}
	}
}

// Resume returns where a reader that had come to pos goes on. That is pos,
// unless the stream ends before it, because power failed before its newest
// entries were synced to disk: then it is the end of the stream, for what is
// appended next takes the sequences that are lost.
func (l *Log) Resume(shard int, pos Position) Position {
	s := l.shards[shard]
	s.append.Lock()
	defer s.append.Unlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	if pos.Seq <= s.newst {
		return pos
	}
	l.o.Log.Error("the stream ends before what was read from it: its newest entries were lost, as when power fails before they are synced",
		"stream", l.o.Stream, "shard", shard, "read", pos.Seq, "end", s.newst)
	return Position{Seq: s.newst, Batch: s.batch, Row: s.row}
}

// Hold declares a reader that must see everything after pos: under policy
// block nothing is discarded before it has called Release.
func (l *Log) Hold(ctx context.Context, name string, shard int, pos Position) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.holders[holder{name, shard}] = pos.Seq
	if l.total > 0 || l.shards[shard].newst <= pos.Seq {
		return nil
	}
	// At start: what is stored beyond the position of the reader that is
	// furthest behind counts as unread. Its size is reckoned from the
	// stream's mean.
	info, err := l.stream.Info(ctx)
	if err != nil {
		return fmt.Errorf("stream %s: %w", l.o.Stream, err)
	}
	if st := info.State; st.Msgs > 0 && st.LastSeq > pos.Seq {
		n := int64(float64(st.Bytes) * float64(min(st.LastSeq-pos.Seq, st.Msgs)) / float64(st.Msgs))
		if n -= l.bytes; n > 0 {
			l.unread = append(l.unread, sized{l.shards[shard].newst, shard, n, time.Now().UnixNano()})
			l.bytes += n
		}
	}
	return nil
}

// Release says that a holder needs nothing up to and including seq any more.
func (l *Log) Release(name string, shard int, seq uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.holders[holder{name, shard}] >= seq {
		return
	}
	l.holders[holder{name, shard}] = seq
	floor := make([]uint64, len(l.shards))
	for i := range floor {
		floor[i] = ^uint64(0)
	}
	for h, s := range l.holders {
		floor[h.shard] = min(floor[h.shard], s)
	}
	n := 0
	for n < len(l.unread) && l.unread[n].seq <= floor[l.unread[n].shard] {
		l.bytes -= l.unread[n].n
		n++
	}
	if n > 0 {
		l.unread = append(l.unread[:0], l.unread[n:]...)
		close(l.freed)
		l.freed = make(chan struct{})
	}
}

// Backlog returns how many bytes no holder has released yet, under policy
// block.
func (l *Log) Backlog() int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.bytes
}

// Appended returns how many bytes were appended since Open.
func (l *Log) Appended() int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.total
}

// Purge deletes what the shard holds before sequence seq; at least its newest
// entry stays.
func (l *Log) Purge(ctx context.Context, shard int, seq uint64) error {
	s := l.shards[shard]
	s.mu.Lock()
	seq = min(seq, s.newst)
	s.mu.Unlock()
	if seq == 0 {
		return nil
	}
	if l.o.Shards == 1 { // cheaper: the server need not look at subjects
		return l.stream.Purge(ctx, jetstream.WithPurgeSequence(seq))
	}
	return l.stream.Purge(ctx, jetstream.WithPurgeSubject(s.subject), jetstream.WithPurgeSequence(seq))
}

// Oldest returns when the oldest entry that is still there was appended, or now
// when there is none.
func (l *Log) Oldest(ctx context.Context) (time.Time, error) {
	info, err := l.stream.Info(ctx)
	if err != nil {
		return time.Time{}, fmt.Errorf("stream %s: %w", l.o.Stream, err)
	}
	if info.State.Msgs == 0 {
		return time.Now(), nil
	}
	return info.State.FirstTime, nil
}

// Close frees what the Log keeps in memory. No reader may be in use.
func (l *Log) Close() {
	for _, s := range l.shards {
		s.mu.Lock()
		for _, e := range s.tail {
			if e.Record != nil {
				e.Record.Release()
			}
		}
		s.tail, s.prev, s.rows = nil, nil, 0
		s.mu.Unlock()
	}
}

// StreamName makes a JetStream stream name of parts.
func StreamName(parts ...string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z', r >= '0' && r <= '9', r == '-', r == '_':
			return r
		}
		return '_'
	}, strings.Join(parts, "-"))
}

// End returns the sequence of the newest entry of a shard, 0 when it has none.
func (l *Log) End(shard int) uint64 {
	s := l.shards[shard]
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.newst
}
