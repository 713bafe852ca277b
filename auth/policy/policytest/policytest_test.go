package policytest_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/gatemesh-go/gatemesh"
	"github.com/gatemesh-go/gatemesh/auth/policy"
	"github.com/gatemesh-go/gatemesh/auth/policy/policytest"
)

var _ policytest.TB = (*testing.T)(nil)

// fake is a TB that remembers.
type fake struct{ errors, fatals []string }

func (f *fake) Helper() {}
func (f *fake) Errorf(format string, a ...any) {
	f.errors = append(f.errors, fmt.Sprintf(format, a...))
}
func (f *fake) Fatalf(format string, a ...any) {
	f.fatals = append(f.fatals, fmt.Sprintf(format, a...))
}

var self = policytest.Workload("payment-service.production")

// rules returns policies with one ALLOW policy of these rules.
func rules(t policytest.TB, r ...policy.Rule) *policytest.Policies {
	return policytest.New(t, policy.Config{
		Workload: self, Unselected: policy.Deny,
		Policies: []policy.Policy{{Name: "p", Namespace: "production", Rules: r}},
	})
}

func source(s policy.Source) policy.Rule       { return policy.Rule{From: []policy.Source{s}} }
func operation(o policy.Operation) policy.Rule { return policy.Rule{To: []policy.Operation{o}} }
func when(key, value string) policy.Rule {
	return policy.Rule{When: []policy.Condition{{Key: key, Values: []string{value}}}}
}

// Whatever can be said of a call reaches the engine, in Go and in a table.
func TestCallFields(t *testing.T) {
	t.Parallel()
	user := gatemesh.PrincipalInfo{
		Issuer: "https://idp.example.com", Subject: "alice", Scopes: []string{"read", "pay"}, Audience: []string{"payments"},
		Claims: map[string]any{"org": map[string]any{"role": "clerk of \"x\""}},
	}
	type P = *policytest.Policies
	for _, c := range []struct {
		name   string
		rule   policy.Rule
		call   func(P) policytest.Call
		fields string
	}{
		{"service account", source(policy.Source{ServiceAccounts: []string{"a"}}), func(p P) policytest.Call { return p.As("a").GET("/x") }, "a GET /x"},
		{"namespace", source(policy.Source{Principals: []string{"cluster.local/ns/shop/sa/a"}}), func(p P) policytest.Call { return p.As("a.shop").GET("/x") }, "a.shop GET /x"},
		{"principal", source(policy.Source{Principals: []string{"other.test/ns/shop/sa/a.b"}}), func(p P) policytest.Call { return p.As("other.test/ns/shop/sa/a.b").GET("/x") }, "other.test/ns/shop/sa/a.b GET /x"},
		{"SPIFFE id", source(policy.Source{Principals: []string{"other.test/any/Path"}}), func(p P) policytest.Call { return p.As("spiffe://other.test/any/Path").GET("/x") }, "spiffe://other.test/any/Path GET /x"},
		{"user", source(policy.Source{RequestPrincipals: []string{"https://idp.example.com/alice"}}), func(p P) policytest.Call { return p.Anonymous().User(user).GET("/x") }, "anonymous GET /x issuer=https://idp.example.com subject=alice"},
		{"scope", when("request.auth.claims[scope]", "pay"), func(p P) policytest.Call { return p.Anonymous().GET("/x").User(user) }, "anonymous GET /x scope=read scope=pay"},
		{"audience", when("request.auth.audiences", "payments"), func(p P) policytest.Call { return p.Anonymous().GET("/x").User(user) }, "anonymous GET /x audience=payments"},
		{"claims", when("request.auth.claims[org][role]", `clerk of "x"`), func(p P) policytest.Call { return p.Anonymous().GET("/x").User(user) }, `anonymous GET /x claims={"org": {"role": "clerk of \"x\""}} scope=read`},
		{"host", operation(policy.Operation{Hosts: []string{"api.example.com"}}), func(p P) policytest.Call { return p.Anonymous().Host("api.example.com").GET("/x") }, "anonymous GET /x host=api.example.com"},
		{"port", operation(policy.Operation{Ports: []string{"8080"}}), func(p P) policytest.Call { return p.Anonymous().Port(8080).GET("/x") }, "anonymous GET /x port=8080"},
		{"from", source(policy.Source{IPBlocks: []string{"10.0.0.0/8"}}), func(p P) policytest.Call { return p.Anonymous().From("10.1.2.3").GET("/x") }, "anonymous GET /x from=10.1.2.3"},
		{"from as client", source(policy.Source{RemoteIPBlocks: []string{"10.0.0.0/8"}}), func(p P) policytest.Call { return p.Anonymous().From("10.1.2.3").GET("/x") }, "anonymous GET /x from=10.1.2.3"},
		{"client", source(policy.Source{RemoteIPBlocks: []string{"2001:db8::/32"}}), func(p P) policytest.Call { return p.Anonymous().From("10.1.2.3").Client("2001:db8::1").GET("/x") }, "anonymous GET /x from=10.1.2.3 client=2001:db8::1"},
		{"to", when("destination.ip", "10.9.0.0/16"), func(p P) policytest.Call { return p.Anonymous().To("10.9.1.1").GET("/x") }, "anonymous GET /x to=10.9.1.1"},
		{"sni", when("connection.sni", "www.example.com"), func(p P) policytest.Call { return p.Anonymous().SNI("www.example.com").GET("/x") }, "anonymous GET /x sni=www.example.com"},
		{"header", when("request.headers[X-Tenant]", "a b"), func(p P) policytest.Call { return p.Anonymous().Header("x-tenant", "a b").GET("/x") }, `anonymous GET /x header.x-tenant="a b"`},
		{"gRPC", operation(policy.Operation{Methods: []string{"POST"}, Paths: []string{"/a.B/C"}}), func(p P) policytest.Call { return p.Anonymous().GRPC("/a.B/C") }, "anonymous GRPC /a.B/C"},
		{"method", operation(policy.Operation{Methods: []string{"PURGE"}}), func(p P) policytest.Call { return p.Anonymous().Do("PURGE", "/x") }, "anonymous PURGE /x"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			p := rules(t, c.rule)
			c.call(p).Want(policytest.Allow)
			p.As("nobody.nowhere").PATCH("/y").Want(policytest.Deny)
			file := filepath.Join(t.TempDir(), "t.cases")
			require.NoError(t, os.WriteFile(file, []byte("allow "+c.fields+"\ndeny nobody.nowhere PATCH /y\n"), 0o600))
			p.Table(file)

			var f fake
			other := rules(&f, c.rule)
			c.call(other).Want(policytest.Deny)
			require.NoError(t, os.WriteFile(file, []byte("\n# comment\n  deny "+c.fields+"\n"), 0o600))
			other.Table(file)
			require.Len(t, f.errors, 2)
			assert.Contains(t, f.errors[1], file+":3: "+strings.Split(c.fields, " ")[0])
			assert.Empty(t, f.fatals)
		})
	}
}

