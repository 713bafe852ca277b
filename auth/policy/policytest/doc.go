// Package policytest tests authorization policies with go test: the YAML that
// is deployed, judged by the engine that judges calls.
//
//	func TestPolicies(t *testing.T) {
//		p := policytest.Load(t, "policies", policytest.Workload("payment-service.production"))
//		p.As("order-service").POST("/v1/payments/42").Want(policytest.Allow)
//		p.As("order-service").GET("/v1/payments/42").Want(policytest.Deny)
//		p.Anonymous().POST("/v1/payments/42").Want(policytest.Deny)
//		p.Table("testdata/payments.cases")
//	}
//
// What fails is reported with the explanation of the engine: policy, rule, file
// and line, and what in the call the nearest rule did not accept.
//
// # Tables
//
// A table has a case a line: the verdict, who calls, the method ("GRPC" for a
// gRPC method), the path, and what else there is to a call.
//
//	# Orders are paid by order-service alone.
//	allow order-service POST /v1/payments/42
//	deny  anonymous     POST /v1/payments/42 host=api.example.com from=10.1.2.3
//	allow web.edge      GRPC /payments.v1.Payments/List issuer=https://idp.example.com subject=alice claims={"roles": ["clerk"]}
//
// Callers are written as for [Policies.As], or "anonymous". The rest are
// host, port, from (address of the connection), client (address behind trusted
// proxies), to (our address), sni, header.NAME, issuer, subject, scope,
// audience, and claims (a JSON object); header.NAME, scope and audience may
// repeat. A value with spaces is quoted as in Go. Lines that are empty or start
// with # are skipped, and whatever is not understood is an error.
//
// [Export] writes the differences of a dry run ([policy.DryRun]) as a table, for
// a team to read and keep.
//
// # Coverage
//
// [Policies.Coverage] holds the routes of a server against its policies: which
// routes are open to everybody, which nobody can call, and what rules speak of
// that no route serves. See [policy.Coverage] and [Mux].
package policytest
