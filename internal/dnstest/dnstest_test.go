package dnstest

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func start(t testing.TB) *Server {
	t.Helper()
	s, err := New()
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, s.Close()) })
	return s
}

func addrs(list ...string) (found []netip.Addr) {
	for _, a := range list {
		found = append(found, netip.MustParseAddr(a))
	}
	return found
}

func TestAddresses(t *testing.T) {
	t.Parallel()
	s := start(t)
	r := s.Resolver()
	s.Set("Orders.Test", addrs("10.0.0.1", "10.0.0.2", "fd00::1")...)

	got, err := r.LookupNetIP(t.Context(), "ip", "orders.test.")
	require.NoError(t, err)
	assert.ElementsMatch(t, addrs("10.0.0.1", "10.0.0.2", "fd00::1"), got)
	assert.Equal(t, 2, s.Queries("orders.test"), "A and AAAA")

	s.Set("orders.test", addrs("10.0.0.3")...)
	got, err = r.LookupNetIP(t.Context(), "ip4", "orders.test.")
	require.NoError(t, err)
	assert.Equal(t, addrs("10.0.0.3"), got)
}

func TestSRV(t *testing.T) {
	t.Parallel()
	s := start(t)
	s.SetSRV("_http._tcp.orders.test", SRV{"a.orders.test", 8080, 1, 2}, SRV{"b.orders.test.", 8081, 3, 4})
	_, got, err := s.Resolver().LookupSRV(t.Context(), "", "", "_http._tcp.orders.test.")
	require.NoError(t, err)
	assert.Equal(t, []*net.SRV{{Target: "a.orders.test.", Port: 8080, Priority: 1, Weight: 2}, {Target: "b.orders.test.", Port: 8081, Priority: 3, Weight: 4}}, got)
}

// An answer that is too long for UDP comes over TCP.
func TestLongAnswer(t *testing.T) {
	t.Parallel()
	s := start(t)
	var all []netip.Addr
	for i := range 1_000 {
		all = append(all, netip.MustParseAddr(fmt.Sprintf("10.0.%d.%d", i/256, i%256)))
	}
	s.Set("many.test", all...)
	got, err := s.Resolver().LookupNetIP(t.Context(), "ip4", "many.test.")
	require.NoError(t, err)
	assert.Len(t, got, 1_000)
	assert.Equal(t, 2, s.Queries("many.test"), "once over UDP, once over TCP")
}

func TestFailures(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name  string
		set   func(*Server)
		check func(*testing.T, *net.DNSError)
	}{
		{"no such name", func(*Server) {}, func(t *testing.T, e *net.DNSError) { assert.True(t, e.IsNotFound) }},
		{"removed", func(s *Server) { s.Set("x.test", addrs("10.0.0.1")...); s.Remove("x.test") }, func(t *testing.T, e *net.DNSError) { assert.True(t, e.IsNotFound) }},
		{"no address", func(s *Server) { s.Set("x.test") }, func(t *testing.T, e *net.DNSError) { assert.True(t, e.IsNotFound) }},
		{"SERVFAIL", func(s *Server) { s.SetMode(ServFail) }, func(t *testing.T, e *net.DNSError) { assert.True(t, e.IsTemporary); assert.False(t, e.IsNotFound) }},
		{"SERVFAIL for the name", func(s *Server) { s.SetMode(ServFail, "X.test") }, func(t *testing.T, e *net.DNSError) { assert.True(t, e.IsTemporary) }},
		{"SERVFAIL for another", func(s *Server) { s.SetMode(ServFail, "y.test") }, func(t *testing.T, e *net.DNSError) { assert.True(t, e.IsNotFound) }},
		{"black hole", func(s *Server) { s.SetMode(Drop) }, func(t *testing.T, e *net.DNSError) { assert.True(t, e.IsTimeout) }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := start(t)
			tt.set(s)
			ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
			defer cancel()
			if tt.name != "black hole" {
				ctx = t.Context()
			}
			_, err := s.Resolver().LookupNetIP(ctx, "ip4", "x.test.")
			var e *net.DNSError
			require.ErrorAs(t, err, &e)
			tt.check(t, e)
			assert.Positive(t, s.Queries("x.test"))
		})
	}
}

func TestCloseTwice(t *testing.T) {
	t.Parallel()
	s, err := New()
	require.NoError(t, err)
	c, err := net.Dial("tcp", s.Addr()) // a client that never asks
	require.NoError(t, err)
	defer c.Close()
	require.NoError(t, s.Close())
	require.NoError(t, s.Close())
}

func TestTTL(t *testing.T) {
	t.Parallel()
	s := start(t)
	s.Set("x.test", addrs("10.0.0.1")...)
	for _, tt := range []struct {
		set  time.Duration
		want uint32
	}{{0, 5}, {30 * time.Second, 30}} {
		if tt.set > 0 {
			s.SetTTL(tt.set)
		}
		assert.Equal(t, tt.want, ttlOf(t, s, "x.test."))
	}
}
