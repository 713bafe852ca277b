package trace_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel/baggage"
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

// TestTR02_Traceparent: what is no valid traceparent begins a new trace, also
// if a trusted caller sent it, and its tracestate goes with it.
func TestTR02_Traceparent(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name  string
		sent  []string
		valid bool
	}{
		{"valid", []string{traceparent}, true},
		{"not sampled", []string{"00-" + theirTrace + "-" + theirSpan + "-00"}, true},
		{"later version with more", []string{"01-" + theirTrace + "-" + theirSpan + "-01-more"}, true},
		{"none", nil, false},
		{"empty", []string{""}, false},
		{"zero trace id", []string{"00-00000000000000000000000000000000-" + theirSpan + "-01"}, false},
		{"zero span id", []string{"00-" + theirTrace + "-0000000000000000-01"}, false},
		{"version ff", []string{"ff-" + theirTrace + "-" + theirSpan + "-01"}, false},
		{"upper case", []string{strings.ToUpper(traceparent)}, false},
		{"version 00 with more", []string{traceparent + "-more"}, false},
		{"short", []string{traceparent[:54]}, false},
		{"long", []string{traceparent + "0"}, false},
		{"1 MiB", []string{strings.Repeat("0", 1<<20)}, false},
		{"not hexadecimal", []string{"00-" + theirTrace[:31] + "g-" + theirSpan + "-01"}, false},
		{"two fields", []string{traceparent, traceparent}, false},
		{"two in one", []string{traceparent + "," + traceparent}, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			for _, trusted := range []bool{true, false} {
				s := newSpans()
				r := request("Tracestate", "vendor=1")
				r.Header["Traceparent"] = tt.sent
				who := never
				if trusted {
					who = always
				}
				var inside oteltrace.SpanContext
				handle(t, tracer(t, trace.Config{TracerProvider: s, Trusted: who}), r, func(_ http.ResponseWriter, r *http.Request) {
					inside = oteltrace.SpanContextFromContext(r.Context())
				})
				if trusted && tt.name == "not sampled" {
					assert.Empty(t, s.all(), "the decision of a trusted caller holds")
					assert.Equal(t, theirTrace, inside.TraceID().String())
					continue
				}
				got := s.one(t)
				assert.Equal(t, inside, got.SpanContext)
				if trusted && tt.valid {
					assert.Equal(t, theirTrace, got.SpanContext.TraceID().String())
					assert.Equal(t, theirSpan, got.Parent.SpanID().String())
					assert.True(t, got.Parent.IsRemote())
					assert.Equal(t, "vendor=1", got.SpanContext.TraceState().String())
					assert.Empty(t, got.Links)
					continue
				}
				assert.False(t, got.Parent.IsValid())
				assert.NotEqual(t, theirTrace, got.SpanContext.TraceID().String())
				assert.Empty(t, got.SpanContext.TraceState().String())
				if trusted || !tt.valid {
					assert.Empty(t, got.Links)
					continue
				}
				require.Len(t, got.Links, 1)
				link := got.Links[0].SpanContext
				assert.Equal(t, theirTrace, link.TraceID().String())
				assert.Equal(t, theirSpan, link.SpanID().String())
				assert.Zero(t, link.TraceFlags())
				assert.Empty(t, link.TraceState().String())
			}
		})
	}
}

// TestTR02_SamplingFlag: an untrusted caller neither gets a span recorded nor
// keeps it from being recorded.
func TestTR02_SamplingFlag(t *testing.T) {
	t.Parallel()
	for _, flag := range []string{"00", "01"} {
		for root, want := range map[sdktrace.Sampler]int{sdktrace.AlwaysSample(): 1, sdktrace.NeverSample(): 0} {
			s := newSpans(sdktrace.WithSampler(sdktrace.ParentBased(root)))
			handle(t, tracer(t, trace.Config{TracerProvider: s}), request("Traceparent", traceparent[:53]+flag), noContent)
			assert.Len(t, s.all(), want, "%s %s", flag, root.Description())

			s = newSpans(sdktrace.WithSampler(sdktrace.ParentBased(root)))
			handle(t, tracer(t, trace.Config{TracerProvider: s, Trusted: always}), request("Traceparent", traceparent[:53]+flag), noContent)
			assert.Len(t, s.all(), int(flag[1]-'0'), "trusted: %s %s", flag, root.Description())
		}
	}
}

func TestUntrustedBehindExtractor(t *testing.T) {
	t.Parallel()
	s := newSpans()
	tr := tracer(t, trace.Config{TracerProvider: s, DisableLinks: true})
	r := request("Traceparent", traceparent)
	r = r.WithContext(propagation.TraceContext{}.Extract(r.Context(), propagation.HeaderCarrier(r.Header)))
	handle(t, tr, r, noContent)
	assert.False(t, s.one(t).Parent.IsValid())
	assert.NotEqual(t, theirTrace, s.one(t).SpanContext.TraceID().String())
	assert.Empty(t, s.one(t).Links, "DisableLinks")
}

