package manifest_test

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/gatemesh-go/gatemesh/manifest"
)

// A copy into another namespace takes a grant as a call does, wherever the mirror
// stands.
func TestReferencesOfMirrors(t *testing.T) {
	t.Parallel()
	const mirror = "filters: [{type: RequestMirror, requestMirror: {backendRef: {name: m, namespace: other, port: 1}}}]"
	const grant = "---\napiVersion: gateway.networking.k8s.io/v1\nkind: ReferenceGrant\nmetadata: {name: g, namespace: other}\n" +
		"spec: {from: [{group: gateway.networking.k8s.io, kind: KIND, namespace: default}], to: [{group: \"\", kind: Service, name: m}]}\n"
	for _, kind := range []string{"HTTPRoute", "GRPCRoute"} {
		for place, backends := range map[string]string{
			"spec.rules[0].filters[0]":                "[{name: b, port: 1}]\n    " + mirror,
			"spec.rules[0].backendRefs[0].filters[0]": "[{name: b, port: 1, " + mirror + "}]",
		} {
			text := strings.Replace(route(backends), "kind: HTTPRoute", "kind: "+kind, 1)
			line := "12"
			if place == "spec.rules[0].filters[0]" {
				line = "13"
			}
			refuses(t, text, line+": "+kind+" default/r: "+place+".requestMirror.backendRef.namespace: no ReferenceGrant in namespace other lets a "+kind+" of namespace default refer to Service m")
			_, err := manifest.Parse("a.yaml", []byte(text+strings.Replace(grant, "KIND", kind, 1)))
			assert.NoError(t, err)
		}
	}
}

// What a document with a fault would have said is not missed in others.
func TestNoFaultsOfReferences(t *testing.T) {
	t.Parallel()
	const grant = "---\napiVersion: gateway.networking.k8s.io/v1\nkind: ReferenceGrant\nmetadata: {name: g, namespace: other}\nspec: {from: []}\n"
	const labelled = "---\napiVersion: v1\nkind: Namespace\nmetadata: {name: default, label: {shop: yes}}\n"
	selecting := strings.Replace(route("[{name: b, port: 1}]"), "protocol: HTTP}", "protocol: HTTP, allowedRoutes: {namespaces: {from: Selector, selector: {matchLabels: {shop: a}}}}}", 1)
	for name, text := range map[string]string{
		"ReferenceGrant": route("[{name: b, namespace: other, port: 1}]") + grant,
		"Namespace":      selecting + labelled,
	} {
		_, err := manifest.Parse("a.yaml", []byte(text))
		require.Error(t, err)
		for fault := range strings.SplitSeq(err.Error(), "\n") {
			assert.Contains(t, fault, ": "+name+" ")
		}
		_, err = manifest.Parse("a.yaml", []byte(strings.Split(text, "---\napiVersion: gateway.networking.k8s.io/v1\nkind: ReferenceGrant")[0]))
		assert.Error(t, err)
	}
	_, err := manifest.Parse("a.yaml", []byte(selecting))
	assert.ErrorContains(t, err, "takes no HTTPRoute of namespace default")
}

// A route that several hostnames of another kind stand in the way of has one
// fault.
func TestOneFaultForARoute(t *testing.T) {
	t.Parallel()
	both := route("[{name: b, port: 1}]")
	grpc := "---\n" + strings.Replace(strings.Split(both, "---\n")[1], "kind: HTTPRoute", "kind: GRPCRoute", 1)
	_, err := manifest.Parse("a.yaml", []byte(both+strings.Replace(grpc, "spec:", "spec:\n  hostnames: [a.example, b.example]", 1)))
	require.ErrorContains(t, err, "allows one kind of route for a hostname")
	assert.NotContains(t, err.Error(), "\n")
}

// A Gateway may be named with its namespace and without; its listeners serve the
// route once.
func TestGatewayNamedTwice(t *testing.T) {
	t.Parallel()
	set, err := manifest.Parse("a.yaml", []byte(strings.Replace(route("[{name: b, port: 1}]"), "[{name: g}]", "[{name: g}, {name: g, namespace: default}]", 1)))
	require.NoError(t, err)
	require.Len(t, set.Routes(), 1)
	assert.Equal(t, []string{"all"}, set.Routes()[0].Listeners)
}

