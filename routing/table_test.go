package routing_test

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/gatemesh-go/gatemesh"
	"github.com/gatemesh-go/gatemesh/routing"
)

func call(t testing.TB, method, host, path string, header http.Header) *gatemesh.Call {
	t.Helper()
	c, err := gatemesh.NewCall(gatemesh.CallInfo{Method: method, Host: host, Path: path, Header: header})
	require.NoError(t, err)
	return c
}

// matched returns the name of the route that r finds, or "".
func matched(t testing.TB, r *routing.Router, c *gatemesh.Call) string {
	t.Helper()
	adm, err := r.Admit(t.Context(), c)
	if err != nil {
		var d *gatemesh.Denial
		require.ErrorAs(t, err, &d)
		require.Equal(t, gatemesh.NotFound, d.Code)
		return ""
	}
	return adm.Route.Name
}

func prefix(p string) routing.Match {
	return routing.Match{Path: routing.PathMatch{Value: p}}
}

func exact(p string) routing.Match {
	return routing.Match{Path: routing.PathMatch{Type: routing.PathExact, Value: p}}
}

// table returns a Config of routes to one backend.
func table(routes ...routing.Route) routing.Config {
	for i := range routes {
		if routes[i].Backends == nil {
			routes[i].Backends = to("", backend).Backends
		}
	}
	return routing.Config{Routes: routes, Upstreams: at("http://127.0.0.1:1")}
}

func TestZeroConfig(t *testing.T) {
	t.Parallel()
	r := newRouter(t, routing.Config{})
	assert.Empty(t, matched(t, r, call(t, "GET", "api.example.com", "/", nil)))
	assert.False(t, r.Serves(backend))
}

func TestMatch(t *testing.T) {
	t.Parallel()
	h := func(name, value string) []routing.HeaderMatch {
		return []routing.HeaderMatch{{Name: name, Value: value}}
	}
	r := newRouter(t, table(
		routing.Route{Name: "api", Hostnames: []string{"api.example.com"}, Matches: []routing.Match{prefix("/v1/users"), prefix("/v1/teams/")}},
		routing.Route{Name: "exact", Hostnames: []string{"api.example.com"}, Matches: []routing.Match{exact("/v1/users/me"), exact("/slash/")}},
		routing.Route{Name: "beta", Hostnames: []string{"api.example.com"}, Matches: []routing.Match{{Path: routing.PathMatch{Value: "/v1/users"}, Headers: h("x-beta", "1")}}},
		routing.Route{Name: "post", Hostnames: []string{"api.example.com"}, Matches: []routing.Match{{Path: routing.PathMatch{Value: "/v1/users"}, Method: "POST"}}},
		routing.Route{Name: "custom", Hostnames: []string{"api.example.com"}, Matches: []routing.Match{prefix("/v1/x%3Acancel"), prefix("/caf%c3%a9"), prefix("/%61bc")}},
		routing.Route{Name: "wild", Hostnames: []string{"*.example.com"}},
		routing.Route{Name: "deep", Hostnames: []string{"*.eu.example.com"}, Matches: []routing.Match{prefix("/deep")}},
		routing.Route{Name: "v6", Hostnames: []string{"[2001:db8::1]"}},
		routing.Route{Name: "rest", Matches: []routing.Match{prefix("/rest")}},
	))
	tests := []struct {
		method, host, path string
		header             http.Header
		want               string
	}{
		{"GET", "api.example.com", "/v1/users", nil, "api"},
		{"GET", "api.example.com", "/v1/users/", nil, "api"},
		{"GET", "api.example.com", "/v1/users/7/x", nil, "api"},
		{"GET", "API.example.com.:8443", "/v1/users", nil, "api"},
		{"GET", "api.example.com", "/v1/usersx", nil, "wild"}, // whole segments; falls to the next hostname
		{"GET", "api.example.com", "/v1/Users", nil, "wild"},
		{"GET", "api.example.com", "/v1/teams", nil, "api"}, // the prefix's last slash means nothing
		{"GET", "api.example.com", "/v1/teams/1", nil, "api"},
		{"GET", "api.example.com", "/v1/users/me", nil, "exact"},
		{"GET", "api.example.com", "/v1/users/me/", nil, "api"},
		{"GET", "api.example.com", "/slash/", nil, "exact"},
		{"GET", "api.example.com", "/slash", nil, "wild"},
		{"POST", "api.example.com", "/v1/users", nil, "post"},
		{"POST", "api.example.com", "/v1/users", http.Header{"X-Beta": {"1"}}, "post"}, // method before header
		{"GET", "api.example.com", "/v1/users", http.Header{"X-Beta": {"1"}}, "beta"},
		{"GET", "api.example.com", "/v1/users", http.Header{"X-Beta": {"1", "1"}}, "api"}, // repeated
		{"GET", "api.example.com", "/v1/users", http.Header{"X-Beta": {"1, 1"}}, "api"},
		{"GET", "api.example.com", "/v1/x:cancel", nil, "custom"},
		{"GET", "api.example.com", "/v1/x%3acancel/y", nil, "custom"},
		{"GET", "api.example.com", "/caf%C3%A9/1", nil, "custom"},
		{"GET", "api.example.com", "/abc", nil, "custom"},
		{"GET", "api.example.com", "/", nil, "wild"},
		{"GET", "a.b.example.com", "/", nil, "wild"},
		{"GET", "x.eu.example.com", "/deep/er", nil, "deep"},
		{"GET", "x.eu.example.com", "/", nil, "wild"},
		{"GET", "eu.example.com", "/deep", nil, "wild"}, // a wildcard does not match its own suffix
		{"GET", "example.com", "/", nil, ""},
		{"GET", "xexample.com", "/", nil, ""},
		{"GET", "[2001:DB8:0::1]:80", "/", nil, "v6"},
		{"GET", "example.org", "/rest", nil, "rest"},
		{"GET", "", "/rest", nil, "rest"},
		{"GET", "example.org", "/restless", nil, ""},
	}
	for _, tt := range tests {
		t.Run(fmt.Sprintf("%s %s%s %v", tt.method, tt.host, tt.path, tt.header), func(t *testing.T) {
			t.Parallel()
			assert.Equal(t, tt.want, matched(t, r, call(t, tt.method, tt.host, tt.path, tt.header)))
		})
	}
}

