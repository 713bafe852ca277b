package gatemesh

import (
	"net/url"
	"slices"
	"strings"
)

// Credentials that are not a field of their own; see [Admission.Consumed].
const (
	consumedCookie = "cookie:"
	consumedQuery  = "query:"
)

// CookieValues returns the values of the request's cookies of that name (RFC
// 6265 §4.2), compared byte for byte, in the order in which they came.
func (c *Call) CookieValues(name string) (values []string) {
	for _, line := range c.header.values("Cookie") {
		for pair := range strings.SplitSeq(line, ";") {
			if n, v := cutCookie(pair); n == name {
				values = append(values, v)
			}
		}
	}
	return values
}

func cutCookie(pair string) (name, value string) {
	name, value, _ = strings.Cut(strings.Trim(pair, " \t"), "=")
	return name, value
}

// QueryValues returns the values of the query's parameters of that name, both
// unescaped. A parameter that cannot be unescaped is none.
func (c *Call) QueryValues(name string) (values []string) {
	for pair := range strings.SplitSeq(c.rawQuery, "&") {
		n, escaped, _ := strings.Cut(pair, "=")
		if !isParameter(n, name) {
			continue
		}
		if v, err := url.QueryUnescape(escaped); err == nil {
			values = append(values, v)
		}
	}
	return values
}

func isParameter(escaped, name string) bool {
	n, err := url.QueryUnescape(escaped)
	return err == nil && n == name
}

// ForwardedQuery returns RawQuery without the parameters that held a credential,
// for whoever sends the call on.
func (c *Call) ForwardedQuery() string {
	query := c.rawQuery
	for _, in := range c.consumed {
		name, ok := strings.CutPrefix(in, consumedQuery)
		if !ok {
			continue
		}
		pairs := strings.Split(query, "&")
		pairs = slices.DeleteFunc(pairs, func(pair string) bool {
			n, _, _ := strings.Cut(pair, "=")
			return isParameter(n, name)
		})
		query = strings.Join(pairs, "&")
	}
	return query
}

// left returns what may go on of a field of an outbound request: not the
// credential that a call which led to it was authenticated with, in this chain
// or in one around it. That is for us and for nobody behind us. A field or a
// cookie of that name with other values is the application's own.
func (x *Exchange) left(name string, values []string) []string {
	for p := exchangeFrom(x.ctx); p != nil && values != nil; p = exchangeFrom(p.ctx) {
		values = p.unconsumed(name, values)
	}
	return values
}

// unconsumed returns values without the credential that x was admitted with,
// or nil if that is all of the field.
func (x *Exchange) unconsumed(name string, values []string) []string {
	for _, in := range x.call.consumed {
		cookie, isCookie := strings.CutPrefix(in, consumedCookie)
		switch {
		case isCookie && strings.EqualFold(name, "Cookie"):
			values = withoutCookies(values, cookie, x.call.CookieValues(cookie))
		case !isCookie && strings.EqualFold(in, name):
			received := x.call.header.values(name)
			if slices.ContainsFunc(values, func(v string) bool { return slices.Contains(received, v) }) {
				return nil
			}
		}
	}
	return values
}

// withoutCookies returns lines without the cookies of that name that have one of
// values. It returns lines itself if there are none, and nil if nothing is left.
func withoutCookies(lines []string, name string, values []string) []string {
	held := func(pair string) bool {
		n, v := cutCookie(pair)
		return n == name && slices.Contains(values, v)
	}
	if !slices.ContainsFunc(lines, func(l string) bool { return slices.ContainsFunc(strings.Split(l, ";"), held) }) {
		return lines
	}
	var rest []string
	for _, line := range lines {
		pairs := slices.DeleteFunc(strings.Split(line, ";"), held)
		if line = strings.Trim(strings.Join(pairs, ";"), " \t"); line != "" {
			rest = append(rest, line)
		}
	}
	return rest
}
