package auth_test

import (
	"crypto/ed25519"
	"fmt"
	"net/http"
	"net/http/httptest"
	"time"

	"github.com/gatemesh-go/gatemesh"
	"github.com/gatemesh-go/gatemesh/auth"
	"github.com/golang-jwt/jwt/v5"
)

// Example puts bearer tokens and API keys in front of a handler.
func Example() {
	public, private, _ := ed25519.GenerateKey(nil)
	secret, hash := auth.GenerateKey()

	who := gatemesh.Must(auth.New(auth.Config{
		Issuers: []auth.Issuer{{
			Issuer:     "https://idp.example",
			Audience:   []string{"orders"},
			Algorithms: []string{"EdDSA"},
			// In production: auth.NewJWKS(auth.JWKSConfig{URL: "https://idp.example/jwks"})
			Keys: gatemesh.Must(auth.StaticKeys(auth.StaticKey{ID: "k1", Key: public})),
		}},
		APIKeys: gatemesh.Must(auth.NewKeySet([]auth.Key{
			{ID: "billing-7", Consumer: "billing", Hash: hash, Scopes: []string{"orders:read"}},
		})),
	}))
	entry := gatemesh.Must(gatemesh.NewEntry(gatemesh.EntryConfig{}))
	chain := gatemesh.Must(gatemesh.NewChain(entry, who.Layer()))
	handler := chain.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		p := gatemesh.FromContext(r.Context()).Principal()
		fmt.Fprintf(w, "%s: subject %q consumer %q", p.Method(), p.Subject(), p.Consumer())
	}))

	token := jwt.NewWithClaims(jwt.SigningMethodEdDSA, jwt.MapClaims{
		"iss": "https://idp.example", "aud": "orders", "sub": "alice", "exp": time.Now().Add(time.Hour).Unix(),
	})
	token.Header["kid"] = "k1"
	signed, _ := token.SignedString(private)

	send := func(field, value string) {
		r := httptest.NewRequest(http.MethodGet, "/orders", nil)
		if field != "" {
			r.Header.Set(field, value)
		}
		w := httptest.NewRecorder()
		handler.ServeHTTP(w, r)
		if w.Code != http.StatusOK {
			fmt.Println(w.Code, w.Header().Get("WWW-Authenticate"))
			return
		}
		fmt.Println(w.Code, w.Body)
	}
	send("Authorization", "Bearer "+signed)
	send("X-Api-Key", secret)
	send("", "")
	send("Authorization", "Bearer "+signed[:len(signed)-4]+"AAAA")
	// Output:
	// 200 jwt: subject "alice" consumer ""
	// 200 api-key: subject "" consumer "billing"
	// 401 Bearer
	// 401 Bearer error="invalid_token"
}

func ExampleHashKey() {
	fmt.Println(auth.HashKey("test"))
	// Output:
	// sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08
}
