//go:build unix

package serve

import (
	"net"
	"os"
	"syscall"
)

// acceptQueued takes off l what its queue holds, without waiting, and reports
// whether it could. Accept with a deadline cannot do that: it fails before it
// looks when the deadline is over, and one that is not over leaves a gap
// between the last look and the close.
//
// The types are compared exactly: a listener that embeds one of these may wrap
// its connections, in TLS say, and must not be passed by.
func acceptQueued(l net.Listener) (conns []net.Conn, ok bool) {
	var s syscall.Conn
	switch l := l.(type) {
	case *net.TCPListener:
		s = l
	case *net.UnixListener:
		s = l
	default:
		return nil, false
	}
	raw, err := s.SyscallConn()
	if err != nil {
		return nil, false
	}
	err = raw.Control(func(fd uintptr) {
		for {
			syscall.ForkLock.RLock()
			c, _, err := syscall.Accept(int(fd))
			if err == nil {
				syscall.CloseOnExec(c)
			}
			syscall.ForkLock.RUnlock()
			switch err {
			case nil:
			case syscall.EINTR, syscall.ECONNABORTED:
				continue
			default: // EAGAIN: the queue is empty
				return
			}
			f := os.NewFile(uintptr(c), "accepted")
			conn, err := net.FileConn(f)
			_ = f.Close() // conn has a copy
			if err == nil {
				conns = append(conns, conn)
			}
		}
	})
	return conns, err == nil
}
