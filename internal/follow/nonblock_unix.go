//go:build unix

package follow

import "syscall"

// nonblock keeps the opening of a named pipe from waiting for who writes to it.
const nonblock = syscall.O_NONBLOCK
