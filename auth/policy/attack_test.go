package policy

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/http"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/gatemesh-go/gatemesh"
	"github.com/gatemesh-go/gatemesh/internal/race"
)

// A caller cannot keep itself out of a dry run by a path that is cut in the
// middle of an escape, or that only an Entry of another setting accepts.
func TestDryRunKeepsEveryPath(t *testing.T) {
	t.Parallel()
	role := Rule{When: []Condition{{Key: "request.headers[X-Role]", Values: []string{"admin"}}}}
	for path, o := range map[string]gatemesh.EntryConfig{
		"/" + strings.Repeat("x", 510) + "%C3%A9": {},
		"/a%2Fb": {KeepEncodedSlash: true},
		"/a;b":   {KeepPathParameters: true},
	} {
		e := engine(t, trial(role, to(Operation{Paths: []string{"/none"}})))
		chain := gatemesh.Must(gatemesh.NewChain(gatemesh.Must(gatemesh.NewEntry(o)), e.Layer()))
		h := chain.Handler(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(204) }))
		r := getting(t, path)
		r.Header.Set("X-Role", "admin")
		require.Equal(t, 204, status(h, r), path)
		run := dryRunOf(t, e)
		assert.Zero(t, run.Failed, path)
		require.Len(t, run.Differences, 1, path)
		d := run.Differences[0]
		assert.Equal(t, path[:min(len(path), 512)], d.Path)
		assert.True(t, d.Partial)
		assert.Contains(t, d.Candidate.Reason, "is not /none")
	}
}

// AZ-07: "*" is a field that is not empty, however often an empty one is sent.
func TestAZ07_ManyEmptyFields(t *testing.T) {
	t.Parallel()
	const role = "request.headers[X-Role]"
	c := call(t, gatemesh.CallInfo{Header: http.Header{"X-Role": make([]string, 300)}})
	assert.Equal(t, Deny, verdict(t, engine(t, config(policyOf("p", ActionAllow, Rule{When: []Condition{{Key: role, Values: []string{"*"}}}}))), c))
	deny := policyOf("d", ActionDeny, Rule{When: []Condition{{Key: role, NotValues: []string{"*"}}}})
	assert.Equal(t, Deny, verdict(t, engine(t, config(policyOf("p", ActionAllow, Rule{}), deny)), c))
}

// A list that a policy spells out is compared as it stands, too.
func TestAZ07_ListInDeny(t *testing.T) {
	t.Parallel()
	deny := policyOf("d", ActionDeny, Rule{When: []Condition{{Key: "request.headers[X-Role]", Values: []string{"user, admin"}}}})
	e := engine(t, config(policyOf("p", ActionAllow, Rule{}), deny))
	assert.Equal(t, Deny, verdict(t, e, call(t, gatemesh.CallInfo{Header: http.Header{"X-Role": {"user, admin"}}})))
	assert.Equal(t, Allow, verdict(t, e, call(t, gatemesh.CallInfo{Header: http.Header{"X-Role": {"user,admin"}}})))
}

// What a dry run does not keep cannot lead to its verdicts.
func TestDryRunPartial(t *testing.T) {
	t.Parallel()
	long := "/" + strings.Repeat("x", 600)
	claim := Rule{When: []Condition{{Key: "request.auth.claims[plan]", Values: []string{"gold"}}}}
	key := gatemesh.NewPrincipal(gatemesh.PrincipalInfo{Consumer: "shop", Claims: map[string]any{"plan": "gold"}})
	far, err := gatemesh.NewPeer("cluster.local", long, nil)
	require.NoError(t, err)
	for name, tt := range map[string]struct {
		live    Rule
		in      gatemesh.CallInfo
		partial bool
	}{
		"all kept":      {paths("*end"), gatemesh.CallInfo{Path: "/end"}, false},
		"end of a path": {paths("*end"), gatemesh.CallInfo{Path: long + "end"}, true},
		"claim":         {claim, gatemesh.CallInfo{Principal: key}, true},
		"peer":          {Rule{}, gatemesh.CallInfo{Peer: far}, true},
	} {
		e := engine(t, trial(tt.live, paths("/none")))
		_, err := e.Admit(t.Context(), call(t, tt.in))
		require.NoError(t, err, name)
		run := dryRunOf(t, e)
		require.Len(t, run.Differences, 1, name)
		assert.Equal(t, tt.partial, run.Differences[0].Partial, name)
	}
}

