package routing

import (
	"cmp"

	"github.com/gatemesh-go/gatemesh"
	"github.com/gatemesh-go/gatemesh/internal/match"
)

// subject is a call that is matched, perhaps with the method of another one.
type subject struct {
	call   *gatemesh.Call
	method string
	table  *table

	version   string // if versioned
	versioned bool

	// What paths.match looks for: a lower rank than that of what it has found.
	path  string
	rank  int
	found *rule

	work match.Work
}

// conditions are what a Match says besides the path.
type conditions struct {
	method  string // "" is every method
	headers []match.Header
	query   []match.Parameter
	more    *moreConditions // nil if there are none
}

// moreConditions are those that the Gateway API does not know.
type moreConditions struct {
	methods, scheme, authority *match.Value
	protocol                   gatemesh.Protocol
	port                       uint16
	version                    string
}

// plain reports whether there are none but that of the method.
func (m *conditions) plain() bool { return len(m.headers) == 0 && len(m.query) == 0 && m.more == nil }

// hold reports whether they hold for s, but for that of the method.
func (m *conditions) hold(s *subject) bool {
	for i := range m.headers {
		if !m.headers[i].Holds(s.call.Header(), &s.work) {
			return false
		}
	}
	for i := range m.query {
		if !m.query[i].Holds(s.call.RawQuery(), &s.work) {
			return false
		}
	}
	return m.more == nil || m.more.hold(s)
}

func (m *moreConditions) hold(s *subject) bool {
	c := s.call
	switch {
	case m.protocol != 0 && m.protocol != c.Protocol(),
		m.port != 0 && m.port != c.LocalPort(),
		m.methods != nil && !m.methods.Holds(s.method, match.Field, &s.work),
		m.scheme != nil && !m.scheme.Holds(c.Scheme(), match.Field, &s.work),
		m.authority != nil && !m.authority.Holds(c.Authority(), match.Field, &s.work):
		return false
	}
	if m.version == "" {
		return true
	}
	if !s.versioned {
		v, _ := s.table.version(c) // what is refused for it has been by Admit
		s.version, s.versioned = v.String(), true
	}
	return m.version == s.version
}

// cost is that of all regular expressions.
func (m *conditions) cost() (n int) {
	for i := range m.headers {
		n += m.headers[i].Value.Cost()
	}
	for i := range m.query {
		n += m.query[i].Value.Cost()
	}
	if m.more != nil {
		for _, v := range [...]*match.Value{m.more.methods, m.more.scheme, m.more.authority} {
			if v != nil {
				n += v.Cost()
			}
		}
	}
	return n
}

// compare returns a negative number if m takes precedence over o when their
// paths do not decide.
func (m *conditions) compare(o *conditions) int {
	method := func(c *conditions) int {
		if c.method != "" || c.more != nil && c.more.methods != nil {
			return 1
		}
		return 0
	}
	return cmp.Or(
		cmp.Compare(method(o), method(m)),
		cmp.Compare(len(o.headers), len(m.headers)),
		cmp.Compare(len(o.query), len(m.query)),
		cmp.Compare(o.more.count(), m.more.count()),
	)
}

// count is how many there are besides that of the method.
func (m *moreConditions) count() (n int) {
	if m == nil {
		return 0
	}
	for _, set := range [...]bool{m.scheme != nil, m.authority != nil, m.protocol != 0, m.port != 0, m.version != ""} {
		if set {
			n++
		}
	}
	return n
}
