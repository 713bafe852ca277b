package breaker

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
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

func newRetry(t testing.TB, f ...func(*RetryConfig)) *Retry {
	t.Helper()
	var cfg RetryConfig
	for _, f := range f {
		f(&cfg)
	}
	r, err := NewRetry(cfg)
	require.NoError(t, err)
	return r
}

func TestPX06_RetriesAreBounded(t *testing.T) {
	t.Parallel()
	for name, answer := range map[string]func(*http.Request) (*http.Response, error){
		"503": status(503), "cut after the request": refusedConn,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				const n = 10_000
				u := newUpstream(answer)
				rt := outbound(t, newRetry(t).Layer()).Transport(u)
				var wg sync.WaitGroup
				for g := range 20 {
					wg.Go(func() {
						for range n / 20 {
							code, err := send(t, rt, request(t.Context(), "a"))
							assert.True(t, code == 503 || errors.Is(err, errDown), "the last answer is the caller's")
							post := httptest.NewRequestWithContext(t.Context(), http.MethodPost, "http://a/", strings.NewReader("x"))
							post.GetBody = func() (io.ReadCloser, error) { return io.NopCloser(strings.NewReader("x")), nil }
							if g%2 == 0 { // a body of unknown length
								post.Body, post.ContentLength, post.GetBody = io.NopCloser(readerFunc(strings.NewReader("x").Read)), -1, nil
							}
							_, _ = send(t, rt, post)
						}
					})
				}
				wg.Wait()
				gets := u.count("GET").Load()
				assert.EqualValues(t, n, u.count("POST").Load(), "POST is never retried")
				assert.LessOrEqual(t, gets, int64(n+n/10))
				assert.Greater(t, gets, int64(n+n/20), "but GET is")
				assert.LessOrEqual(t, u.attempts.Load(), int64(1.1*2*n))
				assert.Equal(t, u.opened.Load(), u.closed.Load(), "discarded answers are closed")
			})
		})
	}
}

func TestRetryWhat(t *testing.T) {
	t.Parallel()
	always := func(c *RetryConfig) { c.Budget = 1 }
	for name, test := range map[string]struct {
		method   string
		fields   []string
		answer   func(*http.Request) (*http.Response, error)
		change   func(*RetryConfig)
		attempts int64
	}{
		"GET":             {answer: status(503), attempts: 3},
		"HEAD":            {method: "HEAD", answer: status(502), attempts: 3},
		"OPTIONS":         {method: "OPTIONS", answer: status(504), attempts: 3},
		"TRACE":           {method: "TRACE", answer: refusedConn, attempts: 3},
		"PUT":             {method: "PUT", answer: refusedConn, attempts: 3},
		"DELETE":          {method: "DELETE", answer: refusedConn, attempts: 3},
		"POST":            {method: "POST", answer: refusedConn, attempts: 1},
		"PATCH":           {method: "PATCH", answer: status(503), attempts: 1},
		"CONNECT":         {method: "CONNECT", answer: status(503), attempts: 1},
		"get":             {method: "get", answer: status(503), attempts: 1}, // methods are case-sensitive
		"POST with a key": {method: "POST", fields: []string{"Idempotency-Key", "1"}, answer: status(503), attempts: 3},
		"an empty key":    {method: "POST", fields: []string{"Idempotency-Key", ""}, answer: status(503), attempts: 1},
		"two keys":        {method: "POST", fields: []string{"Idempotency-Key", "1", "Idempotency-Key", "2"}, answer: status(503), attempts: 1},
		"POST by word": {method: "POST", answer: status(503), attempts: 3, change: func(c *RetryConfig) {
			c.Idempotent = func(c *gatemesh.Call) bool { return c.Path() == "/" }
		}},
		"200": {answer: status(200), attempts: 1}, "500": {answer: status(500), attempts: 1}, "501": {answer: status(501), attempts: 1},
		"404": {answer: status(404), attempts: 1}, "429": {answer: status(429), attempts: 1},
		"429 when told": {answer: status(429), attempts: 3, change: func(c *RetryConfig) { c.Statuses = []int{429} }},
		"503 when not":  {answer: status(503), attempts: 1, change: func(c *RetryConfig) { c.Statuses = []int{429} }},
		"five":          {answer: status(503), attempts: 5, change: func(c *RetryConfig) { c.MaxAttempts = 5 }},
		"one":           {answer: status(503), attempts: 1, change: func(c *RetryConfig) { c.MaxAttempts = 1 }},
		"a short wish":  {answer: status(503, "Retry-After", "1"), attempts: 3},
		"a long wish":   {answer: status(503, "Retry-After", "2"), attempts: 1},
		"a longer cap":  {answer: status(503, "Retry-After", "2"), attempts: 3, change: func(c *RetryConfig) { c.MaxRetryAfter = 2 * time.Second }},
		"a far date":    {answer: status(503, "Retry-After", "Fri, 01 May 2099 12:00:30 GMT"), attempts: 1},
		"no wish":       {answer: status(503, "Retry-After", "x"), attempts: 3},
		"a refusal": {attempts: 1, answer: func(*http.Request) (*http.Response, error) {
			return nil, gatemesh.Deny(gatemesh.Unavailable, "no", "No.")
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				u := newUpstream(test.answer)
				change := test.change
				if change == nil {
					change = always
				}
				rt := outbound(t, newRetry(t, change).Layer()).Transport(u)
				r := request(t.Context(), "a")
				if test.method != "" {
					r.Method = test.method
				}
				for i := 0; i < len(test.fields); i += 2 {
					r.Header.Add(test.fields[i], test.fields[i+1])
				}
				began := time.Now()
				_, _ = send(t, rt, r)
				assert.Equal(t, test.attempts, u.attempts.Load())
				assert.Equal(t, u.opened.Load(), u.closed.Load())
				switch name {
				case "a short wish":
					assert.Greater(t, time.Since(began), 2*time.Second, "all whom it told do not come at once")
				case "GET":
					assert.Less(t, time.Since(began), 75*time.Millisecond)
				}
			})
		})
	}
}

