package grpcmesh_test

import (
	"cmp"
	"context"
	"crypto/ed25519"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/gatemesh-go/gatemesh"
	"github.com/gatemesh-go/gatemesh/auth"
	"github.com/gatemesh-go/gatemesh/auth/identity"
	"github.com/gatemesh-go/gatemesh/auth/policy"
	"github.com/gatemesh-go/gatemesh/breaker"
	"github.com/gatemesh-go/gatemesh/canary"
	"github.com/gatemesh-go/gatemesh/grpcmesh"
	"github.com/gatemesh-go/gatemesh/mtls"
	"github.com/gatemesh-go/gatemesh/mtls/devca"
	"github.com/gatemesh-go/gatemesh/ratelimit"
	"github.com/gatemesh-go/gatemesh/routing"
	"github.com/gatemesh-go/gatemesh/trace"
)

const (
	contractPath   = "/grpc.health.v1.Health/Check"
	contractIssuer = "https://auth.example.com/"
	contractKey    = "a secret of thirty-two bytes, 123"
)

// contract is one demand on a gate: asked directly, over HTTP and over gRPC
// (unary and stream, with and without the tap handle) it gives the same code.
type contract struct {
	name string
	// layer makes the gate anew for each way of asking, so that limits start full.
	layer func(t *testing.T) gatemesh.Layer
	// header is what the caller sends; info is the same for the direct way.
	header map[string]string
	info   gatemesh.CallInfo
	// before are calls that are admitted first.
	before int
	want   gatemesh.Code
	status int // over HTTP. Default: that of want.
}

func user() *gatemesh.Principal {
	return gatemesh.NewPrincipal(gatemesh.PrincipalInfo{Issuer: contractIssuer, Subject: "user-1", Consumer: "acme", Method: "jwt"})
}

// believing stands where auth would, and gives the same principal as info.
func believing() gatemesh.Layer {
	return gatemesh.Layer{Name: "auth", Gives: []gatemesh.Fact{gatemesh.FactPrincipal, gatemesh.FactRoute},
		Gate: gatemesh.GateFunc(func(context.Context, *gatemesh.Call) (gatemesh.Admission, error) {
			return gatemesh.Admission{Principal: user(), Route: splitRoute()}, nil
		})}
}

func splitRoute() *gatemesh.Route {
	return &gatemesh.Route{Name: "r", Backends: []gatemesh.WeightedDestination{{
		Destination: gatemesh.Destination{Service: "user-service", Namespace: "production"}, Weight: 1,
	}}}
}

func contractToken(t *testing.T, exp time.Duration) string {
	token := jwt.NewWithClaims(jwt.SigningMethodHS256, jwt.MapClaims{
		"iss": contractIssuer, "aud": "api", "sub": "user-1", "exp": time.Now().Add(exp).Unix(),
	})
	s, err := token.SignedString([]byte(contractKey))
	require.NoError(t, err)
	return s
}

func authLayer(t *testing.T) gatemesh.Layer {
	keys, err := auth.StaticKeys(auth.StaticKey{Key: []byte(contractKey)})
	require.NoError(t, err)
	apiKeys, err := auth.NewKeySet([]auth.Key{{ID: "acme-1", Hash: auth.HashKey("an-api-key-of-acme-0123456789abcdef"), Consumer: "acme"}})
	require.NoError(t, err)
	a, err := auth.New(auth.Config{APIKeys: apiKeys, Issuers: []auth.Issuer{{
		Issuer: contractIssuer, Audience: []string{"api"}, Algorithms: []string{"HS256"}, Keys: keys,
	}}})
	require.NoError(t, err)
	return a.Layer()
}

