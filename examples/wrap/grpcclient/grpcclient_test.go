package grpcclient

import (
	"context"
	"log/slog"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/resolver"
	"google.golang.org/grpc/resolver/manual"
	"google.golang.org/grpc/status"

	"github.com/gatemesh-go/gatemesh"
	"github.com/gatemesh-go/gatemesh/examples/wrap/internal/harness"
	"github.com/gatemesh-go/gatemesh/mtls"
	"github.com/gatemesh-go/gatemesh/routing/pool"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// newService returns the service, which finds payment-service at addr.
func newService(addr string) (*service, *harness.Log) {
	r := manual.NewBuilderWithScheme("names")
	r.InitialState(resolver.State{Addresses: []resolver.Address{{Addr: addr}}})
	log := &harness.Log{}
	return &service{log: slog.New(gatemesh.LogHandler(slog.NewJSONHandler(log, nil))), names: r}, log
}

const target = "names:///payment-service"

func closing(t *testing.T, conn *grpc.ClientConn, err error) *grpc.ClientConn {
	t.Helper()
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, conn.Close()) })
	return conn
}

// forms are the connections after, to payment-service at addr.
func forms(t *testing.T, peers *mtls.TLS, addr string) map[string]func(*service) *grpc.ClientConn {
	t.Helper()
	return map[string]func(*service) *grpc.ClientConn{
		"options": func(s *service) *grpc.ClientConn {
			conn, err := s.After(target, peers)
			return closing(t, conn, err)
		},
		"dial": func(s *service) *grpc.ClientConn {
			payments, err := pool.New(pool.Config{Name: "payment-service", Resolver: pool.Static(addr)})
			require.NoError(t, err)
			t.Cleanup(func() { assert.NoError(t, payments.Close()) }) // after the connection
			conn, err := s.AfterDial(target, peers, payments)
			return closing(t, conn, err)
		},
	}
}

// use makes a unary call and a stream, and returns what came of them. Whom the
// callee saw is in the SimpleResponse.
func use(ctx context.Context, t *testing.T, conn *grpc.ClientConn) (answers []string, r *grpc_testing.SimpleResponse) {
	t.Helper()
	api := grpc_testing.NewTestServiceClient(conn)
	var header, trailer metadata.MD
	r, err := api.UnaryCall(ctx, &grpc_testing.SimpleRequest{Payload: harness.Payload("body")}, grpc.Header(&header), grpc.Trailer(&trailer))
	require.NoError(t, err)
	answers = append(answers, string(r.GetPayload().GetBody()), header["x-echo"][0], trailer["x-trailer"][0])
	_, err = api.UnaryCall(ctx, &grpc_testing.SimpleRequest{ResponseStatus: &grpc_testing.EchoStatus{Code: int32(codes.AlreadyExists), Message: "there is one"}})
	answers = append(answers, status.Convert(err).Proto().String())
	s, err := api.FullDuplexCall(ctx)
	require.NoError(t, err)
	require.NoError(t, s.Send(&grpc_testing.StreamingOutputCallRequest{Payload: harness.Payload("one")}))
	m, err := s.Recv()
	require.NoError(t, err)
	require.NoError(t, s.CloseSend())
	_, err = s.Recv()
	return append(answers, string(m.GetPayload().GetBody()), err.Error()), r
}

// methods is what the service's own interceptors logged.
func methods(t *testing.T, log *harness.Log) (all []string) {
	t.Helper()
	for _, line := range log.Lines(t) {
		all = append(all, line["msg"].(string)+" "+line["method"].(string))
	}
	return all
}

func TestWrapped(t *testing.T) {
	f := harness.Enter(t)
	plain := harness.Serve(t, harness.PlainGRPC)
	s, log := newService(plain)
	conn, err := s.Before(target)
	was, r := use(t.Context(), t, closing(t, conn, err))
	assert.Empty(t, r.GetUsername())
	wasLogged := methods(t, log)

	addr := f.ServeGRPC(t, "payment-service")
	orders, err := f.Join("orders-service")
	require.NoError(t, err)
	for name, form := range forms(t, orders.TLS(), addr) {
		t.Run(name, func(t *testing.T) {
			s, log := newService(addr)
			conn := form(s)
			var seen *grpc_testing.SimpleResponse
			id := f.Inbound(t, func(ctx context.Context) {
				var is []string
				is, seen = use(ctx, t, conn)
				assert.Equal(t, was, is)
			})
			assert.Equal(t, wasLogged, methods(t, log), "its own interceptors run as before")
			assert.Equal(t, "ada", seen.GetUsername())
			assert.Equal(t, "spiffe://cluster.local/ns/production/sa/orders-service", seen.GetHostname())
			assert.Equal(t, id, seen.GetServerId(), "the request id")

			// Nobody's call carries nobody's identity.
			_, err := grpc_testing.NewTestServiceClient(conn).UnaryCall(t.Context(), &grpc_testing.SimpleRequest{})
			assert.Equal(t, codes.Unauthenticated, status.Code(err))
		})
	}
}

// TestPinned: whoever else answers at the address gets nothing.
func TestPinned(t *testing.T) {
	f := harness.Enter(t)
	addr := f.ServeGRPC(t, "stranger")
	orders, err := f.Join("orders-service")
	require.NoError(t, err)
	for name, form := range forms(t, orders.TLS(), addr) {
		t.Run(name, func(t *testing.T) {
			s, _ := newService(addr)
			_, err := grpc_testing.NewTestServiceClient(form(s)).UnaryCall(t.Context(), &grpc_testing.SimpleRequest{})
			assert.Equal(t, codes.Unavailable, status.Code(err), "%v", err)
		})
	}
}
