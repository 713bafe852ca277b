package manifest

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/gatemesh-go/gatemesh"
	"github.com/gatemesh-go/gatemesh/routing"
)

// gatewaySpec is the spec of a Gateway.
type gatewaySpec struct {
	mark             `refused:"addresses allowedListeners defaultScope infrastructure tls" why:"addresses=the server listens where its own flags say; infrastructure=nothing is created for the Gateway; tls=the server's own configuration says which client certificates it takes and which it shows; allowedListeners=there are no ListenerSets; defaultScope=routes name their Gateway"`
	GatewayClassName text       `json:"gatewayClassName" check:"required format=subdomain"`
	Listeners        []listener `json:"listeners" check:"required items=64"`
}

type listener struct {
	mark          `refused:"filters" why:"filters=filters are those of routes; protocol=calls of HTTP and gRPC alone are served"`
	Name          text          `json:"name" check:"required format=subdomain"`
	Hostname      text          `json:"hostname" check:"format=hostname"`
	Port          number        `json:"port" check:"required min=1 max=65535"`
	Protocol      text          `json:"protocol" check:"required enum=HTTP|HTTPS not=TLS|TCP|UDP"`
	TLS           listenerTLS   `json:"tls"`
	AllowedRoutes allowedRoutes `json:"allowedRoutes"`
}

type listenerTLS struct {
	mark            `refused:"options" why:"options=there are none; mode=the server does not pass on what it cannot read"`
	Mode            text             `json:"mode" check:"default=Terminate enum=Terminate not=Passthrough"`
	CertificateRefs []certificateRef `json:"certificateRefs" check:"items=64"`
}

// certificateRef is a Secret that the server has to know from elsewhere.
type certificateRef struct {
	mark
	Group     text `json:"group" check:"empty"`
	Kind      text `json:"kind" check:"enum=Secret"`
	Name      text `json:"name" check:"required format=subdomain"`
	Namespace text `json:"namespace" check:"format=label"`
}

type allowedRoutes struct {
	mark
	Namespaces routeNamespaces `json:"namespaces"`
	Kinds      []routeKind     `json:"kinds" check:"items=8"`
}

type routeNamespaces struct {
	mark
	From     text          `json:"from" check:"default=Same enum=Same|All|Selector"`
	Selector labelSelector `json:"selector"`
}

type routeKind struct {
	mark  `why:"kind=it is not read"`
	Group text `json:"group" check:"enum=gateway.networking.k8s.io"`
	Kind  text `json:"kind" check:"required enum=HTTPRoute|GRPCRoute not=TLSRoute|TCPRoute|UDPRoute"`
}

func (c *certificateRef) check(s scope) {
	if c.Group.V != "" {
		s.fault(c.Group.mark, `%s is not supported by gatemesh; a certificate is a Secret, whose group is ""`, quote(c.Group.V))
	}
}

func (n *routeNamespaces) check(s scope) {
	if (n.From.V == "Selector") != n.Selector.present() {
		s.fault(n.sub("selector"), "stands with from: Selector, and with nothing else")
	}
}

func (l *listener) check(s scope) {
	if l.TLS.present() && l.Protocol.V != "HTTPS" {
		s.fault(l.TLS.mark, "stands with protocol HTTPS, and with nothing else")
	}
}

func (t *listenerTLS) check(s scope) {
	if len(t.CertificateRefs) == 0 {
		s.fault(t.sub("certificateRefs"), "is required where tls is; leave tls out if the server alone knows the certificate")
	}
}

func (g *gatewaySpec) check(s scope) {
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
	}
}

// linkGateways finds the Gateways by their names, and checks what they refer to.
func (set *Set) linkGateways(allowed map[grant]bool) {
	for _, g := range set.gateways {
		set.gatewayOf[g.name()] = g
		for i := range g.Spec.Listeners {
			for _, c := range g.Spec.Listeners[i].TLS.CertificateRefs {
				own := g.Metadata.Namespace.V
				set.linkReference(g.scope, c.Name.mark, allowed, grant{"Gateway", own, "Secret", cmp.Or(c.Namespace.V, own), c.Name.V})
			}
		}
	}
}

