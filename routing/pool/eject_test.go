package pool

import (
	"fmt"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestEjectFor(t *testing.T) {
	t.Parallel()
	cfg := &Ejection{Base: 5 * time.Second, Max: time.Minute}
	s := int64(time.Second)
	for _, tt := range []struct {
		now, last, repeats int64
		want               time.Duration
		again              int64
	}{
		{100 * s, 0, 0, 5 * time.Second, 1},
		{100 * s, 95 * s, 1, 10 * time.Second, 2},
		{100 * s, 95 * s, 3, 40 * time.Second, 4},
		{100 * s, 95 * s, 4, time.Minute, 5},
		{100 * s, 95 * s, 32, time.Minute, 32},
		{100 * s, 41 * s, 2, 20 * time.Second, 3},
		{100 * s, 40 * s, 2, 5 * time.Second, 1}, // in for Max
	} {
		d, again := ejectFor(cfg, tt.now, tt.last, tt.repeats)
		assert.Equal(t, tt.want, d, "%+v", tt)
		assert.Equal(t, tt.again, again, "%+v", tt)
	}
}

func TestEjection(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := newPool(t, Static("a:1", "b:1", "c:1", "d:1"))
		warm(p)
		bad := at(t, p, "a:1")
		for range 4 {
			try(t, bad, Failure)
		}
		assert.Positive(t, tries(t, p, 1_000)["a:1"], "four are not five")
		try(t, bad, Success)
		for range 4 {
			try(t, bad, Failure)
		}
		require.Zero(t, statusOf(t, p, "a:1").EjectedUntil, "not in a row")
		early := bad.Begin(t.Context(), time.Now())
		try(t, bad, Failure)
		require.Equal(t, time.Now().Add(5*time.Second), statusOf(t, p, "a:1").EjectedUntil)
		assert.Zero(t, tries(t, p, 1_000)["a:1"])

		time.Sleep(time.Second)
		early.Done(time.Now(), Failure) // it was under way, and tells nothing new
		time.Sleep(4*time.Second - 1)
		assert.Zero(t, tries(t, p, 1_000)["a:1"])
		time.Sleep(time.Nanosecond)
		warm(p)
		assert.Positive(t, tries(t, p, 1_000)["a:1"], "back")
		assert.Zero(t, statusOf(t, p, "a:1").EjectedUntil)

		try(t, bad, Failure) // one is enough now, and lasts twice as long
		assert.Equal(t, time.Now().Add(10*time.Second), statusOf(t, p, "a:1").EjectedUntil)
		time.Sleep(10 * time.Second)
		try(t, bad, Success)
		try(t, bad, Failure)
		assert.Zero(t, statusOf(t, p, "a:1").EjectedUntil, "a success makes it start over")

		try(t, at(t, p, "b:1"), Unreachable)
		assert.Equal(t, time.Now().Add(5*time.Second), statusOf(t, p, "b:1").EjectedUntil, "one is enough")
		time.Sleep(5 * time.Second)
		try(t, at(t, p, "b:1"), Failure)
		assert.Equal(t, time.Now().Add(10*time.Second), statusOf(t, p, "b:1").EjectedUntil, "out again at the next failure of any kind")
	})
}

// Requests that fail wherever they go say nothing about an endpoint. A client
// who has such ones, or something that all endpoints depend on and that is down,
// ejects nobody.
func TestFailuresOfAllEjectNobody(t *testing.T) {
	t.Parallel()
	for _, n := range []int{2, 3, 4, 10} {
		t.Run(strconv.Itoa(n), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				p := newPool(t, Static(numbered(n)...), func(c *Config) { c.Ejection.MaxPercent = 100 })
				warm(p)
				all := p.state.Load().endpoints
				for range 4 { // one less than Failures
					for _, e := range all {
						try(t, e, Failure)
					}
				}
				for range 1_000 {
					try(t, p.state.Load().chooser.Choose(t.Context(), Request{}), Failure)
					assert.Zero(t, ejected(p))
				}
				try(t, all[0], Unreachable)
				assert.Equal(t, 1, ejected(p), "but that is its own fault")
			})
		})
	}
}

// Of bad endpoints among good ones, those up to one half are ejected.
func TestFailuresOfHalfEject(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ n, bad, out int }{{1, 1, 0}, {2, 1, 1}, {2, 2, 0}, {3, 1, 1}, {3, 2, 0}, {4, 2, 2}, {4, 3, 0}, {5, 2, 2}, {10, 5, 5}, {10, 6, 0}} {
		t.Run(fmt.Sprintf("%d of %d", tt.bad, tt.n), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				p := newPool(t, Static(numbered(tt.n)...), func(c *Config) { c.Ejection.MaxPercent = 100 })
				for range 10 {
					for i, e := range p.state.Load().endpoints {
						if i < tt.bad {
							try(t, e, Failure)
						} else {
							try(t, e, Success)
						}
					}
				}
				assert.Equal(t, tt.out, ejected(p))
			})
		})
	}
}

