package policytest_test

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"slices"

	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	"google.golang.org/grpc/health/grpc_health_v1"

	"github.com/gatemesh-go/gatemesh"
	"github.com/gatemesh-go/gatemesh/auth/policy"
	"github.com/gatemesh-go/gatemesh/auth/policy/policytest"
)

// printer is a TB that prints; in a test, it is the *testing.T.
type printer struct{}

func (printer) Helper()                   {}
func (printer) Errorf(f string, a ...any) { fmt.Printf(f+"\n", a...) }
func (printer) Fatalf(f string, a ...any) { fmt.Printf("fatal: "+f+"\n", a...) }

var t printer

func ExampleLoad() {
	p := policytest.Load(t, "testdata/policies", policytest.Workload("payment-service.production"))

	p.As("order-service").POST("/v1/payments/42").Want(policytest.Allow)
	p.As("auditor.audit").GET("/v1/payments/42").Want(policytest.Allow)
	p.Anonymous().From("10.1.2.3").Host("api.example.com").GET("/status").Want(policytest.Allow)
	p.Table("testdata/payments.cases")

	// What is not as wanted says why.
	p.As("order-service").GET("/v1/payments/42").Want(policytest.Allow)
	p.Anonymous().GET("/debug/pprof").User(gatemesh.PrincipalInfo{Issuer: "https://idp.example.com", Subject: "alice"}).Want(policytest.Allow)
	p.Anonymous().GET("/status").Want(policytest.Deny)
	// Output:
	// order-service GET /v1/payments/42
	//     want  allow
	//     got   deny: method GET is not POST
	//     near  rule 1 of policy payment-service-policy (production)
	//     at    testdata/policies/payment.yaml:12
	// anonymous GET /debug/pprof issuer=https://idp.example.com subject=alice
	//     want  allow
	//     got   deny: the DENY rule matches
	//     by    rule 1 of policy no-debug (production)
	//     at    testdata/policies/payment.yaml:39
	// anonymous GET /status
	//     want  deny
	//     got   allow: the ALLOW rule matches
	//     by    rule 3 of policy payment-service-policy (production)
	//     at    testdata/policies/payment.yaml:26
}

func ExamplePolicies_Coverage() {
	register := func(mux interface {
		HandleFunc(string, func(http.ResponseWriter, *http.Request))
	}) {
		for _, pattern := range []string{"POST /v1/payments/{id}", "GET /v1/payments/{id}", "DELETE /v1/payments/{id}", "GET /status", "/debug/"} {
			mux.HandleFunc(pattern, func(http.ResponseWriter, *http.Request) {})
		}
	}
	p := policytest.Load(t, "testdata/policies", policytest.Workload("payment-service.production"))
	var mux policytest.Mux
	register(&mux)
	fmt.Print(p.Coverage(mux.Routes()...))
	// Output:
	// 1 route is open to everybody:
	//   GET /status               rule 3 of payment-service-policy (testdata/policies/payment.yaml:26)
	// 2 routes are closed to everybody:
	//   DELETE /v1/payments/{id}
	//   /debug/
	// 2 routes are open to some callers:
	//   POST /v1/payments/{id}    rule 1 of payment-service-policy (testdata/policies/payment.yaml:12)
	//   GET /v1/payments/{id}     rule 2 of payment-service-policy (testdata/policies/payment.yaml:19)
	// rules that no route serves:
	//   ALLOW rule 2 of payment-service-policy (testdata/policies/payment.yaml:19): /v1/refunds/*
}

// What a gRPC server serves, it tells itself.
func ExampleGRPCRoutes() {
	server := grpc.NewServer()
	grpc_health_v1.RegisterHealthServer(server, health.NewServer())
	var methods []string
	for service, info := range server.GetServiceInfo() {
		for _, m := range info.Methods {
			methods = append(methods, "/"+service+"/"+m.Name)
		}
	}
	p := policytest.New(t, policy.Config{
		Workload: policytest.Workload("payment-service.production"), Unselected: policy.Deny,
		Policies: []policy.Policy{{Name: "health", Namespace: "production", Rules: []policy.Rule{{
			To: []policy.Operation{{Methods: []string{"POST"}, Paths: []string{"/grpc.health.v1.Health/Check"}}},
		}}}},
	})
	slices.Sort(methods)
	fmt.Print(p.Coverage(policytest.GRPCRoutes(methods...)...))
	// Output:
	// 1 route is open to everybody:
	//   POST /grpc.health.v1.Health/Check  rule 1 of health
	// 2 routes are closed to everybody:
	//   POST /grpc.health.v1.Health/List
	//   POST /grpc.health.v1.Health/Watch
}

// A candidate is tried on real calls, and what it would change becomes a table.
func ExampleExport() {
	live := []policy.Policy{{Name: "payments", Namespace: "production", Rules: []policy.Rule{{
		To: []policy.Operation{{Paths: []string{"/v1/payments/*"}}},
	}}}}
	candidate := []policy.Policy{{Name: "payments", Namespace: "production", Rules: []policy.Rule{{
		From: []policy.Source{{Principals: []string{"cluster.local/ns/production/sa/order-service"}}},
		To:   []policy.Operation{{Paths: []string{"/v1/payments/*"}}},
	}}}}
	engine := gatemesh.Must(policy.New(policy.Config{
		Workload: policytest.Workload("payment-service.production"), Unselected: policy.Deny,
		Policies: live, Candidate: &policy.Candidate{Policies: candidate},
	}))
	for _, caller := range []string{"order-service", "cart-service"} {
		for id := range 3 {
			call := gatemesh.Must(gatemesh.NewCall(gatemesh.CallInfo{
				Peer:   gatemesh.Must(gatemesh.NewPeer("cluster.local", "/ns/production/sa/"+caller, nil)),
				Method: "POST", Path: fmt.Sprint("/v1/payments/", id),
			}))
			if _, err := engine.Admit(context.Background(), call); err != nil {
				fmt.Println(err)
			}
		}
	}
	run, _ := engine.DryRun()
	_ = policytest.Export(os.Stdout, run)
	// Output:
	// # Dry run: of 6 calls, the candidate judges 3 differently.
	//
	// # 3 times
	// # live:      allow, policy "payments" (production) rule 1: the ALLOW rule matches
	// # candidate: deny, policy "payments" (production) rule 1: principal cluster.local/ns/production/sa/cart-service is not cluster.local/ns/production/sa/order-service
	// deny cluster.local/ns/production/sa/cart-service POST /v1/payments/0
}
