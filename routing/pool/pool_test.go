package pool

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/gatemesh-go/gatemesh"
)

func TestConfigFaults(t *testing.T) {
	t.Parallel()
	_, err := New(Config{})
	require.ErrorContains(t, err, "Config.Name is required")
	require.ErrorContains(t, err, "Config.Resolver is required")

	good := Config{Name: "orders", Resolver: Static("a:1")}
	for _, tt := range []struct {
		field  string
		change func(*Config)
	}{
		{"Name", func(c *Config) { c.Name = string(make([]byte, 254)) }},
		{"Resolver: Static needs an address", func(c *Config) { c.Resolver = Static() }},
		{`Resolver: "a" is not a host and a port`, func(c *Config) { c.Resolver = Static("a:1", "a") }},
		{"Resolver: the DNS was not made by NewDNS", func(c *Config) { c.Resolver = &DNS{} }},
		{"Interval", func(c *Config) { c.Interval = time.Millisecond }},
		{"Timeout", func(c *Config) { c.Timeout = -1 }},
		{"MaxStale", func(c *Config) { c.MaxStale = time.Second }},
		{"Cooldown", func(c *Config) { c.Cooldown = 3 * time.Second }},
		{"MaxEndpoints", func(c *Config) { c.MaxEndpoints = 10_001 }},
		{"Ejection.Failures", func(c *Config) { c.Ejection.Failures = -1 }},
		{"Ejection.Base", func(c *Config) { c.Ejection.Base = -1 }},
		{"Ejection.Max", func(c *Config) { c.Ejection.Base, c.Ejection.Max = time.Minute, time.Second }},
		{"Ejection.MaxPercent", func(c *Config) { c.Ejection.MaxPercent = 101 }},
		{"Ejection.FailurePercent", func(c *Config) { c.Ejection.FailurePercent = 101 }},
		{"Ejection.MinSamples", func(c *Config) { c.Ejection.MinSamples = -1 }},
		{"Ejection.Window", func(c *Config) { c.Ejection.Window = time.Millisecond }},
		{"MinHealthPercent", func(c *Config) { c.MinHealthPercent = 101 }},
		{"Selector", func(c *Config) { c.Selector = map[string]string{"": "x"} }},
		{"Selector", func(c *Config) {
			c.Selector = map[string]string{}
			for i := range 17 {
				c.Selector[strconv.Itoa(i)] = ""
			}
		}},
		{"Balancer", func(c *Config) { c.Balancer = RingHash + 1 }},
		{"HashKey is required", func(c *Config) { c.Balancer = RingHash }},
		{"HashKey has more", func(c *Config) { c.Balancer, c.HashKey = RingHash, HashKey{Header: "a", Consumer: true} }},
		{"HashKey is for RingHash", func(c *Config) { c.HashKey.ClientAddress = true }},
		{"HashKey.Header", func(c *Config) { c.Balancer, c.HashKey.Header = RingHash, "a b" }},
		{"HashKey.Cookie", func(c *Config) { c.Balancer, c.HashKey.Cookie = RingHash, "a;" }},
		{"HashKey.Query", func(c *Config) { c.Balancer, c.HashKey.Query = RingHash, long(254) }},
		{"HashKey.BoundedLoad", func(c *Config) { c.Balancer, c.HashKey = RingHash, HashKey{Consumer: true, BoundedLoad: 100} }},
		{"Zone", func(c *Config) { c.Zone = "a b" }},
		{"ZoneLoad", func(c *Config) { c.ZoneLoad = 99 }},
		{"Warmup.Duration", func(c *Config) { c.Warmup.Duration = -1 }},
		{"Warmup.MinimumPercent", func(c *Config) { c.Warmup.MinimumPercent = 101 }},
		{"Warmup.Aggression", func(c *Config) { c.Warmup.Aggression = math.NaN() }},
		{`Resolver: the weight -1 of a:1`, func(c *Config) { c.Resolver = StaticTargets(Target{Address: "a:1", Weight: -1}) }},
		{`Resolver: the zone "a b" of a:1`, func(c *Config) { c.Resolver = StaticTargets(Target{Address: "a:1", Zone: "a b"}) }},
	} {
		t.Run(tt.field, func(t *testing.T) {
			t.Parallel()
			cfg := good
			tt.change(&cfg)
			_, err := New(cfg)
			require.ErrorContains(t, err, "pool: Config."+tt.field)
			p := newPool(t, Static("a:1"))
			require.ErrorContains(t, p.Update(cfg), tt.field)
			assert.Equal(t, []string{"a:1"}, known(p), "the old configuration stays")
		})
	}
	for _, d := range []Config{{Interval: time.Hour}, {Interval: 10 * time.Millisecond}, {Ejection: Ejection{Base: time.Hour}}, {Ejection: Ejection{Max: time.Second}}} {
		d.Name, d.Resolver = "orders", Static("a:1")
		require.NoError(t, newPool(t, Static("a:1")).Update(d), "defaults fit what is given")
	}
}

