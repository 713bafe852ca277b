package pool

import (
	"context"
	"errors"
	"fmt"
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

func TestStatsSurviveLookups(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := &book{addrs: []string{"10.0.0.2:80", "10.0.0.1:80", "10.0.0.2:80"}}
		p := newPool(t, b, func(c *Config) { c.Ejection.MaxPercent = 100 })
		require.NoError(t, p.WaitReady(t.Context()))
		require.Equal(t, []string{"10.0.0.1:80", "10.0.0.2:80"}, known(p), "once each, in order")
		e := at(t, p, "10.0.0.2:80")
		a := e.Begin(t.Context(), time.Now())
		time.Sleep(50 * time.Millisecond)
		a.Answered(time.Now(), Success)
		try(t, e, Failure)
		before := e.status(time.Now())
		require.Equal(t, EndpointStatus{Address: "10.0.0.2:80", Weight: 1, InFlight: 1, Latency: before.Latency, Failures: 1}, before)
		require.InDelta(t, 50*time.Millisecond, before.Latency, 1e3)

		b.set("10.0.0.0:80", "10.0.0.2:80", "10.0.0.3:80") // .1 gone, neighbours on both sides
		time.Sleep(2 * time.Second)
		require.Equal(t, []string{"10.0.0.0:80", "10.0.0.2:80", "10.0.0.3:80"}, known(p))
		assert.Same(t, e, at(t, p, "10.0.0.2:80"))
		assert.Equal(t, 1, statusOf(t, p, "10.0.0.2:80").InFlight)

		require.NoError(t, p.Update(Config{Name: "orders", Resolver: Static("10.0.0.2:80", "10.0.0.9:80")}))
		require.Equal(t, []string{"10.0.0.2:80", "10.0.0.9:80"}, known(p), "a static list at once")
		assert.Same(t, e, at(t, p, "10.0.0.2:80"))
		a.Done(time.Now(), Success)
		assert.Zero(t, statusOf(t, p, "10.0.0.2:80").InFlight)
	})
}

// An answer that leaves an address out for a moment, or for less than
// Ejection.Max, takes nothing from what is known of it.
func TestLostAddressComesBack(t *testing.T) {
	t.Parallel()
	const lost = "10.0.0.2:80"
	others := []string{"10.0.0.1:80", "10.0.0.3:80", "10.0.0.4:80"}
	for name, lose := range map[string]func(b *book){
		"left out": func(b *book) { b.set(others...) },
		"all are too old": func(b *book) {
			b.fail(errors.New("SERVFAIL"))
			time.Sleep(10 * time.Second) // MaxStale
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				b := &book{addrs: append([]string{lost}, others...)}
				p := newPool(t, b, func(c *Config) {
					c.MaxStale, c.Ejection.Base, c.Ejection.Max = 10*time.Second, 40*time.Second, time.Minute
				})
				require.NoError(t, p.WaitReady(t.Context()))
				e := at(t, p, lost)
				first, second := e.Begin(t.Context(), time.Now()), e.Begin(t.Context(), time.Now())
				time.Sleep(50 * time.Millisecond)
				first.Answered(time.Now(), Success)
				try(t, e, Unreachable)
				until := time.Now().Add(40 * time.Second)

				lose(b)
				time.Sleep(3 * time.Second)
				require.NotContains(t, known(p), lost)
				first.Done(time.Now(), Neutral) // while it is lost
				b.set(append(others, lost)...)
				time.Sleep(3 * time.Second)
				require.Same(t, e, at(t, p, lost))
				require.Empty(t, lostBy(p))
				s := statusOf(t, p, lost)
				assert.Equal(t, until, s.EjectedUntil)
				assert.NotZero(t, s.Latency)
				assert.Equal(t, 1, s.InFlight)
				warm(p)
				assert.Zero(t, tries(t, p, 1_000)[lost])
				second.Done(time.Now(), Success)
				assert.Zero(t, statusOf(t, p, lost).InFlight)

				time.Sleep(time.Until(until))
				warm(p)
				assert.Positive(t, tries(t, p, 1_000)[lost], "it is used again")
				try(t, e, Unreachable)
				assert.Equal(t, time.Now().Add(time.Minute), statusOf(t, p, lost).EjectedUntil, "and judged as before")
			})
		})
	}
}

