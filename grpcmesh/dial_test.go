package grpcmesh_test

import (
	"cmp"
	"context"
	"errors"
	"io"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/resolver"
	"google.golang.org/grpc/status"

	"github.com/gatemesh-go/gatemesh"
	"github.com/gatemesh-go/gatemesh/grpcmesh"
	"github.com/gatemesh-go/gatemesh/internal/dnstest"
	"github.com/gatemesh-go/gatemesh/internal/race"
	"github.com/gatemesh-go/gatemesh/mtls"
	"github.com/gatemesh-go/gatemesh/mtls/devca"
	"github.com/gatemesh-go/gatemesh/routing/pool"
)

func TestDialConfig(t *testing.T) {
	t.Parallel()
	_, us := join(t, gatemesh.Must(devca.New("td.example")), "caller")
	callee := gatemesh.Must(mtls.MemberOf("td.example"))
	p := newPool(t, pool.Static("127.0.0.1:1"))
	whole := grpcmesh.DialConfig{Service: "callee:50051", Outbound: outbound(nil), Pool: p, TLS: us, Callee: callee}
	for _, test := range []struct {
		name   string
		change func(*grpcmesh.DialConfig)
		want   []string
	}{
		{"zero", func(cfg *grpcmesh.DialConfig) { *cfg = grpcmesh.DialConfig{} },
			[]string{"Service is required", "Outbound is required", "Pool is required", "TLS is required"}},
		{"TLS and plain text", func(cfg *grpcmesh.DialConfig) { cfg.InsecurePlainText, cfg.Callee = true, nil },
			[]string{"InsecurePlainText contradicts TLS", "Callee is required"}},
		{"callee in plain text", func(cfg *grpcmesh.DialConfig) { cfg.TLS, cfg.InsecurePlainText = nil, true }, []string{"Callee needs TLS"}},
		{"URL", func(cfg *grpcmesh.DialConfig) { cfg.Service = "dns:///callee" }, []string{"Service"}},
		{"path", func(cfg *grpcmesh.DialConfig) { cfg.Service = "callee/other" }, []string{"Service"}},
		{"user", func(cfg *grpcmesh.DialConfig) { cfg.Service = "callee@other" }, []string{"Service"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			cfg := whole
			test.change(&cfg)
			conn, err := grpcmesh.Dial(cfg)
			require.Error(t, err)
			assert.Nil(t, conn)
			assert.Len(t, strings.Split(err.Error(), "\n"), len(test.want))
			for _, w := range test.want {
				assert.Contains(t, err.Error(), "grpcmesh: DialConfig."+w)
			}
		})
	}
	conn, err := grpcmesh.Dial(whole)
	require.NoError(t, err)
	assert.NoError(t, conn.Close())
	assert.Error(t, conn.Close(), "twice is an error of grpc, not a panic")
}

// TestDialOptions: options of the application do not take precedence over ours,
// and what they add stands outside of Outbound.
func TestDialOptions(t *testing.T) {
	t.Parallel()
	ca := gatemesh.Must(devca.New("td.example"))
	_, them := join(t, ca, "callee")
	source, us := join(t, ca, "caller")
	b := newBackend(t, grpc.Creds(grpcmesh.Credentials(them, nil)))
	got := make(chan metadata.MD, 1)
	b.do(func(ctx context.Context, _ grpc.ServerStream) error {
		md, _ := metadata.FromIncomingContext(ctx)
		got <- md
		assert.Equal(t, certificate(source), presented(ctx))
		return nil
	})
	order := newJournal()
	p := newPool(t, pool.Static(b.addr))
	conn := dialTo(t, p, grpcmesh.DialConfig{
		TLS: us,
		Outbound: outbound(nil, stamps("ours"), gatemesh.Layer{Name: "note", Gate: gatemesh.GateFunc(func(context.Context, *gatemesh.Call) (gatemesh.Admission, error) {
			order.note("gate")
			return gatemesh.Admission{}, nil
		})}),
		Options: []grpc.DialOption{
			grpc.WithTransportCredentials(insecure.NewCredentials()),
			grpc.WithAuthority("elsewhere"),
			grpc.WithResolvers(elsewhere{}),
			grpc.WithDefaultServiceConfig(`{"loadBalancingConfig":[{"pick_first":{}}]}`),
			grpc.WithUnaryInterceptor(func(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
				order.note("application")
				return invoke(metadata.AppendToOutgoingContext(ctx, "x-gatemesh-identity", "evil"), method, req, reply, cc, opts...)
			}),
		},
	})
	for range 2 {
		_, err := call(t.Context(), conn, checkMethod)
		require.NoError(t, err)
		md := <-got
		assert.Equal(t, []string{"callee:50051"}, md[":authority"])
		assert.Equal(t, []string{"ours"}, md["x-gatemesh-identity"])
	}
	assert.Equal(t, "application gate application gate", order.read())
	assert.NotZero(t, statusOf(t, p, b.addr).Latency, "the pool has chosen")
}

