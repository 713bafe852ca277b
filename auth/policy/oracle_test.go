package policy

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/gatemesh-go/gatemesh"
)

// oracle reads the documentation naively: what becomes of c, which hooks are
// asked, and whether it is audited. The hook "no" refuses.
func oracle(cfg Config, c *gatemesh.Call) (v Verdict, asked []string, audited bool) {
	matching := make(map[Action][]Policy)
	v = cfg.Unselected
	for _, p := range cfg.Policies {
		if p.Action == ActionAllow {
			v = Deny
		}
		if slices.ContainsFunc(p.Rules, func(r Rule) bool { return oracleRule(r, p, c) }) {
			matching[p.Action] = append(matching[p.Action], p)
		}
	}
	audited = len(matching[ActionAudit]) > 0
	for _, p := range cfg.Policies {
		asks := func(m Policy) bool { return m.Provider == p.Provider }
		if p.Action == ActionCustom && slices.ContainsFunc(matching[ActionCustom], asks) && !slices.Contains(asked, p.Provider) {
			asked = append(asked, p.Provider)
		}
	}
	switch {
	case slices.Contains(asked, "no"), len(matching[ActionDeny]) > 0:
		return Deny, asked, audited
	case len(matching[ActionAllow]) > 0:
		return Allow, asked, audited
	}
	return v, asked, audited
}

func oracleRule(r Rule, p Policy, c *gatemesh.Call) bool {
	// attribute is the condition that a field of a rule stands for.
	attribute := func(key string, values, not []string) bool {
		return (values == nil || oracleHolds(key, values, false, p, c)) && (not == nil || oracleHolds(key, not, true, p, c))
	}
	return (r.From == nil || slices.ContainsFunc(r.From, func(s Source) bool {
		return attribute("source.principal", s.Principals, s.NotPrincipals) && attribute("source.namespace", s.Namespaces, s.NotNamespaces) &&
			attribute("request.auth.principal", s.RequestPrincipals, s.NotRequestPrincipals) && attribute("source.ip", s.IPBlocks, s.NotIPBlocks) &&
			attribute("source.serviceAccount", s.ServiceAccounts, s.NotServiceAccounts) &&
			attribute("remote.ip", s.RemoteIPBlocks, s.NotRemoteIPBlocks)
	})) && (r.To == nil || slices.ContainsFunc(r.To, func(o Operation) bool {
		return attribute("method", o.Methods, o.NotMethods) && attribute("path", o.Paths, o.NotPaths) && attribute("host", o.Hosts, o.NotHosts) &&
			attribute("destination.port", o.Ports, o.NotPorts)
	})) && !slices.ContainsFunc(r.When, func(w Condition) bool { return !attribute(w.Key, w.Values, w.NotValues) })
}

