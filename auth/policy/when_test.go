package policy

import (
	"context"
	"encoding/json"
	"net/http"
	"net/netip"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/gatemesh-go/gatemesh"
)

func when(key string, values ...string) Rule {
	return Rule{When: []Condition{{Key: key, Values: values}}}
}

func whenNot(key string, values ...string) Rule {
	return Rule{When: []Condition{{Key: key, NotValues: values}}}
}

// Whatever a caller does with a field that is there twice or holds a list, a
// server behind that reads the first, the last or all of it sees no value that
// the policy did not judge.
func TestAZ07_SeveralValues(t *testing.T) {
	t.Parallel()
	const role, agent = "request.headers[x-role]", "request.headers[user-agent]"
	fields := func(values ...string) (out []string) {
		for _, v := range values {
			out = append(out, "X-Role: "+v)
		}
		return out
	}
	sent := map[string][]string{
		"none": nil, "user": fields("user"), "admin": fields("admin"), "empty": fields(""),
		"two fields": fields("user", "admin"), "two fields, turned": fields("admin", "user"), "the same twice": fields("user", "user"),
		"list": fields("user, admin"), "list, tight": fields("user,admin"), "list, turned": fields("admin, user"), "list, odd": fields(",,admin\t,"),
		"list of one": fields("user,"), "other case of the name": {"x-rOLE: user", "X-ROLE: admin"},
		"many": fields(strings.Repeat("user,", 200) + "user"),
	}
	for _, tt := range []struct {
		name   string
		action Action
		rule   Rule
		passes []string // every other is refused
	}{
		{"allow user", ActionAllow, when(role, "user"), []string{"user"}},
		{"allow us*", ActionAllow, when(role, "us*"), []string{"user"}},
		{"allow *er", ActionAllow, when(role, "*er"), []string{"user"}},
		{"allow the list", ActionAllow, when(role, "user, admin"), []string{"list"}},
		{"allow any", ActionAllow, when(role, "*"), []string{
			"user", "admin", "two fields", "two fields, turned", "the same twice", "list", "list, tight", "list, turned", "list, odd",
			"list of one", "other case of the name", "many",
		}},
		{"allow all but admin", ActionAllow, whenNot(role, "admin"), []string{"none", "user", "empty", "the same twice", "list of one"}},
		{"allow all but adm*", ActionAllow, whenNot(role, "adm*"), []string{"none", "user", "empty", "the same twice", "list of one"}},
		{"allow those without", ActionAllow, whenNot(role, "*"), []string{"none", "empty"}},
		{"deny admin", ActionDeny, when(role, "admin"), []string{"none", "user", "empty", "the same twice", "list of one"}},
		{"deny *min", ActionDeny, when(role, "*min"), []string{"none", "user", "empty", "the same twice", "list of one"}},
		{"deny all but user", ActionDeny, whenNot(role, "user"), []string{"user"}},
		{"deny all but us*", ActionDeny, whenNot(role, "us*"), []string{"user"}},
		{"deny those without", ActionDeny, whenNot(role, "*"), []string{
			"user", "admin", "two fields", "two fields, turned", "the same twice", "list", "list, tight", "list, turned", "list, odd",
			"list of one", "other case of the name", "many",
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			cfg := config(policyOf("p", tt.action, tt.rule))
			if tt.action == ActionDeny {
				cfg.Unselected = Allow
			}
			addr := serve(t, engine(t, cfg))
			for name, f := range sent {
				want := 403
				for _, p := range tt.passes {
					if p == name {
						want = 200
					}
				}
				var lines []string
				for _, line := range f {
					lines = append(lines, line+"\r\n")
				}
				status, _ := send(t, addr, "GET / HTTP/1.1\r\nHost: a.test\r\n"+strings.Join(lines, "")+"Connection: close\r\n\r\n")
				assert.Equal(t, want, status, name)
			}
		})
	}

	// A field that is no list by its definition may have commas (Istio's own
	// example is about this one), and is still there once.
	browser := engine(t, config(policyOf("p", ActionAllow, when(agent, "Mozilla/*"))))
	for _, tt := range []struct {
		values []string
		want   Verdict
	}{
		{[]string{"Mozilla/5.0 (X11; Linux) AppleWebKit/537.36 (KHTML, like Gecko)"}, Allow},
		{[]string{"curl/8", "Mozilla/5.0"}, Deny},
		{[]string{"Mozilla/5.0", "Mozilla/5.0"}, Deny},
		{[]string{"curl/8, Mozilla/5.0"}, Deny},
	} {
		c := call(t, gatemesh.CallInfo{Header: http.Header{"User-Agent": tt.values}})
		assert.Equal(t, tt.want, verdict(t, browser, c), tt.values)
	}
}

