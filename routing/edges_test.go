package routing_test

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/gatemesh-go/gatemesh"
	"github.com/gatemesh-go/gatemesh/routing"
)

// refuseAll is an upstream that nothing must reach.
func refuseAll(t testing.TB) roundTripper {
	return func(r *http.Request) (*http.Response, error) {
		t.Errorf("%s %s must not be forwarded", r.Method, r.URL)
		return nil, io.ErrUnexpectedEOF
	}
}

// TestPX01_Unserved: the share of calls that belongs to nobody is answered with
// 500, and never goes elsewhere.
func TestPX01_Unserved(t *testing.T) {
	t.Parallel()
	nobody := routing.Backend{Weight: 1, Unserved: true}
	named := nobody // by a service of whose calls something is said
	named.Destination = backend
	withService := routing.Config{Services: []routing.Service{{Service: backend.Service, Namespace: backend.Namespace, Rules: []routing.Route{to("rule", backend)}}}}
	for name, f := range map[string]filtered{
		"nobody": {route: routing.Route{Backends: []routing.Backend{nobody}}},
		"named":  {route: routing.Route{Backends: []routing.Backend{named}}, cfg: withService},
		"chosen behind the table": {route: routing.Route{Backends: []routing.Backend{named, {Destination: backend, Weight: 1}}}, layers: []gatemesh.Layer{
			layer("choose", func(_ context.Context, c *gatemesh.Call) (gatemesh.Admission, error) {
				return gatemesh.Admission{Backend: &c.Route().Backends[0], Destination: &c.Route().Backends[1].Destination}, nil
			})}},
		"rule of the service": {service: &routing.Route{Backends: []routing.Backend{nobody}}},
		"mirrored":            {route: routing.Route{Backends: []routing.Backend{nobody}, Filters: mirrored(routing.Mirror{Destination: backend})}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f.upstream = refuseAll(t)
			h := f.handler(t)
			resp := do(t, h, "GET", "/")
			assert.Equal(t, 500, resp.StatusCode)
			assert.Equal(t, "backend_invalid", reason(t, resp))
			req := httptest.NewRequest("POST", "/p.S/M", nil)
			req.Header.Set("Content-Type", "application/grpc")
			req.ProtoMajor = 2
			w := httptest.NewRecorder()
			h.ServeHTTP(w, req)
			assert.Equal(t, "14", w.Header().Get("Grpc-Status"))
		})
	}
	half := filtered{upstream: answering, route: routing.Route{Backends: []routing.Backend{{Weight: 0, Unserved: true}, {Destination: backend, Weight: 1}}}}
	assert.Equal(t, 200, do(t, half.handler(t), "GET", "/").StatusCode, "the others are served")
	_, err := routing.New(routing.Config{Routes: []routing.Route{{Name: "r", Backends: []routing.Backend{{Weight: 1, Unserved: true, Filters: routing.Filters{
		RequestHeader: routing.HeaderChange{Remove: []string{"X-A"}}}}}}}})
	assert.EqualError(t, err, "routing: Config.Routes[0].Backends[0] is Unserved, so that its filters would be in vain")
}

// TestServiceAnswers: a rule of the service without backends answers whether a
// layer has chosen it or the table itself, which saw no choice.
func TestServiceAnswers(t *testing.T) {
	t.Parallel()
	moved := routing.Filters{Redirect: &routing.Redirect{Hostname: "new.example"}}
	closed := routing.Filters{Response: &routing.Response{Status: 503}}
	chosen := func(r *routing.Router) gatemesh.Layer { // as package canary does
		return layer("choose", func(_ context.Context, c *gatemesh.Call) (gatemesh.Admission, error) {
			b := &c.Route().Backends[0]
			rule, err := r.RouteTo(c, b.Destination)
			return gatemesh.Admission{Backend: b, Destination: &b.Destination, ServiceRoute: rule}, err
		})
	}
	for name, layers := range map[string]func(*routing.Router) []gatemesh.Layer{
		"alone":  func(*routing.Router) []gatemesh.Layer { return nil },
		"chosen": func(r *routing.Router) []gatemesh.Layer { return []gatemesh.Layer{chosen(r)} },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := filtered{upstream: refuseAll(t), cfg: routing.Config{Services: []routing.Service{{Service: backend.Service, Namespace: backend.Namespace, Rules: []routing.Route{
				{Name: "moved", Matches: []routing.Match{{Path: routing.PathMatch{Value: "/moved"}}}, Filters: moved},
				{Name: "closed", Filters: closed},
			}}}}}
			r := f.router(t)
			f.layers = layers(r)
			h := f.behind(t, r)
			resp := do(t, h, "GET", "/moved/x?y=1", "Host", "old.example")
			assert.Equal(t, 302, resp.StatusCode)
			assert.Equal(t, "http://new.example/moved/x?y=1", resp.Header.Get("Location"))
			assert.Equal(t, 503, do(t, h, "GET", "/").StatusCode)
		})
	}
}

