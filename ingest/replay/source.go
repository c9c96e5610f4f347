// Package replay reads recorded readings from CSV, Parquet and Arrow IPC files
// at their recorded pace, faster, or as fast as possible.
//
// The files stay where they are, so there is nothing to acknowledge: the
// AckFunc of a batch does nothing.
package replay

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/apache/arrow/go/v17/arrow/memory"

	"github.com/penstock/penstock/ingest"
	"github.com/penstock/penstock/pipeline"
)

const (
	idleAfter = time.Second
	// loggedBadRows is how many bad rows of a replay are logged one by one.
	loggedBadRows = 20
)

// Source replays files. See [pipeline.Source].
type Source struct {
	cfg     Config
	env     pipeline.Env
	log     *slog.Logger
	batcher *ingest.Batcher
	clock   clock

	files []string
	next  int // file to open
	in    reader
	ended error // what read of in said last
	rows  chunk
	row   int // next of rows

	ready   []pipeline.Batch
	badRows int

	// Pace and rebasing. Times are ns since 1970.
	begun        bool
	origin       int64 // recorded time of the first row
	start        int64 // clock when it was due
	shift        int64 // added to recorded times
	first, last  int64 // recorded times of this round, oldest and newest
	step         int64 // between the two newest different times
	roundHadRows bool

	mu      sync.Mutex // held by Read, which soon returns once closed is
	closing sync.Once
	closed  chan struct{}
}

// New returns a source that has not opened its files yet.
func New(cfg Config, env pipeline.Env) (*Source, error) {
	if env.Log == nil {
		env.Log = slog.New(slog.DiscardHandler)
	}
	if env.Meter == nil {
		env.Meter = pipeline.NewMeter()
	}
	if env.Tags == nil {
		env.Tags = pipeline.NewTags(nil)
	}
	if env.Alloc == nil {
		env.Alloc = memory.DefaultAllocator
	}
	clock, err := newClock(cfg.TimeFormat, cfg.TimeZone)
	if err != nil {
		return nil, err
	}
	return &Source{cfg: cfg, env: env, log: env.Log.With("source", env.Name), batcher: ingest.NewBatcher(cfg.Batch, env), clock: clock, closed: make(chan struct{})}, nil
}

// Connect finds the files and opens the first. Its errors are permanent.
func (s *Source) Connect(ctx context.Context) error {
	files, err := filepath.Glob(s.cfg.Path)
	if err == nil && len(files) == 0 {
		if _, err = os.Stat(s.cfg.Path); err == nil {
			files = []string{s.cfg.Path} // its name looks like a pattern
		}
	}
	if err != nil {
		return pipeline.Permanent(fmt.Errorf("no file to replay: %w", err))
	}
	slices.Sort(files)
	s.files = files
	if s.in, err = s.open(ctx, files[0]); err != nil {
		return pipeline.Permanent(err)
	}
	s.next = 1
	s.env.Meter.Connected(s.env.Name, true)
	s.log.Info("replay begins", "files", len(files), "speed", s.cfg.Speed)
	return nil
}

// reader reads one file.
type reader interface {
	// read replaces the rows of c by the next ones of the file; io.EOF is the
	// end. Other errors end the file too.
	read(c *chunk) error
	close() error
}

func (s *Source) open(ctx context.Context, name string) (reader, error) {
	format := s.cfg.Format
	if format == "auto" {
		switch strings.ToLower(filepath.Ext(strings.TrimSuffix(name, ".gz"))) {
		case ".csv", ".tsv", ".txt":
			format = "csv"
		case ".parquet", ".pq":
			format = "parquet"
		case ".arrow", ".arrows", ".ipc", ".feather":
			format = "arrow"
		default:
			return nil, fmt.Errorf("%s: the format cannot be told from the name; write format: csv, parquet or arrow", name)
		}
	}
	switch format {
	case "csv":
		return openCSV(s, name)
	case "parquet":
		return openParquet(ctx, s, name)
	}
	return openArrow(s, name)
}

// bad counts a row, or a value of it, that cannot be read and says where it
// is. column counts from 1.
func (s *Source) bad(file string, line, column int, problem string) {
	s.badRows++
	s.env.Meter.Ingested(s.env.Name, 1)
	s.env.Meter.Dropped(s.env.Name, "bad_row", 1)
	if s.badRows <= loggedBadRows {
		s.log.Warn("a row is left out", "at", fmt.Sprintf("%s:%d:%d", file, line, column), "problem", problem)
	} else if s.badRows == loggedBadRows+1 {
		s.log.Warn("further bad rows are only counted")
	}
}

// Read returns the next batch, io.EOF after the last.
func (s *Source) Read(ctx context.Context) (pipeline.Batch, pipeline.AckFunc, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.ready) == 0 {
		err := s.fill(ctx)
		if err != nil && s.batcher.Len() == 0 {
			return pipeline.Batch{}, nothing, err
		}
		s.ready = s.batcher.Flush(s.ready[:0])
	}
	if len(s.ready) == 0 {
		return pipeline.Batch{Source: s.env.Name}, nothing, nil
	}
	b := s.ready[0]
	s.ready[0] = pipeline.Batch{}
	s.ready = s.ready[1:]
	return b, nothing, nil
}

