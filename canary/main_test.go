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

// weighted returns a split of user-service into v1, v2, … by weight.
func weighted(weights ...uint32) canary.Split {
	return canary.Split{Service: "user-service", Namespace: "production", Rules: []canary.Rule{{Targets: targets(weights...)}}}
}

func targets(weights ...uint32) []canary.Target {
	ts := make([]canary.Target, len(weights))
	for i, w := range weights {
		ts[i] = canary.Target{Subset: "v" + strconv.Itoa(i+1), Weight: w}
	}
	return ts
}

func newSplitter(t testing.TB, salt string, splits ...canary.Split) *canary.Splitter {
	t.Helper()
	s, err := canary.New(canary.Config{Salt: salt, Splits: splits})
	require.NoError(t, err)
	return s
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
