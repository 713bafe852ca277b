package manifest_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/gatemesh-go/gatemesh"
	"github.com/gatemesh-go/gatemesh/manifest"
	"github.com/gatemesh-go/gatemesh/routing"
	"github.com/gatemesh-go/gatemesh/routing/pool"
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

func destinationRule(spec string) []byte {
	return []byte(`apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: d}
spec: {host: a, ` + spec + `}
`)
}

func TestTrafficPolicy(t *testing.T) {
	t.Parallel()
	set, err := manifest.Parse("a.yaml", []byte(`apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: d}
spec:
  host: a
  trafficPolicy:
    loadBalancer: {simple: ROUND_ROBIN, warmup: {duration: 30s, minimumPercent: 20, aggression: 1.5}}
    outlierDetection: {consecutive5xxErrors: 7, interval: 5m, baseEjectionTime: 15m, maxEjectionPercent: 40, minHealthPercent: 60}
    portLevelSettings: [{port: {number: 9}, loadBalancer: {simple: RANDOM}}]
  subsets:
    - {name: hash, labels: {v: "1"}, trafficPolicy: {loadBalancer: {consistentHash: {httpHeaderName: x-user}}}}
    - {name: gate, labels: {v: "2"}, trafficPolicy: {outlierDetection: {consecutive5xxErrors: 0, consecutiveGatewayErrors: 3}}}
    - {name: "off", labels: {v: "3"}, trafficPolicy: {loadBalancer: {simple: LEAST_CONN, warmupDurationSecs: 10s}, outlierDetection: {consecutive5xxErrors: 0}}}
    - {name: port, labels: {v: "4"}, trafficPolicy: {portLevelSettings: [{port: {number: 9}, outlierDetection: {}}]}}
    - {name: plain, labels: {v: "5"}}
    - {name: cookie, labels: {v: "6"}, trafficPolicy: {loadBalancer: {consistentHash: {httpCookie: {name: c}}}}}
    - {name: address, labels: {v: "7"}, trafficPolicy: {loadBalancer: {consistentHash: {useSourceIp: true}}}}
    - {name: query, labels: {v: "8"}, trafficPolicy: {loadBalancer: {consistentHash: {httpQueryParameterName: q}}}}
`))
	require.NoError(t, err)
	line := func(n int) gatemesh.Position { return gatemesh.Position{File: "a.yaml", Line: n} }
	top := manifest.TrafficPolicy{
		Position: line(7), Balancer: pool.RoundRobin, Warmup: pool.Warmup{Duration: 30 * time.Second, MinimumPercent: 20, Aggression: 1.5}, MinHealthPercent: 60,
		Ejection: pool.Ejection{Failures: 7, Server5xx: true, Base: 15 * time.Minute, Max: 15 * time.Minute, MaxPercent: 40, Window: 5 * time.Minute},
	}
	with := func(at int, change func(*manifest.TrafficPolicy)) manifest.TrafficPolicy {
		p := top
		p.Position = line(at)
		change(&p)
		return p
	}
	hash := func(at int, key pool.HashKey) manifest.TrafficPolicy {
		return with(at, func(p *manifest.TrafficPolicy) { p.Balancer, p.HashKey, p.Warmup = pool.RingHash, key, pool.Warmup{} })
	}
	for subset, want := range map[string]manifest.TrafficPolicy{
		"":     top,
		"hash": hash(11, pool.HashKey{Header: "x-user"}),
		"gate": with(12, func(p *manifest.TrafficPolicy) {
			p.MinHealthPercent = 0
			p.Ejection = pool.Ejection{Failures: 3, Base: 30 * time.Second, Max: 5 * time.Minute}
		}),
		"off": with(13, func(p *manifest.TrafficPolicy) {
			p.Balancer, p.Warmup, p.MinHealthPercent = pool.LeastRequest, pool.Warmup{Duration: 10 * time.Second}, 0
			p.Ejection = pool.Ejection{Disable: true}
		}),
		"port":    with(14, func(*manifest.TrafficPolicy) {}),
		"plain":   top,
		"cookie":  hash(16, pool.HashKey{Cookie: "c"}),
		"address": hash(17, pool.HashKey{ClientAddress: true}),
		"query":   hash(18, pool.HashKey{Query: "q"}),
	} {
		got, said := set.TrafficPolicy(gatemesh.Destination{Service: "a", Namespace: "default", Subset: subset, Port: 8})
		assert.True(t, said)
		assert.Equal(t, want, got, subset)
		cfg := pool.Config{Name: "a", Resolver: pool.Static("127.0.0.1:1")}
		got.Configure(&cfg)
		p, err := pool.New(cfg)
		require.NoError(t, err, "the pool takes what the manifest takes")
		require.NoError(t, p.Close())
	}
	// A port stands for all of it.
	got, _ := set.TrafficPolicy(gatemesh.Destination{Service: "a", Namespace: "default", Subset: "hash", Port: 9})
	assert.Equal(t, manifest.TrafficPolicy{Position: line(9), Balancer: pool.Random}, got)
	got, _ = set.TrafficPolicy(gatemesh.Destination{Service: "a", Namespace: "default", Subset: "port", Port: 9})
	assert.Equal(t, manifest.TrafficPolicy{Position: line(14), Ejection: pool.Ejection{
		Failures: 5, Server5xx: true, Base: 30 * time.Second, Max: 5 * time.Minute,
	}}, got)
	_, said := set.TrafficPolicy(gatemesh.Destination{Service: "a", Namespace: "other"})
	assert.False(t, said)
	_, said = new(manifest.Set).TrafficPolicy(gatemesh.Destination{Service: "a"})
	assert.False(t, said)
}