// AUDIT and CUSTOM rules are matched like DENY: by any value.
func TestAZ07_Hooks(t *testing.T) {
	t.Parallel()
	asked := 0
	p := policyOf("ask", ActionCustom, when("request.headers[X-Role]", "admin"))
	p.Provider = "count"
	cfg := config(p, policyOf("all", ActionAllow, Rule{}), policyOf("note", ActionAudit, when("request.headers[X-Role]", "admin")))
	var rec recorder
	cfg.Observer = &rec
	cfg.Hooks = map[string]Hook{"count": func(context.Context, *gatemesh.Call) error { asked++; return nil }}
	e := engine(t, cfg)
	_, err := e.Admit(t.Context(), call(t, gatemesh.CallInfo{Header: http.Header{"X-Role": {"user", "x, admin"}}}))
	require.NoError(t, err)
	assert.Equal(t, 1, asked)
	assert.Contains(t, rec.messages(gatemesh.EventNotice), "audit")
}

func TestWhen(t *testing.T) {
	t.Parallel()
	info := gatemesh.PrincipalInfo{
		Issuer: "https://idp", Subject: "alice", Method: "jwt", Scopes: []string{"orders:read", "orders:write"}, Audience: []string{"orders", "web"},
		Claims: map[string]any{
			"iss": "another", "azp": "shop", "groups": []any{"staff", "on call"}, "tier": "gold", "admin": true, "level": json.Number("7"),
			"mixed": []any{"a", json.Number("7")}, "realm": map[string]any{"roles": []any{"editor"}}, "none": nil, "empty": []any{},
			"permission": "read write", "text": "read write", "https://example.com/role": "x", "list": []string{"p", "q"},
		},
	}
	known := gatemesh.CallInfo{
		Peer: peer(t, "production", "order-service"), Principal: gatemesh.NewPrincipal(info), SNI: "API.Example.com",
		RemoteAddr: addr("10.1.2.3"), Client: netip.MustParseAddr("203.0.113.9"), LocalAddr: netip.MustParseAddrPort("127.0.0.1:8443"),
		Header: http.Header{"X-A": {"b"}, "X-Bytes-Bin": {"b"}},
	}
	nothing := gatemesh.CallInfo{}
	const claims = "request.auth.claims"
	for i, tt := range []struct {
		rule Rule
		in   gatemesh.CallInfo
		want bool // of ALLOW; DENY is the opposite unless it cannot be told
		both bool // it cannot be told, which counts against the call
	}{
		{when("source.ip", "10.1.0.0/16"), known, true, false},
		{when("source.ip", "10.1.2.4"), known, false, false},
		{whenNot("source.ip", "10.1.2.4"), known, true, false},
		{whenNot("source.ip", "10.0.0.0/8"), nothing, false, true},
		{when("remote.ip", "203.0.113.0/24"), known, true, false},
		{when("remote.ip", "10.1.2.3"), known, false, false},
		{when("destination.ip", "127.0.0.1"), known, true, false},
		{whenNot("destination.ip", "127.0.0.0/8"), known, false, false},
		{when("destination.ip", "::/0", "0.0.0.0/0"), nothing, false, true},
		{whenNot("destination.ip", "127.0.0.1"), nothing, false, true},
		{when("destination.port", "443", "8443"), known, true, false},
		{whenNot("destination.port", "8443"), known, false, false},
		{whenNot("destination.port", "8443"), nothing, false, true},
		{when("source.principal", "cluster.local/ns/production/*"), known, true, false},
		{when("source.principal", "*"), nothing, false, false},
		{whenNot("source.principal", "*"), nothing, true, false},
		{when("source.namespace", "prod*"), known, true, false},
		{when("source.serviceAccount", "production/order-service"), known, true, false},
		{when("source.serviceAccount", "order-service"), known, true, false},
		{when("source.serviceAccount", "order"), known, false, false},
		{when("source.serviceAccount", "staging/order-service"), known, false, false},
		{whenNot("source.serviceAccount", "order-service"), known, false, false},
		{whenNot("source.serviceAccount", "order-service"), nothing, true, false},
		{from(Source{ServiceAccounts: []string{"x", "order-service"}}), known, true, false},
		{from(Source{NotServiceAccounts: []string{"order-service"}}), known, false, false},
		{when("request.auth.principal", "https://idp/alice"), known, true, false},
		{when("request.auth.principal", "*"), nothing, false, false},
		{when("request.auth.audiences", "web"), known, true, false},
		{when("request.auth.audiences", "web*"), known, true, false},
		{when("request.auth.audiences", "admin"), known, false, false},
		{whenNot("request.auth.audiences", "web"), known, false, false},
		{whenNot("request.auth.audiences", "web"), nothing, true, false},
		{when("request.auth.presenter", "shop"), known, true, false},
		{when("request.auth.presenter", "orders"), known, false, false},
		{when(claims+"[iss]", "https://idp"), known, true, false}, // who was verified, not what is among the claims
		{when(claims+"[iss]", "another"), known, false, false},
		{when(claims+"[sub]", "alice"), known, true, false},
		{when(claims+"[aud]", "orders"), known, true, false},
		{when(claims+"[scope]", "orders:write"), known, true, false},
		{when(claims+"[scope]", "orders"), known, false, false},
		{when(claims+"[scope]", "orders:read orders:write"), known, false, false},
		{whenNot(claims+"[scope]", "orders:write"), known, false, false},
		{when(claims+"[permission]", "write"), known, true, false},
		{when(claims+"[permission]", "read write"), known, false, false},
		{when(claims+"[text]", "write"), known, false, false},
		{when(claims+"[text]", "read write"), known, true, false},
		{when(claims+"[groups]", "on call"), known, true, false},
		{when(claims+"[groups]", "on*"), known, true, false},
		{when(claims+"[groups]", "call"), known, false, false},
		{whenNot(claims+"[groups]", "staff"), known, false, false},
		{whenNot(claims+"[groups]", "boss"), known, true, false},
		{when(claims+"[list]", "q"), known, true, false},
		{when(claims+"[tier]", "gold"), known, true, false},
		{when(claims+"[Tier]", "gold"), known, false, false},
		{when(claims+"[realm][roles]", "editor"), known, true, false},
		{when(claims+"[realm][role]", "editor"), known, false, false},
		{when(claims+"[tier][roles]", "editor"), known, false, false},
		{when(claims+"[https://example.com/role]", "x"), known, true, false},
		{when(claims+"[missing]", "*"), known, false, false},
		{whenNot(claims+"[missing]", "*"), known, true, false},
		{when(claims+"[none]", "*"), known, false, false},
		{when(claims+"[empty]", "*"), known, false, false},
		{when(claims+"[tier]", "*"), nothing, false, false},
		{whenNot(claims+"[tier]", "gold"), nothing, true, false},
		{when(claims+"[admin]", "true"), known, false, true},
		{whenNot(claims+"[admin]", "true"), known, false, true},
		{when(claims+"[level]", "7"), known, false, true},
		{when(claims+"[realm]", "*"), known, false, true},
		{when(claims+"[mixed]", "a"), known, true, false},
		{when(claims+"[mixed]", "b"), known, false, true},
		{whenNot(claims+"[mixed]", "b"), known, false, true},
		{when("connection.sni", "api.example.com"), known, true, false},
		{when("connection.sni", "*.EXAMPLE.com"), known, true, false},
		{whenNot("connection.sni", "api.example.com"), known, false, false},
		{when("connection.sni", "*"), nothing, false, false},
		{whenNot("connection.sni", "api.example.com"), nothing, true, false},
		{when("request.headers[x-a]", "b"), known, true, false},
		{Rule{When: []Condition{{Key: "request.headers[x-a]", Values: []string{"b*"}, NotValues: []string{"*b"}}}}, known, false, false},
		{Rule{When: []Condition{{Key: "source.ip", Values: []string{"10.1.2.3"}}, {Key: "remote.ip", Values: []string{"10.1.2.3"}}}}, known, false, false},
		{Rule{From: []Source{{Namespaces: []string{"staging"}}}, When: when("source.ip", "10.1.2.3").When}, known, false, false},
	} {
		c := call(t, tt.in)
		want := map[bool]Verdict{true: Allow, false: Deny}
		allow := engine(t, config(policyOf("p", ActionAllow, tt.rule)))
		assert.Equal(t, want[tt.want], verdict(t, allow, c), "%d: %+v", i, tt.rule)
		cfg := config(policyOf("p", ActionDeny, tt.rule))
		cfg.Unselected = Allow
		assert.Equal(t, want[!tt.want && !tt.both], verdict(t, engine(t, cfg), c), "%d: DENY %+v", i, tt.rule)
	}
}

