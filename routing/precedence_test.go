package routing_test

import (
	"net/http"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/gatemesh-go/gatemesh"
	"github.com/gatemesh-go/gatemesh/routing"
)

// TestPrecedence walks down the criteria of Admit: each row takes away the
// match that won, and the next one wins. What stands first in the table is last.
func TestPrecedence(t *testing.T) {
	t.Parallel()
	path := func(kind routing.PathType, value string) routing.PathMatch {
		return routing.PathMatch{Type: kind, Value: value}
	}
	a, ab := path(routing.PathPrefix, "/a"), path(routing.PathPrefix, "/a/b/")
	header := []routing.HeaderMatch{{Name: "x", Type: routing.MatchPresent}}
	query := []routing.QueryMatch{{Name: "q", Type: routing.MatchPresent}}
	lines := []struct {
		name  string
		match routing.Match
	}{
		{"every", routing.Match{}},
		{"every with all", routing.Match{Method: "GET", Headers: header, Query: query, Protocol: gatemesh.HTTP}},
		{"regex", routing.Match{Path: path(routing.PathRegex, "/a/.*")}},
		{"regex, method", routing.Match{Path: path(routing.PathRegex, "/.*"), Method: "GET"}},
		{"prefix /a, all", routing.Match{Path: a, Method: "GET", Headers: header, Query: query}},
		{"start /a/", routing.Match{Path: path(routing.PathStart, "/a/")}},
		{"prefix", routing.Match{Path: ab}},
		{"prefix, protocol", routing.Match{Path: ab, Protocol: gatemesh.HTTP}},
		{"prefix, query", routing.Match{Path: ab, Query: query}},
		{"prefix, header", routing.Match{Path: ab, Headers: header}},
		{"prefix, header and query", routing.Match{Path: ab, Headers: header, Query: query}},
		{"prefix, methods", routing.Match{Path: ab, Methods: &routing.ValueMatch{Type: routing.MatchPrefix, Value: "G"}}},
		{"prefix, method and header", routing.Match{Path: ab, Method: "GET", Headers: header}},
		{"start", routing.Match{Path: path(routing.PathStart, "/a/b/c")}},
		{"exact", routing.Match{Path: path(routing.PathExact, "/a/b/cd")}},
		{"exact, header, ignoring case", routing.Match{Path: routing.PathMatch{Type: routing.PathExact, Value: "/A/b/CD", IgnoreCase: true}, Headers: header}},
	}
	c, err := gatemesh.NewCall(gatemesh.CallInfo{Host: "h", Path: "/a/b/cd", RawQuery: "q=1", Header: http.Header{"X": {"1"}}})
	require.NoError(t, err)
	for n := len(lines); n > 0; n-- {
		var cfg routing.Config
		for _, l := range lines[:n] {
			cfg.Routes = append(cfg.Routes, routing.Route{Name: l.name, Matches: []routing.Match{l.match}})
		}
		// In either order: no line is decided by its place.
		for range 2 {
			r := newRouter(t, table(cfg.Routes...))
			assert.Equal(t, lines[n-1].name, matched(t, r, c))
			for i, j := 0, len(cfg.Routes)-1; i < j; i, j = i+1, j-1 {
				cfg.Routes[i], cfg.Routes[j] = cfg.Routes[j], cfg.Routes[i]
			}
		}
	}
	two := table(routing.Route{Name: "first", Matches: []routing.Match{{Path: a}}}, routing.Route{Name: "second", Matches: []routing.Match{{Path: a}}})
	assert.Equal(t, "first", matched(t, newRouter(t, two), c), "the last tie-break")
}

// TestGRPCPrecedence: characters of the service, then those of the method, then
// header fields, for rules of a GRPCRoute as paths.
func TestGRPCPrecedence(t *testing.T) {
	t.Parallel()
	m := func(kind routing.PathType, value string, headers ...routing.HeaderMatch) []routing.Match {
		return []routing.Match{{Path: routing.PathMatch{Type: kind, Value: value}, Protocol: gatemesh.GRPC, Headers: headers}}
	}
	x := routing.HeaderMatch{Name: "x", Value: "1"}
	r := newRouter(t, table(
		routing.Route{Name: "all", Matches: []routing.Match{{Protocol: gatemesh.GRPC}}},
		routing.Route{Name: "method alone", Matches: m(routing.PathRegex, "/[^/]+/Get")},
		routing.Route{Name: "service", Matches: m(routing.PathPrefix, "/shop.Users/")},
		routing.Route{Name: "service, header", Matches: m(routing.PathPrefix, "/shop.Users/", x)},
		routing.Route{Name: "method", Matches: m(routing.PathExact, "/shop.Users/Get")},
		routing.Route{Name: "method, header", Matches: m(routing.PathExact, "/shop.Users/Get", x)},
		routing.Route{Name: "page", Matches: []routing.Match{{Path: routing.PathMatch{Value: "/shop.Users"}, Protocol: gatemesh.HTTP}}},
	))
	for _, tt := range []struct {
		path, header, want string
		protocol           gatemesh.Protocol
	}{
		{"/shop.Users/Get", "", "method", gatemesh.GRPC},
		{"/shop.Users/Get", "1", "method, header", gatemesh.GRPC},
		{"/shop.Users/List", "", "service", gatemesh.GRPC},
		{"/shop.Users/List", "1", "service, header", gatemesh.GRPC},
		{"/shop.Orders/Get", "", "method alone", gatemesh.GRPC},
		{"/shop.Orders/List", "", "all", gatemesh.GRPC},
		{"/shop.Users/Get", "", "page", gatemesh.HTTP},
	} {
		c, err := gatemesh.NewCall(gatemesh.CallInfo{Protocol: tt.protocol, Host: "h", Path: tt.path, Header: http.Header{"X": {tt.header}}})
		require.NoError(t, err)
		assert.Equal(t, tt.want, matched(t, r, c), "%s %s", tt.path, tt.header)
	}
}

