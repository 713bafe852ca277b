package policy_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"

	"github.com/gatemesh-go/gatemesh"
	"github.com/gatemesh-go/gatemesh/auth/policy"
)

var paymentService = gatemesh.Workload{
	Name: "payment-service", TrustDomain: "cluster.local", Namespace: "production",
	ServiceAccount: "payment-service", Labels: map[string]string{"app": "payment-service"},
}

func ExampleEngine_Explain() {
	engine := gatemesh.Must(policy.New(policy.Config{
		Workload:   paymentService,
		Unselected: policy.Deny,
		Policies: []policy.Policy{{
			Name: "payment-service-policy", Namespace: "production",
			Selector: map[string]string{"app": "payment-service"},
			Rules: []policy.Rule{{
				Position: gatemesh.Position{File: "authorizationpolicy.yaml", Line: 12},
				From:     []policy.Source{{Principals: []string{"cluster.local/ns/production/sa/order-service"}}},
				To:       []policy.Operation{{Methods: []string{"POST"}, Paths: []string{"/v1/payments/*"}}},
			}},
		}},
	}))

	for _, from := range []string{"order-service", "inventory-service"} {
		for _, method := range []string{"POST", "GET"} {
			call := gatemesh.Must(gatemesh.NewCall(gatemesh.CallInfo{
				Peer:   gatemesh.Must(gatemesh.NewPeer("cluster.local", "/ns/production/sa/"+from, nil)),
				Method: method,
				Path:   "/v1/payments/42",
			}))
			why := engine.Explain(call)
			fmt.Println(why.Verdict, why.Reason)
		}
	}
	// Output:
	// allow rule 1 of payment-service-policy: the ALLOW rule matches
	// deny rule 1 of payment-service-policy: method GET is not POST
	// deny rule 1 of payment-service-policy: principal cluster.local/ns/production/sa/inventory-service is not cluster.local/ns/production/sa/order-service
	// deny rule 1 of payment-service-policy: principal cluster.local/ns/production/sa/inventory-service is not cluster.local/ns/production/sa/order-service and method GET is not POST
}

func ExampleEngine_Handler() {
	engine := gatemesh.Must(policy.New(policy.Config{
		Workload:   paymentService,
		Unselected: policy.Deny,
		Exempt:     []string{"/healthz"},
		Policies: []policy.Policy{{
			Name: "catalog", Namespace: "production",
			Rules: []policy.Rule{{To: []policy.Operation{{Methods: []string{"GET"}, Paths: []string{"/catalog/*"}}}}},
		}},
	}))
	entry := gatemesh.Must(gatemesh.NewEntry(gatemesh.EntryConfig{}))
	chain := gatemesh.Must(gatemesh.NewChain(entry, engine.Layer()))
	server := chain.Handler(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "hello") }))

	for _, target := range []string{"/catalog/7", "/%63atalog/7", "/healthz", "/admin", "/catalog/../admin"} {
		w := httptest.NewRecorder()
		server.ServeHTTP(w, httptest.NewRequest("GET", target, nil))
		fmt.Println(target, w.Code)
	}
	// Output:
	// /catalog/7 200
	// /%63atalog/7 200
	// /healthz 200
	// /admin 403
	// /catalog/../admin 400
}
