package auth

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/gatemesh-go/gatemesh"
	"github.com/gatemesh-go/gatemesh/internal/leaktest"
)

// TestLC01_Lifecycle does not run in parallel: it counts what is left.
func TestLC01_Lifecycle(t *testing.T) {
	doc := jwksOf(jwkOf("ed", edPublic(edKey()), nil))
	file := filepath.Join(t.TempDir(), "jwks.json")
	require.NoError(t, os.WriteFile(file, []byte(doc), 0o600))
	mux := http.NewServeMux()
	server := httptest.NewServer(mux)
	defer server.Close()
	mux.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(doc)) })
	mux.HandleFunc(wellKnown, func(w http.ResponseWriter, _ *http.Request) {
		_, _ = w.Write([]byte(metadataOf(server.URL, server.URL+"/keys", nil)))
	})
	for _, test := range []struct {
		name string
		n    int
		cfg  JWKSConfig
	}{{"file", 1000, JWKSConfig{File: file}}, {"URL", 1000, JWKSConfig{URL: server.URL}}, {"discovery", 1000, JWKSConfig{Discovery: server.URL}}} {
		t.Run(test.name, func(t *testing.T) {
			c := bearerCall(t, edToken(t, payload(time.Now(), nil)))
			start := func() (*JWKS, *Authenticator, Config) {
				j, err := NewJWKS(test.cfg)
				require.NoError(t, err)
				cfg := Config{Issuers: []Issuer{edIssuer(t, func(is *Issuer) { is.Keys = j })}, CacheEntries: 8}
				a, err := New(cfg)
				require.NoError(t, err)
				return j, a, cfg
			}
			require.NoError(t, leaktest.Check(test.n, func() {
				j, a, cfg := start()
				require.Equal(t, "ok", reason(t, a, c))
				cfg.CacheEntries = 16
				require.NoError(t, a.Update(cfg))
				require.Equal(t, "ok", reason(t, a, c))
				require.NoError(t, j.Close())
				require.NoError(t, j.Close())
				require.Equal(t, "ok", reason(t, a, c), "the keys stay until MaxStale")
			}))
			require.NoError(t, leaktest.Check(100, func() {
				j, a, _ := start()
				var wg sync.WaitGroup
				for range 2 {
					wg.Go(func() { _, _ = a.Admit(t.Context(), c) }) // refused if there are no keys yet
					wg.Go(func() { _ = j.Close() })
				}
				wg.Wait()
			}), "closed while it is used")
		})
	}
}

// TestLC01_Opaque is the same for introspection and revocations.
func TestLC01_Opaque(t *testing.T) {
	answer := string(gatemesh.Must(json.Marshal(payload(time.Now(), m{"active": true}))))
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(answer)) }))
	defer server.Close()
	c := bearerCall(t, "token")
	start := func() (*Introspection, *Revocations, *Authenticator, Config) {
		in, err := NewIntrospection(IntrospectionConfig{URL: server.URL, ClientID: "c", ClientSecret: "s"})
		require.NoError(t, err)
		r, err := NewRevocations(RevocationsConfig{Log: newBoard(), MaxBlind: time.Minute})
		require.NoError(t, err)
		cfg := Config{CacheEntries: 8, Revocations: r, Opaque: &Opaque{Verifier: in, Issuer: testIssuer, Audience: []string{testAudience}}}
		a, err := New(cfg)
		require.NoError(t, err)
		return in, r, a, cfg
	}
	require.NoError(t, leaktest.Check(1000, func() {
		in, r, a, cfg := start()
		for r.lost(time.Now()) { // the log was not read yet
			runtime.Gosched()
		}
		require.Equal(t, "ok", reason(t, a, c))
		cfg.Opaque.Leeway = time.Second
		require.NoError(t, a.Update(cfg))
		require.Equal(t, "ok", reason(t, a, c))
		require.NoError(t, r.Revoke(t.Context(), Revocation{Issuer: testIssuer, Credential: "t1", Until: time.Now().Add(time.Hour)}))
		require.Equal(t, "token_revoked", reason(t, a, c))
		for range 2 {
			require.NoError(t, r.Close())
			require.NoError(t, in.Close())
		}
	}))
	require.NoError(t, leaktest.Check(100, func() {
		in, r, a, _ := start()
		var wg sync.WaitGroup
		for range 2 {
			wg.Go(func() { _, _ = a.Admit(t.Context(), c) }) // ends in any way
			wg.Go(func() { _ = r.Close() })
			wg.Go(func() { _ = in.Close() })
		}
		wg.Wait()
		require.NoError(t, in.Close()) // what was under way has ended
	}), "closed while it is used")
}
