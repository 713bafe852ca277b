// Package crash has the examples' servers die as a process does: without a
// goodbye on any connection.
package crash

import (
	"net"
	"sync"
)

// Listener is a listener that can cut all its connections. Make it with [New].
type Listener struct {
	net.Listener
	mu    sync.Mutex
	conns map[net.Conn]struct{}
	dead  bool
}

// New returns l as one that can crash.
func New(l net.Listener) *Listener {
	return &Listener{Listener: l, conns: map[net.Conn]struct{}{}}
}

// Accept implements net.Listener.
func (l *Listener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.dead {
		_ = c.Close() // it is dead
		return nil, net.ErrClosed
	}
	l.conns[c] = struct{}{}
	return &conn{c, l}, nil
}

// Crash closes the listener and every connection that it has accepted.
func (l *Listener) Crash() {
	_ = l.Close() // it may be closed
	l.mu.Lock()
	defer l.mu.Unlock()
	l.dead = true
	for c := range l.conns {
		_ = c.Close() // that is the point
	}
}

type conn struct {
	net.Conn
	of *Listener
}

// Close implements net.Conn.
func (c *conn) Close() error {
	c.of.mu.Lock()
	delete(c.of.conns, c.Conn)
	c.of.mu.Unlock()
	return c.Conn.Close()
}
