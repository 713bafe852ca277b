package breaker

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"

	"github.com/gatemesh-go/gatemesh"
)

func hedging(after time.Duration) func(*RetryConfig) {
	return func(c *RetryConfig) { c.Hedge.After = after }
}

// ends is a gate of attempts that notes how each of them ended.
type ends struct {
	mu       sync.Mutex
	admitted int
	all      []string
}

func (e *ends) Admit(_ context.Context, c *gatemesh.Call) (gatemesh.Admission, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.admitted++
	return gatemesh.Admission{Finish: e}, nil
}

func (e *ends) Finish(c *gatemesh.Call, o gatemesh.Outcome) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.all = append(e.all, fmt.Sprint(c.Attempt(), " ", o.Code))
}

func (e *ends) layer() gatemesh.Layer { return gatemesh.Layer{Name: "ends", Gate: e} }

// paced answers attempt i as answers[i] says, after its time.
type paced struct {
	after  time.Duration
	answer func(*http.Request) (*http.Response, error)
}

func pace(n *atomic.Int64, steps ...paced) func(*http.Request) (*http.Response, error) {
	return func(r *http.Request) (*http.Response, error) {
		s := steps[min(int(n.Add(1)), len(steps))-1]
		t := time.NewTimer(s.after)
		defer t.Stop()
		select {
		case <-t.C:
			return s.answer(r)
		case <-r.Context().Done():
			return nil, r.Context().Err()
		}
	}
}

func TestHedge(t *testing.T) {
	t.Parallel()
	const ms = time.Millisecond
	panics := func(*http.Request) (*http.Response, error) { panic("x") }
	for name, test := range map[string]struct {
		steps    []paced
		method   string
		change   func(*http.Request)
		retry    func(*RetryConfig)
		status   int
		took     time.Duration
		attempts int64
		ends     []string
		panics   bool
	}{
		"fast": {steps: []paced{{99 * ms, status(200)}}, status: 200, took: 99 * ms, attempts: 1, ends: []string{"1 ok"}},
		"the second wins": {steps: []paced{{time.Hour, status(200)}, {50 * ms, status(200)}}, status: 200, took: 150 * ms, attempts: 2,
			ends: []string{"1 canceled", "2 ok"}},
		"the first wins": {steps: []paced{{150 * ms, status(201)}, {time.Hour, status(200)}}, status: 201, took: 150 * ms, attempts: 2,
			ends: []string{"2 canceled", "1 ok"}},
		"an answer that is no success": {steps: []paced{{time.Hour, status(200)}, {50 * ms, status(404)}}, status: 404, took: 150 * ms, attempts: 2,
			ends: []string{"1 canceled", "2 not_found"}},
		"the second fails": {steps: []paced{{300 * ms, status(200)}, {50 * ms, status(503)}}, status: 200, took: 300 * ms, attempts: 2,
			ends: []string{"2 unavailable", "1 ok"}},
		"the first fails": {steps: []paced{{120 * ms, refusedConn}, {50 * ms, status(200)}}, status: 200, took: 150 * ms, attempts: 2,
			ends: []string{"1 unavailable", "2 ok"}},
		"both fail": {steps: []paced{{120 * ms, status(503)}, {50 * ms, status(504)}}, status: 504, took: 150 * ms, attempts: 2,
			ends:  []string{"1 unavailable", "2 deadline_exceeded"},
			retry: func(c *RetryConfig) { c.MaxAttempts = 2 }},
		"both fail, then a retry": {steps: []paced{{120 * ms, status(503)}, {50 * ms, status(503)}, {10 * ms, status(200)}}, status: 200, attempts: 3,
			ends: []string{"1 unavailable", "2 unavailable", "3 ok"}},
		"a panic of the second": {steps: []paced{{time.Hour, status(200)}, {50 * ms, panics}}, panics: true, took: 150 * ms, attempts: 2,
			ends: []string{"2 internal", "1 canceled"}},
		"a panic of the first": {steps: []paced{{150 * ms, panics}, {time.Hour, status(200)}}, panics: true, took: 150 * ms, attempts: 2,
			ends: []string{"1 internal", "2 canceled"}},
		"a panic after a failure": {steps: []paced{{120 * ms, status(503)}, {50 * ms, panics}}, panics: true, took: 150 * ms, attempts: 2,
			ends: []string{"2 internal", "1 canceled"}},
		"POST":             {steps: []paced{{time.Second, status(200)}}, method: "POST", status: 200, took: time.Second, attempts: 1, ends: []string{"1 ok"}},
		"once":             {steps: []paced{{time.Second, status(200)}}, retry: func(c *RetryConfig) { c.MaxAttempts = 1 }, status: 200, took: time.Second, attempts: 1, ends: []string{"1 ok"}},
		"an upgrade":       {steps: []paced{{time.Second, status(200)}}, change: func(r *http.Request) { r.Header.Set("Upgrade", "websocket") }, status: 200, took: time.Second, attempts: 1, ends: []string{"1 ok"}},
		"a body, replayed": {steps: []paced{{time.Hour, status(200)}, {0, status(200)}}, change: withBody(true), status: 200, took: 100 * ms, attempts: 2, ends: []string{"1 canceled", "2 ok"}},
		"a body, once":     {steps: []paced{{time.Second, status(200)}}, change: withBody(false), status: 200, took: time.Second, attempts: 1, ends: []string{"1 ok"}},
		"a body that is gone": {steps: []paced{{time.Second, status(200)}}, change: func(r *http.Request) {
			withBody(true)(r)
			r.GetBody = func() (io.ReadCloser, error) { return nil, errDown }
		}, status: 200, took: time.Second, attempts: 1, ends: []string{"2 canceled", "1 ok"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				var n atomic.Int64
				u, e := newUpstream(pace(&n, test.steps...)), &ends{}
				retry := test.retry
				if retry == nil {
					retry = func(*RetryConfig) {}
				}
				rt := outbound(t, newRetry(t, hedging(100*ms), retry).Layer(), e.layer()).Transport(u)
				r := request(t.Context(), "a")
				if test.method != "" {
					r.Method = test.method
				}
				if test.change != nil {
					test.change(r)
				}
				began := time.Now()
				if test.panics {
					assert.PanicsWithValue(t, "x", func() { _, _ = send(t, rt, r) })
				} else {
					code, err := send(t, rt, r)
					require.NoError(t, err)
					assert.Equal(t, test.status, code)
				}
				if test.took > 0 {
					assert.Equal(t, test.took, time.Since(began))
				}
				synctest.Wait()
				assert.Equal(t, test.attempts, u.attempts.Load())
				assert.Equal(t, u.opened.Load(), u.closed.Load(), "answers that nobody wants are closed")
				assert.Equal(t, test.ends, e.all)
				assert.Len(t, e.all, e.admitted)
			})
		})
	}
}

