package breaker

import (
	"context"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"

	"github.com/gatemesh-go/gatemesh"
	"github.com/gatemesh-go/gatemesh/grpcmesh"
)

// meshed is an Entry to which everybody with TLS is a peer.
func meshed(t testing.TB) *gatemesh.Entry {
	t.Helper()
	peer, err := gatemesh.NewPeer("cluster.local", "/ns/a/sa/b", nil)
	require.NoError(t, err)
	entry, err := gatemesh.NewEntry(gatemesh.EntryConfig{Peer: func(*tls.ConnectionState) (*gatemesh.Peer, error) { return peer, nil }})
	require.NoError(t, err)
	return entry
}

func chainOf(t testing.TB, layers ...gatemesh.Layer) *gatemesh.Chain {
	t.Helper()
	c, err := gatemesh.NewChain(meshed(t), layers...)
	require.NoError(t, err)
	return c
}

// hops is how often each service of a chain was called, the front first.
type hops [4]atomic.Int64

// serveChain serves four services, of which each calls the next with layers of
// its own, and the last one is down. It returns the front's URL and a client.
func serveChain(t *testing.T, n *hops, layers func() []gatemesh.Layer) (string, *http.Client) {
	t.Helper()
	var next string
	var client *http.Client
	for i := len(n) - 1; i >= 0; i-- {
		handler := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusServiceUnavailable) })
		if url := next; url != "" {
			caller := &http.Client{Transport: outbound(t, layers()...).Transport(client.Transport)}
			handler = func(w http.ResponseWriter, r *http.Request) {
				out, err := http.NewRequestWithContext(r.Context(), http.MethodGet, url, nil)
				if !assert.NoError(t, err) {
					return
				}
				resp, err := caller.Do(out)
				if err != nil {
					w.WriteHeader(http.StatusServiceUnavailable)
					return
				}
				_, _ = io.Copy(io.Discard, resp.Body)
				_ = resp.Body.Close()
				w.WriteHeader(resp.StatusCode)
			}
		}
		counted := func(w http.ResponseWriter, r *http.Request) { n[i].Add(1); handler(w, r) }
		s := httptest.NewTLSServer(chainOf(t).Handler(http.HandlerFunc(counted)))
		t.Cleanup(s.Close)
		next, client = s.URL, s.Client()
	}
	return next, client
}

// TestF09_OneLayerRetries: four services, of which each retries, multiply
// nothing: the first does, and the others leave it to it.
func TestF09_OneLayerRetries(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		change      func(*RetryConfig)
		least, most float64
	}{
		"one layer": {func(*RetryConfig) {}, 1.05, 1.1},
		"each":      {func(c *RetryConfig) { c.DespiteCaller = true }, 1.2, 1.5}, // so the test can fail
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			const calls = 600
			var n hops
			url, client := serveChain(t, &n, func() []gatemesh.Layer {
				return []gatemesh.Layer{newRetry(t, test.change, func(c *RetryConfig) {
					c.BackoffBase, c.BackoffMax = time.Millisecond, time.Millisecond
				}).Layer()}
			})
			var wg sync.WaitGroup
			for range 4 {
				wg.Go(func() {
					for range calls / 4 {
						resp, err := client.Get(url)
						if assert.NoError(t, err) {
							assert.Equal(t, 503, resp.StatusCode)
							_ = resp.Body.Close()
						}
					}
				})
			}
			wg.Wait()
			assert.EqualValues(t, calls, n[0].Load())
			assert.GreaterOrEqual(t, float64(n[3].Load()), test.least*calls)
			assert.LessOrEqual(t, float64(n[3].Load()), test.most*calls)
		})
	}
}

