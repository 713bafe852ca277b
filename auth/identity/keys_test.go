package identity_test

import (
	"bytes"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/gatemesh-go/gatemesh/auth/identity"
)

// The key of RFC 8037 appendix A.2 and its thumbprint of appendix A.3.
const (
	rfcX          = "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"
	rfcThumbprint = "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k"
)

func TestDefaultKeyIDIsTheThumbprint(t *testing.T) {
	t.Parallel()
	x, err := base64.RawURLEncoding.DecodeString(rfcX)
	require.NoError(t, err)
	set := staticKeys(t, identity.PublicKey{Key: x})
	got, ok := set.Key(rfcThumbprint)
	assert.True(t, ok)
	assert.Equal(t, ed25519.PublicKey(x), got)

	k := identity.SigningKey{Private: signingKey(1).Private}
	m := newMinter(t, func(c *identity.MinterConfig) { c.Key = k })
	_, ok = m.Key(k.Public().ID)
	assert.True(t, ok)
	_, err = verify(t, newVerifier(t, staticKeys(t, k.Public()), nil), mint(t, m, alice(), ""))
	assert.NoError(t, err)
	assert.Equal(t, identity.PublicKey{ID: "x"}, identity.SigningKey{ID: "x"}.Public(), "no key, no panic")
}

func TestStaticKeys(t *testing.T) {
	t.Parallel()
	k1 := signingKey(1).Public()
	_, err := identity.NewStaticKeys()
	assert.ErrorContains(t, err, "identity: a set of keys must not be empty")
	_, err = identity.NewStaticKeys(k1, identity.PublicKey{ID: "a b", Key: k1.Key}, identity.PublicKey{}, k1)
	for _, want := range []string{"identity: key 1 has an ID that", "identity: key 2 has no key", `identity: key 3 has the ID "k1"`} {
		assert.ErrorContains(t, err, want)
	}
	given := bytes.Clone(k1.Key)
	set := staticKeys(t, identity.PublicKey{ID: "k1", Key: given})
	clear(given)
	got, _ := set.Key("k1")
	assert.Equal(t, k1.Key, got, "copied")
	_, ok := set.Key("k2")
	assert.False(t, ok)
}

func TestKeysHolder(t *testing.T) {
	t.Parallel()
	var zero identity.Keys
	_, ok := zero.Key("k1")
	assert.False(t, ok)
	_, err := identity.NewKeys(identity.StaticKeys{})
	assert.Error(t, err)
	k, err := identity.NewKeys(staticKeys(t, signingKey(1).Public()))
	require.NoError(t, err)
	assert.Error(t, k.Set(identity.StaticKeys{}))
	_, ok = k.Key("k1")
	assert.True(t, ok, "an empty set changes nothing")
	require.NoError(t, k.Set(staticKeys(t, signingKey(2).Public())))
	_, ok = k.Key("k1")
	assert.False(t, ok)
}

func TestJWKSRoundTrip(t *testing.T) {
	t.Parallel()
	m := newMinter(t, func(c *identity.MinterConfig) {
		c.Next, c.Previous = []identity.PublicKey{signingKey(2).Public()}, []identity.PublicKey{signingKey(0).Public()}
	})
	set, err := identity.ParseJWKS(m.JWKS())
	require.NoError(t, err)
	assert.Equal(t, 3, set.Len())
	for n := range 3 {
		want := signingKey(n).Public()
		got, ok := set.Key(want.ID)
		assert.True(t, ok)
		assert.Equal(t, want.Key, got)
		own, ok := m.Key(want.ID)
		assert.True(t, ok)
		assert.Equal(t, want.Key, own)
	}
	private := base64.RawURLEncoding.EncodeToString(signingKey(1).Private.Seed())
	assert.NotContains(t, string(m.JWKS()), private)
	m.JWKS()[0] = 'x'
	assert.True(t, json.Valid(m.JWKS()), "a copy")
}

