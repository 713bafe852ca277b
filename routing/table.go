package routing

import (
	"net/http"
	"strings"

	"github.com/gatemesh-go/gatemesh"
	"github.com/gatemesh-go/gatemesh/internal/match"
)

// table is one version of a Config, compiled. Nothing in it changes but the
// turns of its pools and what services remember of ports.
type table struct {
	router    *Router
	headless  bool
	observer  gatemesh.Observer
	listeners *listeners // nil if there is but one, for everything
	all       *hosts     // the routes of that one
	services  map[serviceKey]*service
	places    places
	versions  []*versioning
	// outbound sends a request with a dispatch in its context to the upstream
	// that was chosen, through the outbound gates.
	outbound http.RoundTripper
}

// rule is a compiled Route.
type rule struct {
	target
	table    *table
	position gatemesh.Position
	cors     bool
	filters  *filters // nil if there are none
	ported   ported
	merged   merged // if it is one of a service
}

// backend is a compiled Backend, as the Rule of its WeightedDestination.
type backend struct {
	rule     *rule
	unserved bool     // there is nobody
	filters  *filters // nil if there are none
}

// unserved reports whether b is a backend of ours behind which there is nobody.
func unserved(b *gatemesh.WeightedDestination) bool {
	if b == nil {
		return false
	}
	own, ok := b.Rule.(*backend)
	return ok && own.unserved
}

// match returns the rule for the call of s, or nil. The error is a refusal
// other than that.
func (t *table) match(s *subject) (*rule, error) {
	h := t.all
	if t.listeners != nil {
		l, err := t.listeners.of(s.call)
		if l == nil {
			return nil, err
		}
		h = l.hosts
	}
	r := h.match(s)
	if denial := s.tooMuch(); denial != nil {
		return nil, denial
	}
	return r, nil
}

// find is match for a call that is not judged as another one.
func (t *table) find(c *gatemesh.Call, version *apiVersion) (*rule, error) {
	s := subject{call: c, method: c.Method(), table: t, version: version.String(), versioned: true, work: match.NewWork(maxWork)}
	r, err := t.match(&s)
	if r == nil && err == nil && s.method == http.MethodOptions {
		return t.preflight(c, s.work)
	}
	return r, err
}

// preflight returns the rule that answers the preflight request c: that of the
// request which it asks about, if it has CORS. It is for an OPTIONS that no rule
// takes.
func (t *table) preflight(c *gatemesh.Call, left match.Work) (*rule, error) {
	method, ok := c.Header().Only("Access-Control-Request-Method")
	if _, asks := c.Header().Only("Origin"); !ok || !asks {
		return nil, nil
	}
	s := subject{call: c, method: method, table: t, work: left}
	r, err := t.match(&s)
	if r == nil || !r.cors {
		return nil, err
	}
	return r, nil
}

// hosts are the routes of a listener by their hostnames.
type hosts struct {
	exact   map[string]*paths
	wild    map[string]*paths // by what follows "*."
	longest int               // of wild
	any     *paths            // routes without hostnames
}

// match tries the hostnames that match in the order of their precedence: the
// exact one, the longest wildcard, none.
func (h *hosts) match(s *subject) *rule {
	host := s.call.Host()
	if p := h.exact[host]; p != nil {
		if r := p.match(s); r != nil {
			return r
		}
	}
	for host = parent(host, h.longest); host != ""; host = parent(host, h.longest) {
		if p := h.wild[host]; p != nil {
			if r := p.match(s); r != nil {
				return r
			}
		}
	}
	if h.any != nil {
		return h.any.match(s)
	}
	return nil
}

// parent returns what follows the first label of host, and as many more of them
// as it takes to be no longer than longest. It is "" if nothing is left.
func parent(host string, longest int) string {
	for {
		dot := strings.IndexByte(host, '.')
		if dot < 0 || longest == 0 {
			return ""
		}
		if host = host[dot+1:]; len(host) <= longest {
			return host
		}
	}
}

// of returns the paths of a hostname, where "" is every host.
func (h *hosts) of(hostname string) *paths {
	suffix, isWild := strings.CutPrefix(hostname, "*.")
	switch {
	case hostname == "":
		if h.any == nil {
			h.any = new(paths)
		}
		return h.any
	case isWild:
		h.longest = max(h.longest, len(suffix))
		return madeIn(h.wild, suffix)
	}
	return madeIn(h.exact, hostname)
}

func newHosts() *hosts { return &hosts{exact: map[string]*paths{}, wild: map[string]*paths{}} }

func madeIn(m map[string]*paths, name string) *paths {
	if m[name] == nil {
		m[name] = new(paths)
	}
	return m[name]
}

// seal makes h ready for calls, and returns what paths.seal does.
func (h *hosts) seal() (excess []*rule) {
	for _, m := range [...]map[string]*paths{h.exact, h.wild, {"": h.any}} {
		for _, p := range m {
			if p != nil {
				p.sort()
				excess = append(excess, p.seal()...)
			}
		}
	}
	return excess
}