// opaqueLayer has a function verify tokens, and one revoked.
func opaqueLayer(t *testing.T) gatemesh.Layer {
	revoked, err := auth.NewRevocations(auth.RevocationsConfig{})
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, revoked.Close()) })
	require.NoError(t, revoked.Revoke(t.Context(), auth.Revocation{Issuer: contractIssuer, Credential: "revoked", Until: time.Now().Add(time.Hour)}))
	a, err := auth.New(auth.Config{Revocations: revoked, UnavailableStatus: http.StatusServiceUnavailable, Opaque: &auth.Opaque{
		Issuer: contractIssuer, Audience: []string{"api"}, Lifetime: time.Hour,
		Verifier: auth.VerifierFunc(func(_ context.Context, token string) (map[string]any, error) {
			switch token {
			case "bad":
				return nil, auth.ErrInactive
			case "away":
				return nil, errors.New("the server is away")
			}
			return map[string]any{"sub": "user-1", "aud": "api", "jti": token}, nil
		}),
	}})
	require.NoError(t, err)
	return a.Layer()
}

func limitLayer(key ratelimit.Key) func(*testing.T) gatemesh.Layer {
	return func(t *testing.T) gatemesh.Layer {
		l, err := ratelimit.New(ratelimit.Config{Name: "contract", Key: key, Limit: ratelimit.Limit{Requests: 2, Per: time.Hour}})
		require.NoError(t, err)
		return l.Layer()
	}
}

func policyLayer(rule policy.Operation) func(*testing.T) gatemesh.Layer {
	return func(t *testing.T) gatemesh.Layer {
		p, err := policy.New(policy.Config{
			Workload:   gatemesh.Workload{Name: "s", TrustDomain: "cluster.local", Namespace: "ns", ServiceAccount: "s"},
			Unselected: policy.Deny,
			Policies:   []policy.Policy{{Name: "p", Namespace: "ns", Rules: []policy.Rule{{To: []policy.Operation{rule}}}}},
		})
		require.NoError(t, err)
		return p.Layer()
	}
}

func routeLayer(prefix string) func(*testing.T) gatemesh.Layer {
	return func(t *testing.T) gatemesh.Layer {
		d := gatemesh.Destination{Service: "user-service", Namespace: "production"}
		r, err := routing.New(routing.Config{
			Routes: []routing.Route{{
				Name: "r", Matches: []routing.Match{{Path: routing.PathMatch{Type: routing.PathPrefix, Value: prefix}}},
				Backends: []routing.Backend{{Destination: d, Weight: 1}},
			}},
			Upstreams: []routing.Upstream{{Service: d.Service, URL: "http://127.0.0.1:1"}},
		})
		require.NoError(t, err)
		t.Cleanup(func() { assert.NoError(t, r.Close()) })
		return r.Layer()
	}
}

// versions is a ServiceRouter that has one rule, or none that takes a call.
type versions []gatemesh.WeightedDestination

func (v versions) RouteTo(*gatemesh.Call, gatemesh.Destination) (*gatemesh.Route, error) {
	if len(v) == 0 {
		return nil, gatemesh.Deny(gatemesh.NotFound, "no_rule", "No rule.")
	}
	return &gatemesh.Route{Name: "versions", Backends: v}, nil
}

func canaryLayer(subsets ...string) func(*testing.T) gatemesh.Layer {
	return func(t *testing.T) gatemesh.Layer {
		var v versions
		for _, s := range subsets {
			v = append(v, gatemesh.WeightedDestination{
				Destination: gatemesh.Destination{Service: "user-service", Namespace: "production", Subset: s}, Weight: 1,
			})
		}
		c, err := canary.New(canary.Config{Services: v})
		require.NoError(t, err)
		return c.Layer()
	}
}

