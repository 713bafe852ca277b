package policy

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/gatemesh-go/gatemesh"
)

// route is a pattern of an http.ServeMux.
type route struct {
	pattern            string
	method, host, path string // "" is any method or host
	lang               lang
	winners            []*route // which serve what they and this one match
	below              bool     // it ends in a slash or {x...}: what it serves may go on
	redirected         lang     // what lacks only a final slash to be just r; nil is nothing
	redirects          []*route // to which ServeMux redirects some of what r matches
}

// parseRoutes reads patterns as they stand in one http.ServeMux.
func parseRoutes(mux *http.ServeMux, patterns []string) ([]*route, error) {
	var routes []*route
	var errs []error
	for _, p := range patterns {
		if err := register(mux, p); err != nil {
			errs = append(errs, err)
			continue
		}
		r, err := parseRoute(p)
		if err != nil {
			errs = append(errs, fmt.Errorf("policy: route %s: %w", quote(p), err))
			continue
		}
		routes = append(routes, r)
	}
	if len(errs) > 0 {
		return nil, errors.Join(errs...)
	}
	for _, r := range routes {
		for _, other := range routes {
			if other != r && other.wins(r) {
				r.winners = append(r.winners, other)
			}
			if other != r && other.redirectsFrom(r) {
				r.redirects = append(r.redirects, other)
			}
		}
	}
	return routes, nil
}

// register asks the ServeMux itself what it makes of a pattern.
func register(mux *http.ServeMux, pattern string) (err error) {
	defer func() {
		if v := recover(); v != nil {
			err = fmt.Errorf("policy: route %s: %v", quote(pattern), v)
		}
	}()
	mux.Handle(pattern, http.NotFoundHandler())
	return nil
}

// parseRoute reads a pattern that ServeMux has accepted.
func parseRoute(pattern string) (*route, error) {
	r := &route{pattern: pattern}
	rest := pattern
	if i := strings.IndexAny(pattern, " \t"); i >= 0 {
		r.method, rest = pattern[:i], strings.TrimLeft(pattern[i:], " \t")
	}
	slash := strings.IndexByte(rest, '/')
	r.host, r.path = rest[:slash], rest[slash:]
	var err error
	if r.host, _, err = gatemesh.CanonicalHost(r.host); err != nil {
		return nil, err
	}
	rest = r.path
	for rest != "" {
		rest = rest[1:] // the slash
		segment, tail, more := strings.Cut(rest, "/")
		if rest = ""; more {
			rest = "/" + tail
		}
		r.lang = append(r.lang, item{itemByte, '/'})
		upTo := r.lang[:len(r.lang)-1]
		switch {
		case segment == "" && rest == "", strings.HasSuffix(segment, "...}"): // a final slash stands for all below
			r.below, r.redirected = true, slices.Clone(upTo)
			r.lang = append(r.lang, item{kind: itemAny})
		case segment == "{$}":
			r.redirected = slices.Clone(upTo)
		case strings.HasPrefix(segment, "{"):
			r.lang = append(r.lang, item{kind: itemOne}, item{kind: itemSegment})
		default:
			if segment, err = url.PathUnescape(segment); err != nil {
				return nil, err
			}
			r.lang = append(r.lang, literal(escapeSegment(segment))...)
		}
	}
	return r, nil
}

// escapeSegment returns a decoded segment as [gatemesh.Call.MatchPath] has it.
func escapeSegment(s string) string {
	var b strings.Builder
	for i := range len(s) {
		if c := s[i]; 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || strings.IndexByte("-._~!$&'()*+,;=:@", c) >= 0 {
			b.WriteByte(c)
		} else {
			fmt.Fprintf(&b, "%%%02X", c)
		}
	}
	return b.String()
}

// serves reports whether requests with this method and host may be for r.
func (r *route) serves(method, host string) bool {
	return (r.method == "" || r.method == method || r.method == http.MethodGet && method == http.MethodHead) &&
		(r.host == "" || r.host == host)
}

// wins reports whether r, and not other, serves what both match: it names a
// host and other none, or all it matches is matched by other. ServeMux accepts
// no two patterns that overlap otherwise.
func (r *route) wins(other *route) bool {
	if r.host != other.host {
		return other.host == ""
	}
	if apart(r.lang, other.lang) {
		return false // nothing matches both
	}
	narrower := r.method == other.method || other.method == "" || other.method == http.MethodGet && r.method == http.MethodHead
	if !narrower {
		return false
	}
	_, beyond := search([]term{{any: []lang{r.lang}}, {any: []lang{other.lang}, not: true}})
	return !beyond
}

// redirectsFrom reports whether ServeMux answers some of what other matches
// with a redirect to r: r is "/a/" or "/a/{$}", the path "/a", and the best that
// matches it is a wider pattern such as "/". One that names a host and matches
// "/a" matches "/a/" too, so one without a host takes nothing from it.
func (r *route) redirectsFrom(other *route) bool {
	return other.below && len(r.redirected) > 0 && (r.host == other.host || other.host == "")
}

// takes reports whether mux gives r the request with this escaped path, and
// does not redirect it.
func (r *route) takes(mux *http.ServeMux, method, host, path string) bool {
	decoded, err := url.PathUnescape(path)
	if err != nil {
		return false
	}
	_, pattern := mux.Handler(&http.Request{Method: method, Host: host, URL: &url.URL{Path: decoded, RawPath: path}})
	return pattern == r.pattern // of a redirect, it is the one redirected to
}
