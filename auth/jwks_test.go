package auth

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gatemesh-go/gatemesh"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func edDoc() string { return jwksOf(jwkOf("ed", edPublic(edKey()), nil)) }

func kidToken(t testing.TB, kid string) string {
	return sign(t, "EdDSA", otherEd(), m{"alg": "EdDSA", "kid": kid}, payload(time.Now(), nil))
}

func TestJWT08_UnknownKeyFlood(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const fetchTime = 10 * time.Millisecond
		e := &endpoint{}
		e.set(func(r *http.Request) (*http.Response, error) {
			time.Sleep(fetchTime)
			return status(200, edDoc())(r)
		})
		j := newJWKS(t, e)
		a := newAuth(t, edIssuer(t, func(is *Issuer) { is.Keys = j }))
		good := make([]*gatemesh.Call, 50)
		for i := range good {
			good[i] = bearerCall(t, edToken(t, payload(time.Now(), m{"jti": fmt.Sprint(i)})))
		}
		time.Sleep(time.Minute) // past the first fetch's cool-down
		var refusals atomic.Int64
		var wg sync.WaitGroup
		for g := range 50 {
			wg.Go(func() {
				for i := range 200 { // over five seconds
					began := time.Now()
					if reason(t, a, bearerCall(t, kidToken(t, fmt.Sprintf("%d-%d", g, i)))) == "token_key_unknown" {
						refusals.Add(1)
					}
					assert.LessOrEqual(t, time.Since(began), fetchTime, "nobody waits for the cool-down")
					assert.Equal(t, "ok", reason(t, a, good[g]))
					time.Sleep(25 * time.Millisecond)
				}
			})
		}
		wg.Wait()
		assert.EqualValues(t, 50*200, refusals.Load())
		time.Sleep(time.Hour)
		times := e.fetches()
		for i := 2; i < len(times); i++ {
			assert.GreaterOrEqual(t, times[i].Sub(times[i-2]), 10*time.Second, "more than two fetches in ten seconds")
		}
		assert.LessOrEqual(t, len(j.plan.missing), maxMissing)
	})
}

// A key that appears while the cool-down was used up by somebody else is
// found as soon as the cool-down is over, without another call.
func TestJWKSFindsNewKeyAfterCooldown(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		e := &endpoint{}
		e.serve(edDoc())
		j := newJWKS(t, e)
		a := newAuth(t, edIssuer(t, func(is *Issuer) { is.Keys = j }))
		time.Sleep(time.Minute)
		assert.Equal(t, "token_key_unknown", tokenReason(t, a, kidToken(t, "invented")))
		e.serve(jwksOf(jwkOf("ed", edPublic(edKey()), nil), jwkOf("new", edPublic(otherEd()), nil)))
		assert.Equal(t, "token_key_unknown", tokenReason(t, a, kidToken(t, "new")))
		time.Sleep(10 * time.Second)
		synctest.Wait()
		assert.True(t, j.Keys(time.Now()).Len() == 2)
		assert.Equal(t, "ok", tokenReason(t, a, kidToken(t, "new")))
		assert.Len(t, e.fetches(), 3)

		// An id that a fetch did not find is not asked for again for a while.
		time.Sleep(10 * time.Second)
		assert.Equal(t, "token_key_unknown", tokenReason(t, a, kidToken(t, "invented")))
		assert.Len(t, e.fetches(), 3)
		time.Sleep(10 * time.Second)
		assert.Equal(t, "token_key_unknown", tokenReason(t, a, kidToken(t, "invented")))
		assert.Len(t, e.fetches(), 4)
		time.Sleep(10 * time.Second)
		assert.Equal(t, "token_key_unknown", tokenReason(t, a, kidToken(t, strings.Repeat("k", maxKeyID+1))))
		synctest.Wait()
		assert.Len(t, e.fetches(), 4, "no key id is that long")
	})
}

// Tokens that no key could save cause no fetch.
func TestJWKSFetchesForPlausibleTokensOnly(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		e := &endpoint{}
		e.serve(edDoc())
		a := newAuth(t, edIssuer(t, func(is *Issuer) { is.Keys = newJWKS(t, e) }))
		time.Sleep(time.Minute)
		for _, change := range []m{{"exp": 1}, {"aud": "x"}, {"iss": "x"}, {"sub": 1}, {"nbf": time.Now().Unix() + 9}} {
			assert.NotEqual(t, "ok", tokenReason(t, a, sign(t, "EdDSA", otherEd(), m{"alg": "EdDSA", "kid": "x"}, payload(time.Now(), change))))
		}
		assert.NotEqual(t, "ok", tokenReason(t, a, sign(t, "ES256", ecKey(), m{"alg": "ES256", "kid": "x"}, payload(time.Now(), nil))))
		assert.Len(t, e.fetches(), 1)
	})
}