func TestRetryEndsWithTheCaller(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		// The pause would outlive the deadline: the answer stands, at once.
		u := newUpstream(status(503, "Retry-After", "1"))
		rt := outbound(t, newRetry(t).Layer()).Transport(u)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		began := time.Now()
		code, err := send(t, rt, request(ctx, "a"))
		require.NoError(t, err)
		assert.Equal(t, 503, code)
		assert.Zero(t, time.Since(began))
		assert.EqualValues(t, 1, u.attempts.Load())
	})
	synctest.Test(t, func(t *testing.T) {
		u := newUpstream(blackHole)
		rt := outbound(t, newRetry(t).Layer()).Transport(u)
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(time.Second, cancel)
		_, err := send(t, rt, request(ctx, "a"))
		require.ErrorIs(t, err, context.Canceled)
		assert.EqualValues(t, 1, u.attempts.Load())
	})
	synctest.Test(t, func(t *testing.T) {
		// Cancelled in a pause: the answer that is there stands, and is closed once.
		u := newUpstream(status(503, "Retry-After", "1"))
		rt := outbound(t, newRetry(t).Layer()).Transport(u)
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(500*time.Millisecond, cancel)
		began := time.Now()
		_, _ = send(t, rt, request(ctx, "a"))
		assert.Equal(t, 500*time.Millisecond, time.Since(began))
		assert.EqualValues(t, 1, u.attempts.Load())
		assert.Equal(t, u.opened.Load(), u.closed.Load())
	})
}

func TestPX06_Bodies(t *testing.T) {
	t.Parallel()
	for name, answer := range map[string]func(*http.Request) (*http.Response, error){
		"503": status(503), "cut after the request": refusedConn,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				var got []string
				u := newUpstream(answer)
				rt := outbound(t, newRetry(t).Layer()).Transport(roundTrip(func(r *http.Request) (*http.Response, error) {
					b, err := io.ReadAll(r.Body)
					require.NoError(t, err)
					got = append(got, string(b))
					r.Body = nil
					return u.RoundTrip(r)
				}))
				r, err := http.NewRequestWithContext(t.Context(), http.MethodPut, "http://a/", bytes.NewReader([]byte("whole")))
				require.NoError(t, err)
				code, err := send(t, rt, r)
				assert.True(t, code == 503 || errors.Is(err, errDown))
				assert.Equal(t, []string{"whole", "whole", "whole"}, got)

				got = nil
				r, err = http.NewRequestWithContext(t.Context(), http.MethodPut, "http://a/", readerFunc(strings.NewReader("once").Read))
				require.NoError(t, err)
				require.Nil(t, r.GetBody)
				code, err = send(t, rt, r)
				assert.True(t, code == 503 || errors.Is(err, errDown))
				assert.Equal(t, []string{"once"}, got, "a body is not sent again that cannot be had again")
				assert.Equal(t, u.opened.Load(), u.closed.Load())
			})
		})
	}
}