func TestZeroPool(t *testing.T) {
	t.Parallel()
	var p Pool
	require.ErrorIs(t, p.Update(Config{}), errUnset)
	require.ErrorIs(t, p.WaitReady(t.Context()), errUnset)
	assert.Nil(t, p.Chooser(nil).Choose(t.Context(), Request{}))
	assert.Empty(t, p.Endpoints())
	p.Refresh()
	p.Watch(func([]*Endpoint) { t.Error("there is nothing to say") })()
	require.NoError(t, p.Close())
}

// Time from a change to its effect, with and without a cache of five seconds
// between us and the authority.
func TestFollowsInTime(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name    string
		ttl     time.Duration
		atMost  time.Duration
		atLeast time.Duration
	}{
		{"authority", 0, 2 * time.Second, 0},
		{"behind a cache", 5 * time.Second, 7 * time.Second, 5 * time.Second},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				authority := &book{addrs: []string{"10.0.0.1:80"}}
				p := newPool(t, &cached{from: authority, ttl: tt.ttl})
				require.NoError(t, p.WaitReady(t.Context()))
				start := time.Now()
				authority.set("10.0.0.1:80", "10.0.0.2:80")
				seen := make(chan time.Duration, 1)
				stop := p.Watch(func(l []*Endpoint) {
					if len(l) == 2 {
						seen <- time.Since(start)
					}
				})
				defer stop()
				took := <-seen
				assert.LessOrEqual(t, took, tt.atMost)
				assert.GreaterOrEqual(t, took, tt.atLeast)
			})
		})
	}
}

// cached is a Resolver with a cache in front.
type cached struct {
	from  *book
	ttl   time.Duration
	until time.Time
	addrs []string
}

func (c *cached) Resolve(ctx context.Context) (_ []string, err error) {
	if !time.Now().Before(c.until) {
		if c.addrs, err = c.from.Resolve(ctx); err != nil {
			return nil, err
		}
		c.until = time.Now().Add(c.ttl)
	}
	return c.addrs, nil
}

func TestFailureKeepsLastGood(t *testing.T) {
	t.Parallel()
	broken := errors.New("SERVFAIL")
	for _, tt := range []struct {
		name string
		bad  func(*book)
		want string
	}{
		{"error", func(b *book) { b.fail(broken) }, "SERVFAIL"},
		{"empty answer", func(b *book) { b.set() }, "the answer is empty"},
		{"an address that is none", func(b *book) { b.set("10.0.0.1:80", "nonsense") }, `"nonsense" is not`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				b, o := &book{addrs: []string{"10.0.0.1:80"}}, &recorder{}
				p := newPool(t, b, func(c *Config) { c.Observer = o })
				require.NoError(t, p.WaitReady(t.Context()))
				e := at(t, p, "10.0.0.1:80")
				synctest.Wait()
				assert.Empty(t, o.take(), "all is well")

				tt.bad(b)
				time.Sleep(time.Minute)
				assert.Equal(t, []string{"10.0.0.1:80"}, known(p))
				events := o.list()
				require.Len(t, events, 1, "said once")
				assert.ErrorContains(t, events[0].Err, tt.want)
				assert.Equal(t, "pool orders", events[0].Layer)
				assert.Equal(t, []string{"!endpoints cannot be looked up; the last good ones stay in use"}, o.take())

				b.set("10.0.0.1:80")
				time.Sleep(time.Minute)
				assert.Equal(t, []string{"endpoints can be looked up again"}, o.take(), "said once")
				assert.Same(t, e, at(t, p, "10.0.0.1:80"))

				tt.bad(b)
				time.Sleep(5*time.Minute - 2*time.Second) // of the last good lookup: at most 2 s before
				assert.Equal(t, []string{"10.0.0.1:80"}, known(p), "not yet too old")
				time.Sleep(5 * time.Second)
				assert.Empty(t, known(p), "MaxStale")
				time.Sleep(time.Hour)
				assert.Equal(t, []string{
					"!endpoints cannot be looked up; the last good ones stay in use",
					"!endpoints cannot be looked up; the last good ones are too old and no longer used",
				}, o.take())
			})
		})
	}
}

