package pool

import (
	"context"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/gatemesh-go/gatemesh"
)

// Checks pass and fail in a row, or not at all.
func TestProbeCountsInARow(t *testing.T) {
	t.Parallel()
	h := &Health{Unhealthy: 3, Healthy: 2}
	for _, tt := range []struct {
		checks    string // + passes, - fails
		unhealthy bool
		changed   int // after how many, or 0
	}{
		{"---", false, 3}, {"--+--+--", false, 0}, {"--+---", false, 6}, {"++++", false, 0},
		{"++", true, 2}, {"+-+-+-", true, 0}, {"+-++", true, 4}, {"-----", true, 0},
	} {
		pr, at := probe{}, 0
		for i, c := range tt.checks {
			var err error
			if c == '-' {
				err = io.EOF
			}
			if pr.take(h, tt.unhealthy, err) {
				at = i + 1
				break
			}
		}
		assert.Equal(t, tt.changed, at, "%+v", tt)
	}
}

// busyPods notes how many checks of an endpoint there are at once.
type busyPods struct {
	mu   sync.Mutex
	now  map[string]int
	most int
}

func (b *busyPods) RoundTrip(r *http.Request) (*http.Response, error) {
	b.mu.Lock()
	b.now[r.URL.Host]++
	b.most = max(b.most, b.now[r.URL.Host])
	b.mu.Unlock()
	<-r.Context().Done()
	b.mu.Lock()
	b.now[r.URL.Host]--
	b.mu.Unlock()
	return nil, r.Context().Err()
}

// An endpoint that hangs is not asked again while it has not answered.
func TestHealthAsksOnceAtATime(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		pods := &busyPods{now: map[string]int{}}
		newPool(t, Static("a:1", "b:1"), func(c *Config) {
			c.Health = Health{Check: CheckHTTP, Transport: pods, Interval: time.Second, Timeout: time.Second}
		})
		time.Sleep(time.Minute)
		pods.mu.Lock()
		defer pods.mu.Unlock()
		assert.Equal(t, 1, pods.most)
	})
}

// The body of an answer to a check is closed.
func TestHealthClosesBodies(t *testing.T) {
	t.Parallel()
	b := &body{Reader: strings.NewReader("well")}
	a := newAsker(&Health{Check: CheckHTTP, Path: "/", Transport: roundTripper(func(*http.Request) (*http.Response, error) {
		return &http.Response{StatusCode: http.StatusOK, Body: b}, nil
	}), Timeout: time.Second})
	require.NoError(t, a.ask(t.Context(), "a:1"))
	assert.True(t, b.closed.Load())
}

// TestLC02ZeroTransport: the contract of RoundTripper holds for what was not made
// by NewTransport, too.
func TestLC02ZeroTransport(t *testing.T) {
	t.Parallel()
	b := &body{Reader: strings.NewReader("x")}
	r := request(t, "http://orders/")
	r.Body = b
	_, err := new(Transport).RoundTrip(r)
	require.ErrorIs(t, err, errTransportUnset)
	assert.True(t, b.closed.Load())
	require.NoError(t, new(Transport).Close())
}

func TestLessLoaded(t *testing.T) {
	t.Parallel()
	p := newPool(t, Static("a:1", "b:1"))
	a, b := &member{at(t, p, "a:1"), 0.5}, &member{at(t, p, "b:1"), 1}
	for _, tt := range []struct {
		inA, inB int64
		want     string
	}{{0, 0, "a:1"}, {1, 1, "b:1"}, {1, 2, "a:1"}, {1, 3, "a:1"}, {2, 3, "b:1"}} {
		a.inflight.Store(tt.inA)
		b.inflight.Store(tt.inB)
		assert.Equal(t, tt.want, lessLoaded(a, b).addr, "%+v", tt)
	}
	a.inflight.Store(0)
	b.inflight.Store(0)
	// Without samples, one that has failed goes behind.
	a.failures.Store(1)
	assert.Equal(t, "b:1", cheaper(a, b).addr)
	assert.Equal(t, "b:1", cheaper(b, a).addr)
}

// A draw by weight is another one than the one that was drawn, and everybody is
// drawn.
func TestDrawIsAnother(t *testing.T) {
	t.Parallel()
	p := newPool(t, StaticTargets(Target{Address: "a:1", Weight: 1}, Target{Address: "b:1", Weight: 2}, Target{Address: "c:1", Weight: 3}), func(c *Config) {
		c.Balancer = LeastRequest
	})
	g := &p.state.Load().chooser.current().far
	for not := range 3 {
		seen := map[int]bool{}
		for range 1_000 {
			i := g.draw(not, nil)
			require.NotEqual(t, not, i)
			seen[i] = true
		}
		assert.Len(t, seen, 2)
	}
}

