package routing_test

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"

	"github.com/gatemesh-go/gatemesh"
	"github.com/gatemesh-go/gatemesh/routing"
)

// A gateway in front of one service.
func Example() {
	users := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "users got %s %s%s for %s", r.Method, r.Host, r.URL, r.Header.Get("X-Forwarded-For"))
	}))
	defer users.Close()

	router := gatemesh.Must(routing.New(routing.Config{
		Routes: []routing.Route{{
			Name:      "production/user-service-route/0",
			Hostnames: []string{"api.example.com"},
			Matches:   []routing.Match{{Path: routing.PathMatch{Value: "/v1/users"}}},
			Backends: []routing.Backend{{
				Destination: gatemesh.Destination{Service: "user-service", Namespace: "production", Port: 8080},
				Weight:      1,
			}},
		}},
		Upstreams: []routing.Upstream{{Service: "user-service", URL: users.URL}},
	}))
	defer router.Close()
	entry := gatemesh.Must(gatemesh.NewEntry(gatemesh.EntryConfig{}))
	chain := gatemesh.Must(gatemesh.NewChain(entry, router.Layer()))
	gateway := httptest.NewServer(chain.Handler(router.Proxy()))
	defer gateway.Close()

	for _, path := range []string{"/v1/users/7?full=1", "/v1/usersabc"} {
		req := gatemesh.Must(http.NewRequest("GET", gateway.URL+path, nil))
		req.Host = "api.example.com"
		resp := gatemesh.Must(gateway.Client().Do(req))
		body := gatemesh.Must(io.ReadAll(resp.Body))
		_ = resp.Body.Close()
		fmt.Println(resp.StatusCode, resp.Header.Get("Content-Type"))
		if resp.StatusCode == http.StatusOK {
			fmt.Println(string(body))
		}
	}
	// Output:
	// 200 text/plain; charset=utf-8
	// users got GET api.example.com/v1/users/7?full=1 for 127.0.0.1
	// 404 application/problem+json
}
