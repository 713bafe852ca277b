package routing

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/gatemesh-go/gatemesh"
	"github.com/gatemesh-go/gatemesh/internal/match"
)

const (
	corsFields = "Access-Control-"
	maxOrigin  = 8 + 253 + 1 + 6 // "https://", a name with a last dot, and a port: splitOrigin takes no more
)

var denyOrigin = gatemesh.Deny(gatemesh.PermissionDenied, "origin_not_allowed", "Pages of this origin may not call.")

// cors is a compiled CORS.
type cors struct {
	all         bool // "*"
	origins     []origin
	matches     []match.Value
	methods     string // for Access-Control-Allow-Methods; "*" echoes
	headers     string
	expose      string
	age         string
	credentials bool
}

// origin is one of AllowOrigins.
type origin struct {
	scheme, host, port string
	wild               bool // host is what follows "*": "" or ".example.com"
}

// splitOrigin reads an origin as a browser serializes it (RFC 6454 §6.2).
func splitOrigin(s string) (o origin, ok bool) {
	scheme, rest, found := strings.Cut(s, "://")
	if !found || scheme != "http" && scheme != "https" {
		return o, false
	}
	host, port, err := gatemesh.CanonicalHost(rest)
	if err != nil || host == "" {
		return o, false
	}
	if port == "" {
		port = defaultPort(scheme)
	}
	return origin{scheme: scheme, host: host, port: port}, true
}

func (o *origin) allows(asked *origin) bool {
	if o.scheme != asked.scheme || o.port != asked.port {
		return false
	}
	if o.wild {
		return len(asked.host) > len(o.host) && strings.HasSuffix(asked.host, o.host)
	}
	return o.host == asked.host
}

func (c *cors) allows(sent string) bool {
	if sent == "null" { // sandboxed pages and files of anybody
		return c.all && !c.credentials
	}
	asked, ok := splitOrigin(sent)
	if !ok {
		return false
	}
	if c.all || slices.ContainsFunc(c.origins, func(o origin) bool { return o.allows(&asked) }) {
		return true
	}
	w := match.NewWork(maxOriginWork)
	return slices.ContainsFunc(c.matches, func(v match.Value) bool { return v.Holds(sent, match.Field, &w) })
}

// CORS returns the layer that answers preflight requests and lets pages read
// answers, for routes with [Filters.CORS]. It stands right behind [Router.Layer],
// before everybody who asks who the caller is: a preflight request carries no
// credential, and a page has to be able to read a refusal, too. A preflight
// request of an origin that is not allowed is answered with 403; an actual
// request of one goes on, and the page cannot read the answer. It is no
// protection of the service: whoever is no browser does as he likes.
func (r *Router) CORS() gatemesh.Layer {
	return gatemesh.Layer{Name: "cors", Needs: []gatemesh.Fact{gatemesh.FactRoute}, Handler: r.corsHandler}
}

func (r *Router) corsHandler(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		call := gatemesh.FromContext(req.Context())
		if call == nil {
			gatemesh.WriteDenial(w, req, denyNoCall)
			return
		}
		s := stagesOf(call)
		c := s.cors()
		if c == nil {
			next.ServeHTTP(w, req)
			return
		}
		if !r.crossOrigin(w, req, call, c) {
			next.ServeHTTP(w, req.WithContext(context.WithValue(req.Context(), corsKey{}, c)))
		}
	})
}

// corsKey finds in a context the cors that has been seen to.
type corsKey struct{}

// crossOrigin has the answer to req say what c allows, and answers preflight
// requests. It reports whether it did.
func (r *Router) crossOrigin(w http.ResponseWriter, req *http.Request, call *gatemesh.Call, c *cors) (answered bool) {
	out, ok := gatemesh.Writer(w)
	if !ok {
		gatemesh.WriteDenial(w, req, denyNoCall)
		return true
	}
	from, one := call.Header().Only("Origin")
	allowed := one && c.allows(from)
	method, asks := call.Header().Only("Access-Control-Request-Method")
	preflight := asks && call.Header().Count("Origin") > 0 && call.Method() == http.MethodOptions
	out.Before(func(_ int, h http.Header) {
		exposed := c.exposed(h)
		for name := range h {
			if strings.HasPrefix(name, corsFields) {
				delete(h, name)
			}
		}
		h.Add("Vary", "Origin")
		if preflight {
			h.Add("Vary", "Access-Control-Request-Method, Access-Control-Request-Headers")
		}
		if !allowed {
			return
		}
		h.Set("Access-Control-Allow-Origin", from)
		if c.credentials {
			h.Set("Access-Control-Allow-Credentials", "true")
		}
		if exposed != "" {
			h.Set("Access-Control-Expose-Headers", exposed)
		}
		if preflight {
			c.permit(h, method, call.Header())
		}
	})
	switch {
	case !preflight:
		return false
	case !allowed:
		r.observe(req.Context(), gatemesh.Event{Kind: gatemesh.EventDenied, Layer: "cors", Call: call, Denial: denyOrigin})
		gatemesh.WriteDenial(w, req, denyOrigin)
	default:
		w.Header().Set("Content-Length", "0")
		w.WriteHeader(http.StatusOK)
	}
	return true
}