// Two of half the weight do not have their turns in the same round.
func TestRoundRobinInterleaves(t *testing.T) {
	t.Parallel()
	p := newPool(t, StaticTargets(Target{Address: "a:1", Weight: 2}, Target{Address: "b:1"}, Target{Address: "c:1"}), func(c *Config) {
		c.Balancer = RoundRobin
	})
	before := ""
	for range 40 {
		e := p.state.Load().chooser.Choose(t.Context(), Request{})
		assert.False(t, before == "a:1" && e.addr == "a:1", "every second one is a")
		before = e.addr
	}
}

// A call that was tried at every endpoint of its zone goes to another one.
func TestRetryLeavesTheZone(t *testing.T) {
	t.Parallel()
	for _, balancer := range []Balancer{P2C, RoundRobin, LeastRequest, Random, RingHash} {
		p := newPool(t, StaticTargets(Target{Address: "a:1", Zone: "a"}, Target{Address: "b:1", Zone: "b"}), noEjection, func(c *Config) {
			if c.Zone, c.Balancer = "a", balancer; balancer == RingHash {
				c.HashKey.Header = "X-User"
			}
		})
		var asked []string
		base := roundTripper(func(r *http.Request) (*http.Response, error) {
			asked = append(asked, r.URL.Host)
			return &http.Response{StatusCode: http.StatusServiceUnavailable, Body: http.NoBody}, nil
		})
		out := gatemesh.Must(gatemesh.NewOutbound(gatemesh.OutboundConfig{
			Mesh:   gatemesh.MeshHosts(map[string]gatemesh.Destination{"orders": {Service: "orders"}}),
			Layers: []gatemesh.Layer{{Name: "retry", Retry: upTo(2)}},
		}))
		for range 20 {
			asked = nil
			r := request(t, "http://orders/")
			r.Header.Set("X-User", "u")
			resp, err := out.Transport(p.Transport(base)).RoundTrip(r)
			require.NoError(t, err)
			require.NoError(t, resp.Body.Close())
			require.Equal(t, []string{"a:1", "b:1"}, asked, "balancer %d", balancer)
		}
	}
}

// Where the endpoints of the zone have their bounded load, another zone helps out
// before they get more.
func TestRingBeyondTheBound(t *testing.T) {
	t.Parallel()
	p := newPool(t, StaticTargets(Target{Address: "a:1", Zone: "a", Weight: 3}, Target{Address: "b:1", Zone: "b"}), func(c *Config) {
		c.Zone, c.Balancer, c.HashKey = "a", RingHash, HashKey{Header: "X-Key", BoundedLoad: 110}
	})
	w := p.state.Load().chooser.current().ring
	a, b := at(t, p, "a:1"), at(t, p, "b:1")
	a.inflight.Store(4) // 1.1 * 5 / 4 for each unit of weight, with the new one
	assert.Equal(t, "a:1", w.pick(1, 1, nil).addr, "its weight carries five")
	a.inflight.Store(20)
	assert.Equal(t, "b:1", w.pick(1, 1, nil).addr)
	b.inflight.Store(40)
	assert.Equal(t, "a:1", w.pick(1, 1, nil).addr)
}

// A ring has a bounded number of places, and a search on it a bounded length.
func TestRingIsBounded(t *testing.T) {
	t.Parallel()
	var list []*Endpoint
	for _, addr := range numbered(5) {
		list = append(list, &Endpoint{addr: addr, weight: maxWeight, measured: &measured{}})
	}
	assert.LessOrEqual(t, len(newRing(list).hashes), maxPoints)

	r := &ring{addrs: []string{"far", "near"}}
	for i := range uint64(2 * maxWalk) {
		r.hashes, r.owners = append(r.hashes, i), append(r.owners, 0)
	}
	r.owners[len(r.owners)-1] = 1
	w := &walk{ring: r, members: []walker{{list[0], false}, {list[1], true}}, weights: 2}
	assert.Same(t, list[0], w.pick(0, 1, nil))
	assert.Same(t, list[1], w.pick(maxWalk, 1, nil))
}

