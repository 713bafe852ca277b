package breaker

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

func ok(context.Context) error   { return nil }
func down(context.Context) error { return errDown }

func TestBreakerOpensAndCloses(t *testing.T) {
	t.Parallel()
	for name, policy := range map[string]Policy{
		"failures": {}, "rate": {FailureRate: 0.5, MinCalls: 5, Window: 10 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				w := &watcher{}
				b := newBreaker(t, func(c *Config) { c.Policy, c.Observer = policy, w })
				for range 4 {
					require.ErrorIs(t, b.Do(t.Context(), down), errDown)
				}
				assert.Equal(t, Closed, b.State())
				require.ErrorIs(t, b.Do(t.Context(), down), errDown)
				assert.Equal(t, Open, b.State())
				d := requireOpen(t, b.Do(t.Context(), func(context.Context) error { panic("called") }))
				s, err := strconv.Atoi(d.Header[0].Value)
				require.NoError(t, err)
				assert.True(t, s >= 4 && s <= 5, s)
				time.Sleep(4*time.Second - time.Millisecond)
				requireOpen(t, b.Do(t.Context(), ok))

				time.Sleep(time.Second + time.Millisecond) // jittered down to 4 s
				require.ErrorIs(t, b.Do(t.Context(), down), errDown)
				assert.Equal(t, Open, b.State(), "the probe failed")
				requireOpen(t, b.Do(t.Context(), ok))
				time.Sleep(5 * time.Second)
				require.NoError(t, b.Do(t.Context(), func(context.Context) error {
					assert.Equal(t, HalfOpen, b.State())
					return nil
				}))
				assert.Equal(t, Closed, b.State())
				assert.Zero(t, b.Remaining())
				assert.Equal(t, []string{"breaker of dep opened; calls are refused", "breaker of dep closed"}, w.read(), "each once")
				assert.Equal(t, gatemesh.EventFault, w.events[0].Kind)
				assert.Equal(t, gatemesh.EventNotice, w.events[1].Kind)
				fail(b, 4)
				assert.Equal(t, Closed, b.State(), "it counts from the beginning")
			})
		})
	}
}

func TestFailureRateForgets(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBreaker(t, func(c *Config) { c.FailureRate, c.MinCalls = 0.5, 10 })
		fail(b, 9)
		time.Sleep(11 * time.Second)
		fail(b, 9)
		assert.Equal(t, Closed, b.State(), "too few calls in the window")
		fail(b, 1)
		assert.Equal(t, Open, b.State())

		b = newBreaker(t, func(c *Config) { c.FailureRate, c.MinCalls = 0.5, 10 })
		for range 100 {
			require.NoError(t, b.Do(t.Context(), ok))
			require.NoError(t, b.Do(t.Context(), ok))
			fail(b, 1)
		}
		assert.Equal(t, Closed, b.State(), "a third failed")
		fail(b, 100)
		assert.Equal(t, Open, b.State())
	})
}

func TestBR01_Neutral(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := &watcher{}
		b := newBreaker(t, func(c *Config) { c.Observer = w })
		canceled, cancel := context.WithCancel(t.Context())
		cancel()
		fail(b, 4) // one more would open it, one success would forgive
		for range 1000 {
			require.Error(t, b.Do(canceled, func(ctx context.Context) error { return ctx.Err() }))
			require.Error(t, b.Do(canceled, func(context.Context) error { return errDown }))
			short, cancel := context.WithTimeout(t.Context(), time.Millisecond)
			require.Error(t, b.Do(short, func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }))
			cancel()
		}
		assert.Equal(t, Closed, b.State())
		fail(b, 1)
		assert.Equal(t, Open, b.State(), "none of these were successes")

		// A probe whose caller leaves is no news; the next call probes at once.
		time.Sleep(5 * time.Second)
		for range 10 {
			require.Error(t, b.Do(canceled, func(ctx context.Context) error { return ctx.Err() }))
			require.Equal(t, HalfOpen, b.State())
		}
		require.NoError(t, b.Do(t.Context(), ok))
		assert.Equal(t, Closed, b.State())
		assert.Len(t, w.read(), 2)
	})
	synctest.Test(t, func(t *testing.T) {
		b := newBreaker(t)
		bad := gatemesh.Deny(gatemesh.InvalidArgument, "bad", "Bad.")
		for range 1000 {
			require.Error(t, b.Do(t.Context(), func(context.Context) error { return bad }))
		}
		assert.Equal(t, Closed, b.State(), "an answer is an answer")
		for range 10 {
			ctx, cancel := context.WithCancel(t.Context())
			time.AfterFunc(time.Hour, cancel)
			require.Error(t, b.Do(ctx, func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }))
		}
		assert.Equal(t, Closed, b.State(), "however long the caller was there")
		for range 5 {
			patient, cancel := context.WithTimeout(t.Context(), time.Second)
			require.Error(t, b.Do(patient, func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }))
			cancel()
		}
		assert.Equal(t, Open, b.State(), "it had its Patience")
	})
}

