package routing_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/gatemesh-go/gatemesh"
	"github.com/gatemesh-go/gatemesh/routing"
)

// users are the backends of the examples' routes.
var users = []routing.Backend{{Destination: gatemesh.Destination{Service: "users"}, Weight: 1}}

// exampleGateway serves routes in front of upstreams.
func exampleGateway(routes []routing.Route, upstreams ...routing.Upstream) (gateway *httptest.Server, stop func()) {
	router := gatemesh.Must(routing.New(routing.Config{Routes: routes, Upstreams: upstreams}))
	entry := gatemesh.Must(gatemesh.NewEntry(gatemesh.EntryConfig{}))
	chain := gatemesh.Must(gatemesh.NewChain(entry, router.Layer()))
	gateway = httptest.NewUnstartedServer(chain.Handler(router.Proxy()))
	gateway.Config.Protocols = new(http.Protocols)
	gateway.Config.Protocols.SetHTTP1(true)
	gateway.Config.Protocols.SetUnencryptedHTTP2(true) // for gRPC
	gateway.Start()
	return gateway, func() {
		gateway.Close()
		_ = router.Close()
	}
}

func show(url string) {
	resp := gatemesh.Must(http.Get(url))
	body := gatemesh.Must(io.ReadAll(resp.Body))
	_ = resp.Body.Close()
	http.DefaultTransport.(*http.Transport).CloseIdleConnections()
	fmt.Println(resp.StatusCode, string(body))
}

// A service that was moved keeps its old name and paths inside.
func ExampleRewrite() {
	service := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = fmt.Fprint(w, r.Host, r.URL)
	}))
	defer service.Close()
	gateway, stop := exampleGateway([]routing.Route{{
		Name: "users", Matches: []routing.Match{{Path: routing.PathMatch{Value: "/v2/users"}}}, Backends: users,
		Filters: routing.Filters{Rewrite: &routing.Rewrite{Hostname: "users.internal", Path: routing.PathChange{ReplacePrefix: true, Prefix: "/accounts"}}},
	}}, routing.Upstream{Service: "users", URL: service.URL})
	defer stop()
	show(gateway.URL + "/v2/users/7?x=1")
	// Output:
	// 200 users.internal/accounts/7?x=1
}

// A new version sees what the old one sees, and nobody sees what it answers.
func ExampleMirror() {
	seen := make(chan string)
	shadow := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(http.StatusInternalServerError)
		seen <- r.URL.Path
	}))
	service := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = fmt.Fprint(w, "from the old one") }))
	defer service.Close()
	gateway, stop := exampleGateway([]routing.Route{{
		Name: "users", Backends: users, Filters: routing.Filters{Mirrors: []routing.Mirror{{Destination: gatemesh.Destination{Service: "users-next"}}}},
	}}, routing.Upstream{Service: "users", URL: service.URL}, routing.Upstream{Service: "users-next", URL: shadow.URL})
	show(gateway.URL + "/users/7")
	fmt.Println("the new one saw", <-seen)
	stop()
	shadow.Close()
	// Output:
	// 200 from the old one
	// the new one saw /users/7
}

// Every call fails, to see what its callers do.
func ExampleFault() {
	gateway, stop := exampleGateway([]routing.Route{{
		Name: "users", Backends: users,
		Filters: routing.Filters{Fault: &routing.Fault{AbortStatus: 503, AbortPercent: 100}},
	}}, routing.Upstream{Service: "users", URL: "http://127.0.0.1:1"})
	defer stop()
	resp := gatemesh.Must(http.Get(gateway.URL))
	_ = resp.Body.Close()
	http.DefaultTransport.(*http.Transport).CloseIdleConnections()
	fmt.Println(resp.Status)
	// Output:
	// 503 Service Unavailable
}

// A route that is answered here.
func ExampleResponse() {
	gateway, stop := exampleGateway([]routing.Route{{
		Name: "robots", Matches: []routing.Match{{Path: routing.PathMatch{Type: routing.PathExact, Value: "/robots.txt"}}},
		Filters: routing.Filters{Response: &routing.Response{Status: 200, ContentType: "text/plain", Body: []byte("User-agent: *\nDisallow: /")}},
	}})
	defer stop()
	show(gateway.URL + "/robots.txt")
	// Output:
	// 200 User-agent: *
	// Disallow: /
}

// Filters do the same to gRPC calls: metadata are fields, and a refusal is a status.
func ExampleFilters_gRPC() {
	gateway, stop := exampleGateway([]routing.Route{{
		Name: "users", Matches: []routing.Match{{Protocol: gatemesh.GRPC, Path: routing.PathMatch{Value: "/grpc.health.v1.Health"}}}, Backends: users,
		Filters: routing.Filters{
			Fault:          &routing.Fault{AbortCode: gatemesh.ResourceExhausted, AbortPercent: 100},
			ResponseHeader: routing.HeaderChange{Remove: []string{"X-Debug"}},
			Lifecycle:      &routing.Lifecycle{Successor: "/users.v2.Users"},
		},
	}}, routing.Upstream{Service: "users", URL: "h2c://127.0.0.1:1"})
	defer stop()
	conn := gatemesh.Must(grpc.NewClient("passthrough:///"+gateway.Listener.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials())))
	defer conn.Close()
	var fields metadata.MD
	_, err := grpc_health_v1.NewHealthClient(conn).Check(context.Background(), &grpc_health_v1.HealthCheckRequest{}, grpc.Header(&fields), grpc.Trailer(&fields))
	fmt.Println(status.Code(err), fields["link"])
	// Output:
	// ResourceExhausted [</users.v2.Users>; rel="successor-version"]
}
