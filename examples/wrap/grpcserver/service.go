// Package grpcserver is a grpc.Server with interceptors, a stats handler,
// health and reflection of its own, before and after.
package grpcserver

import (
	"context"
	"log/slog"
	"sync/atomic"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/health"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/reflection"
	"google.golang.org/grpc/stats"
	"google.golang.org/grpc/status"

	"github.com/gatemesh-go/gatemesh/examples/wrap/internal/harness"
)

// service is the service as it was written.
type service struct {
	log    *slog.Logger
	begun  atomic.Int64 // calls, as the stats handler counts them
	health *health.Server
}

func newService(log *slog.Logger) *service { return &service{log: log, health: health.NewServer()} }

// register puts everything the service offers on s.
func (s *service) register(srv *grpc.Server) {
	(&harness.API{}).Register(srv)
	grpc_health_v1.RegisterHealthServer(srv, s.health)
	reflection.Register(srv)
}

// unary is the interceptor that the service has: a log line a call, and no
// panic takes the process down.
func (s *service) unary(ctx context.Context, req any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (resp any, err error) {
	defer func() {
		if recover() != nil {
			err = status.Error(codes.Internal, "panic")
		}
		s.log.InfoContext(ctx, "call", "method", info.FullMethod, "code", status.Code(err).String())
	}()
	return next(ctx, req)
}

func (s *service) stream(srv any, ss grpc.ServerStream, info *grpc.StreamServerInfo, next grpc.StreamHandler) (err error) {
	defer func() {
		if recover() != nil {
			err = status.Error(codes.Internal, "panic")
		}
		s.log.InfoContext(ss.Context(), "stream", "method", info.FullMethod, "code", status.Code(err).String())
	}()
	return next(srv, ss)
}

// counter is the stats handler that the service has.
type counter struct{ *service }

func (c counter) TagRPC(ctx context.Context, _ *stats.RPCTagInfo) context.Context   { return ctx }
func (c counter) TagConn(ctx context.Context, _ *stats.ConnTagInfo) context.Context { return ctx }
func (c counter) HandleConn(context.Context, stats.ConnStats)                       {}
func (c counter) HandleRPC(_ context.Context, s stats.RPCStats) {
	if _, ok := s.(*stats.Begin); ok {
		c.begun.Add(1)
	}
}