// The return of an endpoint is told when it comes, however far the next lookup.
func TestReturnIsToldInTime(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := &recorder{}
		p := newPool(t, Static("a:1", "b:1"), func(c *Config) { c.Interval, c.Cooldown, c.Observer = time.Hour, time.Hour, r })
		time.Sleep(time.Minute)
		e := at(t, p, "a:1")
		for range defaultFailures {
			try(t, e, Failure) // which asks for no lookup
		}
		time.Sleep(defaultBase + time.Second)
		assert.Equal(t, []string{"!the endpoint a:1 is ejected for 5s: attempts have failed in a row", "the endpoint a:1 is back from its ejection"}, r.take())
	})
}

// TestBR02_Ejections: what ejects, what holds it up, and what says nothing new.
func TestBR02_Ejections(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := &zonedBook{targets: []Target{{Address: "a:1"}, {Address: "b:1"}, {Address: "c:1"}, {Address: "d:1"}}}
		p := newPool(t, b)
		require.NoError(t, p.WaitReady(t.Context()))
		time.Sleep(time.Second)

		// One that is unhealthy is out already: its ejection takes nobody's place.
		try(t, at(t, p, "a:1"), Unreachable)
		at(t, p, "b:1").unhealthy.Store(true)
		try(t, at(t, p, "b:1"), Unreachable)
		assert.Equal(t, 1, statusOf(t, p, "b:1").Ejections)
		try(t, at(t, p, "c:1"), Unreachable)
		assert.Zero(t, statusOf(t, p, "c:1").Ejections, "half are out")
		at(t, p, "b:1").unhealthy.Store(false)

		// Attempts that were under way say nothing new, of whichever kind.
		time.Sleep(10 * time.Second)
		one, two := at(t, p, "a:1").Begin(t.Context(), time.Now()), at(t, p, "a:1").Begin(t.Context(), time.Now())
		time.Sleep(time.Second)
		one.Done(time.Now(), Unreachable)
		time.Sleep(time.Second)
		two.Done(time.Now(), Unreachable)
		assert.Equal(t, 2, statusOf(t, p, "a:1").Ejections)

		// An attempt that began before the endpoint's zone changed counts for it.
		time.Sleep(10 * time.Second)
		old := at(t, p, "d:1").Begin(t.Context(), time.Now())
		b.set(Target{Address: "a:1"}, Target{Address: "b:1"}, Target{Address: "c:1"}, Target{Address: "d:1", Zone: "z"})
		time.Sleep(3 * time.Second)
		require.Equal(t, "z", statusOf(t, p, "d:1").Zone)
		old.Done(time.Now(), Unreachable)
		assert.Equal(t, Ejected, statusOf(t, p, "d:1").State)

		// So does a change of its weight.
		b.set(Target{Address: "a:1"}, Target{Address: "b:1"}, Target{Address: "c:1"}, Target{Address: "d:1", Weight: 3})
		time.Sleep(2 * time.Second)
		assert.Equal(t, 3, statusOf(t, p, "d:1").Weight)
		assert.Equal(t, 1, statusOf(t, p, "d:1").Ejections)
	})
}

// zonedBook is a TargetResolver whose answer changes.
type zonedBook struct {
	mu      sync.Mutex
	targets []Target
}

func (b *zonedBook) set(targets ...Target) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.targets = targets
}

func (b *zonedBook) Targets(context.Context) ([]Target, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.targets, nil
}

func (b *zonedBook) Resolve(context.Context) ([]string, error) { return nil, nil }

// An endpoint is compared with the others, and not with itself as well.
func TestBR02_RateOfTheOthers(t *testing.T) {
	t.Parallel()
	p := newPool(t, Static("a:1", "b:1"))
	a, b, now := at(t, p, "a:1"), at(t, p, "b:1"), p.now()
	for i := range 40 {
		a.recent.add(now, defaultWindow, i < 20)
		b.recent.add(now, defaultWindow, i < 8)
	}
	_, d := p.tryEject(a, now, now, reasonRate)
	assert.Equal(t, defaultBase, d, "50 % beside 20 %")
}

// One that failed before it had a sample is tried again when its ejection ends.
func TestUntriedAfterAnEjection(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := newPool(t, Static("a:1", "b:1"))
		time.Sleep(time.Second)
		e := at(t, p, "a:1")
		try(t, e, Unreachable) // counts as five failures, after which it would be 16 s
		assert.False(t, e.untried())
		time.Sleep(defaultBase)
		assert.True(t, e.untried())
	})
}

// Of several targets with one address the first counts, also where it has more of
// the others' qualities.
func TestFirstTargetCounts(t *testing.T) {
	t.Parallel()
	kept, total, err := canonical([]Target{{Address: "b:1", Weight: 5}, {Address: "A:1", Weight: 2}, {Address: "a:1", Weight: 3}}, nil, 10)
	require.NoError(t, err)
	assert.Equal(t, 2, total)
	assert.Equal(t, []Target{{Address: "a:1", Weight: 2}, {Address: "b:1", Weight: 5}}, kept)
}

