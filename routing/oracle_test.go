package routing_test

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/netip"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/gatemesh-go/gatemesh"
	"github.com/gatemesh-go/gatemesh/routing"
)

// What follows finds routes by a linear scan, straight from the specification.

var naiveRegexes = map[string]*regexp.Regexp{}

func naiveValue(kind routing.MatchType, value, got string) bool {
	switch kind {
	case routing.MatchExact:
		return got == value
	case routing.MatchPrefix:
		return strings.HasPrefix(got, value)
	case routing.MatchRegex:
		if naiveRegexes[value] == nil {
			naiveRegexes[value] = regexp.MustCompile(`\A(?:` + value + `)\z`)
		}
		return naiveRegexes[value].MatchString(got)
	}
	return true
}

func naivePath(m routing.PathMatch, path string) bool {
	value := m.Value
	if value == "" {
		value = "/"
	}
	if m.Type == routing.PathRegex {
		if m.IgnoreCase {
			value = "(?i:" + value + ")"
		}
		return naiveValue(routing.MatchRegex, value, path)
	}
	if m.IgnoreCase {
		value, path = strings.ToLower(value), strings.ToLower(path)
	}
	switch m.Type {
	case routing.PathExact:
		return path == value
	case routing.PathStart:
		return strings.HasPrefix(path, value)
	}
	value = strings.TrimSuffix(value, "/")
	return path == value || strings.HasPrefix(path, value+"/")
}

// asked is what a naive match looks at.
type asked struct {
	protocol           gatemesh.Protocol
	scheme, method     string
	host, path, query  string
	port               uint16
	header             http.Header
	sni                string
	service, namespace string
}

func (a asked) call(t testing.TB) *gatemesh.Call {
	t.Helper()
	c, err := gatemesh.NewCall(gatemesh.CallInfo{
		Protocol: a.protocol, Scheme: a.scheme, Method: a.method, Host: a.host, Path: a.path, RawQuery: a.query,
		Header: a.header, SNI: a.sni, LocalAddr: netip.AddrPortFrom(netip.MustParseAddr("192.0.2.9"), a.port),
	})
	require.NoError(t, err)
	return c
}

func naiveMatch(m routing.Match, a asked) bool {
	if !naivePath(m.Path, a.path) || m.Method != "" && m.Method != a.method ||
		m.Methods != nil && !naiveValue(m.Methods.Type, m.Methods.Value, a.method) ||
		m.Scheme != nil && !naiveValue(m.Scheme.Type, m.Scheme.Value, a.scheme) ||
		m.Authority != nil && !naiveValue(m.Authority.Type, m.Authority.Value, a.host) ||
		m.Port != 0 && m.Port != a.port || m.Protocol != 0 && m.Protocol != a.protocol {
		return false
	}
	for _, h := range m.Headers {
		values := a.header.Values(h.Name)
		holds := len(values) == 1 && naiveValue(h.Type, h.Value, values[0])
		if h.Not {
			holds = len(values) == 0 || len(values) == 1 && !holds
		}
		if !holds {
			return false
		}
	}
	for _, q := range m.Query {
		var values []string
		malformed := false
		for _, pair := range strings.Split(a.query, "&") {
			name, value, _ := strings.Cut(pair, "=")
			if name, err := url.QueryUnescape(name); err != nil || name != q.Name {
				continue
			}
			value, err := url.QueryUnescape(value)
			values, malformed = append(values, value), malformed || err != nil
		}
		if len(values) != 1 || malformed || !naiveValue(q.Type, q.Value, values[0]) {
			return false
		}
	}
	return true
}

// naiveRank is the precedence of a match beside others that hold, too. Greater
// goes first.
func naiveRank(m routing.Match) []int {
	class, length := 2, len(m.Path.Value)
	switch {
	case m.Path.Type == routing.PathExact:
		class = 3
	case m.Path.Type == routing.PathRegex:
		class, length = 1, 0
	case m.Path.Value == "" || m.Path.Value == "/":
		class, length = 0, 0
	case m.Path.Type == routing.PathPrefix:
		length = len(strings.TrimSuffix(m.Path.Value, "/"))
	}
	method, more := 0, 0
	if m.Method != "" || m.Methods != nil {
		method = 1
	}
	for _, set := range []bool{m.Scheme != nil, m.Authority != nil, m.Port != 0, m.Protocol != 0} {
		if set {
			more++
		}
	}
	return []int{class, length, method, len(m.Headers), len(m.Query), more}
}

func matchesOf(r routing.Route) []routing.Match {
	if r.Matches == nil {
		return []routing.Match{{}}
	}
	return r.Matches
}

