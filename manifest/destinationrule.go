package manifest

import (
	"maps"

	"github.com/gatemesh-go/gatemesh/routing"
)

// destinationRuleSpec is the spec of a DestinationRule.
type destinationRuleSpec struct {
	mark          `refused:"exportTo workloadSelector" why:"exportTo=every reader of the folder sees it; workloadSelector=it is for every caller that reads the folder"`
	Host          text          `json:"host" check:"required"`
	Subsets       []subset      `json:"subsets"`
	TrafficPolicy trafficPolicy `json:"trafficPolicy"`
}

type subset struct {
	mark
	Name          text          `json:"name" check:"required format=label"`
	Labels        labels        `json:"labels" check:"required"`
	TrafficPolicy trafficPolicy `json:"trafficPolicy"`
}

func (d *destinationRuleSpec) check(s scope) {
	if d.Subsets == nil && !d.TrafficPolicy.present() {
		s.fault(d.mark, "says nothing; it must have subsets or a trafficPolicy")
	}
	seen := make(names)
	for i := range d.Subsets {
		name := &d.Subsets[i].Name
		if first, twice := seen.first(name.V, d.Subsets[i].mark); twice {
			s.fault(name.mark, "%s is the name of %s already", name.V, first.path)
		}
	}
}

// linkSubsets finds the subsets of all services.
func (set *Set) linkSubsets() map[service]map[string]bool {
	subsets := make(map[service]map[string]bool)
	first := make(map[service]*object[destinationRuleSpec])
	for _, d := range set.destinationRules {
		host, ok := resolve(d.scope, d.Spec.Host, d.Metadata.Namespace.V)
		if !ok {
			continue
		}
		set.ruleOf[host] = d
		if other := first[host]; other != nil {
			d.scope.fault(d.Spec.Host.mark, "%s has a DestinationRule already: %s (%s)", host, other.name(), other.scope.position(other.Spec.Host.mark))
		} else {
			first[host], subsets[host] = d, make(map[string]bool)
		}
		for i := range d.Spec.Subsets {
			subsets[host][d.Spec.Subsets[i].Name.V] = true
		}
	}
	return subsets
}

// Subsets returns the subsets of all DestinationRules. Each call returns new
// slices and maps.
func (set *Set) Subsets() []routing.Subset {
	var out []routing.Subset
	for _, d := range set.destinationRules {
		host, _ := resolve(d.scope, d.Spec.Host, d.Metadata.Namespace.V)
		for i := range d.Spec.Subsets {
			s := &d.Spec.Subsets[i]
			out = append(out, routing.Subset{
				Position: d.scope.position(s.mark), Service: host.name, Namespace: host.namespace,
				Name: s.Name.V, Labels: maps.Clone(s.Labels.V),
			})
		}
	}
	return out
}
