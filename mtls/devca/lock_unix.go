//go:build linux || darwin || freebsd || netbsd || openbsd || dragonfly

package devca

import (
	"errors"
	"os"
	"syscall"
)

// lock waits until no other process, nor anybody else here, holds the lock of
// this file, which is made if it is missing and stays.
func lock(path string) (unlock func() error, err error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	for {
		switch err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX); {
		case err == nil:
			return f.Close, nil
		case !errors.Is(err, syscall.EINTR):
			return nil, errors.Join(err, f.Close())
		}
	}
}
