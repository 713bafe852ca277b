package canary_test

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/gatemesh-go/gatemesh"
	"github.com/gatemesh-go/gatemesh/canary"
	"github.com/gatemesh-go/gatemesh/routing"
)

// TestWithRouting: the rules of a service stand in the route table. A rollout
// decides also where the table itself saw no choice, and a lane is kept that
// another rule of the service has.
func TestWithRouting(t *testing.T) {
	t.Parallel()
	orders := func(subset string, weight uint32) routing.Backend {
		return routing.Backend{Destination: gatemesh.Destination{Service: "orders", Namespace: "production", Subset: subset}, Weight: weight}
	}
	cfg := routing.Config{
		Routes: []routing.Route{{Name: "orders", Backends: []routing.Backend{{Destination: gatemesh.Destination{Service: "orders", Namespace: "production", Port: 80}, Weight: 1}}}},
		Services: []routing.Service{{Service: "orders", Namespace: "production", Rules: []routing.Route{
			{Name: "asked", Matches: []routing.Match{{Headers: []routing.HeaderMatch{{Name: "x-canary", Value: "true"}}}}, Backends: []routing.Backend{orders("v3", 1)}},
			{Name: "rest", Backends: []routing.Backend{orders("v1", 1), orders("v2", 0)}},
		}}},
	}
	for _, v := range []string{"v1", "v2", "v3"} {
		cfg.Upstreams = append(cfg.Upstreams, routing.Upstream{Service: "orders", Subset: v, URL: "http://127.0.0.1:1"})
	}
	router, err := routing.New(cfg)
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, router.Close()) })
	r := rolloutAt(t, 50)
	split, err := canary.New(canary.Config{Services: router, Rollouts: []*canary.Rollout{r}})
	require.NoError(t, err)
	entry, err := gatemesh.NewEntry(gatemesh.EntryConfig{})
	require.NoError(t, err)
	carried := gatemesh.Layer{Name: "identity", Gives: []gatemesh.Fact{gatemesh.FactPrincipal}, Gate: gatemesh.GateFunc(
		func(_ context.Context, c *gatemesh.Call) (gatemesh.Admission, error) {
			return gatemesh.Admission{
				Principal: gatemesh.NewPrincipal(gatemesh.PrincipalInfo{Subject: c.Header().Get("X-User")}), Lane: c.Header().Get("X-Test-Lane"),
			}, nil
		})}
	chain, err := gatemesh.NewChain(entry, router.Layer(), carried, split.Layer())
	require.NoError(t, err)
	var c *gatemesh.Call
	handler := chain.Handler(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { c = gatemesh.FromContext(r.Context()) }))
	ask := func(user string, pairs ...string) string {
		req := httptest.NewRequest("GET", "/", nil)
		req.Header.Set("X-User", user)
		for i := 0; i < len(pairs); i += 2 {
			req.Header.Set(pairs[i], pairs[i+1])
		}
		handler.ServeHTTP(httptest.NewRecorder(), req)
		require.Equal(t, c.Lane(), c.Destination().Subset)
		require.Equal(t, uint16(80), c.Destination().Port)
		require.Equal(t, c.Lane(), c.ServiceBackend().Destination.Subset)
		return c.Lane()
	}
	count := map[string]int{}
	for i := range 400 {
		count[ask(fmt.Sprint(i))]++
	}
	assert.InDelta(t, 200, count["v2"], 60)
	assert.Equal(t, 400, count["v1"]+count["v2"])
	assert.Equal(t, "v3", ask("x", "X-Canary", "true"), "the header goes before the shares")
	assert.Equal(t, "v3", ask("x", "X-Test-Lane", "v3"), "another rule of the service has it")
	require.NoError(t, r.Abort(t.Context()))
	for i := range 50 {
		require.Equal(t, "v1", ask(fmt.Sprint(i), "X-Test-Lane", "v2"), "rolled back")
	}
}

// tableOf returns a route table and a chain of it with a splitter. The chain
// returns the call as whoever stands behind sees it, or the status it was
// refused with.
func tableOf(t *testing.T, cfg routing.Config, rs ...*canary.Rollout) func(edit func(*http.Request)) (*gatemesh.Call, int) {
	t.Helper()
	for _, v := range []string{"v1", "v2", ""} {
		cfg.Upstreams = append(cfg.Upstreams, routing.Upstream{Service: "orders", Subset: v, URL: "http://127.0.0.1:1"})
	}
	cfg.Upstreams = append(cfg.Upstreams, routing.Upstream{Service: "other", URL: "http://127.0.0.1:1"})
	router, err := routing.New(cfg)
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, router.Close()) })
	split, err := canary.New(canary.Config{Services: router, Rollouts: rs})
	require.NoError(t, err)
	entry, err := gatemesh.NewEntry(gatemesh.EntryConfig{})
	require.NoError(t, err)
	carried := gatemesh.Layer{Name: "identity", Gives: []gatemesh.Fact{gatemesh.FactPrincipal}, Gate: gatemesh.GateFunc(
		func(_ context.Context, c *gatemesh.Call) (gatemesh.Admission, error) {
			return gatemesh.Admission{
				Principal: gatemesh.NewPrincipal(gatemesh.PrincipalInfo{Subject: c.Header().Get("X-User")}), Lane: c.Header().Get("X-Test-Lane"),
			}, nil
		})}
	chain, err := gatemesh.NewChain(entry, router.Layer(), carried, split.Layer())
	require.NoError(t, err)
	return func(edit func(*http.Request)) (*gatemesh.Call, int) {
		var c *gatemesh.Call
		req, w := httptest.NewRequest("GET", "/", nil), httptest.NewRecorder()
		edit(req)
		chain.Handler(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { c = gatemesh.FromContext(r.Context()) })).ServeHTTP(w, req)
		return c, w.Code
	}
}

