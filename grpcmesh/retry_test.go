package grpcmesh_test

import (
	"context"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
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
	"github.com/gatemesh-go/gatemesh/mtls/devca"
	"github.com/gatemesh-go/gatemesh/routing/pool"
)

// upTo is a Retrier that tries Unavailable calls so many times.
type upTo int

func (n upTo) Retry(_ context.Context, c *gatemesh.Call, a gatemesh.Attempt) (time.Duration, bool) {
	return 0, a.Code == gatemesh.Unavailable && c.Attempt() < int(n)
}

// ends notes how the calls that it judges end.
type ends struct {
	mu  sync.Mutex
	all []gatemesh.Outcome
}

func (e *ends) Admit(_ context.Context, c *gatemesh.Call) (gatemesh.Admission, error) {
	return gatemesh.Admission{Finish: e, Header: []gatemesh.Field{{Name: "X-Attempt", Value: strconv.Itoa(c.Attempt())}}}, nil
}

func (e *ends) Finish(_ *gatemesh.Call, o gatemesh.Outcome) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.all = append(e.all, o)
}

// take returns what was noted since the last take.
func (e *ends) take() []gatemesh.Outcome {
	e.mu.Lock()
	defer e.mu.Unlock()
	all := e.all
	e.all = nil
	return all
}

// retried returns an Outbound that tries up to three times, and what is noted
// of its calls and of their attempts.
func retried() (out *gatemesh.Outbound, calls, attempts *ends) {
	calls, attempts = &ends{}, &ends{}
	return outbound(nil,
		gatemesh.Layer{Name: "calls", Gate: calls},
		gatemesh.Layer{Name: "retry", Retry: upTo(3)},
		gatemesh.Layer{Name: "attempts", Gate: attempts},
	), calls, attempts
}

// TestDialRetries: each attempt goes to another endpoint and carries metadata
// of its own.
func TestDialRetries(t *testing.T) {
	t.Parallel()
	all := backends(t, 3)
	p := newPool(t, pool.Static(addrs(all...)...))
	out, calls, attempts := retried()
	conn := dialTo(t, p, grpcmesh.DialConfig{Outbound: out})
	connected(t, conn, all...)
	calls.take()
	attempts.take()
	var mu sync.Mutex
	var got []string
	for _, b := range all {
		b.do(func(ctx context.Context, _ grpc.ServerStream) error {
			mu.Lock()
			defer mu.Unlock()
			got = append(got, strings.Join(metadata.ValueFromIncomingContext(ctx, "x-attempt"), ","))
			if len(got)%3 != 0 {
				return status.Error(codes.Unavailable, "not now")
			}
			return nil
		})
	}
	for range 3 {
		_, err := call(t.Context(), conn, checkMethod)
		require.NoError(t, err)
		assert.Equal(t, []string{"1", "2", "3"}, got[len(got)-3:])
		tried := attempts.take()
		require.Len(t, tried, 3)
		var where []string
		for i, o := range tried {
			where = append(where, o.Endpoint)
			assert.Equal(t, i == 2, o.Code == gatemesh.OK)
			assert.True(t, i < 2 || o.Reached)
		}
		assert.ElementsMatch(t, addrs(all...), where)
		whole := calls.take()
		require.Len(t, whole, 1)
		assert.Equal(t, gatemesh.OK, whole[0].Code)
		assert.Equal(t, 3, whole[0].Attempts)
		assert.Equal(t, where[2], whole[0].Endpoint)
	}

	// When attempts run out, the last answer stands.
	for _, b := range all {
		b.do(func(context.Context, grpc.ServerStream) error { return status.Error(codes.Unavailable, "never") })
	}
	_, err := call(t.Context(), conn, checkMethod)
	assert.Equal(t, codes.Unavailable, status.Code(err))
	assert.Equal(t, "never", status.Convert(err).Message())
	assert.Len(t, attempts.take(), 3)
	require.Len(t, calls.take(), 1)

	// Nobody can take back what a stream has sent.
	for _, method := range []string{watchMethod, bidiMethod, sendMethod} {
		_, err := call(t.Context(), conn, method)
		assert.Equal(t, codes.Unavailable, status.Code(err))
		assert.Len(t, attempts.take(), 1, method)
		whole := calls.take()
		require.Len(t, whole, 1)
		assert.Equal(t, 1, whole[0].Attempts)
		assert.NotEmpty(t, whole[0].Endpoint)
	}
}

