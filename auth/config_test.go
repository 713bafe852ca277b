package auth

import (
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"fmt"
	"math/big"
	"net/http"
	"net/http/httptest"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/gatemesh-go/gatemesh"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestZeroConfig(t *testing.T) {
	t.Parallel()
	_, err := New(Config{})
	assert.EqualError(t, err, "auth: Config.Issuers or Config.APIKeys is required")
	_, err = New(Config{Issuers: []Issuer{{}}})
	for _, field := range []string{"Issuer", "Audience", "Algorithms", "Keys"} {
		assert.ErrorContains(t, err, "auth: Config.Issuers[0]."+field+" is required")
	}
}

func TestConfigFaults(t *testing.T) {
	t.Parallel()
	for want, f := range map[string]func(*Config){
		`APIKeyHeader "Authorization"`:       func(c *Config) { c.APIKeyHeader = "Authorization" },
		`APIKeyHeader "X-Gatemesh-Identity"`: func(c *Config) { c.APIKeyHeader = "X-Gatemesh-Identity" },
		`APIKeyHeader "a b"`:                 func(c *Config) { c.APIKeyHeader = "a b" },
		"MaxTokenLength -1":                  func(c *Config) { c.MaxTokenLength = -1 },
		"CacheEntries -1":                    func(c *Config) { c.CacheEntries = -1 },
		"CacheTTL 48h0m0s":                   func(c *Config) { c.CacheTTL = 48 * time.Hour },
		"Config.Realm":                       func(c *Config) { c.Realm = `a"b` },
		"Issuers[1].Issuer":                  func(c *Config) { c.Issuers = append(c.Issuers, c.Issuers[0]) },
		"Issuers[0].Audience":                func(c *Config) { c.Issuers[0].Audience = []string{""} },
		"Issuers[0].Leeway 3m0s":             func(c *Config) { c.Issuers[0].Leeway = 3 * time.Minute },
		"Issuers[0].RequiredScopes is empty": func(c *Config) { c.Issuers[0].RequiredScopes = []string{} },
		`RequiredScopes: "a b"`:              func(c *Config) { c.Issuers[0].RequiredScopes = []string{"a b"} },
		"Issuers[0].TokenTypes is empty":     func(c *Config) { c.Issuers[0].TokenTypes = []string{} },
		"Issuers[0].Keys is required":        func(c *Config) { c.Issuers[0].Keys = (*Keys)(nil) },
		"Issuers[0].Keys is required ":       func(c *Config) { c.Issuers[0].Keys = (*JWKS)(nil) },
		"symmetric algorithms need":          func(c *Config) { c.Issuers[0].Algorithms, c.Issuers[0].Keys = []string{"HS256"}, &JWKS{} },
		"fits none of the algorithms":        func(c *Config) { c.Issuers[0].Algorithms = []string{"RS256"} },
	} {
		cfg := Config{Issuers: []Issuer{edIssuer(t)}}
		f(&cfg)
		_, err := New(cfg)
		assert.ErrorContains(t, err, strings.TrimSpace(want))
	}
}

// An issuer keeps what it verified only if nothing about it has changed.
func TestIssuerSame(t *testing.T) {
	t.Parallel()
	cfg := edIssuer(t)
	assert.True(t, newIssuer(cfg, "").same(newIssuer(cfg, "")))
	assert.False(t, newIssuer(cfg, "").same(newIssuer(cfg, "realm")))
	changes := []func(*Issuer){
		func(is *Issuer) { is.Issuer = "x" },
		func(is *Issuer) { is.Audience = []string{"x"} },
		func(is *Issuer) { is.AudienceClaim = "x" },
		func(is *Issuer) { is.Algorithms = []string{"EdDSA", "RS256"} },
		func(is *Issuer) { is.Keys = edKeys(t) },
		func(is *Issuer) { is.Leeway = 1 },
		func(is *Issuer) { is.RequiredScopes = []string{"x"} },
		func(is *Issuer) { is.TokenTypes = []string{"x"} },
		func(is *Issuer) { is.RequiredClaims = map[string]string{"x": "y"} },
	}
	assert.Equal(t, reflect.TypeFor[Issuer]().NumField(), len(changes), "a field is not compared")
	for i, change := range changes {
		other := cfg
		change(&other)
		assert.False(t, newIssuer(cfg, "").same(newIssuer(other, "")), i)
	}
	foreign := edIssuer(t, func(is *Issuer) { is.Keys = foreignSource{KeySource: edKeys(t)} })
	assert.False(t, newIssuer(foreign, "").same(newIssuer(foreign, "")), "it cannot be compared")
}

