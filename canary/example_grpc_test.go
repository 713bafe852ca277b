package canary_test

import (
	"context"
	"fmt"

	"google.golang.org/grpc"

	"github.com/gatemesh-go/gatemesh"
	"github.com/gatemesh-go/gatemesh/canary"
	"github.com/gatemesh-go/gatemesh/grpcmesh"
	"github.com/gatemesh-go/gatemesh/internal/grpctest"
)

// A split in front of a gRPC server, chosen by metadata.
func ExampleSplitter_gRPC() {
	users := gatemesh.Destination{Service: "user-service", Namespace: "production"}
	route := &gatemesh.Route{Name: "users", Backends: []gatemesh.WeightedDestination{{Destination: users, Weight: 1}}}
	routed := gatemesh.Layer{Name: "route", Gives: []gatemesh.Fact{gatemesh.FactRoute},
		Gate: gatemesh.GateFunc(func(context.Context, *gatemesh.Call) (gatemesh.Admission, error) {
			return gatemesh.Admission{Route: route, Destination: &users}, nil
		})}
	split := gatemesh.Must(canary.New(canary.Config{Splits: []canary.Split{{
		Service: "user-service", Namespace: "production",
		Rules: []canary.Rule{
			{
				Matches: []canary.Match{{Headers: []canary.HeaderMatch{{Name: "x-canary", Kind: canary.HeaderExact, Value: "true"}}}},
				Targets: []canary.Target{{Subset: "v2"}},
			},
			{Targets: []canary.Target{{Subset: "v1"}}},
		},
	}}}))
	entry := gatemesh.Must(gatemesh.NewEntry(gatemesh.EntryConfig{}))
	chain := gatemesh.Must(gatemesh.NewChain(entry, routed, split.Layer()))

	show := func(ctx context.Context, req any, _ *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
		fmt.Println(gatemesh.FromContext(ctx).Destination())
		return next(ctx, req)
	}
	server := grpc.NewServer(append(gatemesh.Must(grpcmesh.NewServer(chain)).Options(), grpc.ChainUnaryInterceptor(show))...)
	service := grpctest.Serve(server, nil)
	defer service.Close()
	service.Check()
	service.Check("x-canary", "true")
	// Output:
	// user-service.production/v1
	// user-service.production/v2
}
