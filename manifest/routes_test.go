package manifest_test

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/gatemesh-go/gatemesh"
	"github.com/gatemesh-go/gatemesh/manifest"
	"github.com/gatemesh-go/gatemesh/routing"
)

const oneGateway = `apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: g}
spec: {gatewayClassName: x, listeners: [{name: all, port: 80, protocol: HTTP}]}
---
`

func dest(service string, port uint16) gatemesh.Destination {
	return gatemesh.Destination{Service: service, Namespace: "default", Port: port}
}

// httpRule returns the routing of a rule of an HTTPRoute, or the error.
func httpRule(t *testing.T, rule string) (routing.Route, error) {
	t.Helper()
	return oneRule(t, "HTTPRoute", rule)
}

func oneRule(t *testing.T, kind, rule string) (routing.Route, error) {
	t.Helper()
	set, err := manifest.Parse("a.yaml", []byte(oneGateway+`apiVersion: gateway.networking.k8s.io/v1
kind: `+kind+`
metadata: {name: r}
spec: {parentRefs: [{name: g}], rules: [`+rule+`]}
`))
	if err != nil {
		return routing.Route{}, err
	}
	routes := set.Routes()
	require.Len(t, routes, 1)
	routes[0].Position = gatemesh.Position{}
	return routes[0], nil
}

func TestHTTPRule(t *testing.T) {
	t.Parallel()
	b := []routing.Backend{{Destination: dest("b", 1), Weight: 1}}
	const to = "backendRefs: [{name: b, port: 1}]"
	for name, tt := range map[string]struct {
		rule string
		want routing.Route
	}{
		"matches": {`matches: [{path: {type: RegularExpression, value: "/a[0-9]+"}, headers: [{name: x-a, type: RegularExpression, value: "b|c"}], queryParams: [{name: p, value: q}, {name: r, type: RegularExpression, value: "s+"}]}], ` + to, routing.Route{Backends: b, Matches: []routing.Match{{
			Path:    routing.PathMatch{Type: routing.PathRegex, Value: "/a[0-9]+"},
			Headers: []routing.HeaderMatch{{Name: "x-a", Type: routing.MatchRegex, Value: "b|c"}},
			Query:   []routing.QueryMatch{{Name: "p", Value: "q"}, {Name: "r", Type: routing.MatchRegex, Value: "s+"}},
		}}}},
		"headers": {`filters: [{type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: x-a, value: "1"}], add: [{name: x-b, value: "2"}], remove: [x-c]}}, {type: ResponseHeaderModifier, responseHeaderModifier: {remove: [x-d]}}], ` + to, routing.Route{Backends: b, Filters: routing.Filters{
			RequestHeader:  routing.HeaderChange{Set: []gatemesh.Field{{Name: "x-a", Value: "1"}}, Add: []gatemesh.Field{{Name: "x-b", Value: "2"}}, Remove: []string{"x-c"}},
			ResponseHeader: routing.HeaderChange{Remove: []string{"x-d"}},
		}}},
		"redirect": {`matches: [{path: {value: /a}}], filters: [{type: RequestRedirect, requestRedirect: {scheme: https, hostname: www.example.com, port: 8443, statusCode: 308, path: {type: ReplacePrefixMatch, replacePrefixMatch: /b}}}]`, routing.Route{
			Matches: []routing.Match{{Path: routing.PathMatch{Value: "/a"}}},
			Filters: routing.Filters{Redirect: &routing.Redirect{Scheme: "https", Hostname: "www.example.com", Port: 8443, Status: 308, Path: routing.PathChange{ReplacePrefix: true, Prefix: "/b"}}},
		}},
		"bare redirect": {`filters: [{type: RequestRedirect, requestRedirect: {path: {type: ReplaceFullPath, replaceFullPath: /x}}}]`, routing.Route{
			Filters: routing.Filters{Redirect: &routing.Redirect{Path: routing.PathChange{Full: "/x"}}},
		}},
		"rewrite": {`filters: [{type: URLRewrite, urlRewrite: {hostname: in.example.com, path: {type: ReplacePrefixMatch, replacePrefixMatch: ""}}}], ` + to, routing.Route{Backends: b,
			Filters: routing.Filters{Rewrite: &routing.Rewrite{Hostname: "in.example.com", Path: routing.PathChange{ReplacePrefix: true}}},
		}},
		"mirrors": {`filters: [{type: RequestMirror, requestMirror: {backendRef: {name: m, port: 2}}}, {type: RequestMirror, requestMirror: {backendRef: {name: oo, port: 3}, percent: 0}}, {type: RequestMirror, requestMirror: {backendRef: {name: o, port: 4}, fraction: {numerator: 1, denominator: 8}}}, {type: RequestMirror, requestMirror: {backendRef: {name: p, port: 5}, fraction: {numerator: 7}}}], ` + to, routing.Route{Backends: b,
			Filters: routing.Filters{Mirrors: []routing.Mirror{
				{Destination: dest("m", 2)}, {Destination: dest("oo", 3), Denominator: 100}, {Destination: dest("o", 4), Numerator: 1, Denominator: 8},
				{Destination: dest("p", 5), Numerator: 7, Denominator: 100},
			}},
		}},
		"cors": {`filters: [{type: CORS, cors: {allowOrigins: ["https://*.example.com", "http://a.example.com:8080"], allowMethods: [PUT], allowHeaders: [x-a], exposeHeaders: [x-b], allowCredentials: true, maxAge: 60}}], ` + to, routing.Route{Backends: b,
			Filters: routing.Filters{CORS: &routing.CORS{
				AllowOrigins: []string{"https://*.example.com", "http://a.example.com:8080"}, AllowMethods: []string{"PUT"}, AllowHeaders: []string{"x-a"},
				ExposeHeaders: []string{"x-b"}, AllowCredentials: true, MaxAge: time.Minute,
			}},
		}},
		"cors by default": {`filters: [{type: CORS, cors: {allowOrigins: ["*"]}}], ` + to, routing.Route{Backends: b,
			Filters: routing.Filters{CORS: &routing.CORS{AllowOrigins: []string{"*"}, MaxAge: 5 * time.Second}},
		}},
		"timeouts":   {`timeouts: {request: 1m30s, backendRequest: 500ms}, ` + to, routing.Route{Backends: b, Timeout: 90 * time.Second, AttemptTimeout: 500 * time.Millisecond}},
		"no timeout": {`timeouts: {request: 0s, backendRequest: 10s}, ` + to, routing.Route{Backends: b, AttemptTimeout: 10 * time.Second}},
		"backend": {`backendRefs: [{name: b, port: 1, weight: 3, filters: [{type: RequestHeaderModifier, requestHeaderModifier: {remove: [x-a]}}, {type: URLRewrite, urlRewrite: {hostname: h.example.com}}, {type: RequestMirror, requestMirror: {backendRef: {name: m, port: 2}}}]}]`, routing.Route{
			Backends: []routing.Backend{{Destination: dest("b", 1), Weight: 3, Filters: routing.Filters{
				RequestHeader: routing.HeaderChange{Remove: []string{"x-a"}}, Rewrite: &routing.Rewrite{Hostname: "h.example.com"},
				Mirrors: []routing.Mirror{{Destination: dest("m", 2)}},
			}}},
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, err := httpRule(t, "{"+tt.rule+"}")
			require.NoError(t, err)
			tt.want.Name, tt.want.Listeners = "default/r/0", []string{"all"}
			assert.Equal(t, tt.want, got)
		})
	}
}