func TestBR02_OneProbeAtATime(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBreaker(t)
		fail(b, 5)
		time.Sleep(5 * time.Second)
		var probes, refused atomic.Int32
		var wg sync.WaitGroup
		for range 100 {
			wg.Go(func() {
				err := b.Do(t.Context(), func(context.Context) error {
					probes.Add(1)
					time.Sleep(3 * time.Second)
					return nil
				})
				if err != nil {
					refused.Add(1)
				}
			})
		}
		wg.Wait()
		assert.EqualValues(t, 1, probes.Load())
		assert.EqualValues(t, 99, refused.Load())
		assert.Equal(t, Closed, b.State())
	})
}

// A probe that hangs, or whose Permit was lost, blocks nobody for ever, and
// what it brings in the end still counts.
func TestBR02_LostProbe(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBreaker(t)
		fail(b, 5)
		time.Sleep(5 * time.Second)
		lost, err := b.Acquire(t.Context())
		require.NoError(t, err)
		_, err = b.Acquire(t.Context())
		requireOpen(t, err)
		time.Sleep(5 * time.Second)
		second, err := b.Acquire(t.Context())
		require.NoError(t, err)
		lost.Neutral()
		_, err = b.Acquire(t.Context())
		requireOpen(t, err) // the place is the second one's
		second.Neutral()
		third, err := b.Acquire(t.Context())
		require.NoError(t, err)
		third.Close()
		assert.Equal(t, Open, b.State())
		time.Sleep(5 * time.Second)
		slow, err := b.Acquire(t.Context())
		require.NoError(t, err)
		time.Sleep(time.Minute)
		_, err = b.Acquire(t.Context())
		require.NoError(t, err)
		slow.Success()
		assert.Equal(t, Closed, b.State())
	})
}

func TestStaleResults(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBreaker(t)
		var old []*Permit
		for range 20 {
			p, err := b.Acquire(t.Context())
			require.NoError(t, err)
			old = append(old, p)
		}
		fail(b, 5)
		old[0].Success()
		assert.Equal(t, Open, b.State())
		time.Sleep(5 * time.Second)
		probe, err := b.Acquire(t.Context())
		require.NoError(t, err)
		for _, p := range old[1:5] {
			p.Success()
			assert.Equal(t, HalfOpen, b.State())
		}
		for _, p := range old[5:10] {
			p.Failure(time.Minute)
			assert.Equal(t, HalfOpen, b.State())
		}
		probe.Success()
		probe.Failure(0)
		require.Equal(t, Closed, b.State())
		for _, p := range old[10:] {
			p.Failure(0)
		}
		assert.Equal(t, Closed, b.State())
		fail(b, 4)
		assert.Equal(t, Closed, b.State())
	})
}

