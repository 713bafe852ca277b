package policy

import (
	"context"
	"fmt"
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

func TestAdmitAllocates(t *testing.T) {
	ctx := context.Background()
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
	e := engine(t, config(policyOf("p", ActionAllow, rule)))
	c := call(t, gatemesh.CallInfo{Peer: peer(t, "a", "b"), Principal: user("https://idp", "alice"), Host: "a.test", RemoteAddr: addr("10.0.0.1"), LocalAddr: addr("10.0.0.2")})
	require.Equal(t, Allow, verdict(t, e, c))
	assert.Zero(t, testing.AllocsPerRun(100, func() { _, _ = e.Admit(ctx, c) }))
}

// Bounds how the cost of a decision grows with the number of rules, and what a
// refusal costs before and after somebody reads why.
func BenchmarkAdmit(b *testing.B) {
	ctx := context.Background()
	for _, n := range []int{10, 1000, 10000} {
		e := engine(b, fleet(n))
		admitted, refused := fleetCalls(b, n)
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
}