// identities returns the verifier's layer and an identity that it accepts.
func identities(t *testing.T) (func(*testing.T) gatemesh.Layer, string) {
	_, private, err := ed25519.GenerateKey(nil)
	require.NoError(t, err)
	m, err := identity.NewMinter(identity.MinterConfig{Issuer: "edge", Audience: []string{"mesh"}, Key: identity.SigningKey{Private: private}})
	require.NoError(t, err)
	parent, err := gatemesh.NewCall(gatemesh.CallInfo{Principal: user()})
	require.NoError(t, err)
	out, err := gatemesh.NewCall(gatemesh.CallInfo{Parent: parent})
	require.NoError(t, err)
	adm, err := m.Admit(t.Context(), out)
	require.NoError(t, err)
	require.Len(t, adm.Header, 1)
	return func(t *testing.T) gatemesh.Layer {
		v, err := identity.NewVerifier(identity.VerifierConfig{Issuer: "edge", Audience: []string{"mesh"}, Keys: m})
		require.NoError(t, err)
		return v.Layer()
	}, adm.Header[0].Value
}

// limiterLayer is a limit of one, of which some are taken.
func limiterLayer(p breaker.Priority, taken int) func(*testing.T) gatemesh.Layer {
	return func(t *testing.T) gatemesh.Layer {
		l, err := breaker.NewLimiter(breaker.LimiterConfig{Min: 1, Max: 1, MaxWait: time.Millisecond, Priority: func(c *gatemesh.Call) breaker.Priority {
			if c.Path() == "/taken" {
				return breaker.Normal
			}
			return p
		}})
		require.NoError(t, err)
		for range taken {
			c, err := gatemesh.NewCall(gatemesh.CallInfo{Path: "/taken"})
			require.NoError(t, err)
			_, err = l.Admit(t.Context(), c)
			require.NoError(t, err)
		}
		return l.Layer()
	}
}

func bearer(token string) (map[string]string, gatemesh.CallInfo) {
	return map[string]string{"Authorization": "Bearer " + token},
		gatemesh.CallInfo{Header: http.Header{"Authorization": {"Bearer " + token}}}
}