func TestAdmission(t *testing.T) {
	t.Parallel()
	other := gatemesh.Destination{Service: "user-service", Namespace: "production", Port: 9090}
	several := routing.Route{Name: "several", Matches: []routing.Match{prefix("/several")}, Backends: []routing.Backend{
		{Destination: backend, Weight: 1}, {Destination: other, Weight: 2}}}
	one := routing.Route{Name: "one", Matches: []routing.Match{prefix("/one")}, Backends: []routing.Backend{
		{Destination: backend}, {Destination: other, Weight: 2}}}
	r := newRouter(t, table(several, one))

	adm, ok, err := r.AdmitCached(t.Context(), call(t, "GET", "h", "/several", nil))
	require.NoError(t, err)
	assert.True(t, ok)
	require.Len(t, adm.Route.Backends, 2)
	for i, b := range adm.Route.Backends {
		assert.Equal(t, several.Backends[i].Destination, b.Destination)
		assert.Equal(t, several.Backends[i].Weight, b.Weight)
	}
	assert.Nil(t, adm.Destination, "somebody else has to choose")

	adm, err = r.Admit(t.Context(), call(t, "GET", "h", "/one", nil))
	require.NoError(t, err)
	assert.Equal(t, other, *adm.Destination, "the only one with a weight")
}

// oracle finds the route by a linear scan, straight from the specification.
func oracle(routes []routing.Route, method, host, path string, header http.Header) string {
	best, bestKey := "", []int(nil)
	for order, r := range routes {
		hostnames := r.Hostnames
		if hostnames == nil {
			hostnames = []string{""}
		}
		for _, h := range hostnames {
			nonWildcard, chars := 0, len(h)
			switch {
			case h == "":
			case strings.HasPrefix(h, "*."):
				if !strings.HasSuffix(host, h[1:]) {
					continue
				}
			case h == host:
				nonWildcard = len(h)
			default:
				continue
			}
			matches := r.Matches
			if matches == nil {
				matches = []routing.Match{{}}
			}
			for _, m := range matches {
				p := strings.TrimSuffix(m.Path.Value, "/")
				isExact, n := 0, len(p)
				if m.Path.Type == routing.PathExact {
					if m.Path.Value != path {
						continue
					}
					isExact, n = 1, len(path)
				} else if path != p && !strings.HasPrefix(path, p+"/") {
					continue
				}
				hasMethod := 0
				if m.Method != "" {
					if m.Method != method {
						continue
					}
					hasMethod = 1
				}
				if slices.ContainsFunc(m.Headers, func(h routing.HeaderMatch) bool {
					return !slices.Equal(header.Values(h.Name), []string{h.Value})
				}) {
					continue
				}
				key := []int{nonWildcard, chars, isExact, n, hasMethod, len(m.Headers), -order}
				if slices.Compare(key, bestKey) > 0 {
					best, bestKey = r.Name, key
				}
			}
		}
	}
	return best
}

