package manifest_test

import (
	"crypto/ed25519"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/gatemesh-go/gatemesh"
	"github.com/gatemesh-go/gatemesh/auth"
	"github.com/gatemesh-go/gatemesh/auth/policy"
	"github.com/gatemesh-go/gatemesh/manifest"
)

// signer signs tokens with a key of its own.
type signer struct{ private ed25519.PrivateKey }

func newSigner(seed byte) signer {
	return signer{ed25519.NewKeyFromSeed([]byte(strings.Repeat(string(seed), ed25519.SeedSize)))}
}

func segment(v string) string { return base64.RawURLEncoding.EncodeToString([]byte(v)) }

func (s signer) public() string { return segment(string(s.private[ed25519.SeedSize:])) }

func (s signer) jwks() string {
	return fmt.Sprintf(`{"keys":[{"kty":"OKP","crv":"Ed25519","kid":"k","x":%q}]}`, s.public())
}

func claims(issuer, audience string) string {
	return fmt.Sprintf(`{"iss":%q,"aud":%q,"sub":"alice","exp":%d}`, issuer, audience, time.Now().Add(time.Hour).Unix())
}

func (s signer) token(issuer, audience string) string {
	signed := segment(`{"alg":"EdDSA","kid":"k"}`) + "." + segment(claims(issuer, audience))
	return signed + "." + segment(string(ed25519.Sign(s.private, []byte(signed))))
}

var gateway = gatemesh.Workload{
	Name: "gw", TrustDomain: "t", Namespace: "shop", ServiceAccount: "gw", Labels: map[string]string{"app": "gw"},
}

// inline is a rule with its keys.
func inline(issuer, audience string, s signer, more string) string {
	return fmt.Sprintf("{issuer: %q, audiences: [%q], jwks: %q%s}", issuer, audience, s.jwks(), more)
}

func authentication(t testing.TB, yaml string, change ...func(*manifest.AuthenticationConfig)) *manifest.Authentication {
	t.Helper()
	set, err := manifest.Parse("a.yaml", []byte(yaml))
	require.NoError(t, err)
	cfg := manifest.AuthenticationConfig{Workload: gateway}
	for _, f := range change {
		f(&cfg)
	}
	a, err := set.Authentication(cfg)
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, a.Close()) })
	return a
}

// outcome is "ok", "nobody" for a call without a principal, or why it is refused.
func outcome(t testing.TB, a *auth.Authenticator, header http.Header, query string) string {
	t.Helper()
	c, err := gatemesh.NewCall(gatemesh.CallInfo{Host: "a", Header: header, RawQuery: query})
	require.NoError(t, err)
	adm, err := a.Admit(t.Context(), c)
	var d *gatemesh.Denial
	switch {
	case errors.As(err, &d):
		assert.Equal(t, http.StatusUnauthorized, d.HTTPStatus())
		return d.Reason
	case adm.Principal == nil:
		return "nobody"
	}
	return "ok"
}

func bearer(token string) http.Header { return http.Header{"Authorization": {"Bearer " + token}} }

// What Istio means: a token must be good, and there need not be one.
func TestAuthenticationSemantics(t *testing.T) {
	t.Parallel()
	one, two := newSigner(1), newSigner(2)
	a, err := auth.New(authentication(t, requestAuth(inline("one", "api", one, ""), inline("two", "api", two, ""))).Config())
	require.NoError(t, err)
	hs := segment(`{"alg":"HS256","kid":"k"}`) + "." + segment(claims("one", "api"))
	public, err := base64.RawURLEncoding.DecodeString(one.public())
	require.NoError(t, err)
	mac := hmac.New(sha256.New, public)
	mac.Write([]byte(hs))
	for name, c := range map[string]struct {
		header http.Header
		query  string
		want   string
	}{
		"nothing":                      {nil, "", "nobody"},
		"one":                          {bearer(one.token("one", "api")), "", "ok"},
		"two":                          {bearer(two.token("two", "api")), "", "ok"},
		"in the query":                 {nil, "access_token=" + one.token("one", "api"), "ok"},
		"not good in the query":        {nil, "access_token=" + one.token("two", "api"), "token_signature"},
		"of the other key":             {bearer(one.token("two", "api")), "", "token_signature"},
		"of a third issuer":            {bearer(one.token("three", "api")), "", "token_issuer"},
		"for somebody else":            {bearer(one.token("one", "web")), "", "token_audience"},
		"unsigned":                     {bearer(segment(`{"alg":"none"}`) + "." + segment(claims("one", "api")) + ".eA"), "", "token_algorithm"},
		"the public key as a secret":   {bearer(hs + "." + segment(string(mac.Sum(nil)))), "", "token_algorithm"},
		"garbage":                      {bearer("x"), "", "token_malformed"},
		"of another scheme":            {http.Header{"Authorization": {"Basic YTpi"}}, "", "credential_scheme"},
		"two tokens":                   {bearer(one.token("one", "api")), "access_token=" + one.token("one", "api"), "credential_ambiguous"},
		"a cookie that is not a place": {http.Header{"Cookie": {"session=x"}}, "", "nobody"},
	} {
		assert.Equal(t, c.want, outcome(t, a, c.header, c.query), name)
	}
}

