package breaker

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/gatemesh-go/gatemesh"
)

// stack is the full outbound order of this package.
func stack(t testing.TB, g *Gate, behind ...gatemesh.Layer) []gatemesh.Layer {
	t.Helper()
	d, err := NewDeadline(DeadlineConfig{Timeout: 10 * time.Second})
	require.NoError(t, err)
	r, err := NewRetry(RetryConfig{})
	require.NoError(t, err)
	return append([]gatemesh.Layer{d.Layer(), r.Layer(), g.Layer()}, behind...)
}

func TestBR01_Transport(t *testing.T) {
	t.Parallel()
	bodyBlocks := func(r *http.Request) (*http.Response, error) {
		resp, _ := status(200)(r)
		resp.Body = io.NopCloser(readerFunc(func([]byte) (int, error) {
			<-r.Context().Done()
			return 0, r.Context().Err()
		}))
		return resp, nil
	}
	for name, test := range map[string]struct {
		answer  func(*http.Request) (*http.Response, error)
		limit   time.Duration // the caller's
		cancels bool
	}{
		"cancelled":             {answer: blackHole, cancels: true},
		"cancelled in the body": {answer: bodyBlocks, cancels: true},
		"short deadline":        {answer: blackHole, limit: 50 * time.Millisecond},
		"short, in the body":    {answer: bodyBlocks, limit: 50 * time.Millisecond},
		"4xx":                   {answer: status(404)}, "408": {answer: status(408)}, "429": {answer: status(429, "Retry-After", "9")},
		"500": {answer: status(500)}, "501": {answer: status(501)}, "505": {answer: status(505)}, "520": {answer: status(520)}, "499": {answer: status(499)},
		"not of gRPC": {answer: status(200, "Grpc-Status", "14")},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				g, u := newGate(t), newUpstream(test.answer)
				rt := outbound(t, stack(t, g)...).Transport(u)
				var wg sync.WaitGroup
				for range 1000 {
					wg.Go(func() {
						ctx, cancel := context.WithCancel(t.Context())
						if test.limit > 0 {
							ctx, cancel = context.WithTimeout(t.Context(), test.limit)
						}
						defer cancel()
						if test.cancels {
							time.AfterFunc(50*time.Millisecond, cancel)
						}
						_, err := send(t, rt, request(ctx, "a"))
						assert.Equal(t, test.limit > 0 || test.cancels, err != nil)
					})
				}
				wg.Wait()
				assert.EqualValues(t, 1000, u.attempts.Load())
				assert.Equal(t, Closed, g.State(service("a")))
				c := g.circuits.all()[service("a")]
				assert.Zero(t, c.cb.Metrics().Failures())
				assert.Equal(t, test.limit == 0 && !test.cancels, c.cb.Metrics().Successes() > 0, "neutral is no success")
			})
		})
	}
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

// What is the callee's fault opens the breaker, our own deadline included.
func TestGateFailures(t *testing.T) {
	t.Parallel()
	truncated := func(r *http.Request) (*http.Response, error) {
		resp, _ := status(404)(r)
		resp.Body = io.NopCloser(io.MultiReader(strings.NewReader("half"), readerFunc(func([]byte) (int, error) { return 0, io.ErrUnexpectedEOF })))
		return resp, nil
	}
	for name, answer := range map[string]func(*http.Request) (*http.Response, error){
		"502": status(502), "503": status(503), "504": status(504),
		"refused": refusedConn, "black hole": blackHole, "truncated": truncated,
		"grpc": status(200, "Grpc-Status", "14"), "grpc, no server of it": status(503),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				g, u := newGate(t), newUpstream(answer)
				d, err := NewDeadline(DeadlineConfig{Timeout: 500 * time.Millisecond})
				require.NoError(t, err)
				rt := outbound(t, d.Layer(), g.Layer()).Transport(u)
				for range 5 {
					require.Equal(t, Closed, g.State(service("a")))
					r := request(t.Context(), "a")
					if strings.HasPrefix(name, "grpc") {
						r.Method, r.Header = http.MethodPost, http.Header{"Content-Type": {"application/grpc"}}
					}
					_, _ = send(t, rt, r)
				}
				require.Equal(t, Open, g.State(service("a")))
				_, err = send(t, rt, request(t.Context(), "a"))
				requireOpen(t, err)
				assert.EqualValues(t, 5, u.attempts.Load())
				u.set(status(200))
				time.Sleep(5 * time.Second)
				code, err := send(t, rt, request(t.Context(), "a"))
				require.NoError(t, err)
				assert.Equal(t, 200, code)
				assert.Equal(t, Closed, g.State(service("a")))
				assert.Equal(t, u.opened.Load(), u.closed.Load())
			})
		})
	}
}

