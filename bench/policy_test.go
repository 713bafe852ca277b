//go:build unix

package bench

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"flag"
	"fmt"
	"net/http"
	"net/url"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/casbin/casbin/v3"
	"github.com/casbin/casbin/v3/model"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/authz"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"github.com/gatemesh-go/gatemesh"
	"github.com/gatemesh-go/gatemesh/auth/policy"
	"github.com/gatemesh-go/gatemesh/mtls/devca"
)

// The policy of payment-service: who may call what, as n rules of one caller,
// the method POST and a path prefix each. Every contestant has the same rules
// and judges the same requests, of which it knows the verified caller already.
//
//   - gatemesh is policy.Engine, of calls that Entry has read from requests. A
//     refusal brings along what an explanation is written from.
//   - casbin is its Enforcer, the fastest of its enforcers that judge: the
//     synced one, which a policy that changes under load needs, adds a lock.
//     The matcher asks for the caller first, the effect ends at the first rule
//     that allows, and the arguments are boxed beforehand.
//   - casbin-cached is its CachedEnforcer with every request remembered. It
//     compares requests and not rules, and has no bound on what it remembers.
//   - grpc-authz is the interceptor of grpc-go's authz.NewStatic around an empty
//     handler, in the context of a call that a server received over mutual TLS.
//     Its rules have no method, as all its calls are POST. What it reads from
//     the context, metadata and certificate is in the figure; to make the
//     context is not.

var (
	policyRounds = flag.Int("policy.rounds", 3, "rounds of TestPolicyCost")
	policyLarge  = flag.Bool("policy.large", false, "the others at 10,000 rules, too, where they take milliseconds")
)

const asked = 64 // different requests

// request is one to judge. Every fourth one is to be refused.
type request struct {
	caller, path string // caller is a service account
	allowed      bool
}

// rule number k of a policy.
func ruleCaller(k int) string {
	if k%20 == 0 {
		return "order-service"
	}
	return fmt.Sprintf("service-%d", k%20)
}

func rulePath(k int) string {
	if k == 0 {
		return "/v1/payments/"
	}
	return fmt.Sprintf("/v1/resource-%d/", k)
}

// requests meet the rules of a policy of n from the first one to the last. The
// refused ones name a caller or a path that is one of the policy's, or neither.
func requests(n int) []request {
	out := make([]request, asked)
	for i := range out {
		k := i * n / asked
		r := request{ruleCaller(k), fmt.Sprintf("%s%d", rulePath(k), 1000+i), true}
		switch i % 12 {
		case 3:
			r.caller, r.allowed = ruleCaller(k+1), false
		case 7:
			r.path, r.allowed = "/v1/unheard-of/42", false
		case 11:
			r.caller, r.allowed = "stranger", false
		}
		out[i] = r
	}
	return out
}

// decider is a contestant, and says of request i whether it is allowed.
type decider struct {
	name   string
	decide func(i int) (bool, error)
}

func principal(caller string) string { return "cluster.local/ns/production/sa/" + caller }

func gatemeshPolicy(tb testing.TB, n int) decider {
	return decider{fmt.Sprintf("gatemesh-%d", n), gatemeshDecide(tb, n, http.MethodPost)}
}

