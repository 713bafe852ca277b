package manifest_test

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/gatemesh-go/gatemesh"
	"github.com/gatemesh-go/gatemesh/auth/policy"
	"github.com/gatemesh-go/gatemesh/manifest"
)

const targeted = `apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: main, namespace: edge}
spec: {gatewayClassName: gatemesh, listeners: [{name: http, port: 80, protocol: HTTP}]}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: no-admin, namespace: edge}
spec:
  targetRefs: [{group: gateway.networking.k8s.io, kind: Gateway, name: main}]
  action: DENY
  rules: [{to: [{operation: {paths: [/admin*]}}]}]
---
apiVersion: security.istio.io/v1
kind: RequestAuthentication
metadata: {name: users, namespace: edge}
spec:
  targetRefs: [{group: gateway.networking.k8s.io, kind: Gateway, name: main}]
  jwtRules: [{issuer: "https://idp.example", audiences: [api], jwksUri: "https://idp.example/keys"}]
`

// A policy for a Gateway is for whoever serves it, and for nobody else.
func TestTargetRefs(t *testing.T) {
	t.Parallel()
	set, err := manifest.Parse("a.yaml", []byte(targeted))
	require.NoError(t, err)
	name, namespace := set.Gateway()
	assert.Equal(t, "main edge", name+" "+namespace)
	call := gatemesh.Must(gatemesh.NewCall(gatemesh.CallInfo{Path: "/admin/x"}))
	for _, tt := range []struct {
		what, namespace string
		labels          map[string]string
		is              bool
	}{
		{"the Gateway", "edge", map[string]string{gatemesh.GatewayLabel: "main"}, true},
		{"another Gateway", "edge", map[string]string{gatemesh.GatewayLabel: "other"}, false},
		{"its name in another namespace", "production", map[string]string{gatemesh.GatewayLabel: "main"}, false},
		{"no Gateway", "edge", map[string]string{"app": "main"}, false},
	} {
		w := gatemesh.Workload{Name: "w", TrustDomain: "t", Namespace: tt.namespace, ServiceAccount: "w", Labels: tt.labels}
		for _, root := range []string{"", "edge"} { // targets are never those of every namespace
			engine, err := policy.New(policy.Config{Workload: w, RootNamespace: root, Policies: set.Policies(), Unselected: policy.Allow})
			require.NoError(t, err)
			_, err = engine.Admit(t.Context(), call)
			assert.Equal(t, tt.is, err != nil, "%s, root %q", tt.what, root)
			users, err := set.Authentication(manifest.AuthenticationConfig{Workload: w, RootNamespace: root})
			require.NoError(t, err)
			assert.Equal(t, tt.is, len(users.Config().Issuers) == 1, "%s, root %q", tt.what, root)
			require.NoError(t, users.Close())
		}
	}
}

func TestTargetRefs_Missing(t *testing.T) {
	t.Parallel()
	_, err := manifest.Parse("a.yaml", []byte(strings.ReplaceAll(targeted, "kind: Gateway, name: main", "kind: Gateway, name: mian")))
	require.EqualError(t, err, "a.yaml:10: AuthorizationPolicy edge/no-admin: spec.targetRefs[0].name: there is no Gateway edge/mian\n"+
		"a.yaml:18: RequestAuthentication edge/users: spec.targetRefs[0].name: there is no Gateway edge/mian")
	// What describes a service has no Gateway.
	_, err = manifest.Parse("a.yaml", []byte(targeted[strings.Index(targeted, "---\n")+4:]))
	require.NoError(t, err)
}

func TestGateways_Faults(t *testing.T) {
	t.Parallel()
	for want, p := range map[string]policy.Policy{
		"Gateways: the list is empty":          {Gateways: []string{}},
		"Gateways: stand in place of Selector": {Gateways: []string{"a"}, Selector: map[string]string{"app": "a"}},
		"Gateways: the value is empty":         {Gateways: []string{"a", ""}},
	} {
		p.Name, p.Namespace = "p", "edge"
		_, err := policy.New(policy.Config{
			Workload:   gatemesh.Workload{Name: "w", TrustDomain: "t", Namespace: "edge", ServiceAccount: "w"},
			Unselected: policy.Deny, Policies: []policy.Policy{p},
		})
		assert.ErrorContains(t, err, want)
	}
}
