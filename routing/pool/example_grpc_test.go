package pool_test

import (
	"context"
	"fmt"
	"net"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"

	"github.com/gatemesh-go/gatemesh"
	"github.com/gatemesh-go/gatemesh/grpcmesh"
	"github.com/gatemesh-go/gatemesh/routing/pool"
)

// serveReplicas serves n replicas of a gRPC service on loopback.
func serveReplicas(n int) (addrs []string, end func()) {
	var ends []func()
	for range n {
		server := grpc.NewServer()
		healthpb.RegisterHealthServer(server, health.NewServer())
		l := gatemesh.Must(net.Listen("tcp", "127.0.0.1:0"))
		done := make(chan error)
		go func() { done <- server.Serve(l) }()
		addrs, ends = append(addrs, l.Addr().String()), append(ends, func() { server.Stop(); <-done })
	}
	return addrs, func() {
		for _, end := range ends {
			end()
		}
	}
}

// dialOrders connects a gRPC client to the endpoints of a pool, in plain text;
// in a mesh, DialConfig.TLS and Callee say who we are and who they have to be.
func dialOrders(endpoints *pool.Pool) *grpc.ClientConn {
	return gatemesh.Must(grpcmesh.Dial(grpcmesh.DialConfig{
		Service:           "orders.shop:8080",
		Pool:              endpoints,
		InsecurePlainText: true,
		Outbound: gatemesh.Must(gatemesh.NewOutbound(gatemesh.OutboundConfig{
			Mesh: gatemesh.MeshHosts(map[string]gatemesh.Destination{"orders.shop": {Service: "orders", Namespace: "shop"}}),
		})),
	}))
}

// The calls of a user go to the same endpoint of a gRPC service, as long as it is
// in.
func ExampleHashKey_gRPC() {
	addrs, end := serveReplicas(3)
	defer end()
	orders := gatemesh.Must(pool.New(pool.Config{
		Name: "orders.shop", Resolver: pool.Static(addrs...),
		Balancer: pool.RingHash, HashKey: pool.HashKey{Header: "X-User"},
	}))
	defer orders.Close()
	conn := dialOrders(orders)
	defer conn.Close()
	client := healthpb.NewHealthClient(conn)
	ask := func(user string) string {
		var at peer.Peer
		ctx := metadata.AppendToOutgoingContext(context.Background(), "x-user", user)
		if _, err := client.Check(ctx, &healthpb.HealthCheckRequest{}, grpc.Peer(&at)); err != nil {
			return err.Error()
		}
		return at.Addr.String()
	}
	// Until all are connected, calls go to the next on the ring that is.
	for i, met := 0, map[string]bool{}; len(met) < len(addrs) && i < 10_000; i++ {
		met[ask(fmt.Sprint("somebody", i))] = true
	}

	seen := map[string]map[string]bool{}
	for range 20 {
		for _, user := range []string{"alice", "bob", "carol", "dave", "erin", "frank", "grace", "heidi"} {
			if seen[user] == nil {
				seen[user] = map[string]bool{}
			}
			seen[user][ask(user)] = true
		}
	}
	for user, endpoints := range seen {
		if len(endpoints) > 1 {
			fmt.Println(user, "went to", len(endpoints))
		}
	}
	fmt.Println(len(seen), "users")
	// Output: 8 users
}

// Calls of a gRPC client stay in the zone of the caller, as long as its endpoints
// are enough.
func ExampleConfig_zoneGRPC() {
	addrs, end := serveReplicas(4)
	defer end()
	var targets []pool.Target
	for i, addr := range addrs {
		targets = append(targets, pool.Target{Address: addr, Zone: string("ab"[i/2])})
	}
	orders := gatemesh.Must(pool.New(pool.Config{Name: "orders.shop", Resolver: pool.StaticTargets(targets...), Zone: "a"}))
	defer orders.Close()
	conn := dialOrders(orders)
	defer conn.Close()
	client := healthpb.NewHealthClient(conn)

	zone := func() string {
		var at peer.Peer
		if _, err := client.Check(context.Background(), &healthpb.HealthCheckRequest{}, grpc.Peer(&at)); err != nil {
			fmt.Println(err)
		}
		for _, t := range targets {
			if strings.EqualFold(t.Address, at.Addr.String()) {
				return t.Zone
			}
		}
		return ""
	}
	for range 1000 { // whichever connection is made first may have the first call
		if zone() == "a" {
			break
		}
	}
	zones := map[string]int{}
	for range 100 {
		zones[zone()]++
	}
	fmt.Println(zones)
	// Output: map[a:100]
}
