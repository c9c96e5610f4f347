//go:build !unix

package natsd

import (
	"os"
	"path/filepath"
)

// lockDir opens a file in dir; where there is no flock, a second process is
// not noticed.
func lockDir(dir string) (*os.File, error) {
	return os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
}
