package auth

import (
	"context"
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

	"github.com/gatemesh-go/gatemesh"
	"github.com/gatemesh-go/gatemesh/breaker"
)

func retryLater(value string) func(*http.Request) (*http.Response, error) {
	return func(r *http.Request) (*http.Response, error) {
		resp, err := status(503, "")(r)
		resp.Header.Set("Retry-After", value)
		return resp, err
	}
}

func TestBR02_IssuerAway(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		outage  func(*http.Request) (*http.Response, error)
		recover time.Duration // two cool-downs, or what Retry-After got, + 1 s; a fetch that hangs takes 2 s more
		atLeast time.Duration // between probes
	}{
		"killed":                 {refused, 21 * time.Second, 10 * time.Second},
		"black hole":             {blackHole, 23 * time.Second, 10 * time.Second},
		"Retry-After: 999999999": {retryLater("999999999"), 61 * time.Second, 48 * time.Second},
		"Retry-After: 40":        {retryLater("40"), 49 * time.Second, 40 * time.Second},
		"Retry-After: -1":        {retryLater("-1"), 21 * time.Second, 10 * time.Second},
		"Retry-After: x":         {retryLater("x"), 21 * time.Second, 10 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				e, w := &endpoint{}, &watcher{}
				e.serve(edDoc())
				j := newJWKS(t, e, func(c *JWKSConfig) { c.Observer = w })
				a := newAuth(t, edIssuer(t, func(is *Issuer) { is.Keys = j }))
				time.Sleep(time.Minute)
				var inFlight, most atomic.Int32
				e.set(func(r *http.Request) (*http.Response, error) {
					most.Store(max(most.Load(), inFlight.Add(1)))
					defer inFlight.Add(-1)
					return test.outage(r)
				})
				// Load goes on all the time.
				var open atomic.Bool
				stop := make(chan struct{})
				var wg sync.WaitGroup
				later := time.Now().Add(3 * time.Hour).Unix()
				unknown := kidToken(t, "next")
				for range 10 {
					good := bearerCall(t, edToken(t, payload(time.Now(), m{"exp": later})))
					wg.Go(func() {
						for {
							select {
							case <-stop:
								return
							case <-time.After(250 * time.Millisecond):
							}
							wasOpen, began := open.Load(), time.Now()
							assert.Equal(t, "ok", reason(t, a, good), "known keys notice nothing")
							_, err := a.Admit(t.Context(), bearerCall(t, unknown))
							if waited := time.Since(began); wasOpen {
								assert.Zero(t, waited, "open: refused at once")
							} else {
								assert.LessOrEqual(t, waited, 2*time.Second)
							}
							if err != nil {
								d := gatemesh.AsDenial(t.Context(), err)
								assert.Equal(t, []gatemesh.Field{{Name: "WWW-Authenticate", Value: "Bearer"}}, d.Header)
								assert.Equal(t, http.StatusUnauthorized, d.HTTPStatus())
							}
						}
					})
				}
				before := len(e.fetches())
				for j.version.Load().breaker.State() == breaker.Closed {
					time.Sleep(100 * time.Millisecond)
				}
				assert.Len(t, e.fetches(), before+maxFailures, "open within the threshold")
				open.Store(true)
				time.Sleep(4 * time.Minute)
				times := e.fetches()
				for i := before + maxFailures; i < len(times); i++ {
					gap := times[i].Sub(times[i-1])
					assert.GreaterOrEqual(t, gap, test.atLeast)
					assert.LessOrEqual(t, gap, test.recover+time.Second)
				}
				assert.EqualValues(t, 1, most.Load(), "one at a time")

				open.Store(false)
				e.serve(jwksOf(jwkOf("ed", edPublic(edKey()), nil), jwkOf("next", edPublic(otherEd()), nil)))
				time.Sleep(test.recover)
				assert.Equal(t, breaker.Closed, j.version.Load().breaker.State())
				assert.Equal(t, "ok", tokenReason(t, a, unknown), "it was not remembered as unknown")
				close(stop)
				wg.Wait()
				var opened, closed int
				for _, e := range w.all() {
					opened += strings.Count(e.Message, "opened")
					closed += strings.Count(e.Message, "closed")
				}
				assert.Equal(t, 1, opened)
				assert.Equal(t, 1, closed)
			})
		})
	}
}

