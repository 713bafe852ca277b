package manifest

import "slices"

// targetRefs name what a policy is for, in place of a selector.
type targetRefs []targetRef

type targetRef struct {
	mark  `refused:"namespace" why:"namespace=the Gateway is in the namespace of the policy; kind=a policy for one Gateway or for a selector is all there is"`
	Group text `json:"group" check:"required enum=gateway.networking.k8s.io"`
	Kind  text `json:"kind" check:"required enum=Gateway not=GatewayClass|Service|ServiceEntry"`
	Name  text `json:"name" check:"required format=subdomain"`
}

// names are those of the Gateways, nil if there are no targetRefs.
func (t targetRefs) names() (all []string) {
	for i := range t {
		all = append(all, t[i].Name.V)
	}
	return all
}

func (t targetRefs) check(s scope, other *selector) {
	if len(t) > 0 && len(other.MatchLabels.V) > 0 {
		s.fault(t[0].mark, "targetRefs stand in place of selector; leave out either")
	}
}

// linkTargets reports the Gateways of targetRefs that are not there. A set
// without a Gateway describes a service, for which these policies are not.
func linkTargets[S any](set *Set, list []*object[S], targets func(*S) targetRefs) {
	if len(set.gateways) == 0 || set.mayLack("Gateway") {
		return
	}
	for _, o := range list {
		for _, t := range targets(&o.Spec) {
			if !slices.ContainsFunc(set.gateways, func(g *object[gatewaySpec]) bool {
				return g.Metadata.Name.V == t.Name.V && g.Metadata.Namespace.V == o.Metadata.Namespace.V
			}) {
				o.scope.fault(t.Name.mark, "there is no Gateway %s/%s", o.Metadata.Namespace.V, t.Name.V)
			}
		}
	}
}
