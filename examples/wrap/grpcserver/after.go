package grpcserver

import (
	"context"
	"net"

	"google.golang.org/grpc"

	// gatemesh: begin
	"os"

	"github.com/gatemesh-go/gatemesh"
	"github.com/gatemesh-go/gatemesh/auth/identity"
	"github.com/gatemesh-go/gatemesh/auth/policy"
	"github.com/gatemesh-go/gatemesh/grpcmesh"
	"github.com/gatemesh-go/gatemesh/manifest"
	"github.com/gatemesh-go/gatemesh/mtls"
	// gatemesh: end
)

// After serves the same to workloads that a policy allows, on behalf of users
// whom the edge has signed for. Of the interceptors, ours stand first: those of
// the service find the Call in their context.
func (s *service) After(ctx context.Context, l net.Listener) error {
	opts := []grpc.ServerOption{
		grpc.ChainUnaryInterceptor(s.unary), grpc.ChainStreamInterceptor(s.stream), grpc.StatsHandler(counter{s}),
	}
	// gatemesh: begin
	files := gatemesh.Must(mtls.NewFiles(mtls.FilesConfig{Cert: "tls.crt", Key: "tls.key", Bundle: "ca.crt"}))
	defer func() { _ = files.Close() }()
	peers := gatemesh.Must(mtls.New(mtls.Config{Source: files, Authorize: gatemesh.Must(mtls.MemberOf("cluster.local"))}))
	users := gatemesh.Must(identity.NewVerifier(identity.VerifierConfig{Issuer: "https://edge.cluster.local", Audience: []string{"cluster.local"},
		Keys: gatemesh.Must(identity.ParseJWKS(gatemesh.Must(os.ReadFile("identity.jwks"))))}))
	rules := gatemesh.Must(policy.New(policy.Config{Workload: gatemesh.Must(gatemesh.WorkloadFromEnv()),
		Policies: gatemesh.Must(manifest.LoadDir("policies")).Policies(), Unselected: policy.Deny}))
	entry := gatemesh.Must(gatemesh.NewEntry(gatemesh.EntryConfig{Peer: peers.Peer, TrustRequestID: gatemesh.AnyPeer}))
	chain := gatemesh.Must(gatemesh.NewChain(entry, peers.Layer(), users.Layer(), rules.Layer()))
	opts = append(gatemesh.Must(grpcmesh.NewServer(chain)).Options(), opts...)
	opts = append(opts, grpc.Creds(grpcmesh.Credentials(peers, nil)))
	// gatemesh: end
	srv := grpc.NewServer(opts...)
	s.register(srv)
	stop := context.AfterFunc(ctx, srv.GracefulStop)
	defer stop()
	return srv.Serve(l)
}
