package breaker_test

import (
	"context"
	"fmt"
	"net"
	"strings"
	"sync/atomic"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/gatemesh-go/gatemesh"
	"github.com/gatemesh-go/gatemesh/breaker"
	"github.com/gatemesh-go/gatemesh/grpcmesh"
)

// ordersRPC is a gRPC service to show how it is called.
type ordersRPC struct {
	healthpb.UnimplementedHealthServer
	check func(ctx context.Context) error
}

func (s *ordersRPC) Check(ctx context.Context, _ *healthpb.HealthCheckRequest) (*healthpb.HealthCheckResponse, error) {
	return &healthpb.HealthCheckResponse{}, s.check(ctx)
}

// serveOrders serves s on loopback, and returns a client whose calls go through
// layers, and what ends both.
func serveOrders(s *ordersRPC, layers ...gatemesh.Layer) (client healthpb.HealthClient, end func()) {
	server := grpc.NewServer()
	healthpb.RegisterHealthServer(server, s)
	l := gatemesh.Must(net.Listen("tcp", "127.0.0.1:0"))
	done := make(chan error)
	go func() { done <- server.Serve(l) }()
	client, hangUp := connectOrders(l.Addr().String(), layers...)
	return client, func() { hangUp(); server.Stop(); <-done }
}

func connectOrders(addr string, layers ...gatemesh.Layer) (client healthpb.HealthClient, hangUp func()) {
	out := gatemesh.Must(gatemesh.NewOutbound(gatemesh.OutboundConfig{
		Mesh: func(context.Context, string) (gatemesh.Destination, bool) {
			return gatemesh.Destination{Service: "orders"}, true
		},
		Layers: layers,
	}))
	opts := gatemesh.Must(grpcmesh.NewClient(out)).Options()
	conn := gatemesh.Must(grpc.NewClient(addr, append(opts, grpc.WithTransportCredentials(insecure.NewCredentials()))...))
	return healthpb.NewHealthClient(conn), func() { _ = conn.Close() }
}

// The same layers around the calls of a gRPC client. Here nobody listens.
func ExampleGate_gRPC() {
	l := gatemesh.Must(net.Listen("tcp", "127.0.0.1:0"))
	_ = l.Close() // its address is nobody's now

	gate := gatemesh.Must(breaker.NewGate(breaker.GateConfig{Policy: breaker.Policy{Failures: 2}}))
	retry := gatemesh.Must(breaker.NewRetry(breaker.RetryConfig{
		MaxAttempts: 2,
		Idempotent:  func(c *gatemesh.Call) bool { return c.Path() == "/grpc.health.v1.Health/Check" },
	}))
	client, end := connectOrders(l.Addr().String(), retry.Layer(), gate.Layer())
	defer end()
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

// The same for gRPC: of methods that say that they may be called twice, the
// callee hears which attempt it is, and how many can follow.
func ExampleRetry_gRPC() {
	retry := gatemesh.Must(breaker.NewRetry(breaker.RetryConfig{
		Idempotent: func(c *gatemesh.Call) bool { return c.Path() == "/grpc.health.v1.Health/Check" },
	}))
	client, end := serveOrders(&ordersRPC{check: func(ctx context.Context) error {
		md, _ := metadata.FromIncomingContext(ctx) // an Entry reads it into Call.Hop
		hop, err := gatemesh.ParseHop(strings.Join(md[strings.ToLower(gatemesh.HopHeader)], ""))
		if err != nil {
			return err
		}
		fmt.Println("attempt", max(1, hop.Attempt), "and", hop.Left, "are left")
		if hop.Left > 0 {
			return status.Error(codes.Unavailable, "busy")
		}
		return nil
	}}, retry.Layer())
	defer end()
	_, err := client.Check(context.Background(), &healthpb.HealthCheckRequest{})
	fmt.Println(status.Code(err))
	// Output:
	// attempt 1 and 2 are left
	// attempt 2 and 1 are left
	// attempt 3 and 0 are left
	// OK
}

// A replica that takes long is not waited for.
func ExampleHedgeConfig_gRPC() {
	retry := gatemesh.Must(breaker.NewRetry(breaker.RetryConfig{
		Idempotent: func(c *gatemesh.Call) bool { return c.Path() == "/grpc.health.v1.Health/Check" },
		Hedge:      breaker.HedgeConfig{After: 1}, // at once, here; such as 20 ms, or a Quantile
	}))
	client, end := serveOrders(&ordersRPC{check: func(ctx context.Context) error {
		md, _ := metadata.FromIncomingContext(ctx)
		if hop, _ := gatemesh.ParseHop(strings.Join(md[strings.ToLower(gatemesh.HopHeader)], "")); hop.Attempt < 2 {
			<-ctx.Done() // until the other attempt has an answer
		}
		return ctx.Err()
	}}, retry.Layer())
	defer end()
	_, err := client.Check(context.Background(), &healthpb.HealthCheckRequest{})
	fmt.Println(status.Code(err), retry.Stats()[gatemesh.Destination{Service: "orders"}].Hedged)
	// Output: OK 1
}

// Less is sent to a callee that refuses.
func ExampleThrottle_gRPC() {
	throttle := gatemesh.Must(breaker.NewThrottle(breaker.ThrottleConfig{}))
	var asked atomic.Int64
	client, end := serveOrders(&ordersRPC{check: func(context.Context) error {
		asked.Add(1)
		return status.Error(codes.Unavailable, "busy")
	}}, throttle.Layer())
	defer end()
	for range 200 {
		_, _ = client.Check(context.Background(), &healthpb.HealthCheckRequest{})
	}
	stats := throttle.Stats()[gatemesh.Destination{Service: "orders"}]
	fmt.Println(stats.Calls, asked.Load() < 150, uint64(asked.Load()) == 200-stats.Refused)
	// Output: 200 true true
}