func TestMethods(t *testing.T) {
	t.Parallel()
	p := policytest.New(t, policy.Config{Workload: self, Unselected: policy.Deny})
	for method, c := range map[string]policytest.Call{
		"GET": p.Anonymous().GET("/x"), "HEAD": p.Anonymous().HEAD("/x"), "POST": p.Anonymous().POST("/x"),
		"PUT": p.Anonymous().PUT("/x"), "PATCH": p.Anonymous().PATCH("/x"), "DELETE": p.Anonymous().DELETE("/x"),
	} {
		q := rules(t, operation(policy.Operation{Methods: []string{method}}))
		q.Anonymous().Do(method, "/x").Want(policytest.Allow)
		why, err := c.Explain()
		require.NoError(t, err)
		assert.Equal(t, policytest.Deny, why.Verdict)
	}
}

// A beginning can be shared: what one call adds, another does not get.
func TestCallsShareNothing(t *testing.T) {
	t.Parallel()
	p := rules(t, when("request.headers[X-A]", "1"))
	base := p.Anonymous().GET("/x").Header("X-B", "1")
	with := base.Header("X-A", "1")
	two := with.Header("X-A", "2")
	base.Want(policytest.Deny)
	with.Want(policytest.Allow)
	two.Want(policytest.Deny)
	broken := base.From("x")
	_ = broken.Client("y")
	_, err := broken.Explain()
	assert.EqualError(t, err, `From("x"): not an IP address`)
	base.Want(policytest.Deny)
}

