package policy

import (
	"slices"
	"strings"
)

// lang is a set of texts: what a pattern of a rule or of a route matches.
type lang []item

type item struct {
	kind itemKind
	b    byte // of itemByte
}

type itemKind uint8

const (
	itemByte    itemKind = iota // this byte
	itemOne                     // one byte that is no slash
	itemSegment                 // any number of bytes that are no slash
	itemAny                     // any number of bytes
)

func literal(s string) lang {
	out := make(lang, len(s))
	for i := range len(s) {
		out[i] = item{itemByte, s[i]}
	}
	return out
}

// anyText are the texts that are not empty.
func anyText(f field) lang {
	if f == fieldPath {
		return lang{{itemByte, '/'}, {itemAny, 0}}
	}
	return lang{{itemOne, 0}, {itemAny, 0}}
}

// apart reports whether a and b begin with different bytes, so that no text is
// in both. It spares most searches.
func apart(a, b lang) bool {
	for i := 0; ; i++ {
		endA, endB := i == len(a), i == len(b)
		switch {
		case endA || endB:
			return endA && !endB && b[i].kind <= itemOne || endB && !endA && a[i].kind <= itemOne
		case a[i].kind != itemByte || b[i].kind != itemByte:
			return false
		case a[i].b != b[i].b:
			return true
		}
	}
}

// automaton runs a lang, its states made as they are met. State 0 is dead,
// state 1 the first.
type automaton struct {
	lang    lang
	symbols []byte
	ids     map[string]int32
	sets    [][]uint16 // positions in lang
	next    [][]int32  // by state and symbol; -1 is not known yet
}

func newAutomaton(l lang, symbols []byte) *automaton {
	a := &automaton{lang: l, symbols: symbols, ids: make(map[string]int32)}
	a.state(nil)
	a.state(a.reach([]uint16{0}))
	return a
}

// reach adds the positions behind loops, which may match nothing.
func (a *automaton) reach(set []uint16) []uint16 {
	for i := 0; i < len(set); i++ {
		if p := int(set[i]); p < len(a.lang) && a.lang[p].kind >= itemSegment && !slices.Contains(set, uint16(p+1)) {
			set = append(set, uint16(p+1))
		}
	}
	slices.Sort(set)
	return set
}

func (a *automaton) state(set []uint16) int32 {
	key := make([]byte, 0, 2*len(set))
	for _, p := range set {
		key = append(key, byte(p>>8), byte(p))
	}
	id, ok := a.ids[string(key)]
	if !ok {
		id = int32(len(a.sets))
		a.ids[string(key)] = id
		a.sets = append(a.sets, set)
		unknown := make([]int32, len(a.symbols))
		for i := range unknown {
			unknown[i] = -1
		}
		a.next = append(a.next, unknown)
	}
	return id
}

func (a *automaton) step(from int32, symbol int) int32 {
	if to := a.next[from][symbol]; to >= 0 {
		return to
	}
	b := a.symbols[symbol]
	var set []uint16
	add := func(p uint16) {
		if !slices.Contains(set, p) {
			set = append(set, p)
		}
	}
	for _, p := range a.sets[from] {
		if int(p) == len(a.lang) {
			continue
		}
		switch it := a.lang[p]; {
		case it.kind == itemByte && it.b == b, it.kind == itemOne && b != '/':
			add(p + 1)
		case it.kind == itemSegment && b != '/', it.kind == itemAny:
			add(p)
		}
	}
	to := a.state(a.reach(set))
	a.next[from][symbol] = to
	return to
}

func (a *automaton) accepts(state int32) bool {
	set := a.sets[state]
	return len(set) > 0 && int(set[len(set)-1]) == len(a.lang)
}

// term asks something of a text: that one of any accepts it and none of unless
// does, or with not the opposite. No any is all texts.
type term struct {
	any, unless []lang
	not         bool
}

// maxStates bounds a search. What takes more is taken to have a result: too
// much is then reported as open, never too little.
const maxStates = 1 << 13

// search looks for the shortest text that all terms hold for. It reports
// whether there may be one; the text is "" too if the search was given up.
func search(terms []term) (witness string, found bool) {
	s := newProduct(terms, fieldPath)
	s.walk(func(node int, accepted []bool) bool {
		if !s.hold(accepted) {
			return true
		}
		witness, found = s.text(node), true
		return false
	})
	return witness, found || s.overflow
}

