package manifest_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"go.yaml.in/yaml/v3"

	"github.com/gatemesh-go/gatemesh"
	"github.com/gatemesh-go/gatemesh/auth/policy"
	"github.com/gatemesh-go/gatemesh/manifest"
	"github.com/gatemesh-go/gatemesh/mtls"
	"github.com/gatemesh-go/gatemesh/routing"
)

// whole is the good folder in one file.
func whole(t testing.TB) string {
	t.Helper()
	var all strings.Builder
	for _, name := range []string{gw, hr, odr, vs, dr, ap, ra, "policies.yaml"} {
		all.WriteString(read(t, name) + "\n---\n")
	}
	all.WriteString(peers + "\n---\n" + rich)
	return all.String()
}

// rich has what the good folder has not.
const rich = `apiVersion: v1
kind: Namespace
metadata: {name: rich, labels: {shop: "1"}}
---
apiVersion: gateway.networking.k8s.io/v1beta1
kind: ReferenceGrant
metadata: {name: g, namespace: other}
spec: {from: [{group: gateway.networking.k8s.io, kind: GRPCRoute, namespace: rich}], to: [{group: "", kind: Service, name: b}]}
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: g, namespace: rich}
spec:
  gatewayClassName: x
  listeners:
    - {name: web, port: 80, protocol: HTTP, allowedRoutes: {kinds: [{kind: HTTPRoute}], namespaces: {from: Selector, selector: {matchLabels: {shop: "1"}, matchExpressions: [{key: shop, operator: In, values: ["1"]}]}}}}
    - {name: tls, port: 443, protocol: HTTPS, tls: {mode: Terminate, certificateRefs: [{name: c}]}}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: r, namespace: rich}
spec:
  parentRefs: [{name: g, sectionName: web, port: 80}]
  rules:
    - name: first
      matches: [{path: {type: RegularExpression, value: "/a+"}, headers: [{name: x-a, type: RegularExpression, value: b}], queryParams: [{name: q, value: r}]}]
      filters:
        - {type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: x-a, value: b}], add: [{name: x-b, value: c}], remove: [x-d]}}
        - {type: RequestMirror, requestMirror: {backendRef: {name: m, port: 1}, fraction: {numerator: 1, denominator: 3}}}
        - {type: CORS, cors: {allowOrigins: ["https://*.example.com"], maxAge: 5}}
      timeouts: {request: 10s, backendRequest: 2s}
      retry: {attempts: 2, codes: [503], backoff: 10ms}
      backendRefs: [{name: b, port: 1, filters: [{type: URLRewrite, urlRewrite: {hostname: h.example.com}}]}]
    - {matches: [{path: {value: /old}}], filters: [{type: RequestRedirect, requestRedirect: {path: {type: ReplacePrefixMatch, replacePrefixMatch: /new}}}]}
---
apiVersion: gateway.networking.k8s.io/v1
kind: GRPCRoute
metadata: {name: r, namespace: rich}
spec:
  parentRefs: [{name: g, sectionName: tls}]
  rules: [{matches: [{method: {service: a.B, method: C}}], backendRefs: [{name: b, namespace: other, port: 1}]}]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: v, namespace: rich}
spec:
  hosts: [b]
  http:
    - match:
        - {uri: {prefix: /a}, ignoreUriCase: true, scheme: {exact: http}, method: {regex: "P.*"}, authority: {prefix: a}, headers: {x-a: {regex: b}}, withoutHeaders: {x-b: {}}, queryParams: {q: {exact: r}}, sourceLabels: {app: c}}
      rewrite: {uri: /b}
      timeout: 1.5s
      retries: {attempts: 2, perTryTimeout: 100ms, retryOn: "5xx,unavailable"}
      fault: {delay: {fixedDelay: 1s, percentage: {value: 0.1}}, abort: {httpStatus: 503, percentage: {value: 1}}}
      mirrors: [{destination: {host: m}, percentage: {value: 1}}]
      corsPolicy: {allowOrigins: [{regex: "https://.*"}], maxAge: 1h}
      headers: {request: {set: {x-a: b}}, response: {add: {x-c: d}, remove: [x-e]}}
      route: [{destination: {host: b, port: {number: 1}}, headers: {request: {remove: [x-f]}}}]
    - {match: [{uri: {exact: /r}}], redirect: {uri: /s, redirectCode: 302}}
    - {directResponse: {status: 503, body: {string: closed}}}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: d, namespace: rich}
spec:
  host: b
  trafficPolicy:
    loadBalancer: {simple: RANDOM, warmup: {duration: 10s}}
    outlierDetection: {consecutive5xxErrors: 3, interval: 10s}
    portLevelSettings: [{port: {number: 9}, loadBalancer: {consistentHash: {httpCookie: {name: c}}}}]
  subsets: [{name: s, labels: {a: b}, trafficPolicy: {loadBalancer: {simple: ROUND_ROBIN}}}]
`