func pick[T any](r *rand.Rand, from ...T) T { return from[r.IntN(len(from))] }

func randomTable(r *rand.Rand) []routing.Route {
	routes := make([]routing.Route, 1+r.IntN(14))
	for i := range routes {
		in := &routes[i]
		in.Name = fmt.Sprint("r", i)
		for range r.IntN(3) {
			in.Hostnames = append(in.Hostnames, pick(r, "x.a.example", "a.example", "b.example", "*.example", "*.a.example", "*.x.a.example"))
		}
		for range r.IntN(4) {
			m := routing.Match{Method: pick(r, "", "", "GET", "POST")}
			m.Path = routing.PathMatch{Type: pick(r, routing.PathPrefix, routing.PathPrefix, routing.PathExact),
				Value: pick(r, "/", "/a", "/a/", "/ab", "/a/b", "/a/b/", "/a/b/c", "/c/d/e/f")}
			names := []string{"X", "Y", "Z"}
			for _, name := range names[:r.IntN(3)] {
				m.Headers = append(m.Headers, routing.HeaderMatch{Name: name, Value: pick(r, "1", "2")})
			}
			in.Matches = append(in.Matches, m)
		}
	}
	return routes
}

func TestOracle(t *testing.T) {
	t.Parallel()
	r := rand.New(rand.NewPCG(1, 2))
	hits := 0
	for range 1500 {
		routes := randomTable(r)
		router, err := routing.New(table(routes...))
		require.NoError(t, err)
		for range 20 {
			header := http.Header{}
			for _, name := range []string{"X", "Y"} {
				for range pick(r, 0, 1, 1, 1, 2) {
					header.Add(name, pick(r, "1", "2"))
				}
			}
			method := pick(r, "GET", "POST", "PUT")
			host := pick(r, "x.a.example", "y.x.a.example", "a.example", "b.example", "c.example", "example", "")
			path := pick(r, "/", "/a", "/a/", "/a/b", "/ab", "/a/b/c", "/a/b/c/", "/a/b/c/d", "/c/d/e/f/g/h/i", "/c/d/e", "/zzzzzzzzzzz/zzzzzzzzzzzz")
			want := oracle(routes, method, host, path, header)
			if want != "" {
				hits++
			}
			require.Equal(t, want, matched(t, router, call(t, method, host, path, header)),
				"%s %s%s %v\n%+v", method, host, path, header, routes)
		}
	}
	assert.Greater(t, hits, 5000, "the tables must match something")
}

// FuzzRoute: whatever hostname and path are accepted match their like.
func FuzzRoute(f *testing.F) {
	f.Add("api.example.com", "/v1/users")
	f.Add("*.example.com", "/v1/%3a/%41/")
	f.Add("[::1]", "/")
	f.Add("", "/caf%C3%A9%2Fx")
	f.Fuzz(func(t *testing.T, hostname, path string) {
		in := routing.Route{Name: "p", Matches: []routing.Match{prefix(path)}}
		ex := routing.Route{Name: "e", Matches: []routing.Match{exact(path)}}
		if hostname != "" {
			in.Hostnames, ex.Hostnames = []string{hostname}, []string{hostname}
		}
		prefixes, err := routing.New(table(in))
		if err != nil {
			return
		}
		exacts, err := routing.New(table(ex))
		require.NoError(t, err)
		if path == "" {
			path = "/"
		}
		host := strings.Replace(hostname, "*.", "any.", 1)
		for _, kept := range []string{"%2f", ";", "%3b"} {
			if strings.Contains(strings.ToLower(path), kept) {
				return // NewCall refuses it; Entry may be told to keep it
			}
		}
		seen := func(path string) *gatemesh.Call { return call(t, "", host, path, nil) }
		base := strings.TrimSuffix(path, "/")
		require.Equal(t, "e", matched(t, exacts, seen(path)))
		require.Equal(t, "p", matched(t, prefixes, seen(path)))
		require.Equal(t, "p", matched(t, prefixes, seen(base+"/x")))
		require.Empty(t, matched(t, exacts, seen(base+"/x")))
		if base != "" {
			require.Empty(t, matched(t, prefixes, seen(base+"x")))
		}
	})
}

