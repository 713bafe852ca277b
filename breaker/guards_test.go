package breaker

import (
	"context"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/gatemesh-go/gatemesh"
)

// What the limit follows is the time of answers.
func TestLimiterTelling(t *testing.T) {
	t.Parallel()
	no := gatemesh.Deny(gatemesh.PermissionDenied, "no", "No.")
	for name, test := range map[string]struct {
		o    gatemesh.Outcome
		want bool
	}{
		"an answer":          {gatemesh.Outcome{}, true},
		"not found":          {gatemesh.Outcome{Code: gatemesh.NotFound}, true},
		"failed":             {gatemesh.Outcome{Code: gatemesh.Internal}, false},
		"refused":            {gatemesh.Outcome{Code: gatemesh.PermissionDenied, Denial: no}, false},
		"time is up":         {gatemesh.Outcome{Code: gatemesh.DeadlineExceeded}, true},
		"time is up, denied": {gatemesh.Outcome{Code: gatemesh.DeadlineExceeded, Denial: no}, true},
		"gone":               {gatemesh.Outcome{Canceled: true}, false},
		"gone, time is up":   {gatemesh.Outcome{Canceled: true, Code: gatemesh.DeadlineExceeded}, false},
		"panicked":           {gatemesh.Outcome{Panicked: true}, false},
	} {
		assert.Equal(t, test.want, telling(&test.o), name)
	}
}

// Who leaves the queue is not refused, and a call that is asked about twice
// counts once.
func TestLimiterCounts(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l := newLimiter(t, LimiterConfig{Min: 4, Max: 4, MaxWait: time.Second, Priority: byPath})
		c := newCrowd(t, l)
		c.come(t, 4, "/")
		synctest.Wait()
		gone, cancel := context.WithCancel(t.Context())
		time.AfterFunc(100*time.Millisecond, cancel)
		entry := gatemesh.Must(gatemesh.NewEntry(gatemesh.EntryConfig{}))
		look := gatemesh.Layer{Name: "look", Gate: gatemesh.GateFunc(func(ctx context.Context, c *gatemesh.Call) (gatemesh.Admission, error) {
			_, decided, err := l.AdmitCached(ctx, c)
			assert.False(t, decided)
			require.NoError(t, err)
			_, err = l.Admit(ctx, c)
			require.ErrorIs(t, err, context.Canceled)
			return gatemesh.Admission{}, err
		})}
		gatemesh.Must(gatemesh.NewChain(entry, look)).Handler(http.NotFoundHandler()).
			ServeHTTP(httptest.NewRecorder(), httptest.NewRequestWithContext(gone, http.MethodGet, "/", nil))
		stats := l.Stats()
		assert.EqualValues(t, 5, stats.Calls)
		assert.Zero(t, stats.Refused)
		assert.Zero(t, stats.Waiting)

		// A full queue is no reason to wait in order to be refused.
		c.come(t, 2, "/")
		synctest.Wait()
		require.Equal(t, 2, l.Stats().Waiting)
		look.Gate = gatemesh.GateFunc(func(ctx context.Context, c *gatemesh.Call) (gatemesh.Admission, error) {
			_, decided, err := l.AdmitCached(ctx, c)
			assert.True(t, decided)
			return gatemesh.Admission{}, err
		})
		w := httptest.NewRecorder()
		gatemesh.Must(gatemesh.NewChain(entry, look)).Handler(http.NotFoundHandler()).
			ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/", nil))
		assert.Equal(t, 503, w.Code)
		close(c.release)
		c.wg.Wait()
	})
}

// What comes too late is refused on the way in. On the way out, it is the
// caller's own end, which the transport says.
func TestDeadlineHasPassed(t *testing.T) {
	t.Parallel()
	d := gatemesh.Must(NewDeadline(DeadlineConfig{Timeout: time.Second}))
	ctx, cancel := context.WithDeadline(t.Context(), time.Now().Add(-time.Second))
	defer cancel()
	_, err := outbound(t, d.Layer()).Transport(newUpstream(blackHole)).RoundTrip(request(ctx, "a"))
	require.ErrorIs(t, err, context.DeadlineExceeded)
	var denial *gatemesh.Denial
	assert.NotErrorAs(t, err, &denial)

	w := httptest.NewRecorder()
	chainOf(t, d.Layer()).Handler(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("called") })).
		ServeHTTP(w, httptest.NewRequestWithContext(ctx, http.MethodGet, "/", nil))
	assert.Equal(t, http.StatusGatewayTimeout, w.Code)
}

