package canary_test

import (
	"fmt"
	"math"
	"net/netip"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/gatemesh-go/gatemesh"
	"github.com/gatemesh-go/gatemesh/canary"
	"github.com/gatemesh-go/gatemesh/routing"
)

func TestZeroConfig(t *testing.T) {
	t.Parallel()
	s := newSplitter(t, "", nil)
	adm, err := s.Admit(t.Context(), call(t))
	require.NoError(t, err)
	assert.Equal(t, gatemesh.Admission{}, adm, "a service of which nothing is said is left alone")
}

func TestPX01_Shares(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name    string
		salt    string
		weights []uint32
		want    []float64 // in percent, by version
	}{
		{"90/10", "", []uint32{90, 10}, []float64{90, 10}},
		{"90/10 other salt", "blue", []uint32{90, 10}, []float64{90, 10}},
		{"90/10 long salt", "d41d8cd98f00b204e9800998ecf8427e", []uint32{90, 10}, []float64{90, 10}},
		{"sum is not 100", "", []uint32{9, 1}, []float64{90, 10}},
		{"large weights", "", []uint32{4_000_000_000, 4_000_000_000}, []float64{50, 50}},
		{"0/100", "", []uint32{0, 100}, []float64{0, 100}},
		{"100/0", "", []uint32{100, 0}, []float64{100, 0}},
		{"three", "", []uint32{80, 15, 5}, []float64{80, 15, 5}},
		{"four with a zero", "", []uint32{70, 0, 20, 10}, []float64{70, 0, 20, 10}},
		{"one", "", []uint32{1}, []float64{100}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			const n = 100_000
			s := newSplitter(t, tt.salt, weighted(tt.weights...))
			count := map[string]int{}
			for i := range n {
				count[version(t, s, call(t, as(fmt.Sprintf("user-%d", i))))]++
			}
			for i, want := range tt.want {
				got := 100 * float64(count[fmt.Sprintf("v%d", i+1)]) / n
				if want == 0 || want == 100 {
					assert.Equal(t, want, got, "v%d", i+1)
				}
				assert.InDelta(t, want, got, 0.5, "v%d", i+1)
			}
		})
	}
}

// TestPX01_SmallPopulation: whom a hash picks of 2,000 users is a matter of
// chance, one point to either side being 1.5 standard deviations. What it must
// not be is worse than chance.
func TestPX01_SmallPopulation(t *testing.T) {
	t.Parallel()
	share := func(salt string) float64 {
		s, n := newSplitter(t, salt, weighted(90, 10)), 0
		for i := range 2000 {
			if version(t, s, call(t, as(fmt.Sprintf("user-%d", i)))) == "v2" {
				n++
			}
		}
		return float64(n) / 20
	}
	assert.InDelta(t, 10, share(""), 1)
	const salts = 50
	squares := 0.0
	for i := range salts {
		d := share(fmt.Sprintf("salt-%d", i)) - 10
		squares += d * d
	}
	deviation := math.Sqrt(squares / salts)
	assert.InDelta(t, math.Sqrt(0.1*0.9/2000)*100, deviation, 0.2)
}

func TestPX01_Sticky(t *testing.T) {
	t.Parallel()
	a, b := newSplitter(t, "", weighted(50, 50)), newSplitter(t, "", weighted(50, 50))
	for i := range 200 {
		who := as(fmt.Sprintf("user-%d", i))
		want := version(t, a, call(t, who))
		assert.Equal(t, want, version(t, a, call(t, who, from("198.51.100.7"), with("User-Agent", "other"))),
			"nothing but the user counts")
		assert.Equal(t, want, version(t, b, call(t, who)), "replicas agree")
	}
}

func TestPX01_WeightMoved(t *testing.T) {
	t.Parallel()
	s := newSplitter(t, "", weighted(90, 10))
	before := make([]string, 10_000)
	for i := range before {
		before[i] = version(t, s, call(t, as(fmt.Sprintf("user-%d", i))))
	}
	require.NoError(t, s.Update(canary.Config{Services: weighted(80, 20)}))
	moved := 0
	for i := range before {
		after := version(t, s, call(t, as(fmt.Sprintf("user-%d", i))))
		if after != before[i] {
			moved++
			assert.Equal(t, "v2", after, "users move toward the canary alone")
		}
	}
	assert.InDelta(t, 10, float64(moved)/100, 1)

	require.NoError(t, s.Update(canary.Config{Services: weighted(90, 10)}))
	for i := range before {
		assert.Equal(t, before[i], version(t, s, call(t, as(fmt.Sprintf("user-%d", i)))), "and back")
	}
}