func TestResolverPanic(t *testing.T) {
	t.Parallel()
	p := newPool(t, panicky{})
	ctx, cancel := context.WithCancel(t.Context())
	<-p.first
	cancel()
	err := p.WaitReady(ctx)
	require.ErrorContains(t, err, "the resolver panicked: ouch")
	require.ErrorIs(t, err, context.Canceled)
}

type panicky struct{}

func (panicky) Resolve(context.Context) ([]string, error) { panic("ouch") }

func TestWaitReady(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := &book{err: errors.New("SERVFAIL")}
		p := newPool(t, b)
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		err := p.WaitReady(ctx)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.ErrorContains(t, err, "SERVFAIL")
		b.set("a:1")
		require.NoError(t, p.WaitReady(t.Context()))
		require.NoError(t, p.Close())
		require.NoError(t, p.WaitReady(t.Context()))

		p = newPool(t, &book{err: errors.New("SERVFAIL")})
		time.AfterFunc(time.Second, func() { _ = p.Close() })
		require.ErrorIs(t, p.WaitReady(t.Context()), errClosed)
	})
}

// A lookup that hangs is given up after Timeout.
func TestLookupTimeout(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		o := &recorder{}
		p := newPool(t, hanging{}, func(c *Config) { c.Observer = o })
		time.Sleep(2*time.Second - 1)
		assert.False(t, p.looked())
		time.Sleep(time.Nanosecond)
		synctest.Wait()
		assert.True(t, p.looked())
		assert.Equal(t, []string{"!endpoints cannot be looked up, there are none"}, o.take())
		require.NoError(t, p.Close(), "which ends a lookup")
	})
}

type hanging struct{}

func (hanging) Resolve(ctx context.Context) ([]string, error) {
	<-ctx.Done()
	return nil, ctx.Err()
}

// However often connections fail, lookups keep their distance, and none is
// forgotten.
func TestRefresh(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := &book{addrs: []string{"a:1"}}
		p := newPool(t, b, func(c *Config) { c.Interval, c.Cooldown = time.Hour, time.Second })
		synctest.Wait()
		require.Equal(t, 1, b.times())
		for range 1_000 {
			p.Refresh()
			time.Sleep(10 * time.Millisecond)
		}
		time.Sleep(time.Minute)
		assert.Equal(t, 11, b.times(), "one each second")
		time.Sleep(time.Minute)
		require.Equal(t, 11, b.times(), "nobody asks any more")
		p.Refresh()
		synctest.Wait()
		assert.Equal(t, 12, b.times(), "at once after a rest")
		p.Refresh()
		synctest.Wait()
		assert.Equal(t, 12, b.times(), "within the cool-down")
		time.Sleep(time.Second)
		synctest.Wait()
		assert.Equal(t, 13, b.times(), "not forgotten")
	})
}

func TestMaxEndpoints(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var many []string
		for i := range 100_000 {
			many = append(many, fmt.Sprintf("10.%d.%d.%d:80", i>>16, i>>8&0xff, i&0xff))
		}
		b, o := &book{addrs: many}, &recorder{}
		p := newPool(t, b, func(c *Config) { c.Observer, c.Interval = o, 5*time.Second })
		require.NoError(t, p.WaitReady(t.Context()))
		time.Sleep(10 * time.Second)
		assert.Len(t, p.Endpoints(), 1_000)
		assert.Equal(t, "10.0.0.0:80", known(p)[0])
		assert.Equal(t, []string{"!only the first 1000 of 100000 endpoints are used"}, o.take(), "said once")
		b.set("10.0.0.1:80")
		time.Sleep(10 * time.Second)
		b.set(many[:1_001]...)
		time.Sleep(10 * time.Second)
		assert.Equal(t, []string{"!only the first 1000 of 1001 endpoints are used"}, o.take(), "said again")
	})
}

