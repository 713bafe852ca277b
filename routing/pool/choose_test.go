package pool

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// One of five endpoints is ten times slower than the others.
func TestSlowEndpointGetsLittle(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := newPool(t, Static("a:1", "b:1", "c:1", "d:1", "slow:1"))
		const calls = 4_000
		var (
			mu  sync.Mutex
			got = map[string]int{}
			wg  sync.WaitGroup
		)
		for range calls {
			wg.Go(func() {
				e := p.state.Load().chooser.Choose(t.Context(), Request{})
				a := e.Begin(t.Context(), time.Now())
				took := 2 * time.Millisecond
				if e.Address() == "slow:1" {
					took *= 10
				}
				mu.Lock()
				got[e.Address()]++
				mu.Unlock()
				time.Sleep(took)
				a.Done(time.Now(), Success)
			})
			time.Sleep(time.Millisecond)
		}
		wg.Wait()
		assert.Less(t, got["slow:1"], calls/20, "%v", got)
		assert.Positive(t, got["slow:1"], "never starved")
		for _, addr := range []string{"a:1", "b:1", "c:1", "d:1"} {
			assert.InDelta(t, calls/4, got[addr], calls/16, "%v", got)
		}
	})
}

// A new endpoint beside busy ones gets one attempt, not all, until it has
// answered; and more when the others are loaded, even if it never answers.
func TestNewEndpoint(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := &book{addrs: []string{"a:1", "b:1"}}
		p := newPool(t, b)
		require.NoError(t, p.WaitReady(t.Context()))
		for _, addr := range []string{"a:1", "b:1"} {
			a := at(t, p, addr).Begin(t.Context(), time.Now())
			time.Sleep(time.Millisecond)
			a.Done(time.Now(), Success)
		}
		b.set("a:1", "b:1", "new:1")
		time.Sleep(2 * time.Second)
		fresh := at(t, p, "new:1")
		assert.InDelta(t, 667, tries(t, p, 1_000)["new:1"], 100, "whenever it is drawn")
		open := fresh.Begin(t.Context(), time.Now())
		assert.Zero(t, tries(t, p, 1_000)["new:1"], "not flooded")
		for _, addr := range []string{"a:1", "b:1"} {
			for range 4 {
				at(t, p, addr).Begin(t.Context(), time.Now())
			}
		}
		assert.Positive(t, tries(t, p, 1_000)["new:1"], "not starved")
		open.Done(time.Now(), Streamed)
	})
}

// An endpoint that fails at once must not look fast.
func TestFastFailureIsNotFast(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := newPool(t, Static("good:1", "bad:1"), noEjection)
		for _, addr := range []string{"good:1", "bad:1"} {
			a := at(t, p, addr).Begin(t.Context(), time.Now())
			time.Sleep(10 * time.Millisecond)
			a.Done(time.Now(), Success)
		}
		for range 100 {
			time.Sleep(100 * time.Millisecond)
			try(t, at(t, p, "bad:1"), Failure)
			a := at(t, p, "good:1").Begin(t.Context(), time.Now())
			time.Sleep(9 * time.Millisecond)
			a.Done(time.Now(), Success)
		}
		assert.Zero(t, tries(t, p, 1_000)["bad:1"])

		p = newPool(t, Static("good:1", "bad:1"), noEjection)
		try(t, at(t, p, "bad:1"), Failure) // without any sample
		a := at(t, p, "good:1").Begin(t.Context(), time.Now())
		time.Sleep(10 * time.Millisecond)
		a.Done(time.Now(), Success)
		assert.Zero(t, tries(t, p, 1_000)["bad:1"])
	})
}

