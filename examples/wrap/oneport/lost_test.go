package oneport

import (
	"context"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"os/exec"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/stats"
	"google.golang.org/grpc/status"

	"github.com/gatemesh-go/gatemesh"
	"github.com/gatemesh-go/gatemesh/examples/wrap/internal/harness"
	"github.com/gatemesh-go/gatemesh/grpcmesh"
)

// Both kinds of server, the same but for who serves HTTP/2.
const (
	oneListener  = "one listener"  // net/http, with the chain in front
	twoListeners = "two listeners" // grpc-go, with grpcmesh
)

// options of a test's server.
type options struct {
	layers   []gatemesh.Layer
	observer gatemesh.Observer
	rpc      []grpc.ServerOption
	register func(*grpc.Server)
	http     func(*http.Server)
}

type running struct {
	*grpc.ClientConn
	rpc *grpc.Server
	web *http.Server // on one listener
}

// run serves an API in one way or the other, until the test ends.
func run(t *testing.T, f *harness.Folder, kind string, o options) running {
	t.Helper()
	entry := gatemesh.Must(gatemesh.NewEntry(gatemesh.EntryConfig{Observer: o.observer}))
	chain := gatemesh.Must(gatemesh.NewChain(entry, o.layers...))
	config := harness.ServerTLS(t)
	if kind == twoListeners {
		o.rpc = append(gatemesh.Must(grpcmesh.NewServer(chain)).Options(), o.rpc...)
		o.rpc = append(o.rpc, grpc.Creds(credentials.NewTLS(config)))
	}
	r := running{rpc: grpc.NewServer(o.rpc...)}
	(&harness.API{}).Register(r.rpc)
	if o.register != nil {
		o.register(r.rpc)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	served := make(chan error, 1)
	if kind == twoListeners {
		go func() { served <- r.rpc.Serve(l) }()
	} else {
		r.web = &http.Server{
			Handler: chain.Handler(either(r.rpc, routes())), TLSConfig: config,
			ReadHeaderTimeout: time.Minute, ErrorLog: log.New(io.Discard, "", 0),
		}
		if o.http != nil {
			o.http(r.web)
		}
		go func() { served <- r.web.ServeTLS(l, "", "") }()
	}
	r.ClientConn = dial(t, f, l.Addr().String())
	t.Cleanup(func() {
		if r.web != nil {
			_ = r.web.Close()
		}
		r.rpc.Stop()
		<-served
	})
	return r
}

// each runs a test for both kinds.
func each(t *testing.T, test func(t *testing.T, f *harness.Folder, kind string)) {
	for _, kind := range []string{oneListener, twoListeners} {
		t.Run(kind, func(t *testing.T) { test(t, harness.Enter(t), kind) })
	}
}

func TestKept(t *testing.T) {
	notes := map[string][]string{}
	var calls = map[string]*atomic.Int64{oneListener: {}, twoListeners: {}}
	each(t, func(t *testing.T, f *harness.Folder, kind string) {
		n := calls[kind]
		r := run(t, f, kind, options{rpc: []grpc.ServerOption{
			grpc.ChainUnaryInterceptor(func(ctx context.Context, req any, _ *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
				n.Add(1)
				return next(ctx, req)
			}),
			grpc.ChainStreamInterceptor(func(srv any, ss grpc.ServerStream, _ *grpc.StreamServerInfo, next grpc.StreamHandler) error {
				n.Add(1)
				return next(srv, ss)
			}),
		}})
		notes[kind] = use(t.Context(), t, r.ClientConn)
	})
	assert.Equal(t, notes[twoListeners], notes[oneListener])
	assert.Equal(t, calls[twoListeners].Load(), calls[oneListener].Load(), "interceptors")
	for _, want := range []string{
		"unary: body <nil>", "metadata: [one two] [\x00\xff\n] [one two] [\x00\xff\n]", "unknown: Unimplemented",
		"server stream: 100000 <nil>", "client stream: 15 <nil>", "bidi: pong <nil>", "bidi: EOF",
		"deadline in the handler: 1h0m0s <nil>", "deadline passed: DeadlineExceeded", "large: 3146728 <nil>", "too large: ResourceExhausted",
		"compressed: 3145728 <nil>",
	} {
		assert.Contains(t, notes[oneListener], want+"\n")
	}
}

// TestCancel: a handler learns that the caller has gone.
func TestCancel(t *testing.T) {
	each(t, func(t *testing.T, f *harness.Folder, kind string) {
		begun, ended := make(chan struct{}), make(chan error, 1)
		r := run(t, f, kind, options{rpc: []grpc.ServerOption{grpc.UnaryInterceptor(
			func(ctx context.Context, req any, _ *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
				close(begun)
				resp, err := next(ctx, req)
				ended <- err
				return resp, err
			})}})
		ctx, cancel := context.WithCancel(t.Context())
		go func() {
			<-begun
			cancel()
		}()
		_, err := grpc_testing.NewTestServiceClient(r).EmptyCall(ctx, &grpc_testing.Empty{})
		assert.Equal(t, codes.Canceled, status.Code(err))
		assert.Equal(t, codes.Canceled, status.Code(<-ended))
	})
}

// gate is a layer made of a function.
func gate(f func(*gatemesh.Call) (gatemesh.Admission, error)) gatemesh.Layer {
	return gatemesh.Layer{Name: "test", Gate: gatemesh.GateFunc(func(_ context.Context, c *gatemesh.Call) (gatemesh.Admission, error) { return f(c) })}
}

// TestOnce: the gates run once for each call, and twice for those who install
// grpcmesh in the grpc.Server as well.
func TestOnce(t *testing.T) {
	f := harness.Enter(t)
	for _, twice := range []bool{false, true} {
		var n atomic.Int64
		o := options{layers: []gatemesh.Layer{gate(func(*gatemesh.Call) (gatemesh.Admission, error) {
			n.Add(1)
			return gatemesh.Admission{}, nil
		})}}
		if twice {
			chain := gatemesh.Must(gatemesh.NewChain(gatemesh.Must(gatemesh.NewEntry(gatemesh.EntryConfig{})), o.layers...))
			o.rpc = gatemesh.Must(grpcmesh.NewServer(chain)).Options()
		}
		_, err := grpc_testing.NewTestServiceClient(run(t, f, oneListener, o)).UnaryCall(t.Context(), &grpc_testing.SimpleRequest{})
		require.NoError(t, err)
		assert.Equal(t, map[bool]int64{false: 1, true: 2}[twice], n.Load())
	}
}

func TestLostReason(t *testing.T) {
	each(t, func(t *testing.T, f *harness.Folder, kind string) {
		r := run(t, f, kind, options{layers: []gatemesh.Layer{gate(func(*gatemesh.Call) (gatemesh.Admission, error) {
			return gatemesh.Admission{}, gatemesh.Deny(gatemesh.PermissionDenied, "not_today", "Not today.")
		})}})
		_, err := grpc_testing.NewTestServiceClient(r).UnaryCall(t.Context(), &grpc_testing.SimpleRequest{})
		assert.Equal(t, "Not today.", status.Convert(err).Message())
		assert.Len(t, status.Convert(err).Details(), map[string]int{oneListener: 0, twoListeners: 1}[kind])
	})
}

// The code of a gRPC call is in our own logs, traces and counters either way.
func TestOutcome(t *testing.T) {
	each(t, func(t *testing.T, f *harness.Folder, kind string) {
		outcomes := make(chan gatemesh.Outcome, 1)
		r := run(t, f, kind, options{observer: gatemesh.ObserverFunc(func(_ context.Context, e gatemesh.Event) {
			if e.Kind == gatemesh.EventFinished {
				outcomes <- e.Outcome
			}
		})})
		_, err := grpc_testing.NewTestServiceClient(r).UnaryCall(t.Context(), &grpc_testing.SimpleRequest{
			ResponseStatus: &grpc_testing.EchoStatus{Code: int32(codes.DataLoss), Message: "gone"},
		})
		assert.Equal(t, codes.DataLoss, status.Code(err), "the client knows")
		assert.Equal(t, gatemesh.DataLoss, (<-outcomes).Code)
	})
}

// ticks returns a service with a method that sends a thousand messages, and
// tells how sending ended.
func ticks(ended chan<- error) *grpc.ServiceDesc {
	return &grpc.ServiceDesc{ServiceName: "test.Ticks", HandlerType: (*any)(nil), Streams: []grpc.StreamDesc{{
		StreamName: "Watch", ServerStreams: true, Handler: func(_ any, s grpc.ServerStream) error {
			if err := s.RecvMsg(&grpc_testing.Empty{}); err != nil {
				return err
			}
			tick := time.NewTicker(time.Millisecond)
			defer tick.Stop()
			for range 1000 {
				<-tick.C
				if err := s.SendMsg(&grpc_testing.Empty{}); err != nil {
					ended <- err
					return err
				}
			}
			ended <- nil
			return nil
		},
	}}}
}

// TestLostConsent: nothing is sent any more, either way. On one listener, the
// handler goes on as if it were, the client waits for as long as it does, and
// is not told why in the end.
func TestLostConsent(t *testing.T) {
	each(t, func(t *testing.T, f *harness.Folder, kind string) {
		ended := make(chan error, 1)
		r := run(t, f, kind, options{
			layers: []gatemesh.Layer{gate(func(*gatemesh.Call) (gatemesh.Admission, error) {
				return gatemesh.Admission{Until: time.Now().Add(100 * time.Millisecond)}, nil
			})},
			register: func(s *grpc.Server) { s.RegisterService(ticks(ended), nil) },
		})
		s, err := r.NewStream(t.Context(), &grpc.StreamDesc{ServerStreams: true}, "/test.Ticks/Watch")
		require.NoError(t, err)
		require.NoError(t, s.SendMsg(&grpc_testing.Empty{}))
		require.NoError(t, s.CloseSend())
		n := -1
		for ; err == nil; n++ {
			err = s.RecvMsg(&grpc_testing.Empty{})
		}
		assert.Less(t, n, 1000)
		assert.Equal(t, map[string]codes.Code{oneListener: codes.Internal, twoListeners: codes.Unauthenticated}[kind], status.Code(err), "%v", err)
		assert.Equal(t, map[string]codes.Code{oneListener: codes.OK, twoListeners: codes.Unauthenticated}[kind], status.Code(<-ended))
	})
}

// TestLostPanic: grpc-go runs handlers in goroutines of its own, where the
// chain cannot catch their panics. grpcmesh stands in there.
func TestLostPanic(t *testing.T) {
	if kind := os.Getenv("ONEPORT_PANIC"); kind != "" {
		r := run(t, harness.Enter(t), kind, options{rpc: []grpc.ServerOption{grpc.ChainUnaryInterceptor(
			func(context.Context, any, *grpc.UnaryServerInfo, grpc.UnaryHandler) (any, error) {
				panic("a bug of the service")
			})}})
		_, err := grpc_testing.NewTestServiceClient(r).UnaryCall(t.Context(), &grpc_testing.SimpleRequest{})
		assert.Equal(t, codes.Internal, status.Code(err))
		return
	}
	for _, kind := range []string{oneListener, twoListeners} {
		cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestLostPanic$")
		cmd.Env = append(os.Environ(), "ONEPORT_PANIC="+kind)
		out, err := cmd.CombinedOutput()
		if kind == twoListeners {
			assert.NoError(t, err, "%s", out)
			continue
		}
		var exit *exec.ExitError
		assert.ErrorAs(t, err, &exit)
		assert.Contains(t, string(out), "panic: a bug of the service", "the process is gone")
	}
}

// open opens a stream and sees that it works.
func open(t *testing.T, r running) grpc.BidiStreamingClient[grpc_testing.StreamingOutputCallRequest, grpc_testing.StreamingOutputCallResponse] {
	t.Helper()
	s, err := grpc_testing.NewTestServiceClient(r).FullDuplexCall(t.Context())
	require.NoError(t, err)
	require.NoError(t, ping(s))
	return s
}

func ping(s grpc.BidiStreamingClient[grpc_testing.StreamingOutputCallRequest, grpc_testing.StreamingOutputCallResponse]) error {
	if err := s.Send(&grpc_testing.StreamingOutputCallRequest{}); err != nil && err != io.EOF {
		return err
	}
	_, err := s.Recv()
	return err
}

// TestShutdown: of one listener, it is http.Server.Shutdown that waits.
func TestShutdown(t *testing.T) {
	f := harness.Enter(t)
	begun := make(chan struct{})
	r := run(t, f, oneListener, options{http: func(s *http.Server) { s.RegisterOnShutdown(func() { close(begun) }) }})
	s := open(t, r)
	ended := make(chan error, 1)
	go func() { ended <- r.web.Shutdown(context.WithoutCancel(t.Context())) }()
	<-begun
	require.NoError(t, ping(s))
	require.NoError(t, s.CloseSend())
	_, err := s.Recv()
	assert.ErrorIs(t, err, io.EOF)
	assert.NoError(t, <-ended)
}

func TestLostGracefulStop(t *testing.T) {
	each(t, func(t *testing.T, f *harness.Folder, kind string) {
		r := run(t, f, kind, options{})
		s := open(t, r)
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			r.rpc.GracefulStop()
		}()
		if kind == oneListener {
			<-ended
			assert.Error(t, ping(s), "cut off")
			return
		}
		refused := func() bool { // new calls are, as soon as the stop has begun
			_, err := grpc_testing.NewTestServiceClient(r).UnaryCall(t.Context(), &grpc_testing.SimpleRequest{})
			return status.Code(err) == codes.Unavailable
		}
		for !refused() {
		}
		require.NoError(t, ping(s))
		require.NoError(t, s.CloseSend())
		_, err := s.Recv()
		assert.ErrorIs(t, err, io.EOF)
		<-ended
	})
}