func contracts(t *testing.T) []contract {
	good, goodInfo := bearer(contractToken(t, time.Hour))
	old, oldInfo := bearer(contractToken(t, -time.Hour))
	verifier, token := identities(t)
	id := func(v string) (map[string]string, gatemesh.CallInfo) {
		return map[string]string{gatemesh.IdentityHeader: v}, gatemesh.CallInfo{Reserved: map[string]string{gatemesh.IdentityHeader: v}}
	}
	goodID, goodIDInfo := id(token)
	// The last byte of an Ed25519 signature is 0 once in sixteen, so it is the
	// first one that is changed.
	signature := strings.LastIndexByte(token, '.') + 1
	other := "A"
	if token[signature] == 'A' {
		other = "B"
	}
	badID, badIDInfo := id(token[:signature] + other + token[signature+1:])
	opaque := func(token string, want gatemesh.Code) contract {
		header, info := bearer(token)
		return contract{name: "auth: opaque token: " + token, layer: opaqueLayer, header: header, info: info, want: want}
	}
	known := gatemesh.CallInfo{Principal: user(), Route: splitRoute(), Destination: splitRoute().Backends[0].Destination}
	here := policy.Operation{Paths: []string{"/grpc.health.v1.Health/*"}, Methods: []string{"POST"}}
	elsewhere := policy.Operation{Paths: []string{"/other.Service/*"}}
	return []contract{
		{name: "auth: no credential", layer: authLayer, want: gatemesh.Unauthenticated},
		{name: "auth: good token", layer: authLayer, header: good, info: goodInfo, want: gatemesh.OK},
		{name: "auth: expired token", layer: authLayer, header: old, info: oldInfo, want: gatemesh.Unauthenticated},
		{name: "auth: API key", layer: authLayer, header: map[string]string{"X-Api-Key": "an-api-key-of-acme-0123456789abcdef"},
			info: gatemesh.CallInfo{Header: http.Header{"X-Api-Key": {"an-api-key-of-acme-0123456789abcdef"}}}, want: gatemesh.OK},
		{name: "auth: unknown API key", layer: authLayer, header: map[string]string{"X-Api-Key": "wrong"},
			info: gatemesh.CallInfo{Header: http.Header{"X-Api-Key": {"wrong"}}}, want: gatemesh.Unauthenticated},
		opaque("good", gatemesh.OK), opaque("bad", gatemesh.Unauthenticated),
		opaque("revoked", gatemesh.Unauthenticated), opaque("away", gatemesh.Unavailable),
		{name: "identity: none", layer: verifier, want: gatemesh.Unauthenticated},
		{name: "identity: good", layer: verifier, header: goodID, info: goodIDInfo, want: gatemesh.OK},
		{name: "identity: forged", layer: verifier, header: badID, info: badIDInfo, want: gatemesh.Unauthenticated},
		{name: "policy: allowed", layer: policyLayer(here), info: known, want: gatemesh.OK},
		{name: "policy: refused", layer: policyLayer(elsewhere), info: known, want: gatemesh.PermissionDenied},
		{name: "limit by client: within", layer: limitLayer(ratelimit.ByClient(0)), before: 1, want: gatemesh.OK},
		{name: "limit by client: over", layer: limitLayer(ratelimit.ByClient(0)), before: 2, want: gatemesh.ResourceExhausted},
		{name: "limit by consumer: within", layer: limitLayer(ratelimit.ByConsumer()), info: known, before: 1, want: gatemesh.OK},
		{name: "limit by consumer: over", layer: limitLayer(ratelimit.ByConsumer()), info: known, before: 2, want: gatemesh.ResourceExhausted},
		{name: "route: found", layer: routeLayer("/grpc.health.v1.Health"), want: gatemesh.OK},
		{name: "route: none", layer: routeLayer("/other"), want: gatemesh.Unimplemented, status: http.StatusNotFound},
		{name: "canary: split", layer: canaryLayer("v1", "v2"), info: known, want: gatemesh.OK},
		{name: "canary: no rule matches", layer: canaryLayer(), info: known, want: gatemesh.NotFound},
		{name: "peer: none", layer: func(t *testing.T) gatemesh.Layer { return workload(t, newCA(t), "s").Layer() }, want: gatemesh.Unauthenticated},
		{name: "trace: a span", layer: func(t *testing.T) gatemesh.Layer {
			tracer, err := trace.New(trace.Config{TracerProvider: sdktrace.NewTracerProvider()})
			require.NoError(t, err)
			return tracer.Layer()
		}, header: map[string]string{"Traceparent": "00-00000000000000000000000000000000-0000000000000000-zz"}, want: gatemesh.OK},
		{name: "deadline", layer: func(t *testing.T) gatemesh.Layer {
			d, err := breaker.NewDeadline(breaker.DeadlineConfig{Timeout: time.Minute})
			require.NoError(t, err)
			return d.Layer()
		}, want: gatemesh.OK},
		{name: "limiter: room", layer: limiterLayer(breaker.Normal, 0), want: gatemesh.OK},
		{name: "limiter: full", layer: limiterLayer(breaker.Normal, 1), want: gatemesh.Unavailable},
		{name: "limiter: full, exempt", layer: limiterLayer(breaker.Exempt, 1), want: gatemesh.OK},
		{name: "no Denial", layer: func(*testing.T) gatemesh.Layer {
			return gatemesh.Layer{Name: "broken", Gate: gatemesh.GateFunc(func(context.Context, *gatemesh.Call) (gatemesh.Admission, error) {
				return gatemesh.Admission{}, errors.New("a detail for the log")
			})}
		}, want: gatemesh.Internal},
	}
}