// elsewhere is a resolver of the application that wants our calls.
type elsewhere struct{}

func (elsewhere) Scheme() string { return "gatemesh" }

func (elsewhere) Build(resolver.Target, resolver.ClientConn, resolver.BuildOptions) (resolver.Resolver, error) {
	return nil, errors.New("asked the wrong resolver")
}

// TestDialSpreads: every endpoint gets calls, and the pool sees how they end.
func TestDialSpreads(t *testing.T) {
	t.Parallel()
	all := backends(t, 3)
	p := newPool(t, pool.Static(addrs(all...)...))
	conn := dialTo(t, p, grpcmesh.DialConfig{})
	connected(t, conn, all...)
	all[0].do(func(context.Context, grpc.ServerStream) error { return status.Error(codes.Unavailable, "not now") })
	all[1].do(func(context.Context, grpc.ServerStream) error { return status.Error(codes.NotFound, "an answer") })
	for failed := 0; failed < 5; {
		_, err := call(t.Context(), conn, checkMethod)
		if status.Code(err) == codes.Unavailable {
			failed++
			assert.Equal(t, failed, statusOf(t, p, all[0].addr).Failures)
		}
	}
	assert.NotZero(t, statusOf(t, p, all[0].addr).EjectedUntil)
	n := all[0].calls.Load()
	for range 50 {
		_, err := call(t.Context(), conn, watchMethod)
		assert.NotEqual(t, codes.Unavailable, status.Code(err))
	}
	assert.Equal(t, n, all[0].calls.Load(), "ejected endpoints are left alone")
	for _, s := range p.Endpoints() {
		assert.Zero(t, s.InFlight)
		assert.Equal(t, s.Address == all[0].addr, s.Failures > 0)
	}
}

// TestDialStreams: how long a stream takes says nothing about its endpoint.
func TestDialStreams(t *testing.T) {
	t.Parallel()
	b := newBackend(t)
	p := newPool(t, pool.Static(b.addr))
	conn := dialTo(t, p, grpcmesh.DialConfig{})
	for _, method := range []string{watchMethod, bidiMethod, sendMethod} {
		_, _ = call(t.Context(), conn, method)
		assert.Zero(t, statusOf(t, p, b.addr).Latency, method)
	}
	_, err := call(t.Context(), conn, checkMethod)
	require.NoError(t, err)
	assert.NotZero(t, statusOf(t, p, b.addr).Latency)
}

// TestDialLostConnection: a callee that says goodbye and still listens makes
// the pool look whether others have come.
func TestDialLostConnection(t *testing.T) {
	t.Parallel()
	b := newBackend(t, grpc.KeepaliveParams(keepalive.ServerParameters{MaxConnectionAge: 10 * time.Millisecond}))
	list := book{addrs: []string{b.addr}}
	p := gatemesh.Must(pool.New(pool.Config{Name: "callee", Resolver: &list, Interval: time.Hour, Cooldown: time.Millisecond}))
	t.Cleanup(func() { assert.NoError(t, p.Close()) })
	conn := dialTo(t, p, grpcmesh.DialConfig{})
	eventually(t, "the pool looks", func() bool {
		_, err := call(t.Context(), conn, checkMethod)
		return assert.NoError(t, err) && list.asked.Load() > 1
	})
	assert.Zero(t, statusOf(t, p, b.addr).Failures)
}

