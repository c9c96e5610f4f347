// Package quickack keeps small messages from waiting for TCP acknowledgements.
package quickack

import (
	"net"
	"syscall"
)

// For returns a function that makes the kernel acknowledge at once what
// has been read. Left alone it waits up to 40 ms for more, and a broker that
// writes each message by itself without TCP_NODELAY (Mosquitto, unless
// set_tcp_nodelay is true) sends no second one before that acknowledgement. The
// kernel forgets the setting, so it is repeated after each read.
func For(c net.Conn) func() {
	s, ok := c.(syscall.Conn)
	if !ok {
		return func() {}
	}
	raw, err := s.SyscallConn()
	if err != nil {
		return func() {}
	}
	set := func(fd uintptr) {
		// It only saves time: an error, of a socket that is closed, shows at
		// the next read.
		_ = syscall.SetsockoptInt(int(fd), syscall.IPPROTO_TCP, syscall.TCP_QUICKACK, 1)
	}
	return func() { _ = raw.Control(set) }
}
