package archive

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/apache/arrow/go/v17/arrow"
	"github.com/apache/arrow/go/v17/arrow/ipc"
	"github.com/apache/arrow/go/v17/arrow/memory"
	"github.com/cespare/xxhash/v2"
)

// spool is an append-only file of frames: length (uint32), xxhash64 (uint64),
// both little endian, then the bytes. The first frame is the header as JSON,
// each other one a record as an Arrow IPC stream. A torn last frame shows by
// its hash.
type spool struct {
	header
	path   string
	file   *os.File
	size   int64
	rows   int64
	dirty  bool
	seen   map[uint64]struct{} // hashes of the records
	schema *arrow.Schema       // of the records

	opened, used time.Time
	scratch      bytes.Buffer
}

// header says where the rows of a spool belong. ID names its Parquet file.
type header struct {
	Node string    `json:"node"`
	Hour time.Time `json:"hour"`
	ID   string    `json:"id"`
}

const (
	frameHead = 12
	maxFrame  = 1 << 30
)

func createSpool(path string, h header, schema *arrow.Schema, now time.Time) (*spool, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return nil, err
	}
	s := &spool{header: h, path: path, file: f, seen: map[uint64]struct{}{}, schema: schema, opened: now, used: now}
	data, err := json.Marshal(h)
	if err == nil {
		_, err = s.frame(append(make([]byte, frameHead), data...))
	}
	if err != nil {
		return nil, errors.Join(err, f.Close(), os.Remove(path))
	}
	return s, nil
}

// recoverSpool opens what a process that died left behind and cuts off a torn
// end. A nil spool without an error is one that holds no rows; it is deleted.
func recoverSpool(path string, mem memory.Allocator, now time.Time) (s *spool, torn int64, err error) {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return nil, 0, err
	}
	s = &spool{path: path, file: f, seen: map[uint64]struct{}{}, opened: now, used: now}
	defer func() {
		if err != nil || s.rows == 0 {
			err = errors.Join(err, f.Close())
			if err == nil {
				err = os.Remove(path)
			}
			s = nil
		}
	}()
	first := true
	s.size, err = s.frames(func(data []byte, sum uint64) error {
		if first {
			first = false
			return json.Unmarshal(data, &s.header)
		}
		return decode(data, mem, func(rec arrow.Record) error {
			s.seen[sum] = struct{}{}
			s.rows += rec.NumRows()
			s.schema = rec.Schema()
			return nil
		})
	})
	if err != nil {
		return s, 0, fmt.Errorf("%s: %w", path, err)
	}
	end, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return s, 0, err
	}
	return s, end - s.size, f.Truncate(s.size)
}

// append adds a record unless the spool has it already.
func (s *spool) append(rec arrow.Record, mem memory.Allocator) error {
	s.scratch.Reset()
	s.scratch.Write(make([]byte, frameHead))
	w := ipc.NewWriter(&s.scratch, ipc.WithSchema(rec.Schema()), ipc.WithAllocator(mem))
	if err := errors.Join(w.Write(rec), w.Close()); err != nil {
		return err
	}
	fresh, err := s.frame(s.scratch.Bytes())
	if err == nil && fresh {
		s.rows += rec.NumRows()
	}
	return err
}

// frame writes b, whose first bytes are room for the frame's head. After an
// error the file's end is as before for those who come next.
func (s *spool) frame(b []byte) (fresh bool, err error) {
	n := len(b) - frameHead
	if n > maxFrame {
		return false, fmt.Errorf("a record of %d bytes is too large", n)
	}
	sum := xxhash.Sum64(b[frameHead:])
	if _, known := s.seen[sum]; known {
		return false, nil
	}
	binary.LittleEndian.PutUint32(b, uint32(n))
	binary.LittleEndian.PutUint64(b[4:], sum)
	if _, err := s.file.WriteAt(b, s.size); err != nil {
		return false, err
	}
	s.size += int64(len(b))
	s.dirty = true
	s.seen[sum] = struct{}{}
	return true, nil
}

// frames calls f for each whole frame, in order, and returns where the last
// one ends.
func (s *spool) frames(f func(data []byte, sum uint64) error) (end int64, err error) {
	info, err := s.file.Stat()
	if err != nil {
		return 0, err
	}
	if _, err := s.file.Seek(0, io.SeekStart); err != nil {
		return 0, err
	}
	r := bufio.NewReaderSize(s.file, 256<<10)
	var head [frameHead]byte
	var data []byte
	for {
		if _, err := io.ReadFull(r, head[:]); err != nil {
			return end, atEnd(err)
		}
		n, sum := int64(binary.LittleEndian.Uint32(head[:])), binary.LittleEndian.Uint64(head[4:])
		if n == 0 || n > info.Size()-end-frameHead {
			return end, nil
		}
		if int64(cap(data)) < n {
			data = make([]byte, n)
		}
		data = data[:n]
		if _, err := io.ReadFull(r, data); err != nil {
			return end, atEnd(err)
		}
		if xxhash.Sum64(data) != sum {
			return end, nil
		}
		if err := f(data, sum); err != nil {
			return end, err
		}
		end += frameHead + n
	}
}

func atEnd(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return nil
	}
	return err
}

// sync brings what was written to the disk.
func (s *spool) sync() error {
	if !s.dirty {
		return nil
	}
	if err := s.file.Sync(); err != nil {
		return err
	}
	s.dirty = false
	return nil
}

// remove closes and deletes the file.
func (s *spool) remove() error { return errors.Join(s.file.Close(), os.Remove(s.path)) }

// decode calls f with each record of an IPC stream; they are borrowed.
func decode(data []byte, mem memory.Allocator, f func(arrow.Record) error) error {
	r, err := ipc.NewReader(bytes.NewReader(data), ipc.WithAllocator(mem))
	if err != nil {
		return err
	}
	defer r.Release()
	for r.Next() {
		if err := f(r.Record()); err != nil {
			return err
		}
	}
	return r.Err()
}
