package serve

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"math"
	"net"
	"net/http"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// links follows the connections of one server, the hijacked ones included,
// which net/http forgets. While the server serves, a request touches only the
// memory of its own connection; the drain looks at all of them.
type links struct {
	start  time.Time
	answer time.Duration // how long a client may not read; 0 is for ever
	closed atomic.Int64  // when the listener closed, in now; 0 before
	open   sync.Map      // net.Conn as the server knows it → *link
}

// link is one connection.
type link struct {
	all      *links
	key      net.Conn     // in all.open
	raw      net.Conn     // closing it cuts the connection without ceremony
	wrapped  bool         // raw tells us when it is closed
	heard    atomic.Bool  // something was read
	state    atomic.Int32 // http.ConnState
	changed  atomic.Int64 // when the state changed, as with each request
	read     atomic.Int64 // when something was read, in the drain
	handlers atomic.Int32
	ended    atomic.Bool
	deaf     atomic.Bool // nothing is read any more
	patience *time.Timer // until it is; of the goroutine that serves HTTP/1
}

func newLinks() *links { return &links{start: time.Now()} }

// now is never 0 and does not jump with the clock of the wall.
func (s *links) now() int64 { return int64(time.Since(s.start)) + 1 }

// wrap follows c. A TLS connection stays as it is, since net/http looks for
// its type to find out who the peer is.
func (s *links) wrap(c net.Conn, track bool) net.Conn {
	_, isTLS := c.(interface{ ConnectionState() tls.ConnectionState })
	if isTLS && !track {
		return c
	}
	w := &conn{Conn: c}
	w.link = &link{all: s, raw: w, wrapped: true}
	w.link.changed.Store(s.now())
	if track {
		w.link.key = w
		s.open.Store(w, w.link)
	}
	return w
}

type linkKey struct{}

// connContext is an [http.Server.ConnContext]: it is called before anything
// happens on c.
func (s *links) connContext(ctx context.Context, c net.Conn) context.Context {
	var k *link
	if w := ours(c); w != nil {
		k = w.link
	} else {
		k = &link{all: s, raw: c}
		k.changed.Store(s.now())
	}
	k.key = c
	s.open.Store(c, k)
	return context.WithValue(ctx, linkKey{}, k)
}

// ours returns the connection that we made, from below TLS and what
// [Server].Wrap put around it, or nil.
func ours(c net.Conn) *conn {
	for {
		switch t := c.(type) {
		case *conn:
			return t
		case interface{ NetConn() net.Conn }:
			c = t.NetConn()
		default:
			return nil
		}
	}
}

// connState is an [http.Server.ConnState].
func (s *links) connState(c net.Conn, state http.ConnState) {
	v, ok := s.open.Load(c)
	if !ok {
		return
	}
	k := v.(*link)
	k.state.Store(int32(state))
	k.changed.Store(s.now())
	if k.patience != nil {
		k.patience.Stop()
		k.patience = nil
	}
	if state == http.StateClosed {
		k.end()
	}
}

// begin and done stand around a handler.
func (k *link) begin() { k.handlers.Add(1) }

func (k *link) done() {
	if k.handlers.Add(-1) > 0 {
		return
	}
	if !k.wrapped && http.ConnState(k.state.Load()) == http.StateHijacked {
		k.ended.Store(true) // we cannot follow it any further
	}
	if k.ended.Load() {
		k.all.open.Delete(k.key)
	}
}

// discard bounds what follows the handler of an HTTP/1 request with a body: up
// to 256 KiB that it did not read are read by net/http, before it sends the
// answer or before it closes, and without a limit in time, even if the client
// was not told to go on (RFC 9110 §10.1.1). So whoever is refused could hold his
// connection for ever, and a drain to its deadline.
func (k *link) discard() {
	if !hijacked(k) {
		k.patience = time.AfterFunc(headerTime, k.deafen)
	}
}

// deafen has net/http send its answer and close: to read on would be to take
// what comes of the body for a request.
func (k *link) deafen() {
	if !k.wrapped {
		_ = k.raw.Close() // its reads are not ours to end
		return
	}
	k.deaf.Store(true)
	_ = k.raw.SetReadDeadline(time.Unix(1, 0)) // it may be closed
}

// end is called when the connection is closed, more than once. Its handlers
// may still run: the last of them takes it off the list.
func (k *link) end() {
	k.ended.Store(true)
	if k.handlers.Load() == 0 && k.key != nil {
		k.all.open.Delete(k.key)
	}
}

func (s *links) each(f func(*link) bool) {
	s.open.Range(func(_, v any) bool { return f(v.(*link)) })
}

