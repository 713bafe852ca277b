//go:build unix

package bench

import (
	"flag"
	"fmt"
	"net/http"
	"net/netip"
	"runtime"
	"strings"
	"testing"

	"github.com/go-chi/chi/v5"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/gatemesh-go/gatemesh"
	"github.com/gatemesh-go/gatemesh/routing"
)

// The route table of a shop: of every ten routes of a service, half are looked
// up by method and path with parameters, and the others are a prefix, a path as
// a whole, one of two methods, one with a header field, and a regular
// expression. Ten services share a host.
//
//   - gatemesh is routing.Router.Admit, of calls that Entry would make.
//   - servemux is http.ServeMux.Handler, which finds the handler and calls none.
//     It knows hosts, and neither header fields nor regular expressions, so that
//     these routes are wildcards of it.
//   - chi is Mux.Match with a context of chi's own that is used again, which is
//     what chi does between requests. It knows neither hosts nor header fields,
//     and has the regular expression.

var routeRounds = flag.Int("route.rounds", 3, "rounds of TestRouteCost")

// shopRoute is one route, as each contestant writes it, and a call for it.
type shopRoute struct {
	method, host string
	match        routing.Match
	mux, chi     string // patterns of paths
	path         string // of the call
	header       http.Header
}

func shop(n int) []shopRoute {
	routes := make([]shopRoute, n)
	for i := range routes {
		base := fmt.Sprintf("/v1/service-%d", i/10)
		r := shopRoute{method: "GET", host: fmt.Sprintf("shop-%d.example.com", i/100)}
		in := func(kind routing.PathType, path string) { r.match.Path = routing.PathMatch{Type: kind, Value: path} }
		same := func(pattern string) { r.mux, r.chi = base+pattern, base+pattern }
		switch i % 10 {
		case 0:
			in(routing.PathPrefix, base+"/assets")
			r.mux, r.chi, r.path = base+"/assets/", base+"/assets/*", base+"/assets/css/main.css"
		case 1:
			in(routing.PathExact, base+"/users")
			same("/users")
			r.path = base + "/users"
		case 2:
			in(routing.PathExact, base+"/users")
			same("/users")
			r.method, r.path = "POST", base+"/users"
		case 3:
			in(routing.PathPrefix, base+"/beta")
			r.match.Headers = []routing.HeaderMatch{{Name: "X-Beta", Value: "true"}}
			r.mux, r.chi, r.path, r.header = base+"/beta/", base+"/beta/*", base+"/beta/users/7", http.Header{"X-Beta": {"true"}}
		case 4:
			in(routing.PathRegex, base+"/orders/[0-9]+")
			r.mux, r.chi, r.path = base+"/orders/{id}", base+"/orders/{id:[0-9]+}", base+"/orders/4711"
		default: // paths with parameters, which to gatemesh are what they begin with
			what := []string{"carts", "items", "bills", "mails", "votes"}[i%10-5]
			in(routing.PathPrefix, base+"/"+what)
			r.method = []string{"GET", "PUT", "DELETE", "PATCH", "GET"}[i%10-5]
			same("/" + what + "/{id}/lines/{line}")
			r.path = base + "/" + what + "/815/lines/3"
		}
		r.match.Method = r.method
		routes[i] = r
	}
	return routes
}

// sought returns which of n routes are called: 64 of all kinds, or all.
func sought(n int) []int {
	out := make([]int, 0, asked)
	for i := range min(n, asked) {
		out = append(out, (i*n/min(n, asked)+i)%n)
	}
	return out
}

// routeTable is a contestant, and finds the route of call i.
type routeTable struct {
	name string
	find func(i int) error
}

func gatemeshTable(tb testing.TB, n int) routeTable {
	to := gatemesh.Destination{Service: "backend", Namespace: "production", Port: 8080}
	cfg := routing.Config{Upstreams: []routing.Upstream{{Service: to.Service, URL: "http://127.0.0.1:1"}}}
	all := shop(n)
	for i, r := range all {
		cfg.Routes = append(cfg.Routes, routing.Route{
			Name: fmt.Sprintf("production/shop/%d", i), Hostnames: []string{r.host}, Matches: []routing.Match{r.match},
			Backends: []routing.Backend{{Destination: to, Weight: 1}},
		})
	}
	router, err := routing.New(cfg)
	require.NoError(tb, err)
	tb.Cleanup(func() { require.NoError(tb, router.Close()) })
	var calls []*gatemesh.Call
	var want []string
	for _, k := range sought(n) {
		c, err := gatemesh.NewCall(gatemesh.CallInfo{
			Method: all[k].method, Host: all[k].host, Path: all[k].path, Header: all[k].header, LocalAddr: netip.MustParseAddrPort("192.0.2.1:443"),
		})
		require.NoError(tb, err)
		calls, want = append(calls, c), append(want, cfg.Routes[k].Name)
	}
	ctx := tb.Context()
	return routeTable{fmt.Sprintf("gatemesh-%d", n), func(i int) error {
		i %= len(calls)
		adm, err := router.Admit(ctx, calls[i])
		if err == nil && adm.Route.Name != want[i] {
			return fmt.Errorf("found %s instead of %s", adm.Route.Name, want[i])
		}
		return err
	}}
}

