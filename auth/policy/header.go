package policy

import (
	"errors"
	"net/textproto"
	"slices"
	"strings"
)

var (
	errHeaderName       = errors.New("it is not the name of a header field")
	errHeaderPseudo     = errors.New("host, method and path are compared in the fields hosts, methods and paths of an operation, in canonical form")
	errHeaderConnection = errors.New("it is about one connection and not about the call")
	errHeaderCredential = errors.New("it carries a credential, which means nothing until it is verified; use request.auth")
	errHeaderIdentity   = errors.New("callers are known by what was verified, never by a field; use source.principal or request.auth")
	errHeaderDropped    = errors.New("it can never match, no call has the field")
	errHeaderBinary     = errors.New("fields of bytes (gRPC metadata whose name ends in -bin) cannot be compared")
	errControl          = errors.New("it can never match, header fields contain no control characters")
)

// headerName returns the canonical form of the name of a field that a
// condition may read.
func headerName(name string) (string, error) {
	lower := strings.ToLower(name)
	folded := strings.Map(func(r rune) rune {
		if strings.ContainsRune("abcdefghijklmnopqrstuvwxyz0123456789", r) {
			return r
		}
		return '-' // as a gatemesh.Entry and some servers read it
	}, lower)
	switch {
	case strings.HasPrefix(name, ":"), lower == "host":
		return "", errHeaderPseudo
	case len(name) > 64, strings.Trim(lower, "abcdefghijklmnopqrstuvwxyz0123456789!#$%&'*+-.^_`|~") != "":
		return "", errHeaderName
	case strings.HasPrefix(folded, "x-gatemesh-"), folded == "x-forwarded-client-cert":
		return "", errHeaderIdentity
	case strings.HasSuffix(lower, "-bin"):
		return "", errHeaderBinary
	}
	switch folded {
	case "connection", "keep-alive", "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade", "http2-settings", "content-length":
		return "", errHeaderConnection
	case "authorization", "proxy-authorization", "cookie":
		return "", errHeaderCredential
	case "x-http-method-override", "x-http-method", "x-method-override":
		return "", errHeaderDropped
	}
	return textproto.CanonicalMIMEHeaderKey(name), nil
}

// singleFields have one value (RFC 9110 §5.5, RFC 6454 §7): their commas are
// part of it.
var singleFields = []string{"Content-Type", "Date", "From", "If-Modified-Since", "If-Unmodified-Since", "Origin", "Referer", "User-Agent"}

// maxMembers is how many values of a field are looked at. More count against
// the call: it could make judging as slow as it likes.
const maxMembers = 128

// reserved reports whether Entry keeps the field from everybody but the gate
// that verifies it.
func (r *request) reserved(name string) bool {
	if r.kept != nil {
		values, ok := r.kept[name]
		return ok && values == nil
	}
	_, ok := r.call.Reserved(name)
	return ok
}

func (r *request) count(name string) int {
	if r.kept != nil {
		return len(r.kept[name])
	}
	return r.header.Count(name)
}

func (r *request) only(name string) (value string, ok bool) {
	if r.kept == nil {
		return r.header.Only(name)
	}
	if len(r.kept[name]) != 1 {
		return "", false
	}
	return r.kept[name][0], true
}

func (r *request) at(name string, i int) string {
	if r.kept != nil {
		return r.kept[name][i]
	}
	return r.header.At(name, i)
}

// matchesHeader reports whether the field has one of the values of c. Callers
// may send a field twice, or several values in one. Where a match is for the
// call, there must be exactly one value and that must match; where it is
// against the call, it is enough that any value does. So what a server behind
// takes for the value does not matter.
func (c *condition) matchesHeader(r *request) bool {
	switch {
	case c.any: // any field that is not empty
		for i := range r.count(c.name) {
			if r.at(c.name, i) != "" {
				return true
			}
		}
		return false
	case c.unknown != c.not:
		return c.matchesAnyValue(r)
	}
	value, ok := r.only(c.name)
	if !ok {
		return false
	}
	if !c.single && strings.Contains(value, ",") {
		// A list, unless it is written in the policy just so.
		return slices.ContainsFunc(c.patterns, func(p pattern) bool { return p.kind == exact && p.fixed == value })
	}
	return c.matches(&text{value})
}

func (c *condition) matchesAnyValue(r *request) bool {
	matched := false
	few := r.eachMember(c.name, func(s string) bool {
		matched = c.matches(&text{s})
		return !matched
	})
	return matched || !few
}

// eachMember yields the values of the field and what commas separate in them,
// until yield returns false. It reports false if there are more than maxMembers.
func (r *request) eachMember(name string, yield func(string) bool) (few bool) {
	left := maxMembers
	for i := range r.count(name) {
		value := r.at(name, i)
		if !yield(value) {
			return true
		}
		for more := true; more; {
			if left--; left < 0 {
				return false
			}
			var member string
			member, value, more = strings.Cut(value, ",")
			if !yield(strings.Trim(member, " \t")) {
				return true
			}
		}
	}
	return true
}

// headersOf returns the names of the fields that rules read.
func headersOf(rules []*rule) []string {
	var names []string
	for _, r := range rules {
		for i := range r.when {
			if c := &r.when[i]; c.field == fieldHeader {
				names = append(names, c.name)
			}
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}