// covers returns how specific a hostname is that matches host: the characters
// without a wildcard, and all. It is nil if it does not match.
func covers(hostname, host string) []int {
	switch {
	case hostname == "":
		return []int{0, 0}
	case strings.HasPrefix(hostname, "*.") && strings.HasSuffix(host, hostname[1:]):
		return []int{0, len(hostname)}
	case hostname == host:
		return []int{len(hostname), len(hostname)}
	}
	return nil
}

// naiveListener returns the one that host belongs to.
func naiveListener(cfg routing.Config, a asked, host string) (found *routing.Listener) {
	var best []int
	for i, l := range cfg.Listeners {
		how := covers(l.Hostname, host)
		if how == nil || l.TLS != (a.scheme == "https") || l.Port != 0 && l.Port != a.port {
			continue
		}
		if l.Port != 0 {
			how = append(how, 1)
		}
		if found == nil || slices.Compare(how, best) > 0 {
			found, best = &cfg.Listeners[i], how
		}
	}
	return found
}

const misdirected = "421"

// naiveRoute returns the name of the route for a, "" or misdirected.
func naiveRoute(cfg routing.Config, a asked) string {
	listener := ""
	if len(cfg.Listeners) > 0 {
		l := naiveListener(cfg, a, a.host)
		if l == nil {
			return ""
		}
		if other := naiveListener(cfg, a, a.sni); a.scheme == "https" && a.sni != "" && other != nil && other != l {
			return misdirected
		}
		listener = l.Name
	}
	best, bestKey := "", []int(nil)
	for order, r := range cfg.Routes {
		if len(r.Listeners) > 0 && !slices.Contains(r.Listeners, listener) {
			continue
		}
		hostnames := r.Hostnames
		if hostnames == nil {
			hostnames = []string{""}
		}
		var how []int
		for _, h := range hostnames {
			if c := covers(h, a.host); slices.Compare(c, how) > 0 {
				how = c
			}
		}
		if how == nil {
			continue
		}
		for _, m := range matchesOf(r) {
			if key := slices.Concat(how, naiveRank(m), []int{-order}); slices.Compare(key, bestKey) > 0 && naiveMatch(m, a) {
				best, bestKey = r.Name, key
			}
		}
	}
	return best
}

// naiveService returns the name of the rule for a, "" if there is none, and
// false if nothing is said about its service.
func naiveService(cfg routing.Config, a asked) (string, bool) {
	for _, name := range []string{a.service, "*"} {
		for _, s := range cfg.Services {
			if s.Service != name || s.Namespace != a.namespace {
				continue
			}
			for _, r := range s.Rules {
				if slices.ContainsFunc(matchesOf(r), func(m routing.Match) bool { return naiveMatch(m, a) }) {
					return r.Name, true
				}
			}
			return "", true
		}
	}
	return "", false
}

func pick[T any](r *rand.Rand, from ...T) T { return from[r.IntN(len(from))] }

// segment is one of about n.
func segment(r *rand.Rand, n int) string {
	return pick(r, "a", "a", "ab", "B", fmt.Sprint("s", r.IntN(1+n)))
}

func randomPath(r *rand.Rand, n int) string {
	path := ""
	for range r.IntN(5) {
		path += "/" + segment(r, n)
	}
	if path == "" || r.IntN(4) == 0 {
		path += "/"
	}
	return path
}

var hostPool = []string{"x.a.example", "a.example", "b.example", "*.example", "*.a.example", "*.x.a.example"}

