package mtls_test

import (
	"fmt"

	"google.golang.org/grpc"

	"github.com/gatemesh-go/gatemesh"
	"github.com/gatemesh-go/gatemesh/grpcmesh"
	"github.com/gatemesh-go/gatemesh/internal/grpctest"
	"github.com/gatemesh-go/gatemesh/mtls"
	"github.com/gatemesh-go/gatemesh/mtls/devca"
)

// Mutual TLS and the peer gate around a gRPC server and its client.
func ExampleTLS_gRPC() {
	ca := gatemesh.Must(devca.New("cluster.local"))
	join := func(name string) *mtls.TLS {
		w := gatemesh.Workload{Name: name, TrustDomain: "cluster.local", Namespace: "production", ServiceAccount: name}
		return gatemesh.Must(mtls.New(mtls.Config{
			Source:    gatemesh.Must(ca.Source(devca.WorkloadConfig{Workload: w})),
			Authorize: gatemesh.Must(mtls.MemberOf("cluster.local")),
		}))
	}
	payment, order := join("payment-service"), join("order-service")
	entry := gatemesh.Must(gatemesh.NewEntry(gatemesh.EntryConfig{Peer: payment.Peer}))
	chain := gatemesh.Must(gatemesh.NewChain(entry, payment.Layer()))

	server := grpc.NewServer(append(gatemesh.Must(grpcmesh.NewServer(chain)).Options(),
		grpc.Creds(grpcmesh.Credentials(payment, nil)))...)
	callee := gatemesh.Must(mtls.Exactly("spiffe://cluster.local/ns/production/sa/payment-service"))
	service := grpctest.Serve(server, gatemesh.Must(order.ClientConfig(callee)))
	defer service.Close()
	fmt.Println(service.Check())
	// Output:
	// OK
}
