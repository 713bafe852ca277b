package pool

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/gatemesh-go/gatemesh"
)

func request(t testing.TB, url string) *http.Request {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	require.NoError(t, err)
	return r
}

// serve starts a server and returns its address.
func serve(t testing.TB, h http.HandlerFunc) string {
	t.Helper()
	s := httptest.NewUnstartedServer(h)
	s.Config.Protocols = new(http.Protocols)
	s.Config.Protocols.SetHTTP1(true)
	s.Config.Protocols.SetUnencryptedHTTP2(true)
	s.Start()
	t.Cleanup(s.Close)
	return s.Listener.Addr().String()
}

// closedPort returns an address that refuses connections.
func closedPort(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	require.NoError(t, l.Close())
	return l.Addr().String()
}

func newBase(t testing.TB) *http.Transport {
	t.Helper()
	base := &http.Transport{}
	t.Cleanup(base.CloseIdleConnections)
	return base
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// body is a request body that remembers whether it was closed.
type body struct {
	io.Reader
	closed atomic.Bool
}

func (b *body) Close() error {
	b.closed.Store(true)
	return nil
}

func TestTransportSpreads(t *testing.T) {
	t.Parallel()
	var addrs []string
	for range 3 {
		addrs = append(addrs, serve(t, func(w http.ResponseWriter, r *http.Request) {
			fmt.Fprint(w, r.Context().Value(http.LocalAddrContextKey), " ", r.Host, " ", r.URL.Path)
		}))
	}
	p := newPool(t, Static(addrs...))
	client := &http.Client{Transport: p.Transport(newBase(t))}
	got := map[string]int{}
	for range 100 {
		resp, err := client.Get("http://orders.shop:8080/x")
		require.NoError(t, err)
		b, err := io.ReadAll(resp.Body)
		require.NoError(t, err)
		require.NoError(t, resp.Body.Close())
		addr, rest, _ := strings.Cut(string(b), " ")
		require.Equal(t, "orders.shop:8080 /x", rest, "the Host field stays")
		assert.Equal(t, "orders.shop:8080", resp.Request.URL.Host)
		got[addr]++
	}
	assert.Len(t, got, 3)
	for _, e := range p.Endpoints() {
		assert.Zero(t, e.InFlight)
		assert.Positive(t, e.Latency)
	}
	client.CloseIdleConnections()

	r := request(t, "http://orders.shop/y")
	r.Host = "" // the Host field is that of the URL then
	resp, err := p.Transport(newBase(t)).RoundTrip(r)
	require.NoError(t, err)
	b, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	require.NoError(t, resp.Body.Close())
	assert.Contains(t, string(b), " orders.shop /y")
	assert.Empty(t, r.Host)
}

// LC-02: the request stays as it was, whatever becomes of it, and its body is
// closed.
func TestLC02RequestIsLeftAlone(t *testing.T) {
	t.Parallel()
	up := serve(t, func(w http.ResponseWriter, r *http.Request) { _, _ = io.Copy(w, r.Body) })
	canceled, cancel := context.WithCancel(t.Context())
	cancel()
	soon := func() context.Context {
		ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		t.Cleanup(cancel)
		return ctx
	}
	live := &http.Transport{}
	t.Cleanup(live.CloseIdleConnections)
	for _, tt := range []struct {
		name   string
		r      Resolver
		base   http.RoundTripper
		change func(*http.Request) *http.Request
		err    string
	}{
		{name: "answered", r: Static(up), base: live},
		{name: "own Host", r: Static(up), base: live, change: func(r *http.Request) *http.Request { r.Host = "other"; return r }},
		{name: "refused", r: Static(closedPort(t)), base: live, err: "connection refused"},
		{name: "nobody", r: &book{err: errors.New("SERVFAIL")}, base: live, err: "unavailable: no_endpoint"},
		{name: "canceled", r: Static(up), base: live, change: func(r *http.Request) *http.Request { return r.WithContext(canceled) }, err: "canceled"},
		{name: "no lookup in time", r: hanging{}, base: live, change: func(r *http.Request) *http.Request { return r.WithContext(soon()) }, err: "deadline exceeded"},
		{name: "no URL", r: Static(up), base: live, change: func(r *http.Request) *http.Request { r.URL = nil; return r }, err: "no URL"},
		{name: "invalid", r: Static(up), base: live, change: func(r *http.Request) *http.Request { r.Header["Bad Name"] = []string{"x"}; return r }, err: "invalid header"},
		{name: "neither", r: Static(up), base: roundTripper(func(r *http.Request) (*http.Response, error) { return nil, r.Body.Close() })},
	} {
		for _, kind := range []string{"body", "no body", "http.NoBody"} {
			t.Run(tt.name+"/"+kind, func(t *testing.T) {
				t.Parallel()
				p := newPool(t, tt.r)
				r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://orders.shop/a%2Fb?q", nil)
				require.NoError(t, err)
				r.Header.Set("X-Test", "1")
				b := &body{Reader: strings.NewReader("hello")}
				switch kind {
				case "body":
					r.Body = b
				case "http.NoBody":
					r.Body = http.NoBody
				case "no body":
					if tt.name == "neither" {
						return
					}
				}
				if tt.change != nil {
					r = tt.change(r)
				}
				before, header := *r, r.Header.Clone()
				var u url.URL
				if r.URL != nil {
					u = *r.URL
				}
				resp, err := p.Transport(tt.base).RoundTrip(r)
				if tt.err != "" {
					require.ErrorContains(t, err, tt.err)
				} else {
					require.NoError(t, err)
				}
				if resp != nil {
					assert.Same(t, r, resp.Request)
					_, err := io.Copy(io.Discard, resp.Body)
					require.NoError(t, err)
					require.NoError(t, resp.Body.Close())
				}
				if kind == "body" {
					assert.Eventually(t, b.closed.Load, 10*time.Second, time.Millisecond, "net/http may close it a little later")
				}
				assert.Equal(t, before, *r)
				assert.Equal(t, header, r.Header)
				if r.URL != nil {
					assert.Equal(t, u, *r.URL)
				}
				for _, e := range p.Endpoints() {
					assert.Zero(t, e.InFlight)
				}
			})
		}
	}
}

func TestBasePanics(t *testing.T) {
	t.Parallel()
	p := newPool(t, Static("a:1"))
	rt := p.Transport(roundTripper(func(*http.Request) (*http.Response, error) { panic("ouch") }))
	assert.PanicsWithValue(t, "ouch", func() { _, _ = rt.RoundTrip(request(t, "http://orders/")) })
	assert.Equal(t, EndpointStatus{Address: "a:1", Weight: 1}, statusOf(t, p, "a:1"))
}

func TestCanceledIsNotSent(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	rt := newPool(t, Static("a:1")).Transport(roundTripper(func(*http.Request) (*http.Response, error) {
		t.Error("sent")
		return nil, ctx.Err()
	}))
	_, err := rt.RoundTrip(request(t, "http://orders/").WithContext(ctx))
	require.ErrorIs(t, err, context.Canceled)
}

// An attempt is in flight until its body ends, however that comes about; its
// latency is that of the header.
func TestInFlight(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name string
		end  func(*testing.T, *http.Response)
	}{
		{"read to the end", func(t *testing.T, r *http.Response) {
			b, err := io.ReadAll(r.Body)
			require.NoError(t, err)
			assert.Equal(t, "hello", string(b))
		}},
		{"closed unread", func(t *testing.T, r *http.Response) { require.NoError(t, r.Body.Close()) }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				p := newPool(t, Static("a:1"))
				rt := p.Transport(roundTripper(func(r *http.Request) (*http.Response, error) {
					time.Sleep(50 * time.Millisecond)
					return &http.Response{StatusCode: 200, Body: io.NopCloser(strings.NewReader("hello"))}, nil
				}))
				resp, err := rt.RoundTrip(request(t, "http://orders/"))
				require.NoError(t, err)
				_, isWriter := resp.Body.(io.Writer)
				assert.False(t, isWriter)
				s := statusOf(t, p, "a:1")
				assert.Equal(t, 1, s.InFlight)
				assert.InDelta(t, 50*time.Millisecond, s.Latency, 1e3)
				time.Sleep(time.Second)
				tt.end(t, resp)
				assert.Zero(t, statusOf(t, p, "a:1").InFlight)
				assert.LessOrEqual(t, statusOf(t, p, "a:1").Latency, 50*time.Millisecond+time.Microsecond, "of the header")
				require.NoError(t, resp.Body.Close())
				assert.Zero(t, statusOf(t, p, "a:1").InFlight, "counted once")
			})
		})
	}
	for _, none := range []io.ReadCloser{nil, http.NoBody} {
		p := newPool(t, Static("a:1"))
		rt := p.Transport(roundTripper(func(*http.Request) (*http.Response, error) { return &http.Response{StatusCode: 204, Body: none}, nil }))
		_, err := rt.RoundTrip(request(t, "http://orders/"))
		require.NoError(t, err)
		assert.Zero(t, statusOf(t, p, "a:1").InFlight, "there is no body to close")
	}
}

