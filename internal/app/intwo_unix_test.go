//go:build unix

package app

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
)

// inTwo is a recording of which the first rows are there from the start and the rest
// when goOn is called: until then the pipeline runs, however long a test takes.
func inTwo(t *testing.T, recording string, first int) (path string, goOn func()) {
	data, err := os.ReadFile(recording)
	require.NoError(t, err)
	lines := bytes.SplitAfter(data, []byte("\n"))
	dir, head := t.TempDir(), lines[0]
	require.NoError(t, os.WriteFile(filepath.Join(dir, "a.csv"), bytes.Join(lines[:1+first], nil), 0o600))
	pipe := filepath.Join(dir, "b.csv")
	require.NoError(t, syscall.Mkfifo(pipe, 0o600))
	w, err := os.OpenFile(pipe, os.O_RDWR, 0) // to read as well, or it would wait for the reader
	require.NoError(t, err)
	var writing sync.WaitGroup
	t.Cleanup(func() {
		w.Close()
		writing.Wait()
	})
	return filepath.Join(dir, "*.csv"), func() {
		writing.Go(func() {
			defer w.Close()
			rows := append(bytes.Clone(head), bytes.Join(lines[1+first:], nil)...)
			// What nobody has read is gone when the pipe is closed. With more empty lines
			// behind it than a pipe holds, the rows have been read when all is written.
			rows = append(rows, bytes.Repeat([]byte("\n"), 1<<20)...)
			if _, err := w.Write(rows); err != nil && !errors.Is(err, os.ErrClosed) {
				t.Error(err)
			}
		})
	}
}
