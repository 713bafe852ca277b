package routing_test

import (
	"fmt"

	"google.golang.org/grpc"

	"github.com/gatemesh-go/gatemesh"
	"github.com/gatemesh-go/gatemesh/grpcmesh"
	"github.com/gatemesh-go/gatemesh/internal/grpctest"
	"github.com/gatemesh-go/gatemesh/routing"
)

// The route table as a gate of a gRPC server, which then knows the route of
// each call by name.
func ExampleRouter_gRPC() {
	self := gatemesh.Destination{Service: "payment-service", Namespace: "production"}
	router := gatemesh.Must(routing.New(routing.Config{
		Routes: []routing.Route{{
			Name:     "production/health/0",
			Matches:  []routing.Match{{Path: routing.PathMatch{Type: routing.PathPrefix, Value: "/grpc.health.v1.Health"}}},
			Backends: []routing.Backend{{Destination: self, Weight: 1}},
		}},
		Upstreams: []routing.Upstream{{Service: "payment-service", URL: "http://127.0.0.1:8080"}},
	}))
	defer router.Close()
	entry := gatemesh.Must(gatemesh.NewEntry(gatemesh.EntryConfig{}))
	chain := gatemesh.Must(gatemesh.NewChain(entry, router.Layer()))

	server := grpc.NewServer(gatemesh.Must(grpcmesh.NewServer(chain)).Options()...)
	service := grpctest.Serve(server, nil)
	defer service.Close()
	fmt.Println(service.Check())
	// Output:
	// OK
}
