package auth_test

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/big"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/gatemesh-go/gatemesh"
	"github.com/gatemesh-go/gatemesh/auth"
)

// The recipes: how to accept the tokens of four common issuers. Each runs
// against an issuer that publishes the documents and signs the tokens that the
// real one does; Client is there for it alone.

// keycloak accepts the access tokens that a realm gives to one client. Without
// an audience mapper they are for "account", all of them, ID tokens aside, so azp
// tells clients apart. With a mapper, Audience is the API, and azp need not be
// demanded.
func keycloak(client *http.Client) (*auth.Authenticator, *auth.JWKS) {
	keys := gatemesh.Must(auth.NewJWKS(auth.JWKSConfig{Discovery: "https://sso.example/realms/shop", Client: client}))
	return gatemesh.Must(auth.New(auth.Config{Issuers: []auth.Issuer{{
		Issuer:         "https://sso.example/realms/shop",
		Audience:       []string{"account"},
		Algorithms:     []string{"RS256"},
		RequiredClaims: map[string]string{"typ": "Bearer", "azp": "web"},
		Keys:           keys,
	}}})), keys
}

// auth0 accepts the access tokens for one API, of either token profile. The
// issuer ends with a slash. A permission is a claim of its own, for the policy:
// scopes are what the user let the client do.
func auth0(client *http.Client) (*auth.Authenticator, *auth.JWKS) {
	keys := gatemesh.Must(auth.NewJWKS(auth.JWKSConfig{Discovery: "https://shop.eu.auth0.com/", Client: client}))
	return gatemesh.Must(auth.New(auth.Config{Issuers: []auth.Issuer{{
		Issuer:         "https://shop.eu.auth0.com/",
		Audience:       []string{"https://orders.example"},
		Algorithms:     []string{"RS256"},
		RequiredScopes: []string{"read:orders"},
		Keys:           keys,
	}}})), keys
}

// cognito accepts the access tokens of one app client of a user pool. They have
// no aud, and client_id stands for it.
func cognito(client *http.Client) (*auth.Authenticator, *auth.JWKS) {
	const pool = "https://cognito-idp.eu-west-1.amazonaws.com/eu-west-1_A1b2C3d4E"
	keys := gatemesh.Must(auth.NewJWKS(auth.JWKSConfig{URL: pool + "/.well-known/jwks.json", Client: client}))
	return gatemesh.Must(auth.New(auth.Config{Issuers: []auth.Issuer{{
		Issuer:         pool,
		Audience:       []string{"7example23456789"},
		AudienceClaim:  "client_id",
		Algorithms:     []string{"RS256"},
		RequiredClaims: map[string]string{"token_use": "access"},
		Keys:           keys,
	}}})), keys
}

// dex accepts the ID tokens that Dex gives to one client; an API behind Dex is
// called with these. Dex changes its keys every few hours: a token with a
// new one is looked up when it comes.
func dex(client *http.Client) (*auth.Authenticator, *auth.JWKS) {
	keys := gatemesh.Must(auth.NewJWKS(auth.JWKSConfig{Discovery: "https://login.example/dex", Client: client}))
	return gatemesh.Must(auth.New(auth.Config{Issuers: []auth.Issuer{{
		Issuer:     "https://login.example/dex",
		Audience:   []string{"orders-web"},
		Algorithms: []string{"RS256"},
		Keys:       keys,
	}}})), keys
}

func ExampleJWKSConfig_keycloak() {
	idp := newKeycloak()
	who, keys := keycloak(idp.client())
	defer keys.Close()
	fmt.Println(decide(who, idp.token(idp.access)))
	fmt.Println(decide(who, idp.token(idp.id)))
	fmt.Println(decide(who, idp.token(idp.access, claims{"azp": "another-client"})))
	// Output:
	// ok: f:1:alice
	// 401 token_audience
	// 401 token_claim
}

