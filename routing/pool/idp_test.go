package pool_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/gatemesh-go/gatemesh"
	"github.com/gatemesh-go/gatemesh/auth"
	"github.com/gatemesh-go/gatemesh/breaker"
	"github.com/gatemesh-go/gatemesh/routing/pool"
)

// identityProvider is one replica of an identity provider. It introspects every
// token as good, and has no key.
func identityProvider(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	if r.URL.Path == "/jwks" {
		_, _ = io.WriteString(w, `{"keys":[{"kty":"OKP","crv":"Ed25519","kid":"k1","alg":"EdDSA","use":"sig","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}`)
		return
	}
	_ = json.NewEncoder(w).Encode(map[string]any{
		"active": true, "iss": "https://idp.example", "aud": "orders", "sub": "alice", "exp": time.Now().Add(time.Hour).Unix(),
	})
}

// identityClient returns a client for the replicas of an identity provider: the
// pool leaves alone the one that is sick, and what has met it before that is
// tried again at another one. Introspection is a POST, and asking twice does no
// harm (RFC 7662 §2).
func identityClient(replicas ...string) (client *http.Client, p *pool.Pool, done func()) {
	p = gatemesh.Must(pool.New(pool.Config{
		Name:     "idp",
		Resolver: pool.Static(replicas...), // in a cluster: pool.NewDNS
		Ejection: pool.Ejection{Server5xx: true},
	}))
	transport := gatemesh.Must(p.NewTransport(pool.TransportConfig{
		// A replica that hangs has failed long before FetchTimeout.
		Base: &http.Transport{
			DialContext:           (&net.Dialer{Timeout: 300 * time.Millisecond}).DialContext,
			ResponseHeaderTimeout: 300 * time.Millisecond,
		},
	}))
	retry := gatemesh.Must(breaker.NewRetry(breaker.RetryConfig{
		Statuses:   []int{500, 502, 503, 504},
		Idempotent: func(c *gatemesh.Call) bool { return c.Path() == "/introspect" },
	}))
	out := gatemesh.Must(gatemesh.NewOutbound(gatemesh.OutboundConfig{
		Mesh:   gatemesh.MeshHosts(map[string]gatemesh.Destination{"idp.example": {Service: "idp"}}),
		Layers: []gatemesh.Layer{retry.Layer()},
	}))
	return &http.Client{Transport: out.Transport(transport)}, p, func() {
		_ = transport.Close()
		_ = p.Close()
	}
}

// The calls of package auth to an identity provider go through a pool, so that
// nobody notices that one of its replicas is down.
func ExamplePool_NewTransport() {
	one, two := httptest.NewServer(http.HandlerFunc(identityProvider)), httptest.NewServer(http.HandlerFunc(identityProvider))
	defer one.Close()
	defer two.Close()
	down := httptest.NewServer(nil)
	down.Close() // refuses connections from here on

	client, _, done := identityClient(one.Listener.Addr().String(), down.Listener.Addr().String(), two.Listener.Addr().String())
	defer done()
	keys := gatemesh.Must(auth.NewJWKS(auth.JWKSConfig{URL: "http://idp.example/jwks", InsecureHTTP: true, Client: client}))
	defer keys.Close()
	asks := gatemesh.Must(auth.NewIntrospection(auth.IntrospectionConfig{
		URL: "http://idp.example/introspect", InsecureHTTP: true, Client: client, ClientID: "orders", ClientSecret: "s3cr3t",
	}))
	defer asks.Close()
	who := gatemesh.Must(auth.New(auth.Config{
		Issuers: []auth.Issuer{{Issuer: "https://login.example", Audience: []string{"orders"}, Algorithms: []string{"EdDSA"}, Keys: keys}},
		Opaque:  &auth.Opaque{Verifier: asks, Issuer: "https://idp.example", Audience: []string{"orders"}},
	}))
	handler := gatemesh.Must(gatemesh.NewChain(gatemesh.Must(gatemesh.NewEntry(gatemesh.EntryConfig{})), who.Layer())).Handler(
		http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))

	statuses := map[int]int{}
	for i := range 30 {
		r := httptest.NewRequest(http.MethodGet, "/orders", nil)
		r.Header.Set("Authorization", fmt.Sprintf("Bearer opaque-%d", i))
		w := httptest.NewRecorder()
		handler.ServeHTTP(w, r)
		statuses[w.Code]++
	}
	fmt.Println(statuses)
	// Output: map[200:30]
}

// Whatever ails one replica of three, and whichever it is: no introspection and
// no fetch of keys fails.
func TestSickIdentityProvider(t *testing.T) {
	t.Parallel()
	for name, ail := range map[string]func(w http.ResponseWriter, r *http.Request){
		"500": func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusInternalServerError) },
		"503": func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusServiceUnavailable) },
		"hangs": func(_ http.ResponseWriter, r *http.Request) {
			_, _ = io.Copy(io.Discard, r.Body) // so that the server sees the client go
			<-r.Context().Done()
		},
		"breaks off": func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) },
		"refuses":    nil,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var met atomic.Int64
			var replicas []string
			for i := range 3 {
				s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					if i == 1 {
						met.Add(1)
						ail(w, r)
						return
					}
					identityProvider(w, r)
				}))
				replicas = append(replicas, s.Listener.Addr().String())
				if i == 1 && ail == nil {
					s.Close()
				} else {
					t.Cleanup(s.Close)
				}
			}
			client, p, done := identityClient(replicas...)
			defer done()
			asks, err := auth.NewIntrospection(auth.IntrospectionConfig{
				URL: "http://idp.example/introspect", InsecureHTTP: true, Client: client, ClientID: "orders", ClientSecret: "s3cr3t",
			})
			require.NoError(t, err)
			defer func() { require.NoError(t, asks.Close()) }()
			for i := range 60 {
				claims, err := asks.VerifyToken(t.Context(), fmt.Sprintf("token-%d", i))
				require.NoError(t, err, i)
				require.Equal(t, "alice", claims["sub"])
			}
			for range 10 {
				keys, err := auth.NewJWKS(auth.JWKSConfig{URL: "http://idp.example/jwks", InsecureHTTP: true, Client: client})
				require.NoError(t, err)
				assert.Equal(t, 1, keys.Refresh(t.Context(), "k1").Len())
				require.NoError(t, keys.Close())
			}
			sick := p.Endpoints()[slices.IndexFunc(p.Endpoints(), func(s pool.EndpointStatus) bool { return s.Address == replicas[1] })]
			assert.Positive(t, sick.Failures, "it was met")
			if ail != nil {
				assert.LessOrEqual(t, met.Load(), int64(12), "and then left alone")
			}
		})
	}
}