// TestDialServerDies: what was asked of a server that dies is asked of another
// one, and a stream ends.
func TestDialServerDies(t *testing.T) {
	t.Parallel()
	for _, method := range methods {
		t.Run(method, func(t *testing.T) {
			t.Parallel()
			all := backends(t, 3)
			var died atomic.Pointer[backend]
			for _, b := range all {
				b.do(func(ctx context.Context, _ grpc.ServerStream) error {
					if died.CompareAndSwap(nil, b) {
						go b.server.Stop()
						<-ctx.Done()
						return ctx.Err()
					}
					return nil
				})
			}
			p := newPool(t, pool.Static(addrs(all...)...))
			out, calls, attempts := retried()
			conn := dialTo(t, p, grpcmesh.DialConfig{Outbound: out})
			_, err := call(t.Context(), conn, method)
			eventually(t, "the call has ended", func() bool { calls.mu.Lock(); defer calls.mu.Unlock(); return len(calls.all) == 1 })
			tried, victim := attempts.take(), died.Load()
			assert.Equal(t, victim.addr, tried[0].Endpoint)
			assert.Equal(t, gatemesh.Unavailable, tried[0].Code)
			assert.Positive(t, statusOf(t, p, victim.addr).Failures)
			if method != checkMethod {
				assert.Equal(t, codes.Unavailable, status.Code(err))
				assert.Len(t, tried, 1)
				return
			}
			require.NoError(t, err)
			require.Len(t, tried, 2)
			assert.NotEqual(t, victim.addr, tried[1].Endpoint)
		})
	}
}

// TestLC03_DialMetadata: a gateway whose handler copies all that it received
// sends on neither the credential nor any identity that is not Outbound's, and
// none at all to others than the mesh.
func TestLC03_DialMetadata(t *testing.T) {
	t.Parallel()
	ca := gatemesh.Must(devca.New("td.example"))
	_, them := join(t, ca, "callee")
	_, us := join(t, ca, "caller")
	got := make(chan metadata.MD, 1)
	note := func(ctx context.Context, _ grpc.ServerStream) error {
		md, _ := metadata.FromIncomingContext(ctx)
		got <- md
		return nil
	}
	inside, outside := newBackend(t, grpc.Creds(grpcmesh.Credentials(them, nil))), newBackend(t)
	inside.do(note)
	outside.do(note)
	mesh := dialTo(t, newPool(t, pool.Static(inside.addr)), grpcmesh.DialConfig{TLS: us, Outbound: outbound(nil, stamps("ours"))})
	bare := dialTo(t, newPool(t, pool.Static(inside.addr)), grpcmesh.DialConfig{TLS: us})
	foreign := dialTo(t, newPool(t, pool.Static(outside.addr)), grpcmesh.DialConfig{Service: "api.example:443", Outbound: outbound(nil, stamps("ours"))})

	auth := gatemesh.Layer{Name: "auth", Gate: gatemesh.GateFunc(func(_ context.Context, c *gatemesh.Call) (gatemesh.Admission, error) {
		if _, ok := c.Header().Only("authorization"); !ok {
			return gatemesh.Admission{}, gatemesh.Deny(gatemesh.Unauthenticated, "invalid_credentials", "Say it once.")
		}
		return gatemesh.Admission{Consumed: []string{"Authorization"}}, nil
	})}
	var to atomic.Pointer[grpc.ClientConn]
	var asked atomic.Int64
	handle := func(ctx context.Context, _ grpc.ServerStream) error {
		asked.Add(1)
		md, _ := metadata.FromIncomingContext(ctx)
		md = md.Copy()
		delete(md, "content-type")
		for _, name := range []string{"x-gatemesh-identity", "x_gatemesh_identity", "x-gatemesh-identity-bin"} {
			md.Append(name, "evil", "evil")
		}
		md.Append("x-request-id", "evil")
		_, err := call(metadata.NewOutgoingContext(ctx, md), to.Load(), checkMethod)
		return err
	}
	gateway := connect(t, handle, newServer(gatemesh.EntryConfig{}, auth).Options())
	for _, method := range methods {
		for _, test := range []struct {
			name     string
			conn     *grpc.ClientConn
			identity []string
		}{{"mesh", mesh, []string{"ours"}}, {"mesh without identity", bare, nil}, {"elsewhere", foreign, nil}} {
			to.Store(test.conn)
			_, err := call(t.Context(), gateway, method, "authorization", "Bearer token",
				"x-gatemesh-identity", "evil", "x-gatemesh-identity", "evil", "x-gatemesh-identity-bin", "evil", "x-own", "kept")
			if method != sendMethod {
				require.NoError(t, err, test.name)
			}
			md := <-got
			for name, values := range md {
				if strings.Contains(strings.ReplaceAll(name, "_", "-"), "identity") {
					assert.Equal(t, "x-gatemesh-identity", name)
					assert.Equal(t, test.identity, values)
				}
			}
			assert.Len(t, md["x-gatemesh-identity"], len(test.identity), test.name)
			assert.Equal(t, []string{"kept"}, md["x-own"])
			if test.conn != foreign {
				assert.Empty(t, md["authorization"], test.name)
				require.Len(t, md["x-request-id"], 1)
				assert.NotEqual(t, "evil", md["x-request-id"][0])
			}
		}
		n := asked.Load()
		_, err := call(t.Context(), gateway, method, "authorization", "Bearer token", "authorization", "Bearer token")
		assert.Equal(t, codes.Unauthenticated, status.Code(err))
		assert.Equal(t, n, asked.Load())
	}
}