// TestDialAvoidsBusyEndpoints: calls do not queue up where others hang.
func TestDialAvoidsBusyEndpoints(t *testing.T) {
	t.Parallel()
	all := backends(t, 3)
	release := make(chan struct{})
	all[0].do(func(context.Context, grpc.ServerStream) error { <-release; return nil })
	p := newPool(t, pool.Static(addrs(all...)...))
	conn := dialTo(t, p, grpcmesh.DialConfig{})
	var started, done atomic.Int64
	var wg sync.WaitGroup
	one := func(method string) {
		started.Add(1)
		wg.Go(func() {
			_, err := call(t.Context(), conn, method)
			assert.NoError(t, err)
			done.Add(1)
		})
		eventually(t, "the call ends or hangs", func() bool { return done.Load()+all[0].calls.Load() == started.Load() })
	}
	for all[0].calls.Load() == 0 {
		one(checkMethod)
	}
	for i := range 60 {
		one([]string{checkMethod, watchMethod}[i%2])
	}
	assert.LessOrEqual(t, all[0].calls.Load(), int64(10), "of 60")
	assert.EqualValues(t, all[0].calls.Load(), statusOf(t, p, all[0].addr).InFlight)
	close(release)
	wg.Wait()
	eventually(t, "nothing is in flight", func() bool { return statusOf(t, p, all[0].addr).InFlight == 0 })
}

// TestDialPinned: a workload that answers at an endpoint's address and is not
// the callee gets no call, and the others get them all.
func TestDialPinned(t *testing.T) {
	t.Parallel()
	ca := gatemesh.Must(devca.New("td.example"))
	_, them := join(t, ca, "callee")
	_, impostor := join(t, ca, "impostor")
	_, stranger := join(t, gatemesh.Must(devca.New("td.example")), "callee")
	_, us := join(t, ca, "caller")
	good := backends(t, 2, grpc.Creds(grpcmesh.Credentials(them, nil)))
	bad := []*backend{newBackend(t, grpc.Creds(grpcmesh.Credentials(impostor, nil))), newBackend(t, grpc.Creds(grpcmesh.Credentials(stranger, nil))), newBackend(t)}
	p := newPool(t, pool.Static(addrs(append(bad, good...)...)...))
	conn := dialTo(t, p, grpcmesh.DialConfig{TLS: us})
	connected(t, conn, good...)
	for _, b := range bad {
		eventually(t, "the pool knows that it cannot be reached", func() bool { return statusOf(t, p, b.addr).Failures > 0 })
	}
	for range 30 {
		for _, method := range []string{checkMethod, watchMethod, bidiMethod} {
			_, err := call(t.Context(), conn, method)
			require.NoError(t, err)
		}
	}
	alone := dialTo(t, newPool(t, pool.Static(addrs(bad...)...)), grpcmesh.DialConfig{TLS: us})
	_, err := call(t.Context(), alone, checkMethod)
	assert.Equal(t, codes.Unavailable, status.Code(err))
	assert.ErrorContains(t, err, "no endpoint can be reached")
	for _, b := range bad {
		assert.Zero(t, b.calls.Load())
	}
}

// TestDialWithoutCredentials fails closed when the source has nothing any more.
func TestDialWithoutCredentials(t *testing.T) {
	t.Parallel()
	ca := gatemesh.Must(devca.New("td.example"))
	_, them := join(t, ca, "callee")
	real, _ := join(t, ca, "caller")
	var source fickle
	source.Store(real.Credentials())
	us := gatemesh.Must(mtls.New(mtls.Config{Source: &source, Authorize: gatemesh.Must(mtls.MemberOf("td.example"))}))
	b := newBackend(t, grpc.Creds(grpcmesh.Credentials(them, nil)))
	conn := dialTo(t, newPool(t, pool.Static(b.addr)), grpcmesh.DialConfig{TLS: us})
	_, err := call(t.Context(), conn, checkMethod)
	require.NoError(t, err)
	source.Store(nil)
	_, err = call(t.Context(), conn, checkMethod)
	assert.Equal(t, codes.Unavailable, status.Code(err))
	source.Store(real.Credentials())
	_, err = call(t.Context(), conn, checkMethod)
	assert.NoError(t, err)
}

