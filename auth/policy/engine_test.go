package policy

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/gatemesh-go/gatemesh"
)

func TestPaymentPolicy(t *testing.T) {
	t.Parallel()
	e := engine(t, config(paymentPolicy()))
	order, inventory := peer(t, "production", "order-service"), peer(t, "production", "inventory-service")
	const pos = " (" + file + ":12): "
	for _, tt := range []struct {
		name string
		in   gatemesh.CallInfo
		want Verdict
		why  string // of the log
	}{
		{"order pays", gatemesh.CallInfo{Peer: order, Method: "POST", Path: "/v1/payments/42"}, Allow, ""},
		{"order pays, empty rest", gatemesh.CallInfo{Peer: order, Method: "POST", Path: "/v1/payments/"}, Allow, ""},
		{"order reads", gatemesh.CallInfo{Peer: order, Method: "GET", Path: "/v1/payments/42"}, Deny, "method GET is not POST"},
		{"order elsewhere", gatemesh.CallInfo{Peer: order, Method: "POST", Path: "/v1/payments"}, Deny, `path "/v1/payments" is not /v1/payments/*`},
		{
			"inventory pays", gatemesh.CallInfo{Peer: inventory, Method: "POST", Path: "/v1/payments/42"}, Deny,
			"principal cluster.local/ns/production/sa/inventory-service is not cluster.local/ns/production/sa/order-service",
		},
		{
			"other namespace", gatemesh.CallInfo{Peer: peer(t, "staging", "order-service"), Method: "POST", Path: "/v1/payments/42"}, Deny,
			"principal cluster.local/ns/staging/sa/order-service is not cluster.local/ns/production/sa/order-service",
		},
		{
			"nobody pays", gatemesh.CallInfo{Method: "POST", Path: "/v1/payments/42"}, Deny,
			"there is no principal (no verified peer), wanted cluster.local/ns/production/sa/order-service",
		},
		{"gRPC", gatemesh.CallInfo{Protocol: gatemesh.GRPC, Peer: order, Path: "/v1/payments/Create"}, Allow, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			c := call(t, tt.in)
			assert.Equal(t, tt.want, verdict(t, e, c))
			if tt.want == Deny {
				_, err := e.Admit(t.Context(), c)
				assert.Equal(t, `policy "payment-service-policy" (production) rule 1`+pos+tt.why, gatemesh.AsDenial(t.Context(), err).Cause().Error())
				assert.Equal(t, Explanation{
					Verdict: Deny, Policy: "payment-service-policy", Namespace: "production", Rule: 1,
					Position: gatemesh.Position{File: file, Line: 12}, Reason: "rule 1 of payment-service-policy: " + tt.why,
				}, e.Explain(c))
			}
		})
	}
}

