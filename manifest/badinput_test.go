package manifest_test

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/gatemesh-go/gatemesh/manifest"
	"github.com/gatemesh-go/gatemesh/routing"
)

// refuses parses a folder of one file and wants exactly this fault.
func refuses(t *testing.T, text, want string) {
	t.Helper()
	set, err := manifest.Parse("a.yaml", []byte(text))
	assert.Nil(t, set)
	assert.EqualError(t, err, "a.yaml:"+want)
}

func route(backends string) string {
	return oneListener + "---\n" + `apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: r}
spec:
  parentRefs: [{name: g}]
  rules:
  - backendRefs: ` + backends + "\n"
}

const oneListener = `apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: g}
spec: {gatewayClassName: x, listeners: [{name: all, port: 80, protocol: HTTP}]}
`

// Shares that are no shares.
func TestBadInput_Weights(t *testing.T) {
	t.Parallel()
	for weight, want := range map[string]string{
		"-1":    "-1 is not between 0 and 1000000",
		".nan":  "must be a whole number",
		".inf":  "must be a whole number",
		"0.5":   "must be a whole number",
		`"1"`:   "must be a number; write it without quotes: 1",
		"1e3":   "must be a whole number",
		"NaN":   "must be a whole number, not a string",
		"1_000": "must be written in plain decimal digits",
	} {
		refuses(t, route("[{name: b, port: 1, weight: "+weight+"}]"), "12: HTTPRoute default/r: spec.rules[0].backendRefs[0].weight: "+want)
	}
	rule := func(weights ...string) string {
		var b strings.Builder
		b.WriteString("apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: v}\nspec:\n  hosts: [a]\n  http:\n  - route:\n")
		for _, w := range weights {
			b.WriteString("    - {destination: {host: a}, weight: " + w + "}\n")
		}
		return b.String()
	}
	refuses(t, rule("1", "-1"), "9: VirtualService default/v: spec.http[0].route[1].weight: -1 is not between 0 and 2147483647")
	refuses(t, rule("1", ".nan"), "9: VirtualService default/v: spec.http[0].route[1].weight: must be a whole number")
	refuses(t, rule("0", "0"), "8: VirtualService default/v: spec.http[0].route[0].weight: the weights of all destinations are 0")
	refuses(t, rule("0"), "8: VirtualService default/v: spec.http[0].route[0].weight: the only destination takes every call, also with weight 0; leave weight out")
}

// A rule of the Gateway API that nobody is behind is none that may be left out:
// its calls are answered with 500.
func TestRulesWithoutBackends(t *testing.T) {
	t.Parallel()
	nobody := []routing.Backend{{Unserved: true, Weight: 1}}
	for _, kind := range []string{"HTTPRoute", "GRPCRoute"} {
		text := strings.Replace(route("[]"), "kind: HTTPRoute", "kind: "+kind, 1)
		text = strings.Replace(text, "backendRefs: []", "name: nobody", 1)
		set, err := manifest.Parse("a.yaml", []byte(text))
		require.NoError(t, err, text)
		require.Len(t, set.Routes(), 1)
		assert.Equal(t, nobody, set.Routes()[0].Backends)
		router, err := routing.New(routing.Config{Listeners: set.RouteListeners(nil), Routes: set.Routes()})
		require.NoError(t, err, "there need not be an upstream")
		assert.NoError(t, router.Close())
		for _, backends := range []string{"[{name: b, port: 1, weight: 0}]", "[{name: b, port: 1, weight: 0}, {name: c, port: 1, weight: 0}]"} {
			_, err := manifest.Parse("a.yaml", []byte(strings.Replace(route(backends), "kind: HTTPRoute", "kind: "+kind, 1)))
			assert.ErrorContains(t, err, "spec.rules[0].backendRefs[0].weight: the weights of all backends are 0, which serves nobody")
		}
	}
	// One without weight beside others is just never chosen, and a redirect needs nobody.
	set, err := manifest.Parse("a.yaml", []byte(route("[{name: b, port: 1, weight: 0}, {name: c, port: 1}]")))
	require.NoError(t, err)
	assert.Len(t, set.Routes()[0].Backends, 2)
	set, err = manifest.Parse("a.yaml", []byte(strings.Replace(route("[]"), "backendRefs: []", "filters: [{type: RequestRedirect, requestRedirect: {scheme: https}}]", 1)))
	require.NoError(t, err)
	assert.Empty(t, set.Routes()[0].Backends)
}

func TestBadInput_UnknownSubset(t *testing.T) {
	t.Parallel()
	const service = "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: v}\nspec:\n  hosts: [a]\n  http:\n  - route:\n    - destination: {host: a, subset: v2}\n"
	const rule = "---\napiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {name: d}\nspec: {host: HOST, subsets: [{name: v1, labels: {v: v1}}]}\n"
	const want = "8: VirtualService default/v: spec.http[0].route[0].destination.subset: no DestinationRule for a.default has a subset v2"
	refuses(t, service, want)
	refuses(t, service+strings.Replace(rule, "HOST", "a", 1), want)
	refuses(t, service+strings.NewReplacer("HOST", "b", "v: v1", "v: v2", "name: v1", "name: v2").Replace(rule), want)
}

// Which services there are, the server knows; which names can be services, every
// reader does.
func TestBadInput_UnknownHost(t *testing.T) {
	t.Parallel()
	const service = "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: v}\nspec:\n  hosts: [a]\n  http:\n  - route:\n    - destination: {host: HOST}\n"
	for _, host := range []string{"orders.example.com", "orders.shop", "Orders", "orders.shop.svc"} {
		refuses(t, strings.Replace(service, "HOST", host, 1),
			"8: VirtualService default/v: spec.http[0].route[0].destination.host: "+quoted(host)+" is no service: write NAME for one of this namespace, else NAME.NAMESPACE.svc.cluster.local")
	}
	refuses(t, strings.Replace(route("[{name: b, port: 1}]"), "parentRefs: [{name: g}]", "parentRefs: [{name: other}]", 1),
		"10: HTTPRoute default/r: spec.parentRefs[0].name: Gateway default/other is not loaded")
}

func quoted(s string) string { return `"` + s + `"` }

func TestBadInput_Regex(t *testing.T) {
	t.Parallel()
	text := strings.Replace(route("[{name: b, port: 1}]"), "  - backendRefs", "  - matches:\n    - path: {type: RegularExpression, value: \"/(\"}\n    backendRefs", 1)
	refuses(t, text, "13: HTTPRoute default/r: spec.rules[0].matches[0].path.value: \"/(\" is not a regular expression (RE2): missing closing )")
	for _, match := range []string{"uri", "method", "authority", "scheme"} {
		refuses(t, "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: v}\nspec:\n  hosts: [a]\n  http:\n  - match:\n    - "+match+": {regex: \"[a\"}\n    route: [{destination: {host: a}}]\n",
			"8: VirtualService default/v: spec.http[0].match[0]."+match+".regex: \"[a\" is not a regular expression (RE2): missing closing ]")
	}
}

// Numbers that one reader takes for another than the next.
func TestBadInput_Digits(t *testing.T) {
	t.Parallel()
	const rule = "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: v}\nspec:\n  hosts: [a]\n  http:\n  - fault: {abort: {httpStatus: 503, percentage: {value: VALUE}}}\n    route: [{destination: {host: a}}]\n"
	for _, value := range []string{"1e1", "0x10", "+1", ".5", "1_0", ".inf", ".nan", "0o17"} {
		refuses(t, strings.Replace(rule, "VALUE", value, 1), "7: VirtualService default/v: spec.http[0].fault.abort.percentage.value: must be written in plain decimal digits")
	}
	for _, weight := range []string{"010", "+1", "0o10", "0x1"} {
		refuses(t, route("[{name: b, port: 1, weight: "+weight+"}]"), "12: HTTPRoute default/r: spec.rules[0].backendRefs[0].weight: must be written in plain decimal digits")
	}
}
