package mtls

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"sync"
	"time"
)

const (
	// firstByte is how long a client may take for the first byte, which says
	// whether it speaks TLS. It is what package serve allows for a header.
	firstByte = 10 * time.Second
	// lastByte is how long it may take once the listener has closed.
	lastByte = 400 * time.Millisecond
	// recordHandshake begins every TLS connection (RFC 8446 §5.1), and no HTTP
	// request and no HTTP/2 preface.
	recordHandshake = 0x16
)

var (
	errPlainCaller = errors.New("mtls: the client speaks plain text to a port that takes TLS only")
	errTLSCaller   = errors.New("mtls: the client speaks TLS to a port that takes plain text only")
)

// Listener returns a listener that accepts what [Config.Modes] say for the port
// of l: connections with TLS as [tls.Conn], ready for their handshake with the
// configuration cfg, and those in plain text as they are. If cfg is nil, it is
// [TLS.ServerConfig]. A change of modes holds for the connections that are
// accepted afterwards; calls on older ones are judged by the gate.
//
// The first byte of a connection decides. Where plain text is taken, a client
// has 10 s for it, and others do not wait for it meanwhile. Strict ports wait
// for nothing. So connections are accepted from l before anybody asks for them:
// what limits their number goes around l, not around what is returned.
//
// An [http.Server] serves both with Serve; for HTTP/2 in plain text (prior
// knowledge, RFC 9113 §3.3), which gRPC uses, it needs
// [http.Protocols.SetUnencryptedHTTP2]. For package serve, Listener is the
// field Wrap of a server. A gRPC server uses grpcmesh.Credentials instead.
//
// Close closes l and whatever has not been accepted yet. If l fails on its own,
// as when package serve closes it to drain, connections that it has accepted
// before have 400 ms left for their first byte, and Accept returns the error of
// l after them. The listener's goroutines end with Close, which waits for them.
func (t *TLS) Listener(l net.Listener, cfg *tls.Config) net.Listener {
	if cfg == nil {
		cfg = t.ServerConfig()
	}
	return &listener{
		Listener: l, tls: t, config: cfg,
		ready: make(chan accepted), done: make(chan struct{}), failed: make(chan struct{}), pending: make(map[net.Conn]bool),
	}
}

type accepted struct {
	conn net.Conn
	err  error
}

type listener struct {
	net.Listener
	tls    *TLS
	config *tls.Config

	start  sync.Once
	stop   sync.Once
	wait   sync.WaitGroup
	ready  chan accepted
	done   chan struct{} // closed by Close
	failed chan struct{} // closed when nothing will be ready any more
	err    error         // why; set before

	mu      sync.Mutex
	pending map[net.Conn]bool // those of which the first byte has not come
	ending  bool              // l has failed
	closed  bool
}

// Accept implements [net.Listener].
func (l *listener) Accept() (net.Conn, error) {
	l.start.Do(func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		if !l.closed {
			l.wait.Go(l.run)
		}
	})
	select {
	case a := <-l.ready:
		return a.conn, a.err
	case <-l.failed:
		return nil, l.err
	case <-l.done:
		return nil, net.ErrClosed
	}
}

// Close implements [net.Listener].
func (l *listener) Close() error {
	err := l.Listener.Close()
	l.stop.Do(func() {
		l.mu.Lock()
		l.closed = true
		for c := range l.pending {
			_ = c.Close() // its goroutine reads from it
		}
		l.mu.Unlock()
		close(l.done)
	})
	l.wait.Wait()
	return err
}

// run accepts until the listener below fails for good.
func (l *listener) run() {
	var sorting sync.WaitGroup
	defer sorting.Wait() // Close has ended what they wait for, or they have ended
	for {
		c, err := l.Listener.Accept()
		if err == nil {
			sorting.Go(func() { l.sort(c) })
			continue
		}
		//lint:ignore SA1019 net/http goes on after these, so there must be more to accept
		if ne, ok := errors.AsType[net.Error](err); !ok || !ne.Temporary() {
			l.end()
			sorting.Wait()
			l.err = err
			close(l.failed)
			return
		}
		if !l.give(accepted{err: err}) {
			return
		}
	}
}

// end gives those that are still silent the time that is left.
func (l *listener) end() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.ending = true
	for c := range l.pending {
		_ = c.SetReadDeadline(time.Now().Add(lastByte)) // it may be closed
	}
}

// sort finds out what c speaks.
func (l *listener) sort(c net.Conn) {
	if !l.watch(c) {
		_ = c.Close() // nobody will read it
		return
	}
	out, isTLS, err := l.tls.sniff(c)
	l.mu.Lock()
	delete(l.pending, c)
	l.mu.Unlock()
	if err == nil {
		err = c.SetReadDeadline(time.Time{})
	}
	if err == nil && isTLS {
		out = tls.Server(out, l.config)
	}
	if err != nil || !l.give(accepted{conn: out}) {
		_ = c.Close() // it is of no more use
	}
}

// watch notes c as pending and says how long it may be. It reports false if
// the listener is closed.
func (l *listener) watch(c net.Conn) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	patience := firstByte
	if l.ending {
		patience = lastByte
	}
	if l.closed || c.SetReadDeadline(time.Now().Add(patience)) != nil {
		return false
	}
	l.pending[c] = true
	return true
}

func (l *listener) give(a accepted) bool {
	select {
	case l.ready <- a:
		return true
	case <-l.done:
		return false
	}
}

// Sniff decides what a new connection of a server speaks, for servers that make
// their own handshakes, such as gRPC ones. By the mode of its port it looks at
// the first byte, for which ctx bounds the time, or does not need to. It returns
// the connection to go on with, which has that byte again, and an error if the
// port does not take what the client speaks. It never closes c.
func (t *TLS) Sniff(ctx context.Context, c net.Conn) (conn net.Conn, isTLS bool, err error) {
	stop := context.AfterFunc(ctx, func() { _ = c.SetReadDeadline(time.Unix(1, 0)) })
	conn, isTLS, err = t.sniff(c)
	if !stop() && err == nil {
		err = ctx.Err()
	}
	return conn, isTLS, err
}

func (t *TLS) sniff(c net.Conn) (conn net.Conn, isTLS bool, err error) {
	if t.modeOf(c) == ModeStrict {
		return c, true, nil // who speaks otherwise fails the handshake
	}
	first := make([]byte, 1)
	for n := 0; n == 0; {
		if n, err = c.Read(first); err != nil && n == 0 {
			return nil, false, err
		}
	}
	isTLS = first[0] == recordHandshake
	switch mode := t.modeOf(c); { // of now, as that may have taken a while
	case isTLS && mode == ModeDisable:
		return nil, true, errTLSCaller
	case !isTLS && mode == ModeStrict:
		return nil, false, errPlainCaller
	}
	return &sniffed{Conn: c, first: first}, isTLS, nil
}

func (t *TLS) modeOf(c net.Conn) Mode {
	port := uint16(0)
	if a, ok := c.LocalAddr().(*net.TCPAddr); ok {
		port = a.AddrPort().Port()
	}
	return t.latest().Modes.For(port)
}