// Each row is one source or operation, as ALLOW and as DENY rule.
func TestConditions(t *testing.T) {
	t.Parallel()
	order := peer(t, "production", "order-service")
	foreign, err := gatemesh.NewPeer("cluster.local", "/not/istio", nil)
	require.NoError(t, err)
	alice := user("https://idp.example.com", "alice")
	known := gatemesh.CallInfo{
		Peer: order, Principal: alice, Host: "API.example.com.", Method: "POST", Path: "/v1/items/7",
		RemoteAddr: addr("10.1.2.3"), Client: netip.MustParseAddr("203.0.113.9"), LocalAddr: netip.MustParseAddrPort("127.0.0.1:8443"),
	}
	with := func(change func(*gatemesh.CallInfo)) gatemesh.CallInfo {
		in := known
		change(&in)
		return in
	}
	noPeer := with(func(in *gatemesh.CallInfo) { in.Peer = nil })
	foreignPeer := with(func(in *gatemesh.CallInfo) { in.Peer = foreign })
	noUser := with(func(in *gatemesh.CallInfo) { in.Principal = nil })
	apiKey := with(func(in *gatemesh.CallInfo) { in.Principal = user("", "alice") })
	noHost := with(func(in *gatemesh.CallInfo) { in.Host = "" })
	path := func(p string) gatemesh.CallInfo { return with(func(in *gatemesh.CallInfo) { in.Path = p }) }
	remote := func(a string) gatemesh.CallInfo {
		return with(func(in *gatemesh.CallInfo) { in.RemoteAddr = addr(a) })
	}
	s := func(s Source) Rule { return from(s) }
	o := func(o Operation) Rule { return to(o) }
	for i, tt := range []struct {
		rule Rule
		in   gatemesh.CallInfo
		want bool
	}{
		{s(Source{Principals: []string{"cluster.local/ns/production/sa/order-service"}}), known, true},
		{s(Source{Principals: []string{"cluster.local/ns/production/sa/order-servic"}}), known, false},
		{s(Source{Principals: []string{"cluster.local/ns/production/sa/order-service2"}}), known, false},
		{s(Source{Principals: []string{"x/y", "cluster.local/ns/production/*"}}), known, true},
		{s(Source{Principals: []string{"cluster.loc*"}}), known, true},
		{s(Source{Principals: []string{"cluster.local/ns/prod/*"}}), known, false},
		{s(Source{Principals: []string{"*/sa/order-service"}}), known, true},
		{s(Source{Principals: []string{"*cal/ns/production/sa/order-service"}}), known, true},
		{s(Source{Principals: []string{"*xcluster.local/ns/production/sa/order-service"}}), known, false},
		{s(Source{Principals: []string{"*"}}), known, true},
		{s(Source{Principals: []string{"*"}}), noPeer, false},
		{s(Source{NotPrincipals: []string{"*"}}), known, false},
		{s(Source{NotPrincipals: []string{"*"}}), noPeer, true},
		{s(Source{NotPrincipals: []string{"cluster.local/ns/production/sa/order-service"}}), noPeer, true},
		{s(Source{NotPrincipals: []string{"cluster.local/ns/production/sa/order-service"}}), known, false},
		{s(Source{Principals: []string{"cluster.local/*"}, NotPrincipals: []string{"*/sa/admin", "*/sa/order-service"}}), known, false},
		{s(Source{Namespaces: []string{"production"}}), known, true},
		{s(Source{Namespaces: []string{"prod*"}}), known, true},
		{s(Source{Namespaces: []string{"prod"}}), known, false},
		{s(Source{Namespaces: []string{"*"}}), noPeer, false},
		{s(Source{Namespaces: []string{"*"}}), foreignPeer, false},
		{s(Source{NotNamespaces: []string{"staging"}}), known, true},
		{s(Source{NotNamespaces: []string{"staging"}}), noPeer, true},
		{s(Source{NotNamespaces: []string{"production"}}), known, false},
		{s(Source{RequestPrincipals: []string{"https://idp.example.com/alice"}}), known, true},
		{s(Source{RequestPrincipals: []string{"https://idp.example.com/alic"}}), known, false},
		{s(Source{RequestPrincipals: []string{"https://idp.example.com/*"}}), known, true},
		{s(Source{RequestPrincipals: []string{"*/alice"}}), known, true},
		{s(Source{RequestPrincipals: []string{"*"}}), noUser, false},
		{s(Source{RequestPrincipals: []string{"*"}}), apiKey, false},
		{s(Source{NotRequestPrincipals: []string{"*"}}), noUser, true},
		{s(Source{NotRequestPrincipals: []string{"*"}}), known, false},
		{s(Source{IPBlocks: []string{"10.0.0.0/8"}}), known, true},
		{s(Source{IPBlocks: []string{"10.1.2.3"}}), remote("::ffff:10.1.2.3"), true},
		{s(Source{IPBlocks: []string{"::ffff:10.0.0.0/104"}}), known, true},
		{s(Source{IPBlocks: []string{"203.0.113.9"}}), known, false},
		{s(Source{IPBlocks: []string{"fe80::/10"}}), remote("fe80::1%eth0"), true},
		{s(Source{IPBlocks: []string{"fe80::1"}}), remote("fe80::1%eth0"), true},
		{s(Source{IPBlocks: []string{"::/0"}}), known, false},
		{s(Source{NotIPBlocks: []string{"10.0.0.0/8"}}), known, false},
		{s(Source{NotIPBlocks: []string{"11.0.0.0/8"}}), known, true},
		{s(Source{RemoteIPBlocks: []string{"203.0.113.0/24"}}), known, true},
		{s(Source{RemoteIPBlocks: []string{"10.0.0.0/8"}}), known, false},
		{s(Source{NotRemoteIPBlocks: []string{"203.0.113.0/24"}}), known, false},
		{from(Source{Namespaces: []string{"a"}}, Source{Namespaces: []string{"production"}}), known, true},
		{s(Source{Namespaces: []string{"production"}, IPBlocks: []string{"11.0.0.0/8"}}), known, false},
		{o(Operation{Hosts: []string{"Api.Example.COM"}}), known, true},
		{o(Operation{Hosts: []string{"api.example.com."}}), known, true},
		{o(Operation{Hosts: []string{"*.Example.com"}}), known, true},
		{o(Operation{Hosts: []string{"*.example.com."}}), known, true},
		{o(Operation{Hosts: []string{"api.*"}}), known, true},
		{o(Operation{Hosts: []string{"example.com"}}), known, false},
		{o(Operation{Hosts: []string{"*"}}), noHost, false},
		{o(Operation{NotHosts: []string{"api.example.com"}}), noHost, true},
		{o(Operation{NotHosts: []string{"api.example.com"}}), known, false},
		{o(Operation{Methods: []string{"GET", "POST"}}), known, true},
		{o(Operation{Methods: []string{"PO*"}}), known, true},
		{o(Operation{Methods: []string{"*ST"}}), known, true},
		{o(Operation{Methods: []string{"P"}}), known, false},
		{o(Operation{NotMethods: []string{"GET"}}), known, true},
		{o(Operation{NotMethods: []string{"*"}}), known, false},
		{o(Operation{Paths: []string{"/v1/items/7"}}), known, true},
		{o(Operation{Paths: []string{"/v1/items"}}), known, false},
		{o(Operation{Paths: []string{"/v1*"}}), known, true},
		{o(Operation{Paths: []string{"*/7"}}), known, true},
		{o(Operation{Paths: []string{"*"}}), known, true},
		{o(Operation{Paths: []string{"/%76%31/it*"}}), known, true}, // escapes of letters
		{o(Operation{Paths: []string{"/.*"}}), path("/.well-known/jwks"), true},
		{o(Operation{Paths: []string{"/v1/x:cancel"}}), path("/v1/x%3Acancel"), true},
		{o(Operation{Paths: []string{"/v1/x%3acancel"}}), path("/v1/x:cancel"), true},
		{o(Operation{Paths: []string{"/a/%2A"}}), path("/a/*"), true}, // a literal star
		{o(Operation{Paths: []string{"/a/%2A"}}), path("/a/b"), false},
		{o(Operation{Paths: []string{"/caf%c3%a9*"}}), path("/caf%C3%A9s"), true},
		{o(Operation{NotPaths: []string{"/v1/*"}}), known, false},
		{o(Operation{Paths: []string{"/v1/*"}, NotPaths: []string{"/v1/items/8"}}), known, true},
		{o(Operation{Ports: []string{"443", "8443"}}), known, true},
		{o(Operation{Ports: []string{"443"}}), known, false},
		{o(Operation{NotPorts: []string{"443"}}), known, true},
		{o(Operation{NotPorts: []string{"8443"}}), known, false},
		{o(Operation{Methods: []string{"POST"}, Paths: []string{"/v2/*"}}), known, false},
		{to(Operation{Paths: []string{"/v2/*"}}, Operation{Methods: []string{"POST"}}), known, true},
		{Rule{From: []Source{{Namespaces: []string{"production"}}}, To: []Operation{{Methods: []string{"GET"}}}}, known, false},
		{Rule{From: []Source{{Namespaces: []string{"staging"}}}, To: []Operation{{Methods: []string{"POST"}}}}, known, false},
		{Rule{From: []Source{{Namespaces: []string{"production"}}}, To: []Operation{{Methods: []string{"POST"}}}}, known, true},
		{Rule{}, known, true},
		{Rule{}, gatemesh.CallInfo{}, true},
	} {
		t.Run(fmt.Sprint(i), func(t *testing.T) {
			t.Parallel()
			c := call(t, tt.in)
			want := map[bool]Verdict{true: Allow, false: Deny}
			assert.Equal(t, want[tt.want], verdict(t, engine(t, config(policyOf("p", ActionAllow, tt.rule))), c), "%+v", tt.rule)
			cfg := config(policyOf("p", ActionDeny, tt.rule))
			cfg.Unselected = Allow
			assert.Equal(t, want[!tt.want], verdict(t, engine(t, cfg), c), "DENY %+v", tt.rule)
		})
	}
}

