package identity_test

import (
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/gatemesh-go/gatemesh"
	"github.com/gatemesh-go/gatemesh/auth/identity"
)

func TestVerifiedPrincipal(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m := newMinter(t, func(c *identity.MinterConfig) { c.Claims = []string{"tenant"} })
		v := newVerifier(t, m, nil)
		token := mint(t, m, alice(), "v2")
		adm, err := verify(t, v, token)
		require.NoError(t, err, cause(err))
		assert.Equal(t, "v2", adm.Lane)
		assert.Zero(t, adm.Until, "an identity does not bound streams")
		p := adm.Principal
		assert.Equal(t, "identity", p.Method())
		assert.Equal(t, "https://idp.example", p.Issuer())
		assert.Equal(t, "alice", p.Subject())
		assert.Equal(t, "shop-app", p.Consumer())
		assert.Equal(t, []string{"orders:read", "orders:write"}, p.Scopes())
		assert.Equal(t, []string{trustDomain}, p.Audience())
		assert.True(t, p.Expires().Equal(time.Now().Add(time.Minute)))
		tenant, _ := p.ClaimString("tenant")
		assert.Equal(t, "acme", tenant)
		how, _ := p.ClaimString(identity.MethodClaim)
		assert.Equal(t, "jwt", how)
		again, err := verify(t, v, strings.Clone(token))
		require.NoError(t, err)
		assert.Same(t, p, again.Principal, "verified once")
	})
}

func TestID04_EachByteFlipped(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m := newMinter(t, nil)
		v := newVerifier(t, m, nil)
		token := mint(t, m, alice(), "v2")
		for range 2 { // before and after the good one was remembered
			for i := range len(token) {
				for _, flip := range []byte{1, 2, 4, 8, 16, 32, 64, 128} {
					b := []byte(token)
					b[i] ^= flip
					_, err := verify(t, v, string(b))
					require.Equal(t, invalid, reason(err), "byte %d ^ %d", i, flip)
				}
			}
			_, err := verify(t, v, token)
			require.NoError(t, err)
		}
	})
}