// withBody gives a PUT a body.
func withBody(again bool) func(*http.Request) {
	return func(r *http.Request) {
		r.Method = http.MethodPut
		r.Body = io.NopCloser(strings.NewReader("x"))
		if again {
			r.GetBody = func() (io.ReadCloser, error) { return io.NopCloser(strings.NewReader("x")), nil }
		}
	}
}

// An answer that comes although its attempt was cancelled is closed, too.
func TestHedgeLateAnswer(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var n atomic.Int64
		u := newUpstream(func(r *http.Request) (*http.Response, error) {
			if n.Add(1) == 1 {
				time.Sleep(time.Hour) // deaf to its context
			}
			return status(200)(r)
		})
		g := newGate(t)
		rt := outbound(t, newRetry(t, hedging(time.Millisecond)).Layer(), g.Layer()).Transport(u)
		code, err := send(t, rt, request(t.Context(), "a"))
		require.NoError(t, err)
		assert.Equal(t, 200, code)
		time.Sleep(2 * time.Hour)
		synctest.Wait()
		assert.EqualValues(t, 2, u.opened.Load())
		assert.EqualValues(t, 2, u.closed.Load())
	})
}

// The body of the winner can be read after the race, and the loser is not heard.
func TestHedgeBody(t *testing.T) {
	t.Parallel()
	var n atomic.Int64
	gone := make(chan struct{})
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if n.Add(1) == 1 {
			<-r.Context().Done()
			close(gone)
			return
		}
		_, _ = io.WriteString(w, strings.Repeat("x", 1<<20))
	}))
	defer s.Close()
	client := &http.Client{Transport: outbound(t, newRetry(t, hedging(time.Millisecond)).Layer()).Transport(s.Client().Transport)}
	resp, err := client.Get(s.URL)
	require.NoError(t, err)
	b, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	assert.Len(t, b, 1<<20)
	require.NoError(t, resp.Body.Close())
	<-gone
}

