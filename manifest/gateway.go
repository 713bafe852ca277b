package manifest

import (
	"fmt"
	"slices"
	"strings"
)

// gatewaySpec is the spec of a Gateway.
type gatewaySpec struct {
	mark             `refused:"addresses allowedListeners backendTLS defaultScope infrastructure tls"`
	GatewayClassName text       `json:"gatewayClassName" check:"required format=subdomain"`
	Listeners        []listener `json:"listeners" check:"required items=64"`
}

type listener struct {
	mark          `refused:"tls" why:"tls=certificates are the server's own configuration, so leave tls out and keep protocol HTTPS"`
	Name          text          `json:"name" check:"required format=subdomain"`
	Hostname      text          `json:"hostname" check:"format=hostname"`
	Port          number        `json:"port" check:"required min=1 max=65535"`
	Protocol      text          `json:"protocol" check:"required enum=HTTP|HTTPS not=TLS|TCP|UDP"`
	AllowedRoutes allowedRoutes `json:"allowedRoutes"`
}

type allowedRoutes struct {
	mark       `refused:"kinds"`
	Namespaces routeNamespaces `json:"namespaces"`
}

type routeNamespaces struct {
	mark `refused:"selector"`
	From text `json:"from" check:"default=Same enum=Same|All not=Selector|None"`
}

func (g *gatewaySpec) check(s scope) {
	hosts := make(map[int64][]string) // by port
	seen, protocols, places := make(names), make(map[int64]*listener), make(names)
	for i := range g.Listeners {
		l := &g.Listeners[i]
		if first, twice := seen.first(l.Name.V, l.mark); twice {
			s.fault(l.Name.mark, "%s is the name of %s already", l.Name.V, first.path)
		}
		if other, twice := places.first(fmt.Sprint(l.Port.V, l.Protocol.V, l.Hostname.V), l.mark); twice {
			s.fault(l.mark, "port %d and this hostname are those of %s already", l.Port.V, other.path)
		}
		if first := protocols[l.Port.V]; first == nil {
			protocols[l.Port.V] = l
		} else if first.Protocol.V != l.Protocol.V {
			s.fault(l.Protocol.mark, "port %d is %s in %s already", l.Port.V, first.Protocol.V, first.path)
		}
		hosts[l.Port.V] = append(hosts[l.Port.V], l.Hostname.V)
	}
	// The route table is the same on every port. Where ports listen for
	// different names, it would serve a route where it was not asked to.
	first := &g.Listeners[0]
	for i := range g.Listeners {
		if l := &g.Listeners[i]; !sameNames(hosts[l.Port.V], hosts[first.Port.V]) {
			s.fault(l.Port.mark, "not supported by gatemesh: port %d listens for other hostnames than port %d, and all ports share one route table", l.Port.V, first.Port.V)
		}
	}
}

func sameNames(a, b []string) bool {
	a, b = slices.Sorted(slices.Values(a)), slices.Sorted(slices.Values(b))
	return slices.Equal(slices.Compact(a), slices.Compact(b))
}

func (l *listener) takes(route, gateway string) bool {
	return l.AllowedRoutes.Namespaces.From.V == "All" || route == gateway
}

// attach finds the hostnames under which r is served: the intersection of its
// own and those of the listeners it attaches to. nil stands for every host.
func (set *Set) attach(r *object[httpRouteSpec]) (hostnames []string) {
	own := []text{{}}
	if len(r.Spec.Hostnames) > 0 {
		own = r.Spec.Hostnames
	}
	used := make([]bool, len(own))
	type served struct {
		listener *listener
		attached bool
	}
	var seen []served
	for i := range r.Spec.ParentRefs {
		ref := &r.Spec.ParentRefs[i]
		g := set.gateway(r, ref)
		if g == nil {
			return nil
		}
		before := len(hostnames)
		found, taken := false, false
		for j := range g.Spec.Listeners {
			l := &g.Spec.Listeners[j]
			k := slices.IndexFunc(seen, func(s served) bool { return s.listener == l })
			if k < 0 {
				k = len(seen)
				seen = append(seen, served{listener: l})
			}
			if ref.SectionName.present() && ref.SectionName.V != l.Name.V {
				continue
			}
			found = true
			if !l.takes(r.Metadata.Namespace.V, g.Metadata.Namespace.V) {
				continue
			}
			taken = true
			for n, h := range own {
				if both, ok := intersect(h.V, l.Hostname.V); ok {
					hostnames = append(hostnames, both)
					used[n], seen[k].attached = true, true
				}
			}
		}
		switch {
		case !found:
			r.scope.fault(ref.SectionName.mark, "Gateway %s has no listener %s", g.name(), ref.SectionName.V)
		case !taken:
			r.scope.fault(ref.mark, "Gateway %s takes no routes of namespace %s; its allowedRoutes must say from: All", g.name(), r.Metadata.Namespace.V)
		case len(hostnames) == before:
			r.scope.fault(ref.mark, "no hostname of the route is one that Gateway %s listens for", g.name())
		}
	}
	for n, h := range own {
		if len(hostnames) > 0 && !used[n] {
			r.scope.fault(h.mark, "no parent of the route listens for %s", h.V)
		}
	}
	// Listeners are not told apart when a call is matched, so that one which
	// the route does not attach to must have nothing to do with its hostnames.
	for _, s := range seen {
		for _, h := range hostnames {
			if _, overlap := intersect(h, s.listener.Hostname.V); overlap && !s.attached {
				r.scope.fault(r.Spec.ParentRefs[0].mark, "not supported by gatemesh: listener %s serves these hostnames too, does not take the route, and all listeners share one route table", s.listener.Name.V)
				break
			}
		}
	}
	if slices.Contains(hostnames, "") {
		return nil
	}
	return slices.Compact(slices.Sorted(slices.Values(hostnames)))
}

// gateway returns the Gateway that ref names, or nil and a fault.
func (set *Set) gateway(r *object[httpRouteSpec], ref *parentRef) *object[gatewaySpec] {
	namespace := ref.Namespace.V
	if namespace == "" {
		namespace = r.Metadata.Namespace.V
	}
	name := namespace + "/" + ref.Name.V
	for _, g := range set.gateways {
		if g.name() == name {
			return g
		}
	}
	if !set.mayLack("Gateway") {
		r.scope.fault(ref.Name.mark, "Gateway %s is not loaded", name)
	}
	return nil
}

// intersect returns the more specific of two hostnames if one covers the
// other. "" covers every host, and "*.example.com" all names below it.
func intersect(a, b string) (string, bool) {
	if len(a) < len(b) {
		a, b = b, a
	}
	switch {
	case a == b, b == "":
		return a, true
	case strings.HasPrefix(b, "*.") && strings.HasSuffix(a, b[1:]):
		return a, true
	}
	return "", false
}
