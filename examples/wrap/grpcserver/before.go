package grpcserver

import (
	"context"
	"net"

	"google.golang.org/grpc"
)

// Before serves what there was, in plain text and to everybody.
func (s *service) Before(ctx context.Context, l net.Listener) error {
	opts := []grpc.ServerOption{
		grpc.ChainUnaryInterceptor(s.unary), grpc.ChainStreamInterceptor(s.stream), grpc.StatsHandler(counter{s}),
	}
	srv := grpc.NewServer(opts...)
	s.register(srv)
	stop := context.AfterFunc(ctx, srv.GracefulStop)
	defer stop()
	return srv.Serve(l)
}