// Update ends a lookup under way, and its answer does not count.
func TestUpdateDuringLookup(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := newPool(t, stubborn{})
		synctest.Wait()
		require.NoError(t, p.Update(Config{Name: "orders", Resolver: &book{addrs: []string{"new:1"}}}))
		start := time.Now()
		require.NoError(t, p.WaitReady(t.Context()))
		assert.Zero(t, time.Since(start))
		assert.Equal(t, []string{"new:1"}, known(p))

		old := p.state.Load().version
		require.NoError(t, p.Update(Config{Name: "orders", Resolver: Static("newer:1")}))
		p.learn(old, asTargets([]string{"old:1"}), nil, time.Now()) // it was about to be taken in
		assert.Equal(t, []string{"newer:1"}, known(p))
	})
}

// stubborn answers late, and an answer when it is told to end.
type stubborn struct{}

func (stubborn) Resolve(ctx context.Context) ([]string, error) {
	<-ctx.Done()
	return []string{"old:1"}, nil
}

// LC-01: a thousand pools come and go, and leave nothing behind; see TestMain
// for the goroutines.
func TestLC01Lifecycle(t *testing.T) {
	t.Parallel()
	for i := range 1_000 {
		p, err := New(Config{Name: "orders", Resolver: &book{addrs: []string{"a:1", "b:1"}}})
		require.NoError(t, err)
		require.NoError(t, p.WaitReady(t.Context()))
		stop := p.Watch(func([]*Endpoint) {})
		try(t, p.state.Load().chooser.Choose(t.Context(), Request{}), Unreachable)
		require.NoError(t, p.Update(Config{Name: "orders", Resolver: Static("b:1", "c:1"), Interval: time.Duration(i+10) * time.Millisecond}))
		if i%2 == 0 {
			stop()
		}
		require.NoError(t, p.Close())
		require.NoError(t, p.Close())
		require.ErrorIs(t, p.Update(Config{Name: "orders", Resolver: Static("d:1")}), errClosed)
		require.Equal(t, []string{"b:1", "c:1"}, known(p), "stay after Close")
	}
}

func TestLC01CloseDuringUse(t *testing.T) {
	t.Parallel()
	for range 20 {
		p := newPool(t, &book{addrs: []string{"a:1", "b:1", "c:1"}}, func(c *Config) { c.Interval = 10 * time.Millisecond })
		require.NoError(t, p.WaitReady(t.Context()))
		var wg sync.WaitGroup
		for i := range 4 {
			wg.Go(func() {
				for n := range 200 {
					e := p.state.Load().chooser.Choose(t.Context(), Request{})
					a := e.Begin(t.Context(), time.Now())
					p.Watch(func([]*Endpoint) {})()
					if err := p.Update(Config{Name: "orders", Resolver: Static(fmt.Sprintf("x%d:1", n%3), "y:1")}); err != nil {
						assert.ErrorIs(t, err, errClosed)
					}
					a.Done(time.Now(), Result(n%6))
					a.Done(time.Now(), Failure)
					p.Endpoints()
					if i == 0 && n == 50 {
						assert.NoError(t, p.Close())
					}
				}
			})
			wg.Go(func() { assert.NoError(t, p.WaitReady(context.Background())) })
		}
		wg.Wait()
		for _, e := range p.Endpoints() {
			require.Zero(t, e.InFlight)
		}
	}
}

// Close waits for a lookup under way, which is no fault for having been ended.
func TestCloseEndsLookup(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		o, r := &recorder{}, &lingering{}
		p := newPool(t, r, func(c *Config) { c.Observer = o })
		synctest.Wait()
		require.NoError(t, p.Close())
		assert.True(t, r.ended.Load())
		assert.Empty(t, o.take())
		var d *gatemesh.Denial
		_, err := p.Transport(nil).RoundTrip(request(t, "http://orders/"))
		require.ErrorAs(t, err, &d)
		assert.Equal(t, gatemesh.Unavailable, d.Code)
		require.ErrorIs(t, err, errClosed)
	})
}

// lingering takes its time to end.
type lingering struct{ ended atomic.Bool }

func (l *lingering) Resolve(ctx context.Context) ([]string, error) {
	<-ctx.Done()
	time.Sleep(time.Second)
	l.ended.Store(true)
	return nil, ctx.Err()
}
