package trace_test

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/propagation"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	oteltrace "go.opentelemetry.io/otel/trace"

	"github.com/gatemesh-go/gatemesh"
	"github.com/gatemesh-go/gatemesh/trace"
)

const (
	theirTrace  = "0af7651916cd43dd8448eb211c80319c"
	theirSpan   = "b7ad6b7169203331"
	traceparent = "00-" + theirTrace + "-" + theirSpan + "-01"
)

func TestZeroConfig(t *testing.T) {
	t.Parallel()
	_, err := trace.New(trace.Config{})
	require.NoError(t, err)

	var nilProvider *sdktrace.TracerProvider
	var nilPropagator *propagation.TraceContext
	_, err = trace.New(trace.Config{TracerProvider: nilProvider, Propagator: nilPropagator})
	require.Error(t, err)
	assert.Equal(t, "trace: Config.TracerProvider is a nil *trace.TracerProvider\ntrace: Config.Propagator is a nil *propagation.TraceContext", err.Error())

	var zero trace.Tracer
	entry := gatemesh.Must(gatemesh.NewEntry(gatemesh.EntryConfig{}))
	_, err = gatemesh.NewChain(entry, zero.Layer())
	assert.ErrorContains(t, err, "has no Name")
	for _, l := range []gatemesh.Layer{zero.Layer(), zero.Span(), zero.Inject()} {
		_, err := l.Gate.Admit(t.Context(), gatemesh.Must(gatemesh.NewCall(gatemesh.CallInfo{})))
		assert.ErrorContains(t, err, "internal")
	}
}

func TestOrder(t *testing.T) {
	t.Parallel()
	tr := tracer(t, trace.Config{})
	entry := gatemesh.Must(gatemesh.NewEntry(gatemesh.EntryConfig{}))
	route := gatemesh.Layer{Name: "route", Gate: gate("", nil).Gate, Gives: []gatemesh.Fact{gatemesh.FactRoute}}
	route.Gate = gatemesh.GateFunc(func(context.Context, *gatemesh.Call) (gatemesh.Admission, error) { return gatemesh.Admission{}, nil })
	_, err := gatemesh.NewChain(entry, tr.Layer(), route)
	assert.ErrorContains(t, err, `"trace" must stand after "route"`)
	_, err = gatemesh.NewChain(entry, route, tr.Layer())
	assert.NoError(t, err)

	mesh := gatemesh.MeshHosts(nil)
	_, err = gatemesh.NewOutbound(gatemesh.OutboundConfig{Mesh: mesh, Layers: []gatemesh.Layer{tr.Inject()}})
	assert.ErrorContains(t, err, `"trace inject" needs the fact "span"`)
	_, err = gatemesh.NewOutbound(gatemesh.OutboundConfig{Mesh: mesh, Layers: []gatemesh.Layer{tr.Span(), tr.Inject(), retry(3)}})
	assert.ErrorContains(t, err, `"trace inject" must stand after "retry"`)
	_, err = gatemesh.NewOutbound(gatemesh.OutboundConfig{Mesh: mesh, Layers: []gatemesh.Layer{tr.Span(), retry(3), tr.Inject()}})
	assert.NoError(t, err)
}

// TestTR01_RequestID: the span carries the id that the response has.
func TestTR01_RequestID(t *testing.T) {
	t.Parallel()
	for _, id := range []string{"", "mine", strings.Repeat("a", 129), "a\",\"level\":\"error"} {
		s := newSpans()
		w := handle(t, tracer(t, trace.Config{TracerProvider: s}), request("X-Request-Id", id), noContent)
		got := w.Header().Get("X-Request-Id")
		assert.Len(t, got, 32)
		assert.Equal(t, got, attrs(s.one(t))["gatemesh.request_id"])
	}
}