// There is no place where an unknown field is not noticed.
func TestNoFieldIsIgnored(t *testing.T) {
	t.Parallel()
	mappings := 0
	for _, d := range trees(t, whole(t)) {
		for _, m := range appendMappings(nil, d) {
			requireFieldNoticed(t, []*yaml.Node{d}, m)
			mappings++
		}
	}
	require.Greater(t, mappings, 170)
}

func requireFieldNoticed(t *testing.T, docs []*yaml.Node, m *yaml.Node) {
	t.Helper()
	before := m.Content
	m.Content = append(slices.Clone(before), &yaml.Node{Kind: yaml.ScalarNode, Value: "zzz"}, &yaml.Node{Kind: yaml.ScalarNode, Value: "zzz"})
	_, err := manifest.Parse("a.yaml", written(t, docs))
	require.ErrorContains(t, err, "zzz", "%s", written(t, docs))
	m.Content = before
}

// Nothing panics. What is accepted means the same when another program writes
// it again, and has no field that was not read: with one more in any place, it
// is refused.
func FuzzParse(f *testing.F) {
	for _, name := range []string{gw, hr, odr, vs, dr, ap, ra, "policies.yaml"} {
		f.Add(read(f, name), uint16(3))
	}
	f.Add(whole(f), uint16(50))
	f.Add("apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: a}\nspec: {rules: [{to: [{operation: {hosts: [\"*\"]}}]}]}", uint16(4))
	f.Add(peers, uint16(5))
	f.Add(rich, uint16(70))
	const authz = "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: a}\n"
	for _, spec := range []string{
		`{action: CUSTOM, provider: {name: opa}, rules: [{}]}`,
		`{action: AUDIT, rules: [{from: [{source: {serviceAccounts: [a, b/c]}}], to: [{operation: {paths: ["/a/{*}/b/{**}"]}}]}]}`,
		`{action: DENY, rules: [{when: [{key: "request.headers[x-a]", values: ["b*"], notValues: [c]}]}]}`,
		`{rules: [{when: [{key: "request.auth.claims[a][b]", notValues: ["*"]}, {key: destination.port, values: ["443"]}]}]}`,
		`{rules: [{when: [{key: source.serviceAccount, values: [a/b]}, {key: connection.sni, values: ["*.example.com"]}]}]}`,
	} {
		f.Add(authz+"spec: "+spec, uint16(5))
	}
	f.Fuzz(func(t *testing.T, data string, place uint16) {
		set, err := manifest.Parse("a.yaml", []byte(data))
		if err != nil {
			require.Nil(t, set)
			require.NotEmpty(t, err.Error())
			return
		}
		docs := trees(t, data)
		again, err := manifest.Parse("a.yaml", written(t, docs))
		require.NoError(t, err, "%s", data)
		require.Equal(t, contentOf(set), contentOf(again))

		var mappings []*yaml.Node
		for _, d := range docs {
			mappings = appendMappings(mappings, d)
		}
		requireFieldNoticed(t, docs, mappings[int(place)%len(mappings)])
	})
}

// trees parses data and takes off what has no meaning.
func trees(t *testing.T, data string) (docs []*yaml.Node) {
	t.Helper()
	d := yaml.NewDecoder(strings.NewReader(data))
	for {
		var doc yaml.Node
		if d.Decode(&doc) != nil {
			return docs
		}
		if doc.Content[0].Kind == yaml.MappingNode {
			withoutComments(&doc)
			docs = append(docs, &doc)
		}
	}
}

