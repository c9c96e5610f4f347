package archive

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/apache/arrow/go/v17/arrow"
	"github.com/apache/arrow/go/v17/arrow/array"
	"github.com/apache/arrow/go/v17/arrow/memory"

	"github.com/penstock/penstock/pipeline"
)

// Sink writes the archive. A goroutine of its own, from Connect to Close,
// syncs once a second and finishes files that are due.
type Sink struct {
	cfg Config
	env pipeline.Env
	now func() time.Time

	mu     sync.Mutex
	lock   *os.File
	open   map[partition]*spool
	newest map[string]time.Time // event time of the newest row, by node
	stop   chan struct{}
	done   chan struct{}
}

// partition is what shares a file: Parquet files have one schema.
type partition struct {
	node, schema string
	hour         int64 // hours since 1970
}

var (
	_ pipeline.Sink      = (*Sink)(nil)
	_ pipeline.BatchSink = (*Sink)(nil)
)

// New returns a sink that has not touched the disk yet.
func New(cfg Config, env pipeline.Env) (*Sink, error) {
	if env.Log == nil {
		env.Log = slog.New(slog.DiscardHandler)
	}
	if env.Meter == nil {
		env.Meter = pipeline.NewMeter()
	}
	if env.Alloc == nil {
		env.Alloc = memory.DefaultAllocator
	}
	return &Sink{cfg: cfg, env: env, now: time.Now, open: map[partition]*spool{}, newest: map[string]time.Time{}}, nil
}

func (s *Sink) spoolDir() string { return filepath.Join(s.cfg.Dir, ".spool") }

// Connect takes the folder for itself and goes on with the spools that it
// finds there.
func (s *Sink) Connect(context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := os.MkdirAll(s.spoolDir(), 0o755); err != nil {
		return fmt.Errorf("archive: %w", err)
	}
	lock, err := lockFile(filepath.Join(s.spoolDir(), "lock"))
	if err != nil {
		return pipeline.Permanent(fmt.Errorf("archive: %s is in use by another sink: %w", s.cfg.Dir, err))
	}
	s.lock = lock
	if err := errors.Join(s.recover(), s.expire()); err != nil {
		return errors.Join(fmt.Errorf("archive: %w", err), s.letGo())
	}
	s.stop, s.done = make(chan struct{}), make(chan struct{})
	go s.keep(s.stop, s.done)
	return nil
}

// recover opens the spools that a process left when it died.
func (s *Sink) recover() error {
	entries, err := os.ReadDir(s.spoolDir())
	if err != nil {
		return err
	}
	for _, e := range entries {
		path := filepath.Join(s.spoolDir(), e.Name())
		if filepath.Ext(path) == ".tmp" { // a Parquet file it was writing
			if err := os.Remove(path); err != nil {
				return err
			}
		}
		if filepath.Ext(path) != ".spool" {
			continue
		}
		sp, torn, err := recoverSpool(path, s.env.Alloc, s.now())
		if err != nil {
			return err
		}
		if torn > 0 {
			s.env.Log.Warn("the end of a spool was torn by a crash and is cut off", "file", path, "bytes", torn)
		}
		if sp == nil {
			continue
		}
		if _, err := os.Stat(s.target(sp)); err == nil { // it died between the rename and this
			if err := sp.remove(); err != nil {
				return err
			}
			continue
		}
		s.env.Log.Info("going on with a spool", "node", sp.Node, "hour", sp.Hour, "rows", sp.rows)
		key := partition{sp.Node, sp.schema.Fingerprint(), hourOf(arrow.Timestamp(sp.Hour.UnixNano()))}
		if other := s.open[key]; other != nil {
			if err := s.finish(key, other); err != nil {
				return err
			}
		}
		s.open[key] = sp
	}
	return nil
}

// Write writes one record.
func (s *Sink) Write(ctx context.Context, in arrow.Record) error {
	return s.WriteAll(ctx, []arrow.Record{in})
}

// WriteAll appends records to the spools of their hours.
func (s *Sink) WriteAll(_ context.Context, in []arrow.Record) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, rec := range in {
		if err := s.split(rec); err != nil {
			return fmt.Errorf("archive: %w", err)
		}
	}
	if s.cfg.Sync == "always" {
		if err := s.syncAll(); err != nil {
			return fmt.Errorf("archive: %w", err)
		}
	}
	for key, sp := range s.open {
		if sp.size >= int64(s.cfg.MaxFileBytes) {
			_ = s.finish(key, sp) // the rows are safe; maintain tries again and says why not
		}
	}
	return nil
}

// split hands the stretches of rec that lie in one hour to its spool.
func (s *Sink) split(rec arrow.Record) error {
	at := pipeline.Column(rec.Schema(), pipeline.NameTime)
	if at < 0 || !arrow.TypeEqual(rec.Schema().Field(at).Type, pipeline.TimeType) {
		return pipeline.Permanent(fmt.Errorf("the rows have no column %q of %s", pipeline.NameTime, pipeline.TimeType))
	}
	col := rec.Column(at).(*array.Timestamp)
	if col.NullN() > 0 {
		return pipeline.Permanent(fmt.Errorf("column %q has %d nulls", pipeline.NameTime, col.NullN()))
	}
	times, node := col.TimestampValues(), pipeline.Node(rec.Schema())
	newest := s.newest[node]
	defer func() { s.newest[node] = newest }()
	for i := 0; i < len(times); {
		hour, j := hourOf(times[i]), i
		for ; j < len(times) && hourOf(times[j]) == hour; j++ {
			if t := time.Unix(0, int64(times[j])); t.After(newest) {
				newest = t
			}
		}
		part := rec.NewSlice(int64(i), int64(j))
		err := s.append(part, hour)
		part.Release()
		if err != nil {
			return err
		}
		i = j
	}
	return nil
}