func nothing(error) {}

// fill puts rows that are due into the batcher: until it is full, or nothing
// more is due before its first row has waited for the linger, or the idle time is
// over without a row.
func (s *Source) fill(ctx context.Context) error {
	idle := time.Now().Add(idleAfter)
	var first time.Time // when the batcher got a row
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-s.closed:
			return io.EOF
		default:
		}
		if s.row == s.rows.len() {
			if err := s.more(ctx); err != nil {
				return err
			}
			continue
		}
		now := time.Now()
		s.begin(now.UnixNano())
		wait := s.take(now)
		if s.batcher.Full() {
			return nil
		}
		if wait <= 0 {
			continue
		}
		if s.batcher.Len() > 0 {
			if first.IsZero() {
				first = now
			}
			if now.Add(wait).Sub(first) > s.cfg.Batch.Linger {
				return nil
			}
		}
		if left := time.Until(idle); s.batcher.Len() == 0 && wait > left {
			return s.sleep(ctx, left)
		}
		if err := s.sleep(ctx, wait); err != nil {
			return err
		}
	}
}

// begin fixes the origin of the replay at its first row.
func (s *Source) begin(now int64) {
	if s.begun {
		return
	}
	s.begun = true
	s.origin, s.start = s.rows.time[s.row], now
	if s.cfg.Rebase == "now" {
		s.shift = now - s.origin
	}
}

// take appends the rows that are due now and returns how long the next one is
// still to come; 0 when all were taken or the batcher is full.
func (s *Source) take(now time.Time) time.Duration {
	received := now.UnixNano()
	due := int64(1<<63 - 1) // newest shifted time that may go
	offset := s.origin
	if s.cfg.Rebase == "now" {
		offset = s.start
	}
	if s.cfg.Speed > 0 {
		due = offset + int64(float64(received-s.start)*float64(s.cfg.Speed))
	}
	c := &s.rows
	for ; s.row < c.len(); s.row++ {
		recorded := c.time[s.row]
		t := recorded + s.shift
		if t > due {
			return max(time.Duration(float64(t-due)/float64(s.cfg.Speed)), time.Microsecond)
		}
		if s.batcher.Full() {
			return 0
		}
		if !s.roundHadRows {
			s.roundHadRows, s.first, s.last = true, recorded, recorded
		} else if recorded > s.last {
			s.step, s.last = recorded-s.last, recorded
		} else if recorded < s.first {
			s.first = recorded
		}
		switch c.kind[s.row] {
		case isNumber:
			s.batcher.Append(c.tag[s.row], t, c.value[s.row], c.quality[s.row], received)
		case isText:
			s.batcher.AppendText(c.tag[s.row], t, c.textOf(s.row), c.quality[s.row], received)
		default:
			s.batcher.AppendNull(c.tag[s.row], t, c.quality[s.row], received)
		}
	}
	return 0
}

// more reads the next rows, going from file to file. All earlier rows have
// been taken.
func (s *Source) more(ctx context.Context) error {
	s.rows.reset()
	s.row = 0
	for s.in != nil {
		if s.ended == nil {
			if s.badRows <= s.cfg.MaxBadRows {
				s.ended = s.in.read(&s.rows)
			}
			if s.badRows > s.cfg.MaxBadRows {
				s.rows.reset()
				return pipeline.Permanent(fmt.Errorf("%d rows cannot be read, more than max_bad_rows (%d): are the settings right for these files?", s.badRows, s.cfg.MaxBadRows))
			}
			if s.rows.len() > 0 {
				return nil
			}
			continue
		}
		name := s.files[s.next-1]
		if s.ended != io.EOF {
			s.unreadable(name, s.ended)
		}
		if err := s.in.close(); err != nil {
			s.log.Warn("closing a file", "file", name, "error", err)
		}
		s.in, s.ended = nil, nil
		s.nextFile(ctx)
	}
	return io.EOF
}

// nextFile opens the next file that can be opened, if there is one.
func (s *Source) nextFile(ctx context.Context) {
	for s.in == nil {
		if s.next == len(s.files) {
			if !s.cfg.Loop || !s.roundHadRows {
				return
			}
			// The next round begins one step after this one ended.
			s.shift += s.last - s.first + max(s.step, 1)
			s.next, s.roundHadRows = 0, false
		}
		name := s.files[s.next]
		s.next++
		in, err := s.open(ctx, name)
		if err != nil {
			s.unreadable(name, err)
			continue
		}
		s.in = in
	}
}

func (s *Source) unreadable(name string, err error) {
	s.log.Error("a file, or the rest of it, cannot be read", "file", name, "error", err)
	s.env.Meter.Dropped(s.env.Name, "unreadable_file", 1)
}

func (s *Source) sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-s.closed:
		return io.EOF
	}
}

// Close makes a waiting Read return and closes the open file.
func (s *Source) Close(context.Context) error {
	s.closing.Do(func() { close(s.closed) })
	s.mu.Lock()
	defer s.mu.Unlock()
	s.env.Meter.Connected(s.env.Name, false)
	if s.in == nil {
		return nil
	}
	err := s.in.close()
	s.in = nil
	s.rows.reset()
	s.row = 0
	return err
}
