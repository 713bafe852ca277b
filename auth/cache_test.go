package auth

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gatemesh-go/gatemesh"
	"github.com/gatemesh-go/gatemesh/internal/race"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// cached reports whether a call is decided from memory, and how.
func cached(t testing.TB, a *Authenticator, c *gatemesh.Call) (ok bool, err error) {
	adm, ok, err := a.AdmitCached(t.Context(), c)
	require.Equal(t, ok, adm.Principal != nil)
	return ok, err
}

func isCached(t testing.TB, a *Authenticator, token string) bool {
	ok, err := cached(t, a, bearerCall(t, token))
	require.NoError(t, err)
	return ok
}

func TestJWT10_ExpiryInCache(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		a, err := New(Config{Issuers: []Issuer{edIssuer(t)}, CacheTTL: time.Minute})
		require.NoError(t, err)
		tok := edToken(t, payload(time.Now(), m{"exp": time.Now().Unix() + 2}))
		assert.Equal(t, "ok", tokenReason(t, a, tok))
		time.Sleep(time.Second)
		assert.True(t, isCached(t, a, tok))
		assert.Equal(t, "ok", tokenReason(t, a, tok))
		time.Sleep(time.Second - time.Nanosecond)
		assert.True(t, isCached(t, a, tok))
		time.Sleep(time.Nanosecond)
		assert.False(t, isCached(t, a, tok))
		assert.Equal(t, "token_expired", tokenReason(t, a, tok))
	})
}

func TestCacheTTL(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		cfg := Config{Issuers: []Issuer{edIssuer(t)}, CacheTTL: time.Minute}
		a, err := New(cfg)
		require.NoError(t, err)
		tok := edToken(t, payload(time.Now(), nil))
		require.Equal(t, "ok", tokenReason(t, a, tok))
		time.Sleep(30 * time.Second)
		assert.True(t, isCached(t, a, tok))
		cfg.CacheTTL = 20 * time.Second
		require.NoError(t, a.Update(cfg))
		assert.False(t, isCached(t, a, tok), "the new configuration counts for what is there")
	})
}

func TestJWT11_JudgedByOthers(t *testing.T) {
	t.Parallel()
	is := func(f ...func(*Issuer)) Config { return Config{Issuers: []Issuer{edIssuer(t, f...)}} }
	keys := edKeys(t)
	a := is(func(is *Issuer) { is.Keys = keys })
	others := map[string]struct {
		cfg  Config
		want string
	}{
		"audience":  {is(func(is *Issuer) { is.Keys, is.Audience = keys, []string{"b"} }), "token_audience"},
		"issuer":    {is(func(is *Issuer) { is.Keys, is.Issuer = keys, "https://other.example" }), "token_issuer"},
		"scope":     {is(func(is *Issuer) { is.Keys, is.RequiredScopes = keys, []string{"s"} }), "scope_missing"},
		"type":      {is(func(is *Issuer) { is.Keys, is.TokenTypes = keys, []string{"at+jwt"} }), "token_type"},
		"algorithm": {is(func(is *Issuer) { is.Keys, is.Algorithms = &sourceSpy{}, []string{"RS256"} }), "token_algorithm"},
		"keys":      {is(func(is *Issuer) { is.Keys = mustKeys(t, StaticKey{ID: "ed", Key: edPublic(otherEd())}) }), "token_signature"},
	}
	for name, o := range others {
		for _, refusedFirst := range []bool{false, true} {
			gate, err := New(a)
			require.NoError(t, err)
			tok := edToken(t, payload(time.Now(), nil))
			if !refusedFirst {
				require.Equal(t, "ok", tokenReason(t, gate, tok))
				require.True(t, isCached(t, gate, tok))
			}
			require.NoError(t, gate.Update(o.cfg))
			assert.False(t, isCached(t, gate, tok), name)
			assert.Equal(t, o.want, tokenReason(t, gate, tok), name)
			require.NoError(t, gate.Update(a))
			assert.Equal(t, "ok", tokenReason(t, gate, tok), "%s: the refusal was remembered", name)
		}
	}

	// What did not change keeps what was verified; a fault changes nothing.
	gate, err := New(a)
	require.NoError(t, err)
	tok := edToken(t, payload(time.Now(), nil))
	require.Equal(t, "ok", tokenReason(t, gate, tok))
	more := a
	more.Issuers = append(slices.Clone(more.Issuers), others["issuer"].cfg.Issuers...)
	require.NoError(t, gate.Update(more))
	assert.True(t, isCached(t, gate, tok))
	require.Error(t, gate.Update(Config{}))
	assert.True(t, isCached(t, gate, tok))
}

