package trace_test

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel/baggage"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	oteltrace "go.opentelemetry.io/otel/trace"

	"github.com/gatemesh-go/gatemesh"
	"github.com/gatemesh-go/gatemesh/trace"
)

func prefixes(s ...string) (ps []netip.Prefix) {
	for _, p := range s {
		ps = append(ps, netip.MustParsePrefix(p))
	}
	return ps
}

type retrier int

func (n retrier) Retry(_ context.Context, c *gatemesh.Call, a gatemesh.Attempt) (time.Duration, bool) {
	return 0, a.Status >= 500 && c.Attempt() < int(n)
}

func retry(n int) gatemesh.Layer {
	return gatemesh.Layer{Name: "retry", Retry: retrier(n), Gives: []gatemesh.Fact{gatemesh.FactAttempt}}
}

// kind returns the only span of a kind.
func kind(t *testing.T, s *spans, k oteltrace.SpanKind) tracetest.SpanStub {
	t.Helper()
	var found tracetest.SpanStubs
	for _, span := range s.all() {
		if span.SpanKind == k {
			found = append(found, span)
		}
	}
	require.Len(t, found, 1)
	return found[0]
}

// TestOneTrace: an edge, a call it makes, the service that takes it, and the
// lines both log share one trace, which is not the one the client named.
func TestOneTrace(t *testing.T) {
	t.Parallel()
	edgeSpans, serviceSpans := newSpans(), newSpans()
	var log bytes.Buffer // one request at a time
	logger := slog.New(gatemesh.LogHandler(trace.LogHandler(slog.NewTextHandler(&log, nil))))

	inner := gatemesh.Must(gatemesh.NewEntry(gatemesh.EntryConfig{TrustedProxies: prefixes("127.0.0.0/8", "::1/128"), Observer: gatemesh.SlogObserver(logger)}))
	service := httptest.NewServer(gatemesh.Must(gatemesh.NewChain(inner, tracer(t, trace.Config{TracerProvider: serviceSpans}).Layer())).
		Handler(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			logger.InfoContext(r.Context(), "service")
			assert.Empty(t, baggage.FromContext(r.Context()).String())
		})))
	defer service.Close()

	tr := tracer(t, trace.Config{TracerProvider: edgeSpans})
	client := outbound(t, tr.Span(), retry(3), tr.Inject()).Transport(service.Client().Transport)
	edge := httptest.NewServer(observed(t, gatemesh.SlogObserver(logger), tr.Layer()).Handler(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		logger.InfoContext(r.Context(), "edge")
		out, err := http.NewRequestWithContext(r.Context(), http.MethodGet, service.URL, nil)
		if !assert.NoError(t, err) {
			return
		}
		out.Header = r.Header.Clone() // as a proxy does
		resp, err := client.RoundTrip(out)
		if assert.NoError(t, err) {
			_, _ = io.Copy(io.Discard, resp.Body)
			_ = resp.Body.Close()
		}
	})))
	defer edge.Close()

	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, edge.URL, nil)
	require.NoError(t, err)
	r.Header = http.Header{"Traceparent": {traceparent}, "Tracestate": {"a=1"}, "Baggage": {"user=mallory"}}
	resp, err := edge.Client().Do(r)
	require.NoError(t, err)
	require.NoError(t, resp.Body.Close())
	edge.Close()
	service.Close() // both have finished their calls

	in, out, far := kind(t, edgeSpans, oteltrace.SpanKindServer), kind(t, edgeSpans, oteltrace.SpanKindClient), serviceSpans.one(t)
	id := in.SpanContext.TraceID()
	assert.NotEqual(t, theirTrace, id.String())
	assert.Equal(t, id, out.SpanContext.TraceID())
	assert.Equal(t, id, far.SpanContext.TraceID())
	assert.Equal(t, in.SpanContext.SpanID(), out.Parent.SpanID())
	assert.Equal(t, out.SpanContext.SpanID(), far.Parent.SpanID())
	assert.True(t, far.Parent.IsRemote())
	assert.Empty(t, far.SpanContext.TraceState().String())
	lines := strings.Split(strings.TrimSpace(log.String()), "\n")
	assert.Len(t, lines, 4)
	for _, l := range lines {
		assert.Contains(t, l, "trace_id="+id.String(), l)
		assert.Contains(t, l, "span_id=")
		assert.Contains(t, l, "request_id=")
	}
}