// TestF09_OneLayerRetries_GRPC is the same for gRPC.
func TestF09_OneLayerRetries_GRPC(t *testing.T) {
	t.Parallel()
	const calls = 600 // of which a tenth is what a destination is lent at first
	var n hops
	var said [len(n)]told // of the first call
	ca := httptest.NewTLSServer(http.NotFoundHandler())
	t.Cleanup(ca.Close)
	front := healthpb.HealthClient(nil)
	dial := func(addr string, opts ...grpc.DialOption) healthpb.HealthClient {
		config := ca.Client().Transport.(*http.Transport).TLSClientConfig.Clone()
		config.ServerName = "example.com"
		conn, err := grpc.NewClient(addr, append(opts, grpc.WithTransportCredentials(credentials.NewTLS(config)))...)
		require.NoError(t, err)
		t.Cleanup(func() { _ = conn.Close() })
		return healthpb.NewHealthClient(conn)
	}
	var addr string
	for i := len(n) - 1; i >= 0; i-- {
		s := &callee{}
		s.set(code(codes.Unavailable))
		if addr != "" {
			client, err := grpcmesh.NewClient(outbound(t, newRetry(t, func(c *RetryConfig) {
				c.Idempotent = func(*gatemesh.Call) bool { return true }
				c.BackoffBase, c.BackoffMax = time.Millisecond, time.Millisecond
			}).Layer()))
			require.NoError(t, err)
			next := dial(addr, client.Options()...)
			s.set(func(ctx context.Context) error {
				_, err := next.Check(ctx, &healthpb.HealthCheckRequest{})
				return err
			})
		}
		server, err := grpcmesh.NewServer(chainOf(t))
		require.NoError(t, err)
		g := grpc.NewServer(append(server.Options(), grpc.Creds(credentials.NewServerTLSFromCert(&ca.TLS.Certificates[0])),
			grpc.ChainUnaryInterceptor(func(ctx context.Context, req any, _ *grpc.UnaryServerInfo, h grpc.UnaryHandler) (any, error) {
				if n[i].Add(1) <= 3 {
					said[i].add(gatemesh.FromContext(ctx).Hop().String())
				}
				return h(ctx, req)
			}))...)
		healthpb.RegisterHealthServer(g, s)
		l, err := net.Listen("tcp", "127.0.0.1:0")
		require.NoError(t, err)
		done := make(chan struct{})
		go func() { defer close(done); _ = g.Serve(l) }() // ends with Stop
		t.Cleanup(func() { g.Stop(); <-done })
		addr = l.Addr().String()
	}
	front = dial(addr)
	for range calls {
		assert.Equal(t, codes.Unavailable, check(t.Context(), front))
	}
	assert.EqualValues(t, calls, n[0].Load())
	for i := 1; i < len(n); i++ {
		assert.Equal(t, []string{"retries=2", "attempt=2, retries=1", "attempt=3, retries=0"}, said[i].take(), i)
	}
	assert.GreaterOrEqual(t, float64(n[3].Load()), 1.05*calls)
	assert.LessOrEqual(t, float64(n[3].Load()), 1.1*calls)
}

// A client from outside cannot keep a service from retrying.
func TestF09_OutsideHasNoSay(t *testing.T) {
	t.Parallel()
	for name, peer := range map[string]bool{"a peer": true, "a client": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				u := newUpstream(status(503))
				rt := outbound(t, newRetry(t).Layer()).Transport(u)
				r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/", nil)
				r.Header.Set(gatemesh.HopHeader, "attempt=2, retries=1")
				if peer {
					r.TLS = &tls.ConnectionState{}
				}
				chainOf(t).Handler(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
					_, _ = send(t, rt, request(r.Context(), "b"))
				})).ServeHTTP(httptest.NewRecorder(), r)
				if peer {
					assert.EqualValues(t, 1, u.attempts.Load())
				} else {
					assert.EqualValues(t, 3, u.attempts.Load())
				}
			})
		})
	}
}