// A caller who makes a hook panic is refused and audited like any other.
func TestAuditOfPanic(t *testing.T) {
	t.Parallel()
	cfg := hooked(func(context.Context, *gatemesh.Call) error { panic("oops") })
	cfg.Policies = append(cfg.Policies, policyOf("note", ActionAudit, Rule{}))
	var rec recorder
	cfg.Observer = &rec
	e := engine(t, cfg)
	rec.events = nil
	assert.PanicsWithValue(t, "oops", func() { _, _ = e.Admit(t.Context(), call(t, gatemesh.CallInfo{Path: "/ask"})) })
	require.Len(t, rec.events, 1)
	assert.ErrorContains(t, rec.events[0].Err, "the AUDIT rule matches, and the verdict is deny")
}

// What a log line looks at has a bound in alternatives, not in rules: one rule
// may have thousands.
func TestCauseLooksAtFewAlternatives(t *testing.T) {
	t.Parallel()
	rule := Rule{}
	for i := range 5000 {
		rule.From = append(rule.From, Source{NotPrincipals: []string{"*"}, Principals: []string{fmt.Sprintf("cluster.local/ns/a/sa/%d", i)}})
	}
	rule.From = append(rule.From, Source{Principals: []string{"cluster.local/ns/b/sa/near"}})
	rule.To = []Operation{{Methods: []string{"PUT"}}}
	e := engine(t, config(policyOf("p", ActionAllow, rule)))
	c := call(t, gatemesh.CallInfo{Peer: peer(t, "b", "near")})
	assert.NotContains(t, e.Explain(c).Reason, "principal", "an operator is told of the nearest")
	_, err := e.Admit(t.Context(), c)
	var d *gatemesh.Denial
	require.True(t, errors.As(err, &d))
	assert.Contains(t, d.Cause().Error(), "principal", "a log line is not worth reading 5,001 alternatives")

	p := policyOf("p", ActionAllow)
	for range 600 {
		p.Rules = append(p.Rules, Rule{From: rule.From[:1], To: rule.To})
	}
	p.Rules = append(p.Rules, Rule{From: rule.From[5000:], To: rule.To})
	e = engine(t, config(p))
	assert.NotContains(t, e.Explain(c).Reason, "principal")
	_, err = e.Admit(t.Context(), c)
	require.True(t, errors.As(err, &d))
	assert.Contains(t, d.Cause().Error(), "principal")
}

