package grpcmesh_test

import (
	"context"
	"crypto/sha256"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/peer"

	"github.com/gatemesh-go/gatemesh"
	"github.com/gatemesh-go/gatemesh/grpcmesh"
	"github.com/gatemesh-go/gatemesh/mtls"
	"github.com/gatemesh-go/gatemesh/mtls/devca"
	"github.com/gatemesh-go/gatemesh/routing/pool"
)

func spiffe(name string) string { return "spiffe://td.example/ns/prod/sa/" + name }

// join returns the side of a workload in the mesh of ca.
func join(t testing.TB, ca *devca.CA, name string) (*devca.Source, *mtls.TLS) {
	t.Helper()
	source := gatemesh.Must(ca.Source(devca.WorkloadConfig{ID: spiffe(name)}))
	return source, gatemesh.Must(mtls.New(mtls.Config{Source: source, Authorize: gatemesh.Must(mtls.MemberOf("td.example"))}))
}

// backend is one endpoint of a service, on a port of loopback.
type backend struct {
	addr  string
	calls atomic.Int64
	// handle answers calls; it may be replaced by do.
	handle atomic.Pointer[func(context.Context, grpc.ServerStream) error]
	server *grpc.Server
	served chan struct{}
}

func newBackend(t testing.TB, opts ...grpc.ServerOption) *backend {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	b := &backend{addr: l.Addr().String(), server: grpc.NewServer(opts...), served: make(chan struct{})}
	b.do(echo)
	b.register(b.server)
	go func() {
		defer close(b.served)
		_ = b.server.Serve(l) // ends with stop
	}()
	t.Cleanup(b.stop)
	return b
}

func (b *backend) register(s *grpc.Server) {
	srv := &service{handle: func(ctx context.Context, ss grpc.ServerStream) error {
		b.calls.Add(1)
		return (*b.handle.Load())(ctx, ss)
	}}
	grpc_health_v1.RegisterHealthServer(s, srv)
	s.RegisterService(&kinds, srv)
}

func (b *backend) do(handle func(context.Context, grpc.ServerStream) error) { b.handle.Store(&handle) }

func (b *backend) stop() {
	b.server.Stop()
	<-b.served
}

func backends(t testing.TB, n int, opts ...grpc.ServerOption) (all []*backend) {
	t.Helper()
	for range n {
		all = append(all, newBackend(t, opts...))
	}
	return all
}

func addrs(all ...*backend) (list []string) {
	for _, b := range all {
		list = append(list, b.addr)
	}
	return list
}

// book is a Resolver whose answer changes.
type book struct {
	asked atomic.Int64
	mu    sync.Mutex
	addrs []string
}

func (b *book) Resolve(context.Context) ([]string, error) {
	b.asked.Add(1)
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.addrs), nil
}

func (b *book) set(p *pool.Pool, addrs ...string) {
	b.mu.Lock()
	b.addrs = addrs
	b.mu.Unlock()
	p.Refresh()
}

// newPool returns a pool that looks up as often as it may.
func newPool(t testing.TB, r pool.Resolver) *pool.Pool {
	t.Helper()
	p := gatemesh.Must(pool.New(poolOf(r)))
	t.Cleanup(func() { assert.NoError(t, p.Close()) })
	return p
}

func poolOf(r pool.Resolver) pool.Config {
	const often = 10 * time.Millisecond
	return pool.Config{Name: "callee", Resolver: r, Interval: often, MaxStale: often}
}

func statusOf(t testing.TB, p *pool.Pool, addr string) pool.EndpointStatus {
	t.Helper()
	for _, s := range p.Endpoints() {
		if s.Address == addr {
			return s
		}
	}
	require.Fail(t, "no endpoint "+addr)
	return pool.EndpointStatus{}
}

func outbound(j *journal, layers ...gatemesh.Layer) *gatemesh.Outbound {
	cfg := gatemesh.OutboundConfig{
		Mesh:   gatemesh.MeshHosts(map[string]gatemesh.Destination{"callee": {Service: "callee"}}),
		Layers: layers,
	}
	if j != nil {
		cfg.Observer = j
	}
	return gatemesh.Must(gatemesh.NewOutbound(cfg))
}

// dialTo connects to the callee, in plain text unless with says otherwise.
func dialTo(t testing.TB, p *pool.Pool, with grpcmesh.DialConfig) *grpc.ClientConn {
	t.Helper()
	with.Pool = p
	if with.Service == "" {
		with.Service = "callee:50051"
	}
	if with.Outbound == nil {
		with.Outbound = outbound(nil)
	}
	if with.TLS == nil {
		with.InsecurePlainText = true
	} else if with.Callee == nil {
		with.Callee = gatemesh.Must(mtls.Exactly(spiffe("callee")))
	}
	conn, err := grpcmesh.Dial(with)
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	require.Eventually(t, ok, time.Minute, time.Millisecond, what)
}

// connected calls until each of all has answered once.
func connected(t testing.TB, conn *grpc.ClientConn, all ...*backend) {
	t.Helper()
	for _, b := range all {
		for b.calls.Load() == 0 {
			_, err := call(t.Context(), conn, checkMethod)
			require.NoError(t, err)
		}
	}
	for _, b := range all {
		b.calls.Store(0)
	}
}

// presented returns which certificate the caller in ctx has shown.
func presented(ctx context.Context) [32]byte {
	p, _ := peer.FromContext(ctx)
	return sha256.Sum256(p.AuthInfo.(credentials.TLSInfo).State.PeerCertificates[0].Raw)
}

func certificate(s *devca.Source) [32]byte {
	return sha256.Sum256(s.Credentials().Certificate.Certificate[0])
}

// gated dials, and holds connections back while it is shut.
type gated struct {
	mu    sync.Mutex
	shut  chan struct{} // nil while open
	tries atomic.Int64
}

func (g *gated) close() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.shut = make(chan struct{})
}

func (g *gated) open() {
	g.mu.Lock()
	defer g.mu.Unlock()
	close(g.shut)
	g.shut = nil
}

func (g *gated) dialer() grpc.DialOption {
	return grpc.WithContextDialer(func(ctx context.Context, addr string) (net.Conn, error) {
		g.tries.Add(1)
		g.mu.Lock()
		shut := g.shut
		g.mu.Unlock()
		if shut != nil {
			select {
			case <-shut:
			case <-ctx.Done():
				return nil, ctx.Err()
			}
		}
		var d net.Dialer
		return d.DialContext(ctx, "tcp", addr)
	})
}