// An endpoint whose first attempt fails, because it was found before it served,
// is not left alone for ever: neither once its ejection is over nor without one.
func TestFirstFailureIsForgiven(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(*Config){"ejected": func(*Config) {}, "not ejected": noEjection} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newPool(t, Static("old:1", "new:1"), change)
				a := at(t, p, "old:1").Begin(t.Context(), time.Now())
				time.Sleep(10 * time.Millisecond)
				a.Done(time.Now(), Success)
				got, attempts := 0, 0
				for begin := time.Now(); time.Since(begin) < 2*time.Minute; time.Sleep(100 * time.Millisecond) {
					e := p.state.Load().chooser.Choose(t.Context(), Request{})
					a := e.Begin(t.Context(), time.Now())
					time.Sleep(10 * time.Millisecond)
					switch {
					case e.Address() == "old:1":
						a.Done(time.Now(), Success)
					case time.Since(begin) < 20*time.Second:
						attempts++
						a.Done(time.Now(), Unreachable)
					default:
						got++
						a.Done(time.Now(), Success)
					}
				}
				assert.Less(t, attempts, 10, "it is not flooded while it fails")
				assert.Greater(t, got, 100, "nor starved when it works")
			})
		})
	}
}

func TestAttemptCountsOnce(t *testing.T) {
	t.Parallel()
	p := newPool(t, Static("a:1", "b:1"))
	e := at(t, p, "a:1")
	a := e.Begin(t.Context(), time.Now())
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() { a.Answered(time.Now(), Failure) })
		wg.Go(func() { a.Done(time.Now(), Failure) })
	}
	wg.Wait()
	assert.Equal(t, EndpointStatus{Address: "a:1", Weight: 1, Failures: 1}, e.status(time.Now()))
}

func TestResults(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		result    Result
		name      string
		latency   time.Duration // after one of 100 ms
		failures  int           // after one
		refreshes int
	}{
		{Neutral, "neutral", 100, 1, 0},
		{Success, "success", 200, 0, 0},
		{Streamed, "streamed", 100, 0, 0},
		{TimedOut, "timed out", 200, 1, 0},
		{Failure, "failure", 200, 2, 0},
		{Unreachable, "unreachable", 200, defaultFailures, 1},
		{Result(99), "unknown", 100, 1, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				assert.Equal(t, tt.name, tt.result.String())
				b := &book{addrs: []string{"a:1", "b:1"}}
				p := newPool(t, b, func(c *Config) { c.Interval = time.Hour })
				require.NoError(t, p.WaitReady(t.Context()))
				time.Sleep(time.Second)
				e, now := at(t, p, "a:1"), time.Now()
				e.Begin(t.Context(), now.Add(-100*time.Millisecond)).Done(now, Success)
				try(t, e, Failure)
				e.Begin(t.Context(), now.Add(-200*time.Millisecond)).Done(now, tt.result)
				synctest.Wait()
				s := e.status(now)
				assert.InDelta(t, tt.latency*time.Millisecond, s.Latency, 1e3)
				assert.Equal(t, tt.failures, s.Failures)
				assert.Equal(t, 1+tt.refreshes, b.times())
			})
		})
	}
}

// Choosing costs no memory, with all endpoints in and with some out.
func TestChooseAllocates(t *testing.T) {
	p := newPool(t, Static("a:1", "b:1", "c:1", "d:1", "e:1"))
	ctx, c, list := context.Background(), p.state.Load().chooser, p.state.Load().endpoints
	assert.Zero(t, testing.AllocsPerRun(1_000, func() { c.Choose(ctx, Request{}) }))
	try(t, list[0], Unreachable)
	assert.Zero(t, testing.AllocsPerRun(1_000, func() { c.Choose(ctx, Request{}) }))
}

// It bounds what choosing adds to each attempt: two draws, whether somebody is
// out or not.
func BenchmarkChoose(b *testing.B) {
	for _, n := range []int{2, 10, 1_000} {
		for _, out := range []bool{false, true} {
			b.Run(fmt.Sprintf("%d/out=%t", n, out), func(b *testing.B) {
				var addrs []string
				for i := range n {
					addrs = append(addrs, fmt.Sprintf("e%d:1", i))
				}
				p := newPool(b, Static(addrs...), func(c *Config) { c.Ejection.Base, c.Ejection.Max = time.Hour, time.Hour })
				ctx, c, list := context.Background(), p.state.Load().chooser, p.state.Load().endpoints
				for _, e := range list {
					e.latency.observe(0, time.Millisecond)
				}
				if out {
					try(b, list[0], Unreachable)
				}
				b.ReportAllocs()
				for b.Loop() {
					c.Choose(ctx, Request{})
				}
			})
		}
	}
}
