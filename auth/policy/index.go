package policy

import (
	"slices"
	"strings"
)

// index finds a rule that matches a request without asking all of them. It
// only ever proposes candidates: a candidate is judged in full, and every rule
// that could match is among them.
//
// Rules stand under the exact principals they accept, or under anyone, and
// below that as a partIndex has them.
type index struct {
	byPrincipal map[string]*partIndex // by the principal's path; its trust domain is judged with the rest
	anyone      partIndex
}

// entry is a part of a rule: one source and one operation of it, so that a
// rule with a thousand of them is not searched from its beginning.
type entry struct {
	rule     *rule
	from, to []clause
}

func (e *entry) matches(r *request) bool {
	return anyHolds(e.to, r) && anyHolds(e.from, r) && e.rule.when.holds(r)
}

// maxParts bounds into how many entries a rule is split, and how many places
// an entry is put in. Beyond it, rules are found by fewer of their properties.
const (
	maxParts  = 1024
	maxPlaces = 8 * maxParts // of a rule, by principal
)

func newIndex(rules []*rule) index {
	x := index{byPrincipal: make(map[string]*partIndex)}
	for _, r := range rules {
		froms, tos := split(r.from), split(r.to)
		if len(froms)*len(tos) > maxParts {
			froms = [][]clause{r.from}
		}
		for _, from := range froms {
			for _, to := range tos {
				x.add(entry{r, from, to}, len(tos))
			}
		}
	}
	x.anyone.build()
	for _, p := range x.byPrincipal {
		p.build()
	}
	return x
}

// split returns alternatives one by one; no alternatives are one without conditions.
func split(clauses []clause) [][]clause {
	if len(clauses) == 0 {
		return [][]clause{nil}
	}
	out := make([][]clause, len(clauses))
	for i := range clauses {
		out[i] = clauses[i : i+1 : i+1]
	}
	return out
}

// add adds one of so many operations of a rule.
func (x *index) add(e entry, operations int) {
	principals := principalPaths(e.from)
	if len(principals) == 0 || len(principals)*operations > maxPlaces {
		x.anyone.add(e, 1)
		return
	}
	for _, key := range principals {
		if x.byPrincipal[key] == nil {
			x.byPrincipal[key] = &partIndex{}
		}
		x.byPrincipal[key].add(e, len(principals))
	}
}

// principalPaths returns paths of principals, one of which every call has that
// one of clauses holds for, or nil if not every clause has such.
func principalPaths(clauses []clause) (paths []string) {
	for i := range clauses {
		principals, accounts := required(clauses[i:i+1], fieldPrincipal), required(clauses[i:i+1], fieldServiceAccount)
		if len(principals)+len(accounts) == 0 || slices.ContainsFunc(principals, func(p pattern) bool { return p.kind != exact }) {
			return nil
		}
		for _, p := range principals {
			paths = append(paths, p.fixed[strings.IndexByte(p.fixed, '/'):]) // checkPrincipal: there is one
		}
		for _, p := range accounts { // NewPeer: no other path has such an account
			ns, name, _ := strings.Cut(p.fixed, "/")
			paths = append(paths, "/ns/"+ns+"/sa/"+name)
		}
	}
	return paths
}

// required returns patterns of field f, one of which every call that one of
// clauses holds for must match, or nil if not every clause has such.
func required(clauses []clause, f field) []pattern {
	var all []pattern
	for _, cl := range clauses {
		i := slices.IndexFunc(cl, func(c condition) bool { return c.field == f && !c.not })
		if i < 0 {
			return nil
		}
		all = append(all, cl[i].patterns...)
	}
	return all
}

// match returns a rule that matches r, or nil.
func (x *index) match(r *request) *rule {
	if path := r.texts[fieldPrincipal][1]; path != "" {
		if p := x.byPrincipal[path]; p != nil {
			if rule := p.match(r); rule != nil {
				return rule
			}
		}
	}
	return x.anyone.match(r)
}

func firstMatch(entries []entry, r *request) *rule {
	for i := range entries {
		if entries[i].matches(r) {
			return entries[i].rule
		}
	}
	return nil
}