// Who leaves ends both attempts, at once.
func TestHedgeCallerLeaves(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		g, e := newGate(t), &ends{}
		u := newUpstream(blackHole)
		rt := outbound(t, newRetry(t, hedging(time.Millisecond)).Layer(), g.Layer(), e.layer()).Transport(u)
		for range 100 {
			ctx, cancel := context.WithCancel(t.Context())
			time.AfterFunc(time.Second, cancel)
			_, err := send(t, rt, request(ctx, "a"))
			require.ErrorIs(t, err, context.Canceled)
		}
		assert.Equal(t, Closed, g.State(service("a")))
		assert.Len(t, e.all, e.admitted)
		assert.Greater(t, e.admitted, 100)
	})
}

// Second attempts are within the budget, and go elsewhere.
func TestHedgeBudget(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		u := newUpstream(func(r *http.Request) (*http.Response, error) {
			addr := "1"
			if gatemesh.TriedEndpoint(r.Context(), addr) {
				addr = "2"
			}
			gatemesh.RecordEndpoint(r.Context(), addr)
			if addr == "1" {
				time.Sleep(time.Second)
			}
			return status(200, "Endpoint", addr)(r)
		})
		r := newRetry(t, hedging(time.Millisecond), func(c *RetryConfig) { c.MinPerSecond = 0.01 })
		rt := outbound(t, r.Layer()).Transport(u)
		elsewhere := 0
		for range 1000 {
			resp, err := rt.RoundTrip(request(t.Context(), "a"))
			require.NoError(t, err)
			require.NoError(t, resp.Body.Close())
			if resp.Header.Get("Endpoint") == "2" {
				elsewhere++
			}
		}
		stats := r.Stats()[service("a")]
		assert.EqualValues(t, 1000, stats.Calls)
		assert.EqualValues(t, elsewhere, stats.Hedged)
		assert.Zero(t, stats.Retried)
		assert.Greater(t, elsewhere, 90)
		assert.LessOrEqual(t, elsewhere, 110)
		time.Sleep(time.Hour)
	})
}

// The time is that of the slowest of a hundred.
func TestHedgeQuantile(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var slow atomic.Bool
		u := newUpstream(func(r *http.Request) (*http.Response, error) {
			d := 10 * time.Millisecond
			if slow.Load() && r.Header.Get(gatemesh.HopHeader) == "retries=2" { // the first
				d = time.Second
			}
			return pace(new(atomic.Int64), paced{d, status(200)})(r)
		})
		r := newRetry(t, func(c *RetryConfig) { c.Hedge.Quantile = 0.95 })
		rt := outbound(t, r.Layer()).Transport(u)
		for range latencyMin - 1 {
			_, _ = send(t, rt, request(t.Context(), "a"))
		}
		slow.Store(true)
		began := time.Now()
		_, _ = send(t, rt, request(t.Context(), "a"))
		assert.Equal(t, time.Second, time.Since(began), "not enough is known")
		slow.Store(false)
		for range 100 {
			_, _ = send(t, rt, request(t.Context(), "a"))
		}
		assert.Zero(t, r.Stats()[service("a")].Hedged)
		slow.Store(true)
		began = time.Now()
		_, _ = send(t, rt, request(t.Context(), "a"))
		assert.Less(t, time.Since(began), 25*time.Millisecond)
		assert.EqualValues(t, 1, r.Stats()[service("a")].Hedged)
		began = time.Now()
		_, _ = send(t, rt, request(t.Context(), "b"))
		assert.Equal(t, time.Second, time.Since(began), "of another destination, nothing is known")
	})
}

func TestLatencies(t *testing.T) {
	t.Parallel()
	for d := time.Duration(0); d < 3*time.Hour; d = d*17/16 + time.Microsecond {
		end := latencyOf(latencyBucket(d))
		assert.Greater(t, end, d)
		assert.LessOrEqual(t, end, d*9/8+2*time.Microsecond)
	}
	assert.Equal(t, latencyBucket(math.MaxInt64), len(latencies{}.counts)-1)
	assert.Zero(t, latencyBucket(-1))
	var l latencies
	for range 100_000 {
		l.add(time.Hour)
	}
	for range latencyMax * 10 {
		l.add(time.Millisecond)
	}
	d, ok := l.quantile(0.95)
	assert.True(t, ok)
	assert.Less(t, d, 2*time.Millisecond, "what was long ago is forgotten")
	assert.Less(t, l.total, latencyMax)
}

func TestHedgeConfig(t *testing.T) {
	t.Parallel()
	for _, cfg := range []HedgeConfig{{After: -1}, {After: time.Hour}, {Quantile: 1}, {Quantile: -0.1}, {Quantile: math.NaN()}} {
		_, err := NewRetry(RetryConfig{Hedge: cfg})
		require.ErrorContains(t, err, "RetryConfig.Hedge.", "%+v", cfg)
	}
}