// TestBorrowedSpan: where somebody around the chain has started a span, there
// is no second one, and that one is not ended.
func TestBorrowedSpan(t *testing.T) {
	t.Parallel()
	s := newSpans()
	tr := tracer(t, trace.Config{TracerProvider: s})
	deny := gate("deny", func(context.Context, *gatemesh.Call) (gatemesh.Admission, error) {
		return gatemesh.Admission{}, gatemesh.Deny(gatemesh.PermissionDenied, "no_way", "No.").WithCause(io.EOF)
	})
	h := chain(t, tr.Layer(), deny).Handler(noContent)
	outer := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { // as otelhttp.NewHandler
		ctx, span := s.Tracer("outer").Start(r.Context(), "outer", oteltrace.WithSpanKind(oteltrace.SpanKindServer))
		defer span.End()
		h.ServeHTTP(w, r.WithContext(ctx))
		assert.True(t, span.IsRecording(), "ended by us")
	})
	w := httptest.NewRecorder()
	outer.ServeHTTP(w, request("Traceparent", traceparent))
	got := s.one(t)
	assert.Equal(t, "outer", got.Name)
	assert.Equal(t, map[string]any{"gatemesh.request_id": w.Header().Get("X-Request-Id"), "gatemesh.denial": "no_way"}, attrs(got))
}

func TestServerSpan(t *testing.T) {
	t.Parallel()
	route := gatemesh.Layer{Name: "route", Gives: []gatemesh.Fact{gatemesh.FactRoute},
		Gate: gatemesh.GateFunc(func(context.Context, *gatemesh.Call) (gatemesh.Admission, error) {
			return gatemesh.Admission{Route: &gatemesh.Route{Name: "/v1/users"}, Lane: "v2"}, nil
		})}
	peer := gate("peer", func(context.Context, *gatemesh.Call) (gatemesh.Admission, error) {
		return gatemesh.Admission{Peer: gatemesh.Must(gatemesh.NewPeer("td", "/ns/prod/sa/orders", nil))}, nil
	})
	s := newSpans()
	w := httptest.NewRecorder()
	chain(t, route, tracer(t, trace.Config{TracerProvider: s}).Layer(), peer).Handler(noContent).ServeHTTP(w, request())
	got := s.one(t)
	assert.Equal(t, "GET /v1/users", got.Name)
	assert.Equal(t, oteltrace.SpanKindServer, got.SpanKind)
	assert.Equal(t, codes.Unset, got.Status.Code)
	assert.Equal(t, map[string]any{
		"http.request.method": "GET", "url.scheme": "http", "http.route": "/v1/users", "http.response.status_code": int64(204),
		"gatemesh.request_id": w.Header().Get("X-Request-Id"), "gatemesh.peer": "spiffe://td/ns/prod/sa/orders", "gatemesh.lane": "v2",
	}, attrs(got))
	assert.Equal(t, "github.com/gatemesh-go/gatemesh/trace", got.InstrumentationScope.Name)
}

func TestServerResults(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name    string
		method  string
		handler http.HandlerFunc
		want    codes.Code
		span    string
		attrs   map[string]any
	}{
		{"ok", "GET", noContent, codes.Unset, "GET", map[string]any{"http.response.status_code": int64(204)}},
		{"client error", "GET", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(404) }, codes.Unset, "GET", map[string]any{"http.response.status_code": int64(404)}},
		{"server error", "POST", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(503) }, codes.Error, "POST",
			map[string]any{"http.response.status_code": int64(503), "error.type": "503"}},
		{"unknown method", "BREW", noContent, codes.Unset, "HTTP", map[string]any{"http.request.method": "_OTHER"}},
		{"panic", "GET", func(http.ResponseWriter, *http.Request) { panic("SECRET") }, codes.Error, "GET",
			map[string]any{"error.type": "panic", "http.response.status_code": int64(500)}},
		{"panic after the header", "GET", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(200); panic("SECRET") }, codes.Error, "GET",
			map[string]any{"error.type": "panic", "http.response.status_code": int64(200)}},
		{"aborted", "GET", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(200); panic(http.ErrAbortHandler) }, codes.Error, "GET",
			map[string]any{"error.type": "truncated"}},
		{"renamed by the application", "GET", func(_ http.ResponseWriter, r *http.Request) {
			oteltrace.SpanFromContext(r.Context()).SetName("mine")
		}, codes.Unset, "mine", nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := newSpans()
			r := request()
			r.Method = tt.method
			handle(t, tracer(t, trace.Config{TracerProvider: s}), r, tt.handler)
			got := s.one(t)
			assert.Equal(t, tt.span, got.Name)
			assert.Equal(t, tt.want, got.Status.Code)
			assert.Empty(t, got.Status.Description)
			assert.Subset(t, attrs(got), tt.attrs)
		})
	}
}

