package trace_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	oteltrace "go.opentelemetry.io/otel/trace"
	"google.golang.org/grpc"
	grpccodes "google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"

	"github.com/gatemesh-go/gatemesh"
	"github.com/gatemesh-go/gatemesh/grpcmesh"
	"github.com/gatemesh-go/gatemesh/trace"
)

const (
	check = "grpc.health.v1.Health/Check"
	watch = "grpc.health.v1.Health/Watch"
)

// health answers as handle says.
type health struct {
	grpc_health_v1.UnimplementedHealthServer
	handle func(context.Context) error
}

func (h health) Check(ctx context.Context, _ *grpc_health_v1.HealthCheckRequest) (*grpc_health_v1.HealthCheckResponse, error) {
	return &grpc_health_v1.HealthCheckResponse{}, h.handle(ctx)
}

func (h health) Watch(_ *grpc_health_v1.HealthCheckRequest, ss grpc.ServerStreamingServer[grpc_health_v1.HealthCheckResponse]) error {
	_ = ss.Send(&grpc_health_v1.HealthCheckResponse{}) // the outcome is what matters
	return h.handle(ss.Context())
}

// serveGRPC serves handle behind opts. The returned function stops the server
// when all its calls have ended.
func serveGRPC(t *testing.T, opts []grpc.ServerOption, handle func(context.Context) error, dial ...grpc.DialOption) (*grpc.ClientConn, func()) {
	t.Helper()
	l := bufconn.Listen(1 << 20)
	server := grpc.NewServer(opts...)
	grpc_health_v1.RegisterHealthServer(server, health{handle: handle})
	served := make(chan struct{})
	go func() {
		defer close(served)
		_ = server.Serve(l) // ends with Stop
	}()
	conn, err := grpc.NewClient("passthrough:///callee", append(dial,
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return l.DialContext(ctx) }))...)
	require.NoError(t, err)
	stop := func() {
		_ = conn.Close()
		server.GracefulStop()
		<-served
	}
	t.Cleanup(stop)
	return conn, stop
}

func options(t *testing.T, tap bool, layers ...gatemesh.Layer) []grpc.ServerOption {
	t.Helper()
	s, err := grpcmesh.NewServer(chain(t, layers...))
	require.NoError(t, err)
	if tap {
		return s.Options()
	}
	unary, stream := s.Interceptors()
	return []grpc.ServerOption{grpc.UnaryInterceptor(unary), grpc.StreamInterceptor(stream)}
}

// call makes a call and reads its answer to the end.
func call(ctx context.Context, conn *grpc.ClientConn, method string) error {
	if method != watch {
		return conn.Invoke(ctx, "/"+method, &grpc_health_v1.HealthCheckRequest{}, &grpc_health_v1.HealthCheckResponse{})
	}
	s, err := grpc_health_v1.NewHealthClient(conn).Watch(ctx, &grpc_health_v1.HealthCheckRequest{})
	for err == nil {
		_, err = s.Recv()
	}
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

// TestGRPC: a client's outbound layers and a server's chain, with the tap
// handle and without, for unary calls and streams.
func TestGRPC(t *testing.T) {
	t.Parallel()
	for _, method := range []string{check, watch} {
		for _, tap := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s/tap=%t", method, tap), func(t *testing.T) {
				t.Parallel()
				client, server := newSpans(), newSpans()
				near := tracer(t, trace.Config{TracerProvider: client})
				far := tracer(t, trace.Config{TracerProvider: server, Trusted: always})
				var inside oteltrace.SpanContext
				var sent metadata.MD
				out, err := grpcmesh.NewClient(outbound(t, near.Span(), near.Inject()))
				require.NoError(t, err)
				conn, stop := serveGRPC(t, options(t, tap, far.Layer()), func(ctx context.Context) error {
					inside = oteltrace.SpanContextFromContext(ctx)
					sent, _ = metadata.FromIncomingContext(ctx)
					return nil
				}, out.Options()...)
				ctx := metadata.AppendToOutgoingContext(t.Context(), "traceparent", traceparent, "traceparent", traceparent, "tracestate", "a=1", "baggage", "b=2")
				require.NoError(t, call(ctx, conn, method))
				require.NoError(t, call(ctx, conn, method))
				stop()

				require.Len(t, client.all(), 2)
				require.Len(t, server.all(), 2)
				c, s := client.all()[1], server.all()[1]
				assert.Equal(t, method, client.all()[0].Name)
				assert.Equal(t, method, c.Name)
				assert.Equal(t, method, server.all()[0].Name)
				assert.Equal(t, method, s.Name)
				assert.Equal(t, oteltrace.SpanKindClient, c.SpanKind)
				assert.Equal(t, oteltrace.SpanKindServer, s.SpanKind)
				assert.Equal(t, c.SpanContext.TraceID(), s.SpanContext.TraceID())
				assert.Equal(t, c.SpanContext.SpanID(), s.Parent.SpanID())
				assert.Equal(t, s.SpanContext, inside)
				assert.Len(t, sent["traceparent"], 1)
				assert.Empty(t, sent["tracestate"])
				assert.Empty(t, sent["baggage"])
				for _, span := range []tracetest.SpanStub{c, s} {
					assert.Subset(t, attrs(span), map[string]any{"rpc.system.name": "grpc", "rpc.method": method, "rpc.response.status_code": "OK"})
					assert.Equal(t, codes.Unset, span.Status.Code)
				}
				assert.Equal(t, "payment", attrs(c)["service.peer.name"])
			})
		}
	}
}

