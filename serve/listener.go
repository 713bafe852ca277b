package serve

import (
	"context"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// listener closes without losing the connections that wait to be accepted, and
// follows those it accepts.
type listener struct {
	net.Listener
	links    *links
	track    bool         // put what is accepted into links
	stopping atomic.Bool  // stop was called
	waiting  atomic.Int64 // since when Accept waits, in links.now; 0 if it does not
	swept    chan struct{}

	mu   sync.Mutex
	rest []net.Conn // taken off the queue by stop; set before swept is closed
}

func (l *listener) Accept() (net.Conn, error) {
	l.waiting.Store(l.links.now())
	c, err := l.Listener.Accept()
	l.waiting.Store(0)
	if err != nil {
		if !l.stopping.Load() {
			return nil, err
		}
		<-l.swept
		if c = l.next(); c == nil {
			return nil, net.ErrClosed
		}
	}
	return l.links.wrap(c, l.track), nil
}

func (l *listener) next() net.Conn {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.rest) == 0 {
		return nil
	}
	c := l.rest[0]
	l.rest = l.rest[1:]
	return c
}

// stop closes the listener. It does not shut the socket down, which would end
// it for a process that inherited it, too.
func (l *listener) stop(ctx context.Context) {
	l.stopping.Store(true)
	rest, ok := acceptQueued(l.Listener)
	if !ok {
		l.waitIdle(ctx)
	}
	_ = l.Close() // it is of no more use, closed or not
	l.mu.Lock()
	l.rest = rest
	l.mu.Unlock()
	close(l.swept)
	l.links.closed.Store(l.links.now())
}

// waitIdle waits until Accept has had nothing to return for a moment, at most
// for settle, as the queue of a busy listener may never stay empty.
func (l *listener) waitIdle(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, settle)
	defer cancel()
	poll(ctx, func() bool {
		since := l.waiting.Load()
		return since != 0 && l.links.now()-since >= int64(5*time.Millisecond)
	})
}

// dropUnclaimed closes what the server, which has failed, will not accept.
func (l *listener) dropUnclaimed() {
	for c := l.next(); c != nil; c = l.next() {
		_ = c.Close() // nobody will read it
	}
}

// poll asks done every few milliseconds until it is true or ctx ends.
func poll(ctx context.Context, done func() bool) bool {
	t := time.NewTicker(5 * time.Millisecond)
	defer t.Stop()
	for !done() {
		select {
		case <-ctx.Done():
			return false
		case <-t.C:
		}
	}
	return true
}
