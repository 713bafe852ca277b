package breaker

import (
	"context"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	grpcstatus "google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"

	"github.com/gatemesh-go/gatemesh"
	"github.com/gatemesh-go/gatemesh/grpcmesh"
)

// callee is a gRPC health service that does as it is told.
type callee struct {
	healthpb.UnimplementedHealthServer
	handle atomic.Pointer[func(context.Context) error]
	calls  atomic.Int64
}

func (s *callee) set(f func(context.Context) error) { s.handle.Store(&f) }

func (s *callee) Check(ctx context.Context, _ *healthpb.HealthCheckRequest) (*healthpb.HealthCheckResponse, error) {
	s.calls.Add(1)
	return &healthpb.HealthCheckResponse{}, (*s.handle.Load())(ctx)
}

func (s *callee) Watch(_ *healthpb.HealthCheckRequest, ss grpc.ServerStreamingServer[healthpb.HealthCheckResponse]) error {
	s.calls.Add(1)
	if err := (*s.handle.Load())(ss.Context()); err != nil {
		return err
	}
	if err := ss.Send(&healthpb.HealthCheckResponse{}); err != nil {
		return err
	}
	<-ss.Context().Done()
	return ss.Context().Err()
}

func code(c codes.Code) func(context.Context) error {
	return func(context.Context) error { return grpcstatus.Error(c, c.String()) }
}

func hangs(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }

// connectGRPC serves s and returns a client behind layers.
func connectGRPC(t *testing.T, s *callee, layers ...gatemesh.Layer) healthpb.HealthClient {
	t.Helper()
	return connectGRPCTo(t, s, nil, layers...)
}

func connectGRPCTo(t *testing.T, s *callee, opts []grpc.ServerOption, layers ...gatemesh.Layer) healthpb.HealthClient {
	t.Helper()
	l, server := bufconn.Listen(1<<20), grpc.NewServer(opts...)
	healthpb.RegisterHealthServer(server, s)
	served := make(chan struct{})
	go func() {
		defer close(served)
		_ = server.Serve(l) // ends with Stop
	}()
	client, err := grpcmesh.NewClient(outbound(t, layers...))
	require.NoError(t, err)
	conn, err := grpc.NewClient("passthrough:///a", append(client.Options(),
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return l.DialContext(ctx) }))...)
	require.NoError(t, err)
	t.Cleanup(func() {
		_ = conn.Close()
		server.Stop()
		<-served
	})
	return healthpb.NewHealthClient(conn)
}

func check(ctx context.Context, c healthpb.HealthClient) codes.Code {
	_, err := c.Check(ctx, &healthpb.HealthCheckRequest{})
	return grpcstatus.Code(err)
}

func TestBR01_GRPC(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		handle func(context.Context) error
		limit  time.Duration
		cancel bool
		want   codes.Code
	}{
		"cancelled":      {handle: hangs, cancel: true, want: codes.Canceled},
		"short deadline": {handle: hangs, limit: 20 * time.Millisecond, want: codes.DeadlineExceeded},
		"bad request":    {handle: code(codes.InvalidArgument), want: codes.InvalidArgument},
		"not found":      {handle: code(codes.NotFound), want: codes.NotFound},
		"exhausted":      {handle: code(codes.ResourceExhausted), want: codes.ResourceExhausted},
		"internal":       {handle: code(codes.Internal), want: codes.Internal},
		"unknown":        {handle: code(codes.Unknown), want: codes.Unknown},
		"data loss":      {handle: code(codes.DataLoss), want: codes.DataLoss},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, g := &callee{}, newGate(t)
			s.set(test.handle)
			client := connectGRPC(t, s, stack(t, g)...)
			var wg sync.WaitGroup
			for range 10 {
				wg.Go(func() {
					for range 100 {
						ctx, cancel := context.WithCancel(t.Context())
						if test.limit > 0 {
							ctx, cancel = context.WithTimeout(t.Context(), test.limit)
						}
						if test.cancel {
							time.AfterFunc(time.Millisecond, cancel)
						}
						assert.Equal(t, test.want, check(ctx, client))
						cancel()
					}
				})
			}
			wg.Wait()
			assert.Equal(t, Closed, g.State(service("a")))
			m := g.circuits.all()[service("a")].cb.Metrics()
			assert.Zero(t, m.Failures())
			assert.Equal(t, test.limit == 0 && !test.cancel, m.Successes() > 0)
		})
	}
}

func TestGRPCFailures(t *testing.T) {
	t.Parallel()
	for c, also := range map[codes.Code][]gatemesh.Code{
		codes.Unavailable: nil, codes.DeadlineExceeded: nil, codes.Internal: {gatemesh.Internal, gatemesh.Unavailable},
	} {
		t.Run(c.String(), func(t *testing.T) {
			t.Parallel()
			s, g := &callee{}, newGate(t, func(cfg *GateConfig) { cfg.Delay, cfg.Codes = 100*time.Millisecond, also })
			s.set(code(c))
			client := connectGRPC(t, s, g.Layer())
			for range 5 {
				assert.Equal(t, c, check(t.Context(), client))
			}
			assert.Equal(t, Open, g.State(service("a")))
			assert.Equal(t, codes.Unavailable, check(t.Context(), client))
			assert.EqualValues(t, 5, s.calls.Load())
			s.set(ok)
			assert.Eventually(t, func() bool { return check(t.Context(), client) == codes.OK }, 10*time.Second, time.Millisecond)
			assert.Equal(t, Closed, g.State(service("a")))
		})
	}
}

// The probe may be a stream that goes on for ever.
func TestGRPCProbeIsAStream(t *testing.T) {
	t.Parallel()
	s, g := &callee{}, newGate(t, func(cfg *GateConfig) { cfg.Delay = 100 * time.Millisecond })
	s.set(code(codes.Unavailable))
	client := connectGRPC(t, s, g.Layer())
	watch := func() (healthpb.Health_WatchClient, error) {
		ss, err := client.Watch(t.Context(), &healthpb.HealthCheckRequest{})
		if err == nil {
			_, err = ss.Recv()
		}
		return ss, err
	}
	for range 5 {
		_, err := watch()
		require.Equal(t, codes.Unavailable, grpcstatus.Code(err))
	}
	require.Eventually(t, func() bool { return g.State(service("a")) == Open }, 10*time.Second, time.Millisecond)
	s.set(ok)
	require.Eventually(t, func() bool { _, err := watch(); return err == nil }, 10*time.Second, time.Millisecond)
	assert.Equal(t, Closed, g.State(service("a")), "although the stream has not ended")
	assert.Equal(t, codes.OK, check(t.Context(), client))
}

func TestGRPCRetries(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		code       codes.Code
		idempotent bool
		calls      int64
	}{
		"unavailable": {codes.Unavailable, true, 3}, "not idempotent": {codes.Unavailable, false, 1}, "internal": {codes.Internal, true, 1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := &callee{}
			s.set(code(test.code))
			r := newRetry(t, func(c *RetryConfig) {
				c.BackoffBase = time.Millisecond
				c.Idempotent = func(c *gatemesh.Call) bool { return test.idempotent && c.Path() == "/grpc.health.v1.Health/Check" }
			})
			assert.Equal(t, test.code, check(t.Context(), connectGRPC(t, s, r.Layer())))
			assert.Equal(t, test.calls, s.calls.Load())
		})
	}
}