// oracleHolds judges one list of values.
func oracleHolds(key string, values []string, not bool, p Policy, c *gatemesh.Call) bool {
	against := p.Action != ActionAllow
	var got []string
	add := func(s ...string) { got = append(got, s...) }
	pr := c.Principal()
	if pr == nil {
		pr = user("", "")
	}
	name := key[strings.LastIndex(key, "[")+1:]
	name = strings.TrimSuffix(name, "]")
	switch {
	case key == "source.ip", key == "destination.ip", key == "remote.ip":
		a := map[string]netip.Addr{"source.ip": c.RemoteAddr().Addr(), "destination.ip": c.LocalAddr().Addr(), "remote.ip": c.Client()}[key]
		if !a.IsValid() {
			return against
		}
		return not != slices.ContainsFunc(values, func(v string) bool { return v == a.String() || netip.MustParsePrefix(v).Contains(a) })
	case key == "destination.port":
		if c.LocalPort() == 0 {
			return against
		}
		return not != slices.Contains(values, fmt.Sprint(c.LocalPort()))
	case key == "source.serviceAccount":
		for i, v := range values {
			if !strings.Contains(v, "/") {
				values = slices.Clone(values)
				values[i] = p.Namespace + "/" + v
			}
		}
		if c.Peer() != nil {
			add(c.Peer().Namespace() + "/" + c.Peer().ServiceAccount())
		}
	case key == "source.principal" && c.Peer() != nil:
		add(strings.TrimPrefix(c.Peer().ID(), "spiffe://"))
	case key == "source.namespace" && c.Peer() != nil:
		add(c.Peer().Namespace())
	case key == "request.auth.principal" && pr.Subject() != "":
		add(pr.Issuer() + "/" + pr.Subject())
	case key == "method":
		add(c.Method())
	case key == "path":
		add(c.Path())
	case key == "host":
		add(c.Host())
	case key == "connection.sni":
		add(strings.ToLower(c.SNI()))
	case key == "request.auth.audiences":
		add(pr.Audience()...)
	case key == "request.auth.claims[scope]":
		add(pr.Scopes()...)
	case strings.HasPrefix(key, "request.auth.claims["), key == "request.auth.presenter":
		path := strings.FieldsFunc(strings.TrimPrefix(key, "request.auth.claims"), func(r rune) bool { return r == '[' || r == ']' })
		if key == "request.auth.presenter" {
			path = []string{"azp"}
		}
		claim, _ := pr.Claim(path...)
		list, isList := claim.([]any)
		if !isList && claim != nil {
			list = []any{claim}
		}
		odd := false
		for _, e := range list {
			s, ok := e.(string)
			if odd = odd || !ok; ok {
				add(s)
			}
		}
		if odd && !slices.ContainsFunc(got, func(s string) bool { return oracleText(values, s) }) {
			return against
		}
	case strings.HasPrefix(key, "request.headers["):
		fields := c.Header().Values(name)
		if against == not && !slices.Contains(values, "*") { // a match is for the call: one value, and no list
			if len(fields) == 1 && (!strings.Contains(fields[0], ",") || slices.Contains(values, fields[0])) {
				add(fields...)
			}
			break
		}
		add(fields...)
		for _, s := range strings.Split(strings.Join(fields, ","), ",") {
			add(strings.TrimSpace(s))
		}
	}
	return not != slices.ContainsFunc(got, func(s string) bool { return oracleText(values, s) })
}

var templates sync.Map // regular expressions, which are slow to compile

func oracleText(values []string, got string) bool {
	return slices.ContainsFunc(values, func(v string) bool {
		switch {
		case strings.Contains(v, "{"):
			v = strings.NewReplacer(`\{\*\}`, "[^/]+", `\{\*\*\}`, ".*").Replace(regexp.QuoteMeta(v))
			if _, ok := templates.Load(v); !ok {
				templates.Store(v, regexp.MustCompile("^"+v+"$"))
			}
			re, _ := templates.Load(v)
			return re.(*regexp.Regexp).MatchString(got)
		case v == "*":
			return got != ""
		case strings.HasSuffix(v, "*"):
			return got != "" && strings.HasPrefix(got, v[:len(v)-1])
		case strings.HasPrefix(v, "*"):
			return strings.HasSuffix(got, v[1:])
		}
		return v == got
	})
}

// generator makes policies and calls out of few words, so that they often meet.
type generator struct{ *rand.Rand }

func pick[T any](g generator, of ...T) T { return of[g.IntN(len(of))] }

// maybe returns a list of values in one case of n, else nil. It is long at times.
func maybe(g generator, n int, value func(generator) string) (out []string) {
	if g.IntN(n) > 0 {
		return nil
	}
	for range pick(g, 1, 1, 1, 2, 3, 12, 40) {
		out = append(out, value(g))
	}
	return out
}

func (g generator) star(s string) string {
	switch g.IntN(8) {
	case 0:
		return s[:1+g.IntN(len(s))] + "*"
	case 1:
		return "*" + s[g.IntN(len(s)):]
	case 2:
		return pick(g, s, s, "*")
	}
	return s
}