// virtualService is a route table with the rules of the usual canary document.
func virtualService(t testing.TB) *routing.Router {
	t.Helper()
	version := func(name string, weight uint32) routing.Backend {
		return routing.Backend{Destination: subset("user-service", name, 0).Destination, Weight: weight}
	}
	r, err := routing.New(routing.Config{
		Routes: []routing.Route{{Name: "users", Backends: []routing.Backend{{Destination: users, Weight: 1}}}},
		Services: []routing.Service{{Service: "user-service", Namespace: "production", Rules: []routing.Route{
			{Name: "asked", Matches: []routing.Match{{Headers: []routing.HeaderMatch{{Name: "x-canary", Value: "true"}}}}, Backends: []routing.Backend{version("v2", 1)}},
			{Name: "rest", Backends: []routing.Backend{version("v1", 90), version("v2", 10)}},
		}}},
		Upstreams: []routing.Upstream{
			{Service: "user-service", Subset: "v1", URL: "http://127.0.0.1:1"}, {Service: "user-service", Subset: "v2", URL: "http://127.0.0.1:1"},
		},
	})
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, r.Close()) })
	return r
}

func TestPX01_HeaderDecidesOnlyWhereARuleSaysSo(t *testing.T) {
	t.Parallel()
	plain, enabled := newSplitter(t, "", weighted(100, 0)), newSplitter(t, "", virtualService(t))
	for _, name := range []string{"X-Canary", "X-Version", "X-Lane", "Cookie"} {
		assert.Equal(t, "v1", version(t, plain, call(t, with(name, "true"))), name)
	}
	stable := as("user-0")
	require.Equal(t, "v1", version(t, enabled, call(t, stable)))
	assert.Equal(t, "v2", version(t, enabled, call(t, stable, with("X-Canary", "true"))))
	assert.Equal(t, "v1", version(t, enabled, call(t, stable, with("X-Canary", "TRUE"))))
	assert.Equal(t, "v1", version(t, enabled, call(t, stable, with("X-Canary", "true "))))
	assert.Equal(t, "v1", version(t, enabled, call(t, stable, with("X-Canary", "true", "true"))), "repeated fields match nothing")
	assert.Equal(t, "v1", version(t, enabled, call(t, stable, with("X-Canary", "true", "false"))))
}

func TestDestination(t *testing.T) {
	t.Parallel()
	s := newSplitter(t, "", services{
		"user-service": rule("user-service", 0, 1),
		"orders": {Backends: []gatemesh.WeightedDestination{{
			Destination: gatemesh.Destination{Service: "orders-next", Namespace: "staging", Port: 9000}, Weight: 1,
		}}},
	})
	to := func(d gatemesh.Destination) callOption {
		return func(in *gatemesh.CallInfo) { in.Destination = d }
	}
	tests := []struct {
		name       string
		from, want gatemesh.Destination
	}{
		{"the route's port is kept", users, gatemesh.Destination{Service: "user-service", Namespace: "production", Subset: "v2", Port: 8080}},
		{"another port", gatemesh.Destination{Service: "user-service", Namespace: "production", Port: 9090}, gatemesh.Destination{Service: "user-service", Namespace: "production", Subset: "v2", Port: 9090}},
		{"no port", gatemesh.Destination{Service: "user-service", Namespace: "production"}, gatemesh.Destination{Service: "user-service", Namespace: "production", Subset: "v2"}},
		{"another service", gatemesh.Destination{Service: "orders", Port: 8080}, gatemesh.Destination{Service: "orders-next", Namespace: "staging", Port: 9000}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			for range 2 {
				adm, err := s.Admit(t.Context(), call(t, to(tt.from)))
				require.NoError(t, err)
				require.NotNil(t, adm.Destination)
				assert.Equal(t, tt.want, *adm.Destination)
				assert.Equal(t, tt.want.Subset, adm.Lane)
			}
		})
	}
	t.Run("a subset of the route is final", func(t *testing.T) {
		t.Parallel()
		d := users
		d.Subset = "v1"
		adm, err := s.Admit(t.Context(), call(t, to(d)))
		require.NoError(t, err)
		assert.Equal(t, gatemesh.Admission{Lane: "v1"}, adm)
	})
}

