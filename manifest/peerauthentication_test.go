package manifest_test

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/gatemesh-go/gatemesh"
	"github.com/gatemesh-go/gatemesh/manifest"
	"github.com/gatemesh-go/gatemesh/mtls"
)

// peers takes a mesh step by step from plain text to mutual TLS.
const peers = `apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata:
  name: default
  namespace: istio-system
spec:
  mtls:
    mode: STRICT
---
apiVersion: security.istio.io/v1beta1
kind: PeerAuthentication
metadata:
  name: default
  namespace: production
spec:
  mtls:
    mode: PERMISSIVE
---
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata:
  name: payment-service
  namespace: production
spec:
  selector:
    matchLabels:
      app: payment-service
  mtls:
    mode: STRICT
  portLevelMtls:
    8080:
      mode: PERMISSIVE
    "9090":
      mode: DISABLE
    9091: {}
---
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata:
  name: order-service
  namespace: production
spec:
  selector:
    matchLabels:
      app: order-service
`

func TestPeerAuthentications(t *testing.T) {
	t.Parallel()
	set, err := manifest.Parse("peers.yaml", []byte(peers))
	require.NoError(t, err)
	at := func(line int) gatemesh.Position { return gatemesh.Position{File: "peers.yaml", Line: line} }
	want := []mtls.PeerAuthentication{
		{Name: "default", Namespace: "istio-system", Position: at(1), Modes: mtls.Modes{Default: mtls.ModeStrict}},
		{Name: "default", Namespace: "production", Position: at(10), Modes: mtls.Modes{Default: mtls.ModePermissive}},
		{
			Name: "payment-service", Namespace: "production", Position: at(19),
			Selector: map[string]string{"app": "payment-service"},
			Modes: mtls.Modes{Default: mtls.ModeStrict, Ports: map[uint16]mtls.Mode{
				8080: mtls.ModePermissive, 9090: mtls.ModeDisable, 9091: mtls.ModeUnset,
			}},
		},
		{Name: "order-service", Namespace: "production", Position: at(37), Selector: map[string]string{"app": "order-service"}},
	}
	got := set.PeerAuthentications()
	assert.Equal(t, want, got)
	got[2].Modes.Ports[8080], got[2].Selector["app"] = mtls.ModeDisable, "x"
	assert.Equal(t, want, set.PeerAuthentications(), "each call returns new maps")

	for name, want := range map[string]map[uint16]mtls.Mode{
		"payment-service": {1: mtls.ModeStrict, 8080: mtls.ModePermissive, 9090: mtls.ModeDisable, 9091: mtls.ModeStrict},
		"order-service":   {1: mtls.ModePermissive, 8080: mtls.ModePermissive},
	} {
		modes, err := mtls.ResolveModes(mtls.ModesConfig{
			Workload: gatemesh.Workload{
				Name: name, TrustDomain: "cluster.local", Namespace: "production", ServiceAccount: name,
				Labels: map[string]string{"app": name},
			},
			Policies: set.PeerAuthentications(),
		})
		require.NoError(t, err)
		for port, mode := range want {
			assert.Equal(t, mode, modes.For(port), "%s:%d", name, port)
		}
	}
}

