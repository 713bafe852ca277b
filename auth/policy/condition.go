package policy

import (
	"net/netip"
	"slices"

	"github.com/gatemesh-go/gatemesh"
)

// field is something about a call that rules speak of.
type field uint8

const (
	fieldPrincipal field = iota
	fieldUser            // request principal
	fieldNamespace
	fieldHost
	fieldMethod
	fieldPath
	textFields // those above are texts

	fieldAddr   // the other end of the connection
	fieldClient // the client behind proxies
	fieldPort
)

// request is what rules see of a call: a copy, so that an explanation can be
// written after the call has ended.
type request struct {
	texts        [textFields]text // empty if there is no peer, no user, no host
	addr, client netip.Addr       // never IPv4-mapped, without zone; invalid if unknown
	port         uint16           // 0 if unknown
}

// read fills the zero request from c.
func (r *request) read(c *gatemesh.Call) {
	if p := c.Peer(); p != nil {
		r.texts[fieldPrincipal][0], r.texts[fieldPrincipal][1] = p.TrustDomain(), p.Path()
		r.texts[fieldNamespace][0] = p.Namespace()
	}
	if p := c.Principal(); p != nil && p.Issuer() != "" && p.Subject() != "" {
		r.texts[fieldUser] = text{p.Issuer(), "/", p.Subject()}
	}
	r.texts[fieldHost][0] = c.Host()
	r.texts[fieldMethod][0] = c.Method()
	r.texts[fieldPath][0] = c.MatchPath()
	r.addr = c.RemoteAddr().Addr().Unmap().WithZone("")
	r.client = c.Client().Unmap().WithZone("")
	r.port = c.LocalPort()
}

// clause is a source or an operation: conditions that must all hold.
type clause []condition

func (cl clause) holds(r *request) bool {
	for i := range cl {
		if !cl[i].holds(r) {
			return false
		}
	}
	return true
}

// anyHolds reports whether one of the alternatives holds. None means that
// nothing is asked.
func anyHolds(clauses []clause, r *request) bool {
	for _, cl := range clauses {
		if cl.holds(r) {
			return true
		}
	}
	return len(clauses) == 0
}

// condition is one list of a source or an operation.
type condition struct {
	field   field
	not     bool
	unknown bool // the result if the call has no such address or port
	any     bool // one of the patterns is "*"
	// Patterns are tried one by one when they are few. When they are many,
	// index has the exact ones and the prefixes, and tried the rest.
	tried    []pattern
	index    tree[struct{}]
	patterns []pattern // all
	blocks   ipset
	ports    []uint16
	values   []string // as written, to be explained
}

func (c *condition) holds(r *request) bool {
	switch c.field {
	case fieldAddr:
		return c.holdsAddr(r.addr)
	case fieldClient:
		return c.holdsAddr(r.client)
	case fieldPort:
		if r.port == 0 {
			return c.unknown
		}
		return slices.Contains(c.ports, r.port) != c.not
	}
	return c.matches(&r.texts[c.field]) != c.not
}

func (c *condition) holdsAddr(a netip.Addr) bool {
	if !a.IsValid() {
		return c.unknown
	}
	return c.blocks.contains(a) != c.not
}

func (c *condition) matches(t *text) bool {
	if t.empty() {
		return false // what is not there matches no value, not even "*"
	}
	if c.any {
		return true
	}
	for i := range c.tried {
		if c.tried[i].match(t) {
			return true
		}
	}
	return len(c.index.nodes) > 0 && c.index.has(t)
}

// fewPatterns is up to where trying one by one is as fast as searching.
const fewPatterns = 8

// setPatterns takes over patterns and prepares matches.
func (c *condition) setPatterns(patterns []pattern) {
	c.patterns = patterns
	c.any = slices.ContainsFunc(patterns, func(p pattern) bool { return p.kind == present })
	if c.any || len(patterns) <= fewPatterns {
		c.tried = patterns
		return
	}
	var nodes []node[struct{}]
	one := []struct{}{{}}
	for _, p := range patterns {
		switch p.kind {
		case exact:
			nodes = append(nodes, node[struct{}]{key: p.fixed, exact: one})
		case prefix:
			nodes = append(nodes, node[struct{}]{key: p.fixed, prefix: one})
		default:
			c.tried = append(c.tried, p)
		}
	}
	c.index = newTree(nodes)
}
