package canary_test

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"

	"github.com/gatemesh-go/gatemesh"
	"github.com/gatemesh-go/gatemesh/canary"
)

// One user in ten gets version 2, and whoever asks for it by a header field.
func Example() {
	split := gatemesh.Must(canary.New(canary.Config{Splits: []canary.Split{{
		Service: "user-service", Namespace: "production",
		Rules: []canary.Rule{{
			Matches: []canary.Match{{Headers: []canary.HeaderMatch{{Name: "x-canary", Value: "true"}}}},
			Targets: []canary.Target{{Subset: "v2"}},
		}, {
			Targets: []canary.Target{{Subset: "v1", Weight: 90}, {Subset: "v2", Weight: 10}},
		}},
	}}}))

	// What the layer of a routing.Router does.
	route := gatemesh.Layer{Name: "route", Gives: []gatemesh.Fact{gatemesh.FactRoute}, Gate: gatemesh.GateFunc(
		func(context.Context, *gatemesh.Call) (gatemesh.Admission, error) {
			return gatemesh.Admission{Destination: &gatemesh.Destination{Service: "user-service", Namespace: "production"}}, nil
		})}
	entry := gatemesh.Must(gatemesh.NewEntry(gatemesh.EntryConfig{}))
	chain := gatemesh.Must(gatemesh.NewChain(entry, route, split.Layer()))
	handler := chain.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Println(gatemesh.FromContext(r.Context()).Destination())
	}))

	r := httptest.NewRequest("GET", "/v1/users", nil)
	handler.ServeHTTP(httptest.NewRecorder(), r)
	r.Header.Set("X-Canary", "true")
	handler.ServeHTTP(httptest.NewRecorder(), r)
	// Output:
	// user-service.production/v1
	// user-service.production/v2
}
