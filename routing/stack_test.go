package routing_test

import (
	"crypto/ed25519"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"

	"github.com/gatemesh-go/gatemesh"
	"github.com/gatemesh-go/gatemesh/auth"
	"github.com/gatemesh-go/gatemesh/auth/identity"
	"github.com/gatemesh-go/gatemesh/auth/policy"
	"github.com/gatemesh-go/gatemesh/breaker"
	"github.com/gatemesh-go/gatemesh/canary"
	"github.com/gatemesh-go/gatemesh/ratelimit"
	"github.com/gatemesh-go/gatemesh/routing"
	"github.com/gatemesh-go/gatemesh/routing/pool"
	"github.com/gatemesh-go/gatemesh/trace"
)

// stack is a gateway with every layer of this module, inbound and outbound.
type stack struct {
	http.Handler
	token   string // of a user who may do everything
	verify  gatemesh.Layer
	limited *ratelimit.Limiter
	breaker *breaker.Gate
	log     *recorder
}

type stackConfig struct {
	upstream string // the URL of the upstream
	limit    int    // calls of a user in an hour; 0 is very many
	layers   []gatemesh.Layer
	wrap     func(http.Handler) http.Handler
}

func newStack(t testing.TB, cfg stackConfig) *stack {
	t.Helper()
	s := &stack{log: &recorder{}}
	public, private, err := ed25519.GenerateKey(nil)
	require.NoError(t, err)
	token := jwt.NewWithClaims(jwt.SigningMethodEdDSA, jwt.MapClaims{
		"iss": "https://idp.example", "aud": "gateway", "sub": "alice", "exp": time.Now().Add(time.Hour).Unix(),
	})
	token.Header["kid"] = "k1"
	s.token, err = token.SignedString(private)
	require.NoError(t, err)

	const most = 1_000_000
	if cfg.limit == 0 {
		cfg.limit = most
	}
	tracer := gatemesh.Must(trace.New(trace.Config{TracerProvider: sdktrace.NewTracerProvider()}))
	client := gatemesh.Must(ratelimit.New(ratelimit.Config{Name: "client", Key: ratelimit.ByClient(0), Limit: ratelimit.Limit{Requests: most, Per: time.Hour}}))
	s.limited = gatemesh.Must(ratelimit.New(ratelimit.Config{Name: "consumer", Key: ratelimit.ByConsumer(), Limit: ratelimit.Limit{Requests: cfg.limit, Per: time.Hour}}))
	who := gatemesh.Must(auth.New(auth.Config{Issuers: []auth.Issuer{{
		Issuer: "https://idp.example", Audience: []string{"gateway"}, Algorithms: []string{"EdDSA"},
		Keys: gatemesh.Must(auth.StaticKeys(auth.StaticKey{ID: "k1", Key: public})),
	}}}))
	allowed := gatemesh.Must(policy.New(policy.Config{
		Workload: gatemesh.Workload{Name: "gateway", TrustDomain: "cluster.local", Namespace: backend.Namespace, ServiceAccount: "gateway"},
		Policies: []policy.Policy{{Name: "users", Namespace: backend.Namespace, Rules: []policy.Rule{{
			From: []policy.Source{{RequestPrincipals: []string{"https://idp.example/*"}}},
		}}}},
		Unselected: policy.Deny,
	}))
	scheme, addr, _ := strings.Cut(cfg.upstream, "://")
	endpoints := gatemesh.Must(pool.New(pool.Config{Name: backend.Service, Resolver: pool.Static(addr)}))
	t.Cleanup(func() { assert.NoError(t, endpoints.Close()) })
	_, signing, err := ed25519.GenerateKey(nil)
	require.NoError(t, err)
	minter := gatemesh.Must(identity.NewMinter(identity.MinterConfig{
		Issuer: "https://edge", Audience: []string{"cluster.local"}, Key: identity.SigningKey{Private: signing},
	}))
	s.verify = gatemesh.Must(identity.NewVerifier(identity.VerifierConfig{Issuer: "https://edge", Audience: []string{"cluster.local"}, Keys: minter})).Layer()
	s.breaker = gatemesh.Must(breaker.NewGate(breaker.GateConfig{}))
	var upstreams []routing.Upstream
	for _, subset := range []string{"v1", "v2"} {
		upstreams = append(upstreams, routing.Upstream{Service: backend.Service, Subset: subset, URL: scheme + "://user-service", Balance: endpoints.Transport})
	}
	version := func(subset string, weight uint32) routing.Backend {
		d := backend
		d.Subset = subset
		return routing.Backend{Destination: d, Weight: weight}
	}
	r := newRouter(t, routing.Config{
		Services: []routing.Service{{Service: backend.Service, Namespace: backend.Namespace, Rules: []routing.Route{{
			Name: "versions", Backends: []routing.Backend{version("v1", 90), version("v2", 10)},
		}}}},
		Routes: []routing.Route{to("all", backend)}, Upstreams: upstreams, Observer: s.log,
		Outbound: []gatemesh.Layer{
			tracer.Span(),
			gatemesh.Must(breaker.NewDeadline(breaker.DeadlineConfig{Timeout: time.Hour})).Layer(),
			gatemesh.Must(breaker.NewRetry(breaker.RetryConfig{})).Layer(),
			s.breaker.Layer(), minter.Layer(), tracer.Inject(),
		},
	})
	split := gatemesh.Must(canary.New(canary.Config{Services: r}))
	entry := gatemesh.Must(gatemesh.NewEntry(gatemesh.EntryConfig{Observer: s.log}))
	layers := append([]gatemesh.Layer{client.Layer(), r.Layer(), tracer.Layer(), who.Layer(), s.limited.Layer(), allowed.Layer(), split.Layer()}, cfg.layers...)
	chain, err := gatemesh.NewChain(entry, layers...)
	require.NoError(t, err)
	h := r.Proxy()
	if cfg.wrap != nil {
		h = cfg.wrap(h)
	}
	s.Handler = chain.Handler(h)
	return s
}

// bearer is the field that authenticates the user, for raw.
func (s *stack) bearer() string { return "Authorization: Bearer " + s.token + "\n" }
