package canary_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/gatemesh-go/gatemesh"
	"github.com/gatemesh-go/gatemesh/canary"
)

func withServices(t testing.TB, s services) *canary.Splitter {
	t.Helper()
	return newSplitter(t, "", s)
}

func to(service string) callOption {
	return func(in *gatemesh.CallInfo) {
		in.Destination = gatemesh.Destination{Service: service, Namespace: "production", Port: 8080}
	}
}

func TestServices(t *testing.T) {
	t.Parallel()
	rule := &gatemesh.Route{Name: "vs/0", Backends: []gatemesh.WeightedDestination{subset("orders", "v1", 90), subset("orders", "v2", 10)}}
	redirect := &gatemesh.Route{Name: "vs/redirect"}
	s := withServices(t, services{"orders": rule, "moved": redirect, "empty": {Backends: []gatemesh.WeightedDestination{subset("empty", "v1", 0)}}})

	adm, err := s.Admit(t.Context(), call(t, as("user-1"), to("orders")))
	require.NoError(t, err)
	assert.Same(t, rule, adm.ServiceRoute)
	require.NotNil(t, adm.ServiceBackend)
	assert.Nil(t, adm.Backend, "the route had one to choose")
	assert.Equal(t, adm.ServiceBackend.Destination.Subset, adm.Lane)
	want := adm.ServiceBackend.Destination
	want.Port = 8080
	assert.Equal(t, want, *adm.Destination, "the port is that of the call")

	adm, err = s.Admit(t.Context(), call(t, to("moved")))
	require.NoError(t, err)
	assert.Equal(t, gatemesh.Admission{ServiceRoute: redirect}, adm, "a rule that answers itself has nothing to choose")

	adm, err = s.Admit(t.Context(), call(t, to("unknown")))
	require.NoError(t, err)
	assert.Equal(t, gatemesh.Admission{}, adm)

	_, err = s.Admit(t.Context(), call(t, to("orders"), with("X-Refused", "1")))
	require.EqualError(t, err, "not_found: no_rule: No.", "the refusal is the router's own")

	_, err = s.Admit(t.Context(), call(t, to("empty")))
	require.EqualError(t, err, "internal: no_backend: The request could not be processed.", "0 is never chosen")
}

// TestBothDecisions: a backend of the route first, and then of what is said
// about its service.
func TestBothDecisions(t *testing.T) {
	t.Parallel()
	s := withServices(t, services{
		"orders": {Name: "vs/0", Backends: []gatemesh.WeightedDestination{subset("orders", "v1", 50), subset("orders", "v2", 50)}},
	})
	r := []gatemesh.WeightedDestination{
		{Destination: gatemesh.Destination{Service: "orders", Namespace: "production", Port: 80}, Weight: 80},
		{Destination: gatemesh.Destination{Service: "orders-next", Namespace: "production", Port: 81}, Weight: 20},
	}
	count := map[string]int{}
	for i := range 20_000 {
		adm, err := s.Admit(t.Context(), call(t, as(fmt.Sprint(i)), route("r", r...)))
		require.NoError(t, err)
		require.NotNil(t, adm.Backend)
		count[adm.Destination.String()]++
		if adm.Backend == &r[1] {
			require.Nil(t, adm.ServiceRoute)
		}
	}
	require.Len(t, count, 3)
	assert.InDelta(t, 8000, count["orders.production/v1:80"], 300)
	assert.InDelta(t, 8000, count["orders.production/v2:80"], 300, "the two decisions are independent")
	assert.InDelta(t, 4000, count["orders-next.production:81"], 300)
}

func TestPX01_ServicesByWeight(t *testing.T) {
	t.Parallel()
	rule := func(v1, v2 uint32) services {
		return services{"orders": {Backends: []gatemesh.WeightedDestination{subset("orders", "v1", v1), subset("orders", "v2", v2)}}}
	}
	const n = 20_000
	before, after := withServices(t, rule(90, 10)), withServices(t, rule(80, 20))
	count, moved := 0, 0
	for i := range n {
		c := call(t, as(fmt.Sprintf("user-%d", i)), to("orders"))
		v, later := version(t, before, c), version(t, after, c)
		if v == "v2" {
			count++
		}
		if v != later {
			moved++
			require.Equal(t, "v2", later, "users move toward the canary alone")
		}
	}
	assert.InDelta(t, 10, 100*float64(count)/n, 0.7)
	assert.InDelta(t, 10, 100*float64(moved)/n, 0.7)
}