func withoutComments(n *yaml.Node) {
	n.HeadComment, n.LineComment, n.FootComment = "", "", ""
	for _, c := range n.Content {
		withoutComments(c)
	}
}

func written(t *testing.T, docs []*yaml.Node) []byte {
	t.Helper()
	var b strings.Builder
	e := yaml.NewEncoder(&b)
	for _, d := range docs {
		require.NoError(t, e.Encode(d))
	}
	require.NoError(t, e.Close())
	return []byte(b.String())
}

// appendMappings appends the mappings under n whose keys are not free.
func appendMappings(to []*yaml.Node, n *yaml.Node) []*yaml.Node {
	if n.Kind != yaml.MappingNode {
		for _, c := range n.Content {
			to = appendMappings(to, c)
		}
		return to
	}
	to = append(to, n)
	for i := 0; i+1 < len(n.Content); i += 2 {
		free := []string{"labels", "annotations", "matchLabels", "sourceLabels", "status", "generation", "managedFields", "resourceVersion", "uid"}
		// In Istio, the fields of a header are a map.
		fields := n.Content[i+1].Kind == yaml.MappingNode && (n.Content[i].Value == "set" || n.Content[i].Value == "add")
		if !fields && !slices.Contains(free, n.Content[i].Value) {
			to = appendMappings(to, n.Content[i+1])
		}
	}
	return to
}

type content struct {
	gateways  [][]routing.Route
	traffic   []manifest.TrafficPolicy
	listeners []manifest.Listener
	routes    []routing.Route
	subsets   []routing.Subset
	services  []routing.Service
	policies  []policy.Policy
	peers     []mtls.PeerAuthentication
	auths     []manifest.RequestAuthentication
}

// served are the routes of a Gateway, without where.
func served(set *manifest.Set) []routing.Route {
	routes := set.Routes()
	for i := range routes {
		routes[i].Position = gatemesh.Position{}
	}
	return routes
}

// contentOf returns what set says, without where.
func contentOf(set *manifest.Set) content {
	c := content{
		listeners: set.Listeners(), routes: set.Routes(), subsets: set.Subsets(), services: set.Services(gatemesh.Workload{}),
		policies: set.Policies(), peers: set.PeerAuthentications(), auths: set.RequestAuthentications(),
	}
	if names := set.Gateways(); len(names) > 1 {
		for _, name := range names {
			namespace, short, _ := strings.Cut(name, "/")
			c.gateways = append(c.gateways, served(gatemesh.Must(set.For(namespace, short))))
		}
	}
	for _, s := range c.subsets {
		p, _ := set.TrafficPolicy(gatemesh.Destination{Service: s.Service, Namespace: s.Namespace, Subset: s.Name, Port: 9})
		p.Position = gatemesh.Position{}
		c.traffic = append(c.traffic, p)
	}
	for i := range c.peers {
		c.peers[i].Position = gatemesh.Position{}
	}
	for i := range c.listeners {
		c.listeners[i].Position = gatemesh.Position{}
	}
	for i := range c.routes {
		c.routes[i].Position = gatemesh.Position{}
	}
	for i := range c.subsets {
		c.subsets[i].Position = gatemesh.Position{}
	}
	for i := range c.services {
		c.services[i].Position = gatemesh.Position{}
		for j := range c.services[i].Rules {
			c.services[i].Rules[j].Position = gatemesh.Position{}
		}
	}
	for i := range c.auths {
		c.auths[i].Position = gatemesh.Position{}
		for j := range c.auths[i].Rules {
			c.auths[i].Rules[j].Position = gatemesh.Position{}
		}
	}
	for i := range c.policies {
		p := &c.policies[i]
		p.Position = gatemesh.Position{}
		for j := range p.Rules {
			p.Rules[j].Position = gatemesh.Position{}
			for k := range p.Rules[j].From {
				p.Rules[j].From[k].Position = gatemesh.Position{}
			}
			for k := range p.Rules[j].To {
				p.Rules[j].To[k].Position = gatemesh.Position{}
			}
			for k := range p.Rules[j].When {
				p.Rules[j].When[k].Position = gatemesh.Position{}
			}
		}
	}
	return c
}