// What is not known about a connection never widens access, in either form.
func TestUnknownAddressAndPort(t *testing.T) {
	t.Parallel()
	for name, rule := range map[string]Rule{
		"IPBlocks":          from(Source{IPBlocks: []string{"10.0.0.0/8"}}),
		"NotIPBlocks":       from(Source{NotIPBlocks: []string{"10.0.0.0/8"}}),
		"RemoteIPBlocks":    from(Source{RemoteIPBlocks: []string{"10.0.0.0/8"}}),
		"NotRemoteIPBlocks": from(Source{NotRemoteIPBlocks: []string{"10.0.0.0/8"}}),
		"Ports":             to(Operation{Ports: []string{"80"}}),
		"NotPorts":          to(Operation{NotPorts: []string{"80"}}),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := call(t, gatemesh.CallInfo{})
			allow := engine(t, config(policyOf("p", ActionAllow, rule)))
			assert.Equal(t, Deny, verdict(t, allow, c))
			assert.Contains(t, allow.Explain(c).Reason, "unknown")
			cfg := config(policyOf("p", ActionDeny, rule))
			cfg.Unselected = Allow
			assert.Equal(t, Deny, verdict(t, engine(t, cfg), c))
		})
	}
}

func TestSelection(t *testing.T) {
	t.Parallel()
	everybody := []Rule{{}}
	for _, tt := range []struct {
		name       string
		policies   []Policy
		unselected Verdict
		want       Verdict
		why        string
	}{
		{"nothing, deny", nil, Deny, Deny, "no policy selects this workload and unselected workloads are denied"},
		{"nothing, allow", nil, Allow, Allow, "no ALLOW policy selects this workload and unselected workloads are allowed"},
		{"same namespace", []Policy{{Name: "p", Namespace: "production", Rules: everybody}}, Deny, Allow, "rule 1 of p: the ALLOW rule matches"},
		{"other namespace", []Policy{{Name: "p", Namespace: "staging", Rules: everybody}}, Deny, Deny, "no policy selects this workload and unselected workloads are denied"},
		{"root namespace", []Policy{{Name: "p", Namespace: "istio-system", Rules: everybody}}, Deny, Allow, "rule 1 of p: the ALLOW rule matches"},
		{"root namespace, other label", []Policy{{Name: "p", Namespace: "istio-system", Selector: map[string]string{"app": "x"}, Rules: everybody}}, Deny, Deny, "no policy selects this workload and unselected workloads are denied"},
		{"label", []Policy{{Name: "p", Namespace: "production", Selector: map[string]string{"app": "payment-service"}, Rules: everybody}}, Deny, Allow, "rule 1 of p: the ALLOW rule matches"},
		{"one label of two", []Policy{{Name: "p", Namespace: "production", Selector: map[string]string{"app": "payment-service", "tier": ""}, Rules: everybody}}, Deny, Deny, "no policy selects this workload and unselected workloads are denied"},
		{"DENY alone, miss, deny", []Policy{policyOf("p", ActionDeny, to(Operation{Paths: []string{"/x"}}))}, Deny, Deny, "no ALLOW policy selects this workload and unselected workloads are denied"},
		{"DENY alone, miss, allow", []Policy{policyOf("p", ActionDeny, to(Operation{Paths: []string{"/x"}}))}, Allow, Allow, "no ALLOW policy selects this workload and unselected workloads are allowed"},
		{"DENY wins", []Policy{policyOf("a", ActionAllow, Rule{}), policyOf("d", ActionDeny, to(Operation{Paths: []string{"/x"}}), Rule{})}, Allow, Deny, "rule 2 of d: the DENY rule matches"},
		{"DENY without rules", []Policy{policyOf("a", ActionAllow, Rule{}), policyOf("d", ActionDeny)}, Deny, Allow, "rule 1 of a: the ALLOW rule matches"},
		{"second ALLOW policy", []Policy{policyOf("a", ActionAllow), policyOf("b", ActionAllow, Rule{})}, Deny, Allow, "rule 1 of b: the ALLOW rule matches"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			cfg := config(tt.policies...)
			cfg.Unselected = tt.unselected
			e, c := engine(t, cfg), call(t, gatemesh.CallInfo{})
			assert.Equal(t, tt.want, verdict(t, e, c))
			assert.Equal(t, tt.why, e.Explain(c).Reason)
		})
	}
	cfg := config(Policy{Name: "p", Namespace: "mesh", Rules: everybody})
	cfg.RootNamespace = "mesh"
	assert.Equal(t, Allow, verdict(t, engine(t, cfg), call(t, gatemesh.CallInfo{})), "another root namespace")
}

