package main

import (
	"context"
	"fmt"
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// gatewayWith is a Gateway of the suite's namespace; each listener is the text
// of one without its name.
func gatewayWith(name string, listeners ...string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "---\napiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {name: %s, namespace: %s}\nspec:\n  gatewayClassName: gatemesh\n  listeners:\n", name, suiteNamespace)
	for i, l := range listeners {
		tls := ""
		if strings.Contains(l, "HTTPS") {
			tls = ", tls: {certificateRefs: [{name: tls-validity-checks-certificate}]}"
		}
		fmt.Fprintf(&b, "    - {name: listener-%d, %s%s}\n", i+1, l, tls)
	}
	return b.String()
}

// section is a parentRef for one listener.
func section(gateway string, n int) string {
	return fmt.Sprintf("{name: %s, sectionName: listener-%d}", gateway, n)
}

func TestConformanceListeners(t *testing.T) {
	t.Parallel()
	b := newBackends(t)
	http80 := "port: 80, protocol: HTTP"
	isolated := gatewayWith("isolation", http80, `hostname: "*.example.com", `+http80, `hostname: "*.foo.example.com", `+http80, `hostname: abc.foo.example.com, `+http80)
	paths := []string{"/empty-hostname", "/wildcard-example-com", "/wildcard-foo-example-com", "/abc-foo-example-com"}
	var isolation []ask
	attached := [2]string{isolated, isolated}
	for i, host := range []string{"bar.com", "bar.example.com", "bar.foo.example.com", "abc.foo.example.com"} {
		for j, path := range paths {
			a := ask{host: host, path: path, status: 404}
			if i == j {
				a.status, a.to = 200, "infra-v1"
			}
			isolation = append(isolation, a)
		}
		for k, hostnames := range [2]string{"", "  hostnames: [bar.com, \"*.example.com\", \"*.foo.example.com\", abc.foo.example.com]\n"} {
			attached[k] += httpRoute(fmt.Sprintf("r%d", i), section("isolation", i+1), hostnames+rules(prefix(paths[i]), "infra-v1"))
		}
	}
	for _, c := range []struct {
		name, manifests string
		asks            []ask
	}{
		{"GatewayHTTPListenerIsolation", attached[0], isolation},
		{"GatewayHTTPListenerIsolation with hostnames", attached[1], isolation},
		{"HTTPRouteListenerHostnameMatching",
			gatewayWith("g", "hostname: bar.com, "+http80, "hostname: foo.bar.com, "+http80, `hostname: "*.bar.com", `+http80, `hostname: "*.foo.com", `+http80) +
				httpRoute("v1", section("g", 1), rules("", "infra-v1")) + httpRoute("v2", section("g", 2), rules("", "infra-v2")) +
				httpRoute("v3", section("g", 3)+", "+section("g", 4), rules("", "infra-v3")),
			[]ask{
				{host: "bar.com", to: "infra-v1"}, {host: "foo.bar.com", to: "infra-v2"}, {host: "baz.bar.com", to: "infra-v3"},
				{host: "boo.bar.com", to: "infra-v3"}, {host: "multiple.prefixes.bar.com", to: "infra-v3"}, {host: "multiple.prefixes.foo.com", to: "infra-v3"},
				{host: "foo.com", status: 404}, {host: "no.matching.host", status: 404},
			}},
		{"HTTPRouteHostnameIntersection",
			gatewayWith("g", "hostname: very.specific.com, "+http80, `hostname: "*.wildcard.io", `+http80, `hostname: "*.anotherwildcard.io", `+http80) +
				httpRoute("specific-specific", "g", "  hostnames: [non.matching.com, \"*.nonmatchingwildcard.io\", very.specific.com]\n"+rules(prefix("/s1"), "infra-v1")) +
				httpRoute("specific-wildcard", "g", "  hostnames: [non.matching.com, wildcard.io, foo.wildcard.io, bar.wildcard.io, foo.bar.wildcard.io]\n"+rules(prefix("/s2"), "infra-v2")) +
				httpRoute("wildcard-specific", "g", "  hostnames: [non.matching.com, \"*.specific.com\"]\n"+rules(prefix("/s3"), "infra-v3")) +
				httpRoute("wildcard-wildcard", "g", "  hostnames: [\"*.anotherwildcard.io\"]\n"+rules(prefix("/s4"), "infra-v1")),
			[]ask{
				{host: "very.specific.com", path: "/s1", to: "infra-v1"}, {host: "very.specific.com:1234", path: "/s1", to: "infra-v1"},
				{host: "non.matching.com", path: "/s1", status: 404}, {host: "foo.nonmatchingwildcard.io", path: "/s1", status: 404},
				{host: "foo.wildcard.io", path: "/s1", status: 404}, {host: "very.specific.com", path: "/non-matching-prefix", status: 404},
				{host: "foo.wildcard.io", path: "/s2", to: "infra-v2"}, {host: "bar.wildcard.io", path: "/s2", to: "infra-v2"}, {host: "foo.bar.wildcard.io", path: "/s2", to: "infra-v2"},
				{host: "non.matching.com", path: "/s2", status: 404}, {host: "wildcard.io", path: "/s2", status: 404},
				{host: "very.specific.com", path: "/s2", status: 404}, {host: "foo.wildcard.io", path: "/non-matching-prefix", status: 404},
				{host: "very.specific.com", path: "/s3", to: "infra-v3"}, {host: "non.matching.com", path: "/s3", status: 404},
				{host: "foo.specific.com", path: "/s3", status: 404}, {host: "foo.wildcard.io", path: "/s3", status: 404},
				{host: "foo.anotherwildcard.io", path: "/s4", to: "infra-v1"}, {host: "foo.bar.anotherwildcard.io", path: "/s4", to: "infra-v1"},
				{host: "anotherwildcard.io", path: "/s4", status: 404}, {host: "foo.wildcard.io", path: "/s4", status: 404}, {host: "very.specific.com", path: "/s4", status: 404},
			}},
		{"HTTPRouteHostnameIntersection with a listener for all",
			gatewayWith("g", http80) + httpRoute("all", "g", "  hostnames: [first.com, sub.first.com, second.com, sub.second.com]\n"+rules("", "infra-v2")),
			[]ask{
				{host: "first.com", to: "infra-v2"}, {host: "sub.first.com", to: "infra-v2"}, {host: "second.com", to: "infra-v2"}, {host: "sub.second.com", to: "infra-v2"},
				{host: "third.com", status: 404}, {host: "sub.third.com", status: 404},
			}},
		{"GatewayRouteHostnameIntersectionPrecedence", // the names of the routes decide, not what the listener leaves of them
			gatewayWith("g", "hostname: abc.example.com, "+http80) +
				strings.Replace(httpRoute("older", "g", "  hostnames: [\"*.example.com\"]\n"+rules("", "infra-v1")), "name: older", `creationTimestamp: "2020-01-01T00:00:00Z", name: older`, 1) +
				httpRoute("newer", "g", "  hostnames: [abc.example.com]\n"+rules("", "infra-v2")),
			[]ask{{host: "abc.example.com", to: "infra-v2"}}},
		{"GatewayRouteHostnameIntersectionPrecedence of wildcards",
			gatewayWith("g", "hostname: abc.example.com, "+http80) +
				strings.Replace(httpRoute("older", "g", "  hostnames: [\"*.com\"]\n"+rules("", "infra-v1")), "name: older", `creationTimestamp: "2020-01-01T00:00:00Z", name: older`, 1) +
				httpRoute("newer", "g", "  hostnames: [\"*.example.com\"]\n"+rules("", "infra-v2")),
			[]ask{{host: "abc.example.com", to: "infra-v2"}}},
		{"HTTPRouteListenerPortMatching",
			gatewayWith("g", http80, "port: 8080, protocol: HTTP", "hostname: foo.com, port: 8090, protocol: HTTP") +
				httpRoute("v1", section("g", 1), rules("", "infra-v1")) + httpRoute("v2", "{name: g, port: 8080}", rules("", "infra-v2")) +
				httpRoute("v3", "{name: g, port: 8090}", rules("", "infra-v3")),
			[]ask{
				{host: "foo.com", to: "infra-v1"}, {host: "foo.com:8080", port: 8080, to: "infra-v2"}, {host: "bar.com:8080", port: 8080, to: "infra-v2"},
				{host: "foo.com:8090", port: 8090, to: "infra-v3"}, {host: "bar.com:8090", port: 8090, status: 404},
			}},
		{"HTTPRouteHTTPSListener",
			gatewayWith("g", "port: 443, protocol: HTTPS", "hostname: second-example.org, port: 443, protocol: HTTPS") +
				httpRoute("a", "g", "  hostnames: [example.org]\n"+rules("", "infra-v1")) +
				httpRoute("b", section("g", 2), "  hostnames: [second-example.org]\n"+rules("", "infra-v2")) +
				httpRoute("c", section("g", 1), "  hostnames: [unknown-example.org]\n"+rules("", "infra-v3")),
			[]ask{
				{port: 443, sni: "example.org", host: "example.org", to: "infra-v1"}, {port: 443, sni: "second-example.org", host: "second-example.org", to: "infra-v2"},
				{port: 443, sni: "unknown-example.org", host: "unknown-example.org", to: "infra-v3"},
				{port: 443, sni: "second-example.org", host: "example.org", status: 421}, {port: 443, sni: "example.org", host: "second-example.org", status: 421},
			}},
		{"HTTPRouteHTTPSListenerDetectMisdirectedRequests",
			gatewayWith("g", "port: 443, protocol: HTTPS", "hostname: second-example.org, port: 443, protocol: HTTPS",
				`hostname: "*.wildcard.org", port: 443, protocol: HTTPS`, "hostname: fourth-example.wildcard.org, port: 443, protocol: HTTPS") +
				httpRoute("t1", "{name: g}", "  hostnames: [example.org]\n"+rules(prefix("/detect"), "infra-v1")) +
				httpRoute("t2", section("g", 2), rules(prefix("/detect"), "infra-v2")) +
				httpRoute("t3", section("g", 3), "  hostnames: [third-example.wildcard.org, fith-example.wildcard.org]\n"+rules(prefix("/detect"), "infra-v3")) +
				httpRoute("t4", section("g", 4), "  hostnames: [fourth-example.wildcard.org]\n"+rules(prefix("/detect"), "infra-v1")),
			misdirected(
				"example.org example.org infra-v1", "example.org second-example.org 421", "example.org unknown-example.org 404",
				"second-example.org second-example.org infra-v2", "second-example.org example.org 421", "second-example.org unknown-example.org 421",
				"third-example.wildcard.org third-example.wildcard.org infra-v3", "third-example.wildcard.org fith-example.wildcard.org infra-v3",
				"third-example.wildcard.org fourth-example.wildcard.org 421", "third-example.wildcard.org second-example.org 421",
				"third-example.wildcard.org unknown-example.org 421", "fourth-example.wildcard.org fourth-example.wildcard.org infra-v1",
				"fourth-example.wildcard.org fith-example.wildcard.org 421", "unknown-example.org example.org infra-v1",
				"unknown-example.org unknown-example.org 404",
			)},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			b.serves(t, c.manifests).asks(c.asks...)
		})
	}
}

