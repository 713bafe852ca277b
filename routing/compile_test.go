package routing_test

import (
	"context"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/gatemesh-go/gatemesh"
	"github.com/gatemesh-go/gatemesh/routing"
)

func TestFaults(t *testing.T) {
	t.Parallel()
	at := func(line int) gatemesh.Position { return gatemesh.Position{File: "routes.yaml", Line: line} }
	d := func(service, subset string, port uint16, weight uint32) routing.Backend {
		return routing.Backend{Destination: gatemesh.Destination{Service: service, Namespace: "n", Subset: subset, Port: port}, Weight: weight}
	}
	good := []routing.Backend{d("a", "", 80, 1)}
	_, err := routing.New(routing.Config{
		Routes: []routing.Route{
			{Position: at(1)},
			{Name: "x", Position: at(2), Backends: []routing.Backend{d("a", "", 80, 0), d("a", "", 81, 0)}},
			{Name: "x", Position: at(3), Backends: []routing.Backend{d("a", "v9", 80, 1), d("a", "v1", 80, 1), d("a", "v2", 80, 1), d("b", "", 80, 1), d("", "", 0, 1)}},
			{Name: "y", Backends: good, Hostnames: []string{"API.example.com", "*", "*.", "a..b", "h:80", "", "a.*.b", "*.Example.com", "h."}},
			{Name: "z", Position: at(5), Backends: good, Matches: []routing.Match{
				prefix("v1"), prefix("/a/../b"), prefix("/a//b"), prefix("/a%zz"), prefix("/a?b=c"),
				{Path: routing.PathMatch{Type: 7}},
				{Method: "get"},
				{Headers: []routing.HeaderMatch{{}, {Name: "a b"}, {Name: "host"}, {Name: "X-Gatemesh-Identity"}, {Name: "k"}, {Name: "K"}}},
			}},
		},
		Subsets: []routing.Subset{
			{Position: at(6), Service: "a", Namespace: "n", Name: "v2", Labels: map[string]string{"version": "v2"}},
			{Position: at(7), Service: "a", Namespace: "n", Name: "v2"},
			{Position: at(8)},
		},
		Upstreams: []routing.Upstream{
			{Service: "a", Port: 80, Subset: "v1", URL: "http://127.0.0.1:8080/"},
			{},
			{Service: "c", URL: "127.0.0.1:8080"},
			{Service: "c", URL: "ftp://h"},
			{Service: "c", URL: "http://h/path"},
			{Service: "c", URL: "http://user:SECRET-1@h"},
			{Service: "c", URL: "http://user:SECRET-2@h:x"},
			{Service: "c", URL: "http://h?q=SECRET-3"},
			{Service: "c", URL: "http://"},
			{Service: "c", URL: "https://h:99999"},
		},
		Outbound: []gatemesh.Layer{{Name: "mint"}},
	})
	require.EqualError(t, err, `routing: Config.Upstreams[1].Service is required
routing: Config.Upstreams[1].URL is required
routing: Config.Upstreams[2].URL is malformed
routing: Config.Upstreams[3].URL must start with http://, https:// or h2c://
routing: Config.Upstreams[4].URL must be a scheme and a host alone: no user, path, query or fragment
routing: Config.Upstreams[5].URL must be a scheme and a host alone: no user, path, query or fragment
routing: Config.Upstreams[6].URL is malformed
routing: Config.Upstreams[7].URL must be a scheme and a host alone: no user, path, query or fragment
routing: Config.Upstreams[8].URL must have a valid host
routing: Config.Upstreams[9].URL must have a valid host
routing: routes.yaml:7: Config.Subsets[1].Name "v2" is taken by an earlier subset of this service
routing: routes.yaml:8: Config.Subsets[2].Service is required
routing: routes.yaml:8: Config.Subsets[2].Name is required
routing: routes.yaml:1: Config.Routes[0].Name is required
routing: routes.yaml:1: Config.Routes[0].Backends is required
routing: routes.yaml:2: Config.Routes[1].Backends[1]: no upstream serves a.n:81
routing: routes.yaml:2: Config.Routes[1].Backends: the weights must not all be 0
routing: routes.yaml:3: Config.Routes[2].Name "x" is taken by an earlier route
routing: routes.yaml:3: Config.Routes[2].Backends[0]: subset "v9" of a.n:80 is not defined
routing: routes.yaml:3: Config.Routes[2].Backends[3]: no upstream serves b.n:80
routing: routes.yaml:3: Config.Routes[2].Backends[4].Destination.Service is required
routing: Config.Routes[3].Hostnames[0]: "API.example.com" must be written "api.example.com"
routing: Config.Routes[3].Hostnames[1]: "*" is not a host name, nor "*." before one
routing: Config.Routes[3].Hostnames[2]: "*." is not a host name, nor "*." before one
routing: Config.Routes[3].Hostnames[3]: "a..b" is not a host name, nor "*." before one
routing: Config.Routes[3].Hostnames[4]: "h:80" is not a host name, nor "*." before one
routing: Config.Routes[3].Hostnames[5]: "" is not a host name, nor "*." before one
routing: Config.Routes[3].Hostnames[6]: "a.*.b" is not a host name, nor "*." before one
routing: Config.Routes[3].Hostnames[7]: "*.Example.com" must be written "*.example.com"
routing: Config.Routes[3].Hostnames[8]: "h." must be written "h"
routing: routes.yaml:5: Config.Routes[4].Matches[0].Path.Value "v1": path must start with a slash
routing: routes.yaml:5: Config.Routes[4].Matches[1].Path.Value "/a/../b": path contains a dot segment
routing: routes.yaml:5: Config.Routes[4].Matches[2].Path.Value "/a//b": path contains an empty segment
routing: routes.yaml:5: Config.Routes[4].Matches[3].Path.Value "/a%zz": path contains a malformed escape
routing: routes.yaml:5: Config.Routes[4].Matches[4].Path.Value "/a?b=c": path contains a byte that must be escaped
routing: routes.yaml:5: Config.Routes[4].Matches[5].Path.Type 7 is unknown
routing: routes.yaml:5: Config.Routes[4].Matches[6].Method "get" must be upper case
routing: routes.yaml:5: Config.Routes[4].Matches[7].Headers[0].Name is required
routing: routes.yaml:5: Config.Routes[4].Matches[7].Headers[1].Name "a b" is not the name of a header field
routing: routes.yaml:5: Config.Routes[4].Matches[7].Headers[2].Name is Host; match the host by Hostnames
routing: routes.yaml:5: Config.Routes[4].Matches[7].Headers[3].Name is X-Gatemesh-Identity, which no match ever sees
routing: routes.yaml:5: Config.Routes[4].Matches[7].Headers[5].Name K appears twice in one match
routing: Config.Outbound: gatemesh: outbound: "mint" must have exactly one of Gate, Handler and Retry`)
}

