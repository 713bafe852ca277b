package mtls_test

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/gatemesh-go/gatemesh"
	"github.com/gatemesh-go/gatemesh/mtls"
)

func TestModes_For(t *testing.T) {
	t.Parallel()
	assert.Equal(t, mtls.ModeStrict, mtls.Modes{}.For(80), "the zero Modes")
	m := mtls.Modes{Default: mtls.ModePermissive, Ports: map[uint16]mtls.Mode{
		1: mtls.ModeDisable, 2: mtls.ModeStrict, 3: mtls.ModeUnset,
	}}
	for port, want := range map[uint16]mtls.Mode{
		1: mtls.ModeDisable, 2: mtls.ModeStrict, 3: mtls.ModePermissive, 4: mtls.ModePermissive,
		0: mtls.ModeStrict, // unknown
	} {
		assert.Equal(t, want, m.For(port), "port %d", port)
	}
	assert.Equal(t, mtls.ModePermissive, mtls.Modes{Default: mtls.ModePermissive}.For(0))
	assert.Equal(t, []string{"UNSET", "DISABLE", "PERMISSIVE", "STRICT", "Mode(4)"}, []string{
		mtls.ModeUnset.String(), mtls.ModeDisable.String(), mtls.ModePermissive.String(), mtls.ModeStrict.String(), mtls.Mode(4).String(),
	})
}

var payment = gatemesh.Workload{
	Name: "payment", TrustDomain: "cluster.local", Namespace: "prod", ServiceAccount: "payment",
	Labels: map[string]string{"app": "payment", "tier": "back"},
}

// policyOf returns a PeerAuthentication with one label or none.
func policyOf(namespace, name, app string, mode mtls.Mode) mtls.PeerAuthentication {
	p := mtls.PeerAuthentication{
		Name: name, Namespace: namespace, Modes: mtls.Modes{Default: mode},
		Position: gatemesh.Position{File: name + ".yaml", Line: 1},
	}
	if app != "" {
		p.Selector = map[string]string{"app": app}
	}
	return p
}

func withPorts(p mtls.PeerAuthentication, ports map[uint16]mtls.Mode) mtls.PeerAuthentication {
	p.Modes.Ports = ports
	return p
}

// The narrowest scope that says something wins, in whatever order they stand.
func TestResolveModes(t *testing.T) {
	t.Parallel()
	const (
		unset, disable, permissive, strict = mtls.ModeUnset, mtls.ModeDisable, mtls.ModePermissive, mtls.ModeStrict

		root = "istio-system"
	)
	ports := map[uint16]mtls.Mode{8080: disable, 9090: unset}
	for name, tt := range map[string]struct {
		policies        []mtls.PeerAuthentication
		main, port, url mtls.Mode // of ports 443, 8080, 9090
	}{
		"nothing":                {nil, strict, strict, strict},
		"mesh":                   {[]mtls.PeerAuthentication{policyOf(root, "m", "", permissive)}, permissive, permissive, permissive},
		"mesh unset":             {[]mtls.PeerAuthentication{policyOf(root, "m", "", unset)}, strict, strict, strict},
		"namespace over mesh":    {[]mtls.PeerAuthentication{policyOf(root, "m", "", strict), policyOf("prod", "n", "", permissive)}, permissive, permissive, permissive},
		"namespace unset":        {[]mtls.PeerAuthentication{policyOf("prod", "n", "", unset), policyOf(root, "m", "", permissive)}, permissive, permissive, permissive},
		"another namespace":      {[]mtls.PeerAuthentication{policyOf(root, "m", "", permissive), policyOf("dev", "n", "", disable)}, permissive, permissive, permissive},
		"workload over all":      {[]mtls.PeerAuthentication{policyOf("prod", "w", "payment", strict), policyOf("prod", "n", "", permissive), policyOf(root, "m", "", disable)}, strict, strict, strict},
		"workload unset":         {[]mtls.PeerAuthentication{policyOf("prod", "w", "payment", unset), policyOf("prod", "n", "", permissive)}, permissive, permissive, permissive},
		"another workload":       {[]mtls.PeerAuthentication{policyOf("prod", "w", "order", disable), policyOf("prod", "n", "", permissive)}, permissive, permissive, permissive},
		"same label elsewhere":   {[]mtls.PeerAuthentication{policyOf("dev", "w", "payment", disable)}, strict, strict, strict},
		"ports":                  {[]mtls.PeerAuthentication{withPorts(policyOf("prod", "w", "payment", permissive), ports)}, permissive, disable, permissive},
		"ports of unset":         {[]mtls.PeerAuthentication{withPorts(policyOf("prod", "w", "payment", unset), ports), policyOf("prod", "n", "", permissive)}, permissive, disable, permissive},
		"ports of somebody else": {[]mtls.PeerAuthentication{withPorts(policyOf("prod", "w", "order", permissive), ports)}, strict, strict, strict},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			modes, err := mtls.ResolveModes(mtls.ModesConfig{Workload: payment, Policies: tt.policies})
			require.NoError(t, err)
			assert.Equal(t, []mtls.Mode{tt.main, tt.port, tt.url}, []mtls.Mode{modes.For(443), modes.For(8080), modes.For(9090)})
		})
	}
	modes, err := mtls.ResolveModes(mtls.ModesConfig{
		Workload: payment, RootNamespace: "mesh",
		Policies: []mtls.PeerAuthentication{policyOf("mesh", "m", "", permissive), policyOf(root, "n", "", disable)},
	})
	require.NoError(t, err)
	assert.Equal(t, permissive, modes.For(1))
}

