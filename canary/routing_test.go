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