// fickle is a Source that tests change by hand.
type fickle struct {
	atomic.Pointer[mtls.Credentials]
}

func (f *fickle) Credentials() *mtls.Credentials { return f.Load() }

// openStream returns a stream that has got one answer.
func openStream(t *testing.T, ctx context.Context, conn *grpc.ClientConn) grpc.ClientStream {
	t.Helper()
	s, err := conn.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}, bidiMethod)
	require.NoError(t, err)
	require.NoError(t, s.SendMsg(&message{}))
	require.NoError(t, s.RecvMsg(&message{}))
	return s
}

// endStream gets one more answer and ends the stream.
func endStream(t *testing.T, s grpc.ClientStream) {
	t.Helper()
	require.NoError(t, s.SendMsg(&message{}))
	require.NoError(t, s.RecvMsg(&message{}))
	require.NoError(t, s.CloseSend())
	require.ErrorIs(t, s.RecvMsg(&message{}), io.EOF)
}

// TestMTLS06_Rotation: leaves and roots change under load, and no call fails.
func TestMTLS06_Rotation(t *testing.T) {
	t.Parallel()
	ca := gatemesh.Must(devca.New("td.example"))
	theirs, them := join(t, ca, "callee")
	ours, us := join(t, ca, "caller")
	mesh := newServer(gatemesh.EntryConfig{Peer: them.Peer}, them.Layer()) // judges the peer of every call
	all := backends(t, 2, append(mesh.Options(), grpc.Creds(grpcmesh.Credentials(them, nil)))...)
	var seen [2]atomic.Pointer[[32]byte]
	for i, b := range all {
		b.do(func(ctx context.Context, s grpc.ServerStream) error {
			c := presented(ctx)
			seen[i].Store(&c)
			return echo(ctx, s)
		})
	}
	conn := dialTo(t, newPool(t, pool.Static(addrs(all...)...)), grpcmesh.DialConfig{TLS: us})
	stream := openStream(t, t.Context(), conn)
	connected(t, conn, all...)
	stop := make(chan struct{})
	var wg sync.WaitGroup
	var calls [4]atomic.Int64
	for i := range calls {
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				_, err := call(t.Context(), conn, methods[i])
				assert.NoError(t, err)
				calls[i].Add(1)
			}
		})
	}
	another := func() { // each has begun and ended a call since
		for i := range calls {
			n := calls[i].Load()
			eventually(t, "calls go on", func() bool { return calls[i].Load() >= n+2 })
		}
	}
	moved := func() {
		want := certificate(ours)
		eventually(t, "calls show the new certificate", func() bool { return *seen[0].Load() == want && *seen[1].Load() == want })
	}
	for i := range 20 {
		require.NoError(t, ours.Renew())
		require.NoError(t, theirs.Renew())
		another()
		if i%5 == 0 {
			require.NoError(t, ca.Rotate())
			another()
			require.NoError(t, ours.Renew())
			require.NoError(t, theirs.Renew())
			moved()
			another()
			require.NoError(t, ca.Retire())
			another()
		}
	}
	moved()
	close(stop)
	wg.Wait()

	// Where nobody has called in the meantime, all of it may come at once.
	require.NoError(t, ca.Rotate())
	require.NoError(t, ours.Renew())
	require.NoError(t, theirs.Renew())
	require.NoError(t, ca.Retire())
	_, err := call(t.Context(), conn, checkMethod)
	require.NoError(t, err)
	endStream(t, stream)
}

