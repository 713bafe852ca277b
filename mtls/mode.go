package mtls

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/gatemesh-go/gatemesh"
)

// Mode says whether callers come with mutual TLS, as the mode of Istio's
// PeerAuthentication does.
type Mode uint8

// The modes.
const (
	// ModeUnset leaves it to the wider scope. Where nobody has set a mode, it is
	// [ModeStrict]. In Istio it would be PERMISSIVE; here, plain text is let in
	// only where somebody wrote so.
	ModeUnset Mode = iota
	// ModeDisable takes new connections in plain text and no others, so that
	// nobody new has a Peer.
	ModeDisable
	// ModePermissive takes mutual TLS and plain text on the same port, for as
	// long as some callers cannot do better. Plain-text callers have no Peer.
	// Callers with TLS are verified as in ModeStrict: one without a certificate
	// is refused, as Istio does. What goes in plain text can be read and sent
	// again by others, signed identities of users included: a policy that names
	// principals keeps it away from what matters.
	ModePermissive
	// ModeStrict takes mutual TLS and nothing else.
	ModeStrict
)

var modeNames = [...]string{"UNSET", "DISABLE", "PERMISSIVE", "STRICT"}

// String returns the mode as PeerAuthentication spells it.
func (m Mode) String() string {
	if int(m) < len(modeNames) {
		return modeNames[m]
	}
	return fmt.Sprintf("Mode(%d)", uint8(m))
}

// Modes are the modes of the ports of a workload. The zero Modes is ModeStrict
// for every port. Its ports are those that we listen on, not those of a
// Kubernetes Service.
type Modes struct {
	// Default is the mode of every port that Ports does not have.
	Default Mode
	// Ports are the modes of single ports; ModeUnset is Default.
	Ports map[uint16]Mode
}

// For returns the mode of a port, which is never ModeUnset. Port 0 is one that
// is not known: it has the strictest mode that there is.
func (m Modes) For(port uint16) Mode {
	mode := cmp.Or(m.Ports[port], m.Default, ModeStrict)
	if port == 0 {
		for _, other := range m.Ports {
			mode = max(mode, other)
		}
	}
	return mode
}

// check reports the modes that there are not.
func (m Modes) check(field string) (errs []error) {
	if m.Default > ModeStrict {
		errs = append(errs, fmt.Errorf("mtls: %s.Default: there is no %s", field, m.Default))
	}
	for _, port := range slices.Sorted(maps.Keys(m.Ports)) {
		switch {
		case port == 0:
			errs = append(errs, fmt.Errorf("mtls: %s.Ports: 0 is not a port", field))
		case m.Ports[port] > ModeStrict:
			errs = append(errs, fmt.Errorf("mtls: %s.Ports[%d]: there is no %s", field, port, m.Ports[port]))
		}
	}
	return errs
}

// PeerAuthentication is a policy of this kind of Istio, as it is written:
// package manifest reads it from YAML.
type PeerAuthentication struct {
	// Name and Namespace are those of the object. Required.
	Name, Namespace string
	// Position is where it was written.
	Position gatemesh.Position
	// Selector are labels that a workload of the namespace must have. Without
	// them, the policy is for all workloads of the namespace, or of the mesh if
	// that is the root namespace.
	Selector map[string]string
	// Modes are the mode and the modes of ports, which need a Selector.
	Modes Modes
}

func (p *PeerAuthentication) String() string {
	s := fmt.Sprintf("PeerAuthentication %s/%s", p.Namespace, p.Name)
	if p.Position.File != "" {
		s = p.Position.String() + ": " + s
	}
	return s
}

// ModesConfig is what [ResolveModes] needs to know. The zero ModesConfig is
// invalid: Workload is required.
type ModesConfig struct {
	// Workload says who we are. Required.
	Workload gatemesh.Workload
	// RootNamespace is the namespace whose policy is for the whole mesh.
	// Default: "istio-system".
	RootNamespace string
	// Policies are those of the mesh, in any order. Those that are for others
	// are checked, too. Default: none.
	Policies []PeerAuthentication
}

// ResolveModes returns the modes of a workload. The narrowest scope that sets a
// mode wins: the port, then the policy that selects the workload, then that of
// its namespace, then that of the mesh.
//
// It reports every fault at once. Where Istio would ignore something, or take
// the oldest of several policies, there is an error: two policies of one scope,
// ports without a selector, a selector in the root namespace.
func ResolveModes(cfg ModesConfig) (Modes, error) {
	var errs []error
	if err := cfg.Workload.Validate(); err != nil {
		errs = append(errs, fmt.Errorf("mtls: ModesConfig.Workload: %w", err))
	}
	root := cmp.Or(cfg.RootNamespace, "istio-system")
	scopes := make(map[string]*PeerAuthentication)
	var mesh, namespace, workload *PeerAuthentication
	for i := range cfg.Policies {
		p := &cfg.Policies[i]
		errs = append(errs, p.check(root)...)
		scope := p.scope()
		if first := scopes[scope]; first != nil {
			errs = append(errs, fmt.Errorf("mtls: %s: %s is for the same workloads; Istio would take the older one", p, first))
			continue
		}
		scopes[scope] = p
		switch {
		case len(p.Selector) == 0 && p.Namespace == root:
			mesh = p
		case p.Namespace != cfg.Workload.Namespace:
		case len(p.Selector) == 0:
			namespace = p
		case !cfg.Workload.HasLabels(p.Selector):
		case workload != nil:
			errs = append(errs, fmt.Errorf("mtls: %s: %s selects %s, too; Istio would take the older one", p, workload, cfg.Workload.Name))
		default:
			workload = p
		}
	}
	if err := errors.Join(errs...); err != nil {
		return Modes{}, err
	}
	var out Modes
	for _, p := range []*PeerAuthentication{mesh, namespace, workload} {
		if p != nil {
			out.Default = cmp.Or(p.Modes.Default, out.Default)
			out.Ports = maps.Clone(p.Modes.Ports) // of the last one, as only a selector has some
		}
	}
	return out, nil
}

func (p *PeerAuthentication) check(root string) (errs []error) {
	fault := func(format string, args ...any) {
		errs = append(errs, fmt.Errorf("mtls: %s: %s", p, fmt.Sprintf(format, args...)))
	}
	if p.Name == "" || p.Namespace == "" {
		fault("Name and Namespace are required")
	}
	for _, err := range p.Modes.check("Modes") {
		fault("%s", strings.TrimPrefix(err.Error(), "mtls: "))
	}
	if len(p.Modes.Ports) > 0 && len(p.Selector) == 0 {
		fault("Modes.Ports have no effect without a Selector")
	}
	if len(p.Selector) > 0 && p.Namespace == root {
		fault("a Selector has no effect in the root namespace")
	}
	return errs
}

// scope says which workloads p is for.
func (p *PeerAuthentication) scope() string {
	var b strings.Builder
	b.WriteString(p.Namespace)
	for _, k := range slices.Sorted(maps.Keys(p.Selector)) {
		fmt.Fprintf(&b, " %q=%q", k, p.Selector[k])
	}
	return b.String()
}