func (g generator) path() string {
	var b strings.Builder
	for range 1 + g.IntN(4) {
		b.WriteString("/" + pick(g, "a", "b", "ab", "abc", "v1", "x.json"))
	}
	return b.String()
}

// pathPattern is a path, a prefix, a suffix or a template.
func (g generator) pathPattern() string {
	p := g.path()
	if g.IntN(5) > 0 {
		return g.star(p)
	}
	segments := strings.Split(p, "/")[1:]
	for i := range segments {
		if g.IntN(2) == 0 {
			segments[i] = "{*}"
		}
	}
	if g.IntN(3) == 0 {
		segments = append(segments, "{**}")
		segments = append(segments, []string{"a", "b"}[:g.IntN(3)]...)
	}
	return "/" + strings.Join(segments, "/") + pick(g, "", "", "", "/")
}

// when is a condition, of any key.
func (g generator) when() Condition {
	w := Condition{Key: pick(g, "request.headers[X-Role]", "request.headers[x-role]", "request.headers[User-Agent]",
		"request.auth.claims[groups]", "request.auth.claims[a][b]", "request.auth.claims[scope]", "request.auth.audiences",
		"source.ip", "destination.ip", "destination.port", "source.principal", "source.namespace", "source.serviceAccount",
		"request.auth.principal", "connection.sni", "remote.ip", "request.auth.presenter")}
	value := func(g generator) string { return pick(g, "admin", "user", "adm*", "*er", "*", "user, admin", "root") }
	switch w.Key {
	case "source.ip", "destination.ip", "remote.ip":
		value = func(g generator) string { return fmt.Sprintf("10.0.0.%d/%d", g.IntN(256), 24+g.IntN(9)) }
	case "destination.port":
		value = func(g generator) string { return pick(g, "80", "443", "8443") }
	case "source.principal":
		value = func(g generator) string { return g.star(g.peer()) }
	case "source.namespace":
		value = func(g generator) string { return pick(g, "a", "b", "a*", "*b") }
	case "source.serviceAccount":
		value = func(g generator) string { return pick(g, "a/x", "b/y", "ab/xy", "x", "y") }
	case "request.auth.principal":
		value = func(g generator) string { return g.star(g.user()) }
	case "connection.sni":
		value = func(g generator) string { return g.star(g.host()) }
	}
	for w.Values == nil && w.NotValues == nil {
		w.Values, w.NotValues = maybe(g, 2, value), maybe(g, 3, value)
	}
	if w.Key == "source.serviceAccount" {
		w.Values, w.NotValues = w.Values[:min(16, len(w.Values))], w.NotValues[:min(16, len(w.NotValues))]
	}
	return w
}

func (g generator) peer() string {
	return fmt.Sprintf("%s/ns/%s/sa/%s", pick(g, "td", "td2"), pick(g, "a", "b", "ab"), pick(g, "x", "y", "xy", "z"))
}

func (g generator) user() string { return pick(g, "i", "i/j") + "/" + pick(g, "u", "v", "j/u") }
func (g generator) host() string { return pick(g, "", "w.") + pick(g, "a.test", "b.test", "ab.test") }