func TestBR02_RetryAfter(t *testing.T) {
	t.Parallel()
	for value, want := range map[string][2]time.Duration{ // from, up to
		"20": {20 * time.Second, 24 * time.Second}, "2": {4 * time.Second, 5 * time.Second}, "59": {59 * time.Second, time.Minute},
		"999999999": {48 * time.Second, time.Minute}, "99999999999999999999999999": {48 * time.Second, time.Minute},
		"-1": {4 * time.Second, 5 * time.Second}, "x": {4 * time.Second, 5 * time.Second}, "": {4 * time.Second, 5 * time.Second},
		"date": {19 * time.Second, 24 * time.Second}, "past": {4 * time.Second, 5 * time.Second},
	} {
		t.Run(value, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				switch value {
				case "date":
					value = time.Now().Add(20 * time.Second).UTC().Format("Mon, 02 Jan 2006 15:04:05 GMT")
				case "past":
					value = "Thu, 01 Jan 1970 00:00:00 GMT"
				}
				b := newBreaker(t)
				for range 5 {
					d := gatemesh.Deny(gatemesh.Unavailable, "down", "Down.").WithField("retry-after", value)
					require.Error(t, b.Do(t.Context(), func(context.Context) error { return d }))
				}
				assert.GreaterOrEqual(t, b.Remaining(), want[0])
				assert.LessOrEqual(t, b.Remaining(), want[1])
				time.Sleep(want[1])
				require.NoError(t, b.Do(t.Context(), ok))
			})
		})
	}
}

func TestDoPanics(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBreaker(t)
		boom := func(context.Context) error { panic("boom") }
		for range 5 {
			assert.PanicsWithValue(t, "boom", func() { _ = b.Do(t.Context(), boom) })
		}
		assert.Equal(t, Open, b.State())
		for range 3 {
			time.Sleep(5 * time.Second)
			assert.PanicsWithValue(t, "boom", func() { _ = b.Do(t.Context(), boom) })
			assert.Equal(t, Open, b.State(), "the permit is given back")
		}
		time.Sleep(5 * time.Second)
		require.NoError(t, b.Do(t.Context(), ok))
	})
}

// An Observer may use the breaker that it hears of.
func TestObserverHoldsNoLock(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var b *Breaker
		var states []State
		observer := gatemesh.ObserverFunc(func(ctx context.Context, _ gatemesh.Event) {
			states = append(states, b.State())
			_ = b.Do(ctx, ok)
			b.Remaining()
		})
		b = newBreaker(t, func(c *Config) { c.Observer = observer })
		fail(b, 5)
		time.Sleep(5 * time.Second)
		require.NoError(t, b.Do(t.Context(), ok))
		assert.Equal(t, []State{Open, Closed}, states)
	})
}

func TestBreakerUpdate(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBreaker(t)
		fail(b, 4)
		require.NoError(t, b.Update(Config{Name: "dep", Policy: Policy{Delay: time.Second}}))
		fail(b, 1)
		require.Equal(t, Open, b.State(), "what is not about failures does not touch their count")
		assert.LessOrEqual(t, b.Remaining(), time.Second)

		require.NoError(t, b.Update(Config{Name: "dep", Policy: Policy{Failures: 2, Delay: 10 * time.Second}}))
		assert.Equal(t, Open, b.State())
		assert.LessOrEqual(t, b.Remaining(), time.Second, "the delay under way stays")
		time.Sleep(time.Second)
		p, err := b.Acquire(t.Context())
		require.NoError(t, err)
		require.NoError(t, b.Update(Config{Name: "dep", Policy: Policy{Failures: 3}}))
		assert.Equal(t, HalfOpen, b.State())
		_, err = b.Acquire(t.Context())
		requireOpen(t, err)
		p.Success()
		assert.Equal(t, Closed, b.State(), "the probe counts")
		fail(b, 2)
		assert.Equal(t, Closed, b.State())
		fail(b, 1)
		assert.Equal(t, Open, b.State())

		assert.ErrorContains(t, b.Update(Config{Name: "other"}), "Name cannot change")
		assert.ErrorContains(t, b.Update(Config{Name: "dep", Policy: Policy{Failures: -1}}), "Failures")
		assert.Equal(t, Open, b.State())
	})
}

