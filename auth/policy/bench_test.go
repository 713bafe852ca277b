package policy

import (
	"context"
	"fmt"
	"net/http"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/gatemesh-go/gatemesh"
)

// fleet is n rules in the manner of the payment policy: who may do what.
func fleet(n int) Config {
	cfg := config(policyOf("no-admin", ActionDeny, to(Operation{Paths: []string{"/admin*"}})))
	p := policyOf("fleet", ActionAllow)
	for i := range n - 1 {
		p.Rules = append(p.Rules, Rule{
			From: []Source{{Principals: []string{fmt.Sprintf("cluster.local/ns/production/sa/service-%d", i%100)}}},
			To:   []Operation{{Methods: []string{"GET", "POST"}, Paths: []string{fmt.Sprintf("/v1/resource-%d/*", i)}}},
		})
	}
	cfg.Policies = append(cfg.Policies, p)
	return cfg
}

func fleetCalls(t testing.TB, n int) (admitted, refused *gatemesh.Call) {
	last := n - 2
	in := gatemesh.CallInfo{Peer: peer(t, "production", fmt.Sprint("service-", last%100)), Method: "POST", Path: fmt.Sprintf("/v1/resource-%d/42", last), Host: "a.test"}
	admitted = call(t, in)
	in.Method = "DELETE"
	return admitted, call(t, in)
}

// edge is n rules as they stand at an edge, one in five of them DENY: who is
// known by claims and scopes, and may do what, and which callers may not.
func edge(n int) Config {
	deny, allow := policyOf("never", ActionDeny), policyOf("may", ActionAllow)
	for i := range n {
		path := fmt.Sprintf("/v1/resource-%d", i)
		if i%5 == 4 {
			deny.Rules = append(deny.Rules, Rule{
				To:   []Operation{{Paths: []string{path, path + "/*"}, NotMethods: []string{"GET"}}},
				When: []Condition{{Key: "request.headers[X-Role]", NotValues: []string{"admin"}}},
			})
			continue
		}
		allow.Rules = append(allow.Rules, Rule{
			From: []Source{{RequestPrincipals: []string{"https://idp.example.com/*"}, NotNamespaces: []string{"test"}}},
			To:   []Operation{{Methods: []string{"GET", "POST"}, Paths: []string{path, path + "/{*}/items/{**}"}}},
			When: []Condition{
				{Key: "request.auth.claims[scope]", Values: []string{"resources:write"}},
				{Key: "request.auth.claims[realm][groups]", Values: []string{fmt.Sprintf("group-%d", i%100)}},
				{Key: "request.headers[X-Tenant]", Values: []string{"acme", "globex"}},
			},
		})
	}
	deny.Rules = append(deny.Rules,
		Rule{When: []Condition{{Key: "request.headers[X-Blocked]", Values: []string{"*"}}}},
		Rule{From: []Source{{RemoteIPBlocks: []string{"203.0.113.0/24", "2001:db8::/32"}}}})
	return config(deny, allow)
}

func edgeCalls(t testing.TB, n int) (admitted, refused *gatemesh.Call) {
	last := n - 2
	in := gatemesh.CallInfo{
		Method: "POST", Path: fmt.Sprintf("/v1/resource-%d/7/items/9", last), Host: "api.example.com", RemoteAddr: addr("10.0.0.1"),
		Header: http.Header{"X-Tenant": {"acme"}, "User-Agent": {"curl/8"}, "Accept": {"*/*"}},
		Principal: gatemesh.NewPrincipal(gatemesh.PrincipalInfo{
			Issuer: "https://idp.example.com", Subject: "alice", Method: "jwt", Scopes: []string{"resources:read", "resources:write"},
			Claims: map[string]any{"realm": map[string]any{"groups": []any{"staff", fmt.Sprintf("group-%d", last%100)}}},
		}),
	}
	admitted = call(t, in)
	in.Header = http.Header{"X-Tenant": {"initech"}}
	return admitted, call(t, in)
}

type fixture struct {
	name  string
	cfg   func(int) Config
	calls func(testing.TB, int) (admitted, refused *gatemesh.Call)
}

var fixtures = []fixture{{"fleet", fleet, fleetCalls}, {"edge", edge, edgeCalls}}