func TestAZ06_NothingMeansDeny(t *testing.T) {
	t.Parallel()
	c := call(t, gatemesh.CallInfo{Peer: peer(t, "production", "order-service"), Path: "/x"})
	for name, p := range map[string]Policy{
		"no rules":    policyOf("p", ActionAllow),
		"empty rules": {Name: "p", Namespace: "production", Rules: []Rule{}},
	} {
		cfg := config(p)
		cfg.Unselected = Allow // does not hold: an ALLOW policy selects
		e := engine(t, cfg)
		assert.Equal(t, Deny, verdict(t, e, c), name)
		assert.Equal(t, "the ALLOW policies that select this workload have no rules and allow nothing", e.Explain(c).Reason)
	}
	for name, r := range map[string]Rule{
		"from: []":       {From: []Source{}},
		"to: []":         {To: []Operation{}},
		"source: {}":     from(Source{}),
		"operation: {}":  to(Operation{}),
		"paths: []":      to(Operation{Paths: []string{}}),
		"notPaths: []":   to(Operation{NotPaths: []string{}}),
		"principals: []": from(Source{Principals: []string{}, Namespaces: []string{"a"}}),
		`hosts: [""]`:    to(Operation{Hosts: []string{""}}),
		`ports: [""]`:    to(Operation{Ports: []string{""}}),
		`notIPBlocks ""`: from(Source{NotIPBlocks: []string{""}}),
	} {
		for _, a := range []Action{ActionAllow, ActionDeny} {
			_, err := New(config(policyOf("p", a, r)))
			assert.Error(t, err, "%s in %s", name, a)
		}
	}
	_, err := New(config(policyOf("p", 7, Rule{})))
	assert.ErrorContains(t, err, "unknown action 7")

	var zero Engine
	assert.Equal(t, Deny, verdict(t, &zero, c), "the zero Engine")
	assert.Equal(t, Deny, verdict(t, engine(t, config(policyOf("p", ActionAllow, Rule{}))), nil), "no call")
}