// TestPreflightWithoutLayer: a preflight request that belongs to a route by the
// method it asks about, or to one with CORS, is never forwarded.
func TestPreflightWithoutLayer(t *testing.T) {
	t.Parallel()
	allowed := &routing.CORS{AllowOrigins: []string{"https://app.example"}, AllowMethods: []string{"PUT"}}
	for name, r := range map[string]routing.Route{
		"by the method it asks about": {Matches: []routing.Match{{Method: "PUT"}}, Filters: routing.Filters{CORS: allowed}},
		"by its own":                  {Filters: routing.Filters{CORS: allowed}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r.Name, r.Backends = "r", to("", backend).Backends
			us := at("http://10.0.0.1")
			us[0].Transport = refuseAll(t)
			h := gateway{cfg: routing.Config{Routes: []routing.Route{r}, Upstreams: us}}.handler(t) // without Router.CORS
			resp := do(t, h, "OPTIONS", "/", "Origin", "https://app.example", "Access-Control-Request-Method", "PUT")
			assert.Equal(t, 200, resp.StatusCode)
			assert.Equal(t, "https://app.example", resp.Header.Get("Access-Control-Allow-Origin"))
			assert.Equal(t, "PUT", resp.Header.Get("Access-Control-Allow-Methods"))
			resp = do(t, h, "OPTIONS", "/", "Origin", "https://evil.example", "Access-Control-Request-Method", "PUT")
			assert.Equal(t, 403, resp.StatusCode)
			assert.Empty(t, resp.Header.Get("Access-Control-Allow-Origin"))
		})
	}
}

// TestLateRule: what a rule of the service says of answers is done, though it
// was chosen behind the layers that do it for routes.
func TestLateRule(t *testing.T) {
	t.Parallel()
	filters := routing.Filters{
		CORS:      &routing.CORS{AllowOrigins: []string{"https://app.example"}},
		Lifecycle: &routing.Lifecycle{Deprecated: time.Unix(1, 0), Sunset: time.Unix(4e9, 0), Link: "/why", GoneAfterSunset: true},
	}
	f := filtered{service: &routing.Route{Filters: filters}, upstream: roundTripper(func(r *http.Request) (*http.Response, error) {
		if r.Method == http.MethodOptions {
			t.Error("a preflight request must not be forwarded")
		}
		return &http.Response{StatusCode: 200, Body: http.NoBody, Request: r, Header: http.Header{
			"Deprecation": {"@7"}, "Link": {"</theirs>"}, "Access-Control-Allow-Origin": {"*"}}}, nil
	})}
	resp := do(t, f.handler(t), "GET", "/", "Origin", "https://app.example")
	assert.Equal(t, []string{"https://app.example"}, resp.Header["Access-Control-Allow-Origin"])
	assert.Equal(t, []string{"@1"}, resp.Header["Deprecation"])
	assert.Equal(t, []string{"Tue, 02 Oct 2096 07:06:40 GMT"}, resp.Header["Sunset"])
	assert.Equal(t, []string{"</theirs>", `</why>; rel="deprecation"`}, resp.Header["Link"])
	assert.Equal(t, []string{"Origin"}, resp.Header["Vary"])
	resp = do(t, f.handler(t), "OPTIONS", "/", "Origin", "https://app.example", "Access-Control-Request-Method", "GET")
	assert.Equal(t, 200, resp.StatusCode)

	filters.CORS, filters.Lifecycle = nil, &routing.Lifecycle{Sunset: time.Unix(1, 0), GoneAfterSunset: true}
	f.service = &routing.Route{Filters: filters}
	resp = do(t, f.handler(t), "GET", "/")
	assert.Equal(t, 410, resp.StatusCode)
	assert.NotEmpty(t, resp.Header.Get("Sunset"), "refusals say it, too")

	filters.Lifecycle, filters.CORS = nil, &routing.CORS{AllowOrigins: []string{"https://app.example"}}
	f.service, f.route.Filters = nil, filters // which Router.CORS has seen to
	assert.Equal(t, []string{"Origin"}, do(t, f.handler(t), "GET", "/").Header["Vary"], "once")
}

// TestSlowBody: a client that does not send its body in the server's time is to
// blame, and not the upstream.
func TestSlowBody(t *testing.T) {
	t.Parallel()
	log := &recorder{}
	reads := roundTripper(func(r *http.Request) (*http.Response, error) {
		_, err := io.Copy(io.Discard, r.Body)
		return nil, err
	})
	us := at("http://10.0.0.1")
	us[0].Transport = reads
	s := httptest.NewUnstartedServer(gateway{cfg: routing.Config{Upstreams: us, Observer: log}}.handler(t))
	s.Config.ReadTimeout = 20 * time.Millisecond
	s.Start()
	t.Cleanup(s.Close)
	resp := raw(t, s.URL, "POST / HTTP/1.1\nHost: h\nContent-Length: 5\n\nab")
	assert.Equal(t, 408, resp.StatusCode)
	assert.Equal(t, "body_timeout", reason(t, resp))
	denied := log.kind(gatemesh.EventDenied)
	require.Len(t, denied, 1)
	assert.Equal(t, "proxy", denied[0].Layer)
}

func TestSchemes(t *testing.T) {
	t.Parallel()
	match := func(m routing.ValueMatch) error {
		r := to("all", backend)
		r.Matches = []routing.Match{{Scheme: &m}}
		_, err := routing.New(routing.Config{Routes: []routing.Route{r}, Upstreams: at("http://h")})
		return err
	}
	for _, value := range []string{"http", "https"} {
		assert.NoError(t, match(routing.ValueMatch{Value: value}))
	}
	for _, value := range []string{"", "HTTP", "h2c", "ws", "grpc", "https:"} {
		assert.ErrorContains(t, match(routing.ValueMatch{Value: value}), "Matches[0].Scheme.Value")
	}
	assert.NoError(t, match(routing.ValueMatch{Type: routing.MatchPrefix, Value: "http"}))
}