func TestUpgrade(t *testing.T) {
	t.Parallel()
	addr := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		c, rw, err := http.NewResponseController(w).Hijack()
		if err != nil {
			return
		}
		defer c.Close()
		_, _ = rw.WriteString("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
		_ = rw.Flush()
		_, _ = io.Copy(c, rw)
	})
	p := newPool(t, Static(addr))
	r := request(t, "http://orders/")
	r.Header = http.Header{"Connection": {"Upgrade"}, "Upgrade": {"echo"}}
	resp, err := p.Transport(newBase(t)).RoundTrip(r)
	require.NoError(t, err)
	conn, ok := resp.Body.(io.ReadWriteCloser)
	require.True(t, ok)
	_, err = io.WriteString(conn, "hello\n")
	require.NoError(t, err)
	line, err := bufio.NewReader(conn).ReadString('\n')
	require.NoError(t, err)
	assert.Equal(t, "hello\n", line)
	assert.Equal(t, 1, statusOf(t, p, addr).InFlight)
	assert.Zero(t, statusOf(t, p, addr).Failures)
	require.NoError(t, conn.Close())
	assert.Zero(t, statusOf(t, p, addr).InFlight)

	half := &halfConn{}
	rt := newPool(t, Static("a:1")).Transport(roundTripper(func(*http.Request) (*http.Response, error) {
		return &http.Response{StatusCode: 101, Body: half}, nil
	}))
	resp, err = rt.RoundTrip(request(t, "http://orders/"))
	require.NoError(t, err)
	require.Implements(t, (*halfCloser)(nil), resp.Body)
	require.Implements(t, (*io.Writer)(nil), resp.Body)
	require.NoError(t, resp.Body.(halfCloser).CloseWrite())
	assert.True(t, half.closed)
	require.NoError(t, resp.Body.Close())
}