func TestNotices(t *testing.T) {
	t.Parallel()
	var rec recorder
	everybody := policyOf("all", ActionAllow, to(Operation{Paths: []string{"/x"}}), Rule{Position: gatemesh.Position{File: "all.yaml", Line: 9}})
	cfg := config(everybody, policyOf("none", ActionDeny, Rule{}), Policy{Name: "elsewhere", Namespace: "staging", Rules: []Rule{{}}})
	cfg.Exempt, cfg.Observer = []string{"/healthz", "/grpc.health.v1.Health/Check"}, &rec
	e := engine(t, cfg)
	assert.Equal(t, []string{
		`rule 2 of policy "all" (production) at all.yaml:9 has no conditions: it allows every call to payment-service.production`,
		`rule 1 of policy "none" (production) has no conditions: it denies every call to payment-service.production`,
		"allowed without asking any policy: /healthz, /grpc.health.v1.Health/Check",
	}, rec.messages(gatemesh.EventNotice))

	rec.events = nil
	cfg = Config{Workload: payment, Unselected: Allow, Observer: &rec}
	require.NoError(t, e.Update(cfg))
	assert.Equal(t, []string{
		"no ALLOW policy selects payment-service.production: every call that no DENY policy matches is allowed",
	}, rec.messages(gatemesh.EventNotice))

	rec.events = nil
	require.NoError(t, e.Update(config(paymentPolicy())))
	assert.Empty(t, rec.events)
}