// Thousands of rules that are told apart by one thing alone, whichever it is,
// are searched and not read from the beginning.
func TestIndexFindsByAnything(t *testing.T) {
	const n = 2000
	n1 := fmt.Sprint(n - 1)
	claims := func(v any) *gatemesh.Principal {
		return gatemesh.NewPrincipal(gatemesh.PrincipalInfo{Issuer: "https://idp", Subject: "s" + n1, Scopes: []string{"x", "s" + n1}, Audience: []string{"a" + n1}, Claims: map[string]any{"tenant": v}})
	}
	all := func(o Operation, c ...Condition) Rule {
		o.Paths, o.Methods = []string{"/*"}, []string{"GET"}
		return Rule{From: []Source{{NotNamespaces: []string{"test"}}}, To: []Operation{o}, When: c}
	}
	for name, tt := range map[string]struct {
		rule func(i string) Rule
		in   gatemesh.CallInfo
	}{
		"host":        {func(i string) Rule { return all(Operation{Hosts: []string{"h" + i + ".test"}}) }, gatemesh.CallInfo{Host: "h" + n1 + ".test"}},
		"hosts below": {func(i string) Rule { return all(Operation{Hosts: []string{"h" + i + ".test", "*.h" + i + ".test"}}) }, gatemesh.CallInfo{Host: "a.b.h" + n1 + ".test"}},
		"host prefix": {func(i string) Rule { return all(Operation{Hosts: []string{"h" + i + ".*"}}) }, gatemesh.CallInfo{Host: "h" + n1 + ".test"}},
		"claim": {func(i string) Rule {
			return all(Operation{}, Condition{Key: "request.auth.claims[tenant]", Values: []string{"t" + i}})
		}, gatemesh.CallInfo{Principal: claims([]any{"x", "t" + n1})}},
		"scope": {func(i string) Rule {
			return all(Operation{}, Condition{Key: "request.auth.claims[scope]", Values: []string{"s" + i}})
		}, gatemesh.CallInfo{Principal: claims("")}},
		"audience": {func(i string) Rule {
			return all(Operation{}, Condition{Key: "request.auth.audiences", Values: []string{"a" + i}})
		}, gatemesh.CallInfo{Principal: claims("")}},
		"subject": {func(i string) Rule {
			return all(Operation{}, Condition{Key: "request.auth.claims[sub]", Values: []string{"s" + i}})
		}, gatemesh.CallInfo{Principal: claims("")}},
		"user":       {func(i string) Rule { return from(Source{RequestPrincipals: []string{"https://idp/s" + i}}) }, gatemesh.CallInfo{Principal: claims("")}},
		"namespace":  {func(i string) Rule { return from(Source{Namespaces: []string{"n" + i}}) }, gatemesh.CallInfo{Peer: peer(t, "n"+n1, "a")}},
		"principals": {func(i string) Rule { return from(Source{Principals: []string{"cluster.local/ns/n" + i + "/*"}}) }, gatemesh.CallInfo{Peer: peer(t, "n"+n1, "a")}},
		"server name": {func(i string) Rule {
			return all(Operation{}, Condition{Key: "connection.sni", Values: []string{"h" + i + ".test"}})
		}, gatemesh.CallInfo{SNI: "h" + n1 + ".test"}},
		"header": {func(i string) Rule {
			return all(Operation{}, Condition{Key: "request.headers[X-Key]", Values: []string{"k" + i}})
		}, gatemesh.CallInfo{Header: http.Header{"X-Key": {"k" + n1}}}},
		"template": {func(i string) Rule { return to(Operation{Paths: []string{"/p" + i + "/{*}/x"}}) }, gatemesh.CallInfo{Path: "/p" + n1 + "/1/x"}},
	} {
		p := policyOf("p", ActionAllow)
		for i := range n {
			p.Rules = append(p.Rules, tt.rule(fmt.Sprint(i)))
		}
		e := engine(t, config(p))
		x := &e.state.Latest().allow.anyone
		assert.Empty(t, x.rest, name)
		require.Len(t, x.parts, 1, name)
		for _, one := range x.parts[0].tree.nodes {
			require.Equal(t, 1, max(len(one.exact), len(one.prefix)), "%s: %s", name, one.key)
		}
		assert.Equal(t, Allow, verdict(t, e, call(t, tt.in)), name)
		c := call(t, tt.in)
		assert.Zero(t, testing.AllocsPerRun(20, func() { _, _ = e.Admit(context.Background(), c) }), name)
		assert.Equal(t, Deny, verdict(t, e, call(t, gatemesh.CallInfo{Host: "h.test"})), name)
		if name == "header" {
			p.Action = ActionDeny
			e = engine(t, config(p, policyOf("a", ActionAllow, Rule{})))
			for want, values := range map[Verdict][][]string{
				Deny:  {{"x", "k" + n1}, {"x, y", "x ,k" + n1 + "\t, z"}, {strings.Repeat(",", 128)}, make([]string, 129)},
				Allow: {nil, {""}, {"k"}, {"k" + n1 + "x"}, {strings.Repeat(",", 127)}, make([]string, 128)},
			} {
				for _, v := range values {
					assert.Equal(t, want, verdict(t, e, call(t, gatemesh.CallInfo{Path: "/1", Header: http.Header{"X-Key": v}})), "%q", v)
				}
			}
		}
		if name == "header" {
			assert.Equal(t, Deny, verdict(t, e, call(t, gatemesh.CallInfo{Path: "/1", Reserved: map[string]string{"X-Key": "x"}})), "reserved, so that it cannot be told")
		}
		if name == "claim" {
			assert.Equal(t, Deny, verdict(t, e, call(t, gatemesh.CallInfo{Principal: claims(7)})), "a number counts against the call")
			p.Action = ActionDeny
			e = engine(t, config(p, policyOf("a", ActionAllow, Rule{})))
			assert.Equal(t, Deny, verdict(t, e, call(t, gatemesh.CallInfo{Principal: claims(7)})), "here, too")
			assert.Equal(t, Allow, verdict(t, e, call(t, gatemesh.CallInfo{Principal: claims("other")})))
		}
	}
}

// A rule of a thousand callers and a thousand operations does not take a
// million places.
func TestIndexIsBounded(t *testing.T) {
	t.Parallel()
	const n = 1000
	var one Rule
	var principals []string
	for i := range n {
		principals = append(principals, fmt.Sprintf("cluster.local/ns/a/sa/%d", i))
		one.To = append(one.To, Operation{Paths: []string{fmt.Sprintf("/p/%d", i)}})
	}
	one.From = []Source{{Principals: principals}}
	e := engine(t, config(policyOf("p", ActionAllow, one)))
	x := &e.state.Latest().allow
	places := len(x.anyone.rest)
	for _, p := range append(slices.Collect(maps.Values(x.byPrincipal)), &x.anyone) {
		places += len(p.rest)
		for _, part := range p.parts {
			places += len(part.all)
		}
	}
	assert.LessOrEqual(t, places, maxPlaces)
	assert.Equal(t, Allow, verdict(t, e, call(t, gatemesh.CallInfo{Peer: peer(t, "a", "999"), Path: "/p/999"})))
	assert.Equal(t, Deny, verdict(t, e, call(t, gatemesh.CallInfo{Peer: peer(t, "a", "1000"), Path: "/p/999"})))
}