// By default the rate of failures opens the breaker.
func TestGateDefault(t *testing.T) {
	t.Parallel()
	for failures, want := range map[int]State{9: Closed, 10: Open} {
		synctest.Test(t, func(t *testing.T) {
			g, u := newGate(t, func(c *GateConfig) { c.Policy = Policy{} }), newUpstream(nil)
			rt := outbound(t, g.Layer()).Transport(u)
			for i := range 20 {
				u.set(status(200))
				if i < failures {
					u.set(status(503))
				}
				_, err := send(t, rt, request(t.Context(), "a"))
				require.NoError(t, err)
			}
			assert.Equal(t, want, g.State(service("a")), failures)
		})
	}
}

func TestGatePanics(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		g := newGate(t)
		rt := outbound(t, stack(t, g)...).Transport(newUpstream(func(*http.Request) (*http.Response, error) { panic(http.ErrAbortHandler) }))
		for range 5 {
			assert.Panics(t, func() { _, _ = rt.RoundTrip(request(t.Context(), "a")) })
		}
		assert.Equal(t, Open, g.State(service("a")))
		time.Sleep(5 * time.Second)
		assert.Panics(t, func() { _, _ = rt.RoundTrip(request(t.Context(), "a")) })
		time.Sleep(5 * time.Second)
		assert.Panics(t, func() { _, _ = rt.RoundTrip(request(t.Context(), "a")) }, "the probe's place is free again")
	})
}

// A refusal by the layer behind, or by what stands behind the transport, says
// nothing about the callee.
func TestGateOfOthersRefusals(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		no := gatemesh.Deny(gatemesh.Unavailable, "no", "No.")
		var refuse atomic.Bool
		g, u := newGate(t), newUpstream(status(503))
		rt := outbound(t, g.Layer(), gatemesh.Layer{Name: "identity", Gate: gatemesh.GateFunc(func(context.Context, *gatemesh.Call) (gatemesh.Admission, error) {
			if refuse.Load() {
				return gatemesh.Admission{}, no
			}
			return gatemesh.Admission{}, nil
		})}).Transport(u)
		for range 4 {
			_, _ = send(t, rt, request(t.Context(), "a"))
		}
		refuse.Store(true)
		for range 100 {
			_, err := send(t, rt, request(t.Context(), "a"))
			require.ErrorIs(t, err, no)
		}
		require.Equal(t, Closed, g.State(service("a")))
		refuse.Store(false)
		_, _ = send(t, rt, request(t.Context(), "a"))
		require.Equal(t, Open, g.State(service("a")), "nor was it a success")

		time.Sleep(5 * time.Second)
		refuse.Store(true)
		_, err := send(t, rt, request(t.Context(), "a"))
		require.ErrorIs(t, err, no)
		refuse.Store(false)
		u.set(status(200))
		_, err = send(t, rt, request(t.Context(), "a"))
		require.NoError(t, err)
		assert.Equal(t, Closed, g.State(service("a")))
	})
	for _, below := range []*gatemesh.Denial{
		gatemesh.Deny(gatemesh.PermissionDenied, "wrong_peer", "Not the callee."),
		gatemesh.Deny(gatemesh.Unavailable, "no_endpoint", "Nobody there."),
	} {
		g := newGate(t)
		rt := outbound(t, g.Layer()).Transport(newUpstream(func(*http.Request) (*http.Response, error) { return nil, below }))
		for range 10 {
			_, err := send(t, rt, request(t.Context(), "a"))
			require.ErrorIs(t, err, below)
		}
		assert.Zero(t, g.circuits.all()[service("a")].cb.Metrics().Executions())
	}
}