func TestExempt(t *testing.T) {
	t.Parallel()
	cfg := config(policyOf("none", ActionDeny, Rule{}))
	cfg.Exempt = []string{"/grpc.health.v1.Health/Check"}
	e := engine(t, cfg)
	c := call(t, gatemesh.CallInfo{Protocol: gatemesh.GRPC, Path: "/grpc.health.v1.Health/Check"})
	assert.Equal(t, Allow, verdict(t, e, c))
	assert.Equal(t, `path "/grpc.health.v1.Health/Check" is exempt`, e.Explain(c).Reason)
	for _, p := range []string{"/grpc.health.v1.Health/Checks", "/grpc.health.v1.Health/Chec", "/grpc.health.v1.Health/Check/", "/grpc.health.v1.Health/Watch", "/grpc.health.v1.health/check"} {
		assert.Equal(t, Deny, verdict(t, e, call(t, gatemesh.CallInfo{Path: p})), p)
	}
}

func TestUpdate(t *testing.T) {
	t.Parallel()
	e := engine(t, config(paymentPolicy()))
	pay := call(t, gatemesh.CallInfo{Peer: peer(t, "production", "order-service"), Method: "POST", Path: "/v1/payments/1"})
	require.Equal(t, Allow, verdict(t, e, pay))
	require.Error(t, e.Update(Config{}), "a bad configuration keeps the old one")
	require.Equal(t, Allow, verdict(t, e, pay))
	require.NoError(t, e.Update(config()))
	require.Equal(t, Deny, verdict(t, e, pay))
	_, err := e.Admit(t.Context(), pay)
	require.NoError(t, e.Update(config(paymentPolicy())))
	assert.Equal(t, "no policy selects this workload and unselected workloads are denied",
		gatemesh.AsDenial(t.Context(), err).Cause().Error(), "a cause explains by the configuration that decided")
}

// New takes a copy: what becomes of the caller's slices later is no concern of it.
func TestCopies(t *testing.T) {
	t.Parallel()
	cfg := config(paymentPolicy())
	e := engine(t, cfg)
	p := &cfg.Policies[0]
	p.Action, p.Rules[0].From[0].Principals[0], p.Rules[0].To[0].Paths[0], p.Selector["app"] = ActionDeny, "*", "*", "x"
	inventory := gatemesh.CallInfo{Peer: peer(t, "production", "inventory-service"), Method: "POST", Path: "/v1/payments/1"}
	assert.Equal(t, Deny, verdict(t, e, call(t, inventory)))
	assert.Contains(t, e.Explain(call(t, inventory)).Reason, "is not cluster.local/ns/production/sa/order-service")
}

func TestConcurrent(t *testing.T) {
	t.Parallel()
	e := engine(t, config(paymentPolicy()))
	pay := call(t, gatemesh.CallInfo{Peer: peer(t, "production", "order-service"), Method: "POST", Path: "/v1/payments/1"})
	read := call(t, gatemesh.CallInfo{Peer: peer(t, "production", "order-service"), Path: "/v1/payments/1"})
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for range 200 {
				if i == 0 {
					assert.NoError(t, e.Update(config(paymentPolicy())))
				}
				_, err := e.Admit(context.Background(), pay)
				assert.NoError(t, err)
				assert.Equal(t, Deny, e.Explain(read).Verdict)
			}
		})
	}
	wg.Wait()
}

