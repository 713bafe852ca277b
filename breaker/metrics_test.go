package breaker

import (
	"context"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/gatemesh-go/gatemesh"
	"github.com/gatemesh-go/gatemesh/internal/metrictest"
)

func measured(t testing.TB, ms ...gatemesh.Measurable) map[string]float64 {
	t.Helper()
	told, err := metrictest.Read(ms...)
	require.NoError(t, err)
	return told
}

// Every change of state is counted, also the probe that has failed, of which no
// event tells, and an Update keeps the counts.
func TestGateMetrics(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		g, u := newGate(t), newUpstream(refusedConn)
		rt := outbound(t, g.Layer()).Transport(u)
		call := func(n int) {
			for range n {
				_, _ = send(t, rt, request(t.Context(), "a"))
			}
		}
		call(1)
		assert.Equal(t, map[string]float64{
			"gatemesh.breaker.refused{destination=a}":                                  0,
			"gatemesh.breaker.state{destination=a, state=closed}":                      1,
			"gatemesh.breaker.state{destination=a, state=half-open}":                   0,
			"gatemesh.breaker.state{destination=a, state=open}":                        0,
			"gatemesh.breaker.transitions{destination=a, state=closed, was=half-open}": 0,
			"gatemesh.breaker.transitions{destination=a, state=half-open, was=open}":   0,
			"gatemesh.breaker.transitions{destination=a, state=open, was=closed}":      0,
			"gatemesh.breaker.transitions{destination=a, state=open, was=half-open}":   0,
		}, measured(t, g))
		call(4 + 3) // opens, and refuses three
		at := measured(t, g)
		assert.EqualValues(t, 1, at["gatemesh.breaker.state{destination=a, state=open}"])
		assert.EqualValues(t, 0, at["gatemesh.breaker.state{destination=a, state=closed}"])
		assert.EqualValues(t, 3, at["gatemesh.breaker.refused{destination=a}"])
		time.Sleep(time.Minute)
		call(1) // a probe that fails
		require.NoError(t, g.Update(GateConfig{Policy: Policy{Failures: 7}}))
		time.Sleep(time.Minute)
		u.set(status(http.StatusOK))
		call(1)
		assert.Equal(t, map[string]float64{
			"gatemesh.breaker.refused{destination=a}":                                  3,
			"gatemesh.breaker.state{destination=a, state=closed}":                      1,
			"gatemesh.breaker.state{destination=a, state=half-open}":                   0,
			"gatemesh.breaker.state{destination=a, state=open}":                        0,
			"gatemesh.breaker.transitions{destination=a, state=closed, was=half-open}": 1,
			"gatemesh.breaker.transitions{destination=a, state=half-open, was=open}":   2,
			"gatemesh.breaker.transitions{destination=a, state=open, was=closed}":      1,
			"gatemesh.breaker.transitions{destination=a, state=open, was=half-open}":   1,
		}, measured(t, g))
	})
}

func TestBreakerMetrics(t *testing.T) {
	t.Parallel()
	b := newBreaker(t)
	fail(b, 5)
	_ = b.Do(t.Context(), func(context.Context) error { return nil })
	at := measured(t, b)
	assert.Len(t, at, 8)
	assert.EqualValues(t, 1, at["gatemesh.breaker.state{name=dep, state=open}"])
	assert.EqualValues(t, 1, at["gatemesh.breaker.refused{name=dep}"])
	assert.EqualValues(t, 1, at["gatemesh.breaker.transitions{name=dep, state=open, was=closed}"])
}

func TestRetryMetrics(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r, err := NewRetry(RetryConfig{MinPerSecond: 1}) // which lends 6
		require.NoError(t, err)
		rt := outbound(t, r.Layer()).Transport(newUpstream(status(http.StatusServiceUnavailable)))
		for range 10 {
			_, _ = send(t, rt, request(t.Context(), "a"))
		}
		at, s := measured(t, r), r.Stats()[service("a")]
		assert.Equal(t, map[string]float64{
			"gatemesh.retry.calls{destination=a}": 10, "gatemesh.retry.retried{destination=a}": float64(s.Retried), "gatemesh.retry.hedged{destination=a}": 0,
			"gatemesh.retry.over_budget{destination=a}": float64(s.OverBudget), "gatemesh.retry.budget{destination=a}": s.Budget,
		}, at)
		assert.Positive(t, s.Retried)
		assert.Positive(t, s.OverBudget)
	})
}

func TestThrottleMetrics(t *testing.T) {
	t.Parallel()
	th, err := NewThrottle(ThrottleConfig{MinCalls: 10})
	require.NoError(t, err)
	rt := outbound(t, th.Layer()).Transport(newUpstream(status(http.StatusServiceUnavailable)))
	for range 300 {
		_, _ = send(t, rt, request(t.Context(), "a"))
	}
	at, s := measured(t, th), th.Stats()[service("a")]
	assert.Equal(t, map[string]float64{
		"gatemesh.throttle.calls{destination=a}": 300, "gatemesh.throttle.refused{destination=a}": float64(s.Refused),
		"gatemesh.throttle.rejection{destination=a}": s.Rejection,
	}, at)
	assert.Positive(t, s.Refused)
	assert.Positive(t, s.Rejection)
}

// Its counters never fall, not even for the moment between the tap handle and
// the interceptor: whoever collects then would take that for a restart.
func TestLimiterMetrics(t *testing.T) {
	t.Parallel()
	calls := 0.
	l, err := NewLimiter(LimiterConfig{Min: 1, Max: 1, MaxWait: time.Millisecond, Priority: func(c *gatemesh.Call) Priority {
		if c.Path() == "/exempt" {
			return Exempt
		}
		return Normal
	}})
	require.NoError(t, err)
	at := func(path string) *gatemesh.Call {
		c, err := gatemesh.NewCall(gatemesh.CallInfo{Path: path})
		require.NoError(t, err)
		now := measured(t, l)["gatemesh.limiter.calls"]
		assert.GreaterOrEqual(t, now, calls)
		calls = now
		return c
	}
	_, err = l.Admit(t.Context(), at("/"))
	require.NoError(t, err)
	_, err = l.Admit(t.Context(), at("/exempt"))
	require.NoError(t, err)
	_, decided, err := l.AdmitCached(t.Context(), at("/"))
	require.NoError(t, err)
	require.False(t, decided)
	assert.EqualValues(t, 2, measured(t, l)["gatemesh.limiter.calls"], "it is counted when it is decided")
	_, err = l.Admit(t.Context(), at("/"))
	require.Error(t, err)
	require.NoError(t, l.Update(LimiterConfig{Min: 1, Max: 2}))
	assert.Equal(t, map[string]float64{
		"gatemesh.limiter.limit": 1, "gatemesh.limiter.in_flight": 1, "gatemesh.limiter.waiting": 0, "gatemesh.limiter.calls": 3,
		"gatemesh.limiter.exempt": 1, "gatemesh.limiter.waited": 1, "gatemesh.limiter.refused": 1,
	}, measured(t, l))
}

// What New did not make tells nothing, and does not panic.
func TestZeroMetrics(t *testing.T) {
	t.Parallel()
	assert.Empty(t, measured(t, &Breaker{}, &Gate{}, &Retry{}, &Throttle{}, &Limiter{}))
}