// TestPX06_Jitter: callers that failed together do not come back together.
func TestPX06_Jitter(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRetry(t, func(c *RetryConfig) { c.Budget = 1 })
		u := newUpstream(refusedConn)
		rt := outbound(t, r.Layer()).Transport(u)
		var first, second [4]int // pauses, by the quarter of the longest
		for range 400 {
			var times []time.Time
			u.set(func(*http.Request) (*http.Response, error) {
				times = append(times, time.Now())
				return nil, errDown
			})
			_, _ = send(t, rt, request(t.Context(), "a"))
			require.Len(t, times, 3)
			a, b := times[1].Sub(times[0]), times[2].Sub(times[1])
			require.Less(t, a, 25*time.Millisecond)
			require.Less(t, b, 50*time.Millisecond)
			first[4*a/(25*time.Millisecond)]++
			second[4*b/(50*time.Millisecond)]++
			for range 2 { // which earns the retries of the next call
				u.set(status(200))
				_, _ = send(t, rt, request(t.Context(), "a"))
			}
		}
		for i := range first { // 100 is to be expected; fewer than 40 once in 10^13 runs
			assert.Greater(t, first[i], 40, first)
			assert.Greater(t, second[i], 40, second)
		}
	})
}

// A body that cannot be had again after all is not the callee's fault.
func TestPX06_GetBodyFails(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		g, u := newGate(t), newUpstream(status(503))
		rt := outbound(t, stack(t, g)...).Transport(u)
		r, err := http.NewRequestWithContext(t.Context(), http.MethodPut, "http://a/", strings.NewReader("x"))
		require.NoError(t, err)
		r.GetBody = func() (io.ReadCloser, error) { return nil, errDown }
		code, err := send(t, rt, r)
		require.NoError(t, err)
		assert.Equal(t, 503, code)
		assert.EqualValues(t, 1, u.attempts.Load())
		assert.EqualValues(t, 1, g.circuits.all()[service("a")].cb.Metrics().Failures())
		assert.Equal(t, u.opened.Load(), u.closed.Load())
	})
}

type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// A gate behind the retries that refuses the second attempt leaves the answer
// of the first.
func TestRetryRefusedByAGate(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		u := newUpstream(status(503))
		second := gatemesh.Layer{Name: "first only", Gate: gatemesh.GateFunc(func(_ context.Context, c *gatemesh.Call) (gatemesh.Admission, error) {
			if c.Attempt() > 1 {
				return gatemesh.Admission{}, gatemesh.Deny(gatemesh.Unauthenticated, "no", "No.")
			}
			return gatemesh.Admission{}, nil
		})}
		g := newGate(t)
		rt := outbound(t, stack(t, g, second)...).Transport(u)
		code, err := send(t, rt, request(t.Context(), "a"))
		require.NoError(t, err)
		assert.Equal(t, 503, code)
		assert.EqualValues(t, 1, u.attempts.Load())
		assert.Equal(t, u.opened.Load(), u.closed.Load())
		assert.EqualValues(t, 1, g.circuits.all()[service("a")].cb.Metrics().Failures(), "each attempt counts once")
	})
	synctest.Test(t, func(t *testing.T) { // the breaker opens between two attempts
		u := newUpstream(status(503))
		g := newGate(t, func(c *GateConfig) { c.Failures = 2 })
		rt := outbound(t, stack(t, g)...).Transport(u)
		code, err := send(t, rt, request(t.Context(), "a"))
		require.NoError(t, err)
		assert.Equal(t, 503, code)
		assert.EqualValues(t, 2, u.attempts.Load())
		_, err = send(t, rt, request(t.Context(), "a"))
		requireOpen(t, err)
		assert.EqualValues(t, 2, u.attempts.Load(), "an open circuit is not retried")
		assert.Equal(t, u.opened.Load(), u.closed.Load())
	})
}

