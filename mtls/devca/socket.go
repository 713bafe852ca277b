package devca

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/gatemesh-go/gatemesh"
)

// DefaultSocket returns where [Server] and [Client] meet unless they are told
// otherwise: gatemesh/devca.sock in $XDG_RUNTIME_DIR, or a folder of the user's
// in the one for temporary files.
func DefaultSocket() string {
	if dir := os.Getenv("XDG_RUNTIME_DIR"); filepath.IsAbs(dir) {
		return filepath.Join(dir, "gatemesh", "devca.sock")
	}
	return filepath.Join(os.TempDir(), "gatemesh-"+strconv.Itoa(os.Getuid()), "devca.sock")
}

// checkSocket refuses what no folder guards, such as a name that begins with @,
// which Linux does not look for in the file system.
func checkSocket(path string) error {
	if !filepath.IsAbs(path) {
		return fmt.Errorf("%q is not an absolute path", path)
	}
	return nil
}

// listen returns a listener at path, in a folder that is its owner's alone.
// A socket that a server has left there is replaced; one that is served, or
// another kind of file, is not.
func listen(path string) (net.Listener, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, err
	}
	if err := private(filepath.Dir(path), os.Geteuid()); err != nil {
		return nil, err
	}
	// Else another server could come between the look and the removal.
	unlock, err := lock(path + ".lock")
	if err != nil {
		return nil, err
	}
	defer func() { _ = unlock() }() // the system unlocks it, if nothing else does
	if info, err := os.Lstat(path); err == nil {
		if info.Mode().Type() != fs.ModeSocket {
			return nil, fmt.Errorf("%s is there and no socket", path)
		}
		c, err := net.DialTimeout("unix", path, time.Second)
		if err == nil {
			return nil, errors.Join(fmt.Errorf("%s is served already", path), c.Close())
		}
		if err := os.Remove(path); err != nil {
			return nil, err
		}
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, err
	}
	if err := os.Chmod(path, 0o600); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return l, nil
}

// private returns an error unless the folder is for us alone. Where somebody
// else could put a socket, an authority could be anybody's. So it is no link,
// which could lead elsewhere the next time; those further up are for whoever
// chose the path to mind.
func private(dir string, us int) error {
	info, err := os.Lstat(dir)
	switch {
	case err != nil:
		return err
	case !info.IsDir():
		return fmt.Errorf("%s is not a folder", dir)
	case info.Mode().Perm()&0o077 != 0:
		return fmt.Errorf("%s must be for its owner alone (mode 0700), and has mode %#o", dir, info.Mode().Perm())
	}
	return owned(info, us)
}

// dial connects to the server at path, if it runs as the same user.
func dial(ctx context.Context, path string) (net.Conn, error) {
	if err := private(filepath.Dir(path), os.Geteuid()); err != nil {
		return nil, err
	}
	c, err := new(net.Dialer).DialContext(ctx, "unix", path)
	if err != nil {
		return nil, err
	}
	if err := samePeer(c); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return c, nil
}

// guarded accepts the connections of processes of the same user only.
type guarded struct {
	net.Listener
	observer gatemesh.Observer
}

func (g guarded) Accept() (net.Conn, error) {
	for {
		c, err := g.Listener.Accept()
		if err != nil {
			return nil, err
		}
		if err = samePeer(c); err == nil {
			return c, nil
		}
		observe(g.observer, gatemesh.EventNotice, "connection refused", errors.Join(err, c.Close()))
	}
}

func observe(o gatemesh.Observer, kind gatemesh.EventKind, message string, err error) {
	if o != nil {
		o.Observe(context.Background(), gatemesh.Event{Kind: kind, Layer: "devca", Message: message, Err: err})
	}
}
