package ratelimit

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/gatemesh-go/gatemesh"
)

func keyOf(t *testing.T, k Key, in gatemesh.CallInfo) string {
	t.Helper()
	c, err := gatemesh.NewCall(in)
	require.NoError(t, err)
	b, err := k.append(nil, c)
	require.NoError(t, err)
	return string(b)
}

func clientKey(t *testing.T, k Key, addr string) string {
	t.Helper()
	return keyOf(t, k, gatemesh.CallInfo{Client: netip.MustParseAddr(addr)})
}

func TestRL02_AddressKeys(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name string
		key  Key
		a, b string
		same bool
	}{
		{"mapped IPv4", ByClient(0), "::ffff:192.0.2.1", "192.0.2.1", true},
		{"mapped IPv4 in hex", ByClient(0), "::ffff:c000:201", "192.0.2.1", true},
		{"zones", ByClient(0), "fe80::1%eth0", "fe80::1%eth1", true},
		{"zones, whole address", ByClient(128), "fe80::1%eth0", "fe80::1%eth1", true},
		{"case", ByClient(128), "2001:DB8::ABCD", "2001:db8::abcd", true},
		{"compressed", ByClient(128), "2001:db8:0:0:0:0:0:1", "2001:db8::1", true},
		{"leading zeros", ByClient(128), "2001:0db8::0001", "2001:db8::1", true},
		{"one /64", ByClient(0), "2001:db8:1:2::1", "2001:db8:1:2:ffff:ffff:ffff:ffff", true},
		{"next /64", ByClient(0), "2001:db8:1:2::1", "2001:db8:1:3::1", false},
		{"one /48", ByClient(48), "2001:db8:1::1", "2001:db8:1:ffff::1", true},
		{"one /60", ByClient(60), "2001:db8:1:20::1", "2001:db8:1:2f::1", true},
		{"next /60", ByClient(60), "2001:db8:1:20::1", "2001:db8:1:30::1", false},
		{"whole address", ByClient(128), "2001:db8::1", "2001:db8::2", false},
		{"IPv4 by the whole address", ByClient(32), "192.0.2.1", "192.0.2.2", false},
		{"IPv4 is no IPv6", ByClient(32), "49.50.51.52", "3132:3334::1", false},
		{"NAT64 is IPv4", ByClient(0), "64:ff9b::192.0.2.1", "192.0.2.1", true},
		{"NAT64 is not one client", ByClient(0), "64:ff9b::192.0.2.1", "64:ff9b::192.0.2.2", false},
		{"IPv4-compatible is no IPv4", ByClient(0), "::192.0.2.1", "192.0.2.1", false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			a, b := clientKey(t, tt.key, tt.a), clientKey(t, tt.key, tt.b)
			assert.Equal(t, tt.same, a == b, "%q %q", a, b)
		})
	}
}

func TestRL02_OneNetworkOneBucket(t *testing.T) {
	t.Parallel()
	l, err := New(Config{Name: "client", Key: ByClient(0), Limit: Limit{Requests: 7, Per: time.Hour}})
	require.NoError(t, err)
	ok := 0
	for i := range 1000 {
		ok += admitted(t, l, from(t, fmt.Sprintf("2001:db8:0:7:%x::%x", i, i)), 1)
	}
	assert.Equal(t, 7, ok)
	assert.True(t, admit(t, l, from(t, "2001:db8:0:8::1")), "another customer is not affected")
}

func TestClientUnknown(t *testing.T) {
	t.Parallel()
	assert.Equal(t, "?", keyOf(t, ByClient(0), gatemesh.CallInfo{}))
}

func TestConsumerKeysAreDistinct(t *testing.T) {
	t.Parallel()
	infos := []gatemesh.PrincipalInfo{
		{Subject: "a"}, {Consumer: "a"},
		{Issuer: "a", Subject: "b"}, {Issuer: "a", Consumer: "b"}, {Issuer: "a", Subject: "bc"}, {Issuer: "ab", Subject: "c"},
		{Issuer: "ab", Consumer: "c"}, {Issuer: "b", Consumer: "b"}, {Subject: "\x01ab"}, {Issuer: "\x01", Subject: "ab"},
		{Subject: strings.Repeat("x", 300)}, {Subject: strings.Repeat("x", 301)}, {Consumer: strings.Repeat("x", 300)},
		{Issuer: strings.Repeat("x", 200), Subject: strings.Repeat("x", 100)},
		{Issuer: strings.Repeat("x", 100), Subject: strings.Repeat("x", 200)},
	}
	for _, k := range []Key{ByConsumer(), ByConsumer().PerRoute()} {
		seen := map[string]gatemesh.PrincipalInfo{}
		for _, in := range infos {
			key := keyOf(t, k, gatemesh.CallInfo{Principal: gatemesh.NewPrincipal(in)})
			assert.NotContains(t, seen, key, "%v and %v", in, seen[key])
			assert.LessOrEqual(t, len(key), maxKeyLen)
			seen[key] = in
		}
	}
	// Whose consumer id is known is charged whatever the user.
	a := keyOf(t, ByConsumer(), gatemesh.CallInfo{Principal: gatemesh.NewPrincipal(gatemesh.PrincipalInfo{Consumer: "app", Subject: "u1"})})
	b := keyOf(t, ByConsumer(), gatemesh.CallInfo{Principal: gatemesh.NewPrincipal(gatemesh.PrincipalInfo{Consumer: "app", Subject: "u2"})})
	assert.Equal(t, a, b)
}

