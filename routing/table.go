package routing

import (
	"cmp"
	"net/http"
	"slices"
	"strings"

	"github.com/gatemesh-go/gatemesh"
)

// table is one version of a Config, compiled. Nothing in it changes but the
// turns of its pools.
type table struct {
	router   *Router
	observer gatemesh.Observer
	hosts    map[string]*paths // by exact name
	wild     map[string]*paths // by what follows "*."
	any      *paths            // routes without hostnames
	places   places
	versions []*versioning
	// outbound sends a request with a dispatch in its context to the upstream
	// that was chosen, through the outbound gates.
	outbound http.RoundTripper
}

// paths are the matches of one hostname. Exact paths and prefixes are looked
// up, so that only matches with the very same path are tried one by one.
type paths struct {
	exact   map[string][]candidate
	prefix  map[string][]candidate // without the last slash: "" holds for every path
	longest int                    // length of the longest prefix
}

// candidate is what remains to be compared when host and path have matched.
type candidate struct {
	method  string
	headers []HeaderMatch
	rule    *rule
}

// rule is a compiled Route.
type rule struct {
	route gatemesh.Route
	only  *gatemesh.WeightedDestination // if there is just one to choose
	table *table

	filters *filters
	merged  merged // if it is one of a service
}

// backend is a compiled Backend.
type backend struct{ filters *filters }

// match returns the rule for c by the precedence of the Gateway API, or nil:
// exact hostname, longest wildcard, no hostname; then exact path, longest
// prefix; then method; then number of header fields; then order.
func (t *table) match(c *gatemesh.Call) *rule {
	host := c.Host()
	if p := t.hosts[host]; p != nil {
		if r := p.match(c); r != nil {
			return r
		}
	}
	if len(t.wild) > 0 {
		for {
			dot := strings.IndexByte(host, '.')
			if dot < 0 {
				break
			}
			host = host[dot+1:]
			if p := t.wild[host]; p != nil {
				if r := p.match(c); r != nil {
					return r
				}
			}
		}
	}
	if t.any != nil {
		return t.any.match(c)
	}
	return nil
}

func (p *paths) match(c *gatemesh.Call) *rule {
	path := c.MatchPath()
	if r := first(p.exact[path], c); r != nil {
		return r
	}
	if len(p.prefix) == 0 || path == "" || path[0] != '/' { // "*" of OPTIONS is below nothing
		return nil
	}
	end := len(path)
	if end > p.longest { // nothing that long is worth hashing
		end = strings.LastIndexByte(path[:p.longest+1], '/')
	}
	for {
		if r := first(p.prefix[path[:end]], c); r != nil {
			return r
		}
		if end == 0 {
			return nil
		}
		end = strings.LastIndexByte(path[:end], '/')
	}
}

func first(candidates []candidate, c *gatemesh.Call) *rule {
	for i := range candidates {
		if candidates[i].holds(c) {
			return candidates[i].rule
		}
	}
	return nil
}

func (m *candidate) holds(c *gatemesh.Call) bool {
	if m.method != "" && m.method != c.Method() {
		return false
	}
	for i := range m.headers {
		if v, ok := c.Header().Only(m.headers[i].Name); !ok || v != m.headers[i].Value {
			return false
		}
	}
	return true
}

// pathsOf returns the matches of a valid hostname, where "" is every host.
func (t *table) pathsOf(hostname string) *paths {
	if hostname == "" {
		if t.any == nil {
			t.any = newPaths()
		}
		return t.any
	}
	hosts := t.hosts
	if suffix, ok := strings.CutPrefix(hostname, "*."); ok {
		hosts, hostname = t.wild, suffix
	}
	if hosts[hostname] == nil {
		hosts[hostname] = newPaths()
	}
	return hosts[hostname]
}

func newPaths() *paths {
	return &paths{exact: map[string][]candidate{}, prefix: map[string][]candidate{}}
}

// add adds a valid match. Rules must be added in their order.
func (p *paths) add(m PathMatch, c candidate) {
	if m.Type == PathExact {
		p.exact[m.Value] = insert(p.exact[m.Value], c)
		return
	}
	value := strings.TrimSuffix(m.Value, "/")
	p.prefix[value] = insert(p.prefix[value], c)
	p.longest = max(p.longest, len(value))
}

// insert keeps candidates in the order in which they are to be tried.
func insert(candidates []candidate, c candidate) []candidate {
	i, _ := slices.BinarySearchFunc(candidates, c, func(have, c candidate) int {
		if byRank := rank(have, c); byRank != 0 {
			return byRank
		}
		return -1 // after those of the same rank, which came earlier
	})
	return slices.Insert(candidates, i, c)
}

func rank(a, b candidate) int {
	if (a.method != "") != (b.method != "") {
		if a.method != "" {
			return -1
		}
		return 1
	}
	return cmp.Compare(len(b.headers), len(a.headers))
}
