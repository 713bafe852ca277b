package grpcserver

import (
	"context"
	"log/slog"
	"net"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/grpc/status"

	"github.com/gatemesh-go/gatemesh"
	"github.com/gatemesh-go/gatemesh/examples/wrap/internal/harness"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func start(t *testing.T, form func(*service, context.Context, net.Listener) error) (addr string, s *service, log *harness.Log) {
	t.Helper()
	log = &harness.Log{}
	s = newService(slog.New(gatemesh.LogHandler(slog.NewJSONHandler(log, nil))))
	return harness.Serve(t, func(ctx context.Context, l net.Listener) error { return form(s, ctx, l) }), s, log
}

// use makes one call of each kind that the service answers, and returns what
// came of it.
func use(ctx context.Context, t *testing.T, conn *grpc.ClientConn) (answers []string) {
	t.Helper()
	api := grpc_testing.NewTestServiceClient(conn)
	var header, trailer metadata.MD
	r, err := api.UnaryCall(metadata.AppendToOutgoingContext(ctx, "x-echo", "v", "x-echo-bin", "\x00\xff"),
		&grpc_testing.SimpleRequest{Payload: harness.Payload("body")}, grpc.Header(&header), grpc.Trailer(&trailer))
	require.NoError(t, err)
	answers = append(answers, string(r.GetPayload().GetBody()), header["x-echo"][0], trailer["x-trailer"][0], trailer["x-trailer-bin"][0])

	_, err = api.UnaryCall(ctx, &grpc_testing.SimpleRequest{ResponseStatus: &grpc_testing.EchoStatus{Code: int32(codes.AlreadyExists), Message: "there is one"}})
	answers = append(answers, status.Convert(err).Proto().String())

	out, err := api.FullDuplexCall(ctx)
	require.NoError(t, err)
	for _, word := range []string{"one", "two"} {
		require.NoError(t, out.Send(&grpc_testing.StreamingOutputCallRequest{Payload: harness.Payload(word)}))
		m, err := out.Recv()
		require.NoError(t, err)
		answers = append(answers, string(m.GetPayload().GetBody()))
	}
	require.NoError(t, out.CloseSend())
	_, err = out.Recv()
	answers = append(answers, err.Error())

	h, err := grpc_health_v1.NewHealthClient(conn).Check(ctx, &grpc_health_v1.HealthCheckRequest{})
	require.NoError(t, err)
	answers = append(answers, h.String())

	list, err := grpc_reflection_v1.NewServerReflectionClient(conn).ServerReflectionInfo(ctx)
	require.NoError(t, err)
	require.NoError(t, list.Send(&grpc_reflection_v1.ServerReflectionRequest{MessageRequest: &grpc_reflection_v1.ServerReflectionRequest_ListServices{}}))
	services, err := list.Recv()
	require.NoError(t, err)
	require.NoError(t, list.CloseSend())
	_, err = list.Recv()
	answers = append(answers, services.GetListServicesResponse().String(), err.Error())

	err = conn.Invoke(ctx, "/grpc.testing.TestService/Nothing", &grpc_testing.Empty{}, &grpc_testing.Empty{})
	return append(answers, status.Convert(err).Proto().String())
}

func TestSame(t *testing.T) {
	f := harness.Enter(t)
	before, was, wasLog := start(t, (*service).Before)
	after, is, isLog := start(t, (*service).After)
	ctx := metadata.AppendToOutgoingContext(t.Context(), gatemesh.IdentityHeader, f.Identity(t, "ada"))
	conn := harness.Dial(t, after, f.As(t, "shop-frontend"))
	assert.Equal(t, use(t.Context(), t, harness.Dial(t, before, harness.Plain())), use(ctx, t, conn))
	assert.Equal(t, was.begun.Load(), is.begun.Load(), "the stats handler counts on")
	assert.Equal(t, methods(t, wasLog, false), methods(t, isLog, true), "and so do the interceptors, which know the request id")
}

// methods returns what the service's own interceptors logged.
func methods(t *testing.T, log *harness.Log, withID bool) (all []string) {
	t.Helper()
	for _, line := range log.Lines(t) {
		if line["msg"] == "call" || line["msg"] == "stream" {
			all = append(all, line["method"].(string)+" "+line["code"].(string))
			assert.Equal(t, withID, line["request_id"] != nil)
		}
	}
	return all
}

func TestAdded(t *testing.T) {
	f := harness.Enter(t)
	addr, s, log := start(t, (*service).After)
	user := metadata.AppendToOutgoingContext(t.Context(), gatemesh.IdentityHeader, f.Identity(t, "ada"), "x-request-id", "of-the-caller")

	var header metadata.MD
	conn := harness.Dial(t, addr, f.As(t, "shop-frontend"))
	r, err := grpc_testing.NewTestServiceClient(conn).UnaryCall(user, &grpc_testing.SimpleRequest{}, grpc.Header(&header))
	require.NoError(t, err)
	assert.Equal(t, "ada", r.GetUsername())
	assert.Equal(t, "spiffe://cluster.local/ns/production/sa/shop-frontend", r.GetHostname())
	assert.Equal(t, []string{"of-the-caller"}, header["x-request-id"])
	assert.Equal(t, "of-the-caller", log.Lines(t)[0]["request_id"])

	begun := s.begun.Load()
	for name, tt := range map[string]struct {
		ctx  context.Context
		as   grpc.DialOption
		want codes.Code
	}{
		"another workload": {user, f.As(t, "stranger"), codes.PermissionDenied},
		"no user":          {t.Context(), f.As(t, "shop-frontend"), codes.Unauthenticated},
		"an invented user": {metadata.AppendToOutgoingContext(t.Context(), gatemesh.IdentityHeader, "a.b.c"), f.As(t, "shop-frontend"), codes.Unauthenticated},
		"plain text":       {user, harness.Plain(), codes.Unavailable},
	} {
		t.Run(name, func(t *testing.T) {
			conn := harness.Dial(t, addr, tt.as)
			_, err := grpc_testing.NewTestServiceClient(conn).UnaryCall(tt.ctx, &grpc_testing.SimpleRequest{})
			assert.Equal(t, tt.want, status.Code(err), "%v", err)
			stream, err := grpc_testing.NewTestServiceClient(conn).FullDuplexCall(tt.ctx)
			if err == nil { // else the connection cannot be made
				_ = stream.CloseSend()
				_, err = stream.Recv()
			}
			assert.Equal(t, tt.want, status.Code(err), "%v", err)
		})
	}
	// What the tap handle refuses, the service's own code never hears of.
	assert.Empty(t, methods(t, log, true))
	assert.LessOrEqual(t, s.begun.Load()-begun, int64(2), "only an unknown token is verified behind the tap handle")
}