// The probe is over with the header of its answer.
func TestProbeIsAStream(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := &watcher{}
		g, u := newGate(t, func(c *GateConfig) { c.Observer = w }), newUpstream(status(503, "Retry-After", "10"))
		rt := outbound(t, g.Layer()).Transport(u)
		for range 5 {
			resp, err := rt.RoundTrip(request(t.Context(), "a"))
			require.NoError(t, err)
			defer func() { require.NoError(t, resp.Body.Close()) }() // not before the end
		}
		require.Equal(t, Open, g.State(service("a")), "a failure is known with the header")
		time.Sleep(10*time.Second - time.Millisecond)
		_, err := send(t, rt, request(t.Context(), "a"))
		requireOpen(t, err)
		time.Sleep(2*time.Second + time.Millisecond)
		ends := make(chan struct{})
		u.set(func(r *http.Request) (*http.Response, error) {
			resp, _ := status(200)(r)
			resp.Body = io.NopCloser(readerFunc(func([]byte) (int, error) { <-ends; return 0, io.ErrUnexpectedEOF }))
			return resp, nil
		})
		stream, err := rt.RoundTrip(request(t.Context(), "a"))
		require.NoError(t, err)
		assert.Equal(t, Closed, g.State(service("a")))
		u.set(status(200))
		for range 10 {
			_, err = send(t, rt, request(t.Context(), "a"))
			require.NoError(t, err)
		}
		close(ends)
		_, err = io.ReadAll(stream.Body)
		require.Error(t, err)
		require.NoError(t, stream.Body.Close())
		assert.Equal(t, []string{"breaker of a opened; calls are refused", "breaker of a closed"}, w.read())
		require.NotNil(t, w.events[0].Call)
		assert.Equal(t, service("a"), w.events[0].Call.Destination())
	})
}

func TestBR02_KilledAndBack(t *testing.T) {
	t.Parallel()
	for name, outage := range map[string]func(*http.Request) (*http.Response, error){
		"killed": refusedConn, "black hole": blackHole, "503": status(503, "Retry-After", "999999999"),
		"503, -1": status(503, "Retry-After", "-1"), "503, x": status(503, "Retry-After", "x"),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				g, u := newGate(t), newUpstream(status(200))
				d, err := NewDeadline(DeadlineConfig{Timeout: time.Second})
				require.NoError(t, err)
				rt := outbound(t, d.Layer(), g.Layer()).Transport(u)
				var inFlight, most atomic.Int32
				var open atomic.Bool
				stop := make(chan struct{})
				var wg sync.WaitGroup
				for i := range 20 {
					wg.Go(func() {
						time.Sleep(time.Duration(i) * time.Millisecond)
						for {
							select {
							case <-stop:
								return
							case <-time.After(200 * time.Millisecond):
							}
							began, wasOpen := time.Now(), open.Load()
							_, err := send(t, rt, request(t.Context(), "a"))
							if den := gatemesh.AsDenial(t.Context(), err); err != nil && den.Reason == "circuit_open" && wasOpen {
								assert.Zero(t, time.Since(began), "refused at once")
							}
						}
					})
				}
				time.Sleep(5 * time.Second)
				require.Equal(t, Closed, g.State(service("a")))
				u.set(func(r *http.Request) (*http.Response, error) {
					if open.Load() {
						most.Store(max(most.Load(), inFlight.Add(1)))
						defer inFlight.Add(-1)
					}
					return outage(r)
				})
				time.Sleep(1500 * time.Millisecond)
				require.Equal(t, Open, g.State(service("a")))
				synctest.Wait()
				before := u.attempts.Load()
				open.Store(true)
				time.Sleep(2 * time.Minute)
				probes := u.attempts.Load() - before
				assert.LessOrEqual(t, probes, int64(2*60/4), "one a delay")
				assert.GreaterOrEqual(t, probes, int64(2*60/60), "the delay is capped")
				assert.EqualValues(t, 1, most.Load(), "one probe at a time")
				u.set(status(200))
				limit := 6 * time.Second
				if name == "503" { // it asked for more, and got as much as there is
					limit = 61 * time.Second
				} else {
					assert.GreaterOrEqual(t, probes, int64(2*60/6-1), "nonsense does not lengthen the delay")
				}
				time.Sleep(limit)
				assert.Equal(t, Closed, g.State(service("a")), "closed again within delay + 1 s")
				close(stop)
				wg.Wait()
				assert.Equal(t, u.opened.Load(), u.closed.Load())
			})
		})
	}
}

