package breaker_test

import (
	"context"
	"fmt"
	"net"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"

	"github.com/gatemesh-go/gatemesh"
	"github.com/gatemesh-go/gatemesh/breaker"
	"github.com/gatemesh-go/gatemesh/grpcmesh"
)

// The same layers around the calls of a gRPC client. Here nobody listens.
func ExampleGate_gRPC() {
	l := gatemesh.Must(net.Listen("tcp", "127.0.0.1:0"))
	_ = l.Close() // its address is nobody's now

	gate := gatemesh.Must(breaker.NewGate(breaker.GateConfig{Policy: breaker.Policy{Failures: 2}}))
	retry := gatemesh.Must(breaker.NewRetry(breaker.RetryConfig{
		MaxAttempts: 2,
		Idempotent:  func(c *gatemesh.Call) bool { return c.Path() == "/grpc.health.v1.Health/Check" },
	}))
	out := gatemesh.Must(gatemesh.NewOutbound(gatemesh.OutboundConfig{
		Mesh: func(context.Context, string) (gatemesh.Destination, bool) {
			return gatemesh.Destination{Service: "orders"}, true
		},
		Layers: []gatemesh.Layer{retry.Layer(), gate.Layer()},
	}))
	opts := gatemesh.Must(grpcmesh.NewClient(out)).Options()
	conn := gatemesh.Must(grpc.NewClient(l.Addr().String(), append(opts, grpc.WithTransportCredentials(insecure.NewCredentials()))...))
	defer func() { _ = conn.Close() }()
	client := healthpb.NewHealthClient(conn)
	for range 2 {
		_, err := client.Check(context.Background(), &healthpb.HealthCheckRequest{})
		fmt.Println(status.Code(err), gate.State(gatemesh.Destination{Service: "orders"}))
	}
	_, err := client.Check(context.Background(), &healthpb.HealthCheckRequest{})
	fmt.Println(status.Convert(err).Message())
	// Output:
	// Unavailable open
	// Unavailable open
	// The service is not available; try again later.
}