func ExampleJWKSConfig_auth0() {
	idp := newAuth0()
	who, keys := auth0(idp.client())
	defer keys.Close()
	fmt.Println(decide(who, idp.token(idp.access)))
	fmt.Println(decide(who, idp.token(idp.id)))
	fmt.Println(decide(who, idp.token(idp.access, claims{"scope": "openid profile"})))
	// Output:
	// ok: auth0|alice
	// 401 token_audience
	// 403 scope_missing
}

func ExampleJWKSConfig_cognito() {
	idp := newCognito()
	who, keys := cognito(idp.client())
	defer keys.Close()
	fmt.Println(decide(who, idp.token(idp.access)))
	fmt.Println(decide(who, idp.token(idp.id)))
	fmt.Println(decide(who, idp.token(idp.access, claims{"client_id": "another-client"})))
	// Output:
	// ok: aaaa-alice
	// 401 token_audience
	// 401 token_audience
}

func ExampleJWKSConfig_dex() {
	idp := newDex()
	who, keys := dex(idp.client())
	defer keys.Close()
	fmt.Println(decide(who, idp.token(idp.id)))
	fmt.Println(decide(who, idp.token(idp.id, claims{"aud": "another-client"})))
	// Output:
	// ok: CgVhbGljZRIFbG9jYWw
	// 401 token_audience
}

type claims = jwt.MapClaims

// idp is an issuer in memory.
type idp struct {
	issuer     string
	mux        *http.ServeMux
	header     map[string]any // of its tokens
	access, id claims         // its access and ID tokens

	mu   sync.Mutex
	kid  string // that signs
	kids []string
	more []map[string]any // other keys that it publishes
}

var signingKeys = sync.OnceValue(func() map[string]*rsa.PrivateKey {
	return map[string]*rsa.PrivateKey{
		"k1": gatemesh.Must(rsa.GenerateKey(rand.Reader, 2048)), "k2": gatemesh.Must(rsa.GenerateKey(rand.Reader, 2048)),
	}
})

// newIDP returns an issuer that publishes its keys at keysURL.
func newIDP(issuer, metadataURL, keysURL string) *idp {
	p := &idp{issuer: issuer, mux: http.NewServeMux(), header: map[string]any{}, kid: "k1", kids: []string{"k1"}}
	p.mux.HandleFunc(metadataURL, func(w http.ResponseWriter, _ *http.Request) {
		_ = json.NewEncoder(w).Encode(map[string]any{
			"issuer": issuer, "jwks_uri": "https://" + keysURL, "response_types_supported": []string{"code"},
			"subject_types_supported": []string{"public"}, "id_token_signing_alg_values_supported": []string{"RS256"},
		})
	})
	p.mux.HandleFunc(keysURL, func(w http.ResponseWriter, _ *http.Request) {
		p.mu.Lock()
		defer p.mu.Unlock()
		keys := append([]map[string]any(nil), p.more...)
		for _, kid := range p.kids {
			keys = append(keys, publicJWK(kid, "sig", "RS256"))
		}
		_ = json.NewEncoder(w).Encode(map[string]any{"keys": keys})
	})
	return p
}

func publicJWK(kid, use, alg string) map[string]any {
	k := signingKeys()["k1"]
	if kid == "k2" {
		k = signingKeys()["k2"]
	}
	enc := base64.RawURLEncoding.EncodeToString
	return map[string]any{
		"kty": "RSA", "kid": kid, "use": use, "alg": alg, "n": enc(k.N.Bytes()), "e": enc(big.NewInt(int64(k.E)).Bytes()),
	}
}

// rotate signs with kid from now on and publishes kids.
func (p *idp) rotate(kid string, kids ...string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.kid, p.kids = kid, kids
}

func (p *idp) client() *http.Client { return &http.Client{Transport: inMemory{p.mux}} }

// inMemory answers requests with a handler.
type inMemory struct{ h http.Handler }

func (t inMemory) RoundTrip(r *http.Request) (*http.Response, error) {
	w := httptest.NewRecorder()
	t.h.ServeHTTP(w, r)
	return w.Result(), nil
}

