package pool

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/gatemesh-go/gatemesh/internal/dnstest"
)

func startDNS(t testing.TB) *dnstest.Server {
	t.Helper()
	s, err := dnstest.New()
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, s.Close()) })
	return s
}

func newDNS(t testing.TB, cfg DNSConfig) *DNS {
	t.Helper()
	d, err := NewDNS(cfg)
	require.NoError(t, err)
	return d
}

func TestDNSConfigFaults(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name string
		cfg  DNSConfig
		want []string
	}{
		{"zero", DNSConfig{}, []string{"Host or SRV is required"}},
		{"both", DNSConfig{Host: "a", Port: 1, SRV: "_a._tcp.b"}, []string{"and not both", "Port is not for SRV"}},
		{"no port", DNSConfig{Host: "a", Network: "tcp"}, []string{"Port is required", `Network "tcp"`}},
		{"a URL", DNSConfig{Host: "http://a", Port: 1}, []string{`Host "http://a" is not`}},
		{"SRV without service", DNSConfig{SRV: "a.b"}, []string{`SRV "a.b" is not`}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			_, err := NewDNS(tt.cfg)
			for _, want := range tt.want {
				require.ErrorContains(t, err, want)
			}
			assert.Len(t, strings.Split(err.Error(), "\n"), len(tt.want), "%v", err)
		})
	}
	_, err := (*DNS)(nil).Resolve(t.Context())
	require.Error(t, err)
}

// A headless service is scaled from one to five pods and back, with a real
// server: one lookup that begins after the change is enough.
func TestHeadlessServiceIsFollowed(t *testing.T) {
	t.Parallel()
	s := startDNS(t)
	const name = "orders.shop.test."
	s.Set(name, ips("10.0.0.1")...)
	p := newPool(t, newDNS(t, DNSConfig{Host: name, Port: 8080, Network: "ip4", Resolver: s.Resolver()}), func(c *Config) {
		c.Interval, c.Timeout = 10*time.Millisecond, time.Minute
	})
	lists := make(chan []string, 100)
	defer p.Watch(func(l []*Endpoint) {
		var addrs []string
		for _, e := range l {
			addrs = append(addrs, e.Address())
		}
		lists <- append(addrs, fmt.Sprint(s.Queries(name)))
	})()
	for _, scale := range []int{1, 5, 2, 3} {
		pods := ips("10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.0.4", "10.0.0.5")[:scale]
		before := s.Queries(name)
		s.Set(name, pods...)
		got := <-lists
		require.Len(t, got, scale+1)
		for i, pod := range pods {
			assert.Equal(t, netip.AddrPortFrom(pod, 8080).String(), got[i])
		}
		var queries int
		_, err := fmt.Sscan(got[scale], &queries)
		require.NoError(t, err)
		assert.LessOrEqual(t, queries, before+2, "the lookup under way, and one more")
	}
}

// With a real server that fails in each way it can: nothing changes, and it is
// said once.
func TestDNSFailureKeepsLastGood(t *testing.T) {
	t.Parallel()
	const name = "orders.shop.test."
	for _, tt := range []struct {
		name string
		bad  func(*dnstest.Server)
	}{
		{"NXDOMAIN", func(s *dnstest.Server) { s.Remove(name) }},
		{"empty", func(s *dnstest.Server) { s.Set(name) }},
		{"SERVFAIL", func(s *dnstest.Server) { s.SetMode(dnstest.ServFail) }},
		{"black hole", func(s *dnstest.Server) { s.SetMode(dnstest.Drop) }},
		{"gone", func(s *dnstest.Server) { _ = s.Close() }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s, o := startDNS(t), &recorder{}
			s.Set(name, ips("10.0.0.1", "fd00::1")...)
			p := newPool(t, newDNS(t, DNSConfig{Host: name, Port: 80, Resolver: s.Resolver()}), func(c *Config) {
				c.Interval, c.Timeout, c.Observer = 10*time.Millisecond, time.Second, o
				if tt.name == "black hole" {
					c.Timeout = 50 * time.Millisecond
				}
			})
			require.NoError(t, p.WaitReady(t.Context()))
			o.take()
			tt.bad(s)
			require.Eventually(t, func() bool { return p.fault() != nil }, 30*time.Second, time.Millisecond)
			if tt.name != "gone" {
				asked := s.Queries(name)
				require.Eventually(t, func() bool { return s.Queries(name) > asked+4 }, 30*time.Second, time.Millisecond)
			}
			assert.Equal(t, []string{"10.0.0.1:80", "[fd00::1]:80"}, known(p))
			require.NoError(t, p.Close())
			faults := 0
			for _, m := range o.take() {
				if strings.HasPrefix(m, "!") {
					faults++
				}
			}
			assert.Equal(t, 1, faults)
		})
	}
}