func TestID04_RefusedTokens(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		now := time.Now()
		key := signingKey(1)
		good := payload(now, "")
		body := func(from, to string) string {
			p := strings.Replace(good, from, to, 1)
			require.NotEqual(t, good, p)
			return forge(key, goodHeader, p)
		}
		token := forge(key, goodHeader, good)
		part := strings.Split(token, ".")
		header := func(h string) string { return forge(key, h, good) }
		iat, exp := fmt.Sprintf(`"iat":%d`, now.Unix()), fmt.Sprintf(`"exp":%d`, now.Unix()+60)
		hs := strings.Replace(goodHeader, "EdDSA", "HS256", 1)

		v := newVerifier(t, staticKeys(t, key.Public()), nil)
		_, err := verify(t, v, token)
		require.NoError(t, err, cause(err))

		for name, c := range map[string]struct{ token, cause string }{
			"empty":            {"", "compact JWS"},
			"a word":           {"alice", "compact JWS"},
			"dots":             {"..", "compact JWS"},
			"unsigned":         {part[0] + "." + part[1] + ".", "compact JWS"},
			"two segments":     {part[0] + "." + part[1], "compact JWS"},
			"four segments":    {token + "." + part[2], "compact JWS"},
			"padding":          {token + "==", "compact JWS"},
			"line break":       {token[:len(token)-1] + "\n", "compact JWS"},
			"two line breaks":  {token[:len(token)-2] + "\r\n", "compact JWS"},
			"space":            {" " + token[1:], "compact JWS"},
			"two in one":       {token + "," + token, "compact JWS"},
			"short signature":  {token[:len(token)-1], "compact JWS"},
			"stray bits":       {token[:len(token)-1] + string(nextInAlphabet(token[len(token)-1])), "compact JWS"},
			"too long":         {token + strings.Repeat("A", 8<<10), "8 KiB"},
			"64 Ki dots":       {strings.Repeat(".", 64<<10), "8 KiB"},
			"alg none":         {base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"none"}`)) + "." + part[1] + "." + part[2], "header"},
			"alg HS256":        {header(hs), "header"},
			"no typ":           {header(`{"alg":"EdDSA","kid":"k1"}`), "header"},
			"typ JWT":          {header(`{"alg":"EdDSA","kid":"k1","typ":"JWT"}`), "header"},
			"no kid":           {header(`{"alg":"EdDSA","kid":"","typ":"gatemesh-id+jwt"}`), "header"},
			"crit":             {header(`{"alg":"EdDSA","kid":"k1","typ":"gatemesh-id+jwt","crit":["exp"]}`), "header"},
			"smuggled jwk":     {header(`{"alg":"EdDSA","kid":"k1","jwk":{},"typ":"gatemesh-id+jwt"}`), "header"},
			"spaces in header": {header(`{"alg": "EdDSA","kid":"k1","typ":"gatemesh-id+jwt"}`), "header"},
			"path as kid":      {header(`{"alg":"EdDSA","kid":"../k1","typ":"gatemesh-id+jwt"}`), "header"},
			"long kid":         {header(`{"alg":"EdDSA","kid":"` + strings.Repeat("k", 65) + `","typ":"gatemesh-id+jwt"}`), "header"},
			"huge header":      {header(strings.Repeat(" ", 4000)), "header"},
			"unknown kid":      {header(strings.Replace(goodHeader, "k1", "k2", 1)), `key "k2" is unknown`},
			"another's key":    {forge(signingKey(2), goodHeader, good), "does not verify"},
			"changed payload":  {part[0] + "." + strings.Split(body("alice", "admin"), ".")[1] + "." + part[2], "does not verify"},
			"other issuer":     {body(issuer, issuer+"/"), "another issuer"},
			"other audience":   {body(trustDomain, "other.local"), "another audience"},
			"audience prefix":  {body(trustDomain, trustDomain+"."), "another audience"},
			"no audience":      {body(`["`+trustDomain+`"]`, "[]"), "another audience"},
			"audience string":  {body(`["`+trustDomain+`"]`, `"`+trustDomain+`"`), "malformed"},
			"future":           {forge(key, goodHeader, payload(now.Add(6*time.Second), "")), "in the future"},
			"no exp":           {body(","+exp, ""), "no lifetime"},
			"null exp":         {body(exp, `"exp":null`), "no lifetime"},
			"string exp":       {body(exp, `"exp":"1"`), "malformed"},
			"exp 1e30":         {body(exp, `"exp":1e30`), "malformed"},
			"fractional exp":   {body(exp, exp+".5"), "malformed"},
			"far exp":          {body(exp, `"exp":9223372036854775807`), "no lifetime"},
			"exp before iat":   {body(exp, fmt.Sprintf(`"exp":%d`, now.Unix())), "no lifetime"},
			"too long a life":  {body(exp, fmt.Sprintf(`"exp":%d`, now.Unix()+601)), "no lifetime"},
			"no iat":           {body(iat+",", ""), "no lifetime"},
			"negative iat":     {body(iat, `"iat":-9223372036854775808`), "no lifetime"},
			"nobody":           {body(`"sub":"alice"`, `"sub":""`), "neither sub"},
			"name twice":       {forge(key, goodHeader, payload(now, `,"sub":"admin"`)), "malformed"},
			"folded name":      {body(`"sub"`, `"SUB"`), "neither sub"},
			"payload null":     {forge(key, goodHeader, "null"), "malformed"},
			"payload array":    {forge(key, goodHeader, "["+good+"]"), "malformed"},
			"payload empty":    {forge(key, goodHeader, ""), "compact JWS"},
			"payload {}":       {forge(key, goodHeader, "{}"), "another issuer"},
			"two payloads":     {forge(key, goodHeader, good+good), "malformed"},
			"trailing brace":   {forge(key, goodHeader, good+"}"), "malformed"},
			"unfinished":       {forge(key, goodHeader, good[:len(good)-1]), "malformed"},
			"not UTF-8":        {body("alice", "\xff"), "malformed"},
		} {
			adm, err := verify(t, v, c.token)
			assert.Equal(t, invalid, reason(err), name)
			assert.Contains(t, cause(err), c.cause, name)
			assert.Nil(t, adm.Principal, name)
			assert.NotContains(t, fmt.Sprintf("%+v %s", err, cause(err)), part[2][:20], name)
		}
		_, err = verify(t, v, forge(key, goodHeader, payload(now, `,"SUB":"admin","unknown":{"a":[1]}`)))
		assert.NoError(t, err, "unknown claims are ignored")
	})
}

// nextInAlphabet returns the base64url digit after c, which differs from it in
// the lowest bit when c stands at the end of a 64-byte value.
func nextInAlphabet(c byte) byte {
	const digits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
	return digits[strings.IndexByte(digits, c)+1]
}

func TestID04_Age(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m := newMinter(t, nil)
		v := newVerifier(t, m, nil)
		other := newVerifier(t, m, nil)
		token := mint(t, m, alice(), "")
		_, err := verify(t, v, token)
		require.NoError(t, err)
		time.Sleep(65*time.Second - time.Nanosecond)
		_, err = verify(t, v, token)
		require.NoError(t, err, "within the leeway, remembered")
		time.Sleep(time.Nanosecond)
		_, err = verify(t, v, token)
		assert.Equal(t, "unauthenticated identity_expired", reason(err), "remembered")
		_, err = verify(t, other, token)
		assert.Equal(t, "unauthenticated identity_expired", reason(err), "new")

		ahead := func(d time.Duration) string {
			return forge(signingKey(1), goodHeader, payload(time.Now().Add(d), ""))
		}
		_, err = verify(t, v, ahead(5*time.Second))
		assert.NoError(t, err)
		_, err = verify(t, v, ahead(6*time.Second))
		assert.Equal(t, invalid, reason(err))
	})
}

func TestID04_OtherService(t *testing.T) {
	t.Parallel()
	m := newMinter(t, func(c *identity.MinterConfig) { c.Audience = []string{"orders", "billing"} })
	token := mint(t, m, alice(), "")
	for audience, want := range map[string]bool{"orders": true, "billing": true, "users": false, "Orders": false} {
		v := newVerifier(t, m, func(c *identity.VerifierConfig) { c.Audience = []string{"x", audience} })
		_, err := verify(t, v, token)
		assert.Equal(t, want, err == nil, audience)
	}
}

// sendIdentity sends values through a real Entry, since nothing else can make a
// Call with several of them.
func sendIdentity(t *testing.T, gate gatemesh.Layer, values ...string) *httptest.ResponseRecorder {
	t.Helper()
	chain, err := gatemesh.NewChain(gatemesh.Must(gatemesh.NewEntry(gatemesh.EntryConfig{})), gate)
	require.NoError(t, err)
	r := httptest.NewRequest(http.MethodGet, "/", nil)
	r.Header["X-Gatemesh-Identity"] = values
	w := httptest.NewRecorder()
	chain.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if p := gatemesh.FromContext(r.Context()).Principal(); p != nil {
			_, _ = w.Write([]byte(p.Subject()))
		}
	})).ServeHTTP(w, r)
	return w
}

func TestID04_NoneOneOrTwo(t *testing.T) {
	t.Parallel()
	m := newMinter(t, nil)
	token := mint(t, m, alice(), "")
	required := newVerifier(t, m, nil)
	optional := newVerifier(t, m, func(c *identity.VerifierConfig) { c.Optional = true })
	for _, c := range []struct {
		name   string
		gate   *identity.Verifier
		values []string
		want   string // body, or the reason of a 401
	}{
		{"none", required, nil, "identity_missing"},
		{"one", required, []string{token}, "alice"},
		{"the same twice", required, []string{token, token}, "identity_ambiguous"},
		{"good and evil", required, []string{token, "evil"}, "identity_ambiguous"},
		{"evil and good", required, []string{"evil", token}, "identity_ambiguous"},
		{"empty", required, []string{""}, "identity_invalid"},
		{"optional, none", optional, nil, ""},
		{"optional, one", optional, []string{token}, "alice"},
		{"optional, evil", optional, []string{"evil"}, "identity_invalid"},
		{"optional, empty", optional, []string{""}, "identity_invalid"},
		{"optional, two", optional, []string{token, token}, "identity_ambiguous"},
	} {
		w := sendIdentity(t, c.gate.Layer(), c.values...)
		if !strings.HasPrefix(c.want, "identity_") {
			assert.Equal(t, http.StatusOK, w.Code, c.name)
			assert.Equal(t, c.want, w.Body.String(), c.name)
			continue
		}
		assert.Equal(t, http.StatusUnauthorized, w.Code, c.name)
		assert.Equal(t, "Gatemesh-Identity", w.Header().Get("WWW-Authenticate"), c.name)
		var problem struct{ Reason string }
		require.NoError(t, json.Unmarshal(w.Body.Bytes(), &problem), c.name)
		assert.Equal(t, c.want, problem.Reason, c.name)
	}
}

func TestID04_EmptyKeySet(t *testing.T) {
	t.Parallel()
	var noFunc identity.KeyFunc
	var noKeysHolder *identity.Keys
	var noMinter *identity.Minter
	for name, keys := range map[string]identity.KeySource{
		"nil": nil, "static": identity.StaticKeys{}, "holder": &identity.Keys{}, "nil holder": noKeysHolder,
		"nil func": noFunc, "minter": &identity.Minter{}, "nil minter": noMinter,
	} {
		v, err := identity.NewVerifier(identity.VerifierConfig{Issuer: issuer, Audience: []string{trustDomain}, Keys: keys})
		assert.ErrorContains(t, err, "identity: VerifierConfig.Keys is", name)
		assert.Nil(t, v, name)
	}
}

func TestVerifierBadKeySource(t *testing.T) {
	t.Parallel()
	token := mint(t, newMinter(t, nil), alice(), "")
	for name, f := range map[string]identity.KeyFunc{
		"nil key":   func(string) (ed25519.PublicKey, bool) { return nil, true },
		"short key": func(string) (ed25519.PublicKey, bool) { return make([]byte, 31), true },
		"other key": func(string) (ed25519.PublicKey, bool) { return signingKey(2).Public().Key, true },
	} {
		_, err := verify(t, newVerifier(t, f, nil), token)
		assert.Equal(t, invalid, reason(err), name)
	}
}

func TestVerifierFailsClosed(t *testing.T) {
	t.Parallel()
	v := newVerifier(t, signer(), func(c *identity.VerifierConfig) { c.Optional = true })
	_, err := v.Admit(t.Context(), &gatemesh.Call{})
	assert.Equal(t, "internal identity_unverifiable", reason(err), "the field is not reserved: it could be anybody's")
	_, _, err = v.AdmitCached(t.Context(), &gatemesh.Call{})
	assert.Equal(t, "internal identity_unverifiable", reason(err))

	var zero identity.Verifier
	_, err = verify(t, &zero, "x")
	assert.Equal(t, "internal identity_unverifiable", reason(err))
	w := httptest.NewRecorder()
	zero.Handler(http.NotFoundHandler()).ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/", nil))
	assert.Equal(t, http.StatusInternalServerError, w.Code, "no Entry")
}

func signer() identity.KeySource {
	return identity.KeyFunc(func(string) (ed25519.PublicKey, bool) { return signingKey(1).Public().Key, true })
}

func TestVerifierHandler(t *testing.T) {
	t.Parallel()
	var events recorder
	m := newMinter(t, nil)
	v := newVerifier(t, m, func(c *identity.VerifierConfig) { c.Observer = &events })
	next := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = w.Write([]byte(gatemesh.FromContext(r.Context()).Principal().Subject()))
	})
	r := httptest.NewRequest(http.MethodGet, "/", nil)
	r.Header.Set(gatemesh.IdentityHeader, mint(t, m, alice(), ""))
	w := httptest.NewRecorder()
	gatemesh.Must(gatemesh.NewEntry(gatemesh.EntryConfig{})).Handler(v.Handler(next)).ServeHTTP(w, r)
	assert.Equal(t, "alice", w.Body.String())
	assert.Empty(t, events.all())

	w = httptest.NewRecorder()
	v.Handler(next).ServeHTTP(w, r)
	assert.Equal(t, http.StatusInternalServerError, w.Code)
	require.Len(t, events.all(), 1)
	assert.Equal(t, "identity", events.all()[0].Layer)
}

func TestAdmitCached(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m := newMinter(t, nil)
		v := newVerifier(t, m, nil)
		var _ gatemesh.CachedGate = v
		token := mint(t, m, alice(), "v2")
		_, ok, err := v.AdmitCached(t.Context(), inbound(t, token))
		assert.NoError(t, err)
		assert.False(t, ok, "the signature has to be verified")
		_, err = verify(t, v, token)
		require.NoError(t, err)
		adm, ok, err := v.AdmitCached(t.Context(), inbound(t, token))
		assert.NoError(t, err)
		assert.True(t, ok)
		assert.Equal(t, "v2", adm.Lane)
		assert.Equal(t, "alice", adm.Principal.Subject())
		time.Sleep(65 * time.Second)
		_, ok, err = v.AdmitCached(t.Context(), inbound(t, token))
		assert.NoError(t, err)
		assert.False(t, ok, "expired")

		none, err := gatemesh.NewCall(gatemesh.CallInfo{})
		require.NoError(t, err)
		_, ok, err = v.AdmitCached(t.Context(), none)
		assert.True(t, ok)
		assert.Equal(t, "unauthenticated identity_missing", reason(err))
	})
}

func TestNewVerifierReportsAllFaults(t *testing.T) {
	t.Parallel()
	_, err := identity.NewVerifier(identity.VerifierConfig{MaxLifetime: time.Second, Leeway: -1, CacheEntries: -1})
	require.Error(t, err)
	for _, want := range []string{"Issuer is required", "Audience is required", "Keys is required", "MaxLifetime is 1s", "Leeway is -1ns", "CacheEntries is -1"} {
		assert.ErrorContains(t, err, "identity: VerifierConfig."+want)
	}
	_, err = identity.NewVerifier(identity.VerifierConfig{Issuer: "a", Audience: []string{""}, Keys: signer(), MaxLifetime: 2 * time.Hour, Leeway: 2 * time.Minute})
	for _, want := range []string{"Audience[0] is empty", "MaxLifetime is 2h", "Leeway is 2m"} {
		assert.ErrorContains(t, err, "identity: VerifierConfig."+want)
	}
}

func TestVerifierUpdate(t *testing.T) {
	t.Parallel()
	m := newMinter(t, nil)
	v := newVerifier(t, m, nil)
	token := mint(t, m, alice(), "")
	_, err := verify(t, v, token)
	require.NoError(t, err)

	require.Error(t, v.Update(identity.VerifierConfig{}))
	_, err = verify(t, v, token)
	require.NoError(t, err, "a bad configuration changes nothing")

	audience := []string{"other.local"}
	require.NoError(t, v.Update(identity.VerifierConfig{Issuer: issuer, Audience: audience, Keys: m}))
	audience[0] = trustDomain
	_, err = verify(t, v, token)
	assert.Equal(t, invalid, reason(err), "a remembered token is judged by the new configuration")
}

func TestLayers(t *testing.T) {
	t.Parallel()
	l := newVerifier(t, signer(), nil).Layer()
	assert.Equal(t, "identity", l.Name)
	assert.Equal(t, []gatemesh.Fact{gatemesh.FactPrincipal}, l.Gives)
	assert.Equal(t, []gatemesh.Fact{gatemesh.FactPeer}, l.After)
	assert.Equal(t, "identity mint", newMinter(t, nil).Layer().Name)
	assert.Equal(t, "identity forward", identity.Forward().Name)
}
