package routing_test

import (
	"fmt"
	"io"
	"net/http"
	"runtime"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/gatemesh-go/gatemesh"
	"github.com/gatemesh-go/gatemesh/routing"
)

// TestF10_RegexOfALongPath: a request of 64 KiB must not cost seconds in the
// regular expressions of routes or of a service's rules, and is not for another
// rule because it is too long for one.
func TestF10_RegexOfALongPath(t *testing.T) {
	t.Parallel()
	regex := func(pattern string) []routing.Match {
		return []routing.Match{{Path: routing.PathMatch{Type: routing.PathRegex, Value: pattern}}}
	}
	answers := func(name, body string, m []routing.Match) routing.Route {
		return routing.Route{Name: name, Matches: m, Filters: routing.Filters{Response: &routing.Response{Status: 200, Body: []byte(body), ContentType: "text/plain"}}}
	}
	var many []routing.Route
	for i := range 200 {
		many = append(many, answers(fmt.Sprint("r", i), "many", regex(fmt.Sprintf("/.*/x%d", i))))
	}
	all := answers("all", "all", nil)
	heavy := answers("heavy", "heavy", regex("/(.*a){200}b"))
	light := answers("light", "light", regex("/.*/orders/[0-9]+"))
	for _, c := range []struct {
		name   string
		rules  []routing.Route
		path   string
		status int
		body   string
	}{
		{"heavy and long", []routing.Route{heavy, all}, "/" + strings.Repeat("a", 60<<10), 414, ""},
		{"heavy and short", []routing.Route{heavy, all}, "/" + strings.Repeat("a", 1000), 200, "all"},
		{"heavy, short and fitting", []routing.Route{heavy, all}, "/" + strings.Repeat("a", 1000) + "b", 200, "heavy"},
		{"light and long", []routing.Route{light, all}, "/" + strings.Repeat("a", 8<<10) + "/orders/1", 200, "light"},
		{"many and long", append(many, all), "/" + strings.Repeat("a", 60<<10), 414, ""},
		{"many and short", append(many, all), "/" + strings.Repeat("a", 1000) + "/x7", 200, "many"},
		{"after what stands first", []routing.Route{answers("exact", "prefix", []routing.Match{{Path: routing.PathMatch{Value: "/b"}}}), heavy, all}, "/b/" + strings.Repeat("a", 60<<10), 200, "prefix"},
		{"of another text", []routing.Route{answers("heavy", "heavy", regex("/b(.*a){200}b")), all}, "/" + strings.Repeat("a", 60<<10), 200, "all"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			h := gateway{cfg: routing.Config{Routes: c.rules}}.handler(t)
			resp := do(t, h, "GET", c.path)
			assert.Equal(t, c.status, resp.StatusCode)
			if c.status == 200 {
				assert.Equal(t, c.body, text(t, resp))
			}
		})
		t.Run(c.name+" in a service", func(t *testing.T) {
			t.Parallel()
			h := gateway{cfg: routing.Config{
				Routes:    []routing.Route{{Name: "r", Backends: to("", backend).Backends}},
				Services:  []routing.Service{{Service: backend.Service, Namespace: backend.Namespace, Rules: c.rules}},
				Upstreams: at("http://10.0.0.1"),
			}}.handler(t)
			resp := do(t, h, "GET", c.path)
			assert.Equal(t, c.status, resp.StatusCode)
			if c.status == 200 {
				assert.Equal(t, c.body, text(t, resp))
			}
		})
	}
}

func text(t *testing.T, resp *http.Response) string {
	body, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	return string(body)
}