// Nobody but its own gate sees a field that the entry reserves.
func TestReservedFields(t *testing.T) {
	t.Parallel()
	for _, value := range []map[string]string{{"X-Internal": "admin"}, {"x-internal": ""}} {
		c := call(t, gatemesh.CallInfo{Reserved: value})
		for _, rule := range []Rule{when("request.headers[x-internal]", "admin"), whenNot("request.headers[X-Internal]", "admin")} {
			e := engine(t, config(policyOf("p", ActionAllow, rule)))
			assert.Equal(t, Deny, verdict(t, e, c))
			_, err := e.Admit(t.Context(), c)
			for _, why := range []string{e.Explain(c).String(), err.(*gatemesh.Denial).Cause().Error()} {
				assert.Equal(t, `policy "p" (production) rule 1: header X-Internal is reserved, so that it cannot be judged`, why)
			}
			cfg := config(policyOf("p", ActionDeny, rule))
			cfg.Unselected = Allow
			assert.Equal(t, Deny, verdict(t, engine(t, cfg), c))
		}
	}
}

// An API key has scopes and no claims.
func TestScopesOfKeys(t *testing.T) {
	t.Parallel()
	key := gatemesh.NewPrincipal(gatemesh.PrincipalInfo{Consumer: "acme", Method: "api-key", Scopes: []string{"orders:read"}})
	e := engine(t, config(policyOf("p", ActionAllow, when("request.auth.claims[scope]", "orders:read"))))
	assert.Equal(t, Allow, verdict(t, e, call(t, gatemesh.CallInfo{Principal: key})))
	e = engine(t, config(policyOf("p", ActionAllow, when("request.auth.claims[scope]", "orders:write"))))
	assert.Equal(t, Deny, verdict(t, e, call(t, gatemesh.CallInfo{Principal: key})))
}

