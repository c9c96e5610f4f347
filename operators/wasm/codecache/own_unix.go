//go:build unix

package codecache

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"syscall"
)

// private reports why a file or directory is not this user's alone.
func private(st fs.FileInfo) error {
	sys, ok := st.Sys().(*syscall.Stat_t)
	if !ok {
		return errors.New("its owner is not known")
	}
	if uid := os.Geteuid(); sys.Uid != uint32(uid) {
		return fmt.Errorf("it belongs to user %d, not to user %d who runs this", sys.Uid, uid)
	}
	if st.Mode().Perm()&0o022 != 0 {
		return fmt.Errorf("others may write to it (mode %04o): chmod go-w it", st.Mode().Perm())
	}
	return nil
}

// openOwn opens a file for reading, not what a link points to.
func openOwn(path string) (*os.File, error) {
	return os.OpenFile(path, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
}