// TestDialSharesPool: what HTTP calls show of an endpoint counts for gRPC calls
// at the same addresses, and the other way round.
func TestDialSharesPool(t *testing.T) {
	t.Parallel()
	release := make(chan struct{})
	var hanging atomic.Int64
	all := make([]*backend, 3)
	for i := range all {
		b := &backend{server: grpc.NewServer()}
		b.do(echo)
		b.register(b.server)
		protocols := new(http.Protocols)
		protocols.SetHTTP1(true)
		protocols.SetUnencryptedHTTP2(true)
		web := &http.Server{Protocols: protocols, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			switch {
			case r.ProtoMajor == 2:
				b.server.ServeHTTP(w, r)
			case r.URL.Path == "/hang":
				hanging.Add(1)
				<-release
			}
		})}
		l, err := net.Listen("tcp", "127.0.0.1:0")
		require.NoError(t, err)
		b.addr, all[i] = l.Addr().String(), b
		served := make(chan struct{})
		go func() {
			defer close(served)
			_ = web.Serve(l) // ends with Close
		}()
		t.Cleanup(func() {
			b.server.Stop()
			_ = web.Close()
			<-served
		})
	}
	p := newPool(t, pool.Static(addrs(all...)...))
	conn := dialTo(t, p, grpcmesh.DialConfig{})
	base := &http.Transport{}
	t.Cleanup(base.CloseIdleConnections)
	client := &http.Client{Transport: p.Transport(base)}
	get := func(path string) error {
		r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://callee"+path, nil)
		if err != nil {
			return err
		}
		resp, err := client.Do(r)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		_, err = io.Copy(io.Discard, resp.Body)
		return err
	}
	connected(t, conn, all...)
	for range 20 {
		require.NoError(t, get("/"))
		_, err := call(t.Context(), conn, checkMethod)
		require.NoError(t, err)
	}

	// HTTP requests in flight count for gRPC.
	var wg sync.WaitGroup
	wg.Go(func() { assert.NoError(t, get("/hang")) })
	eventually(t, "it hangs", func() bool { return hanging.Load() == 1 })
	inFlight := 0
	for _, s := range p.Endpoints() {
		inFlight += s.InFlight
	}
	assert.Equal(t, 1, inFlight)
	close(release)
	wg.Wait()

	// An endpoint that gRPC calls have ejected gets no HTTP requests.
	all[0].do(func(context.Context, grpc.ServerStream) error { return status.Error(codes.Unavailable, "not now") })
	for statusOf(t, p, all[0].addr).EjectedUntil.IsZero() {
		_, _ = call(t.Context(), conn, checkMethod)
	}
	n := statusOf(t, p, all[0].addr).Failures
	for range 30 {
		require.NoError(t, get("/"))
	}
	assert.Equal(t, n, statusOf(t, p, all[0].addr).Failures, "a success would have cleared them")
}
