package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// filtered is what a rule has besides its matches: a filter and a service.
func filtered(filter, service string) string {
	return "filters: [" + filter + "], " + to(service)
}

// redirected is a rule for a path that redirects.
func redirected(path, redirect string) string {
	return "    - {matches: [" + prefix(path) + "], filters: [{type: RequestRedirect, requestRedirect: {" + redirect + "}}]}\n"
}

func TestConformanceFilters(t *testing.T) {
	t.Parallel()
	b := newBackends(t)
	modify := func(kind, change string) string {
		return fmt.Sprintf("{type: %sHeaderModifier, %sHeaderModifier: {%s}}", kind, strings.ToLower(kind), change)
	}
	changes := []string{
		"set: [{name: X-Header-Set, value: set-overwrites-values}]", "add: [{name: X-Header-Add, value: add-appends-values}]", "remove: [X-Header-Remove]",
		"set: [{name: X-Header-Set-1, value: header-set-1}, {name: X-Header-Set-2, value: header-set-2}], " +
			"add: [{name: X-Header-Add-1, value: header-add-1}, {name: X-Header-Add-2, value: header-add-2}, {name: X-Header-Add-3, value: header-add-3}], remove: [X-Header-Remove-1, X-Header-Remove-2]",
		"set: [{name: X-Header-Set, value: header-set}], add: [{name: X-Header-Add, value: header-add}], remove: [X-Header-Remove]",
	}
	paths := []string{"/set", "/add", "/remove", "/multiple", "/case-insensitivity"}
	modified := func(rule func(change string) string) string {
		var list []string
		for i, c := range changes {
			list = append(list, prefix(paths[i]), rule(c))
		}
		return rules(list...)
	}
	requests := []ask{
		{path: "/set", header: "Some-Other-Header: val", got: "Some-Other-Header: val|X-Header-Set: set-overwrites-values"},
		{path: "/set", header: "Some-Other-Header: val|X-Header-Set: some-other-value", got: "Some-Other-Header: val|X-Header-Set: set-overwrites-values"},
		{path: "/add", header: "Some-Other-Header: val", got: "Some-Other-Header: val|X-Header-Add: add-appends-values"},
		{path: "/add", header: "Some-Other-Header: val|X-Header-Add: some-other-value", got: "X-Header-Add: some-other-value,add-appends-values"},
		{path: "/remove", header: "X-Header-Remove: val", lost: "X-Header-Remove"},
		{path: "/multiple", header: "X-Header-Set-2: set-val-2|X-Header-Add-2: add-val-2|X-Header-Remove-2: remove-val-2|Another-Header: another-header-val",
			got:  "X-Header-Set-1: header-set-1|X-Header-Set-2: header-set-2|X-Header-Add-1: header-add-1|X-Header-Add-2: add-val-2,header-add-2|X-Header-Add-3: header-add-3|Another-Header: another-header-val",
			lost: "X-Header-Remove-1|X-Header-Remove-2"},
		{path: "/case-insensitivity", header: "x-header-set: original-val-set|x-header-add: original-val-add|x-header-remove: original-val-remove|Another-Header: another-header-val",
			got: "X-Header-Set: header-set|X-Header-Add: original-val-add,header-add|Another-Header: another-header-val", lost: "X-Header-Remove"},
	}
	answers := []ask{
		{path: "/set?answer=X-Header-Set:some-other-value&answer=Some-Other-Header:val", answer: "Some-Other-Header: val|X-Header-Set: set-overwrites-values"},
		{path: "/set", answer: "X-Header-Set: set-overwrites-values"},
		{path: "/add?answer=X-Header-Add:some-other-value", answer: "X-Header-Add: some-other-value,add-appends-values"},
		{path: "/add", answer: "X-Header-Add: add-appends-values"},
		{path: "/remove?answer=X-Header-Remove:val", lacks: "X-Header-Remove"},
		{path: "/multiple?answer=X-Header-Set-2:set-val-2&answer=X-Header-Add-2:add-val-2&answer=X-Header-Remove-2:x&answer=Another-Header:another-header-val",
			answer: "X-Header-Set-1: header-set-1|X-Header-Set-2: header-set-2|X-Header-Add-1: header-add-1|X-Header-Add-2: add-val-2,header-add-2|X-Header-Add-3: header-add-3|Another-Header: another-header-val",
			lacks:  "X-Header-Remove-1|X-Header-Remove-2"},
		{path: "/case-insensitivity?answer=x-header-set:a&answer=x-header-add:original-val-add&answer=x-header-remove:a",
			answer: "X-Header-Set: header-set|X-Header-Add: original-val-add,header-add", lacks: "X-Header-Remove"},
	}
	to1 := func(list []ask) (out []ask) {
		for _, a := range list {
			a.to = "infra-v1"
			out = append(out, a)
		}
		return out
	}
	rewrite := func(change string) string { return "{type: URLRewrite, urlRewrite: {" + change + "}}" }
	replaced := func(with string) string {
		return rewrite("path: {type: ReplacePrefixMatch, replacePrefixMatch: " + with + "}")
	}
	full := func(with string) string {
		return rewrite("path: {type: ReplaceFullPath, replaceFullPath: " + with + "}")
	}
	and := ", " + modify("Request", "set: [{name: X-Header-Set, value: set-overwrites-values}], add: [{name: X-Header-Add, value: header-val-1}, {name: X-Header-Add-Append, value: header-val-2}], remove: [X-Header-Remove]")
	changed := ask{header: "X-Header-Remove: remove-val|X-Header-Add-Append: append-val-1|X-Header-Set: set-val",
		got: "X-Header-Add: header-val-1|X-Header-Add-Append: append-val-1,header-val-2|X-Header-Set: set-overwrites-values", lost: "X-Header-Remove"}
	changedAt := func(to, host, path, gotHost, gotPath string) ask {
		a := changed
		a.to, a.host, a.path, a.gotHost, a.gotPath = to, host, path, gotHost, gotPath
		return a
	}
	retries := rules(
		prefix("/code-500-attempts-3"), "retry: {codes: [500], attempts: 3, backoff: 1ms}, "+to("infra-v3"),
		prefix("/code-all-attempts-2"), "retry: {codes: [500, 502, 503, 504], attempts: 2, backoff: 1ms}, "+to("infra-v3"))
	timed := rules(
		prefix("/retry/request-timeout-500ms"), "retry: {codes: [500], attempts: 5, backoff: 1ms}, timeouts: {request: 500ms}, "+to("infra-v3"),
		prefix("/retry/backend-timeout-500ms"), "retry: {codes: [500], attempts: 3, backoff: 1ms}, timeouts: {backendRequest: 500ms, request: 15s}, "+to("infra-v3"))
	for _, c := range []struct {
		name, spec string
		asks       []ask
	}{
		{"HTTPRouteRequestHeaderModifier", modified(func(c string) string { return filtered(modify("Request", c), "infra-v1") }), to1(requests)},
		{"HTTPRouteResponseHeaderModifier", modified(func(c string) string { return filtered(modify("Response", c), "infra-v1") }), to1(answers)},
		{"HTTPRouteBackendRequestHeaderModifier", modified(func(c string) string {
			return "backendRefs: [{name: infra-v1, port: 8080, filters: [" + modify("Request", c) + "]}]"
		}), to1(requests)},
		{"HTTPRouteRewriteHost", "  hostnames: [rewrite.example]\n" + rules(
			prefix("/one"), filtered(rewrite("hostname: one.example.org"), "infra-v1"), "", filtered(rewrite("hostname: example.org"), "infra-v2"),
			prefix("/rewrite-host-and-modify-headers"), filtered(rewrite("hostname: test.example.org")+and, "infra-v2")),
			[]ask{
				{host: "rewrite.example", path: "/one", to: "infra-v1", gotHost: "one.example.org"},
				{host: "rewrite.example", path: "/two", to: "infra-v2", gotHost: "example.org"},
				changedAt("infra-v2", "rewrite.example", "/rewrite-host-and-modify-headers", "test.example.org", ""),
			}},
		{"HTTPRouteRewritePath", rules(
			prefix("/prefix/one"), filtered(replaced("/one"), "infra-v1"), prefix("/strip-prefix"), filtered(replaced("/"), "infra-v1"),
			prefix("/full/one"), filtered(full("/one"), "infra-v1"), prefix("/full/rewrite-path-and-modify-headers"), filtered(full("/test")+and, "infra-v1"),
			prefix("/prefix/rewrite-path-and-modify-headers"), filtered(replaced("/prefix")+and, "infra-v1"), prefix("/empty"), filtered(replaced(`""`), "infra-v1")),
			[]ask{
				{path: "/prefix/one/two", to: "infra-v1", gotPath: "/one/two"}, {path: "/strip-prefix/three", to: "infra-v1", gotPath: "/three"},
				{path: "/strip-prefix", to: "infra-v1", gotPath: "/"}, {path: "/strip-prefix/", to: "infra-v1", gotPath: "/"},
				{path: "/full/one/two", to: "infra-v1", gotPath: "/one"}, {path: "/full/one/two?a=b", to: "infra-v1", gotPath: "/one?a=b"},
				{path: "/empty/a", to: "infra-v1", gotPath: "/a"}, {path: "/empty", to: "infra-v1", gotPath: "/"},
				changedAt("infra-v1", "", "/full/rewrite-path-and-modify-headers/test", "", "/test"),
				changedAt("infra-v1", "", "/prefix/rewrite-path-and-modify-headers/one", "", "/prefix/one"),
			}},
		{"HTTPRouteBackendURLRewrite", rules(
			prefix("/full"), "backendRefs: [{name: infra-v1, port: 8080, filters: ["+full("/rewritten-full")+"]}]",
			prefix("/prefix"), "backendRefs: [{name: infra-v1, port: 8080, filters: ["+replaced("/rewritten-prefix")+"]}]"),
			[]ask{
				{path: "/full/original", to: "infra-v1", gotPath: "/rewritten-full"},
				{path: "/prefix/original", to: "infra-v1", gotPath: "/rewritten-prefix/original"},
			}},
		{"HTTPRouteRequestTimeout", rules(prefix("/request-timeout"), "timeouts: {request: 500ms}, "+to("infra-v1"), prefix("/disable"), "timeouts: {request: 0s}, "+to("infra-v1")),
			[]ask{{path: "/request-timeout", to: "infra-v1"}, {path: "/request-timeout?delay=1m", status: 504}, {path: "/disable?delay=600ms", to: "infra-v1"}}},
		{"HTTPRouteBackendTimeout", rules(prefix("/backend-timeout"), "timeouts: {backendRequest: 500ms}, "+to("infra-v1"), prefix("/disable"), "timeouts: {backendRequest: 0s}, "+to("infra-v1")),
			[]ask{{path: "/backend-timeout", to: "infra-v1"}, {path: "/backend-timeout?delay=1m", status: 504}, {path: "/disable?delay=600ms", to: "infra-v1"}}},
		{"HTTPRouteBackendProtocolH2C", rules("", "h2c"), []ask{{to: "h2c"}}},
		// What is retried comes out of a budget, of 10 at the start: more of these at
		// once would not be, which is the point of it (F-09).
		{"HTTPRouteRetry", retries,
			[]ask{
				{path: "/code-500-attempts-3?retry=0&code=500&succeedAfter=2", to: "infra-v3"},
				{path: "/code-500-attempts-3?retry=1&code=500&succeedAfter=4", status: 500},
				{path: "/code-500-attempts-3?retry=2&code=503&succeedAfter=2", status: 503},
				{path: "/code-all-attempts-2?retry=3&code=500&succeedAfter=1", to: "infra-v3"},
				{path: "/code-all-attempts-2?retry=4&code=502&succeedAfter=3", status: 502},
			}},
		{"HTTPRouteRetry of other codes", retries,
			[]ask{
				{path: "/code-all-attempts-2?retry=5&code=503&succeedAfter=1", to: "infra-v3"},
				{path: "/code-all-attempts-2?retry=6&code=504&succeedAfter=3", status: 504},
				{path: "/code-all-attempts-2?retry=7&code=504&succeedAfter=1", to: "infra-v3"},
			}},
		{"HTTPRouteRetryWithRequestTimeout", timed, []ask{
			{path: "/retry/request-timeout-500ms?retry=8&code=500&succeedAfter=1", to: "infra-v3"},
			{path: "/retry/request-timeout-500ms?retry=9&code=500&succeedAfter=2&delayRetry=300ms", status: 504},
		}},
		{"HTTPRouteRetryWithBackendTimeout", timed, []ask{
			{path: "/retry/backend-timeout-500ms?retry=10&code=500&succeedAfter=2&delayRetry=100ms&delay=100ms", to: "infra-v3"},
			{path: "/retry/backend-timeout-500ms?retry=11&code=500&succeedAfter=9&delayRetry=10s", status: 504},
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			b.serves(t, sameNamespace+httpRoute("r", "same-namespace", c.spec)).asks(c.asks...)
		})
	}
}

