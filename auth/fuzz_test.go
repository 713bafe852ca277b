package auth

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/gatemesh-go/gatemesh"
	"github.com/golang-jwt/jwt/v5"
	"github.com/stretchr/testify/require"
)

// Whatever is taken for a token is a Bearer credential of RFC 6750 §2.1 with
// three segments, each of which has no other spelling.
func FuzzBearer(f *testing.F) {
	for _, s := range []string{"Bearer a.b.c", "bearer e30.e30.AA", "Bearer  x", "Bearer", "BearerX y", "Bearer a, Bearer b", "Bearer e30.e30.AB"} {
		f.Add(s)
	}
	form := regexp.MustCompile(`^(?i:Bearer) ([A-Za-z0-9._~+/-]+=*)$`)
	f.Fuzz(func(t *testing.T, value string) {
		raw, ok := bearer(value)
		if !ok || !wellFormed(raw) {
			return
		}
		match := form.FindStringSubmatch(value)
		require.NotNil(t, match)
		require.Equal(t, match[1], raw)
		parts := strings.Split(raw, ".")
		require.Len(t, parts, 3)
		if _, err := parseToken(raw); err != nil {
			return
		}
		for _, p := range parts {
			b, err := base64.RawURLEncoding.DecodeString(p)
			require.NoError(t, err)
			require.Equal(t, p, base64.RawURLEncoding.EncodeToString(b))
		}
	})
}

// Whatever header and claims we accept, golang-jwt's strict parser accepts
// too, and its case-insensitive claims see what we see.
func FuzzToken(f *testing.F) {
	for _, claims := range []string{
		`{"iss":"i","aud":"a","exp":1900000000}`, `{"iss":"i","aud":["b","a"],"exp":1.9e9,"sub":"s","nbf":1,"iat":2}`,
		`{"iss":"i","aud":"a","exp":1900000000,"ISS":"j"}`, `{"iss":"i","aud":"a","exp":1900000000,"sub":"s","sub":"t"}`,
		`{"iss":"i","aud":"a","exp":1900000000.9,"scope":"x y","jti":"j","a":{"b":[[]]}}`, `null`, `[]`, `{"iss":"\u0069","aud":"a","exp":19e8}`,
	} {
		f.Add(`{"alg":"HS256"}`, claims)
	}
	f.Add(`{"alg":"HS256","kid":"k","typ":"at+jwt"}`, `{"iss":"i","aud":"a","exp":1900000000}`)
	f.Add(`{"alg":"HS256","ALG":"none"}`, `{"iss":"i","aud":"a","exp":1900000000}`)
	secret := []byte(strings.Repeat("s", 32))
	a, err := New(Config{MaxTokenLength: maxTokenLength, Issuers: []Issuer{{
		Issuer: "i", Audience: []string{"a"}, Algorithms: []string{"HS256"}, Keys: mustKeys(f, StaticKey{Key: secret}),
	}}})
	require.NoError(f, err)
	f.Fuzz(func(t *testing.T, header, claims string) {
		now := time.Unix(1_800_000_000, 0)
		raw := sign(t, "HS256", secret, header, claims)
		s := a.state.Latest()
		v, d := s.verify(t.Context(), raw, now)
		parser := func(o ...jwt.ParserOption) *jwt.Parser {
			return jwt.NewParser(append(o, jwt.WithStrictDecoding(), jwt.WithValidMethods([]string{"HS256"}), jwt.WithIssuer("i"),
				jwt.WithAudience("a"), jwt.WithExpirationRequired(), jwt.WithIssuedAt(), jwt.WithTimeFunc(func() time.Time { return now }))...)
		}
		key := func(*jwt.Token) (any, error) { return secret, nil }
		if d != nil {
			require.Nil(t, v)
			require.Equal(t, gatemesh.Unauthenticated, d.Code)
			return
		}
		exact := jwt.MapClaims{}
		_, err := parser(jwt.WithJSONNumber()).ParseWithClaims(raw, exact, key)
		require.NoError(t, err)
		var loose jwt.RegisteredClaims
		_, err = parser().ParseWithClaims(raw, &loose, key)
		require.NoError(t, err)
		p := v.principal
		sub, err := exact.GetSubject()
		require.NoError(t, err)
		require.Equal(t, []string{sub, loose.Subject}, []string{p.Subject(), p.Subject()})
		require.Equal(t, []string{"i", loose.Issuer, loose.ID}, []string{p.Issuer(), p.Issuer(), p.Credential()})
		aud, err := exact.GetAudience()
		require.NoError(t, err)
		require.Equal(t, p.Audience(), []string(aud))
		require.Equal(t, p.Audience(), []string(loose.Audience))
		require.False(t, p.Expires().After(loose.ExpiresAt.Time))
	})
}

