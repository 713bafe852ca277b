package auth

import (
	"maps"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// JWT-11 D for [Issuer.RequiredClaims]: they are judged before a signature is,
// and a token that was verified without them is judged again with them.
func TestJWT11_RequiredClaims(t *testing.T) {
	t.Parallel()
	want := map[string]string{"token_use": "access", "azp": "shop"}
	is := edIssuer(t, func(is *Issuer) { is.RequiredClaims = want })
	a := newAuth(t, is)
	good := m{"token_use": "access", "azp": "shop"}
	assert.Equal(t, "ok", tokenReason(t, a, edToken(t, payload(time.Now(), good))))
	for name, change := range map[string]m{
		"one missing": {"azp": nil}, "both missing": {"azp": nil, "token_use": nil}, "another": {"token_use": "id"},
		"another case": {"token_use": "Access"}, "a space": {"token_use": "access "}, "empty": {"token_use": ""},
		"a list": {"token_use": []string{"access"}}, "an object": {"token_use": m{"access": true}}, "true": {"token_use": true},
		"twin": {"token_use": nil, "Token_Use": "access"}, "nested": {"token_use": nil, "x": m{"token_use": "access"}},
	} {
		claims := maps.Clone(good)
		maps.Copy(claims, change)
		assert.Equal(t, "token_claim", tokenReason(t, a, edToken(t, payload(time.Now(), claims))), name)
		forged := sign(t, "EdDSA", otherEd(), m{"alg": "EdDSA", "kid": "ed"}, payload(time.Now(), claims))
		assert.Equal(t, "token_claim", tokenReason(t, a, forged), name)
	}

	// What was given is copied, and is part of what a judgment was made by.
	want["token_use"] = "id"
	assert.Equal(t, "ok", tokenReason(t, a, edToken(t, payload(time.Now(), good))))
	is.RequiredClaims = nil
	a = newAuth(t, is)
	tok := edToken(t, payload(time.Now(), good))
	require.Equal(t, "ok", tokenReason(t, a, tok))
	for _, claims := range []map[string]string{{"token_use": "id"}, {"token_use": "access", "azp": "other"}} {
		is.RequiredClaims = claims
		require.NoError(t, a.Update(Config{Issuers: []Issuer{is}}))
		assert.Equal(t, "token_claim", tokenReason(t, a, tok), "remembered under other rules")
		is.RequiredClaims = map[string]string{"token_use": "access"}
		require.NoError(t, a.Update(Config{Issuers: []Issuer{is}}))
		assert.Equal(t, "ok", tokenReason(t, a, tok))
	}
	is.RequiredClaims = map[string]string{"token_use": "access"}
	require.NoError(t, a.Update(Config{Issuers: []Issuer{is}}))
	assert.True(t, isCached(t, a, tok), "nothing has changed")

	for text, claims := range map[string]map[string]string{
		"RequiredClaims is empty": {}, `RequiredClaims[""] needs`: {"": "x"}, `RequiredClaims["a"] needs`: {"a": ""},
		`RequiredClaims["aud"] has rules`: {"aud": "x"}, `RequiredClaims["client_id"] has rules`: {"client_id": "x"},
		`RequiredClaims["exp"] has rules`: {"exp": "1"}, `RequiredClaims["scope"] has rules`: {"scope": "x"},
	} {
		_, err := New(Config{Issuers: []Issuer{edIssuer(t, func(is *Issuer) {
			is.RequiredClaims, is.AudienceClaim = claims, "client_id"
		})}})
		assert.ErrorContains(t, err, "Config.Issuers[0]."+text)
	}
}
