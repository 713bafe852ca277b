package manifest_test

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/gatemesh-go/gatemesh"
	"github.com/gatemesh-go/gatemesh/auth/policy"
	"github.com/gatemesh-go/gatemesh/manifest"
	"github.com/gatemesh-go/gatemesh/routing"
)

// A route is served by those listeners that it names, that take it, and that
// listen for one of its hostnames.
func TestAttach(t *testing.T) {
	t.Parallel()
	const (
		all     = `{name: all, port: 443, protocol: HTTPS}`
		plain   = `{name: plain, port: 80, protocol: HTTP}`
		api     = `{name: api, port: 443, protocol: HTTPS, hostname: api.example.com}`
		www     = `{name: www, port: 443, protocol: HTTPS, hostname: www.example.com}`
		wild    = `{name: wild, port: 443, protocol: HTTPS, hostname: "*.example.com"}`
		one     = `{name: one, port: 443, protocol: HTTPS, hostname: x.example.com}`
		open    = `{name: open, port: 443, protocol: HTTPS, hostname: open.example.com, allowedRoutes: {namespaces: {from: All}}}`
		grpc    = `{name: grpc, port: 443, protocol: HTTPS, allowedRoutes: {kinds: [{kind: GRPCRoute}]}}`
		both    = `{name: both, port: 443, protocol: HTTPS, allowedRoutes: {kinds: [{kind: GRPCRoute}, {group: gateway.networking.k8s.io, kind: HTTPRoute}]}}`
		shops   = `{name: shops, port: 443, protocol: HTTPS, allowedRoutes: {namespaces: {from: Selector, selector: {matchLabels: {shop: "1"}}}}}`
		named   = `{name: named, port: 443, protocol: HTTPS, allowedRoutes: {namespaces: {from: Selector, selector: {matchExpressions: [{key: kubernetes.io/metadata.name, operator: In, values: [other]}]}}}}`
		not     = `{name: not, port: 443, protocol: HTTPS, allowedRoutes: {namespaces: {from: Selector, selector: {matchExpressions: [{key: shop, operator: DoesNotExist}]}}}}`
		notIn   = `{name: notin, port: 443, protocol: HTTPS, allowedRoutes: {namespaces: {from: Selector, selector: {matchExpressions: [{key: shop, operator: Exists}, {key: shop, operator: NotIn, values: ["2"]}]}}}}`
		ref     = `{name: g, namespace: production}`
		refAPI  = `{name: g, namespace: production, sectionName: api}`
		refWild = `{name: g, namespace: production, sectionName: wild}`
		nowhere = "no hostname of the route is one that Gateway production/g listens for"
		parts   = "names a part of the Gateway, or all of it, and spec.parentRefs[0] the other: with several references to one Gateway, each must have a sectionName or none, and each a port or none"
		labels  = "Gateway production/g takes no HTTPRoute of namespace other; the selector of its allowedRoutes must select the labels of the Namespace, which are read from a Namespace in the folder"
	)
	for name, tt := range map[string]struct {
		namespace, listeners, refs, hostnames string
		want                                  []string
		err                                   string
	}{
		"every host":             {"", all, ref, ``, []string{"all"}, ""},
		"host of route":          {"", all, ref, `[a.example.com]`, []string{"all"}, ""},
		"host of listener":       {"", api, ref, ``, []string{"api"}, ""},
		"same":                   {"", api, ref, `[api.example.com]`, []string{"api"}, ""},
		"wild listener":          {"", wild, ref, `[a.b.example.com]`, []string{"wild"}, ""},
		"wild route":             {"", api, ref, `["*.example.com"]`, []string{"api"}, ""},
		"wild and one letter":    {"", one, ref, `["*.example.com"]`, []string{"one"}, ""},
		"one letter and wild":    {"", wild, ref, `[x.example.com]`, []string{"wild"}, ""},
		"same wild":              {"", wild, ref, `["*.example.com"]`, []string{"wild"}, ""},
		"wild both":              {"", wild, ref, `["*.a.example.com"]`, []string{"wild"}, ""},
		"one of its hosts":       {"", api, ref, `[www.example.com, api.example.com]`, []string{"api"}, ""},
		"wild is not its parent": {"", wild, ref, `[example.com]`, nil, nowhere},
		"suffix is no label":     {"", wild, ref, `[evilexample.com]`, nil, nowhere},
		"two listeners":          {"", api + ", " + www, ref, ``, []string{"api", "www"}, ""},
		"the one of two":         {"", api + ", " + www, ref, `[www.example.com]`, []string{"www"}, ""},
		"one of two":             {"", api + ", " + www, refAPI, ``, []string{"api"}, ""},
		"two ports":              {"", all + ", " + plain, ref, `[a.example.com]`, []string{"all", "plain"}, ""},
		"one of two ports":       {"", all + ", " + plain, `{name: g, namespace: production, sectionName: plain}`, ``, []string{"plain"}, ""},
		"by port":                {"", all + ", " + plain, `{name: g, namespace: production, port: 80}`, ``, []string{"plain"}, ""},
		"both named":             {"", api + ", " + wild, refWild + ", " + refAPI, ``, []string{"wild", "api"}, ""},
		"by name and port":       {"", all + ", " + plain, `{name: g, namespace: production, sectionName: all, port: 443}`, ``, []string{"all"}, ""},
		"part and whole":         {"", api + ", " + wild, refWild + ", " + ref, ``, nil, parts},
		"port and whole":         {"", all + ", " + plain, ref + `, {name: g, namespace: production, port: 80}`, ``, nil, parts},
		"other namespace":        {"other", open, ref, ``, []string{"open"}, ""},
		"only where allowed":     {"other", open + ", " + api, ref, ``, []string{"open"}, ""},
		"nowhere allowed":        {"other", api, ref, ``, nil, "Gateway production/g takes no HTTPRoute of namespace other; its allowedRoutes must say from: All"},
		"other kind":             {"", grpc, ref, ``, nil, "Gateway production/g takes no HTTPRoute of namespace production; its allowedRoutes must have the kind HTTPRoute"},
		"both kinds":             {"", both, ref, ``, []string{"both"}, ""},
		"label":                  {"shop", shops, ref, ``, []string{"shops"}, ""},
		"no label":               {"other", shops, ref, ``, nil, labels},
		"name of the namespace":  {"other", named, ref, ``, []string{"named"}, ""},
		"other name":             {"", named, ref, ``, nil, strings.Replace(labels, "other", "production", 1)},
		"label is not there":     {"other", not, ref, ``, []string{"not"}, ""},
		"label is there":         {"shop", not, ref, ``, nil, strings.Replace(labels, "other", "shop", 1)},
		"label has other value":  {"shop", notIn, ref, ``, []string{"notin"}, ""},
		"no label to exist":      {"other", notIn, ref, ``, nil, labels},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			namespace := "production"
			if tt.namespace != "" {
				namespace = tt.namespace
			}
			hostnames := ""
			if tt.hostnames != "" {
				hostnames = ", hostnames: " + tt.hostnames
			}
			set, err := manifest.Parse("a.yaml", []byte(`
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: g, namespace: production}
spec: {gatewayClassName: x, listeners: [`+tt.listeners+`]}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: r, namespace: `+namespace+`}
spec: {parentRefs: [`+tt.refs+`], rules: [{backendRefs: [{name: b, port: 1}]}]`+hostnames+`}
---
apiVersion: v1
kind: Namespace
metadata: {name: shop, labels: {shop: "1"}}
`))
			if tt.err != "" {
				assert.Nil(t, set)
				at := "0"
				if tt.err == parts {
					at = "1"
				}
				assert.EqualError(t, err, "a.yaml:10: HTTPRoute "+namespace+"/r: spec.parentRefs["+at+"]: "+tt.err)
				return
			}
			require.NoError(t, err)
			routes := set.Routes()
			require.Len(t, routes, 1)
			assert.Equal(t, tt.want, routes[0].Listeners)
		})
	}
}

