package harness

import (
	"bytes"
	"context"
	"crypto/tls"
	"io"
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/gatemesh-go/gatemesh"
	"github.com/gatemesh-go/gatemesh/grpcmesh"
	"github.com/gatemesh-go/gatemesh/meshtest"
	"github.com/gatemesh-go/gatemesh/mtls"
)

// API stands for the generated API of an existing service. It has one method
// of each kind, and answers what it is asked to.
type API struct {
	grpc_testing.UnimplementedTestServiceServer
}

// Register registers a on s.
func (a *API) Register(s grpc.ServiceRegistrar) { grpc_testing.RegisterTestServiceServer(s, a) }

// UnaryCall fails if it is asked to, with details; else it answers with the
// payload and as many bytes more as it is asked for, with the caller's
// metadata x-echo in header and x-echo-trailer in trailer.
func (a *API) UnaryCall(ctx context.Context, r *grpc_testing.SimpleRequest) (*grpc_testing.SimpleResponse, error) {
	if err := echo(ctx, func(md metadata.MD) error { return grpc.SetHeader(ctx, md) }, func(md metadata.MD) { _ = grpc.SetTrailer(ctx, md) }); err != nil {
		return nil, err
	}
	if s := r.GetResponseStatus(); s != nil {
		st, err := status.New(codes.Code(uint32(s.GetCode())), s.GetMessage()).WithDetails(durationpb.New(time.Second))
		if err != nil {
			return nil, err
		}
		return nil, st.Err()
	}
	body := append(bytes.Clone(r.GetPayload().GetBody()), make([]byte, r.GetResponseSize())...)
	resp := &grpc_testing.SimpleResponse{Payload: &grpc_testing.Payload{Body: body}}
	if c := gatemesh.FromContext(ctx); c != nil {
		resp.ServerId = c.RequestID()
		if p := c.Principal(); p != nil {
			resp.Username = p.Subject() + p.Consumer()
		}
		if c.Peer() != nil {
			resp.Hostname = c.Peer().ID()
		}
	}
	if d, ok := ctx.Deadline(); ok {
		resp.OauthScope = time.Until(d).Round(time.Minute).String()
	}
	return resp, nil
}

// EmptyCall waits until the caller is gone.
func (a *API) EmptyCall(ctx context.Context, _ *grpc_testing.Empty) (*grpc_testing.Empty, error) {
	<-ctx.Done()
	return nil, status.FromContextError(ctx.Err()).Err()
}

// StreamingOutputCall sends a message for each size asked for, and then, if the
// payload says "wait", waits until the caller is gone.
func (a *API) StreamingOutputCall(r *grpc_testing.StreamingOutputCallRequest, s grpc.ServerStreamingServer[grpc_testing.StreamingOutputCallResponse]) error {
	if err := echo(s.Context(), s.SetHeader, s.SetTrailer); err != nil {
		return err
	}
	for _, p := range r.GetResponseParameters() {
		if err := s.Send(&grpc_testing.StreamingOutputCallResponse{Payload: &grpc_testing.Payload{Body: make([]byte, p.GetSize())}}); err != nil {
			return err
		}
	}
	if string(r.GetPayload().GetBody()) == "wait" {
		<-s.Context().Done()
		return status.FromContextError(s.Context().Err()).Err()
	}
	return nil
}

// StreamingInputCall adds up the sizes of what it gets.
func (a *API) StreamingInputCall(s grpc.ClientStreamingServer[grpc_testing.StreamingInputCallRequest, grpc_testing.StreamingInputCallResponse]) error {
	var sum int32
	for {
		m, err := s.Recv()
		if err == io.EOF {
			return s.SendAndClose(&grpc_testing.StreamingInputCallResponse{AggregatedPayloadSize: sum})
		}
		if err != nil {
			return err
		}
		sum += int32(len(m.GetPayload().GetBody())) // tests send little
	}
}

// FullDuplexCall answers each message with its payload.
func (a *API) FullDuplexCall(s grpc.BidiStreamingServer[grpc_testing.StreamingOutputCallRequest, grpc_testing.StreamingOutputCallResponse]) error {
	for {
		m, err := s.Recv()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		if err := s.Send(&grpc_testing.StreamingOutputCallResponse{Payload: m.GetPayload()}); err != nil {
			return err
		}
	}
}

func echo(ctx context.Context, header func(metadata.MD) error, trailer func(metadata.MD)) error {
	md, _ := metadata.FromIncomingContext(ctx)
	for _, name := range []string{"x-echo", "x-echo-bin"} {
		if v := md[name]; v != nil {
			trailer(metadata.MD{"x-trailer" + name[len("x-echo"):]: v})
			if err := header(metadata.MD{name: v}); err != nil {
				return err
			}
		}
	}
	return nil
}

// Dial returns a connection to a server, which is closed when the test ends.
func Dial(t *testing.T, addr string, opts ...grpc.DialOption) *grpc.ClientConn {
	t.Helper()
	conn, err := grpc.NewClient("passthrough:///"+addr, opts...)
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, conn.Close()) })
	return conn
}

// As returns the credentials of the workload for calls to orders-service.
func (f *Folder) As(t *testing.T, workload string) grpc.DialOption {
	t.Helper()
	return grpc.WithTransportCredentials(credentials.NewTLS(f.ClientTLS(t, workload)))
}

// ClientTLS returns the configuration of the workload for calls to
// orders-service.
func (f *Folder) ClientTLS(t *testing.T, workload string) *tls.Config {
	t.Helper()
	member, err := f.Join(workload)
	require.NoError(t, err)
	callee, err := mtls.Exactly("spiffe://cluster.local/ns/production/sa/orders-service")
	require.NoError(t, err)
	config, err := member.TLS().ClientConfig(callee)
	require.NoError(t, err)
	return config
}

// Plain is for servers without TLS.
func Plain() grpc.DialOption { return grpc.WithTransportCredentials(insecure.NewCredentials()) }

// Payload is a message body.
func Payload(body string) *grpc_testing.Payload { return &grpc_testing.Payload{Body: []byte(body)} }

// ServeGRPC serves an API as the workload, behind mutual TLS and the
// verification of identities, and returns its address.
func (f *Folder) ServeGRPC(t *testing.T, workload string) string {
	t.Helper()
	member, err := f.Join(workload)
	require.NoError(t, err)
	chain, err := member.Chain(meshtest.ServiceConfig{DisablePolicy: true})
	require.NoError(t, err)
	server, err := grpcmesh.NewServer(chain)
	require.NoError(t, err)
	return Serve(t, func(ctx context.Context, l net.Listener) error {
		srv := grpc.NewServer(append(server.Options(), grpc.Creds(grpcmesh.Credentials(member.TLS(), nil)))...)
		(&API{}).Register(srv)
		defer context.AfterFunc(ctx, srv.GracefulStop)()
		return srv.Serve(l)
	})
}

// PlainGRPC serves an API in plain text to everybody.
func PlainGRPC(ctx context.Context, l net.Listener) error {
	srv := grpc.NewServer()
	(&API{}).Register(srv)
	defer context.AfterFunc(ctx, srv.GracefulStop)()
	return srv.Serve(l)
}