func TestJWT12_Tampered(t *testing.T) {
	t.Parallel()
	a := newAuth(t, edIssuer(t))
	tok := edToken(t, payload(time.Now(), nil))
	require.Equal(t, "ok", tokenReason(t, a, tok))
	parts := strings.Split(tok, ".")
	other := strings.Split(edToken(t, payload(time.Now(), m{"sub": "mallory"})), ".")
	assert.Equal(t, "token_signature", tokenReason(t, a, parts[0]+"."+other[1]+"."+parts[2]))
	assert.Equal(t, "token_signature", tokenReason(t, a, parts[0]+"."+parts[1]+"."+other[2]))
	for i := range tok {
		if tok[i] == '.' {
			continue
		}
		forged := tok[:i] + string(map[bool]byte{true: 'A', false: 'B'}[tok[i] != 'A']) + tok[i+1:]
		require.NotEqual(t, "ok", tokenReason(t, a, forged), "byte %d", i)
	}
}

func TestJWT12_KeyWithdrawn(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const refresh = time.Minute
		e := &endpoint{}
		old, next := jwkOf("ed", edPublic(edKey()), nil), jwkOf("next", edPublic(otherEd()), nil)
		e.serve(jwksOf(old))
		j := newJWKS(t, e, func(c *JWKSConfig) { c.RefreshInterval = refresh })
		a := newAuth(t, edIssuer(t, func(is *Issuer) { is.Keys = j }))
		synctest.Wait()
		tok := edToken(t, payload(time.Now(), nil))
		require.Equal(t, "ok", tokenReason(t, a, tok))

		e.serve(jwksOf(next, old)) // overlap
		time.Sleep(refresh)
		synctest.Wait()
		assert.True(t, isCached(t, a, tok))
		require.Equal(t, "ok", tokenReason(t, a, sign(t, "EdDSA", otherEd(), m{"alg": "EdDSA", "kid": "next"}, payload(time.Now(), nil))))

		e.serve(jwksOf(next))
		time.Sleep(refresh)
		synctest.Wait()
		assert.False(t, isCached(t, a, tok))
		assert.Equal(t, "token_key_unknown", tokenReason(t, a, tok))

		// Another key under the old name does not revive it.
		e.serve(jwksOf(next, jwkOf("ed", edPublic(newEd()), nil)))
		time.Sleep(refresh)
		synctest.Wait()
		assert.Equal(t, "token_signature", tokenReason(t, a, tok))
	})
}

// A token without kid needs exactly one key that fits, remembered or not.
func TestCacheWithoutKeyID(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		e := &endpoint{}
		one, two := jwkOf("one", edPublic(edKey()), nil), jwkOf("two", edPublic(otherEd()), nil)
		e.serve(jwksOf(one))
		j := newJWKS(t, e)
		a := newAuth(t, edIssuer(t, func(is *Issuer) { is.Keys = j }))
		synctest.Wait()
		tok := sign(t, "EdDSA", edKey(), m{"alg": "EdDSA"}, payload(time.Now(), nil))
		require.Equal(t, "ok", tokenReason(t, a, tok))
		e.serve(jwksOf(one, two))
		time.Sleep(5 * time.Minute)
		synctest.Wait()
		assert.Equal(t, "token_key_unknown", tokenReason(t, a, tok))
	})
}

func entryOf(i int, expires int64) *verified {
	return &verified{raw: fmt.Sprintf("token-%08d", i), expires: expires}
}