// HTTPRouteRetryConnectionError: what one of two endpoints does not accept, the
// other one answers.
func TestConformanceRetryConnectionError(t *testing.T) {
	t.Parallel()
	b := newBackends(t)
	gone := httptest.NewServer(http.NotFoundHandler())
	gone.Close()
	b.urls["infra-v1"] += " " + gone.URL
	c := b.serves(t, sameNamespace+httpRoute("r", "same-namespace", rules(prefix("/retry-on-connection-errors"), "retry: {attempts: 100}, "+to("infra-v1"))))
	for range 10 {
		c.asks(ask{path: "/retry-on-connection-errors", to: "infra-v1"})
	}
}

// HTTPRouteRequestHeaderModifierBackendWeights: a filter of a backend is for the
// requests that go there.
func TestConformanceBackendFilters(t *testing.T) {
	t.Parallel()
	says := func(service string) string {
		return "{name: " + service + ", port: 8080, filters: [{type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: Backend, value: " + service + "}]}}]}"
	}
	c := newBackends(t).serves(t, sameNamespace+httpRoute("r", "same-namespace", rules("", "backendRefs: ["+says("infra-v1")+", "+says("infra-v2")+"]")))
	seen := map[string]int{}
	for range 100 {
		_, body := c.send(&ask{}, 80, "GET", "/")
		var got struct {
			Backend string
			Header  http.Header
		}
		require.NoError(t, json.Unmarshal(body, &got))
		require.Equal(t, []string{got.Backend}, got.Header.Values("Backend"))
		seen[got.Backend]++
	}
	assert.Len(t, seen, 2, "%v", seen)
}

