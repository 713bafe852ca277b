package routing_test

import (
	"net/http"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/gatemesh-go/gatemesh"
	"github.com/gatemesh-go/gatemesh/routing"
)

// versions returns a rule that goes to subsets of the backend's service.
func versions(name string, m routing.Match, weights map[string]uint32) routing.Route {
	in := routing.Route{Name: name, Matches: []routing.Match{m}}
	for _, subset := range []string{"v1", "v2", "v3"} {
		if w, ok := weights[subset]; ok {
			d := gatemesh.Destination{Service: backend.Service, Namespace: backend.Namespace, Subset: subset}
			in.Backends = append(in.Backends, routing.Backend{Destination: d, Weight: w})
		}
	}
	return in
}

func header(name, value string) routing.Match {
	return routing.Match{Headers: []routing.HeaderMatch{{Name: name, Value: value}}}
}

func serviceConfig() routing.Config {
	other := gatemesh.Destination{Service: "other", Namespace: backend.Namespace}
	second := backend
	second.Port = 9090
	cfg := routing.Config{
		Routes: []routing.Route{
			to("users", backend), {Name: "second", Matches: []routing.Match{prefix("/second")}, Backends: to("", second).Backends},
			{Name: "other", Matches: []routing.Match{prefix("/other")}, Backends: to("", other).Backends},
			{Name: "final", Matches: []routing.Match{prefix("/final")}, Backends: []routing.Backend{{
				Destination: gatemesh.Destination{Service: backend.Service, Namespace: backend.Namespace, Subset: "v3", Port: 8080}, Weight: 1}}},
		},
		Services: []routing.Service{
			{Service: backend.Service, Namespace: backend.Namespace, Rules: []routing.Route{
				versions("canary", header("x-canary", "true"), map[string]uint32{"v1": 0, "v2": 1}),
				versions("reports", routing.Match{Path: routing.PathMatch{Type: routing.PathStart, Value: "/rep"}}, map[string]uint32{"v3": 1}),
				versions("shadowed", exact("/reports"), map[string]uint32{"v1": 1}),
				versions("gets", routing.Match{Method: "GET"}, map[string]uint32{"v1": 90, "v2": 10}),
			}},
			{Service: "*", Namespace: backend.Namespace, Rules: []routing.Route{
				{Name: "rest", Backends: []routing.Backend{{Destination: other, Weight: 1}}},
			}},
		},
		Upstreams: []routing.Upstream{{Service: "other", URL: "http://127.0.0.1:1"}},
	}
	for _, v := range []string{"v1", "v2", "v3"} {
		cfg.Upstreams = append(cfg.Upstreams, routing.Upstream{Service: backend.Service, Subset: v, URL: "http://127.0.0.1:1", Port: 8080},
			routing.Upstream{Service: backend.Service, Subset: v, URL: "http://127.0.0.1:1", Port: 9090})
	}
	return cfg
}

