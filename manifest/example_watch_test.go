package manifest_test

import (
	"fmt"
	"log/slog"
	"net/http"
	"os"

	"github.com/gatemesh-go/gatemesh"
	"github.com/gatemesh-go/gatemesh/auth"
	"github.com/gatemesh-go/gatemesh/auth/policy"
	"github.com/gatemesh-go/gatemesh/manifest"
)

// Tokens and policies of a folder, which change together while the server
// serves.
func ExampleWatcher() {
	self := gatemesh.Workload{Name: "user-service", TrustDomain: "cluster.local", Namespace: "production", ServiceAccount: "user-service", Labels: map[string]string{"app": "user-service"}}
	const dir = "testdata/mesh"
	set := gatemesh.Must(manifest.LoadDir(dir))
	tokens := gatemesh.Must(set.Authentication(manifest.AuthenticationConfig{Workload: self}))
	rules := func(set *manifest.Set) policy.Config {
		return policy.Config{Workload: self, Policies: set.Policies(), Unselected: policy.Deny}
	}
	who := gatemesh.Must(auth.New(tokens.Config()))
	may := gatemesh.Must(policy.New(rules(set)))

	watcher := gatemesh.Must(manifest.NewWatcher(manifest.WatcherConfig{
		Dir: dir, Current: set, Observer: gatemesh.SlogObserver(slog.Default()),
		Apply: func(set *manifest.Set) error {
			next, err := set.Authentication(manifest.AuthenticationConfig{Workload: self, Previous: tokens})
			if err != nil {
				return err
			}
			if err := gatemesh.Apply(who.Change(next.Config()), may.Change(rules(set))); err != nil {
				_ = next.Close()
				return err
			}
			old := tokens
			tokens = next
			return old.Close()
		},
	}))
	defer func() { // in this order: Apply uses tokens
		_ = watcher.Close()
		_ = tokens.Close()
	}()

	chain := gatemesh.Must(gatemesh.NewChain(gatemesh.Must(gatemesh.NewEntry(gatemesh.EntryConfig{})), who.Layer(), may.Layer()))
	handler := chain.Handler(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	_ = handler // to be served
	fmt.Println(chain.Layers())
	// Output: [auth policy]
}

// What a RequestAuthentication amounts to.
func ExampleSet_Authentication() {
	set := gatemesh.Must(manifest.Parse("users.yaml", []byte(`
apiVersion: security.istio.io/v1
kind: RequestAuthentication
metadata: {name: users, namespace: shop}
spec:
  selector: {matchLabels: {app: gateway}}
  jwtRules:
  - issuer: https://idp.example
    audiences: [orders]
    jwks: '{"keys":[{"kty":"OKP","crv":"Ed25519","kid":"1","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}'
`)))
	tokens, err := set.Authentication(manifest.AuthenticationConfig{Workload: gatemesh.Workload{
		Name: "gateway", TrustDomain: "cluster.local", Namespace: "shop", ServiceAccount: "gateway", Labels: map[string]string{"app": "gateway"},
	}})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return
	}
	defer func() { _ = tokens.Close() }()

	cfg := tokens.Config()
	fmt.Println(cfg.Issuers[0].Issuer, cfg.Issuers[0].Audience, cfg.TokenParameter)
	fmt.Println("a call without a token passes:", cfg.InsecureAnonymous)
	// Output:
	// https://idp.example [orders] access_token
	// a call without a token passes: true
}