// TestDialRenewal: a connection is replaced without a gap when our certificate
// changes; when the trust changes, calls wait for the new one.
func TestDialRenewal(t *testing.T) {
	t.Parallel()
	ca := gatemesh.Must(devca.New("td.example"))
	_, them := join(t, ca, "callee")
	ours, us := join(t, ca, "caller")
	b := newBackend(t, grpc.Creds(grpcmesh.Credentials(them, nil)))
	var seen atomic.Pointer[[32]byte]
	b.do(func(ctx context.Context, s grpc.ServerStream) error {
		c := presented(ctx)
		seen.Store(&c)
		return echo(ctx, s)
	})
	var g gated
	conn := dialTo(t, newPool(t, pool.Static(b.addr)), grpcmesh.DialConfig{TLS: us, Options: []grpc.DialOption{g.dialer()}})
	stream := openStream(t, t.Context(), conn)
	first := certificate(ours)

	g.close()
	for tries := int64(2); tries <= 3; tries++ {
		require.NoError(t, ours.Renew())
		_, err := call(t.Context(), conn, checkMethod)
		require.NoError(t, err, "the old connection serves")
		assert.Equal(t, first, *seen.Load())
		eventually(t, "it connects anew", func() bool { return g.tries.Load() == tries })
	}
	g.open()
	second := certificate(ours)
	eventually(t, "the new connection serves", func() bool {
		_, err := call(t.Context(), conn, checkMethod)
		return assert.NoError(t, err) && *seen.Load() == second
	})

	g.close()
	require.NoError(t, ca.Rotate())
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	_, err := call(ctx, conn, checkMethod)
	assert.Equal(t, codes.DeadlineExceeded, status.Code(err), "calls wait")
	require.NoError(t, ours.Renew())
	g.open()
	_, err = call(t.Context(), conn, checkMethod)
	require.NoError(t, err)
	assert.Equal(t, certificate(ours), *seen.Load())
	endStream(t, stream)
}

// TestDialIdle: grpc takes the resolver down when there are no calls, and makes
// it anew.
func TestDialIdle(t *testing.T) {
	t.Parallel()
	ca := gatemesh.Must(devca.New("td.example"))
	_, them := join(t, ca, "callee")
	ours, us := join(t, ca, "caller")
	all := backends(t, 2, grpc.Creds(grpcmesh.Credentials(them, nil)))
	p := newPool(t, pool.Static(all[0].addr))
	conn := dialTo(t, p, grpcmesh.DialConfig{TLS: us, Options: []grpc.DialOption{grpc.WithIdleTimeout(5 * time.Millisecond)}})
	for i := range 10 {
		_, err := call(t.Context(), conn, checkMethod)
		require.NoError(t, err)
		for s := conn.GetState(); s != connectivity.Idle; s = conn.GetState() {
			require.True(t, conn.WaitForStateChange(t.Context(), s))
		}
		require.NoError(t, ours.Renew())
		require.NoError(t, p.Update(poolOf(pool.Static(all[(i+1)%2].addr))))
	}
	assert.EqualValues(t, 5, all[0].calls.Load())
	assert.EqualValues(t, 5, all[1].calls.Load())
}

// TestDialPoolWithoutEndpoints: calls fail at once or wait, as they were made to,
// and go to the first endpoint that comes.
func TestDialPoolWithoutEndpoints(t *testing.T) {
	t.Parallel()
	b := newBackend(t)
	var list book
	p := newPool(t, &list)
	var g gated
	g.close()
	var mu sync.Mutex
	reported := map[gatemesh.EventKind]int{}
	observer := gatemesh.ObserverFunc(func(_ context.Context, e gatemesh.Event) {
		mu.Lock()
		defer mu.Unlock()
		if d := cmp.Or(e.Denial, e.Outcome.Denial); d != nil && d.Reason == "no_endpoint" {
			reported[e.Kind]++
		}
	})
	out := gatemesh.Must(gatemesh.NewOutbound(gatemesh.OutboundConfig{
		Observer: observer, Mesh: gatemesh.MeshHosts(map[string]gatemesh.Destination{"callee": {Service: "callee"}}),
	}))
	conn := dialTo(t, p, grpcmesh.DialConfig{Outbound: out, Options: []grpc.DialOption{g.dialer()}})
	for _, method := range methods {
		_, err := call(t.Context(), conn, method)
		assert.Equal(t, codes.Unavailable, status.Code(err), method)
		assert.ErrorContains(t, err, "the pool has no endpoint")
	}
	mu.Lock()
	assert.Equal(t, map[gatemesh.EventKind]int{gatemesh.EventDenied: len(methods), gatemesh.EventFinished: len(methods)}, reported)
	mu.Unlock()
	results := make(chan error)
	wait := func(opts ...grpc.CallOption) {
		results <- conn.Invoke(t.Context(), checkMethod, &message{}, &message{}, opts...)
	}
	go wait(grpc.WaitForReady(true))
	list.set(p, b.addr)
	eventually(t, "it connects", func() bool { return g.tries.Load() == 1 })
	go wait() // waits for the connection, too
	select {
	case err := <-results:
		assert.Fail(t, "a call did not wait", err)
	case <-time.After(20 * time.Millisecond):
	}
	g.open()
	for range 2 {
		assert.NoError(t, <-results)
	}
	assert.EqualValues(t, 2, b.calls.Load())
}

