package breaker

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/gatemesh-go/gatemesh"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var errDown = errors.New("down")

// watcher remembers what it was told about breakers.
type watcher struct {
	mu     sync.Mutex
	events []gatemesh.Event
}

func (w *watcher) Observe(_ context.Context, e gatemesh.Event) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if e.Kind == gatemesh.EventFault || e.Kind == gatemesh.EventNotice {
		w.events = append(w.events, e)
	}
}

func (w *watcher) read() (told []string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, e := range w.events {
		told = append(told, e.Message)
	}
	return told
}

func requireOpen(t testing.TB, err error) *gatemesh.Denial {
	t.Helper()
	var d *gatemesh.Denial
	require.ErrorAs(t, err, &d)
	require.Equal(t, "circuit_open", d.Reason)
	require.Equal(t, gatemesh.Unavailable, d.Code)
	require.Len(t, d.Header, 1)
	require.Equal(t, "Retry-After", d.Header[0].Name)
	return d
}

// upstream is a base transport that counts attempts and closed bodies.
type upstream struct {
	answer   atomic.Pointer[func(*http.Request) (*http.Response, error)]
	attempts atomic.Int64
	opened   atomic.Int64
	closed   atomic.Int64
	sent     sync.Map // method → *atomic.Int64
}

func newUpstream(answer func(*http.Request) (*http.Response, error)) *upstream {
	u := &upstream{}
	u.set(answer)
	return u
}

func (u *upstream) set(answer func(*http.Request) (*http.Response, error)) { u.answer.Store(&answer) }

func (u *upstream) count(method string) *atomic.Int64 {
	n, _ := u.sent.LoadOrStore(method, new(atomic.Int64))
	return n.(*atomic.Int64)
}

func (u *upstream) RoundTrip(r *http.Request) (*http.Response, error) {
	u.attempts.Add(1)
	u.count(r.Method).Add(1)
	if r.Body != nil {
		_, _ = io.Copy(io.Discard, r.Body)
		_ = r.Body.Close()
	}
	resp, err := (*u.answer.Load())(r)
	if resp != nil && resp.Body != nil {
		u.opened.Add(1)
		resp.Body = &countedBody{resp.Body, u, sync.Once{}}
	}
	return resp, err
}

type countedBody struct {
	io.ReadCloser
	u    *upstream
	once sync.Once
}

func (b *countedBody) Close() error {
	b.once.Do(func() { b.u.closed.Add(1) })
	return b.ReadCloser.Close()
}

func status(code int, fields ...string) func(*http.Request) (*http.Response, error) {
	return func(r *http.Request) (*http.Response, error) {
		h := http.Header{}
		for i := 0; i < len(fields); i += 2 {
			h.Add(fields[i], fields[i+1])
		}
		return &http.Response{StatusCode: code, Header: h, Body: io.NopCloser(strings.NewReader("x")), Request: r}, nil
	}
}

func refusedConn(*http.Request) (*http.Response, error) { return nil, errDown }

func blackHole(r *http.Request) (*http.Response, error) {
	<-r.Context().Done()
	return nil, r.Context().Err()
}

// mesh makes a destination of every host.
func mesh(_ context.Context, host string) (gatemesh.Destination, bool) {
	return gatemesh.Destination{Service: host}, true
}

func service(name string) gatemesh.Destination { return gatemesh.Destination{Service: name} }

func outbound(t testing.TB, layers ...gatemesh.Layer) *gatemesh.Outbound {
	t.Helper()
	out, err := gatemesh.NewOutbound(gatemesh.OutboundConfig{Mesh: mesh, Layers: layers})
	require.NoError(t, err)
	return out
}

// newGate returns a gate that opens after five failures in a row, unless f says
// otherwise.
func newGate(t testing.TB, f ...func(*GateConfig)) *Gate {
	t.Helper()
	cfg := GateConfig{Policy: Policy{Failures: 5}}
	for _, f := range f {
		f(&cfg)
	}
	g, err := NewGate(cfg)
	require.NoError(t, err)
	return g
}

func newBreaker(t testing.TB, f ...func(*Config)) *Breaker {
	t.Helper()
	cfg := Config{Name: "dep"}
	for _, f := range f {
		f(&cfg)
	}
	b, err := New(cfg)
	require.NoError(t, err)
	return b
}

// request makes a GET of http://host/.
func request(ctx context.Context, host string) *http.Request {
	return httptest.NewRequestWithContext(ctx, http.MethodGet, "http://"+host+"/", nil)
}

// send makes one request and reads the answer to its end.
func send(t testing.TB, rt http.RoundTripper, r *http.Request) (int, error) {
	t.Helper()
	resp, err := rt.RoundTrip(r)
	if err != nil {
		return 0, err
	}
	_, rerr := io.Copy(io.Discard, resp.Body)
	assert.NoError(t, resp.Body.Close())
	return resp.StatusCode, rerr
}

func fail(b *Breaker, n int) {
	for range n {
		_ = b.Do(context.Background(), func(context.Context) error { return errDown })
	}
}
