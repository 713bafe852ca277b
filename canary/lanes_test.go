package canary_test

import (
	"context"
	"crypto/ed25519"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health"
	"google.golang.org/grpc/health/grpc_health_v1"

	"github.com/gatemesh-go/gatemesh"
	"github.com/gatemesh-go/gatemesh/auth/identity"
	"github.com/gatemesh-go/gatemesh/canary"
	"github.com/gatemesh-go/gatemesh/grpcmesh"
)

// tree is edge → a → b → c over HTTP, gRPC and HTTP, with a real server each.
type tree struct {
	edge string
	a    string             // behind the edge
	key  ed25519.PrivateKey // of the edge
	mu   sync.Mutex
	went []string // where the calls went, in their order
}

func newTree(t *testing.T, rules services) *tree {
	t.Helper()
	tr := &tree{}
	_, private, err := ed25519.GenerateKey(nil)
	require.NoError(t, err)
	minter, err := identity.NewMinter(identity.MinterConfig{Issuer: "edge", Audience: []string{"mesh"}, Key: identity.SigningKey{Private: private}})
	require.NoError(t, err)
	keys, err := identity.ParseJWKS(minter.JWKS())
	require.NoError(t, err)
	verifier, err := identity.NewVerifier(identity.VerifierConfig{Issuer: "edge", Audience: []string{"mesh"}, Keys: keys})
	require.NoError(t, err)
	split := withServices(t, rules)
	entry, err := gatemesh.NewEntry(gatemesh.EntryConfig{})
	require.NoError(t, err)
	behind, err := gatemesh.NewChain(entry, verifier.Layer())
	require.NoError(t, err)

	note := gatemesh.Layer{Name: "note", Gate: gatemesh.GateFunc(func(_ context.Context, c *gatemesh.Call) (gatemesh.Admission, error) {
		tr.mu.Lock()
		defer tr.mu.Unlock()
		tr.went = append(tr.went, c.Destination().Service+"/"+c.Destination().Subset)
		return gatemesh.Admission{}, nil
	})}
	to := func(service, host string, layers ...gatemesh.Layer) *gatemesh.Outbound {
		out, err := gatemesh.NewOutbound(gatemesh.OutboundConfig{
			Mesh:   gatemesh.MeshHosts(map[string]gatemesh.Destination{host: {Service: service, Namespace: "production"}}),
			Layers: append(layers, note),
		})
		require.NoError(t, err)
		return out
	}
	fetch := func(ctx context.Context, client *http.Client, target string) error {
		r, err := http.NewRequestWithContext(ctx, "GET", target, nil)
		if err != nil {
			return err
		}
		resp, err := client.Do(r)
		if err == nil && resp.StatusCode != http.StatusOK {
			err = fmt.Errorf("%s answered %s", target, resp.Status)
		}
		if resp != nil {
			_ = resp.Body.Close()
		}
		return err
	}
	serve := func(chain *gatemesh.Chain, next func(context.Context) error) string {
		server := httptest.NewServer(chain.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if err := next(r.Context()); err != nil {
				http.Error(w, err.Error(), http.StatusBadGateway)
			}
		})))
		t.Cleanup(server.Close)
		return server.URL
	}
	client := func(out *gatemesh.Outbound) *http.Client {
		base := &http.Transport{}
		t.Cleanup(base.CloseIdleConnections)
		return &http.Client{Transport: out.Transport(base)}
	}
	hostOf := func(target string) string {
		u, err := url.Parse(target)
		require.NoError(t, err)
		return u.Host
	}

	c := serve(behind, func(context.Context) error { return nil })
	toC := client(to("c", hostOf(c), split.Layer(), identity.Forward()))

	mesh, err := grpcmesh.NewServer(behind)
	require.NoError(t, err)
	b := grpc.NewServer(append(mesh.Options(), grpc.ChainUnaryInterceptor(
		func(ctx context.Context, req any, _ *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
			if err := fetch(ctx, toC, c); err != nil {
				return nil, err
			}
			return next(ctx, req)
		}))...)
	grpc_health_v1.RegisterHealthServer(b, health.NewServer())
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	served := make(chan error, 1)
	go func() { served <- b.Serve(listener) }()
	t.Cleanup(func() {
		b.Stop()
		assert.NoError(t, <-served)
	})
	grpcClient, err := grpcmesh.NewClient(to("b", listener.Addr().String(), split.Layer(), identity.Forward()))
	require.NoError(t, err)
	conn, err := grpc.NewClient(listener.Addr().String(), append(grpcClient.Options(), grpc.WithTransportCredentials(insecure.NewCredentials()))...)
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close() })

	a := serve(behind, func(ctx context.Context) error {
		_, err := grpc_health_v1.NewHealthClient(conn).Check(ctx, &grpc_health_v1.HealthCheckRequest{})
		return err
	})

	front, err := gatemesh.NewChain(entry,
		gatemesh.Layer{Name: "route", Gives: []gatemesh.Fact{gatemesh.FactRoute}, Gate: gatemesh.GateFunc(
			func(context.Context, *gatemesh.Call) (gatemesh.Admission, error) {
				return gatemesh.Admission{Destination: &gatemesh.Destination{Service: "a", Namespace: "production"}}, nil
			})},
		gatemesh.Layer{Name: "auth", Gives: []gatemesh.Fact{gatemesh.FactPrincipal}, Gate: gatemesh.GateFunc(
			func(_ context.Context, c *gatemesh.Call) (gatemesh.Admission, error) {
				return gatemesh.Admission{Principal: gatemesh.NewPrincipal(gatemesh.PrincipalInfo{Issuer: "idp", Subject: c.Header().Get("X-User")})}, nil
			})},
		split.Layer())
	require.NoError(t, err)
	tr.a, tr.key = a, private
	toA := client(to("a", hostOf(a), split.Layer(), minter.Layer()))
	tr.edge = serve(front, func(ctx context.Context) error { return fetch(ctx, toA, a) })
	return tr
}

