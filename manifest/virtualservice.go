package manifest

import (
	"maps"
	"strings"

	"github.com/gatemesh-go/gatemesh/canary"
	"github.com/gatemesh-go/gatemesh/routing"
)

// virtualServiceSpec is the spec of a VirtualService.
type virtualServiceSpec struct {
	mark     `refused:"exportTo tcp tls"`
	Hosts    []text     `json:"hosts" check:"required"`
	Gateways []text     `json:"gateways"`
	HTTP     []httpRule `json:"http" check:"required"`
}

// httpRule is an HTTPRoute of Istio. Its name is for people, as in Istio.
type httpRule struct {
	mark  `refused:"corsPolicy delegate directResponse fault headers mirror mirrorPercent mirrorPercentage mirrors mirror_percent redirect retries rewrite timeout"`
	Name  text              `json:"name"`
	Match []httpMatch       `json:"match"`
	Route []httpDestination `json:"route" check:"required"`
}

type httpMatch struct {
	mark    `refused:"authority gateways ignoreUriCase method name port queryParams scheme sourceLabels sourceNamespace statPrefix uri withoutHeaders"`
	Headers []headerValue `json:"headers" check:"required keyed format=header"`
}

// headerValue is a StringMatch, one of exact and prefix, under a field name.
type headerValue struct {
	mark   `refused:"regex"`
	Key    text
	Exact  text `json:"exact"`
	Prefix text `json:"prefix"`
}

type httpDestination struct {
	mark        `refused:"headers"`
	Destination destination `json:"destination" check:"required"`
	Weight      number      `json:"weight" check:"max=2147483647"`
}

type destination struct {
	mark
	Host   text `json:"host" check:"required"`
	Subset text `json:"subset" check:"format=label"`
	Port   port `json:"port"`
}

type port struct {
	mark
	Number number `json:"number" check:"required min=1 max=65535"`
}

// destinationRuleSpec is the spec of a DestinationRule.
type destinationRuleSpec struct {
	mark    `refused:"exportTo trafficPolicy workloadSelector"`
	Host    text     `json:"host" check:"required"`
	Subsets []subset `json:"subsets" check:"required"`
}

type subset struct {
	mark   `refused:"trafficPolicy"`
	Name   text   `json:"name" check:"required format=label"`
	Labels labels `json:"labels" check:"required"`
}

func (v *virtualServiceSpec) check(s scope) {
	for _, g := range v.Gateways {
		if g.V != "mesh" {
			s.fault(g.mark, "%s is not supported by gatemesh: a VirtualService applies wherever a client of the mesh calls its host; leave gateways out, or say mesh", quote(g.V))
		}
	}
	for i := range v.HTTP {
		if i > 0 && v.HTTP[i-1].Match == nil {
			s.fault(v.HTTP[i].mark, "is never reached: %s has no match and takes every call", v.HTTP[i-1].path)
		}
	}
}

func (h *headerValue) check(s scope) {
	if h.Exact.present() == h.Prefix.present() {
		s.fault(h.mark, "must have one of exact and prefix")
	}
}

func (m *httpMatch) check(s scope) {
	seen := make(names)
	for _, h := range m.Headers {
		if first, twice := seen.first(strings.ToLower(h.Key.V), h.Key.mark); twice {
			s.fault(h.Key.mark, "the field is matched by %s already", first.path)
		}
	}
}

func (r *httpRule) check(s scope) {
	sum := int64(0)
	for i := range r.Route {
		d := &r.Route[i]
		sum += d.Weight.V
		switch {
		case len(r.Route) == 1 && d.Weight.present() && d.Weight.V == 0:
			s.fault(d.Weight.mark, "the only destination takes every call, also with weight 0; leave weight out")
		case len(r.Route) > 1 && !d.Weight.present():
			s.fault(d.sub("weight"), "is required where there are several destinations; without it, this one would get no calls")
		}
	}
	if len(r.Route) > 1 && sum == 0 {
		s.fault(r.Route[0].sub("weight"), "the weights of all destinations are 0")
	}
}