func TestConformanceCORS(t *testing.T) {
	t.Parallel()
	b := newBackends(t)
	cors := func(name, text string) string {
		return httpRoute(name, "same-namespace", rules(prefix("/"+name), filtered("{type: CORS, cors: {"+text+"}}", "infra-v1")))
	}
	c := b.serves(t, sameNamespace+
		cors("cors-1", `allowOrigins: ["https://www.foo.com", "https://*.bar.com"], allowMethods: [GET, OPTIONS], allowHeaders: [x-header-1, x-header-2], exposeHeaders: [x-header-3, x-header-4], allowCredentials: true, maxAge: 3600`)+
		cors("cors-2", `allowOrigins: ["https://www.foo.com"], allowMethods: ["*"]`)+
		cors("any", `allowOrigins: ["*"], allowMethods: [PUT]`)+
		cors("all-auth", `allowOrigins: ["https://other.foo.com"], allowMethods: ["*"], allowHeaders: ["*"], allowCredentials: true`)+
		cors("all-unauth", `allowOrigins: ["https://other.foo.com"], allowMethods: ["*"], allowHeaders: ["*"]`))
	preflight := func(path, origin, method, headers string) ask {
		a := ask{method: "OPTIONS", path: path, header: "Origin: " + origin + "|Access-Control-Request-Method: " + method}
		if headers != "" {
			a.header += "|Access-Control-Request-Headers: " + headers
		}
		return a
	}
	for _, origin := range []string{"https://www.foo.com", "https://www.bar.com", "https://xpto.www.bar.com"} {
		a := preflight("/cors-1", origin, "GET", "x-header-1, x-header-2")
		a.answer = "Access-Control-Allow-Origin: " + origin + "|Access-Control-Allow-Methods: GET,OPTIONS or OPTIONS,GET|Access-Control-Allow-Headers: x-header-1,x-header-2" +
			"|Access-Control-Expose-Headers: x-header-3,x-header-4|Access-Control-Max-Age: 3600|Access-Control-Allow-Credentials: true"
		c.asks(a, ask{path: "/cors-1", header: a.header, to: "infra-v1", answer: "Access-Control-Allow-Origin: " + origin})
	}
	foreign := preflight("/cors-1", "https://foobar.com", "GET", "")
	foreign.status, foreign.lacks = 403, "Access-Control-Allow-Origin"
	wildcard := preflight("/cors-2", "https://www.foo.com", "POST", "")
	wildcard.answer, wildcard.lacks = "Access-Control-Allow-Methods: POST or *|Access-Control-Allow-Origin: https://www.foo.com", "Access-Control-Allow-Credentials"
	c.asks(foreign, ask{path: "/cors-1", header: "Origin: https://foobar.com", to: "infra-v1", lacks: "Access-Control-Allow-Origin|Access-Control-Allow-Credentials"}, wildcard)
	for _, origin := range []string{"https://foobar.com", "https://foobar.com:12345"} {
		a := preflight("/any", origin, "PUT", "")
		a.answer, a.lacks = "Access-Control-Allow-Origin: "+origin+" or *|Access-Control-Allow-Methods: PUT", "Access-Control-Allow-Credentials"
		c.asks(a, ask{method: "PUT", path: "/any", header: "Origin: " + origin, to: "infra-v1", answer: "Access-Control-Allow-Origin: " + origin + " or *", lacks: "Access-Control-Allow-Credentials"})
	}
	asked := "Access-Control-Allow-Origin: https://other.foo.com|Access-Control-Allow-Methods: PUT|Access-Control-Allow-Headers: x-header-1,x-header-2"
	auth, unauth := preflight("/all-auth", "https://other.foo.com", "PUT", "x-header-1, x-header-2"), preflight("/all-unauth", "https://other.foo.com", "PUT", "x-header-1, x-header-2")
	auth.answer = asked + "|Access-Control-Allow-Credentials: true"
	unauth.answer, unauth.lacks = asked, "Access-Control-Allow-Credentials"
	sent := "Origin: https://other.foo.com|Authorization: Bearer test|Cookie: sid=abc123"
	c.asks(auth, unauth,
		ask{path: "/all-auth", header: sent, to: "infra-v1", answer: "Access-Control-Allow-Origin: https://other.foo.com|Access-Control-Allow-Credentials: true"},
		ask{path: "/all-unauth", header: sent, to: "infra-v1", answer: "Access-Control-Allow-Origin: https://other.foo.com", lacks: "Access-Control-Allow-Credentials"},
		ask{path: "/all-auth", header: "Origin: http://other.foo.com", to: "infra-v1", lacks: "Access-Control-Allow-Origin|Access-Control-Allow-Credentials"})
}

