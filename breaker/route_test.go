package breaker

import (
	"context"
	"net/http"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"google.golang.org/grpc/codes"

	"github.com/gatemesh-go/gatemesh"
)

// routed stamps a route with rule on outbound calls, as a dispatcher does.
func routed(rule *gatemesh.RetryPolicy) gatemesh.Layer {
	return gatemesh.Layer{Name: "routed", Gate: gatemesh.GateFunc(func(context.Context, *gatemesh.Call) (gatemesh.Admission, error) {
		return gatemesh.Admission{Route: &gatemesh.Route{Name: "r", Retry: rule}}, nil
	})}
}

// ruled is the same for the rule of a service.
func ruled(rule *gatemesh.RetryPolicy) gatemesh.Layer {
	return gatemesh.Layer{Name: "ruled", Gate: gatemesh.GateFunc(func(context.Context, *gatemesh.Call) (gatemesh.Admission, error) {
		return gatemesh.Admission{ServiceRoute: &gatemesh.Route{Name: "s", Retry: rule}}, nil
	})}
}

// TestF09_RetriesAreNoLoad: of an upstream that fails always, no more than 1.1
// attempts are asked for a request, by no layer and in no order of calls.
func TestF09_RetriesAreNoLoad(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		answer  func(*http.Request) (*http.Response, error)
		breaker bool
		rule    *gatemesh.RetryPolicy
	}{
		"503": {answer: status(503)}, "no connection": {answer: refusedConn},
		"with a breaker":         {answer: status(503), breaker: true},
		"a route that wants ten": {answer: status(500), rule: &gatemesh.RetryPolicy{Attempts: 10, Statuses: []int{500}, Broken: true}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				const n = 10_000
				u := newUpstream(test.answer)
				layers := []gatemesh.Layer{routed(test.rule), newRetry(t).Layer()}
				if test.breaker {
					layers = append(layers, newGate(t).Layer())
				}
				rt := outbound(t, layers...).Transport(u)
				var wg sync.WaitGroup
				for range 20 {
					wg.Go(func() {
						for range n / 20 {
							_, _ = send(t, rt, request(t.Context(), "a"))
						}
					})
				}
				wg.Wait()
				assert.LessOrEqual(t, u.attempts.Load(), int64(n*11/10))
				if test.breaker {
					assert.Less(t, u.attempts.Load(), int64(n/10), "most are refused at once")
				} else {
					assert.Greater(t, u.attempts.Load(), int64(n*21/20))
				}
			})
		})
	}
}

func TestRetryByRoute(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		method   string
		answer   func(*http.Request) (*http.Response, error)
		rule     gatemesh.RetryPolicy
		attempts int64
	}{
		"fewer":                     {answer: status(503), rule: gatemesh.RetryPolicy{Attempts: 2}, attempts: 2},
		"never":                     {answer: status(503), rule: gatemesh.RetryPolicy{Attempts: 1}, attempts: 1},
		"more":                      {answer: status(503), rule: gatemesh.RetryPolicy{Attempts: 5}, attempts: 5},
		"nonsense":                  {answer: status(503), rule: gatemesh.RetryPolicy{Attempts: -1}, attempts: 3},
		"nothing said":              {answer: status(503), attempts: 3},
		"its statuses":              {answer: status(500), rule: gatemesh.RetryPolicy{Statuses: []int{500}}, attempts: 3},
		"and no others":             {answer: status(503), rule: gatemesh.RetryPolicy{Statuses: []int{500}}, attempts: 1},
		"codes are for gRPC":        {answer: status(503), rule: gatemesh.RetryPolicy{Codes: []gatemesh.Code{gatemesh.Aborted}}, attempts: 1},
		"a broken call":             {answer: refusedConn, rule: gatemesh.RetryPolicy{Broken: true}, attempts: 3},
		"a broken call, not wanted": {answer: refusedConn, rule: gatemesh.RetryPolicy{Statuses: []int{503}}, attempts: 1},
		"not what is not safe":      {method: "POST", answer: status(503), rule: gatemesh.RetryPolicy{Attempts: 5, Statuses: []int{503}, Broken: true}, attempts: 1},
	} {
		for way, layer := range map[string]func(*gatemesh.RetryPolicy) gatemesh.Layer{"route": routed, "service": ruled} {
			t.Run(name+", "+way, func(t *testing.T) {
				t.Parallel()
				synctest.Test(t, func(t *testing.T) {
					u := newUpstream(test.answer)
					rt := outbound(t, layer(&test.rule), newRetry(t).Layer()).Transport(u)
					r := request(t.Context(), "a")
					if test.method != "" {
						r.Method = test.method
					}
					_, _ = send(t, rt, r)
					assert.Equal(t, test.attempts, u.attempts.Load())
				})
			})
		}
	}
}

