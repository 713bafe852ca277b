package main

import (
	"context"
	"log/slog"

	"google.golang.org/grpc"

	"github.com/gatemesh-go/gatemesh"
	"github.com/gatemesh-go/gatemesh/examples/service/paymentspb"
	"github.com/gatemesh-go/gatemesh/grpcmesh"
	"github.com/gatemesh-go/gatemesh/mtls"
)

// newGRPC returns the gRPC side of the service: the same layers, a port of its
// own. On one port, net/http would speak for grpc-go, without its keepalive,
// its flow control and its limits.
func newGRPC(chain *gatemesh.Chain, peers *mtls.TLS, log *slog.Logger) (*grpc.Server, error) {
	layers, err := grpcmesh.NewServer(chain)
	if err != nil {
		return nil, err
	}
	server := grpc.NewServer(append(layers.Options(), grpc.Creds(grpcmesh.Credentials(peers, nil)))...)
	paymentspb.RegisterPaymentsServer(server, &payments{log: log})
	return server, nil
}

// payments is your application over gRPC, beside app over HTTP.
type payments struct {
	paymentspb.UnimplementedPaymentsServer
	log *slog.Logger
}

// Charge implements paymentspb.PaymentsServer.
func (s *payments) Charge(ctx context.Context, in *paymentspb.ChargeRequest) (*paymentspb.ChargeResponse, error) {
	call := gatemesh.FromContext(ctx)
	s.log.InfoContext(ctx, "payment", "id", in.GetPayment())
	return &paymentspb.ChargeResponse{
		Payment: in.GetPayment(), User: call.Principal().Subject(), Caller: caller(call), RequestId: call.RequestID(),
	}, nil
}

// Watch implements paymentspb.PaymentsServer. The layers judge an open stream
// again when a consent ends, such as that of a certificate.
func (s *payments) Watch(_ *paymentspb.WatchRequest, to grpc.ServerStreamingServer[paymentspb.WatchResponse]) error {
	user := gatemesh.FromContext(to.Context()).Principal().Subject()
	for _, state := range []string{"authorized", "captured", "settled"} {
		if err := to.Send(&paymentspb.WatchResponse{State: state, User: user}); err != nil {
			return err
		}
	}
	return nil
}
