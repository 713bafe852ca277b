package routing_test

import (
	"net/http"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/gatemesh-go/gatemesh"
	"github.com/gatemesh-go/gatemesh/routing"
)

// routed returns the name of the route for a call, "" or misdirected.
func routed(t testing.TB, r *routing.Router, a asked) string {
	t.Helper()
	adm, err := r.Admit(t.Context(), a.call(t))
	var d *gatemesh.Denial
	switch {
	case err == nil:
		return adm.Route.Name
	case assert.ErrorAs(t, err, &d) && d.HTTPStatus() == http.StatusMisdirectedRequest:
		return misdirected
	}
	require.Equal(t, http.StatusNotFound, d.HTTPStatus())
	return ""
}

// TestListenerIsolation has the cases of the Gateway API's conformance test
// GatewayHTTPListenerIsolation: only routes of the most specific listener are
// looked at.
func TestListenerIsolation(t *testing.T) {
	t.Parallel()
	names := map[string]string{"empty": "", "example": "*.example.com", "foo": "*.foo.example.com", "abc": "abc.foo.example.com"}
	for _, intersection := range []bool{false, true} {
		cfg := table()
		for name, hostname := range names {
			route := routing.Route{Name: name, Listeners: []string{name}, Matches: []routing.Match{prefix("/" + name)}, Backends: to("", backend).Backends}
			if intersection {
				route.Hostnames = []string{"bar.com", "*.example.com", "*.foo.example.com", "abc.foo.example.com"}
			}
			cfg.Routes = append(cfg.Routes, route)
			cfg.Listeners = append(cfg.Listeners, routing.Listener{Name: name, Hostname: hostname, Port: 80})
		}
		r := newRouter(t, cfg)
		for host, owner := range map[string]string{
			"bar.com": "empty", "bar.example.com": "example", "bar.foo.example.com": "foo", "abc.foo.example.com": "abc",
			"ABC.foo.example.com.": "abc",
		} {
			for name := range names {
				want := ""
				if name == owner {
					want = name
				}
				assert.Equal(t, want, routed(t, r, asked{scheme: "http", host: host, path: "/" + name, port: 80}), "%s/%s", host, name)
			}
			assert.Empty(t, routed(t, r, asked{scheme: "http", host: host, path: "/" + owner, port: 81}), "another port")
			assert.Empty(t, routed(t, r, asked{scheme: "https", host: host, path: "/" + owner, port: 80}), "no listener is encrypted")
		}
	}
}

// TestMisdirected has the cases of the Gateway API's conformance test
// HTTPRouteHTTPSListenerDetectMisdirectedRequests, and those of AZ-04.
func TestMisdirected(t *testing.T) {
	t.Parallel()
	cfg := table(
		routing.Route{Name: "1", Listeners: []string{"any"}, Hostnames: []string{"example.org"}},
		routing.Route{Name: "2", Listeners: []string{"second"}},
		routing.Route{Name: "3", Listeners: []string{"wild"}},
		routing.Route{Name: "4", Listeners: []string{"fourth"}},
	)
	cfg.Listeners = []routing.Listener{
		{Name: "any", Port: 443, TLS: true}, {Name: "second", Port: 443, TLS: true, Hostname: "second-example.org"},
		{Name: "wild", Port: 443, TLS: true, Hostname: "*.wildcard.org"}, {Name: "fourth", Port: 443, TLS: true, Hostname: "fourth-example.wildcard.org"},
	}
	r := newRouter(t, cfg)
	for _, tt := range []struct{ sni, host, want string }{
		{"example.org", "example.org", "1"},
		{"example.org", "second-example.org", misdirected},
		{"example.org", "unknown-example.org", ""},
		{"second-example.org", "second-example.org", "2"},
		{"second-example.org", "example.org", misdirected},
		{"second-example.org", "unknown-example.org", misdirected},
		{"third-example.wildcard.org", "third-example.wildcard.org", "3"},
		{"third-example.wildcard.org", "fith-example.wildcard.org", "3"},
		{"third-example.wildcard.org", "fourth-example.wildcard.org", misdirected},
		{"third-example.wildcard.org", "second-example.org", misdirected},
		{"fourth-example.wildcard.org", "fourth-example.wildcard.org", "4"},
		{"fourth-example.wildcard.org", "fith-example.wildcard.org", misdirected},
		{"unknown-example.org", "example.org", "1"},
		{"unknown-example.org", "unknown-example.org", ""},
		{"SECOND-example.ORG", "Second-Example.org.", "2"},
		{"second-example.org", "second-example.org:443", "2"},
		{"", "second-example.org", "2"}, // a client that names nobody
		{"a..b", "second-example.org", "2"},
	} {
		assert.Equal(t, tt.want, routed(t, r, asked{scheme: "https", sni: tt.sni, host: tt.host, port: 443}), "%s %s", tt.sni, tt.host)
	}
	// Not over plain text, where an SNI has no place, and not beside a listener
	// that serves neither.
	cfg.Listeners[0].TLS = false
	r = newRouter(t, cfg)
	assert.Equal(t, "1", routed(t, r, asked{scheme: "http", sni: "second-example.org", host: "example.org", port: 443}))
	assert.Empty(t, routed(t, r, asked{scheme: "https", sni: "second-example.org", host: "example.org", port: 443}))
	assert.Equal(t, "2", routed(t, r, asked{scheme: "https", sni: "example.org", host: "second-example.org", port: 443}))
}

// TestHostnameIntersection: precedence goes by the hostname of the route, not
// by what the listener leaves of it.
func TestHostnameIntersection(t *testing.T) {
	t.Parallel()
	cfg := table(
		routing.Route{Name: "every"},
		routing.Route{Name: "wide", Hostnames: []string{"*.example.com", "other.org"}},
		routing.Route{Name: "narrow", Hostnames: []string{"*.x.example.com"}},
		routing.Route{Name: "exact", Hostnames: []string{"a.x.example.com"}, Matches: []routing.Match{prefix("/exact")}},
	)
	cfg.Listeners = []routing.Listener{{Name: "l", Hostname: "a.x.example.com"}, {Name: "m", Hostname: "*.example.com"}}
	r := newRouter(t, cfg)
	for host, want := range map[string]string{"a.x.example.com": "narrow", "b.x.example.com": "narrow", "y.example.com": "wide", "other.org": "", "example.com": ""} {
		assert.Equal(t, want, routed(t, r, asked{scheme: "http", host: host}), host)
	}
	assert.Equal(t, "exact", routed(t, r, asked{scheme: "http", host: "a.x.example.com", path: "/exact/1"}))
}