func TestBR03_Destinations(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		g := newGate(t)
		u := newUpstream(func(r *http.Request) (*http.Response, error) {
			if strings.HasPrefix(r.URL.Host, "down") {
				return nil, errDown
			}
			return status(200)(r)
		})
		rt := outbound(t, stack(t, g)...).Transport(u)
		for i := range 100 {
			_, err := send(t, rt, request(t.Context(), fmt.Sprintf("down%d", i%2)))
			require.Error(t, err)
			code, err := send(t, rt, request(t.Context(), fmt.Sprintf("up%d", i%2)))
			require.NoError(t, err)
			require.Equal(t, 200, code)
		}
		assert.Equal(t, map[gatemesh.Destination]State{
			service("down0"): Open, service("down1"): Open, service("up0"): Closed, service("up1"): Closed,
		}, g.States())
		assert.Equal(t, Closed, g.State(service("never")))
	})
	// Subset, port and namespace are destinations of their own.
	g := newGate(t, func(c *GateConfig) { c.Failures = 1 })
	dests := []gatemesh.Destination{{Service: "a"}, {Service: "a", Subset: "v2"}, {Service: "a", Port: 81}, {Service: "a", Namespace: "n"}}
	var at atomic.Int32
	out, err := gatemesh.NewOutbound(gatemesh.OutboundConfig{Layers: []gatemesh.Layer{g.Layer()},
		Mesh: func(context.Context, string) (gatemesh.Destination, bool) { return dests[at.Load()], true }})
	require.NoError(t, err)
	rt := out.Transport(newUpstream(refusedConn))
	_, _ = send(t, rt, request(t.Context(), "a"))
	for i, d := range dests {
		assert.Equal(t, i == 0, g.State(d) == Open)
		at.Store(int32(i))
		_, err = send(t, rt, request(t.Context(), "a"))
		assert.Equal(t, i == 0, gatemesh.AsDenial(t.Context(), err).Reason == "circuit_open")
	}
}

func TestMaxDestinations(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := &watcher{}
		g := newGate(t, func(c *GateConfig) { c.MaxDestinations, c.Failures, c.Observer = 10, 1, w })
		u := newUpstream(refusedConn)
		rt := outbound(t, g.Layer()).Transport(u)
		for i := range 9 {
			_, _ = send(t, rt, request(t.Context(), fmt.Sprint("down", i)))
		}
		u.set(status(200))
		for i := range 1000 { // they take the one place that is left from one another
			_, err := send(t, rt, request(t.Context(), fmt.Sprint("up", i)))
			require.NoError(t, err)
		}
		assert.Len(t, g.States(), 10)
		for i := range 9 {
			require.Equal(t, Open, g.State(service(fmt.Sprint("down", i))), "an open breaker is not given up")
		}
		u.set(refusedConn)
		_, _ = send(t, rt, request(t.Context(), "down9"))
		told := len(w.read())
		for range 10 {
			_, err := send(t, rt, request(t.Context(), "another"))
			require.ErrorIs(t, err, errDown, "no breaker, so it is tried")
		}
		assert.Len(t, w.read(), told+1, "said once")
		assert.Len(t, g.States(), 10)
	})
	// Who has had calls of late stays.
	g := newGate(t, func(c *GateConfig) { c.MaxDestinations = 10 })
	rt := outbound(t, g.Layer()).Transport(newUpstream(status(200)))
	for i := range 10 {
		_, _ = send(t, rt, request(t.Context(), fmt.Sprint(i)))
	}
	_, _ = send(t, rt, request(t.Context(), "new")) // all have, so one goes; the marks are gone
	_, _ = send(t, rt, request(t.Context(), "new"))
	for i := range 8 {
		_, _ = send(t, rt, request(t.Context(), fmt.Sprint("newer", i)))
		assert.Contains(t, g.States(), service("new"))
		_, _ = send(t, rt, request(t.Context(), "new"))
	}
}