// close cuts the connections that match; nil matches all. It returns how many
// were open.
func (s *links) close(match func(*link) bool) (n int) {
	s.each(func(k *link) bool {
		if match == nil || match(k) {
			if !k.ended.Load() {
				n++
			}
			_ = k.raw.Close() // somebody else may have been faster
		}
		return true
	})
	return n
}

// settle waits until no connection is about to bring a request: it has been
// silent for a while, or has had the time for a header, or belongs to somebody
// else by now. What is read breaks the silence, and only a whole request gives
// new time: a client that dribbles, or pings on HTTP/2, would have no end.
func (s *links) settle(ctx context.Context) {
	poll(ctx, func() bool {
		quiet, now := true, s.now()
		s.each(func(k *link) bool {
			switch http.ConnState(k.state.Load()) {
			case http.StateHijacked, http.StateClosed:
			case http.StateActive:
				quiet = false
			default:
				since := max(k.changed.Load(), s.closed.Load())
				silent := now - max(k.read.Load(), since)
				quiet = silent >= int64(settle) || now-since >= int64(headerTime)
			}
			return quiet
		})
		return quiet
	})
}

// none reports whether every link that matches has gone; nil matches all.
func (s *links) none(match func(*link) bool) bool {
	none := true
	s.each(func(k *link) bool {
		none = match != nil && !match(k)
		return none
	})
	return none
}

func hijacked(k *link) bool { return http.ConnState(k.state.Load()) == http.StateHijacked }

func silent(k *link) bool { return http.ConnState(k.state.Load()) == http.StateNew }

// conn tells its link when it is read and closed.
type conn struct {
	net.Conn
	link   *link
	theirs atomic.Bool  // somebody else has set a deadline for writes
	until  atomic.Int64 // that of ours, in links.now
}

// NetConn returns the connection that the listener accepted, as
// [tls.Conn.NetConn] does.
func (c *conn) NetConn() net.Conn { return c.Conn }

func (c *conn) Read(b []byte) (int, error) {
	if c.link.deaf.Load() {
		return 0, os.ErrDeadlineExceeded
	}
	n, err := c.Conn.Read(b)
	if n > 0 {
		if !c.link.heard.Load() {
			c.link.heard.Store(true)
		}
		if s := c.link.all; s.closed.Load() != 0 {
			c.link.read.Store(s.now())
		}
	}
	return n, err
}

func (c *conn) Close() error {
	err := c.Conn.Close()
	c.link.end()
	return err
}

// Write writes in pieces, each of which the client has time to take.
func (c *conn) Write(b []byte) (n int, err error) {
	for c.bounded() && len(b)-n > piece {
		m, err := c.Conn.Write(b[n : n+piece])
		if n += m; err != nil {
			return n, err
		}
	}
	c.bounded()
	m, err := c.Conn.Write(b[n:])
	return n + m, err
}

// bounded sets the deadline of the next write, if there is one. It is one of the
// runtime, which costs too much to be set for every write.
func (c *conn) bounded() bool {
	s := c.link.all
	if s.answer == 0 || c.theirs.Load() || hijacked(c.link) {
		return false
	}
	if now := s.now(); c.until.Load()-now < int64(s.answer)*7/8 {
		_ = c.Conn.SetWriteDeadline(time.Now().Add(s.answer)) // the write will say what is wrong
		c.until.Store(now + int64(s.answer))
	}
	return true
}

// SetWriteDeadline is for net/http and handlers, who know better.
func (c *conn) SetWriteDeadline(t time.Time) error {
	c.theirs.Store(!t.IsZero())
	c.until.Store(0)
	return c.Conn.SetWriteDeadline(t)
}

func (c *conn) SetDeadline(t time.Time) error {
	c.theirs.Store(!t.IsZero())
	c.until.Store(0)
	return c.Conn.SetDeadline(t)
}

// ReadFrom keeps sendfile for net/http.
func (c *conn) ReadFrom(r io.Reader) (n int64, err error) {
	// A file in a reader with a limit is what sendfile knows.
	left, limited := int64(math.MaxInt64), false
	if l, ok := r.(*io.LimitedReader); ok {
		r, left, limited = l.R, l.N, true
		defer func() { l.N -= n }()
	}
	for left > 0 && c.bounded() {
		part := &io.LimitedReader{R: r, N: min(left, piece)}
		m, err := io.Copy(c.Conn, part)
		n, left = n+m, left-m
		if err != nil || part.N > 0 { // at its end
			return n, err
		}
	}
	if left == 0 {
		return n, nil
	}
	if limited {
		r = &io.LimitedReader{R: r, N: left}
	}
	m, err := io.Copy(c.Conn, r)
	return n + m, err
}

// CloseWrite lets net/http close in two steps, so that an answer to a body that
// was not read whole arrives.
func (c *conn) CloseWrite() error {
	if w, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return w.CloseWrite()
	}
	return errors.ErrUnsupported
}
