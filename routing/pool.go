package routing

import (
	"net/http"
	"slices"
	"sync/atomic"

	"github.com/gatemesh-go/gatemesh"
)

// upstream is a compiled Upstream.
type upstream struct {
	scheme, host string
	h2c          bool              // HTTP/2 without TLS
	transport    http.RoundTripper // nil is the Router's own
}

// pool is the upstreams that serve one destination, in turn.
type pool struct {
	members []*upstream
	turn    atomic.Uint64
}

func (p *pool) next() *upstream {
	if len(p.members) == 1 {
		return p.members[0]
	}
	return p.members[p.turn.Add(1)%uint64(len(p.members))]
}

// places finds pools. They are made beforehand for every namespace, port and
// subset that the configuration names, and once for all others, so that their
// number does not depend on what is asked for.
type places map[serviceKey]*ports

type serviceKey struct{ service, namespace string }

// anyNamespace stands for every namespace that the configuration does not name.
const anyNamespace = "*"

// ports are the pools of a service by port, then by subset.
type ports struct {
	named  map[uint16]subsets
	others subsets // ports that no upstream names
	none   subsets // destinations without a port
}

type subsets map[string]*pool

// find returns the upstreams that serve d, or nil.
func (p places) find(d gatemesh.Destination) *pool {
	s := p.of(d)
	if s == nil {
		return nil
	}
	if d.Port == 0 {
		return s.none[d.Subset]
	}
	if named, ok := s.named[d.Port]; ok {
		return named[d.Subset]
	}
	return s.others[d.Subset]
}

func (p places) of(d gatemesh.Destination) *ports {
	if s := p[serviceKey{d.Service, d.Namespace}]; s != nil {
		return s
	}
	return p[serviceKey{d.Service, anyNamespace}]
}

// somePort reports whether d, which names no port, is served at any.
func (p places) somePort(d gatemesh.Destination) bool {
	s := p.of(d)
	if s == nil || d.Port != 0 {
		return false
	}
	for _, named := range s.named {
		if named[d.Subset] != nil {
			return true
		}
	}
	return s.others[d.Subset] != nil
}

// member is an Upstream beside its compiled form.
type member struct {
	*Upstream
	compiled *upstream
}

func newPlaces(members []member, defs []Subset) places {
	byService := map[string][]member{}
	keys := map[serviceKey]bool{}
	for _, m := range members {
		byService[m.Service] = append(byService[m.Service], m)
		keys[serviceKey{m.Service, anyNamespace}] = true
		if m.Namespace != "" {
			keys[serviceKey{m.Service, m.Namespace}] = true
		}
	}
	named := map[serviceKey][]Subset{}
	for _, d := range defs {
		key := serviceKey{d.Service, d.Namespace}
		named[key] = append(named[key], d)
		keys[key] = true
	}
	p := places{}
	for key := range keys {
		inside := filter(byService[key.service], func(m member) bool {
			return m.Namespace == "" || m.Namespace == key.namespace
		})
		if len(inside) > 0 {
			p[key] = newPorts(inside, named[key])
		}
	}
	return p
}

func newPorts(members []member, defs []Subset) *ports {
	portless := filter(members, func(m member) bool { return m.Port == 0 })
	p := &ports{named: map[uint16]subsets{}, others: newSubsets(portless, defs)}
	for _, m := range members {
		if _, ok := p.named[m.Port]; !ok && m.Port != 0 {
			p.named[m.Port] = newSubsets(filter(members, func(o member) bool {
				return o.Port == 0 || o.Port == m.Port
			}), defs)
		}
	}
	p.none = p.others
	if len(p.named) == 1 && len(portless) == 0 { // the only port
		for _, s := range p.named {
			p.none = s
		}
	}
	return p
}

func newSubsets(members []member, defs []Subset) subsets {
	s := subsets{}
	add := func(name string, fits func(member) bool) {
		for _, m := range filter(members, fits) {
			if s[name] == nil {
				s[name] = &pool{}
			}
			if !slices.Contains(s[name].members, m.compiled) {
				s[name].members = append(s[name].members, m.compiled)
			}
		}
	}
	add("", func(member) bool { return true })
	for _, m := range members {
		if m.Subset != "" {
			add(m.Subset, func(o member) bool { return o.Subset == m.Subset })
		}
	}
	for _, d := range defs {
		add(d.Name, func(m member) bool { return hasLabels(m.Labels, d.Labels) })
	}
	return s
}

func hasLabels(have, want map[string]string) bool {
	for name, value := range want {
		if v, ok := have[name]; !ok || v != value {
			return false
		}
	}
	return true
}

func filter(members []member, keep func(member) bool) []member {
	var kept []member
	for _, m := range members {
		if keep(m) {
			kept = append(kept, m)
		}
	}
	return kept
}
