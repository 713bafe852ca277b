package routing_test

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/gatemesh-go/gatemesh"
	"github.com/gatemesh-go/gatemesh/routing"
)

// headless is a service's own transport to base: what its rules say, behind the
// layers before and in front of those behind.
func headless(t testing.TB, rules []routing.Route, base http.RoundTripper, before, behind []gatemesh.Layer) (*routing.Router, http.RoundTripper) {
	t.Helper()
	r := newRouter(t, routing.Config{Headless: true, Services: []routing.Service{{Service: backend.Service, Namespace: backend.Namespace, Rules: rules}}})
	layers := append(append(append(before, r.Outbound()), behind...), r.Attempt())
	out, err := gatemesh.NewOutbound(gatemesh.OutboundConfig{
		Mesh: gatemesh.MeshHosts(map[string]gatemesh.Destination{"users": backend, "other": {Service: "other"}}), Layers: layers,
	})
	require.NoError(t, err)
	return r, out.Transport(base)
}

// ask sends a GET to the service. Names and values of fields alternate.
func ask(t testing.TB, rt http.RoundTripper, url string, fields ...string) (*http.Response, error) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), "GET", url, nil)
	require.NoError(t, err)
	for i := 0; i < len(fields); i += 2 {
		req.Header.Add(fields[i], fields[i+1])
	}
	resp, err := rt.RoundTrip(req)
	if err == nil {
		_, _ = io.Copy(io.Discard, resp.Body)
		require.NoError(t, resp.Body.Close())
	}
	return resp, err
}

func denied(t testing.TB, err error) *gatemesh.Denial {
	t.Helper()
	var d *gatemesh.Denial
	require.ErrorAs(t, err, &d)
	return d
}

func TestHeadless(t *testing.T) {
	t.Parallel()
	var got *http.Request
	var call *gatemesh.Call
	base := roundTripper(func(r *http.Request) (*http.Response, error) {
		got, call = r, gatemesh.FromContext(r.Context())
		return &http.Response{StatusCode: 200, Body: http.NoBody, Header: http.Header{}, Request: r}, nil
	})
	v2 := routing.Backend{Destination: gatemesh.Destination{Service: backend.Service, Namespace: backend.Namespace, Subset: "v2"}, Weight: 1, Filters: routing.Filters{
		RequestHeader: routing.HeaderChange{Set: []gatemesh.Field{field("X-Version", "2")}, Add: []gatemesh.Field{field("X-Via", "b"), field("X-New", "n")}}}}
	path := func(p string) []routing.Match { return []routing.Match{{Path: routing.PathMatch{Value: p}}} }
	old := v2
	old.Destination.Subset, old.Filters = "v1", routing.Filters{}
	_, rt := headless(t, []routing.Route{
		{Name: "new", Matches: path("/new"), Backends: []routing.Backend{v2}, Timeout: time.Hour, Filters: routing.Filters{
			RequestHeader: routing.HeaderChange{Set: []gatemesh.Field{field("X-Version", "1")}, Add: []gatemesh.Field{field("X-Via", "a")}, Remove: []string{"X-Gone"}}}},
		{Name: "failing", Matches: path("/failing"), Backends: []routing.Backend{old}, Filters: routing.Filters{Fault: &routing.Fault{AbortStatus: 503, AbortPercent: 100}}},
		{Name: "nobody", Matches: path("/nobody"), Backends: []routing.Backend{{Unserved: true, Weight: 1}}},
		{Name: "gone", Matches: path("/gone"), Backends: []routing.Backend{old}, Filters: routing.Filters{Lifecycle: &routing.Lifecycle{Sunset: time.Unix(1, 0), GoneAfterSunset: true}}},
		{Name: "choice", Matches: path("/choice"), Backends: []routing.Backend{old, v2}},
	}, base, nil, nil)

	resp, err := ask(t, rt, "http://users/new/x", "X-Via", "us", "X-Gone", "1", "X-Kept", "1")
	require.NoError(t, err)
	assert.Equal(t, 200, resp.StatusCode)
	assert.Equal(t, "user-service.production/v2:8080", call.Destination().String(), "which a pool finds endpoints for")
	assert.Equal(t, "new", call.Route().Name)
	assert.Equal(t, []string{"2"}, got.Header["X-Version"], "the backend's comes last")
	assert.Equal(t, "us, a, b", strings.Join(got.Header["X-Via"], ", "))
	assert.Equal(t, []string{"n"}, got.Header["X-New"])
	assert.Equal(t, []string{"1"}, got.Header["X-Kept"])
	assert.NotContains(t, got.Header, "X-Gone")
	_, limited := got.Context().Deadline()
	assert.True(t, limited)
	assert.Error(t, got.Context().Err(), "released with the end of the answer")

	got = nil
	for path, want := range map[string]struct {
		reason string
		status int
	}{"failing": {"fault_injected", 503}, "nobody": {"backend_invalid", 500}, "gone": {"gone", 410}, "choice": {"no_destination", 500}, "unknown": {"no_version", 404}} {
		_, err := ask(t, rt, "http://users/"+path)
		d := denied(t, err)
		assert.Equal(t, want.reason, d.Reason, path)
		assert.Equal(t, want.status, d.HTTPStatus(), path)
		assert.Nil(t, got, "%s is not sent", path)
	}
	_, err = ask(t, rt, "http://other/")
	require.NoError(t, err)
	assert.Nil(t, call.Route(), "nothing is said of it")
}