func TestServes(t *testing.T) {
	t.Parallel()
	r := newRouter(t, routing.Config{
		Subsets: []routing.Subset{
			{Service: "users", Namespace: "prod", Name: "v2", Labels: map[string]string{"version": "v2"}},
			{Service: "users", Namespace: "prod", Name: "v3", Labels: map[string]string{"version": "v3"}},
		},
		Upstreams: []routing.Upstream{
			{Service: "users", Namespace: "prod", Port: 8080, Labels: map[string]string{"version": "v2", "zone": "a"}, URL: "http://h1"},
			{Service: "users", Port: 8080, Subset: "v1", URL: "http://h2"},
			{Service: "web", URL: "http://h3"},
			{Service: "two", Port: 80, URL: "http://h4"},
			{Service: "two", Port: 81, URL: "http://h5"},
			{Service: "mixed", Port: 80, URL: "http://h6"},
			{Service: "mixed", URL: "http://h7"},
		},
	})
	tests := []struct {
		service, namespace, subset string
		port                       uint16
		want                       bool
	}{
		{"users", "prod", "", 8080, true},
		{"users", "prod", "v2", 8080, true},
		{"users", "prod", "v1", 8080, true}, // by name, in any namespace
		{"users", "prod", "v3", 8080, false},
		{"users", "prod", "v4", 8080, false},
		{"users", "prod", "v2", 9090, false},
		{"users", "prod", "v2", 0, true}, // the only port
		{"users", "test", "", 8080, true},
		{"users", "test", "v1", 8080, true},
		{"users", "test", "v2", 8080, false}, // the subset is prod's
		{"users", "", "", 8080, true},
		{"web", "prod", "", 1234, true},
		{"web", "prod", "", 0, true},
		{"web", "prod", "v1", 0, false},
		{"two", "prod", "", 80, true},
		{"two", "prod", "", 0, false}, // which of the two?
		{"two", "prod", "", 82, false},
		{"mixed", "prod", "", 80, true},
		{"mixed", "prod", "", 82, true},
		{"mixed", "prod", "", 0, true},
		{"other", "prod", "", 80, false},
		{"", "", "", 0, false},
	}
	for _, tt := range tests {
		d := gatemesh.Destination{Service: tt.service, Namespace: tt.namespace, Subset: tt.subset, Port: tt.port}
		assert.Equal(t, tt.want, r.Serves(d), d.String())
	}
}

