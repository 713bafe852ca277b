package policy

import "strings"

// text is the concatenation of its parts, compared without being built:
// identities come in pieces, and joining them for every call would allocate.
type text [3]string

func (t *text) String() string { return t[0] + t[1] + t[2] }

func (t *text) len() int { return len(t[0]) + len(t[1]) + len(t[2]) }

func (t *text) empty() bool { return t.len() == 0 }

// whole reports whether t is all in its first part, as most texts are.
func (t *text) whole() bool { return len(t[1])+len(t[2]) == 0 }

func (t *text) equal(s string) bool {
	if t.whole() {
		return t[0] == s
	}
	return len(s) == t.len() && t.hasPrefix(s)
}

func (t *text) hasPrefix(s string) bool {
	for _, part := range t {
		if len(s) <= len(part) {
			return part[:len(s)] == s
		}
		if s[:len(part)] != part {
			return false
		}
		s = s[len(part):]
	}
	return false // s is longer
}

func (t *text) hasSuffix(s string) bool {
	for i := len(t) - 1; i >= 0; i-- {
		part := t[i]
		if len(s) <= len(part) {
			return part[len(part)-len(s):] == s
		}
		if s[len(s)-len(part):] != part {
			return false
		}
		s = s[:len(s)-len(part)]
	}
	return false
}

// compare orders t and s like [strings.Compare].
func (t *text) compare(s string) int {
	if t.whole() {
		return strings.Compare(t[0], s)
	}
	for _, part := range t {
		n := min(len(part), len(s))
		if c := strings.Compare(part[:n], s[:n]); c != 0 {
			return c
		}
		if n < len(part) {
			return 1
		}
		s = s[n:]
	}
	if s != "" {
		return -1
	}
	return 0
}