// Whatever keys are taken from a document are strong, public, and bound to
// algorithms of their own kind; and the document reads the same twice.
func FuzzJWKS(f *testing.F) {
	f.Add(jwksOf(jwkOf("r", &rsaKey().PublicKey, m{"alg": "RS256"}), jwkOf("e", &ecKey().PublicKey, nil)))
	f.Add(jwksOf(jwkOf("o", edPublic(edKey()), m{"use": "sig"}), jwkOf("s", []byte(strings.Repeat("s", 32)), nil)))
	f.Add(`{"keys":[{"kty":"RSA","n":"AQAB","e":"AQAB"},{"kty":"EC","crv":"P-256","x":"","y":""}]}`)
	f.Add(`{"keys":[{},null,1,[[]]]}`)
	f.Fuzz(func(t *testing.T, doc string) {
		set, _, err := parseJWKS([]byte(doc), false)
		if err != nil {
			require.Nil(t, set)
			return
		}
		require.NotEmpty(t, set.list)
		for _, k := range set.list {
			require.False(t, k.symmetric())
			require.NotEmpty(t, k.algs)
			for _, alg := range k.algs {
				switch key := k.key.(type) {
				case *rsa.PublicKey:
					require.Regexp(t, "^[RP]S", alg)
					require.GreaterOrEqual(t, key.N.BitLen(), 2048)
				case *ecdsa.PublicKey:
					require.Regexp(t, "^ES", alg)
					_, err := key.Bytes() // a point of its curve
					require.NoError(t, err)
				case ed25519.PublicKey:
					require.Equal(t, "EdDSA", alg)
					require.Len(t, key, 32)
				default:
					t.Fatalf("key of type %T", key)
				}
				// No signature that nobody made is one.
				require.Error(t, methods[alg].Verify("x", make([]byte, 64), k.key))
			}
		}
		again, _, err := parseJWKS([]byte(doc), false)
		require.NoError(t, err)
		require.True(t, set.equal(again))
	})
}

// A line of a key file is a key that the constructor takes, or an error.
func FuzzKeyFile(f *testing.F) {
	f.Add("a b " + HashKey("x") + " scopes=a,b expires=2027-01-31T00:00:00Z\n# c\n")
	f.Add("a b\nc")
	f.Add("a b sha256:" + strings.Repeat("0", 64))
	f.Add("a b " + HashKey("x") + " meta.plan=gold meta.x=y=z\n")
	f.Add("a b " + HashKey("x") + "\nc d " + HashKey("y") + " expires=2027-01-31T00:00:00Z")
	f.Fuzz(func(t *testing.T, text string) {
		set, err := parseKeyFile("f", text)
		if err != nil {
			require.Nil(t, set)
			return
		}
		for _, k := range set.byHash {
			require.NotEmpty(t, k.principal.Consumer())
			require.NotEmpty(t, k.principal.Credential())
		}
		require.Nil(t, set.byHash[KeyDigest{}])
		require.Equal(t, "\n", text[len(text)-1:])
		// What begins with it, whole lines or not, is no key more and none wider.
		for n := range strings.SplitSeq(text, "\n") {
			part, err := parseKeyFile("f", text[:strings.Index(text, n)+len(n)/2])
			if err != nil {
				continue
			}
			for digest, k := range part.byHash {
				require.Equal(t, set.byHash[digest], k)
			}
		}
		for digest, k := range set.byHash {
			require.Equal(t, digest, k.digest)
			got, there := k.principal.Claim("metadata")
			metadata, _ := got.(map[string]any)
			require.Equal(t, there, len(metadata) > 0)
			require.LessOrEqual(t, len(metadata), maxMetadata)
			for name, v := range metadata {
				require.Contains(t, text, metaPrefix+name+"="+v.(string))
				require.LessOrEqual(t, len(name)+len(v.(string)), maxMetadataName+maxMetadataValue)
			}
		}
	})
}

// One presented value is found exactly if it is the secret.
func FuzzAPIKey(f *testing.F) {
	const secret = "gmk_secret"
	for _, s := range []string{secret, "", secret + " ", secret + "\x00", "GMK_SECRET", secret[:9]} {
		f.Add(s)
	}
	a := keyAuth(f, nil, Key{ID: "k", Consumer: "c", Hash: HashKey(secret)})
	f.Fuzz(func(t *testing.T, value string) {
		_, err := a.Admit(t.Context(), callWith(t, http.Header{"X-Api-Key": {value}}))
		require.Equal(t, value == secret, err == nil)
	})
}

// FuzzIntrospection: whatever an endpoint answers, a token is good only if the
// answer is JSON in which active is true, as any other reader sees it.
func FuzzIntrospection(f *testing.F) {
	for _, s := range []string{
		`{"active":true,"sub":"a","exp":4102444800}`, `{"active":false}`, `{"active":"true"}`, `{"Active":true}`, `{"active":true,"active":false}`,
		`{"active":true,"token_type":"DPoP"}`, `{"active":true,"token_use":"refresh_token"}`, `{"act\u0069ve":true}`, `[true]`, `true`, ``, `{"active":true}{`,
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, body string) {
		in, err := NewIntrospection(IntrospectionConfig{URL: "https://idp.example/i", Client: &http.Client{Transport: roundTripper(status(http.StatusOK, body))}})
		require.NoError(t, err)
		m, err := in.VerifyToken(t.Context(), "token")
		var plain struct{ Active any }
		jsonErr := json.Unmarshal([]byte(body), &plain)
		if err == nil {
			require.NoError(t, jsonErr)
			require.Equal(t, true, plain.Active)
			require.Equal(t, true, m["active"])
			return
		}
		require.Nil(t, m)
	})
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }
