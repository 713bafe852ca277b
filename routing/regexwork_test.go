package routing_test

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

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
