package manifest

import (
	"cmp"
	"slices"
	"strings"
	"time"
)

// parentRef names a Gateway that a route wants to be served by.
type parentRef struct {
	mark        `why:"kind=a VirtualService says what is done with calls to a Service, and there are no ListenerSets"`
	Group       text   `json:"group" check:"enum=gateway.networking.k8s.io"`
	Kind        text   `json:"kind" check:"enum=Gateway not=Service|ListenerSet|XListenerSet"`
	Name        text   `json:"name" check:"required format=subdomain"`
	Namespace   text   `json:"namespace" check:"format=label"`
	SectionName text   `json:"sectionName" check:"format=subdomain"`
	Port        number `json:"port" check:"min=1 max=65535"`
}

// checkParents reports two references to one and the same place, and one to a
// Gateway beside one to a part of it, as the CRD does.
func checkParents(s scope, refs []parentRef) {
	type gateway struct{ namespace, name string }
	type place struct {
		gateway
		section string
		port    int64
	}
	seen, parents := make(map[place]mark), make(map[gateway]*parentRef)
	for i := range refs {
		r := &refs[i]
		g := gateway{r.Namespace.V, r.Name.V}
		p := place{g, r.SectionName.V, r.Port.V}
		if first, twice := seen[p]; twice {
			s.fault(r.mark, "is the same parent as %s", first.path)
			continue
		}
		seen[p] = r.mark
		first := parents[g]
		if first == nil {
			parents[g] = r
			continue
		}
		if first.SectionName.present() != r.SectionName.present() || first.Port.present() != r.Port.present() {
			s.fault(r.mark, "names a part of the Gateway, or all of it, and %s the other: with several references to one Gateway, "+
				"each must have a sectionName or none, and each a port or none", first.path)
		}
	}
}

// aRoute is an HTTPRoute or a GRPCRoute, as far as both are served alike.
type aRoute struct {
	key       any // the object
	kind      string
	scope     scope
	mark      mark
	name      string // namespace/name
	namespace string
	parents   []parentRef
	hostnames []text
}

func asRoute[S any](kind string, o *object[S], parents []parentRef, hostnames []text) aRoute {
	return aRoute{o, kind, o.scope, o.mark, o.name(), o.Metadata.Namespace.V, parents, hostnames}
}

// attachment says which listeners of a Gateway serve a route.
type attachment struct {
	gateway   *object[gatewaySpec]
	listeners []*listener
}

// attach finds the listeners that serve r.
func (set *Set) attach(r *aRoute) (all []attachment) {
	for i := range r.parents {
		ref := &r.parents[i]
		g := set.parent(r, ref)
		if g == nil {
			continue
		}
		k := slices.IndexFunc(all, func(a attachment) bool { return a.gateway == g })
		if k < 0 {
			k = len(all)
			all = append(all, attachment{gateway: g})
		}
		found, taken, shared := false, "", false
		for j := range g.Spec.Listeners {
			l := &g.Spec.Listeners[j]
			if ref.SectionName.present() && ref.SectionName.V != l.Name.V || ref.Port.present() && ref.Port.V != l.Port.V {
				continue
			}
			found = true
			if why := set.refuses(g, l, r); why != "" {
				taken = cmp.Or(taken, why)
				continue
			}
			taken = "yes"
			if !shares(r.hostnames, l.Hostname.V) {
				continue
			}
			shared = true
			if !slices.Contains(all[k].listeners, l) {
				all[k].listeners = append(all[k].listeners, l)
			}
		}
		switch {
		case !found && ref.SectionName.present():
			r.scope.fault(ref.SectionName.mark, "Gateway %s has no listener %s%s", g.name(), ref.SectionName.V, atPort(ref))
		case !found:
			r.scope.fault(ref.Port.mark, "Gateway %s has no listener%s", g.name(), atPort(ref))
		case taken != "yes":
			r.scope.fault(ref.mark, "Gateway %s takes no %s of namespace %s; %s", g.name(), r.kind, r.namespace, taken)
		case !shared:
			r.scope.fault(ref.mark, "no hostname of the route is one that Gateway %s listens for", g.name())
		}
	}
	return all
}

func atPort(ref *parentRef) string {
	if !ref.Port.present() {
		return ""
	}
	return " with this port"
}

// refuses says what would have to change for l to take r, or "" if it does.
func (set *Set) refuses(g *object[gatewaySpec], l *listener, r *aRoute) string {
	a := &l.AllowedRoutes
	if len(a.Kinds) > 0 && !slices.ContainsFunc(a.Kinds, func(k routeKind) bool { return k.Kind.V == r.kind }) {
		return "its allowedRoutes must have the kind " + r.kind
	}
	switch a.Namespaces.From.V {
	case "All":
		return ""
	case "Selector":
		if set.mayLack("Namespace") || a.Namespaces.Selector.selects(set.labelsOf(r.namespace)) {
			return ""
		}
		return "the selector of its allowedRoutes must select the labels of the Namespace, which are read from a Namespace in the folder"
	}
	if r.namespace == g.Metadata.Namespace.V {
		return ""
	}
	return "its allowedRoutes must say from: All"
}

