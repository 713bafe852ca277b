package routing_test

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/gatemesh-go/gatemesh"
	"github.com/gatemesh-go/gatemesh/canary"
	"github.com/gatemesh-go/gatemesh/grpcmesh"
	"github.com/gatemesh-go/gatemesh/routing"
)

// A service that calls another one without a proxy keeps to what a
// VirtualService says: here the share of each version, how long a call may take,
// and a field that v2 wants.
func ExampleRouter_Outbound() {
	users := func(subset string, weight uint32, filters routing.Filters) routing.Backend {
		return routing.Backend{Destination: gatemesh.Destination{Service: "user-service", Namespace: "production", Subset: subset}, Weight: weight, Filters: filters}
	}
	router := gatemesh.Must(routing.New(routing.Config{Headless: true, Services: []routing.Service{{
		Service: "user-service", Namespace: "production",
		Rules: []routing.Route{{Name: "users", Timeout: 2 * time.Second, Backends: []routing.Backend{
			users("v1", 0, routing.Filters{}),
			users("v2", 100, routing.Filters{RequestHeader: routing.HeaderChange{Set: []gatemesh.Field{{Name: "X-Api-Version", Value: "2"}}}}),
		}}},
	}}}))
	defer router.Close()
	split := gatemesh.Must(canary.New(canary.Config{Services: router}))
	service := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		fmt.Println("version", r.Header.Get("X-Api-Version"))
	}))
	defer service.Close()

	out := gatemesh.Must(gatemesh.NewOutbound(gatemesh.OutboundConfig{
		Mesh:   gatemesh.MeshHosts(map[string]gatemesh.Destination{service.Listener.Addr().String(): {Service: "user-service", Namespace: "production"}}),
		Layers: []gatemesh.Layer{split.Layer(), router.Outbound(), router.Attempt()}, // a breaker.Retry stands before Attempt
	}))
	client := &http.Client{Transport: out.Transport(nil)} // a pool finds the addresses of a version
	resp, err := client.Get(service.URL)
	if err != nil {
		fmt.Println(err)
		return
	}
	_ = resp.Body.Close()
	client.CloseIdleConnections()
	fmt.Println(resp.StatusCode)
	// Output:
	// version 2
	// 200
}

// The same for a gRPC client: calls for a test fail on purpose, before they are sent.
func ExampleRouter_Outbound_gRPC() {
	users := []routing.Backend{{Destination: gatemesh.Destination{Service: "user-service"}, Weight: 1}}
	router := gatemesh.Must(routing.New(routing.Config{Headless: true, Services: []routing.Service{{
		Service: "user-service",
		Rules: []routing.Route{
			{Name: "failing", Matches: []routing.Match{{Headers: []routing.HeaderMatch{{Name: "x-test", Value: "outage"}}}}, Backends: users,
				Filters: routing.Filters{Fault: &routing.Fault{AbortCode: gatemesh.Unavailable, AbortPercent: 100}}},
			{Name: "users", Backends: users, AttemptTimeout: time.Second},
		},
	}}}))
	defer router.Close()
	out := gatemesh.Must(gatemesh.NewOutbound(gatemesh.OutboundConfig{
		Mesh:   gatemesh.MeshHosts(map[string]gatemesh.Destination{"user-service": {Service: "user-service"}}),
		Layers: []gatemesh.Layer{router.Outbound(), router.Attempt()},
	}))
	conn := gatemesh.Must(grpc.NewClient("passthrough:///user-service", append(gatemesh.Must(grpcmesh.NewClient(out)).Options(),
		grpc.WithTransportCredentials(insecure.NewCredentials()))...))
	defer conn.Close()
	ctx := metadata.AppendToOutgoingContext(context.Background(), "x-test", "outage")
	_, err := grpc_health_v1.NewHealthClient(conn).Check(ctx, &grpc_health_v1.HealthCheckRequest{})
	fmt.Println(status.Code(err))
	// Output:
	// Unavailable
}
