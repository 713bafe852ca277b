package grpcmesh_test

import (
	"context"
	"fmt"
	"net"

	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	"google.golang.org/grpc/health/grpc_health_v1"

	"github.com/gatemesh-go/gatemesh"
	"github.com/gatemesh-go/gatemesh/grpcmesh"
	"github.com/gatemesh-go/gatemesh/mtls"
	"github.com/gatemesh-go/gatemesh/mtls/devca"
	"github.com/gatemesh-go/gatemesh/routing/pool"
)

// Calls to the endpoints of a service, over mutual TLS. In a cluster the
// resolver would be pool.NewDNS and the sources mtls.NewFiles.
func ExampleDial() {
	ca := gatemesh.Must(devca.New("cluster.local"))
	join := func(name string) *mtls.TLS {
		w := gatemesh.Workload{Name: name, TrustDomain: "cluster.local", Namespace: "production", ServiceAccount: name}
		return gatemesh.Must(mtls.New(mtls.Config{
			Source:    gatemesh.Must(ca.Source(devca.WorkloadConfig{Workload: w})),
			Authorize: gatemesh.Must(mtls.MemberOf("cluster.local")),
		}))
	}
	payment, order := join("payment-service"), join("order-service")

	var addrs []string
	for range 3 {
		server := grpc.NewServer(grpc.Creds(grpcmesh.Credentials(payment, nil)))
		grpc_health_v1.RegisterHealthServer(server, health.NewServer())
		listener := gatemesh.Must(net.Listen("tcp", "127.0.0.1:0"))
		addrs = append(addrs, listener.Addr().String())
		served := make(chan error)
		go func() { served <- server.Serve(listener) }()
		defer func() { server.Stop(); <-served }()
	}

	endpoints := gatemesh.Must(pool.New(pool.Config{Name: "payment-service", Resolver: pool.Static(addrs...)}))
	defer endpoints.Close()
	conn := gatemesh.Must(grpcmesh.Dial(grpcmesh.DialConfig{
		Service: "payment-service:50051",
		Outbound: gatemesh.Must(gatemesh.NewOutbound(gatemesh.OutboundConfig{
			Mesh: gatemesh.MeshHosts(map[string]gatemesh.Destination{
				"payment-service": {Service: "payment-service", Namespace: "production"},
			}),
		})),
		Pool:   endpoints,
		TLS:    order,
		Callee: gatemesh.Must(mtls.Exactly("spiffe://cluster.local/ns/production/sa/payment-service")),
	}))
	defer conn.Close()

	answer, err := grpc_health_v1.NewHealthClient(conn).Check(context.Background(), &grpc_health_v1.HealthCheckRequest{})
	fmt.Println(answer.GetStatus(), err)
	// Output:
	// SERVING <nil>
}
