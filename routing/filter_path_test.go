package routing_test

import (
	"context"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/gatemesh-go/gatemesh"
	"github.com/gatemesh-go/gatemesh/routing"
)

func pathMatches(t routing.PathType, values ...string) (ms []routing.Match) {
	for _, v := range values {
		ms = append(ms, routing.Match{Path: routing.PathMatch{Type: t, Value: v}})
	}
	return ms
}

func replace(prefix string) routing.PathChange {
	return routing.PathChange{ReplacePrefix: true, Prefix: prefix}
}

// TestReplacePrefix has the table of HTTPPathModifier in the Gateway API.
func TestReplacePrefix(t *testing.T) {
	t.Parallel()
	tests := []struct{ path, match, prefix, want string }{
		{"/foo/bar", "/foo", "/xyz", "/xyz/bar"},
		{"/foo/bar", "/foo", "/xyz/", "/xyz/bar"},
		{"/foo/bar", "/foo/", "/xyz", "/xyz/bar"},
		{"/foo/bar", "/foo/", "/xyz/", "/xyz/bar"},
		{"/foo", "/foo", "/xyz", "/xyz"},
		{"/foo/", "/foo", "/xyz", "/xyz/"},
		{"/foo/bar", "/foo", "", "/bar"},
		{"/foo/", "/foo", "", "/"},
		{"/foo", "/foo", "", "/"},
		{"/foo/", "/foo", "/", "/"},
		{"/foo", "/foo", "/", "/"},
		{"/foo/a%2541?q=%2F..", "/foo", "/x", "/x/a%2541?q=%2F.."},
		{"/foo/%252e%252e/b", "/foo", "/", "/%252e%252e/b"},
		{"/a:b/c", "/a%3Ab", "/x", "/x/c"},
		{"/a%3ab/c", "/a:b", "/x", "/x/c"},
		{"/x", "/", "/api", "/api/x"},
		{"/", "", "/api", "/api/"},
		{"/foo/...", "/foo", "", "/..."},
	}
	for _, tt := range tests {
		h := filtered{upstream: answering, route: routing.Route{
			Matches: pathMatches(routing.PathPrefix, tt.match), Filters: routing.Filters{Rewrite: &routing.Rewrite{Path: replace(tt.prefix)}},
		}}.handler(t)
		assert.Equal(t, tt.want, sent(t, do(t, h, "GET", tt.path)).URI, "%v", tt)
	}
}

func TestReplaceOneOfSeveralPrefixes(t *testing.T) {
	t.Parallel()
	h := filtered{upstream: answering, route: routing.Route{
		Matches: pathMatches(routing.PathPrefix, "/a", "/a/b", "/c"), Filters: routing.Filters{Rewrite: &routing.Rewrite{Path: replace("/x")}},
	}}.handler(t)
	for path, want := range map[string]string{"/a/b/d": "/x/d", "/a/bc": "/x/bc", "/c": "/x", "/a": "/x"} {
		assert.Equal(t, want, sent(t, do(t, h, "GET", path)).URI, path)
	}
}

func TestRewrite(t *testing.T) {
	t.Parallel()
	h := filtered{upstream: answering, route: routing.Route{
		Filters: routing.Filters{Rewrite: &routing.Rewrite{Hostname: "inside.example:8443", Path: routing.PathChange{Full: "/one%2Ftwo"}}},
	}}.handler(t)
	got := sent(t, do(t, h, "GET", "/a/b?x=1", "Host", "api.example.com"))
	assert.Equal(t, "inside.example:8443", got.Host)
	assert.Equal(t, "/one%2Ftwo?x=1", got.URI)
	assert.Equal(t, []string{"api.example.com"}, got.Header["X-Forwarded-Host"], "what the client asked for")

	h = filtered{upstream: answering, route: routing.Route{
		Filters: routing.Filters{Rewrite: &routing.Rewrite{Path: routing.PathChange{Regex: `^/users/([^/]+)/(.*)$`, Substitution: `/\2/of/\1`}}},
	}}.handler(t)
	for path, want := range map[string]string{
		"/users/7/orders":     "/orders/of/7",
		"/users/a%20b/x/y?q=": "/x/y/of/a%20b?q=",
		"/other":              "/other",
	} {
		assert.Equal(t, want, sent(t, do(t, h, "GET", path)).URI, path)
	}
}

