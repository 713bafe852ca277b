package manifest_test

import (
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/gatemesh-go/gatemesh/manifest"
)

const (
	ra   = "requestauthentication.yaml"
	inRA = "RequestAuthentication production/users: "
)

func TestRequestAuthentications(t *testing.T) {
	t.Parallel()
	set, err := manifest.LoadDir(folder)
	require.NoError(t, err)
	all := set.RequestAuthentications()
	require.Len(t, all, 1)
	jwks := all[0].Rules[1].JWKS
	assert.Contains(t, jwks, "\n", "as it was written")
	assert.Equal(t, manifest.RequestAuthentication{
		Name: "users", Namespace: "production", Position: at(ra, 2), Selector: map[string]string{"app": "main-gateway"},
		Rules: []manifest.JWTRule{{
			Position: at(ra, 12), Issuer: "https://idp.example", Audiences: []string{"orders", "users"},
			JWKSURI: "https://idp.example/keys", Parameter: "token", Cookie: "session", Timeout: 5 * time.Second,
		}, {
			Position: at(ra, 23), Issuer: "partner", Audiences: []string{"orders"}, JWKS: jwks, Parameter: "token", Cookie: "session",
		}},
	}, all[0])
	all[0].Selector["app"], all[0].Rules[0].Audiences[0] = "x", "x"
	assert.NotEqual(t, all, set.RequestAuthentications(), "what is returned belongs to the caller")
	assert.Empty(t, new(manifest.Set).RequestAuthentications())
}

// Where Istio looks for a token if nothing is said.
func TestDefaultPlaces(t *testing.T) {
	t.Parallel()
	for from, want := range map[string][2]string{
		"": {"access_token", ""},
		`, fromHeaders: [{name: Authorization, prefix: "Bearer "}]`:                                    {"", ""},
		`, fromHeaders: [{name: Authorization, prefix: "Bearer "}], fromCookies: [c]`:                  {"", "c"},
		`, fromHeaders: [{name: AUTHORIZATION, prefix: "Bearer "}], fromParams: [p]`:                   {"p", ""},
		`, fromHeaders: [{name: Authorization, prefix: "Bearer "}], fromParams: [p], fromCookies: [c]`: {"p", "c"},
	} {
		set, err := manifest.Parse("a.yaml", []byte(requestAuth("{issuer: https://i"+from+"}")))
		require.NoError(t, err)
		r := set.RequestAuthentications()[0].Rules[0]
		assert.Equal(t, want, [2]string{r.Parameter, r.Cookie}, from)
	}
}

// requestAuth is a document with these rules.
func requestAuth(rules ...string) string {
	return "apiVersion: security.istio.io/v1beta1\nkind: RequestAuthentication\nmetadata: {name: a, namespace: shop}\nspec:\n  jwtRules:\n  - " +
		strings.Join(rules, "\n  - ") + "\n"
}