func TestGRPCResults(t *testing.T) {
	t.Parallel()
	deny := gate("deny", func(context.Context, *gatemesh.Call) (gatemesh.Admission, error) {
		return gatemesh.Admission{}, gatemesh.Deny(gatemesh.PermissionDenied, "no_way", "No.")
	})
	fails := func(c grpccodes.Code) func(context.Context) error {
		return func(context.Context) error { return status.Error(c, "SECRET") }
	}
	for _, tt := range []struct {
		name   string
		method string
		layers []gatemesh.Layer
		handle func(context.Context) error
		span   string
		want   codes.Code
		attrs  map[string]any
	}{
		{"internal", check, nil, fails(grpccodes.Internal), check, codes.Error, map[string]any{"rpc.response.status_code": "INTERNAL", "error.type": "INTERNAL"}},
		{"not found", check, nil, fails(grpccodes.NotFound), check, codes.Unset, map[string]any{"rpc.response.status_code": "NOT_FOUND"}},
		{"stream fails", watch, nil, fails(grpccodes.Unavailable), watch, codes.Error, map[string]any{"rpc.response.status_code": "UNAVAILABLE"}},
		{"panic", check, nil, func(context.Context) error { panic("SECRET") }, check, codes.Error, map[string]any{"error.type": "panic"}},
		{"denied", check, []gatemesh.Layer{deny}, nil, "grpc", codes.Unset,
			map[string]any{"rpc.response.status_code": "PERMISSION_DENIED", "rpc.method": "_OTHER", "gatemesh.denial": "no_way"}},
		{"unimplemented", check, nil, fails(grpccodes.Unimplemented), "grpc", codes.Error, map[string]any{"rpc.method": "_OTHER"}},
	} {
		for _, tap := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s/tap=%t", tt.name, tap), func(t *testing.T) {
				t.Parallel()
				s := newSpans()
				layers := append([]gatemesh.Layer{tracer(t, trace.Config{TracerProvider: s}).Layer()}, tt.layers...)
				conn, stop := serveGRPC(t, options(t, tap, layers...), tt.handle)
				require.Error(t, call(t.Context(), conn, tt.method))
				stop()
				got := s.one(t)
				assert.Equal(t, tt.span, got.Name)
				assert.Equal(t, tt.want, got.Status.Code)
				assert.Empty(t, got.Status.Description)
				assert.Subset(t, attrs(got), tt.attrs)
			})
		}
	}
}

