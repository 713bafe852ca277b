package manifest

import "regexp/syntax"

// What a folder amounts to can be far more than it is large: a rule stands once
// for each of its hosts, and a regular expression of a few bytes can compile to
// megabytes. A folder beyond these bounds does not load.
const (
	maxPlaces  = 500_000   // matches of routes, for each listener and hostname that they have in common
	maxRules   = 100_000   // matches of VirtualServices, for each host
	maxOneRE   = 100_000   // what a regular expression compiles to, see costOf
	maxAllREs  = 4_000_000 // and all of them
	everyMatch = 1         // that a rule without matches has
)

// costOf returns about how large v is when it is compiled: its instructions, and
// the characters that those tell apart. That of an invalid one is 0.
func costOf(v string) int {
	re, err := syntax.Parse(v, syntax.Perl)
	if err != nil {
		return 0
	}
	prog, err := syntax.Compile(re.Simplify())
	if err != nil {
		return 0
	}
	cost := len(prog.Inst)
	for i := range prog.Inst {
		cost += len(prog.Inst[i].Rune)
	}
	return cost
}

// formatFault is [formatFault] for a value of s, whose regular expressions it
// counts.
func (s scope) formatFault(format, v string) string {
	if format != "regex" || len(v) > maxRegex {
		return formatFault(format, v)
	}
	cost := 0
	if s.faults.regexes <= maxAllREs {
		cost = costOf(v)
		s.faults.regexes += cost
	}
	switch {
	case cost > maxOneRE:
		return "is a regular expression that is too large when compiled"
	case s.faults.regexes > maxAllREs:
		return "is one regular expression too many: all of them together are too large when compiled"
	}
	return formatFault(format, v)
}

// boundRoutes reports the route with which there are too many.
func (set *Set) boundRoutes(r *aRoute, matches int, so *int) {
	for _, a := range set.attached[r.key] {
		for _, l := range a.listeners {
			for _, h := range hostsOf(r.hostnames) {
				if _, ok := intersect(h.V, l.Hostname.V); ok {
					*so += matches
				}
			}
		}
	}
	if *so > maxPlaces {
		r.scope.fault(r.mark, "with this one, the routes have more than %d matches, each counted for every listener and hostname", maxPlaces)
	}
}

// boundServices reports the VirtualServices with which there are too many.
func (set *Set) boundServices() {
	so := 0
	for _, v := range set.virtualServices {
		matches := 0
		for i := range v.Spec.HTTP {
			matches += max(everyMatch, len(v.Spec.HTTP[i].Match))
		}
		if so += matches * len(v.Spec.Hosts); so > maxRules {
			v.scope.fault(v.mark, "with this one, the VirtualServices have more than %d matches, each counted for every host", maxRules)
			return
		}
	}
}
