// Package codecache keeps compiled modules on disk, so that a restart need not
// compile them again.
//
// What is kept is native code, which is run as it is. So a directory that
// somebody else may write to is not used, and a file is used only if it is the
// caller's own, and whole: a checksum over its content and its key stands at
// its beginning.
package codecache

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// DefaultMax bounds the files of a cache, in bytes.
const DefaultMax = 256 << 20

// A file: magic, SHA-256 of all that follows, length of the key, key, code.
const (
	magic  = "PSCODE\x00\x01"
	suffix = ".code"
	maxKey = 4096
)

// stale is how old a file must be that another process seems to be writing
// still, before it is taken for what a crash left.
const stale = time.Hour

// Cache is a directory of native code. It may be used by several goroutines,
// and the directory by several processes. A nil Cache keeps nothing.
type Cache struct {
	dir string
	max int64
	log *slog.Logger
}

// Open returns the cache in dir, which it makes if it is missing, with files of
// at most max bytes in all. Where the directory cannot be used, or must not be
// because others may write to it, it says so in the log and returns nil: a
// program runs without a cache as well.
func Open(dir string, max int64, log *slog.Logger) *Cache {
	c := &Cache{dir: dir, max: max, log: log}
	if err := c.prepare(); err != nil {
		log.Warn("compiled modules are not kept on disk", "dir", dir, "error", err)
		return nil
	}
	c.evict(0)
	return c
}

func (c *Cache) prepare() error {
	if err := os.MkdirAll(c.dir, 0o700); err != nil {
		return err
	}
	st, err := os.Lstat(c.dir)
	if err != nil {
		return err
	}
	if !st.IsDir() {
		return errors.New("it is no directory")
	}
	if err := private(st); err != nil {
		return err
	}
	f, err := os.CreateTemp(c.dir, "new-*")
	if err != nil {
		return err
	}
	return errors.Join(f.Close(), os.Remove(f.Name()))
}

// Scratch is a directory for temporary files, as safe as the cache.
func (c *Cache) Scratch() string { return c.dir }

func (c *Cache) path(key string) string {
	sum := sha256.Sum256([]byte(key))
	return filepath.Join(c.dir, hex.EncodeToString(sum[:])+suffix)
}

// Get returns what Put kept under the key. A file that is not as it was
// written is removed.
func (c *Cache) Get(key string) ([]byte, bool) {
	if c == nil {
		return nil, false
	}
	code, err := c.read(key)
	switch {
	case err == nil:
		now := time.Now()
		_ = os.Chtimes(c.path(key), now, now) // the oldest goes first: this one is in use
		return code, true
	case !errors.Is(err, os.ErrNotExist):
		c.log.Warn("a compiled module on disk is not used", "file", c.path(key), "error", err)
		c.Remove(key)
	}
	return nil, false
}

func (c *Cache) read(key string) ([]byte, error) {
	f, err := openOwn(c.path(key))
	if err != nil {
		return nil, err
	}
	defer f.Close() //nolint:errcheck // only read
	st, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !st.Mode().IsRegular() {
		return nil, errors.New("it is no file")
	}
	if err := private(st); err != nil {
		return nil, err
	}
	if st.Size() > c.max {
		return nil, fmt.Errorf("it has %d bytes, the limit is %d", st.Size(), c.max)
	}
	data := make([]byte, st.Size())
	if _, err := io.ReadFull(f, data); err != nil {
		return nil, err
	}
	return unseal(key, data)
}

func seal(key string, code []byte) []byte {
	body := len(magic) + sha256.Size
	data := make([]byte, body, body+4+len(key)+len(code))
	copy(data, magic)
	data = binary.LittleEndian.AppendUint32(data, uint32(len(key)))
	data = append(data, key...)
	data = append(data, code...)
	sum := sha256.Sum256(data[body:])
	copy(data[len(magic):], sum[:])
	return data
}

func unseal(key string, data []byte) ([]byte, error) {
	head := len(magic) + sha256.Size
	if len(data) < head+4+len(key) || !bytes.HasPrefix(data, []byte(magic)) {
		return nil, errors.New("it is no compiled module, or cut short")
	}
	body := data[head:]
	if sum := sha256.Sum256(body); !bytes.Equal(sum[:], data[len(magic):head]) {
		return nil, errors.New("its checksum is wrong")
	}
	if binary.LittleEndian.Uint32(body) != uint32(len(key)) || string(body[4:4+len(key)]) != key {
		return nil, errors.New("it is that of another module, engine or CPU")
	}
	return body[4+len(key):], nil
}

// Put keeps code under the key. It replaces a file as a whole, so that another
// process sees the old one or the new one. It never fails: what cannot be kept
// is said in the log.
func (c *Cache) Put(key string, code []byte) {
	if c == nil || len(key) > maxKey {
		return
	}
	data := seal(key, code)
	if int64(len(data)) > c.max {
		c.log.Info("a compiled module is too large to be kept on disk", "bytes", len(data), "limit", c.max)
		return
	}
	c.evict(int64(len(data)))
	if err := c.write(c.path(key), data); err != nil {
		c.log.Warn("a compiled module is not kept on disk", "dir", c.dir, "error", err)
	}
}

func (c *Cache) write(path string, data []byte) error {
	f, err := os.CreateTemp(c.dir, "new-*") // 0600
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	// No fsync: what a crash of the machine leaves half written fails its checksum.
	err = errors.Join(err, f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return nil
}

// Remove forgets what is kept under the key.
func (c *Cache) Remove(key string) {
	if c == nil {
		return
	}
	if err := os.Remove(c.path(key)); err != nil && !errors.Is(err, os.ErrNotExist) {
		c.log.Warn("a compiled module on disk cannot be removed", "file", c.path(key), "error", err)
	}
}

// evict removes what crashes left, and the files that were not used for the
// longest time until need more bytes fit. Another process may do the same.
func (c *Cache) evict(need int64) {
	entries, err := os.ReadDir(c.dir)
	if err != nil {
		c.log.Warn("the directory of compiled modules cannot be read", "dir", c.dir, "error", err)
		return
	}
	type file struct {
		path string
		size int64
		used time.Time
	}
	var files []file
	total := need
	for _, e := range entries {
		st, err := e.Info()
		if err != nil {
			continue // removed by another process
		}
		path := filepath.Join(c.dir, e.Name())
		if strings.HasSuffix(e.Name(), suffix) && st.Mode().IsRegular() {
			files = append(files, file{path, st.Size(), st.ModTime()})
			total += st.Size()
		} else if time.Since(st.ModTime()) > stale && (strings.HasPrefix(e.Name(), "new-") || strings.HasPrefix(e.Name(), "wazero-")) {
			_ = os.RemoveAll(path)
		}
	}
	slices.SortFunc(files, func(a, b file) int { return a.used.Compare(b.used) })
	for _, f := range files {
		if total <= c.max {
			return
		}
		if os.Remove(f.path) == nil {
			total -= f.size
		}
	}
}
