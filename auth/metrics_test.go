package auth

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

func measured(t testing.TB, of gatemesh.Measurable) map[string]float64 {
	t.Helper()
	told, err := metrictest.Read(of)
	require.NoError(t, err)
	return told
}

// A call that the tap handle and the interceptor look up counts once, and an
// Update keeps the counts even if it makes another cache.
func TestMetrics(t *testing.T) {
	t.Parallel()
	a := newAuth(t, edIssuer(t))
	c := bearerCall(t, edToken(t, payload(time.Now(), nil)))
	_, ok, err := a.AdmitCached(t.Context(), c)
	require.NoError(t, err)
	require.False(t, ok)
	for range 3 {
		assert.Equal(t, "ok", reason(t, a, c))
	}
	assert.NotEqual(t, "ok", tokenReason(t, a, kidToken(t, "x")))
	want := map[string]float64{
		"gatemesh.auth.cache.lookups{state=hit}": 2, "gatemesh.auth.cache.lookups{state=miss}": 2,
		"gatemesh.auth.cache.tokens": 1, "gatemesh.auth.cache.limit": float64(a.state.Latest().cfg.CacheEntries),
	}
	assert.Equal(t, want, measured(t, a))
	require.NoError(t, a.Update(Config{Issuers: []Issuer{edIssuer(t)}, CacheEntries: 77}))
	want["gatemesh.auth.cache.tokens"], want["gatemesh.auth.cache.limit"] = 0, 77
	assert.Equal(t, want, measured(t, a))
	assert.Empty(t, measured(t, &Authenticator{}))
}

func TestOpaqueMetrics(t *testing.T) {
	t.Parallel()
	down := VerifierFunc(func(context.Context, string) (map[string]any, error) { return nil, context.DeadlineExceeded })
	a, err := New(Config{Opaque: &Opaque{Verifier: down, Issuer: "https://idp.example", InsecureAnyAudience: true}})
	require.NoError(t, err)
	for i := range 6 {
		assert.NotEqual(t, "ok", tokenReason(t, a, string(rune('a'+i))))
	}
	assert.EqualValues(t, 1, measured(t, a)["gatemesh.breaker.state{name=tokens of https://idp.example, state=open}"])
}

func TestJWKSMetrics(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		e := &endpoint{}
		e.serve(edDoc())
		j := newJWKS(t, e, func(c *JWKSConfig) { c.URL = "https://idp.example/jwks?key=SECRET-URL" })
		synctest.Wait()
		time.Sleep(time.Second)
		const at = "{name=https://idp.example/jwks}"
		told := measured(t, j)
		assert.EqualValues(t, 1, told["gatemesh.auth.jwks.keys"+at])
		assert.EqualValues(t, 1, told["gatemesh.auth.jwks.age"+at])
		assert.EqualValues(t, 1, told["gatemesh.auth.jwks.fetches{name=https://idp.example/jwks, state=good}"])
		assert.EqualValues(t, 0, told["gatemesh.auth.jwks.fetches{name=https://idp.example/jwks, state=failed}"])
		assert.EqualValues(t, 1, told["gatemesh.breaker.state{name=key set https://idp.example/jwks, state=closed}"])
		for name := range told {
			assert.NotContains(t, name, "SECRET", "TR-03")
		}
		e.set(status(http.StatusServiceUnavailable, ""))
		time.Sleep(3 * time.Hour)
		told = measured(t, j)
		assert.EqualValues(t, 0, told["gatemesh.auth.jwks.keys"+at], "past MaxStale")
		assert.Greater(t, told["gatemesh.auth.jwks.age"+at], 2*3600.)
		assert.Greater(t, told["gatemesh.auth.jwks.fetches{name=https://idp.example/jwks, state=failed}"], 10.)
		assert.EqualValues(t, 1, told["gatemesh.auth.jwks.fetches{name=https://idp.example/jwks, state=good}"])
		assert.EqualValues(t, 1, told["gatemesh.breaker.state{name=key set https://idp.example/jwks, state=open}"])
	})
	assert.Empty(t, measured(t, &JWKS{}))
}