func requestsFor(tb testing.TB, all []shopRoute) []*http.Request {
	var out []*http.Request
	for _, k := range sought(len(all)) {
		r, err := http.NewRequestWithContext(tb.Context(), all[k].method, "https://"+all[k].host+all[k].path, nil)
		require.NoError(tb, err)
		out = append(out, r)
	}
	return out
}

func muxTable(tb testing.TB, n int) routeTable {
	mux, all := http.NewServeMux(), shop(n)
	var want []string
	for _, r := range all {
		mux.Handle(r.method+" "+r.host+r.mux, http.NotFoundHandler())
	}
	for _, k := range sought(n) {
		want = append(want, all[k].method+" "+all[k].host+all[k].mux)
	}
	requests := requestsFor(tb, all)
	return routeTable{fmt.Sprintf("servemux-%d", n), func(i int) error {
		i %= len(requests)
		if _, got := mux.Handler(requests[i]); got != want[i] {
			return fmt.Errorf("found %s instead of %s", got, want[i])
		}
		return nil
	}}
}

func chiTable(tb testing.TB, n int) routeTable {
	mux, all := chi.NewRouter(), shop(n)
	for _, r := range all {
		mux.Method(r.method, r.chi, http.NotFoundHandler())
	}
	requests, ctx := requestsFor(tb, all), chi.NewRouteContext()
	want := make([]string, 0, len(requests))
	for _, k := range sought(n) {
		want = append(want, all[k].chi)
	}
	return routeTable{fmt.Sprintf("chi-%d", n), func(i int) error {
		i %= len(requests)
		ctx.Reset()
		if got := mux.Find(ctx, requests[i].Method, requests[i].URL.Path); got != want[i] {
			return fmt.Errorf("found %s instead of %s", got, want[i])
		}
		return nil
	}}
}

// routeTables are the contestants. Each has found every route before it is timed.
func routeTables(tb testing.TB) []routeTable {
	all := []routeTable{gatemeshTable(tb, 10), gatemeshTable(tb, 10_000), muxTable(tb, 10), chiTable(tb, 10)}
	for _, c := range all {
		for i := range asked {
			require.NoError(tb, c.find(i), c.name)
		}
	}
	return all
}

// BenchmarkRoute is what it costs to find the route of a call.
func BenchmarkRoute(b *testing.B) {
	for _, c := range routeTables(b) {
		b.Run(c.name, func(b *testing.B) {
			i := 0
			b.ReportAllocs()
			for b.Loop() {
				if err := c.find(i); err != nil {
					b.Fatal(err)
				}
				i++
			}
		})
	}
}

// TestRouteAllocations holds that finding a route allocates nothing, in a table
// of any size.
func TestRouteAllocations(t *testing.T) {
	for _, n := range []int{10, 10_000} {
		c, i := gatemeshTable(t, n), 0
		assert.Zero(t, testing.AllocsPerRun(4*asked, func() {
			if err := c.find(i); err != nil {
				t.Error(err)
			}
			i++
		}), c.name)
	}
}

// TestRouteCost prints the contestants side by side, as medians of rounds in
// which they take turns:
//
//	go test -run RouteCost -v ./bench -route.rounds 15 -credential.time 300ms
//
// The goal, which -strict asserts: within 300 ns at 10 and at 10,000 routes.
func TestRouteCost(t *testing.T) {
	all := routeTables(t)
	costs := make([][]cost, len(all))
	for range *routeRounds {
		for i, c := range all {
			costs[i] = append(costs[i], pace(t, everybody(c.name, c.find), 1, *credentialTime))
		}
	}
	cpu := func(c cost) float64 { return c.cpu }
	var report strings.Builder
	fmt.Fprintf(&report, "\nCPU time to find a route, medians of %d rounds of %v, over up to %d different routes; GOMAXPROCS %d\n",
		*routeRounds, *credentialTime, asked, runtime.GOMAXPROCS(0))
	fmt.Fprintf(&report, "%-18s %10s %14s\n", "", "ns", "by ours at 10")
	for i, c := range all {
		fmt.Fprintf(&report, "%-18s %10.0f %14.2f\n", c.name, median(costs[i], cpu), ratio(costs[i], costs[0]))
	}
	t.Log(report.String())
	if *strict {
		for i := range 2 {
			assert.LessOrEqual(t, median(costs[i], cpu), 300.0, all[i].name)
		}
	}
}