func numbered(n int) (addrs []string) {
	for i := range n {
		addrs = append(addrs, fmt.Sprintf("e%d:1", i))
	}
	return addrs
}

func ejected(p *Pool) (out int) {
	for _, e := range p.Endpoints() {
		if !e.EjectedUntil.IsZero() {
			out++
		}
	}
	return out
}

func TestEjectionDisabled(t *testing.T) {
	t.Parallel()
	p := newPool(t, Static("a:1", "b:1", "c:1"), noEjection)
	for range 10 {
		try(t, at(t, p, "a:1"), Unreachable)
	}
	assert.Zero(t, statusOf(t, p, "a:1").EjectedUntil)
	require.NoError(t, p.Update(Config{Name: "orders", Resolver: Static("a:1", "b:1", "c:1")}))
	try(t, at(t, p, "a:1"), Unreachable)
	assert.NotZero(t, statusOf(t, p, "a:1").EjectedUntil, "Update turns it on")
}

// No more than the ceiling are out, also if all fail at once on all cores.
func TestEjectionCeiling(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ n, percent, out int }{
		{1, 100, 0}, {2, 50, 1}, {2, 100, 1}, {3, 50, 1}, {4, 50, 2}, {10, 50, 5}, {10, 9, 1}, {3, 10, 1}, {10, 100, 9}, {1000, 30, 300},
	} {
		t.Run(fmt.Sprintf("%d of %d at %d%%", tt.out, tt.n, tt.percent), func(t *testing.T) {
			t.Parallel()
			require.Equal(t, tt.out, mayBeOut(tt.n, tt.percent))
			limit := &Config{Ejection: Ejection{MaxPercent: tt.percent}}
			require.False(t, limit.panics(tt.n-tt.out, tt.n), "those that may be out are not too many")
			require.True(t, limit.panics(tt.n-tt.out-1, tt.n))
			var addrs []string
			for i := range tt.n {
				addrs = append(addrs, fmt.Sprintf("e%d:1", i))
			}
			p := newPool(t, Static(addrs...), func(c *Config) {
				c.Ejection.MaxPercent, c.Ejection.Base, c.Ejection.Max = tt.percent, time.Hour, time.Hour
			})
			var wg sync.WaitGroup
			for _, e := range p.state.Load().endpoints {
				wg.Go(func() { try(t, e, Unreachable) })
			}
			wg.Wait()
			out := 0
			for _, e := range p.Endpoints() {
				if !e.EjectedUntil.IsZero() {
					out++
				}
			}
			assert.Equal(t, tt.out, out)
			assert.NotNil(t, p.state.Load().chooser.Choose(t.Context(), Request{}))
		})
	}
}

// The ceiling holds when failures come on all cores at the same moment.
func TestEjectionCeilingConcurrently(t *testing.T) {
	t.Parallel()
	var addrs []string
	for i := range 200 {
		addrs = append(addrs, fmt.Sprintf("e%d:1", i))
	}
	for range 10 {
		p := newPool(t, Static(addrs...), func(c *Config) { c.Ejection.Base, c.Ejection.Max = time.Hour, time.Hour })
		all := p.state.Load().endpoints
		var wg sync.WaitGroup
		for i := range 4 {
			wg.Go(func() {
				for j := i; j < len(all); j += 4 {
					try(t, all[j], Unreachable)
				}
			})
		}
		wg.Wait()
		out := 0
		for _, e := range p.Endpoints() {
			if !e.EjectedUntil.IsZero() {
				out++
			}
		}
		assert.Equal(t, 100, out)
	}
}

// When those that are in have left, those that are out are better than nobody,
// and than one for the load of all.
func TestPanicMode(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		all := []string{"a:1", "b:1", "c:1", "d:1"}
		p := newPool(t, Static(all...))
		try(t, at(t, p, "a:1"), Unreachable)
		try(t, at(t, p, "b:1"), Unreachable)
		got := tries(t, p, 1_000)
		assert.Zero(t, got["a:1"]+got["b:1"], "%v", got)

		require.NoError(t, p.Update(Config{Name: "orders", Resolver: Static(all[:3]...)}))
		for _, addr := range all[:3] { // failures of the same weight
			try(t, at(t, p, addr), Neutral)
			at(t, p, addr).failures.Store(0)
		}
		got = tries(t, p, 3_000)
		for _, addr := range all[:3] {
			assert.InDelta(t, 1_000, got[addr], 200, "two of three are out: nobody is, %v", got)
		}
		a := at(t, p, "a:1")
		assert.Same(t, a, p.Chooser([]*Endpoint{a}).Choose(t.Context(), Request{}), "the only candidate")
		assert.Same(t, at(t, p, "c:1"), p.Chooser([]*Endpoint{a, at(t, p, "c:1")}).Choose(t.Context(), Request{}), "a subset")
		assert.Nil(t, p.Chooser(nil).Choose(t.Context(), Request{}))
	})
}