// A service that failed long ago and seldom has calls can retry again, and a
// good time does not save up for a storm.
func TestBudget(t *testing.T) {
	t.Parallel()
	const perSecond, reserve = 2, 2 * reserveSeconds
	now := time.Unix(1, 0)
	b := newBudget(now, perSecond)
	spend := func() (n int) {
		n = b.available(now, perSecond)
		for range n {
			require.True(t, b.spend(now, perSecond))
		}
		require.False(t, b.spend(now, perSecond), "what is available is what can be spent")
		return n
	}
	earn := func(n int, share float64) {
		for range n {
			b.earn(share, perSecond)
		}
	}
	assert.Equal(t, reserve, spend())
	earn(10*reserve+9, 0.1)
	assert.Zero(t, spend(), "the reserve was lent")
	earn(1, 0.1)
	assert.Equal(t, 1, spend(), "ten calls earn one")
	now = now.Add(time.Second / perSecond)
	assert.Zero(t, spend(), "nothing is lent to what has only failed")
	b.alive.Store(true)
	now = now.Add(time.Second / perSecond)
	assert.Equal(t, 1, spend())
	earn(10, 0.1)
	assert.Zero(t, spend(), "and this one was lent, too")
	earn(1, 1)
	assert.Equal(t, 1, spend())
	now = now.Add(time.Hour)
	b.alive.Store(true)
	assert.Equal(t, reserve, spend())
	earn(10*reserve+9, 0.1)
	assert.Zero(t, spend())
	earn(1, 0.1)
	assert.Equal(t, 1, spend(), "nobody owes more than the reserve")
	earn(1_000_000, 0.1)
	now = now.Add(time.Hour)
	b.alive.Store(true)
	assert.Equal(t, budgetCap, spend(), "to what was saved up, nothing is lent")
	b.alive.Store(true)
	assert.Zero(t, spend(), "and the hour is over")
	n := 0
	for range 10 * reserve {
		now = now.Add(time.Second / perSecond)
		n += spend()
	}
	assert.Equal(t, reserve, n, "and no more than that, until another call goes well")

	b.available(now.Add(-time.Hour), perSecond) // of somebody who looked at the clock long ago
	b.alive.Store(true)
	assert.Zero(t, spend(), "no time is lent twice")
	for range 3 {
		now = now.Add(time.Minute)
		b.alive.Store(true)
		assert.Equal(t, reserve, spend())
	}
	earn(10*reserve+9, 0.1)
	assert.Zero(t, spend())
	earn(1, 0.1)
	assert.Equal(t, 1, spend(), "after three loans, one is owed")

	b = newBudget(now, 0.01)
	assert.Equal(t, 1, b.available(now, 0.01), "there is always one to lend")
	b = newBudget(now, 1000)
	for range 1_000_000 {
		b.earn(0.1, 1000)
	}
	assert.Equal(t, 1000*reserveSeconds, b.available(now, 1000))
}

// TestBudgetRates: of what fails, as many are retried in a second as are lent, or
// as are earned, whichever is more, and not both. Of what always fails, as many
// as are earned.
func TestBudgetRates(t *testing.T) {
	t.Parallel()
	for calls, want := range map[int][2]float64{1: {2, 0.1}, 20: {10, 2}, 99: {10, 9.9}, 100: {10, 10}, 200: {20, 20}, 400: {40, 40}} {
		for i, want := range want {
			now := time.Unix(1, 0)
			b := newBudget(now, 10)
			retried := 0
			seconds := 240
			if calls < 50 { // pay back for long what was lent at the start
				seconds = 1440
			}
			for second := range seconds {
				for range calls {
					now = now.Add(time.Second / time.Duration(calls))
					b.earn(0.1, 10)
					b.alive.Store(i == 0)
					for range 2 {
						if b.spend(now, 10) && second >= seconds-120 {
							retried++
						}
					}
				}
			}
			assert.InDelta(t, 120*want, retried, 2, "%v of %d", want, calls)
		}
	}
}