// The resolver of package net leaves goroutines behind that read from a black
// hole for seconds; ours ends them, as TestMain sees.
func TestBlackHoleLeavesNothingBehind(t *testing.T) {
	t.Parallel()
	s := startDNS(t)
	s.SetMode(dnstest.Drop)
	plain := &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, network, s.Addr())
	}}
	for _, cfg := range []DNSConfig{{Host: "orders.shop.test.", Port: 80}, {SRV: "_http._tcp.orders.shop.test."}} {
		cfg.Resolver = plain
		p := newPool(t, newDNS(t, cfg))
		require.Eventually(t, func() bool { return s.Queries(cfg.Host+cfg.SRV) > 0 }, 10*time.Second, time.Millisecond)
		require.NoError(t, p.Close())
	}
}

func TestSRV(t *testing.T) {
	t.Parallel()
	s := startDNS(t)
	const name = "_http._tcp.orders.shop.test."
	s.Set("a.test", ips("10.0.0.1", "10.0.0.2", "fd00::1")...)
	s.Set("b.test", ips("10.0.0.3")...)
	s.Set("backup.test", ips("10.0.0.9")...)
	d := newDNS(t, DNSConfig{SRV: name, Resolver: s.Resolver()})
	for _, tt := range []struct {
		name    string
		records []dnstest.SRV
		want    []string
	}{
		{"addresses of all targets", []dnstest.SRV{{Target: "a.test", Port: 80}, {Target: "b.test", Port: 81}}, []string{"10.0.0.1:80", "10.0.0.2:80", "10.0.0.3:81", "[fd00::1]:80"}},
		{"the lowest priority", []dnstest.SRV{{Target: "backup.test", Port: 80, Priority: 2}, {Target: "b.test", Port: 81, Priority: 1}}, []string{"10.0.0.3:81"}},
		{"a target that is leaving", []dnstest.SRV{{Target: "b.test", Port: 81}, {Target: "gone.test", Port: 81}}, []string{"10.0.0.3:81"}},
		{"the same twice, and no port", []dnstest.SRV{{Target: "b.test", Port: 81}, {Target: "B.test", Port: 81}, {Target: "b.test"}}, []string{"10.0.0.3:81"}},
		{"no such service", []dnstest.SRV{{Target: ".", Port: 81}}, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s.SetSRV(name, tt.records...)
			got, err := d.Resolve(t.Context())
			require.NoError(t, err)
			slices.Sort(got)
			assert.Equal(t, tt.want, slices.Compact(got))
		})
	}
	s.SetMode(dnstest.ServFail)
	_, err := d.Resolve(t.Context())
	require.Error(t, err)
}

// A target that cannot be looked up fails the whole: the others must not get
// the load of all.
func TestSRVTargetFails(t *testing.T) {
	t.Parallel()
	s := startDNS(t)
	const name = "_http._tcp.orders.shop.test."
	s.Set("a.test", ips("10.0.0.1")...)
	s.Set("b.test", ips("10.0.0.2")...)
	s.SetSRV(name, dnstest.SRV{Target: "a.test", Port: 80}, dnstest.SRV{Target: "b.test", Port: 80})
	d := newDNS(t, DNSConfig{SRV: name, Resolver: s.Resolver()})
	s.SetMode(dnstest.ServFail, "b.test")
	_, err := d.Resolve(t.Context())
	require.Error(t, err)
	s.SetMode(dnstest.Answer)
	got, err := d.Resolve(t.Context())
	require.NoError(t, err)
	assert.ElementsMatch(t, []string{"10.0.0.1:80", "10.0.0.2:80"}, got)
}