// TestGRPCOverHTTP: behind net/http, the gRPC status is in trailers that nobody
// reads, so the span does not claim success, and the route gives the name.
func TestGRPCOverHTTP(t *testing.T) {
	t.Parallel()
	route := gate("route", func(context.Context, *gatemesh.Call) (gatemesh.Admission, error) {
		return gatemesh.Admission{Route: &gatemesh.Route{Name: "grpc-route/0"}}, nil
	})
	s := newSpans()
	r := request("Content-Type", "application/grpc")
	r.Method, r.ProtoMajor = http.MethodPost, 2
	chain(t, route, tracer(t, trace.Config{TracerProvider: s}).Layer()).Handler(noContent).ServeHTTP(httptest.NewRecorder(), r)
	assert.Equal(t, "grpc-route/0", s.one(t).Name)
	a := attrs(s.one(t))
	assert.NotContains(t, a, "rpc.response.status_code")
	assert.Equal(t, "_OTHER", a["rpc.method"])
	assert.Equal(t, "grpc-route/0", a["gatemesh.route"])
}

func TestCanceledCall(t *testing.T) {
	t.Parallel()
	s := newSpans()
	ctx, cancel := context.WithCancel(t.Context())
	handle(t, tracer(t, trace.Config{TracerProvider: s}), request().WithContext(ctx), func(w http.ResponseWriter, _ *http.Request) {
		cancel()
		w.WriteHeader(http.StatusBadGateway)
	})
	assert.Equal(t, codes.Unset, s.one(t).Status.Code)
	assert.Equal(t, true, attrs(s.one(t))["gatemesh.canceled"])
}

// TestHijacked: the span of an upgraded connection ends with the connection.
func TestHijacked(t *testing.T) {
	t.Parallel()
	s := newSpans()
	done := make(chan struct{})
	server := httptest.NewServer(chain(t, tracer(t, trace.Config{TracerProvider: s}).Layer()).Handler(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		conn, _, err := http.NewResponseController(w).Hijack()
		if !assert.NoError(t, err) {
			return
		}
		go func() {
			defer close(done)
			assert.Empty(t, s.all())
			_, _ = io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n")
			assert.NoError(t, conn.Close())
		}()
	})))
	defer server.Close()
	resp, err := server.Client().Get(server.URL)
	require.NoError(t, err)
	require.NoError(t, resp.Body.Close())
	<-done
	assert.Equal(t, int64(101), attrs(s.one(t))["http.response.status_code"])
}

func TestUpdate(t *testing.T) {
	t.Parallel()
	a, b := newSpans(), newSpans()
	tr := tracer(t, trace.Config{TracerProvider: a})
	handle(t, tr, request(), func(http.ResponseWriter, *http.Request) {
		assert.NoError(t, tr.Update(trace.Config{TracerProvider: b}))
	})
	handle(t, tr, request(), noContent)
	var nilProvider *sdktrace.TracerProvider
	assert.Error(t, tr.Update(trace.Config{TracerProvider: nilProvider}))
	handle(t, tr, request(), noContent)
	assert.Len(t, a.all(), 1)
	assert.Len(t, b.all(), 2)
}
