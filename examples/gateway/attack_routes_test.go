package main

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// target records what comes to the upstreams.
type target struct {
	mu   sync.Mutex
	seen []string // "service METHOD host target"
	last http.Header
}

func (a *target) serve(t *testing.T, name string, h2c bool) string {
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		a.mu.Lock()
		a.seen = append(a.seen, fmt.Sprintf("%s %s %s %s", name, r.Method, r.Host, r.RequestURI))
		a.last = r.Header.Clone()
		a.mu.Unlock()
		_, _ = io.Copy(io.Discard, r.Body)
		if strings.HasPrefix(r.URL.Path, "/fails") {
			w.WriteHeader(503)
		}
	}))
	scheme := "http://"
	if h2c {
		s.Config.Protocols, scheme = new(http.Protocols), "h2c://"
		s.Config.Protocols.SetUnencryptedHTTP2(true)
	}
	s.Start()
	t.Cleanup(s.Close)
	return scheme + s.Listener.Addr().String()
}

// take returns what came since the last time.
func (a *target) take() []string {
	a.mu.Lock()
	defer a.mu.Unlock()
	seen := a.seen
	a.seen = nil
	return seen
}

func (a *target) header() http.Header {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.last
}

// attacked is a gateway with every filter that changes or answers calls.
func attacked(t *testing.T) (*conformance, *target) {
	var a target
	b := &backends{urls: map[string]string{"infra-v1": a.serve(t, "a", false), "infra-v2": a.serve(t, "copy", false), "h2c": a.serve(t, "h2c", true), "web": a.serve(t, "inner", false)}}
	rewrite := func(with string) string {
		return "{type: URLRewrite, urlRewrite: {path: {type: ReplacePrefixMatch, replacePrefixMatch: " + with + "}}}"
	}
	manifests := gatewayWith("g", "port: 80, protocol: HTTP", "port: 443, protocol: HTTPS", "hostname: inner.example.org, port: 443, protocol: HTTPS") +
		httpRoute("outer", section("g", 1)+", "+section("g", 2), rules(
			prefix("/strip"), filtered(rewrite("/"), "infra-v1"),
			prefix("/move"), filtered(rewrite("/moved"), "infra-v1"),
			prefix("/mirror"), filtered("{type: RequestMirror, requestMirror: {backendRef: {name: infra-v2, port: 8080}}}", "infra-v1"),
			prefix("/redirect"), "filters: [{type: RequestRedirect, requestRedirect: {path: {type: ReplacePrefixMatch, replacePrefixMatch: /}}}]",
			prefix("/cors"), filtered(`{type: CORS, cors: {allowOrigins: ["https://www.foo.com", "https://*.bar.com"], allowCredentials: true}}`, "infra-v1"),
			prefix("/any"), filtered(`{type: CORS, cors: {allowOrigins: ["*"], allowCredentials: true}}`, "infra-v1"),
			prefix("/fails"), "retry: {codes: [503], attempts: 3, backoff: 1ms}, "+to("infra-v1"),
			prefix("/h2c"), "h2c", prefix("/open"), "infra-v1", prefix("/admin"), "infra-v1")) +
		httpRoute("inner", section("g", 3), rules("", "web")) +
		"---\napiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: admin, namespace: " + suiteNamespace + "}\n" +
		"spec: {action: DENY, rules: [{to: [{operation: {paths: [/admin, /admin/*]}}]}]}\n"
	return b.serves(t, manifests), &a
}

// raw sends bytes on a connection of its own, and a request that ends it if they
// do not, and returns the statuses that come.
func (c *conformance) raw(bytes string) (statuses []int, last *http.Response) {
	t := c.t
	t.Helper()
	conn, err := net.Dial("tcp", c.addrs["public 80"].String())
	require.NoError(t, err)
	defer func() { _ = conn.Close() }()
	require.NoError(t, conn.SetDeadline(time.Now().Add(time.Minute)))
	if !strings.Contains(bytes, "Connection: close") {
		bytes += "GET /none/end HTTP/1.1\r\nHost: gw\r\nConnection: close\r\n\r\n"
	}
	_, err = io.WriteString(conn, bytes)
	require.NoError(t, err)
	r := bufio.NewReader(conn)
	for {
		resp, err := http.ReadResponse(r, nil)
		if err != nil {
			return statuses, last
		}
		_, _ = io.Copy(io.Discard, resp.Body)
		statuses, last = append(statuses, resp.StatusCode), resp
	}
}

