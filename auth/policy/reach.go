package policy

import (
	"cmp"
	"errors"
	"net/http"
	"slices"

	"github.com/gatemesh-go/gatemesh"
)

// Coverage says how the routes of a server and the policies that bind it fit.
type Coverage struct {
	// Routes are the routes in the order they were given in.
	Routes []RouteCoverage
	// Unserved are rules, or values of rules, that no route serves.
	Unserved []Unserved
}

// Access says who can call a route.
type Access uint8

// The kinds of access.
const (
	// Closed: no rule allows anybody to call the route.
	Closed Access = iota + 1
	// Restricted: some rule may allow some caller, and none allows everybody.
	Restricted
	// Open: a caller without identity may be allowed.
	Open
)

// String returns "closed", "restricted" or "open".
func (a Access) String() string {
	switch a {
	case Closed:
		return "closed"
	case Restricted:
		return "restricted"
	case Open:
		return "open"
	}
	return "unknown"
}

// RouteCoverage is who can call a route.
type RouteCoverage struct {
	// Pattern is the route as it was given.
	Pattern string
	// Access is who can call it.
	Access Access
	// Rules may allow calls to the route, in the order in which they stand.
	Rules []RuleRef
	// Why says what opens an open route, and Example is a request to it,
	// such as "GET /healthz"; "" if none was found within bounds.
	Why, Example string
}

// RuleRef names a rule.
type RuleRef struct {
	Policy, Namespace string
	Rule              int // from 1
	Position          gatemesh.Position
}

// Unserved is a rule that speaks of requests that no route serves.
type Unserved struct {
	RuleRef
	Action Action
	// Paths are the values that no route serves, of a rule that others serve.
	// It is nil if no route serves any of the rule.
	Paths []string
}

// Coverage holds routes against the policies of the latest configuration.
// Routes are patterns of one [http.ServeMux], such as "GET /v1/users/{id}"; a
// gRPC method is "POST /package.Service/Method". It reports every pattern that
// ServeMux refuses.
//
// The routes are judged by all requests that they can serve, not by examples,
// and by what ServeMux would give to a more specific route, or answer with a
// redirect to it. What cannot be
// known makes a route more open: addresses, ports, header fields and server
// names are taken to be what an ALLOW rule wants and a DENY rule does not; the
// identity of a caller is not asked, for Restricted; hooks are taken to consent.
// So an open route can be less open than it looks, and a closed one is closed.
// A rule is taken to be served whoever its callers are.
func (e *Engine) Coverage(routes []string) (*Coverage, error) {
	s := e.state.Latest()
	if s == nil {
		return nil, errors.New("policy: the engine has no configuration")
	}
	mux := http.NewServeMux()
	parsed, err := parseRoutes(mux, routes)
	if err != nil {
		return nil, err
	}
	c := coverer{state: s, mux: mux, routes: parsed, queries: make(map[*condition]query)}
	for _, r := range parsed {
		if r.host != "" {
			c.hosts = append(c.hosts, literal(r.host))
		}
		if r.method != "" {
			c.methods = append(c.methods, literal(r.method))
		}
	}
	c.methods = append(c.methods, literal("GET"), literal("HEAD"))
	return c.cover(), nil
}

type coverer struct {
	state          *state
	mux            *http.ServeMux // of the routes
	routes         []*route
	hosts, methods []lang // of the routes
	denied         []denial
	queries        map[*condition]query // by the first condition; nil is the operation without any
}

// denial is an operation that a DENY rule refuses for sure, to everybody or to
// anonymous callers.
type denial struct {
	clause    clause
	anonymous bool
}

// maxDenials is how many of them are looked at; without the others, routes
// look more open.
const maxDenials = 64

func (c *coverer) cover() *Coverage {
	s := c.state
	for _, r := range s.rulesOf(ActionDeny) {
		anonymous := r.everybody()
		for _, to := range r.operations() {
			if (anonymous || r.deniesAnonymous()) && len(c.denied) < maxDenials && !slices.ContainsFunc(to, func(x condition) bool { return !x.field.symbolic() }) {
				c.denied = append(c.denied, denial{to, !anonymous})
			}
		}
	}
	out := &Coverage{}
	for _, r := range c.routes {
		out.Routes = append(out.Routes, RouteCoverage{Pattern: r.pattern, Access: Closed})
	}
	c.exempt(out)
	if !s.allowPresent && s.unselected == Allow {
		c.allow(out, nil, nil)
	}
	for _, r := range s.allowRules {
		for _, to := range r.operations() {
			c.allow(out, r, to)
		}
	}
	for _, g := range s.written {
		for _, r := range g.rules {
			if u, ok := c.unserved(r); ok {
				u.Action = g.action
				out.Unserved = append(out.Unserved, u)
			}
		}
	}
	return out
}

// exempt opens the routes that serve exempt paths.
func (c *coverer) exempt(out *Coverage) {
	if len(c.state.exempt.patterns) == 0 {
		return
	}
	q := c.query(clause{c.state.exempt})
	for i, r := range c.routes {
		if example, ok := c.meet(r, q, nil); ok {
			out.Routes[i].open("the path is exempt", example)
		}
	}
}