func TestZeroValues(t *testing.T) {
	t.Parallel()
	var b Breaker
	assert.ErrorIs(t, b.Do(t.Context(), ok), errUnset)
	assert.Error(t, b.Update(Config{Name: "x"}))
	assert.Equal(t, Open, b.State())
	assert.Equal(t, maxDelay, b.Remaining())
	assert.Equal(t, "unset breaker", fmt.Sprint(&b))
	assert.Equal(t, "breaker dep (closed)", fmt.Sprintf("%+v", newBreaker(t)))
	var g Gate
	_, err := g.Admit(t.Context(), nil)
	assert.ErrorIs(t, err, errUnset)
	assert.Error(t, g.Update(GateConfig{}))
	assert.Equal(t, Open, g.State(service("x")))
	assert.Empty(t, g.States())
	var d Deadline
	_, err = d.Admit(t.Context(), nil)
	assert.ErrorIs(t, err, errUnset)
	var r Retry
	_, again := r.Retry(t.Context(), nil, gatemesh.Attempt{Err: errDown, Replayable: true})
	assert.False(t, again)
	assert.Error(t, r.Update(RetryConfig{}))
}

func TestFaults(t *testing.T) {
	t.Parallel()
	_, e1 := New(Config{Policy: Policy{Failures: -1, MinCalls: 1, Delay: time.Nanosecond, MaxDelay: time.Hour, Patience: -1}})
	_, e2 := New(Config{Name: "x", Policy: Policy{FailureRate: 0.5, Failures: 1, MinCalls: -1, Window: time.Nanosecond, Delay: time.Hour}})
	_, e3 := NewGate(GateConfig{MaxDestinations: -1, Policy: Policy{FailureRate: 2}})
	_, e4 := NewRetry(RetryConfig{MaxAttempts: 11, Budget: 2, MinPerSecond: math.NaN(), BackoffBase: -1, BackoffMax: time.Hour, MaxRetryAfter: -1,
		Statuses: []int{200}, Codes: []gatemesh.Code{gatemesh.OK}})
	_, e5 := NewDeadline(DeadlineConfig{})
	for err, want := range map[error][]string{
		e1: {"Config.Name", "Policy.Failures", "Policy.MinCalls", "Policy.Delay", "Policy.MaxDelay", "Policy.Patience"},
		e2: {"exclude", "Policy.MinCalls", "Policy.Window", "Policy.Delay"},
		e3: {"GateConfig.MaxDestinations", "Policy.FailureRate"},
		e4: {"MaxAttempts", "Budget", "MinPerSecond", "BackoffBase", "BackoffMax", "MaxRetryAfter", "Statuses", "Codes"},
		e5: {"DeadlineConfig.Timeout"},
	} {
		require.Error(t, err)
		for _, w := range want {
			assert.ErrorContains(t, err, w)
		}
	}
	_, err := New(Config{Name: "x", Policy: Policy{FailureRate: -0.1}})
	assert.ErrorContains(t, err, "FailureRate")
}

func TestBreakerConcurrent(t *testing.T) {
	t.Parallel()
	b := newBreaker(t, func(c *Config) { c.Delay, c.Observer = 100*time.Millisecond, &watcher{} })
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Go(func() {
			for i := range 2000 {
				switch {
				case i%500 == 499 && g == 0:
					assert.NoError(t, b.Update(Config{Name: "dep", Policy: Policy{Failures: 1 + i%7, Delay: 100 * time.Millisecond}}))
				case i%3 == 0:
					_ = b.Do(context.Background(), down)
				default:
					_ = b.Do(context.Background(), ok)
				}
				b.State()
				b.Remaining()
			}
		})
	}
	wg.Wait()
}

func TestPermitOnce(t *testing.T) {
	t.Parallel()
	b := newBreaker(t, func(c *Config) { c.Failures = 2 })
	p, err := b.Acquire(t.Context())
	require.NoError(t, err)
	var wg sync.WaitGroup
	for range 10 {
		wg.Go(p.Close)
	}
	wg.Wait()
	assert.Equal(t, Closed, b.State(), "one failure")
	assert.False(t, errors.Is(b.Do(t.Context(), ok), errOpen))
}
