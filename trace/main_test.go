package trace_test

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel/attribute"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.uber.org/goleak"

	"github.com/gatemesh-go/gatemesh"
	"github.com/gatemesh-go/gatemesh/trace"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// spans is a provider that keeps what it exports.
type spans struct {
	*sdktrace.TracerProvider
	exported *tracetest.InMemoryExporter
}

func newSpans(opts ...sdktrace.TracerProviderOption) *spans {
	e := tracetest.NewInMemoryExporter()
	return &spans{sdktrace.NewTracerProvider(append(opts, sdktrace.WithSyncer(e))...), e}
}

func (s *spans) all() tracetest.SpanStubs { return s.exported.GetSpans() }

// one returns the only span there is.
func (s *spans) one(t testing.TB) tracetest.SpanStub {
	t.Helper()
	require.Len(t, s.all(), 1)
	return s.all()[0]
}

func attrs(s tracetest.SpanStub) map[string]any { return values(s.Attributes) }

func values(kvs []attribute.KeyValue) map[string]any {
	m := map[string]any{}
	for _, kv := range kvs {
		m[string(kv.Key)] = kv.Value.AsInterface()
	}
	return m
}

func tracer(t testing.TB, cfg trace.Config) *trace.Tracer {
	t.Helper()
	tr, err := trace.New(cfg)
	require.NoError(t, err)
	return tr
}

func always(*gatemesh.Call) bool { return true }
func never(*gatemesh.Call) bool  { return false }

func gate(name string, f gatemesh.GateFunc) gatemesh.Layer {
	return gatemesh.Layer{Name: name, Gate: f}
}

func chain(t testing.TB, layers ...gatemesh.Layer) *gatemesh.Chain {
	t.Helper()
	return observed(t, nil, layers...)
}

func observed(t testing.TB, o gatemesh.Observer, layers ...gatemesh.Layer) *gatemesh.Chain {
	t.Helper()
	entry, err := gatemesh.NewEntry(gatemesh.EntryConfig{Observer: o})
	require.NoError(t, err)
	c, err := gatemesh.NewChain(entry, layers...)
	require.NoError(t, err)
	return c
}

// outbound takes every host for the mesh.
func outbound(t testing.TB, layers ...gatemesh.Layer) *gatemesh.Outbound {
	t.Helper()
	o, err := gatemesh.NewOutbound(gatemesh.OutboundConfig{Layers: layers, Mesh: func(context.Context, string) (gatemesh.Destination, bool) {
		return gatemesh.Destination{Service: "payment", Namespace: "prod", Port: 8080}, true
	}})
	require.NoError(t, err)
	return o
}

func request(fields ...string) *http.Request {
	r := httptest.NewRequest(http.MethodGet, "/v1/users/7?api_key=x", nil)
	for i := 0; i < len(fields); i += 2 {
		r.Header.Add(fields[i], fields[i+1])
	}
	return r
}

var noContent = http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) })

// handle passes one request through a chain of the tracer alone.
func handle(t testing.TB, tr *trace.Tracer, r *http.Request, h http.HandlerFunc) *httptest.ResponseRecorder {
	t.Helper()
	w := httptest.NewRecorder()
	func() {
		defer func() { assert.Contains(t, []any{nil, http.ErrAbortHandler}, recover()) }()
		chain(t, tr.Layer()).Handler(h).ServeHTTP(w, r)
	}()
	return w
}

// roundTrips is a transport that remembers what it was asked, and answers with
// the statuses in turn.
type roundTrips struct {
	mu       sync.Mutex
	headers  []http.Header
	statuses []int
}

func (rt *roundTrips) RoundTrip(r *http.Request) (*http.Response, error) {
	rt.mu.Lock()
	defer rt.mu.Unlock()
	gatemesh.RecordEndpoint(r.Context(), "10.0.0.7:8443")
	status := http.StatusOK
	if n := len(rt.headers); n < len(rt.statuses) {
		status = rt.statuses[n]
	}
	rt.headers = append(rt.headers, r.Header)
	return &http.Response{StatusCode: status, Header: http.Header{}, Body: io.NopCloser(strings.NewReader("x")), Request: r, ContentLength: 1}, nil
}

// send makes a request with ctx and reads the answer.
func send(t testing.TB, ctx context.Context, rt http.RoundTripper, fields ...string) {
	t.Helper()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://payment.prod:8080/pay?token=x", nil)
	require.NoError(t, err)
	for i := 0; i < len(fields); i += 2 {
		r.Header.Add(fields[i], fields[i+1])
	}
	resp, err := rt.RoundTrip(r)
	require.NoError(t, err)
	_, err = io.Copy(io.Discard, resp.Body)
	require.NoError(t, err)
	require.NoError(t, resp.Body.Close())
}

// observer remembers events.
type observer struct {
	mu     sync.Mutex
	events []gatemesh.Event
}

func (o *observer) Observe(_ context.Context, e gatemesh.Event) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.events = append(o.events, e)
}
