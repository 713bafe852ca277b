package policytest_test

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"strings"
	"time"

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
	fmt.Print(p.Coverage(policytest.GRPCRoutes(methods...)...))
	// Output:
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
	_, _ = time.Now, strings.Cut
}