func TestContract(t *testing.T) {
	for _, c := range contracts(t) {
		t.Run(c.name, func(t *testing.T) {
			t.Run("directly", func(t *testing.T) {
				gate := c.layer(t).Gate
				info := c.info
				info.Protocol, info.Path, info.Method = gatemesh.GRPC, contractPath, "POST"
				call, err := gatemesh.NewCall(info)
				require.NoError(t, err)
				for range c.before {
					_, err := gate.Admit(t.Context(), call)
					require.NoError(t, err)
				}
				_, err = gate.Admit(t.Context(), call)
				assert.Equal(t, c.want, codeOf(err))
			})
			chain := func() *gatemesh.Chain {
				layers := []gatemesh.Layer{c.layer(t)}
				if c.info.Principal != nil {
					layers = append([]gatemesh.Layer{believing()}, layers...)
				}
				entry, err := gatemesh.NewEntry(gatemesh.EntryConfig{})
				require.NoError(t, err)
				ch, err := gatemesh.NewChain(entry, layers...)
				require.NoError(t, err)
				return ch
			}
			t.Run("over HTTP", func(t *testing.T) {
				url := serveHTTP(t, chain(), nil)
				for range c.before {
					require.Equal(t, http.StatusOK, post(t, http.DefaultTransport, url, c.header))
				}
				assert.Equal(t, cmp.Or(c.status, c.want.HTTPStatus()), post(t, http.DefaultTransport, url, c.header))
			})
			for _, tap := range []bool{true, false} {
				name := map[bool]string{true: "with tap", false: "without tap"}[tap]
				t.Run("over gRPC, unary, "+name, func(t *testing.T) {
					client := healthpb.NewHealthClient(dial(t, serveGRPC(t, chain(), tap, nil), nil))
					for range c.before {
						require.Equal(t, codes.OK, check(t, client, c.header))
					}
					assert.Equal(t, codes.Code(c.want), check(t, client, c.header))
				})
				t.Run("over gRPC, stream, "+name, func(t *testing.T) {
					client := healthpb.NewHealthClient(dial(t, serveGRPC(t, chain(), tap, nil), nil))
					for range c.before {
						require.Equal(t, codes.OK, list(t, client, c.header))
					}
					assert.Equal(t, codes.Code(c.want), list(t, client, c.header))
				})
			}
		})
	}
}

// The peer gate judges connections that are already there, on both protocols.
func TestContractPeer(t *testing.T) {
	ca := newCA(t)
	server, client := workload(t, ca, "server"), workload(t, ca, "client")
	entry, err := gatemesh.NewEntry(gatemesh.EntryConfig{Peer: server.Peer})
	require.NoError(t, err)
	chain, err := gatemesh.NewChain(entry, server.Layer())
	require.NoError(t, err)
	callee, err := mtls.Exactly(self("server").SPIFFEID())
	require.NoError(t, err)
	transport, err := client.Transport(callee)
	require.NoError(t, err)
	defer transport.CloseIdleConnections()
	config, err := client.ClientConfig(callee)
	require.NoError(t, err)

	var peer *gatemesh.Peer
	url := serveHTTP(t, chain, server.ServerConfig(), func(c *gatemesh.Call) { peer = c.Peer() })
	healths := healthpb.NewHealthClient(dial(t, serveGRPC(t, chain, true, server.ServerConfig()), config))
	require.Equal(t, http.StatusOK, post(t, transport, url, nil))
	require.Equal(t, codes.OK, check(t, healths, nil))
	call, err := gatemesh.NewCall(gatemesh.CallInfo{Peer: peer})
	require.NoError(t, err)
	_, err = server.Admit(t.Context(), call)
	require.NoError(t, err)

	stays, err := mtls.Exactly(self("somebody-else").SPIFFEID())
	require.NoError(t, err)
	require.NoError(t, server.Update(mtls.Config{Source: source(t, ca, "server"), Authorize: stays}))
	_, err = server.Admit(t.Context(), call)
	assert.Equal(t, gatemesh.PermissionDenied, codeOf(err))
	assert.Equal(t, http.StatusForbidden, post(t, transport, url, nil))
	assert.Equal(t, codes.PermissionDenied, check(t, healths, nil))
}

func codeOf(err error) gatemesh.Code {
	if err == nil {
		return gatemesh.OK
	}
	return gatemesh.AsDenial(context.Background(), err).Code
}