// Invariant 4: a call without a token has no principal, and only a rule that
// asks for none lets it in.
func TestAnonymousAndPolicies(t *testing.T) {
	t.Parallel()
	cfg := authentication(t, requestAuth(inline("one", "api", newSigner(1), ""))).Config()
	for source, admitted := range map[string]bool{
		`requestPrincipals: ["*"]`:         false,
		`requestPrincipals: ["one/alice"]`: false,
		`requestPrincipals: ["one/*"]`:     false,
		`notRequestPrincipals: ["one/*"]`:  true, // as in Istio: whoever is nobody is not one of these
		`notRequestPrincipals: ["*"]`:      true,
		`ipBlocks: ["0.0.0.0/0"]`:          true, // asks for no principal
	} {
		set, err := manifest.Parse("a.yaml", []byte(`
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: a, namespace: shop}
spec: {rules: [{from: [{source: {`+source+`}}]}]}
`))
		require.NoError(t, err)
		who, err := auth.New(cfg)
		require.NoError(t, err)
		may, err := policy.New(policy.Config{Workload: gateway, Policies: set.Policies(), Unselected: policy.Deny})
		require.NoError(t, err)
		chain, err := gatemesh.NewChain(gatemesh.Must(gatemesh.NewEntry(gatemesh.EntryConfig{})), who.Layer(), may.Layer())
		require.NoError(t, err)
		h := chain.Handler(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
		status := func(header http.Header) int { return serve(t, h, "/", header).Code }
		assert.Equal(t, admitted, status(nil) == http.StatusOK, source)
		assert.Equal(t, http.StatusUnauthorized, status(bearer("bad")), source)
		assert.Equal(t, !strings.HasPrefix(source, "not"), status(bearer(newSigner(1).token("one", "api"))) == http.StatusOK, source)
	}
}

// Several documents that select the workload hold together; others play no part.
func TestAuthenticationSelects(t *testing.T) {
	t.Parallel()
	s := newSigner(1)
	doc := func(name, namespace, selector, issuer string) string {
		return fmt.Sprintf("apiVersion: security.istio.io/v1\nkind: RequestAuthentication\nmetadata: {name: %s, namespace: %s}\nspec: {%sjwtRules: [%s]}\n---\n",
			name, namespace, selector, inline(issuer, "api", s, ""))
	}
	yaml := doc("a", "shop", "", "all") + doc("b", "shop", "selector: {matchLabels: {app: gw}}, ", "app") +
		doc("c", "shop", "selector: {matchLabels: {app: gw, tier: x}}, ", "tier") + doc("d", "other", "", "other") +
		doc("e", "istio-system", "", "root") + doc("f", "istio-system", "selector: {matchLabels: {app: x}}, ", "rootapp") +
		doc("g", "mesh", "", "mesh") + doc("h", "shop", "selector: {matchLabels: {app: x}}, ", "all")
	issuers := func(cfg auth.Config) (names []string) {
		for _, is := range cfg.Issuers {
			names = append(names, is.Issuer)
		}
		return names
	}
	a := authentication(t, yaml)
	assert.Equal(t, []string{"all", "app", "root"}, issuers(a.Config()))
	a = authentication(t, yaml, func(c *manifest.AuthenticationConfig) { c.RootNamespace = "mesh" })
	assert.Equal(t, []string{"all", "app", "mesh"}, issuers(a.Config()))
	a.Config().Issuers[0].Audience[0], a.Config().Issuers[0].Algorithms[0] = "x", "x"
	assert.Equal(t, []string{"api"}, a.Config().Issuers[0].Audience, "what is returned belongs to the caller")
	assert.Equal(t, "RS256", a.Config().Issuers[0].Algorithms[0])

	for _, cfg := range []auth.Config{authentication(t, doc("d", "other", "", "other")).Config(), new(manifest.Authentication).Config()} {
		none, err := auth.New(cfg)
		require.NoError(t, err)
		assert.Equal(t, "nobody", outcome(t, none, bearer("x"), "access_token=x"), "tokens are not looked at")
	}
}

func TestAuthenticationFaults(t *testing.T) {
	t.Parallel()
	s := newSigner(1)
	const at = "a.yaml:%d: RequestAuthentication shop/a: "
	for name, c := range map[string]struct {
		yaml   string
		change func(*manifest.AuthenticationConfig)
		want   []string
	}{
		"no audience": {requestAuth(`{issuer: https://i}`), nil, []string{fmt.Sprintf(at, 6) + "audiences is required: without it, tokens for any other service of the issuer would be good here, too"}},
		"two parameters": {requestAuth(inline("one", "api", s, ""), inline("two", "api", s, `, fromHeaders: [{name: Authorization, prefix: "Bearer "}]`)), nil,
			[]string{fmt.Sprintf(at, 7) + "not supported by gatemesh: tokens are read in other places"}},
		"two cookies": {requestAuth(inline("one", "api", s, `, fromHeaders: [{name: Authorization, prefix: "Bearer "}]`), inline("two", "api", s, `, fromHeaders: [{name: Authorization, prefix: "Bearer "}], fromCookies: [c]`)), nil,
			[]string{fmt.Sprintf(at, 7) + "not supported by gatemesh: tokens are read in other places"}},
		"two places": {requestAuth(inline("one", "api", s, ""), inline("two", "api", s, `, fromHeaders: [{name: Authorization, prefix: "Bearer "}], fromCookies: [c]`)), nil,
			[]string{fmt.Sprintf(at, 7) + "not supported by gatemesh: tokens are read in other places than those of another rule for this workload, in a.yaml:6"}},
		"issuer in two documents": {requestAuth(inline("one", "api", s, "")) + "---\n" + strings.Replace(requestAuth(`{issuer: one, audiences: [x], jwksUri: "https://x"}`), "name: a", "name: b", 1), nil,
			[]string{`a.yaml:13: RequestAuthentication shop/b: not supported by gatemesh: "one" is the issuer of another rule for this workload, in a.yaml:6`}},
		"http":           {requestAuth(`{issuer: i, audiences: [x], jwksUri: "http://idp.example/?secret"}`), nil, []string{fmt.Sprintf(at, 6) + "JWKSConfig.URL is not https; InsecureHTTP would allow it"}},
		"http discovery": {requestAuth(`{issuer: "http://idp.example", audiences: [x]}`), nil, []string{fmt.Sprintf(at, 6) + "JWKSConfig.Discovery is not https; InsecureHTTP would allow it"}},
		// The key set of the other rule is followed already, and must not go on.
		"no algorithm for the key": {requestAuth(`{issuer: two, audiences: [x], jwksUri: "https://x"}`, inline("one", "api", s, "")), func(c *manifest.AuthenticationConfig) {
			c.Algorithms, c.Fetch.Client = []string{"RS256"}, &http.Client{Transport: &hosts{}}
		},
			[]string{`auth: Config.Issuers[1].Keys: key "k" fits none of the algorithms`}},
		"workload": {requestAuth(inline("one", "api", s, "")), func(c *manifest.AuthenticationConfig) { c.Workload = gatemesh.Workload{} },
			[]string{"AuthenticationConfig.Workload is required"}},
		"secrets and none": {requestAuth(inline("one", "api", s, "")), func(c *manifest.AuthenticationConfig) { c.Algorithms = []string{"HS256", "none", "RS256"} },
			[]string{`AuthenticationConfig.Algorithms: "HS256" is not one of RS256,`, `AuthenticationConfig.Algorithms: "none" is not one of`}},
		"no algorithms": {requestAuth(inline("one", "api", s, "")), func(c *manifest.AuthenticationConfig) { c.Algorithms = []string{} },
			[]string{"AuthenticationConfig.Algorithms is empty"}},
		"a place in Fetch": {requestAuth(inline("one", "api", s, "")), func(c *manifest.AuthenticationConfig) { c.Fetch.URL = "https://x" },
			[]string{"AuthenticationConfig.Fetch: the manifests say where keys are"}},
		"fetching": {requestAuth(`{issuer: "https://i", audiences: [x]}`), func(c *manifest.AuthenticationConfig) { c.Fetch.MaxBody = -1 },
			[]string{fmt.Sprintf(at, 6) + "JWKSConfig.MaxBody -1"}},
		"too many": {manyRules(s), nil, []string{"a.yaml:76: RequestAuthentication shop/b: there are more than 64 rules for this workload"}},
		"all at once": {requestAuth(`{issuer: https://i}`, `{issuer: https://j}`), func(c *manifest.AuthenticationConfig) { c.Algorithms = []string{} },
			[]string{"Algorithms is empty", fmt.Sprintf(at, 6) + "audiences", fmt.Sprintf(at, 7) + "audiences"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			set, err := manifest.Parse("a.yaml", []byte(c.yaml))
			require.NoError(t, err)
			cfg := manifest.AuthenticationConfig{Workload: gateway}
			if c.change != nil {
				c.change(&cfg)
			}
			a, err := set.Authentication(cfg)
			assert.Nil(t, a)
			require.Error(t, err)
			for _, want := range c.want {
				assert.ErrorContains(t, err, want)
			}
			assert.NotContains(t, err.Error(), "secret")
		})
	}
}

// manyRules are 40 issuers in each of two documents.
func manyRules(s signer) string {
	var docs []string
	for _, name := range []string{"a", "b"} {
		var rules []string
		for i := range 40 {
			rules = append(rules, inline(fmt.Sprint(name, i), "api", s, ""))
		}
		docs = append(docs, strings.Replace(requestAuth(rules...), "name: a", "name: "+name, 1))
	}
	return strings.Join(docs, "---\n")
}

func TestAuthenticationAudience(t *testing.T) {
	t.Parallel()
	s := newSigner(1)
	yaml := requestAuth(fmt.Sprintf("{issuer: one, jwks: %q}", s.jwks()), inline("two", "web", s, ""))
	a, err := auth.New(authentication(t, yaml, func(c *manifest.AuthenticationConfig) { c.Audience = []string{"api"} }).Config())
	require.NoError(t, err)
	assert.Equal(t, "ok", outcome(t, a, bearer(s.token("one", "api")), ""))
	assert.Equal(t, "token_audience", outcome(t, a, bearer(s.token("one", "web")), ""))
	assert.Equal(t, "token_audience", outcome(t, a, bearer(s.token("two", "api")), ""), "a rule with audiences has these alone")
}

// hosts answers for issuers without a network.
type hosts struct {
	keys    map[string]string // what a URL serves
	down    atomic.Bool
	fetches atomic.Int32
}

func (h *hosts) RoundTrip(r *http.Request) (*http.Response, error) {
	h.fetches.Add(1)
	doc, ok := h.keys[r.URL.String()]
	if h.down.Load() || !ok {
		return nil, errors.New("connection refused")
	}
	return &http.Response{StatusCode: http.StatusOK, Body: io.NopCloser(strings.NewReader(doc)), Request: r}, nil
}

// A reload while the issuer is away costs nobody his token, and what has gone
// from the manifests is not fetched any more.
func TestAuthenticationPrevious(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newSigner(1)
		metadata, err := json.Marshal(map[string]string{"issuer": "https://two", "jwks_uri": "https://keys.two/k"})
		require.NoError(t, err)
		h := &hosts{keys: map[string]string{
			"https://one/keys": s.jwks(), "https://two/.well-known/openid-configuration": string(metadata), "https://keys.two/k": s.jwks(),
		}}
		fetch := func(c *manifest.AuthenticationConfig) { c.Fetch.Client = &http.Client{Transport: h} }
		const one, two = `{issuer: one, audiences: [api], jwksUri: "https://one/keys"}`, `{issuer: "https://two", audiences: [api]}`
		first := authentication(t, requestAuth(one, two), fetch)
		require.Len(t, first.KeySets(), 2)
		a, err := auth.New(first.Config())
		require.NoError(t, err)
		synctest.Wait()
		require.Equal(t, "ok", outcome(t, a, bearer(s.token("one", "api")), ""))
		require.Equal(t, "ok", outcome(t, a, bearer(s.token("https://two", "api")), ""))
		require.EqualValues(t, 3, h.fetches.Load())

		h.down.Store(true)
		after := func(previous *manifest.Authentication, rules ...string) *manifest.Authentication {
			return authentication(t, requestAuth(rules...), fetch, func(c *manifest.AuthenticationConfig) { c.Previous = previous })
		}
		second := after(first, two, one)
		assert.ElementsMatch(t, first.KeySets(), second.KeySets())
		require.NoError(t, a.Update(second.Config()))
		require.NoError(t, first.Close())
		require.NoError(t, first.Close())
		assert.Equal(t, "ok", outcome(t, a, bearer(s.token("one", "api")), ""))
		assert.Equal(t, "token_key_unknown", outcome(t, a, bearer(strings.Replace(s.token("one", "api"), segment(`{"alg":"EdDSA","kid":"k"}`), segment(`{"alg":"EdDSA","kid":"l"}`), 1)), ""))

		// A change that does not come about leaves everything.
		rejected := after(second, one)
		require.NoError(t, rejected.Close())
		h.down.Store(false)
		before := h.fetches.Load()
		time.Sleep(6 * time.Minute)
		synctest.Wait()
		assert.Greater(t, h.fetches.Load(), before+2, "both are followed")

		third := after(second, one)
		require.NoError(t, a.Update(third.Config()))
		require.NoError(t, second.Close())
		before = h.fetches.Load()
		time.Sleep(6 * time.Minute)
		synctest.Wait()
		assert.Equal(t, "token_issuer", outcome(t, a, bearer(s.token("https://two", "api")), ""))
		assert.LessOrEqual(t, h.fetches.Load(), before+2, "of one alone")
		assert.Greater(t, h.fetches.Load(), before)

		require.NoError(t, third.Close())
		fourth := after(third, one)
		assert.NotEqual(t, third.KeySets(), fourth.KeySets(), "what is closed is not used again")
		fifth := after(fourth, `{issuer: one, audiences: [api], jwksUri: "https://one/keys", timeout: 7s}`)
		assert.NotEqual(t, fourth.KeySets(), fifth.KeySets(), "another timeout")
	})
}

