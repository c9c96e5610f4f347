// Package journal stores batches in JetStream streams: the journal between
// ingest and the flow, and the queues between the flow and the sinks. One
// message is one record as an Arrow IPC stream, readable by any Arrow tool;
// what Penstock needs to know beside it stands in one message header.
package journal

import (
	"bytes"
	"errors"
	"fmt"
	"hash/crc32"
	"strings"

	"github.com/apache/arrow/go/v17/arrow"
	"github.com/apache/arrow/go/v17/arrow/ipc"
	"github.com/apache/arrow/go/v17/arrow/memory"
	"github.com/nats-io/nats.go"
)

// Kind says what an entry is.
type Kind byte

const (
	KindBatch Kind = 'b' // Record holds rows
	KindTick  Kind = 't' // no rows: event time goes on
	// KindControl is what a person asks of the flow: Record is a
	// [pipeline.Control]. Journaled, so that a replay does the same.
	KindControl Kind = 'c'
)

// Meta is what travels beside a record.
type Meta struct {
	Kind   Kind
	Source string // who made it: a source in the journal, a graph node in a queue
	// Watermark is the source's promise after this entry, ns since 1970.
	Watermark int64
	Idle      bool // the source does not hold time back
	// Pos and Out say which journal entry and which of its outputs made this
	// entry of a queue. 0 in the journal.
	Pos, Out uint64

	// Batch and Row count the entries and rows of the shard before this one.
	// Append sets them; a reader sees by them what is missing.
	Batch, Row uint64
}

// Entry is one message of a Log. Whoever gets it owns Record, which is nil for
// ticks and for entries that could not be read.
type Entry struct {
	Meta
	Seq    uint64 // stream sequence
	Record arrow.Record
	// LostBatches and LostRows say what is missing right before this entry:
	// discarded when the stream was full or too old, or lost on disk.
	LostBatches, LostRows uint64
	// Corrupt says why the entry itself could not be read, or is nil.
	Corrupt error
}

// Position is how far a reader has come. The zero Position is the beginning.
type Position struct {
	Seq        uint64 // last sequence read
	Batch, Row uint64 // what the next entry's Batch and Row are to be
}

// After returns the position of a reader that has read e.
func (e *Entry) After() Position {
	p := Position{Seq: e.Seq, Batch: e.Batch + 1, Row: e.Row}
	if e.Record != nil {
		p.Row += uint64(e.Record.NumRows())
	}
	return p
}

const headerKey = "Penstock"

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// encode makes the message of a record. Its data lies in body, which it
// overwrites.
func encode(body *bytes.Buffer, subject string, m Meta, rec arrow.Record, alloc memory.Allocator) (*nats.Msg, error) {
	body.Reset()
	if rec != nil {
		body.Grow(encodedSize(rec))
		w := ipc.NewWriter(body, ipc.WithSchema(rec.Schema()), ipc.WithAllocator(alloc))
		if err := w.Write(rec); err != nil {
			return nil, fmt.Errorf("encode batch: %w", err)
		}
		if err := w.Close(); err != nil {
			return nil, fmt.Errorf("encode batch: %w", err)
		}
	}
	idle := 0
	if m.Idle {
		idle = 1
	}
	h := fmt.Sprintf("1 %c %d %d %d %d %d %d %08x %s", m.Kind, m.Watermark, idle, m.Pos, m.Out, m.Batch, m.Row,
		crc32.Checksum(body.Bytes(), castagnoli), m.Source)
	return &nats.Msg{Subject: subject, Header: nats.Header{headerKey: []string{h}}, Data: body.Bytes()}, nil
}

// encodedSize estimates the size of a record as an Arrow IPC stream.
func encodedSize(rec arrow.Record) int {
	n := 2048 // schema, metadata, end of stream
	for _, c := range rec.Columns() {
		n += 256
		for _, b := range c.Data().Buffers() {
			if b != nil {
				n += b.Len() + 64
			}
		}
		if c.DataType().ID() == arrow.DICTIONARY {
			d := c.Data().Dictionary()
			for _, b := range d.Buffers() {
				if b != nil {
					n += b.Len() + 64
				}
			}
		}
	}
	return n
}

// decodeMeta reads the header of a message and checks the body against it.
func decodeMeta(h nats.Header, body []byte) (m Meta, err error) {
	s := h.Get(headerKey)
	var idle, version int
	var crc uint32
	n, err := fmt.Sscanf(s, "%d %c %d %d %d %d %d %d %x", &version, &m.Kind, &m.Watermark, &idle, &m.Pos, &m.Out, &m.Batch, &m.Row, &crc)
	if err != nil || n != 9 || version != 1 {
		return m, fmt.Errorf("header %q is not one of version 1", s)
	}
	if i := strings.LastIndexByte(s, ' '); i >= 0 {
		m.Source = s[i+1:]
	}
	m.Idle = idle == 1
	if got := crc32.Checksum(body, castagnoli); got != crc {
		return m, fmt.Errorf("checksum is %08x, header says %08x: the data on disk has changed", got, crc)
	}
	return m, nil
}

// decodeRecord reads the one record of a message. The caller owns it.
func decodeRecord(body []byte, alloc memory.Allocator) (rec arrow.Record, err error) {
	defer func() {
		if p := recover(); p != nil { // the IPC reader panics on some malformed input
			rec, err = nil, fmt.Errorf("decode batch: %v", p)
		}
	}()
	r, err := ipc.NewReader(bytes.NewReader(body), ipc.WithAllocator(alloc))
	if err != nil {
		return nil, fmt.Errorf("decode batch: %w", err)
	}
	defer r.Release()
	if !r.Next() {
		if r.Err() != nil {
			return nil, fmt.Errorf("decode batch: %w", r.Err())
		}
		return nil, errors.New("decode batch: no record in the message")
	}
	rec = r.Record()
	rec.Retain()
	return rec, nil
}