func hourOf(t arrow.Timestamp) int64 {
	const hour = arrow.Timestamp(time.Hour)
	if t < 0 {
		t -= hour - 1
	}
	return int64(t / hour)
}

func (s *Sink) append(rec arrow.Record, hour int64) error {
	key := partition{pipeline.Node(rec.Schema()), rec.Schema().Fingerprint(), hour}
	sp := s.open[key]
	if sp == nil {
		if err := s.makeRoom(); err != nil {
			return err
		}
		for i, f := range rec.Schema().Fields() {
			if d, ok := f.Type.(*arrow.DictionaryType); ok && d.ValueType.ID() != arrow.STRING {
				return pipeline.Permanent(fmt.Errorf("column %q is %s: only dictionaries of strings can be archived", rec.ColumnName(i), f.Type))
			}
		}
		id := make([]byte, 8)
		if _, err := rand.Read(id); err != nil {
			return err
		}
		h := header{Node: key.node, Hour: time.Unix(hour*3600, 0).UTC(), ID: hex.EncodeToString(id)}
		var err error
		if sp, err = createSpool(filepath.Join(s.spoolDir(), h.ID+".spool"), h, rec.Schema(), s.now()); err != nil {
			return err
		}
		s.open[key] = sp
	}
	sp.used = s.now()
	return sp.append(rec, s.env.Alloc)
}

// makeRoom finishes files until another may be opened.
func (s *Sink) makeRoom() error {
	for len(s.open) >= s.cfg.MaxOpen {
		var oldest partition
		var found *spool
		for key, sp := range s.open {
			if found == nil || sp.used.Before(found.used) {
				oldest, found = key, sp
			}
		}
		if err := s.finish(oldest, found); err != nil {
			return err
		}
	}
	return nil
}

// target is the path of the spool's Parquet file.
func (s *Sink) target(sp *spool) string {
	node := sp.Node
	if node == "" {
		node = "unknown"
	}
	return filepath.Join(s.cfg.Dir, "node="+url.PathEscape(node), "date="+sp.Hour.UTC().Format("2006-01-02"), "hour="+sp.Hour.UTC().Format("15"), "part-"+sp.ID+".parquet")
}

// finish makes the spool a Parquet file.
func (s *Sink) finish(key partition, sp *spool) error {
	path := s.target(sp)
	rows, err := sp.writeParquet(path, &s.cfg, s.env.Alloc)
	if err != nil {
		return err
	}
	delete(s.open, key)
	if lost := sp.rows - rows; lost > 0 { // the disk gives back something else than was written
		s.env.Meter.Dropped(s.env.Name, "spool_damaged", int(lost))
		s.env.Log.Error("a spool is damaged: rows are missing in the archive; it is kept", "file", sp.path+".damaged", "rows", lost)
		return errors.Join(sp.file.Close(), os.Rename(sp.path, sp.path+".damaged"))
	}
	if err := sp.remove(); err != nil { // at the next start its Parquet file is found
		s.env.Log.Warn("a spool that is in the archive cannot be deleted", "file", sp.path, "error", err)
	}
	s.env.Log.Debug("archived", "file", path, "rows", rows)
	return nil
}

// keep runs maintain once a second.
func (s *Sink) keep(stop, done chan struct{}) {
	defer close(done)
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	var logged time.Time
	for {
		select {
		case <-stop:
			return
		case now := <-tick.C:
			if err := s.maintain(); err != nil && now.Sub(logged) > time.Minute {
				logged = now
				s.env.Log.Error("archive files cannot be finished; trying again every second", "error", err)
			}
		}
	}
}

// maintain syncs what is open, finishes what is due and deletes what is too old.
func (s *Sink) maintain() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	err := s.syncAll()
	finished := false
	now := s.now()
	for key, sp := range s.open {
		age := now.Sub(sp.opened)
		over := s.newest[sp.Node].After(sp.Hour.Add(time.Hour+s.cfg.CloseAfter)) && age >= s.cfg.CloseAfter // late rows gather, too
		if over || age >= s.cfg.MaxFileAge || sp.size >= int64(s.cfg.MaxFileBytes) {
			err = errors.Join(err, s.finish(key, sp))
			finished = true
		}
	}
	if finished {
		err = errors.Join(err, s.expire())
	}
	return err
}

func (s *Sink) syncAll() (err error) {
	for _, sp := range s.open {
		err = errors.Join(err, sp.sync())
	}
	return err
}

// Close finishes all files. What cannot be finished stays in the spool for the
// next start.
func (s *Sink) Close(context.Context) error {
	if s.stop != nil {
		close(s.stop)
		<-s.done
		s.stop = nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.lock == nil {
		return nil
	}
	err := s.syncAll()
	keys := make([]partition, 0, len(s.open))
	for key := range s.open {
		keys = append(keys, key)
	}
	slices.SortFunc(keys, func(a, b partition) int { return int(a.hour - b.hour) })
	for _, key := range keys {
		err = errors.Join(err, s.finish(key, s.open[key]))
	}
	return errors.Join(err, s.expire(), s.letGo())
}

// letGo closes everything and leaves the folder to others.
func (s *Sink) letGo() (err error) {
	for key, sp := range s.open {
		err = errors.Join(err, sp.file.Close())
		delete(s.open, key)
	}
	err = errors.Join(err, s.lock.Close())
	s.lock = nil
	return err
}