// TestRetriedCall: one client span for all attempts, and each attempt names it.
func TestRetriedCall(t *testing.T) {
	t.Parallel()
	s := newSpans()
	tr := tracer(t, trace.Config{TracerProvider: s})
	rt := &roundTrips{statuses: []int{503, 503, 200}}
	send(t, t.Context(), outbound(t, tr.Span(), retry(3), tr.Inject()).Transport(rt), "Traceparent", traceparent, "Tracestate", "a=1", "Baggage", "b=2", "X-Mine", "1")
	got := s.one(t)
	assert.Equal(t, "GET", got.Name)
	assert.Equal(t, oteltrace.SpanKindClient, got.SpanKind)
	assert.Equal(t, codes.Unset, got.Status.Code)
	a := attrs(got)
	assert.Len(t, a["gatemesh.request_id"], 32)
	delete(a, "gatemesh.request_id")
	assert.Equal(t, map[string]any{
		"http.request.method": "GET", "url.scheme": "http", "http.response.status_code": int64(200), "gatemesh.attempts": int64(3),
		"server.address": "payment.prod", "server.port": int64(8080), "network.peer.address": "10.0.0.7", "network.peer.port": int64(8443),
		"service.peer.name": "payment", "service.peer.namespace": "prod",
	}, a)
	require.Len(t, rt.headers, 3)
	for _, h := range rt.headers {
		assert.Equal(t, []string{"00-" + got.SpanContext.TraceID().String() + "-" + got.SpanContext.SpanID().String() + "-01"}, h["Traceparent"])
		assert.NotContains(t, h, "Tracestate")
		assert.NotContains(t, h, "Baggage")
		assert.Equal(t, "1", h.Get("X-Mine"))
	}
}

func TestClientFailures(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name  string
		send  func(ctx context.Context, r *http.Request) (*http.Response, error)
		want  codes.Code
		error any
	}{
		{"404", func(_ context.Context, r *http.Request) (*http.Response, error) {
			return &http.Response{StatusCode: 404, Body: http.NoBody, Request: r}, nil
		}, codes.Error, "404"},
		{"no answer", func(context.Context, *http.Request) (*http.Response, error) { return nil, io.ErrUnexpectedEOF }, codes.Error, "unavailable"},
		{"truncated", func(_ context.Context, r *http.Request) (*http.Response, error) {
			return &http.Response{StatusCode: 200, Body: io.NopCloser(io.MultiReader(strings.NewReader("x"), broken{})), Request: r}, nil
		}, codes.Error, "truncated"},
	} {
		s := newSpans()
		tr := tracer(t, trace.Config{TracerProvider: s})
		rt := outbound(t, tr.Span(), tr.Inject()).Transport(roundTripFunc(func(r *http.Request) (*http.Response, error) { return tt.send(r.Context(), r) }))
		r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "http://payment/", nil)
		if resp, err := rt.RoundTrip(r); err == nil {
			_, _ = io.Copy(io.Discard, resp.Body)
			_ = resp.Body.Close()
		}
		assert.Equal(t, tt.want, s.one(t).Status.Code, tt.name)
		assert.Equal(t, tt.error, attrs(s.one(t))["error.type"], tt.name)
	}

	s := newSpans()
	tr := tracer(t, trace.Config{TracerProvider: s})
	ctx, cancel := context.WithCancel(t.Context())
	rt := outbound(t, tr.Span(), tr.Inject()).Transport(roundTripFunc(func(r *http.Request) (*http.Response, error) {
		cancel()
		return nil, r.Context().Err()
	}))
	_, err := rt.RoundTrip(httptest.NewRequestWithContext(ctx, http.MethodGet, "http://payment/", nil))
	require.Error(t, err)
	assert.Equal(t, codes.Unset, s.one(t).Status.Code, "nobody's failure")
	assert.Equal(t, true, attrs(s.one(t))["gatemesh.canceled"])
}

type broken struct{}

func (broken) Read([]byte) (int, error) { return 0, io.ErrUnexpectedEOF }

type roundTripFunc func(*http.Request) (*http.Response, error)

func (f roundTripFunc) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// TestBesideOtelTransport: a transport around ours that has started a client
// span and written it, as otelhttp.NewTransport, is not doubled.
func TestBesideOtelTransport(t *testing.T) {
	t.Parallel()
	s := newSpans()
	tr := tracer(t, trace.Config{TracerProvider: s})
	rt := &roundTrips{}
	out := outbound(t, tr.Span(), tr.Inject()).Transport(rt)
	ctx, span := s.Tracer("otelhttp").Start(t.Context(), "theirs")
	h := http.Header{}
	propagation.TraceContext{}.Inject(ctx, propagation.HeaderCarrier(h))
	send(t, ctx, out, "Traceparent", h.Get("Traceparent"))
	span.End()
	assert.Equal(t, "theirs", s.one(t).Name)
	assert.Equal(t, h["Traceparent"], rt.headers[0]["Traceparent"])

	// A request that carries another span's name, as a proxied one does, gets a span.
	send(t, ctx, out, "Traceparent", traceparent)
	assert.Len(t, s.all(), 2)
}