// TestF10_RegexOfLongValues: the same of header fields and parameters.
func TestF10_RegexOfLongValues(t *testing.T) {
	t.Parallel()
	answers := func(i int, m routing.Match) routing.Route {
		return routing.Route{Name: fmt.Sprint("r", i), Matches: []routing.Match{m},
			Filters: routing.Filters{Response: &routing.Response{Status: 200, Body: []byte("rule"), ContentType: "text/plain"}}}
	}
	many := func(of func(i int) routing.Match) (all []routing.Route) {
		for i := range 200 {
			all = append(all, answers(i, of(i)))
		}
		return append(all, routing.Route{Name: "all", Filters: routing.Filters{Response: &routing.Response{Status: 200, Body: []byte("all"), ContentType: "text/plain"}}})
	}
	field := func(not bool) []routing.Route {
		return many(func(i int) routing.Match {
			pattern := fmt.Sprintf(".*x%d", i)
			if not { // what all of them match
				pattern = ".*x.*"
			}
			return routing.Match{Headers: []routing.HeaderMatch{{Name: "X-A", Type: routing.MatchRegex, Value: pattern, Not: not}}}
		})
	}
	parameter := func(kind routing.MatchType) []routing.Route {
		return many(func(i int) routing.Match {
			pattern := "x"
			if kind == routing.MatchRegex {
				pattern = fmt.Sprintf(".*x%d", i)
			}
			return routing.Match{Query: []routing.QueryMatch{{Name: "a", Type: kind, Value: pattern}}}
		})
	}
	long, short := strings.Repeat("a", 60<<10), strings.Repeat("a", 500)
	for _, c := range []struct {
		name   string
		rules  []routing.Route
		target string
		field  string
		status int
		body   string
	}{
		{"field, long", field(false), "/", long, 431, ""},
		{"field, short", field(false), "/", short, 200, "all"},
		{"field, short and fitting", field(false), "/", short + "x7", 200, "rule"},
		{"field, not and long", field(true), "/", long + "x0", 431, ""},
		{"no such field", field(false), "/", "", 200, "all"},
		{"parameter, long", parameter(routing.MatchRegex), "/?a=" + long, "", 414, ""},
		{"parameter, short", parameter(routing.MatchRegex), "/?a=" + short, "", 200, "all"},
		{"parameter, short and fitting", parameter(routing.MatchRegex), "/?a=" + short + "x7", "", 200, "rule"},
		{"parameter, escaped and long", parameter(routing.MatchRegex), "/?a=%61" + long, "", 414, ""},
		{"parameter, escaped and short", parameter(routing.MatchRegex), "/?a=%61" + short, "", 200, "all"},
		{"parameters, many", parameter(routing.MatchExact), "/?" + strings.Repeat("b&", 30<<10), "", 414, ""},
		{"parameters, some", parameter(routing.MatchExact), "/?" + strings.Repeat("b&", 500), "", 200, "all"},
		{"parameters, some and fitting", parameter(routing.MatchExact), "/?" + strings.Repeat("b&", 500) + "a=x", "", 200, "rule"},
	} {
		check := func(t *testing.T, h http.Handler) {
			t.Helper()
			var fields []string
			if c.field != "" {
				fields = []string{"X-A", c.field}
			}
			resp := do(t, h, "GET", c.target, fields...)
			assert.Equal(t, c.status, resp.StatusCode)
			if c.status == 200 {
				assert.Equal(t, c.body, text(t, resp))
			}
		}
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			check(t, gateway{cfg: routing.Config{Routes: c.rules}}.handler(t))
		})
		t.Run(c.name+" in a service", func(t *testing.T) {
			t.Parallel()
			check(t, gateway{cfg: routing.Config{
				Routes:    []routing.Route{{Name: "r", Backends: to("", backend).Backends}},
				Services:  []routing.Service{{Service: backend.Service, Namespace: backend.Namespace, Rules: c.rules}},
				Upstreams: at("http://10.0.0.1"),
			}}.handler(t))
		})
	}
}

// TestF10_Preflight: what is looked for a second time is not given more work.
func TestF10_Preflight(t *testing.T) {
	t.Parallel()
	var rules []routing.Route
	for _, method := range []string{"GET", "OPTIONS"} { // half of the work each
		for i := range 100 {
			rules = append(rules, routing.Route{Name: fmt.Sprint(method, i), Matches: []routing.Match{{Method: method,
				Headers: []routing.HeaderMatch{{Name: "X-A", Type: routing.MatchRegex, Value: fmt.Sprintf(".*x%02d", i)}}}},
				Filters: routing.Filters{Response: &routing.Response{Status: 200}, CORS: &routing.CORS{AllowOrigins: []string{"*"}}}})
		}
	}
	h := gateway{cfg: routing.Config{Routes: rules}}.handler(t)
	half := strings.Repeat("a", 1400)
	assert.Equal(t, 404, do(t, h, "GET", "/", "X-A", half).StatusCode)
	assert.Equal(t, 404, do(t, h, "OPTIONS", "/", "X-A", half).StatusCode)
	assert.Equal(t, 431, do(t, h, "OPTIONS", "/", "X-A", half, "Origin", "https://a.example", "Access-Control-Request-Method", "GET").StatusCode)
}