func TestLostConnectionAge(t *testing.T) {
	addrs := func(t *testing.T, f *harness.Folder, kind string) func() string {
		var mu sync.Mutex
		var last string
		r := run(t, f, kind, options{rpc: []grpc.ServerOption{
			grpc.KeepaliveParams(keepalive.ServerParameters{MaxConnectionAge: 50 * time.Millisecond}),
			grpc.UnaryInterceptor(func(ctx context.Context, req any, _ *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
				p, _ := peer.FromContext(ctx)
				mu.Lock()
				last = p.Addr.String()
				mu.Unlock()
				return next(ctx, req)
			}),
		}})
		return func() string {
			_, err := grpc_testing.NewTestServiceClient(r).UnaryCall(t.Context(), &grpc_testing.SimpleRequest{}, grpc.WaitForReady(true))
			require.NoError(t, err)
			mu.Lock()
			defer mu.Unlock()
			return last
		}
	}
	f := harness.Enter(t)
	one, two := addrs(t, f, oneListener), addrs(t, f, twoListeners)
	first, firstOfTwo, changes := one(), two(), 0
	for changes < 3 { // ages of the one that has them
		if addr := two(); addr != firstOfTwo {
			firstOfTwo = addr
			changes++
		}
		assert.Equal(t, first, one(), "the same connection")
	}
}

