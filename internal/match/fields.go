package match

import (
	"net/url"
	"strings"

	"github.com/gatemesh-go/gatemesh"
)

// Header matches a header field that is present exactly once: two readers of a
// repeated one could disagree about what was judged.
type Header struct {
	Name  string // canonical, see [net/textproto.CanonicalMIMEHeaderKey]
	Value Value
	// Not holds if Value does not, also without the field, and not if it is
	// repeated.
	Not bool
}

// Holds reports whether the fields in are such fields.
func (h *Header) Holds(in gatemesh.Header, w *Work) bool {
	if v, ok := in.Only(h.Name); ok {
		return h.Value.Holds(v, Field, w) != h.Not
	}
	return h.Not && in.Count(h.Name) == 0
}

// Parameter matches a parameter of a query that is present exactly once. One
// that cannot be unescaped counts, and matches nothing: servers differ in whether
// they drop it.
type Parameter struct {
	Name  string // unescaped
	Value Value
}

// Holds reports whether a raw query has such a parameter. It allocates only for
// a regular expression and a value that has to be unescaped.
func (q *Parameter) Holds(raw string, w *Work) bool {
	if !w.Afford(Query, stepsSearch*len(raw)) {
		return false
	}
	value, found := "", false
	for raw != "" {
		var pair string
		pair, raw, _ = strings.Cut(raw, "&")
		if pair == "" {
			continue // a parameter has a name, or at least a "="
		}
		name, v, _ := strings.Cut(pair, "=")
		if !sameUnescaped(name, q.Name) {
			continue
		}
		if found {
			return false
		}
		value, found = v, true
	}
	return found && q.Value.holdsEscaped(value, w)
}

// holdsEscaped is Holds for an escaped value of a query.
func (v *Value) holdsEscaped(s string, w *Work) bool {
	if strings.IndexByte(s, '%') < 0 && strings.IndexByte(s, '+') < 0 {
		return v.Holds(s, Query, w)
	}
	switch v.kind {
	case Exact:
		return sameUnescaped(s, v.text)
	case Prefix:
		rest, ok := cutUnescaped(s, v.text)
		return ok && wellEscaped(rest)
	case Present:
		return wellEscaped(s)
	}
	if s != w.escaped {
		if !w.Afford(Query, stepsUnescape*len(s)) {
			return false
		}
		plain, err := url.QueryUnescape(s)
		if err != nil {
			return false
		}
		w.escaped, w.plain = s, plain
	}
	return v.Holds(w.plain, Query, w)
}

// sameUnescaped reports whether escaped is want once unescaped.
func sameUnescaped(escaped, want string) bool {
	rest, ok := cutUnescaped(escaped, want)
	return ok && rest == ""
}

// cutUnescaped returns what follows in escaped on an escaped form of prefix.
func cutUnescaped(escaped, prefix string) (rest string, ok bool) {
	for i := 0; i < len(prefix); i++ {
		c, n := unescape(escaped)
		if n == 0 || c != prefix[i] {
			return "", false
		}
		escaped = escaped[n:]
	}
	return escaped, true
}

func wellEscaped(s string) bool {
	for s != "" {
		_, n := unescape(s)
		if n == 0 {
			return false
		}
		s = s[n:]
	}
	return true
}

// unescape returns the first byte of a query's s, and how many bytes it takes
// there: none if s is empty or malformed.
func unescape(s string) (c byte, n int) {
	switch {
	case s == "":
		return 0, 0
	case s[0] == '+':
		return ' ', 1
	case s[0] != '%':
		return s[0], 1
	case len(s) < 3:
		return 0, 0
	}
	hi, lo := unhex(s[1]), unhex(s[2])
	if hi > 15 || lo > 15 {
		return 0, 0
	}
	return hi<<4 | lo, 3
}

func unhex(c byte) byte {
	switch {
	case '0' <= c && c <= '9':
		return c - '0'
	case 'a' <= c && c <= 'f':
		return c - 'a' + 10
	case 'A' <= c && c <= 'F':
		return c - 'A' + 10
	}
	return 0xff
}