// Of two attempts of a gRPC call, one writes where the caller looks.
func TestHedge_GRPC(t *testing.T) {
	t.Parallel()
	s := &callee{}
	s.set(func(ctx context.Context) error {
		md, _ := metadata.FromIncomingContext(ctx)
		hop, err := gatemesh.ParseHop(strings.Join(md["x-gatemesh-hop"], ""))
		if err != nil {
			return err
		}
		_ = grpc.SetHeader(ctx, metadata.Pairs("attempt", fmt.Sprint(hop.Attempt)))
		_ = grpc.SetTrailer(ctx, metadata.Pairs("last", fmt.Sprint(hop.Attempt)))
		if hop.Attempt < 2 {
			<-ctx.Done()
		}
		return ctx.Err()
	})
	e := &ends{}
	client := connectGRPC(t, s, newRetry(t, hedging(time.Millisecond), func(c *RetryConfig) {
		c.Idempotent = func(*gatemesh.Call) bool { return true }
	}).Layer(), e.layer())
	for range 5 {
		var header, trailer metadata.MD
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second) // if there is no second one
		defer cancel()
		_, err := client.Check(ctx, &healthpb.HealthCheckRequest{}, grpc.Header(&header), grpc.Trailer(&trailer))
		require.NoError(t, err)
		assert.Equal(t, []string{"2"}, header["attempt"])
		assert.Equal(t, []string{"2"}, trailer["last"])
	}
	e.mu.Lock()
	assert.Len(t, e.all, 10)
	assert.Equal(t, 10, e.admitted)
	e.mu.Unlock()

	// With an option that is told of the end, there is one attempt at a time.
	s.set(func(ctx context.Context) error { time.Sleep(20 * time.Millisecond); return nil })
	before := s.calls.Load()
	_, err := client.Check(t.Context(), &healthpb.HealthCheckRequest{}, grpc.OnFinish(func(error) {}))
	require.NoError(t, err)
	assert.EqualValues(t, 1, s.calls.Load()-before)
}

// A stream is never made twice.
func TestHedge_GRPCStream(t *testing.T) {
	t.Parallel()
	s := &callee{}
	s.set(func(context.Context) error { time.Sleep(20 * time.Millisecond); return nil })
	client := connectGRPC(t, s, newRetry(t, hedging(time.Millisecond), func(c *RetryConfig) {
		c.Idempotent = func(*gatemesh.Call) bool { return true }
	}).Layer())
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	w, err := client.Watch(ctx, &healthpb.HealthCheckRequest{})
	require.NoError(t, err)
	_, err = w.Recv()
	require.NoError(t, err)
	assert.EqualValues(t, 1, s.calls.Load())
}

// Many at once, of which some are cancelled: each attempt ends once.
func TestHedgeConcurrent(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var n atomic.Int64
		u := newUpstream(func(r *http.Request) (*http.Response, error) {
			i := n.Add(1)
			return pace(new(atomic.Int64), paced{time.Duration(i%7) * time.Millisecond, []func(*http.Request) (*http.Response, error){
				status(200), status(503), refusedConn, status(404),
			}[i%4]})(r)
		})
		e := &ends{}
		r := newRetry(t, hedging(2*time.Millisecond), func(c *RetryConfig) { c.Budget = 1 })
		rt := outbound(t, r.Layer(), newGate(t, func(c *GateConfig) { c.Failures = 1000 }).Layer(), e.layer()).Transport(u)
		var wg sync.WaitGroup
		for g := range 10 {
			wg.Go(func() {
				for i := range 200 {
					ctx, cancel := context.WithCancel(t.Context())
					if i%5 == 0 {
						time.AfterFunc(time.Duration(g)*time.Millisecond, cancel)
					}
					_, err := send(t, rt, request(ctx, "a"))
					assert.True(t, err == nil || errors.Is(err, errDown) || errors.Is(err, context.Canceled), "%v", err)
					cancel()
				}
			})
		}
		wg.Wait()
		synctest.Wait()
		assert.Equal(t, u.opened.Load(), u.closed.Load())
		e.mu.Lock()
		defer e.mu.Unlock()
		assert.Len(t, e.all, e.admitted)
		assert.Positive(t, r.Stats()[service("a")].Hedged)
		assert.Positive(t, r.Stats()[service("a")].Retried)
	})
}