// foreignSource is a KeySource that == would panic on.
type foreignSource struct {
	KeySource
	_ []int
}

// New copies what it is given.
func TestConfigIsCopied(t *testing.T) {
	t.Parallel()
	pub := ed25519.PublicKey(append([]byte(nil), edPublic(edKey())...))
	cfg := Config{Issuers: []Issuer{edIssuer(t, func(is *Issuer) { is.Keys = mustKeys(t, StaticKey{ID: "ed", Key: pub}) })}}
	a, err := New(cfg)
	require.NoError(t, err)
	clear(pub)
	cfg.Issuers[0].Audience[0], cfg.Issuers[0].Algorithms[0] = "x", "RS256"
	cfg.Issuers[0].Issuer = "x"
	assert.Equal(t, "ok", tokenReason(t, a, edToken(t, payload(time.Now(), nil))))
}

func TestStaticKeyFaults(t *testing.T) {
	t.Parallel()
	n := rsaKey().N
	p224, err := ecdsa.GenerateKey(elliptic.P224(), rand.Reader)
	require.NoError(t, err)
	for want, key := range map[string]any{
		"Key is required":         nil,
		"of type string":          "secret",
		"of type *rsa.PrivateKey": rsaKey(),
		"RSA key is nil":          (*rsa.PublicKey)(nil),
		"RSA key of 1024 bits":    &rsa.PublicKey{N: new(big.Int).Rsh(n, 1024), E: 65537},
		"RSA key of 8193 bits":    &rsa.PublicKey{N: new(big.Int).Lsh(big.NewInt(1), 8192), E: 65537},
		"RSA key is not one":      &rsa.PublicKey{N: n, E: 1},
		"RSA key is not one ":     &rsa.PublicKey{N: new(big.Int).Add(n, big.NewInt(1)), E: 65537},
		"EC key is nil":           (*ecdsa.PublicKey)(nil),
		"EC key is not on":        &p224.PublicKey,
		"not 32 bytes":            ed25519.PublicKey("short"),
		"is shorter than 32":      make([]byte, 31),
	} {
		_, err := StaticKeys(StaticKey{Key: key})
		assert.ErrorContains(t, err, strings.TrimSpace(want))
	}
	_, err = StaticKeys()
	assert.Error(t, err)
	_, err = StaticKeys(StaticKey{ID: "a", Key: edPublic(edKey())}, StaticKey{ID: "a", Key: edPublic(otherEd())})
	assert.ErrorContains(t, err, "there twice")
	_, err = StaticKeys(StaticKey{Algorithm: "ES256", Key: edPublic(edKey())})
	assert.ErrorContains(t, err, `not one for algorithm "ES256"`)
	_, err = StaticKeys(StaticKey{Algorithm: "HS512", Key: make([]byte, 32)})
	assert.Error(t, err)
	_, err = StaticKeys(StaticKey{Algorithm: "Ed25519", Key: edPublic(edKey())})
	assert.NoError(t, err)
	_, err = ParseJWKS([]byte(jwksOf(jwkOf("a", edPublic(edKey()), nil), m{"kty": "x"})))
	assert.ErrorContains(t, err, "key 1: kty")
}