func randomMatch(r *rand.Rand, n int) routing.Match {
	m := routing.Match{Method: pick(r, "", "", "", "GET", "POST")}
	m.Path = routing.PathMatch{
		Type: pick(r, routing.PathPrefix, routing.PathPrefix, routing.PathExact, routing.PathStart), Value: randomPath(r, n),
		IgnoreCase: r.IntN(5) == 0,
	}
	kinds := 12
	if n > 1000 { // to compile and to scan them takes its time
		kinds = 120
	}
	switch r.IntN(kinds) {
	case 0:
		m.Path = routing.PathMatch{}
	case 1, 2:
		m.Path.Type = routing.PathRegex
		m.Path.Value = pick(r, "/"+segment(r, n)+"/[^/]+", "^/"+segment(r, n)+"/.*$", "/(a|ab)/x?", "/a", "(?i)/B/.*", "/a+b?(/s[0-9]+)*")
		if n > 100 { // else there are more of them that begin alike than are allowed
			m.Path.Value = "/" + segment(r, n) + fmt.Sprint("/s", r.IntN(n)) + pick(r, "(/.*)?", "[0-9]", "+")
		}
	}
	if m.Method == "" && r.IntN(8) == 0 {
		m.Methods = &routing.ValueMatch{Type: routing.MatchRegex, Value: "GET|P.*"}
	}
	if r.IntN(8) == 0 {
		m.Protocol = pick(r, gatemesh.HTTP, gatemesh.GRPC)
	}
	if r.IntN(8) == 0 {
		m.Scheme = &routing.ValueMatch{Value: pick(r, "http", "https")}
	}
	if r.IntN(8) == 0 {
		m.Authority = &routing.ValueMatch{Type: routing.MatchPrefix, Value: pick(r, "x", "a")}
	}
	if r.IntN(8) == 0 {
		m.Port = pick[uint16](r, 80, 443)
	}
	names := []string{"X", "Y", "Z"}
	for _, name := range names[:r.IntN(3)] {
		h := routing.HeaderMatch{Name: name, Value: pick(r, "1", "2", ""), Not: r.IntN(4) == 0}
		switch r.IntN(4) {
		case 0:
			h.Type = routing.MatchPrefix
		case 1:
			h.Type, h.Value = routing.MatchRegex, "[12]+"
		case 2:
			h.Type, h.Value = routing.MatchPresent, ""
		}
		m.Headers = append(m.Headers, h)
	}
	for _, name := range names[:max(0, r.IntN(6)-3)] {
		m.Query = append(m.Query, routing.QueryMatch{Name: name, Type: pick(r, routing.MatchExact, routing.MatchPrefix), Value: pick(r, "1", "2", "a b")})
	}
	return m
}

func randomRoute(r *rand.Rand, n, i int) routing.Route {
	in := routing.Route{Name: fmt.Sprint("r", i), Backends: to("", backend).Backends}
	for range 1 + r.IntN(3) {
		in.Matches = append(in.Matches, randomMatch(r, n))
	}
	return in
}

// randomConfig has n routes, and n rules of services.
func randomConfig(r *rand.Rand, n int) routing.Config {
	cfg := routing.Config{Upstreams: at("http://127.0.0.1:1")}
	var names []string
	if r.IntN(2) == 0 {
		cfg.Listeners = []routing.Listener{{Name: "plain"}, {Name: "tls", TLS: true}}
		for _, l := range []routing.Listener{
			{Hostname: "*.a.example", TLS: true}, {Hostname: "*.a.example"}, {Hostname: "*.example", Port: 443, TLS: true},
			{Hostname: "*.example", TLS: true}, {Hostname: "x.a.example", TLS: true}, {Port: 80},
		} {
			if r.IntN(2) == 0 {
				l.Name = fmt.Sprint("l", len(cfg.Listeners))
				cfg.Listeners = append(cfg.Listeners, l)
			}
		}
		for _, l := range cfg.Listeners {
			names = append(names, l.Name)
		}
	}
	for i := range n {
		in := randomRoute(r, n, i)
		for range r.IntN(3) {
			in.Hostnames = append(in.Hostnames, pick(r, hostPool...))
		}
		if names != nil && r.IntN(3) == 0 {
			in.Hostnames = nil // so that every listener can serve it
			in.Listeners = []string{pick(r, names...)}
		}
		cfg.Routes = append(cfg.Routes, in)
	}
	cfg.Services = []routing.Service{{Service: "users"}, {Service: "*"}, {Service: "*", Namespace: "other"}}
	for i := range n {
		s := &cfg.Services[r.IntN(len(cfg.Services))]
		s.Rules = append(s.Rules, randomRoute(r, n, i))
	}
	cfg.Services = slices.DeleteFunc(cfg.Services, func(s routing.Service) bool { return len(s.Rules) == 0 })
	return cfg
}

func randomCall(r *rand.Rand, n int) asked {
	a := asked{
		protocol: pick(r, gatemesh.HTTP, gatemesh.HTTP, gatemesh.GRPC), scheme: pick(r, "http", "https"),
		method: pick(r, "GET", "POST", "PUT"), path: randomPath(r, n), port: pick[uint16](r, 0, 80, 443),
		host:   pick(r, "x.a.example", "y.x.a.example", "a.example", "b.example", "c.example", "example", ""),
		query:  pick(r, "", "X=1", "X=%31&Y=2", "X=1&X=1", "Y=1&X=a+b", "X=%zz&X=1", "&&X=2&=", "X=a%20bc"),
		header: http.Header{}, service: pick(r, "users", "other"), namespace: pick(r, "", "other", "none"),
	}
	if a.scheme == "https" {
		a.sni = pick(r, "", a.host, "x.a.example", "q.example", "nowhere")
	}
	for _, name := range []string{"X", "Y"} {
		for range pick(r, 0, 1, 1, 1, 2) {
			a.header.Add(name, pick(r, "1", "2", "11"))
		}
	}
	return a
}

