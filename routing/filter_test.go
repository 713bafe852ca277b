package routing_test

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/gatemesh-go/gatemesh"
	"github.com/gatemesh-go/gatemesh/routing"
)

// filtered is a gateway with one route, which the test filters.
type filtered struct {
	entry    gatemesh.EntryConfig
	cfg      routing.Config
	route    routing.Route
	service  *routing.Route // a rule of the service, behind the route
	layers   []gatemesh.Layer
	upstream http.RoundTripper
	random   func() float64
}

func (f filtered) router(t testing.TB) *routing.Router {
	t.Helper()
	if f.route.Name == "" {
		f.route.Name = "all"
	}
	if f.route.Backends == nil && f.route.Redirect == nil && f.route.Response == nil {
		f.route.Backends = []routing.Backend{{Destination: backend, Weight: 1}}
	}
	f.cfg.Routes = []routing.Route{f.route}
	if f.upstream != nil {
		f.cfg.Upstreams = append(f.cfg.Upstreams, routing.Upstream{Service: backend.Service, URL: "http://10.0.0.1:8080", Transport: f.upstream})
	}
	r := newRouter(t, f.cfg)
	if f.random != nil {
		r.SetRandom(f.random)
	}
	return r
}

func (f filtered) handler(t testing.TB) http.Handler {
	t.Helper()
	return f.behind(t, f.router(t))
}

func (f filtered) behind(t testing.TB, r *routing.Router) http.Handler {
	t.Helper()
	layers := []gatemesh.Layer{r.Layer(), r.CORS()}
	if f.service != nil {
		layers = append(layers, asService(t, f, *f.service))
	}
	entry := gatemesh.Must(gatemesh.NewEntry(f.entry))
	return gatemesh.Must(gatemesh.NewChain(entry, append(layers, f.layers...)...)).Handler(r.Proxy())
}

// asService stamps the route of a router of its own as the rule of the service.
func asService(t testing.TB, f filtered, rule routing.Route) gatemesh.Layer {
	rule.Name = "service"
	if rule.Backends == nil {
		rule.Backends = []routing.Backend{{Destination: backend, Weight: 1}}
	}
	f.cfg.Routes = []routing.Route{rule}
	f.cfg.Upstreams = append(f.cfg.Upstreams, routing.Upstream{Service: backend.Service, URL: "http://10.0.0.1"})
	r := newRouter(t, f.cfg)
	return layer("service", func(ctx context.Context, c *gatemesh.Call) (gatemesh.Admission, error) {
		adm, err := r.Admit(ctx, c)
		return gatemesh.Admission{ServiceRoute: adm.Route, ServiceBackend: adm.Backend}, err
	})
}

// answering answers every request with what it received.
var answering = roundTripper(func(r *http.Request) (*http.Response, error) {
	if r.Body != nil {
		_, _ = io.Copy(io.Discard, r.Body)
		_ = r.Body.Close()
	}
	w := httptest.NewRecorder()
	_ = json.NewEncoder(w).Encode(seen{r.Method, r.URL.RequestURI(), r.Host, r.Proto, r.Header})
	resp := w.Result()
	resp.Request = r
	return resp, nil
})

// do sends a request to h. Names and values of fields alternate.
func do(t testing.TB, h http.Handler, method, target string, fields ...string) *http.Response {
	t.Helper()
	req := httptest.NewRequest(method, target, nil)
	for i := 0; i < len(fields); i += 2 {
		if fields[i] == "Host" {
			req.Host = fields[i+1]
		} else {
			req.Header.Add(fields[i], fields[i+1])
		}
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, req)
	return w.Result()
}

// sent is what the upstream has received for a request that was answered.
func sent(t testing.TB, resp *http.Response) (s seen) {
	t.Helper()
	body := gatemesh.Must(io.ReadAll(resp.Body))
	require.Equal(t, 200, resp.StatusCode, string(body))
	require.NoError(t, json.Unmarshal(body, &s))
	return s
}

// reason is that of a problem document.
func reason(t testing.TB, resp *http.Response) string {
	t.Helper()
	var p struct{ Reason string }
	require.Equal(t, "application/problem+json", resp.Header.Get("Content-Type"))
	require.NoError(t, json.NewDecoder(resp.Body).Decode(&p))
	return p.Reason
}

func field(name, value string) gatemesh.Field { return gatemesh.Field{Name: name, Value: value} }