// misdirected are requests as "SNI host service-or-status".
func misdirected(list ...string) (asks []ask) {
	for _, line := range list {
		f := strings.Fields(line)
		a := ask{port: 443, path: "/detect", sni: f[0], host: f[1], to: f[2]}
		if _, err := fmt.Sscan(f[2], &a.status); err == nil {
			a.to = ""
		}
		asks = append(asks, a)
	}
	return asks
}

// A route of another namespace is attached if the listener takes it, and a
// Service of another namespace is called if a ReferenceGrant there lets it.
func TestConformanceNamespaces(t *testing.T) {
	t.Parallel()
	b := newBackends(t)
	const web = "gateway-conformance-web-backend"
	labelled := "---\napiVersion: v1\nkind: Namespace\nmetadata: {name: " + web + ", labels: {gateway-conformance: backend}}\n"
	grant := "---\napiVersion: gateway.networking.k8s.io/v1beta1\nkind: ReferenceGrant\nmetadata: {name: grant, namespace: " + web + "}\n" +
		"spec: {from: [{group: gateway.networking.k8s.io, kind: HTTPRoute, namespace: " + suiteNamespace + "}], to: [{group: \"\", kind: Service, name: web}]}\n"
	for name, manifests := range map[string]string{
		"HTTPRouteCrossNamespace": strings.Replace(sameNamespace, "from: Same", "from: All", 1) +
			routeOf("HTTPRoute", "cross", web, "same-namespace", rules("", "web")),
		"HTTPRouteCrossNamespace by Selector": labelled +
			"---" + strings.Replace(sameNamespace, "from: Same", "from: Selector, selector: {matchLabels: {gateway-conformance: backend}}", 1) +
			routeOf("HTTPRoute", "cross", web, "same-namespace", rules("", "web")),
		"HTTPRouteReferenceGrant": sameNamespace + grant +
			httpRoute("reference", "same-namespace", rules("", "backendRefs: [{name: web, namespace: "+web+", port: 8080}]")),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b.serves(t, manifests).asks(ask{to: "web"})
		})
	}
}

