package manifest_test

import (
	"crypto/tls"
	"fmt"
	"net/http"
	"net/http/httptest"

	"github.com/gatemesh-go/gatemesh"
	"github.com/gatemesh-go/gatemesh/auth/policy"
	"github.com/gatemesh-go/gatemesh/canary"
	"github.com/gatemesh-go/gatemesh/manifest"
	"github.com/gatemesh-go/gatemesh/routing"
)

// A front door that does what a folder of manifests says.
func Example() {
	serve := func(answer string) *httptest.Server {
		return httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, answer) }))
	}
	v1, v2, orders := serve("users v1"), serve("users v2"), serve("orders")
	defer v1.Close()
	defer v2.Close()
	defer orders.Close()

	set := gatemesh.Must(manifest.LoadDir("testdata/mesh"))
	self := gatemesh.Workload{
		Name: "main-gateway", TrustDomain: "cluster.local", Namespace: "production", ServiceAccount: "main-gateway",
		Labels: map[string]string{"app": "main-gateway"},
	}
	router := gatemesh.Must(routing.New(routing.Config{
		Listeners: set.RouteListeners(nil), Routes: set.Routes(), Services: set.Services(self), Subsets: set.Subsets(),
		Upstreams: []routing.Upstream{
			{Service: "user-service", Labels: map[string]string{"version": "v1"}, URL: v1.URL},
			{Service: "user-service", Labels: map[string]string{"version": "v2"}, URL: v2.URL},
			{Service: "order-service", URL: orders.URL},
		},
	}))
	defer router.Close()
	rules := gatemesh.Must(policy.New(policy.Config{Workload: self, Policies: set.Policies(), Unselected: policy.Deny}))
	split := gatemesh.Must(canary.New(canary.Config{Services: router}))
	entry := gatemesh.Must(gatemesh.NewEntry(gatemesh.EntryConfig{}))
	chain := gatemesh.Must(gatemesh.NewChain(entry, router.Layer(), rules.Layer(), split.Layer()))
	handler := chain.Handler(router.Proxy())

	for _, path := range []string{"/v1/users/42", "/v1/orders/7", "/v2/users"} {
		r := httptest.NewRequest("GET", path, nil)
		r.Host, r.TLS = "api.example.com", new(tls.ConnectionState) // the listener is HTTPS
		r.Header.Set("X-Canary", "true")
		w := httptest.NewRecorder()
		handler.ServeHTTP(w, r)
		if w.Code == http.StatusOK {
			fmt.Println(path, w.Code, w.Body)
		} else {
			fmt.Println(path, w.Code)
		}
	}
	// Output:
	// /v1/users/42 200 users v2
	// /v1/orders/7 200 orders
	// /v2/users 404
}

// Every fault is reported with its place, and nothing is loaded.
func ExampleParse() {
	_, err := manifest.Parse("policy.yaml", []byte(`apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata:
  name: payment-service-policy
  namespace: production
spec:
  rules:
    - from:
        - source:
            principal: ["cluster.local/ns/production/sa/order-service"]
      to:
        - operation:
            ports: [8080]
            paths: []
      when:
        - key: experimental.envoy.filters.network.mysql_proxy[db.table]
          values: ["[update]"]
`))
	fmt.Println(err)
	// Output:
	// policy.yaml:10: AuthorizationPolicy production/payment-service-policy: spec.rules[0].from[0].source.principal: unknown field
	// policy.yaml:13: AuthorizationPolicy production/payment-service-policy: spec.rules[0].to[0].operation.ports[0]: must be a string, not a number; quote it: "8080"
	// policy.yaml:14: AuthorizationPolicy production/payment-service-policy: spec.rules[0].to[0].operation.paths: the list is empty; fill it, or leave it out
	// policy.yaml:16: AuthorizationPolicy production/payment-service-policy: spec.rules[0].when[0].key: "experimental.envoy.filters.network.mysql_proxy[db.table]": is not an attribute that gatemesh knows
}