// TestDialEndpointsVanish: an endpoint that has left gets no new call, and
// streams at it end undisturbed. When all have left, nobody gets any.
func TestDialEndpointsVanish(t *testing.T) {
	t.Parallel()
	all := backends(t, 2)
	list := book{addrs: addrs(all...)}
	p := newPool(t, &list)
	conn := dialTo(t, p, grpcmesh.DialConfig{})
	var streams []grpc.ClientStream
	for all[0].calls.Load() == 0 || all[1].calls.Load() == 0 {
		streams = append(streams, openStream(t, t.Context(), conn))
	}
	list.set(p, all[1].addr)
	eventually(t, "one is left", func() bool { return len(p.Endpoints()) == 1 })
	// The pool tells after it knows.
	eventually(t, "it gets no more calls", func() bool {
		n := all[0].calls.Load()
		for range 20 {
			_, err := call(t.Context(), conn, checkMethod)
			assert.NoError(t, err)
		}
		return all[0].calls.Load() == n
	})
	list.set(p)
	eventually(t, "calls are refused", func() bool {
		_, err := call(t.Context(), conn, checkMethod)
		return status.Code(err) == codes.Unavailable && strings.Contains(err.Error(), "the pool has no endpoint")
	})
	for _, s := range streams {
		endStream(t, s)
	}
	for _, b := range all {
		b.calls.Store(0)
	}
	list.set(p, addrs(all...)...)
	for all[0].calls.Load() == 0 || all[1].calls.Load() == 0 {
		_, err := call(t.Context(), conn, checkMethod)
		if err != nil {
			assert.ErrorContains(t, err, "the pool has no endpoint")
		}
	}
	for _, s := range p.Endpoints() {
		assert.NotZero(t, s.Latency, "what came back is measured anew")
	}
}

// TestDialServerGone: the connection breaks; calls go elsewhere, and the pool
// looks again.
func TestDialServerGone(t *testing.T) {
	t.Parallel()
	all := backends(t, 2)
	p := newPool(t, pool.Static(addrs(all...)...))
	conn := dialTo(t, p, grpcmesh.DialConfig{})
	connected(t, conn, all...)
	all[0].stop()
	eventually(t, "the pool knows", func() bool { return statusOf(t, p, all[0].addr).Failures > 0 })
	for range 30 {
		_, err := call(t.Context(), conn, checkMethod)
		assert.NoError(t, err)
	}
	all[1].stop()
	eventually(t, "nobody is left", func() bool {
		_, err := call(t.Context(), conn, checkMethod)
		return err != nil && strings.Contains(err.Error(), "no endpoint can be reached")
	})
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	err := conn.Invoke(ctx, checkMethod, &message{}, &message{}, grpc.WaitForReady(true))
	assert.Equal(t, codes.DeadlineExceeded, status.Code(err))
}

