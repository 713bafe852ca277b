package serve

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
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
	closed atomic.Int64 // when the listener closed, in now; 0 before
	open   sync.Map     // net.Conn as the server knows it → *link
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
	link *link
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

// ReadFrom keeps sendfile for net/http.
func (c *conn) ReadFrom(r io.Reader) (int64, error) { return io.Copy(c.Conn, r) }

// CloseWrite lets net/http close in two steps, so that an answer to a body that
// was not read whole arrives.
func (c *conn) CloseWrite() error {
	if w, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return w.CloseWrite()
	}
	return errors.ErrUnsupported
}
