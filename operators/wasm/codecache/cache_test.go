package codecache

import (
	"bytes"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func open(t *testing.T, dir string, max int64) (*Cache, *bytes.Buffer) {
	t.Helper()
	var log bytes.Buffer
	return Open(dir, max, slog.New(slog.NewTextHandler(&log, nil))), &log
}

func TestKeeps(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data", "cache")
	c, log := open(t, dir, DefaultMax)
	require.NotNil(t, c, log)
	_, ok := c.Get("a")
	require.False(t, ok)
	c.Put("a", []byte("code of a"))
	c.Put("b", nil)
	c.Put("a", []byte("newer code of a"))

	again, _ := open(t, dir, DefaultMax)
	got, ok := again.Get("a")
	require.True(t, ok)
	require.Equal(t, "newer code of a", string(got))
	got, ok = again.Get("b")
	require.True(t, ok)
	require.Empty(t, got)
	again.Remove("a")
	again.Remove("a")
	_, ok = c.Get("a")
	require.False(t, ok)
	require.Empty(t, log.String())

	st, err := os.Stat(dir)
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o700), st.Mode().Perm())
	st, err = os.Stat(c.path("b"))
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o600), st.Mode().Perm())
}

// A file that is not what was written, to the last bit and under this very
// key, is not used and goes away.
func TestRefusesDamage(t *testing.T) {
	code := bytes.Repeat([]byte("native code"), 20)
	for name, damage := range map[string]func(t *testing.T, c *Cache, path string, data []byte){
		"cut short": func(t *testing.T, _ *Cache, path string, data []byte) {
			require.NoError(t, os.WriteFile(path, data[:len(data)-1], 0o600))
		},
		"empty": func(t *testing.T, _ *Cache, path string, _ []byte) {
			require.NoError(t, os.WriteFile(path, nil, 0o600))
		},
		"longer": func(t *testing.T, _ *Cache, path string, data []byte) {
			require.NoError(t, os.WriteFile(path, append(data, 0), 0o600))
		},
		"of another key": func(t *testing.T, c *Cache, path string, _ []byte) {
			c.Put("other", code)
			require.NoError(t, os.Rename(c.path("other"), path))
		},
		"writable by others": func(t *testing.T, _ *Cache, path string, _ []byte) { require.NoError(t, os.Chmod(path, 0o666)) },
		"a link": func(t *testing.T, _ *Cache, path string, data []byte) {
			to := filepath.Join(t.TempDir(), "elsewhere")
			require.NoError(t, os.WriteFile(to, data, 0o600))
			require.NoError(t, os.Remove(path))
			require.NoError(t, os.Symlink(to, path))
		},
		"too large": func(t *testing.T, c *Cache, _ string, _ []byte) { c.max = 100 },
	} {
		t.Run(name, func(t *testing.T) {
			c, log := open(t, filepath.Join(t.TempDir(), "cache"), DefaultMax)
			c.Put("key", code)
			data, err := os.ReadFile(c.path("key"))
			require.NoError(t, err)
			damage(t, c, c.path("key"), data)
			_, ok := c.Get("key")
			require.False(t, ok)
			require.Contains(t, log.String(), "is not used")
			_, err = os.Lstat(c.path("key"))
			require.ErrorIs(t, err, os.ErrNotExist)
		})
	}
	data := seal("key", code)
	for i := range data {
		data[i] ^= 1
		_, err := unseal("key", data)
		require.Error(t, err, "byte %d", i)
		data[i] ^= 1
	}
}

func TestRefusesDirectory(t *testing.T) {
	for name, make := range map[string]func(t *testing.T, dir string){
		"others may write": func(t *testing.T, dir string) {
			require.NoError(t, os.Mkdir(dir, 0o700))
			require.NoError(t, os.Chmod(dir, 0o770))
		},
		"no directory": func(t *testing.T, dir string) { require.NoError(t, os.WriteFile(dir, nil, 0o600)) },
		"a link": func(t *testing.T, dir string) {
			require.NoError(t, os.Symlink(t.TempDir(), dir))
		},
		"belongs to user": func(t *testing.T, dir string) {
			require.NoError(t, os.Mkdir(dir, 0o700))
			if os.Geteuid() != 0 {
				t.Skip("only root can give a directory away")
			}
			require.NoError(t, os.Chown(dir, 12345, -1))
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "cache")
			make(t, dir)
			c, log := open(t, dir, DefaultMax)
			require.Nil(t, c)
			require.Contains(t, log.String(), "compiled modules are not kept on disk")
			c.Put("a", nil) // a nil cache does nothing
			_, ok := c.Get("a")
			require.False(t, ok)
			c.Remove("a")
		})
	}
}

// What was not used for the longest time goes first; what a crash left goes too.
func TestBound(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "cache")
	c, _ := open(t, dir, 4000)
	code := make([]byte, 900)
	for i := range 4 {
		key := fmt.Sprint(i)
		c.Put(key, code)
		at := time.Now().Add(time.Duration(i-100) * time.Minute)
		require.NoError(t, os.Chtimes(c.path(key), at, at))
	}
	_, ok := c.Get("0")
	require.True(t, ok)
	left, fresh := filepath.Join(dir, "new-123"), filepath.Join(dir, "new-456")
	for _, f := range []string{left, fresh} {
		require.NoError(t, os.WriteFile(f, nil, 0o600))
	}
	require.NoError(t, os.Chtimes(left, time.Now(), time.Now().Add(-2*stale)))
	c.Put("4", code)
	for key, want := range map[string]bool{"0": true, "1": false, "2": true, "3": true, "4": true} {
		_, ok := c.Get(key)
		require.Equal(t, want, ok, key)
	}
	require.NoFileExists(t, left)
	require.FileExists(t, fresh)
	c.Put("huge", make([]byte, 5000))
	_, ok = c.Get("huge")
	require.False(t, ok)
	_, ok = c.Get("4")
	require.True(t, ok)
}

// Many writers and readers of one directory: a reader gets whole files only.
func TestConcurrent(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "cache")
	var wg sync.WaitGroup
	for w := range 4 {
		c, log := open(t, dir, 20_000)
		wg.Go(func() {
			for i := range 200 {
				key := fmt.Sprint(i % 7)
				if got, ok := c.Get(key); ok {
					assert.Equal(t, bytes.Repeat([]byte(key), 3000+i%7), got)
				}
				if i%2 == w%2 {
					c.Put(key, bytes.Repeat([]byte(key), 3000+i%7))
				}
			}
			assert.NotContains(t, log.String(), "checksum")
		})
	}
	wg.Wait()
}