func TestUpdateKeepsTheOldOnError(t *testing.T) {
	t.Parallel()
	r := newRouter(t, table(routing.Route{Name: "old"}))
	require.Error(t, r.Update(table(routing.Route{Name: "new", Hostnames: []string{"?"}})))
	assert.Equal(t, "old", matched(t, r, call(t, "GET", "h", "/", nil)))
	require.NoError(t, r.Update(table(routing.Route{Name: "new"})))
	assert.Equal(t, "new", matched(t, r, call(t, "GET", "h", "/", nil)))
}

func TestConfigIsCopied(t *testing.T) {
	t.Parallel()
	cfg := table(routing.Route{Name: "a", Hostnames: []string{"h"}, Matches: []routing.Match{{
		Path: routing.PathMatch{Value: "/p"}, Headers: []routing.HeaderMatch{{Name: "x", Value: "1"}}}}})
	r := newRouter(t, cfg)
	cfg.Routes[0].Hostnames[0] = "other"
	cfg.Routes[0].Matches[0].Headers[0].Value = "2"
	cfg.Routes[0].Backends[0].Destination.Service = "other"
	adm, err := r.Admit(t.Context(), call(t, "GET", "h", "/p", http.Header{"X": {"1"}}))
	require.NoError(t, err)
	assert.Equal(t, backend, *adm.Destination)
	assert.Equal(t, backend, adm.Route.Backends[0].Destination)
}

// manyRoutes returns n routes over n/10 hosts.
func manyRoutes(n int) routing.Config {
	routes := make([]routing.Route, n)
	for i := range routes {
		routes[i] = routing.Route{Name: fmt.Sprint("r", i), Hostnames: []string{fmt.Sprintf("h%d.example.com", i/10)},
			Matches: []routing.Match{prefix(fmt.Sprintf("/v1/service-%d", i))}}
	}
	routes = append(routes, routing.Route{Name: "wild", Hostnames: []string{"*.example.com"}, Matches: []routing.Match{
		{Path: routing.PathMatch{Value: "/w"}, Headers: []routing.HeaderMatch{{Name: "x-a", Value: "1"}}}}})
	return table(routes...)
}

func TestAllocations(t *testing.T) {
	r := newRouter(t, manyRoutes(100))
	for name, c := range map[string]*gatemesh.Call{
		"prefix": call(t, "GET", "h3.example.com", "/v1/service-37/users/7", nil),
		"wild":   call(t, "GET", "h3.example.com", "/w/x", http.Header{"X-A": {"1"}}),
		"none":   call(t, "GET", "h3.example.com", "/none", nil),
	} {
		ctx := t.Context()
		assert.Zero(t, testing.AllocsPerRun(100, func() { _, _, _ = r.AdmitCached(ctx, c) }), name)
	}
}

// BenchmarkMatch: the time must not grow with the table. TestAllocations
// bounds the allocations.
func BenchmarkMatch(b *testing.B) {
	for _, n := range []int{10, 10_000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			r := newRouter(b, manyRoutes(n))
			last := n - 1
			c := call(b, "GET", fmt.Sprintf("h%d.example.com", last/10), fmt.Sprintf("/v1/service-%d/users/7", last), nil)
			ctx := b.Context()
			b.ReportAllocs()
			for b.Loop() {
				_, _ = r.Admit(ctx, c)
			}
		})
	}
}

// TestLongPaths: the work for a path is bounded by the table and not by its
// length, which the client chooses.
func TestLongPaths(t *testing.T) {
	t.Parallel()
	r := newRouter(t, table(routing.Route{Name: "a", Matches: []routing.Match{prefix("/a/b")}}))
	assert.Equal(t, "a", matched(t, r, call(t, "GET", "h", "/a/b"+strings.Repeat("/x", 100_000), nil)))
	assert.Empty(t, matched(t, r, call(t, "GET", "h", "/a/bc"+strings.Repeat("/x", 100_000), nil)))
	assert.Empty(t, matched(t, r, call(t, "GET", "h", "/"+strings.Repeat("x", 100_000), nil)))
}
