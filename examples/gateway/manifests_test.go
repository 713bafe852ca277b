package main

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/gatemesh-go/gatemesh"
	"github.com/gatemesh-go/gatemesh/auth"
	"github.com/gatemesh-go/gatemesh/internal/dnstest"
)

// routes are manifests that send everything to a service, and let in whoever
// the source of a rule fits, to /SERVICE alone.
func routes(service, source string) string {
	return strings.NewReplacer("SERVICE", service, "SOURCE", source).Replace(`
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: main-gateway}
spec:
  gatewayClassName: gatemesh
  listeners: [{name: http, port: 80, protocol: HTTP}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: all}
spec:
  parentRefs: [{name: main-gateway}]
  rules:
    - backendRefs: [{name: SERVICE, port: 80}]
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: all}
spec:
  rules: [{SOURCEto: [{operation: {paths: ["/SERVICE"]}}]}]
`)
}

const users = `from: [{source: {requestPrincipals: ["*"]}}], `

// tokens is a RequestAuthentication for one issuer.
func tokens(issuer, jwksURI string) string {
	return fmt.Sprintf(`---
apiVersion: security.istio.io/v1
kind: RequestAuthentication
metadata: {name: users}
spec:
  selector: {matchLabels: {app: main-gateway}}
  jwtRules: [{issuer: %q, audiences: [api], jwksUri: %q}]
`, issuer, jwksURI)
}

// replace writes a file whole.
func replace(t testing.TB, dir, text string) {
	t.Helper()
	next := filepath.Join(dir, "next")
	require.NoError(t, os.WriteFile(next, []byte(text), 0o600))
	require.NoError(t, os.Rename(next, filepath.Join(dir, "all.yaml")))
}

// naming is an upstream that says who it is.
func naming(t testing.TB, name string) string {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, name) }))
	t.Cleanup(s.Close)
	return s.URL
}

// log is what the gateway has logged.
type log struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *log) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

func (l *log) count(text string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Count(l.buf.String(), text)
}

func quickly(o *options) { o.reread, o.cooldown = 5*time.Millisecond, 100*time.Millisecond }

// followed is a gateway whose manifests change.
type followed struct {
	t      *testing.T
	dir    string
	log    log
	client *http.Client
	front  string
	health string
}

func startFollowed(t *testing.T, first string, change func(*options), args ...string) *followed {
	f := &followed{t: t, dir: t.TempDir(), client: plainClient(t)}
	replace(t, f.dir, first)
	addrs := startLogged(t, &f.log, func(o *options) { quickly(o); change(o) }, append(args, "-manifests", f.dir, "-health", "127.0.0.1:0")...)
	f.front, f.health = "http://"+addrs["public"].String(), addrs["health"].String()
	return f
}

// ask returns status and body.
func (f *followed) ask(path string, header http.Header) string {
	f.t.Helper()
	resp, body := get(f.t, f.client, f.front+path, header)
	if resp.StatusCode != 200 {
		body = ""
	}
	return strings.TrimSpace(fmt.Sprint(resp.StatusCode, " ", body))
}

// Routes and policies change while the gateway serves; what cannot be used
// changes nothing, and the log says in which file and line it is.
func TestManifestsAreFollowed(t *testing.T) {
	t.Parallel()
	f := startFollowed(t, routes("a", ""), func(*options) {}, "-upstream", "a="+naming(t, "A"))
	ready := func() int { return probe(t.Context(), f.health) }
	require.Equal(t, []string{"200 A", "403"}, []string{f.ask("/a", nil), f.ask("/b", nil)})
	until(t, "not ready", func() bool { return ready() == 200 })

	for _, c := range []struct{ text, logged string }{
		{strings.Replace(routes("b", ""), "backendRefs:", "backends:", 1), "all.yaml:15: HTTPRoute default/all: spec.rules[0].backends: unknown field"},
		{strings.Replace(routes("b", ""), "protocol: HTTP", "protocol: HTTPS", 1), "all.yaml:7: listener http: HTTPS takes -tls-cert and -tls-key"},
		{routes("b", "") + tokens("https://id.example", "http://id.example/keys"), "JWKSConfig.URL is not https"},
		{routes("b", "") + strings.Replace(tokens("https://id.example", "https://id.example/keys"), "audiences: [api], ", "", 1), "all.yaml:28: RequestAuthentication default/users: audiences is required"},
	} {
		replace(t, f.dir, c.text)
		until(t, "not logged: "+c.logged, func() bool { return f.log.count(c.logged) > 0 })
		assert.Equal(t, []string{"200 A", "403"}, []string{f.ask("/a", nil), f.ask("/b", nil)}, c.logged)
		assert.Equal(t, 200, ready(), c.logged)
	}
	require.NoError(t, os.Remove(filepath.Join(f.dir, "all.yaml")))
	until(t, "not logged", func() bool { return f.log.count("there is no .yaml or .yml file") > 0 })
	assert.Equal(t, "200 A", f.ask("/a", nil))

	replace(t, f.dir, strings.Replace(routes("a", ""), `"/a"`, `"/b"`, 1))
	until(t, "not in use", func() bool { return f.ask("/b", nil) == "200 A" })
	assert.Equal(t, "403", f.ask("/a", nil))
	assert.Equal(t, 1, f.log.count("manifests are in use"))
	assert.Equal(t, 1, f.log.count("backends: unknown field"), "once")
}