func (g generator) rule() (r Rule) {
	for range pick(g, 0, 1, 1, 2, 5) {
		r.From = append(r.From, Source{
			Principals:           maybe(g, 2, func(g generator) string { return g.star(g.peer()) }),
			NotPrincipals:        maybe(g, 8, func(g generator) string { return g.star(g.peer()) }),
			RequestPrincipals:    maybe(g, 8, func(g generator) string { return g.star(g.user()) }),
			NotRequestPrincipals: maybe(g, 9, func(g generator) string { return g.star(g.user()) }),
			Namespaces:           maybe(g, 8, func(g generator) string { return pick(g, "a", "b", "a*", "*b", "*") }),
			NotNamespaces:        maybe(g, 2, func(g generator) string { return pick(g, "a", "b", "none") }),
			IPBlocks:             maybe(g, 9, func(g generator) string { return fmt.Sprintf("10.0.0.%d/%d", g.IntN(256), 24+g.IntN(9)) }),
			NotIPBlocks:          []string{fmt.Sprintf("10.0.0.%d/%d", g.IntN(256), 28+g.IntN(5))},
		})
		block := func(g generator) string { return fmt.Sprintf("10.0.0.%d/%d", g.IntN(256), 24+g.IntN(9)) }
		r.From[len(r.From)-1].RemoteIPBlocks, r.From[len(r.From)-1].NotRemoteIPBlocks = maybe(g, 9, block), maybe(g, 9, block)
		if s := &r.From[len(r.From)-1]; g.IntN(5) == 0 {
			s.Principals, s.NotPrincipals, s.Namespaces, s.NotNamespaces = nil, nil, nil, nil
			s.ServiceAccounts = []string{pick(g, "a/x", "ab/xy", "b/z"), pick(g, "production/x", "x", "b/y")}[:1+g.IntN(2)]
			s.NotServiceAccounts = pick(g, nil, []string{"a/y", "b/y"})
		}
	}
	for range pick(g, 0, 0, 0, 1, 2) {
		r.When = append(r.When, g.when())
	}
	for range pick(g, 0, 1, 1, 2, 5) {
		r.To = append(r.To, Operation{
			Paths:      maybe(g, 2, generator.pathPattern),
			NotPaths:   maybe(g, 8, generator.pathPattern),
			Hosts:      maybe(g, 8, func(g generator) string { return g.star(g.host()) }),
			NotMethods: []string{pick(g, "GET", "PUT", "P*", "*ST")},
			Methods:    maybe(g, 8, func(g generator) string { return pick(g, "GET", "PUT", "P*", "*ST") }),
			Ports:      maybe(g, 9, func(g generator) string { return pick(g, "80", "443", "8443") }),
			NotPorts:   maybe(g, 9, func(g generator) string { return pick(g, "80", "443", "8443") }),
		})
	}
	return r
}

// narrow is a rule that few calls match.
func (g generator) narrow() Rule {
	if g.IntN(8) == 0 {
		return Rule{
			From: []Source{{ServiceAccounts: []string{pick(g, "a/x", "ab/xy", "b/z")}}},
			To:   []Operation{{Paths: []string{g.path()}, Methods: []string{pick(g, "GET", "PUT", "POST")}}},
			When: []Condition{g.when()},
		}
	}
	return Rule{
		From: []Source{{Principals: []string{g.peer(), g.star(g.peer())}[:1+g.IntN(20)/19]}},
		To:   []Operation{{Paths: []string{g.path(), g.path() + "/*"}[g.IntN(2):], Methods: []string{pick(g, "GET", "PUT", "POST")}}},
	}
}

func (g generator) config(rules int) Config {
	cfg, total := config(), min(rules, 900)
	cfg.Unselected = pick(g, Allow, Deny)
	// Among thousands, a few wide rules would decide every call.
	wide := 100
	if rules > 50 {
		wide = pick(g, 0, 0, 1)
	}
	for i := 0; rules > 0; i++ {
		p := policyOf(fmt.Sprint("p", i), pick(g, ActionAllow, ActionAllow, ActionAllow, ActionAllow, ActionAllow, ActionDeny, ActionDeny, ActionAudit, ActionCustom))
		if p.Action != ActionAllow && p.Action != ActionAudit && g.IntN(1000) < total {
			p.Action = ActionAllow // or some rule of a thousand always refused
		}
		if p.Action == ActionCustom {
			p.Provider = pick(g, "yes", "yes", "yes", "no")
		}
		for range min(rules, g.IntN(5)) {
			if r := g.rule(); g.IntN(100) < wide && (p.Action == ActionAllow || r.From != nil && r.To != nil) {
				p.Rules = append(p.Rules, r)
			} else {
				p.Rules = append(p.Rules, g.narrow())
			}
			rules--
		}
		cfg.Policies = append(cfg.Policies, p)
	}
	return cfg
}

