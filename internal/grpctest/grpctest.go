// Package grpctest serves the gRPC health service for the examples and tests
// of other packages, which show what stands in front of it.
package grpctest

import (
	"context"
	"crypto/tls"
	"net"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// Service is a running health service and a client of it.
type Service struct {
	server *grpc.Server
	conn   *grpc.ClientConn
	client healthpb.HealthClient
	done   chan struct{}
}

// Serve registers the health service on server, serves it on loopback, and
// connects a client, with client TLS unless config is nil. It panics if the
// machine has no loopback: it is for tests.
func Serve(server *grpc.Server, config *tls.Config) *Service {
	healthpb.RegisterHealthServer(server, health.NewServer())
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	creds := insecure.NewCredentials()
	if config != nil {
		creds = credentials.NewTLS(config)
	}
	conn, err := grpc.NewClient(l.Addr().String(), grpc.WithTransportCredentials(creds))
	if err != nil {
		panic(err)
	}
	s := &Service{server: server, conn: conn, client: healthpb.NewHealthClient(conn), done: make(chan struct{})}
	go func() {
		defer close(s.done)
		_ = server.Serve(l) // ends with Close
	}()
	return s
}

// Check calls Health/Check with metadata in pairs and returns the code and
// message of the answer, such as "OK" or "PermissionDenied: Access denied.".
func (s *Service) Check(pairs ...string) string {
	ctx := metadata.AppendToOutgoingContext(context.Background(), pairs...)
	_, err := s.client.Check(ctx, &healthpb.HealthCheckRequest{})
	if st := status.Convert(err); st.Message() != "" {
		return st.Code().String() + ": " + st.Message()
	}
	return status.Code(err).String()
}

// Close ends both sides.
func (s *Service) Close() {
	_ = s.conn.Close() // it is a test's end
	s.server.Stop()
	<-s.done
}