func TestConversions(t *testing.T) {
	t.Parallel()
	set, err := manifest.Parse("a.yaml", []byte(`---
# nothing here
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: g}
spec: {gatewayClassName: x, listeners: [{name: all, port: 80, protocol: HTTP}]}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: r}
spec:
  parentRefs: [{name: g, kind: Gateway, group: gateway.networking.k8s.io, sectionName: all}]
  rules:
    - matches:
        - {}
        - path: {value: /a}
        - path: {type: Exact, value: "/b%20c"}
          method: POST
          headers: [{name: x-a, value: b}, {type: Exact, name: x-c, value: "yes"}]
      backendRefs:
        - {name: one, port: 1}
        - {name: two, port: 2, weight: 0, kind: Service, group: "", namespace: default}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: v}
spec:
  hosts: [one, two.other.svc.cluster.local]
  gateways: [mesh]
  http:
    - name: for people
      match:
        - headers: {x-a: {prefix: b}, x-b: {exact: c}}
        - headers: {x-c: {exact: d}}
      route: [{destination: {host: three.other.svc.cluster.local, port: {number: 8080}}}]
    - route: [{destination: {host: one, subset: s}, weight: 100}]
---
apiVersion: networking.istio.io/v1beta1
kind: DestinationRule
metadata: {name: d, namespace: other}
spec: {host: one.default.svc.cluster.local, subsets: [{name: s, labels: {a: "1"}}]}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: allow-nothing}
spec: {}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: allow-everything}
spec: {action: ALLOW, rules: [{}]}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: deny}
spec:
  action: DENY
  rules:
    - from:
        - source:
            principals: [a/b]
            notPrincipals: [a/c]
            requestPrincipals: [a/d]
            notRequestPrincipals: [a/e]
            namespaces: [f]
            notNamespaces: [g]
            ipBlocks: [10.0.0.1]
            notIpBlocks: [10.0.0.2]
            remoteIpBlocks: [10.0.0.3]
            notRemoteIpBlocks: [10.0.0.4]
      to:
        - operation:
            hosts: [h]
            notHosts: [i]
            methods: [J]
            notMethods: [K]
            paths: [/l]
            notPaths: [/m]
            ports: ["1"]
            notPorts: ["2"]
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: ask, namespace: istio-system}
spec:
  action: CUSTOM
  provider: {name: opa}
  rules:
    - from: [{source: {serviceAccounts: [a, b/c], notServiceAccounts: [d]}}]
      to: [{operation: {paths: ["/a/{*}/b/{**}"]}}]
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: note}
spec:
  action: AUDIT
  rules:
    - when:
        - {key: "request.headers[x-a]", values: [b, c*], notValues: [d]}
        - key: request.auth.claims[a][b]
          notValues: [e]
...
`))
	require.NoError(t, err)
	line := func(n int) gatemesh.Position { return gatemesh.Position{File: "a.yaml", Line: n} }

	assert.Equal(t, []manifest.Listener{{Position: line(7), Name: "all", Port: 80}}, set.Listeners())
	assert.Equal(t, []routing.Route{{
		Name: "default/r/0", Position: line(15), Listeners: []string{"all"},
		Matches: []routing.Match{
			{Path: routing.PathMatch{Type: routing.PathPrefix, Value: "/"}},
			{Path: routing.PathMatch{Type: routing.PathPrefix, Value: "/a"}},
			{
				Path: routing.PathMatch{Type: routing.PathExact, Value: "/b%20c"}, Method: "POST",
				Headers: []routing.HeaderMatch{{Name: "x-a", Value: "b"}, {Name: "x-c", Value: "yes"}},
			},
		},
		Backends: []routing.Backend{
			{Destination: gatemesh.Destination{Service: "one", Namespace: "default", Port: 1}, Weight: 1},
			{Destination: gatemesh.Destination{Service: "two", Namespace: "default", Port: 2}},
		},
	}}, set.Routes())
	rules := func(host string) []routing.Route {
		return []routing.Route{{
			Name: "default/v/mesh/" + host + "/0", Position: line(32),
			Matches: []routing.Match{
				{Headers: []routing.HeaderMatch{{Name: "x-a", Type: routing.MatchPrefix, Value: "b"}, {Name: "x-b", Value: "c"}}},
				{Headers: []routing.HeaderMatch{{Name: "x-c", Value: "d"}}},
			},
			Backends: []routing.Backend{{Destination: gatemesh.Destination{Service: "three", Namespace: "other", Port: 8080}, Weight: 100}},
		}, {
			Name: "default/v/mesh/" + host + "/1", Position: line(37),
			Backends: []routing.Backend{{Destination: gatemesh.Destination{Service: "one", Namespace: "default", Subset: "s"}, Weight: 100}},
		}}
	}
	assert.Equal(t, []routing.Service{
		{Position: line(25), Service: "one", Namespace: "default", Rules: rules("one.default")},
		{Position: line(25), Service: "two", Namespace: "other", Rules: rules("two.other")},
	}, set.Services(gatemesh.Workload{}))
	assert.Equal(t, []routing.Subset{
		{Position: line(42), Service: "one", Namespace: "default", Name: "s", Labels: map[string]string{"a": "1"}},
	}, set.Subsets())
	assert.Equal(t, []policy.Policy{
		{Name: "allow-nothing", Namespace: "default", Position: line(44)},
		{Name: "allow-everything", Namespace: "default", Position: line(49), Rules: []policy.Rule{{Position: line(52)}}},
		{
			Name: "deny", Namespace: "default", Position: line(54), Action: policy.ActionDeny,
			Rules: []policy.Rule{{
				Position: line(60),
				From: []policy.Source{{
					Position: line(62), Principals: []string{"a/b"}, NotPrincipals: []string{"a/c"},
					RequestPrincipals: []string{"a/d"}, NotRequestPrincipals: []string{"a/e"},
					Namespaces: []string{"f"}, NotNamespaces: []string{"g"},
					IPBlocks: []string{"10.0.0.1"}, NotIPBlocks: []string{"10.0.0.2"},
					RemoteIPBlocks: []string{"10.0.0.3"}, NotRemoteIPBlocks: []string{"10.0.0.4"},
				}},
				To: []policy.Operation{{
					Position: line(74), Hosts: []string{"h"}, NotHosts: []string{"i"}, Methods: []string{"J"}, NotMethods: []string{"K"},
					Paths: []string{"/l"}, NotPaths: []string{"/m"}, Ports: []string{"1"}, NotPorts: []string{"2"},
				}},
			}},
		},
		{
			Name: "ask", Namespace: "istio-system", Position: line(83), Action: policy.ActionCustom, Provider: "opa",
			Rules: []policy.Rule{{
				Position: line(90),
				From:     []policy.Source{{Position: line(90), ServiceAccounts: []string{"a", "b/c"}, NotServiceAccounts: []string{"d"}}},
				To:       []policy.Operation{{Position: line(91), Paths: []string{"/a/{*}/b/{**}"}}},
			}},
		},
		{
			Name: "note", Namespace: "default", Position: line(93), Action: policy.ActionAudit,
			Rules: []policy.Rule{{
				Position: line(99),
				When: []policy.Condition{
					{Position: line(100), Key: "request.headers[x-a]", Values: []string{"b", "c*"}, NotValues: []string{"d"}},
					{Position: line(101), Key: "request.auth.claims[a][b]", NotValues: []string{"e"}},
				},
			}},
		},
	}, set.Policies())
}

// References to what has faults of its own are not reported as dangling.
func TestNoFaultsThatFollow(t *testing.T) {
	t.Parallel()
	folder := mesh(t)
	for file, change := range map[string][2]string{
		gw: {"port: 443", "port: 0"},
		dr: {"kind: DestinationRule", "kind: DestinationRul"},
	} {
		folder[file].Data = []byte(strings.Replace(string(folder[file].Data), change[0], change[1], 1))
	}
	_, err := manifest.LoadFS(folder)
	require.Error(t, err)
	lines := strings.Split(err.Error(), "\n")
	require.Len(t, lines, 2, err)
	assert.Contains(t, lines[0], dr+":3: kind: \"DestinationRul\"")
	assert.Equal(t, gw+":14: "+inGW+"spec.listeners[0].port: 0 is not between 1 and 65535", lines[1])
}