// The suite takes a port in the Location only if the rule or the listener has
// one that is not that of the scheme: the port of the Gateway, wherever the
// process listens.
func TestConformanceRedirects(t *testing.T) {
	t.Parallel()
	b := newBackends(t)
	path := func(kind, with string) string {
		return "path: {type: Replace" + kind + ", replace" + kind + ": " + with + "}"
	}
	all := func(gateway string) string {
		return httpRoute("r-"+gateway, gateway, "  rules:\n"+
			redirected("/hostname", "hostname: example.org")+redirected("/host-and-status", "hostname: example.org, statusCode: 301")+
			redirected("/scheme", "scheme: https")+redirected("/303", "scheme: https, statusCode: 303")+
			redirected("/307", "scheme: https, statusCode: 307")+redirected("/308", "scheme: https, statusCode: 308")+
			redirected("/original-prefix", path("PrefixMatch", "/replacement-prefix"))+redirected("/full", path("FullPath", "/full-path-replacement"))+
			redirected("/path-and-host", "hostname: example.org, "+path("PrefixMatch", "/replacement-prefix"))+
			redirected("/http-nil", "scheme: http, hostname: example.org")+
			redirected("/nil-80", "hostname: example.org, port: 80")+redirected("/nil-443", "hostname: example.org, port: 443")+redirected("/nil-8080", "hostname: example.org, port: 8080")+
			redirected("/https-443", "scheme: https, hostname: example.org, port: 443")+redirected("/https-8443", "scheme: https, hostname: example.org, port: 8443"))
	}
	type goes struct {
		path   string
		status int
		to     string
	}
	gateways := map[string]struct {
		ask   ask
		goes  []goes
		ports string
	}{
		"http-80": {ask{host: "gw.example"}, []goes{
			{"/hostname", 302, "http://example.org/hostname"}, {"/host-and-status", 301, "http://example.org/host-and-status"},
			{"/scheme", 302, "https://gw.example/scheme"}, {"/303", 303, "https://gw.example/303"}, {"/307", 307, "https://gw.example/307"}, {"/308", 308, "https://gw.example/308"},
			{"/original-prefix/lemon", 302, "http://gw.example/replacement-prefix/lemon"}, {"/full/path/original", 302, "http://gw.example/full-path-replacement"},
			{"/path-and-host", 302, "http://example.org/replacement-prefix"},
			{"/nil-80", 302, "http://example.org/nil-80"}, {"/nil-8080", 302, "http://example.org:8080/nil-8080"},
			{"/https-443", 302, "https://example.org/https-443"}, {"/https-8443", 302, "https://example.org:8443/https-8443"},
		}, "port: 80, protocol: HTTP"},
		"http-8080": {ask{host: "gw.example", port: 8080}, []goes{
			{"/hostname", 302, "http://example.org:8080/hostname"}, {"/nil-80", 302, "http://example.org/nil-80"}, {"/scheme", 302, "https://gw.example/scheme"},
		}, "port: 8080, protocol: HTTP"},
		"https-443": {ask{host: "example.org", port: 443, sni: "example.org"}, []goes{
			{"/hostname", 302, "https://example.org/hostname"}, {"/nil-443", 302, "https://example.org/nil-443"}, {"/https-8443", 302, "https://example.org:8443/https-8443"},
			{"/http-nil", 302, "http://example.org/http-nil"},
		}, "port: 443, protocol: HTTPS"},
	}
	for name, g := range gateways {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := b.serves(t, gatewayWith(name, g.ports)+all(name))
			for _, to := range g.goes {
				a := g.ask
				a.path, a.status = to.path, to.status
				assert.Equal(t, to.to, c.location(a).String(), "%s", to.path)
			}
		})
	}
}