func TestHandlerAndLayer(t *testing.T) {
	t.Parallel()
	var rec recorder
	cfg := config(policyOf("p", ActionAllow, to(Operation{Paths: []string{"/ok"}})))
	cfg.Observer = &rec
	e := engine(t, cfg)
	h := e.Handler(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(204) }))
	get := func(h http.Handler, path string) *httptest.ResponseRecorder {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), "GET", path, nil))
		return w
	}
	entry := gatemesh.Must(gatemesh.NewEntry(gatemesh.EntryConfig{}))
	assert.Equal(t, 204, get(entry.Handler(h), "/ok").Code)
	w := get(entry.Handler(h), "/no")
	assert.Equal(t, 403, w.Code)
	assert.Contains(t, w.Body.String(), `"detail":"Access to this resource is not allowed.","reason":"policy"`)
	assert.NotContains(t, w.Body.String(), "/ok", "nothing of the rule on the wire")
	assert.Equal(t, 500, get(h, "/ok").Code, "without Entry")
	assert.Len(t, rec.messages(gatemesh.EventFault), 1)

	l := e.Layer()
	assert.Equal(t, "policy", l.Name)
	late := gatemesh.Layer{Name: "auth", Gives: []gatemesh.Fact{gatemesh.FactPrincipal}, Gate: l.Gate}
	_, err := gatemesh.NewChain(entry, l, late)
	assert.ErrorContains(t, err, `"policy" must stand after "auth"`)
	_, err = gatemesh.NewChain(entry, late, l)
	assert.NoError(t, err)
}

// Explanations quote what callers control, and cut it.
func TestExplainBounds(t *testing.T) {
	t.Parallel()
	e := engine(t, config(policyOf("p", ActionAllow,
		Rule{From: []Source{{RequestPrincipals: []string{"https://i/x"}}}, To: []Operation{{Paths: []string{"/a", "/b", "/c", "/d", "/e", "/f"}}}})))
	c := call(t, gatemesh.CallInfo{Path: "/" + strings.Repeat("z", 5000), Principal: user("https://i", "a\nlevel=error \x1b[31m"+strings.Repeat("q", 5000))})
	why := e.Explain(c).Reason
	assert.NotContains(t, why, "\n")
	assert.NotContains(t, why, "\x1b")
	assert.Contains(t, why, `request principal "https://i/a\nlevel=error \x1b[31mqqq`)
	assert.Contains(t, why, "is none of /a, /b, /c, /d and 2 more")
	assert.Less(t, len(why), 600)
}

func TestNearestMiss(t *testing.T) {
	t.Parallel()
	id := func(sa string) string { return "cluster.local/ns/production/sa/" + sa }
	rule := func(sa, method, path string) Rule {
		r := to(Operation{Methods: []string{method}, Paths: []string{path}})
		if sa != "" {
			r.From = []Source{{Principals: []string{id(sa)}}}
		}
		return r
	}
	e := engine(t, config(policyOf("p", ActionAllow,
		rule("", "GET", "/public/*"),
		rule("inventory", "GET", "/items/*"),
		rule("order", "POST", "/orders"),
		rule("order", "POST", "/items/*"),
	)))
	for _, tt := range []struct {
		sa, method, path string
		rule             int
		why              string
	}{
		{"order", "GET", "/items/1", 4, "method GET is not POST"},
		{"order", "GET", "/items", 3, `method GET is not POST and path "/items" is not /orders`},
		{"billing", "GET", "/items/1", 1, `path "/items/1" is not /public/*`},
		{"inventory", "POST", "/public/x", 1, "method POST is not GET"},
		{"inventory", "GET", "/item", 2, `path "/item" is not /items/*`},
	} {
		got := e.Explain(call(t, gatemesh.CallInfo{Peer: peer(t, "production", tt.sa), Method: tt.method, Path: tt.path}))
		assert.Equal(t, Explanation{Verdict: Deny, Policy: "p", Namespace: "production", Rule: tt.rule, Reason: fmt.Sprintf("rule %d of p: %s", tt.rule, tt.why)}, got, "%+v", tt)
	}
}