func TestPeerAuthentication_Faults(t *testing.T) {
	t.Parallel()
	const inPayment = "PeerAuthentication production/payment-service: "
	for name, tt := range map[string]struct{ old, new, want string }{
		"mode":              {"    mode: PERMISSIVE\n---", "    mode: permissive\n---", `f:17: PeerAuthentication production/default: spec.mtls.mode: "permissive" is unknown; it must be UNSET or DISABLE or PERMISSIVE or STRICT`},
		"field":             {"  mtls:\n    mode: PERMISSIVE\n---", "  mtls:\n    mode: PERMISSIVE\n    modes: x\n---", "f:18: PeerAuthentication production/default: spec.mtls.modes: unknown field"},
		"field of a port":   {"8080:\n      mode: PERMISSIVE", "8080:\n      mode: PERMISSIVE\n      x: y", "f:33: " + inPayment + "spec.portLevelMtls.8080.x: unknown field"},
		"mode of a port":    {"8080:\n      mode: PERMISSIVE", "8080:\n      mode: MUTUAL", "f:32: " + inPayment + `spec.portLevelMtls.8080.mode: "MUTUAL" is unknown; it must be UNSET or DISABLE or PERMISSIVE or STRICT`},
		"port 0":            {"8080:", "0:", "f:31: " + inPayment + `spec.portLevelMtls.0: "0" is not a port, 1 to 65535, in plain decimal digits`},
		"port too large":    {"8080:", "65536:", "f:31: " + inPayment + `spec.portLevelMtls.65536: "65536" is not a port, 1 to 65535, in plain decimal digits`},
		"port in hex":       {"8080:", "0x1f90:", "f:31: " + inPayment + `spec.portLevelMtls.0x1f90: "0x1f90" is not a port, 1 to 65535, in plain decimal digits`},
		"port by name":      {"8080:", "http:", "f:31: " + inPayment + `spec.portLevelMtls.http: "http" is not a port, 1 to 65535, in plain decimal digits`},
		"port is null":      {"9091: {}", "9091:", "f:35: " + inPayment + "spec.portLevelMtls.9091: is null; give it a value, or leave it out"},
		"ports empty":       {"    8080:\n      mode: PERMISSIVE\n    \"9090\":\n      mode: DISABLE\n    9091: {}", "    {}", "f:31: " + inPayment + "spec.portLevelMtls: the map is empty; fill it, or leave it out"},
		"ports of everyone": {"  selector:\n    matchLabels:\n      app: payment-service\n", "", "f:28: " + inPayment + "spec.portLevelMtls: has no effect without selector; give the policy one, or set mtls.mode"},
		"selector empty":    {"selector:\n    matchLabels:\n      app: payment-service", "selector: {}", "f:25: " + inPayment + "spec.selector.matchLabels: is required"},
		"version":           {"security.istio.io/v1beta1", "security.istio.io/v1alpha1", `f:10: PeerAuthentication production/default: apiVersion: "security.istio.io/v1alpha1" is not supported; it must be security.istio.io/v1 or security.istio.io/v1beta1`},
		"one scope":         {"app: order-service", "app: payment-service", "f:40: PeerAuthentication production/order-service: metadata.name: is for the same workloads as production/payment-service (f:19); Istio would take the older one, so leave one out"},
		"one namespace":     {"  selector:\n    matchLabels:\n      app: order-service\n", "  mtls: {mode: STRICT}\n", "f:40: PeerAuthentication production/order-service: metadata.name: is for the same workloads as production/default (f:10); Istio would take the older one, so leave one out"},
		"one name":          {"name: order-service", "name: payment-service", "f:40: PeerAuthentication production/payment-service: metadata.name: there is another one of this name, in f"},
		"annotation":        {"name: order-service\n", "name: order-service\n  annotations: {istio.io/dry-run: \"true\"}\n", "f:41: PeerAuthentication production/order-service: metadata.annotations[\"istio.io/dry-run\"]: not supported by gatemesh: annotations of istio.io change what the object does"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			after := strings.Replace(peers, tt.old, tt.new, 1)
			require.NotEqual(t, peers, after, "the change applies")
			set, err := manifest.Parse("f", []byte(after))
			assert.Nil(t, set)
			assert.EqualError(t, err, tt.want)
		})
	}
}

// 8080 and "8080" are two keys to YAML, and one port.
func TestPeerAuthentication_PortTwice(t *testing.T) {
	t.Parallel()
	_, err := manifest.Parse("f", []byte(strings.Replace(peers, `"9090"`, `"8080"`, 1)))
	assert.EqualError(t, err, "f:33: spec.portLevelMtls.8080: the field stands in line 31 already")
}

// Numbers are keys in no other place.
func TestPeerAuthentication_NumberAsKey(t *testing.T) {
	t.Parallel()
	_, err := manifest.Parse("f", []byte(strings.Replace(peers, "app: payment-service", "8080: x", 1)))
	assert.ErrorContains(t, err, "f:27: spec.selector.matchLabels.8080: the key is not a string; quote it")
}