// HTTPRouteMultipleGateways and GRPCRouteMultipleGateways: a route of two Gateways
// is served by both, and the others by their own alone.
func TestConformanceMultipleGateways(t *testing.T) {
	t.Parallel()
	b := newBackends(t)
	gb, _ := newGRPCBackends(t)
	both := sameNamespace + strings.NewReplacer("name: same-namespace", "name: all-namespaces", "from: Same", "from: All").Replace("---"+sameNamespace)
	shared := "{name: same-namespace}, {name: all-namespaces}"
	method := func(name string) string { return "{method: {service: " + echoService + ", method: " + name + "}}" }
	other := map[string]string{"2": "3", "3": "2"}
	for gateway, n := range map[string]string{"same-namespace": "2", "all-namespaces": "3"} {
		t.Run(gateway, func(t *testing.T) {
			t.Parallel()
			flag := suiteNamespace + "/" + gateway
			without := func(b *backends, service string) *backends { // which is nothing that this Gateway knows
				urls := maps.Clone(b.urls)
				delete(urls, service)
				return &backends{urls: urls}
			}
			without(b, "infra-v"+other[n]).serves(t, both+httpRoute("shared", shared, rules(prefix("/shared"), "infra-v1"))+httpRoute("two", "same-namespace", rules("", "infra-v2"))+
				httpRoute("three", "all-namespaces", rules("", "infra-v3")), "-gateway", flag).
				asks(ask{path: "/shared", to: "infra-v1"}, ask{to: "infra-v" + n})
			without(gb, "grpc-v"+other[n]).serves(t, both+grpcRoute("shared", shared, rules(method("Echo"), "grpc-v1"))+grpcRoute("two", "same-namespace", rules(method("EchoTwo"), "grpc-v2"))+
				grpcRoute("three", "all-namespaces", rules(method("EchoTwo"), "grpc-v3")), "-gateway", flag).
				calls(grpcAsk{to: "grpc-v1"}, grpcAsk{method: "EchoTwo", to: "grpc-v" + n})
		})
	}
}