func (g generator) call(t testing.TB) *gatemesh.Call {
	in := gatemesh.CallInfo{
		Method: pick(g, "GET", "PUT", "POST"), Path: g.path(), Host: g.host(), RequestID: "r",
		RemoteAddr: netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, 0, byte(g.IntN(256))}), 1),
	}
	if g.IntN(3) == 0 { // behind a proxy
		in.Client = netip.AddrFrom4([4]byte{10, 0, 0, byte(g.IntN(256))})
	}
	if g.IntN(5) > 0 {
		domain, path, _ := strings.Cut(g.peer(), "/")
		in.Peer, _ = gatemesh.NewPeer(domain, "/"+path, nil)
	}
	if g.IntN(3) > 0 {
		word := func() string { return pick(g, "admin", "user", "other", "") }
		claim := func() any {
			return pick[any](g, word(), word(), []any{word(), word()}, []any{word(), json.Number("7")}, true, nil, []any{}, map[string]any{"x": "admin"})
		}
		claims := map[string]any{"groups": claim(), "a": map[string]any{"b": claim()}, "azp": claim()}
		if g.IntN(4) == 0 {
			delete(claims, pick(g, "groups", "a", "azp"))
		}
		in.Principal = gatemesh.NewPrincipal(gatemesh.PrincipalInfo{
			Issuer: pick(g, "i", "i/j"), Subject: pick(g, "u", "v", "j/u"), Claims: claims,
			Scopes: []string{word(), word()}[:g.IntN(3)], Audience: []string{word(), word()}[:g.IntN(3)],
		})
	}
	in.Header = http.Header{}
	for range pick(g, 0, 1, 1, 1, 2) {
		in.Header.Add(pick(g, "X-Role", "X-Role", "User-Agent"), pick(g, "admin", "user", "user, admin", "user,admin", "other", "", ", admin ,"))
	}
	if ua := in.Header["User-Agent"]; ua != nil {
		in.Header.Set("User-Agent", strings.ReplaceAll(ua[0], ",", "")) // of its commas see TestAZ07
	}
	if g.IntN(4) > 0 {
		in.LocalAddr = netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, 0, byte(g.IntN(256))}), pick[uint16](g, 80, 443, 8443))
	}
	if g.IntN(3) > 0 {
		in.SNI = strings.ToUpper(g.host())
	}
	return call(t, in)
}

// check judges calls by a random configuration, engine against oracle. It
// counts verdicts, for the caller to see that all kinds occur.
func check(t testing.TB, seed uint64, rules, calls int) (seen counts) {
	g := generator{rand.New(rand.NewPCG(seed, uint64(rules)))}
	cfg := g.config(rules)
	var asked []string
	var rec recorder
	answer := func(name string, err error) Hook {
		return func(context.Context, *gatemesh.Call) error {
			asked = append(asked, name)
			return err
		}
	}
	cfg.Observer = &rec
	cfg.Hooks = map[string]Hook{"yes": answer("yes", nil), "no": answer("no", errors.New("no"))}
	e := engine(t, cfg)
	for range calls {
		c := g.call(t)
		want, hooks, audited := oracle(cfg, c)
		why := e.Explain(c)
		info := lazy(func() string {
			return fmt.Sprintf("seed %d, %d rules: %v %v %v %v: %v", seed, rules, c, c.Peer(), c.Principal(), c.Header().Values("X-Role"), why)
		})
		require.Equal(t, hooks, why.Hooks, info)

		asked, rec.events = nil, nil
		_, ok, cachedErr := e.AdmitCached(context.Background(), c)
		require.Equal(t, len(hooks) == 0, ok, info)
		require.Empty(t, asked, info)
		if ok {
			require.Equal(t, want == Allow, cachedErr == nil, info)
		} else {
			require.NoError(t, cachedErr)
			require.Empty(t, rec.events, "no effect")
		}

		asked, rec.events = nil, nil
		_, err := e.Admit(context.Background(), c)
		require.Equal(t, want == Allow, err == nil, info)
		if i := slices.Index(hooks, "no"); i >= 0 {
			hooks = hooks[:i+1] // nobody is asked any more
		} else {
			require.Equal(t, want, why.Verdict, info)
		}
		require.Equal(t, hooks, asked, info)
		require.Equal(t, audited, len(rec.events) == 1, info)
		if err != nil {
			require.NotEmpty(t, err.(*gatemesh.Denial).Cause().Error())
		}
		seen.add(want, hooks, audited)
	}
	return seen
}