// What the filters answer themselves leaves nothing of a body to be taken for a
// request, and what they forward has one meaning.
func TestPX04_SmuggledThroughFilters(t *testing.T) {
	t.Parallel()
	c, a := attacked(t)
	hidden := "GET /open/smuggled HTTP/1.1\r\nHost: x\r\n\r\n"
	chunked := fmt.Sprintf("%x\r\n%s\r\n0\r\n\r\n", len(hidden), hidden)
	for _, path := range []string{"/redirect/x", "/strip/x", "/mirror/x", "/cors/x", "/admin/x", "/none/x", "/h2c/x"} {
		for name, rest := range map[string]string{
			"length":  fmt.Sprintf("Content-Length: %d\r\n\r\n%s", len(hidden), hidden),
			"chunks":  "Transfer-Encoding: chunked\r\n\r\n" + chunked,
			"lengths": fmt.Sprintf("Content-Length: 0\r\nContent-Length: %d\r\n\r\n%s", len(hidden), hidden),
			"other":   "Transfer-Encoding: xchunked\r\n\r\n" + chunked,
			"get":     "Upgrade: h2c\r\nConnection: Upgrade, HTTP2-Settings\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\nContent-Length: " + fmt.Sprint(len(hidden)) + "\r\n\r\n" + hidden,
		} {
			for _, method := range []string{"POST", "OPTIONS"} {
				head := method + " " + path + " HTTP/1.1\r\nHost: gw\r\n"
				if method == "OPTIONS" {
					head += "Origin: https://www.foo.com\r\nAccess-Control-Request-Method: GET\r\n"
				}
				statuses, _ := c.raw(head + rest)
				for _, line := range a.take() {
					assert.NotContains(t, line, "smuggled", "%s %s %s: %v", method, path, name, statuses)
				}
				assert.LessOrEqual(t, len(statuses), 2, "%s %s %s: %v", method, path, name, statuses)
			}
		}
	}
}

// The path that is matched and judged is that which is rewritten; what would
// mean something else to somebody else is refused.
func TestAZ03_PathsThroughRewrites(t *testing.T) {
	t.Parallel()
	c, a := attacked(t)
	for target, want := range map[string]string{
		"/move/%2e%2e/admin": "400", "/move/..%2fadmin": "400", "/move/..;/admin": "400", "/move//admin": "400", `/move/..\admin`: "400", "/move/%5c..%5cadmin": "400",
		"/move/%252e%252e/admin": "/moved/%252e%252e/admin", "/move/%61dmin": "/moved/admin", "/mov%65/x": "/moved/x", "/move/.": "400", "/move/%00": "400",
		"/strip//evil.example/": "400", "/strip/%2fevil.example": "400", "/strip/%09/x": "400", "/move?/../admin": "/moved?/../admin", "/move%3f/../admin": "400",
		"/%61dmin": "403", "/admin/": "403", "/admin;x": "400", "/ADMIN": "404", "/move#/admin": "400", "/strip": "/", "/strip/admin": "/admin",
		"//admin": "400", "/./admin": "400", "/open/../admin": "400", "/admin%20": "404", "/admin%2f": "400", "/strip/%7e": "/~", "/movex": "404",
	} {
		statuses, _ := c.raw("GET " + target + " HTTP/1.1\r\nHost: gw\r\nConnection: close\r\n\r\n")
		seen := a.take()
		require.Len(t, statuses, 1, target)
		got := fmt.Sprint(statuses[0])
		if len(seen) > 0 {
			got = strings.Fields(seen[0])[3]
		}
		assert.Equal(t, want, got, target)
	}
}

