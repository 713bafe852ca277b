package main

import (
	"fmt"
	"strings"
	"testing"
)

// to is the backendRefs of a rule.
func to(service string) string { return "backendRefs: [{name: " + service + ", port: 8080}]" }

// rules are the rules of a route, each with its matches and its service.
func rules(list ...string) string {
	var b strings.Builder
	b.WriteString("  rules:\n")
	for i := 0; i+1 < len(list); i += 2 {
		rest := list[i+1]
		if !strings.Contains(rest, ":") {
			rest = to(rest)
		}
		if list[i] == "" {
			fmt.Fprintf(&b, "    - {%s}\n", rest)
		} else {
			fmt.Fprintf(&b, "    - {matches: [%s], %s}\n", list[i], rest)
		}
	}
	return b.String()
}

func prefix(path string) string { return "{path: {type: PathPrefix, value: " + path + "}}" }
func exact(path string) string  { return "{path: {type: Exact, value: " + path + "}}" }

// with is a match for fields, as "version: one".
func with(list ...string) string {
	var all []string
	for _, f := range list {
		name, value, _ := strings.Cut(f, ": ")
		all = append(all, "{name: "+name+", value: "+value+"}")
	}
	return "headers: [" + strings.Join(all, ", ") + "]"
}

func TestConformanceMatching(t *testing.T) {
	t.Parallel()
	b := newBackends(t)
	notFound := func(a ask) ask { a.status = 404; return a }
	for _, c := range []struct {
		name, manifests string
		asks            []ask
	}{
		{"HTTPRouteSimpleSameNamespace", httpRoute("simple", "same-namespace", rules("", "infra-v1")), []ask{{to: "infra-v1"}}},
		{"HTTPRouteMatching", httpRoute("matching", "same-namespace", rules(
			prefix("/")+", {"+with("version: one")+"}", "infra-v1",
			prefix("/v2")+", {"+with("version: two")+"}", "infra-v2")),
			[]ask{
				{path: "/", to: "infra-v1"}, {path: "/example", to: "infra-v1"}, {header: "Version: one", to: "infra-v1"},
				{path: "/v2", to: "infra-v2"}, {path: "/v2/example", to: "infra-v2"}, {header: "Version: two", to: "infra-v2"},
				{path: "/v2/", to: "infra-v2"}, {path: "/v2example", to: "infra-v1"}, {path: "/foo/v2/example", to: "infra-v1"},
			}},
		{"HTTPRouteMatchingAcrossRoutes",
			httpRoute("part1", "same-namespace", "  hostnames: [example.com, example.net]\n"+rules(prefix("/")+", {"+with("version: one")+"}", "infra-v1")) +
				httpRoute("part2", "same-namespace", "  hostnames: [example.com]\n"+rules(prefix("/v2")+", {"+with("version: two")+"}", "infra-v2")),
			[]ask{
				{host: "example.com", to: "infra-v1"}, {host: "example.com", path: "/example", to: "infra-v1"},
				{host: "example.net", path: "/example", to: "infra-v1"}, {host: "example.com", path: "/example", header: "Version: one", to: "infra-v1"},
				{host: "example.com", path: "/v2", to: "infra-v2"}, {host: "example.net", path: "/v2", to: "infra-v1"},
				{host: "example.com", path: "/v2/example", to: "infra-v2"}, {host: "example.com", header: "Version: two", to: "infra-v2"},
			}},
		{"HTTPExactPathMatching", httpRoute("exact", "same-namespace", rules(exact("/one"), "infra-v1", exact("/two"), "infra-v2")),
			[]ask{
				{path: "/one", to: "infra-v1"}, {path: "/two", to: "infra-v2"},
				{status: 404}, {path: "/one/example", status: 404}, {path: "/two/", status: 404}, {path: "/Two", status: 404},
			}},
		{"HTTPRoutePathMatchOrder", httpRoute("order", "same-namespace", rules(
			exact("/match/exact/one"), "infra-v3", exact("/match/exact"), "infra-v2", exact("/match"), "infra-v1",
			prefix("/match/prefix/one"), "infra-v2", prefix("/match/prefix/"), "infra-v1", prefix("/match/"), "infra-v3")),
			[]ask{
				{path: "/match/exact/one", to: "infra-v3"}, {path: "/match/exact", to: "infra-v2"}, {path: "/match", to: "infra-v1"},
				{path: "/match/prefix/one/any", to: "infra-v2"}, {path: "/match/prefix/any", to: "infra-v1"}, {path: "/match/any", to: "infra-v3"},
			}},
		{"HTTPRouteHeaderMatching", httpRoute("headers", "same-namespace", rules(
			"{"+with("version: one")+"}", "infra-v1", "{"+with("version: two")+"}", "infra-v2",
			"{"+with("version: two", "color: orange")+"}", "infra-v1",
			"{"+with("color: blue")+"}, {"+with("color: green")+"}", "infra-v1",
			"{"+with("color: red")+"}, {"+with("color: yellow")+"}", "infra-v2")),
			[]ask{
				{header: "Version: one", to: "infra-v1"}, {header: "Version: two", to: "infra-v2"},
				{header: "Version: two|Color: orange", to: "infra-v1"}, {header: "Version: two|Color: blue", to: "infra-v2"},
				notFound(ask{header: "Color: orange"}), notFound(ask{header: "Some-Other-Header: one"}),
				{header: "Color: blue", to: "infra-v1"}, {header: "Color: green", to: "infra-v1"},
				{header: "Color: red", to: "infra-v2"}, {header: "Color: yellow", to: "infra-v2"}, notFound(ask{header: "Color: purple"}),
			}},
		{"HTTPRouteMethodMatching", httpRoute("methods", "same-namespace", rules(
			"{method: POST}", "infra-v1", "{method: GET}", "infra-v2",
			"{path: {value: /path1}, method: GET}", "infra-v1", "{"+with("version: one")+", method: PUT}", "infra-v2",
			"{path: {value: /path2}, "+with("version: two")+", method: POST}", "infra-v3",
			"{path: {value: /path3}, method: PATCH}, {path: {value: /path4}, "+with("version: three")+", method: DELETE}", "infra-v1",
			prefix("/path5"), "infra-v1", "{method: PATCH}", "infra-v2", "{"+with("version: four")+"}", "infra-v3")),
			[]ask{
				{method: "POST", to: "infra-v1"}, {method: "GET", to: "infra-v2"}, {method: "HEAD", status: 404},
				{method: "GET", path: "/path1", to: "infra-v1"}, {method: "PUT", header: "version: one", to: "infra-v2"},
				{method: "POST", path: "/path2", header: "version: two", to: "infra-v3"},
				{method: "PATCH", path: "/path3", to: "infra-v1"}, {method: "DELETE", path: "/path4", header: "version: three", to: "infra-v1"},
				{method: "PUT", status: 404}, {method: "DELETE", path: "/path4", status: 404},
				{method: "PATCH", path: "/path5", to: "infra-v1"}, {method: "PATCH", header: "version: four", to: "infra-v2"},
			}},
		{"HTTPRouteQueryParamMatching", httpRoute("query", "same-namespace", rules(
			"{queryParams: [{name: animal, value: whale}]}", "infra-v1", "{queryParams: [{name: animal, value: dolphin}]}", "infra-v2",
			"{queryParams: [{name: animal, value: dolphin}, {name: color, value: blue}]}, {queryParams: [{name: ANIMAL, value: Whale}]}", "infra-v3",
			"{path: {value: /path1}, queryParams: [{name: animal, value: whale}]}", "infra-v1",
			"{"+with("version: one")+", queryParams: [{name: animal, value: whale}]}", "infra-v2",
			"{path: {value: /path2}, "+with("version: two")+", queryParams: [{name: animal, value: whale}]}", "infra-v3",
			"{path: {value: /path3}, queryParams: [{name: animal, value: shark}]}, {path: {value: /path4}, "+with("version: three")+", queryParams: [{name: animal, value: kraken}]}", "infra-v1",
			"{path: {value: /path5}, queryParams: [{name: animal, value: hydra}]}", "infra-v1",
			"{queryParams: [{name: animal, value: hydra}]}", "infra-v2",
			"{"+with("version: four")+"}", "infra-v3")),
			[]ask{
				{path: "/?animal=whale", to: "infra-v1"}, {path: "/?animal=dolphin", to: "infra-v2"}, {path: "/?animal=dolphin&color=blue", to: "infra-v3"},
				{path: "/?ANIMAL=Whale", to: "infra-v3"}, {path: "/?animal=whale&otherparam=irrelevant", to: "infra-v1"},
				{path: "/?animal=dolphin&color=yellow", to: "infra-v2"},
				{path: "/?color=blue", status: 404}, {path: "/?animal=dog", status: 404}, {path: "/?animal=whaledolphin", status: 404}, {status: 404},
				{path: "/path1?animal=whale", to: "infra-v1"}, {path: "/?animal=whale", header: "version: one", to: "infra-v2"},
				{path: "/path2?animal=whale", header: "version: two", to: "infra-v3"}, {path: "/path3?animal=shark", to: "infra-v1"},
				{path: "/path4?animal=kraken", header: "version: three", to: "infra-v1"},
				{path: "/?animal=shark", status: 404}, {path: "/path4?animal=kraken", status: 404},
				{path: "/path5?animal=hydra", to: "infra-v1"}, {path: "/?animal=hydra", header: "version: four", to: "infra-v3"},
			}},
		{"HTTPRouteRuleOrder", httpRoute("order", "same-namespace", rules(
			"{path: {type: Exact, value: /rule-order}, "+with("x-version: one", "x-color: blue")+"}", "infra-v1",
			"{path: {type: Exact, value: /rule-order}, "+with("x-color: blue", "x-version: one")+"}", "infra-v2")),
			[]ask{{path: "/rule-order", header: "x-color: blue|x-version: one", to: "infra-v1"}}},
		{"HTTPRouteNamedRouteRule", httpRoute("named", "same-namespace", "  rules:\n"+
			"    - {name: named-rule, matches: ["+prefix("/named")+"], "+to("infra-v1")+"}\n"+
			"    - {matches: ["+prefix("/unnamed")+"], "+to("infra-v2")+"}\n"),
			[]ask{{path: "/named", to: "infra-v1"}, {path: "/unnamed", to: "infra-v2"}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			b.serves(t, sameNamespace+c.manifests).asks(c.asks...)
		})
	}
}