func TestParseJWK(t *testing.T) {
	t.Parallel()
	short := &rsa.PublicKey{N: new(big.Int).Rsh(rsaKey().N, 1024), E: 65537}
	for _, key := range []any{&rsaKey().PublicKey, &ecKey().PublicKey, edPublic(edKey())} {
		k, err := ParseJWKS([]byte(jwksOf(jwkOf("k", key, nil))))
		require.NoError(t, err)
		want, err := newKey("k", "", key)
		require.NoError(t, err)
		assert.True(t, k.list[0].equal(want))
	}
	ec := jwkOf("k", &ecKey().PublicKey, nil)
	for name, k := range map[string]m{
		"bits":         jwkOf("k", short, nil),
		"e missing":    jwkOf("k", &rsaKey().PublicKey, m{"e": nil}),
		"longer":       jwkOf("k", &rsaKey().PublicKey, m{"e": "AQAAAAAB"}),
		"n is not":     jwkOf("k", &rsaKey().PublicKey, m{"n": "a="}),
		"point":        jwkOf("k", &ecKey().PublicKey, m{"y": ec["x"]}),
		"as long as":   jwkOf("k", &ecKey().PublicKey, m{"x": "AA"}),
		"crv":          jwkOf("k", &ecKey().PublicKey, m{"crv": "secp256k1"}),
		"32 bytes":     jwkOf("k", edPublic(edKey()), m{"x": "AA"}),
		"kid is":       jwkOf("k", edPublic(edKey()), m{"kid": 1}),
		"longer than":  jwkOf("k", edPublic(edKey()), m{"kid": strings.Repeat("k", maxKeyID+1)}),
		"algorithm":    jwkOf("k", edPublic(edKey()), m{"alg": "RS256"}),
		"another case": jwkOf("k", edPublic(edKey()), m{"USE": "enc"}),
		"usable":       jwkOf("k", edPublic(edKey()), m{"key_ops": []string{"encrypt"}}),
	} {
		_, err := ParseJWKS([]byte(jwksOf(k)))
		if name == "e missing" || name == "bits" {
			assert.Error(t, err, name)
			continue
		}
		assert.ErrorContains(t, err, name)
	}
	many := make([]m, maxKeys+1)
	for i := range many {
		many[i] = jwkOf(fmt.Sprint(i), edPublic(edKey()), nil)
	}
	_, err := ParseJWKS([]byte(jwksOf(many...)))
	assert.ErrorContains(t, err, "more than 256")
	_, err = ParseJWKS([]byte(`{"Keys":` + strings.TrimPrefix(edDoc(), `{"keys":`)))
	assert.Error(t, err, "names are exact")
}

// Nothing that is printed shows a secret.
func TestNoSecretsInPrint(t *testing.T) {
	t.Parallel()
	const secret = "SECRET-SECRET-SECRET-SECRET-SECRET"
	sk := StaticKey{ID: "s", Key: []byte(secret)}
	keys := mustKeys(t, sk)
	set := gatemesh.Must(NewKeySet([]Key{{ID: "k", Consumer: "c", Hash: HashKey(secret)}}))
	cfg := Config{APIKeys: set, Issuers: []Issuer{{Issuer: testIssuer, Audience: []string{"a"}, Algorithms: []string{"HS256"}, Keys: keys}}}
	a, err := New(cfg)
	require.NoError(t, err)
	for _, v := range []any{sk, &sk, []StaticKey{sk}, keys, set, cfg, &cfg, a} {
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%d", "%x"} {
			out := fmt.Sprintf(verb, v)
			assert.NotContains(t, out, "SECRET")
			assert.NotContains(t, out, fmt.Sprintf("%x", secret))
			assert.NotContains(t, out, "83 69 67 82") // its bytes in decimal
		}
	}
	for _, h := range []http.Header{
		{"Authorization": {"Bearer " + secret}}, {"X-Api-Key": {secret + "x"}}, {"Authorization": {"Basic " + secret}},
		{"Authorization": {"Bearer " + segment(m{"alg": "HS256", "kid": "s"}) + "." + segment(payload(time.Now(), m{"sub": secret, "aud": secret})) + ".AA"}},
	} {
		_, err := a.Admit(t.Context(), callWith(t, h))
		d := gatemesh.AsDenial(t.Context(), err)
		assert.NotContains(t, fmt.Sprintf("%v %+v %v", d, *d, d.Cause()), "SECRET")
	}
}

func TestLayer(t *testing.T) {
	t.Parallel()
	a := newAuth(t, edIssuer(t))
	entry := gatemesh.Must(gatemesh.NewEntry(gatemesh.EntryConfig{}))
	limit := gatemesh.Layer{Name: "limit", Gives: []gatemesh.Fact{gatemesh.FactClientLimit}, Gate: gatemesh.GateFunc(
		func(context.Context, *gatemesh.Call) (gatemesh.Admission, error) { return gatemesh.Admission{}, nil })}
	_, err := gatemesh.NewChain(entry, limit, a.Layer())
	assert.NoError(t, err)
	_, err = gatemesh.NewChain(entry, a.Layer(), limit)
	assert.ErrorContains(t, err, `"auth" must stand after "limit"`)

	// Without a Call it fails closed.
	w := httptest.NewRecorder()
	a.Handler(http.NotFoundHandler()).ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/", nil))
	assert.Equal(t, http.StatusInternalServerError, w.Code)
}