// A workload of the root namespace has the policy of the mesh once.
func TestResolveModes_InRoot(t *testing.T) {
	t.Parallel()
	w := payment
	w.Namespace = "istio-system"
	modes, err := mtls.ResolveModes(mtls.ModesConfig{Workload: w, Policies: []mtls.PeerAuthentication{
		policyOf("istio-system", "m", "", mtls.ModePermissive),
	}})
	require.NoError(t, err)
	assert.Equal(t, mtls.ModePermissive, modes.For(1))
}

func TestResolveModes_Faults(t *testing.T) {
	t.Parallel()
	both := policyOf("prod", "b", "", mtls.ModeStrict)
	both.Selector = map[string]string{"tier": "back"}
	_, err := mtls.ResolveModes(mtls.ModesConfig{
		Policies: []mtls.PeerAuthentication{
			policyOf("prod", "n1", "", mtls.ModeStrict), policyOf("prod", "n2", "", mtls.ModePermissive),
			policyOf("dev", "w1", "x", mtls.ModeStrict), policyOf("dev", "w2", "x", mtls.ModeStrict),
			withPorts(policyOf("qa", "p", "", mtls.ModeStrict), map[uint16]mtls.Mode{1: mtls.ModeDisable}),
			policyOf("istio-system", "s", "x", mtls.ModeStrict),
			withPorts(policyOf("qa", "o", "x", 9), map[uint16]mtls.Mode{0: mtls.ModeStrict, 2: 7}),
			{},
		},
	})
	require.Error(t, err)
	for _, want := range []string{
		"ModesConfig.Workload: gatemesh: Workload.Name is required",
		"mtls: n2.yaml:1: PeerAuthentication prod/n2: n1.yaml:1: PeerAuthentication prod/n1 is for the same workloads; Istio would take the older one",
		"mtls: w2.yaml:1: PeerAuthentication dev/w2: w1.yaml:1: PeerAuthentication dev/w1 is for the same workloads; Istio would take the older one",
		"mtls: p.yaml:1: PeerAuthentication qa/p: Modes.Ports have no effect without a Selector",
		"mtls: s.yaml:1: PeerAuthentication istio-system/s: a Selector has no effect in the root namespace",
		"mtls: o.yaml:1: PeerAuthentication qa/o: Modes.Default: there is no Mode(9)",
		"mtls: o.yaml:1: PeerAuthentication qa/o: Modes.Ports: 0 is not a port",
		"mtls: o.yaml:1: PeerAuthentication qa/o: Modes.Ports[2]: there is no Mode(7)",
		"mtls: PeerAuthentication /: Name and Namespace are required",
	} {
		assert.ErrorContains(t, err, want)
	}

	two := []mtls.PeerAuthentication{policyOf("prod", "a", "payment", mtls.ModePermissive), both}
	_, err = mtls.ResolveModes(mtls.ModesConfig{Workload: payment, Policies: two})
	assert.EqualError(t, err, "mtls: b.yaml:1: PeerAuthentication prod/b: a.yaml:1: PeerAuthentication prod/a selects payment, too; Istio would take the older one")
	other := payment
	other.Labels = map[string]string{"tier": "back"}
	modes, err := mtls.ResolveModes(mtls.ModesConfig{Workload: other, Policies: two})
	require.NoError(t, err, "nobody is selected by both")
	assert.Equal(t, mtls.ModeStrict, modes.For(1))
}

func TestNew_Modes(t *testing.T) {
	t.Parallel()
	_, m, _, s, _ := pair(t)
	err := m.Update(mtls.Config{Source: s, Authorize: deny, Modes: mtls.Modes{Default: 4, Ports: map[uint16]mtls.Mode{0: mtls.ModeStrict}}})
	assert.ErrorContains(t, err, "mtls: Config.Modes.Default: there is no Mode(4)")
	assert.ErrorContains(t, err, "mtls: Config.Modes.Ports: 0 is not a port")
}