// A service that only the new manifests name is found before it gets calls, and
// who is not asked for any more is not looked up any more.
func TestFollowedServices(t *testing.T) {
	t.Parallel()
	behind, err := url.Parse(naming(t, "B"))
	require.NoError(t, err)
	dns := gatemesh.Must(dnstest.New())
	t.Cleanup(func() { assert.NoError(t, dns.Close()) })
	const a, b = "a.default.svc.cluster.local.", "b.default.svc.cluster.local."
	for _, name := range []string{a, b} {
		dns.Set(name, netip.MustParseAddr(behind.Hostname()))
	}
	to := func(service string) string {
		return strings.Replace(routes(service, ""), "port: 80}]", "port: "+behind.Port()+"}]", 1)
	}
	first := strings.Replace(to("a"), "port: "+behind.Port()+", protocol", "port: 80, protocol", 1)
	f := startFollowed(t, first, func(o *options) { o.resolver = dns.Resolver() })
	until(t, "not found", func() bool { return f.ask("/a", nil) == "200 B" })
	replace(t, f.dir, strings.Replace(to("b"), "port: "+behind.Port()+", protocol", "port: 80, protocol", 1))
	until(t, "not in use", func() bool {
		got := f.ask("/b", nil)
		require.NotEqual(t, "503", got, "it is not known where b is")
		return got == "200 B"
	})
	asked := dns.Queries(a)
	lookups := dns.Queries(b)
	until(t, "nobody asks for b", func() bool { return dns.Queries(b) > lookups+4 })
	assert.Equal(t, asked, dns.Queries(a))
}

// RequestAuthentication says whose tokens are good, and policies who needs one.
func TestRequestAuthentication(t *testing.T) {
	t.Parallel()
	id := newIssuer(t)
	good := http.Header{"Authorization": {"Bearer " + id.token()}}
	f := startFollowed(t, routes("a", users)+tokens("https://id.example", id.server.URL), func(*options) {}, "-upstream", "a="+naming(t, "A"))
	ready := func() int { return probe(t.Context(), f.health) }
	until(t, "nobody asks", func() bool { return id.asked.Load() > 0 })
	assert.Equal(t, 503, ready(), "the keys are not there")
	assert.Equal(t, "401", f.ask("/a", good), "a token that nothing is known of")
	assert.Equal(t, "403", f.ask("/a", nil))
	id.up.Store(true)
	until(t, "not ready", func() bool { return ready() == 200 })
	until(t, "no keys", func() bool { return f.ask("/a", good) == "200 A" })
	assert.Equal(t, "401", f.ask("/a", http.Header{"Authorization": {"Bearer x.y.z"}}))
	assert.Equal(t, "200 A", f.ask("/a?access_token="+id.token(), nil))

	// The policy changes while the issuer is away: nobody loses his token.
	id.up.Store(false)
	replace(t, f.dir, routes("a", "")+tokens("https://id.example", id.server.URL))
	until(t, "not in use", func() bool { return f.ask("/a", nil) == "200 A" })
	assert.Equal(t, "200 A", f.ask("/a", good))
	assert.Equal(t, "200 A", f.ask("/a", http.Header{"Authorization": {"Bearer " + id.token()}}))
	assert.Equal(t, "401", f.ask("/a", http.Header{"Authorization": {"Bearer x.y.z"}}), "a bad token is refused although none is needed")
	assert.Equal(t, 200, ready(), "an outage does not take us out")

	// Without it, tokens are nothing to us; and it can come back.
	replace(t, f.dir, routes("a", users))
	until(t, "not in use", func() bool { return f.ask("/a", nil) == "403" })
	assert.Equal(t, "403", f.ask("/a", good))
	asked := id.asked.Load()
	id.up.Store(true)
	replace(t, f.dir, routes("a", users)+tokens("https://id.example", id.server.URL))
	until(t, "not in use", func() bool { return f.ask("/a", good) == "200 A" })
	assert.Equal(t, asked+1, id.asked.Load(), "nobody asked meanwhile")
	replace(t, f.dir, routes("a", users)+tokens("https://other.example", id.server.URL))
	until(t, "not in use", func() bool { return f.ask("/a", good) == "401" })
}

