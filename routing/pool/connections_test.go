package pool

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// wire is a network without sockets, for the time of synctest. What the server
// does reaches the client a latency later, as on a real one.
type wire struct {
	latency time.Duration
	conns   chan net.Conn
	dials   atomic.Int64
	open    atomic.Int64
	done    chan struct{}
}

func newWire(latency time.Duration) *wire {
	return &wire{latency: latency, conns: make(chan net.Conn), done: make(chan struct{})}
}

func (w *wire) Accept() (net.Conn, error) {
	select {
	case c := <-w.conns:
		return c, nil
	case <-w.done:
		return nil, net.ErrClosed
	}
}

func (w *wire) Close() error   { close(w.done); return nil }
func (w *wire) Addr() net.Addr { return &net.TCPAddr{} }

func (w *wire) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	client, server := net.Pipe()
	select {
	case w.conns <- server:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	w.dials.Add(1)
	w.open.Add(1)
	return &late{Conn: client, wire: w}, nil
}

// late is the client's end of a connection.
type late struct {
	net.Conn
	wire *wire
	once sync.Once
}

func (c *late) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	time.Sleep(c.wire.latency)
	return n, err
}

func (c *late) Close() error {
	c.once.Do(func() { c.wire.open.Add(-1) })
	return c.Conn.Close()
}

// idleServer serves HTTP/1 on w, closes connections that were idle for five
// seconds, and says so if it is told to.
func idleServer(t *testing.T, w *wire, says string, body string) {
	t.Helper()
	s := &http.Server{IdleTimeout: 5 * time.Second, Handler: http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		if says != "" {
			rw.Header().Set("Keep-Alive", says)
		}
		_, _ = io.WriteString(rw, body)
	})}
	served := make(chan struct{})
	go func() { defer close(served); _ = s.Serve(w) }()
	t.Cleanup(func() { _ = s.Close(); <-served })
}

// pauses are those between calls: shorter than, longer than, and just those five
// seconds, in which a request meets the server's close on its way.
var pauses = []time.Duration{
	0, time.Second, 3900 * time.Millisecond, 4 * time.Second, 4500 * time.Millisecond, 4990 * time.Millisecond,
	5 * time.Second, 5*time.Second + 5*time.Millisecond, 5*time.Second + 15*time.Millisecond, 5*time.Second + 25*time.Millisecond,
	5*time.Second + 35*time.Millisecond, 6 * time.Second, time.Minute,
}

// post makes a call that must not be made twice, and reads the answer with a
// pause before its end.
func post(rt http.RoundTripper, slowly time.Duration) error {
	r, err := http.NewRequest(http.MethodPost, "http://orders/", io.MultiReader(strings.NewReader("once")))
	if err != nil {
		return err
	}
	resp, err := rt.RoundTrip(r)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	_, err = io.CopyN(io.Discard, resp.Body, 1)
	time.Sleep(slowly)
	if err == nil {
		_, err = io.Copy(io.Discard, resp.Body)
	}
	return err
}

// A server that closes what was idle for five seconds never makes a call fail;
// with the connections of net/http alone it does.
func TestIdleConnections(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		plain bool
		idle  time.Duration
		says  string
		slow  time.Duration
		fails bool
	}{
		"net/http":              {plain: true, fails: true},
		"net/http, told":        {plain: true, says: "timeout=5", fails: true},
		"by default":            {},
		"too long":              {idle: time.Minute, fails: true},
		"too long, told":        {idle: time.Minute, says: "timeout=5, max=100"},
		"told more":             {says: "timeout=60"},
		"told in quotes":        {idle: time.Minute, says: `max=7,TIMEOUT="5"`},
		"answers read slowly":   {slow: 3 * time.Second},
		"slowly, and too long":  {idle: time.Minute, says: "timeout=5", slow: 3 * time.Second},
		"told to keep none":     {idle: time.Minute, says: "timeout=0"},
		"told what is not read": {idle: time.Minute, says: "timeout=x, =, timeout", fails: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				w := newWire(20 * time.Millisecond)
				idleServer(t, w, tt.says, "hello")
				p := newPool(t, Static("a:1"), noEjection)
				base := &http.Transport{DialContext: w.dial, IdleConnTimeout: 90 * time.Second}
				defer base.CloseIdleConnections()
				rt := p.Transport(base)
				if !tt.plain {
					own, err := p.NewTransport(TransportConfig{Base: base, IdleTimeout: tt.idle})
					require.NoError(t, err)
					defer func() { require.NoError(t, own.Close()) }()
					rt = own
				}
				failed, calls := 0, 0
				for range 5 {
					for _, pause := range pauses {
						if err := post(rt, tt.slow); err != nil {
							failed++
						}
						calls++
						time.Sleep(pause)
					}
				}
				if tt.fails {
					assert.Positive(t, failed)
				} else {
					assert.Zero(t, failed)
				}
				if tt.says != "timeout=0" && tt.slow == 0 {
					assert.Less(t, int(w.dials.Load()), calls, "and connections are used again")
				}
			})
		})
	}
}

