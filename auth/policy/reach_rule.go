package policy

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

func compareItems(a, b item) int {
	return cmp.Or(cmp.Compare(a.kind, b.kind), cmp.Compare(a.b, b.b))
}

func clausesOf(ds []denial) (out []clause) {
	for _, d := range ds {
		out = append(out, d.clause)
	}
	return out
}

// ruleGroup are the rules of a policy, as written.
type ruleGroup struct {
	action Action
	rules  []*rule
}

// rulesOf returns the rules of an action, as written.
func (s *state) rulesOf(a Action) (out []*rule) {
	for _, g := range s.written {
		if g.action == a {
			out = append(out, g.rules...)
		}
	}
	return out
}

func (r *rule) ref() RuleRef { return RuleRef{r.policy, r.namespace, r.number, r.position} }

// operations returns the alternatives of r, one without conditions if it has none.
func (r *rule) operations() []clause {
	if len(r.to) == 0 {
		return []clause{nil}
	}
	return r.to
}

// symbolic reports whether a route says something about the field.
func (f field) symbolic() bool { return f == fieldMethod || f == fieldHost || f == fieldPath }

// identity reports whether only callers with an identity have the field.
func (f field) identity() bool { return f <= lastIdentity || f == fieldClaim }

// everybody reports whether r asks nothing but what the call does.
func (r *rule) everybody() bool { return len(r.from) == 0 && len(r.when) == 0 }

// allowsAnonymous reports whether a caller without identity may be one that r is for.
func (r *rule) allowsAnonymous() bool {
	return r.asks(func(c *condition) bool { return c.not || !c.field.identity() })
}

// deniesAnonymous reports whether every caller without identity is one that r is for.
func (r *rule) deniesAnonymous() bool {
	return r.asks(func(c *condition) bool { return c.not && c.field.identity() })
}

// asks reports whether all conditions of one source, and all of When, pass.
func (r *rule) asks(pass func(*condition) bool) bool {
	all := func(cl clause) bool {
		for i := range cl {
			if !pass(&cl[i]) {
				return false
			}
		}
		return true
	}
	return (len(r.from) == 0 || slices.ContainsFunc(r.from, all)) && all(r.when)
}

// term returns what cl asks of the text f.
func (cl clause) term(f field) (t term) {
	for i := range cl {
		c := &cl[i]
		if c.field != f {
			continue
		}
		langs := make([]lang, len(c.patterns))
		for j, p := range c.patterns {
			langs[j] = p.lang(f)
		}
		if c.not {
			t.unless = langs
		} else {
			t.any = langs
		}
	}
	return t
}

// holdsFor reports whether the conditions about the fields hold for r.
func (cl clause) holdsFor(r *request, fields ...field) bool {
	for i := range cl {
		for _, f := range fields {
			if cl[i].field == f && !cl[i].holds(r) {
				return false
			}
		}
	}
	return true
}

func (p *pattern) lang(f field) lang {
	switch p.kind {
	case exact:
		return literal(p.fixed)
	case prefix:
		return append(literal(p.fixed), item{kind: itemAny})
	case suffix:
		return append(lang{{kind: itemAny}}, literal(p.fixed)...)
	case template:
		l := literal(p.fixed)
		for _, s := range p.rest.literals {
			l = append(append(l, item{kind: itemOne}, item{kind: itemSegment}), literal(s)...)
		}
		if p.rest.rest {
			l = append(append(l, item{kind: itemAny}), literal(p.rest.last)...)
		}
		return l
	}
	return anyText(f)
}

// limits says what else a rule asks that opens a route.
func (r *rule) limits(to clause) string {
	var names []string
	add := func(cl clause) {
		for i := range cl {
			if c := &cl[i]; !c.field.symbolic() && !c.field.identity() {
				names = append(names, c.says())
			}
		}
	}
	for _, cl := range r.from {
		add(cl)
	}
	add(to)
	add(r.when)
	if len(names) == 0 {
		return ""
	}
	return "if the " + strings.Join(names, " and the ") + " is right"
}

// says names what c is about.
func (c *condition) says() string {
	switch c.field {
	case fieldAddr:
		return "address"
	case fieldClient:
		return "client address"
	case fieldLocal:
		return "destination address"
	case fieldPort:
		return "port"
	case fieldHeader:
		return "header field " + c.name
	}
	return fieldNames[c.field]
}

// String names the rule and where it stands.
func (r RuleRef) String() string {
	s := fmt.Sprintf("rule %d of %s", r.Rule, r.Policy)
	if p := r.Position.String(); p != "" {
		s += " (" + p + ")"
	}
	return s
}

// String returns the coverage as a report for people.
func (c *Coverage) String() string {
	var b strings.Builder
	width := 0
	for _, r := range c.Routes {
		width = min(max(width, len(r.Pattern)), 48)
	}
	section := func(a Access, one, many string, line func(RouteCoverage) string) {
		n := 0
		for _, r := range c.Routes {
			if r.Access == a {
				n++
			}
		}
		switch n {
		case 0:
			return
		case 1:
			fmt.Fprintf(&b, "1 route %s\n", one)
		default:
			fmt.Fprintf(&b, "%d routes %s\n", n, many)
		}
		for _, r := range c.Routes {
			if r.Access == a {
				b.WriteString(strings.TrimRight(fmt.Sprintf("  %-*s  %s", width, r.Pattern, line(r)), " ") + "\n")
			}
		}
	}
	section(Open, "is open to everybody:", "are open to everybody:", func(r RouteCoverage) string {
		if r.Example == "" || r.Example == r.Pattern {
			return r.Why
		}
		return r.Why + ", as in " + r.Example
	})
	section(Closed, "is closed to everybody:", "are closed to everybody:", func(RouteCoverage) string { return "" })
	section(Restricted, "is open to some callers:", "are open to some callers:", func(r RouteCoverage) string {
		names := make([]string, len(r.Rules))
		for i, ref := range r.Rules {
			names[i] = ref.String()
		}
		return strings.Join(names, ", ")
	})
	if len(c.Unserved) > 0 {
		b.WriteString("rules that no route serves:\n")
	}
	for _, u := range c.Unserved {
		fmt.Fprintf(&b, "  %v %v", u.Action, u.RuleRef)
		if u.Paths != nil {
			b.WriteString(": " + strings.Join(u.Paths, ", "))
		}
		b.WriteByte('\n')
	}
	return b.String()
}
