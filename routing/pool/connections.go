package pool

import (
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// defaultIdle is below the five seconds after which servers of Node.js close,
// the shortest that are common.
const defaultIdle = 4 * time.Second

// TransportConfig configures a [Transport]. The zero TransportConfig is all
// defaults.
type TransportConfig struct {
	// Base is cloned for each endpoint; its Proxy and IdleConnTimeout are not
	// used, and a MaxIdleConnsPerHost of 0 is 64. A ResponseHeaderTimeout makes an endpoint that hangs fail, so that
	// what tries again goes to another one. For https it has to say what it
	// verifies, as for [Pool.Transport]. Default: like
	// [http.DefaultTransport].
	Base *http.Transport
	// IdleTimeout is how long a connection may be idle. It has to be less than
	// that of the servers, by more than a packet takes: a server that closes a
	// connection while a request is on its way to it makes a call fail that must
	// not be made twice. Where a server says how long it waits, in a field
	// Keep-Alive with a timeout, connections to it are closed a second before
	// that, or a fifth if that is more. Default: 4 s; 10 ms to 1 h.
	IdleTimeout time.Duration
}

// Transport sends requests to the endpoints of a pool like [Pool.Transport], and
// has connections of its own to each endpoint. Those that are idle are closed
// before the server closes them, and when their endpoint leaves, is ejected or
// is unhealthy. Make it with [Pool.NewTransport] and close it; it is safe for
// concurrent use.
type Transport struct {
	rt   transport
	pool *Pool
	base *http.Transport
	idle time.Duration
	stop func()

	mu     sync.RWMutex
	conns  map[string]*conns // by address
	closed bool
}

var (
	errTransportUnset  = errors.New("pool: the Transport was not made by NewTransport")
	errTransportClosed = errors.New("pool: the Transport is closed")
)

// NewTransport returns a Transport for cfg.
func (p *Pool) NewTransport(cfg TransportConfig) (*Transport, error) {
	if p.state.Load() == nil {
		return nil, errUnset
	}
	setDefault(&cfg.IdleTimeout, defaultIdle)
	if cfg.IdleTimeout < 10*time.Millisecond || cfg.IdleTimeout > time.Hour {
		return nil, fmt.Errorf("pool: TransportConfig.IdleTimeout %v is not between 10ms and 1h", cfg.IdleTimeout)
	}
	if cfg.Base == nil {
		d, ok := http.DefaultTransport.(*http.Transport)
		if !ok {
			return nil, errors.New("pool: TransportConfig.Base is required, as http.DefaultTransport is none")
		}
		cfg.Base = d
	}
	t := &Transport{pool: p, base: cfg.Base.Clone(), idle: cfg.IdleTimeout, conns: map[string]*conns{}}
	if t.base.MaxIdleConnsPerHost == 0 {
		t.base.MaxIdleConnsPerHost = 64 // and not the 2 of net/http
	}
	t.base.Proxy = nil // it would resolve names, and does not know of endpoints
	t.rt = transport{pool: p, own: t}
	p.watching.Lock()
	p.transports[t] = struct{}{}
	p.watching.Unlock()
	t.stop = p.Watch(t.keep)
	return t, nil
}

// RoundTrip implements [http.RoundTripper].
func (t *Transport) RoundTrip(r *http.Request) (*http.Response, error) {
	if t.pool == nil {
		if r.Body != nil {
			_ = r.Body.Close() // the contract of RoundTripper; its error changes nothing
		}
		return nil, errTransportUnset
	}
	return t.rt.RoundTrip(r)
}

// CloseIdleConnections closes those to all endpoints.
func (t *Transport) CloseIdleConnections() {
	t.mu.RLock()
	defer t.mu.RUnlock()
	for _, c := range t.conns {
		c.closeIdle()
	}
}

// Close closes the connections that are idle. Requests under way end as they
// would, and further ones are refused. Closing twice is harmless.
func (t *Transport) Close() error {
	if t.pool == nil {
		return nil
	}
	t.stop()
	t.pool.watching.Lock()
	delete(t.pool.transports, t)
	t.pool.watching.Unlock()
	t.mu.Lock()
	defer t.mu.Unlock()
	t.closed = true
	for _, c := range t.conns {
		c.closeIdle()
	}
	return nil
}

// conns is the connections to one endpoint.
type conns struct {
	current atomic.Pointer[http.Transport]

	mu   sync.Mutex
	idle time.Duration
}

func (t *Transport) newConns(idle time.Duration) *conns {
	c := &conns{idle: idle}
	c.current.Store(t.with(idle))
	return c
}

// with returns base with an idle timeout. 0 keeps no connection.
func (t *Transport) with(idle time.Duration) *http.Transport {
	h := t.base.Clone()
	h.IdleConnTimeout = idle
	h.DisableKeepAlives = h.DisableKeepAlives || idle == 0
	return h
}

func (c *conns) closeIdle() { c.current.Load().CloseIdleConnections() }

// read takes in that the body of an answer was read to its end that long after
// its header.
func (c *conns) read(took time.Duration) {
	c.mu.Lock()
	late := took > c.idle/8
	c.mu.Unlock()
	if late {
		c.closeIdle()
	}
}

// to returns the connections to addr.
func (t *Transport) to(addr string) (*conns, error) {
	t.mu.RLock()
	c, closed := t.conns[addr], t.closed
	t.mu.RUnlock()
	if c != nil && !closed {
		return c, nil
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return nil, errTransportClosed
	}
	if c = t.conns[addr]; c == nil {
		c = t.newConns(t.idle)
		t.conns[addr] = c
	}
	return c, nil
}

// keep closes connections to endpoints that are not in list.
func (t *Transport) keep(list []*Endpoint) {
	t.mu.Lock()
	defer t.mu.Unlock()
	maps.DeleteFunc(t.conns, func(addr string, c *conns) bool {
		gone := !slices.ContainsFunc(list, func(e *Endpoint) bool { return e.addr == addr })
		if gone {
			c.closeIdle() // and those that become idle later
		}
		return gone
	})
}

// send has a request go out on a connection of c.
func (t *Transport) send(c *conns, r *http.Request) (*http.Response, error) {
	resp, err := c.current.Load().RoundTrip(r)
	if err == nil {
		if says, ok := keepAlive(resp.Header["Keep-Alive"]); ok {
			t.atMost(c, says)
		}
	}
	return resp, err
}

// atMost lets connections of c be idle for no longer than idle. A transport
// cannot be changed while it is in use, so another one takes its place.
func (t *Transport) atMost(c *conns, idle time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if idle >= c.idle {
		return
	}
	c.idle = idle
	c.current.Swap(t.with(idle)).CloseIdleConnections()
}

// keepAlive returns how long a connection may be idle as the fields Keep-Alive
// of an answer say (RFC 2068 §19.7.1.1), and whether they do.
func keepAlive(fields []string) (idle time.Duration, ok bool) {
	for _, f := range fields {
		for f != "" {
			var param string
			param, f, _ = strings.Cut(f, ",")
			name, value, _ := strings.Cut(strings.TrimSpace(param), "=")
			n, err := strconv.ParseUint(strings.Trim(value, `"`), 10, 16)
			if err != nil || !strings.EqualFold(name, "timeout") {
				continue
			}
			says := time.Duration(n) * time.Second
			return max(0, says-max(time.Second, says/5)), true
		}
	}
	return 0, false
}

// dropIdle closes the idle connections to e.
func (p *Pool) dropIdle(e *Endpoint) {
	p.watching.Lock()
	defer p.watching.Unlock()
	for t := range p.transports {
		t.mu.RLock()
		c := t.conns[e.addr]
		t.mu.RUnlock()
		if c != nil {
			c.closeIdle()
		}
	}
}