// The suite applies these and wants a condition and 500; here they do not load,
// with a line that says where the fault is.
func TestConformanceRefused(t *testing.T) {
	t.Parallel()
	const web = "gateway-conformance-web-backend"
	const otherGrant = "---\napiVersion: gateway.networking.k8s.io/v1\nkind: ReferenceGrant\nmetadata: {name: grant, namespace: " + web + "}\n" +
		"spec: {from: [{group: gateway.networking.k8s.io, kind: HTTPRoute, namespace: " + web + "}], to: [{group: \"\", kind: Service, name: web}]}\n"
	for name, c := range map[string]struct{ manifests, fault string }{
		"HTTPRouteInvalidCrossNamespaceBackendRef":            {httpRoute("r", "same-namespace", rules("", "backendRefs: [{name: web, namespace: "+web+", port: 8080}]")), "no ReferenceGrant in namespace"},
		"HTTPRouteInvalidBackendRefUnknownKind":               {httpRoute("r", "same-namespace", rules("", "backendRefs: [{kind: NonExistent, name: web, port: 8080}]")), "NonExistent"},
		"HTTPRouteInvalidCrossNamespaceParentRef":             {routeOf("HTTPRoute", "r", web, "same-namespace", rules("", "infra-v1")), "takes no HTTPRoute of namespace"},
		"HTTPRouteInvalidParentRefNotMatchingSectionName":     {httpRoute("r", "{name: same-namespace, sectionName: other}", rules("", "infra-v1")), "has no listener other"},
		"HTTPRouteInvalidParentRefNotMatchingListenerPort":    {httpRoute("r", "{name: same-namespace, port: 81}", rules("", "infra-v1")), "has no listener with this port"},
		"HTTPRouteAllBackendsWeightZero":                      {httpRoute("r", "same-namespace", rules("", "backendRefs: [{name: infra-v1, port: 8080, weight: 0}]")), "weights of all backends are 0"},
		"HTTPRouteInvalidParentRefSectionNameNotMatchingPort": {httpRoute("r", "{name: same-namespace, sectionName: http, port: 81}", rules("", "infra-v1")), "has no listener http with this port"},
		"HTTPRouteInvalidReferenceGrant":                      {otherGrant + httpRoute("r", "same-namespace", rules("", "backendRefs: [{name: web, namespace: "+web+", port: 8080}]")), "no ReferenceGrant in namespace"},
		"HTTPRoutePartiallyInvalidViaInvalidReferenceGrant":   {otherGrant + httpRoute("r", "same-namespace", rules("", "backendRefs: [{name: web, namespace: "+web+", port: 8080}, {name: infra-v1, port: 8080}]")), "no ReferenceGrant in namespace"},
		"GatewayInvalidRouteKind":                             {gatewayWith("g", "port: 81, protocol: HTTP, allowedRoutes: {kinds: [{kind: InvalidRoute}, {kind: HTTPRoute}]}"), `"InvalidRoute" is unknown`},
		"GatewayListenerUnsupportedProtocol":                  {gatewayWith("g", "port: 81, protocol: example.com/invalid"), "it must be HTTP or HTTPS"},
		"GatewaySecretMissingReferenceGrant":                  {strings.Replace(gatewayWith("g", "port: 444, protocol: HTTPS"), "certificate}", "certificate, namespace: "+web+"}", 1), "no ReferenceGrant in namespace"},
		"two kinds of routes for a hostname": {httpRoute("r", "same-namespace", "  hostnames: [a.example.com]\n"+rules("", "infra-v1")) +
			grpcRoute("r", "same-namespace", "  hostnames: [\"*.example.com\"]\n"+rules("", "infra-v1")), "allows one kind of route for a hostname"},
		"HTTPRouteDisallowedKind": {routeOf("TLSRoute", "r", suiteNamespace, "same-namespace", rules("", "infra-v1")), "TLSRoute"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			o, err := parseFlags([]string{"-listen", "127.0.0.1:0", "-manifests", folderOf(t, sameNamespace+c.manifests+anybody), "-workload", "gateway." + suiteNamespace}, nil)
			require.NoError(t, err)
			ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second) // if it loads
			defer cancel()
			err = o.serve(ctx, t.Output())
			require.ErrorContains(t, err, c.fault)
			assert.Regexp(t, `all\.yaml:\d+: `, err.Error())
		})
	}
}