func gatemeshDecide(tb testing.TB, n int, method string) func(int) (bool, error) {
	var rules []policy.Rule
	for k := range n {
		rules = append(rules, policy.Rule{
			From: []policy.Source{{Principals: []string{principal(ruleCaller(k))}}},
			To:   []policy.Operation{{Methods: []string{"POST"}, Paths: []string{rulePath(k) + "*"}}},
		})
	}
	engine, err := policy.New(policy.Config{
		Workload:   gatemesh.Workload{Name: "payment-service", TrustDomain: "cluster.local", Namespace: "production", ServiceAccount: "payment-service"},
		Policies:   []policy.Policy{{Name: "payment-service-policy", Namespace: "production", Rules: rules}},
		Unselected: policy.Deny,
	})
	require.NoError(tb, err)
	ctx := tb.Context()
	var calls [asked]*gatemesh.Call
	for i, r := range requests(n) {
		p, err := gatemesh.NewPeer("cluster.local", strings.TrimPrefix(principal(r.caller), "cluster.local"), nil)
		require.NoError(tb, err)
		entry, err := gatemesh.NewEntry(gatemesh.EntryConfig{Peer: func(*tls.ConnectionState) (*gatemesh.Peer, error) { return p, nil }})
		require.NoError(tb, err)
		chain, err := gatemesh.NewChain(entry)
		require.NoError(tb, err)
		x, d := chain.Start(ctx, gatemesh.Inbound{
			Protocol: gatemesh.HTTP, Method: method, Authority: "payment-service", Path: r.path, TLS: &tls.ConnectionState{},
			Header: map[string][]string{"Accept": {"application/json"}, "User-Agent": {"bench/1.0"}},
		})
		require.Nil(tb, d)
		calls[i] = gatemesh.FromContext(x.Context())
		require.Same(tb, p, calls[i].Peer())
	}
	return func(i int) (bool, error) {
		_, err := engine.Admit(ctx, calls[i])
		if d, ok := err.(*gatemesh.Denial); ok && d.Code == gatemesh.PermissionDenied {
			return false, nil
		}
		return err == nil, err
	}
}

const casbinModel = `
[request_definition]
r = sub, obj, act
[policy_definition]
p = sub, obj, act
[policy_effect]
e = some(where (p.eft == allow))
[matchers]
m = r.sub == p.sub && r.act == p.act && keyMatch(r.obj, p.obj)
`

// enforcer is what all enforcers of casbin are.
type enforcer interface {
	AddPolicies(rules [][]string) (bool, error)
	Enforce(args ...any) (bool, error)
}

func casbinPolicy(tb testing.TB, n int) decider {
	m, err := model.NewModelFromString(casbinModel)
	require.NoError(tb, err)
	e, err := casbin.NewEnforcer(m)
	require.NoError(tb, err)
	return decider{fmt.Sprintf("casbin-%d", n), casbinDecide(tb, e, n, http.MethodPost)}
}

func casbinCachedPolicy(tb testing.TB, n int) decider {
	m, err := model.NewModelFromString(casbinModel)
	require.NoError(tb, err)
	e, err := casbin.NewCachedEnforcer(m)
	require.NoError(tb, err)
	return decider{fmt.Sprintf("casbin-cached-%d", n), casbinDecide(tb, e, n, http.MethodPost)}
}

func casbinDecide(tb testing.TB, e enforcer, n int, method string) func(int) (bool, error) {
	var rules [][]string
	for k := range n {
		rules = append(rules, []string{principal(ruleCaller(k)), rulePath(k) + "*", "POST"})
	}
	_, err := e.AddPolicies(rules)
	require.NoError(tb, err)
	var args [asked][]any
	for i, r := range requests(n) {
		args[i] = []any{principal(r.caller), r.path, method}
	}
	return func(i int) (bool, error) { return e.Enforce(args[i]...) }
}

// authzPolicy is the JSON form of gRFC A43.
type authzPolicy struct {
	Name  string      `json:"name"`
	Allow []authzRule `json:"allow_rules"`
}

type authzRule struct {
	Name   string `json:"name"`
	Source struct {
		Principals []string `json:"principals"`
	} `json:"source"`
	Request struct {
		Paths []string `json:"paths"`
	} `json:"request"`
}

// rpcStream says which method a context is of.
type rpcStream struct {
	grpc.ServerTransportStream
	method string
}

func (s rpcStream) Method() string { return s.method }