// The Gateway API counts the tries after the first one.
func TestRetryOfHTTPRule(t *testing.T) {
	t.Parallel()
	for retry, want := range map[string]gatemesh.RetryPolicy{
		"{}":            {Broken: true, Attempts: 2},
		"{attempts: 0}": {Broken: true, Attempts: 1},
		"{attempts: 2, codes: [500, 503], backoff: 100ms}": {Broken: true, Attempts: 3, Statuses: []int{500, 503}, Backoff: 100 * time.Millisecond},
	} {
		got, err := manifest.Parse("a.yaml", []byte(oneGateway+`apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: r}
spec: {parentRefs: [{name: g}], rules: [{retry: `+retry+`, backendRefs: [{name: b, port: 1}]}]}
`))
		require.NoError(t, err)
		assert.Equal(t, &want, got.Routes()[0].Retry, retry)
	}
}

func TestGRPCRule(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		match string
		want  routing.PathMatch
	}{
		"all":           {`{}`, routing.PathMatch{Value: "/"}},
		"exact":         {`{method: {service: shop.Orders, method: Get}}`, routing.PathMatch{Type: routing.PathExact, Value: "/shop.Orders/Get"}},
		"service":       {`{method: {type: Exact, service: shop.Orders}}`, routing.PathMatch{Value: "/shop.Orders"}},
		"method":        {`{method: {method: Get}}`, routing.PathMatch{Type: routing.PathRegex, Value: "/[^/]+/Get"}},
		"regex":         {`{method: {type: RegularExpression, service: "a|b", method: "Get.*"}}`, routing.PathMatch{Type: routing.PathRegex, Value: "/(?:a|b)/(?:Get.*)"}},
		"regex service": {`{method: {type: RegularExpression, service: "a|b"}}`, routing.PathMatch{Type: routing.PathRegex, Value: "/(?:a|b)/[^/]+"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, err := oneRule(t, "GRPCRoute", "{name: main, matches: ["+tt.match+"], backendRefs: [{name: b, port: 1}]}")
			require.NoError(t, err)
			assert.Equal(t, routing.Route{
				Name: "default/r/grpc/main", Listeners: []string{"all"},
				Matches:  []routing.Match{{Protocol: gatemesh.GRPC, Path: tt.want}},
				Backends: []routing.Backend{{Destination: dest("b", 1), Weight: 1}},
			}, got)
		})
	}
	got, err := oneRule(t, "GRPCRoute", `{filters: [{type: RequestMirror, requestMirror: {backendRef: {name: m, port: 2}, percent: 5}}], backendRefs: [{name: b, port: 1, weight: 2, filters: [{type: ResponseHeaderModifier, responseHeaderModifier: {remove: [x-a]}}]}]}`)
	require.NoError(t, err)
	assert.Equal(t, routing.Route{
		Name: "default/r/grpc/0", Listeners: []string{"all"},
		Matches: []routing.Match{{Protocol: gatemesh.GRPC, Path: routing.PathMatch{Value: "/"}}},
		Filters: routing.Filters{Mirrors: []routing.Mirror{{Destination: dest("m", 2), Numerator: 5, Denominator: 100}}},
		Backends: []routing.Backend{{Destination: dest("b", 1), Weight: 2, Filters: routing.Filters{
			ResponseHeader: routing.HeaderChange{Remove: []string{"x-a"}},
		}}},
	}, got)
}

