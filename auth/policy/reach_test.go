package policy

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/gatemesh-go/gatemesh"
)

func (g generator) pattern() string {
	var b strings.Builder
	b.WriteString(pick(g, "", "", "GET ", "POST ", "PUT ", "HEAD "))
	b.WriteString(pick(g, "", "", "", "a.test", "w.b.test"))
	if g.IntN(12) == 0 {
		return b.String() + "/"
	}
	n := 1 + g.IntN(3)
	for i := range n {
		b.WriteString("/" + pick(g, "a", "b", "ab", "abc", "v1", "x.json", fmt.Sprintf("{x%d}", i)))
	}
	b.WriteString(pick(g, "", "", "", "/", "/{$}", "/{rest...}"))
	return b.String()
}

// routes are patterns that one ServeMux accepts.
func (g generator) routes(n int) (*http.ServeMux, []string) {
	mux := http.NewServeMux()
	var out []string
	for range n {
		p := g.pattern()
		if register(mux, p) == nil {
			out = append(out, p)
		}
	}
	return mux, out
}

// anonymousRule is one that is open to everybody at times.
func (g generator) operationRule() Rule {
	r := g.rule()
	switch g.IntN(3) {
	case 0:
		r.From = nil
	case 1:
		r.From = []Source{{NotPrincipals: []string{g.star(g.peer())}, NotRequestPrincipals: []string{"*"}}}
	}
	for i := range r.To {
		if g.IntN(4) == 0 {
			r.To[i].Ports = []string{"8080"}
		}
	}
	return r
}

// checkCoverage compares a report with what ServeMux and the engine do to
// random requests.
func checkCoverage(t testing.TB, seed uint64) (open, restricted, closed, unserved int) {
	g := generator{rand.New(rand.NewPCG(seed, 7))}
	mux, patterns := g.routes(1 + g.IntN(8))
	cfg := config()
	cfg.Unselected = pick(g, Allow, Deny)
	if g.IntN(5) == 0 {
		cfg.Exempt = []string{g.path()}
	}
	for i := range g.IntN(5) {
		p := policyOf(fmt.Sprint("p", i), pick(g, ActionAllow, ActionAllow, ActionAllow, ActionDeny, ActionAudit, ActionCustom))
		if p.Action == ActionCustom {
			p.Provider = "yes"
		}
		for range 1 + g.IntN(2) {
			p.Rules = append(p.Rules, g.operationRule())
		}
		cfg.Policies = append(cfg.Policies, p)
	}
	cfg.Hooks = map[string]Hook{"yes": func(context.Context, *gatemesh.Call) error { return nil }}
	e := engine(t, cfg)
	report, err := e.Coverage(patterns)
	require.NoError(t, err)
	access := make(map[string]Access)
	for _, r := range report.Routes {
		access[r.Pattern] = r.Access
		switch r.Access {
		case Open:
			open++
		case Restricted:
			restricted++
		default:
			closed++
		}
	}
	unserved += len(report.Unserved)
	s := e.state.Latest()
	for range 60 {
		in := gatemesh.CallInfo{
			Method: pick(g, "GET", "HEAD", "POST", "PUT", "DELETE"), Path: g.path() + pick(g, "", "", "/"), Host: pick(g, g.host(), ""), RequestID: "r",
			RemoteAddr: addr(fmt.Sprintf("10.0.0.%d", g.IntN(256))),
		}
		if g.IntN(3) > 0 {
			in.Header, in.SNI = http.Header{"X-Role": {pick(g, "admin", "user", "other")}}, g.host()
		}
		if g.IntN(2) == 0 {
			in.LocalAddr = addr("10.9.9.9")
		}
		anonymous := g.IntN(2) == 0
		if !anonymous {
			domain, path, _ := strings.Cut(g.peer(), "/")
			in.Peer, _ = gatemesh.NewPeer(domain, "/"+path, nil)
			in.Principal = user("i", "u")
		}
		c := call(t, in)
		r := httptest.NewRequest(in.Method, "http://"+in.Host+in.Path, nil)
		r.Host = in.Host
		h, pattern := mux.Handler(r)
		if _, redirects := h.(*http.ServeMux); pattern == "" || redirects || strings.HasPrefix(fmt.Sprintf("%T", h), "*http.redirect") {
			continue
		}
		_, err := e.Admit(context.Background(), c)
		why := fmt.Sprintf("seed %d: %v as %v is for %q\n%v\n%v\n%+v", seed, c, c.Peer(), pattern, e.Explain(c), report, cfg.Policies)
		if err == nil {
			require.NotEqual(t, Closed, access[pattern], why)
			if anonymous {
				require.Equal(t, Open, access[pattern], why)
			}
		}
		var q request
		q.read(c)
		for _, g := range s.written {
			for _, rule := range g.rules {
				if !anyHolds(rule.from, &q) || !anyHolds(rule.to, &q) || !rule.when.holds(&q) {
					continue
				}
				for _, u := range report.Unserved {
					require.False(t, u.RuleRef == rule.ref() && u.Paths == nil, why)
				}
			}
		}
	}
	// What is said to be open has an example that proves it, unless something
	// else must be right.
	for _, r := range report.Routes {
		if r.Example == "" || strings.Contains(r.Why, "is right") || slices.ContainsFunc(cfg.Policies, func(p Policy) bool { return p.Action == ActionDeny }) {
			continue
		}
		method, rest, _ := strings.Cut(r.Example, " ")
		slash := strings.IndexByte(rest, '/')
		c := call(t, gatemesh.CallInfo{Method: method, Host: rest[:slash], Path: rest[slash:], RequestID: "r", RemoteAddr: addr("10.1.1.1")})
		require.Equal(t, Allow, e.Explain(c).Verdict, "seed %d: %v\n%+v", seed, report, cfg.Policies)
		q := httptest.NewRequest(method, "http://x"+rest[slash:], nil)
		q.Host = rest[:slash]
		_, pattern := mux.Handler(q)
		require.Equal(t, r.Pattern, pattern, "seed %d: %v\n%v", seed, r.Example, report)
	}
	return open, restricted, closed, unserved
}

func TestCoverageIsConservative(t *testing.T) {
	t.Parallel()
	var open, restricted, closed, unserved int
	for seed := range uint64(150) {
		o, r, c, u := checkCoverage(t, seed)
		open, restricted, closed, unserved = open+o, restricted+r, closed+c, unserved+u
	}
	t.Log(open, "open,", restricted, "restricted,", closed, "closed,", unserved, "unserved")
	assert.Greater(t, open, 40)
	assert.Greater(t, restricted, 40)
	assert.Greater(t, closed, 40)
	assert.Greater(t, unserved, 40)
}

func FuzzCoverage(f *testing.F) {
	f.Add(uint64(1))
	f.Add(uint64(268)) // a redirect to a final slash
	f.Fuzz(func(t *testing.T, seed uint64) { checkCoverage(t, seed) })
}