func TestUserKey(t *testing.T) {
	t.Parallel()
	s := newSplitter(t, "", weighted(50, 50))
	both := func(a, b []callOption, n int) (same int) {
		for i := range n {
			salted := func(in *gatemesh.CallInfo) { in.Destination.Port = uint16(i + 1) }
			if version(t, s, call(t, append(a, salted)...)) == version(t, s, call(t, append(b, salted)...)) {
				same++
			}
		}
		return same
	}
	assert.Equal(t, 1, both([]callOption{from("2001:db8::1")}, []callOption{from("2001:db8::ffff:1")}, 1), "one /64")
	assert.Equal(t, 1, both([]callOption{from("::ffff:192.0.2.9")}, []callOption{from("192.0.2.9")}, 1))

	customer := func(address string) []callOption {
		return []callOption{from(address), func(in *gatemesh.CallInfo) {
			in.Principal = gatemesh.NewPrincipal(gatemesh.PrincipalInfo{Consumer: "customer"})
		}}
	}
	for i := range 20 {
		assert.Equal(t, 1, both(customer("192.0.2.1"), customer(fmt.Sprint("198.51.100.", i)), 1), "a consumer, wherever it is")
	}
	// A call that we make for somebody, in our own name.
	for i := range 20 {
		parent := call(t, as(fmt.Sprint("parent-", i)))
		own := func(in *gatemesh.CallInfo) { in.Parent, in.Destination = parent, users }
		assert.Equal(t, 1, both([]callOption{as("ours")}, []callOption{as("ours"), own}, 1), "who is named on it goes before")
	}

	differ := func(name string, pair func(i int) (a, b callOption)) {
		n := 0
		for i := range 400 {
			a, b := pair(i)
			if version(t, s, call(t, a)) != version(t, s, call(t, b)) {
				n++
			}
		}
		assert.InDelta(t, 200, n, 60, name)
	}
	differ("/64s", func(i int) (a, b callOption) {
		return from(fmt.Sprintf("2001:db8:0:%x::1", i)), from(fmt.Sprintf("2001:db8:1:%x::1", i))
	})
	differ("issuers", func(i int) (a, b callOption) {
		who := func(iss string) callOption {
			return func(in *gatemesh.CallInfo) {
				in.Principal = gatemesh.NewPrincipal(gatemesh.PrincipalInfo{Issuer: iss, Subject: fmt.Sprint(i)})
			}
		}
		return who("a"), who("b")
	})
	differ("subject and consumer", func(i int) (a, b callOption) {
		return as(fmt.Sprint(i)), func(in *gatemesh.CallInfo) {
			in.Principal = gatemesh.NewPrincipal(gatemesh.PrincipalInfo{Consumer: fmt.Sprint(i)})
		}
	})
	differ("where one part ends", func(i int) (a, b callOption) {
		who := func(iss, sub string) callOption {
			return func(in *gatemesh.CallInfo) {
				in.Principal = gatemesh.NewPrincipal(gatemesh.PrincipalInfo{Issuer: iss, Subject: sub})
			}
		}
		return who("a", fmt.Sprintf("b%d", i)), who("ab", fmt.Sprint(i))
	})
	differ("requests without an address", func(int) (a, b callOption) {
		none := func(in *gatemesh.CallInfo) { in.RemoteAddr = netip.AddrPort{} }
		return none, none
	})
}

func TestServicesDealDifferently(t *testing.T) {
	t.Parallel()
	s := newSplitter(t, "", services{"user-service": rule("user-service", 50, 50), "orders": rule("orders", 50, 50)})
	differ := 0
	for i := range 400 {
		who := as(fmt.Sprint(i))
		if version(t, s, call(t, who)) != version(t, s, call(t, who, func(in *gatemesh.CallInfo) { in.Destination.Service = "orders" })) {
			differ++
		}
	}
	assert.InDelta(t, 200, differ, 60)
}