func TestLostConcurrency(t *testing.T) {
	f := harness.Enter(t)
	r := run(t, f, oneListener, options{rpc: []grpc.ServerOption{grpc.MaxConcurrentStreams(1)}})
	first, second := open(t, r), open(t, r) // at the same time
	require.NoError(t, ping(first))
	require.NoError(t, ping(second))
	for _, s := range []grpc.ClientStream{first, second} {
		require.NoError(t, s.CloseSend())
		assert.ErrorIs(t, s.RecvMsg(&grpc_testing.StreamingOutputCallResponse{}), io.EOF)
	}

	// http.Server has the same limit.
	r = run(t, f, oneListener, options{http: func(s *http.Server) { s.HTTP2 = &http.HTTP2Config{MaxConcurrentStreams: 1} }})
	first = open(t, r)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	_, err := grpc_testing.NewTestServiceClient(r).UnaryCall(ctx, &grpc_testing.SimpleRequest{})
	assert.Equal(t, codes.DeadlineExceeded, status.Code(err))
	require.NoError(t, first.CloseSend())
	assert.ErrorIs(t, first.RecvMsg(&grpc_testing.StreamingOutputCallResponse{}), io.EOF)
}

type connCounter struct{ n atomic.Int64 }

func (c *connCounter) TagRPC(ctx context.Context, _ *stats.RPCTagInfo) context.Context   { return ctx }
func (c *connCounter) HandleRPC(context.Context, stats.RPCStats)                         {}
func (c *connCounter) TagConn(ctx context.Context, _ *stats.ConnTagInfo) context.Context { return ctx }
func (c *connCounter) HandleConn(_ context.Context, s stats.ConnStats) {
	if _, ok := s.(*stats.ConnBegin); ok {
		c.n.Add(1)
	}
}

func TestLostConnections(t *testing.T) {
	each(t, func(t *testing.T, f *harness.Folder, kind string) {
		c := &connCounter{}
		r := run(t, f, kind, options{rpc: []grpc.ServerOption{grpc.StatsHandler(c)}})
		for range 3 {
			_, err := grpc_testing.NewTestServiceClient(r).UnaryCall(t.Context(), &grpc_testing.SimpleRequest{})
			require.NoError(t, err)
		}
		assert.Equal(t, map[string]int64{oneListener: 3, twoListeners: 1}[kind], c.n.Load(), "one connection")
	})
}

func TestLostWriteTimeout(t *testing.T) {
	f := harness.Enter(t)
	r := run(t, f, oneListener, options{http: func(s *http.Server) { s.WriteTimeout = 50 * time.Millisecond }})
	s, err := grpc_testing.NewTestServiceClient(r).StreamingOutputCall(t.Context(), &grpc_testing.StreamingOutputCallRequest{Payload: harness.Payload("wait")})
	require.NoError(t, err)
	_, err = s.Recv()
	assert.Equal(t, codes.Internal, status.Code(err), "%v", err)
}