func TestJWT13_Outage(t *testing.T) {
	t.Parallel()
	secrets := jwksOf(jwkOf("x", []byte(strings.Repeat("s", 32)), nil))
	for name, outage := range map[string]func(*http.Request) (*http.Response, error){
		"500":        status(500, ""),
		"refused":    refused,
		"black hole": blackHole,
		"empty":      status(200, `{"keys":[]}`),
		"null":       status(200, `null`),
		"no keys":    status(200, `{}`),
		"HTML":       status(200, "<html>sign in</html>"),
		"truncated":  status(200, edDoc()[:40]),
		"redirect":   status(302, edDoc()),
		"secrets":    status(200, secrets),
		"100 MB":     stream(make([]byte, 1<<15), 0),
		"1 byte/s":   stream([]byte(" "), time.Second),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				e, w := &endpoint{}, &watcher{}
				e.serve(edDoc())
				j := newJWKS(t, e, func(c *JWKSConfig) { c.Observer = w })
				a := newAuth(t, edIssuer(t, func(is *Issuer) { is.Keys = j }))
				synctest.Wait()
				later := time.Now().Add(3 * time.Hour).Unix()
				fresh := func() string { // never from the cache
					return edToken(t, payload(time.Now(), m{"exp": later, "jti": time.Now().String()}))
				}
				require.Equal(t, "ok", tokenReason(t, a, fresh()))

				e.set(outage)
				down := time.Now()
				unknown := kidToken(t, "next")
				time.Sleep(time.Minute)
				began := time.Now()
				assert.Equal(t, "token_key_unknown", tokenReason(t, a, unknown))
				assert.LessOrEqual(t, time.Since(began), 2*time.Second)
				began = time.Now()
				assert.Equal(t, "token_key_unknown", tokenReason(t, a, unknown))
				assert.Zero(t, time.Since(began), "the cool-down is not waited for")

				time.Sleep(time.Hour - time.Minute - 10*time.Second)
				assert.Equal(t, "ok", tokenReason(t, a, fresh()), "the last good keys are in use")
				time.Sleep(15 * time.Second)
				require.Greater(t, time.Since(down), time.Hour)
				assert.Equal(t, "token_key_unknown", tokenReason(t, a, fresh()), "but not for ever")

				e.serve(jwksOf(jwkOf("ed", edPublic(edKey()), nil), jwkOf("next", edPublic(otherEd()), nil)))
				time.Sleep(20*time.Second + 2*time.Second)
				synctest.Wait()
				assert.Equal(t, "ok", tokenReason(t, a, fresh()))
				assert.Equal(t, "ok", tokenReason(t, a, kidToken(t, "next")))

				events := w.all()
				require.NotEmpty(t, events)
				assert.Equal(t, gatemesh.EventFault, events[0].Kind)
				assert.Contains(t, events[0].Message, "the last good keys stay in use")
				assert.Equal(t, gatemesh.EventNotice, events[len(events)-1].Kind)
				times := e.fetches()
				for i := 1; i < len(times); i++ {
					assert.GreaterOrEqual(t, times[i].Sub(times[i-1]), 10*time.Second)
				}
			})
		})
	}
}

// An endpoint that is down at the start costs 401, once the first fetch's
// timeout is over without any wait, and nothing else.
func TestJWT13_DownAtStart(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		e := &endpoint{}
		e.set(blackHole)
		j := newJWKS(t, e)
		a := newAuth(t, edIssuer(t, func(is *Issuer) { is.Keys = j }))
		tok := edToken(t, payload(time.Now(), nil))
		began := time.Now()
		var wg sync.WaitGroup
		var waited atomic.Int32
		for range 2 * maxWaiting {
			wg.Go(func() {
				assert.Equal(t, "token_key_unknown", tokenReason(t, a, tok))
				if time.Since(began) > 0 {
					waited.Add(1)
				}
			})
		}
		wg.Wait()
		assert.EqualValues(t, maxWaiting, waited.Load(), "those who wait are bounded")
		assert.Equal(t, 2*time.Second, time.Since(began))
		e.serve(edDoc())
		time.Sleep(10 * time.Second)
		assert.Equal(t, "ok", tokenReason(t, a, tok), "it was not remembered as unknown")
	})
}