func TestRouteTo(t *testing.T) {
	t.Parallel()
	r := newRouter(t, serviceConfig())
	var _ gatemesh.ServiceRouter = r
	chosen := http.Header{"X-Canary": {"true"}}
	for _, tt := range []struct {
		method, path string
		header       http.Header
		want         string
	}{
		{"GET", "/", nil, "gets"},
		{"GET", "/reports", nil, "reports"}, // the first, not the most specific
		{"POST", "/reports", chosen, "canary"},
		{"POST", "/", nil, ""},
	} {
		route, err := r.RouteTo(call(t, tt.method, "h", tt.path, tt.header), backend)
		if tt.want == "" {
			var d *gatemesh.Denial
			require.ErrorAs(t, err, &d)
			assert.Equal(t, gatemesh.NotFound, d.Code)
			continue
		}
		require.NoError(t, err)
		assert.Equal(t, tt.want, route.Name)
	}
	c := call(t, "GET", "h", "/", nil)
	for _, tt := range []struct {
		d    gatemesh.Destination
		want string
	}{
		{gatemesh.Destination{Service: "unheard-of", Namespace: backend.Namespace}, "rest"},
		{gatemesh.Destination{Service: backend.Service, Namespace: "elsewhere"}, ""},
		{gatemesh.Destination{Service: backend.Service, Namespace: backend.Namespace, Subset: "v1"}, ""},
	} {
		route, err := r.RouteTo(c, tt.d)
		require.NoError(t, err)
		if tt.want == "" {
			assert.Nil(t, route, tt.d)
		} else {
			assert.Equal(t, tt.want, route.Name)
		}
	}

	// A backend without a port gets that of the call's destination, and the same
	// Route each time.
	for _, port := range []uint16{0, 8080, 9090, 8080} {
		d := backend
		d.Port = port
		route, err := r.RouteTo(c, d)
		require.NoError(t, err)
		again, err := r.RouteTo(c, d)
		require.NoError(t, err)
		assert.Same(t, route, again)
		require.Len(t, route.Backends, 2)
		for i, b := range route.Backends {
			assert.Equal(t, port, b.Destination.Port)
			assert.Equal(t, []uint32{90, 10}[i], b.Weight)
			assert.NotNil(t, b.Rule)
		}
	}
	for port := range uint16(200) { // more than are remembered
		d := backend
		d.Port = port
		route, err := r.RouteTo(c, d)
		require.NoError(t, err)
		require.Equal(t, port, route.Backends[0].Destination.Port)
	}
}

// TestAdmitService: the one destination there is, if nothing is left to choose.
func TestAdmitService(t *testing.T) {
	t.Parallel()
	r := newRouter(t, serviceConfig())
	admit := func(path string, h http.Header) gatemesh.Admission {
		adm, err := r.Admit(t.Context(), call(t, "GET", "h", path, h))
		require.NoError(t, err)
		return adm
	}
	adm := admit("/", http.Header{"X-Canary": {"true"}})
	assert.Same(t, &adm.Route.Backends[0], adm.Backend)
	assert.Equal(t, "canary", adm.ServiceRoute.Name)
	assert.Same(t, &adm.ServiceRoute.Backends[1], adm.ServiceBackend)
	assert.Equal(t, "user-service.production/v2:8080", adm.Destination.String())
	assert.Equal(t, "user-service.production/v2:9090", admit("/second", http.Header{"X-Canary": {"true"}}).Destination.String())

	adm = admit("/", nil) // a choice, which is not the route table's
	assert.Equal(t, "users", adm.Route.Name)
	assert.Nil(t, adm.Destination)
	assert.Nil(t, adm.Backend)
	assert.Nil(t, adm.ServiceRoute)

	adm = admit("/other", nil)
	assert.Equal(t, "rest", adm.ServiceRoute.Name)
	adm = admit("/final", nil)
	assert.Nil(t, adm.ServiceRoute)
	assert.Equal(t, "v3", adm.Destination.Subset)
	assert.Same(t, &adm.Route.Backends[0], adm.Backend)

	_, err := r.Admit(t.Context(), call(t, "POST", "h", "/", nil))
	var d *gatemesh.Denial
	require.ErrorAs(t, err, &d)
	assert.Equal(t, "no_version", d.Reason)
}

// TestRouteToDuringUpdate is for the race detector.
func TestRouteToDuringUpdate(t *testing.T) {
	t.Parallel()
	r := newRouter(t, serviceConfig())
	c := call(t, "GET", "h", "/", nil)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for range 20 {
			assert.NoError(t, r.Update(serviceConfig()))
		}
	}()
	for range 50 {
		for port := range uint16(8) {
			d := backend
			d.Port = port
			route, err := r.RouteTo(c, d)
			require.NoError(t, err)
			require.Equal(t, port, route.Backends[1].Destination.Port)
		}
	}
	<-done
}
