package routing_test

import (
	"context"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/gatemesh-go/gatemesh"
	"github.com/gatemesh-go/gatemesh/routing"
)

// corsOf returns the Access-Control fields of a response.
func corsOf(resp *http.Response) map[string]string {
	m := map[string]string{}
	for name, values := range resp.Header {
		if rest, ok := cutPrefix(name, "Access-Control-"); ok {
			m[rest] = values[0]
			if len(values) > 1 {
				m[rest] = "several"
			}
		}
	}
	return m
}

func cutPrefix(s, prefix string) (string, bool) {
	if len(s) > len(prefix) && s[:len(prefix)] == prefix {
		return s[len(prefix):], true
	}
	return "", false
}

// TestCORS has the cases of the conformance tests of the Gateway API.
func TestCORS(t *testing.T) {
	t.Parallel()
	listed := routing.CORS{AllowOrigins: []string{"https://www.foo.com", "https://*.bar.com"}, AllowMethods: []string{"GET", "OPTIONS"},
		AllowHeaders: []string{"x-header-1", "x-header-2"}, ExposeHeaders: []string{"x-header-3", "x-header-4"}, MaxAge: time.Hour, AllowCredentials: true}
	every := routing.CORS{AllowOrigins: []string{"*"}, AllowMethods: []string{"*"}, AllowHeaders: []string{"*"}, ExposeHeaders: []string{"*"}}
	everyWith := every
	everyWith.AllowCredentials = true
	simple := routing.CORS{AllowOrigins: []string{"https://www.foo.com"}}
	matched := routing.CORS{AllowOriginMatches: []routing.ValueMatch{{Value: "https://exact.com"}, {Type: routing.MatchPrefix, Value: "https://pre"}, {Type: routing.MatchRegex, Value: `https://(a|b)\.com`}}}
	full := func(origin string) map[string]string {
		return map[string]string{"Allow-Origin": origin, "Allow-Credentials": "true", "Allow-Methods": "GET, OPTIONS",
			"Allow-Headers": "x-header-1, x-header-2", "Expose-Headers": "x-header-3, x-header-4", "Max-Age": "3600"}
	}
	only := func(origin string) map[string]string { return map[string]string{"Allow-Origin": origin} }
	none := map[string]string{}
	tests := []struct {
		name            string
		cors            routing.CORS
		method, origin  string
		asksFor, fields string // of a preflight request
		status          int
		want            map[string]string
	}{
		{"preflight, exact", listed, "OPTIONS", "https://www.foo.com", "GET", "x-header-1, x-header-2", 200, full("https://www.foo.com")},
		{"preflight, wildcard", listed, "OPTIONS", "https://www.bar.com", "GET", "x-header-1", 200, full("https://www.bar.com")},
		{"preflight, two labels", listed, "OPTIONS", "https://xpto.www.bar.com", "GET", "", 200, full("https://xpto.www.bar.com")},
		{"preflight, other", listed, "OPTIONS", "https://foobar.com", "GET", "", 403, none},
		{"below nothing", listed, "OPTIONS", "https://bar.com", "GET", "", 403, none},
		{"no dot before", listed, "OPTIONS", "https://evilbar.com", "GET", "", 403, none},
		{"foreign end", listed, "OPTIONS", "https://www.foo.com.evil.com", "GET", "", 403, none},
		{"other scheme", listed, "OPTIONS", "http://www.foo.com", "GET", "", 403, none},
		{"other port", listed, "OPTIONS", "https://www.foo.com:8443", "GET", "", 403, none},
		{"default port", listed, "OPTIONS", "https://www.foo.com:443", "GET", "", 200, full("https://www.foo.com:443")},
		{"null", listed, "OPTIONS", "null", "GET", "", 403, none},
		{"a path", listed, "OPTIONS", "https://www.foo.com/x", "GET", "", 403, none},
		{"a user", listed, "OPTIONS", "https://www.foo.com@evil.com", "GET", "", 403, none},
		{"options that ask for nothing", listed, "OPTIONS", "https://www.foo.com", "", "", 200,
			map[string]string{"Allow-Origin": "https://www.foo.com", "Allow-Credentials": "true", "Expose-Headers": "x-header-3, x-header-4"}},
		{"actual", listed, "GET", "https://www.bar.com", "", "", 200,
			map[string]string{"Allow-Origin": "https://www.bar.com", "Allow-Credentials": "true", "Expose-Headers": "x-header-3, x-header-4"}},
		{"actual, other", listed, "GET", "https://foobar.com", "", "", 200, none},
		{"no page", listed, "GET", "", "", "", 200, none},
		{"defaults", simple, "OPTIONS", "https://www.foo.com", "POST", "x-a", 200, map[string]string{"Allow-Origin": "https://www.foo.com", "Max-Age": "5"}},
		{"every", every, "OPTIONS", "https://foobar.com:12345", "PUT", "x-a, x-b", 200,
			map[string]string{"Allow-Origin": "https://foobar.com:12345", "Allow-Methods": "PUT", "Allow-Headers": "x-a, x-b", "Expose-Headers": "*", "Max-Age": "5"}},
		{"every, null", every, "GET", "null", "", "", 200, map[string]string{"Allow-Origin": "null", "Expose-Headers": "*"}},
		{"every, with credentials", everyWith, "OPTIONS", "https://other.foo.com", "PUT", "x-a", 200,
			map[string]string{"Allow-Origin": "https://other.foo.com", "Allow-Credentials": "true", "Allow-Methods": "PUT", "Allow-Headers": "x-a", "Expose-Headers": "Content-Length", "Max-Age": "5"}},
		{"every, with credentials, null", everyWith, "OPTIONS", "null", "PUT", "", 403, none},
		{"every, fields that are none", every, "OPTIONS", "https://a.com", "PUT", "x-a\x01,", 200,
			map[string]string{"Allow-Origin": "https://a.com", "Allow-Methods": "PUT", "Expose-Headers": "*", "Max-Age": "5"}},
		{"matches exactly", matched, "GET", "https://exact.com", "", "", 200, only("https://exact.com")},
		{"begins so", matched, "GET", "https://prefix.com", "", "", 200, only("https://prefix.com")},
		{"expression", matched, "GET", "https://b.com", "", "", 200, only("https://b.com")},
		{"expression is for the whole", matched, "GET", "https://b.com.evil", "", "", 200, none},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			reached := false
			h := filtered{route: routing.Route{Filters: routing.Filters{CORS: &tt.cors}}, upstream: roundTripper(func(r *http.Request) (*http.Response, error) {
				reached = true
				return &http.Response{StatusCode: 200, Body: http.NoBody, Request: r, Header: http.Header{ // which is not for it to say
					"Access-Control-Allow-Origin": {"*"}, "Access-Control-Allow-Credentials": {"true"}, "Access-Control-Foo": {"bar"}, "Vary": {"Accept"}}}, nil
			})}.handler(t)
			var fields []string
			for _, f := range [][2]string{{"Origin", tt.origin}, {"Access-Control-Request-Method", tt.asksFor}, {"Access-Control-Request-Headers", tt.fields}} {
				if f[1] != "" {
					fields = append(fields, f[0], f[1])
				}
			}
			resp := do(t, h, tt.method, "/", fields...)
			assert.Equal(t, tt.status, resp.StatusCode)
			got := corsOf(resp)
			if tt.name == "every, with credentials" {
				assert.Equal(t, tt.want["Allow-Headers"], got["Allow-Headers"])
			}
			assert.Equal(t, tt.want, got)
			assert.Contains(t, resp.Header["Vary"], "Origin", "whoever asks")
			assert.Equal(t, tt.asksFor == "", reached, "a preflight request is answered here")
		})
	}
}

