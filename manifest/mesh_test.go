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

func virtualService(rule string) []byte {
	return []byte(`apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: v}
spec: {hosts: [a], http: [` + rule + `]}
`)
}

func TestMeshRule(t *testing.T) {
	t.Parallel()
	b := []routing.Backend{{Destination: dest("b", 0), Weight: 100}}
	const to = "route: [{destination: {host: b}}]"
	exact := func(v string) *routing.ValueMatch { return &routing.ValueMatch{Value: v} }
	for name, tt := range map[string]struct {
		rule string
		want routing.Route
	}{
		"uri": {`match: [{uri: {exact: /a}, ignoreUriCase: true}, {uri: {prefix: /b}}, {uri: {regex: "/c+"}}], ` + to, routing.Route{Backends: b, Matches: []routing.Match{
			{Path: routing.PathMatch{Type: routing.PathExact, Value: "/a", IgnoreCase: true}},
			{Path: routing.PathMatch{Type: routing.PathStart, Value: "/b"}},
			{Path: routing.PathMatch{Type: routing.PathRegex, Value: "/c+"}},
		}}},
		"who": {`match: [{name: x, scheme: {exact: https}, method: {exact: GET}, authority: {prefix: a.}}, {method: {regex: "P.*"}, gateways: [mesh]}], ` + to, routing.Route{Backends: b, Matches: []routing.Match{
			{Scheme: exact("https"), Method: "GET", Authority: &routing.ValueMatch{Type: routing.MatchPrefix, Value: "a."}},
			{Methods: &routing.ValueMatch{Type: routing.MatchRegex, Value: "P.*"}},
		}}},
		"headers": {`match: [{headers: {x-a: {regex: "1|2"}, x-b: {}}, withoutHeaders: {x-c: {exact: d}, x-e: {}}, queryParams: {p: {exact: ""}, q: {}}}], ` + to, routing.Route{Backends: b, Matches: []routing.Match{{
			Headers: []routing.HeaderMatch{
				{Name: "x-a", Type: routing.MatchRegex, Value: "1|2"}, {Name: "x-b", Type: routing.MatchPresent},
				{Name: "x-c", Value: "d", Not: true}, {Name: "x-e", Type: routing.MatchPresent, Not: true},
			},
			Query: []routing.QueryMatch{{Name: "p"}, {Name: "q", Type: routing.MatchPresent}},
		}}}},
		"redirect": {`redirect: {uri: /x, authority: www.example.com, scheme: https, port: 8443}`, routing.Route{Filters: routing.Filters{
			Redirect: &routing.Redirect{Scheme: "https", Hostname: "www.example.com", Port: 8443, Path: routing.PathChange{Full: "/x"}, Status: 301},
		}}},
		"response": {`directResponse: {status: 503, body: {string: "closed for today"}}`, routing.Route{Filters: routing.Filters{
			Response: &routing.Response{Status: 503, Body: []byte("closed for today"), ContentType: "text/plain"},
		}}},
		"rewrite prefix": {`match: [{uri: {prefix: /a}}], rewrite: {uri: /b, authority: in.example.com}, ` + to, routing.Route{
			Backends: b, Matches: []routing.Match{{Path: routing.PathMatch{Type: routing.PathStart, Value: "/a"}}},
			Filters: routing.Filters{Rewrite: &routing.Rewrite{Hostname: "in.example.com", Path: routing.PathChange{ReplacePrefix: true, Prefix: "/b"}}},
		}},
		"rewrite exact": {`match: [{uri: {exact: /a}}], rewrite: {uri: /b}, ` + to, routing.Route{
			Backends: b, Matches: []routing.Match{{Path: routing.PathMatch{Type: routing.PathExact, Value: "/a"}}},
			Filters: routing.Filters{Rewrite: &routing.Rewrite{Path: routing.PathChange{Full: "/b"}}},
		}},
		"rewrite regex": {`rewrite: {uriRegexRewrite: {match: "^/a/(.*)$", rewrite: '/b/\1'}}, ` + to, routing.Route{
			Backends: b, Filters: routing.Filters{Rewrite: &routing.Rewrite{Path: routing.PathChange{Regex: "^/a/(.*)$", Substitution: `/b/\1`}}},
		}},
		"redirect prefix": {`match: [{uri: {prefix: /a/}}], redirect: {authority: a.example.com, prefixRewrite: /}`, routing.Route{
			Matches: []routing.Match{{Path: routing.PathMatch{Type: routing.PathStart, Value: "/a/"}}},
			Filters: routing.Filters{Redirect: &routing.Redirect{Hostname: "a.example.com", Path: routing.PathChange{ReplacePrefix: true, Prefix: "/"}, Status: 301}},
		}},
		"limits": {`timeout: 2.5s, retries: {attempts: 2, perTryTimeout: 25ms, backoff: 10ms, retryOn: "gateway-error, connect-failure,unavailable,429"}, ` + to, routing.Route{
			Backends: b, Timeout: 2500 * time.Millisecond, AttemptTimeout: 25 * time.Millisecond,
			Retry: &gatemesh.RetryPolicy{Attempts: 3, Broken: true, Statuses: []int{429, 502, 503, 504}, Codes: []gatemesh.Code{gatemesh.Unavailable}, Backoff: 10 * time.Millisecond},
		}},
		"retries": {`retries: {attempts: 1}, ` + to, routing.Route{Backends: b, Retry: &gatemesh.RetryPolicy{Attempts: 2, Broken: true}}},
		"fault": {`fault: {delay: {fixedDelay: 1s, percentage: {value: 0.5}}, abort: {grpcStatus: UNAVAILABLE, percentage: {value: 100}}}, ` + to, routing.Route{
			Backends: b, Filters: routing.Filters{Fault: &routing.Fault{Delay: time.Second, DelayPercent: 0.5, AbortCode: gatemesh.Unavailable, AbortPercent: 100}},
		}},
		"mirror": {`mirror: {host: m, port: {number: 8080}}, mirrorPercentage: {value: 0.1}, ` + to, routing.Route{
			Backends: b, Filters: routing.Filters{Mirrors: []routing.Mirror{{Destination: dest("m", 8080), Numerator: 1000, Denominator: 1_000_000}}},
		}},
		"mirrors": {`mirrors: [{destination: {host: m}}, {destination: {host: o}, percentage: {value: 0}}], ` + to, routing.Route{
			Backends: b, Filters: routing.Filters{Mirrors: []routing.Mirror{{Destination: dest("m", 0)}, {Destination: dest("o", 0), Denominator: 1_000_000}}},
		}},
		"cors": {`corsPolicy: {allowOrigins: [{exact: "https://a.example.com"}, {prefix: "https://b."}, {regex: "https://c[0-9]"}], allowMethods: [GET], allowHeaders: [x-a], exposeHeaders: [x-b], maxAge: 24h, allowCredentials: false}, ` + to, routing.Route{
			Backends: b, Filters: routing.Filters{CORS: &routing.CORS{
				AllowOrigins:       []string{"https://a.example.com"},
				AllowOriginMatches: []routing.ValueMatch{{Type: routing.MatchPrefix, Value: "https://b."}, {Type: routing.MatchRegex, Value: "https://c[0-9]"}},
				AllowMethods:       []string{"GET"}, AllowHeaders: []string{"x-a"}, ExposeHeaders: []string{"x-b"}, MaxAge: 24 * time.Hour,
			}},
		}},
		"header changes": {`headers: {request: {set: {x-b: "2", x-a: "1"}}, response: {remove: [x-c]}}, route: [{destination: {host: b}, headers: {response: {add: {x-d: e}}}}]`, routing.Route{
			Backends: []routing.Backend{{Destination: dest("b", 0), Weight: 100, Filters: routing.Filters{
				ResponseHeader: routing.HeaderChange{Add: []gatemesh.Field{{Name: "x-d", Value: "e"}}},
			}}},
			Filters: routing.Filters{
				RequestHeader:  routing.HeaderChange{Set: []gatemesh.Field{{Name: "x-a", Value: "1"}, {Name: "x-b", Value: "2"}}},
				ResponseHeader: routing.HeaderChange{Remove: []string{"x-c"}},
			},
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			set, err := manifest.Parse("a.yaml", virtualService("{"+tt.rule+"}"))
			require.NoError(t, err)
			services := set.Services(gatemesh.Workload{})
			require.Len(t, services, 1)
			require.Len(t, services[0].Rules, 1)
			tt.want.Name, tt.want.Position = "default/v/mesh/0", gatemesh.Position{File: "a.yaml", Line: 4}
			assert.Equal(t, tt.want, services[0].Rules[0])
		})
	}
}