type lazy func() string

func (l lazy) String() string { return l() }

type counts struct{ allowed, refused, asked, audited int }

func (n *counts) add(v Verdict, hooks []string, audited bool) {
	if v == Allow {
		n.allowed++
	} else {
		n.refused++
	}
	if hooks != nil {
		n.asked++
	}
	if audited {
		n.audited++
	}
}

func (n *counts) sum(m counts) {
	*n = counts{n.allowed + m.allowed, n.refused + m.refused, n.asked + m.asked, n.audited + m.audited}
}

func TestEngineAgreesWithOracle(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ rules, configs, calls int }{{1, 1000, 20}, {10, 300, 40}, {1000, 6, 100}, {10000, 2, 60}} {
		t.Run(fmt.Sprint(tt.rules), func(t *testing.T) {
			t.Parallel()
			var seen counts
			for seed := range tt.configs {
				seen.sum(check(t, uint64(seed), tt.rules, tt.calls))
			}
			t.Logf("%+v", seen)
			for _, n := range []int{seen.allowed, seen.refused, seen.asked, seen.audited} {
				require.Greater(t, n, tt.configs/16)
			}
		})
	}
}

// Rules beyond the bounds of the index are found, too.
func TestWideRules(t *testing.T) {
	t.Parallel()
	number := func(format string, n int) (out []string) {
		for i := range n {
			out = append(out, fmt.Sprintf(format, i))
		}
		return out
	}
	principals, paths := number("td/ns/a/sa/%d", 60), number("/p/%d", 60)
	var many Rule // 3,600 pairs
	for i := range principals {
		many.From = append(many.From, Source{Principals: principals[i : i+1]})
		many.To = append(many.To, Operation{Paths: paths[i : i+1]})
	}
	for name, rule := range map[string]Rule{
		"sources and operations": many,
		"not all by principal":   {From: append(slices.Clone(many.From), Source{Namespaces: []string{"a"}}), To: many.To},
		"principals and paths":   {From: []Source{{Principals: principals}}, To: []Operation{{Paths: paths}}},
		"more principals":        {From: []Source{{Principals: principals}}, To: []Operation{{Paths: paths[:20]}}},
		"more paths":             {From: []Source{{Principals: principals[:20]}}, To: []Operation{{Paths: paths}}},
	} {
		cfg := config(policyOf("p", ActionAllow, rule))
		e := engine(t, cfg)
		var allowed int
		for i := range 62 {
			for j := range 62 {
				p, err := gatemesh.NewPeer("td", "/ns/a/sa/"+fmt.Sprint(i), nil)
				require.NoError(t, err)
				c := call(t, gatemesh.CallInfo{Peer: p, Path: "/p/" + fmt.Sprint(j), RequestID: "r"})
				_, err = e.Admit(t.Context(), c)
				want, _, _ := oracle(cfg, c)
				require.Equal(t, want == Allow, err == nil, "%s: %v %v", name, c, p)
				if err == nil {
					allowed++
				}
			}
		}
		require.GreaterOrEqual(t, allowed, 1200, name)
	}
}

func FuzzEngine(f *testing.F) {
	f.Add(uint64(1), uint16(1))
	f.Add(uint64(2), uint16(10))
	f.Add(uint64(3), uint16(300))
	f.Fuzz(func(t *testing.T, seed uint64, rules uint16) { check(t, seed, int(rules)%400+1, 30) })
}
