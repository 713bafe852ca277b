package policy

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/gatemesh-go/gatemesh"
)

func asking(name, provider string, rules ...Rule) Policy {
	p := policyOf(name, ActionCustom, rules...)
	p.Provider = provider
	return p
}

// hooked is a configuration that asks about /ask*, allows everything and denies
// /ask/deny.
func hooked(h Hook) Config {
	cfg := config(
		asking("ask", "opa", to(Operation{Paths: []string{"/ask*"}})),
		policyOf("no", ActionDeny, to(Operation{Paths: []string{"/ask/deny", "/deny"}})),
		policyOf("all", ActionAllow, Rule{}),
	)
	cfg.Policies[0].Rules[0].Position = gatemesh.Position{File: "a.yaml", Line: 7}
	cfg.Hooks = map[string]Hook{"opa": h}
	return cfg
}

func TestCustom(t *testing.T) {
	t.Parallel()
	mine := gatemesh.Deny(gatemesh.Unavailable, "opa", "Try again.").WithCause(errors.New("it is down"))
	for _, tt := range []struct {
		name   string
		answer error
		code   gatemesh.Code
		cause  string
	}{
		{"error", errors.New("no"), gatemesh.PermissionDenied, `the hook "opa" refused: no`},
		{"denial", mine, gatemesh.Unavailable, `the hook "opa" refused: ` + mine.Error()},
		{"wrapped denial", fmt.Errorf("x: %w", mine), gatemesh.Unavailable, `the hook "opa" refused: x: ` + mine.Error()},
		{"nil denial", (*gatemesh.Denial)(nil), gatemesh.PermissionDenied, `the hook "opa" refused: it returned a nil *Denial as an error`},
		{"context", context.Canceled, gatemesh.PermissionDenied, `the hook "opa" refused: context canceled`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			e := engine(t, hooked(func(context.Context, *gatemesh.Call) error { return tt.answer }))
			_, err := e.Admit(t.Context(), call(t, gatemesh.CallInfo{Path: "/ask"}))
			var d *gatemesh.Denial
			require.ErrorAs(t, err, &d)
			assert.Equal(t, tt.code, d.Code)
			assert.Equal(t, `policy "ask" (production) rule 1 (a.yaml:7): `+tt.cause, d.Cause().Error())
			_, err = e.Admit(t.Context(), call(t, gatemesh.CallInfo{Path: "/other"}))
			assert.NoError(t, err, "nobody is asked about it")
		})
	}
}

// The hook comes first, and its consent is not enough.
func TestCustomOrder(t *testing.T) {
	t.Parallel()
	var asked []string
	e := engine(t, hooked(func(_ context.Context, c *gatemesh.Call) error {
		asked = append(asked, c.Path())
		return nil
	}))
	for path, want := range map[string]Verdict{"/ask": Allow, "/ask/deny": Deny, "/deny": Deny, "/x": Allow} {
		asked = nil
		c := call(t, gatemesh.CallInfo{Path: path})
		_, ok, err := e.AdmitCached(t.Context(), c)
		assert.Empty(t, asked, "AdmitCached does not wait")
		hooked := strings.HasPrefix(path, "/ask")
		assert.Equal(t, !hooked, ok, path)
		if ok {
			assert.Equal(t, want == Allow, err == nil, path)
		}
		_, err = e.Admit(t.Context(), c)
		assert.Equal(t, want == Allow, err == nil, path)
		why := e.Explain(c)
		assert.Equal(t, want, why.Verdict, path)
		if hooked {
			assert.Equal(t, []string{path}, asked, "asked once")
			assert.Equal(t, []string{"opa"}, why.Hooks)
		} else {
			assert.Empty(t, asked, path)
			assert.Empty(t, why.Hooks)
		}
	}
}

