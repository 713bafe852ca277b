package oneport

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/encoding/gzip"
	"google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/gatemesh-go/gatemesh"
	"github.com/gatemesh-go/gatemesh/examples/wrap/internal/harness"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// dial connects to the service.
func dial(t *testing.T, f *harness.Folder, addr string, opts ...grpc.DialOption) *grpc.ClientConn {
	t.Helper()
	creds := credentials.NewTLS(&tls.Config{RootCAs: f.Roots(), MinVersion: tls.VersionTLS12, ServerName: "localhost"})
	return harness.Dial(t, addr, append(opts, grpc.WithTransportCredentials(creds))...)
}

// use makes calls of every kind and notes what came of them.
func use(ctx context.Context, t *testing.T, conn *grpc.ClientConn) (notes []string) {
	t.Helper()
	note := func(name string, v ...any) { notes = append(notes, fmt.Sprintln(append([]any{name + ":"}, v...)...)) }
	api := grpc_testing.NewTestServiceClient(conn)

	var header, trailer metadata.MD
	r, err := api.UnaryCall(metadata.AppendToOutgoingContext(ctx, "x-echo", "one", "x-echo", "two", "x-echo-bin", "\x00\xff\n"),
		&grpc_testing.SimpleRequest{Payload: harness.Payload("body")}, grpc.Header(&header), grpc.Trailer(&trailer))
	note("unary", string(r.GetPayload().GetBody()), err)
	note("metadata", header["x-echo"], header["x-echo-bin"], trailer["x-trailer"], trailer["x-trailer-bin"])

	_, err = api.UnaryCall(ctx, &grpc_testing.SimpleRequest{ResponseStatus: &grpc_testing.EchoStatus{Code: int32(codes.AlreadyExists), Message: "there is one: \u00e9\n"}})
	note("status", status.Code(err), status.Convert(err).Message(), status.Convert(err).Details())
	note("unknown", status.Code(conn.Invoke(ctx, "/grpc.testing.TestService/Nothing", &grpc_testing.Empty{}, &grpc_testing.Empty{})))

	out, err := api.StreamingOutputCall(ctx, &grpc_testing.StreamingOutputCallRequest{ResponseParameters: []*grpc_testing.ResponseParameters{{Size: 1}, {Size: 100_000}}})
	require.NoError(t, err)
	for range 3 {
		m, err := out.Recv()
		note("server stream", len(m.GetPayload().GetBody()), err)
	}
	in, err := api.StreamingInputCall(ctx)
	require.NoError(t, err)
	for range 3 {
		require.NoError(t, in.Send(&grpc_testing.StreamingInputCallRequest{Payload: harness.Payload("12345")}))
	}
	sum, err := in.CloseAndRecv()
	note("client stream", sum.GetAggregatedPayloadSize(), err)
	both, err := api.FullDuplexCall(ctx)
	require.NoError(t, err)
	for _, word := range []string{"ping", "pong"} { // the answer to the first comes before the second is sent
		require.NoError(t, both.Send(&grpc_testing.StreamingOutputCallRequest{Payload: harness.Payload(word)}))
		m, err := both.Recv()
		note("bidi", string(m.GetPayload().GetBody()), err)
	}
	require.NoError(t, both.CloseSend())
	_, err = both.Recv()
	note("bidi", err)

	long, cancel := context.WithTimeout(ctx, time.Hour)
	r, err = api.UnaryCall(long, &grpc_testing.SimpleRequest{})
	cancel()
	note("deadline in the handler", r.GetOauthScope(), err)
	short, cancel := context.WithTimeout(ctx, 100*time.Millisecond)
	_, err = api.EmptyCall(short, &grpc_testing.Empty{})
	cancel()
	note("deadline passed", status.Code(err))

	const big = 3 << 20
	r, err = api.UnaryCall(ctx, &grpc_testing.SimpleRequest{Payload: &grpc_testing.Payload{Body: make([]byte, big)}, ResponseSize: 1000})
	note("large", len(r.GetPayload().GetBody()), err)
	_, err = api.UnaryCall(ctx, &grpc_testing.SimpleRequest{Payload: &grpc_testing.Payload{Body: make([]byte, 5<<20)}})
	note("too large", status.Code(err))
	r, err = api.UnaryCall(ctx, &grpc_testing.SimpleRequest{Payload: &grpc_testing.Payload{Body: make([]byte, big)}}, grpc.UseCompressor(gzip.Name))
	note("compressed", len(r.GetPayload().GetBody()), err)
	return notes
}