func TestParseJWKS(t *testing.T) {
	t.Parallel()
	good := `{"kty":"OKP","crv":"Ed25519","kid":"a","x":"` + rfcX + `"}`
	with := func(more string) string { return strings.Replace(good, "}", ","+more+"}", 1) }
	for name, c := range map[string]struct{ doc, fault string }{
		"one":              {`{"keys":[` + good + `]}`, ""},
		"all that fits":    {`{"keys":[` + with(`"use":"sig","alg":"Ed25519","key_ops":["verify"]`) + `]}`, ""},
		"others skipped":   {`{"keys":[{"kty":"RSA","n":"AQ","e":"AQAB"},{"kty":"OKP","crv":"X25519","x":"AA"},` + good + `]}`, ""},
		"empty":            {`{"keys":[]}`, "no Ed25519 signature key"},
		"no keys":          {`{}`, "no Ed25519 signature key"},
		"null":             {`null`, "no Ed25519 signature key"},
		"only encryption":  {`{"keys":[` + with(`"use":"enc"`) + `]}`, "no Ed25519 signature key"},
		"only other alg":   {`{"keys":[` + with(`"alg":"ES256"`) + `]}`, "no Ed25519 signature key"},
		"only signing ops": {`{"keys":[` + with(`"key_ops":["sign"]`) + `]}`, "no Ed25519 signature key"},
		"html":             {`<html>`, "not a JWK set"},
		"truncated":        {`{"keys":[` + good, "not a JWK set"},
		"bad member type":  {`{"keys":[{"kty":"OKP","crv":"Ed25519","kid":"a","x":5}]}`, "not a JWK set"},
		"private key":      {`{"keys":[` + with(`"d":"nWGxne_9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A"`) + `]}`, "key 0 has a private part"},
		"other's private":  {`{"keys":[` + good + `,{"kty":"RSA","d":"nWGxne"}]}`, "key 1 has a private part"},
		"no kid":           {`{"keys":[` + strings.Replace(good, `"a"`, `""`, 1) + `]}`, "key 0 has no kid"},
		"bad kid":          {`{"keys":[` + strings.Replace(good, `"a"`, `"a\n"`, 1) + `]}`, "key 0 has an ID that"},
		"kid twice":        {`{"keys":[` + good + `,` + good + `]}`, `key 1 has the ID "a"`},
		"padded x":         {`{"keys":[` + strings.Replace(good, rfcX, rfcX+"=", 1) + `]}`, "not base64url"},
		"line break in x":  {`{"keys":[` + strings.Replace(good, rfcX, rfcX+`\n`, 1) + `]}`, "not base64url"},
		"stray bits":       {`{"keys":[` + strings.Replace(good, rfcX, rfcX[:42]+"p", 1) + `]}`, "not base64url"},
		"short x":          {`{"keys":[` + strings.Replace(good, rfcX, "AAAA", 1) + `]}`, "public key of 32 bytes"},
		"too large":        {`{"keys":[` + good + `]}` + strings.Repeat(" ", 1<<20), "longer than"},
	} {
		set, err := identity.ParseJWKS([]byte(c.doc))
		if c.fault == "" {
			require.NoError(t, err, name)
			_, ok := set.Key("a")
			assert.True(t, ok, name)
			assert.Equal(t, 1, set.Len(), name)
			continue
		}
		assert.ErrorContains(t, err, "identity: jwks: ", name)
		assert.ErrorContains(t, err, c.fault, name)
		assert.Zero(t, set.Len(), name)
		assert.NotContains(t, fmt.Sprint(err), "nWGxne", name)
	}
}

func TestJWKSHandler(t *testing.T) {
	t.Parallel()
	m := newMinter(t, nil)
	h := m.JWKSHandler()
	serve := func(h http.Handler, method string) *httptest.ResponseRecorder {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest(method, "/.well-known/jwks.json", nil))
		return w
	}
	w := serve(h, http.MethodGet)
	assert.Equal(t, http.StatusOK, w.Code)
	assert.Equal(t, "application/jwk-set+json", w.Header().Get("Content-Type"))
	assert.Equal(t, "public, max-age=60", w.Header().Get("Cache-Control"))
	assert.Equal(t, m.JWKS(), w.Body.Bytes())

	w = serve(h, http.MethodHead)
	assert.Equal(t, fmt.Sprint(len(m.JWKS())), w.Header().Get("Content-Length"))
	assert.Empty(t, w.Body.Bytes())

	w = serve(h, http.MethodPost)
	assert.Equal(t, http.StatusMethodNotAllowed, w.Code)
	assert.Equal(t, "GET, HEAD", w.Header().Get("Allow"))

	cfg := minterConfig()
	cfg.Key = signingKey(2)
	require.NoError(t, m.Update(cfg))
	assert.Contains(t, serve(h, http.MethodGet).Body.String(), `"kid":"k2"`, "always the current set")
	assert.Equal(t, http.StatusServiceUnavailable, serve(new(identity.Minter).JWKSHandler(), http.MethodGet).Code)
}
