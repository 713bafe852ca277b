package manifest

import (
	"fmt"
	"maps"
	"slices"
	"strconv"

	"go.yaml.in/yaml/v3"

	"github.com/gatemesh-go/gatemesh"
	"github.com/gatemesh-go/gatemesh/mtls"
)

// peerAuthenticationSpec is the spec of a PeerAuthentication. Without a mode,
// it says UNSET.
type peerAuthenticationSpec struct {
	mark
	Selector  selector   `json:"selector"`
	MTLS      mutualTLS  `json:"mtls"`
	PortLevel []portMode `json:"portLevelMtls" check:"keyed format=port"`
}

type mutualTLS struct {
	mark
	Mode text `json:"mode" check:"default=UNSET enum=UNSET|DISABLE|PERMISSIVE|STRICT"`
}

type portMode struct {
	mark
	Key  portKey
	Mode text `json:"mode" check:"default=UNSET enum=UNSET|DISABLE|PERMISSIVE|STRICT"`
}

// portKey is a port as a key of a map: a number to those who write YAML, and a
// string to those who have it from JSON. That it is there once was seen before.
type portKey struct {
	mark
	V uint16
}

func (p *portKey) decode(s scope, n *yaml.Node, c checks) {
	if !s.expect(n, p.mark, yaml.ScalarNode) {
		return
	}
	if wrong := formatFault(c.format, n.Value); wrong != "" {
		s.fault(p.mark, "%s %s", quote(n.Value), wrong)
		return
	}
	v, _ := strconv.ParseUint(n.Value, 10, 16) // it has the format
	p.V = uint16(v)
}

// check refuses what Istio ignores: its reference says that the ports "only
// apply when a workload selector is specified".
func (p *peerAuthenticationSpec) check(s scope) {
	if len(p.PortLevel) > 0 && len(p.Selector.MatchLabels.V) == 0 {
		s.fault(mark{p.PortLevel[0].Key.line, child(p.path, "portLevelMtls")}, "has no effect without selector; give the policy one, or set mtls.mode")
	}
}

// linkPeerAuthentications refuses two policies for the same workloads. Istio
// would take the older one, and a file does not know which that is.
func (set *Set) linkPeerAuthentications() {
	seen := make(map[string]int)
	for i, p := range set.peerAuthentications {
		workloads := fmt.Sprintf("%q %q", p.Metadata.Namespace.V, p.Spec.Selector.MatchLabels.V) // fmt sorts the labels
		at, twice := seen[workloads]
		if !twice {
			seen[workloads] = i
			continue
		}
		if first := set.peerAuthentications[at]; p.name() != first.name() {
			p.scope.fault(p.Metadata.Name.mark, "is for the same workloads as %s (%s); Istio would take the older one, so leave one out",
				first.name(), first.scope.position(first.mark))
		}
	}
}

// A workload and a root namespace that no file can have, for checks that are
// the same for all of them.
var nobody = gatemesh.Workload{Name: "a", TrustDomain: "a", Namespace: ".", ServiceAccount: "a"}

const noNamespace = "/"

// PeerAuthentications returns all PeerAuthentications, in the order of files
// and lines, for [mtls.ResolveModes]. Each call returns new slices and maps.
//
// A selector in the root namespace, and two selectors that both select one
// workload, are for ResolveModes to refuse: files say neither which namespace
// is the root nor which labels workloads have.
func (set *Set) PeerAuthentications() []mtls.PeerAuthentication {
	var out []mtls.PeerAuthentication
	for _, p := range set.peerAuthentications {
		to := mtls.PeerAuthentication{
			Name: p.Metadata.Name.V, Namespace: p.Metadata.Namespace.V,
			Position: p.scope.position(p.mark), Selector: maps.Clone(p.Spec.Selector.MatchLabels.V),
			Modes: mtls.Modes{Default: mode(p.Spec.MTLS.Mode)},
		}
		if len(p.Spec.PortLevel) > 0 {
			to.Modes.Ports = make(map[uint16]mtls.Mode, len(p.Spec.PortLevel))
		}
		for i := range p.Spec.PortLevel {
			to.Modes.Ports[p.Spec.PortLevel[i].Key.V] = mode(p.Spec.PortLevel[i].Mode)
		}
		out = append(out, to)
	}
	return out
}

// mode returns the mode that t spells, which was checked.
func mode(t text) mtls.Mode {
	modes := []mtls.Mode{mtls.ModeUnset, mtls.ModeDisable, mtls.ModePermissive, mtls.ModeStrict}
	i := slices.IndexFunc(modes, func(m mtls.Mode) bool { return m.String() == t.V })
	return modes[max(i, 0)] // an absent mtls has no mode
}