type halfConn struct {
	net.Conn
	closed bool
}

func (h *halfConn) CloseWrite() error { h.closed = true; return nil }
func (h *halfConn) Close() error      { return nil }

// Endpoints that are gone get no new requests, and those under way end well.
func TestRemovedEndpoint(t *testing.T) {
	t.Parallel()
	begun, release := make(chan struct{}), make(chan struct{})
	var old atomic.Int64
	leaving := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		old.Add(1)
		close(begun)
		<-release
		fmt.Fprint(w, "done")
	})
	staying := serve(t, func(http.ResponseWriter, *http.Request) {})
	p := newPool(t, Static(leaving))
	rt := p.Transport(newBase(t))
	var wg sync.WaitGroup
	wg.Go(func() {
		resp, err := rt.RoundTrip(request(t, "http://orders/"))
		if assert.NoError(t, err) {
			b, err := io.ReadAll(resp.Body)
			assert.NoError(t, err)
			assert.Equal(t, "done", string(b))
			assert.NoError(t, resp.Body.Close())
		}
	})
	<-begun
	gone := at(t, p, leaving)
	require.NoError(t, p.Update(Config{Name: "orders", Resolver: Static(staying)}))
	for range 100 {
		resp, err := rt.RoundTrip(request(t, "http://orders/"))
		require.NoError(t, err)
		require.NoError(t, resp.Body.Close())
	}
	assert.Equal(t, int64(1), old.Load())
	assert.Equal(t, 1, gone.status(time.Now()).InFlight)
	close(release)
	wg.Wait()
	assert.Zero(t, gone.status(time.Now()).InFlight)
}

// Every attempt of a call goes to another endpoint for as long as there is one.
func TestAttemptsAvoidWhatTheyTried(t *testing.T) {
	t.Parallel()
	for range 50 {
		var mu sync.Mutex
		var asked []string
		base := roundTripper(func(r *http.Request) (*http.Response, error) {
			mu.Lock()
			defer mu.Unlock()
			asked = append(asked, r.URL.Host)
			return &http.Response{StatusCode: 503, Body: http.NoBody}, nil
		})
		p := newPool(t, Static("a:1", "b:1", "c:1"), noEjection)
		out := gatemesh.Must(gatemesh.NewOutbound(gatemesh.OutboundConfig{
			Mesh:   gatemesh.MeshHosts(map[string]gatemesh.Destination{"orders": {Service: "orders"}}),
			Layers: []gatemesh.Layer{{Name: "retry", Retry: upTo(5)}},
		}))
		resp, err := out.Transport(p.Transport(base)).RoundTrip(request(t, "http://orders/"))
		require.NoError(t, err)
		require.Equal(t, 503, resp.StatusCode)
		require.NoError(t, resp.Body.Close())
		require.Len(t, asked, 5)
		assert.ElementsMatch(t, []string{"a:1", "b:1", "c:1"}, asked[:3])
	}
}

type upTo int

func (n upTo) Retry(_ context.Context, c *gatemesh.Call, _ gatemesh.Attempt) (time.Duration, bool) {
	return 0, c.Attempt() < int(n)
}