func TestHeaderChange(t *testing.T) {
	t.Parallel()
	var judged, got http.Header
	h := filtered{
		entry: gatemesh.EntryConfig{KeepUnderscores: true},
		route: routing.Route{Filters: routing.Filters{
			RequestHeader: routing.HeaderChange{
				Set:    []gatemesh.Field{field("x-set", "ours"), field("X-New", "new")},
				Add:    []gatemesh.Field{field("x-add", "b"), field("X-Add", "c")},
				Remove: []string{"x-remove", "User-Agent", "X-Absent"},
			},
			ResponseHeader: routing.HeaderChange{
				Set: []gatemesh.Field{field("Server", "gateway")}, Add: []gatemesh.Field{field("Set-Cookie", "b=2")}, Remove: []string{"x-secret"},
			},
		}},
		layers: []gatemesh.Layer{layer("judge", func(_ context.Context, c *gatemesh.Call) (gatemesh.Admission, error) {
			judged = http.Header{"X-Set": c.Header().Values("X-Set"), "X-Remove": c.Header().Values("X-Remove"), "X-Add": c.Header().Values("X-Add")}
			return gatemesh.Admission{}, nil
		})},
		upstream: roundTripper(func(r *http.Request) (*http.Response, error) {
			got = r.Header
			return &http.Response{StatusCode: 200, Body: http.NoBody, Request: r, Header: http.Header{
				"Server": {"upstream"}, "Set-Cookie": {"a=1"}, "X-Secret": {"1"}, "X_secret": {"2"}, "Connection": {"Server, X-Other"}, "X-Other": {"1"}}}, nil
		}),
	}.handler(t)
	resp := do(t, h, "GET", "/", "X-Set", "theirs", "X_Set", "folded", "X-Remove", "1", "X_remove", "2", "X-Add", "a", "User-Agent", "curl", "X-Kept", "1")
	require.Equal(t, 200, resp.StatusCode)
	assert.Equal(t, http.Header{"X-Set": {"theirs"}, "X-Remove": {"1"}, "X-Add": {"a"}}, judged, "judged is what came")
	for _, name := range []string{"X_Set", "X-Remove", "X_remove", "X_Remove", "X-Absent"} {
		assert.NotContains(t, got, name)
	}
	assert.Equal(t, []string{"ours"}, got["X-Set"])
	assert.Equal(t, []string{"new"}, got["X-New"])
	assert.Equal(t, []string{"a", "b", "c"}, got["X-Add"])
	assert.Equal(t, []string{"1"}, got["X-Kept"])
	assert.Equal(t, "", got.Get("User-Agent"))

	assert.Equal(t, []string{"gateway"}, resp.Header["Server"], "the upstream cannot have it taken off by naming it in Connection")
	assert.Equal(t, []string{"a=1", "b=2"}, resp.Header["Set-Cookie"])
	assert.NotContains(t, resp.Header, "X-Secret")
	assert.NotContains(t, resp.Header, "X_secret")
	assert.NotContains(t, resp.Header, "X-Other")
}

// TestStages: requests pass the filters of route, backend, rule and its backend
// in this order, answers in the reverse one.
func TestStages(t *testing.T) {
	t.Parallel()
	change := func(name string) routing.Filters {
		h := routing.HeaderChange{Add: []gatemesh.Field{field("X-Order", name)}, Set: []gatemesh.Field{field("X-Last", name)}}
		return routing.Filters{RequestHeader: h, ResponseHeader: h}
	}
	h := filtered{
		upstream: answering,
		route:    routing.Route{Filters: change("route"), Backends: []routing.Backend{{Destination: backend, Weight: 1, Filters: change("backend")}}},
		service:  &routing.Route{Filters: change("rule"), Backends: []routing.Backend{{Destination: backend, Weight: 1, Filters: change("version")}}},
	}.handler(t)
	resp := do(t, h, "GET", "/")
	got := sent(t, resp)
	assert.Equal(t, []string{"route", "backend", "rule", "version"}, got.Header["X-Order"])
	assert.Equal(t, []string{"version"}, got.Header["X-Last"])
	assert.Equal(t, []string{"version", "rule", "backend", "route"}, resp.Header["X-Order"])
	assert.Equal(t, []string{"route"}, resp.Header["X-Last"])
}

