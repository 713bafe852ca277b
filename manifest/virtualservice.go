package manifest

import (
	"strings"
)

// virtualServiceSpec is the spec of a VirtualService.
type virtualServiceSpec struct {
	mark     `refused:"exportTo tcp tls" why:"exportTo=every reader of the folder sees it; tcp=calls of HTTP and gRPC alone are routed; tls=calls of HTTP and gRPC alone are routed"`
	Hosts    []text     `json:"hosts" check:"required"`
	Gateways []text     `json:"gateways"`
	HTTP     []httpRule `json:"http" check:"required"`
}

// httpRule is an HTTPRoute of Istio. Its name is for people, as in Istio.
type httpRule struct {
	mark             `refused:"delegate mirrorPercent mirror_percent" why:"delegate=write the rules of the other VirtualService here; mirrorPercent=write mirrorPercentage; mirror_percent=write mirrorPercentage"`
	Name             text              `json:"name"`
	Match            []httpMatch       `json:"match"`
	Route            []httpDestination `json:"route"`
	Redirect         httpRedirect      `json:"redirect"`
	DirectResponse   directResponse    `json:"directResponse"`
	Rewrite          httpRewrite       `json:"rewrite"`
	Timeout          span              `json:"timeout" check:"format=duration"`
	Retries          httpRetries       `json:"retries"`
	Fault            httpFault         `json:"fault"`
	Mirror           destination       `json:"mirror"`
	Mirrors          []httpMirror      `json:"mirrors"`
	MirrorPercentage percentage        `json:"mirrorPercentage"`
	CORSPolicy       corsPolicy        `json:"corsPolicy"`
	Headers          headerRules       `json:"headers"`
}

type httpMatch struct {
	mark            `refused:"statPrefix port" why:"statPrefix=metrics are named by route; port=it is the port of the service, which a rule does not see"`
	Name            text          `json:"name"`
	URI             stringMatch   `json:"uri"`
	IgnoreURICase   boolean       `json:"ignoreUriCase"`
	Scheme          stringMatch   `json:"scheme"`
	Method          stringMatch   `json:"method"`
	Authority       stringMatch   `json:"authority"`
	Headers         []headerValue `json:"headers" check:"keyed format=header"`
	WithoutHeaders  []headerValue `json:"withoutHeaders" check:"keyed format=header"`
	QueryParams     []queryValue  `json:"queryParams" check:"keyed format=token"`
	SourceLabels    labels        `json:"sourceLabels"`
	SourceNamespace text          `json:"sourceNamespace" check:"format=label"`
	Gateways        []text        `json:"gateways"`
}

// stringMatch has exactly one of its fields.
type stringMatch struct {
	mark
	Exact  text `json:"exact" check:"len=1024"`
	Prefix text `json:"prefix" check:"len=1024"`
	Regex  text `json:"regex" check:"len=1024 format=regex"`
}

// headerValue is a stringMatch under a field name. Without any of its fields,
// the field is there.
type headerValue struct {
	mark
	Key    text
	Exact  text `json:"exact" check:"len=4096"`
	Prefix text `json:"prefix" check:"len=4096"`
	Regex  text `json:"regex" check:"len=1024 format=regex"`
}

// queryValue is a headerValue of a parameter, which may be empty.
type queryValue struct {
	mark
	Key    text
	Exact  text `json:"exact" check:"empty len=1024"`
	Prefix text `json:"prefix" check:"len=1024"`
	Regex  text `json:"regex" check:"len=1024 format=regex"`
}

