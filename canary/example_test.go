package canary_test

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"time"

	"github.com/gatemesh-go/gatemesh"
	"github.com/gatemesh-go/gatemesh/canary"
	"github.com/gatemesh-go/gatemesh/routing"
)

// One user in ten gets version 2, and whoever asks for it by a header field.
func Example() {
	version := func(subset string, weight uint32) routing.Backend {
		return routing.Backend{Destination: gatemesh.Destination{Service: "user-service", Subset: subset}, Weight: weight}
	}
	router := gatemesh.Must(routing.New(routing.Config{
		Routes: []routing.Route{{
			Name: "asked", Backends: []routing.Backend{version("v2", 1)},
			Matches: []routing.Match{{Headers: []routing.HeaderMatch{{Name: "x-canary", Value: "true"}}}},
		}, {
			Name: "rest", Backends: []routing.Backend{version("v1", 90), version("v2", 10)},
		}},
		Upstreams: []routing.Upstream{
			{Service: "user-service", Subset: "v1", URL: "http://10.0.0.1:8080"},
			{Service: "user-service", Subset: "v2", URL: "http://10.0.0.2:8080"},
		},
	}))
	defer router.Close()
	split := gatemesh.Must(canary.New(canary.Config{}))
	entry := gatemesh.Must(gatemesh.NewEntry(gatemesh.EntryConfig{}))
	chain := gatemesh.Must(gatemesh.NewChain(entry, router.Layer(), split.Layer()))
	handler := chain.Handler(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { // here, router.Proxy() sends it
		fmt.Println(gatemesh.FromContext(r.Context()).Destination())
	}))

	r := httptest.NewRequest("GET", "/v1/users", nil)
	handler.ServeHTTP(httptest.NewRecorder(), r)
	r.Header.Set("X-Canary", "true")
	handler.ServeHTTP(httptest.NewRecorder(), r)
	// Output:
	// user-service/v1
	// user-service/v2
}

// A rollout that is taken back by hand. In production its Store is a
// [canary.FileStore], and its Layer stands in the Outbound of the router.
func ExampleRollout() {
	rollout := gatemesh.Must(canary.NewRollout(canary.RolloutConfig{
		Service: "user-service", Namespace: "production", Stable: "v1", Canary: "v2", ID: "v2.3.0",
		Steps: []canary.Step{{Percent: 5, Duration: 10 * time.Minute}, {Percent: 25, Duration: 10 * time.Minute}, {Percent: 50, Pause: true}},
		Store: canary.NewMemoryStore(),
		Observer: gatemesh.ObserverFunc(func(_ context.Context, e gatemesh.Event) {
			fmt.Println(e.Message)
		}),
	}))
	defer rollout.Close()
	split := gatemesh.Must(canary.New(canary.Config{Rollouts: []*canary.Rollout{rollout}}))
	out := gatemesh.Must(gatemesh.NewOutbound(gatemesh.OutboundConfig{
		Mesh:   gatemesh.MeshHosts(map[string]gatemesh.Destination{"users.example": {Service: "user-service", Namespace: "production"}}),
		Layers: []gatemesh.Layer{split.Layer(), rollout.Layer()},
	}))
	client := http.Client{Transport: out.Transport(nil)}
	_ = client // its calls go to one of the versions, and are counted

	if err := rollout.Abort(context.Background()); err != nil {
		fmt.Println(err)
	}
	fmt.Println(rollout.Status().State.Phase)
	// Output:
	// user-service.production: begins: v2 gets 5 %, step 1 of 3
	// user-service.production: rolled back from 5 % by hand; v1 gets everybody
	// rolled back
}
