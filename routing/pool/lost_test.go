package pool

import (
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

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