func TestTrafficPolicyFaults(t *testing.T) {
	t.Parallel()
	for policy, want := range map[string]string{
		`{}`:                                    `says nothing; leave it out`,
		`{loadBalancer: {simple: PASSTHROUGH}}`: `.loadBalancer.simple: PASSTHROUGH is not supported by gatemesh; it must be UNSPECIFIED or ROUND_ROBIN or LEAST_REQUEST or LEAST_CONN or RANDOM`,
		`{loadBalancer: {simple: RANDOM, consistentHash: {useSourceIp: true}}}`:         `.loadBalancer.consistentHash: simple says it already; leave out either`,
		`{loadBalancer: {consistentHash: {}}}`:                                          `.loadBalancer.consistentHash: must have one of httpHeaderName, httpCookie, useSourceIp: true and httpQueryParameterName`,
		`{loadBalancer: {consistentHash: {useSourceIp: false}}}`:                        `.loadBalancer.consistentHash: must have one of httpHeaderName, httpCookie, useSourceIp: true and httpQueryParameterName`,
		`{loadBalancer: {consistentHash: {httpCookie: {name: a, ttl: 0s}}}}`:            `.loadBalancer.consistentHash.httpCookie.ttl: not supported by gatemesh: nobody sets the cookie`,
		`{loadBalancer: {consistentHash: {useSourceIp: true}, warmup: {duration: 1s}}}`: `.loadBalancer.warmup: has no effect with consistentHash, where a key belongs to its endpoint at once`,
		`{loadBalancer: {warmup: {duration: 2h}}}`:                                      `.loadBalancer.warmup: is longer than 1h`,
		`{loadBalancer: {warmup: {duration: 0s}}}`:                                      `.loadBalancer.warmup.duration: 0 is no warmup; leave warmup out`,
		`{loadBalancer: {warmup: {duration: 1s, aggression: 0}}}`:                       `.loadBalancer.warmup.aggression: must be at least 0.1`,
		`{loadBalancer: {warmup: {duration: 1s}, warmupDurationSecs: 1s}}`:              `.loadBalancer.warmupDurationSecs: warmup says it already; leave out either`,
		`{loadBalancer: {}}`: `.loadBalancer: says nothing; leave it out`,
		`{outlierDetection: {consecutiveGatewayErrors: 3}}`:               `.outlierDetection.consecutiveGatewayErrors: not supported by gatemesh beside consecutive5xxErrors, which is 5 if it is not there: either is counted, so write consecutive5xxErrors: 0`,
		`{outlierDetection: {interval: 10ms}}`:                            `.outlierDetection.interval: is not between 1s and 1h`,
		`{outlierDetection: {baseEjectionTime: 2h}}`:                      `.outlierDetection.baseEjectionTime: is not between 1ms and 1h`,
		`{outlierDetection: {maxEjectionPercent: 0}}`:                     `.outlierDetection.maxEjectionPercent: 0 is not between 1 and 100`,
		`{portLevelSettings: [{port: {number: 1}}, {port: {number: 1}}]}`: `.portLevelSettings[1].port.number: 1 is the port of spec.trafficPolicy.portLevelSettings[0] already`,
		`{connectionPool: {}}`:                                            `.connectionPool: not supported by gatemesh: connections are the server's own configuration`,
		`{tls: {mode: ISTIO_MUTUAL}}`:                                     `.tls: not supported by gatemesh: how services are reached is the server's own configuration`,
	} {
		t.Run(policy, func(t *testing.T) {
			t.Parallel()
			_, err := manifest.Parse("a.yaml", destinationRule("trafficPolicy: "+policy))
			if !strings.HasPrefix(want, ".") {
				want = ": " + want
			}
			assert.EqualError(t, err, "a.yaml:4: DestinationRule default/d: spec.trafficPolicy"+want)
		})
	}
	_, err := manifest.Parse("a.yaml", destinationRule(""))
	assert.EqualError(t, err, "a.yaml:4: DestinationRule default/d: spec: says nothing; it must have subsets or a trafficPolicy")
}