func TestJWKSCallerLeaves(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		e := &endpoint{}
		e.set(blackHole)
		j := newJWKS(t, e)
		a := newAuth(t, edIssuer(t, func(is *Issuer) { is.Keys = j }))
		ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		defer cancel()
		began := time.Now()
		_, err := a.Admit(ctx, bearerCall(t, edToken(t, payload(time.Now(), nil))))
		assert.Equal(t, gatemesh.DeadlineExceeded, gatemesh.AsDenial(ctx, err).Code)
		assert.Equal(t, time.Millisecond, time.Since(began))
	})
}

func TestJWKSClose(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		e, w := &endpoint{}, &watcher{}
		e.set(blackHole)
		j := newJWKS(t, e, func(c *JWKSConfig) { c.Observer = w })
		synctest.Wait()
		done := make(chan *Keys)
		go func() { done <- j.Refresh(t.Context(), "x") }()
		synctest.Wait()
		began := time.Now()
		require.NoError(t, j.Close())
		require.NoError(t, j.Close())
		assert.Nil(t, <-done)
		assert.Nil(t, j.Refresh(t.Context(), "y"))
		assert.Zero(t, time.Since(began))
		assert.Empty(t, w.all())
	})
}

func TestJWKSSkipsBadKeys(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		e, w := &endpoint{}, &watcher{}
		e.serve(jwksOf(
			jwkOf("oct", []byte(strings.Repeat("s", 32)), nil),
			m{"kty": "unheard of"},
			jwkOf("private", edPublic(newEd()), m{"d": "AA"}),
			jwkOf("enc", edPublic(newEd()), m{"use": "enc"}),
			jwkOf("ed", edPublic(edKey()), m{"use": "sig", "key_ops": []string{"verify"}}),
			jwkOf("ed", edPublic(otherEd()), nil),
		))
		j := newJWKS(t, e, func(c *JWKSConfig) { c.Observer = w })
		synctest.Wait()
		first := j.Keys(time.Now())
		assert.Equal(t, 1, first.Len())
		require.Len(t, w.all(), 1)
		for _, want := range []string{"key 0: secrets", "key 1: kty", "key 2: key is private", `key 5: key with id "ed" is there twice`} {
			assert.ErrorContains(t, w.all()[0].Err, want)
		}
		assert.NotContains(t, w.all()[0].Err.Error(), "key 3")
		time.Sleep(time.Hour)
		assert.Len(t, w.all(), 1, "said once")
		assert.Same(t, first, j.Keys(time.Now()), "nothing has changed")
		assert.Greater(t, len(e.fetches()), 11)
	})
}

// One real endpoint: no redirects, a bounded body, no connection left behind.
func TestJWKSOverHTTP(t *testing.T) {
	t.Parallel()
	var elsewhere atomic.Int32
	mux := http.NewServeMux()
	mux.HandleFunc("/jwks", func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(edDoc())) })
	mux.Handle("/redirect", http.RedirectHandler("/elsewhere", http.StatusFound))
	mux.HandleFunc("/elsewhere", func(w http.ResponseWriter, _ *http.Request) {
		elsewhere.Add(1)
		_, _ = w.Write([]byte(edDoc()))
	})
	srv := httptest.NewServer(mux)
	defer srv.Close()
	for path, want := range map[string]int{"/jwks?token=SECRET": 1, "/redirect": 0, "/missing": 0} {
		w := &watcher{}
		j, err := NewJWKS(JWKSConfig{URL: srv.URL + path, Observer: w})
		require.NoError(t, err)
		assert.Equal(t, want, j.Refresh(t.Context(), "ed").Len(), path)
		require.NoError(t, j.Close())
		assert.NotContains(t, fmt.Sprintf("%v %+v %#v", j, j, j), "SECRET")
		for _, e := range w.all() {
			assert.NotContains(t, e.Message+e.Err.Error(), "SECRET")
		}
	}
	assert.Zero(t, elsewhere.Load())
	srv.Close()
	w := &watcher{}
	j, err := NewJWKS(JWKSConfig{URL: srv.URL + "/jwks?token=SECRET", Observer: w})
	require.NoError(t, err)
	assert.Nil(t, j.Refresh(t.Context(), "ed"))
	require.NoError(t, j.Close())
	require.Len(t, w.all(), 1)
	assert.NotContains(t, w.all()[0].Err.Error(), "SECRET")
}