// TestBudgetQuiet: a quiet service can be retried, as the conformance tests of
// the Gateway API do: in a moment, eleven rules with three requests each, that
// want 51 retries among them; and again a few seconds later.
func TestBudgetQuiet(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRetry(t)
		for range 3 {
			var wg sync.WaitGroup
			for _, test := range []struct{ attempts, failures, want int }{
				{4, 2, 200}, {4, 4, 503}, {1, 2, 503},
				{3, 1, 200}, {3, 3, 503}, {3, 1, 200}, {3, 3, 503}, {3, 1, 200}, {3, 3, 503}, {3, 1, 200}, {3, 3, 503},
			} {
				wg.Go(func() {
					for range 3 {
						failures := test.failures
						u := newUpstream(func(r *http.Request) (*http.Response, error) {
							if failures--; failures >= 0 {
								return status(503)(r)
							}
							return status(200)(r)
						})
						rt := outbound(t, routed(&gatemesh.RetryPolicy{Attempts: test.attempts, Backoff: time.Millisecond}), r.Layer()).Transport(u)
						code, err := send(t, rt, request(t.Context(), "a"))
						require.NoError(t, err)
						assert.Equal(t, test.want, code, test)
					}
				})
			}
			wg.Wait()
			time.Sleep(reserveSeconds * time.Second)
		}
		assert.Zero(t, r.Stats()[service("a")].OverBudget)
	})
}

// What cannot be retried anyway costs the budget nothing.
func TestRetryGoneCallers(t *testing.T) {
	t.Parallel()
	r := newRetry(t)
	c, err := gatemesh.NewCall(gatemesh.CallInfo{Host: "a"})
	require.NoError(t, err)
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	lost := gatemesh.Attempt{Err: errDown, Replayable: true}
	canceled, expired, fixed := lost, lost, lost
	canceled.Canceled, expired.Expired, fixed.Replayable = true, true, false
	for range 100 {
		for _, a := range []gatemesh.Attempt{canceled, expired, fixed} {
			_, again := r.Retry(t.Context(), c, a)
			require.False(t, again)
		}
		_, again := r.Retry(gone, c, lost)
		require.False(t, again)
	}
	_, again := r.Retry(t.Context(), c, lost)
	assert.True(t, again)
}

// BR-03 for retries: the storm of one destination leaves another its budget.
func TestBR03_Budgets(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		u := newUpstream(status(503))
		r := newRetry(t)
		rt := outbound(t, r.Layer()).Transport(u)
		for range 100 {
			_, _ = send(t, rt, request(t.Context(), "a"))
		}
		before := u.attempts.Load()
		_, _ = send(t, rt, request(t.Context(), "a"))
		assert.EqualValues(t, 1, u.attempts.Load()-before)
		_, _ = send(t, rt, request(t.Context(), "b"))
		assert.EqualValues(t, 4, u.attempts.Load()-before)
		require.NoError(t, r.Update(RetryConfig{MaxAttempts: 2}))
		_, _ = send(t, rt, request(t.Context(), "b"))
		assert.EqualValues(t, 6, u.attempts.Load()-before)
	})
}

// pipes is a network in memory. On it, and in the time of synctest, a
// connection is reused or not by what is done with the answer, and not by how
// busy the machine is: net/http, too, gives up one whose request is not known to
// have been written within 50 ms.
type pipes struct {
	conns  chan net.Conn
	dialed atomic.Int64
}

func (p *pipes) Accept() (net.Conn, error) {
	if c, ok := <-p.conns; ok {
		return c, nil
	}
	return nil, net.ErrClosed
}

func (p *pipes) Close() error   { close(p.conns); return nil }
func (p *pipes) Addr() net.Addr { return &net.TCPAddr{} }

func (p *pipes) dial(context.Context, string, string) (net.Conn, error) {
	p.dialed.Add(1)
	client, server := net.Pipe()
	p.conns <- server
	return client, nil
}