// token signs base with changes, of which nil values delete.
func (p *idp) token(base claims, changes ...claims) string {
	now := time.Now()
	c := claims{"iss": p.issuer, "iat": now.Unix(), "exp": now.Add(time.Hour).Unix()}
	maps.Copy(c, base)
	for _, change := range changes {
		maps.Copy(c, change)
	}
	maps.DeleteFunc(c, func(_ string, v any) bool { return v == nil })
	p.mu.Lock()
	defer p.mu.Unlock()
	t := jwt.NewWithClaims(jwt.SigningMethodRS256, c)
	delete(t.Header, "typ")
	maps.Copy(t.Header, p.header)
	t.Header["kid"] = p.kid
	return gatemesh.Must(t.SignedString(signingKeys()[p.kid]))
}

func newKeycloak() *idp {
	const realm = "sso.example/realms/shop"
	p := newIDP("https://"+realm, realm+"/.well-known/openid-configuration", realm+"/protocol/openid-connect/certs")
	p.header["typ"] = "JWT"
	p.more = []map[string]any{publicJWK("enc", "enc", "RSA-OAEP")} // it publishes one to encrypt with, too
	p.access = claims{
		"jti": "onrtac:1", "aud": "account", "sub": "f:1:alice", "typ": "Bearer", "azp": "web", "sid": "s", "acr": "1",
		"realm_access":    map[string]any{"roles": []string{"offline_access", "orders-clerk"}},
		"resource_access": map[string]any{"account": map[string]any{"roles": []string{"view-profile"}}},
		"scope":           "email profile", "email_verified": true, "preferred_username": "alice",
	}
	p.id = claims{"jti": "2", "aud": "web", "sub": "f:1:alice", "typ": "ID", "azp": "web", "sid": "s", "nonce": "n", "at_hash": "h"}
	return p
}

func newAuth0() *idp {
	const tenant = "shop.eu.auth0.com"
	p := newIDP("https://"+tenant+"/", tenant+"/.well-known/openid-configuration", tenant+"/.well-known/jwks.json")
	p.header["typ"] = "JWT"
	p.access = claims{
		"sub": "auth0|alice", "aud": []string{"https://orders.example", "https://" + tenant + "/userinfo"}, "azp": "web",
		"scope": "openid profile read:orders", "permissions": []string{"read:orders"},
	}
	p.id = claims{"sub": "auth0|alice", "aud": "web", "nonce": "n", "sid": "s", "name": "Alice"}
	return p
}

func newCognito() *idp {
	const pool = "cognito-idp.eu-west-1.amazonaws.com/eu-west-1_A1b2C3d4E"
	p := newIDP("https://"+pool, pool+"/.well-known/openid-configuration", pool+"/.well-known/jwks.json")
	p.access = claims{
		"sub": "aaaa-alice", "client_id": "7example23456789", "token_use": "access", "scope": "openid orders/read",
		"origin_jti": "o", "event_id": "e", "auth_time": 1, "jti": "j", "username": "alice", "version": 2,
	}
	p.id = claims{
		"sub": "aaaa-alice", "aud": "7example23456789", "token_use": "id", "cognito:username": "alice", "email_verified": true,
		"origin_jti": "o", "event_id": "e", "auth_time": 1, "jti": "j", "email": "alice@shop.example",
	}
	return p
}

func newDex() *idp {
	const at = "login.example/dex"
	p := newIDP("https://"+at, at+"/.well-known/openid-configuration", at+"/keys")
	p.id = claims{
		"sub": "CgVhbGljZRIFbG9jYWw", "aud": "orders-web", "at_hash": "h", "email": "alice@shop.example",
		"email_verified": true, "groups": []string{"clerks"}, "name": "alice",
	}
	return p
}

// decide says what who does with a token.
func decide(who *auth.Authenticator, token string) string {
	p, err := admitted(who, token)
	var d *gatemesh.Denial
	switch {
	case err == nil:
		return "ok: " + p.Subject()
	case errors.As(err, &d):
		return fmt.Sprint(d.HTTPStatus(), " ", d.Reason)
	}
	return err.Error()
}

