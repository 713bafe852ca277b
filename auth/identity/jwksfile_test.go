package identity_test

import (
	"context"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/gatemesh-go/gatemesh"
	"github.com/gatemesh-go/gatemesh/auth/identity"
	"github.com/gatemesh-go/gatemesh/internal/leaktest"
)

// The edge rotates its key, its JWK set arrives as a file, and then one does
// that is broken.
func TestID05_JWKSFile(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "identity.jwks")
	write := func(data []byte) {
		require.NoError(t, os.WriteFile(path+".new", data, 0o600))
		require.NoError(t, os.Rename(path+".new", path))
	}
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		var events []gatemesh.Event
		heard := func() (all []string) {
			mu.Lock()
			defer mu.Unlock()
			for _, e := range events {
				all = append(all, e.Message)
			}
			events = nil
			return all
		}
		m := newMinter(t, nil)
		write(m.JWKS())
		f, err := identity.NewJWKSFile(identity.JWKSFileConfig{Path: path, Observer: gatemesh.ObserverFunc(func(_ context.Context, e gatemesh.Event) {
			mu.Lock()
			defer mu.Unlock()
			events = append(events, e)
		})})
		require.NoError(t, err)
		defer func() { require.NoError(t, f.Close()) }()
		v := newVerifier(t, f, nil)
		old := mint(t, m, alice(), "")
		_, err = verify(t, v, old)
		require.NoError(t, err)

		cfg := minterConfig()
		cfg.Key, cfg.Previous = signingKey(2), []identity.PublicKey{signingKey(1).Public()}
		require.NoError(t, m.Update(cfg))
		write(m.JWKS())
		time.Sleep(10*time.Second + time.Millisecond)
		synctest.Wait()
		assert.Equal(t, 2, f.Len())
		assert.Equal(t, []string{"identity keys loaded"}, heard())
		for _, token := range []string{old, mint(t, m, alice(), "")} {
			_, err = verify(t, v, token)
			require.NoError(t, err)
		}

		for _, broken := range []string{"", "{", `{"keys":[]}`, `{"keys":[{"kty":"OKP","crv":"Ed25519","kid":"k3","x":"AA"}]}`} {
			write([]byte(broken))
			time.Sleep(30 * time.Second)
			synctest.Wait()
			assert.Equal(t, 2, f.Len(), broken)
		}
		require.NoError(t, os.Remove(path))
		time.Sleep(30 * time.Second)
		synctest.Wait()
		assert.Equal(t, 2, f.Len(), "missing")
		said := heard()
		assert.Len(t, said, 4, "each fault once: %q", said) // "" and "{" are one
		for _, s := range said {
			assert.Equal(t, "identity key file not usable, the last good keys stay", s)
		}

		// The old key is withdrawn, and its tokens with it, remembered or not.
		cfg.Previous = nil
		require.NoError(t, m.Update(cfg))
		old = mint(t, newMinter(t, nil), alice(), "")
		_, err = verify(t, v, old)
		require.NoError(t, err)
		write(m.JWKS())
		time.Sleep(10 * time.Second)
		synctest.Wait()
		_, err = verify(t, v, old)
		assert.Equal(t, invalid, reason(err))
	})
}

func TestJWKSFile_Faults(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	good, empty := filepath.Join(dir, "good"), filepath.Join(dir, "empty")
	require.NoError(t, os.WriteFile(good, newMinter(t, nil).JWKS(), 0o600))
	require.NoError(t, os.WriteFile(empty, []byte(`{"keys":[]}`), 0o600))
	_, err := identity.NewJWKSFile(identity.JWKSFileConfig{Interval: -1})
	assert.ErrorContains(t, err, "JWKSFileConfig.Path is required")
	assert.ErrorContains(t, err, "JWKSFileConfig.Interval must not be negative")
	for _, path := range []string{filepath.Join(dir, "missing"), dir, empty} {
		_, err := identity.NewJWKSFile(identity.JWKSFileConfig{Path: path})
		assert.ErrorContains(t, err, path)
	}
	f, err := identity.NewJWKSFile(identity.JWKSFileConfig{Path: good})
	require.NoError(t, err)
	assert.ErrorContains(t, f.Update(identity.JWKSFileConfig{Path: empty}), "no Ed25519 signature key")
	assert.Equal(t, 1, f.Len())
	require.NoError(t, f.Update(identity.JWKSFileConfig{Path: good, Interval: time.Hour}))
	require.NoError(t, f.Close())
	require.NoError(t, f.Close())
	assert.ErrorContains(t, f.Update(identity.JWKSFileConfig{Path: good}), "is closed")
	_, ok := f.Key("k1")
	assert.True(t, ok, "the keys stay")

	var zero identity.JWKSFile
	_, ok = zero.Key("k1")
	assert.False(t, ok)
	assert.Zero(t, zero.Len())
	assert.Error(t, zero.Update(identity.JWKSFileConfig{Path: good}))
	require.NoError(t, zero.Close())
	_, err = identity.NewVerifier(identity.VerifierConfig{Issuer: issuer, Audience: []string{trustDomain}, Keys: &zero})
	assert.ErrorContains(t, err, "Keys is empty")
}

// TestLC01_JWKSFile does not run in parallel: it counts what is left.
func TestLC01_JWKSFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "jwks")
	require.NoError(t, os.WriteFile(path, newMinter(t, nil).JWKS(), 0o600))
	require.NoError(t, leaktest.Check(1000, func() {
		f, err := identity.NewJWKSFile(identity.JWKSFileConfig{Path: path, Interval: time.Millisecond})
		require.NoError(t, err)
		var wg sync.WaitGroup
		for range 2 {
			wg.Go(func() { assert.NoError(t, f.Close()) })
		}
		_, ok := f.Key("k1")
		assert.True(t, ok)
		wg.Wait()
	}))
}