func TestKeepAlive(t *testing.T) {
	t.Parallel()
	for field, want := range map[string]time.Duration{
		"timeout=5": 4 * time.Second, "timeout=60": 48 * time.Second, "timeout=1": 0, "timeout=0": 0, "max=5, Timeout=2": time.Second,
		"": -1, "timeout": -1, "timeout=-1": -1, "timeout=99999": -1, "timeout=5s": -1, "max=5": -1, ",,=": -1,
	} {
		got, ok := keepAlive([]string{field})
		assert.Equal(t, want >= 0, ok, field)
		assert.Equal(t, max(want, 0), got, field)
	}
	got, ok := keepAlive([]string{"max=1", "timeout=5"})
	assert.True(t, ok)
	assert.Equal(t, 4*time.Second, got)
	_, ok = keepAlive(nil)
	assert.False(t, ok)
}

// Idle connections to an endpoint are closed when it leaves, is ejected, or is
// unhealthy, and not those to others.
func TestIdleConnectionsGo(t *testing.T) {
	t.Parallel()
	for name, leave := range map[string]func(*Pool, *book, *Endpoint){
		"leaves":  func(_ *Pool, b *book, _ *Endpoint) { b.set("a:1", "c:1") },
		"ejected": func(p *Pool, _ *book, e *Endpoint) { e.Begin(p.ctx, time.Now()).Done(time.Now(), Unreachable) },
		"unhealthy": func(p *Pool, _ *book, e *Endpoint) {
			h := &p.state.Load().version.Health
			pr := &probe{endpoint: e, failed: h.Unhealthy - 1}
			p.judge(p.state.Load().version, answer{pr, io.EOF})
		},
		"all": func(p *Pool, _ *book, _ *Endpoint) {
			for tr := range p.transports {
				tr.CloseIdleConnections()
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				wires := map[string]*wire{}
				for _, addr := range []string{"a:1", "b:1", "c:1"} {
					wires[addr] = newWire(0)
					idleServer(t, wires[addr], "", "hello")
				}
				book := &book{addrs: []string{"a:1", "b:1", "c:1"}}
				p := newPool(t, book, func(c *Config) {
					c.Balancer = RoundRobin
					// Checks that pass, so that judge has something to go by.
					c.Health = Health{Check: CheckHTTP, Transport: newPods(), Interval: time.Hour}
				})
				require.NoError(t, p.WaitReady(t.Context()))
				tr, err := p.NewTransport(TransportConfig{IdleTimeout: time.Hour, Base: &http.Transport{
					DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
						return wires[addr].dial(ctx, network, addr)
					},
				}})
				require.NoError(t, err)
				for range 3 {
					require.NoError(t, post(tr, 0))
				}
				for addr, w := range wires {
					require.EqualValues(t, 1, w.open.Load(), addr)
				}
				leave(p, book, at(t, p, "b:1"))
				time.Sleep(2500 * time.Millisecond) // a lookup, and less than IdleTimeout of the servers
				synctest.Wait()
				assert.Zero(t, wires["b:1"].open.Load())
				if name != "all" {
					assert.EqualValues(t, 1, wires["a:1"].open.Load())
					assert.EqualValues(t, 1, wires["c:1"].open.Load())
				}
				require.NoError(t, tr.Close())
				require.NoError(t, tr.Close(), "twice")
				synctest.Wait()
				assert.Zero(t, wires["a:1"].open.Load())
				assert.Empty(t, p.transports)
				require.ErrorIs(t, post(tr, 0), errTransportClosed)
			})
		})
	}
}

func TestTransportFaults(t *testing.T) {
	t.Parallel()
	p := newPool(t, Static("a:1"))
	_, err := p.NewTransport(TransportConfig{IdleTimeout: time.Millisecond})
	require.ErrorContains(t, err, "pool: TransportConfig.IdleTimeout")
	_, err = new(Pool).NewTransport(TransportConfig{})
	require.ErrorIs(t, err, errUnset)
	var zero Transport
	require.ErrorIs(t, post(&zero, 0), errTransportUnset)
	zero.CloseIdleConnections()
	require.NoError(t, zero.Close())
	tr, err := p.NewTransport(TransportConfig{})
	require.NoError(t, err, "the default is enough")
	require.NoError(t, tr.Close())
}

// An endpoint that answers nothing for longer than ResponseHeaderTimeout has
// failed, as one that answers something else than HTTP has.
func TestHangingEndpointFails(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	served := make(chan struct{})
	go func() {
		defer close(served)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = bufio.NewReader(c).ReadString('\n')
			defer func() { _ = c.Close() }()
		}
	}()
	t.Cleanup(func() { _ = l.Close(); <-served })
	p := newPool(t, Static(l.Addr().String()))
	tr, err := p.NewTransport(TransportConfig{Base: &http.Transport{ResponseHeaderTimeout: 20 * time.Millisecond}})
	require.NoError(t, err)
	defer func() { require.NoError(t, tr.Close()) }()
	err = post(tr, 0)
	require.Error(t, err)
	assert.Equal(t, 1, statusOf(t, p, l.Addr().String()).Failures, fmt.Sprint(err))
}