func newCA(t *testing.T) *devca.CA {
	ca, err := devca.New("cluster.local")
	require.NoError(t, err)
	return ca
}

func self(name string) gatemesh.Workload {
	return gatemesh.Workload{Name: name, TrustDomain: "cluster.local", Namespace: "ns", ServiceAccount: name}
}

func source(t *testing.T, ca *devca.CA, name string) *devca.Source {
	s, err := ca.Source(devca.WorkloadConfig{Workload: self(name)})
	require.NoError(t, err)
	return s
}

func workload(t *testing.T, ca *devca.CA, name string) *mtls.TLS {
	all, err := mtls.MemberOf("cluster.local")
	require.NoError(t, err)
	m, err := mtls.New(mtls.Config{Source: source(t, ca, name), Authorize: all})
	require.NoError(t, err)
	return m
}

func serveHTTP(t *testing.T, chain *gatemesh.Chain, config *tls.Config, see ...func(*gatemesh.Call)) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	s := &http.Server{TLSConfig: config, ReadHeaderTimeout: time.Minute,
		Handler: chain.Handler(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			for _, f := range see {
				f(gatemesh.FromContext(r.Context()))
			}
		}))}
	done := make(chan struct{})
	scheme := "http://"
	if config != nil {
		scheme = "https://"
	}
	go func() { // both end with Close
		defer close(done)
		if config != nil {
			_ = s.ServeTLS(l, "", "")
		} else {
			_ = s.Serve(l)
		}
	}()
	t.Cleanup(func() {
		http.DefaultTransport.(*http.Transport).CloseIdleConnections()
		_ = s.Close()
		<-done
	})
	return scheme + l.Addr().String() + contractPath
}

func post(t *testing.T, rt http.RoundTripper, url string, header map[string]string) int {
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, url, http.NoBody)
	require.NoError(t, err)
	for k, v := range header {
		r.Header.Set(k, v)
	}
	resp, err := rt.RoundTrip(r)
	require.NoError(t, err)
	_, err = io.Copy(io.Discard, resp.Body)
	require.NoError(t, err)
	require.NoError(t, resp.Body.Close())
	return resp.StatusCode
}

func serveGRPC(t *testing.T, chain *gatemesh.Chain, tap bool, config *tls.Config) string {
	mesh, err := grpcmesh.NewServer(chain)
	require.NoError(t, err)
	options := mesh.Options()
	if !tap {
		unary, stream := mesh.Interceptors()
		options = []grpc.ServerOption{grpc.ChainUnaryInterceptor(unary), grpc.ChainStreamInterceptor(stream)}
	}
	if config != nil {
		options = append(options, grpc.Creds(credentials.NewTLS(config)))
	}
	s := grpc.NewServer(options...)
	healthpb.RegisterHealthServer(s, health.NewServer())
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = s.Serve(l) // ends with Stop
	}()
	t.Cleanup(func() { s.Stop(); <-done })
	return l.Addr().String()
}

func dial(t *testing.T, addr string, config *tls.Config) *grpc.ClientConn {
	creds := insecure.NewCredentials()
	if config != nil {
		creds = credentials.NewTLS(config)
	}
	cc, err := grpc.NewClient(addr, grpc.WithTransportCredentials(creds))
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, cc.Close()) })
	return cc
}

func check(t *testing.T, client healthpb.HealthClient, header map[string]string) codes.Code {
	_, err := client.Check(metadata.NewOutgoingContext(t.Context(), metadata.New(header)), &healthpb.HealthCheckRequest{})
	return status.Code(err)
}

// list opens a stream and reads its first message.
func list(t *testing.T, client healthpb.HealthClient, header map[string]string) codes.Code {
	ctx, cancel := context.WithCancel(metadata.NewOutgoingContext(t.Context(), metadata.New(header)))
	defer cancel()
	s, err := client.Watch(ctx, &healthpb.HealthCheckRequest{})
	if err == nil {
		_, err = s.Recv()
	}
	return status.Code(err)
}
