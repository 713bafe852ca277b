package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/gatemesh-go/gatemesh"
	"github.com/gatemesh-go/gatemesh/examples/service/paymentspb"
)

// paymentService charges payments, over HTTP and over gRPC.
func paymentService(log *slog.Logger) service {
	return service{
		name: "payment-service",
		handler: func(self *replica) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				log.InfoContext(r.Context(), "payment", "method", r.Method)
				writeJSON(w, http.StatusCreated, look(self, r))
			})
		},
		register: func(self *replica, to *grpc.Server) {
			paymentspb.RegisterPaymentsServer(to, &payments{log: log, self: self})
		},
	}
}

// payments is the gRPC side.
type payments struct {
	paymentspb.UnimplementedPaymentsServer
	log  *slog.Logger
	self *replica
}

// Charge implements paymentspb.PaymentsServer.
func (s *payments) Charge(ctx context.Context, in *paymentspb.ChargeRequest) (*paymentspb.ChargeResponse, error) {
	s.log.InfoContext(ctx, "payment", "method", "Charge")
	out := &paymentspb.ChargeResponse{Payment: in.GetPayment(), Replica: s.self.ip.String()}
	if c := gatemesh.FromContext(ctx); c != nil { // there is none if act j has taken the layers away
		out.Caller, out.User, out.RequestId = c.Peer().ID(), c.Principal().Subject(), c.RequestID()
	}
	return out, nil
}

// Watch implements paymentspb.PaymentsServer.
func (s *payments) Watch(in *paymentspb.WatchRequest, to grpc.ServerStreamingServer[paymentspb.WatchResponse]) error {
	s.log.InfoContext(to.Context(), "payment", "method", "Watch")
	user := ""
	if c := gatemesh.FromContext(to.Context()); c != nil {
		user = c.Principal().Subject()
	}
	for _, state := range []string{"authorized", "captured", "settled"} {
		if err := to.Send(&paymentspb.WatchResponse{State: state, User: user}); err != nil {
			return err
		}
	}
	return nil
}

const (
	charging = "Payments/Charge"
	watching = "Payments/Watch"
)

// charge charges and watches a payment over gRPC on behalf of the call in ctx.
func (c *caller) charge(ctx context.Context) []outcome {
	conn, err := c.dial("payment-service")
	if err != nil {
		return []outcome{{Call: charging, Error: err.Error()}}
	}
	client := paymentspb.NewPaymentsClient(conn)
	unary := outcome{Call: charging}
	resp, err := client.Charge(ctx, &paymentspb.ChargeRequest{Payment: "1"})
	unary.Status, unary.Error = said(err)
	if err == nil {
		unary.Replica = resp.GetReplica()
		unary.Said = fmt.Sprintf("%s for %s, request %s", resp.GetCaller(), resp.GetUser(), resp.GetRequestId())
	}
	stream := outcome{Call: watching}
	states, err := watch(ctx, client)
	stream.Status, stream.Error = said(err)
	if err == nil {
		stream.Said = states
	}
	return []outcome{unary, stream}
}

func watch(ctx context.Context, client paymentspb.PaymentsClient) (string, error) {
	stream, err := client.Watch(ctx, &paymentspb.WatchRequest{Payment: "1"})
	if err != nil {
		return "", err
	}
	var said []string
	for {
		m, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return strings.Join(said, " "), nil
		}
		if err != nil {
			return "", err
		}
		said = append(said, m.GetState()+" for "+m.GetUser())
	}
}

func said(err error) (code int, text string) {
	st := status.Convert(err)
	if st.Code() == codes.OK {
		return 0, ""
	}
	return int(st.Code()), st.Code().String() + ": " + st.Message()
}