func header(pairs ...string) func(*http.Request) {
	return func(r *http.Request) {
		for i := 0; i < len(pairs); i += 2 {
			r.Header.Set(pairs[i], pairs[i+1])
		}
	}
}

func backend(service, subset string, weight uint32) routing.Backend {
	return routing.Backend{Destination: gatemesh.Destination{Service: service, Namespace: "production", Subset: subset}, Weight: weight}
}

// TestRolloutOfARoute: the subsets stand in the route itself. Without a rollout
// the table has chosen by the time that the splitter sees the call.
func TestRolloutOfARoute(t *testing.T) {
	t.Parallel()
	for _, weights := range [][2]uint32{{1, 0}, {50, 50}, {0, 1}} {
		cfg := routing.Config{Routes: []routing.Route{
			{Name: "asked", Matches: []routing.Match{{Headers: []routing.HeaderMatch{{Name: "x-canary", Value: "true"}}}}, Backends: []routing.Backend{backend("orders", "v2", 1)}},
			{Name: "rest", Backends: []routing.Backend{backend("orders", "v1", weights[0]), backend("orders", "v2", weights[1])}},
		}}
		r := rolloutAt(t, 25)
		ask := tableOf(t, cfg, r)
		n := 0
		for i := range 400 {
			c, _ := ask(header("X-User", fmt.Sprint(i)))
			require.Equal(t, c.Lane(), c.Destination().Subset)
			if c.Lane() == "v2" {
				n++
			}
		}
		assert.InDelta(t, 100, n, 40, "%v", weights)
		require.NoError(t, r.Abort(t.Context()))
		for i := range 50 {
			c, _ := ask(header("X-User", fmt.Sprint(i)))
			require.Equal(t, "v1", c.Lane(), "%v", weights)
		}
		c, _ := ask(header("X-Canary", "true"))
		assert.Equal(t, "v2", c.Lane(), "a route with one of the two is left as it is")
	}
}

// TestOneOfTwoBackendsHasRules: the route chooses the service, and what is said
// of the service chooses by header, or refuses, or answers by itself.
func TestOneOfTwoBackendsHasRules(t *testing.T) {
	t.Parallel()
	by := func(name, value string) []routing.Match {
		return []routing.Match{{Headers: []routing.HeaderMatch{{Name: name, Value: value}}}}
	}
	ask := tableOf(t, routing.Config{
		Routes: []routing.Route{{Name: "r", Backends: []routing.Backend{backend("orders", "", 50), backend("other", "", 50)}}},
		Services: []routing.Service{{Service: "orders", Namespace: "production", Rules: []routing.Route{
			{Name: "asked", Matches: by("x-version", "2"), Backends: []routing.Backend{backend("orders", "v2", 1)}},
			{Name: "moved", Matches: by("x-version", "0"), Filters: routing.Filters{Redirect: &routing.Redirect{Hostname: "old.example"}}},
			{Name: "rest", Matches: by("x-version", "1"), Backends: []routing.Backend{backend("orders", "v1", 1)}},
		}}},
	})
	for version, want := range map[string]string{"2": "orders.production/v2", "1": "orders.production/v1", "0": "", "9": "404"} {
		count := map[string]int{}
		for i := range 100 {
			c, status := ask(header("X-User", fmt.Sprint(i), "X-Version", version))
			switch {
			case status != http.StatusOK:
				count[fmt.Sprint(status)]++
			case c.Destination() == gatemesh.Destination{}:
				require.Equal(t, "moved", c.ServiceRoute().Name)
				require.NotNil(t, c.Backend())
				count[""]++
			default:
				count[c.Destination().String()]++
			}
		}
		assert.Len(t, count, 2, version)
		assert.InDelta(t, 50, count[want], 25, version)
		assert.InDelta(t, 50, count["other.production"], 25, version)
	}
	// The lane of an identity is known behind the table only.
	both := map[string]bool{}
	for i := range 50 {
		c, _ := ask(header("X-User", fmt.Sprint(i), "X-Version", "1", "X-Test-Lane", "v2"))
		both[c.Destination().String()] = true
	}
	assert.Equal(t, map[string]bool{"orders.production/v2": true, "other.production": true}, both)
}

// TestRuleThatAnswersHasNoDestination, also when the table has seen it.
func TestRuleThatAnswersHasNoDestination(t *testing.T) {
	t.Parallel()
	ask := tableOf(t, routing.Config{
		Routes: []routing.Route{{Name: "r", Backends: []routing.Backend{backend("orders", "", 1)}}},
		Services: []routing.Service{{Service: "orders", Namespace: "production", Rules: []routing.Route{
			{Name: "moved", Filters: routing.Filters{Redirect: &routing.Redirect{Hostname: "old.example"}}},
		}}},
	}, rolloutAt(t, 50))
	for _, lane := range []string{"", "v2"} {
		c, status := ask(header("X-Test-Lane", lane))
		require.Equal(t, http.StatusOK, status)
		assert.Zero(t, c.Destination())
		assert.Equal(t, "moved", c.ServiceRoute().Name)
		assert.Nil(t, c.ServiceBackend())
	}
}