// TestGRPCBorrowedSpan: beside a stats handler that starts spans, as otelgrpc,
// the interceptors alone find its span.
func TestGRPCBorrowedSpan(t *testing.T) {
	t.Parallel()
	s := newSpans()
	outer := func(ctx context.Context, req any, _ *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
		ctx, span := s.Tracer("outer").Start(ctx, "outer")
		defer span.End()
		return next(ctx, req)
	}
	opts := []grpc.ServerOption{grpc.ChainUnaryInterceptor(outer)}
	server, err := grpcmesh.NewServer(chain(t, tracer(t, trace.Config{TracerProvider: s}).Layer()))
	require.NoError(t, err)
	unary, _ := server.Interceptors()
	conn, stop := serveGRPC(t, append(opts, grpc.ChainUnaryInterceptor(unary)), func(context.Context) error { return nil })
	require.NoError(t, call(t.Context(), conn, check))
	stop()
	assert.Equal(t, "outer", s.one(t).Name)
	assert.Contains(t, attrs(s.one(t)), "gatemesh.request_id")
}

// TestTR04_GRPCMethods: methods that nobody serves give no name to a span, in
// the tap handle or at a server that takes every method.
func TestTR04_GRPCMethods(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name  string
		extra grpc.ServerOption
		max   int
	}{
		{"unknown", grpc.EmptyServerOption{}, 2},
		{"taken by nobody", grpc.UnknownServiceHandler(func(any, grpc.ServerStream) error { return status.Error(grpccodes.Unimplemented, "") }), 2},
		{"taken by everybody", grpc.UnknownServiceHandler(func(_ any, ss grpc.ServerStream) error { return ss.SendMsg(&grpc_health_v1.HealthCheckResponse{}) }), 1025},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := newSpans()
			conn, stop := serveGRPC(t, append(options(t, true, tracer(t, trace.Config{TracerProvider: s}).Layer()), tt.extra), func(context.Context) error { return nil })
			require.NoError(t, call(t.Context(), conn, check))
			for i := range 2000 {
				_ = call(t.Context(), conn, fmt.Sprintf("a.B%d/C", i)) // most fail
			}
			stop()
			assert.Len(t, s.all(), 2001)
			names := map[string]bool{}
			for _, span := range s.all() {
				names[span.Name] = true
			}
			assert.LessOrEqual(t, len(names), tt.max)
			assert.True(t, names[check])
			assert.True(t, names["grpc"])
		})
	}
}

// TestTR04_GRPCOverHTTP: a proxy in front of something that is no server of
// gRPC learns no method of it, whatever that answers, and real ones afterwards.
func TestTR04_GRPCOverHTTP(t *testing.T) {
	t.Parallel()
	var answer func() *http.Response
	s := newSpans()
	tr := tracer(t, trace.Config{TracerProvider: s})
	rt := outbound(t, tr.Span(), tr.Inject()).Transport(roundTripFunc(func(*http.Request) (*http.Response, error) {
		return answer(), nil
	}))
	post := func(path string, read bool, a func() *http.Response) {
		answer = a
		r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://payment.prod:8080"+path, nil)
		require.NoError(t, err)
		r.Header.Set("Content-Type", "application/grpc")
		resp, err := rt.RoundTrip(r)
		require.NoError(t, err)
		if read {
			_, err = io.Copy(io.Discard, resp.Body)
			require.NoError(t, err)
		}
		require.NoError(t, resp.Body.Close())
	}
	respond := func(status int, header, trailer http.Header) func() *http.Response {
		return func() *http.Response {
			return &http.Response{StatusCode: status, Header: header, Trailer: trailer, Body: io.NopCloser(strings.NewReader("x"))}
		}
	}
	ok := http.Header{"Grpc-Status": {"0"}}
	for i := range 1100 {
		post(fmt.Sprintf("/reset/SECRET-%d", i), i%2 == 0, respond(200, nil, nil))
		post(fmt.Sprintf("/reset/SECRET-%d", i), false, respond(200, nil, http.Header{"Grpc-Status": nil})) // it did not come
		post(fmt.Sprintf("/reset/SECRET-%d", i), true, respond(404, ok, ok))
	}
	for _, span := range s.all() {
		require.Equal(t, "grpc", span.Name)
		require.NotContains(t, fmt.Sprint(attrs(span)), "SECRET")
	}
	s.exported.Reset()
	post("/"+check, true, respond(200, nil, ok))
	assert.Equal(t, check, s.one(t).Name)
}
