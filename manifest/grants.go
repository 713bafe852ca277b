package manifest

// referenceGrantSpec is the spec of a ReferenceGrant: who may refer to what is
// in its namespace.
type referenceGrantSpec struct {
	mark
	From []grantFrom `json:"from" check:"required items=16"`
	To   []grantTo   `json:"to" check:"required items=16"`
}

type grantFrom struct {
	mark      `why:"kind=it is not read"`
	Group     text `json:"group" check:"required enum=gateway.networking.k8s.io"`
	Kind      text `json:"kind" check:"required enum=Gateway|HTTPRoute|GRPCRoute not=TCPRoute|TLSRoute|UDPRoute|ListenerSet"`
	Namespace text `json:"namespace" check:"required format=label"`
}

type grantTo struct {
	mark
	Group text `json:"group" check:"required empty"`
	Kind  text `json:"kind" check:"required enum=Service|Secret"`
	Name  text `json:"name" check:"format=subdomain"`
}

func (g *grantTo) check(s scope) {
	if g.Group.V != "" {
		s.fault(g.Group.mark, `%s is not supported by gatemesh; Services and Secrets are in the group ""`, quote(g.Group.V))
	}
}

// grant is what one line of a ReferenceGrant allows. The name "" is every one.
type grant struct{ fromKind, fromNamespace, toKind, toNamespace, name string }

// grants returns what all ReferenceGrants allow.
func (set *Set) grants() map[grant]bool {
	all := make(map[grant]bool)
	for _, g := range set.referenceGrants {
		for _, from := range g.Spec.From {
			for _, to := range g.Spec.To {
				all[grant{from.Kind.V, from.Namespace.V, to.Kind.V, g.Metadata.Namespace.V, to.Name.V}] = true
			}
		}
	}
	return all
}

// linkReference reports a reference into another namespace that nothing there
// allows.
func (set *Set) linkReference(s scope, at mark, allowed map[grant]bool, to grant) {
	if to.toNamespace == to.fromNamespace || set.mayLack("ReferenceGrant") {
		return
	}
	every := to
	every.name = ""
	if !allowed[to] && !allowed[every] {
		s.fault(at, "no ReferenceGrant in namespace %s lets a %s of namespace %s refer to %s %s",
			to.toNamespace, to.fromKind, to.fromNamespace, to.toKind, to.name)
	}
}