func TestServicesAndLanes(t *testing.T) {
	t.Parallel()
	s := withServices(t, services{
		"mixed":  {Backends: []gatemesh.WeightedDestination{subset("mixed", "v1", 99), subset("mixed", "v2", 1)}},
		"zero":   {Backends: []gatemesh.WeightedDestination{subset("zero", "v1", 1), subset("zero", "v2", 0)}, Lanes: []gatemesh.WeightedDestination{subset("zero", "v2", 1)}},
		"header": {Backends: []gatemesh.WeightedDestination{subset("header", "v1", 1)}, Lanes: []gatemesh.WeightedDestination{subset("header", "v2", 1), subset("header", "v3", 0)}},
		"none":   {Backends: []gatemesh.WeightedDestination{subset("none", "v1", 1)}},
	})
	tests := []struct {
		service, lane, want, why string
	}{
		{"mixed", "v2", "v2", "the lane goes before the weights"},
		{"zero", "v2", "v1", "what the rule itself says of a subset goes before other rules"},
		{"header", "v2", "v2", "another rule of the service has the subset"},
		{"header", "v3", "v1", "a version without weight is never chosen"},
		{"none", "v2", "v1", "a lane that nobody serves means nothing"},
	}
	for _, tt := range tests {
		t.Run(tt.service+"/"+tt.lane, func(t *testing.T) {
			t.Parallel()
			for i := range 20 {
				assert.Equal(t, tt.want, version(t, s, call(t, as(fmt.Sprint(i)), to(tt.service), lane(tt.lane))), tt.why)
			}
		})
	}
}

// TestOutbound: the same layer on the calls that a service makes.
func TestOutbound(t *testing.T) {
	t.Parallel()
	s := withServices(t, services{
		"orders": {Name: "vs/0", Backends: []gatemesh.WeightedDestination{subset("orders", "v1", 50), subset("orders", "v2", 50)}},
	})
	out, err := gatemesh.NewOutbound(gatemesh.OutboundConfig{
		Mesh:   gatemesh.MeshHosts(map[string]gatemesh.Destination{"orders": {Service: "orders", Namespace: "production"}}),
		Layers: []gatemesh.Layer{s.Layer()},
	})
	require.NoError(t, err)
	var got *gatemesh.Call
	client := out.Transport(roundTripper(func(r *http.Request) (*http.Response, error) {
		got = gatemesh.FromContext(r.Context())
		return httptest.NewRecorder().Result(), nil
	}))
	r, err := http.NewRequestWithContext(t.Context(), "GET", "http://orders/1", nil)
	require.NoError(t, err)
	resp, err := client.RoundTrip(r)
	require.NoError(t, err)
	require.NoError(t, resp.Body.Close())
	require.NotNil(t, got.ServiceBackend())
	assert.Equal(t, "vs/0", got.ServiceRoute().Name)
	assert.Equal(t, got.Destination().Subset, got.Lane())
	assert.NotEmpty(t, got.Lane())
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func TestManyPorts(t *testing.T) {
	t.Parallel()
	s := withServices(t, services{"orders": {Backends: []gatemesh.WeightedDestination{subset("orders", "v1", 1)}}})
	for port := range 300 {
		adm, err := s.Admit(t.Context(), call(t, func(in *gatemesh.CallInfo) {
			in.Destination = gatemesh.Destination{Service: "orders", Port: uint16(port + 1)}
		}))
		require.NoError(t, err)
		require.Equal(t, uint16(port+1), adm.Destination.Port)
	}
}

func TestServicesAllocations(t *testing.T) {
	s := withServices(t, services{"orders": {Backends: []gatemesh.WeightedDestination{subset("orders", "v1", 50), subset("orders", "v2", 50)}}})
	ctx := t.Context()
	for name, c := range map[string]*gatemesh.Call{
		"by subject": call(t, as("user-1"), to("orders")),
		"in a lane":  call(t, as("user-1"), to("orders"), lane("v2")),
	} {
		assert.Zero(t, testing.AllocsPerRun(100, func() { _, _, _ = s.AdmitCached(ctx, c) }), name)
	}
}
