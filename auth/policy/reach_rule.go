package policy

import (
	"cmp"
	"fmt"
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

type ruleGroup struct {
	action Action
	rules  []*rule
}

func (s *state) ruleGroups() []ruleGroup {
	return []ruleGroup{{ActionDeny, s.denyRules}, {ActionAllow, s.allowRules}}
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
func (f field) identity() bool { return f == fieldPrincipal || f == fieldUser || f == fieldNamespace }

// everybody reports whether r asks nothing of the caller.
func (r *rule) everybody() bool { return len(r.from) == 0 }

// allowsAnonymous reports whether a caller without identity may be one that r is for.
func (r *rule) allowsAnonymous() bool {
	return r.everybody() || some(r.from, func(c *condition) bool { return c.not || !c.field.identity() })
}

// deniesAnonymous reports whether every caller without identity is one that r is for.
func (r *rule) deniesAnonymous() bool {
	return r.everybody() || some(r.from, func(c *condition) bool { return c.not && c.field.identity() })
}

// some reports whether all conditions of one of the clauses pass.
func some(clauses []clause, pass func(*condition) bool) bool {
	for _, cl := range clauses {
		all := true
		for i := range cl {
			all = all && pass(&cl[i])
		}
		if all {
			return true
		}
	}
	return false
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
	}
	return anyText(f)
}

// limits says what else a rule asks that opens a route.
func (r *rule) limits(to clause) string {
	var names []string
	add := func(cl clause) {
		for i := range cl {
			if c := &cl[i]; !c.field.symbolic() && !c.field.identity() {
				names = append(names, c.field.name())
			}
		}
	}
	for _, cl := range r.from {
		add(cl)
	}
	add(to)
	if len(names) == 0 {
		return ""
	}
	return "if the " + strings.Join(names, " and the ") + " is right"
}

func (f field) name() string {
	switch f {
	case fieldAddr:
		return "address"
	case fieldClient:
		return "client address"
	case fieldPort:
		return "port"
	}
	return fieldNames[f]
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
		if r.Example == "" {
			return r.Why
		}
		return r.Why + ", as in " + r.Example
	})
	section(Closed, "is closed, no rule reaches it:", "are closed, no rule reaches them:", func(RouteCoverage) string { return "" })
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
