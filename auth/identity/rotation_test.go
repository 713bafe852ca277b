package identity_test

import (
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/gatemesh-go/gatemesh"
	"github.com/gatemesh-go/gatemesh/auth/identity"
)

// The edge rotates its key 100 times, in the three steps that the package
// comment describes, while a service that fetches the JWKS every second
// serves 500 calls a second with tokens as old as a call tree makes them.
func TestID05_RotationUnderLoad(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const (
			lifetime = 5 * time.Second
			leeway   = time.Second
			refresh  = time.Second
			publish  = refresh + time.Millisecond // until every service has a new key
			overlap  = lifetime + leeway          // until no token of the old key is good
		)
		cfg := minterConfig()
		cfg.Lifetime = lifetime
		m := newMinter(t, func(c *identity.MinterConfig) { *c = cfg })
		keys, err := identity.NewKeys(staticKeys(t, signingKey(1).Public()))
		require.NoError(t, err)
		v := newVerifier(t, keys, func(c *identity.VerifierConfig) { c.Leeway = leeway })
		users := []*gatemesh.Principal{alice(), alice(), alice()}

		done := make(chan struct{})
		failures, calls := 0, 0
		go func() { // the service's JWKS refresh
			for {
				select {
				case <-done:
					return
				case <-time.After(refresh):
				}
				set, err := identity.ParseJWKS(m.JWKS())
				if err != nil || keys.Set(set) != nil {
					failures++
				}
			}
		}()
		finished := make(chan struct{})
		go func() { // the traffic
			defer close(finished)
			held := mint(t, m, users[0], "") // forwarded late by a slow call tree
			for tick := 0; ; tick++ {
				select {
				case <-done:
					return
				case <-time.After(20 * time.Millisecond):
				}
				for i := range 10 {
					token := mint(t, m, users[i%len(users)], "")
					if i == 0 && tick%100 == 0 { // 2 s after it was minted or reused
						token, held = held, token
					}
					calls++
					if _, err := verify(t, v, token); err != nil {
						failures++
					}
				}
			}
		}()
		for n := 2; n <= 101; n++ {
			cfg.Next, cfg.Previous = []identity.PublicKey{signingKey(n).Public()}, nil
			require.NoError(t, m.Update(cfg))
			time.Sleep(publish)
			old := mint(t, m, users[0], "")
			cfg.Next, cfg.Previous = nil, []identity.PublicKey{cfg.Key.Public()}
			cfg.Key = signingKey(n)
			require.NoError(t, m.Update(cfg))
			_, err := verify(t, v, old)
			require.NoError(t, err, "the old key still counts")
			time.Sleep(overlap)
		}
		close(done)
		<-finished
		assert.Zero(t, failures)
		assert.Greater(t, calls, 100*500*int((publish+overlap)/time.Second)*9/10)
	})
}

func TestID05_WithdrawnKey(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		cfg := minterConfig()
		m := newMinter(t, nil)
		keys, err := identity.NewKeys(staticKeys(t, signingKey(1).Public()))
		require.NoError(t, err)
		viaKeys, viaMinter := newVerifier(t, keys, nil), newVerifier(t, m, nil)
		p := alice()
		remembered := mint(t, m, p, "")
		fresh := mint(t, m, p, "not seen before")
		for _, v := range []*identity.Verifier{viaKeys, viaMinter} {
			_, err := verify(t, v, remembered)
			require.NoError(t, err)
		}
		// The key leaked: it goes at once, without overlap.
		cfg.Key = signingKey(2)
		require.NoError(t, m.Update(cfg))
		set, err := identity.ParseJWKS(m.JWKS())
		require.NoError(t, err)
		require.NoError(t, keys.Set(set))
		for _, v := range []*identity.Verifier{viaKeys, viaMinter} {
			for _, token := range []string{remembered, fresh} {
				_, err := verify(t, v, token)
				assert.Equal(t, invalid, reason(err))
				assert.Equal(t, `key "k1" is unknown`, cause(err))
				_, ok, err := v.AdmitCached(t.Context(), inbound(t, token))
				assert.NoError(t, err)
				assert.False(t, ok)
			}
			_, err := verify(t, v, mint(t, m, p, ""))
			assert.NoError(t, err)
		}
		// Another key under the same id is another key.
		require.NoError(t, keys.Set(staticKeys(t, identity.PublicKey{ID: "k2", Key: signingKey(3).Public().Key})))
		_, err = verify(t, viaKeys, mint(t, m, p, ""))
		assert.Equal(t, invalid, reason(err))
		assert.Equal(t, "signature does not verify", cause(err))
	})
}

// Everything at once, for the race detector: whoever is verified is who was
// minted, whatever is being replaced meanwhile.
func TestConcurrent(t *testing.T) {
	t.Parallel()
	m := newMinter(t, func(c *identity.MinterConfig) { c.CacheEntries = 8 })
	v := newVerifier(t, m, func(c *identity.VerifierConfig) { c.CacheEntries = 8 })
	var wg sync.WaitGroup
	for g := range 4 {
		wg.Go(func() {
			for i := range 100 {
				want := fmt.Sprint("user-", (g+i)%12)
				p := gatemesh.NewPrincipal(gatemesh.PrincipalInfo{Subject: want})
				adm, err := verify(t, v, mint(t, m, p, ""))
				if assert.NoError(t, err, cause(err)) {
					assert.Equal(t, want, adm.Principal.Subject())
				}
			}
		})
	}
	wg.Go(func() {
		for n := range 50 { // two keys in turn, both published
			cfg := minterConfig()
			cfg.Key, cfg.Previous = signingKey(1+n%2), []identity.PublicKey{signingKey(2 - n%2).Public()}
			assert.NoError(t, m.Update(cfg))
			assert.NoError(t, v.Update(identity.VerifierConfig{Issuer: issuer, Audience: []string{trustDomain}, Keys: m}))
		}
	})
	wg.Wait()
}