func TestPerRouteKeys(t *testing.T) {
	t.Parallel()
	k := ByFunc(func(c *gatemesh.Call) (string, error) { return c.Host(), nil }).PerRoute()
	seen := map[string]bool{}
	for _, in := range []gatemesh.CallInfo{
		{Host: "a"}, {Host: "a", Route: &gatemesh.Route{Name: "r"}}, {Host: "b", Route: &gatemesh.Route{Name: "r"}},
		{Host: "a", Route: &gatemesh.Route{Name: "ra"}}, {Host: "aa", Route: &gatemesh.Route{Name: "r"}},
		{Host: "r"}, {Host: "fa", Route: &gatemesh.Route{Name: "r"}}, {Host: "a", Route: &gatemesh.Route{Name: "rf"}},
	} {
		seen[keyOf(t, k, in)] = true
	}
	assert.Len(t, seen, 8)
}

func TestNobodyToCharge(t *testing.T) {
	t.Parallel()
	l, err := New(Config{Name: "consumer", Key: ByConsumer(), Limit: Limit{Requests: 1, Per: time.Minute}})
	require.NoError(t, err)
	for _, p := range []*gatemesh.Principal{nil, gatemesh.NewPrincipal(gatemesh.PrincipalInfo{Issuer: "https://idp.example"})} {
		c, err := gatemesh.NewCall(gatemesh.CallInfo{Principal: p})
		require.NoError(t, err)
		_, err = l.Admit(t.Context(), c)
		assert.Equal(t, gatemesh.Unauthenticated, gatemesh.AsDenial(t.Context(), err).Code)
	}
	assert.Zero(t, l.table.len())
}

func TestByFuncErrors(t *testing.T) {
	t.Parallel()
	refusal := gatemesh.Deny(gatemesh.PermissionDenied, "no_tenant", "No tenant.")
	for want, fail := range map[gatemesh.Code]error{gatemesh.PermissionDenied: refusal, gatemesh.Internal: errors.New("secret")} {
		l, err := New(Config{
			Name: "tenant", Limit: Limit{Requests: 1, Per: time.Minute},
			Key: ByFunc(func(*gatemesh.Call) (string, error) { return "", fail }),
		})
		require.NoError(t, err)
		_, err = l.Admit(t.Context(), from(t, "192.0.2.1"))
		assert.Equal(t, want, gatemesh.AsDenial(t.Context(), err).Code)
	}
}

func TestKeyFacts(t *testing.T) {
	t.Parallel()
	f := func(*gatemesh.Call) (string, error) { return "", nil }
	tests := []struct {
		name         string
		key          Key
		needs, gives []gatemesh.Fact
	}{
		{"client", ByClient(0), nil, []gatemesh.Fact{gatemesh.FactClientLimit}},
		{"consumer", ByConsumer(), []gatemesh.Fact{gatemesh.FactPrincipal}, []gatemesh.Fact{gatemesh.FactConsumerLimit}},
		{"route", ByClient(0).PerRoute(), []gatemesh.Fact{gatemesh.FactRoute}, []gatemesh.Fact{gatemesh.FactClientLimit}},
		{"func", ByFunc(f, gatemesh.FactPeer).PerRoute(), []gatemesh.Fact{gatemesh.FactPeer, gatemesh.FactRoute}, nil},
	}
	for _, tt := range tests {
		l, err := New(Config{Name: "x-1", Key: tt.key, Limit: Limit{Requests: 1, Per: time.Minute}})
		require.NoError(t, err)
		layer := l.Layer()
		assert.Equal(t, "ratelimit x-1", layer.Name)
		assert.Equal(t, tt.needs, layer.Needs, tt.name)
		assert.Equal(t, tt.gives, layer.Gives, tt.name)
	}
}

// FuzzConsumerKey: two principals share a key only if they are the same.
func FuzzConsumerKey(f *testing.F) {
	f.Add("i", "", "s", "i", "c", "")
	f.Add("ab", "", "c", "a", "", "bc")
	f.Add("\x01", "a", "", "", "\x01a", "")
	f.Fuzz(func(t *testing.T, i1, c1, s1, i2, c2, s2 string) {
		if c1+s1 == "" || c2+s2 == "" {
			return
		}
		a := keyOf(t, ByConsumer(), gatemesh.CallInfo{Principal: gatemesh.NewPrincipal(gatemesh.PrincipalInfo{Issuer: i1, Consumer: c1, Subject: s1})})
		b := keyOf(t, ByConsumer(), gatemesh.CallInfo{Principal: gatemesh.NewPrincipal(gatemesh.PrincipalInfo{Issuer: i2, Consumer: c2, Subject: s2})})
		same := i1 == i2 && c1 == c2 && (c1 != "" || s1 == s2)
		assert.Equal(t, same, a == b)
		assert.LessOrEqual(t, len(a), maxKeyLen)
	})
}