// TestRewritesOfStages: each stage changes what the one before it has made.
func TestRewritesOfStages(t *testing.T) {
	t.Parallel()
	rewrite := func(c routing.PathChange, host string) routing.Filters {
		return routing.Filters{Rewrite: &routing.Rewrite{Path: c, Hostname: host}}
	}
	h := filtered{upstream: answering,
		route: routing.Route{Matches: pathMatches(routing.PathPrefix, "/api"), Filters: rewrite(replace("/"), "front"),
			Backends: []routing.Backend{{Destination: backend, Weight: 1, Filters: rewrite(replace("/never"), "")}}},
		service: &routing.Route{Filters: rewrite(replace("/v2"), "service"),
			Backends: []routing.Backend{{Destination: backend, Weight: 1, Filters: rewrite(routing.PathChange{Regex: "users", Substitution: "people"}, "")}}},
	}.handler(t)
	got := sent(t, do(t, h, "GET", "/api/users"))
	assert.Equal(t, "/v2/people", got.URI)
	assert.Equal(t, "service", got.Host)
}

// TestAZ03_RewrittenPathIsCanonical: what a rewrite could make of a path is not
// sent, if another server could read it otherwise than it was judged.
func TestAZ03_RewrittenPathIsCanonical(t *testing.T) {
	t.Parallel()
	tests := []struct {
		change routing.PathChange
		path   string
		status int
		uri    string
	}{
		{routing.PathChange{Regex: "x", Substitution: ""}, "/a/.x./admin", 400, ""},
		{routing.PathChange{Regex: "x", Substitution: ""}, "/a/x/admin", 400, ""},
		{routing.PathChange{Regex: "25", Substitution: ""}, "/a/%252e%252e/admin", 400, ""},
		{routing.PathChange{Regex: "25", Substitution: ""}, "/a%252Fadmin", 400, ""},
		{routing.PathChange{Regex: "25", Substitution: ""}, "/a%253Badmin", 400, ""},
		{routing.PathChange{Regex: "25", Substitution: ""}, "/a%2541", 200, "/aA"},
		{routing.PathChange{Regex: "25", Substitution: ""}, "/a%2500", 400, ""},
		{routing.PathChange{Regex: "^/", Substitution: ""}, "/admin", 400, ""},
		{routing.PathChange{Regex: "^", Substitution: "/"}, "/evil.example/x", 400, ""},
		{routing.PathChange{Regex: "2", Substitution: ""}, "/%25", 400, ""},
		{routing.PathChange{Regex: ".", Substitution: strings.Repeat("x", 100)}, "/" + strings.Repeat("a", 8000), 400, ""},
		{routing.PathChange{Regex: ".", Substitution: "/x"}, "/" + strings.Repeat("a", 8<<10), 414, ""},
		{routing.PathChange{ReplacePrefix: true, Prefix: "/x"}, "/", 200, "/x/"},
	}
	for _, tt := range tests {
		var uri string
		h := filtered{route: routing.Route{Filters: routing.Filters{Rewrite: &routing.Rewrite{Path: tt.change}}},
			upstream: roundTripper(func(r *http.Request) (*http.Response, error) {
				uri = r.URL.RequestURI()
				return answering(r)
			})}.handler(t)
		resp := do(t, h, "GET", tt.path)
		assert.Equal(t, tt.status, resp.StatusCode, "%v", tt)
		assert.Equal(t, tt.uri, uri, "%v", tt)
	}
	// How a path begins is no whole segment.
	h := filtered{upstream: answering, route: routing.Route{
		Matches: []routing.Match{{Path: routing.PathMatch{Value: "/a"}}}, Filters: routing.Filters{Rewrite: &routing.Rewrite{Path: replace("/")}}}}.handler(t)
	assert.Equal(t, "/..x", sent(t, do(t, h, "GET", "/a/..x")).URI)
}

