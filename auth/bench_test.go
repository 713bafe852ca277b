package auth

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// The cost of a call whose token was verified before: no allocation, and
// little beyond hashing and comparing the token.
func BenchmarkAdmitCached(b *testing.B) {
	for _, size := range []int{200, 700, 4000} {
		b.Run(fmt.Sprintf("token=%d", size), func(b *testing.B) {
			a := newAuth(b, edIssuer(b))
			c := bearerCall(b, edToken(b, payload(time.Now(), m{"pad": make([]byte, size*9/16)})))
			ctx := b.Context()
			_, err := a.Admit(ctx, c)
			require.NoError(b, err)
			b.ReportAllocs()
			for b.Loop() {
				_, _ = a.Admit(ctx, c)
			}
		})
	}
}

// The cost of a token that is met for the first time.
func BenchmarkAdmitMiss(b *testing.B) {
	for _, alg := range []string{"EdDSA", "RS256", "ES256"} {
		b.Run(alg, func(b *testing.B) {
			key := map[string]struct{ private, public any }{
				"EdDSA": {edKey(), edPublic(edKey())}, "RS256": {rsaKey(), &rsaKey().PublicKey}, "ES256": {ecKey(), &ecKey().PublicKey},
			}[alg]
			a := newAuth(b, Issuer{
				Issuer: testIssuer, Audience: []string{testAudience}, Algorithms: []string{alg}, Keys: mustKeys(b, StaticKey{Key: key.public}),
			})
			tok := sign(b, alg, key.private, m{"alg": alg}, payload(time.Now(), m{"scope": "a b c", "roles": []string{"x", "y"}}))
			ctx, now := b.Context(), time.Now()
			b.ReportAllocs()
			for b.Loop() {
				if _, d := a.state.Latest().verify(ctx, tok, now); d != nil {
					b.Fatal(d)
				}
			}
		})
	}
}

// What a refusal costs us: it must not be more than what it costs the sender.
func BenchmarkRefuse(b *testing.B) {
	a := newAuth(b, edIssuer(b))
	for name, token := range map[string]string{
		"malformed": "abc",
		"forged":    sign(b, "EdDSA", otherEd(), m{"alg": "EdDSA", "kid": "ed"}, payload(time.Now(), nil)),
		"unknown":   sign(b, "EdDSA", otherEd(), m{"alg": "EdDSA", "kid": "x"}, payload(time.Now(), nil)),
	} {
		b.Run(name, func(b *testing.B) {
			c, ctx := bearerCall(b, token), b.Context()
			b.ReportAllocs()
			for b.Loop() {
				_, _ = a.Admit(ctx, c)
			}
		})
	}
}
