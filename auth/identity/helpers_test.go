package identity_test

import (
	"bytes"
	"crypto/ed25519"
	"encoding/base64"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/gatemesh-go/gatemesh"
	"github.com/gatemesh-go/gatemesh/auth/identity"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	issuer      = "https://edge.internal"
	trustDomain = "cluster.local"
)

// signingKey returns the same key for the same n.
func signingKey(n int) identity.SigningKey {
	seed := bytes.Repeat([]byte{byte(n), byte(n >> 8)}, ed25519.SeedSize/2)
	return identity.SigningKey{ID: fmt.Sprintf("k%d", n), Private: ed25519.NewKeyFromSeed(seed)}
}

func minterConfig() identity.MinterConfig {
	return identity.MinterConfig{Issuer: issuer, Audience: []string{trustDomain}, Key: signingKey(1)}
}

func newMinter(tb testing.TB, change func(*identity.MinterConfig)) *identity.Minter {
	tb.Helper()
	cfg := minterConfig()
	if change != nil {
		change(&cfg)
	}
	m, err := identity.NewMinter(cfg)
	require.NoError(tb, err)
	return m
}

func newVerifier(tb testing.TB, keys identity.KeySource, change func(*identity.VerifierConfig)) *identity.Verifier {
	tb.Helper()
	cfg := identity.VerifierConfig{Issuer: issuer, Audience: []string{trustDomain}, Keys: keys}
	if change != nil {
		change(&cfg)
	}
	v, err := identity.NewVerifier(cfg)
	require.NoError(tb, err)
	return v
}

func staticKeys(tb testing.TB, keys ...identity.PublicKey) identity.StaticKeys {
	tb.Helper()
	s, err := identity.NewStaticKeys(keys...)
	require.NoError(tb, err)
	return s
}

func alice() *gatemesh.Principal {
	return gatemesh.NewPrincipal(gatemesh.PrincipalInfo{
		Issuer: "https://idp.example", Subject: "alice", Consumer: "shop-app", Scopes: []string{"orders:read", "orders:write"},
		Claims: map[string]any{"tenant": "acme", "email": "alice@example.com"}, Method: "jwt",
	})
}

// outbound returns the call made for an inbound call of p.
func outbound(tb testing.TB, p *gatemesh.Principal, lane string) *gatemesh.Call {
	tb.Helper()
	parent, err := gatemesh.NewCall(gatemesh.CallInfo{Principal: p})
	require.NoError(tb, err)
	c, err := gatemesh.NewCall(gatemesh.CallInfo{Parent: parent, Lane: lane})
	require.NoError(tb, err)
	return c
}

// inbound returns a received call with that identity.
func inbound(tb testing.TB, token string) *gatemesh.Call {
	tb.Helper()
	c, err := gatemesh.NewCall(gatemesh.CallInfo{Reserved: map[string]string{gatemesh.IdentityHeader: token}})
	require.NoError(tb, err)
	return c
}

func mint(tb testing.TB, m *identity.Minter, p *gatemesh.Principal, lane string) string {
	tb.Helper()
	adm, err := m.Admit(tb.Context(), outbound(tb, p, lane))
	require.NoError(tb, err, cause(err))
	require.Len(tb, adm.Header, 1)
	require.Equal(tb, gatemesh.IdentityHeader, adm.Header[0].Name)
	return adm.Header[0].Value
}

func verify(tb testing.TB, v *identity.Verifier, token string) (gatemesh.Admission, error) {
	tb.Helper()
	return v.Admit(tb.Context(), inbound(tb, token))
}

// reason returns the code and reason of a denial, such as "unauthenticated identity_invalid".
func reason(err error) string {
	var d *gatemesh.Denial
	if !errors.As(err, &d) {
		return fmt.Sprintf("no denial: %v", err)
	}
	return d.Code.String() + " " + d.Reason
}

func cause(err error) string {
	var d *gatemesh.Denial
	if errors.As(err, &d) && d.Cause() != nil {
		return d.Cause().Error()
	}
	return ""
}

const invalid = "unauthenticated identity_invalid"

// goodHeader is the one legal header of tokens of signingKey(1).
const goodHeader = `{"alg":"EdDSA","kid":"k1","typ":"gatemesh-id+jwt"}`

// forge signs any header and payload, as a mistaken or foreign issuer could.
func forge(key identity.SigningKey, header, payload string) string {
	b := base64.RawURLEncoding.EncodeToString([]byte(header)) + "." + base64.RawURLEncoding.EncodeToString([]byte(payload))
	return b + "." + base64.RawURLEncoding.EncodeToString(ed25519.Sign(key.Private, []byte(b)))
}

// payload returns a good payload issued at iat that lives for a minute, with
// members added to it.
func payload(iat time.Time, more string) string {
	return fmt.Sprintf(`{"iss":%q,"aud":[%q],"iat":%d,"exp":%d,"sub":"alice"%s}`, issuer, trustDomain, iat.Unix(), iat.Unix()+60, more)
}