// TestID03_FiltersCarryNoIdentity: no filter can write or take off what is ours,
// in whatever spelling, nor make a second message of a value.
func TestID03_FiltersCarryNoIdentity(t *testing.T) {
	t.Parallel()
	names := []string{
		"X-Gatemesh-Identity", "x_gatemesh_identity", "X-Gatemesh-Anything", "X.Gatemesh.Identity", "Host", "host",
		"Connection", "Keep-Alive", "Proxy-Connection", "Proxy-Authorization", "Te", "Trailer", "Transfer-Encoding", "transfer_encoding",
		"Upgrade", "Http2-Settings", "Content-Length", "CONTENT_LENGTH", "Expect", "Forwarded", "X-Forwarded-For", "X_Forwarded_For",
		"X-Forwarded-Host", "X-Forwarded-Proto", "X-Http-Method-Override", "X-Rewrite-Url", "X-Original-Url", "X-Request-Id", "Grpc-Status",
		":path", ":authority", "a b", "a:b", "", "X-\r\nEvil", "X\x00",
	}
	for _, name := range names {
		for _, change := range []routing.HeaderChange{
			{Set: []gatemesh.Field{field(name, "v")}}, {Add: []gatemesh.Field{field(name, "v")}}, {Remove: []string{name}},
		} {
			r := to("all", backend)
			r.RequestHeader = change
			_, err := routing.New(routing.Config{Routes: []routing.Route{r}, Upstreams: at("http://h")})
			require.ErrorContains(t, err, "Config.Routes[0].RequestHeader.", name)
			r = to("all", backend)
			r.Backends[0].ResponseHeader = change
			_, err = routing.New(routing.Config{Routes: []routing.Route{r}, Upstreams: at("http://h")})
			require.ErrorContains(t, err, "Config.Routes[0].Backends[0].ResponseHeader.", name)
		}
	}
	for _, value := range []string{"a\r\nX-Gatemesh-Identity: evil", "a\nb", "a\rb", "a\x00b", "", " a", "a\t", "\x7f"} {
		r := to("all", backend)
		r.RequestHeader.Set = []gatemesh.Field{field("X-A", value)}
		_, err := routing.New(routing.Config{Routes: []routing.Route{r}, Upstreams: at("http://h")})
		require.ErrorContains(t, err, "Config.Routes[0].RequestHeader.Set[0].Value", "%q", value)
		assert.NotContains(t, err.Error(), "evil", "a value may be a secret")
	}
}

// TestKEY03_FilterAndCredential: the caller's credential does not go upstream
// because a filter writes the same field.
func TestKEY03_FilterAndCredential(t *testing.T) {
	t.Parallel()
	auth := layer("auth", func(context.Context, *gatemesh.Call) (gatemesh.Admission, error) {
		return gatemesh.Admission{Consumed: []string{"Authorization"}}, nil
	})
	run := func(change routing.HeaderChange) []string {
		h := filtered{upstream: answering, layers: []gatemesh.Layer{auth}, route: routing.Route{Filters: routing.Filters{RequestHeader: change}}}.handler(t)
		return sent(t, do(t, h, "GET", "/", "Authorization", "Bearer theirs")).Header["Authorization"]
	}
	assert.Equal(t, []string{"Basic b3Vycw=="}, run(routing.HeaderChange{Set: []gatemesh.Field{field("Authorization", "Basic b3Vycw==")}}))
	assert.NotContains(t, strings.Join(run(routing.HeaderChange{Add: []gatemesh.Field{field("Authorization", "Basic b3Vycw==")}}), ","), "theirs")
}

func TestResponse(t *testing.T) {
	t.Parallel()
	h := filtered{route: routing.Route{Filters: routing.Filters{
		Response:       &routing.Response{Status: 503, Body: []byte("down for today\n"), ContentType: "text/plain; charset=utf-8"},
		ResponseHeader: routing.HeaderChange{Set: []gatemesh.Field{field("Retry-After", "60")}},
	}}}.handler(t)
	for _, method := range []string{"GET", "POST", "HEAD"} {
		resp := do(t, h, method, "/")
		assert.Equal(t, 503, resp.StatusCode)
		assert.Equal(t, "60", resp.Header.Get("Retry-After"))
		assert.Equal(t, "15", resp.Header.Get("Content-Length"))
		assert.Equal(t, "nosniff", resp.Header.Get("X-Content-Type-Options"))
		assert.NotEmpty(t, resp.Header.Get("X-Request-Id"))
		want := "down for today\n"
		if method == "HEAD" {
			want = ""
		}
		assert.Equal(t, want, string(gatemesh.Must(io.ReadAll(resp.Body))))
	}
	resp := do(t, filtered{route: routing.Route{Filters: routing.Filters{Response: &routing.Response{Status: 204}}}}.handler(t), "GET", "/")
	assert.Equal(t, 204, resp.StatusCode)
	assert.NotContains(t, resp.Header, "Content-Length")
}

// TestResponseIsCopied: the configuration is the caller's to change afterwards.
func TestResponseIsCopied(t *testing.T) {
	t.Parallel()
	body := []byte("ours")
	f := filtered{route: routing.Route{Filters: routing.Filters{Response: &routing.Response{Status: 200, Body: body, ContentType: "text/plain"}}}}
	h := f.handler(t)
	body[0] = 'x'
	assert.Equal(t, "ours", string(gatemesh.Must(io.ReadAll(do(t, h, "GET", "/").Body))))
}