// TestTrusted: by default, proxies and verified workloads are trusted.
func TestTrusted(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name string
		call gatemesh.CallInfo
		want bool
	}{
		{"anybody", gatemesh.CallInfo{}, false},
		{"user", gatemesh.CallInfo{Principal: gatemesh.NewPrincipal(gatemesh.PrincipalInfo{Subject: "alice"})}, false},
		{"workload", gatemesh.CallInfo{Peer: gatemesh.Must(gatemesh.NewPeer("td", "/ns/prod/sa/orders", nil))}, true},
	} {
		s := newSpans()
		tr := tracer(t, trace.Config{TracerProvider: s})
		tt.call.Header = http.Header{"Traceparent": {traceparent}}
		c := gatemesh.Must(gatemesh.NewCall(tt.call))
		adm, err := tr.Admit(t.Context(), c)
		require.NoError(t, err)
		adm.Finish.Finish(c, gatemesh.Outcome{})
		assert.Equal(t, tt.want, s.one(t).SpanContext.TraceID().String() == theirTrace, tt.name)
	}
	s := newSpans()
	entry := gatemesh.Must(gatemesh.NewEntry(gatemesh.EntryConfig{TrustedProxies: prefixes("192.0.2.0/24")}))
	h := entry.Handler(tracer(t, trace.Config{TracerProvider: s}).Handler(noContent))
	h.ServeHTTP(httptest.NewRecorder(), request("Traceparent", traceparent))
	assert.Equal(t, theirTrace, s.one(t).SpanContext.TraceID().String())
}

// TestTR02_Baggage: of a trusted caller's baggage, 64 members and 8192 bytes
// are kept; of anybody else's nothing.
func TestTR02_Baggage(t *testing.T) {
	t.Parallel()
	members := func(n int) string {
		var b strings.Builder
		for i := range n {
			fmt.Fprintf(&b, ",k%d=v", i)
		}
		return b.String()[1:]
	}
	eight := func(i int) string { return fmt.Sprintf("k%d=%s", i, strings.Repeat("v", 8<<10-8)) }
	var hundred []string
	for i := range 100 {
		hundred = append(hundred, eight(i))
	}
	for _, tt := range []struct {
		name  string
		sent  []string
		want  int // members
		event bool
	}{
		{"none", nil, 0, false},
		{"one", []string{"a=1"}, 1, false},
		{"64 members", []string{members(64)}, 64, false},
		{"65 members", []string{members(65)}, 64, true},
		{"two fields of 40", []string{members(40), strings.ReplaceAll(members(40), "k", "j")}, 64, true},
		{"10000 members", []string{members(10000)}, 64, true},
		{"8192 bytes", []string{"a=" + strings.Repeat("v", 8190)}, 1, false},
		{"8193 bytes", []string{"a=" + strings.Repeat("v", 8191)}, 0, true},
		{"100 fields of 8 KB", hundred, 1, true},
		{"malformed members", []string{"a=1,=,b,\x00=1,c=2"}, 2, false},
		{"nothing but commas", []string{strings.Repeat(",", 1<<20)}, 0, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			for _, trusted := range []bool{true, false} {
				var o observer
				cfg := trace.Config{TracerProvider: newSpans(), Observer: &o, Trusted: never}
				if trusted {
					cfg.Trusted = always
				}
				tr := tracer(t, cfg)
				for range 3 {
					r := request()
					r.Header["Baggage"] = tt.sent
					handle(t, tr, r, func(_ http.ResponseWriter, r *http.Request) {
						b := baggage.FromContext(r.Context())
						if !trusted {
							assert.Zero(t, b.Len())
							return
						}
						assert.Equal(t, tt.want, b.Len())
						assert.LessOrEqual(t, len(b.String()), 8192)
					})
				}
				events := 0
				if tt.event && trusted {
					events = 1
				}
				require.Len(t, o.events, events, "one line in a minute")
			}
		})
	}
}

// TestTR02_Allocation: hostile fields are not multiplied (F-10).
func TestTR02_Allocation(t *testing.T) {
	tr := tracer(t, trace.Config{TracerProvider: newSpans(sdktrace.WithSampler(sdktrace.NeverSample())), Trusted: always})
	for _, tt := range []struct{ name, field, value string }{
		{"baggage commas", "Baggage", strings.Repeat(",", 1<<20)},
		{"baggage members", "Baggage", strings.Repeat("a=1,", 1<<18)},
		{"baggage properties", "Baggage", "a=1" + strings.Repeat(";p", 4000)},
		{"tracestate", "Tracestate", strings.Repeat("a=1,", 1<<18)},
		{"traceparent", "Traceparent", strings.Repeat("-", 1<<20)},
	} {
		c := gatemesh.Must(gatemesh.NewCall(gatemesh.CallInfo{Header: http.Header{"Traceparent": {traceparent}, tt.field: {tt.value}}}))
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		for range 10 {
			_, err := tr.Admit(t.Context(), c)
			require.NoError(t, err)
		}
		runtime.ReadMemStats(&after)
		bytes := (after.TotalAlloc - before.TotalAlloc) / 10
		assert.LessOrEqual(t, bytes, uint64(len(tt.value)*16+64<<10), tt.name)
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
