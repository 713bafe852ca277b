package auth

import (
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/gatemesh-go/gatemesh"
)

// With InsecureAnonymous, who brings nothing is nobody, and who brings anything
// is judged as ever.
func TestJWT09_Anonymous(t *testing.T) {
	t.Parallel()
	token := edToken(t, payload(time.Now(), nil))
	secret, hash := GenerateKey()
	keys := gatemesh.Must(NewKeySet([]Key{{ID: "k", Consumer: "c", Hash: hash}}))
	const nobody = "nobody"
	for _, test := range []struct {
		name   string
		header http.Header
		query  string
		want   string
	}{
		{"nothing", nil, "", nobody},
		{"a query", nil, "a=access_token&b", nobody},
		{"another cookie", http.Header{"Cookie": {"a=" + token}}, "", nobody},
		{"a token", http.Header{"Authorization": {"Bearer " + token}}, "", "ok"},
		{"a key", http.Header{"X-Api-Key": {secret}}, "", "ok"},
		{"a cookie", http.Header{"Cookie": {"session=" + token}}, "", "ok"},
		{"a parameter", nil, "jwt=" + token, "ok"},
		{"no value", http.Header{"Authorization": {""}}, "", "credential_scheme"},
		{"another scheme", http.Header{"Authorization": {"Basic YTpi"}}, "", "credential_scheme"},
		{"no token", http.Header{"Authorization": {"Bearer "}}, "", "token_malformed"},
		{"a bad token", http.Header{"Authorization": {"Bearer " + sign(t, "EdDSA", otherEd(), m{"alg": "EdDSA", "kid": "ed"}, payload(time.Now(), nil))}}, "", "token_signature"},
		{"another issuer", http.Header{"Authorization": {"Bearer " + edToken(t, payload(time.Now(), m{"iss": "x"}))}}, "", "token_issuer"},
		{"an old token", http.Header{"Authorization": {"Bearer " + edToken(t, payload(time.Now(), m{"exp": 1}))}}, "", "token_expired"},
		{"an unknown key", http.Header{"X-Api-Key": {"unknown-0123456789-0123456789"}}, "", "key_unknown"},
		{"an empty key", http.Header{"X-Api-Key": {""}}, "", "key_malformed"},
		{"an empty cookie", http.Header{"Cookie": {"session"}}, "", "token_malformed"},
		{"an empty parameter", nil, "jwt", "token_malformed"},
		{"a token twice", http.Header{"Authorization": {"Bearer " + token, "Bearer " + token}}, "", "credential_ambiguous"},
		{"a good and an empty one", http.Header{"Authorization": {"Bearer " + token, ""}}, "", "credential_ambiguous"},
		{"a token and a key", http.Header{"Authorization": {"Bearer " + token}, "X-Api-Key": {secret}}, "", "credential_ambiguous"},
		{"a token where none is looked for", nil, "access_token=" + token, "credential_missing"},
		{"in another case", nil, "Access%5FToken=" + token, "credential_missing"},
		{"a key where none is looked for", nil, "x-api-key=" + secret, "credential_missing"},
		{"a parameter that cannot be read", nil, "jwt=%zz", "credential_missing"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			a, err := New(Config{
				Issuers: []Issuer{edIssuer(t)}, APIKeys: keys, TokenCookie: "session", TokenParameter: "jwt", InsecureAnonymous: true,
			})
			require.NoError(t, err)
			c := gatemesh.Must(gatemesh.NewCall(gatemesh.CallInfo{Host: "api.example", Header: test.header, RawQuery: test.query}))
			cached, ok, err := a.AdmitCached(t.Context(), c)
			if test.want == nobody {
				require.NoError(t, err)
				assert.True(t, ok)
				assert.Zero(t, cached)
				adm, err := a.Admit(t.Context(), c)
				require.NoError(t, err)
				assert.Zero(t, adm)
				return
			}
			assert.Equal(t, test.want, reason(t, a, c))
			assert.False(t, ok && cached.Principal == nil)
		})
	}
}

// Without the setting, everything is as it was; and only with it, nothing at all
// need be accepted, so that a configuration can come and go.
func TestAnonymousIsAsked(t *testing.T) {
	t.Parallel()
	cfg := Config{Issuers: []Issuer{edIssuer(t)}}
	a, err := New(cfg)
	require.NoError(t, err)
	token := bearerCall(t, edToken(t, payload(time.Now(), nil)))
	assert.Equal(t, "credential_missing", reason(t, a, callWith(t, nil)))

	require.Error(t, a.Update(Config{}))
	require.NoError(t, a.Update(Config{InsecureAnonymous: true}))
	for _, c := range []*gatemesh.Call{callWith(t, nil), token, callWith(t, http.Header{"X-Api-Key": {"x"}}),
		gatemesh.Must(gatemesh.NewCall(gatemesh.CallInfo{Host: "a", RawQuery: "access_token=x"}))} {
		adm, err := a.Admit(t.Context(), c)
		require.NoError(t, err, "no credential is looked for")
		assert.Zero(t, adm, "and nobody has a principal")
	}
	require.NoError(t, a.Update(cfg))
	assert.Equal(t, "credential_missing", reason(t, a, callWith(t, nil)))
	assert.Equal(t, "ok", reason(t, a, token))
}

// An outage makes nobody of nobody's token.
func TestJWT13_AnonymousInOutage(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var e endpoint
		e.set(refused)
		a, err := New(Config{Issuers: []Issuer{edIssuer(t, func(is *Issuer) { is.Keys = newJWKS(t, &e) })}, InsecureAnonymous: true})
		require.NoError(t, err)
		assert.Equal(t, "token_key_unknown", tokenReason(t, a, edToken(t, payload(time.Now(), nil))))
		adm, err := a.Admit(t.Context(), callWith(t, nil))
		require.NoError(t, err)
		assert.Zero(t, adm)
	})
}