// A Location names the host that was asked or one that is configured, whatever
// the path and the host look like.
func TestOpenRedirects(t *testing.T) {
	t.Parallel()
	c, _ := attacked(t)
	for _, target := range []string{
		"/redirect//evil.example", "/redirect/%2fevil.example", `/redirect/\evil.example`, "/redirect/%5cevil.example", "/redirect/evil.example", "/redirect/@evil.example",
		"/redirect/%0d%0aSet-Cookie:a=b", "/redirect?x=%0d%0aSet-Cookie:a=b", "/redirect/.evil.example", "/redirect/:80", "/redirect/%09/evil.example", "http://gw/redirect/x",
	} {
		_, resp := c.raw("GET " + target + " HTTP/1.1\r\nHost: gw\r\nConnection: close\r\n\r\n")
		if resp.StatusCode == 400 {
			continue
		}
		require.Equal(t, 302, resp.StatusCode, target)
		assert.Regexp(t, `^http://gw/([^/\\]|$)`, resp.Header.Get("Location"), target)
		assert.Empty(t, resp.Header["Set-Cookie"], target)
	}
	for _, host := range []string{"gw@evil.example", "gw/evil.example", "gw:80@evil.example", `gw\evil.example`, "gw?evil.example", "gw#evil", "gw%0d%0aX:y", "gw, evil.example", "gw:99999", "[::1", "gw evil.example"} {
		statuses, _ := c.raw("GET /redirect/x HTTP/1.1\r\nHost: " + host + "\r\nConnection: close\r\n\r\n")
		assert.Equal(t, []int{400}, statuses, host)
	}
}

// A route of one listener is not to be had through another one, by whatever name.
func TestListenersAreNotMixedUp(t *testing.T) {
	t.Parallel()
	c, a := attacked(t)
	for _, head := range []string{
		"GET / HTTP/1.1\r\nHost: inner.example.org\r\n", "GET http://inner.example.org/ HTTP/1.1\r\nHost: gw\r\n", "GET https://inner.example.org/ HTTP/1.1\r\nHost: inner.example.org\r\n",
		"GET / HTTP/1.1\r\nHost: inner.example.org:443\r\n", "GET / HTTP/1.1\r\nHost: INNER.example.org.\r\n", "GET / HTTP/1.0\r\nHost: inner.example.org\r\n",
		"GET / HTTP/1.1\r\nHost: inner.example.org\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Port: 443\r\nForwarded: proto=https;host=inner.example.org\r\n",
		"GET / HTTP/1.1\r\nHost: gw\r\nX-Forwarded-Host: inner.example.org\r\n", "GET / HTTP/1.1\r\nHost: gw\r\nHost: inner.example.org\r\n", "GET / HTTP/1.1\r\nHost: gw\r\nHost : inner.example.org\r\n",
	} {
		statuses, _ := c.raw(head + "Connection: close\r\n\r\n")
		assert.Empty(t, a.take(), head)
		assert.Contains(t, []int{400, 404}, statuses[0], head)
	}
	for _, name := range []string{"example.org", "INNER.example.org.x", "unknown.org"} {
		c.asks(ask{port: 443, sni: name, host: "inner.example.org", status: 421})
	}
	c.asks(ask{port: 443, sni: "inner.example.org", host: "gw", path: "/open", status: 421}, ask{port: 443, sni: "inner.example.org", host: "INNER.example.org."})
	assert.Equal(t, []string{"inner GET inner.example.org /"}, a.take())
}

