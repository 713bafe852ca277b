package identity_test

import (
	"fmt"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/gatemesh-go/gatemesh"
	"github.com/gatemesh-go/gatemesh/auth/identity"
)

func TestAllocations(t *testing.T) { // not parallel: AllocsPerRun counts everybody's
	synctest.Test(t, func(t *testing.T) { // in whose time no token ends
		m := newMinter(t, nil)
		v := newVerifier(t, staticKeys(t, signingKey(1).Public()), nil)
		out := outbound(t, alice(), "v2")
		token := mint(t, m, out.Parent().Principal(), "v2")
		in := inbound(t, token)
		_, err := v.Admit(t.Context(), in)
		require.NoError(t, err)
		ctx := t.Context()
		assert.Zero(t, testing.AllocsPerRun(1000, func() { _, _ = m.Admit(ctx, out) }), "mint, reused")
		assert.Zero(t, testing.AllocsPerRun(1000, func() { _, _ = v.Admit(ctx, in) }), "verify, seen")
		assert.Zero(t, testing.AllocsPerRun(1000, func() { _, _, _ = v.AdmitCached(ctx, in) }), "verify, seen, in the tap")
	})
}

// What an outbound call costs at the edge once its user has been seen.
func BenchmarkMintReused(b *testing.B) {
	for _, n := range []int{1, 1000} {
		b.Run(fmt.Sprint(n, " users"), func(b *testing.B) {
			m := newMinter(b, nil)
			calls := make([]*gatemesh.Call, n)
			for i := range calls {
				calls[i] = outbound(b, alice(), "v2")
			}
			b.ReportAllocs()
			b.ResetTimer() // RunParallel would count what was set up
			var next atomic.Int64
			b.RunParallel(func(pb *testing.PB) {
				for i := int(next.Add(1)) * 7919; pb.Next(); i++ {
					if _, err := m.Admit(b.Context(), calls[i%n]); err != nil {
						b.Error(err)
					}
				}
			})
		})
	}
}

// What signing costs: once per user, lane and half life.
func BenchmarkMintNew(b *testing.B) {
	m := newMinter(b, func(c *identity.MinterConfig) { c.Claims = []string{"tenant"}; c.CacheEntries = 8 })
	calls := make([]*gatemesh.Call, 1000)
	for i := range calls {
		calls[i] = outbound(b, alice(), "v2")
	}
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		if _, err := m.Admit(b.Context(), calls[i%len(calls)]); err != nil {
			b.Fatal(err)
		}
	}
}

// What an inbound call costs a service once its token has been seen.
func BenchmarkVerifySeen(b *testing.B) {
	for _, n := range []int{1, 1000} {
		b.Run(fmt.Sprint(n, " tokens"), func(b *testing.B) {
			v, calls := newVerifyBench(b, n, 8192)
			for _, c := range calls {
				_, err := v.Admit(b.Context(), c)
				require.NoError(b, err)
			}
			b.ReportAllocs()
			b.ResetTimer() // RunParallel would count what was set up
			var next atomic.Int64
			b.RunParallel(func(pb *testing.PB) {
				for i := int(next.Add(1)) * 7919; pb.Next(); i++ {
					if _, err := v.Admit(b.Context(), calls[i%n]); err != nil {
						b.Error(err)
					}
				}
			})
		})
	}
}

// What a token costs that is seen for the first time.
func BenchmarkVerifyNew(b *testing.B) {
	v, calls := newVerifyBench(b, 1000, 8)
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		if _, err := v.Admit(b.Context(), calls[i%len(calls)]); err != nil {
			b.Fatal(err)
		}
	}
}

// What an invented token costs, which anybody can send.
func BenchmarkVerifyForged(b *testing.B) {
	v, calls := newVerifyBench(b, 1, 8)
	slot, _ := calls[0].Reserved(gatemesh.IdentityHeader)
	c := inbound(b, "ey"+slot.Value[2:len(slot.Value)-4]+"AAAA")
	b.ReportAllocs()
	for b.Loop() {
		if _, err := v.Admit(b.Context(), c); err == nil {
			b.Fatal("admitted")
		}
	}
}

func newVerifyBench(b *testing.B, tokens, entries int) (*identity.Verifier, []*gatemesh.Call) {
	m := newMinter(b, func(c *identity.MinterConfig) { c.Claims = []string{"tenant"} })
	keys, err := identity.NewKeys(staticKeys(b, signingKey(1).Public()))
	require.NoError(b, err)
	calls := make([]*gatemesh.Call, tokens)
	for i := range calls {
		p := gatemesh.NewPrincipal(gatemesh.PrincipalInfo{
			Issuer: "https://idp.example", Subject: fmt.Sprint("user-", i), Scopes: []string{"orders:read", "orders:write"},
			Claims: map[string]any{"tenant": "acme"}, Method: "jwt",
		})
		calls[i] = inbound(b, mint(b, m, p, "v2"))
	}
	return newVerifier(b, keys, func(c *identity.VerifierConfig) { c.CacheEntries = entries }), calls
}