func (d *destinationRuleSpec) check(s scope) {
	seen := make(names)
	for i := range d.Subsets {
		name := &d.Subsets[i].Name
		if first, twice := seen.first(name.V, d.Subsets[i].mark); twice {
			s.fault(name.mark, "%s is the name of %s already", name.V, first.path)
		}
	}
}

// service is the service that a host of Istio stands for.
type service struct{ name, namespace string }

func (s service) String() string { return s.name + "." + s.namespace }

const clusterSuffix = ".svc.cluster.local"

// resolve reads a host as Istio does: a name without dots is a service of the
// document's namespace, anything else must be fully qualified.
func resolve(s scope, host text, namespace string) (service, bool) {
	out := service{host.V, namespace}
	if short, full := strings.CutSuffix(host.V, clusterSuffix); full {
		out.name, out.namespace, _ = strings.Cut(short, ".")
	}
	if formatFault("label", out.name) != "" || formatFault("label", out.namespace) != "" {
		s.fault(host.mark, "%s is no service: write NAME for one of this namespace, else NAME.NAMESPACE%s", quote(host.V), clusterSuffix)
		return service{}, false
	}
	return out, true
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

// linkServices checks the hosts and subsets of all VirtualServices.
func (set *Set) linkServices() {
	subsets := set.linkSubsets()
	type place struct {
		object *object[virtualServiceSpec]
		at     mark
	}
	first := make(map[service]place)
	for _, v := range set.virtualServices {
		for _, h := range v.Spec.Hosts {
			host, ok := resolve(v.scope, h, v.Metadata.Namespace.V)
			if !ok {
				continue
			}
			if other, twice := first[host]; twice {
				v.scope.fault(h.mark, "%s has a VirtualService already: %s (%s)", host, other.object.name(), other.object.scope.position(other.at))
				continue
			}
			first[host] = place{v, h.mark}
		}
		for i := range v.Spec.HTTP {
			for j := range v.Spec.HTTP[i].Route {
				d := &v.Spec.HTTP[i].Route[j].Destination
				host, ok := resolve(v.scope, d.Host, v.Metadata.Namespace.V)
				if ok && d.Subset.present() && !subsets[host][d.Subset.V] && !set.mayLack("DestinationRule") {
					v.scope.fault(d.Subset.mark, "no DestinationRule for %s has a subset %s", host, d.Subset.V)
				}
			}
		}
	}
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

// Splits returns one Split for each host of each VirtualService, with its rules
// in their order. Each call returns new slices.
func (set *Set) Splits() []canary.Split {
	var out []canary.Split
	for _, v := range set.virtualServices {
		for _, h := range v.Spec.Hosts {
			host, _ := resolve(v.scope, h, v.Metadata.Namespace.V)
			split := canary.Split{Position: v.scope.position(v.mark), Service: host.name, Namespace: host.namespace}
			for i := range v.Spec.HTTP {
				split.Rules = append(split.Rules, v.Spec.HTTP[i].canary(v))
			}
			out = append(out, split)
		}
	}
	return out
}

func (r *httpRule) canary(v *object[virtualServiceSpec]) canary.Rule {
	out := canary.Rule{Position: v.scope.position(r.mark)}
	for _, m := range r.Match {
		var match canary.Match
		for _, h := range m.Headers {
			to := canary.HeaderMatch{Name: h.Key.V, Kind: canary.HeaderExact, Value: h.Exact.V}
			if h.Prefix.present() {
				to.Kind, to.Value = canary.HeaderPrefix, h.Prefix.V
			}
			match.Headers = append(match.Headers, to)
		}
		out.Matches = append(out.Matches, match)
	}
	for i := range r.Route {
		d := &r.Route[i]
		host, _ := resolve(v.scope, d.Destination.Host, v.Metadata.Namespace.V)
		weight := d.Weight.V
		if len(r.Route) == 1 && weight == 0 {
			weight = 100
		}
		out.Targets = append(out.Targets, canary.Target{
			Service: host.name, Namespace: host.namespace, Subset: d.Destination.Subset.V,
			Port: uint16(d.Destination.Port.Number.V), Weight: uint32(weight),
		})
	}
	return out
}