// Each hook is asked once, in the order of the policies, and all must consent.
func TestCustomSeveral(t *testing.T) {
	t.Parallel()
	var asked []string
	refuse := ""
	cfg := config(
		asking("a", "one", Rule{}), asking("b", "two", Rule{}), asking("c", "one", Rule{}),
		asking("d", "three", Rule{}), policyOf("all", ActionAllow, Rule{}),
		Policy{Name: "e", Namespace: "staging", Action: ActionCustom, Provider: "not ours", Rules: []Rule{{}}},
	)
	cfg.Hooks = make(map[string]Hook)
	for _, name := range []string{"one", "two", "three", "never"} {
		cfg.Hooks[name] = func(context.Context, *gatemesh.Call) error {
			asked = append(asked, name)
			if name == refuse {
				return errors.New("no")
			}
			return nil
		}
	}
	e := engine(t, cfg)
	c := call(t, gatemesh.CallInfo{})
	_, err := e.Admit(t.Context(), c)
	require.NoError(t, err)
	assert.Equal(t, []string{"one", "two", "three"}, asked)
	assert.Equal(t, asked, e.Explain(c).Hooks)
	asked, refuse = nil, "two"
	_, err = e.Admit(t.Context(), c)
	require.Error(t, err)
	assert.Equal(t, []string{"one", "two"}, asked)

	cfg.Exempt = []string{"/free"}
	e = engine(t, cfg)
	asked = nil
	c = call(t, gatemesh.CallInfo{Path: "/free"})
	assert.Equal(t, Allow, verdict(t, e, c))
	assert.Empty(t, asked, "an exempt path asks nobody")
	assert.Empty(t, e.Explain(c).Hooks)
}

func TestCustomFaults(t *testing.T) {
	t.Parallel()
	yes := func(context.Context, *gatemesh.Call) error { return nil }
	at := func(p Policy) Policy {
		p.Position = gatemesh.Position{File: "a.yaml", Line: 3}
		return p
	}
	other := policyOf("p", ActionDeny, Rule{})
	other.Provider = "opa"
	for name, tt := range map[string]struct {
		policy Policy
		hooks  map[string]Hook
		want   string
	}{
		"unknown":        {at(asking("p", "opx", Rule{})), map[string]Hook{"opa": yes}, `policy: a.yaml:3: policy "p" (production): Provider "opx": there is no hook of this name in Config.Hooks`},
		"none":           {at(asking("p", "opa")), nil, `policy: a.yaml:3: policy "p" (production): Provider "opa": there is no hook of this name in Config.Hooks`},
		"no provider":    {at(asking("p", "", Rule{})), map[string]Hook{"opa": yes}, `policy: a.yaml:3: policy "p" (production): Provider: is required for CUSTOM, the name of a hook in Config.Hooks`},
		"another kind":   {at(other), map[string]Hook{"opa": yes}, `policy: a.yaml:3: policy "p" (production): Provider "opa": is for CUSTOM alone, and the action is DENY`},
		"nil":            {asking("p", "opa", Rule{}), map[string]Hook{"opa": nil}, `policy: Config.Hooks["opa"]: needs a name and a function`},
		"without name":   {policyOf("p", ActionAllow), map[string]Hook{"": yes}, `policy: Config.Hooks[""]: needs a name and a function`},
		"unknown action": {Policy{Name: "p", Namespace: "production", Action: 9}, nil, `policy: policy "p" (production): Action: unknown action 9`},
	} {
		cfg := config(tt.policy)
		cfg.Hooks = tt.hooks
		_, err := New(cfg)
		assert.ErrorContains(t, err, tt.want, name)
	}
}

// A hook that panics refuses, in a chain like any gate; one that never answers
// is waited for as long as the call lasts.
func TestCustomPanicsAndHangs(t *testing.T) {
	t.Parallel()
	var rec recorder
	e := engine(t, hooked(func(context.Context, *gatemesh.Call) error { panic("oops") }))
	chain := gatemesh.Must(gatemesh.NewChain(gatemesh.Must(gatemesh.NewEntry(gatemesh.EntryConfig{Observer: &rec})), e.Layer()))
	h := chain.Handler(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(204) }))
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), "GET", "/ask", nil))
	assert.Equal(t, 500, w.Code)
	assert.NotContains(t, w.Body.String(), "oops")
	assert.Len(t, rec.messages(gatemesh.EventPanic), 1)

	synctest.Test(t, func(t *testing.T) {
		e := engine(t, hooked(func(ctx context.Context, _ *gatemesh.Call) error {
			<-ctx.Done()
			return ctx.Err()
		}))
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		start := time.Now()
		_, err := e.Admit(ctx, call(t, gatemesh.CallInfo{Path: "/ask"}))
		require.Error(t, err)
		assert.Equal(t, time.Second, time.Since(start))
	})
}