// A callee is told that it is retried only of calls that are: what else fails, it
// may try again behind us.
func TestRetriesAreAnnounced(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		for _, test := range []struct {
			method string
			most   int
			want   string
		}{{"GET", 3, "retries=2"}, {"GET", 1, ""}, {"POST", 3, ""}} {
			u := newUpstream(func(r *http.Request) (*http.Response, error) {
				assert.Equal(t, test.want, r.Header.Get(gatemesh.HopHeader), test)
				return status(200)(r)
			})
			r := request(t.Context(), "a")
			r.Method = test.method
			_, _ = send(t, outbound(t, newRetry(t, func(c *RetryConfig) { c.MaxAttempts = test.most }).Layer()).Transport(u), r)
			assert.EqualValues(t, 1, u.attempts.Load())
		}
	})
}

// Who says "no" is not called again, over HTTP and gRPC.
func TestRetryHeader(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		for value, attempts := range map[string]int64{"no": 1, "yes": 3, "NO": 3} {
			u := newUpstream(status(503, gatemesh.RetryHeader, value))
			_, _ = send(t, outbound(t, newRetry(t).Layer()).Transport(u), request(t.Context(), "a"))
			assert.Equal(t, attempts, u.attempts.Load(), value)
		}
		u := newUpstream(status(503, gatemesh.RetryHeader, "no", gatemesh.RetryHeader, "x"))
		_, _ = send(t, outbound(t, newRetry(t).Layer()).Transport(u), request(t.Context(), "a"))
		assert.EqualValues(t, 3, u.attempts.Load(), "of two values, none holds")
	})
}

func TestRetryHeader_GRPC(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		refusal  *gatemesh.Denial
		attempts int64
	}{
		"no":           {gatemesh.Deny(gatemesh.Unavailable, "busy", "Busy.").WithField(gatemesh.RetryHeader, "no"), 1},
		"a long wait":  {gatemesh.Deny(gatemesh.Unavailable, "busy", "Busy.").WithRetryAfter(time.Minute), 1},
		"nothing said": {gatemesh.Deny(gatemesh.Unavailable, "busy", "Busy."), 3},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := &callee{}
			s.set(func(context.Context) error { return grpcmesh.Status(test.refusal).Err() })
			client := connectGRPC(t, s, newRetry(t, func(c *RetryConfig) {
				c.Idempotent = func(*gatemesh.Call) bool { return true }
			}).Layer())
			assert.Equal(t, codes.Unavailable, check(t.Context(), client))
			assert.Equal(t, test.attempts, s.calls.Load())
		})
	}
}

// The deadline that the caller of a service has holds in the service, and goes
// on from there, less the time spent.
func TestDeadlineInbound(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		hop       string
		peer      bool
		spent     time.Duration
		unbounded bool
		want      time.Duration // for the handler; 0 is none
		sent      string
		status    int
	}{
		"nothing said":       {peer: true, want: 10 * time.Second, sent: "timeout=10000"},
		"shorter":            {hop: "timeout=2000", peer: true, want: 2 * time.Second, sent: "timeout=2000"},
		"longer":             {hop: "timeout=20000", peer: true, want: 10 * time.Second, sent: "timeout=10000"},
		"not a peer":         {hop: "timeout=2000", want: 10 * time.Second, sent: "timeout=10000"},
		"time spent":         {hop: "timeout=2000", peer: true, spent: 500 * time.Millisecond, want: 1500 * time.Millisecond, sent: "timeout=1500"},
		"too late":           {hop: "timeout=2000", peer: true, spent: 2 * time.Second, status: 504},
		"unbounded":          {unbounded: true},
		"unbounded, asked":   {hop: "timeout=20000", peer: true, unbounded: true, want: 20 * time.Second, sent: "timeout=20000"},
		"unbounded, outside": {hop: "timeout=20000", unbounded: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				cfg := DeadlineConfig{Timeout: 10 * time.Second}
				if test.unbounded {
					cfg.Unbounded = func(*gatemesh.Call) bool { return true }
				}
				d, err := NewDeadline(cfg)
				require.NoError(t, err)
				var sent string
				rt := outbound(t).Transport(newUpstream(func(r *http.Request) (*http.Response, error) {
					sent = r.Header.Get(gatemesh.HopHeader)
					return status(200)(r)
				}))
				slow := gatemesh.Layer{Name: "slow", Gate: gatemesh.GateFunc(func(context.Context, *gatemesh.Call) (gatemesh.Admission, error) {
					time.Sleep(test.spent)
					return gatemesh.Admission{}, nil
				})}
				r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/", nil)
				if test.hop != "" {
					r.Header.Set(gatemesh.HopHeader, test.hop)
				}
				if test.peer {
					r.TLS = &tls.ConnectionState{}
				}
				w := httptest.NewRecorder()
				var left time.Duration
				chainOf(t, slow, d.Layer()).Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					if end, ok := r.Context().Deadline(); ok {
						left = time.Until(end)
						assert.Equal(t, end, gatemesh.FromContext(r.Context()).Deadline())
					}
					_, _ = send(t, rt, request(r.Context(), "b"))
				})).ServeHTTP(w, r)
				assert.Equal(t, max(200, test.status), w.Code)
				assert.Equal(t, test.want, left)
				assert.Equal(t, test.sent, sent)
			})
		})
	}
}