// Rules that are for other callers are not ours, and never become rules for
// everybody. A service all of whose rules are for others has no route.
func TestRulesForOthers(t *testing.T) {
	t.Parallel()
	set, err := manifest.Parse("a.yaml", []byte(`apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: v}
spec:
  hosts: ["*.shop.svc.cluster.local"]
  http:
    - match: [{sourceLabels: {app: web}}, {sourceNamespace: shop, uri: {exact: /a}}]
      route: [{destination: {host: b}}]
`))
	require.NoError(t, err)
	rule := func(w gatemesh.Workload) routing.Route {
		s := set.Services(w)
		require.Len(t, s, 1)
		assert.Equal(t, "*", s[0].Service)
		assert.Equal(t, "shop", s[0].Namespace)
		require.Len(t, s[0].Rules, 1)
		return s[0].Rules[0]
	}
	assert.Equal(t, []routing.Match{{}}, rule(gatemesh.Workload{Labels: map[string]string{"app": "web"}}).Matches)
	assert.Equal(t, []routing.Match{{Path: routing.PathMatch{Type: routing.PathExact, Value: "/a"}}}, rule(gatemesh.Workload{Namespace: "shop"}).Matches)
	none := rule(gatemesh.Workload{Namespace: "other"})
	assert.Nil(t, none.Backends)
	assert.Equal(t, &routing.Response{Status: 404}, none.Response)
}