func TestBR03_Issuers(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		down, up := &endpoint{}, &endpoint{}
		down.set(refused)
		up.serve(edDoc())
		ja, jb := newJWKS(t, down), newJWKS(t, up)
		a := newAuth(t, edIssuer(t, func(is *Issuer) { is.Keys, is.Issuer = ja, "https://other.example" }),
			edIssuer(t, func(is *Issuer) { is.Keys = jb }))
		time.Sleep(2 * time.Minute)
		assert.Equal(t, breaker.Open, ja.version.Load().breaker.State())
		assert.Equal(t, breaker.Closed, jb.version.Load().breaker.State())
		up.serve(jwksOf(jwkOf("next", edPublic(otherEd()), nil)))
		assert.Equal(t, "ok", tokenReason(t, a, kidToken(t, "next")), "it is fetched at once")
	})
}

// Who asked just before the breaker opened cannot begin a fetch either.
func TestBR02_AskedJustBefore(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		e, w := &endpoint{}, &watcher{}
		e.set(retryLater("40"))
		j := newJWKS(t, e, func(c *JWKSConfig) { c.Observer = w })
		for j.version.Load().breaker.State() == breaker.Closed {
			time.Sleep(time.Second)
		}
		n := len(e.fetches())
		time.Sleep(38 * time.Second)
		_, wake := j.plan.ask(time.Now(), "x")
		require.True(t, wake)
		j.poke()
		synctest.Wait()
		assert.Len(t, e.fetches(), n)
		time.Sleep(j.version.Load().breaker.Remaining() + time.Millisecond)
		assert.Len(t, e.fetches(), n+1, "nor does it put off the one that is due")
	})
}

// The fetch that Close interrupts is no failure.
func TestBR01_Close(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		e, w := &endpoint{}, &watcher{}
		e.set(blackHole)
		j := newJWKS(t, e, func(c *JWKSConfig) { c.Observer = w })
		for len(e.fetches()) < maxFailures {
			time.Sleep(time.Second)
		}
		require.NoError(t, j.Close())
		assert.Equal(t, breaker.Closed, j.version.Load().breaker.State())
		assert.Len(t, w.all(), maxFailures-1)
	})
}

// BR-01 for key sets: callers that leave, and tokens that are bad, say nothing.
func TestBR01_KeySets(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		e := &endpoint{}
		e.set(func(r *http.Request) (*http.Response, error) {
			time.Sleep(time.Second)
			return status(200, edDoc())(r)
		})
		j := newJWKS(t, e)
		a := newAuth(t, edIssuer(t, func(is *Issuer) { is.Keys = j }))
		for range 1000 {
			ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
			_, err := a.Admit(ctx, bearerCall(t, kidToken(t, "unknown")))
			require.Error(t, err)
			cancel()
			require.NotEqual(t, "ok", tokenReason(t, a, "a.b.c"))
			time.Sleep(time.Second)
		}
		assert.Greater(t, len(e.fetches()), 20)
		assert.Equal(t, breaker.Closed, j.version.Load().breaker.State())
	})
}

// The endpoint is killed and comes back, on a real socket.
func TestBR02_KilledServer(t *testing.T) {
	t.Parallel()
	var doc atomic.Value
	doc.Store(edDoc())
	var dead atomic.Bool
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if dead.Load() {
			panic(http.ErrAbortHandler)
		}
		_, _ = w.Write([]byte(doc.Load().(string)))
	}))
	defer srv.Close()
	j, err := NewJWKS(JWKSConfig{URL: srv.URL, RefreshInterval: time.Second, Cooldown: 100 * time.Millisecond})
	require.NoError(t, err)
	defer func() { require.NoError(t, j.Close()) }()
	require.Equal(t, 1, j.Refresh(t.Context(), "ed").Len())
	dead.Store(true)
	require.Eventually(t, func() bool { return j.version.Load().breaker.State() == breaker.Open }, 10*time.Second, time.Millisecond)
	assert.Equal(t, 1, j.Refresh(t.Context(), "next").Len(), "the last good keys, at once")
	doc.Store(jwksOf(jwkOf("ed", edPublic(edKey()), nil), jwkOf("next", edPublic(otherEd()), nil)))
	dead.Store(false)
	require.Eventually(t, func() bool { return j.Keys(time.Now()).Len() == 2 }, 10*time.Second, time.Millisecond)
	assert.Equal(t, breaker.Closed, j.version.Load().breaker.State())
}