func TestWhoServes(t *testing.T) {
	t.Parallel()
	hits := map[string]bool{}
	up := func(url, namespace, subset string, port uint16, labels map[string]string) routing.Upstream {
		return routing.Upstream{Service: "users", Namespace: namespace, Subset: subset, Port: port, Labels: labels, URL: "http://" + url,
			Transport: roundTripper(func(r *http.Request) (*http.Response, error) {
				hits[r.URL.Host] = true
				return &http.Response{StatusCode: 200, Body: http.NoBody, Header: http.Header{}, Request: r}, nil
			})}
	}
	v2 := map[string]string{"version": "v2"}
	var d gatemesh.Destination
	h := gateway{
		layers: []gatemesh.Layer{layer("choose", func(context.Context, *gatemesh.Call) (gatemesh.Admission, error) {
			return gatemesh.Admission{Destination: &d}, nil
		})},
		cfg: routing.Config{
			Routes:  []routing.Route{to("all", gatemesh.Destination{Service: "users", Namespace: "prod", Port: 80})},
			Subsets: []routing.Subset{{Service: "users", Namespace: "prod", Name: "v2", Labels: v2}},
			Upstreams: []routing.Upstream{
				up("prod80", "prod", "", 80, v2), up("prod81", "prod", "", 81, v2), up("prod", "prod", "v1", 0, nil),
				up("test80", "test", "v2", 80, nil), up("any80", "", "", 80, nil),
			},
		},
	}.handler(t)
	for _, tt := range []struct {
		namespace, subset string
		port              uint16
		want              []string
	}{
		{"prod", "", 80, []string{"any80", "prod", "prod80"}},
		{"prod", "", 81, []string{"prod", "prod81"}},
		{"prod", "", 82, []string{"prod"}},
		{"prod", "", 0, []string{"prod"}},
		{"prod", "v2", 80, []string{"prod80"}},
		{"prod", "v1", 80, []string{"prod"}},
		{"test", "", 80, []string{"any80", "test80"}},
		{"test", "", 0, []string{"any80", "test80"}},
		{"test", "v2", 80, []string{"test80"}},
		{"other", "", 80, []string{"any80"}},
	} {
		d = gatemesh.Destination{Service: "users", Namespace: tt.namespace, Subset: tt.subset, Port: tt.port}
		clear(hits)
		for range 2 * len(tt.want) {
			w := httptest.NewRecorder()
			h.ServeHTTP(w, httptest.NewRequest("GET", "/", nil))
			require.Equal(t, 200, w.Code, d.String())
		}
		assert.Equal(t, tt.want, slices.Sorted(maps.Keys(hits)), d.String())
	}
}

func TestLayer(t *testing.T) {
	t.Parallel()
	r := newRouter(t, routing.Config{})
	needs := gatemesh.Layer{Name: "split", Needs: []gatemesh.Fact{gatemesh.FactRoute}, Gate: gatemesh.GateFunc(nil)}
	entry := gatemesh.Must(gatemesh.NewEntry(gatemesh.EntryConfig{}))
	_, err := gatemesh.NewChain(entry, r.Layer(), needs)
	require.NoError(t, err)
}