// agree compares what r does with what it should.
func agree(t testing.TB, router *routing.Router, cfg routing.Config, a asked) (hit bool) {
	t.Helper()
	c := a.call(t)
	name := func(route *gatemesh.Route, err error) string {
		var d *gatemesh.Denial
		switch {
		case err == nil:
			return route.Name
		case !assert.ErrorAs(t, err, &d):
		case d.Status == http.StatusMisdirectedRequest:
			return misdirected
		case a.protocol == gatemesh.GRPC:
			require.Equal(t, gatemesh.Unimplemented, d.Code)
		default:
			require.Equal(t, gatemesh.NotFound, d.Code)
		}
		return ""
	}
	without := cfg
	without.Services = nil
	adm, err := router.Admit(t.Context(), c)
	want := naiveRoute(without, a)
	require.Equal(t, want, name(adm.Route, err), "%+v", a)

	rule, said := naiveService(cfg, a)
	got, err := router.RouteTo(c, gatemesh.Destination{Service: a.service, Namespace: a.namespace})
	if !said {
		require.NoError(t, err)
		require.Nil(t, got, "%+v", a)
	} else {
		require.Equal(t, rule, name(got, err), "%+v", a)
	}
	return want != "" && want != misdirected || rule != ""
}

func TestOracle(t *testing.T) {
	t.Parallel()
	for _, size := range []struct{ routes, tables, calls, hits int }{
		{1, unlessRacing(100, 20), 20, unlessRacing(60, 5)}, {10, unlessRacing(100, 20), 30, unlessRacing(800, 160)},
		{1000, 1, unlessRacing(200, 40), unlessRacing(60, 5)}, {unlessRacing(10_000, 3000), 1, 20, unlessRacing(10, 5)},
	} {
		t.Run(fmt.Sprint(size.routes), func(t *testing.T) {
			r, hits := rand.New(rand.NewPCG(1, uint64(size.routes))), 0
			for range size.tables {
				cfg := randomConfig(r, size.routes)
				router, err := routing.New(cfg)
				require.NoError(t, err)
				for range size.calls {
					if agree(t, router, cfg, randomCall(r, size.routes)) {
						hits++
					}
				}
			}
			assert.GreaterOrEqual(t, hits, size.hits, "the tables must match something")
		})
	}
}

// FuzzMatch: a table with whatever path beside others decides as a linear scan
// of it does.
func FuzzMatch(f *testing.F) {
	f.Add(uint64(1), uint8(0), "/a/b", "/a/b/c", "X=1", "1")
	f.Add(uint64(2), uint8(1), "/a/", "/a", "X=%31&X", "")
	f.Add(uint64(3), uint8(2), "/A%3A", "/a:x/", "X=a+b", "2")
	f.Add(uint64(4), uint8(3), "/(a|b)*/[^/]+", "/a/x", "%58=1", "11")
	f.Add(uint64(5), uint8(7), "(?i)/a\\Q.b\\E", "/A.B", "", "1")
	f.Fuzz(func(t *testing.T, seed uint64, how uint8, pattern, path, query, header string) {
		r := rand.New(rand.NewPCG(seed, 7))
		cfg := randomConfig(r, 1+int(seed%12))
		p := routing.PathMatch{Type: routing.PathType(how % 4), IgnoreCase: how&4 != 0, Value: pattern}
		if p.Type != routing.PathRegex {
			canonical, err := gatemesh.CanonicalPath(pattern, gatemesh.PathOptions{})
			if err != nil {
				return
			}
			p.Value = gatemesh.MatchForm(canonical)
		}
		for i := range cfg.Routes {
			cfg.Routes[i].Matches[0].Path = p
		}
		cfg.Services[0].Rules[0].Matches[0].Path = p
		router, err := routing.New(cfg)
		if err != nil {
			require.Equal(t, routing.PathRegex, p.Type, "%v", err)
			return
		}
		a := randomCall(r, 3)
		a.path, a.query = path, query
		a.header["X"] = []string{header}
		c, err := gatemesh.NewCall(gatemesh.CallInfo{Path: path})
		if err != nil || strings.Contains(query, "#") {
			return
		}
		a.path = c.MatchPath()
		if _, err := gatemesh.NewCall(gatemesh.CallInfo{Path: a.path}); err != nil {
			return // MatchForm shows what a path may not have raw, such as ";"
		}
		agree(t, router, cfg, a)
		naiveRegexes = map[string]*regexp.Regexp{}
	})
}