func TestGateUpdate(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		g, u := newGate(t), newUpstream(refusedConn)
		rt := outbound(t, g.Layer()).Transport(u)
		for range 5 {
			_, _ = send(t, rt, request(t.Context(), "a"))
			_, _ = send(t, rt, request(t.Context(), "b"))
		}
		for range 3 {
			_, _ = send(t, rt, request(t.Context(), "c"))
		}
		require.NoError(t, g.Update(GateConfig{Policy: Policy{Failures: 1}}))
		assert.Equal(t, Open, g.State(service("a")))
		_, _ = send(t, rt, request(t.Context(), "c"))
		assert.Equal(t, Open, g.State(service("c")))
		assert.Error(t, g.Update(GateConfig{MaxDestinations: -1}))
	})
}

// AllocatesOnce: the memory of an admitted call is its pass.
func TestGateAllocates(t *testing.T) {
	g := newGate(t)
	c, err := gatemesh.NewCall(gatemesh.CallInfo{Host: "a"})
	require.NoError(t, err)
	ctx, o := t.Context(), gatemesh.Outcome{Status: 200, Reached: true}
	_, err = g.Admit(ctx, c)
	require.NoError(t, err)
	assert.LessOrEqual(t, testing.AllocsPerRun(1000, func() {
		adm, _ := g.Admit(ctx, c)
		adm.Finish.Finish(c, o)
	}), 1.0)
	b := newBreaker(t)
	assert.LessOrEqual(t, testing.AllocsPerRun(1000, func() { _ = b.Do(ctx, ok) }), 1.0)
}

func TestLC01_Churn(t *testing.T) {
	t.Parallel()
	u := newUpstream(status(200))
	for i := range 1000 {
		g := newGate(t)
		rt := outbound(t, stack(t, g)...).Transport(u)
		_, err := send(t, rt, request(t.Context(), "a"))
		require.NoError(t, err)
		require.NoError(t, g.Update(GateConfig{Policy: Policy{Failures: 1 + i%5}}))
		_, err = send(t, rt, request(t.Context(), "a"))
		require.NoError(t, err)
	}
	assert.Equal(t, u.opened.Load(), u.closed.Load())
	// TestMain looks for goroutines; nothing here has any.
}

// Updates, calls and new destinations at once.
func TestGateConcurrent(t *testing.T) {
	t.Parallel()
	synctest.Test(t, testGateConcurrent) // for the pauses; its goroutines are as concurrent as others
}

func testGateConcurrent(t *testing.T) {
	g := newGate(t, func(c *GateConfig) { c.Delay, c.MaxDestinations = 100*time.Millisecond, 20 })
	var n atomic.Int64
	u := newUpstream(func(r *http.Request) (*http.Response, error) {
		switch n.Add(1) % 7 {
		case 0, 1, 2, 3:
			return nil, errDown
		case 4:
			return status(503, "Retry-After", "1")(r)
		}
		return status(200)(r)
	})
	rt := outbound(t, stack(t, g)...).Transport(u)
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for j := range 500 {
				ctx, cancel := context.WithCancel(context.Background())
				if j%5 == 0 {
					cancel()
				}
				_, _ = send(t, rt, request(ctx, fmt.Sprint(j%40)))
				cancel()
				if j%50 == 0 {
					assert.NoError(t, g.Update(GateConfig{MaxDestinations: 20, Policy: Policy{Failures: 1 + i, Delay: 100 * time.Millisecond}}))
				}
				g.States()
			}
		})
	}
	wg.Wait()
	assert.Equal(t, u.opened.Load(), u.closed.Load())
}

func BenchmarkGate(b *testing.B) {
	g := newGate(b)
	c, err := gatemesh.NewCall(gatemesh.CallInfo{Host: "a"})
	require.NoError(b, err)
	o := gatemesh.Outcome{Status: 200, Reached: true}
	ctx := b.Context()
	b.ReportAllocs()
	for b.Loop() {
		adm, _ := g.Admit(ctx, c)
		adm.Finish.Finish(c, o)
	}
}