// What the hook is asked about, the configuration that was chosen for the call
// judges; and a hook that is removed meanwhile does no harm.
func TestCustomUpdate(t *testing.T) {
	t.Parallel()
	var e *Engine
	e = engine(t, hooked(func(context.Context, *gatemesh.Call) error { return e.Update(config()) }))
	_, err := e.Admit(t.Context(), call(t, gatemesh.CallInfo{Path: "/ask"}))
	require.NoError(t, err)
	_, err = e.Admit(t.Context(), call(t, gatemesh.CallInfo{Path: "/ask"}))
	require.Error(t, err, "no policy any more")
}

func TestAudit(t *testing.T) {
	t.Parallel()
	audit := policyOf("note", ActionAudit, to(Operation{Paths: []string{"/x", "/ask*"}}), to(Operation{Paths: []string{"/x*"}}))
	audit.Rules[0].Position = gatemesh.Position{File: "a.yaml", Line: 9}
	again := audit
	again.Name = "again"
	cfg := hooked(func(context.Context, *gatemesh.Call) error { return errors.New("no") })
	cfg.Policies = append(cfg.Policies, audit, again, policyOf("d", ActionDeny, to(Operation{Paths: []string{"/x/deny"}})))
	cfg.Exempt = []string{"/x/free"}
	var rec recorder
	cfg.Observer = &rec
	e := engine(t, cfg)
	for path, want := range map[string]string{
		"/x":      `policy "note" (production) rule 1 (a.yaml:9): the AUDIT rule matches, and the verdict is allow`,
		"/x/deny": `policy "note" (production) rule 2: the AUDIT rule matches, and the verdict is deny`,
		"/ask":    `policy "note" (production) rule 1 (a.yaml:9): the AUDIT rule matches, and the verdict is deny`,
		"/y":      "",
		"/x/free": "",
	} {
		rec.events = nil
		c := call(t, gatemesh.CallInfo{Path: path})
		_, err := e.Admit(t.Context(), c)
		assert.Equal(t, strings.Contains(want, "is deny"), err != nil, path)
		if want == "" {
			assert.Empty(t, rec.events, path)
			continue
		}
		require.Len(t, rec.events, 1, "one for each call: %s", path)
		got := rec.events[0]
		assert.EqualError(t, got.Err, want)
		assert.Equal(t, gatemesh.Event{Kind: gatemesh.EventNotice, Layer: "policy", Call: c, Message: "audit", Err: got.Err}, got)
		rec.events = nil
		e.Explain(c)
		assert.Empty(t, rec.events, "asking is no call")
	}
	// AUDIT policies select, and allow nobody.
	c := call(t, gatemesh.CallInfo{Path: "/x"})
	e = engine(t, config(audit))
	assert.Equal(t, Deny, verdict(t, e, c))
	assert.Equal(t, "no ALLOW policy selects this workload and unselected workloads are denied", e.Explain(c).Reason)
}