func authzDecider(tb testing.TB, n int) decider {
	p := authzPolicy{Name: "payment-service-policy"}
	for k := range n {
		r := authzRule{Name: fmt.Sprintf("rule-%d", k)}
		r.Source.Principals = []string{"spiffe://" + principal(ruleCaller(k))}
		r.Request.Paths = []string{rulePath(k) + "*"}
		p.Allow = append(p.Allow, r)
	}
	text, err := json.Marshal(p)
	require.NoError(tb, err)
	interceptor, err := authz.NewStatic(string(text))
	require.NoError(tb, err)

	ca, err := devca.New("cluster.local")
	require.NoError(tb, err)
	received := receivedContext(tb, ca)
	info := &grpc.UnaryServerInfo{}
	var contexts [asked]context.Context
	certs := map[string]*x509.Certificate{}
	for i, r := range requests(n) {
		if certs[r.caller] == nil {
			cert, err := ca.Issue("spiffe://"+principal(r.caller), time.Hour)
			require.NoError(tb, err)
			certs[r.caller] = cert.Leaf
		}
		from, ok := peer.FromContext(received)
		require.True(tb, ok)
		about, ok := from.AuthInfo.(credentials.TLSInfo)
		require.True(tb, ok)
		about.State.PeerCertificates = []*x509.Certificate{certs[r.caller]}
		about.SPIFFEID = &url.URL{Scheme: "spiffe", Host: "cluster.local", Path: strings.TrimPrefix(principal(r.caller), "cluster.local")}
		ctx := peer.NewContext(received, &peer.Peer{Addr: from.Addr, LocalAddr: from.LocalAddr, AuthInfo: about})
		contexts[i] = grpc.NewContextWithServerTransportStream(ctx, rpcStream{method: r.path})
	}
	empty := func(context.Context, any) (any, error) { return nil, nil }
	return decider{fmt.Sprintf("grpc-authz-%d", n), func(i int) (bool, error) {
		_, err := interceptor.UnaryInterceptor(contexts[i], nil, info, empty)
		if status.Code(err) == codes.PermissionDenied {
			return false, nil
		}
		return err == nil, err
	}}
}

// receivedContext is that of a call which a grpc.Server received over mutual
// TLS. The engine wants the connection in it, which servers alone can put there.
func receivedContext(tb testing.TB, ca *devca.CA) context.Context {
	server, client := (&hops{ca: ca}).plainPair(tb)
	var received context.Context
	addr := serveGRPC(tb, grpc.Creds(credentials.NewTLS(server)), grpc.UnaryInterceptor(
		func(ctx context.Context, in any, _ *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
			received = ctx
			return handler(ctx, in)
		}))
	ctx := metadata.AppendToOutgoingContext(tb.Context(), "accept", "application/json")
	require.NoError(tb, invoke(ctx, (&hops{}).dial(tb, addr, client), payRPC))
	require.NotNil(tb, received)
	return received
}

// policies are the contestants. None of them is timed before it gave the right
// verdict on every request.
func policies(tb testing.TB) []decider {
	all := []decider{
		gatemeshPolicy(tb, 10), gatemeshPolicy(tb, 10_000),
		casbinPolicy(tb, 10), casbinCachedPolicy(tb, 10), authzDecider(tb, 10),
	}
	if *policyLarge {
		all = append(all, casbinPolicy(tb, 10_000), authzDecider(tb, 10_000))
	}
	for _, c := range all {
		n := 10
		if strings.HasSuffix(c.name, "-10000") {
			n = 10_000
		}
		for i, r := range requests(n) {
			allowed, err := c.decide(i)
			require.NoError(tb, err, c.name)
			require.Equal(tb, r.allowed, allowed, "%s: %+v", c.name, r)
		}
	}
	return all
}

// BenchmarkPolicy is what a decision costs, three of four to allow.
func BenchmarkPolicy(b *testing.B) {
	for _, c := range policies(b) {
		b.Run(c.name, func(b *testing.B) {
			var m0, m1 runtime.MemStats
			runtime.ReadMemStats(&m0)
			i := 0
			b.ReportAllocs()
			for b.Loop() {
				if _, err := c.decide(i % asked); err != nil {
					b.Fatal(err)
				}
				i++
			}
			runtime.ReadMemStats(&m1)
			// allocs/op is rounded down, and one of four is a refusal, which allocates.
			b.ReportMetric(float64(m1.Mallocs-m0.Mallocs)/float64(b.N), "mallocs/op")
		})
	}
}