// As in the CRDs, a rule without matches counts as one of an HTTPRoute, and as
// none of a GRPCRoute.
func TestMatchesOfARoute(t *testing.T) {
	t.Parallel()
	rule := "\n  - {backendRefs: [{name: b, port: 1}], matches: [" + strings.Repeat("{headers: [{name: a, value: b}]},", 64) + "]}"
	text := func(kind, more string) []byte {
		return []byte(strings.Replace(route("[{name: b, port: 1}]"), "kind: HTTPRoute", "kind: "+kind, 1) + rule + rule + more)
	}
	_, err := manifest.Parse("a.yaml", text("GRPCRoute", ""))
	assert.NoError(t, err)
	_, err = manifest.Parse("a.yaml", text("GRPCRoute", "\n  - {backendRefs: [{name: b, port: 1}], matches: [{headers: [{name: a, value: b}]}]}"))
	assert.ErrorContains(t, err, "GRPCRoute default/r: spec.rules: the rules have 129 matches together; at most 128 are allowed")
	_, err = manifest.Parse("a.yaml", text("HTTPRoute", ""))
	assert.ErrorContains(t, err, "HTTPRoute default/r: spec.rules: the rules have 129 matches together; at most 128 are allowed")
}

// What a listener says for nothing is a fault.
func TestListenerParts(t *testing.T) {
	t.Parallel()
	listener := func(more string) string {
		return strings.Replace(oneListener, "protocol: HTTP}", "protocol: HTTP, "+more+"}", 1)
	}
	const at = "4: Gateway default/g: spec.listeners[0]."
	refuses(t, listener("tls: {certificateRefs: [{name: c}]}"), at+"tls: stands with protocol HTTPS, and with nothing else")
	refuses(t, listener("allowedRoutes: {namespaces: {selector: {matchLabels: {a: b}}}}"), at+"allowedRoutes.namespaces.selector: stands with from: Selector, and with nothing else")
	refuses(t, listener("allowedRoutes: {namespaces: {from: All, selector: {matchLabels: {a: b}}}}"), at+"allowedRoutes.namespaces.selector: stands with from: Selector, and with nothing else")
	refuses(t, listener("allowedRoutes: {namespaces: {from: None}}"), at+`allowedRoutes.namespaces.from: "None" is unknown; it must be Same or All or Selector`)
}

// A certificate of another namespace takes a grant there.
func TestReferencesOfCertificates(t *testing.T) {
	t.Parallel()
	text := strings.Replace(oneListener, "port: 80, protocol: HTTP}", "port: 443, protocol: HTTPS, tls: {certificateRefs: [{name: c, namespace: other}]}}", 1)
	refuses(t, text, "4: Gateway default/g: spec.listeners[0].tls.certificateRefs[0].name: no ReferenceGrant in namespace other lets a Gateway of namespace default refer to Secret c")
	set, err := manifest.Parse("a.yaml", []byte(text+"---\napiVersion: gateway.networking.k8s.io/v1\nkind: ReferenceGrant\nmetadata: {name: g, namespace: other}\n"+
		"spec: {from: [{group: gateway.networking.k8s.io, kind: Gateway, namespace: default}], to: [{group: \"\", kind: Secret}]}\n"))
	require.NoError(t, err)
	assert.Equal(t, []string{"other/c"}, set.Listeners()[0].Certificates)
}

// A redirect and a rewrite cannot stand together, in whatever order.
func TestRedirectBesideRewrite(t *testing.T) {
	t.Parallel()
	redirect, rewrite := "{type: RequestRedirect, requestRedirect: {scheme: https}}", "{type: URLRewrite, urlRewrite: {hostname: a.example}}"
	for _, filters := range []string{redirect + ", " + rewrite, rewrite + ", " + redirect} {
		text := strings.Replace(route("[]"), "backendRefs: []", "filters: ["+filters+"]", 1)
		refuses(t, text, "12: HTTPRoute default/r: spec.rules[0].filters[1]: a redirect and a rewrite cannot stand together")
	}
}