// TestRetryByRouteOfTooMany: a route gets the attempts that it asks for, as long
// as there is a budget.
func TestRetryByRouteOfTooMany(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		u := newUpstream(status(503))
		rt := outbound(t, routed(&gatemesh.RetryPolicy{Attempts: 1000}), newRetry(t).Layer()).Transport(u)
		_, _ = send(t, rt, request(t.Context(), "a"))
		assert.Greater(t, u.attempts.Load(), int64(3))
		assert.LessOrEqual(t, u.attempts.Load(), int64(1+budgetCap))
	})
}

// TestRetryByRouteAlone: the rule of the front door holds, if both say something.
func TestRetryByRouteAlone(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		u := newUpstream(status(503))
		rt := outbound(t, routed(&gatemesh.RetryPolicy{Attempts: 2}), ruled(&gatemesh.RetryPolicy{Attempts: 4}), newRetry(t).Layer()).Transport(u)
		_, _ = send(t, rt, request(t.Context(), "a"))
		assert.EqualValues(t, 2, u.attempts.Load())

		u = newUpstream(status(503))
		rt = outbound(t, routed(nil), ruled(&gatemesh.RetryPolicy{Attempts: 4}), newRetry(t).Layer()).Transport(u)
		_, _ = send(t, rt, request(t.Context(), "a"))
		assert.EqualValues(t, 4, u.attempts.Load(), "a front door that says nothing leaves it to the service")
	})
}

func TestRetryByRouteBackoff(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		longest := func(rule gatemesh.RetryPolicy, calls int) (d time.Duration) {
			rt := outbound(t, routed(&rule), newRetry(t, func(c *RetryConfig) { c.Budget = 1 }).Layer()).Transport(newUpstream(status(503)))
			for range calls {
				began := time.Now()
				_, _ = send(t, rt, request(t.Context(), "a"))
				d = max(d, time.Since(began))
			}
			return d
		}
		assert.Less(t, longest(gatemesh.RetryPolicy{Attempts: 2}, 100), 25*time.Millisecond)
		d := longest(gatemesh.RetryPolicy{Attempts: 2, Backoff: 10 * time.Second}, 100)
		assert.Greater(t, d, time.Second)
		assert.Less(t, d, 10*time.Second)
		assert.Less(t, longest(gatemesh.RetryPolicy{Attempts: 2, Backoff: 100 * time.Hour}, 100), time.Minute)
		d = longest(gatemesh.RetryPolicy{Attempts: 3, Backoff: 10 * time.Second}, 100)
		assert.Greater(t, d, 11*time.Second, "the second pause is no shorter for a lower BackoffMax")
		assert.Less(t, d, 20*time.Second)
	})
}

func TestRetryByRoute_GRPC(t *testing.T) {
	t.Parallel()
	always := func(c *RetryConfig) { c.Idempotent = func(*gatemesh.Call) bool { return true } }
	for name, test := range map[string]struct {
		answer   codes.Code
		rule     gatemesh.RetryPolicy
		attempts int64
	}{
		"nothing said":  {codes.Unavailable, gatemesh.RetryPolicy{}, 3},
		"its codes":     {codes.Aborted, gatemesh.RetryPolicy{Attempts: 2, Codes: []gatemesh.Code{gatemesh.Aborted}}, 2},
		"and no others": {codes.Unavailable, gatemesh.RetryPolicy{Codes: []gatemesh.Code{gatemesh.Aborted}}, 1},
		"broken":        {codes.Unavailable, gatemesh.RetryPolicy{Codes: []gatemesh.Code{gatemesh.Aborted}, Broken: true}, 3},
		"statuses":      {codes.Unavailable, gatemesh.RetryPolicy{Statuses: []int{503}}, 1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := &callee{}
			s.set(code(test.answer))
			client := connectGRPC(t, s, routed(&test.rule), newRetry(t, always).Layer())
			assert.Equal(t, test.answer, check(t.Context(), client))
			assert.Equal(t, test.attempts, s.calls.Load())
		})
	}
}