// With -api-keys, a call needs a key or a token, whatever the folder says.
func TestRequestAuthenticationAndKeys(t *testing.T) {
	t.Parallel()
	id := newIssuer(t)
	id.up.Store(true)
	key := http.Header{"X-Api-Key": {"secret-of-acme-0123456789"}}
	keys := file(t, "keys.txt", "acme-1 acme "+auth.HashKey("secret-of-acme-0123456789")+"\n")
	f := startFollowed(t, routes("a", ""), func(*options) {}, "-upstream", "a="+naming(t, "A"), "-api-keys", keys)
	assert.Equal(t, []string{"401", "200 A"}, []string{f.ask("/a", nil), f.ask("/a", key)})
	replace(t, f.dir, routes("a", "")+tokens("https://id.example", id.server.URL))
	until(t, "not in use", func() bool { return f.ask("/a", http.Header{"Authorization": {"Bearer " + id.token()}}) == "200 A" })
	assert.Equal(t, []string{"401", "200 A"}, []string{f.ask("/a", nil), f.ask("/a", key)})
}

// What the flags need of the manifests cannot go while the gateway serves.
func TestFollowedFlags(t *testing.T) {
	t.Parallel()
	id := newIssuer(t)
	id.up.Store(true)
	good := http.Header{"Authorization": {"Bearer " + id.token()}}
	with := tokens("https://id.example", id.server.URL)
	f := startFollowed(t, routes("a", "")+strings.Replace(with, "audiences: [api], ", "", 1), func(*options) {},
		"-upstream", "a="+naming(t, "A"), "-rate", "1000/1m", "-audience", "api", "-algs", "EdDSA")
	assert.Equal(t, []string{"401", "200 A"}, []string{f.ask("/a", nil), f.ask("/a", good)}, "-rate counts consumers alone")
	replace(t, f.dir, routes("b", ""))
	until(t, "not logged", func() bool {
		return f.log.count("-audience and -algs say which tokens are good, which takes -jwks or a RequestAuthentication") > 0
	})
	assert.Equal(t, []string{"401", "200 A"}, []string{f.ask("/a", nil), f.ask("/a", good)})
}

func TestManifestMistakes(t *testing.T) {
	t.Parallel()
	id := newIssuer(t)
	with := filepath.Dir(file(t, "all.yaml", routes("a", users)+tokens("https://id.example", id.server.URL)))
	without := filepath.Dir(file(t, "all.yaml", routes("a", users)))
	for name, c := range map[string]struct {
		args []string
		want string
	}{
		"two who say": {[]string{"-manifests", with, "-jwks", id.server.URL, "-issuer", "i", "-audience", "a", "-algs", "EdDSA"},
			"gateway: -jwks and the RequestAuthentications for main-gateway.default both say which tokens are good; leave out either"},
		"issuer":                 {[]string{"-manifests", with, "-issuer", "i"}, "gateway: -issuer, -audience and -algs say which tokens are good, which takes -jwks"},
		"audience for nobody":    {[]string{"-manifests", without, "-audience", "a"}, "gateway: -audience and -algs say which tokens are good, which takes -jwks or a RequestAuthentication"},
		"secrets":                {[]string{"-manifests", with, "-algs", "HS256"}, `AuthenticationConfig.Algorithms: "HS256" is not one of`},
		"rate without anybody":   {[]string{"-manifests", without, "-rate", "1/1s"}, "-rate counts consumers, which takes -jwks, -api-keys or a RequestAuthentication"},
		"identities of nobody":   {[]string{"-manifests", without, "-identity-key", file(t, "k.pem", identityKey(t))}, "-identity-key signs who was authenticated, which takes -jwks, -api-keys or a RequestAuthentication"},
		"identity in plain text": {[]string{"-manifests", with, "-identity-key", file(t, "k.pem", identityKey(t))}, "-upstream a: http://a.default.svc.cluster.local:80 is plain text"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			err := run(t.Context(), c.args, io.Discard)
			require.Error(t, err)
			assert.Contains(t, oneLine(err), c.want)
		})
	}
}