// One that stays away for longer is forgotten, however often its neighbours
// come and go, and a new endpoint if it does come back.
func TestLostAddressIsForgotten(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		away      time.Duration
		forgotten bool
	}{{time.Minute - 1, false}, {time.Minute, true}} {
		t.Run(tt.away.String(), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				p := newPool(t, Static("a:1", "b:1", "c:1"), func(c *Config) { c.Interval = time.Hour })
				update := func(addrs ...string) {
					t.Helper()
					require.NoError(t, p.Update(Config{Name: "orders", Resolver: Static(addrs...), Interval: time.Hour}))
				}
				old := at(t, p, "a:1")
				try(t, old, Unreachable)
				update("b:1", "c:1")
				time.Sleep(tt.away / 2)
				update("b:1")
				time.Sleep(tt.away - tt.away/2)
				update("a:1", "b:1")
				if !tt.forgotten {
					assert.Same(t, old, at(t, p, "a:1"))
					return
				}
				assert.NotSame(t, old, at(t, p, "a:1"))
				assert.Equal(t, EndpointStatus{Address: "a:1", Weight: 1}, statusOf(t, p, "a:1"))
			})
		})
	}
	synctest.Test(t, func(t *testing.T) { // nothing of it is kept, also if no address ever changes again
		b := &book{addrs: []string{"a:1", "b:1"}}
		p := newPool(t, b)
		require.NoError(t, p.WaitReady(t.Context()))
		b.set("b:1")
		time.Sleep(2 * time.Second)
		assert.Len(t, lostBy(p), 1)
		time.Sleep(time.Minute + 2*time.Second)
		assert.Empty(t, lostBy(p))
	})
}

// A DNS that answers with other addresses each time fills no memory.
func TestLostAddressesAreBounded(t *testing.T) {
	t.Parallel()
	p := newPool(t, Static("first:1"))
	limit := func(c *Config) Config { c.MaxEndpoints, c.Interval = 3, time.Hour; return *c }
	for i := range 1_000 {
		cfg := Config{Name: "orders", Resolver: Static(fmt.Sprintf("a%d:1", i), fmt.Sprintf("b%d:1", i))}
		require.NoError(t, p.Update(limit(&cfg)))
		require.LessOrEqual(t, len(lostBy(p)), 3)
	}
	assert.Equal(t, []string{"b997:1", "a998:1", "b998:1"}, lostBy(p), "the last ones")
}

// lostBy returns the addresses that p remembers without using them.
func lostBy(p *Pool) (addrs []string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, l := range p.lost {
		addrs = append(addrs, l.addr)
	}
	return addrs
}

// Those that come back out may be too many together with those that are out by
// then: nobody is taken to be out rather than too few used.
func TestLostAddressesAndTheCeiling(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		all := []string{"a:1", "b:1", "c:1", "d:1"}
		p := newPool(t, Static(all...))
		update := func(addrs ...string) {
			t.Helper()
			require.NoError(t, p.Update(Config{Name: "orders", Resolver: Static(addrs...)}))
		}
		try(t, at(t, p, "a:1"), Unreachable)
		try(t, at(t, p, "b:1"), Unreachable)
		update("c:1", "d:1")
		try(t, at(t, p, "c:1"), Unreachable)
		require.NotZero(t, statusOf(t, p, "c:1").EjectedUntil)
		update(all...)
		for _, addr := range all { // failures of the same weight
			at(t, p, addr).failures.Store(0)
		}
		got := tries(t, p, 4_000)
		for _, addr := range all {
			assert.InDelta(t, 1_000, got[addr], 200, "three of four are out: %v", got)
		}
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
		p := newPool(t, b, func(c *Config) { c.Observer = o })
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

func TestWatch(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := &book{err: errors.New("SERVFAIL")}
		p := newPool(t, b)
		var got [][]string
		stop := p.Watch(func(l []*Endpoint) {
			var addrs []string
			for i, e := range l {
				addrs = append(addrs, e.Address())
				l[i] = nil // the list is ours
			}
			got = append(got, addrs)
		})
		synctest.Wait()
		assert.Equal(t, [][]string{nil}, got, "the first lookup has failed")
		b.set("a:1")
		time.Sleep(10 * time.Second)
		b.set("b:1", "a:1")
		time.Sleep(10 * time.Second)
		b.fail(errors.New("SERVFAIL"))
		time.Sleep(10 * time.Second)
		synctest.Wait()
		assert.Equal(t, [][]string{nil, {"a:1"}, {"a:1", "b:1"}}, got, "once a change")

		late := make(chan int, 1)
		stopLate := p.Watch(func(l []*Endpoint) { late <- len(l) })
		assert.Equal(t, 2, <-late, "at once")
		stop()
		stop()
		stopLate()
		b.set("c:1")
		time.Sleep(10 * time.Second)
		synctest.Wait()
		assert.Len(t, got, 3, "stopped")
		assert.Equal(t, []string{"c:1"}, known(p))
		assert.Empty(t, p.watchers)
	})
}