func TestRequestAuthenticationFaults(t *testing.T) {
	t.Parallel()
	secret := `{"keys":[{"kty":"oct","k":"` + strings.Repeat("c2VjcmV0", 8) + `"}]}`
	const rule0, rule1 = inRA + "spec.jwtRules[0].", inRA + "spec.jwtRules[1]."
	for name, tt := range map[string]struct{ old, new, want string }{
		"targetRefs":              {"selector:", "targetRefs: []\n  selector:", ":8: " + inRA + "spec.targetRefs: the list is empty; fill it, or leave it out"},
		"no rules":                {"jwtRules:", "jwtRules: []\n  x:", ":11: " + inRA + "spec.jwtRules: the list is empty; fill it, or leave it out"},
		"no issuer":               {"- issuer: partner\n      audiences", "- audiences", ":23: " + rule1 + "issuer: is required"},
		"issuer twice":            {"issuer: partner", "issuer: https://idp.example", ":23: " + rule1 + `issuer: not supported by gatemesh: "https://idp.example" is the issuer of spec.jwtRules[0] already`},
		"audiences":               {`["orders"]`, `[]`, ":24: " + rule1 + "audiences: the list is empty; fill it, or leave it out"},
		"audience":                {`["orders"]`, `[""]`, ":24: " + rule1 + "audiences[0]: is empty"},
		"both keys":               {"jwks: |", "jwksUri: https://x\n      jwks: |", ":26: " + rule1 + "jwks: stands beside jwksUri; only one of them can say what the keys are"},
		"no JWKS":                 {"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo", "", ":25: " + rule1 + "jwks: JWKS key 0: x is missing; JWKS has no usable key"},
		"a secret":                {`{"keys":[{"kty":"OKP","crv":"Ed25519","kid":"p","alg":"EdDSA","use":"sig",` + "\n        " + `"x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}`, secret, ":25: " + rule1 + `jwks: key "" is of another kind than the algorithms`},
		"keys as YAML":            {"jwks: |\n        {", "jwks:\n        {", ":26: " + rule1 + "jwks: must be a single value, not a mapping"},
		"empty keys":              {"jwksUri: https://idp.example/keys", `jwksUri: ""`, ":14: " + rule0 + "jwksUri: is empty"},
		"timeout without a fetch": {"jwks: |", "timeout: 5s\n      jwks: |", ":25: " + rule1 + "timeout: has no effect: the keys of jwks are not fetched"},
		"timeout":                 {"timeout: 5s", "timeout: 2m", ":15: " + rule0 + `timeout: "2m" is not a number and its unit from 1ms to 1m, such as 5s`},
		"timeout as a number":     {"timeout: 5s", "timeout: 5", ":15: " + rule0 + `timeout: must be a string, not a number; quote it: "5"`},
		"a token is required":     {"OPTIONAL", "REQUIRED", ":16: " + rule0 + "presence: REQUIRED is not supported by gatemesh; it must be OPTIONAL"},
		"presence":                {"OPTIONAL", "SOMETIMES", ":16: " + rule0 + `presence: "SOMETIMES" is unknown; it must be OPTIONAL`},
		"forwarded":               {"forwardOriginalToken: false", "forwardOriginalToken: true", ":17: " + rule0 + "forwardOriginalToken: true is not supported by gatemesh: a credential does not go upstream, the signed X-Gatemesh-Identity does"},
		"not a boolean":           {"forwardOriginalToken: false", `forwardOriginalToken: "true"`, ":17: " + rule0 + "forwardOriginalToken: must be true or false, not a string"},
		"a boolean of YAML 1.1":   {"forwardOriginalToken: false", `forwardOriginalToken: TRUE`, ":17: " + rule0 + "forwardOriginalToken: must be true or false, not a boolean"},
		"header":                  {"name: Authorization", "name: x-token", ":19: " + rule0 + `fromHeaders[0]: not supported by gatemesh: the one field that is read is Authorization, with prefix "Bearer "`},
		"prefix":                  {`prefix: "Bearer "`, `prefix: "Bearer"`, ":19: " + rule0 + `fromHeaders[0]: not supported by gatemesh: the one field that is read is Authorization, with prefix "Bearer "`},
		"no prefix":               {"name: Authorization\n          prefix: \"Bearer \"", "name: Authorization", ":19: " + rule0 + `fromHeaders[0].prefix: is required`},
		"cookies alone":           {"fromHeaders:\n        - name: Authorization\n          prefix: \"Bearer \"\n      ", "", ":12: " + rule0 + `fromHeaders: not supported by gatemesh: the Authorization field is read in any case; say so with name Authorization and prefix "Bearer "`},
		"two parameters":          {`fromParams: ["token"]`, `fromParams: ["token", "t"]`, ":21: " + rule0 + "fromParams: the list has 2 entries; at most 1 are allowed"},
		"parameter":               {`fromParams: ["token"]`, `fromParams: ["a b"]`, ":21: " + rule0 + `fromParams[0]: "a b" is not a name that auth looks for`},
		"cookie":                  {`["session"]`, `["` + strings.Repeat("a", 65) + `"]`, ":22: " + rule0 + `fromCookies[0]: is longer than 64 characters`},
		"payload to header":       {"timeout: 5s", "outputPayloadToHeader: x", ":15: " + rule0 + "outputPayloadToHeader: not supported by gatemesh: claims go upstream in the signed X-Gatemesh-Identity"},
		"claim to headers":        {"timeout: 5s", "outputClaimToHeaders: []", ":15: " + rule0 + "outputClaimToHeaders: not supported by gatemesh: claims go upstream in the signed X-Gatemesh-Identity"},
		"claims":                  {"timeout: 5s", "spaceDelimitedClaims: [a]", ":15: " + rule0 + "spaceDelimitedClaims: not supported by gatemesh: scope and scp are taken apart, and no other claim"},
		"alias":                   {"jwksUri:", "jwks_uri:", ":14: " + rule0 + "jwks_uri: not supported by gatemesh: write jwksUri"},
		"unknown":                 {"timeout: 5s", "algorithms: [none]", ":15: " + rule0 + "algorithms: unknown field"},
		"issuer is no URL":        {"issuer: https://idp.example\n      audiences: [\"orders\", \"users\"]\n      jwksUri: https://idp.example/keys", "issuer: idp@example", ":12: " + rule0 + `issuer: "idp@example" is not a URL at which its keys can be discovered, so jwksUri or jwks is required`},
		"issuer with a query":     {"issuer: https://idp.example\n      audiences: [\"orders\", \"users\"]\n      jwksUri: https://idp.example/keys", "issuer: https://idp.example?a", ":12: " + rule0 + `issuer: "https://idp.example?a" is not a URL at which its keys can be discovered, so jwksUri or jwks is required`},
		"twice":                   {"# Users", "apiVersion: security.istio.io/v1\nkind: RequestAuthentication\nmetadata: {name: users, namespace: production}\nspec: {jwtRules: [{issuer: https://i}]}\n---\n#", ":10: " + inRA + "metadata.name: there is another one of this name, in " + ra},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			before := read(t, ra)
			after := strings.Replace(before, tt.old, tt.new, 1)
			require.NotEqual(t, before, after, "the change applies")
			set, err := manifest.LoadFS(fstest.MapFS{ra: {Data: []byte(after)}})
			assert.Nil(t, set)
			require.Error(t, err)
			if first, _, _ := strings.Cut(err.Error(), "\n"); name != "no rules" {
				assert.Equal(t, ra+tt.want, err.Error())
			} else {
				assert.Equal(t, ra+tt.want, first)
			}
		})
	}
}

// JWT-07: a key set is at a URL of an issuer, and what may be secret in it is
// not told.
func TestJWT07_WhereKeysMayBe(t *testing.T) {
	t.Parallel()
	for _, uri := range []string{
		"file:///etc/passwd", "//idp.example/keys", "idp.example/keys", "https://", "https:///keys", "https://:443/keys", "gopher://x", "ldap://x",
		"https://user:hunter2@idp.example/keys", "https://idp.example/keys#hunter2", "https://idp.example:port/", "https://%zz/", " https://idp.example", "unix:///run/x",
	} {
		_, err := manifest.Parse("a.yaml", []byte(requestAuth(`{issuer: i, jwksUri: "`+uri+`"}`)))
		require.EqualError(t, err, "a.yaml:6: RequestAuthentication shop/a: spec.jwtRules[0].jwksUri: is not an absolute https URL without user and fragment", uri)
	}
}