func TestRedirect(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name     string
		redirect routing.Redirect
		port     uint16 // at which the call arrives
		tls      bool
		target   string
		host     string
		status   int
		want     string
	}{
		{"host", routing.Redirect{Hostname: "example.org"}, 80, false, "/a%2541/b?x=%2F&y", "api.example.com", 302, "http://example.org/a%2541/b?x=%2F&y"},
		{"host and status", routing.Redirect{Hostname: "example.org", Status: 301}, 80, false, "/", "h", 301, "http://example.org/"},
		{"scheme and port unset at 8080", routing.Redirect{Hostname: "example.org"}, 8080, false, "/", "h:8080", 302, "http://example.org:8080/"},
		{"port 80 at 8080", routing.Redirect{Hostname: "example.org", Port: 80}, 8080, false, "/", "h", 302, "http://example.org/"},
		{"https without a port at 8080", routing.Redirect{Scheme: "https"}, 8080, false, "/x", "h:8080", 302, "https://h/x"},
		{"https and 443", routing.Redirect{Scheme: "https", Port: 443}, 80, false, "/x", "h", 302, "https://h/x"},
		{"https and 8443", routing.Redirect{Scheme: "https", Port: 8443, Status: 308}, 80, false, "/x", "h", 308, "https://h:8443/x"},
		{"port alone", routing.Redirect{Port: 8080, Status: 303}, 80, false, "/x", "h", 303, "http://h:8080/x"},
		{"unset at 443", routing.Redirect{Hostname: "example.org", Status: 307}, 443, true, "/x", "h", 307, "https://example.org/x"},
		{"8443 at 443", routing.Redirect{Port: 8443}, 443, true, "/x", "h", 302, "https://h:8443/x"},
		{"http at 443", routing.Redirect{Scheme: "http"}, 443, true, "/x", "h", 302, "http://h/x"},
		{"http and 8080 at 443", routing.Redirect{Scheme: "http", Port: 8080}, 443, true, "/x", "h", 302, "http://h:8080/x"},
		{"the host's port is not ours", routing.Redirect{Path: routing.PathChange{Full: "/y"}}, 8080, false, "/x", "h:9999", 302, "http://h:8080/y"},
		{"IPv6", routing.Redirect{Port: 81}, 80, false, "/x", "[::1]", 302, "http://[::1]:81/x"},
		{"full path", routing.Redirect{Path: routing.PathChange{Full: "/full"}}, 80, false, "/a/b?q", "h", 302, "http://h/full?q"},
		{"prefix", routing.Redirect{Path: replace("/b")}, 80, false, "/a/c?", "h", 302, "http://h/b/a/c"},
		{"prefix of nothing", routing.Redirect{Path: replace("")}, 80, false, "/evil.example/", "h", 302, "http://h/evil.example/"},
		{"regex", routing.Redirect{Path: routing.PathChange{Regex: "^/a/(.*)", Substitution: `/b/\1`}}, 80, false, "/a/c", "h", 302, "http://h/b/c"},
		{"regex that would name a host", routing.Redirect{Path: routing.PathChange{Regex: "^/", Substitution: ""}}, 80, false, "/evil.example", "h", 400, ""},
		{"two slashes", routing.Redirect{Scheme: "https"}, 80, false, "//evil.example/..", "h", 400, ""},
		{"host of another form", routing.Redirect{Scheme: "https"}, 80, false, "/", "evil.example/x", 400, ""},
		{"host with a user", routing.Redirect{Scheme: "https"}, 80, false, "/", "good.example@evil.example", 400, ""},
		{"query of another form", routing.Redirect{Scheme: "https"}, 80, false, "/?a=<\">\\%0d%0aSet-Cookie:x", "h", 302, "https://h/?a=%3C%22%3E%5C%0d%0aSet-Cookie:x"},
		{"options of the server", routing.Redirect{Scheme: "https"}, 80, false, "*", "h", 404, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			h := filtered{route: routing.Route{Filters: routing.Filters{Redirect: &tt.redirect}}}.handler(t)
			scheme := "http"
			if tt.tls {
				scheme = "https"
			}
			req := httptest.NewRequest("GET", scheme+"://h/", nil)
			if tt.target == "*" {
				req.Method = "OPTIONS"
			}
			u, err := url.ParseRequestURI(tt.target)
			require.NoError(t, err)
			req.URL, req.Host, req.RequestURI = u, tt.host, tt.target
			req = req.WithContext(withLocal(req, int(tt.port)))
			w := httptest.NewRecorder()
			h.ServeHTTP(w, req)
			assert.Equal(t, tt.status, w.Code, w.Body)
			assert.Equal(t, tt.want, w.Header().Get("Location"))
			if tt.want != "" {
				assert.Equal(t, "0", w.Header().Get("Content-Length"))
			}
		})
	}
}