func TestKeys(t *testing.T) {
	t.Parallel()
	for key, want := range map[string]error{
		"":                                                 errKeyMissing,
		"source":                                           errKey,
		"Source.ip":                                        errKey,
		"source.ip ":                                       errKey,
		"source.ip[x]":                                     errKey,
		"request.auth.audience":                            errKey,
		"destination.labels[version]":                      errKey,
		"experimental.envoy.filters[x]":                    errKey,
		"request.experimental.inline.headers[x]":           errKey,
		"request.auth.claims":                              errKeyClaim,
		"request.auth.claims[]":                            errKeyClaim,
		"request.auth.claims[a":                            errKeyClaim,
		"request.auth.claims[a]]":                          errKeyClaim,
		"request.auth.claims[[a]":                          errKeyClaim,
		"request.auth.claims[[a]]":                         errKeyClaim,
		"request.auth.claims[a]b":                          errKeyClaim,
		"request.auth.claims[a].b":                         errKeyClaim,
		"request.auth.claims[ a]":                          errKeyClaim,
		"request.auth.claims.a":                            errKeyClaim,
		"request.headers":                                  errKeyHeader,
		"request.headers[]":                                errKeyHeader,
		"request.headers[a][b]":                            errKeyHeader,
		"request.headers[:path]":                           errHeaderPseudo,
		"request.headers[HOST]":                            errHeaderPseudo,
		"request.headers[a b]":                             errHeaderName,
		"request.headers[é]":                               errHeaderName,
		"request.headers[Connection]":                      errHeaderConnection,
		"request.headers[te]":                              errHeaderConnection,
		"request.headers[Content-Length]":                  errHeaderConnection,
		"request.headers[Authorization]":                   errHeaderCredential,
		"request.headers[cookie]":                          errHeaderCredential,
		"request.headers[Proxy-Authorization]":             errHeaderCredential,
		"request.headers[X-Gatemesh-Identity]":             errHeaderIdentity,
		"request.headers[X.Gatemesh~Identity]":             errHeaderIdentity,
		"request.headers[X_Http_Method]":                   errHeaderDropped,
		"request.headers[X-Gatemesh-Else]":                 errHeaderIdentity,
		"request.headers[x-forwarded-client-cert]":         errHeaderIdentity,
		"request.headers[X-HTTP-Method-Override]":          errHeaderDropped,
		"request.headers[x-trace-bin]":                     errHeaderBinary,
		"request.headers[" + strings.Repeat("a", 65) + "]": errHeaderName,
		"request.headers[X-Role]":                          nil,
		"request.headers[x_role]":                          nil,
		"request.auth.claims[a][b][c]":                     nil,
	} {
		_, err := New(config(policyOf("p", ActionAllow, when(key, "v"))))
		if want == nil {
			assert.NoError(t, err, key)
			continue
		}
		assert.ErrorIs(t, err, ErrKey, key)
		assert.ErrorContains(t, err, "Rules[0].When[0].Key "+quote(key)+": "+want.Error(), key)
	}
	for name, tt := range map[string]struct {
		rule Rule
		want string
	}{
		"empty when":              {Rule{When: []Condition{}}, "Rules[0].When: the list is empty"},
		"nothing":                 {Rule{When: []Condition{{Key: "source.ip"}}}, "Rules[0].When[0]: Values or NotValues is required"},
		"empty values":            {Rule{When: []Condition{{Key: "source.ip", Values: []string{}, NotValues: []string{"::1"}}}}, "Rules[0].When[0].Values: the list is empty"},
		"empty not values":        {Rule{When: []Condition{{Key: "source.ip", Values: []string{"::1"}, NotValues: []string{}}}}, "Rules[0].When[0].NotValues: the list is empty"},
		"address":                 {when("source.ip", "x"), `Rules[0].When[0].Values[0] "x": it is neither`},
		"port":                    {whenNot("destination.port", "1", "x"), `Rules[0].When[0].NotValues[1] "x": it is not a port`},
		"account":                 {when("source.serviceAccount", "a/*"), `Rules[0].When[0].Values[0] "a/*": service accounts have`},
		"sni":                     {when("connection.sni", "a:443"), `Rules[0].When[0].Values[0] "a:443": hosts are compared without`},
		"star":                    {when("request.auth.claims[a]", "a*b"), `Rules[0].When[0].Values[0] "a*b": ` + errStar.Error()},
		"control":                 {when("request.headers[x]", "a\nb"), `Rules[0].When[0].Values[0] "a\nb": ` + errControl.Error()},
		"17 accounts":             {from(Source{ServiceAccounts: strings.Split(strings.Repeat("a ", 16)+"a", " ")}), "Rules[0].From[0].ServiceAccounts: there are more than 16"},
		"17 in a condition":       {when("source.serviceAccount", strings.Split(strings.Repeat("a ", 16)+"a", " ")...), "Rules[0].When[0].Values: there are more than 16"},
		"accounts and principals": {from(Source{ServiceAccounts: []string{"a"}, Principals: []string{"a/b"}}), "Rules[0].From[0]: service accounts cannot stand beside"},
		"accounts and namespaces": {from(Source{NotServiceAccounts: []string{"a"}, NotNamespaces: []string{"a"}}), "Rules[0].From[0]: service accounts cannot stand beside"},
	} {
		_, err := New(config(policyOf("p", ActionAllow, tt.rule)))
		assert.ErrorContains(t, err, tt.want, name)
		assert.NotErrorIs(t, err, ErrKey, name)
	}
}