func TestMeshFaults(t *testing.T) {
	t.Parallel()
	const to = "route: [{destination: {host: b}}]"
	for rule, want := range map[string]string{
		`match: [{uri: {regex: "("}}], ` + to:                                                  `match[0].uri.regex: "(" is not a regular expression (RE2): missing closing )`,
		`match: [{uri: {prefix: a}}], ` + to:                                                   `match[0].uri.prefix: "a" does not start with a slash`,
		`match: [{uri: {}}], ` + to:                                                            `match[0].uri: must have one of exact, prefix and regex`,
		`match: [{uri: {regex: a}, ignoreUriCase: true}], ` + to:                               `match[0].ignoreUriCase: stands with an exact uri or a prefix, and has no effect on anything else`,
		`match: [{method: {exact: get}}], ` + to:                                               `match[0].method.exact: "get" is never the method of a call; write it in upper case`,
		`match: [{port: 80}], ` + to:                                                           `match[0].port: not supported by gatemesh: it is the port of the service, which a rule does not see`,
		`match: [{gateways: [g]}], ` + to:                                                      `match[0].gateways[0]: "g" is not supported by gatemesh: a VirtualService applies wherever a client of the mesh calls its host; leave gateways out, or say mesh`,
		`match: [{headers: {x-a: {exact: a, regex: b}}}], ` + to:                               `match[0].headers.x-a: must have one of exact, prefix and regex, or none, which is every value`,
		`match: [{headers: {x-a: {regex: "["}}}], ` + to:                                       `match[0].headers.x-a.regex: "[" is not a regular expression (RE2): missing closing ]`,
		`match: [{queryParams: {a: {exact: b, prefix: c}}}], ` + to:                            `match[0].queryParams.a: must have one of exact, prefix and regex, or none, which is every value`,
		`delegate: {name: x}, ` + to:                                                           `delegate: not supported by gatemesh: write the rules of the other VirtualService here`,
		`name: x`:                                                                              `route: is required, or redirect, or directResponse`,
		`redirect: {uri: /a}, ` + to:                                                           `must have one of route, redirect and directResponse`,
		`redirect: {uri: /a}, timeout: 1s`:                                                     `timeout: does not go with redirect or directResponse, which send nothing on`,
		`redirect: {prefixRewrite: /b}`:                                                        `redirect.prefixRewrite: every match of the rule must have the prefix that it replaces`,
		`match: [{uri: {prefix: /a}}], redirect: {uri: /b, prefixRewrite: /c}`:                 `redirect.prefixRewrite: uri says it already; leave out either`,
		`match: [{uri: {prefix: /a}}, {method: {exact: GET}}], redirect: {prefixRewrite: /c}`:  `redirect.prefixRewrite: every match of the rule must have the prefix that it replaces`,
		`timeout: 0s, ` + to:                                                                   `timeout: "0s" is shorter than 1ms`,
		`redirect: {redirectCode: 200}`:                                                        `redirect.redirectCode: 200 is unknown; it must be 301 or 302 or 303 or 307 or 308`,
		`directResponse: {status: 204, body: {string: x}}`:                                     `directResponse.body: does not go with status 204, which has no body`,
		`directResponse: {status: 100}`:                                                        `directResponse.status: 100 is not between 200 and 599`,
		`rewrite: {uri: /a}, ` + to:                                                            `rewrite.uri: not supported by gatemesh unless every match of the rule has an exact uri, or every match a prefix; write a rule for each, or uriRegexRewrite`,
		`match: [{uri: {exact: /a}}, {uri: {prefix: /b}}], rewrite: {uri: /a}, ` + to:          `rewrite.uri: not supported by gatemesh unless every match of the rule has an exact uri, or every match a prefix; write a rule for each, or uriRegexRewrite`,
		`rewrite: {uriRegexRewrite: {match: "(", rewrite: x}}, ` + to:                          `rewrite.uriRegexRewrite.match: "(" is not a regular expression (RE2): missing closing )`,
		`retries: {attempts: 1, retryOn: connect-failure}, ` + to:                              `retries.retryOn: connect-failure and refused-stream stand with reset, 5xx or gateway-error, because a retry does not tell them from other calls without an answer`,
		`retries: {attempts: 1, retryOn: reset}, ` + to:                                        `retries.retryOn: must have a status or a code besides, because a list without any is that of the Retrier`,
		`retries: {attempts: 1, retryOn: "5xx,retriable-headers"}, ` + to:                      `retries.retryOn: "retriable-headers" is not supported by gatemesh; it must be 5xx, gateway-error, reset, connect-failure, refused-stream, retriable-4xx, a status, or cancelled, deadline-exceeded, internal, resource-exhausted or unavailable`,
		`retries: {attempts: 1, retryOn: retriable-status-codes}, ` + to:                       `retries.retryOn: retriable-status-codes stands with a status, such as 503`,
		`retries: {attempts: 0, retryOn: 5xx}, ` + to:                                          `retries.attempts: 0 is never again, so that the rest of retries has no effect`,
		`retries: {attempts: 1, perTryTimeout: 1us}, ` + to:                                    `retries.perTryTimeout: "1us" is not a duration such as 1h, 1m, 1.5s or 500ms`,
		`fault: {}, ` + to:                                                                     `fault: must have a delay or an abort`,
		`fault: {abort: {httpStatus: 500}}, ` + to:                                             `fault.abort.percentage: is required`,
		`fault: {abort: {percentage: {value: 1}}}, ` + to:                                      `fault.abort: must have one of httpStatus and grpcStatus`,
		`fault: {abort: {grpcStatus: BROKEN, percentage: {value: 1}}}, ` + to:                  `fault.abort.grpcStatus: "BROKEN" is not the name of a code, such as UNAVAILABLE`,
		`fault: {delay: {fixedDelay: 1s, percentage: {value: .nan}}}, ` + to:                   `fault.delay.percentage.value: must be written in plain decimal digits`,
		`fault: {delay: {fixedDelay: 1s, percentage: {value: -1}}}, ` + to:                     `fault.delay.percentage.value: -1 is not between 0 and 100`,
		`fault: {delay: {fixedDelay: 1s, percentage: {value: x}}}, ` + to:                      `fault.delay.percentage.value: must be a number, not a string`,
		`mirror: {host: m}, mirrors: [{destination: {host: o}}], ` + to:                        `mirror: mirrors say it already; leave out either`,
		`mirrorPercentage: {value: 1}, ` + to:                                                  `mirrorPercentage: is for mirror, which is not there; a mirror of mirrors has its own percentage`,
		`mirror: {host: m}, mirrorPercentage: {value: 0.00001}, ` + to:                         `mirrorPercentage.value: has more than four decimal places`,
		`corsPolicy: {allowOrigins: [{regex: "("}]}, ` + to:                                    `corsPolicy.allowOrigins[0].regex: "(" is not a regular expression (RE2): missing closing )`,
		`headers: {}, ` + to:                                                                   `headers: changes nothing; leave it out`,
		`headers: {request: {set: {Host: a}}}, ` + to:                                          `headers.request.set.Host: "Host" is a header field that is not up to a route`,
		`headers: {request: {set: {x-a: "%REQ(x)%"}}}, ` + to:                                  `headers.request.set.x-a: not supported by gatemesh: Istio replaces what stands between percent signs by what it knows of the call`,
		`headers: {request: {set: {x-a: "a\nb"}}}, ` + to:                                      `headers.request.set.x-a: "a\nb" contains a control character`,
		`route: [{destination: {host: example.com}}]`:                                          `route[0].destination.host: "example.com" is no service: write NAME for one of this namespace, else NAME.NAMESPACE.svc.cluster.local`,
		`route: [{destination: {host: "*.shop.svc.cluster.local"}}]`:                           `route[0].destination.host: "*.shop.svc.cluster.local" is no service: write NAME for one of this namespace, else NAME.NAMESPACE.svc.cluster.local`,
		`route: [{destination: {host: b, subset: v9}}]`:                                        `route[0].destination.subset: no DestinationRule for b.default has a subset v9`,
		`mirror: {host: m, subset: v9}, ` + to:                                                 `mirror.subset: no DestinationRule for m.default has a subset v9`,
		`route: [{destination: {host: b}, weight: -1}, {destination: {host: c}, weight: 1}]`:   `route[0].weight: -1 is not between 0 and 2147483647`,
		`route: [{destination: {host: b}, weight: .nan}, {destination: {host: c}, weight: 1}]`: `route[0].weight: must be a whole number`,
		`route: [{destination: {host: b}, weight: 0}, {destination: {host: c}, weight: 0}]`:    `route[0].weight: the weights of all destinations are 0`,
	} {
		t.Run(rule, func(t *testing.T) {
			t.Parallel()
			_, err := manifest.Parse("a.yaml", virtualService("{"+rule+"}"))
			field := "spec.http[0]." + want
			if strings.HasPrefix(want, "must have one of route") {
				field = "spec.http[0]: " + want
			}
			assert.EqualError(t, err, "a.yaml:4: VirtualService default/v: "+field)
		})
	}
}