// A test that asks about no call fails, whatever it wants.
func TestNoCall(t *testing.T) {
	t.Parallel()
	var f fake
	p := rules(&f, policy.Rule{})
	for _, c := range []policytest.Call{
		p.Anonymous(), p.Anonymous().GET(""), p.Anonymous().Do("", "/x"),
		p.Anonymous().GET("/x?y"), p.Anonymous().GET("/a/../b"), p.Anonymous().GET("x"), p.Anonymous().Do("get", "/x"),
		p.Anonymous().From("nonsense").GET("/x"), p.Anonymous().Client("1.2.3").GET("/x"), p.Anonymous().To("").GET("/x"),
		p.As("").GET("/x"), p.As("a b").GET("/x"), p.As("a/b/../c").GET("/x"), p.As("spiffe://").GET("/x"), p.As("spiffe://A/b").GET("/x"),
		p.As("a.").GET("/x"), p.As("a/").GET("/x"), p.Anonymous().Host("a b").GET("/x"),
	} {
		for _, want := range []policy.Verdict{policytest.Allow, policytest.Deny} {
			f.errors = nil
			c.Want(want)
			require.Len(t, f.errors, 1)
			assert.Contains(t, f.errors[0], "no call to ask policies about: ")
		}
	}
	f.errors = nil
	p.Anonymous().GET("/x").Want(0)
	assert.Equal(t, []string{"anonymous GET /x\n    want Allow or Deny"}, f.errors)
}

func TestHooksAreAsked(t *testing.T) {
	t.Parallel()
	consent := errors.New("opening hours are over")
	var f fake
	p := policytest.New(&f, policy.Config{
		Workload: self, Unselected: policy.Allow,
		Hooks: map[string]policy.Hook{"hours": func(context.Context, *gatemesh.Call) error { return consent }},
		Policies: []policy.Policy{{
			Name: "hours", Namespace: "production", Action: policy.ActionCustom, Provider: "hours",
			Rules: []policy.Rule{operation(policy.Operation{Paths: []string{"/shop/*"}})},
		}},
	})
	p.Anonymous().GET("/shop/1").Want(policytest.Deny)
	p.Anonymous().GET("/other").Want(policytest.Allow)
	assert.Empty(t, f.errors)
	p.Anonymous().GET("/shop/1").Want(policytest.Allow)
	require.Len(t, f.errors, 1)
	assert.Contains(t, f.errors[0], "opening hours are over")
	consent = nil
	p.Anonymous().GET("/shop/1").Want(policytest.Allow)
	assert.Len(t, f.errors, 1)
}

func TestFatal(t *testing.T) {
	t.Parallel()
	empty := filepath.Join(t.TempDir(), "empty.cases")
	require.NoError(t, os.WriteFile(empty, []byte("# nothing\n"), 0o600))
	faulty := filepath.Join(t.TempDir(), "faulty.cases")
	require.NoError(t, os.WriteFile(faulty, []byte("maybe a GET /x\n"), 0o600))
	for want, run := range map[string]func(policytest.TB){
		"no such file":                          func(f policytest.TB) { policytest.Load(f, "testdata/none", self) },
		"Workload.Namespace":                    func(f policytest.TB) { policytest.Load(f, "testdata/policies", policytest.Workload("a")) },
		"Config.Unselected":                     func(f policytest.TB) { policytest.New(f, policy.Config{Workload: self}) },
		"no case in the table":                  func(f policytest.TB) { rules(f).Table(empty) },
		"faulty.cases:1: the verdict \"maybe\"": func(f policytest.TB) { rules(f).Table(faulty) },
		"none.cases":                            func(f policytest.TB) { rules(f).Table("none.cases") },
		"parsing \"GET\"":                       func(f policytest.TB) { rules(f).Coverage("GET", "/x") },
	} {
		var f fake
		run(&f)
		require.Len(t, f.fatals, 1, want)
		assert.Contains(t, f.fatals[0], want)
		assert.Empty(t, f.errors)
	}
	// Where Fatalf returns, every call is refused, and nothing panics.
	var f fake
	p := policytest.Load(&f, "testdata/none", self)
	p.Anonymous().GET("/x").Want(policytest.Deny)
	assert.Empty(t, f.errors)
}

func TestMux(t *testing.T) {
	t.Parallel()
	var mux policytest.Mux
	ok := func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(204) }
	mux.Handle("/a", http.HandlerFunc(ok))
	mux.HandleFunc("GET /b/{id}", ok)
	assert.Panics(t, func() { mux.HandleFunc("GET /b/{other}", ok) }, "like a ServeMux")
	assert.Equal(t, []string{"/a", "GET /b/{id}"}, mux.Routes())
	w := httptest.NewRecorder()
	mux.ServeHTTP(w, httptest.NewRequest("GET", "/b/1", nil))
	assert.Equal(t, 204, w.Code)
	mux.Routes()[0] = "x"
	assert.Equal(t, "/a", mux.Routes()[0])
}
