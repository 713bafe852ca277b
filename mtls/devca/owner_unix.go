//go:build unix

package devca

import (
	"fmt"
	"io/fs"
	"syscall"
)

// owned returns an error unless the file is the user's.
func owned(info fs.FileInfo, user int) error {
	s, ok := info.Sys().(*syscall.Stat_t)
	if !ok || int(s.Uid) != user {
		return fmt.Errorf("%s belongs to somebody else", info.Name())
	}
	return nil
}