// An attempt counts once for the Throttle, and not before it has ended well.
func TestThrottleCountsOnce(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		th := newThrottle(t, ThrottleConfig{MinCalls: 20})
		u := newUpstream(status(200))
		rt := outbound(t, th.Layer()).Transport(u)
		for range 12 {
			_, _ = send(t, rt, request(t.Context(), "a"))
		}
		u.set(status(503))
		for range 10 { // fewer than half failed
			_, _ = send(t, rt, request(t.Context(), "a"))
		}
		stats := th.Stats()[service("a")]
		assert.Zero(t, stats.Rejection)
		assert.Zero(t, stats.Refused)
	})
}

// What hedging learns, and of what it keeps off.
func TestHedgeGuards(t *testing.T) {
	t.Parallel()
	t.Run("a retry is not hedged", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			var n atomic.Int64
			u := newUpstream(pace(&n, paced{0, status(503)}, paced{time.Second, status(200)}))
			_, _ = send(t, outbound(t, newRetry(t, hedging(time.Millisecond)).Layer()).Transport(u), request(t.Context(), "a"))
			assert.EqualValues(t, 2, u.attempts.Load())
		})
	})
	t.Run("failures are not learned", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			r := newRetry(t, func(c *RetryConfig) { c.Hedge.Quantile, c.MaxAttempts = 0.95, 1 })
			for _, answer := range []func(*http.Request) (*http.Response, error){status(503), status(404), refusedConn} {
				rt := outbound(t, r.Layer()).Transport(newUpstream(answer))
				for range 2 * latencyMin {
					_, _ = send(t, rt, request(t.Context(), "a"))
				}
			}
			assert.Empty(t, r.latencies.all())
		})
	})
	t.Run("After is the least", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			var n atomic.Int64
			u := newUpstream(status(200))
			rt := outbound(t, newRetry(t, func(c *RetryConfig) { c.Hedge = HedgeConfig{Quantile: 0.95, After: 500 * time.Millisecond} }).Layer()).Transport(u)
			for range 2 * latencyMin {
				_, _ = send(t, rt, request(t.Context(), "a"))
			}
			u.set(pace(&n, paced{time.Hour, status(200)}, paced{0, status(200)}))
			began := time.Now()
			_, _ = send(t, rt, request(t.Context(), "a"))
			assert.Equal(t, 500*time.Millisecond, time.Since(began))
		})
	})
	t.Run("nobody waits any more", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			u := newUpstream(func(r *http.Request) (*http.Response, error) {
				time.Sleep(2 * time.Second) // deaf to its context
				return status(200)(r)
			})
			ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
			defer cancel()
			_, _ = send(t, outbound(t, newRetry(t, hedging(time.Second)).Layer()).Transport(u), request(ctx, "a"))
			assert.EqualValues(t, 1, u.attempts.Load())
		})
	})
	t.Run("a gate refuses the second", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			e := &ends{}
			no := gatemesh.Layer{Name: "no", Gate: gatemesh.GateFunc(func(_ context.Context, c *gatemesh.Call) (gatemesh.Admission, error) {
				if c.Attempt() > 1 {
					return gatemesh.Admission{}, gatemesh.Deny(gatemesh.Unavailable, "no", "No.")
				}
				return gatemesh.Admission{}, nil
			})}
			u := newUpstream(pace(new(atomic.Int64), paced{time.Second, status(200)}))
			code, err := send(t, outbound(t, newRetry(t, hedging(time.Millisecond)).Layer(), e.layer(), no).Transport(u), request(t.Context(), "a"))
			require.NoError(t, err)
			assert.Equal(t, 200, code)
			assert.Equal(t, []string{"2 unavailable", "1 ok"}, e.all)
		})
	})
}
