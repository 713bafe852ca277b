package policy

import (
	"context"
	"encoding/json"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/gatemesh-go/gatemesh"
)

func TestCoverage(t *testing.T) {
	t.Parallel()
	order := []Source{{Principals: []string{"td/ns/a/sa/order"}}}
	anon := []Source{{NotRequestPrincipals: []string{"*"}}}
	allow := func(r ...Rule) []Policy { return []Policy{policyOf("p", ActionAllow, r...)} }
	deny := func(ps []Policy, r ...Rule) []Policy { return append(ps, policyOf("d", ActionDeny, r...)) }
	op := func(methods, hosts, paths string) []Operation {
		list := func(s string) []string {
			if s == "" {
				return nil
			}
			return strings.Split(s, ",")
		}
		return []Operation{{Methods: list(methods), Hosts: list(hosts), Paths: list(paths)}}
	}
	for _, c := range []struct {
		name     string
		routes   []string
		policies []Policy
		want     string // o, r or c for each route
		unserved string // a rule number, or its paths
	}{
		{"exact", []string{"/a", "/a/", "/b"}, allow(Rule{To: op("", "", "/a")}), "occ", ""},
		{"below", []string{"/a", "/a/", "/a/{x}", "/a/b/c"}, allow(Rule{To: op("", "", "/a/*")}), "cooo", ""},
		{"only the slash", []string{"/a/{$}", "/a/{x}"}, allow(Rule{To: op("", "", "/a/")}), "oc", ""},
		{"one segment", []string{"/a/{x}", "/a/{x}/b"}, allow(Rule{To: op("", "", "/a/b/c")}), "cc", "1"},
		{"rest", []string{"/a/{x...}"}, allow(Rule{To: op("", "", "/a/b/c")}), "o", ""},
		{"suffix", []string{"/a/{x}", "/b.json", "/c"}, allow(Rule{To: op("", "", "*.json")}), "ooc", ""},
		{"template", []string{"/a/{x}/c", "/a/{x}", "/a/b/d/c"}, allow(Rule{To: op("", "", "/a/{*}/c")}), "occ", ""},
		{"template of the rest", []string{"/a/{x}/c", "/a/{x}", "/a/b/d/c", "/a/c"}, allow(Rule{To: op("", "", "/a/{**}/c")}), "ococ", ""},
		{"the narrower route serves", []string{"/", "/healthz"}, allow(Rule{To: op("", "", "/healthz")}), "co", ""},
		{"two narrower routes", []string{"/a/", "GET /a/{x...}", "HEAD /a/b"}, allow(Rule{To: op("GET,HEAD", "", "/a/b")}), "coo", ""},
		{"the rest of a wide route", []string{"/", "/a/"}, allow(Rule{To: op("", "", "/a*")}), "oo", ""},
		{"GET serves HEAD", []string{"GET /a"}, allow(Rule{To: op("HEAD", "", "/a")}), "o", ""},
		{"unless a route does", []string{"GET /a", "HEAD /a"}, allow(Rule{To: op("HEAD", "", "/a")}), "co", ""},
		{"other methods", []string{"GET /a", "/a"}, allow(Rule{To: op("POST", "", "/a")}), "co", ""},
		{"not this method", []string{"GET /a", "POST /a"}, allow(Rule{To: []Operation{{NotMethods: []string{"GET", "HEAD"}}}}), "co", ""},
		{"not these paths", []string{"/a/{x}", "/b"}, allow(Rule{To: []Operation{{NotPaths: []string{"/a/*"}}}}), "co", ""},
		{"host", []string{"a.test/x", "b.test/x", "/x"}, allow(Rule{To: op("", "a.test", "")}), "occ", ""},
		{"host of no route", []string{"a.test/x", "/x"}, allow(Rule{To: op("", "c.test", "")}), "co", ""},
		{"hosts", []string{"a.test/x", "B.other/x"}, allow(Rule{To: op("", "*.none", ""), From: order}, Rule{To: op("", "a.*", "")}), "oc", "1"},
		{"somebody", []string{"/a", "/b"}, allow(Rule{From: order, To: op("", "", "/a")}), "rc", ""},
		{"everybody but users", []string{"/a"}, allow(Rule{From: anon}), "o", ""},
		{"a claim", []string{"/a"}, allow(Rule{When: []Condition{{Key: "request.auth.claims[a]", Values: []string{"*"}}}}), "r", ""},
		{"no claim", []string{"/a"}, allow(Rule{When: []Condition{{Key: "request.auth.claims[a]", NotValues: []string{"b"}}}}), "o", ""},
		{"a header field", []string{"/a"}, allow(Rule{When: []Condition{{Key: "request.headers[X-A]", Values: []string{"b"}}}}), "o", ""},
		{"denied", []string{"/a", "/b"}, deny(allow(Rule{}), Rule{To: op("", "", "/a")}), "co", ""},
		{"denied in part", []string{"/a/", "/b"}, deny(allow(Rule{}), Rule{To: op("", "", "/a/b*")}), "oo", ""},
		{"denied to some", []string{"/a"}, deny(allow(Rule{}), Rule{From: order}), "o", ""},
		{"denied without a user", []string{"/a", "/b"}, deny(allow(Rule{}), Rule{From: anon, To: op("", "", "/a")}), "ro", ""},
		{"denied if", []string{"/a"}, deny(allow(Rule{}), Rule{When: []Condition{{Key: "request.headers[X-A]", Values: []string{"b"}}}}), "o", ""},
		{"denied at a port", []string{"/a"}, deny(allow(Rule{}), Rule{To: []Operation{{Ports: []string{"80"}}}}), "o", ""},
		{"no policy", []string{"/a"}, nil, "c", ""},
		{"a DENY policy alone", []string{"/a"}, deny(nil, Rule{To: op("", "", "/b")}), "c", "1"},
		{"no rule", []string{"/a"}, allow(), "c", ""},
		{"escapes", []string{"/a%20b", "/x:y", "/%2F", "/ä"}, allow(Rule{To: op("", "", "/a%20b,/x%3Ay,/%2F,/%c3%a4")}), "oooo", ""},
		{"a parameter", []string{"/a;b", "/a;c"}, allow(Rule{To: op("", "", "/a;b")}), "oc", ""},
		{"what a prefix begins with", []string{"/a", "/a/{x...}"}, allow(Rule{To: op("", "", "/a*")}), "oo", ""},
		{"denied in another method", []string{"GET /a", "POST /a"}, deny(allow(Rule{}), Rule{To: op("POST", "", "/a")}), "oc", ""},
		{"denied at another host", []string{"a.test/a", "b.test/a"}, deny(allow(Rule{}), Rule{To: op("", "b.*", "/a")}), "oc", ""},
		{"a redirect", []string{"/", "/a/"}, allow(Rule{To: op("", "", "/a")}), "cc", "1"},
		{"a redirect to the slash alone", []string{"/{x...}", "/a/{$}"}, allow(Rule{To: op("", "", "/a")}), "cc", "1"},
		{"a redirect of a variable", []string{"/", "/{x}/"}, allow(Rule{To: op("", "", "/a")}), "cc", "1"},
		{"a redirect at a host", []string{"/", "a.test/a/"}, allow(Rule{To: op("", "a.test", "/a")}), "cc", "1"},
		{"no redirect from a host", []string{"a.test/", "/a/"}, allow(Rule{To: op("", "", "/a")}), "oc", ""},
		{"no redirect for another method", []string{"/", "POST /a/"}, allow(Rule{To: op("GET", "", "/a")}), "oc", ""},
		{"no redirect for a narrower one", []string{"/{x}", "/a/"}, allow(Rule{To: op("", "", "/a")}), "oc", ""},
		{"some paths", []string{"/a/{x}"}, allow(Rule{To: op("", "", "/a/*,/b,/c/*")}), "o", "/b,/c/*"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			e := engine(t, config(c.policies...))
			report, err := e.Coverage(c.routes)
			require.NoError(t, err)
			got := ""
			for i, r := range report.Routes {
				got += r.Access.String()[:1]
				assert.Equal(t, c.routes[i], r.Pattern)
				assert.Equal(t, r.Access == Open, r.Example != "")
				assert.Equal(t, r.Access == Open, r.Why != "")
			}
			assert.Equal(t, c.want, got, report)
			unserved := ""
			for _, u := range report.Unserved {
				if u.Paths == nil {
					unserved += string(rune('0' + u.Rule))
				}
				unserved += strings.Join(u.Paths, ",")
			}
			assert.Equal(t, c.unserved, unserved, report)
		})
	}
}

