package main

import (
	"crypto/ed25519"
	"encoding/base64"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/gatemesh-go/gatemesh"
	"github.com/gatemesh-go/gatemesh/internal/dnstest"
)

const usersName = "users.default.svc.cluster.local."

// routesTo are manifests with a route to a service that is found by DNS.
func routesTo(t *testing.T, port string) string {
	return filepath.Dir(file(t, "routes.yaml", `
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: main-gateway}
spec:
  gatewayClassName: gatemesh
  listeners: [{name: http, port: 80, protocol: HTTP}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: users}
spec:
  parentRefs: [{name: main-gateway}]
  rules:
    - backendRefs: [{name: users, port: `+port+`}]
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: all}
spec:
  rules: [{}]
`))
}

// issuer publishes one key, while it is up.
type issuer struct {
	private ed25519.PrivateKey
	server  *httptest.Server
	up      atomic.Bool
	asked   atomic.Int32
}

func newIssuer(t *testing.T) *issuer {
	public, private, err := ed25519.GenerateKey(nil)
	require.NoError(t, err)
	i := &issuer{private: private}
	i.server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		i.asked.Add(1)
		if !i.up.Load() {
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		_, _ = fmt.Fprintf(w, `{"keys":[{"kty":"OKP","crv":"Ed25519","kid":"k","alg":"EdDSA","use":"sig","x":%q}]}`, encoded(public))
	}))
	t.Cleanup(i.server.Close)
	return i
}

func encoded[T string | []byte | ed25519.PublicKey](b T) string {
	return base64.RawURLEncoding.EncodeToString([]byte(b))
}

func (i *issuer) token() string {
	signed := encoded(`{"alg":"EdDSA","kid":"k"}`) + "." +
		encoded(fmt.Sprintf(`{"iss":"https://id.example","aud":"api","sub":"alice","exp":%d}`, time.Now().Add(time.Hour).Unix()))
	return signed + "." + encoded(ed25519.Sign(i.private, []byte(signed)))
}

// until asks again and again, as a kubelet does.
func until(t *testing.T, what string, is func() bool) {
	t.Helper()
	pace, end := time.NewTicker(20*time.Millisecond), time.After(30*time.Second)
	defer pace.Stop()
	for !is() {
		select {
		case <-pace.C:
		case <-end:
			require.FailNow(t, what)
		}
	}
}

// The gateway wants traffic once the endpoints and keys that it needs have been
// there, and then for good.
func TestReady(t *testing.T) {
	t.Parallel()
	behind, err := url.Parse(upstream(t))
	require.NoError(t, err)
	dns := gatemesh.Must(dnstest.New())
	t.Cleanup(func() { assert.NoError(t, dns.Close()) })
	dns.Set(usersName, netip.MustParseAddr(behind.Hostname()))
	dns.SetMode(dnstest.ServFail)
	id := newIssuer(t)
	addrs := startWith(t, func(o *options) { o.resolver, o.cooldown = dns.Resolver(), 100*time.Millisecond },
		"-manifests", routesTo(t, behind.Port()), "-health", "127.0.0.1:0",
		"-jwks", id.server.URL, "-issuer", "https://id.example", "-audience", "api", "-algs", "EdDSA")
	ready := func() int { return probe(t.Context(), addrs["health"].String()) }
	client, front := plainClient(t), "http://"+addrs["public"].String()+"/"
	call := func() (int, string) {
		resp, body := get(t, client, front, http.Header{"Authorization": {"Bearer " + id.token()}})
		return resp.StatusCode, body
	}
	// again waits until both have been asked twice more, and so answered once.
	again := func() {
		queries, fetches := dns.Queries(usersName), id.asked.Load()
		until(t, "nobody asks", func() bool { return dns.Queries(usersName) > queries+4 && id.asked.Load() > fetches+1 })
	}

	again()
	assert.Equal(t, 503, ready(), "nothing is there")
	id.up.Store(true)
	until(t, "the keys have not come", func() bool { code, _ := call(); return code == 503 })
	assert.Equal(t, 503, ready(), "no endpoint is there")
	dns.SetMode(dnstest.Answer)
	until(t, "not ready", func() bool { return ready() == 200 })
	code, body := call()
	assert.Equal(t, 200, code)
	assert.Equal(t, "upstream", body)

	warm := http.Header{"Authorization": {"Bearer " + id.token()}}
	resp, _ := get(t, client, front, warm)
	assert.Equal(t, 200, resp.StatusCode)
	dns.SetMode(dnstest.ServFail)
	id.up.Store(false)
	queries := dns.Queries(usersName)
	until(t, "nobody asks", func() bool { return dns.Queries(usersName) > queries+4 })
	resp, _ = get(t, client, front, warm)
	assert.Equal(t, 200, resp.StatusCode, "what was known works on")
	assert.Equal(t, 200, ready(), "an outage does not take us out")
}

// Each of what has to be there is waited for alone.
func TestReadyWaitsForEach(t *testing.T) {
	for _, c := range []struct {
		name string
		dns  func(*dnstest.Server)
		keys bool // the issuer is up
		want int
	}{
		{"DNS has failed", func(s *dnstest.Server) { s.SetMode(dnstest.ServFail) }, true, 503},
		{"DNS is silent", func(s *dnstest.Server) { s.SetMode(dnstest.Drop) }, true, 503},
		{"issuer is down", func(s *dnstest.Server) { s.Set(usersName, netip.MustParseAddr("127.0.0.1")) }, false, 503},
		{"nobody serves", func(s *dnstest.Server) { s.Set(usersName) }, true, 200},
		{"no such name", func(*dnstest.Server) {}, true, 200},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			dns := gatemesh.Must(dnstest.New())
			t.Cleanup(func() { assert.NoError(t, dns.Close()) })
			c.dns(dns)
			id := newIssuer(t)
			id.up.Store(c.keys)
			addrs := startWith(t, func(o *options) { o.resolver, o.cooldown = dns.Resolver(), 100*time.Millisecond },
				"-manifests", routesTo(t, "80"), "-health", "127.0.0.1:0",
				"-jwks", id.server.URL, "-issuer", "https://id.example", "-audience", "api", "-algs", "EdDSA")
			ready := func() int { return probe(t.Context(), addrs["health"].String()) }
			if c.want == 200 {
				until(t, "not ready", func() bool { return ready() == 200 })
				dns.SetMode(dnstest.ServFail)
			}
			// At most four queries are one lookup, so that one has ended.
			queries := dns.Queries(usersName)
			until(t, "nobody asks", func() bool { return dns.Queries(usersName) > queries+4 && id.asked.Load() > 0 })
			assert.Equal(t, c.want, ready())
		})
	}
}

// What is not there is named, without what may be secret in an address.
func TestReadyNames(t *testing.T) {
	dns := gatemesh.Must(dnstest.New())
	t.Cleanup(func() { assert.NoError(t, dns.Close()) })
	dns.SetMode(dnstest.Drop)
	id := newIssuer(t)
	o, err := parseFlags([]string{"-manifests", routesTo(t, "80"), "-jwks", id.server.URL + "/keys?secret", "-issuer", "i", "-audience", "a", "-algs", "EdDSA"}, io.Discard)
	require.NoError(t, err)
	o.resolver = dns.Resolver()
	b, err := o.build(nil)
	require.NoError(t, err)
	defer b.close()
	assert.EqualError(t, b.ready.check(), "waiting for JWKS "+id.server.URL+"/keys\nwaiting for endpoints of users.default.svc.cluster.local")
}
