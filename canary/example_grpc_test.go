package canary_test

import (
	"context"
	"fmt"
	"net"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"

	"github.com/gatemesh-go/gatemesh"
	"github.com/gatemesh-go/gatemesh/canary"
	"github.com/gatemesh-go/gatemesh/grpcmesh"
	"github.com/gatemesh-go/gatemesh/internal/grpctest"
	"github.com/gatemesh-go/gatemesh/routing"
)

// One of two versions in front of a gRPC server, chosen by metadata.
func ExampleSplitter_gRPC() {
	version := func(subset string) []routing.Backend {
		return []routing.Backend{{Destination: gatemesh.Destination{Service: "user-service", Subset: subset}, Weight: 1}}
	}
	router := gatemesh.Must(routing.New(routing.Config{
		Routes: []routing.Route{
			{Name: "asked", Matches: []routing.Match{{Headers: []routing.HeaderMatch{{Name: "x-canary", Value: "true"}}}}, Backends: version("v2")},
			{Name: "rest", Backends: version("v1")},
		},
		Upstreams: []routing.Upstream{
			{Service: "user-service", Subset: "v1", URL: "http://10.0.0.1:8080"},
			{Service: "user-service", Subset: "v2", URL: "http://10.0.0.2:8080"},
		},
	}))
	defer router.Close()
	split := gatemesh.Must(canary.New(canary.Config{}))
	entry := gatemesh.Must(gatemesh.NewEntry(gatemesh.EntryConfig{}))
	chain := gatemesh.Must(gatemesh.NewChain(entry, router.Layer(), split.Layer()))

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
	// user-service/v1
	// user-service/v2
}

// The calls of a gRPC client, dealt and counted as those of HTTP are.
func ExampleRollout_gRPC() {
	server := grpc.NewServer()
	grpc_health_v1.RegisterHealthServer(server, health.NewServer())
	listener := gatemesh.Must(net.Listen("tcp", "127.0.0.1:0"))
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()

	rollout := gatemesh.Must(canary.NewRollout(canary.RolloutConfig{
		Service: "user-service", Stable: "v1", Canary: "v2",
		Steps: []canary.Step{{Percent: 5, Pause: true}}, Store: canary.NewMemoryStore(),
	}))
	defer rollout.Close()
	split := gatemesh.Must(canary.New(canary.Config{Rollouts: []*canary.Rollout{rollout}}))
	out := gatemesh.Must(gatemesh.NewOutbound(gatemesh.OutboundConfig{
		Mesh:   gatemesh.MeshHosts(map[string]gatemesh.Destination{listener.Addr().String(): {Service: "user-service"}}),
		Layers: []gatemesh.Layer{split.Layer(), rollout.Layer()},
	}))
	mesh := gatemesh.Must(grpcmesh.NewClient(out))
	conn := gatemesh.Must(grpc.NewClient(listener.Addr().String(),
		append(mesh.Options(), grpc.WithTransportCredentials(insecure.NewCredentials()))...))
	client := grpc_health_v1.NewHealthClient(conn)
	if err := rollout.Promote(context.Background()); err != nil { // so that the output does not hang on chance
		fmt.Println(err)
	}
	var where []string
	for range 3 {
		_, err := client.Check(context.Background(), &grpc_health_v1.HealthCheckRequest{})
		where = append(where, status.Code(err).String())
	}
	s := rollout.Status()
	fmt.Println(where, s.State.Phase, s.Versions[1].Subset, s.Versions[1].Share)
	_ = conn.Close()
	server.Stop()
	<-served
	// Output:
	// [OK OK OK] promoted v2 1
}
