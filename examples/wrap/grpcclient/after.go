package grpcclient

import (
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	// gatemesh: begin
	"google.golang.org/grpc/credentials"

	"github.com/gatemesh-go/gatemesh"
	"github.com/gatemesh-go/gatemesh/auth/identity"
	"github.com/gatemesh-go/gatemesh/breaker"
	"github.com/gatemesh-go/gatemesh/grpcmesh"
	"github.com/gatemesh-go/gatemesh/mtls"
	// gatemesh: end
)

// After is the same connection over mutual TLS pinned to the callee, with the
// request id and the user of the request that a call is made for. Target,
// resolver and balancer stay what they were: Mesh is asked about the endpoint
// of the target.
func (s *service) After(target string,
	// gatemesh: begin
	peers *mtls.TLS,
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
	callee := gatemesh.Must(mtls.Exactly("spiffe://cluster.local/ns/production/sa/payment-service"))
	opts = append(opts, grpc.WithTransportCredentials(credentials.NewTLS(gatemesh.Must(peers.ClientConfig(callee)))))
	opts = append(opts, gatemesh.Must(grpcmesh.NewClient(out)).Options()...)
	// gatemesh: end
	return grpc.NewClient(target, opts...)
}
