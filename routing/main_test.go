package routing_test

import (
	"bufio"
	"context"
	"encoding/json"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/gatemesh-go/gatemesh"
	"github.com/gatemesh-go/gatemesh/internal/race"
	"github.com/gatemesh-go/gatemesh/routing"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// unlessRacing returns n, or less under the race detector.
func unlessRacing[T int | int64 | uint64](n, less T) T {
	if race.Enabled {
		return less
	}
	return n
}

// receive returns what comes from ch, which must not take for ever.
func receive[T any](t testing.TB, ch <-chan T) (v T) {
	t.Helper()
	select {
	case v = <-ch:
	case <-time.After(time.Minute):
		t.Fatal("nothing has come in a minute")
	}
	return v
}

// backend is the one destination of most tests.
var backend = gatemesh.Destination{Service: "user-service", Namespace: "production", Port: 8080}

// to returns a route of every host and path to backends of equal weight.
func to(name string, ds ...gatemesh.Destination) routing.Route {
	r := routing.Route{Name: name}
	for _, d := range ds {
		r.Backends = append(r.Backends, routing.Backend{Destination: d, Weight: 1})
	}
	return r
}

// at returns upstreams of the backend's service.
func at(urls ...string) []routing.Upstream {
	us := make([]routing.Upstream, len(urls))
	for i, u := range urls {
		us[i] = routing.Upstream{Service: backend.Service, URL: u}
	}
	return us
}

func newRouter(t testing.TB, cfg routing.Config) *routing.Router {
	t.Helper()
	r, err := routing.New(cfg)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, r.Close()) })
	return r
}

// serve starts an HTTP/1.1 and unencrypted HTTP/2 server.
func serve(t testing.TB, h http.Handler) string {
	t.Helper()
	s := httptest.NewUnstartedServer(h)
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	s.Config.Protocols = new(http.Protocols)
	s.Config.Protocols.SetHTTP1(true)
	s.Config.Protocols.SetUnencryptedHTTP2(true)
	s.Start()
	t.Cleanup(s.Close)
	return s.URL
}

// gateway puts Entry, route table, layers and proxy before the upstream and
// returns its address.
type gateway struct {
	entry    gatemesh.EntryConfig
	layers   []gatemesh.Layer
	upstream string // the URL of all upstreams; else cfg has them
	cfg      routing.Config
	wrap     func(http.Handler) http.Handler // between the chain and the proxy
}

func (g gateway) handler(t testing.TB) http.Handler {
	t.Helper()
	if g.upstream != "" {
		g.cfg.Upstreams = at(g.upstream)
	}
	if g.cfg.Routes == nil {
		g.cfg.Routes = []routing.Route{to("all", backend)}
	}
	r := newRouter(t, g.cfg)
	entry, err := gatemesh.NewEntry(g.entry)
	require.NoError(t, err)
	chain, err := gatemesh.NewChain(entry, append([]gatemesh.Layer{r.Layer()}, g.layers...)...)
	require.NoError(t, err)
	h := r.Proxy()
	if g.wrap != nil {
		h = g.wrap(h)
	}
	return chain.Handler(h)
}

func (g gateway) start(t testing.TB) string { return serve(t, g.handler(t)) }

// trusted makes Entry believe the tests' client.
var trusted = gatemesh.EntryConfig{TrustedProxies: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}}

// seen is what an upstream received.
type seen struct {
	Method, URI, Host, Proto string
	Header                   http.Header
}

// echo answers every request with what it received.
var echo = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
	_ = json.NewEncoder(w).Encode(seen{r.Method, r.RequestURI, r.Host, r.Proto, r.Header})
})

// raw sends text, in which lines end in \n, as one request on a connection of
// its own.
func raw(t testing.TB, url, text string) *http.Response {
	t.Helper()
	conn, err := net.Dial("tcp", strings.TrimPrefix(url, "http://"))
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close() })
	_, err = io.WriteString(conn, strings.ReplaceAll(text, "\n", "\r\n"))
	require.NoError(t, err)
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	require.NoError(t, err)
	return resp
}

// rawSeen is raw through to an echo upstream.
func rawSeen(t testing.TB, url, text string) seen {
	t.Helper()
	resp := raw(t, url, text)
	require.Equal(t, http.StatusOK, resp.StatusCode)
	var s seen
	require.NoError(t, json.NewDecoder(resp.Body).Decode(&s))
	return s
}

// get sends a GET and returns the response with its body.
func get(t testing.TB, url string) (*http.Response, string) {
	t.Helper()
	tr := &http.Transport{DisableKeepAlives: true}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	require.NoError(t, err)
	resp, err := tr.RoundTrip(req)
	require.NoError(t, err)
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	return resp, string(body)
}

// recorder is an Observer for tests.
type recorder struct {
	mu     sync.Mutex
	events []gatemesh.Event
}

func (r *recorder) Observe(_ context.Context, e gatemesh.Event) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.events = append(r.events, e)
}

// kind returns the events of a kind.
func (r *recorder) kind(k gatemesh.EventKind) []gatemesh.Event {
	r.mu.Lock()
	defer r.mu.Unlock()
	var out []gatemesh.Event
	for _, e := range r.events {
		if e.Kind == k {
			out = append(out, e)
		}
	}
	return out
}

// layer makes a Layer of a function.
func layer(name string, f gatemesh.GateFunc) gatemesh.Layer {
	return gatemesh.Layer{Name: name, Gate: f}
}

// roundTripper makes a transport of a function.
type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }
