package canary_test

import (
	"net/http"
	"net/netip"
	"strconv"
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/gatemesh-go/gatemesh"
	"github.com/gatemesh-go/gatemesh/canary"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// users is the destination that a route gives in these tests.
var users = gatemesh.Destination{Service: "user-service", Namespace: "production", Port: 8080}

// services is a ServiceRouter with one rule a service, whatever the namespace.
type services map[string]*gatemesh.Route

func (s services) RouteTo(c *gatemesh.Call, d gatemesh.Destination) (*gatemesh.Route, error) {
	if c.Header().Get("X-Refused") != "" {
		return nil, gatemesh.Deny(gatemesh.NotFound, "no_rule", "No.")
	}
	return s[d.Service], nil
}

func subset(service, name string, weight uint32) gatemesh.WeightedDestination {
	return gatemesh.WeightedDestination{
		Destination: gatemesh.Destination{Service: service, Namespace: "production", Subset: name}, Weight: weight,
	}
}

// weighted says that user-service consists of v1, v2, … by weight.
func weighted(weights ...uint32) services {
	return services{"user-service": rule("user-service", weights...)}
}

func rule(service string, weights ...uint32) *gatemesh.Route {
	r := &gatemesh.Route{Name: service}
	for i, w := range weights {
		r.Backends = append(r.Backends, subset(service, "v"+strconv.Itoa(i+1), w))
	}
	return r
}

func newSplitter(t testing.TB, salt string, s gatemesh.ServiceRouter) *canary.Splitter {
	t.Helper()
	split, err := canary.New(canary.Config{Salt: salt, Services: s})
	require.NoError(t, err)
	return split
}

type callOption func(*gatemesh.CallInfo)

func call(t testing.TB, options ...callOption) *gatemesh.Call {
	t.Helper()
	in := gatemesh.CallInfo{
		Host: "api.example.com", Path: "/v1/users", RemoteAddr: netip.MustParseAddrPort("192.0.2.1:4711"),
		Route: &gatemesh.Route{Name: "production/user-service-route/0"}, Destination: users,
	}
	for _, o := range options {
		o(&in)
	}
	c, err := gatemesh.NewCall(in)
	require.NoError(t, err)
	return c
}

func as(subject string) callOption {
	return func(in *gatemesh.CallInfo) {
		in.Principal = gatemesh.NewPrincipal(gatemesh.PrincipalInfo{Issuer: "https://idp.example", Subject: subject, Method: "jwt"})
	}
}

func from(addr string) callOption {
	return func(in *gatemesh.CallInfo) { in.RemoteAddr = netip.AddrPortFrom(netip.MustParseAddr(addr), 4711) }
}

func with(name string, values ...string) callOption {
	return func(in *gatemesh.CallInfo) { in.Header = http.Header{name: values} }
}

func lane(name string) callOption { return func(in *gatemesh.CallInfo) { in.Lane = name } }

func route(name string, backends ...gatemesh.WeightedDestination) callOption {
	return func(in *gatemesh.CallInfo) {
		in.Route, in.Destination = &gatemesh.Route{Name: name, Backends: backends}, gatemesh.Destination{}
	}
}

// version returns the lane that s chooses for c.
func version(t testing.TB, s *canary.Splitter, c *gatemesh.Call) string {
	t.Helper()
	adm, err := s.Admit(t.Context(), c)
	require.NoError(t, err)
	return adm.Lane
}
