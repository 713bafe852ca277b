package policy

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/gatemesh-go/gatemesh"
)

// oracle reads Istio's documentation naively.
func oracle(cfg Config, c *gatemesh.Call) Verdict {
	v, selected := cfg.Unselected, false
	for _, p := range cfg.Policies {
		for i := range p.Rules {
			if p.Action == ActionDeny && oracleRule(p.Rules[i], c) {
				return Deny
			}
		}
		selected = selected || p.Action == ActionAllow
	}
	if selected {
		v = Deny
	}
	for _, p := range cfg.Policies {
		for i := range p.Rules {
			if p.Action == ActionAllow && oracleRule(p.Rules[i], c) {
				return Allow
			}
		}
	}
	return v
}

func oracleRule(r Rule, c *gatemesh.Call) bool {
	var peer, ns, user string
	if p := c.Peer(); p != nil {
		peer, ns = strings.TrimPrefix(p.ID(), "spiffe://"), p.Namespace()
	}
	if p := c.Principal(); p != nil {
		user = p.Issuer() + "/" + p.Subject()
	}
	text := func(values, not []string, got string) bool {
		return (values == nil || oracleText(values, got)) && (not == nil || !oracleText(not, got))
	}
	block := func(values []string, a netip.Addr) bool {
		return slices.ContainsFunc(values, func(v string) bool { return v == a.String() || netip.MustParsePrefix(v).Contains(a) })
	}
	return (r.From == nil || slices.ContainsFunc(r.From, func(s Source) bool {
		return text(s.Principals, s.NotPrincipals, peer) && text(s.Namespaces, s.NotNamespaces, ns) &&
			text(s.RequestPrincipals, s.NotRequestPrincipals, user) &&
			(s.IPBlocks == nil || block(s.IPBlocks, c.RemoteAddr().Addr())) && (s.NotIPBlocks == nil || !block(s.NotIPBlocks, c.RemoteAddr().Addr()))
	})) && (r.To == nil || slices.ContainsFunc(r.To, func(o Operation) bool {
		return text(o.Methods, o.NotMethods, c.Method()) && text(o.Paths, o.NotPaths, c.Path()) && text(o.Hosts, o.NotHosts, c.Host())
	}))
}

func oracleText(values []string, got string) bool {
	return slices.ContainsFunc(values, func(v string) bool {
		switch {
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
	}
	for range pick(g, 0, 1, 1, 2, 5) {
		r.To = append(r.To, Operation{
			Paths:      maybe(g, 2, func(g generator) string { return g.star(g.path()) }),
			NotPaths:   maybe(g, 8, func(g generator) string { return g.star(g.path()) }),
			Hosts:      maybe(g, 8, func(g generator) string { return g.star(g.host()) }),
			NotMethods: []string{pick(g, "GET", "PUT", "P*", "*ST")},
			Methods:    maybe(g, 8, func(g generator) string { return pick(g, "GET", "PUT", "P*", "*ST") }),
		})
	}
	return r
}

// narrow is a rule that few calls match.
func (g generator) narrow() Rule {
	return Rule{
		From: []Source{{Principals: []string{g.peer(), g.star(g.peer())}[:1+g.IntN(20)/19]}},
		To:   []Operation{{Paths: []string{g.path(), g.path() + "/*"}[g.IntN(2):], Methods: []string{pick(g, "GET", "PUT", "POST")}}},
	}
}

func (g generator) config(rules int) Config {
	cfg := config()
	cfg.Unselected = pick(g, Allow, Deny)
	// Among thousands, a few wide rules would decide every call.
	wide := 100
	if rules > 50 {
		wide = pick(g, 0, 0, 1)
	}
	for i := 0; rules > 0; i++ {
		p := policyOf(fmt.Sprint("p", i), pick(g, ActionAllow, ActionAllow, ActionAllow, ActionDeny))
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
	if g.IntN(5) > 0 {
		domain, path, _ := strings.Cut(g.peer(), "/")
		in.Peer, _ = gatemesh.NewPeer(domain, "/"+path, nil)
	}
	if g.IntN(3) > 0 {
		in.Principal = user(pick(g, "i", "i/j"), pick(g, "u", "v", "j/u"))
	}
	return call(t, in)
}

// check judges calls by a random configuration, engine against oracle. It
// counts verdicts, for the caller to see that both kinds occur.
func check(t testing.TB, seed uint64, rules, calls int) (allowed, refused int) {
	g := generator{rand.New(rand.NewPCG(seed, uint64(rules)))}
	cfg := g.config(rules)
	e := engine(t, cfg)
	for range calls {
		c := g.call(t)
		_, err := e.Admit(context.Background(), c)
		got := Allow
		if err != nil {
			got = Deny
			require.NotEmpty(t, err.(*gatemesh.Denial).Cause().Error())
			refused++
		} else {
			allowed++
		}
		require.Equal(t, oracle(cfg, c), got, "seed %d, %d rules: %v %v %v: %v", seed, rules, c, c.Peer(), c.Principal(), e.Explain(c))
	}
	return allowed, refused
}

func TestEngineAgreesWithOracle(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ rules, configs, calls int }{{1, 2000, 20}, {10, 600, 50}, {1000, 12, 200}} {
		t.Run(fmt.Sprint(tt.rules), func(t *testing.T) {
			t.Parallel()
			var allowed, refused int
			for seed := range tt.configs {
				a, r := check(t, uint64(seed), tt.rules, tt.calls)
				allowed, refused = allowed+a, refused+r
			}
			t.Log(allowed, "allowed,", refused, "refused")
			require.Greater(t, allowed, tt.configs/4)
			require.Greater(t, refused, tt.configs/4)
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
				require.Equal(t, oracle(cfg, c) == Allow, err == nil, "%s: %v %v", name, c, p)
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
