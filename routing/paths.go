package routing

import (
	"cmp"
	"regexp"
	"slices"

	"github.com/gatemesh-go/gatemesh/internal/match"
)

// paths are the matches of one hostname, or of one service, found by the path.
// Those that a path can belong to are the ones whose text it begins with, and
// only they are looked at.
type paths struct {
	texts  match.Tree[bucket]
	folded match.Tree[bucket] // those that ignore case; FoldCase is set
	count  int                // of candidates
	added  []addition         // until sealed
}

// bucket has the candidates of one text, in the order of their rank.
type bucket struct {
	exact  []candidate // the path is the text
	prefix []candidate // a segment ends where the text does
	start  []candidate
	regex  []candidate // the text is how all that it matches begins
	cost   int         // of all regular expressions
}

// candidate is a match that remains to be compared when its text fits.
type candidate struct {
	rank   int         // the lowest one that holds wins
	method string      // that of match, here for those that have no more
	match  *conditions // nil if there is no more to compare
	rule   *rule
	regex  *regexp.Regexp // nil but in bucket.regex
	cost   int            // of regex, for each byte
}

// addition is a candidate with its path.
type addition struct {
	candidate
	path compiledPath
}

// compiledPath is a valid PathMatch.
type compiledPath struct {
	kind     PathType
	text     string // without the last slash of a prefix; of a regex, its Literal
	foldCase bool
	regex    *regexp.Regexp
	cost     int // of regex
}

// add adds a valid match. Rules must be added in their order.
func (p *paths) add(path compiledPath, m *conditions, r *rule) {
	p.added = append(p.added, addition{candidate{match: m, rule: r, regex: path.regex, cost: path.cost}, path})
}

// sort gives the candidates the precedence of the Gateway API. Without it, they
// have that of their order.
func (p *paths) sort() {
	slices.SortStableFunc(p.added, func(a, b addition) int {
		return cmp.Or(
			cmp.Compare(b.path.class(), a.path.class()),
			cmp.Compare(b.path.length(), a.path.length()),
			a.match.compare(b.match),
		)
	})
}

// The classes of paths, in ascending order of precedence.
const (
	classEvery = iota // the prefix "/"
	classRegex
	classPrefix
	classExact
)

func (p *compiledPath) class() int {
	switch {
	case p.kind == PathExact:
		return classExact
	case p.kind == PathRegex:
		return classRegex
	case p.text == "":
		return classEvery
	}
	return classPrefix
}

// length is that of a prefix. Of two exact paths that match, both are as long
// as the path, and of regular expressions the length means nothing.
func (p *compiledPath) length() int {
	if p.kind == PathRegex {
		return 0
	}
	return len(p.text)
}

// What has to be tried for one text.
const (
	maxAlike     = 256          // regular expressions for the path
	maxAlikeCost = maxWork / 64 // instructions of all, so that values of some length can be compared
)

// seal makes p ready for calls. It returns the rules with regular expressions
// that are more than these.
func (p *paths) seal() (excess []*rule) {
	p.folded.FoldCase = true
	for i, a := range p.added {
		a.rank, a.method = i, a.match.method
		cost := a.cost + a.match.cost()
		if a.match.plain() {
			a.match = nil
		}
		tree := &p.texts
		if a.path.foldCase {
			tree = &p.folded
		}
		b := &tree.At(a.path.text).Value
		b.cost += cost
		if cost > 0 && b.cost > maxAlikeCost || a.regex != nil && len(b.regex) >= maxAlike {
			excess = append(excess, a.rule)
		}
		to := &b.prefix
		switch a.path.kind {
		case PathExact:
			to = &b.exact
		case PathStart:
			to = &b.start
		case PathRegex:
			to = &b.regex
		}
		*to = append(*to, a.candidate)
	}
	p.count, p.added = len(p.added), nil
	p.texts.Seal()
	p.folded.Seal()
	return excess
}

// match returns the rule whose match has the lowest rank of those that hold, or
// nil.
func (p *paths) match(s *subject) *rule {
	s.path, s.rank, s.found = s.call.MatchPath(), p.count, nil
	s.in(p.texts.Longest(s.path))
	s.in(p.folded.Longest(s.path))
	return s.found
}

// in looks at the candidates of a text that the path begins with, and of those
// that the text begins with.
func (s *subject) in(n *match.Node[bucket]) {
	for ; n != nil; n = n.Up {
		b := &n.Value
		if len(s.path) == n.Len {
			s.try(b.exact)
			s.try(b.prefix)
		} else if s.path[n.Len] == '/' {
			s.try(b.prefix)
		}
		s.try(b.start)
		s.try(b.regex)
	}
}

func (s *subject) try(all []candidate) {
	for i := range all {
		c := &all[i]
		if c.rank >= s.rank {
			return
		}
		if c.method != "" && c.method != s.method {
			continue
		}
		if (c.match == nil || c.match.hold(s)) && (c.regex == nil || s.work.Afford(match.Path, c.cost*len(s.path)) && c.regex.MatchString(s.path)) {
			s.rank, s.found = c.rank, c.rule
			return
		}
	}
}
