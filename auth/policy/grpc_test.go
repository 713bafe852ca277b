package policy

import (
	"context"
	"net"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	grpcstatus "google.golang.org/grpc/status"

	"github.com/gatemesh-go/gatemesh"
	"github.com/gatemesh-go/gatemesh/grpcmesh"
)

// serveGRPC serves the health service behind Entry and e, and returns what
// becomes of a call, unary and as a stream, which have to agree.
func serveGRPC(t *testing.T, e *Engine) func(authority, method string, metadata ...string) codes.Code {
	t.Helper()
	chain, err := gatemesh.NewChain(gatemesh.Must(gatemesh.NewEntry(gatemesh.EntryConfig{})), e.Layer())
	require.NoError(t, err)
	server := grpc.NewServer(gatemesh.Must(grpcmesh.NewServer(chain)).Options()...)
	healthpb.RegisterHealthServer(server, health.NewServer())
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = server.Serve(l) // ends with Stop
	}()
	t.Cleanup(func() {
		server.Stop()
		<-done
	})
	return func(authority, method string, pairs ...string) codes.Code {
		conn, err := grpc.NewClient(l.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithAuthority(authority))
		require.NoError(t, err)
		defer func() { require.NoError(t, conn.Close()) }()
		ctx, cancel := context.WithCancel(metadata.AppendToOutgoingContext(t.Context(), pairs...))
		defer cancel()
		unary := grpcstatus.Code(conn.Invoke(ctx, method, &healthpb.HealthCheckRequest{}, &healthpb.HealthCheckResponse{}))
		s, err := conn.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true}, "/grpc.health.v1.Health/Watch")
		require.NoError(t, err)
		require.NoError(t, s.SendMsg(&healthpb.HealthCheckRequest{}))
		require.NoError(t, s.CloseSend())
		assert.Equal(t, unary, grpcstatus.Code(s.RecvMsg(&healthpb.HealthCheckResponse{})), "unary and stream, %q", pairs)
		return unary
	}
}

const healthCheck = "/grpc.health.v1.Health/Check"

// Metadata is a header, with the same two meanings of several values.
func TestAZ07_Metadata(t *testing.T) {
	t.Parallel()
	role := func(values, not []string) Rule {
		return Rule{When: []Condition{{Key: "request.headers[X-Role]", Values: values, NotValues: not}}}
	}
	allow := serveGRPC(t, engine(t, config(policyOf("a", ActionAllow, role([]string{"user"}, nil)))))
	deny := serveGRPC(t, engine(t, config(policyOf("d", ActionDeny, role([]string{"admin"}, nil)), policyOf("a", ActionAllow, Rule{}))))
	not := serveGRPC(t, engine(t, config(policyOf("d", ActionDeny, role(nil, []string{"user"})), policyOf("a", ActionAllow, Rule{}))))
	const ok, no = codes.OK, codes.PermissionDenied
	for _, tt := range []struct {
		pairs            []string
		allow, deny, not codes.Code
	}{
		{nil, no, ok, no},
		{[]string{"x-role", "user"}, ok, ok, ok},
		{[]string{"X-Role", "user"}, ok, ok, ok},
		{[]string{"x-role", "admin"}, no, no, no},
		{[]string{"x-role", "user", "x-role", "admin"}, no, no, no},
		{[]string{"x-role", "admin", "x-role", "user"}, no, no, no},
		{[]string{"x-role", "user, admin"}, no, no, no},
		{[]string{"x-role", "user", "X-ROLE", "user"}, no, ok, no},
		{[]string{"x-role", " admin "}, no, no, no},
	} {
		assert.Equal(t, tt.allow, allow("a.test", healthCheck, tt.pairs...), "allow user: %q", tt.pairs)
		assert.Equal(t, tt.deny, deny("a.test", healthCheck, tt.pairs...), "deny admin: %q", tt.pairs)
		assert.Equal(t, tt.not, not("a.test", healthCheck, tt.pairs...), "deny all but user: %q", tt.pairs)
	}
}

// Hosts and paths are compared in the canonical form that HTTP calls have.
func TestAZ09_AuthorityAndMethod(t *testing.T) {
	t.Parallel()
	allow := serveGRPC(t, engine(t, config(policyOf("a", ActionAllow, to(Operation{Hosts: []string{"api.example.com"}, Paths: []string{"/grpc.health.v1.Health/*"}})))))
	deny := serveGRPC(t, engine(t, config(policyOf("d", ActionDeny, to(Operation{Hosts: []string{"api.example.com"}})), policyOf("a", ActionAllow, Rule{}))))
	for _, same := range []string{"api.example.com", "API.Example.COM", "api.example.com.", "api.example.com:443", "Api.example.com.:8080"} {
		assert.Equal(t, codes.OK, allow(same, healthCheck), same)
		assert.Equal(t, codes.PermissionDenied, deny(same, healthCheck), same)
	}
	for _, other := range []string{"api.example.com.evil", "xapi.example.com", "127.0.0.1"} {
		assert.Equal(t, codes.PermissionDenied, allow(other, healthCheck), other)
		assert.Equal(t, codes.OK, deny(other, healthCheck), other)
	}
	// What says that the call is another one has no influence.
	assert.Equal(t, codes.PermissionDenied, deny("api.example.com", healthCheck,
		"x-forwarded-host", "other.example", "x-original-url", "/x", "x-http-method-override", "GET", "user-agent", "kube-probe/1.30"))
}
