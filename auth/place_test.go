package auth

import (
	"net/http"
	"net/url"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/gatemesh-go/gatemesh"
)

// TestJWT09_Places: a token may come in a cookie or a parameter if that was
// asked for, and never in two places.
func TestJWT09_Places(t *testing.T) {
	t.Parallel()
	token := edToken(t, payload(time.Now(), nil))
	secret, hash := GenerateKey()
	keys := gatemesh.Must(NewKeySet([]Key{{ID: "k", Consumer: "c", Hash: hash}}))
	for _, test := range []struct {
		name              string
		cookie, parameter string // configured
		header            http.Header
		query             string
		want              string
		consumed          []string
	}{
		{"cookie", "session", "", http.Header{"Cookie": {"a=1; session=" + token}}, "", "ok", []string{"cookie:session"}},
		{"cookie, not asked for", "", "", http.Header{"Cookie": {"session=" + token}}, "", "credential_missing", nil},
		{"cookie of another case", "session", "", http.Header{"Cookie": {"Session=" + token}}, "", "credential_missing", nil},
		{"two cookies", "session", "", http.Header{"Cookie": {"session=" + token + "; session=" + token}}, "", "credential_ambiguous", nil},
		{"two cookies in two fields", "session", "", http.Header{"Cookie": {"session=" + token, "session=x"}}, "", "credential_ambiguous", nil},
		{"cookie and header", "session", "", http.Header{"Cookie": {"session=" + token}, "Authorization": {"Bearer " + token}}, "", "credential_ambiguous", nil},
		{"cookie and basic", "session", "", http.Header{"Cookie": {"session=" + token}, "Authorization": {"Basic x"}}, "", "credential_ambiguous", nil},
		{"empty cookie and header", "session", "", http.Header{"Cookie": {"session="}, "Authorization": {"Bearer " + token}}, "", "credential_ambiguous", nil},
		{"empty cookie", "session", "", http.Header{"Cookie": {"session"}}, "", "token_malformed", nil},
		{"cookie with a scheme", "session", "", http.Header{"Cookie": {"session=Bearer " + token}}, "", "token_malformed", nil},
		{"cookie and API key", "session", "", http.Header{"Cookie": {"session=" + token}, "X-Api-Key": {secret}}, "", "credential_ambiguous", nil},
		{"cookie beside a parameter", "session", "", http.Header{"Cookie": {"session=" + token}}, "access_token=x", "credential_ambiguous", nil},
		{"header beside another cookie", "session", "", http.Header{"Cookie": {"a=" + token}, "Authorization": {"Bearer " + token}}, "", "ok", []string{"Authorization"}},

		{"parameter", "", "access_token", nil, "a=1&access_token=" + url.QueryEscape(token), "ok", []string{"query:access_token"}},
		{"parameter, escaped name", "", "access_token", nil, "access%5Ftoken=" + token, "ok", []string{"query:access_token"}},
		{"parameter, not asked for", "", "", nil, "access_token=" + token, "credential_missing", nil},
		{"parameter of another name", "", "jwt", nil, "jwt=" + token, "ok", []string{"query:jwt"}},
		{"beside the usual one", "", "jwt", nil, "jwt=" + token + "&access_token=x", "credential_ambiguous", nil},
		{"parameter twice", "", "access_token", nil, "access_token=" + token + "&access_token=" + token, "credential_ambiguous", nil},
		{"parameter in another case, too", "", "access_token", nil, "access_token=" + token + "&Access_Token=x", "credential_ambiguous", nil},
		{"parameter that cannot be read, too", "", "access_token", nil, "access_token=" + token + "&access_token=%zz", "credential_ambiguous", nil},
		{"header and a parameter that cannot be read", "", "access_token", http.Header{"Authorization": {"Bearer " + token}}, "access_token=%zz", "credential_ambiguous", nil},
		{"parameter and header", "", "access_token", http.Header{"Authorization": {"Bearer " + token}}, "access_token=" + token, "credential_ambiguous", nil},
		{"all three", "session", "access_token", http.Header{"Authorization": {"Bearer " + token}, "Cookie": {"session=" + token}}, "access_token=" + token, "credential_ambiguous", nil},
		{"header alone", "session", "access_token", http.Header{"Authorization": {"Bearer " + token}}, "", "ok", []string{"Authorization"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			a, err := New(Config{Issuers: []Issuer{edIssuer(t)}, APIKeys: keys, TokenCookie: test.cookie, TokenParameter: test.parameter})
			require.NoError(t, err)
			c := gatemesh.Must(gatemesh.NewCall(gatemesh.CallInfo{Host: "api.example", Header: test.header, RawQuery: test.query}))
			for range 2 { // the second time from memory
				assert.Equal(t, test.want, reason(t, a, c))
				adm, _ := a.Admit(t.Context(), c)
				assert.Equal(t, test.consumed, adm.Consumed)
				cached, ok, _ := a.AdmitCached(t.Context(), c)
				assert.Equal(t, test.want == "ok", ok)
				assert.Equal(t, test.consumed, cached.Consumed)
			}
		})
	}
	_, err := New(Config{APIKeys: keys, TokenCookie: "a b", TokenParameter: "x"})
	assert.ErrorContains(t, err, `Config.TokenCookie "a b" is not a name`)
	assert.ErrorContains(t, err, "Config.TokenParameter has a meaning only with Issuers or Opaque")
}