// those has a contestant judge the requests that are, or are not, to be allowed.
func (c decider) those(allowed bool) verifier {
	var which []int
	for i, r := range requests(10) { // the same ones at every size
		if r.allowed == allowed {
			which = append(which, i)
		}
	}
	return everybody(c.name, func(i int) error {
		got, err := c.decide(which[i%len(which)])
		if err == nil && got != allowed {
			return fmt.Errorf("allowed: %v", got)
		}
		return err
	})
}

// TestPolicyAllocations holds that a decision to allow allocates nothing, over
// any number of rules, and one to refuse what its explanation needs.
func TestPolicyAllocations(t *testing.T) {
	for _, n := range []int{10, 10_000} {
		c := gatemeshPolicy(t, n)
		for allowed, most := range map[bool]float64{true: 0, false: 2} {
			judge, i := c.those(allowed).worker(), 0
			got := testing.AllocsPerRun(asked, func() {
				if err := judge(i); err != nil {
					t.Error(err)
				}
				i++
			})
			assert.LessOrEqual(t, got, most, "%s, allowed: %v", c.name, allowed)
		}
	}
}

// TestPolicyCost prints the contestants side by side, as medians of rounds in
// which they take turns:
//
//	go test -run PolicyCost -v ./bench -policy.rounds 15 -credential.time 300ms -policy.large
//
// The goals, which -strict asserts: a decision to allow within 150 ns at 10
// rules, and at 10,000 rules within ten times of that at 10.
func TestPolicyCost(t *testing.T) {
	all := policies(t)
	yes, no := make([][]cost, len(all)), make([][]cost, len(all))
	for range *policyRounds {
		for i, c := range all {
			yes[i] = append(yes[i], pace(t, c.those(true), 1, *credentialTime))
			no[i] = append(no[i], pace(t, c.those(false), 1, *credentialTime))
		}
	}
	cpu := func(c cost) float64 { return c.cpu }
	var report strings.Builder
	fmt.Fprintf(&report, "\nCPU time of a decision, medians of %d rounds of %v, over %d requests; GOMAXPROCS %d\n",
		*policyRounds, *credentialTime, asked, runtime.GOMAXPROCS(0))
	fmt.Fprintf(&report, "%-18s %14s %14s %14s\n", "", "to allow, ns", "to refuse, ns", "allow by ours")
	for i, c := range all {
		ours := 0 // with as many rules
		if strings.HasSuffix(c.name, "-10000") {
			ours = 1
		}
		fmt.Fprintf(&report, "%-18s %14.0f %14.0f %14.1f\n", c.name, median(yes[i], cpu), median(no[i], cpu), ratio(yes[i], yes[ours]))
	}
	growth := ratio(yes[1], yes[0])
	fmt.Fprintf(&report, "gatemesh at 10,000 rules by that at 10: %.2f\n", growth)
	t.Log(report.String())
	if *strict {
		assert.LessOrEqual(t, median(yes[0], cpu), 150.0, "to allow at 10 rules")
		assert.LessOrEqual(t, growth, 10.0, "growth")
	}
}

// ratio is the median of CPU times by those of the same round, so that a
// disturbance hits both sides.
func ratio(a, b []cost) float64 {
	ratios := make([]cost, len(a))
	for i := range a {
		ratios[i].cpu = a[i].cpu / b[i].cpu
	}
	return median(ratios, func(c cost) float64 { return c.cpu })
}

// TestPoliciesJudge sees to it that no contestant wins by not doing its work:
// policies asks them all, and the method, which gRPC has one of, is asked here.
func TestPoliciesJudge(t *testing.T) {
	refused := 0
	for _, r := range requests(10) {
		if !r.allowed {
			refused++
		}
	}
	require.Equal(t, asked/4, refused)
	require.GreaterOrEqual(t, len(policies(t)), 5)
	m, err := model.NewModelFromString(casbinModel)
	require.NoError(t, err)
	e, err := casbin.NewEnforcer(m)
	require.NoError(t, err)
	for _, decide := range []func(int) (bool, error){
		gatemeshDecide(t, 10, http.MethodGet), casbinDecide(t, e, 10, http.MethodGet),
	} {
		for i := range asked {
			allowed, err := decide(i)
			require.NoError(t, err)
			require.False(t, allowed)
		}
	}
}
