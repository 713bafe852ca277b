package grpcclient

import (
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	// gatemesh: begin
	"github.com/gatemesh-go/gatemesh"
	"github.com/gatemesh-go/gatemesh/auth/identity"
	"github.com/gatemesh-go/gatemesh/breaker"
	"github.com/gatemesh-go/gatemesh/grpcmesh"
	"github.com/gatemesh-go/gatemesh/mtls"
	"github.com/gatemesh-go/gatemesh/routing/pool"
	// gatemesh: end
)

// AfterDial lets go of target, resolver and balancer, too: calls go to the
// endpoints of a pool, which looks them up every two seconds and leaves alone
// what fails, and connections follow the certificates.
func (s *service) AfterDial(target string,
	// gatemesh: begin
	peers *mtls.TLS, payments *pool.Pool,
	// gatemesh: end
) (*grpc.ClientConn, error) {
	opts := []grpc.DialOption{
		grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithResolvers(s.names),
		grpc.WithChainUnaryInterceptor(s.unary), grpc.WithChainStreamInterceptor(s.stream),
	}
	// gatemesh: begin
	out := gatemesh.Must(gatemesh.NewOutbound(gatemesh.OutboundConfig{
		Mesh: gatemesh.MeshHosts(map[string]gatemesh.Destination{"payment-service": {Service: "payment-service", Namespace: "production"}}),
		Layers: []gatemesh.Layer{gatemesh.Must(breaker.NewRetry(breaker.RetryConfig{})).Layer(),
			gatemesh.Must(breaker.NewGate(breaker.GateConfig{})).Layer(), identity.Forward()},
	}))
	return grpcmesh.Dial(grpcmesh.DialConfig{
		Service: "payment-service", Outbound: out, Pool: payments, Options: opts,
		TLS: peers, Callee: gatemesh.Must(mtls.Exactly("spiffe://cluster.local/ns/production/sa/payment-service")),
	})
	// gatemesh: end
	// gatemesh: instead of
	// return grpc.NewClient(target, opts...)
}