// TestCORSOfRefusals: a page has to be able to read that it is not logged in,
// and a preflight request is not asked who it is.
func TestCORSOfRefusals(t *testing.T) {
	t.Parallel()
	h := filtered{upstream: answering, route: routing.Route{Filters: routing.Filters{CORS: &routing.CORS{AllowOrigins: []string{"https://app.example"}}}},
		layers: []gatemesh.Layer{layer("auth", func(context.Context, *gatemesh.Call) (gatemesh.Admission, error) {
			return gatemesh.Admission{}, gatemesh.Deny(gatemesh.Unauthenticated, "token_missing", "A token is required.")
		})}}.handler(t)
	resp := do(t, h, "GET", "/", "Origin", "https://app.example")
	assert.Equal(t, 401, resp.StatusCode)
	assert.Equal(t, "https://app.example", resp.Header.Get("Access-Control-Allow-Origin"))
	resp = do(t, h, "OPTIONS", "/", "Origin", "https://app.example", "Access-Control-Request-Method", "DELETE")
	assert.Equal(t, 200, resp.StatusCode)
	resp = do(t, h, "OPTIONS", "/", "Origin", "https://evil.example", "Access-Control-Request-Method", "DELETE")
	assert.Equal(t, 403, resp.StatusCode)
	assert.Equal(t, "origin_not_allowed", reason(t, resp))
	resp = do(t, h, "OPTIONS", "/", "Origin", "https://evil.example", "Origin", "https://app.example", "Access-Control-Request-Method", "DELETE")
	assert.Equal(t, 403, resp.StatusCode, "two origins are none")
}

func TestCORSWithoutChain(t *testing.T) {
	t.Parallel()
	r := newRouter(t, routing.Config{})
	w := httptest.NewRecorder()
	r.CORS().Handler(http.NotFoundHandler()).ServeHTTP(w, httptest.NewRequest("GET", "/", nil))
	assert.Equal(t, 500, w.Code)
	entry := gatemesh.Must(gatemesh.NewEntry(gatemesh.EntryConfig{}))
	_, err := gatemesh.NewChain(entry, r.CORS(), r.Layer())
	require.Error(t, err, "it needs the route")
}
