package manifest_test

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/gatemesh-go/gatemesh"
	"github.com/gatemesh-go/gatemesh/auth/policy"
	"github.com/gatemesh-go/gatemesh/manifest"
)

const authz = `apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: a, namespace: ns}
`

// A policy that says nothing, or something that we cannot judge, refuses
// everybody or is an error. It never matches everything.
func TestAZ06_NothingMeansDeny(t *testing.T) {
	t.Parallel()
	caller := gatemesh.Must(gatemesh.NewPeer("t", "/ns/ns/sa/b", nil))
	call := gatemesh.Must(gatemesh.NewCall(gatemesh.CallInfo{Peer: caller, Path: "/x"}))
	for spec, want := range map[string]string{
		`{}`:                    "",
		`{rules: []}`:           "",
		`{action: ALLOW}`:       "",
		``:                      "a.yaml:1: AuthorizationPolicy ns/a: spec: is required",
		`null`:                  "spec: is null",
		`{rules: null}`:         "spec.rules: is null",
		`{rules: [null]}`:       "spec.rules[0]: is null",
		`{action: DENY}`:        "spec.rules: is required where action is DENY",
		`{action: null}`:        "spec.action: is null",
		`{action: LOG}`:         `spec.action: "LOG" is unknown`,
		`{action: CUSTOM}`:      "spec.rules: is required where action is CUSTOM",
		`{action: AUDIT}`:       "spec.rules: is required where action is AUDIT",
		`{provider: {name: x}}`: "spec.provider: is for action CUSTOM alone",
		`{provider: {}}`:        "spec.provider.name: is required",
		`{targetRef: {}}`:       "spec.targetRef: not supported",
		`{targetRefs: []}`:      "spec.targetRefs: the list is empty",
		`{targetRefs: [{}]}`:    "spec.targetRefs[0].group: is required",
		`{targetRefs: [{group: gateway.networking.k8s.io, kind: GatewayClass, name: x}]}`:                                            "kind: GatewayClass is not supported",
		`{targetRefs: [{group: "", kind: Service, name: x}]}`:                                                                        "group: is empty",
		`{targetRefs: [{group: gateway.networking.k8s.io, kind: Gateway, name: x, namespace: ns}]}`:                                  "namespace: not supported by gatemesh: the Gateway is in the namespace of the policy",
		`{targetRefs: [{group: gateway.networking.k8s.io, kind: Gateway, name: x}], selector: {matchLabels: {app: a}}, rules: [{}]}`: "targetRefs[0]: targetRefs stand in place of selector",
		`{rules: [{}], rule: 1}`: "spec.rule: unknown field",

		`{rules: [{from: null}]}`:                                       "rules[0].from: is null",
		`{rules: [{from: []}]}`:                                         "rules[0].from: the list is empty",
		`{rules: [{from: [{}]}]}`:                                       "rules[0].from[0].source: is required",
		`{rules: [{from: [{source: {}}]}]}`:                             "rules[0].from[0].source: is empty",
		`{rules: [{from: [{source: {principals: []}}]}]}`:               "principals: the list is empty",
		`{rules: [{from: [{source: {principals: null}}]}]}`:             "principals: is null",
		`{rules: [{from: [{source: {notServiceAccounts: []}}]}]}`:       "notServiceAccounts: the list is empty",
		`{rules: [{from: [{source: {trustDomains: [a]}}]}]}`:            "source.trustDomains: not supported by gatemesh: write principals, such as TRUST-DOMAIN/*",
		`{rules: [{from: [{source: {notTrustDomains: [a]}}]}]}`:         "source.notTrustDomains: not supported by gatemesh: write notPrincipals, such as TRUST-DOMAIN/*",
		`{rules: [{from: [{source: {user: [a]}}]}]}`:                    "source.user: unknown field",
		`{rules: [{from: [{source: {notUser: [a]}}]}]}`:                 "source.notUser: unknown field",
		`{rules: [{to: [{operation: {paths: []}}]}]}`:                   "paths: the list is empty",
		`{rules: [{to: [{operation: {notPaths: []}}]}]}`:                "notPaths: the list is empty",
		`{rules: [{to: [{operation: {paths: [""]}}]}]}`:                 "paths[0]: is empty",
		`{rules: [{to: [{operation: {notPaths: ["/{id}"]}}]}]}`:         `notPaths[0]: "/{id}": in a path template`,
		`{rules: [{when: null}]}`:                                       "when: is null",
		`{rules: [{when: []}]}`:                                         "when: the list is empty",
		`{rules: [{when: [{}]}]}`:                                       "when[0].key: is required",
		`{rules: [{when: [{key: source.ip}]}]}`:                         "when[0]: values or notValues is required",
		`{rules: [{when: [{key: source.ip, values: null}]}]}`:           "values: is null",
		`{rules: [{when: [{key: source.ip, values: []}]}]}`:             "values: the list is empty",
		`{rules: [{when: [{key: source.ip, notValues: []}]}]}`:          "notValues: the list is empty",
		`{rules: [{when: [{key: source.ip, value: [a]}]}]}`:             "when[0].value: unknown field",
		`{rules: [{when: [{key: source.labels, values: [a]}]}]}`:        `when[0].key: "source.labels": is not an attribute`,
		`{rules: [{when: [{key: source.labels, notValues: [a]}]}]}`:     `when[0].key: "source.labels": is not an attribute`,
		`{rules: [{when: [{key: source.labels}]}]}`:                     `when[0].key: "source.labels": is not an attribute`,
		`{rules: [{when: [{key: destination.port, notValues: [80]}]}]}`: "notValues[0]: must be a string",
		`{rules: [{when: [{key: "request.headers[a]", values: [1]}]}]}`: "values[0]: must be a string",
	} {
		set, err := manifest.Parse("a.yaml", []byte(authz+"spec: "+spec+"\n"))
		if spec == "" {
			set, err = manifest.Parse("a.yaml", []byte(authz))
		}
		if want != "" {
			assert.ErrorContains(t, err, want, spec)
			assert.ErrorContains(t, err, "a.yaml:", spec)
			assert.Nil(t, set)
			continue
		}
		require.NoError(t, err, spec)
		engine, err := policy.New(policy.Config{
			Workload:   gatemesh.Workload{Name: "w", TrustDomain: "t", Namespace: "ns", ServiceAccount: "w"},
			Unselected: policy.Allow, Policies: set.Policies(), // does not hold: the policy selects
		})
		require.NoError(t, err, spec)
		_, err = engine.Admit(t.Context(), call)
		assert.Error(t, err, spec)
	}
}
