package grpcmesh

import (
	"context"
	"errors"
	"slices"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/gatemesh-go/gatemesh"
	"github.com/gatemesh-go/gatemesh/mtls"
	"github.com/gatemesh-go/gatemesh/routing/pool"
)

// DialConfig configures [Dial]. The zero DialConfig is invalid: Service,
// Outbound and Pool are required, and either TLS with Callee or
// InsecurePlainText.
type DialConfig struct {
	// Service is the host and port that OutboundConfig.Mesh is asked about and
	// that calls carry as :authority, such as "payment-service:50051". Nobody
	// resolves it. Required.
	Service string
	// Outbound judges every call of the connection. Required.
	Outbound *gatemesh.Outbound
	// Pool says at which addresses Service is, and chooses one for each call.
	// It may serve HTTP calls, too, which then share its measurements. The
	// caller closes it, after the connection. Required.
	Pool *pool.Pool
	// TLS is our side of mutual TLS. When its credentials change, new calls use
	// new connections, which present the new certificate; calls under way end
	// undisturbed on the old ones. After a change of our certificate alone, an
	// old connection takes calls until the new one is ready, unless the old
	// certificate has expired; after a change of the trust, calls wait for it.
	TLS *mtls.TLS
	// Callee says who may answer. Required with TLS, and an error without.
	Callee mtls.Authorizer
	// InsecurePlainText sends calls and identities in plain text to whoever
	// answers. It is an error together with TLS.
	InsecurePlainText bool
	// Options are further options of the application. Its interceptors stand
	// outside of Outbound. Transport credentials, authority, service config and
	// proxy are not for them: those here take precedence. What per-RPC
	// credentials send, no Outbound sees. Default: none.
	Options []grpc.DialOption
}

// Dial returns a connection to a service of the mesh: calls go to the endpoints
// of a pool, over mutual TLS pinned to the callee, behind an Outbound. It
// reports every fault at once and connects when the first call is made. The
// caller closes it.
//
// A call waits while there is an endpoint that a connection is being made to,
// and until its deadline, which a deadline layer of Outbound can set for all.
// When the pool has no endpoint or none can be reached, it fails at once with
// Unavailable, or waits, too, if it was made with [grpc.WaitForReady]. An
// endpoint that cannot be reached is ejected from the pool as for HTTP calls.
func Dial(cfg DialConfig) (*grpc.ClientConn, error) {
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	creds := insecure.NewCredentials()
	if cfg.TLS != nil {
		config, err := cfg.TLS.ClientConfig(cfg.Callee)
		if err != nil {
			return nil, err
		}
		creds = credentials.NewTLS(config)
	}
	client, err := NewClient(cfg.Outbound)
	if err != nil {
		return nil, err
	}
	b := &endpoints{pool: cfg.Pool, tls: cfg.TLS}
	return grpc.NewClient(scheme+":///"+cfg.Service, slices.Concat(
		[]grpc.DialOption{grpc.WithResolvers(b)}, // the first of a scheme is taken
		cfg.Options,
		[]grpc.DialOption{
			grpc.WithTransportCredentials(creds), grpc.WithAuthority(cfg.Service), grpc.WithNoProxy(),
			grpc.WithDisableServiceConfig(),
			grpc.WithDefaultServiceConfig(`{"loadBalancingConfig":[{"` + balancerName + `":{}}]}`),
		},
		client.Options(),
		[]grpc.DialOption{grpc.WithChainUnaryInterceptor(b.unary), grpc.WithChainStreamInterceptor(b.stream)},
	)...)
}

func (cfg *DialConfig) validate() error {
	var errs []error
	fault := func(text string) { errs = append(errs, errors.New("grpcmesh: DialConfig."+text)) }
	if host, _, err := gatemesh.CanonicalHost(cfg.Service); err != nil || host == "" {
		fault("Service is required, as a host with or without a port")
	}
	if cfg.Outbound == nil {
		fault("Outbound is required")
	}
	if cfg.Pool == nil {
		fault("Pool is required")
	}
	switch {
	case cfg.TLS == nil && !cfg.InsecurePlainText:
		fault("TLS is required, or InsecurePlainText")
	case cfg.TLS != nil && cfg.InsecurePlainText:
		fault("InsecurePlainText contradicts TLS")
	}
	switch {
	case cfg.TLS != nil && cfg.Callee == nil:
		fault("Callee is required with TLS")
	case cfg.TLS == nil && cfg.Callee != nil:
		fault("Callee needs TLS")
	}
	return errors.Join(errs...)
}

type streamKey struct{} // marks the contexts of streams

// unary and stream look before every attempt whether the credentials are still
// those that the connections were made with, which costs an atomic load or two.
func (e *endpoints) unary(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
	e.renew()
	return invoke(ctx, method, req, reply, cc, opts...)
}

func (e *endpoints) stream(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string, streamer grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
	e.renew()
	return streamer(context.WithValue(ctx, streamKey{}, true), desc, cc, method, opts...)
}