func TestCoverageReport(t *testing.T) {
	t.Parallel()
	cfg := config(paymentPolicy(), policyOf("catalog", ActionAllow,
		Rule{To: []Operation{{Paths: []string{"/catalog/*", "/old/*"}, Methods: []string{"GET"}}}},
		Rule{To: []Operation{{Paths: []string{"/{*}/tree"}}}, From: []Source{{IPBlocks: []string{"10.0.0.0/8"}}}, When: []Condition{{Key: "request.headers[X-A]", Values: []string{"a"}}}},
	), policyOf("seen", ActionAudit, to(Operation{Paths: []string{"/gone"}})),
		Policy{Name: "ask", Namespace: "production", Action: ActionCustom, Provider: "h", Rules: []Rule{to(Operation{Paths: []string{"/asked"}})}})
	cfg.Exempt = []string{"/healthz"}
	cfg.Hooks = map[string]Hook{"h": func(context.Context, *gatemesh.Call) error { return nil }}
	e := engine(t, cfg)
	report, err := e.Coverage([]string{"POST /v1/payments/{id}", "GET /catalog/{id}", "/healthz", "/admin", "/apple/tree", "PUT /v1/payments/{id}"})
	require.NoError(t, err)
	assert.Equal(t, `3 routes are open to everybody:
  GET /catalog/{id}       rule 1 of catalog, as in GET /catalog/x
  /healthz                the path is exempt, as in GET /healthz
  /apple/tree             rule 2 of catalog, if the address and the header field X-A is right, as in GET /apple/tree
2 routes are closed to everybody:
  /admin
  PUT /v1/payments/{id}
1 route is open to some callers:
  POST /v1/payments/{id}  rule 1 of payment-service-policy (manifests/authorizationpolicy.yaml:12)
rules that no route serves:
  ALLOW rule 1 of catalog: /old/*
  AUDIT rule 1 of seen
  CUSTOM rule 1 of ask
`, report.String())
	shown, err := json.Marshal(report.Routes[0])
	require.NoError(t, err)
	assert.JSONEq(t, `{"Pattern":"POST /v1/payments/{id}","Access":"restricted","Why":"","Example":"",
		"Rules":[{"Policy":"payment-service-policy","Namespace":"production","Rule":1,"Position":{"File":"manifests/authorizationpolicy.yaml","Line":12}}]}`, string(shown))

	cfg.Unselected, cfg.Policies, cfg.Exempt = Allow, nil, nil
	require.NoError(t, e.Update(cfg))
	report, err = e.Coverage([]string{"/a"})
	require.NoError(t, err)
	assert.Equal(t, "1 route is open to everybody:\n  /a  no ALLOW policy selects the workload, as in GET /a\n", report.String())
}