// Only pages of the named origins get to read answers, and "*" is nobody with
// credentials.
func TestForeignOrigins(t *testing.T) {
	t.Parallel()
	c, _ := attacked(t)
	for _, origin := range []string{
		"null", "https://www.foo.com.evil", "https://evilwww.foo.com", "http://www.foo.com", "https://www.foo.com:444", "https://bar.com", "https://evilbar.com",
		"https://a.bar.com.evil.com", "https://evil.com/.bar.com", "https://evil.com#.bar.com", "https://evil.com?.bar.com", `https://evil.com\.bar.com`, "https://evil.com@a.bar.com",
		"https://a.bar.com:444", "https://a.bar.com, https://evil.com", "https://*.bar.com", "https://.bar.com", "*", "https://www.foo.com/", "https://www.foo.com https://evil.com", "", "https://a.bar.com%00.evil",
	} {
		for _, method := range []string{"GET", "OPTIONS"} {
			_, resp := c.raw(method + " /cors HTTP/1.1\r\nHost: gw\r\nConnection: close\r\nAccess-Control-Request-Method: GET\r\nOrigin: " + origin + "\r\n\r\n")
			for name := range resp.Header {
				assert.False(t, strings.HasPrefix(name, "Access-Control-"), "%s %s: %v", method, origin, resp.Header)
			}
		}
	}
	_, resp := c.raw("GET /cors HTTP/1.1\r\nHost: gw\r\nConnection: close\r\nOrigin: https://www.foo.com\r\nOrigin: https://evil.com\r\n\r\n")
	assert.Empty(t, resp.Header["Access-Control-Allow-Origin"])
	_, resp = c.raw("GET /any HTTP/1.1\r\nHost: gw\r\nConnection: close\r\nOrigin: null\r\n\r\n")
	assert.Empty(t, resp.Header["Access-Control-Allow-Origin"], "with credentials")
}

// Fields of the mesh that a client sends reach nobody and change nothing, and
// what must not be made twice is not.
func TestForgedFieldsAndRetries(t *testing.T) {
	t.Parallel()
	c, a := attacked(t)
	statuses, _ := c.raw("GET /open HTTP/1.1\r\nHost: gw\r\nConnection: close, X-Forwarded-For, X-Request-Id\r\nX-Gatemesh-Identity: a\r\nX-Gatemesh-Hop: attempts=3\r\nX-Gatemesh-Retry: no\r\nX_Gatemesh_Identity: a\r\nX-Gatemesh_Hop: x\r\nX-Gatemesh-Lane: v2\r\nX-Real-Ip: 1.1.1.1\r\n\r\n")
	assert.Equal(t, []int{200}, statuses)
	h := a.header()
	for name := range h {
		lower := strings.ToLower(strings.ReplaceAll(name, "_", "-"))
		if strings.HasPrefix(lower, "x-gatemesh-") || lower == "x-real-ip" {
			assert.NotContains(t, []string{"a", "attempts=3", "no", "x", "v2", "1.1.1.1"}, h.Get(name), name)
		}
	}
	assert.Equal(t, []string{"127.0.0.1"}, h["X-Forwarded-For"])
	a.take()
	for _, c2 := range []struct {
		head     string
		attempts int
	}{
		{"POST /fails HTTP/1.1\r\nHost: gw\r\nContent-Length: 0\r\n", 1}, {"POST /fails HTTP/1.1\r\nHost: gw\r\nContent-Length: 0\r\nX-Gatemesh-Retry: yes\r\nX-HTTP-Method-Override: GET\r\n", 1},
		{"PATCH /fails HTTP/1.1\r\nHost: gw\r\nContent-Length: 1\r\n", 1}, {"GET /fails HTTP/1.1\r\nHost: gw\r\n", 4},
	} {
		statuses, _ := c.raw(c2.head + "Connection: close\r\n\r\n" + strings.Repeat("x", strings.Count(c2.head, "Length: 1")))
		assert.Equal(t, []int{503}, statuses, c2.head)
		assert.Len(t, a.take(), c2.attempts, c2.head)
	}
}

// An upgrade for a service that speaks HTTP/2 opens no tunnel: what follows is a
// request, which is judged.
func TestPX02_UpgradeToH2C(t *testing.T) {
	t.Parallel()
	c, a := attacked(t)
	statuses, _ := c.raw("GET /h2c HTTP/1.1\r\nHost: gw\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n" +
		"GET /admin HTTP/1.1\r\nHost: gw\r\n\r\n")
	assert.Equal(t, []int{501, 403, 404}, statuses)
	for _, line := range a.take() {
		assert.NotContains(t, line, "/admin")
	}
}
