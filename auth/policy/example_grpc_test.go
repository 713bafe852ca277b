package policy_test

import (
	"fmt"

	"google.golang.org/grpc"

	"github.com/gatemesh-go/gatemesh"
	"github.com/gatemesh-go/gatemesh/auth/policy"
	"github.com/gatemesh-go/gatemesh/grpcmesh"
	"github.com/gatemesh-go/gatemesh/internal/grpctest"
)

// A gRPC method is a path, and its HTTP method is POST.
func ExampleEngine_gRPC() {
	self := gatemesh.Workload{Name: "payment-service", TrustDomain: "cluster.local", Namespace: "production", ServiceAccount: "payment-service"}
	serve := func(path string) string {
		rules := gatemesh.Must(policy.New(policy.Config{
			Workload: self, Unselected: policy.Deny,
			Policies: []policy.Policy{{Name: "health", Namespace: "production", Rules: []policy.Rule{{
				To: []policy.Operation{{Methods: []string{"POST"}, Paths: []string{path}}},
			}}}},
		}))
		entry := gatemesh.Must(gatemesh.NewEntry(gatemesh.EntryConfig{}))
		chain := gatemesh.Must(gatemesh.NewChain(entry, rules.Layer()))
		service := grpctest.Serve(grpc.NewServer(gatemesh.Must(grpcmesh.NewServer(chain)).Options()...), nil)
		defer service.Close()
		return service.Check()
	}
	fmt.Println(serve("/grpc.health.v1.Health/*"))
	fmt.Println(serve("/payments.v1.Payments/*"))
	// Output:
	// OK
	// PermissionDenied: Access to this resource is not allowed.
}