// What cannot be carried out, or is no good, is an error at its line.
func TestRouteFaults(t *testing.T) {
	t.Parallel()
	const to = "backendRefs: [{name: b, port: 1}]"
	hr := func(rule string) string { return "HTTPRoute {" + rule + "}" }
	gr := func(rule string) string { return "GRPCRoute {" + rule + "}" }
	for rule, want := range map[string]string{
		hr(`matches: [{path: {type: RegularExpression, value: "/("}}], ` + to):                                                                                                                              `matches[0].path.value: "/(" is not a regular expression (RE2): missing closing )`,
		hr(`matches: [{path: {type: RegularExpression, value: "/` + strings.Repeat("a", 1025) + `"}}], ` + to):                                                                                              `matches[0].path.value: is longer than 1024 characters`,
		hr(`matches: [{path: {value: a}}], ` + to):                                                                                                                                                          `matches[0].path.value: "a" does not start with a slash`,
		hr(`matches: [{headers: [{name: a, type: RegularExpression, value: "["}]}], ` + to):                                                                                                                 `matches[0].headers[0].value: "[" is not a regular expression (RE2): missing closing ]`,
		hr(`matches: [{queryParams: [{name: a, type: RegularExpression, value: "["}]}], ` + to):                                                                                                             `matches[0].queryParams[0].value: "[" is not a regular expression (RE2): missing closing ]`,
		hr(`matches: [{queryParams: [{name: a, value: b}, {name: a, value: c}]}], ` + to):                                                                                                                   `matches[0].queryParams[1].name: a is matched by spec.rules[0].matches[0].queryParams[0] already`,
		hr(`matches: [{headers: [{name: a, value: b}, {name: A, value: c}]}], ` + to):                                                                                                                       `matches[0].headers[1].name: A is matched by spec.rules[0].matches[0].headers[0] already`,
		hr(`filters: [{type: ExtensionRef}], ` + to):                                                                                                                                                        `filters[0].type: ExtensionRef is not supported by gatemesh; it must be RequestHeaderModifier or ResponseHeaderModifier or RequestRedirect or URLRewrite or RequestMirror or CORS`,
		hr(`filters: [{type: CORS}], ` + to):                                                                                                                                                                `filters[0].cors: is required for type CORS`,
		hr(`filters: [{type: CORS, cors: {allowOrigins: ["*", "http://a"]}}], ` + to):                                                                                                                       `filters[0].cors.allowOrigins[0]: * is everything and cannot stand beside others`,
		hr(`filters: [{type: CORS, cors: {allowOrigins: [example.com]}}], ` + to):                                                                                                                           `filters[0].cors.allowOrigins[0]: "example.com" is not http:// or https:// and a lower-case host, nor *`,
		hr(`filters: [{type: URLRewrite, urlRewrite: {}}], ` + to):                                                                                                                                          `filters[0].urlRewrite: changes nothing; leave it out`,
		hr(`filters: [{type: URLRewrite, urlRewrite: {path: {type: ReplaceFullPath}}}], ` + to):                                                                                                             `filters[0].urlRewrite.path: must have the value for type ReplaceFullPath`,
		hr(`filters: [{type: URLRewrite, urlRewrite: {path: {type: ReplaceFullPath, replaceFullPath: /a, replacePrefixMatch: /b}}}], ` + to):                                                                `filters[0].urlRewrite.path.replacePrefixMatch: does not go with type ReplaceFullPath`,
		hr(`filters: [{type: RequestHeaderModifier, urlRewrite: {hostname: a}, requestHeaderModifier: {remove: [x]}}], ` + to):                                                                              `filters[0].urlRewrite: does not go with type RequestHeaderModifier`,
		hr(`filters: [{type: RequestHeaderModifier, requestHeaderModifier: {}}], ` + to):                                                                                                                    `filters[0].requestHeaderModifier: changes nothing; leave it out`,
		hr(`filters: [{type: RequestHeaderModifier, requestHeaderModifier: {remove: [Host]}}], ` + to):                                                                                                      `filters[0].requestHeaderModifier.remove[0]: "Host" is a header field that is not up to a route`,
		hr(`filters: [{type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: X-Gatemesh-Identity, value: a}]}}], ` + to):                                                                        `filters[0].requestHeaderModifier.set[0].name: "X-Gatemesh-Identity" is a header field that is not up to a route`,
		hr(`filters: [{type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: a, value: b}], remove: [A]}}], ` + to):                                                                             `filters[0].requestHeaderModifier.remove[0]: A is changed by spec.rules[0].filters[0].requestHeaderModifier.set[0].name already`,
		hr(`filters: [{type: RequestMirror, requestMirror: {backendRef: {name: m, port: 1}, percent: 1, fraction: {numerator: 1}}}], ` + to):                                                                `filters[0].requestMirror.fraction: percent says it already; leave out either`,
		hr(`filters: [{type: RequestMirror, requestMirror: {backendRef: {name: m, port: 1}, fraction: {numerator: 101}}}], ` + to):                                                                          `filters[0].requestMirror.fraction.numerator: 101 is more than the denominator, 100`,
		hr(`filters: [{type: RequestMirror, requestMirror: {backendRef: {name: m, port: 1}, percent: 101}}], ` + to):                                                                                        `filters[0].requestMirror.percent: 101 is not between 0 and 100`,
		hr(`filters: [{type: RequestRedirect, requestRedirect: {statusCode: 300}}]`):                                                                                                                        `filters[0].requestRedirect.statusCode: 300 is unknown; it must be 301 or 302 or 303 or 307 or 308`,
		hr(`filters: [{type: RequestRedirect, requestRedirect: {hostname: "*.example.com"}}]`):                                                                                                              `filters[0].requestRedirect.hostname: "*.example.com" is a wildcard; one host name is required`,
		hr(`filters: [{type: RequestRedirect, requestRedirect: {scheme: https}}], ` + to):                                                                                                                   `backendRefs[0]: a redirect answers the call itself; leave out backendRefs or the redirect`,
		hr(`filters: [{type: RequestRedirect, requestRedirect: {scheme: https}}, {type: URLRewrite, urlRewrite: {hostname: a}}]`):                                                                           `filters[1]: a redirect and a rewrite cannot stand together`,
		hr(`filters: [{type: URLRewrite, urlRewrite: {hostname: a}}, {type: URLRewrite, urlRewrite: {hostname: b}}], ` + to):                                                                                `filters[1]: URLRewrite is the type of spec.rules[0].filters[0] already`,
		hr(`matches: [{path: {type: Exact, value: /a}}], filters: [{type: URLRewrite, urlRewrite: {path: {type: ReplacePrefixMatch, replacePrefixMatch: /b}}}], ` + to):                                     `filters[0].urlRewrite.path: ReplacePrefixMatch takes exactly one match, of type PathPrefix`,
		hr(`matches: [{path: {value: /a}}, {path: {value: /b}}], backendRefs: [{name: b, port: 1, filters: [{type: URLRewrite, urlRewrite: {path: {type: ReplacePrefixMatch, replacePrefixMatch: /b}}}]}]`): `backendRefs[0].filters[0].urlRewrite.path: ReplacePrefixMatch takes exactly one match, of type PathPrefix`,
		hr(`backendRefs: [{name: b, port: 1, filters: [{type: RequestRedirect}]}]`):                                                                                                                         `backendRefs[0].filters[0].type: RequestRedirect is not supported by gatemesh; it must be RequestHeaderModifier or ResponseHeaderModifier or URLRewrite or RequestMirror`,
		hr(`backendRefs: [{name: b, port: 1, weight: .nan}]`):                                                                                                                                               `backendRefs[0].weight: must be a whole number`,
		hr(`backendRefs: [{name: b, port: 1, weight: -1}]`):                                                                                                                                                 `backendRefs[0].weight: -1 is not between 0 and 1000000`,
		hr(`timeouts: {request: 1s, backendRequest: 2s}, ` + to):                                                                                                                                            `timeouts.backendRequest: is longer than request, which bounds it`,
		hr(`timeouts: {request: banana}, ` + to):                                                                                                                                                            `timeouts.request: "banana" is not a duration such as 1h, 1m30s or 500ms (GEP-2257)`,
		hr(`timeouts: {request: 1.5s}, ` + to):                                                                                                                                                              `timeouts.request: "1.5s" is not a duration such as 1h, 1m30s or 500ms (GEP-2257)`,
		hr(`timeouts: {request: 99999h}, ` + to):                                                                                                                                                            `timeouts.request: "99999h" is longer than 30 days`,
		hr(`timeouts: {request: 5}, ` + to):                                                                                                                                                                 `timeouts.request: must be a string, not a number; quote it: "5"`,
		hr(`retry: {codes: [200]}, ` + to):                                                                                                                                                                  `retry.codes[0]: 200 is not between 400 and 599`,
		hr(`retry: {codes: [500, 500]}, ` + to):                                                                                                                                                             `retry.codes[1]: is spec.rules[0].retry.codes[0] already`,
		hr(`filters: [{type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: x-a, value: "a  b"}]}}], ` + to):                                                                                   `filters[0].requestHeaderModifier.set[0].value: "a  b" is not of visible ASCII characters with single blanks between them`,
		hr(`matches: [{headers: [{name: x-a, value: é}]}], ` + to):                                                                                                                                          `matches[0].headers[0].value: "é" is not of visible ASCII characters with single blanks between them`,
		hr(`retry: {attempts: -1}, ` + to):                                                                                                                                                                  `retry.attempts: -1 is not between 0 and 1000`,
		hr(`sessionPersistence: {}, ` + to):                                                                                                                                                                 `sessionPersistence: not supported by gatemesh: calls of one caller stay together by the canary's key, and by the consistentHash of a DestinationRule`,
		gr(`matches: [{method: {}}], ` + to):                                                                                                                                                                `matches[0].method: must have a service, a method or both`,
		gr(`matches: [{method: {service: a/b}}], ` + to):                                                                                                                                                    `matches[0].method.service: "a/b" is not the name of a gRPC service, such as shop.Orders`,
		gr(`matches: [{method: {method: a.b}}], ` + to):                                                                                                                                                     `matches[0].method.method: "a.b" is not the name of a gRPC method, such as Get`,
		gr(`matches: [{method: {type: RegularExpression, service: "a)|(b"}}], ` + to):                                                                                                                       `matches[0].method.service: "a)|(b" is not a regular expression (RE2): unexpected )`,
		gr(`filters: [{type: URLRewrite}], ` + to):                                                                                                                                                          `filters[0].type: "URLRewrite" is unknown; it must be RequestHeaderModifier or ResponseHeaderModifier or RequestMirror`,
	} {
		t.Run(rule, func(t *testing.T) {
			t.Parallel()
			kind, rule, _ := strings.Cut(rule, " ")
			_, err := oneRule(t, kind, rule)
			assert.EqualError(t, err, "a.yaml:9: "+kind+" default/r: spec.rules[0]."+want)
		})
	}
}

// As the CRD has it, a route without rules takes every call, with nobody to send
// it to.
func TestRouteWithoutRules(t *testing.T) {
	t.Parallel()
	set, err := manifest.Parse("a.yaml", []byte(oneGateway+`apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: r}
spec: {parentRefs: [{name: g}], hostnames: [a.example.com]}
`))
	require.NoError(t, err)
	require.Len(t, set.Routes(), 1)
	got := set.Routes()[0]
	assert.Equal(t, []routing.Backend{{Unserved: true, Weight: 1}}, got.Backends)
	assert.Equal(t, []string{"a.example.com"}, got.Hostnames)
	assert.NotZero(t, got.Position.Line)
}
