package identity_test

import (
	"context"
	"crypto/ed25519"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"

	"github.com/gatemesh-go/gatemesh"
	"github.com/gatemesh-go/gatemesh/auth/identity"
)

// An edge authenticates the caller and proxies to a service, which learns who
// the user is from the identity that the edge signed, and from nothing else.
func Example() {
	_, private, _ := ed25519.GenerateKey(nil) // in production: from a secret
	minter := gatemesh.Must(identity.NewMinter(identity.MinterConfig{
		Issuer:   "https://edge.internal",
		Audience: []string{"cluster.local"},
		Key:      identity.SigningKey{Private: private},
		Claims:   []string{"tenant"},
	}))
	entry := gatemesh.Must(gatemesh.NewEntry(gatemesh.EntryConfig{}))

	// The service. In production it fetches the edge's JWKS over HTTP now and
	// then, and calls keys.Set with it.
	keys := gatemesh.Must(identity.NewKeys(gatemesh.Must(identity.ParseJWKS(minter.JWKS()))))
	verifier := gatemesh.Must(identity.NewVerifier(identity.VerifierConfig{
		Issuer:   "https://edge.internal",
		Audience: []string{"cluster.local"},
		Keys:     keys,
	}))
	serviceChain := gatemesh.Must(gatemesh.NewChain(entry, verifier.Layer()))
	service := httptest.NewServer(serviceChain.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		user := gatemesh.FromContext(r.Context()).Principal()
		tenant, _ := user.ClaimString("tenant")
		fmt.Fprintf(w, "%s of %s", user.Subject(), tenant)
	})))
	defer service.Close()

	// The edge. Package auth has the gates that authenticate for real.
	authenticate := gatemesh.GateFunc(func(_ context.Context, c *gatemesh.Call) (gatemesh.Admission, error) {
		if c.Header().Get("Authorization") != "Bearer alice's token" {
			return gatemesh.Admission{}, nil // anonymous; the service decides
		}
		return gatemesh.Admission{
			Principal: gatemesh.NewPrincipal(gatemesh.PrincipalInfo{
				Issuer: "https://idp.example", Subject: "alice", Method: "jwt", Claims: map[string]any{"tenant": "acme"},
			}),
			Consumed: []string{"Authorization"},
		}, nil
	})
	target := gatemesh.Must(url.Parse(service.URL))
	outbound := gatemesh.Must(gatemesh.NewOutbound(gatemesh.OutboundConfig{
		Mesh:   gatemesh.MeshHosts(map[string]gatemesh.Destination{target.Host: {Service: "user-service"}}),
		Layers: []gatemesh.Layer{minter.Layer()},
	}))
	base := &http.Transport{}
	defer base.CloseIdleConnections()
	edgeChain := gatemesh.Must(gatemesh.NewChain(entry, gatemesh.Layer{
		Name: "auth", Gate: authenticate, Gives: []gatemesh.Fact{gatemesh.FactPrincipal},
	}))
	edge := httptest.NewServer(edgeChain.Handler(&httputil.ReverseProxy{
		Rewrite:   func(r *httputil.ProxyRequest) { r.SetURL(target) },
		Transport: outbound.Transport(base),
	}))
	defer edge.Close()

	for _, credential := range []string{"Bearer alice's token", ""} {
		r, _ := http.NewRequest(http.MethodGet, edge.URL, nil)
		r.Header.Set(gatemesh.IdentityHeader, "I am the administrator")
		r.Header.Set("Authorization", credential)
		resp, err := edge.Client().Do(r)
		if err != nil {
			fmt.Println(err)
			return
		}
		body, _ := io.ReadAll(resp.Body)
		_ = resp.Body.Close()
		if resp.StatusCode == http.StatusOK {
			fmt.Println(resp.StatusCode, string(body))
		} else {
			fmt.Println(resp.StatusCode)
		}
	}
	// Output:
	// 200 alice of acme
	// 401
}

// A key is replaced without a failed call in three steps, each one later than
// the time it takes every service to fetch the JWKS.
func ExampleMinter_Update() {
	key := func(id string) identity.SigningKey {
		_, private, _ := ed25519.GenerateKey(nil)
		return identity.SigningKey{ID: id, Private: private}
	}
	old, next := key("2026-10"), key("2026-11")
	cfg := identity.MinterConfig{Issuer: "https://edge.internal", Audience: []string{"cluster.local"}, Key: old}
	minter := gatemesh.Must(identity.NewMinter(cfg))
	show := func() {
		keys := gatemesh.Must(identity.ParseJWKS(minter.JWKS()))
		_, hasOld := keys.Key("2026-10")
		_, hasNext := keys.Key("2026-11")
		fmt.Println(cfg.Key, hasOld, hasNext)
	}
	show()

	cfg.Next = []identity.PublicKey{next.Public()}
	_ = minter.Update(cfg)
	show()

	cfg.Key, cfg.Next, cfg.Previous = next, nil, []identity.PublicKey{old.Public()}
	_ = minter.Update(cfg)
	show()

	cfg.Previous = nil
	_ = minter.Update(cfg)
	show()
	// Output:
	// signing key "2026-10" true false
	// signing key "2026-10" true true
	// signing key "2026-11" true true
	// signing key "2026-11" false true
}
