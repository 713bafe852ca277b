package policy

import (
	"errors"
	"fmt"
	"strings"

	"github.com/gatemesh-go/gatemesh"
)

const (
	oneSegment  = "{*}"
	anySegments = "{**}"
)

var (
	errBrace   = errors.New("in a path template a segment is {*}, {**} or has no brace; a literal brace is written %7B or %7D")
	errLast    = errors.New("in a path template {**} stands once and is the last operator")
	errLiteral = errors.New("in a path template `*` stands in {*} and {**} alone, and other segments are of the characters of a path (RFC 3986 pchar)")
)

// segments are what stands behind the first literal of a path template: an
// operator, a literal, an operator and so on.
type segments struct {
	literals []string // one behind each {*}; it may be ""
	rest     bool     // {**} stands behind the last of literals, or first
	last     string   // the literal behind {**}
}

// parseTemplate reads a path with operators, as Istio documents and validates
// them:
// https://istio.io/latest/docs/reference/config/security/authorization-policy/#Operation
func parseTemplate(value string) (pattern, error) {
	p := pattern{kind: template, rest: &segments{}}
	if value[0] != '/' {
		return p, errSlash
	}
	in := strings.Split(value, "/")
	plain := make([]string, len(in)) // with a letter for each operator
	for i, s := range in {
		plain[i] = s
		switch {
		case s == oneSegment || s == anySegments:
			if p.rest.rest {
				return p, errLast
			}
			p.rest.rest = s == anySegments
			plain[i] = "x"
		case strings.ContainsAny(s, "{}"):
			return p, errBrace
		case strings.Trim(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._~%!$&'()+,;:@=") != "":
			return p, errLiteral
		}
	}
	path, err := gatemesh.CanonicalPath(strings.Join(plain, "/"), gatemesh.PathOptions{KeepEncodedSlash: true, KeepPathParameters: true})
	if err != nil {
		return p, fmt.Errorf("it can never match: %w", err)
	}
	// The canonical form has the same segments, each in its own canonical form.
	literal := &p.fixed
	for i, s := range strings.Split(gatemesh.MatchForm(path), "/") {
		if i > 0 {
			*literal += "/"
		}
		switch in[i] {
		case oneSegment:
			p.rest.literals = append(p.rest.literals, "")
			literal = &p.rest.literals[len(p.rest.literals)-1]
		case anySegments:
			literal = &p.rest.last
		default:
			*literal += s
		}
	}
	return p, nil
}

// match reports whether path is what may follow the first literal.
func (s *segments) match(path string) bool {
	for _, literal := range s.literals {
		end := strings.IndexByte(path, '/')
		if end < 0 {
			end = len(path)
		}
		if end == 0 || !strings.HasPrefix(path[end:], literal) {
			return false
		}
		path = path[end+len(literal):]
	}
	if s.rest {
		return strings.HasSuffix(path, s.last)
	}
	return path == ""
}