// A mirror gets a copy of each request, or of that share of them.
func TestConformanceMirrors(t *testing.T) {
	t.Parallel()
	b := newBackends(t)
	mirror := func(service, share string) string {
		return "{type: RequestMirror, requestMirror: {backendRef: {name: " + service + ", port: 8080}" + share + "}}"
	}
	c := b.serves(t, sameNamespace+httpRoute("r", "same-namespace", rules(
		prefix("/mirror"), filtered(mirror("infra-v2", ""), "infra-v1"),
		prefix("/multi"), filtered(mirror("infra-v2", "")+", "+mirror("infra-v3", ""), "infra-v1"),
		prefix("/none"), filtered(mirror("infra-v2", ", percent: 0"), "infra-v1"),
		prefix("/half"), filtered(mirror("infra-v2", ", percent: 50"), "infra-v1"),
		prefix("/fraction"), filtered(mirror("infra-v2", ", fraction: {numerator: 1, denominator: 2}"), "infra-v1"),
		prefix("/changed"), filtered("{type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: X-Header-Set, value: set}]}}, "+mirror("infra-v2", ""), "infra-v1"))))
	got := func(path string, n int, enough time.Duration) map[string]int {
		seen := map[string]int{}
		timeout := time.After(enough)
		for n > 0 {
			select {
			case line := <-b.got:
				if service, p, _ := strings.Cut(line, " "); p == path {
					seen[service]++
					n--
				}
			case <-timeout:
				return seen
			}
		}
		return seen
	}
	c.asks(ask{path: "/mirror/a", to: "infra-v1"})
	require.Equal(t, map[string]int{"infra-v1": 1, "infra-v2": 1}, got("/mirror/a", 2, time.Minute))
	c.asks(ask{path: "/multi/a", to: "infra-v1"})
	require.Equal(t, map[string]int{"infra-v1": 1, "infra-v2": 1, "infra-v3": 1}, got("/multi/a", 3, time.Minute))
	c.asks(ask{path: "/changed/a", to: "infra-v1", got: "X-Header-Set: set"})
	require.Equal(t, map[string]int{"infra-v1": 1, "infra-v2": 1}, got("/changed/a", 2, time.Minute))
	for _, path := range []string{"/none/a", "/half/a", "/fraction/a"} {
		for range 100 {
			c.asks(ask{path: path, to: "infra-v1"})
		}
		c.asks(ask{path: "/mirror/last", to: "infra-v1"}) // copies that come come before this one, or soon after
		n := got(path, 200, 200*time.Millisecond)["infra-v2"]
		if path == "/none/a" {
			assert.Zero(t, n)
		} else {
			assert.Greater(t, n, 15, path)
			assert.Less(t, n, 85, path)
		}
	}
}