// An address that leads nowhere from here is left out; it does not spoil the rest.
func TestUnspecifiedAddress(t *testing.T) {
	t.Parallel()
	s := startDNS(t)
	s.Set("orders.shop.test.", ips("0.0.0.0", "10.0.0.1")...)
	got, err := newDNS(t, DNSConfig{Host: "orders.shop.test.", Port: 80, Network: "ip4", Resolver: s.Resolver()}).Resolve(t.Context())
	require.NoError(t, err)
	assert.Equal(t, []string{"10.0.0.1:80"}, got)
}

// A warming endpoint is in, so that the panic threshold is not passed by a slow
// start; and keys of cookies are looked for in header fields.
func TestWarmingIsIn(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := &book{addrs: []string{"a:1"}}
		p := newPool(t, b, func(c *Config) { c.Warmup.Duration = time.Hour })
		require.NoError(t, p.WaitReady(t.Context()))
		b.set("a:1", "b:1", "c:1", "d:1")
		time.Sleep(3 * time.Second)
		try(t, at(t, p, "a:1"), Unreachable)
		assert.Equal(t, Warming, statusOf(t, p, "b:1").State)
		for _, s := range p.Endpoints() {
			assert.False(t, s.Ignored, s.Address)
		}
		assert.False(t, p.state.Load().chooser.ByHeader())
	})
	for _, k := range []HashKey{{Header: "X-Key"}, {Cookie: "key"}} {
		p := newPool(t, Static("a:1", "b:1"), func(c *Config) { c.Balancer, c.HashKey = RingHash, k })
		assert.True(t, p.state.Load().chooser.ByHeader())
	}
	empty, _ := (&finder{HashKey: HashKey{Cookie: "key"}}).of(nil, Request{Header: http.Header{"Cookie": {"key=; key=x"}}})
	first, ok := (&finder{HashKey: HashKey{Cookie: "key"}}).of(nil, Request{Header: http.Header{"Cookie": {"key=x"}}})
	assert.True(t, ok)
	assert.Equal(t, first, empty, "one without a value is none")
}

// A server that says how soon it closes has the connections that were idle before
// closed, and many that are idle are kept.
func TestIdleConnectionsAreManyAndEnd(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		v := &village{answered: map[string]int{}}
		says := ""
		v.header = func(h http.Header) {
			if says != "" {
				h.Set("Keep-Alive", says)
			}
		}
		p := newPool(t, Static("a:1"))
		tr, err := p.NewTransport(TransportConfig{Base: &http.Transport{DialContext: v.DialContext}, IdleTimeout: time.Minute})
		require.NoError(t, err)
		ask := func(n int) {
			var wg sync.WaitGroup
			for range n {
				wg.Go(func() {
					resp, err := tr.RoundTrip(request(t, "http://orders/"))
					if assert.NoError(t, err) {
						_, _ = io.Copy(io.Discard, resp.Body)
						assert.NoError(t, resp.Body.Close())
					}
				})
			}
			wg.Wait()
			synctest.Wait()
		}
		ask(20)
		require.Equal(t, 20, v.dialed)
		ask(20)
		require.Equal(t, 20, v.dialed, "all were kept")
		v.mu.Lock()
		says = "timeout=3"
		v.mu.Unlock()
		ask(1)
		time.Sleep(time.Second)
		assert.LessOrEqual(t, v.open(), 1, "they would be closed under a request")
		time.Sleep(2 * time.Second)
		assert.Zero(t, v.open())
		require.NoError(t, tr.Close())
		v.servers.Wait()
	})
}

// A selector leaves those that have each of its labels with its value, and no
// others: what has no label is of no subset.
func TestSelector(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		labels map[string]string
		want   bool
	}{
		{map[string]string{"version": "v2", "tier": "a", "more": "x"}, true},
		{map[string]string{"version": "v2"}, false},
		{map[string]string{"version": "v1", "tier": "a"}, false},
		{map[string]string{"version": "", "tier": "a"}, false},
		{nil, false},
	} {
		target := Target{Address: "a:1", Labels: tt.labels}
		assert.Equal(t, tt.want, target.selected(map[string]string{"version": "v2", "tier": "a"}), "%v", tt.labels)
		assert.True(t, target.selected(nil))
	}
	none := Target{Address: "a:1"}
	assert.False(t, none.selected(map[string]string{"version": ""}), "a label without a value is one")
}