// A token that expires while its key is fetched is not admitted.
func TestJWKSTokenExpiresMeanwhile(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		e := &endpoint{}
		e.set(func(r *http.Request) (*http.Response, error) {
			time.Sleep(time.Second)
			return status(200, edDoc())(r)
		})
		j := newJWKS(t, e)
		a := newAuth(t, edIssuer(t, func(is *Issuer) { is.Keys = j }))
		assert.Equal(t, "token_expired", tokenReason(t, a, edToken(t, payload(time.Now(), m{"exp": time.Now().Unix() + 1}))))
		assert.Equal(t, "ok", tokenReason(t, a, edToken(t, payload(time.Now(), m{"exp": time.Now().Unix() + 1}))))
	})
}

func TestPlanForgets(t *testing.T) {
	t.Parallel()
	p := plan{cooldown: time.Second, missing: map[string]time.Time{}}
	now, found := time.Unix(1, 0), mustKeys(t, StaticKey{ID: "there", Key: edPublic(edKey())})
	for round := range 10 {
		for i := range 2 * maxWaiting {
			done, _ := p.ask(now, fmt.Sprintf("%d-%d", round, i))
			assert.Equal(t, i < maxWaiting, done != nil)
		}
		require.True(t, p.begin(now))
		p.end(now, found, time.Minute)
		assert.Len(t, p.missing, maxMissing)
		now = now.Add(time.Second)
	}
	now = now.Add(time.Hour)
	p.ask(now, "x")
	p.begin(now)
	p.end(now, found, time.Minute)
	assert.Len(t, p.missing, 1, "what is over goes first")
}

func TestJWKSFile(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "jwks.json")
	_, err := NewJWKS(JWKSConfig{File: path})
	assert.ErrorContains(t, err, "JWKSConfig.File")
	require.NoError(t, os.WriteFile(path, []byte(`{"keys":[]}`), 0o600))
	_, err = NewJWKS(JWKSConfig{File: path})
	assert.ErrorContains(t, err, "no usable key")
	require.NoError(t, os.WriteFile(path, []byte(edDoc()), 0o600))
	synctest.Test(t, func(t *testing.T) {
		j, err := NewJWKS(JWKSConfig{File: path})
		require.NoError(t, err)
		defer func() { require.NoError(t, j.Close()) }()
		assert.Equal(t, 1, j.Refresh(t.Context(), "x").Len())
		require.NoError(t, os.WriteFile(path, []byte(jwksOf(jwkOf("a", edPublic(edKey()), nil), jwkOf("b", edPublic(otherEd()), nil))), 0o600))
		time.Sleep(5 * time.Minute)
		synctest.Wait()
		assert.Equal(t, 2, j.Keys(time.Now()).Len())
	})
}

func TestNewJWKSFaults(t *testing.T) {
	t.Parallel()
	_, err := NewJWKS(JWKSConfig{
		URL: "http://idp.example/jwks", RefreshInterval: time.Millisecond, FetchTimeout: -1,
		MaxStale: -1, Cooldown: time.Hour, MaxBody: -1,
	})
	for _, want := range []string{"InsecureHTTP", "RefreshInterval", "FetchTimeout", "MaxStale", "Cooldown", "MaxBody"} {
		assert.ErrorContains(t, err, want)
	}
	for _, cfg := range []JWKSConfig{{}, {URL: "https://a", File: "b"}, {URL: "idp.example/jwks"}, {URL: "ftp://x/y"}, {URL: "https://%zz"}} {
		_, err := NewJWKS(cfg)
		assert.Error(t, err, cfg.URL)
	}
	for _, cfg := range []JWKSConfig{{URL: "http://127.0.0.1:1/"}, {URL: "http://localhost:1/"}, {URL: "http://idp.invalid", InsecureHTTP: true}} {
		cfg.Client = &http.Client{Transport: &endpoint{answer: refused}}
		j, err := NewJWKS(cfg)
		if assert.NoError(t, err, cfg.URL) {
			assert.NoError(t, j.Close())
		}
	}
}
