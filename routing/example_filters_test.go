package routing_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"time"

	"github.com/gatemesh-go/gatemesh"
	"github.com/gatemesh-go/gatemesh/routing"
)

// Two versions of an API, of which the old one ends, for pages of other origins.
func Example_filters() {
	users := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Println("users got", r.URL, "by", r.Header.Get("X-Via"))
	}))
	defer users.Close()

	to := []routing.Backend{{Destination: gatemesh.Destination{Service: "users"}, Weight: 1}}
	router := gatemesh.Must(routing.New(routing.Config{
		Versions: []routing.Versioning{{
			Prefix: "/api", Path: true, StripPath: true, Default: "v2",
			Versions: []routing.APIVersion{
				{Name: "v1", Lifecycle: &routing.Lifecycle{Deprecated: time.Unix(1767225600, 0), Successor: "/api/v2"}},
				{Name: "v2"},
			},
		}},
		Routes: []routing.Route{
			{Name: "old", Matches: []routing.Match{{Path: routing.PathMatch{Value: "/old"}}}, Filters: routing.Filters{
				Redirect: &routing.Redirect{Scheme: "https", Path: routing.PathChange{ReplacePrefix: true, Prefix: "/api/v1"}, Status: 301},
			}},
			{Name: "users", Timeout: time.Minute, Backends: to, Filters: routing.Filters{
				CORS:          &routing.CORS{AllowOrigins: []string{"https://*.example.com"}, AllowMethods: []string{"GET", "DELETE"}},
				RequestHeader: routing.HeaderChange{Set: []gatemesh.Field{{Name: "X-Via", Value: "gateway"}}},
			}},
		},
		Upstreams: []routing.Upstream{{Service: "users", URL: users.URL}},
	}))
	defer router.Close()
	entry := gatemesh.Must(gatemesh.NewEntry(gatemesh.EntryConfig{}))
	chain := gatemesh.Must(gatemesh.NewChain(entry, router.Layer(), router.CORS()))
	gateway := httptest.NewServer(chain.Handler(router.Proxy()))
	defer gateway.Close()

	ask := func(method, path string, fields ...string) *http.Response {
		req := gatemesh.Must(http.NewRequest(method, gateway.URL+path, nil))
		req.Host = "api.example.com"
		for i := 0; i < len(fields); i += 2 {
			req.Header.Set(fields[i], fields[i+1])
		}
		resp := gatemesh.Must(http.DefaultTransport.RoundTrip(req))
		_ = resp.Body.Close()
		return resp
	}
	fmt.Println(ask("GET", "/old/users?x=1").Header.Get("Location"))
	fmt.Println(ask("GET", "/api/v1/users").Header["Deprecation"])
	fmt.Println(ask("GET", "/api/v3/users").StatusCode)
	preflight := ask("OPTIONS", "/api/v2/users", "Origin", "https://app.example.com", "Access-Control-Request-Method", "DELETE")
	fmt.Println(preflight.StatusCode, preflight.Header.Get("Access-Control-Allow-Methods"))
	http.DefaultTransport.(*http.Transport).CloseIdleConnections()
	// Output:
	// https://api.example.com/api/v1/users?x=1
	// users got /api/users by gateway
	// [@1767225600]
	// 404
	// 200 GET, DELETE
}