// A hostile answer is bounded before it costs anything.
func TestHostileSRV(t *testing.T) {
	t.Parallel()
	var records []*net.SRV
	for i := range 100_000 {
		records = append(records, &net.SRV{Target: fmt.Sprintf("t%d.test.", i), Port: 80})
	}
	assert.Len(t, targets(records), maxTargets)
	same := &net.SRV{Target: "t.test.", Port: 80}
	assert.Len(t, targets([]*net.SRV{same, same, {Target: "T.test.", Port: 80}}), 1, "asked for once")
}

func TestCanonicalAddr(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ in, want string }{
		{"10.0.0.1:80", "10.0.0.1:80"},
		{"[::ffff:10.0.0.1]:80", "10.0.0.1:80"},
		{"[FD00:0::1]:080", "[fd00::1]:80"},
		{"Orders.Shop:8080", "orders.shop:8080"},
		{"my_pod:8080", "my_pod:8080"},
		{"orders.shop.:8080", "orders.shop.:8080"},
		{"", ""}, {"orders", ""}, {":80", ""}, {"orders:", ""}, {"orders:0", ""}, {"orders:65536", ""}, {"orders:http", ""},
		{"orders:-1", ""}, {"orders:+1", ""}, {"10.0.0.1:0", ""}, {"0.0.0.0:80", ""}, {"[::]:80", ""}, {"[fe80::1%eth0]:80", ""}, {"fd00::1:80", ""},
		{"user@orders:80", ""}, {"orders/x:80", ""}, {"orders shop:80", ""}, {"a..b:80", ""}, {".a:80", ""}, {"orders\n:80", ""},
		{strings.Repeat("a", 254) + ":80", ""},
	} {
		got, err := canonicalAddr(tt.in)
		assert.Equal(t, tt.want, got, "%q", tt.in)
		assert.Equal(t, tt.want == "", err != nil, "%q: %v", tt.in, err)
	}
}

// What is taken for an address has one spelling, and is the host of a URL: it
// cannot carry a path, credentials or another header line.
func FuzzCanonicalAddr(f *testing.F) {
	for _, s := range []string{"10.0.0.1:80", "[::1]:80", "[::ffff:1.2.3.4]:80", "orders.shop:8080", "a@b:1", "[fe80::1%25en0]:1", "a:00080", "[a]:1", "a\x00:1"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		got, err := canonicalAddr(s)
		if err != nil {
			require.Empty(t, got)
			return
		}
		again, err := canonicalAddr(got)
		require.NoError(t, err)
		require.Equal(t, got, again)
		u, err := url.Parse("http://" + got + "/")
		require.NoError(t, err)
		require.Equal(t, got, u.Host)
		require.Equal(t, "/", u.Path)
		require.Nil(t, u.User)
		host, port, err := net.SplitHostPort(got)
		require.NoError(t, err)
		require.NotEmpty(t, host)
		require.NotEqual(t, "0", port)
	})
}

// What is looked up for SRV records is a host name with a port, each once, and
// of one priority.
func FuzzTargets(f *testing.F) {
	f.Add("a.test.,b.test.,A.test.,.", uint16(1), uint16(0))
	f.Fuzz(func(t *testing.T, names string, port, priority uint16) {
		var records []*net.SRV
		for i, n := range strings.Split(names, ",") {
			records = append(records, &net.SRV{Target: n, Port: port * uint16(i%3), Priority: priority * uint16(i%2)})
		}
		found := targets(records)
		require.LessOrEqual(t, len(found), len(records))
		seen := map[net.SRV]bool{}
		for _, r := range found {
			require.False(t, seen[r])
			seen[r] = true
			_, err := canonicalAddr(net.JoinHostPort(r.Target, fmt.Sprint(r.Port)))
			if r.Target != "0.0.0.0" { // which is a name by its letters
				require.NoError(t, err)
			}
		}
	})
}