// TestSame: with a key, both halves answer as before.
func TestSame(t *testing.T) {
	f := harness.Enter(t)
	before, after := harness.Serve(t, Before), harness.Serve(t, After)
	ctx := metadata.AppendToOutgoingContext(t.Context(), "x-api-key", f.Key)
	was, is := use(t.Context(), t, dial(t, f, before)), use(ctx, t, dial(t, f, after))
	assert.Equal(t, was, is)
	for _, h2 := range []bool{false, true} {
		transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: f.Roots(), MinVersion: tls.VersionTLS12}, ForceAttemptHTTP2: h2}
		for addr, want := range map[string]int{before: 0, after: 32} {
			r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://"+addr+"/items/7", http.NoBody)
			require.NoError(t, err)
			r.Header.Set("X-Api-Key", f.Key)
			resp, err := transport.RoundTrip(r)
			require.NoError(t, err)
			body, err := io.ReadAll(resp.Body)
			require.NoError(t, err)
			require.NoError(t, resp.Body.Close())
			assert.Equal(t, map[bool]string{false: "item 7 over HTTP/1.1", true: "item 7 over HTTP/2.0"}[h2], string(body))
			assert.Len(t, resp.Header.Get(gatemesh.RequestIDHeader), want)
		}
		transport.CloseIdleConnections()
	}
}

// TestRefusals: refusals are gRPC statuses for gRPC, problem documents for
// HTTP, and both halves are charged to one count.
func TestRefusals(t *testing.T) {
	f := harness.Enter(t)
	addr := harness.Serve(t, After)
	api := grpc_testing.NewTestServiceClient(dial(t, f, addr))
	ctx := metadata.AppendToOutgoingContext(t.Context(), "x-api-key", f.Key)
	var header metadata.MD
	r, err := api.UnaryCall(ctx, &grpc_testing.SimpleRequest{}, grpc.Header(&header))
	require.NoError(t, err)
	assert.Equal(t, "acme", r.GetUsername(), "the handler finds the Call")
	assert.Equal(t, []string{r.GetServerId()}, header["x-request-id"])
	assert.Contains(t, header["ratelimit"], `"consumer";r=19;t=60`, "charged once")

	_, err = api.UnaryCall(t.Context(), &grpc_testing.SimpleRequest{})
	assert.Equal(t, codes.Unauthenticated, status.Code(err))
	assert.NotEmpty(t, status.Convert(err).Message())
	s, err := api.FullDuplexCall(t.Context())
	require.NoError(t, err)
	require.NoError(t, s.CloseSend())
	_, err = s.Recv()
	assert.Equal(t, codes.Unauthenticated, status.Code(err))

	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: f.Roots(), MinVersion: tls.VersionTLS12}}
	defer transport.CloseIdleConnections()
	for i := range 20 {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://"+addr+"/items/7", http.NoBody)
		require.NoError(t, err)
		req.Header.Set("X-Api-Key", f.Key)
		resp, err := transport.RoundTrip(req)
		require.NoError(t, err)
		require.NoError(t, resp.Body.Close())
		assert.Equal(t, map[bool]int{true: 200, false: 429}[i < 19], resp.StatusCode)
	}
	var trailer metadata.MD // a refusal is trailers alone
	_, err = api.UnaryCall(ctx, &grpc_testing.SimpleRequest{}, grpc.Trailer(&trailer))
	assert.Equal(t, codes.ResourceExhausted, status.Code(err))
	assert.NotEmpty(t, trailer["retry-after"])
	assert.Len(t, trailer["x-request-id"], 1)
}