// parent returns the Gateway that ref names, or nil and a fault.
func (set *Set) parent(r *aRoute, ref *parentRef) *object[gatewaySpec] {
	name := cmp.Or(ref.Namespace.V, r.namespace) + "/" + ref.Name.V
	if g := set.gatewayOf[name]; g != nil {
		return g
	}
	if !set.mayLack("Gateway") {
		r.scope.fault(ref.Name.mark, "Gateway %s is not loaded", name)
	}
	return nil
}

// shares reports whether a listener for hostname serves any of hostnames, which
// is true of none, because that is every host.
func shares(hostnames []text, hostname string) bool {
	return len(hostnames) == 0 || slices.ContainsFunc(hostnames, func(h text) bool {
		_, ok := intersect(h.V, hostname)
		return ok
	})
}

// intersect returns the more specific of two hostnames if one covers the
// other. "" covers every host, and "*.example.com" all names below it.
func intersect(a, b string) (string, bool) {
	if len(a) < len(b) || len(a) == len(b) && strings.HasPrefix(a, "*.") {
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

// linkKinds reports hostnames that a listener would serve by an HTTPRoute and by
// a GRPCRoute, which the Gateway API rules out.
func (set *Set) linkKinds(http, grpc []aRoute) {
	if len(http) == 0 || len(grpc) == 0 {
		return
	}
	taken := make(map[*listener]*hostIndex)
	each := func(routes []aRoute, do func(r *aRoute, l *listener, hostname string)) {
		for i := range routes {
			r := &routes[i]
			for _, a := range set.attached[r.key] {
				for _, l := range a.listeners {
					for _, h := range hostsOf(r.hostnames) {
						if both, ok := intersect(h.V, l.Hostname.V); ok {
							do(r, l, both)
						}
					}
				}
			}
		}
	}
	each(http, func(r *aRoute, l *listener, hostname string) {
		if taken[l] == nil {
			taken[l] = &hostIndex{map[string]*aRoute{}, map[string]*aRoute{}}
		}
		taken[l].add(hostname, r)
	})
	said := map[*aRoute]bool{}
	each(grpc, func(r *aRoute, l *listener, hostname string) {
		if taken[l] == nil || said[r] {
			return
		}
		if other := taken[l].find(hostname); other != nil {
			said[r] = true
			r.scope.fault(r.mark, "listener %s has %s %s (%s) for these hostnames already, and the Gateway API allows one kind of route for a hostname",
				l.Name.V, other.kind, other.name, other.scope.position(other.mark))
		}
	})
}

func hostsOf(hostnames []text) []text {
	if len(hostnames) == 0 {
		return []text{{}}
	}
	return hostnames
}

// hostIndex finds out in few steps whether a hostname intersects any of many.
type hostIndex struct {
	named map[string]*aRoute // exact names, wildcards, and ""
	above map[string]*aRoute // the wildcards that cover a name, and ""
}

func (x *hostIndex) add(hostname string, r *aRoute) {
	if x.named[hostname] == nil {
		x.named[hostname] = r
	}
	for _, w := range covers(hostname) {
		if x.above[w] == nil {
			x.above[w] = r
		}
	}
}

func (x *hostIndex) find(hostname string) *aRoute {
	for _, name := range append(covers(hostname), hostname) {
		if r := x.named[name]; r != nil {
			return r
		}
	}
	return x.above[hostname]
}

// covers returns the wildcards that cover hostname, and "" if it is not that.
func covers(hostname string) (all []string) {
	if hostname == "" {
		return nil
	}
	name := strings.TrimPrefix(hostname, "*.")
	for {
		_, parent, more := strings.Cut(name, ".")
		if !more {
			return append(all, "")
		}
		all = append(all, "*."+parent)
		name = parent
	}
}

// sortRoutes puts the routes in the order in which the Gateway API decides
// between equal matches: the oldest, then by namespace/name. A route without
// creationTimestamp is not created yet and thus the youngest.
func sortRoutes[S any](routes []*object[S]) {
	age := func(r *object[S]) time.Time {
		if t := r.Metadata.CreationTimestamp.V; !t.IsZero() {
			return t
		}
		return time.Unix(1<<40, 0)
	}
	slices.SortFunc(routes, func(a, b *object[S]) int {
		return cmp.Or(age(a).Compare(age(b)), cmp.Compare(a.name(), b.name()))
	})
}
