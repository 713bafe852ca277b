package policy

import (
	"net/netip"
	"slices"
	"strings"

	"github.com/gatemesh-go/gatemesh"
)

// field is something about a call that rules speak of.
type field uint8

const (
	fieldPrincipal field = iota
	fieldUser            // request principal
	fieldServiceAccount
	fieldNamespace
	lastIdentity = fieldNamespace // those above say who calls
)

const (
	fieldHost field = lastIdentity + 1 + iota
	fieldMethod
	fieldPath
	fieldSNI
	textFields // those above are texts

	fieldAddr   // the other end of the connection
	fieldClient // the client behind proxies
	fieldLocal  // our end of the connection
	fieldPort
	fieldClaim  // what a condition reads of the principal
	fieldHeader // a header field that a condition names
)

// request is what rules see of a call: a copy, so that an explanation can be
// written after the call has ended.
type request struct {
	texts               [textFields]text // empty if there is no peer, no user, no host
	addr, client, local netip.Addr       // never IPv4-mapped, without zone; invalid if unknown
	port                uint16           // 0 if unknown
	principal           *gatemesh.Principal
	header              gatemesh.Header
	call                *gatemesh.Call      // to ask for reserved fields
	kept                map[string][]string // instead of header and call, if it is not nil; nil is a reserved field
}

// read fills the zero request from c.
func (r *request) read(c *gatemesh.Call) {
	if p := c.Peer(); p != nil {
		r.texts[fieldPrincipal][0], r.texts[fieldPrincipal][1] = p.TrustDomain(), p.Path()
		if ns := p.Namespace(); ns != "" {
			r.texts[fieldNamespace][0] = ns
			r.texts[fieldServiceAccount] = text{ns, "/", p.ServiceAccount()}
		}
	}
	if p := c.Principal(); p != nil {
		r.principal = p
		if p.Issuer() != "" && p.Subject() != "" {
			r.texts[fieldUser] = text{p.Issuer(), "/", p.Subject()}
		}
	}
	r.texts[fieldHost][0] = c.Host()
	r.texts[fieldMethod][0] = c.Method()
	r.texts[fieldPath][0] = c.MatchPath()
	r.texts[fieldSNI][0] = strings.ToLower(c.SNI())
	r.addr = c.RemoteAddr().Addr().Unmap().WithZone("")
	r.client = c.Client().Unmap().WithZone("")
	r.local = c.LocalAddr().Addr().Unmap().WithZone("")
	r.port = c.LocalPort()
	r.header, r.call = c.Header(), c
}

// keep returns a copy of r that stays as it is after the call has ended: of
// the header, it has the fields named.
func (r *request) keep(names []string) request {
	out := *r
	out.header, out.call, out.kept = gatemesh.Header{}, nil, noFields
	if len(names) > 0 {
		out.kept = make(map[string][]string, len(names))
	}
	for _, name := range names {
		if r.header.Count(name) > 0 || r.reserved(name) {
			out.kept[name] = r.header.Values(name)
		}
	}
	return out
}

var noFields = map[string][]string{} // never written

// clause is a source, an operation or all of When: conditions that must all hold.
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

// condition is one list of a source, an operation or a condition.
type condition struct {
	field   field
	not     bool
	unknown bool // the result if it cannot be told; true where a match is against the call
	any     bool // one of the patterns is "*"
	// Patterns are tried one by one when they are few. When they are many,
	// index has the exact ones and the prefixes, and tried the rest.
	tried    []pattern
	index    tree[struct{}]
	patterns []pattern // all
	blocks   ipset
	ports    []uint16
	values   []string // as written, to be explained

	name   string   // of the header field, or what an explanation calls the claim
	claim  claim    // what of the principal
	path   []string // of the claim
	single bool     // a comma in the header field separates nothing
}

func (c *condition) holds(r *request) bool {
	switch c.field {
	case fieldAddr:
		return c.holdsAddr(r.addr)
	case fieldClient:
		return c.holdsAddr(r.client)
	case fieldLocal:
		return c.holdsAddr(r.local)
	case fieldClaim:
		return c.holdsClaim(r.principal)
	case fieldHeader:
		if r.reserved(c.name) {
			return c.unknown
		}
		return c.matchesHeader(r) != c.not
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