// What says stored is stored, as long as there is room.
func TestCacheKeepsWhatItStored(t *testing.T) {
	t.Parallel()
	const n = 10_000
	c := newCache(2 * n)
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Go(func() {
			for i := g; i < n; i += 8 {
				c.put(entryOf(i, 1), 0)
				assert.NotNil(t, c.get(entryOf(i, 1).raw))
			}
		})
	}
	wg.Wait()
	for i := range n {
		require.NotNil(t, c.get(entryOf(i, 1).raw), i)
	}
}

// Nobody misses what is there while others come in, the table grows, and others
// are put in place of what is there.
func TestCacheIsReadWhileItGrows(t *testing.T) {
	t.Parallel()
	n := race.Fewer(50_000)
	c := newCache(2 * n)
	var stored atomic.Int64
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			rng := rand.New(rand.NewPCG(1, 2))
			for have := stored.Load(); have < int64(n); have = stored.Load() {
				if have == 0 {
					continue
				}
				if i := rng.IntN(int(have)); c.get(entryOf(i, 1).raw) == nil {
					t.Errorf("%d of %d is missing", i, have)
					return
				}
			}
		})
	}
	for i := range n {
		c.put(entryOf(i, 1), 0)
		c.put(entryOf(i/2, 1), 0)
		stored.Store(int64(i + 1))
	}
	wg.Wait()
}

func TestCacheIsBounded(t *testing.T) {
	t.Parallel()
	for _, entries := range []int{1, 2, 100, 1000, 16384, 20_001} {
		c := newCache(entries)
		assert.Equal(t, entries, capacityOf(c))
		for i := range 3 * entries {
			c.put(entryOf(i, 1), 0)
			require.NotNil(t, c.get(entryOf(i, 1).raw))
		}
		stored := 0
		for i := range c.shards {
			s := &c.shards[i]
			assert.LessOrEqual(t, len(s.ring), s.limit)
			hanging := 0
			for i := range *s.table.Load() {
				for v := (*s.table.Load())[i].Load(); v != nil; v = v.next.Load() {
					_, want := c.find(v.raw)
					assert.Equal(t, want, v.hash)
					assert.Same(t, v, s.ring[v.slot])
					hanging++
				}
			}
			assert.Equal(t, len(s.ring), hanging)
			stored += len(s.ring)
		}
		assert.LessOrEqual(t, stored, entries)
	}
}

func capacityOf(c *cache) (n int) {
	for i := range c.shards {
		n += c.shards[i].limit
	}
	return n
}

func TestCacheEvicts(t *testing.T) {
	t.Parallel()
	c := newCache(4)
	for i := range 4 {
		c.put(entryOf(i, 100), 0)
	}
	c.get(entryOf(0, 0).raw)
	c.put(entryOf(4, 100), 0)
	assert.NotNil(t, c.get(entryOf(0, 0).raw), "it was used")
	assert.Nil(t, c.get(entryOf(1, 0).raw), "it was not")

	c = newCache(2)
	c.put(entryOf(0, 100), 0)
	c.put(entryOf(1, 10), 0)
	c.get(entryOf(0, 0).raw)
	c.get(entryOf(1, 0).raw)
	c.put(entryOf(2, 100), 10)
	assert.NotNil(t, c.get(entryOf(0, 0).raw))
	assert.Nil(t, c.get(entryOf(1, 0).raw), "it had expired")

	v := entryOf(0, 200)
	c.put(v, 10)
	assert.Same(t, v, c.get(v.raw), "the newer judgment counts")
}

// A hash alone never finds an entry.
func TestCacheComparesTheToken(t *testing.T) {
	t.Parallel()
	c := newCache(4)
	v := entryOf(1, 1)
	s, h := c.find("mallory")
	v.hash = h
	s.table.Load().hang(v)
	assert.Nil(t, c.get("mallory"))
}