func TestAdmitAllocates(t *testing.T) {
	ctx := context.Background()
	for _, n := range []int{10, 10000} {
		e := engine(t, edge(n))
		admitted, refused := edgeCalls(t, n)
		require.Equal(t, Allow, verdict(t, e, admitted))
		require.Equal(t, Deny, verdict(t, e, refused))
		assert.Zero(t, testing.AllocsPerRun(100, func() { _, _ = e.Admit(ctx, admitted) }), "edge, admitted, %d rules", n)
		// The cause keeps a copy of the fields that rules name.
		assert.LessOrEqual(t, testing.AllocsPerRun(100, func() { _, _ = e.Admit(ctx, refused) }), 6.0, "edge, refused, %d rules", n)
	}
	for _, n := range []int{10, 10000} {
		e := engine(t, fleet(n))
		admitted, refused := fleetCalls(t, n)
		require.Equal(t, Allow, verdict(t, e, admitted))
		require.Equal(t, Deny, verdict(t, e, refused))
		assert.Zero(t, testing.AllocsPerRun(100, func() { _, _ = e.Admit(ctx, admitted) }), "admitted, %d rules", n)
		assert.LessOrEqual(t, testing.AllocsPerRun(100, func() { _, _ = e.Admit(ctx, refused) }), 2.0, "refused, %d rules", n)
	}
	// Nothing depends on the kind of condition.
	rule := from(Source{RequestPrincipals: []string{"https://idp/*"}, NotPrincipals: []string{"*/x"}, IPBlocks: []string{"10.0.0.0/8"}})
	rule.To = []Operation{{Hosts: []string{"*.test"}, NotPaths: []string{"/no"}, NotPorts: []string{"1"}}}
	rule.When = []Condition{
		{Key: "request.auth.audiences", NotValues: []string{"web"}}, {Key: "request.auth.claims[sub]", Values: []string{"alice"}},
		{Key: "request.auth.claims[list]", NotValues: []string{"x"}}, {Key: "request.auth.claims[permission]", Values: []string{"write"}},
		{Key: "connection.sni", Values: []string{"a.test"}}, {Key: "request.headers[X-List]", NotValues: []string{"c"}},
	}
	e := engine(t, config(policyOf("p", ActionAllow, rule), policyOf("a", ActionAudit, to(Operation{Paths: []string{"/never"}}))))
	alice := gatemesh.NewPrincipal(gatemesh.PrincipalInfo{
		Issuer: "https://idp", Subject: "alice", Audience: []string{"api"}, Claims: map[string]any{"list": []any{"y"}, "permission": "read write"},
	})
	c := call(t, gatemesh.CallInfo{
		Peer: peer(t, "a", "b"), Principal: alice, Host: "a.test", SNI: "a.test", RemoteAddr: addr("10.0.0.1"), LocalAddr: addr("10.0.0.2"),
		Header: http.Header{"X-List": {"a, b", "d"}},
	})
	require.Equal(t, Allow, verdict(t, e, c))
	assert.Zero(t, testing.AllocsPerRun(100, func() { _, _ = e.Admit(ctx, c) }))
}

// Bounds how the cost of a decision grows with the number of rules, and what a
// refusal costs before and after somebody reads why.
func BenchmarkAdmit(b *testing.B) {
	ctx := context.Background()
	for _, fx := range fixtures {
		b.Run(fx.name, func(b *testing.B) {
			for _, n := range []int{10, 1000, 10000} {
				benchmark(ctx, b, fx, n)
			}
		})
	}
}

func benchmark(ctx context.Context, b *testing.B, fx fixture, n int) {
	e := engine(b, fx.cfg(n))
	admitted, refused := fx.calls(b, n)
	b.Run(fmt.Sprintf("admitted/%d", n), func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := e.Admit(ctx, admitted); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run(fmt.Sprintf("refused/%d", n), func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := e.Admit(ctx, refused); err == nil {
				b.Fatal("admitted")
			}
		}
	})
	b.Run(fmt.Sprintf("logged/%d", n), func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			_, err := e.Admit(ctx, refused)
			_ = err.(*gatemesh.Denial).Cause().Error()
		}
	})
}