// A handler that gives up when its time is over is no success.
func TestDeadlineInbound_GivenUp(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d, err := NewDeadline(DeadlineConfig{Timeout: time.Second})
		require.NoError(t, err)
		w := httptest.NewRecorder()
		chainOf(t, d.Layer()).Handler(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })).
			ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/", nil))
		assert.Equal(t, 504, w.Code)
	})
}

// grpc-go carries deadlines in grpc-timeout by itself; ours bounds them.
func TestDeadline_GRPC(t *testing.T) {
	t.Parallel()
	d, err := NewDeadline(DeadlineConfig{Timeout: time.Hour})
	require.NoError(t, err)
	short, err := NewDeadline(DeadlineConfig{Timeout: 5 * time.Second})
	require.NoError(t, err)
	for name, inner := range map[string]*Deadline{"of the caller": d, "of the callee": short} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server, err := grpcmesh.NewServer(chainOf(t, inner.Layer()))
			require.NoError(t, err)
			s := &callee{}
			var left time.Duration
			var hop []string
			s.set(func(ctx context.Context) error {
				end, _ := ctx.Deadline()
				left = time.Until(end)
				md, _ := metadata.FromIncomingContext(ctx)
				hop = md["x-gatemesh-hop"]
				return nil
			})
			client := connectGRPCTo(t, s, server.Options(), d.Layer())
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			require.Equal(t, codes.OK, check(ctx, client))
			most := time.Minute
			if inner == short {
				most = 5 * time.Second
			}
			assert.True(t, 0 < left && left <= most, "%v", left)
			assert.Empty(t, hop, "grpc-timeout says it already")
		})
	}
}

// The deadline of an inbound layer is ours: a callee that does not answer
// within it is down.
func TestBR01_OwnInboundDeadline(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		hop  string
		want State
	}{"ours": {want: Open}, "the caller's": {"timeout=2000", Closed}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				d, err := NewDeadline(DeadlineConfig{Timeout: 3 * time.Second})
				require.NoError(t, err)
				g := newGate(t)
				rt := outbound(t, g.Layer()).Transport(newUpstream(blackHole))
				h := chainOf(t, d.Layer()).Handler(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
					_, _ = send(t, rt, request(r.Context(), "b"))
				}))
				for range 6 {
					r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/", nil)
					r.TLS = &tls.ConnectionState{}
					if test.hop != "" {
						r.Header.Set(gatemesh.HopHeader, test.hop)
					}
					h.ServeHTTP(httptest.NewRecorder(), r)
				}
				assert.Equal(t, test.want, g.State(service("b")))
			})
		})
	}
}
