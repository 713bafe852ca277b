package main

import (
	"context"
	"crypto/tls"
	"net/http"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"

	"github.com/gatemesh-go/gatemesh/examples/service/paymentspb"
)

// actGRPC charges payments over gRPC: as order-service for a user, as a
// workload that may not, without a user, and as a stranger to the mesh.
func actGRPC(ctx context.Context, p *platform, r *report) error {
	users, err := p.users("grpc", 1)
	if err != nil {
		return err
	}
	resp, s, err := p.do(ctx, http.MethodPost, "/v1/orders/1/charges", users[0])
	if err != nil {
		return err
	}
	id := resp.Header.Get("X-Request-Id")
	row := func(what string, calls []outcome, i int, code codes.Code, said string) {
		got := outcome{Status: -1}
		if i < len(calls) {
			got = calls[i]
		}
		expected := code.String()
		seen := codes.Code(got.Status).String()
		if said != "" {
			expected, seen = expected+" "+said, seen+" "+got.Said
		}
		if i < len(calls) && code != codes.OK {
			what = calls[i].Call + " " + what
		}
		r.same("j", what, expected, seen)
	}
	row("order-service: Charge", s.Calls, 0, codes.OK, orderID+" for grpc-0, request "+id)
	row("order-service: Watch", s.Calls, 1, codes.OK, "authorized for grpc-0 captured for grpc-0 settled for grpc-0")

	resp, s, err = p.do(ctx, http.MethodPost, "/v1/orders/1/shipments", users[0])
	if err != nil {
		return err
	}
	row("of inventory-service", s.Calls, 3, codes.PermissionDenied, "")
	row("of inventory-service", s.Calls, 4, codes.PermissionDenied, "")
	cause := p.logs.find("payment-service", "denied", resp.Header.Get("X-Request-Id"), "cause")
	r.holds("j", "log of payment-service", "names the workload", cause, cause != "")

	order := p.running("order-service", "")[0]
	nobody := order.calls.charge(ctx) // not for any call that came in
	row("for nobody", nobody, 0, codes.Unauthenticated, "")
	row("for nobody", nobody, 1, codes.Unauthenticated, "")

	cert, err := stranger()
	if err != nil {
		return err
	}
	n, err := knockGRPC(ctx, p.running("payment-service", "")[0].grpc, cert)
	if err != nil {
		return err
	}
	r.same("j", "order-service's id from another CA", "no call", n)
	return nil
}

// knockGRPC calls payment-service with a certificate, and says what came of it.
func knockGRPC(ctx context.Context, addr string, cert tls.Certificate) (string, error) {
	conn, err := grpc.NewClient(addr, grpc.WithTransportCredentials(credentials.NewTLS(&tls.Config{
		InsecureSkipVerify: true, //nolint:gosec // a stranger does not care whom it talks to
		Certificates:       []tls.Certificate{cert}, MinVersion: tls.VersionTLS12,
	})))
	if err != nil {
		return "", err
	}
	defer conn.Close()
	_, err = paymentspb.NewPaymentsClient(conn).Charge(ctx, &paymentspb.ChargeRequest{Payment: "1"})
	if status.Code(err) == codes.Unavailable {
		return "no call", nil
	}
	return status.Code(err).String(), nil
}