// Listener is a listener of the Gateway: what the server is asked to listen for.
type Listener struct {
	// Position is where the listener was written.
	Position gatemesh.Position
	// Name is unique in the Gateway.
	Name string
	// Hostname is the host that is served, "" for every one. [Set.Routes]
	// accounts for it.
	Hostname string
	// Port is where callers connect.
	Port uint16
	// HTTPS says that callers must use TLS.
	HTTPS bool
	// Certificates are the Secrets that hold the certificates, as
	// namespace/name. What is in them is the server's own configuration.
	Certificates []string
}

// Gateways returns the Gateways of the folder, as namespace/name in order.
func (set *Set) Gateways() []string {
	var out []string
	for _, g := range set.gateways {
		out = append(out, g.name())
	}
	slices.Sort(out)
	return out
}

// For returns the Set as the server of one of its Gateways reads it: Listeners
// and Routes are those of that Gateway. A Set with one Gateway is for it from
// the beginning; one with several has no Listeners and no Routes until somebody
// says whose, because what is meant for an internal Gateway must not be served
// by another.
func (set *Set) For(namespace, name string) (*Set, error) {
	if g := set.gatewayOf[namespace+"/"+name]; g != nil {
		out := *set
		out.chosen = g
		return &out, nil
	}
	return nil, fmt.Errorf("manifest: there is no Gateway %s/%s; there are: %v", shorten(namespace), shorten(name), set.Gateways())
}

// gateway returns the Gateway that the set is for, or nil.
func (set *Set) gateway() *object[gatewaySpec] {
	if set.chosen == nil && len(set.gateways) == 1 {
		return set.gateways[0]
	}
	return set.chosen
}

// Gateway returns name and namespace of the Gateway that the set is for, ""
// if it is for none; see [Set.For]. Who serves it has the label
// [gatemesh.GatewayLabel] with its name, if policies with targetRefs are to be
// for it.
func (set *Set) Gateway() (name, namespace string) {
	if g := set.gateway(); g != nil {
		return g.Metadata.Name.V, g.Metadata.Namespace.V
	}
	return "", ""
}

// Listeners returns the listeners of the Gateway, so that a server can listen
// as it is told. Without a Gateway there are none.
func (set *Set) Listeners() []Listener {
	g := set.gateway()
	if g == nil {
		return nil
	}
	out := make([]Listener, 0, len(g.Spec.Listeners))
	for i := range g.Spec.Listeners {
		l := &g.Spec.Listeners[i]
		to := Listener{
			Position: g.scope.position(l.mark), Name: l.Name.V, Hostname: l.Hostname.V,
			Port: uint16(l.Port.V), HTTPS: l.Protocol.V == "HTTPS",
		}
		for _, c := range l.TLS.CertificateRefs {
			to.Certificates = append(to.Certificates, cmp.Or(c.Namespace.V, g.Metadata.Namespace.V)+"/"+c.Name.V)
		}
		out = append(out, to)
	}
	return out
}

// RouteListeners returns [Set.Listeners] as the route table wants them, for
// [routing.Config.Listeners]. Ports say at which local port calls arrive that
// are for a port of the Gateway, such as 8443 for 443 behind a Service; 0 is
// every port. A port that is not in them is the local port itself, but for that
// of a Gateway which has only one: its calls may arrive anywhere. Redirects name
// the port of the Gateway, wherever that is.
func (set *Set) RouteListeners(ports map[uint16]uint16) []routing.Listener {
	var out []routing.Listener
	list := set.Listeners()
	single := !slices.ContainsFunc(list, func(l Listener) bool { return l.Port != list[0].Port })
	for _, l := range list {
		local, known := ports[l.Port]
		if !known && !single {
			local = l.Port
		}
		out = append(out, routing.Listener{Name: l.Name, Position: l.Position, Hostname: l.Hostname, Port: local, PublicPort: l.Port, TLS: l.HTTPS})
	}
	return out
}