// The connection of an answer that is given up carries the next attempt, unless
// that would take long.
func TestRetryConnections(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		body   string
		length string // to announce, if not that of body
		conns  int64  // of 30 attempts, of which 20 are given up
		took   time.Duration
	}{
		"no body":    {conns: 1},
		"short":      {body: "some text", conns: 1},
		"2 KiB":      {body: strings.Repeat("x", 2<<10), conns: 1},
		"longer":     {body: strings.Repeat("x", 2<<10+1), conns: 21},
		"never ends": {body: "some", length: "9", conns: 21, took: 20 * 50 * time.Millisecond},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				requests := 0 // one after the other
				srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					if requests++; requests%3 == 0 {
						_, _ = io.WriteString(w, "some text")
						return
					}
					if test.length != "" {
						w.Header().Set("Content-Length", test.length)
					} else {
						w.Header().Set("Content-Length", strconv.Itoa(len(test.body)))
					}
					w.WriteHeader(http.StatusServiceUnavailable)
					_, _ = io.WriteString(w, test.body)
					if test.length != "" {
						_ = http.NewResponseController(w).Flush()
						<-r.Context().Done()
					}
				})}
				var open atomic.Int64
				srv.ConnState = func(_ net.Conn, s http.ConnState) {
					switch s {
					case http.StateNew:
						open.Add(1)
					case http.StateClosed:
						open.Add(-1)
					}
				}
				network := &pipes{conns: make(chan net.Conn)}
				served := make(chan error)
				go func() { served <- srv.Serve(network) }()
				base := &http.Transport{DialContext: network.dial}
				retry := newRetry(t, func(c *RetryConfig) {
					c.Budget, c.BackoffBase, c.BackoffMax = 1, time.Millisecond, time.Millisecond
				})
				rt := outbound(t, retry.Layer()).Transport(base)
				began := time.Now()
				for range 10 {
					code, err := send(t, rt, request(t.Context(), "a"))
					require.NoError(t, err)
					assert.Equal(t, 200, code)
				}
				assert.Equal(t, 30, requests)
				assert.Equal(t, test.conns, network.dialed.Load())
				assert.GreaterOrEqual(t, time.Since(began), test.took)
				assert.Less(t, time.Since(began), test.took+20*time.Millisecond, "but for the pauses, nothing is waited for")
				base.CloseIdleConnections()
				synctest.Wait()
				assert.Zero(t, open.Load(), "connections that leaked")
				require.NoError(t, srv.Close())
				assert.ErrorIs(t, <-served, http.ErrServerClosed)
			})
		})
	}
}

type closeCounter struct {
	io.Reader
	closed atomic.Int32
}

func (c *closeCounter) Close() error { c.closed.Add(1); return nil }

// The contract of http.RoundTripper: requests stay as they were, bodies are
// closed, also those of calls that an open breaker refuses.
func TestLC02_Request(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		g, u := newGate(t, func(c *GateConfig) { c.Failures = 3 }), newUpstream(status(503))
		rt := outbound(t, stack(t, g)...).Transport(u)
		for _, attempts := range []int64{3, 0} { // closed, then open
			before := u.attempts.Load()
			body := &closeCounter{Reader: strings.NewReader("x")}
			r, err := http.NewRequestWithContext(t.Context(), http.MethodPut, "http://a/b?c=d", body)
			require.NoError(t, err)
			var again []*closeCounter
			r.GetBody = func() (io.ReadCloser, error) {
				again = append(again, &closeCounter{Reader: strings.NewReader("x")})
				return again[len(again)-1], nil
			}
			r.Header = http.Header{"X-A": {"b"}}
			header, u2, ctx := r.Header.Clone(), *r.URL, r.Context()
			_, _ = send(t, rt, r)
			assert.Equal(t, attempts, u.attempts.Load()-before)
			assert.Equal(t, header, r.Header)
			assert.Equal(t, u2, *r.URL)
			assert.Equal(t, ctx, r.Context())
			assert.Same(t, body, r.Body)
			assert.EqualValues(t, 1, body.closed.Load())
			for _, b := range again {
				assert.EqualValues(t, 1, b.closed.Load())
			}
		}
		assert.Equal(t, u.opened.Load(), u.closed.Load())
	})
}
