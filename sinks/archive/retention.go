package archive

import (
	"cmp"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// part is a Parquet file of the archive.
type part struct {
	path  string
	hour  time.Time
	bytes int64
}

// expire deletes what max_age and max_bytes do not keep, oldest hours first.
// It touches no file but those named as the archive names them.
func (s *Sink) expire() error {
	if s.cfg.MaxAge == 0 && s.cfg.MaxBytes == 0 {
		return nil
	}
	parts, err := s.parts()
	if err != nil {
		return err
	}
	total := int64(0)
	for _, p := range parts {
		total += p.bytes
	}
	var errs error
	deleted, freed := 0, int64(0)
	for _, p := range parts {
		old := s.cfg.MaxAge > 0 && s.now().Sub(p.hour.Add(time.Hour)) > s.cfg.MaxAge
		full := s.cfg.MaxBytes > 0 && total > int64(s.cfg.MaxBytes)
		if !old && !full {
			break
		}
		if err := os.Remove(p.path); err != nil {
			errs = errors.Join(errs, err)
			continue
		}
		total -= p.bytes
		deleted, freed = deleted+1, freed+p.bytes
		for dir := filepath.Dir(p.path); dir != filepath.Clean(s.cfg.Dir); dir = filepath.Dir(dir) {
			if os.Remove(dir) != nil { // not empty
				break
			}
		}
	}
	if deleted > 0 {
		s.env.Log.Info("oldest files deleted from the archive", "files", deleted, "bytes", freed, "max_age", s.cfg.MaxAge, "max_bytes", s.cfg.MaxBytes)
	}
	return errs
}

// parts lists the archive, oldest hour first.
func (s *Sink) parts() ([]part, error) {
	var parts []part
	paths, err := fs.Glob(os.DirFS(s.cfg.Dir), "node=*/date=*/hour=*/part-*.parquet")
	if err != nil {
		return nil, err
	}
	for _, path := range paths {
		path = filepath.Join(s.cfg.Dir, filepath.FromSlash(path))
		dir := filepath.Dir(path)
		hour, err := time.Parse("date=2006-01-02/hour=15", strings.Join([]string{filepath.Base(filepath.Dir(dir)), filepath.Base(dir)}, "/"))
		if err != nil {
			continue
		}
		info, err := os.Stat(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		} else if err != nil {
			return nil, err
		}
		parts = append(parts, part{path, hour, info.Size()})
	}
	slices.SortFunc(parts, func(a, b part) int {
		return cmp.Or(a.hour.Compare(b.hour), strings.Compare(a.path, b.path))
	})
	return parts, nil
}
