package testpeer

import "syscall"

// dieWithParent has the kernel end the server when the test binary dies
// without its clean-up, as at a test timeout.
func dieWithParent() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
}
