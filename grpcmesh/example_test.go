package grpcmesh_test

import (
	"context"
	"fmt"
	"net"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/gatemesh-go/gatemesh"
	"github.com/gatemesh-go/gatemesh/grpcmesh"
)

// onlyAlice authenticates by a metadata key, which nothing but an example should do.
func onlyAlice(_ context.Context, c *gatemesh.Call) (gatemesh.Admission, error) {
	if user, _ := c.Header().Only("x-user"); user != "alice" {
		return gatemesh.Admission{}, gatemesh.Deny(gatemesh.PermissionDenied, "not_alice", "Only Alice may do that.")
	}
	return gatemesh.Admission{}, nil
}

func ExampleServer_Options() {
	entry := gatemesh.Must(gatemesh.NewEntry(gatemesh.EntryConfig{}))
	chain := gatemesh.Must(gatemesh.NewChain(entry, gatemesh.Layer{Name: "rules", Gate: gatemesh.GateFunc(onlyAlice)}))
	mesh := gatemesh.Must(grpcmesh.NewServer(chain))

	server := grpc.NewServer(mesh.Options()...)
	grpc_health_v1.RegisterHealthServer(server, health.NewServer())
	listener := gatemesh.Must(net.Listen("tcp", "127.0.0.1:0"))
	served := make(chan error)
	go func() { served <- server.Serve(listener) }()

	conn := gatemesh.Must(grpc.NewClient(listener.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials())))
	client := grpc_health_v1.NewHealthClient(conn)
	for _, user := range []string{"alice", "mallory"} {
		ctx := metadata.AppendToOutgoingContext(context.Background(), "x-user", user)
		answer, err := client.Check(ctx, &grpc_health_v1.HealthCheckRequest{})
		if err != nil {
			fmt.Println(status.Code(err), status.Convert(err).Message())
			continue
		}
		fmt.Println(answer.GetStatus())
	}
	conn.Close()
	server.Stop()
	<-served
	// Output:
	// SERVING
	// PermissionDenied Only Alice may do that.
}

func ExampleClient_Options() {
	// The callee prints who the caller says it is.
	callee := grpc.NewServer(grpc.UnaryInterceptor(func(ctx context.Context, req any, _ *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
		fmt.Println(metadata.ValueFromIncomingContext(ctx, gatemesh.IdentityHeader))
		return next(ctx, req)
	}))
	grpc_health_v1.RegisterHealthServer(callee, health.NewServer())
	listener := gatemesh.Must(net.Listen("tcp", "127.0.0.1:0"))
	served := make(chan error)
	go func() { served <- callee.Serve(listener) }()

	outbound := gatemesh.Must(gatemesh.NewOutbound(gatemesh.OutboundConfig{
		Mesh: gatemesh.MeshHosts(map[string]gatemesh.Destination{
			listener.Addr().String(): {Service: "payment-service", Namespace: "production"},
		}),
		Layers: []gatemesh.Layer{{
			Name: "identity",
			Gate: gatemesh.GateFunc(func(_ context.Context, c *gatemesh.Call) (gatemesh.Admission, error) {
				return gatemesh.Admission{Header: []gatemesh.Field{
					{Name: gatemesh.IdentityHeader, Value: "signed for " + c.Destination().String()},
				}}, nil
			}),
		}},
	}))
	mesh := gatemesh.Must(grpcmesh.NewClient(outbound))
	conn := gatemesh.Must(grpc.NewClient(listener.Addr().String(),
		append(mesh.Options(), grpc.WithTransportCredentials(insecure.NewCredentials()))...))

	ctx := metadata.AppendToOutgoingContext(context.Background(), gatemesh.IdentityHeader, "made up")
	_, err := grpc_health_v1.NewHealthClient(conn).Check(ctx, &grpc_health_v1.HealthCheckRequest{})
	fmt.Println(err)
	conn.Close()
	callee.Stop()
	<-served
	// Output:
	// [signed for payment-service.production]
	// <nil>
}
