package policy_test

import (
	"context"
	"fmt"

	"github.com/gatemesh-go/gatemesh"
	"github.com/gatemesh-go/gatemesh/auth/policy"
)

func ExampleEngine_DryRun() {
	anyone := []policy.Policy{{Name: "catalog", Namespace: "production", Rules: []policy.Rule{{
		To: []policy.Operation{{Paths: []string{"/catalog/*"}}},
	}}}}
	readers := []policy.Policy{{Name: "catalog", Namespace: "production", Rules: []policy.Rule{{
		To: []policy.Operation{{Paths: []string{"/catalog/*"}, Methods: []string{"GET"}}},
	}}}}
	config := policy.Config{
		Workload: paymentService, Unselected: policy.Deny,
		Policies: anyone, Candidate: &policy.Candidate{Policies: readers},
	}
	engine := gatemesh.Must(policy.New(config))
	for _, method := range []string{"GET", "PUT", "PUT"} {
		call := gatemesh.Must(gatemesh.NewCall(gatemesh.CallInfo{Method: method, Path: "/catalog/7"}))
		_, err := engine.Admit(context.Background(), call)
		fmt.Println(method, err)
	}
	run, _ := engine.DryRun()
	fmt.Println(run.Differing, "of", run.Judged, "calls differ")
	for _, d := range run.Differences {
		fmt.Printf("%d x %s %s: live %v, candidate %v: %s\n", d.Count, d.Method, d.Path, d.Live.Verdict, d.Candidate.Verdict, d.Candidate.Reason)
	}

	// Promoted.
	config.Policies, config.Candidate = readers, nil
	fmt.Println(engine.Update(config))
	// Output:
	// GET <nil>
	// PUT <nil>
	// PUT <nil>
	// 2 of 3 calls differ
	// 2 x PUT /catalog/7: live allow, candidate deny: rule 1 of catalog: method PUT is not GET
	// <nil>
}

func ExampleEngine_Coverage() {
	engine := gatemesh.Must(policy.New(policy.Config{
		Workload: paymentService, Unselected: policy.Deny, Exempt: []string{"/healthz"},
		Policies: []policy.Policy{{Name: "users", Namespace: "production", Rules: []policy.Rule{
			{To: []policy.Operation{{Paths: []string{"/v1/users/*"}, Methods: []string{"GET"}}}},
			{
				From: []policy.Source{{Principals: []string{"cluster.local/ns/production/sa/admin"}}},
				To:   []policy.Operation{{Paths: []string{"/v1/users/{*}/keys", "/v1/groups/*"}}},
			},
		}}},
	}))
	fmt.Print(gatemesh.Must(engine.Coverage([]string{
		"GET /v1/users/{id}", "PUT /v1/users/{id}", "PUT /v1/users/{id}/keys", "/healthz",
	})))
	// Output:
	// 2 routes are open to everybody:
	//   GET /v1/users/{id}       rule 1 of users, as in GET /v1/users/x
	//   /healthz                 the path is exempt, as in GET /healthz
	// 1 route is closed to everybody:
	//   PUT /v1/users/{id}
	// 1 route is open to some callers:
	//   PUT /v1/users/{id}/keys  rule 2 of users
	// rules that no route serves:
	//   ALLOW rule 2 of users: /v1/groups/*
}
