package policy_test

import (
	"context"
	"errors"
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

// At an edge, callers are known by their credentials: what a token is for, and
// what its issuer says of the user.
func ExampleCondition() {
	engine := gatemesh.Must(policy.New(policy.Config{
		Workload:   paymentService,
		Unselected: policy.Deny,
		Policies: []policy.Policy{{
			Name: "refunds", Namespace: "production",
			Rules: []policy.Rule{{
				To: []policy.Operation{{Methods: []string{"POST"}, Paths: []string{"/v1/payments/{*}/refund"}}},
				When: []policy.Condition{
					{Key: "request.auth.claims[scope]", Values: []string{"payments:write"}},
					{Key: "request.auth.claims[realm_access][roles]", Values: []string{"support", "finance"}},
				},
			}},
		}},
	}))

	call := func(scopes []string, roles ...any) *gatemesh.Call {
		return gatemesh.Must(gatemesh.NewCall(gatemesh.CallInfo{
			Method: "POST", Path: "/v1/payments/42/refund",
			Principal: gatemesh.NewPrincipal(gatemesh.PrincipalInfo{
				Issuer: "https://idp.example", Subject: "alice", Scopes: scopes, Method: "jwt",
				Claims: map[string]any{"realm_access": map[string]any{"roles": roles}},
			}),
		}))
	}
	for _, c := range []*gatemesh.Call{
		call([]string{"openid", "payments:write"}, "staff", "support"),
		call([]string{"openid"}, "support"),
		call([]string{"payments:write"}, "staff"),
	} {
		why := engine.Explain(c)
		fmt.Println(why.Verdict, why.Reason)
	}
	// Output:
	// allow rule 1 of refunds: the ALLOW rule matches
	// deny rule 1 of refunds: claim scope has another value than payments:write
	// deny rule 1 of refunds: claim realm_access.roles has another value than any of support, finance
}

// A CUSTOM policy asks a function of yours about some calls.
func ExampleHook() {
	engine := gatemesh.Must(policy.New(policy.Config{
		Workload:   paymentService,
		Unselected: policy.Deny,
		Hooks: map[string]policy.Hook{
			"office-hours": func(_ context.Context, c *gatemesh.Call) error {
				if c.Path() == "/v1/payments/sunday" {
					return errors.New("nobody is there")
				}
				return nil
			},
		},
		Policies: []policy.Policy{
			{
				Name: "hours", Namespace: "production", Action: policy.ActionCustom, Provider: "office-hours",
				Rules: []policy.Rule{{To: []policy.Operation{{Paths: []string{"/v1/payments/*"}}}}},
			},
			{Name: "everybody", Namespace: "production", Rules: []policy.Rule{{}}},
		},
	}))
	for _, path := range []string{"/v1/payments/monday", "/v1/payments/sunday"} {
		_, err := engine.Admit(context.Background(), gatemesh.Must(gatemesh.NewCall(gatemesh.CallInfo{Path: path})))
		if err == nil {
			fmt.Println(path, "admitted")
			continue
		}
		denial := gatemesh.AsDenial(context.Background(), err)
		fmt.Println(path, denial.HTTPStatus(), denial.Cause())
	}
	// Output:
	// /v1/payments/monday admitted
	// /v1/payments/sunday 403 policy "hours" (production) rule 1: the hook "office-hours" refused: nobody is there
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
