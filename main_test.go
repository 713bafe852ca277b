package gatemesh_test

import (
	"bufio"
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/gatemesh-go/gatemesh"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// recorder is an Observer that remembers.
type recorder struct {
	mu     sync.Mutex
	events []gatemesh.Event
}

func (r *recorder) Observe(_ context.Context, e gatemesh.Event) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.events = append(r.events, e)
}

func (r *recorder) of(kind gatemesh.EventKind) []gatemesh.Event {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(r.events), func(e gatemesh.Event) bool { return e.Kind != kind })
}

// outcome returns the one Outcome that was observed.
func (r *recorder) outcome(t *testing.T) gatemesh.Outcome {
	t.Helper()
	e := r.of(gatemesh.EventFinished)
	require.Len(t, e, 1)
	return e[0].Outcome
}

func entry(cfg gatemesh.EntryConfig) *gatemesh.Entry { return gatemesh.Must(gatemesh.NewEntry(cfg)) }

func gate(name string, f gatemesh.GateFunc) gatemesh.Layer {
	return gatemesh.Layer{Name: name, Gate: f}
}

// admits is a gate that answers every call with adm.
func admits(name string, adm gatemesh.Admission) gatemesh.Layer {
	return gate(name, func(context.Context, *gatemesh.Call) (gatemesh.Admission, error) { return adm, nil })
}

// refuses is a gate that answers every call with err.
func refuses(name string, err error) gatemesh.Layer {
	return gate(name, func(context.Context, *gatemesh.Call) (gatemesh.Admission, error) {
		return gatemesh.Admission{}, err
	})
}

func chain(cfg gatemesh.EntryConfig, layers ...gatemesh.Layer) *gatemesh.Chain {
	return gatemesh.Must(gatemesh.NewChain(entry(cfg), layers...))
}

var noContent = http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) })

// finishFunc is a Finisher.
type finishFunc func(*gatemesh.Call, gatemesh.Outcome)

func (f finishFunc) Finish(c *gatemesh.Call, o gatemesh.Outcome) { f(c, o) }

// judge passes r through an Entry and returns the Call and the request that
// its handler saw, or nil and the answer if it was refused.
func judge(cfg gatemesh.EntryConfig, r *http.Request) (*gatemesh.Call, *http.Request, *httptest.ResponseRecorder) {
	var call *gatemesh.Call
	var seen *http.Request
	w := httptest.NewRecorder()
	entry(cfg).Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		call, seen = gatemesh.FromContext(r.Context()), r
	})).ServeHTTP(w, r)
	return call, seen, w
}

// request is a GET for target from 192.0.2.1, with header fields as name, value pairs.
func request(target string, fields ...string) *http.Request {
	r := httptest.NewRequest(http.MethodGet, "http://api.example.com/", nil)
	u, err := r.URL.Parse(target)
	if err != nil {
		panic(err)
	}
	r.URL, r.RequestURI = u, u.RequestURI()
	u.Scheme, u.Host = "", ""
	for i := 0; i < len(fields); i += 2 {
		r.Header[fields[i]] = append(r.Header[fields[i]], fields[i+1])
	}
	return r
}

var proxies = []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("2001:db8::/32")}

// trusting trusts the address that request uses.
var trusting = gatemesh.EntryConfig{TrustedProxies: append(slices.Clone(proxies), netip.MustParsePrefix("192.0.2.1/32"))}

// rawHTTP sends text over a connection of its own and returns the answer.
func rawHTTP(t *testing.T, server *httptest.Server, text string) *http.Response {
	t.Helper()
	conn, err := net.Dial("tcp", server.Listener.Addr().String())
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close() })
	require.NoError(t, conn.SetDeadline(time.Now().Add(time.Minute)))
	_, err = io.WriteString(conn, text)
	require.NoError(t, err)
	method, _, _ := strings.Cut(text, " ")
	resp, err := http.ReadResponse(bufio.NewReader(conn), &http.Request{Method: method})
	require.NoError(t, err)
	t.Cleanup(func() { _ = resp.Body.Close() })
	return resp
}

func serve(t *testing.T, h http.Handler) *httptest.Server {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return s
}

func bodyOf(t *testing.T, resp *http.Response) string {
	t.Helper()
	b, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	return string(b)
}