// What is found by searching is what is found by asking every rule.
func TestIndexAgreesWithAsking(t *testing.T) {
	t.Parallel()
	matched := 0
	for seed := range uint64(race.Fewer(60)) {
		g := generator{rand.New(rand.NewPCG(seed, 3))}
		span := 20 + 20*int(seed)
		word := func(format string) string { return strings.ReplaceAll(format, "%d", fmt.Sprint(g.IntN(span))) }
		values := func(formats ...string) (out []string) {
			for range 1 + g.IntN(2) {
				out = append(out, word(pick(g, formats...)))
			}
			return out
		}
		newRule := func() (r Rule) {
			var o Operation
			var s Source
			for range 1 + g.IntN(2) {
				switch g.IntN(10) {
				case 8, 9:
					r.When = append(r.When, Condition{Key: pick(g, "request.headers[x-a]", "request.headers[x-b]", "request.headers[user-agent]"), Values: values("v%d", "v%d*", "*v%d", "v%d, v%d")})
				case 0:
					o.Hosts = values("h%d.test", "*.h%d.test", "*%d.test", "h%d.*")
				case 1:
					o.Paths = values("/p%d", "/p%d/*", "/p%d/{*}", "*/p%d")
				case 2:
					s.Namespaces = values("n%d", "n%d*", "*%d")
				case 3:
					s.RequestPrincipals = values("https://idp/u%d", "https://idp/u%d*")
				case 4:
					r.When = append(r.When, Condition{Key: pick(g, "request.auth.claims[a]", "request.auth.claims[b]", "request.auth.claims[c][d]", "request.auth.claims[permission]"), Values: values("v%d", "v%d*", "*v%d")})
				case 5:
					r.When = append(r.When, Condition{Key: pick(g, "request.auth.claims[scope]", "request.auth.audiences", "request.auth.claims[aud]"), NotValues: values("v%d"), Values: values("v%d")})
				case 6:
					o.Hosts, o.NotHosts, s.NotNamespaces = values("h%d.test", "a.b.h%d.test"), values("h%d.test"), values("n%d")
				default:
					r.When = append(r.When, Condition{Key: pick(g, "connection.sni", "source.principal"), Values: values("*%d.test", "*.h%d.test", "*%d")})
				}
			}
			if g.IntN(8) == 0 { // too many pairs to be taken apart
				for i := range 40 {
					r.From = append(r.From, Source{Namespaces: values("n%d")})
					r.To = append(r.To, Operation{Ports: []string{fmt.Sprint(1200 + i)}})
				}
				return r
			}
			if !reflect.DeepEqual(s, Source{}) {
				r.From = []Source{s}
			}
			if !reflect.DeepEqual(o, Operation{}) {
				r.To = []Operation{o}
			}
			return r
		}
		p := policyOf("p", pick(g, ActionAllow, ActionDeny))
		for range 4 + g.IntN(300) {
			if r := newRule(); r.From != nil || r.To != nil || r.When != nil {
				p.Rules = append(p.Rules, r)
			}
		}
		s := engine(t, config(p)).state.Latest()
		x := &s.allow
		if p.Action == ActionDeny {
			x = &s.deny
		}
		for range 60 {
			claim := func() any {
				return pick[any](g, word("v%d"), word("v%d x"), []any{word("v%d"), word("v%d")}, []any{7, word("v%d")}, 7, nil)
			}
			c := call(t, gatemesh.CallInfo{
				Host: word(pick(g, "h%d.test", "a.b.h%d.test", "x%d.test")), Path: word(pick(g, "/p%d", "/p%d/a", "/a/p%d")), SNI: word("a.h%d.test"),
				Header: http.Header{"X-A": values("v%d", "v%d, v%d"), "X-B": values("v%d", "x, v%d "), "User-Agent": values("v%d", "v%d, v%d")},
				Peer:   peer(t, word("n%d"), word("s%d")), LocalAddr: addr("10.0.0.1"), RequestID: "r",
				Principal: gatemesh.NewPrincipal(gatemesh.PrincipalInfo{
					Issuer: "https://idp", Subject: word("u%d"), Scopes: values("v%d"), Audience: values("v%d"),
					Claims: map[string]any{"a": claim(), "b": claim(), "c": map[string]any{"d": claim()}, "permission": claim()},
				}),
			})
			var r request
			r.read(c)
			want := slices.ContainsFunc(s.written[0].rules, func(one *rule) bool { return (&entry{one, one.from, one.to}).matches(&r) })
			found := x.match(&r)
			require.Equal(t, want, found != nil, "seed %d: %v", seed, c)
			if want {
				matched++
				require.True(t, (&entry{found, found.from, found.to}).matches(&r))
			}
		}
	}
	assert.Greater(t, matched, 300)
	assert.Less(t, matched, 3000)
}