func TestAdmitCachedDecides(t *testing.T) {
	t.Parallel()
	secret, hash := GenerateKey()
	a, err := New(Config{
		Issuers: []Issuer{edIssuer(t)},
		APIKeys: gatemesh.Must(NewKeySet([]Key{{ID: "k", Consumer: "c", Hash: hash}})),
	})
	require.NoError(t, err)
	tok := edToken(t, payload(time.Now(), nil))
	for _, h := range []http.Header{
		nil, {"Authorization": {"Basic x"}}, {"Authorization": {"Bearer x"}}, {"Authorization": {"Bearer a.b.c="}},
		{"Authorization": {"Bearer " + tok}, "X-Api-Key": {secret}}, {"X-Api-Key": {"x"}},
		{"Authorization": {"Bearer " + strings.Repeat("a", 8193)}},
	} {
		ok, err := cached(t, a, callWith(t, h))
		assert.False(t, ok)
		assert.Error(t, err)
	}
	ok, err := cached(t, a, callWith(t, http.Header{"X-Api-Key": {secret}}))
	assert.True(t, ok)
	assert.NoError(t, err)
	assert.False(t, isCached(t, a, tok))
	assert.False(t, isCached(t, a, tok), "a look has no effect")
	require.Equal(t, "ok", tokenReason(t, a, tok))
	assert.True(t, isCached(t, a, tok))
}

// Not parallel: it counts allocations.
func TestCachedAllocations(t *testing.T) {
	secret, hash := GenerateKey()
	a, err := New(Config{
		Issuers: []Issuer{edIssuer(t)},
		APIKeys: gatemesh.Must(NewKeySet([]Key{{ID: "k", Consumer: "c", Hash: hash}})),
	})
	require.NoError(t, err)
	for name, h := range map[string]http.Header{
		"token":   {"Authorization": {"Bearer " + edToken(t, payload(time.Now(), nil))}},
		"API key": {"X-Api-Key": {secret}},
		"none":    {},
	} {
		c, ctx := callWith(t, h), t.Context()
		first, _ := a.Admit(ctx, c)
		assert.Zero(t, testing.AllocsPerRun(1000, func() {
			if adm, _ := a.Admit(ctx, c); adm.Principal != first.Principal {
				t.Error("the principal is not shared")
			}
		}), name)
	}
}

// gRPC metadata has lower-case names, which cost nothing either.
// Not parallel: it counts allocations.
func TestGRPCMetadata(t *testing.T) {
	a := newAuth(t, edIssuer(t))
	chain := gatemesh.Must(gatemesh.NewChain(gatemesh.Must(gatemesh.NewEntry(gatemesh.EntryConfig{})), a.Layer()))
	tok := "Bearer " + edToken(t, payload(time.Now(), nil))
	start := func(authorization ...string) *gatemesh.Call {
		x, d := chain.Start(t.Context(), gatemesh.Inbound{
			Protocol: gatemesh.GRPC, Method: http.MethodPost, Authority: "orders", Path: "/orders.v1.Orders/List",
			Header: map[string][]string{"authorization": authorization}, LowerCase: true,
		})
		require.Nil(t, d)
		return x.Call()
	}
	assert.Equal(t, "credential_ambiguous", reason(t, a, start(tok, tok)))
	c, ctx := start(tok), t.Context()
	assert.Equal(t, "ok", reason(t, a, c))
	assert.Zero(t, testing.AllocsPerRun(1000, func() { _, _, _ = a.AdmitCached(ctx, c) }))
}

func TestConcurrent(t *testing.T) {
	t.Parallel()
	keys := edKeys(t)
	cfg := Config{Issuers: []Issuer{edIssuer(t, func(is *Issuer) { is.Keys = keys })}, CacheEntries: 8}
	a, err := New(cfg)
	require.NoError(t, err)
	var calls []*gatemesh.Call
	for i := range 16 {
		calls = append(calls, bearerCall(t, edToken(t, payload(time.Now(), m{"sub": fmt.Sprint(i)}))))
	}
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for i := range 200 {
				adm, err := a.Admit(t.Context(), calls[i%16])
				if assert.NoError(t, err) {
					assert.Equal(t, fmt.Sprint(i%16), adm.Principal.Subject())
				}
			}
		})
	}
	for i := range 50 {
		cfg.CacheEntries = 8 + i%2
		require.NoError(t, a.Update(cfg))
	}
	wg.Wait()
}