func TestOutboundCallsFollowTheirParent(t *testing.T) {
	t.Parallel()
	s := newSplitter(t, "", weighted(50, 50))
	for i := range 50 {
		parent := call(t, as(fmt.Sprintf("user-%d", i)))
		child := call(t, func(in *gatemesh.CallInfo) { in.Parent = parent })
		assert.Equal(t, version(t, s, parent), version(t, s, child))
	}
}

func TestCarriedLane(t *testing.T) {
	t.Parallel()
	s := newSplitter(t, "", services{"user-service": rule("user-service", 100, 0), "orders": rule("orders", 99, 1)})
	orders := func(in *gatemesh.CallInfo) { in.Destination = gatemesh.Destination{Service: "orders"} }
	for i := range 50 {
		who := as(fmt.Sprintf("user-%d", i))
		assert.Equal(t, "v2", version(t, s, call(t, who, orders, lane("v2"))), "the lane goes before the weights")
		assert.Equal(t, "v1", version(t, s, call(t, who, lane("v2"))), "a version without weight is never chosen")
		assert.Equal(t, "v1", version(t, s, call(t, who, lane("v9"))), "an unknown lane means nothing")
	}
}

func TestBackends(t *testing.T) {
	t.Parallel()
	s := newSplitter(t, "", weighted(0, 1))
	backends := []gatemesh.WeightedDestination{
		{Destination: users, Weight: 80},
		{Destination: gatemesh.Destination{Service: "user-service-next", Subset: "blue"}, Weight: 20},
		{Destination: gatemesh.Destination{Service: "drained"}},
	}
	count, other := map[string]int{}, 0
	for i := range 20_000 {
		who := as(fmt.Sprintf("user-%d", i))
		adm, err := s.Admit(t.Context(), call(t, who, route("r", backends...)))
		require.NoError(t, err)
		again, err := s.Admit(t.Context(), call(t, who, route("r", backends...)))
		require.NoError(t, err)
		require.Equal(t, adm, again)
		count[adm.Destination.String()+" "+adm.Lane]++
		elsewhere, err := s.Admit(t.Context(), call(t, who, route("r2", backends...)))
		require.NoError(t, err)
		if elsewhere.Destination.Service != adm.Destination.Service {
			other++
		}
	}
	require.Len(t, count, 2)
	assert.InDelta(t, 16_000, count["user-service.production/v2:8080 v2"], 300, "what is said of the chosen backend's service applies")
	assert.InDelta(t, 4_000, count["user-service-next/blue blue"], 300)
	assert.InDelta(t, 2*0.8*0.2*20_000, other, 400, "routes deal the same users differently")

	_, err := s.Admit(t.Context(), call(t, route("r", backends[2])))
	var d *gatemesh.Denial
	require.ErrorAs(t, err, &d)
	assert.Equal(t, gatemesh.Internal, d.Code)
}

func TestUpdateKeepsTheOldOnError(t *testing.T) {
	t.Parallel()
	s := newSplitter(t, "", weighted(0, 1))
	require.Error(t, s.Update(canary.Config{Services: weighted(1, 0), Rollouts: []*canary.Rollout{nil}}))
	assert.Equal(t, "v2", version(t, s, call(t)))
}

func TestConcurrent(t *testing.T) {
	t.Parallel()
	s := newSplitter(t, "", weighted(50, 50))
	var wg sync.WaitGroup
	for g := range 4 {
		wg.Go(func() {
			for i := range 500 {
				c := call(t, as(fmt.Sprint(i)), func(in *gatemesh.CallInfo) { in.Destination.Port = uint16(1 + i%7) })
				adm, err := s.Admit(t.Context(), c)
				assert.NoError(t, err)
				assert.Equal(t, uint16(1+i%7), adm.Destination.Port)
				if g == 0 && i%10 == 0 {
					assert.NoError(t, s.Update(canary.Config{Services: weighted(50, uint32(50+i))}))
				}
			}
		})
	}
	wg.Wait()
}