// The first call comes when the first lookup has ended, and not before.
func TestWatchWaitsForFirstLookup(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := newPool(t, hanging{})
		var calls atomic.Int64
		defer p.Watch(func(l []*Endpoint) {
			calls.Add(1)
			assert.Empty(t, l)
		})()
		synctest.Wait()
		assert.Zero(t, calls.Load())
		time.Sleep(time.Minute)
		synctest.Wait()
		assert.EqualValues(t, 1, calls.Load())
	})
}

// One call at a time, and none after stop, which waits for one under way.
func TestWatchIsSerial(t *testing.T) {
	t.Parallel()
	const soon = 20 * time.Millisecond // in which something that must not happen would
	p := newPool(t, Static("a:1"))
	entered, release := make(chan int, 10), make(chan struct{})
	stop := p.Watch(func(l []*Endpoint) {
		if l[0].Address() != "a:1" {
			entered <- len(l)
			<-release
		}
	})
	var wg sync.WaitGroup
	update := func(addrs ...string) {
		wg.Go(func() { assert.NoError(t, p.Update(Config{Name: "orders", Resolver: Static(addrs...)})) })
	}
	update("b:1")
	require.Equal(t, 1, <-entered)
	update("b:1", "c:1")
	update("b:1", "c:1")
	select {
	case <-entered:
		assert.Fail(t, "called twice at a time")
	case <-time.After(soon):
	}
	release <- struct{}{}
	require.Equal(t, 2, <-entered, "the latest list")
	stopped := make(chan struct{})
	wg.Go(func() {
		stop()
		close(stopped)
	})
	select {
	case <-stopped:
		assert.Fail(t, "stop did not wait")
	case <-time.After(soon):
	}
	close(release)
	wg.Wait()
	require.NoError(t, p.Update(Config{Name: "orders", Resolver: Static("d:1")}))
	assert.Empty(t, entered)
}

// A watcher that is stopped while others are told is not called any more.
func TestWatchStoppedMeanwhile(t *testing.T) {
	t.Parallel()
	for range 10 {
		p := newPool(t, Static("a:1"))
		entered, release := make(chan struct{}), make(chan struct{})
		first := true
		defer p.Watch(func([]*Endpoint) {
			if first {
				first = false
				return
			}
			close(entered)
			<-release
		})()
		var calls atomic.Int64
		var stops []func()
		for range 10 {
			stops = append(stops, p.Watch(func([]*Endpoint) { calls.Add(1) }))
		}
		var wg sync.WaitGroup
		wg.Go(func() { assert.NoError(t, p.Update(Config{Name: "orders", Resolver: Static("b:1")})) })
		<-entered
		for _, stop := range stops {
			stop()
		}
		before := calls.Load()
		close(release)
		wg.Wait()
		assert.Equal(t, before, calls.Load())
	}
}

// Whoever changes the list, watchers end with the latest one.
func TestWatchConcurrently(t *testing.T) {
	t.Parallel()
	p := newPool(t, Static("a:1"))
	var mu sync.Mutex
	var last []*Endpoint
	defer p.Watch(func(l []*Endpoint) {
		mu.Lock()
		defer mu.Unlock()
		last = l
	})()
	var wg sync.WaitGroup
	for w := range 4 {
		wg.Go(func() {
			for i := range 50 {
				assert.NoError(t, p.Update(Config{Name: "orders", Resolver: Static(fmt.Sprintf("w%d-%d:1", w, i))}))
				p.Watch(func([]*Endpoint) {})()
			}
		})
	}
	wg.Wait()
	mu.Lock()
	defer mu.Unlock()
	assert.Equal(t, p.state.Load().endpoints, last)
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
