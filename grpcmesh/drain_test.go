package grpcmesh_test

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/gatemesh-go/gatemesh"
	"github.com/gatemesh-go/gatemesh/grpcmesh"
	"github.com/gatemesh-go/gatemesh/mtls"
	"github.com/gatemesh-go/gatemesh/mtls/devca"
	"github.com/gatemesh-go/gatemesh/routing/pool"
	"github.com/gatemesh-go/gatemesh/serve"
)

// served is a gRPC server of package serve, on a real port.
type served struct {
	*grpc.Server
	addr  string
	calls atomic.Int64 // that have ended
	long  atomic.Int64 // calls that have begun

	release chan struct{} // ends them
	began   chan struct{} // closed when GracefulStop is called
	cancel  context.CancelFunc
	done    chan error
}

func (s *served) GracefulStop() {
	close(s.began)
	s.Server.GracefulStop()
}

const longKey = "x-long" // marks calls that last until they are released

func serveRPC(t *testing.T, drain time.Duration, opts ...grpc.ServerOption) *served {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	s := &served{
		Server: grpc.NewServer(opts...), addr: l.Addr().String(),
		release: make(chan struct{}), began: make(chan struct{}), done: make(chan error, 1),
	}
	// What it says first tells the callers of streams who answers.
	b := &backend{}
	b.do(func(ctx context.Context, ss grpc.ServerStream) error {
		defer s.calls.Add(1)
		if err := grpc.SendHeader(ctx, metadata.Pairs("x-addr", s.addr)); err != nil {
			return err
		}
		if md, _ := metadata.FromIncomingContext(ctx); ss == nil && md.Get(longKey) != nil {
			s.long.Add(1)
			select {
			case <-s.release:
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		return echo(ctx, ss)
	})
	b.register(s.Server)
	ctx, cancel := context.WithCancel(context.Background())
	s.cancel = cancel
	t.Cleanup(cancel)
	go func() {
		s.done <- serve.Run(ctx, serve.Config{
			Servers: []serve.Server{{Name: "rpc", Listener: l, GRPC: s}}, Drain: drain, Logger: slog.New(slog.DiscardHandler),
		})
	}()
	return s
}

// load makes calls until it is ended, each once: what else is tried is up to
// the connection.
type load struct {
	calls, failed atomic.Int64
	first         atomic.Pointer[error]
	end           chan struct{}
	once          sync.Once
	done          sync.WaitGroup
}

func (l *load) stop() {
	l.once.Do(func() { close(l.end) })
	l.done.Wait()
}

func (l *load) each(pace time.Duration, call func() error) {
	l.done.Go(func() {
		tick := time.NewTicker(pace)
		defer tick.Stop()
		for {
			if err := call(); err != nil {
				l.failed.Add(1)
				l.first.CompareAndSwap(nil, &err)
			}
			l.calls.Add(1)
			select {
			case <-l.end:
				return
			case <-tick.C:
			}
		}
	})
}

// exchange sends some messages over a stream and reads what they echo.
func exchange(s grpc.ClientStream, n int) error {
	for range n {
		if err := s.SendMsg(&message{Service: "x"}); err != nil && err != io.EOF {
			return err
		}
		if err := s.RecvMsg(&message{}); err != nil {
			return fmt.Errorf("in a stream: %w", err)
		}
	}
	return nil
}

func finished(s grpc.ClientStream) error {
	if err := s.CloseSend(); err != nil {
		return err
	}
	if err := s.RecvMsg(&message{}); err != io.EOF {
		return fmt.Errorf("at the end of a stream: %w", err)
	}
	return nil
}

// streamAt opens streams until one is served at addr; the others end well.
func streamAt(t *testing.T, conn *grpc.ClientConn, addr string) grpc.ClientStream {
	t.Helper()
	for {
		s, err := conn.NewStream(t.Context(), &kinds.Streams[0], bidiMethod)
		require.NoError(t, err)
		h, err := s.Header()
		require.NoError(t, err)
		if h.Get("x-addr")[0] == addr {
			return s
		}
		require.NoError(t, finished(s))
	}
}

// rollout is a service of two servers under load, of which one after the other
// is stopped. What is stopped stays in the list of endpoints until it has gone.
type rollout struct {
	*load
	serve func(drain time.Duration) *served
	list  *book
	pool  *pool.Pool
	conn  *grpc.ClientConn
	all   []*served
	long  sync.WaitGroup // the long calls
}

func newRollout(t *testing.T, secure bool) *rollout {
	t.Helper()
	r := &rollout{load: &load{end: make(chan struct{})}, list: new(book)}
	t.Cleanup(r.load.stop) // of a test that has failed
	var opts []grpc.ServerOption
	var with grpcmesh.DialConfig
	if secure {
		ca := gatemesh.Must(devca.New("td.example"))
		var them *mtls.TLS
		_, them = join(t, ca, "callee")
		_, with.TLS = join(t, ca, "caller")
		opts = append(opts, grpc.Creds(grpcmesh.Credentials(them, nil)))
	}
	r.serve = func(drain time.Duration) *served { return serveRPC(t, drain, opts...) }
	r.all = []*served{r.serve(0), r.serve(0)}
	r.pool = newPool(t, r.list)
	r.tell(nil)
	require.NoError(t, r.pool.WaitReady(t.Context()))
	r.conn = dialTo(t, r.pool, with)

	for i := range 8 {
		r.each(2*time.Millisecond, func() error {
			if i%4 == 0 { // a stream that is not over at once
				s, err := r.conn.NewStream(t.Context(), &kinds.Streams[0], bidiMethod)
				if err != nil {
					return err
				}
				if err := exchange(s, 20); err != nil {
					return err
				}
				return finished(s)
			}
			_, err := call(t.Context(), r.conn, checkMethod)
			return err
		})
	}
	r.each(10*time.Millisecond, func() error { // a new connection for each call
		conn, err := grpcmesh.Dial(grpcmesh.DialConfig{
			Service: "callee:50051", Outbound: outbound(nil), Pool: r.pool,
			TLS: with.TLS, InsecurePlainText: !secure, Callee: callee(secure),
		})
		if err != nil {
			return err
		}
		defer conn.Close()
		_, err = call(t.Context(), conn, checkMethod)
		return err
	})
	return r
}

func callee(secure bool) mtls.Authorizer {
	if !secure {
		return nil
	}
	return gatemesh.Must(mtls.Exactly(spiffe("callee")))
}

// tell lists the servers, and gone.
func (r *rollout) tell(gone *served) {
	var addrs []string
	for _, s := range r.all {
		addrs = append(addrs, s.addr)
	}
	if gone != nil {
		addrs = append(addrs, gone.addr)
	}
	r.list.set(r.pool, addrs...)
}

// busy waits until each server has ended some more calls.
func (r *rollout) busy(t *testing.T) {
	t.Helper()
	for _, s := range r.all {
		n := s.calls.Load()
		eventually(t, "no load at one server", func() bool { return s.calls.Load() >= n+20 })
	}
}

// hold makes long calls until s has n of them.
func (r *rollout) hold(t *testing.T, s *served, n int64) {
	t.Helper()
	held := func() (sum int64) {
		for _, s := range append(r.all[:len(r.all):len(r.all)], s) {
			sum += s.long.Load()
		}
		return sum
	}
	for s.long.Load() < n {
		before := held()
		r.long.Go(func() {
			_, err := call(t.Context(), r.conn, checkMethod, longKey, "1")
			assert.NoError(t, err, "a long call")
		})
		eventually(t, "the call has not begun", func() bool { return held() > before })
	}
}

// stop ends the load and everything else.
func (r *rollout) stop(t *testing.T) {
	r.load.stop()
	for _, s := range r.all {
		close(s.release)
	}
	r.long.Wait()
	require.NoError(t, r.conn.Close())
	for _, s := range r.all {
		s.cancel()
		assert.NoError(t, <-s.done)
	}
	var first error
	if p := r.first.Load(); p != nil {
		first = *p
	}
	assert.Zero(t, r.failed.Load(), "of %d calls, the first with: %v", r.calls.Load(), first)
	t.Logf("%d calls", r.calls.Load())
}

// PX08, F08: gRPC servers are stopped by serve under load, one after the other
// as in a rollout. No call fails, neither long ones nor streams, and each server
// ends within its deadline.
func TestPX08_GRPCDrain(t *testing.T) {
	for _, secure := range []bool{false, true} {
		t.Run(fmt.Sprintf("TLS %v", secure), func(t *testing.T) {
			r := newRollout(t, secure)
			for i := range 4 { // F08 is -count=3, or more
				old := r.all[0]
				r.all = append(r.all[1:], r.serve(0))
				r.tell(old)
				r.busy(t)
				stream := streamAt(t, r.conn, old.addr)
				r.hold(t, old, 3)
				old.cancel()
				<-old.began
				_, err := net.Dial("tcp", old.addr)
				require.Error(t, err, "the listener is closed")
				r.busy(t) // the others take over
				require.NoError(t, exchange(stream, 20), "a stream goes on")
				require.NoError(t, finished(stream))
				close(old.release)
				require.NoError(t, <-old.done, "round %d: done within the deadline", i)
				r.tell(nil)
			}
			r.stop(t)
		})
	}
}

// PX08: a stream that does not end is cut at the deadline, and only that.
func TestPX08_GRPCDrainDeadline(t *testing.T) {
	const drain = 2 * time.Second
	r := newRollout(t, true)
	old := r.serve(drain)
	r.all = append(r.all, old)
	r.tell(nil)
	r.busy(t)
	stream := streamAt(t, r.conn, old.addr)
	r.all = r.all[:len(r.all)-1]
	before := time.Now()
	old.cancel()
	<-old.began
	ended := make(chan error, 1)
	go func() {
		for {
			if err := exchange(stream, 1); err != nil {
				ended <- err
				return
			}
		}
	}()
	var err error
	select {
	case err = <-old.done:
	case <-time.After(30 * time.Second):
		require.FailNow(t, "the stream is not cut")
	}
	took := time.Since(before)
	require.ErrorIs(t, err, context.DeadlineExceeded)
	require.EqualError(t, err, "serve: rpc: drain: context deadline exceeded")
	assert.GreaterOrEqual(t, took, drain)
	assert.Equal(t, codes.Unavailable, status.Code(<-ended))
	r.tell(nil)
	r.busy(t)
	r.stop(t)
}