// classes returns one text for each way in which the langs accept and refuse
// texts together, and whether that is all of them.
func classes(f field, langs []lang) (texts []string, all bool) {
	s := newProduct([]term{{any: append([]lang{anyText(f)}, langs...)}, {}}, f)
	seen := make(map[string]bool)
	s.walk(func(node int, accepted []bool) bool {
		key := make([]byte, len(accepted))
		for i, ok := range accepted {
			if ok {
				key[i] = 1
			}
		}
		if !seen[string(key)] {
			seen[string(key)] = true
			texts = append(texts, s.text(node))
		}
		return true
	})
	return texts, !s.overflow
}

// product runs several automata side by side, breadth first.
type product struct {
	terms    []boundTerm
	automata []*automaton
	symbols  []byte
	form     form
	nodes    []productNode
	overflow bool
}

type boundTerm struct {
	any, unless []int
	not         bool
	all         bool // any was nil
}

type productNode struct {
	states []int32
	place  place
	parent int
	symbol byte
}

func newProduct(terms []term, f field) *product {
	s := &product{form: forms[f]}
	var used [256]bool
	for _, b := range []byte(s.form.special) {
		used[b] = true
	}
	each := func(f func([]lang)) {
		for _, t := range terms {
			f(t.any)
			f(t.unless)
		}
	}
	each(func(ls []lang) {
		for _, l := range ls {
			for _, it := range l {
				if it.kind == itemByte {
					used[it.b] = true
				}
			}
		}
	})
	// One byte stands for all that no pattern mentions.
	for _, b := range []byte(s.form.plain) {
		if !used[b] {
			s.symbols = append(s.symbols, b)
			break
		}
	}
	for b := range 256 {
		if used[b] && (strings.IndexByte(s.form.plain, byte(b)) >= 0 || strings.IndexByte(s.form.special, byte(b)) >= 0) {
			s.symbols = append(s.symbols, byte(b))
		}
	}
	bind := func(ls []lang) (out []int) {
		for _, l := range ls {
			out = append(out, len(s.automata))
			s.automata = append(s.automata, newAutomaton(l, s.symbols))
		}
		return out
	}
	for _, t := range terms {
		s.terms = append(s.terms, boundTerm{bind(t.any), bind(t.unless), t.not, t.any == nil})
	}
	return s
}

func (s *product) hold(accepted []bool) bool {
	one := func(of []int) bool { return slices.ContainsFunc(of, func(i int) bool { return accepted[i] }) }
	for _, t := range s.terms {
		if ((t.all || one(t.any)) && !one(t.unless)) == t.not {
			return false
		}
	}
	return true
}

// hopeless reports whether no longer text can hold.
func (s *product) hopeless(states []int32) bool {
	for _, t := range s.terms {
		if !t.not && !t.all && !slices.ContainsFunc(t.any, func(i int) bool { return states[i] != 0 }) {
			return true
		}
	}
	return false
}

// walk calls visit for every state of the product, the shortest texts first,
// until it returns false.
func (s *product) walk(visit func(node int, accepted []bool) bool) {
	first := productNode{states: make([]int32, len(s.automata)), parent: -1}
	for i := range first.states {
		first.states[i] = 1
	}
	s.nodes = append(s.nodes, first)
	seen := map[string]bool{s.key(first): true}
	accepted := make([]bool, len(s.automata))
	for at := 0; at < len(s.nodes); at++ {
		n := s.nodes[at]
		if n.place < placeOpen && (at > 0 || s.form.empty) {
			for i, a := range s.automata {
				accepted[i] = a.accepts(n.states[i])
			}
			if !visit(at, accepted) {
				return
			}
		}
		for symbol, b := range s.symbols {
			to := productNode{states: make([]int32, len(s.automata)), parent: at, symbol: b}
			var ok bool
			if to.place, ok = s.form.step(n.place, b); !ok {
				continue
			}
			for i, a := range s.automata {
				to.states[i] = a.step(n.states[i], symbol)
			}
			if key := s.key(to); !seen[key] && !s.hopeless(to.states) {
				if len(s.nodes) >= maxStates {
					s.overflow = true
					return
				}
				seen[key] = true
				s.nodes = append(s.nodes, to)
			}
		}
	}
}

func (s *product) key(n productNode) string {
	key := make([]byte, 0, 4*len(n.states)+1)
	for _, id := range n.states {
		key = append(key, byte(id>>24), byte(id>>16), byte(id>>8), byte(id))
	}
	return string(append(key, byte(n.place)))
}

func (s *product) text(node int) string {
	var out []byte
	for ; s.nodes[node].parent >= 0; node = s.nodes[node].parent {
		out = append(out, s.nodes[node].symbol)
	}
	slices.Reverse(out)
	return string(out)
}