func admitted(who *auth.Authenticator, token string) (*gatemesh.Principal, error) {
	c, err := gatemesh.NewCall(gatemesh.CallInfo{Host: "orders.example", Header: http.Header{"Authorization": {"Bearer " + token}}})
	if err != nil {
		return nil, err
	}
	adm, err := who.Admit(context.Background(), c)
	return adm.Principal, err
}

// What else each recipe refuses, and which claim refuses it.
func TestRecipes(t *testing.T) {
	t.Parallel()
	type want struct {
		token string
		want  string
	}
	for name, test := range map[string]struct {
		recipe func(*http.Client) (*auth.Authenticator, *auth.JWKS)
		idp    *idp
		tokens func(p *idp) map[string]want
	}{
		"Keycloak": {keycloak, newKeycloak(), func(p *idp) map[string]want {
			return map[string]want{
				"good":                       {p.token(p.access), "ok: f:1:alice"},
				"audience mapper beside":     {p.token(p.access, claims{"aud": []string{"orders", "account"}}), "ok: f:1:alice"},
				"of another client":          {p.token(p.access, claims{"azp": "other"}), "401 token_claim"},
				"ID token":                   {p.token(p.id), "401 token_audience"},
				"ID token for account":       {p.token(p.id, claims{"aud": "account"}), "401 token_claim"},
				"refresh token":              {p.token(p.access, claims{"typ": "Refresh", "aud": p.issuer}), "401 token_audience"},
				"refresh token for account":  {p.token(p.access, claims{"typ": "Refresh"}), "401 token_claim"},
				"of another realm":           {p.token(p.access, claims{"iss": "https://sso.example/realms/other"}), "401 token_issuer"},
				"of a realm below":           {p.token(p.access, claims{"iss": p.issuer + "/x"}), "401 token_issuer"},
				"without azp":                {p.token(p.access, claims{"azp": nil}), "401 token_claim"},
				"for nobody":                 {p.token(p.access, claims{"aud": nil}), "401 token_audience"},
				"azp is the audience's case": {p.token(p.access, claims{"azp": "Web"}), "401 token_claim"},
			}
		}},
		"Auth0": {auth0, newAuth0(), func(p *idp) map[string]want {
			return map[string]want{
				"good":              {p.token(p.access), "ok: auth0|alice"},
				"for a machine":     {p.token(p.access, claims{"sub": "x@clients", "aud": "https://orders.example", "scope": "read:orders"}), "ok: x@clients"},
				"ID token":          {p.token(p.id), "401 token_audience"},
				"for userinfo only": {p.token(p.access, claims{"aud": "https://shop.eu.auth0.com/userinfo"}), "401 token_audience"},
				"for another API":   {p.token(p.access, claims{"aud": []string{"https://billing.example", "https://shop.eu.auth0.com/userinfo"}}), "401 token_audience"},
				"without scope":     {p.token(p.access, claims{"scope": nil}), "403 scope_missing"},
				"permission alone":  {p.token(p.access, claims{"scope": "openid"}), "403 scope_missing"},
				"issuer, no slash":  {p.token(p.access, claims{"iss": "https://shop.eu.auth0.com"}), "401 token_issuer"},
				"of another tenant": {p.token(p.access, claims{"iss": "https://evil.eu.auth0.com/"}), "401 token_issuer"},
			}
		}},
		"Cognito": {cognito, newCognito(), func(p *idp) map[string]want {
			return map[string]want{
				"good":                           {p.token(p.access), "ok: aaaa-alice"},
				"of another client":              {p.token(p.access, claims{"client_id": "other"}), "401 token_audience"},
				"another client, with aud":       {p.token(p.access, claims{"client_id": "other", "aud": "7example23456789"}), "401 token_audience"},
				"ID token":                       {p.token(p.id), "401 token_audience"},
				"ID token with a claim added":    {p.token(p.id, claims{"client_id": "7example23456789"}), "401 token_claim"},
				"access token without token_use": {p.token(p.access, claims{"token_use": nil}), "401 token_claim"},
				"of another pool":                {p.token(p.access, claims{"iss": "https://cognito-idp.eu-west-1.amazonaws.com/eu-west-1_other"}), "401 token_issuer"},
			}
		}},
		"Dex": {dex, newDex(), func(p *idp) map[string]want {
			return map[string]want{
				"good":              {p.token(p.id), "ok: CgVhbGljZRIFbG9jYWw"},
				"of another client": {p.token(p.id, claims{"aud": "other"}), "401 token_audience"},
				"issuer, no path":   {p.token(p.id, claims{"iss": "https://login.example"}), "401 token_issuer"},
			}
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			who, keys := test.recipe(test.idp.client())
			defer func() { require.NoError(t, keys.Close()) }()
			for name, w := range test.tokens(test.idp) {
				assert.Equal(t, w.want, decide(who, w.token), name)
			}
			require.Equal(t, 1, keys.Keys(time.Now()).Len(), "keys for another use are left out")
		})
	}
}