func (tr *tree) call(t *testing.T, user string, header http.Header) []string {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), "GET", tr.edge, nil)
	require.NoError(t, err)
	r.Header = header.Clone()
	if r.Header == nil {
		r.Header = http.Header{}
	}
	r.Header.Set("X-User", user)
	resp, err := http.DefaultClient.Do(r)
	require.NoError(t, err)
	require.NoError(t, resp.Body.Close())
	require.Equal(t, 200, resp.StatusCode)
	tr.mu.Lock()
	defer tr.mu.Unlock()
	went := tr.went
	tr.went = nil
	return went
}

// TestPX01_TheTreeStaysInItsLane: three hops. b has no v2, and its calls go on
// in the lane all the same. What a client sends changes nothing.
func TestPX01_TheTreeStaysInItsLane(t *testing.T) {
	defer http.DefaultClient.CloseIdleConnections()
	v := func(service, name string, weight uint32) gatemesh.WeightedDestination {
		return subset(service, name, weight)
	}
	tr := newTree(t, services{
		"a": {Name: "a", Backends: []gatemesh.WeightedDestination{v("a", "v1", 50), v("a", "v2", 50)}},
		"b": {Name: "b", Backends: []gatemesh.WeightedDestination{v("b", "v1", 1)}},
		"c": {Name: "c", Backends: []gatemesh.WeightedDestination{v("c", "v1", 1)}, Lanes: []gatemesh.WeightedDestination{v("c", "v2", 1)}},
	})
	// A forged identity whose lane is v2, well made but for its key.
	_, private, err := ed25519.GenerateKey(nil)
	require.NoError(t, err)
	forger, err := identity.NewMinter(identity.MinterConfig{Issuer: "edge", Audience: []string{"mesh"}, Key: identity.SigningKey{Private: private}})
	require.NoError(t, err)
	parent := call(t, as("mallory"))
	adm, err := forger.Admit(t.Context(), call(t, lane("v2"), func(in *gatemesh.CallInfo) { in.Parent = parent }))
	require.NoError(t, err)
	require.Len(t, adm.Header, 1)
	forged := http.Header{}
	for _, name := range []string{"X-Gatemesh-Identity", "X-Gatemesh-Lane", "X-Lane", "X-Canary", "Lane"} {
		forged.Set(name, "v2")
	}
	forged.Set("X-Gatemesh-Identity", adm.Header[0].Value)
	forged.Set("Cookie", "canary=v2; lane=v2")

	lanes := map[string]int{}
	for i := range 30 {
		user := fmt.Sprint("user-", i)
		went := tr.call(t, user, nil)
		require.Len(t, went, 3)
		lane := went[0][len("a/"):]
		lanes[lane]++
		assert.Equal(t, []string{"a/" + lane, "b/v1", "c/" + lane}, went)
		assert.Equal(t, went, tr.call(t, user, forged), "a client chooses no lane")
	}
	assert.Positive(t, lanes["v1"])
	assert.Positive(t, lanes["v2"])
}

