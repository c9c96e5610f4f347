//go:build !linux

package testpeer

import "syscall"

func dieWithParent() *syscall.SysProcAttr { return nil }
