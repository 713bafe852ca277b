package policy

import (
	"context"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/gatemesh-go/gatemesh"
)

const file = "manifests/authorizationpolicy.yaml"

var payment = gatemesh.Workload{
	Name: "payment-service", TrustDomain: "cluster.local", Namespace: "production",
	ServiceAccount: "payment-service", Labels: map[string]string{"app": "payment-service"},
}

// paymentPolicy is what manifests/authorizationpolicy.yaml says: only
// order-service can call payment-service.
func paymentPolicy() Policy {
	at := func(line int) gatemesh.Position { return gatemesh.Position{File: file, Line: line} }
	return Policy{
		Name: "payment-service-policy", Namespace: "production", Position: at(2),
		Selector: map[string]string{"app": "payment-service"},
		Rules: []Rule{{
			Position: at(12),
			From:     []Source{{Position: at(14), Principals: []string{"cluster.local/ns/production/sa/order-service"}}},
			To:       []Operation{{Position: at(18), Methods: []string{"POST"}, Paths: []string{"/v1/payments/*"}}},
		}},
	}
}

func config(policies ...Policy) Config {
	return Config{Workload: payment, Policies: policies, Unselected: Deny}
}

// policyOf is a policy of production that selects every workload.
func policyOf(name string, a Action, rules ...Rule) Policy {
	return Policy{Name: name, Namespace: "production", Action: a, Rules: rules}
}

func from(s ...Source) Rule  { return Rule{From: s} }
func to(o ...Operation) Rule { return Rule{To: o} }

func engine(t testing.TB, cfg Config) *Engine {
	t.Helper()
	e, err := New(cfg)
	require.NoError(t, err)
	return e
}

func peer(t testing.TB, ns, sa string) *gatemesh.Peer {
	t.Helper()
	p, err := gatemesh.NewPeer("cluster.local", "/ns/"+ns+"/sa/"+sa, nil)
	require.NoError(t, err)
	return p
}

func user(issuer, subject string) *gatemesh.Principal {
	return gatemesh.NewPrincipal(gatemesh.PrincipalInfo{Issuer: issuer, Subject: subject, Method: "jwt"})
}

func call(t testing.TB, in gatemesh.CallInfo) *gatemesh.Call {
	t.Helper()
	c, err := gatemesh.NewCall(in)
	require.NoError(t, err)
	return c
}

// verdict asks Admit, and checks that AdmitCached and Explain say the same.
func verdict(t testing.TB, e *Engine, c *gatemesh.Call) Verdict {
	t.Helper()
	adm, err := e.Admit(context.Background(), c)
	want := gatemesh.Admission{}
	if err == nil { // nothing is learned of a call but how long it may go on
		want.Until = c.Received().Add(time.Minute)
	}
	require.Equal(t, want, adm)
	_, ok, cerr := e.AdmitCached(context.Background(), c)
	require.True(t, ok)
	require.Equal(t, err == nil, cerr == nil)
	v := Allow
	if err != nil {
		var d *gatemesh.Denial
		require.ErrorAs(t, err, &d)
		require.Equal(t, gatemesh.PermissionDenied, d.Code)
		require.Equal(t, "policy", d.Reason)
		require.Equal(t, "Access to this resource is not allowed.", d.Detail)
		require.NotEmpty(t, d.Cause().Error())
		v = Deny
	}
	require.Equal(t, v, e.Explain(c).Verdict)
	return v
}

func addr(s string) netip.AddrPort {
	if !strings.Contains(s, "]") && strings.Count(s, ":") > 1 {
		s = "[" + s + "]"
	}
	return netip.MustParseAddrPort(s + ":1234")
}

// recorder keeps events.
type recorder struct {
	mu     sync.Mutex
	events []gatemesh.Event
}

func (r *recorder) Observe(_ context.Context, e gatemesh.Event) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.events = append(r.events, e)
}

func (r *recorder) messages(k gatemesh.EventKind) (out []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, e := range r.events {
		if e.Kind == k {
			out = append(out, e.Message)
		}
	}
	return out
}

func getting(t testing.TB, target string) *http.Request {
	t.Helper()
	return httptest.NewRequestWithContext(t.Context(), http.MethodGet, target, nil)
}

func status(h http.Handler, r *http.Request) int {
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w.Code
}
