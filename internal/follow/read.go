package follow

import (
	"errors"
	"fmt"
	"io"
	"os"
)

// ErrTooLong is the error for a file that is longer than the limit.
var ErrTooLong = errors.New("file is too long")

// ReadFile reads a regular file of at most limit bytes, through links. It never
// waits: a named pipe, which would make whoever opens it wait, is an error.
func ReadFile(path string, limit int64) ([]byte, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|nonblock, 0)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }() // only read
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is not a regular file", path)
	}
	data, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return nil, err
	}
	if int64(len(data)) > limit {
		return nil, fmt.Errorf("%s: %w: more than %d bytes", path, ErrTooLong, limit)
	}
	return data, nil
}