// TestDialDeadline: a deadline is no failure of the endpoint, and a caller that
// leaves says nothing about it.
func TestDialDeadline(t *testing.T) {
	t.Parallel()
	j := newJournal()
	b := newBackend(t)
	p := newPool(t, pool.Static(b.addr))
	conn := dialTo(t, p, grpcmesh.DialConfig{Outbound: outbound(j)})
	_, err := call(t.Context(), conn, checkMethod)
	require.NoError(t, err)
	b.do(func(ctx context.Context, _ grpc.ServerStream) error { <-ctx.Done(); return ctx.Err() })
	for range 6 {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
		_, err = call(ctx, conn, checkMethod)
		assert.Equal(t, codes.DeadlineExceeded, status.Code(err))
		cancel()
		ctx, cancel = context.WithCancel(t.Context())
		n := b.calls.Load()
		go func() {
			for b.calls.Load() == n && ctx.Err() == nil {
				time.Sleep(time.Millisecond)
			}
			cancel()
		}()
		_, err = call(ctx, conn, watchMethod)
		assert.Equal(t, codes.Canceled, status.Code(err))
		cancel()
	}
	s := statusOf(t, p, b.addr)
	assert.Zero(t, s.Failures)
	assert.Zero(t, s.InFlight)
	assert.GreaterOrEqual(t, s.Latency, 10*time.Millisecond)
	for range 13 {
		<-j.finished
	}
	for _, o := range j.outcomes {
		assert.Equal(t, b.addr, o.Endpoint)
	}
	assert.Equal(t, gatemesh.DeadlineExceeded, j.outcomes[1].Code)
	assert.True(t, j.outcomes[1].Expired)
	assert.True(t, j.outcomes[2].Canceled)
}

// TestDialHostileDNS: the DNS says where the endpoints are, and has no say in
// how calls are made.
func TestDialHostileDNS(t *testing.T) {
	t.Parallel()
	const name = "callee.prod.svc.cluster.local."
	b := newBackend(t)
	dns := gatemesh.Must(dnstest.New())
	t.Cleanup(func() { assert.NoError(t, dns.Close()) })
	at := netip.MustParseAddrPort(b.addr)
	dns.Set(name, at.Addr())
	r := gatemesh.Must(pool.NewDNS(pool.DNSConfig{Host: name, Port: at.Port(), Network: "ip4", Resolver: dns.Resolver()}))
	conn := dialTo(t, newPool(t, r), grpcmesh.DialConfig{Service: "callee:50051"})
	_, err := call(t.Context(), conn, checkMethod)
	require.NoError(t, err)
	assert.NotZero(t, dns.Queries(name))
	for _, asked := range []string{name, "callee", "callee."} {
		assert.Zero(t, dns.Queries("_grpc_config."+asked))
		assert.Zero(t, dns.Queries("_grpclb._tcp."+asked))
	}
}

// TestDialUpdates is for the race detector: calls of all kinds while endpoints,
// certificates and idleness change, until the connection is closed under them.
func TestDialUpdates(t *testing.T) {
	t.Parallel()
	ca := gatemesh.Must(devca.New("td.example"))
	_, them := join(t, ca, "callee")
	ours, us := join(t, ca, "caller")
	all := backends(t, 3, grpc.Creds(grpcmesh.Credentials(them, nil)))
	p := newPool(t, pool.Static(addrs(all...)...))
	conn := dialTo(t, p, grpcmesh.DialConfig{TLS: us, Options: []grpc.DialOption{grpc.WithIdleTimeout(10 * time.Millisecond)}})
	var calls, changes sync.WaitGroup
	for i := range 4 {
		calls.Go(func() {
			for k := range race.Fewer(60) {
				ctx, cancel := context.WithCancel(t.Context())
				if k%5 == 0 {
					go cancel()
				}
				if _, err := call(ctx, conn, methods[(i+k)%len(methods)]); k%5 != 0 {
					assert.NoError(t, err)
				}
				cancel()
			}
		})
	}
	stop := make(chan struct{})
	changes.Go(func() {
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			case <-time.After(5 * time.Millisecond):
			}
			one := all[i%3]
			assert.NoError(t, p.Update(poolOf(pool.Static(slices.Concat(addrs(one), addrs(all[:i%4]...))...))))
			assert.NoError(t, ours.Renew())
			if i%32 == 31 { // calls wait for a handshake that slows down with each root
				assert.NoError(t, ca.Rotate())
			}
		}
	})
	calls.Wait()
	for i := range 4 {
		calls.Go(func() {
			for {
				if _, err := call(t.Context(), conn, methods[i]); err != nil {
					return // closed
				}
			}
		})
	}
	require.NoError(t, conn.Close())
	calls.Wait()
	close(stop)
	changes.Wait()
	for _, s := range p.Endpoints() {
		eventually(t, "nothing is in flight", func() bool { return statusOf(t, p, s.Address).InFlight == 0 })
	}
}