// Auth0's other profile is that of RFC 9068: typ at+jwt, and client_id for azp.
func TestRecipeAuth0_RFC9068(t *testing.T) {
	t.Parallel()
	idp := newAuth0()
	idp.header["typ"] = "at+jwt"
	who, keys := auth0(idp.client())
	defer func() { require.NoError(t, keys.Close()) }()
	assert.Equal(t, "ok: auth0|alice", decide(who, idp.token(idp.access, claims{"azp": nil, "client_id": "web", "jti": "j"})))
}

// What a policy or handler reads of the tokens.
func TestRecipeClaims(t *testing.T) {
	t.Parallel()
	kc := newKeycloak()
	who, keys := keycloak(kc.client())
	defer func() { require.NoError(t, keys.Close()) }()
	p, err := admitted(who, kc.token(kc.access))
	require.NoError(t, err)
	roles, _ := p.Claim("realm_access", "roles")
	assert.Equal(t, []any{"offline_access", "orders-clerk"}, roles)
	assert.True(t, p.HasScope("profile"))

	a0 := newAuth0()
	who, keys0 := auth0(a0.client())
	defer func() { require.NoError(t, keys0.Close()) }()
	p, err = admitted(who, a0.token(a0.access))
	require.NoError(t, err)
	permissions, _ := p.Claim("permissions")
	assert.Equal(t, []any{"read:orders"}, permissions)

	d := newDex()
	who, keysD := dex(d.client())
	defer func() { require.NoError(t, keysD.Close()) }()
	p, err = admitted(who, d.token(d.id))
	require.NoError(t, err)
	groups, _ := p.Claim("groups")
	assert.Equal(t, []any{"clerks"}, groups)
}

// Dex signs with a new key every few hours and publishes the old one as long as
// tokens of it live.
func TestRecipeDex_Rotation(t *testing.T) {
	t.Parallel()
	idp := newDex()
	signingKeys() // which takes long
	synctest.Test(t, func(t *testing.T) {
		who, keys := dex(idp.client())
		defer func() { require.NoError(t, keys.Close()) }()
		long := claims{"exp": time.Now().Add(24 * time.Hour).Unix()}
		old := idp.token(idp.id, long)
		require.Equal(t, "ok: CgVhbGljZRIFbG9jYWw", decide(who, old))

		time.Sleep(6*time.Hour + 17*time.Second)
		idp.rotate("k2", "k2", "k1")
		next := idp.token(idp.id, long)
		began := time.Now()
		assert.Equal(t, "ok: CgVhbGljZRIFbG9jYWw", decide(who, next), "it is fetched when it is needed")
		assert.Zero(t, time.Since(began))
		assert.Equal(t, "ok: CgVhbGljZRIFbG9jYWw", decide(who, old))

		idp.rotate("k2", "k2")
		time.Sleep(5*time.Minute + time.Second)
		assert.Equal(t, "401 token_key_unknown", decide(who, old), "withdrawn, remembered or not")
		assert.Equal(t, "ok: CgVhbGljZRIFbG9jYWw", decide(who, next))
	})
}