// What is in a folder with several Gateways is for none of them until somebody
// says whose, and then for that one alone.
func TestSeveralGateways(t *testing.T) {
	t.Parallel()
	var text strings.Builder
	for _, name := range []string{"front", "inner"} {
		fmt.Fprintf(&text, `---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: %[1]s}
spec: {gatewayClassName: x, listeners: [{name: %[1]s, port: 80, protocol: HTTP}]}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: %[1]s}
spec: {parentRefs: [{name: %[1]s}], rules: [{backendRefs: [{name: b, port: 1}]}]}
`, name)
	}
	text.WriteString(`---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: shared}
spec: {parentRefs: [{name: front}, {name: inner}], rules: [{backendRefs: [{name: b, port: 1}]}]}
`)
	set, err := manifest.Parse("a.yaml", []byte(text.String()))
	require.NoError(t, err)
	assert.Equal(t, []string{"default/front", "default/inner"}, set.Gateways())
	assert.Empty(t, set.Routes())
	assert.Empty(t, set.Listeners())
	name, _ := set.Gateway()
	assert.Empty(t, name)
	for _, name := range set.Gateways() {
		_, short, _ := strings.Cut(name, "/")
		one, err := set.For("default", short)
		require.NoError(t, err)
		got, namespace := one.Gateway()
		assert.Equal(t, []string{short, "default"}, []string{got, namespace})
		require.Len(t, one.Listeners(), 1)
		assert.Equal(t, short, one.Listeners()[0].Name)
		var names []string
		for _, r := range one.Routes() {
			names = append(names, r.Name)
			assert.Equal(t, []string{short}, r.Listeners)
		}
		assert.Equal(t, []string{name + "/0", "default/shared/0"}, names)
	}
	_, err = set.For("default", "other")
	assert.EqualError(t, err, "manifest: there is no Gateway default/other; there are: [default/front default/inner]")
}