// The timeout of a rule bounds how long a token waits, and else that of Fetch.
func TestAuthenticationTimeout(t *testing.T) {
	t.Parallel()
	for rule, want := range map[string]time.Duration{", timeout: 7s": 7 * time.Second, "": 3 * time.Second} {
		synctest.Test(t, func(t *testing.T) {
			silent := roundTrip(func(r *http.Request) (*http.Response, error) {
				<-r.Context().Done()
				return nil, r.Context().Err()
			})
			a, err := auth.New(authentication(t, requestAuth(`{issuer: one, audiences: [api], jwksUri: "https://one/keys"`+rule+`}`),
				func(c *manifest.AuthenticationConfig) {
					c.Fetch.Client, c.Fetch.FetchTimeout = &http.Client{Transport: silent}, 3*time.Second
				}).Config())
			require.NoError(t, err)
			began := time.Now()
			assert.Equal(t, "token_key_unknown", outcome(t, a, bearer(newSigner(1).token("one", "api")), ""))
			assert.Equal(t, want, time.Since(began))
		})
	}
}

// JWT-07: what a token says of keys is not fetched, nor is what the endpoint
// redirects to.
func TestJWT07_OnlyTheManifestsSayWhatIsFetched(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newSigner(1)
		var asked []string
		client := &http.Client{Transport: roundTrip(func(r *http.Request) (*http.Response, error) {
			asked = append(asked, r.URL.String())
			return &http.Response{
				StatusCode: http.StatusFound, Header: http.Header{"Location": {"http://169.254.169.254/"}}, Body: http.NoBody, Request: r,
			}, nil
		})}
		a, err := auth.New(authentication(t, requestAuth(`{issuer: one, audiences: [api], jwksUri: "https://one/keys"}`),
			func(c *manifest.AuthenticationConfig) { c.Fetch.Client = client }).Config())
		require.NoError(t, err)
		signed := segment(`{"alg":"EdDSA","kid":"http://127.0.0.1/","jku":"http://127.0.0.1/","jwk":{"kty":"OKP","crv":"Ed25519","x":"`+s.public()+`"}}`) + "." + segment(claims("one", "api"))
		assert.Equal(t, "token_key_unknown", outcome(t, a, bearer(signed+"."+segment(string(ed25519.Sign(s.private, []byte(signed))))), ""))
		synctest.Wait()
		assert.Equal(t, []string{"https://one/keys"}, asked)
	})
}

type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }
