package identity_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/gatemesh-go/gatemesh/auth/identity"
	"github.com/gatemesh-go/gatemesh/internal/leaktest"
)

// TestLC01_Lifecycle does not run in parallel: it counts what is left. Nothing
// here needs closing.
func TestLC01_Lifecycle(t *testing.T) {
	p := alice()
	require.NoError(t, leaktest.Check(1000, func() {
		m := newMinter(t, func(c *identity.MinterConfig) { c.CacheEntries = 8 })
		keys, err := identity.NewKeys(staticKeys(t, signingKey(1).Public()))
		require.NoError(t, err)
		v := newVerifier(t, keys, func(c *identity.VerifierConfig) { c.CacheEntries = 8 })
		old := mint(t, m, p, "")
		_, err = verify(t, v, old)
		require.NoError(t, err)
		cfg := minterConfig()
		cfg.Key, cfg.Previous = signingKey(2), []identity.PublicKey{signingKey(1).Public()}
		require.NoError(t, m.Update(cfg))
		require.NoError(t, keys.Set(staticKeys(t, signingKey(1).Public(), signingKey(2).Public())))
		require.NoError(t, v.Update(identity.VerifierConfig{Issuer: issuer, Audience: []string{trustDomain}, Keys: keys}))
		for _, token := range []string{old, mint(t, m, p, "")} {
			_, err = verify(t, v, token)
			require.NoError(t, err)
		}
	}))
}