type httpDestination struct {
	mark
	Destination destination `json:"destination" check:"required"`
	Weight      number      `json:"weight" check:"max=2147483647"`
	Headers     headerRules `json:"headers"`
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

func (v *virtualServiceSpec) check(s scope) {
	checkMesh(s, v.Gateways)
	for i := range v.HTTP {
		if i > 0 && v.HTTP[i-1].Match == nil {
			s.fault(v.HTTP[i].mark, "is never reached: %s has no match and takes every call", v.HTTP[i-1].path)
		}
	}
}

// checkMesh reports names of Gateways: a VirtualService is for clients.
func checkMesh(s scope, gateways []text) {
	for _, g := range gateways {
		if g.V != "mesh" {
			s.fault(g.mark, "%s is not supported by gatemesh: a VirtualService applies wherever a client of the mesh calls its host; leave gateways out, or say mesh", quote(g.V))
		}
	}
}

// one reports how many of three forms of a match are there.
func one(exact, prefix, regex *text) (n int) {
	for _, t := range []*text{exact, prefix, regex} {
		if t.present() {
			n++
		}
	}
	return n
}

func (m *stringMatch) check(s scope) {
	if one(&m.Exact, &m.Prefix, &m.Regex) != 1 {
		s.fault(m.mark, "must have one of exact, prefix and regex")
	}
}

func (h *headerValue) check(s scope) {
	if one(&h.Exact, &h.Prefix, &h.Regex) > 1 {
		s.fault(h.mark, "must have one of exact, prefix and regex, or none, which is every value")
	}
}

func (q *queryValue) check(s scope) {
	if one(&q.Exact, &q.Prefix, &q.Regex) > 1 {
		s.fault(q.mark, "must have one of exact, prefix and regex, or none, which is every value")
	}
}

func (m *httpMatch) check(s scope) {
	checkMesh(s, m.Gateways)
	for _, list := range [][]headerValue{m.Headers, m.WithoutHeaders} {
		seen := make(names)
		for _, h := range list {
			if first, twice := seen.first(strings.ToLower(h.Key.V), h.Key.mark); twice {
				s.fault(h.Key.mark, "the field is matched by %s already", first.path)
			}
		}
	}
	if m.IgnoreURICase.V && !m.URI.Exact.present() && !m.URI.Prefix.present() {
		s.fault(m.IgnoreURICase.mark, "stands with an exact uri or a prefix, and has no effect on anything else")
	}
	for _, t := range []*text{&m.URI.Exact, &m.URI.Prefix} {
		if !t.present() {
			continue
		}
		if wrong := formatFault("path", t.V); wrong != "" {
			s.fault(t.mark, "%s %s", quote(t.V), wrong)
		}
	}
	if x := &m.Method.Exact; x.present() && strings.ToUpper(x.V) != x.V {
		s.fault(x.mark, "%s is never the method of a call; write it in upper case", quote(x.V))
	}
	if !m.URI.present() && !m.Scheme.present() && !m.Method.present() && !m.Authority.present() && m.Headers == nil && m.WithoutHeaders == nil &&
		m.QueryParams == nil && !m.SourceLabels.present() && !m.SourceNamespace.present() && m.Gateways == nil {
		s.fault(m.mark, "has no condition and takes every call; leave match out")
	}
}

func (r *httpRule) check(s scope) {
	answers := 0
	for _, m := range []mark{r.Redirect.mark, r.DirectResponse.mark} {
		if m.present() {
			answers++
		}
	}
	switch {
	case answers > 1 || answers == 1 && r.Route != nil:
		s.fault(r.mark, "must have one of route, redirect and directResponse")
	case answers == 0 && r.Route == nil:
		s.fault(r.sub("route"), "is required, or redirect, or directResponse")
	case answers == 1:
		for _, m := range []mark{r.Rewrite.mark, r.Timeout.mark, r.Retries.mark, r.Fault.mark, r.Mirror.mark, r.MirrorPercentage.mark, r.Headers.mark} {
			if m.present() {
				s.fault(m, "does not go with redirect or directResponse, which send nothing on")
			}
		}
		if r.Mirrors != nil {
			s.fault(r.Mirrors[0].mark, "does not go with redirect or directResponse, which send nothing on")
		}
	}
	r.checkRewrite(s)
	r.checkMirrors(s)
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

// resolveAll is resolve for hosts that may stand for all services of a
// namespace, "*.NAMESPACE.svc.cluster.local".
func resolveAll(s scope, host text, namespace string) (service, bool) {
	if short, full := strings.CutSuffix(host.V, clusterSuffix); full {
		if ns, all := strings.CutPrefix(short, "*."); all && formatFault("label", ns) == "" {
			return service{"*", ns}, true
		}
	}
	return resolve(s, host, namespace)
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
			host, ok := resolveAll(v.scope, h, v.Metadata.Namespace.V)
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
			for _, d := range v.Spec.HTTP[i].destinations() {
				host, ok := resolve(v.scope, d.Host, v.Metadata.Namespace.V)
				if ok && d.Subset.present() && !subsets[host][d.Subset.V] && !set.mayLack("DestinationRule") {
					v.scope.fault(d.Subset.mark, "no DestinationRule for %s has a subset %s", host, d.Subset.V)
				}
			}
		}
	}
}

// destinations returns everywhere that calls and copies of them go by r.
func (r *httpRule) destinations() (all []*destination) {
	for i := range r.Route {
		all = append(all, &r.Route[i].Destination)
	}
	if r.Mirror.present() {
		all = append(all, &r.Mirror)
	}
	for i := range r.Mirrors {
		all = append(all, &r.Mirrors[i].Destination)
	}
	return all
}