// No account of another namespace is meant by a name without one.
func TestAccountsOfRootPolicies(t *testing.T) {
	t.Parallel()
	p := Policy{Name: "p", Namespace: "istio-system", Rules: []Rule{from(Source{ServiceAccounts: []string{"order-service"}})}}
	e := engine(t, config(p))
	assert.Equal(t, Allow, verdict(t, e, call(t, gatemesh.CallInfo{Peer: peer(t, "istio-system", "order-service")})))
	c := call(t, gatemesh.CallInfo{Peer: peer(t, "production", "order-service")})
	assert.Equal(t, Deny, verdict(t, e, c))
	assert.Equal(t, "rule 1 of p: service account production/order-service is not istio-system/order-service", e.Explain(c).Reason)
}

func TestTemplates(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		template string
		yes, no  []string
	}{
		{"/foo/{*}", []string{"/foo/bar", "/foo/b%2Fr"}, []string{"/foo", "/foo/", "/foo/bar/baz", "/foo/bar/", "/foox/bar"}},
		{"/foo/{**}/", []string{"/foo/bar/", "/foo/bar/baz/"}, []string{"/foo/bar", "/foo/", "/foo"}},
		{"/foo/{**}", []string{"/foo/", "/foo/bar", "/foo/bar/baz/"}, []string{"/foo", "/foox", "/"}},
		{"/foo/{*}/bar/{**}", []string{"/foo/buzz/bar/", "/foo/buzz/bar/baz"}, []string{"/foo/buzz/bar", "/foo/bar/x", "/foo/a/b/bar/x"}},
		{"/{*}/{*}", []string{"/a/b"}, []string{"/a", "/a/", "/a/b/c", "/a/b/"}},
		{"/{*}", []string{"/a"}, []string{"/", "/a/"}},
		{"/{**}", []string{"/", "/a", "/a/b/"}, nil},
		{"/a/{**}/z", []string{"/a/b/z", "/a/b/c/z"}, []string{"/a/z", "/a/b/z/", "/a/b/zz", "/a/xz"}},
		{"/a/{*}/%62", []string{"/a/x/b", "/a/x/%62"}, []string{"/a/x/c"}},
		{"/a{*}", nil, nil},
	} {
		_, err := parsePattern(fieldPath, tt.template)
		if tt.yes == nil {
			require.Error(t, err, tt.template)
			continue
		}
		require.NoError(t, err, tt.template)
		e := engine(t, config(policyOf("p", ActionAllow, to(Operation{Paths: []string{tt.template}}))))
		ask := func(path string) bool {
			canonical, err := gatemesh.CanonicalPath(path, gatemesh.PathOptions{KeepEncodedSlash: true})
			require.NoError(t, err)
			r := request{texts: [textFields]text{fieldPath: {gatemesh.MatchForm(canonical)}}}
			v, _ := e.state.Latest().judge(&r)
			return v == Allow
		}
		for _, path := range tt.yes {
			assert.True(t, ask(path), "%s %s", tt.template, path)
		}
		for _, path := range tt.no {
			assert.False(t, ask(path), "%s %s", tt.template, path)
		}
	}
}