// The suite wants the shares within 5 %, of 500 requests.
func TestConformanceWeight(t *testing.T) {
	t.Parallel()
	b := newBackends(t)
	c := b.serves(t, sameNamespace+httpRoute("r", "same-namespace",
		rules("", "backendRefs: [{name: infra-v1, port: 8080, weight: 70}, {name: infra-v2, port: 8080, weight: 30}, {name: infra-v3, port: 8080, weight: 0}]")))
	seen := map[string]int{}
	for range 500 {
		resp, body := c.send(&ask{}, 80, "GET", "/")
		require.Equal(t, 200, resp.StatusCode)
		for _, s := range services {
			if strings.Contains(string(body), `"Backend":"`+s+`"`) {
				seen[s]++
			}
		}
	}
	assert.InDelta(t, 350, seen["infra-v1"], 60, "%v", seen)
	assert.Equal(t, 500, seen["infra-v1"]+seen["infra-v2"], "%v", seen)
}

// A rule without backends is one that answers 500.
func TestConformanceNoBackends(t *testing.T) {
	t.Parallel()
	c := newBackends(t).serves(t, sameNamespace+httpRoute("r", "same-namespace", "  rules: [{matches: ["+prefix("/")+"]}]"))
	resp, _ := c.send(&ask{}, 80, "GET", "/")
	assert.Equal(t, 500, resp.StatusCode)
}