// cors returns what the stages say of other origins: the last one that says
// anything knows best.
func (s *stages) cors() *cors {
	for i := s.n - 1; i >= 0; i-- {
		if c := s.all[i].cors; c != nil {
			return c
		}
	}
	return nil
}

// permit answers the questions of a preflight request.
func (c *cors) permit(h http.Header, method string, asked gatemesh.Header) {
	methods, headers := c.methods, c.headers
	if methods == "*" { // a browser takes "*" for a name where credentials are allowed
		methods = tokens(method)
	}
	if methods != "" {
		h.Set("Access-Control-Allow-Methods", methods)
	}
	if headers == "*" {
		headers, _ = asked.Only("Access-Control-Request-Headers")
		headers = tokens(headers)
	}
	if headers != "" {
		h.Set("Access-Control-Allow-Headers", headers)
	}
	h.Set("Access-Control-Max-Age", c.age)
}

// tokens returns a list of names as it is, or "" for anything else.
func tokens(list string) string {
	if len(list) > 4<<10 {
		return ""
	}
	for name := range strings.SplitSeq(list, ",") {
		if name = strings.Trim(name, " \t"); name == "" || !validFieldName(name) {
			return ""
		}
	}
	return list
}

// exposed returns the names of the fields of h that a page may read.
func (c *cors) exposed(h http.Header) string {
	if c.expose != "*" || !c.credentials {
		return c.expose
	}
	var names []string
	for name := range h {
		if name != "Set-Cookie" && !strings.HasPrefix(name, corsFields) && !strings.HasPrefix(name, http.TrailerPrefix) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return strings.Join(names, ", ")
}

func (f *faults) cors(at gatemesh.Position, field string, in *CORS) *cors {
	c := &cors{
		methods: f.names(at, field+".AllowMethods", in.AllowMethods), headers: f.names(at, field+".AllowHeaders", in.AllowHeaders),
		expose: f.names(at, field+".ExposeHeaders", in.ExposeHeaders), credentials: in.AllowCredentials, age: "5",
	}
	if len(in.AllowOrigins)+len(in.AllowOriginMatches) == 0 {
		f.add(at, "%s.AllowOrigins is required, or AllowOriginMatches", field)
	}
	for i, s := range in.AllowOrigins {
		if s == "*" {
			if c.all = true; len(in.AllowOrigins)+len(in.AllowOriginMatches) > 1 {
				f.add(at, "%s.AllowOrigins[%d]: \"*\" makes all others meaningless", field, i)
			}
			continue
		}
		scheme, host, _ := strings.Cut(s, "://")
		bare := strings.TrimPrefix(host, "*")
		wild := bare != host
		switch {
		case wild && (bare == "" || bare[0] == ':'): // any host
			bare = "x" + bare
		case wild:
			bare = strings.TrimPrefix(bare, ".")
		}
		o, ok := splitOrigin(scheme + "://" + bare)
		if !ok || wild && bare != "" && !strings.HasPrefix(host, "*.") && bare[0] != 'x' || authorityOf(o, bare) != bare {
			f.add(at, "%s.AllowOrigins[%d]: %q is not an origin such as https://example.com or https://*.example.com", field, i, s)
			continue
		}
		if o.wild = wild; wild {
			if strings.HasPrefix(host, "*.") {
				o.host = "." + o.host
			} else {
				o.host = ""
			}
		}
		c.origins = append(c.origins, o)
	}
	cost := 0
	for i, m := range in.AllowOriginMatches {
		where := fmt.Sprintf("%s.AllowOriginMatches[%d]", field, i)
		if m.Type == MatchPresent {
			f.add(at, "%s.Type: every origin is written \"*\" in AllowOrigins", where)
		} else if m.Value == "" {
			f.add(at, "%s.Value is required", where)
		}
		v := f.value(at, where, m.Type, m.Value)
		cost += v.Cost()
		c.matches = append(c.matches, v)
	}
	if cost > maxOriginWork/maxOrigin {
		f.add(at, "%s.AllowOriginMatches: the regular expressions have more than %d instructions in all", field, maxOriginWork/maxOrigin)
	}
	switch {
	case in.MaxAge < 0 || in.MaxAge%time.Second != 0:
		f.add(at, "%s.MaxAge must be whole seconds", field)
	case in.MaxAge > 0:
		c.age = strconv.FormatInt(int64(in.MaxAge/time.Second), 10)
	}
	return c
}

// authorityOf writes o as raw, which it was read from, ought to be written.
func authorityOf(o origin, raw string) string {
	if strings.HasSuffix(raw, ":"+o.port) {
		return authority(o.host, o.port)
	}
	return authority(o.host, "")
}

// names checks a list of tokens and joins it.
func (f *faults) names(at gatemesh.Position, field string, names []string) string {
	for i, n := range names {
		switch {
		case n == "*" && len(names) > 1:
			f.add(at, "%s[%d]: \"*\" makes all others meaningless", field, i)
		case n == "" || !validFieldName(n):
			f.add(at, "%s[%d] %q is not a name", field, i, n)
		}
	}
	return strings.Join(names, ", ")
}