// allow notes which routes the operation to of an ALLOW rule reaches. No rule
// is the consent to everything.
func (c *coverer) allow(out *Coverage, r *rule, to clause) {
	q := c.query(to)
	for i, served := range c.routes {
		one := &out.Routes[i]
		if r != nil && one.Access == Open && slices.Contains(one.Rules, r.ref()) {
			continue
		}
		everybody := func(d denial) bool { return !d.anonymous }
		if _, ok := c.meet(served, q, everybody); !ok {
			continue
		}
		one.Access = max(one.Access, Restricted)
		if r != nil && !slices.Contains(one.Rules, r.ref()) {
			one.Rules = append(one.Rules, r.ref())
		}
		if one.Access == Open || r != nil && !r.allowsAnonymous() {
			continue
		}
		if example, ok := c.meet(served, q, func(denial) bool { return true }); ok {
			why := "no ALLOW policy selects the workload"
			if r != nil {
				why = r.ref().String()
				if limits := r.limits(to); limits != "" {
					why += ", " + limits
				}
			}
			one.open(why, example)
		}
	}
}

func (r *RouteCoverage) open(why, example string) {
	if r.Access != Open {
		r.Access, r.Why, r.Example = Open, why, example
	}
}

// unserved says what of r no route serves.
func (c *coverer) unserved(r *rule) (Unserved, bool) {
	u, any := Unserved{RuleRef: r.ref()}, false
	for _, to := range r.operations() {
		q := c.query(to)
		any = any || c.served(q)
		i := slices.IndexFunc(to, func(x condition) bool { return x.field == fieldPath && !x.not })
		if i < 0 {
			continue
		}
		for j, p := range to[i].patterns {
			one := q
			one.path.any = []lang{p.lang(fieldPath)}
			if !c.served(one) {
				u.Paths = append(u.Paths, to[i].values[j])
			}
		}
	}
	if !any {
		u.Paths = nil
	}
	return u, !any || u.Paths != nil
}

func (c *coverer) served(q query) bool {
	return slices.ContainsFunc(c.routes, func(r *route) bool {
		_, ok := c.meet(r, q, nil)
		return ok
	})
}

// query is an operation with what of it is the same for all routes.
type query struct {
	to             clause
	path           term
	methods, hosts []string
	all            bool // methods and hosts are complete
}

func (c *coverer) query(to clause) query {
	var key *condition
	if len(to) > 0 {
		key = &to[0]
	}
	if q, ok := c.queries[key]; ok {
		return q
	}
	methods, all := c.classes(fieldMethod, c.methods, to)
	hosts, allHosts := c.classes(fieldHost, c.hosts, to)
	slices.SortStableFunc(methods, func(a, b string) int { // for the example
		return cmp.Or(-cmp.Compare(len(a)/2, len(b)/2), cmp.Compare(a, b))
	})
	if i := slices.Index(methods, http.MethodGet); i > 0 {
		methods[0], methods[i] = methods[i], methods[0]
	}
	q := query{to, to.term(fieldPath), methods, hosts, all && allHosts}
	c.queries[key] = q
	return q
}

// meet looks for a request that r serves and q holds for, and that none of the
// denials refuses which counts chooses. It reports whether there may be one.
func (c *coverer) meet(r *route, q query, counts func(denial) bool) (example string, ok bool) {
	if q.path.any != nil && !slices.ContainsFunc(q.path.any, func(l lang) bool { return !apart(l, r.lang) }) {
		return "", false
	}
	path := []term{{any: []lang{r.lang}}, q.path}
	if _, ok := search(path); !ok {
		return "", false
	}
	for _, m := range q.methods {
		for _, h := range q.hosts {
			var one request
			one.texts[fieldMethod][0], one.texts[fieldHost][0] = m, h
			if !r.serves(m, h) || !q.to.holdsFor(&one, fieldMethod, fieldHost) {
				continue
			}
			terms := slices.Clone(path)
			for _, w := range r.winners {
				if w.serves(m, h) {
					terms = append(terms, term{any: []lang{w.lang}, not: true})
				}
			}
			for _, w := range r.redirects {
				// Of CONNECT, ServeMux asks another host than the call's.
				if m != http.MethodConnect && w.serves(m, h) {
					terms = append(terms, term{any: []lang{w.redirected}, not: true})
				}
			}
			for _, d := range c.denied {
				if counts != nil && counts(d) && d.clause.holdsFor(&one, fieldMethod, fieldHost) {
					t := d.clause.term(fieldPath)
					t.not = true
					terms = append(terms, t)
				}
			}
			if p, ok := search(terms); ok {
				if p != "" && r.takes(c.mux, m, h, p) {
					example = m + " " + h + p
				}
				return example, true
			}
		}
	}
	return "", !q.all
}

// classes returns a value for each way in which the routes, to and the denials
// can judge a method or a host.
func (c *coverer) classes(f field, of []lang, to clause) ([]string, bool) {
	langs := slices.Clone(of)
	for _, cl := range append([]clause{to}, clausesOf(c.denied)...) {
		t := cl.term(f)
		langs = append(append(langs, t.any...), t.unless...)
	}
	slices.SortFunc(langs, func(a, b lang) int { return slices.CompareFunc(a, b, compareItems) })
	return classes(f, slices.CompactFunc(langs, slices.Equal[lang]))
}

// MarshalText returns what String does.
func (a Access) MarshalText() ([]byte, error) { return []byte(a.String()), nil }