func TestListeners(t *testing.T) {
	t.Parallel()
	set, err := manifest.Parse("a.yaml", []byte(`apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: g, namespace: edge}
spec:
  gatewayClassName: x
  listeners:
    - {name: web, port: 80, protocol: HTTP}
    - {name: tls, port: 443, protocol: HTTPS, hostname: a.example.com, tls: {mode: Terminate, certificateRefs: [{name: one}, {name: two, namespace: certs, kind: Secret, group: ""}]}}
---
apiVersion: gateway.networking.k8s.io/v1beta1
kind: ReferenceGrant
metadata: {name: r, namespace: certs}
spec: {from: [{group: gateway.networking.k8s.io, kind: Gateway, namespace: edge}], to: [{group: "", kind: Secret, name: two}]}
`))
	require.NoError(t, err)
	line := func(n int) gatemesh.Position { return gatemesh.Position{File: "a.yaml", Line: n} }
	assert.Equal(t, []manifest.Listener{
		{Position: line(7), Name: "web", Port: 80},
		{Position: line(8), Name: "tls", Hostname: "a.example.com", Port: 443, HTTPS: true, Certificates: []string{"edge/one", "certs/two"}},
	}, set.Listeners())
	assert.Equal(t, []routing.Listener{
		{Position: line(7), Name: "web", Port: 80, PublicPort: 80},
		{Position: line(8), Name: "tls", Hostname: "a.example.com", Port: 8443, PublicPort: 443, TLS: true},
	}, set.RouteListeners(map[uint16]uint16{443: 8443}))
	one, err := manifest.Parse("a.yaml", []byte(oneGateway))
	require.NoError(t, err)
	assert.Equal(t, []routing.Listener{{Position: line(4), Name: "all", PublicPort: 80}}, one.RouteListeners(nil), "one port may be any")
}

// A reference into another namespace needs a grant there that fits in all parts.
func TestReferenceGrants(t *testing.T) {
	t.Parallel()
	const grant = `{from: [{group: gateway.networking.k8s.io, kind: HTTPRoute, namespace: default}], to: [{group: "", kind: Service}]}`
	for change, ok := range map[string]bool{
		"kind: HTTPRoute>kind: HTTPRoute":        true,
		"kind: Service>kind: Service, name: b":   true,
		"kind: Service>kind: Service, name: c":   false,
		"kind: Service>kind: Secret":             false,
		"kind: HTTPRoute>kind: GRPCRoute":        false,
		"namespace: default>namespace: stranger": false,
	} {
		from, to, _ := strings.Cut(change, ">")
		for _, rule := range []string{
			`{backendRefs: [{name: b, port: 1, namespace: other}]}`,
			`{filters: [{type: RequestMirror, requestMirror: {backendRef: {name: b, port: 1, namespace: other}}}], backendRefs: [{name: a, port: 1}]}`,
		} {
			_, err := manifest.Parse("a.yaml", []byte(oneGateway+`apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: r}
spec: {parentRefs: [{name: g}], rules: [`+rule+`]}
---
apiVersion: gateway.networking.k8s.io/v1
kind: ReferenceGrant
metadata: {name: r, namespace: other}
spec: `+strings.Replace(grant, from, to, 1)+"\n"))
			if ok {
				assert.NoError(t, err, change)
			} else {
				assert.ErrorContains(t, err, "namespace: no ReferenceGrant in namespace other lets a HTTPRoute of namespace default refer to Service b", change)
			}
		}
	}
}

// The Gateway API has one kind of route for a hostname of a listener.
func TestKindsShareNoHostname(t *testing.T) {
	t.Parallel()
	for hosts, ok := range map[string]bool{
		"a.example.com a.example.com":     false,
		"a.example.com b.example.com":     true,
		"*.example.com b.example.com":     false,
		"b.example.com *.example.com":     false,
		"*.example.com example.com":       true,
		"*.a.example.com *.example.com":   false,
		"*.example.com *.b.example.com":   false,
		"*.a.example.com *.b.example.com": true,
		"a.example.com ":                  false,
		" a.example.com":                  false,
		" ":                               false,
	} {
		http, grpc, _ := strings.Cut(hosts, " ")
		text := oneGateway
		for kind, host := range map[string]string{"HTTPRoute": http, "GRPCRoute": grpc} {
			names := ""
			if host != "" {
				names = fmt.Sprintf("hostnames: [%q], ", host)
			}
			text += "apiVersion: gateway.networking.k8s.io/v1\nkind: " + kind + "\nmetadata: {name: r}\nspec: {" + names + "parentRefs: [{name: g}], rules: [{backendRefs: [{name: b, port: 1}]}]}\n---\n"
		}
		_, err := manifest.Parse("a.yaml", []byte(text))
		if ok {
			assert.NoError(t, err, hosts)
		} else {
			assert.ErrorContains(t, err, "GRPCRoute default/r: listener all has HTTPRoute default/r", hosts)
		}
	}
}