func TestCoverageFaults(t *testing.T) {
	t.Parallel()
	_, err := (&Engine{}).Coverage(nil)
	assert.Error(t, err)
	_, err = engine(t, config()).Coverage([]string{"", "nothing", "/a/{x}", "/a/{y}", "a..b/x", "/b/{x", "/ok"})
	for _, want := range []string{`route ""`, `route "nothing"`, `route "/a/{y}"`, `route "a..b/x"`, `route "/b/{x"`} {
		assert.ErrorContains(t, err, want)
	}
	assert.NotContains(t, err.Error(), "/ok")
}

// A search that is given up counts as one that has found something.
func TestCoverageGivesUpOpen(t *testing.T) {
	t.Parallel()
	not := []string{"/never/*"}
	for i := range 8 {
		not = append(not, "/never/"+string(rune('a'+i))+strings.Repeat("x", 1200))
	}
	e := engine(t, config(policyOf("p", ActionAllow, to(Operation{Paths: []string{"/never/*"}, NotPaths: not}))))
	report, err := e.Coverage([]string{"/never/{x}", "/other"})
	require.NoError(t, err)
	assert.Equal(t, []Access{Open, Closed}, []Access{report.Routes[0].Access, report.Routes[1].Access})
}

// Of CONNECT, ServeMux redirects by another host than the one a call is judged
// by: the route counts as open, and no example is given that it might not get.
func TestCoverageOfConnect(t *testing.T) {
	t.Parallel()
	e := engine(t, config(policyOf("p", ActionAllow, to(Operation{Methods: []string{"CONNECT"}, Paths: []string{"/a"}}))))
	report, err := e.Coverage([]string{"/", "/a/"})
	require.NoError(t, err)
	assert.Equal(t, []RouteCoverage{
		{Pattern: "/", Access: Open, Rules: report.Routes[0].Rules, Why: "rule 1 of p"}, {Pattern: "/a/", Access: Closed},
	}, report.Routes)
}