func TestLayer(t *testing.T) {
	t.Parallel()
	s := newSplitter(t, "", nil)
	entry := gatemesh.Must(gatemesh.NewEntry(gatemesh.EntryConfig{}))
	giver := func(f gatemesh.Fact) gatemesh.Layer {
		return gatemesh.Layer{Name: string(f), Gives: []gatemesh.Fact{f}, Gate: gatemesh.GateFunc(nil)}
	}
	_, err := gatemesh.NewChain(entry, giver(gatemesh.FactRoute), giver(gatemesh.FactPrincipal), giver(gatemesh.FactPolicy), s.Layer())
	require.NoError(t, err)
	for _, f := range []gatemesh.Fact{gatemesh.FactRoute, gatemesh.FactPrincipal, gatemesh.FactPolicy} {
		_, err = gatemesh.NewChain(entry, s.Layer(), giver(f))
		require.ErrorContains(t, err, string(f))
	}

	// An outbound call has no route; one that came in and has none has met no
	// table, and goes nowhere.
	_, err = s.Admit(t.Context(), call(t, func(in *gatemesh.CallInfo) { in.Route, in.Destination = nil, gatemesh.Destination{} }))
	require.EqualError(t, err, "internal: no_route_table: The request could not be processed.")
	_, err = s.Admit(t.Context(), call(t, func(in *gatemesh.CallInfo) {
		in.Parent, in.Route, in.Destination = call(t), nil, gatemesh.Destination{}
	}))
	require.NoError(t, err)
}

func TestAllocations(t *testing.T) {
	s := newSplitter(t, "", virtualService(t))
	backends := []gatemesh.WeightedDestination{{Destination: users, Weight: 1}, {Destination: users, Weight: 1}}
	for name, c := range map[string]*gatemesh.Call{
		"by subject": call(t, as("user-1")),
		"by address": call(t),
		"by header":  call(t, with("X-Canary", "true")),
		"backends":   call(t, as("user-1"), route("r", backends...)),
	} {
		ctx := t.Context()
		assert.Zero(t, testing.AllocsPerRun(100, func() { _, _, _ = s.AdmitCached(ctx, c) }), name)
	}
}

// BenchmarkAdmit prints what a decision costs; CI bounds its allocations in
// TestAllocations.
func BenchmarkAdmit(b *testing.B) {
	s := newSplitter(b, "", virtualService(b))
	c := call(b, as("user-1"))
	ctx := b.Context()
	b.ReportAllocs()
	for b.Loop() {
		_, _ = s.Admit(ctx, c)
	}
}

// The Gateway API counts requests: callers that nobody knows share the services
// of a route one by one, also where all have one address. Known ones keep
// theirs, and so does everybody the version of a service.
func TestAnonymousCallsShareServices(t *testing.T) {
	t.Parallel()
	s := newSplitter(t, "", nil)
	services := []gatemesh.WeightedDestination{{Destination: gatemesh.Destination{Service: "a"}, Weight: 70}, {Destination: gatemesh.Destination{Service: "b"}, Weight: 30}}
	versions := []gatemesh.WeightedDestination{{Destination: gatemesh.Destination{Service: "a", Subset: "v1"}, Weight: 70}, {Destination: gatemesh.Destination{Service: "a", Subset: "v2"}, Weight: 30}}
	share := func(backends []gatemesh.WeightedDestination, who callOption) int {
		first := 0
		for i := range 10_000 {
			id := func(in *gatemesh.CallInfo) { in.RequestID = fmt.Sprintf("r-%d", i) }
			adm, err := s.Admit(t.Context(), call(t, who, id, from("192.0.2.1"), route("r", backends...)))
			require.NoError(t, err)
			if *adm.Destination == backends[0].Destination {
				first++
			}
		}
		return first
	}
	nobody := func(in *gatemesh.CallInfo) { in.Principal = nil }
	assert.InDelta(t, 7_000, share(services, nobody), 200)
	assert.Contains(t, []int{0, 10_000}, share(services, as("somebody")))
	assert.Contains(t, []int{0, 10_000}, share(versions, nobody))
}