// TestF12_FollowedUnderLoad: the folder changes many times while clients call
// over real connections. Whoever is let in by a version reaches its service.
func TestF12_FollowedUnderLoad(t *testing.T) {
	t.Parallel()
	const reloads, callers = 50, 4
	id := newIssuer(t)
	id.up.Store(true)
	both := "rules:\n    - {matches: [{path: {value: /other}}], backendRefs: [{name: a, port: 80}, {name: b, port: 80}]}"
	versions := [2]string{
		routes("a", users) + tokens("https://id.example", id.server.URL), // whose token everybody has
		routes("b", users) + tokens("https://other.example", id.server.URL),
	}
	for i, text := range versions {
		versions[i] = strings.Replace(text, "rules:", both, 1)
	}
	f := startFollowed(t, versions[0], func(o *options) { o.reread = time.Millisecond },
		"-upstream", "a="+naming(t, "A"), "-upstream", "b="+naming(t, "B"))
	token := id.token()
	until(t, "no keys", func() bool { return f.ask("/a", http.Header{"Authorization": {"Bearer " + token}}) == "200 A" })
	ended := make(chan struct{})
	var load sync.WaitGroup
	var admitted, strangers atomic.Int64
	for i := range callers {
		client := plainClient(t)
		load.Go(func() {
			for n := i; ; n++ {
				select {
				case <-ended:
					return
				default:
				}
				path, header := "/a", http.Header{"Authorization": {"Bearer " + token}}
				if n%4 == 0 {
					header = nil
				}
				r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, f.front+path, http.NoBody)
				assert.NoError(t, err)
				r.Header = header
				resp, err := client.Do(r)
				if !assert.NoError(t, err) {
					return
				}
				body, err := io.ReadAll(resp.Body)
				assert.NoError(t, err)
				assert.NoError(t, resp.Body.Close())
				switch {
				case header == nil: // no version lets nobody in
					assert.Equal(t, http.StatusForbidden, resp.StatusCode)
				case resp.StatusCode == http.StatusOK:
					admitted.Add(1)
					assert.Equal(t, "A", string(body))
				default: // 403 would be the policy of one version and the issuer of the other
					strangers.Add(1)
					assert.Equal(t, http.StatusUnauthorized, resp.StatusCode)
				}
			}
		})
	}
	for n := range reloads {
		replace(t, f.dir, versions[(n+1)%2])
		until(t, "not in use", func() bool { return f.log.count("manifests are in use") == n+1 })
	}
	close(ended)
	load.Wait()
	assert.Positive(t, admitted.Load())
	assert.Positive(t, strangers.Load())
	assert.Zero(t, f.log.count(`"level":"ERROR"`))
}

// A policy for the Gateway by targetRefs is for us; one that is for the Gateway
// of somebody else is a mistake, and no DENY that nobody heeds.
func TestFollowedTargets(t *testing.T) {
	t.Parallel()
	const deny = `---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: no-admin}
spec:
  targetRefs: [{group: gateway.networking.k8s.io, kind: Gateway, name: main-gateway}]
  action: DENY
  rules: [{to: [{operation: {paths: ["/a/admin*"]}}]}]
`
	open := strings.Replace(routes("a", ""), `"/a"`, `"/a*"`, 1)
	f := startFollowed(t, open, func(*options) {}, "-upstream", "a="+naming(t, "A"))
	until(t, "not ready", func() bool { return f.ask("/a/admin", nil) == "200 A" })
	replace(t, f.dir, open+deny)
	until(t, "not in use", func() bool { return f.ask("/a/admin", nil) == "403" })
	assert.Equal(t, "200 A", f.ask("/a", nil))

	elsewhere := strings.ReplaceAll(open+deny, "metadata: {name: main-gateway}", "metadata: {name: main-gateway, namespace: edge}")
	elsewhere = strings.Replace(elsewhere, "parentRefs: [{name: main-gateway}]", "parentRefs: [{name: main-gateway, namespace: edge}]", 1)
	elsewhere = strings.Replace(elsewhere, "protocol: HTTP}", "protocol: HTTP, allowedRoutes: {namespaces: {from: All}}}", 1)
	elsewhere = strings.Replace(elsewhere, "name: no-admin", "name: no-admin, namespace: edge", 1)
	replace(t, f.dir, elsewhere)
	until(t, "not logged", func() bool {
		return f.log.count("the Gateway of its targetRefs is not in the namespace of -workload main-gateway.default") > 0
	})
	assert.Equal(t, "403", f.ask("/a/admin", nil))
}
