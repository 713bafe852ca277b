package manifest_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/gatemesh-go/gatemesh"
	"github.com/gatemesh-go/gatemesh/manifest"
	"github.com/gatemesh-go/gatemesh/routing"
)

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
