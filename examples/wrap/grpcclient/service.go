// Package grpcclient is the grpc.ClientConn of a service, with interceptors of
// its own, before and after.
package grpcclient

import (
	"context"
	"log/slog"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/resolver"
	"google.golang.org/grpc/status"
)

// service is what the connection belongs to.
type service struct {
	log   *slog.Logger
	names resolver.Builder // its own way to find others
}

// unary is the interceptor that the service has: a log line a call, and the
// tenant in the metadata.
func (s *service) unary(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
	err := invoke(metadata.AppendToOutgoingContext(ctx, "x-echo", "tenant-1"), method, req, reply, cc, opts...)
	s.log.InfoContext(ctx, "called", "method", method, "code", status.Code(err).String())
	return err
}

func (s *service) stream(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string, open grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
	s.log.InfoContext(ctx, "opened", "method", method)
	return open(metadata.AppendToOutgoingContext(ctx, "x-echo", "tenant-1"), desc, cc, method, opts...)
}