// TestPX01_AnIdentityOfSomebodyElse chooses no lane, even if the right key has
// signed it.
func TestPX01_AnIdentityOfSomebodyElse(t *testing.T) {
	defer http.DefaultClient.CloseIdleConnections()
	both := func(service string) *gatemesh.Route {
		return &gatemesh.Route{Name: service, Backends: []gatemesh.WeightedDestination{subset(service, "v1", 1), subset(service, "v2", 0)},
			Lanes: []gatemesh.WeightedDestination{subset(service, "v3", 1)}}
	}
	tr := newTree(t, services{"b": both("b"), "c": both("c")})
	ask := func(issuer, audience, lane string) (int, []string) {
		m, err := identity.NewMinter(identity.MinterConfig{Issuer: issuer, Audience: []string{audience}, Key: identity.SigningKey{Private: tr.key}})
		require.NoError(t, err)
		adm, err := m.Admit(t.Context(), call(t, func(in *gatemesh.CallInfo) { in.Parent, in.Lane = call(t, as("user")), lane }))
		require.NoError(t, err)
		r, err := http.NewRequestWithContext(t.Context(), "GET", tr.a, nil)
		require.NoError(t, err)
		r.Header.Set(gatemesh.IdentityHeader, adm.Header[0].Value)
		resp, err := http.DefaultClient.Do(r)
		require.NoError(t, err)
		require.NoError(t, resp.Body.Close())
		tr.mu.Lock()
		defer tr.mu.Unlock()
		went := tr.went
		tr.went = nil
		return resp.StatusCode, went
	}
	for _, tt := range []struct {
		issuer, audience, lane string
		status                 int
		went                   []string
	}{
		{"edge", "mesh", "v3", 200, []string{"b/v3", "c/v3"}},
		{"edge", "mesh", "v2", 200, []string{"b/v1", "c/v1"}}, // nobody is to have it
		{"edge", "mesh", "v9", 200, []string{"b/v1", "c/v1"}},
		{"other", "mesh", "v3", 401, nil},
		{"edge", "elsewhere", "v3", 401, nil},
	} {
		status, went := ask(tt.issuer, tt.audience, tt.lane)
		assert.Equal(t, tt.status, status, tt)
		assert.Equal(t, tt.went, went, tt)
	}
}

// TestLaneAcrossAChange: a lane is what the rules say of it now.
func TestLaneAcrossAChange(t *testing.T) {
	t.Parallel()
	s := newSplitter(t, "", weighted(1, 1))
	c := call(t, lane("v2"))
	require.Equal(t, "v2", version(t, s, c))
	for _, tt := range []struct {
		rule *gatemesh.Route
		want string
	}{
		{rule("user-service", 1, 0), "v1"},
		{rule("user-service", 1), "v1"},
		{&gatemesh.Route{Backends: rule("user-service", 1).Backends, Lanes: rule("user-service", 0, 1).Backends}, "v2"},
		{rule("user-service", 1, 1), "v2"},
	} {
		require.NoError(t, s.Update(canary.Config{Services: services{"user-service": tt.rule}}))
		require.Equal(t, tt.want, version(t, s, call(t, lane("v2"))))
	}
}