// TestRedirectBehindProxy: our port is nothing to a client that has asked a
// proxy in front over TLS.
func TestRedirectBehindProxy(t *testing.T) {
	t.Parallel()
	h := filtered{entry: trusted, route: routing.Route{Filters: routing.Filters{Redirect: &routing.Redirect{Path: routing.PathChange{Full: "/y"}}}}}.handler(t)
	for host, want := range map[string]string{"h": "https://h/y", "h:8443": "https://h:8443/y"} {
		req := httptest.NewRequest("GET", "/x", nil)
		req.Host, req.RemoteAddr = host, "127.0.0.1:1234"
		req.Header.Set("X-Forwarded-Proto", "https")
		req = req.WithContext(withLocal(req, 8080))
		w := httptest.NewRecorder()
		h.ServeHTTP(w, req)
		assert.Equal(t, want, w.Header().Get("Location"))
	}
}

// TestRedirectToThePublicPort: where a port is mapped, clients know the public
// one alone; and a call that came by another port is sent back to its own.
func TestRedirectToThePublicPort(t *testing.T) {
	t.Parallel()
	listeners := []routing.Listener{{Name: "a", Port: 8080, PublicPort: 80}, {Name: "b", Port: 8081, PublicPort: 8000}, {Name: "c"}}
	h := gateway{cfg: routing.Config{Listeners: listeners, Routes: []routing.Route{
		{Name: "r", Filters: routing.Filters{Redirect: &routing.Redirect{Path: routing.PathChange{Full: "/y"}}}},
	}}}.handler(t)
	for port, want := range map[int]string{8080: "http://h/y", 8081: "http://h:8000/y", 8082: "http://h:8082/y"} {
		req := httptest.NewRequest("GET", "/x", nil)
		req.Host = "h"
		w := httptest.NewRecorder()
		h.ServeHTTP(w, req.WithContext(withLocal(req, port)))
		assert.Equal(t, want, w.Header().Get("Location"))
	}
}

// TestKEY03_RedirectKeepsNoCredential: a token in the query is not for another
// host, nor for plain text.
func TestKEY03_RedirectKeepsNoCredential(t *testing.T) {
	t.Parallel()
	auth := layer("auth", func(context.Context, *gatemesh.Call) (gatemesh.Admission, error) {
		return gatemesh.Admission{Consumed: []string{"query:token"}}, nil
	})
	for _, tt := range []struct {
		redirect routing.Redirect
		scheme   string
		want     string
	}{
		{routing.Redirect{Hostname: "other.example"}, "https", "https://other.example/?a=1"},
		{routing.Redirect{Scheme: "http"}, "https", "http://h/?a=1"},
		{routing.Redirect{Scheme: "https"}, "http", "https://h/?token=SECRET&a=1"},
		{routing.Redirect{Path: routing.PathChange{Full: "/x"}}, "https", "https://h/x?token=SECRET&a=1"},
	} {
		h := filtered{layers: []gatemesh.Layer{auth}, route: routing.Route{Filters: routing.Filters{Redirect: &tt.redirect}}}.handler(t)
		resp := do(t, h, "GET", tt.scheme+"://h/?token=SECRET&a=1")
		assert.Equal(t, tt.want, resp.Header.Get("Location"))
	}
}

// TestRedirectOfBackend: a split may send a part of the calls away.
func TestRedirectOfBackend(t *testing.T) {
	t.Parallel()
	h := filtered{upstream: answering, route: routing.Route{Backends: []routing.Backend{
		{Destination: backend, Weight: 1, Filters: routing.Filters{Redirect: &routing.Redirect{Hostname: "other.example"}}}}}}.handler(t)
	assert.Equal(t, "http://other.example/x", do(t, h, "GET", "/x").Header.Get("Location"))
}

// withLocal is the context of a request that arrived at port.
func withLocal(r *http.Request, port int) context.Context {
	return context.WithValue(r.Context(), http.LocalAddrContextKey, &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: port})
}
