package canary_test

import (
	"net/http/httptest"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/gatemesh-go/gatemesh"
	"github.com/gatemesh-go/gatemesh/canary"
	"github.com/gatemesh-go/gatemesh/routing"
)

// TestRulesThatAnswer: a rule of the service without backends is found by a
// Splitter as by the table alone, and the proxy answers it.
func TestRulesThatAnswer(t *testing.T) {
	t.Parallel()
	orders := func(service string) routing.Backend {
		return routing.Backend{Destination: gatemesh.Destination{Service: service, Namespace: "production", Port: 80}, Weight: 1}
	}
	router, err := routing.New(routing.Config{
		Routes: []routing.Route{
			{Name: "one", Matches: []routing.Match{{Path: routing.PathMatch{Value: "/one"}}}, Backends: []routing.Backend{orders("orders")}},
			{Name: "choice", Backends: []routing.Backend{orders("orders"), orders("orders")}},
			{Name: "nobody", Matches: []routing.Match{{Path: routing.PathMatch{Value: "/nobody"}}}, Backends: []routing.Backend{
				{Unserved: true, Weight: 1}, {Destination: orders("orders").Destination, Unserved: true, Weight: 1}}},
		},
		Services: []routing.Service{{Service: "orders", Namespace: "production", Rules: []routing.Route{
			{Name: "moved", Matches: []routing.Match{{Headers: []routing.HeaderMatch{{Name: "x-moved", Value: "1"}}}}, Filters: routing.Filters{Redirect: &routing.Redirect{Hostname: "new.example"}}},
			{Name: "closed", Filters: routing.Filters{Response: &routing.Response{Status: 503}}},
		}}},
		Upstreams: []routing.Upstream{{Service: "orders", URL: "http://127.0.0.1:1"}},
	})
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, router.Close()) })
	split, err := canary.New(canary.Config{Services: router})
	require.NoError(t, err)
	entry, err := gatemesh.NewEntry(gatemesh.EntryConfig{})
	require.NoError(t, err)
	chain, err := gatemesh.NewChain(entry, router.Layer(), split.Layer())
	require.NoError(t, err)
	h := chain.Handler(router.Proxy())
	for _, path := range []string{"/one", "/several"} {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest("GET", path, nil))
		assert.Equal(t, 503, w.Code, path)
		req := httptest.NewRequest("GET", path, nil)
		req.Header.Set("X-Moved", "1")
		w = httptest.NewRecorder()
		h.ServeHTTP(w, req)
		assert.Equal(t, 302, w.Code, path)
		assert.Equal(t, "http://new.example"+path, w.Header().Get("Location"))
	}
	for range 20 { // whichever is chosen
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest("GET", "/nobody", nil))
		require.Equal(t, 500, w.Code)
		require.Contains(t, w.Body.String(), "backend_invalid")
	}
}
