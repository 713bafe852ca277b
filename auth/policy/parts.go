package policy

import (
	"math"
	"slices"
	"strings"
)

// partIndex finds entries by one condition that each of them has: the one that
// fewest others share the values of. Those without such a one stand in rest.
type partIndex struct {
	parts []part
	rest  []entry

	pending []pendingEntry // while building
}

type pendingEntry struct {
	entry
	places int // in how many indices it stands
}

func (p *partIndex) add(e entry, places int) { p.pending = append(p.pending, pendingEntry{e, places}) }

// part finds entries by their values of one text or claim.
type part struct {
	of       condition // what is compared
	tree     tree[entry]
	suffixes map[string][]entry // of host names, by what begins with a dot
	all      []entry

	nodes []node[entry] // while building
}

const (
	// fewEntries is up to where asking all is as fast as searching.
	fewEntries = 8
	// maxPartsOf bounds how many searches a request is worth.
	maxPartsOf = 16
)

// finds reports whether entries can be found by c.
func (c *condition) finds() bool {
	switch c.field {
	case fieldPrincipal, fieldUser, fieldNamespace, fieldHost, fieldPath, fieldSNI, fieldClaim, fieldHeader:
	default:
		return false
	}
	return !c.not && !slices.ContainsFunc(c.patterns, func(p pattern) bool {
		return p.kind == suffix && // others are not looked for
			(c.field != fieldHost && c.field != fieldSNI || p.fixed[0] != '.')
	})
}

// findable returns the conditions that e can be found by, as every request
// that it matches has one of their values.
func (e *pendingEntry) findable() (out []*condition) {
	clauses := []clause{e.rule.when}
	if len(e.to) == 1 {
		clauses = append(clauses, e.to[0])
	}
	if len(e.from) == 1 {
		clauses = append(clauses, e.from[0])
	}
	for _, cl := range clauses {
		for i := range cl {
			if c := &cl[i]; c.finds() && len(c.patterns)*e.places <= maxParts {
				out = append(out, c)
			}
		}
	}
	return out
}

// partOf returns which of the parts is about the same as c, or -1.
func (p *partIndex) partOf(c *condition) int {
	i := slices.IndexFunc(p.parts, func(o part) bool {
		return o.of.field == c.field && o.of.name == c.name && slices.Equal(o.of.path, c.path)
	})
	if i < 0 && len(p.parts) < maxPartsOf {
		i = len(p.parts)
		p.parts = append(p.parts, part{of: condition{field: c.field, name: c.name, claim: c.claim, path: c.path, unknown: c.unknown}, suffixes: make(map[string][]entry)})
	}
	return i
}

func (p *partIndex) build() {
	if len(p.pending) <= fewEntries {
		for _, e := range p.pending {
			p.rest = append(p.rest, e.entry)
		}
		p.pending = nil
		return
	}
	type value struct {
		part int
		pattern
	}
	sharing := make(map[value]int)
	for i := range p.pending {
		for _, c := range p.pending[i].findable() {
			if at := p.partOf(c); at >= 0 {
				for _, pt := range c.patterns {
					sharing[value{at, pattern{kind: pt.kind, fixed: pt.fixed}}]++
				}
			}
		}
	}
	for i := range p.pending {
		e := &p.pending[i]
		var best *condition
		least := math.MaxInt
		for _, c := range e.findable() {
			at, most := p.partOf(c), 0
			for _, pt := range c.patterns {
				most = max(most, sharing[value{at, pattern{kind: pt.kind, fixed: pt.fixed}}])
			}
			if at >= 0 && most < least {
				best, least = c, most
			}
		}
		if best == nil {
			p.rest = append(p.rest, e.entry)
		} else {
			p.parts[p.partOf(best)].add(e.entry, best.patterns)
		}
	}
	p.pending = nil
	parts := p.parts[:0]
	for _, one := range p.parts {
		if len(one.all) <= fewEntries {
			p.rest = append(p.rest, one.all...)
			continue
		}
		one.tree, one.nodes = newTree(one.nodes), nil
		parts = append(parts, one)
	}
	p.parts = slices.Clip(parts)
}

func (p *part) add(e entry, patterns []pattern) {
	p.all = append(p.all, e)
	for _, pt := range patterns {
		switch pt.kind {
		case suffix:
			p.suffixes[pt.fixed] = append(p.suffixes[pt.fixed], e)
		case exact:
			p.nodes = append(p.nodes, node[entry]{key: pt.fixed, exact: []entry{e}})
		default: // "*" begins with nothing, a template with what stands before its first operator
			p.nodes = append(p.nodes, node[entry]{key: pt.fixed, prefix: []entry{e}})
		}
	}
}

func (p *partIndex) match(r *request) *rule {
	for i := range p.parts {
		if rule := p.parts[i].match(r); rule != nil {
			return rule
		}
	}
	return firstMatch(p.rest, r)
}

func (p *part) match(r *request) (found *rule) {
	find := func(word string) bool {
		found = p.find(&text{word}, r)
		return found == nil
	}
	against := false // it counts against the call, whatever is wanted
	switch {
	case p.of.field == fieldHeader:
		against = r.reserved(p.of.name) || !r.eachMember(p.of.name, find)
	case p.of.field != fieldClaim:
		return p.find(&r.texts[p.of.field], r)
	case r.principal != nil:
		against = p.of.eachWord(r.principal, find)
	}
	if found == nil && against && p.of.unknown {
		return firstMatch(p.all, r)
	}
	return found
}

// find returns a rule that matches r among those found by t.
func (p *part) find(t *text, r *request) *rule {
	i := p.tree.find(t)
	if i >= 0 && len(p.tree.nodes[i].key) == t.len() {
		if rule := firstMatch(p.tree.nodes[i].exact, r); rule != nil {
			return rule
		}
	}
	for ; i >= 0; i = p.tree.nodes[i].parent {
		if rule := firstMatch(p.tree.nodes[i].prefix, r); rule != nil {
			return rule
		}
	}
	if len(p.suffixes) == 0 {
		return nil
	}
	for name := t[0]; ; name = name[1:] { // names are whole
		dot := strings.IndexByte(name, '.')
		if dot < 0 {
			return nil
		}
		name = name[dot:]
		if rule := firstMatch(p.suffixes[name], r); rule != nil {
			return rule
		}
	}
}