// TestF10_Escaped: what has to be unescaped to be compared is not allocated over
// and over.
func TestF10_Escaped(t *testing.T) {
	var rules []routing.Route
	for i := range 300 {
		m := routing.Match{}
		for _, name := range []string{"a", "b"} { // so that no value is the last one
			m.Query = append(m.Query, routing.QueryMatch{Name: name, Type: routing.MatchRegex, Value: fmt.Sprintf("%%.*|x%d", i)})
		}
		m.Query[1].Value = fmt.Sprint("x", i)
		rules = append(rules, routing.Route{Name: fmt.Sprint(i), Matches: []routing.Match{m}, Filters: routing.Filters{Response: &routing.Response{Status: 200}}})
	}
	r := newRouter(t, routing.Config{Routes: rules})
	for _, n := range []int{100, 1 << 10, 30 << 10} {
		value := strings.Repeat("a", n)
		c := gatemesh.Must(gatemesh.NewCall(gatemesh.CallInfo{Method: "GET", Host: "a", Path: "/", RawQuery: "a=%25" + value + "&b=%25" + value}))
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		for range 10 {
			_, _ = r.Admit(t.Context(), c) // or it is refused, which is as well
		}
		runtime.ReadMemStats(&after)
		assert.LessOrEqual(t, (after.TotalAlloc-before.TotalAlloc)/10, uint64(16*2*n+64<<10), "%d bytes", n)
	}
}

// TestF10_RegexOfARewrite: nor is it searched through again and again.
func TestF10_RegexOfARewrite(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		regex, path string
		status      int
	}{
		{".*b|a", "/" + strings.Repeat("a", 8000), 400},
		{".*b|a", "/aaa", 200},
		{"(.*x){200}y", "/" + strings.Repeat("x", 8000), 414},
		{"(.*x){200}y", "/" + strings.Repeat("x", 100), 200},
		{"^/a+/(.*)$", "/" + strings.Repeat("a", 8000) + "/c", 200},
		{"a", "/" + strings.Repeat("a", 200), 200},
	} {
		h := filtered{upstream: answering, route: routing.Route{Filters: routing.Filters{Rewrite: &routing.Rewrite{
			Path: routing.PathChange{Regex: c.regex, Substitution: "/b"}}}}}
		if c.regex == "a" || c.regex == ".*b|a" {
			h.route.Rewrite.Path.Substitution = "c"
		}
		assert.Equal(t, c.status, do(t, h.handler(t), "GET", c.path).StatusCode, "%s of %d", c.regex, len(c.path))
	}
}

// TestF10_Origin: nor are origins that nobody has.
func TestF10_Origin(t *testing.T) {
	t.Parallel()
	cors := func(pattern string) routing.Config {
		return routing.Config{Routes: []routing.Route{{Name: "r", Filters: routing.Filters{
			Response: &routing.Response{Status: 200},
			CORS:     &routing.CORS{AllowOriginMatches: []routing.ValueMatch{{Type: routing.MatchRegex, Value: pattern}}},
		}}}}
	}
	_, err := routing.New(cors("https://(.*a){500}"))
	require.ErrorContains(t, err, "AllowOriginMatches: the regular expressions have more than")
	h := filtered{upstream: answering, route: routing.Route{Filters: cors("https?://.*").Routes[0].Filters}}.handler(t)
	for origin, allowed := range map[string]bool{
		"https://a.example": true,
		"https://" + strings.Repeat("a.", 126) + "a.:65535": true,
		"https://" + strings.Repeat("a.", 1000) + "a":       false,
		"https://a.example:" + strings.Repeat("0", 60<<10):  false,
	} {
		assert.Equal(t, allowed, do(t, h, "GET", "/", "Origin", origin).Header.Get("Access-Control-Allow-Origin") != "", "%.100s", origin)
	}
}

// TestF10_TooManyInstructions: a table that leaves no work for short values is
// refused when it is loaded.
func TestF10_TooManyInstructions(t *testing.T) {
	t.Parallel()
	value := func(i int) *routing.ValueMatch {
		return &routing.ValueMatch{Type: routing.MatchRegex, Value: fmt.Sprintf("[a-z]{400}%d", i)}
	}
	for name, of := range map[string]func(i int) routing.Match{
		"field": func(i int) routing.Match {
			return routing.Match{Headers: []routing.HeaderMatch{{Name: "X-A", Type: routing.MatchRegex, Value: value(i).Value}}}
		},
		"parameter": func(i int) routing.Match {
			return routing.Match{Query: []routing.QueryMatch{{Name: "a", Type: routing.MatchRegex, Value: value(i).Value}}}
		},
		"authority": func(i int) routing.Match { return routing.Match{Authority: value(i)} },
		"method":    func(i int) routing.Match { return routing.Match{Methods: value(i)} },
		"path": func(i int) routing.Match {
			return routing.Match{Path: routing.PathMatch{Type: routing.PathRegex, Value: "/" + value(i).Value}}
		},
	} {
		table := func(n int) (cfg routing.Config) {
			for i := range n {
				cfg.Routes = append(cfg.Routes, routing.Route{Name: fmt.Sprint("r", i), Matches: []routing.Match{of(i)},
					Filters: routing.Filters{Response: &routing.Response{Status: 200}}})
			}
			return cfg
		}
		newRouter(t, table(30))
		_, err := routing.New(table(50))
		require.ErrorContains(t, err, `more than 16384 instructions`, name)
	}
}