// Values of fields and claims are secrets. What the policies say is not.
func TestExplainHidesSecrets(t *testing.T) {
	t.Parallel()
	const secret = "s3cr3t"
	alice := gatemesh.NewPrincipal(gatemesh.PrincipalInfo{
		Issuer: "i", Subject: "alice", Method: "jwt", Scopes: []string{secret}, Audience: []string{secret},
		Claims: map[string]any{"azp": secret, "groups": []any{secret}, "a": map[string]any{"b": secret}, "n": 7.0},
	})
	known := gatemesh.CallInfo{Principal: alice, Header: http.Header{"X-Role": {secret}, "X-Two": {secret, secret}, "X-List": {secret + ", admin"}}}
	for _, tt := range []struct {
		rule Rule
		in   gatemesh.CallInfo
		want string
	}{
		{when("request.headers[x-role]", "admin"), known, "header X-Role has another value than admin"},
		{when("request.headers[x-role]", "a", "b", "c", "d", "e"), known, "header X-Role has another value than any of a, b, c, d and 1 more"},
		{when("request.headers[x-two]", "admin"), known, "header X-Two is there 2 times, wanted once: admin"},
		{when("request.headers[x-list]", "admin"), known, "header X-List has another value than admin"},
		{whenNot("request.headers[x-role]", "s3*"), known, "header X-Role is excluded by s3*"},
		{when("request.headers[x-role]", "admin"), gatemesh.CallInfo{}, "there is no header X-Role, wanted admin"},
		{when("request.auth.claims[groups]", "staff"), known, "claim groups has another value than staff"},
		{when("request.auth.claims[a][b]", "staff"), known, "claim a.b has another value than staff"},
		{when("request.auth.claims[n]", "staff"), known, "claim n has a value that is no string and cannot be compared with staff"},
		{whenNot("request.auth.claims[n]", "staff"), known, "claim n has a value that is no string and cannot be compared with staff"},
		{when("request.auth.claims[x\ny]", "staff"), known, `there is no claim "x\ny", wanted staff`},
		{when("request.auth.claims[scope]", "w"), known, "claim scope has another value than w"},
		{whenNot("request.auth.claims[scope]", "*"), known, "claim scope is excluded by *"},
		{when("request.auth.audiences", "web"), known, "audience has another value than web"},
		{when("request.auth.presenter", "shop"), known, "presenter has another value than shop"},
		{when("request.auth.presenter", "shop"), gatemesh.CallInfo{}, "there is no presenter, wanted shop"},
		{when("connection.sni", "a.test"), gatemesh.CallInfo{SNI: "B.test"}, `server name "b.test" is not a.test`},
		{when("connection.sni", "a.test"), known, "there is no server name (no TLS, or the client sent none), wanted a.test"},
		{when("destination.ip", "10.0.0.1"), known, "the address of the destination is unknown, wanted 10.0.0.1"},
		{from(Source{ServiceAccounts: []string{"a"}}), known, "there is no service account (no verified peer, or its SPIFFE id has none), wanted production/a"},
	} {
		e := engine(t, config(policyOf("p", ActionAllow, tt.rule)))
		c := call(t, tt.in)
		assert.Equal(t, "rule 1 of p: "+tt.want, e.Explain(c).Reason)
		_, err := e.Admit(t.Context(), c)
		cause := err.(*gatemesh.Denial).Cause()
		assert.Equal(t, `policy "p" (production) rule 1: `+tt.want, cause.Error(), "as in the log")
		assert.NotContains(t, fmt.Sprintf("%v %+v %s", err, cause, err), secret)
	}
}

// The cause of a denial can be read when the call is long over.
func TestCauseOutlivesCall(t *testing.T) {
	t.Parallel()
	e := engine(t, config(policyOf("p", ActionAllow, when("request.headers[x-role]", "admin"))))
	in := gatemesh.CallInfo{Header: http.Header{"X-Role": {"user"}}}
	var denial *gatemesh.Denial
	chain := gatemesh.Must(gatemesh.NewChain(gatemesh.Must(gatemesh.NewEntry(gatemesh.EntryConfig{
		Observer: gatemesh.ObserverFunc(func(_ context.Context, ev gatemesh.Event) {
			if ev.Kind == gatemesh.EventDenied {
				denial = ev.Denial
			}
		}),
	})), e.Layer()))
	r := httptest.NewRequestWithContext(t.Context(), "GET", "/", nil)
	r.Header = in.Header
	chain.Handler(http.NotFoundHandler()).ServeHTTP(httptest.NewRecorder(), r)
	require.NotNil(t, denial)
	r.Header["X-Role"][0] = "admin"
	r.Header.Del("X-Role")
	assert.Equal(t, `policy "p" (production) rule 1: header X-Role has another value than admin`, denial.Cause().Error())
}
