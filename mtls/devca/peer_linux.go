package devca

import (
	"fmt"
	"net"
	"os"
	"syscall"
)

// samePeer returns an error unless the process at the other end runs, or ran
// when it began to listen or connect, as our user.
func samePeer(c net.Conn) error {
	u, ok := c.(*net.UnixConn)
	if !ok {
		return fmt.Errorf("devca: %T is not a connection of a unix socket", c)
	}
	raw, err := u.SyscallConn()
	if err != nil {
		return fmt.Errorf("devca: %w", err)
	}
	var cred *syscall.Ucred
	var credErr error
	if err := raw.Control(func(fd uintptr) {
		cred, credErr = syscall.GetsockoptUcred(int(fd), syscall.SOL_SOCKET, syscall.SO_PEERCRED)
	}); err != nil {
		return fmt.Errorf("devca: %w", err)
	}
	if credErr != nil {
		return fmt.Errorf("devca: %w", credErr)
	}
	return sameUser(int(cred.Uid), os.Geteuid())
}

func sameUser(theirs, ours int) error {
	if theirs != ours {
		return fmt.Errorf("devca: the other process runs as user %d and not as %d", theirs, ours)
	}
	return nil
}