// TestHeadless_Chosen: a layer before has chosen the rule and its backend, as
// package canary does.
func TestHeadless_Chosen(t *testing.T) {
	t.Parallel()
	var router *routing.Router
	chooses := layer("choose", func(_ context.Context, c *gatemesh.Call) (gatemesh.Admission, error) {
		rule, err := router.RouteTo(c, c.Destination())
		if err != nil {
			return gatemesh.Admission{}, err
		}
		return gatemesh.Admission{ServiceRoute: rule, ServiceBackend: &rule.Backends[1], Destination: &rule.Backends[1].Destination}, nil
	})
	version := func(v string) routing.Backend {
		return routing.Backend{Destination: gatemesh.Destination{Service: backend.Service, Namespace: backend.Namespace, Subset: v}, Weight: 1, Filters: routing.Filters{
			RequestHeader: routing.HeaderChange{Set: []gatemesh.Field{field("X-Version", v)}}}}
	}
	var got string
	router, rt := headless(t, []routing.Route{{Name: "split", Backends: []routing.Backend{version("v1"), version("v2")}}}, roundTripper(func(r *http.Request) (*http.Response, error) {
		got = r.Header.Get("X-Version")
		return &http.Response{StatusCode: 200, Body: http.NoBody, Header: http.Header{}, Request: r}, nil
	}), []gatemesh.Layer{chooses}, nil)
	_, err := ask(t, rt, "http://users/")
	require.NoError(t, err)
	assert.Equal(t, "v2", got)
}

// TestHeadless_Timeouts: Timeout bounds the call, AttemptTimeout each attempt of
// as many as Retry says.
func TestHeadless_Timeouts(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		timeout  time.Duration
		attempts int
		after    time.Duration
	}{{0, 3, 3 * time.Second}, {1500 * time.Millisecond, 2, 1500 * time.Millisecond}} {
		synctest.Test(t, func(t *testing.T) {
			attempts := 0
			var policy *gatemesh.RetryPolicy
			base := roundTripper(func(r *http.Request) (*http.Response, error) {
				attempts++
				policy = gatemesh.FromContext(r.Context()).Route().Retry
				return silent(r)
			})
			_, rt := headless(t, []routing.Route{{Name: "all", Timeout: tt.timeout, AttemptTimeout: time.Second,
				Retry: &gatemesh.RetryPolicy{Attempts: 3}, Backends: []routing.Backend{{Destination: backend, Weight: 1}}}}, base, nil, []gatemesh.Layer{{Name: "retry", Retry: retrier(3)}})
			start := time.Now()
			_, err := ask(t, rt, "http://users/")
			assert.True(t, errors.Is(err, context.DeadlineExceeded), "%v", err)
			assert.Equal(t, tt.after, time.Since(start))
			assert.Equal(t, tt.attempts, attempts)
			assert.Equal(t, 3, policy.Attempts, "which the Retrier finds")
		})
	}
}

// TestHeadless_Faults: what only a proxy can do is refused where it is written,
// and the layer works for nobody else.
func TestHeadless_Faults(t *testing.T) {
	t.Parallel()
	all := routing.Filters{ResponseHeader: routing.HeaderChange{Remove: []string{"X-A"}}, Rewrite: &routing.Rewrite{Hostname: "h"}, CORS: &routing.CORS{AllowOrigins: []string{"*"}}}
	_, err := routing.New(routing.Config{
		Headless: true, Listeners: []routing.Listener{{Name: "l"}}, Upstreams: at("http://h"), Subsets: []routing.Subset{{Service: backend.Service, Name: "v1"}},
		Routes: []routing.Route{to("r", backend)}, Outbound: []gatemesh.Layer{minter},
		Services: []routing.Service{{Service: backend.Service, Rules: []routing.Route{
			{Name: "1", Filters: all, Backends: []routing.Backend{{Destination: backend, Weight: 1, Filters: routing.Filters{Rewrite: &routing.Rewrite{Hostname: "h"}}}}},
			{Name: "2", Filters: routing.Filters{Redirect: &routing.Redirect{}}},
			{Name: "3", Filters: routing.Filters{Response: &routing.Response{Status: 200}}},
			{Name: "4", Filters: mirrored(routing.Mirror{Destination: backend}), Backends: []routing.Backend{{Weight: 1}}},
		}}},
	})
	require.EqualError(t, err, `routing: Config.Listeners must be empty where Headless is set
routing: Config.Routes must be empty where Headless is set
routing: Config.Upstreams must be empty where Headless is set
routing: Config.Subsets must be empty where Headless is set
routing: Config.Outbound must be empty where Headless is set
routing: Config.Services[0].Rules[0].Rewrite needs a proxy, and Config.Headless says that there is none
routing: Config.Services[0].Rules[0].ResponseHeader needs a proxy, and Config.Headless says that there is none
routing: Config.Services[0].Rules[0].Backends[0].Rewrite needs a proxy, and Config.Headless says that there is none
routing: Config.Services[0].Rules[1].Redirect needs a proxy, and Config.Headless says that there is none
routing: Config.Services[0].Rules[2].Response needs a proxy, and Config.Headless says that there is none
routing: Config.Services[0].Rules[3].Mirrors needs a proxy, and Config.Headless says that there is none
routing: Config.Services[0].Rules[3].Backends[0].Destination.Service is required`)

	proxying := newRouter(t, routing.Config{})
	out, err := gatemesh.NewOutbound(gatemesh.OutboundConfig{Mesh: gatemesh.MeshHosts(map[string]gatemesh.Destination{"users": backend}), Layers: []gatemesh.Layer{proxying.Outbound()}})
	require.NoError(t, err)
	_, err = ask(t, out.Transport(refuseAll(t)), "http://users/")
	assert.Equal(t, "no_call", denied(t, err).Reason)
}