// TestAZ04_Authority: one authority has one spelling, whatever the caller wrote.
func TestAZ04_Authority(t *testing.T) {
	t.Parallel()
	is := func(value string) []routing.Match {
		return []routing.Match{{Authority: &routing.ValueMatch{Value: value}}}
	}
	r := newRouter(t, table(
		routing.Route{Name: "plain", Matches: is("api.example.com")}, routing.Route{Name: "port", Matches: is("api.example.com:8443")},
		routing.Route{Name: "v6", Matches: is("[2001:db8::1]")},
	))
	for authority, want := range map[string]string{
		"api.example.com": "plain", "API.Example.com.": "plain", "api.example.com:443": "plain", "api.example.com:0443": "plain",
		"api.example.com:8443": "port", "API.example.com:08443": "port", "api.example.com:80": "", "[2001:DB8:0::1]:443": "v6",
	} {
		c, err := gatemesh.NewCall(gatemesh.CallInfo{Host: authority})
		require.NoError(t, err)
		assert.Equal(t, want, matched(t, r, c), authority)
	}
}

// TestPreflight: a preflight request belongs to the route of the request that it
// asks about, if that has CORS and no route takes the OPTIONS itself.
func TestPreflight(t *testing.T) {
	t.Parallel()
	cors := routing.Filters{CORS: &routing.CORS{AllowOrigins: []string{"https://app.example.com"}}}
	cfg := table(
		routing.Route{Name: "put", Matches: []routing.Match{{Method: "PUT"}}, Filters: cors},
		routing.Route{Name: "delete", Matches: []routing.Match{{Method: "DELETE"}}},
		routing.Route{Name: "own", Matches: []routing.Match{{Method: "OPTIONS", Path: routing.PathMatch{Value: "/own"}}}},
	)
	r := newRouter(t, cfg)
	for _, tt := range []struct {
		method, path string
		header       http.Header
		want         string
	}{
		{"OPTIONS", "/", http.Header{"Origin": {"https://app.example.com"}, "Access-Control-Request-Method": {"PUT"}}, "put"},
		{"OPTIONS", "/", http.Header{"Origin": {"https://app.example.com"}, "Access-Control-Request-Method": {"put"}}, ""},
		{"OPTIONS", "/", http.Header{"Origin": {"https://app.example.com"}, "Access-Control-Request-Method": {"DELETE"}}, ""},
		{"OPTIONS", "/", http.Header{"Origin": {"https://app.example.com"}, "Access-Control-Request-Method": {"PUT", "PUT"}}, ""},
		{"OPTIONS", "/", http.Header{"Access-Control-Request-Method": {"PUT"}}, ""},
		{"OPTIONS", "/", http.Header{"Origin": {"https://app.example.com"}}, ""},
		{"POST", "/", http.Header{"Origin": {"https://app.example.com"}, "Access-Control-Request-Method": {"PUT"}}, ""},
		{"OPTIONS", "/own", http.Header{"Origin": {"https://app.example.com"}, "Access-Control-Request-Method": {"PUT"}}, "own"},
	} {
		assert.Equal(t, tt.want, matched(t, r, call(t, tt.method, "h", tt.path, tt.header)), "%s %s %v", tt.method, tt.path, tt.header)
	}
}

// TestMatchAllocations: whatever a match compares, nothing is allocated.
func TestMatchAllocations(t *testing.T) {
	cfg := table(routing.Route{Name: "all", Listeners: []string{"l"}, Hostnames: []string{"*.example.com"}, Matches: []routing.Match{{
		Path:     routing.PathMatch{Type: routing.PathRegex, Value: "/[a-z]+/[0-9]+", IgnoreCase: true},
		Protocol: gatemesh.HTTP, Methods: &routing.ValueMatch{Type: routing.MatchRegex, Value: "GET|HEAD"},
		Scheme: &routing.ValueMatch{Value: "https"}, Authority: &routing.ValueMatch{Type: routing.MatchPrefix, Value: "api"},
		Headers: []routing.HeaderMatch{{Name: "x", Type: routing.MatchRegex, Value: "1|2"}, {Name: "y", Type: routing.MatchPresent, Not: true}},
		Query:   []routing.QueryMatch{{Name: "q q", Value: "a b"}, {Name: "r", Type: routing.MatchRegex, Value: "[0-9]+"}},
	}}})
	cfg.Listeners = []routing.Listener{{Name: "l", Hostname: "*.example.com", TLS: true}, {Name: "m", TLS: true}}
	cfg.Services = []routing.Service{{Service: "*", Namespace: backend.Namespace, Rules: []routing.Route{{
		Name: "rule", Backends: []routing.Backend{{Destination: gatemesh.Destination{Service: backend.Service, Namespace: backend.Namespace}, Weight: 1}}}}}}
	r := newRouter(t, cfg)
	c, err := gatemesh.NewCall(gatemesh.CallInfo{
		Host: "api.example.com", SNI: "api.example.com", Path: "/Users/7", RawQuery: "p=1&q+q=a%20b&r=12", Header: http.Header{"X": {"2"}}})
	require.NoError(t, err)
	adm, err := r.Admit(t.Context(), c)
	require.NoError(t, err)
	require.Equal(t, backend, *adm.Destination)
	ctx := t.Context()
	assert.Zero(t, testing.AllocsPerRun(1000, func() { _, _, _ = r.AdmitCached(ctx, c) }))
	assert.Zero(t, testing.AllocsPerRun(1000, func() { _, _ = r.RouteTo(c, backend) }))
}
